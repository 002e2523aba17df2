//! What a change of a grant has to hold.
//!
//! Until a change is certain, both the old and the new use of a resource must be possible. In each
//! second that takes the larger of the two, so beside the old one only what exceeds it is held.

use crate::profile::Profile;
use crate::window::Window;

/// An amount of one resource over a window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Use {
    pub window: Window,
    pub amount: u64,
}

impl Use {
    /// Charges it.
    pub fn add_to(self, profile: &mut Profile) {
        profile.add(self.window, self.amount);
    }

    /// Takes the charge out again.
    pub fn take_from(self, profile: &mut Profile) {
        profile.sub(self.window, self.amount);
    }
}

/// What `new` needs beside `old`, second by second: together they are the larger of the two.
pub fn extra(old: Option<Use>, new: Option<Use>) -> Vec<Use> {
    let Some(new) = new else { return Vec::new() };
    let both = old.and_then(|old| Some((old.amount, old.window.and(new.window)?)));
    let Some((held, common)) = both else { return vec![new] };
    let (before, _) = new.window.split(common.start());
    let (_, after) = new.window.split(common.end());
    let beside = [(before, new.amount), (Some(common), new.amount.saturating_sub(held)), (after, new.amount)];
    beside
        .into_iter()
        .filter(|(_, amount)| *amount > 0)
        .filter_map(|(window, amount)| window.map(|window| Use { window, amount }))
        .collect()
}
