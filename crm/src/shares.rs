//! Who of a part's members may send how much to each remote part: the members' shares of what the
//! part was granted. Pure: the time is an argument, and what is to be told the nodes comes back.
//!
//! ```text
//!            setup          confirmed
//! Reserved --------> Building -------> Live ----> (order out) ----> Live
//!     \_________________\________________\____________/   confirmed, failed, not answered
//!              gone  |                 | lost     ^ back
//!                    v                 v      gone|
//!                  Gone <----------- Lost --------'
//! ```
//! Whatever is lost or late on its way, the members together can never send more than the grant:
//! a member *holds* the most that its node may have installed, which is the last rate confirmed and
//! every rate told since. A share grows only out of what nobody holds. So shrinking goes first, and
//! a dead member's share is used by others when its sandbox is confirmed gone.
//!
//! Who uses at least 80 % of a share is *wanting*. A grant is divided by water-filling
//! ([`fill`]): wanting members get equal shares of all that the others do not need. Nothing is
//! told anybody while every wanting member has what it should have within [`TOLERANCE`], and idle
//! members keep what they have until somebody else wants it.

mod fill;
mod meter;
mod plan;
#[cfg(test)]
mod tests;

use std::time::Duration;

use meter::Meter;

/// One part in so many of an equal share is every member's floor ...
const FLOOR_PART: u64 = 16;
/// ... but at least this, if an equal share is not less.
const FLOOR_KBIT: u64 = 64;
/// A deviation below one part in so many is left alone. Two wanting members then differ by less
/// than 22 to 20.
const TOLERANCE: u64 = 21;
/// Shares are looked at this often, however many events there are.
pub const ROUND: Duration = Duration::from_millis(200);
/// An order that is not answered within this time counts as failed. It may still take effect.
pub const ORDER_TIME: Duration = Duration::from_secs(5);
/// After a failed order a node is left alone for so long.
const RETRY_TIME: Duration = Duration::from_secs(1);
/// After so many failed orders in a row a member is [`Shares::hopeless`].
pub const FAILURES_MAX: u32 = 5;

/// What a member's node shall install: the rates of all its classes at once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Order {
    pub member: u32,
    /// Grows with each order to this member. Its node must refuse an older one after a newer.
    pub serial: u32,
    /// By class; 0 for a class that is not in use.
    pub rates_kbit: Vec<u32>,
}

/// A grant that has not even 1 kbit/s for each member, or 0 for a class that is in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{grant_kbit} kbit/s cannot be divided among {members} members")]
pub struct TooThin {
    pub grant_kbit: u32,
    pub members: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Its rates stand, its node was told nothing: they may change without a word.
    Reserved,
    /// Its first rates are on their way with SETUP.
    Building,
    Live,
    /// Cannot be told anything and may still send.
    Lost,
    Gone,
}

#[derive(Clone, Debug)]
struct Outstanding {
    rates_kbit: Vec<u32>,
    sent: Duration,
}

#[derive(Clone, Debug)]
struct Member {
    state: State,
    /// Of the newest order.
    serial: u32,
    /// The most that its node may have installed, by class, but for the order that is out.
    bound_kbit: Vec<u32>,
    order: Option<Outstanding>,
    /// An order failed: what its node has is somewhere at or below `bound_kbit`.
    uncertain: bool,
    /// A CRM before told its node what nobody knows: `bound_kbit` is a whole grant, and what is less
    /// may still be more than its node has. So it is told its floor first.
    unknown: bool,
    failures: u32,
    /// No order before this time.
    rests_until: Duration,
    meters: Vec<Meter>,
}

impl Member {
    /// What its node will have when all it was told is done.
    fn share(&self, class: usize) -> u32 {
        self.order.as_ref().map_or(self.bound_kbit[class], |order| order.rates_kbit[class])
    }

    /// The most that its node may have at any moment until then.
    fn held(&self, class: usize) -> u32 {
        self.share(class).max(self.bound_kbit[class])
    }

    fn takes_part(&self) -> bool {
        matches!(self.state, State::Reserved | State::Building | State::Live)
    }

    fn can_change(&self, now: Duration) -> bool {
        match self.state {
            State::Reserved => true,
            State::Live => self.order.is_none() && now >= self.rests_until,
            State::Building | State::Lost | State::Gone => false,
        }
    }

