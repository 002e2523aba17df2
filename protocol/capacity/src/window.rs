//! A stretch of time.

use std::fmt;

/// The seconds from `start` up to, but without, `end`. Never empty.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Window {
    start: u64,
    end: u64,
}

impl Window {
    /// All time there is.
    pub const MAX: Self = Self { start: 0, end: u64::MAX };

    /// `None` if it would be empty, or end before it starts.
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start < end { Some(Self { start, end }) } else { None }
    }

    /// `duration` seconds from `start` on. `None` for no second at all, or for more than there are.
    pub const fn lasting(start: u64, duration: u64) -> Option<Self> {
        match start.checked_add(duration) {
            Some(end) => Self::new(start, end),
            None => None,
        }
    }

    pub const fn start(self) -> u64 {
        self.start
    }

    /// The first second that is no longer in it.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Its length in seconds, at least 1.
    pub const fn seconds(self) -> u64 {
        self.end - self.start
    }

    pub const fn contains(self, second: u64) -> bool {
        self.start <= second && second < self.end
    }

    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The seconds that are in both.
    pub fn and(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// What of it lies before `second`, and what from there on.
    pub fn split(self, second: u64) -> (Option<Self>, Option<Self>) {
        (Self::new(self.start, self.end.min(second)), Self::new(self.start.max(second), self.end))
    }

    /// Begins `before` seconds earlier and ends `after` seconds later, as far as there is time.
    pub const fn widened(self, before: u64, after: u64) -> Self {
        Self { start: self.start.saturating_sub(before), end: self.end.saturating_add(after) }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}
