//! How much is taken over time: breakpoints and the amounts between them.

use std::collections::BTreeMap;

/// A span of whole seconds, half open; never empty.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    start: u64,
    end: u64,
}

impl Window {
    /// `None` unless it begins before it ends.
    pub fn new(start: u64, end: u64) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    pub fn start(self) -> u64 {
        self.start
    }

    pub fn end(self) -> u64 {
        self.end
    }
}

/// An amount over time.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// By how much it changes, and when.
    steps: BTreeMap<u64, i64>,
}

impl Profile {
    pub fn add(&mut self, window: Window, amount: u64) {
        self.step(window.start, amount as i64);
        self.step(window.end, -(amount as i64));
    }

    pub fn sub(&mut self, window: Window, amount: u64) {
        self.step(window.start, -(amount as i64));
        self.step(window.end, amount as i64);
    }

    fn step(&mut self, at: u64, by: i64) {
        let step = self.steps.entry(at).or_insert(0);
        *step += by;
        if *step == 0 {
            self.steps.remove(&at);
        }
    }

    /// The most at any time of the window.
    pub fn max(&self, window: Window) -> u64 {
        let before: i64 = self.steps.range(..=window.start).map(|(_, by)| by).sum();
        let mut now = before;
        let mut most = before;
        for (_, by) in self.steps.range(window.start + 1..window.end) {
            now += by;
            most = most.max(now);
        }
        most.max(0) as u64
    }

    /// The earliest start in `from..=latest` of `duration` seconds in which `amount` more never
    /// exceeds `capacity`.
    pub fn first_fit(
        &self,
        from: u64,
        latest: u64,
        duration: u64,
        amount: u64,
        capacity: u64,
    ) -> Option<u64> {
        let later = self.steps.keys().copied().filter(|at| (from..=latest).contains(at));
        let mut starts = std::iter::once(from).chain(later);
        starts.find(|&start| {
            Window::new(start, start + duration).is_some_and(|w| self.max(w) + amount <= capacity)
        })
    }
}
