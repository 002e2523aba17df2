//! The amount used of one resource over time.

use crate::node::{Node, Over};
use crate::window::Window;

/// More than is ever used of anything; sums and differences of it stay far from overflowing.
const AMOUNT_MAX: u64 = 1 << 61;

/// How much of something is used in each second: the sum of what was added and not taken out.
///
/// Exact, without slots. What it costs in memory is bounded by the additions that it holds (two
/// points each, about 20 bytes a point), however far ahead they lie; what a question or a change
/// costs grows with the logarithm of that, whatever the length of its window (a B-tree of break
/// points, of which each node knows its extremes). All amounts together stay below 2^61.
#[derive(Clone, Debug)]
pub struct Profile {
    root: Node,
    /// Nothing is known, and nothing can be used, before this second.
    forgotten: u64,
}

impl Default for Profile {
    fn default() -> Self {
        Self { root: Node::Chunk(Vec::new()), forgotten: 0 }
    }
}

impl Profile {
    /// The same as adding all of these one by one, in a fraction of the time.
    pub fn of(uses: impl IntoIterator<Item = (Window, u64)>) -> Self {
        let uses = uses.into_iter();
        let mut changes = Vec::with_capacity(2 * uses.size_hint().0);
        for (window, amount) in uses {
            changes.push((window.start(), amount as i64));
            changes.push((window.end(), -(amount as i64)));
        }
        changes.sort_unstable_by_key(|(at, _)| *at);
        // Changes to levels, in place: what falls on one second is one point or none.
        let (mut level, mut kept, mut next) = (0, 0, 0);
        while let Some(&(at, _)) = changes.get(next) {
            let before = level;
            while let Some(&(_, by)) = changes.get(next).filter(|(second, _)| *second == at) {
                level += by;
                next += 1;
            }
            if level != before {
                changes[kept] = (at, level);
                kept += 1;
            }
        }
        changes.truncate(kept);
        Self { root: Node::build(&changes), forgotten: 0 }
    }

    /// Uses `amount` more in every second of the window.
    pub fn add(&mut self, window: Window, amount: u64) {
        self.change(window, amount as i64);
    }

    /// The exact inverse of [`Profile::add`]: the caller takes out only what was added.
    pub fn sub(&mut self, window: Window, amount: u64) {
        self.change(window, -(amount as i64));
    }

    fn change(&mut self, window: Window, by: i64) {
        let start = window.start().max(self.forgotten);
        if by == 0 || start >= window.end() {
            return;
        }
        self.root.change(start, Some(window.end()), by);
        self.root.settle();
        debug_assert!(self.root.level(start) >= 0, "more taken out of {window} than was added");
    }

    /// What is used in this second.
    pub fn at(&self, second: u64) -> u64 {
        self.root.level(second) as u64
    }

    /// The most that is used in any second of the window.
    pub fn max(&self, window: Window) -> u64 {
        self.root.highest(window) as u64
    }

    /// The end of the last stretch with more than `limit` that lies in the window at least in
    /// part, be it behind the window's own end: no use that needs all but `limit` and begins
    /// before it can last as long as the window. `None` if nothing in the window is above.
    pub fn last_over(&self, window: Window, limit: u64) -> Option<u64> {
        let limit = limit.min(AMOUNT_MAX) as i64;
        match self.root.last_over(window, limit)? {
            Over::Until(end) => Some(end),
            // Behind everything that was added, nothing is used: there is an end.
            Over::From(at) => Some(self.root.first_within(at, limit).unwrap_or(u64::MAX)),
        }
    }

    /// The earliest start from `from` to `latest_start`, both included, at which `amount` is free
    /// out of `capacity` for `duration` seconds. `None` if there is none.
    pub fn first_fit(
        &self,
        from: u64,
        latest_start: u64,
        duration: u64,
        amount: u64,
        capacity: u64,
    ) -> Option<u64> {
        let limit = capacity.checked_sub(amount)?;
        let mut start = from;
        while start <= latest_start {
            match self.last_over(Window::lasting(start, duration)?, limit) {
                None => return Some(start),
                Some(end) => start = end,
            }
        }
        None
    }

    /// Drops what lies before `second`, which nobody asks about any more. What is taken out later
    /// is taken out from here on; forgetting twice, or less than before, changes nothing.
    pub fn forget_before(&mut self, second: u64) {
        if second <= self.forgotten {
            return;
        }
        self.forgotten = second;
        let level = self.root.level(second);
        while let Some((at, first)) = self.root.first().filter(|(at, _)| *at <= second) {
            self.root.change(at, None, -first);
            self.root.settle();
        }
        if level != 0 {
            self.root.change(second, None, level);
            self.root.settle();
        }
    }

    /// Whether nothing is used at any time.
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Every second at which the amount changes, with the amount from there on.
    pub fn points(&self) -> Vec<(u64, u64)> {
        let mut points = Vec::new();
        self.root.collect(0, &mut points);
        points.into_iter().map(|(at, level)| (at, level as u64)).collect()
    }
}
