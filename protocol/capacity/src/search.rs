//! When everything that a request needs is free together: jump past the last blocker.
//!
//! Every resource is asked about the window that begins at the start in question. One that has no
//! room says before which start it has none either, and the search goes on from there. Each jump
//! passes over starts that are impossible, so the first at which nobody objects is the earliest
//! of all, in whatever order the resources are asked. Who objected last is asked first: what is
//! scarce now is likely to be scarce a little later.

use crate::profile::Profile;
use crate::window::Window;

/// What a resource says to a use of it over a window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    Fits,
    /// Not now, and not for as long at any start before this one, which lies behind the window's.
    NotBefore(u64),
    /// Not at any time, as far as anybody knows.
    Never,
}

/// A resource of which something definite is needed.
pub trait Gate {
    /// Can it be had for all of this window?
    fn ask(&self, window: Window) -> Answer;
}

/// An amount of what one profile counts.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    pub profile: &'a Profile,
    pub amount: u64,
    pub capacity: u64,
}

impl Demand<'_> {
    /// What is free in all of the window.
    pub fn free(&self, window: Window) -> u64 {
        self.capacity.saturating_sub(self.profile.max(window))
    }
}

impl Gate for Demand<'_> {
    fn ask(&self, window: Window) -> Answer {
        let Some(limit) = self.capacity.checked_sub(self.amount) else { return Answer::Never };
        self.profile.last_over(window, limit).map_or(Answer::Fits, Answer::NotBefore)
    }
}

/// Why no start was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Blocked {
    /// Which of the gates objected last.
    pub gate: usize,
    /// The start at which it did; no start before it was possible.
    pub at: u64,
    /// Where a search for later starts goes on; `None` if there are none.
    pub not_before: Option<u64>,
}

/// The earliest start from `from` to `latest`, both included, at which every gate lets a window
/// of `duration` seconds pass.
///
/// # Errors
/// The last gate that objected, when there is no such start. No gate at all, no second to last,
/// or no time left are the caller's to rule out; they are answered as blocked by gate 0.
pub fn earliest<G: Gate>(gates: &[G], from: u64, latest: u64, duration: u64) -> Result<u64, Blocked> {
    let mut order: Vec<usize> = (0..gates.len()).collect();
    let mut start = from;
    let mut next = 0;
    let mut last = Blocked { gate: 0, at: from, not_before: Some(from) };
    while start <= latest {
        let Some(window) = Window::lasting(start, duration) else {
            return Err(Blocked { not_before: None, ..last });
        };
        let Some(&gate) = order.get(next) else { return Ok(start) };
        match gates[gate].ask(window) {
            Answer::Fits => next += 1,
            Answer::Never => return Err(Blocked { gate, at: start, not_before: None }),
            Answer::NotBefore(later) => {
                last = Blocked { gate, at: start, not_before: Some(later) };
                start = later;
                order[..=next].rotate_right(1);
                next = 0;
            }
        }
    }
    Err(last)
}