    /// Its order may or may not have been carried out.
    fn give_up_order(&mut self) {
        if let Some(order) = self.order.take() {
            for (bound, told) in self.bound_kbit.iter_mut().zip(order.rates_kbit) {
                *bound = told.max(*bound);
            }
            self.uncertain = true;
            self.failures = self.failures.saturating_add(1);
        }
    }
}

/// What the node of a member has that is there again.
#[derive(Clone, Copy, Debug)]
pub enum Installed<'a> {
    /// By class.
    Rates(&'a [u32]),
    /// The rates of its SETUP are being installed.
    UnderWay,
    /// It is set up as one that is new.
    Nothing,
}

/// The shares of one part's members, for one epoch of their sandboxes.
#[derive(Clone, Debug)]
pub struct Shares {
    grants_kbit: Vec<u32>,
    members: Vec<Member>,
    /// Something happened since the last round.
    changed: bool,
    next_round: Duration,
}

impl Shares {
    /// Everybody begins with an equal share. `grants_kbit` has an entry for each class; 0 is a
    /// class that is not in use yet.
    ///
    /// # Errors
    /// A grant that is too thin.
    pub fn new(members: u32, grants_kbit: &[u32]) -> Result<Self, TooThin> {
        let count = members as usize;
        for &grant_kbit in grants_kbit.iter().filter(|&&grant| grant != 0) {
            check(grant_kbit, count)?;
        }
        let member = Member {
            state: State::Reserved,
            serial: 0,
            bound_kbit: grants_kbit.iter().map(|grant| grant / members.max(1)).collect(),
            order: None,
            uncertain: false,
            unknown: false,
            failures: 0,
            rests_until: Duration::ZERO,
            meters: vec![Meter::default(); grants_kbit.len()],
        };
        Ok(Self {
            grants_kbit: grants_kbit.to_vec(),
            members: vec![member; count],
            changed: false,
            next_round: Duration::ZERO,
        })
    }

    /// The rates that go with a member's SETUP; its good answer is their confirmation. Repeatable
    /// until then. `None` for a member that has been set up, is lost or is not known.
    pub fn setup(&mut self, member: u32) -> Option<Order> {
        let one = self.members.get_mut(member as usize)?;
        if !matches!(one.state, State::Reserved | State::Building) {
            return None;
        }
        one.state = State::Building;
        one.serial = 1;
        Some(Order { member, serial: 1, rates_kbit: one.bound_kbit.clone() })
    }

    /// A node says that it carried an order out. An answer to an order before the last says
    /// nothing and is passed over.
    pub fn confirmed(&mut self, member: u32, serial: u32) {
        let Some(one) = self.members.get_mut(member as usize).filter(|one| one.serial == serial) else {
            return;
        };
        if one.state == State::Building {
            one.state = State::Live;
        } else if let Some(order) = one.order.take() {
            one.bound_kbit = order.rates_kbit;
            one.unknown = false;
        } else {
            return;
        }
        for (meter, rate) in one.meters.iter_mut().zip(&one.bound_kbit) {
            meter.limited_to(*rate);
        }
        (one.uncertain, one.failures) = (false, 0);
        self.changed = true;
    }

    /// A node says that it could not carry an order out, or not wholly. It is told again later.
    pub fn failed(&mut self, now: Duration, member: u32, serial: u32) {
        let Some(one) = self.members.get_mut(member as usize).filter(|one| one.serial == serial) else {
            return;
        };
        if one.order.is_some() {
            one.give_up_order();
            one.rests_until = now + RETRY_TIME;
            self.changed = true;
        }
    }

    /// A node tells how much was sent in one class since its sandbox was made. `at_ms` is the time
    /// on the node's own clock.
    pub fn sample(&mut self, now: Duration, member: u32, class: usize, at_ms: u64, sent_bytes: u64) {
        let Some(one) = self.members.get_mut(member as usize) else { return };
        if one.state == State::Live && class < one.meters.len() {
            let limit = one.share(class).min(one.bound_kbit[class]);
            one.meters[class].sample(now, at_ms, sent_bytes, limit);
            self.changed = true;
        }
    }

    /// A member can be told nothing now, or ever. What it holds stays with it.
    pub fn lost(&mut self, member: u32) {
        if let Some(one) = self.members.get_mut(member as usize).filter(|one| one.state != State::Gone) {
            one.state = State::Lost;
            self.changed = true;
        }
    }

