//! Nodes, and accounts, whose pilots fail one after another: kept away by name for a while, then
//! tried again.
//!
//! Pure: time is an argument. Of a node what counts is a pilot that came to nothing before its
//! sandbox stood; of an account, a submission of which no pilot came. One that did clears it. A
//! reservation counts once in a row. Accounts are looked at one by one, for what a batch system
//! refuses to one it may well give to another.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ids::ReservationId;
use protocol::names::Text;

/// Failures in a row, of different reservations, after which a node is kept away.
const STRIKES_MAX: u32 = 3;
/// For how long, doubled with every time that it fails when it is tried again.
const AWAY_FIRST: Duration = Duration::from_secs(30);
const AWAY_LAST: Duration = Duration::from_secs(600);
/// So many are remembered: a site has no more nodes.
const NAMES_MAX: usize = protocol::limits::NODES_PER_SITE_MAX;

#[derive(Clone, Debug)]
struct Trouble {
    strikes: u32,
    /// Of whom the last one was.
    last: ReservationId,
    why: Text,
    /// Until when it is kept away.
    until: Option<Duration>,
    /// How often it was.
    times: u32,
}

/// All that failed since they worked last, by name.
#[derive(Clone, Debug)]
pub struct Troubles<Name> {
    names: BTreeMap<Name, Trouble>,
}

impl<Name> Default for Troubles<Name> {
    fn default() -> Self {
        Self { names: BTreeMap::new() }
    }
}

impl<Name: Ord + Clone> Troubles<Name> {
    /// A pilot came to nothing there. Returns whether it is kept away from now on.
    pub fn failed(&mut self, now: Duration, name: &Name, whose: ReservationId, why: &Text) -> bool {
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(name) {
            return false;
        }
        let trouble = self.names.entry(name.clone()).or_insert_with(|| Trouble {
            strikes: 0,
            last: ReservationId(u64::MAX),
            why: Text::default(),
            until: None,
            times: 0,
        });
        trouble.why = why.clone();
        if trouble.until.is_some() || trouble.last == whose {
            return false;
        }
        trouble.last = whose;
        trouble.strikes += 1;
        if trouble.strikes < STRIKES_MAX {
            return false;
        }
        let length = (AWAY_FIRST * 2u32.saturating_pow(trouble.times.min(16))).min(AWAY_LAST);
        trouble.until = Some(now + length);
        trouble.times += 1;
        true
    }

    /// A sandbox stood there.
    pub fn works(&mut self, name: &Name) {
        self.names.remove(name);
    }

    /// Those whose time is over: they are tried again, and one more failure keeps them away longer.
    pub fn back(&mut self, now: Duration) -> Vec<Name> {
        let mut back = Vec::new();
        for (name, trouble) in &mut self.names {
            if trouble.until.is_some_and(|until| until <= now) {
                trouble.until = None;
                trouble.strikes = STRIKES_MAX - 1;
                trouble.last = ReservationId(u64::MAX);
                back.push(name.clone());
            }
        }
        back
    }

    /// Why this one is kept away now.
    pub fn of(&self, name: &Name) -> Option<Text> {
        self.names.get(name).filter(|trouble| trouble.until.is_some()).map(said)
    }

    /// When [`Self::back`] has something to say.
    pub fn next(&self) -> Option<Duration> {
        self.names.values().filter_map(|trouble| trouble.until).min()
    }

    /// Those that are kept away now, and why.
    pub fn away(&self) -> impl Iterator<Item = (&Name, Text)> {
        self.names
            .iter()
            .filter(|(_, trouble)| trouble.until.is_some())
            .map(|(name, trouble)| (name, said(trouble)))
    }
}

fn said(trouble: &Trouble) -> Text {
    format!("its pilots fail one after another, the last: {}", trouble.why).into()
}

#[cfg(test)]
mod tests {
    use protocol::names::NodeName;

    use super::*;

    #[test]
    fn a_node_that_fails_three_in_a_row_is_kept_away_tried_again_and_kept_away_longer() {
        let (node, why): (NodeName, Text) = ("a1".parse().unwrap(), "no space".into());
        let mut troubles = Troubles::default();
        let s = Duration::from_secs;
        let fail = |troubles: &mut Troubles<NodeName>, at: u64, n: u64| {
            troubles.failed(s(at), &node, ReservationId(n), &why)
        };
        assert!(!fail(&mut troubles, 0, 1) && !fail(&mut troubles, 0, 1), "one reservation counts once");
        assert!(!fail(&mut troubles, 1, 2));
        assert!(fail(&mut troubles, 2, 3));
        assert_eq!(troubles.away().count(), 1);
        assert!(troubles.away().next().unwrap().1.as_str().contains("no space"));
        assert_eq!((troubles.next(), troubles.back(s(31)).len()), (Some(s(32)), 0));
        assert_eq!(troubles.back(s(32)).len(), 1);
        assert_eq!(troubles.away().count(), 0);
        assert!(fail(&mut troubles, 40, 4), "on probation");
        assert_eq!(troubles.next(), Some(s(100)));
        troubles.works(&"a1".parse().unwrap());
        assert_eq!((troubles.next(), troubles.away().count()), (None, 0));
    }
}
