//! Those at a network door of whom nobody knows yet who they are. They are few, brief and short of
//! words. Where there are too many, of the address that has most of them the one who came first goes,
//! so that somebody who sits on places takes them from himself and keeps nobody out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::refusal::Refusal;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Connections of which nobody knows yet whose they are, at one door: in all, and from one address.
pub const STRANGERS_MAX: usize = 256;
pub const STRANGERS_PER_ADDRESS_MAX: usize = 64;

/// Lines of the log about strangers.
const LINES_PER_MINUTE_MAX: usize = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// The places for strangers at one door.
#[derive(Debug, Default)]
pub struct Strangers(Mutex<Places>);

/// In the order in which their holders came.
#[derive(Debug, Default)]
struct Places {
    here: BTreeMap<u64, (IpAddr, CancellationToken)>,
    next: u64,
}

/// A stranger's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    strangers: Arc<Strangers>,
    number: u64,
    goes: CancellationToken,
}

impl Strangers {
    /// Whoever comes gets a place. If there is none left, in all or for this address, somebody who was
    /// here before gives up his: see [`Place::given_up`].
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Place {
        let (address, goes) = (neighbourhood(address), CancellationToken::new());
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, loser)) = places.who_goes(address).and_then(|number| places.here.remove(&number)) {
            loser.cancel();
        }
        let number = places.next;
        places.next += 1;
        places.here.insert(number, (address, goes.clone()));
        Place { strangers: self.clone(), number, goes }
    }
}

impl Places {
    /// Who makes room for somebody from this address, if somebody has to.
    fn who_goes(&self, address: IpAddr) -> Option<u64> {
        // How many an address has, and which of them came first.
        let mut of: BTreeMap<IpAddr, (usize, u64)> = BTreeMap::new();
        for (number, (one, _)) in &self.here {
            of.entry(*one).or_insert((0, *number)).0 += 1;
        }
        match of.get(&address) {
            Some((count, first)) if *count >= STRANGERS_PER_ADDRESS_MAX => Some(*first),
            _ if self.here.len() < STRANGERS_MAX => None,
            _ => of.into_values().max_by_key(|(count, first)| (*count, u64::MAX - *first)).map(|of| of.1),
        }
    }
}

impl Place {
    /// Resolves when its holder has to go for somebody who came after him.
    pub fn given_up(&self) -> WaitForCancellationFutureOwned {
        self.goes.clone().cancelled_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.strangers.0.lock().unwrap_or_else(PoisonError::into_inner).here.remove(&self.number);
    }
}

/// What somebody hears whose place is given up.
pub fn crowded() -> Refusal {
    Refusal::WrongState {
        what: "this connection".into(),
        state: "too many others came after it before they said who they are; try again".into(),
    }
}

/// What one machine has many addresses of counts as one.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        four => four,
    }
}

/// What the log says of strangers, who must not be able to fill it: so many lines in a minute, and then
/// how many there would have been.
#[derive(Debug, Default)]
pub struct Said(Mutex<(Option<Instant>, usize)>);

impl Said {
    /// `line` says it, and how many lines were left out before.
    pub fn say(&self, line: impl FnOnce(usize)) {
        let left_out = self.count(Instant::now());
        if let Some(more) = left_out {
            line(more);
        }
    }

    /// Whether a line may be said at this time, and how many were left out before it.
    fn count(&self, now: Instant) -> Option<usize> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = *state;
        if since.is_none_or(|since| now.duration_since(since) >= MINUTE) {
            *state = (Some(now), 1);
            return Some(count.saturating_sub(LINES_PER_MINUTE_MAX));
        }
        state.1 += 1;
        (count < LINES_PER_MINUTE_MAX).then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(places: &[Place]) -> Vec<usize> {
        (0..places.len()).filter(|n| places[*n].goes.is_cancelled()).collect()
    }

    /// Behind one address there may be many people, and one of them who sits on all its places.
    #[test]
    fn who_comes_from_a_full_address_is_let_in_and_the_first_from_there_goes() {
        let strangers: Arc<Strangers> = Arc::default();
        let other = strangers.admit("198.51.100.1".parse().unwrap());
        let here: IpAddr = "192.0.2.1".parse().unwrap();
        let mut places: Vec<Place> = (0..STRANGERS_PER_ADDRESS_MAX).map(|_| strangers.admit(here)).collect();
        assert!(lost(&places).is_empty());
        places.extend((0..3).map(|_| strangers.admit(here)));
        assert_eq!(lost(&places), [0, 1, 2]);
        assert!(!other.goes.is_cancelled());
        drop(places);
        assert_eq!(strangers.0.lock().unwrap().here.len(), 1);
    }

    #[test]
    fn when_all_places_are_taken_the_address_that_has_most_gives_up_its_first() {
        let strangers: Arc<Strangers> = Arc::default();
        let alone = strangers.admit("198.51.100.1".parse().unwrap());
        let crowd: Vec<Place> = (0..STRANGERS_MAX - 1)
            .map(|n| strangers.admit(IpAddr::from([192, 0, 2, (n % 5) as u8])))
            .collect();
        assert!(lost(&crowd).is_empty());
        let late: Vec<Place> = (0..STRANGERS_MAX - 1)
            .map(|n| strangers.admit(IpAddr::from([203, 0, 113, (n % 200) as u8])))
            .collect();
        assert_eq!(strangers.0.lock().unwrap().here.len(), STRANGERS_MAX);
        assert!(!alone.goes.is_cancelled(), "who came first, but alone, stays");
        assert_eq!(lost(&crowd)[..5], [0, 1, 2, 3, 4], "each of the many gives up its first in turn");
        assert!(late.iter().rev().take(5).all(|place| !place.goes.is_cancelled()));
    }

    #[test]
    fn strangers_cannot_fill_the_log_and_what_was_left_out_is_counted() {
        let (said, begin) = (Said::default(), Instant::now());
        let spoken = (0..1000).filter(|_| said.count(begin).is_some()).count();
        assert_eq!(spoken, LINES_PER_MINUTE_MAX);
        assert_eq!(said.count(begin + MINUTE), Some(1000 - LINES_PER_MINUTE_MAX));
        assert_eq!(said.count(begin + MINUTE), Some(0));
    }

    #[test]
    fn the_addresses_of_one_machine_count_as_one() {
        let of = |text: &str| neighbourhood(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