    /// A lost member is there again, with what its node has.
    pub fn back(&mut self, member: u32, installed: Installed<'_>) {
        let count = self.members.len();
        let Some(one) = self.members.get_mut(member as usize).filter(|one| one.state == State::Lost) else {
            return;
        };
        one.order = None;
        match installed {
            Installed::Rates(rates_kbit) => {
                one.state = State::Live;
                one.bound_kbit.copy_from_slice(rates_kbit);
                one.serial = one.serial.max(1);
                // It may have been told other ones since, and so it is told again.
                (one.uncertain, one.unknown, one.failures) = (true, false, 0);
            }
            Installed::UnderWay => (one.state, one.serial) = (State::Building, 1),
            Installed::Nothing => {
                (one.state, one.unknown) = (State::Reserved, false);
                for (bound, grant) in one.bound_kbit.iter_mut().zip(&self.grants_kbit) {
                    *bound = (*bound).min(fill::floor(*grant, count) as u32);
                }
            }
        }
        self.changed = true;
    }

    /// After a restart nothing is known of what nodes have: they may have all of the grant, until
    /// they are back. Those that never arrived have what nobody is held below.
    pub fn forget(&mut self, member: u32, arrived: bool) {
        let count = self.members.len();
        let Some(one) = self.members.get_mut(member as usize) else { return };
        for (bound, grant) in one.bound_kbit.iter_mut().zip(&self.grants_kbit) {
            *bound = if arrived { *grant } else { fill::floor(*grant, count) as u32 };
        }
        one.state = if arrived { State::Lost } else { State::Reserved };
        one.unknown = arrived;
    }

    /// A member's sandbox is confirmed gone: others may have what it held.
    pub fn gone(&mut self, member: u32) {
        if let Some(one) = self.members.get_mut(member as usize) {
            one.state = State::Gone;
            one.order = None;
            one.bound_kbit.fill(0);
            self.changed = true;
        }
    }

    /// Another grant for a class. More is there at once; of less, see [`Self::held_kbit`]. A class
    /// comes into use by its first grant; it never goes out of use.
    ///
    /// # Errors
    /// A grant that is too thin; the old one stays. Nor is there another class than at the start.
    pub fn set_grant(&mut self, class: usize, grant_kbit: u32) -> Result<(), TooThin> {
        check(grant_kbit, self.members.len())?;
        let unknown = TooThin { grant_kbit, members: self.members.len() };
        let grant = self.grants_kbit.get_mut(class).ok_or(unknown)?;
        self.changed |= *grant != grant_kbit;
        *grant = grant_kbit;
        Ok(())
    }

    /// The most that the members together may send in a class now. Above the grant only after that
    /// was lowered, until the nodes have confirmed; it never rises above the grant.
    pub fn held_kbit(&self, class: usize) -> u64 {
        self.members.iter().map(|one| u64::from(one.held(class))).sum()
    }

    /// Whether in every class no more is held than granted: a lowered grant is in force.
    pub fn is_within_grants(&self) -> bool {
        self.grants_kbit.iter().enumerate().all(|(class, &grant)| self.held_kbit(class) <= u64::from(grant))
    }

    /// What all members together sent in a class, by their last samples; `None` before the first.
    pub fn used_kbit(&self, now: Duration, class: usize) -> Option<u32> {
        let live = self.members.iter().filter(|one| one.state == State::Live);
        let used: Vec<u32> = live.filter_map(|one| one.meters.get(class)?.used_kbit(now)).collect();
        (!used.is_empty()).then(|| used.iter().fold(0u32, |sum, used| sum.saturating_add(*used)))
    }

    /// Live members whose nodes failed to carry out, or to answer, so many orders in a row that
    /// somebody should end them.
    pub fn hopeless(&self) -> impl Iterator<Item = u32> {
        (0u32..)
            .zip(&self.members)
            .filter(|(_, one)| one.state == State::Live && one.failures >= FAILURES_MAX)
            .map(|(member, _)| member)
    }

    /// When [`Self::plan`] must be called at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        let of = |one: &Member| match &one.order {
            Some(order) => Some(order.sent + ORDER_TIME),
            None => (one.state == State::Live && one.uncertain).then_some(one.rests_until),
        };
        let members = self.members.iter().filter_map(of).min().map(|at| at.max(self.next_round));
        members.into_iter().chain(self.changed.then_some(self.next_round)).min()
    }
}

fn check(grant_kbit: u32, members: usize) -> Result<(), TooThin> {
    if (grant_kbit as usize) < members.max(1) { Err(TooThin { grant_kbit, members }) } else { Ok(()) }
}
