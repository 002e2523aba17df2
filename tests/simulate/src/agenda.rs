//! Virtual time and what will happen in it. Nothing waits: time jumps to the next happening.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Microseconds since the history began: the one true time, which no process of it can see.
pub type Micros = u64;

pub const MS: Micros = 1_000;
pub const S: Micros = 1_000_000;

/// Happenings in the order of their times; of equal times, the one that was planned first.
#[derive(Debug)]
pub struct Agenda<T> {
    now: Micros,
    planned: u64,
    order: BinaryHeap<Reverse<(Micros, u64, u32)>>,
    /// The happenings themselves, which are large; the heap moves their places only.
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { now: 0, planned: 0, order: BinaryHeap::new(), places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Agenda<T> {
    pub fn now(&self) -> Micros {
        self.now
    }

    /// Plans something for a time, or for now if that time is over.
    pub fn at(&mut self, time: Micros, what: T) {
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = Some(what);
                place
            }
            None => {
                self.places.push(Some(what));
                (self.places.len() - 1) as u32
            }
        };
        self.planned += 1;
        self.order.push(Reverse((time.max(self.now), self.planned, place)));
    }

    pub fn after(&mut self, delay: Micros, what: T) {
        self.at(self.now + delay, what);
    }

    /// The next happening; the time is its time from now on.
    pub fn advance(&mut self) -> Option<T> {
        let Reverse((time, _, place)) = self.order.pop()?;
        self.now = time;
        self.free.push(place);
        self.places[place as usize].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn happenings_come_in_the_order_of_their_times_and_then_of_their_planning() {
        let mut agenda = Agenda::default();
        for (time, what) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            agenda.at(time, what);
        }
        assert_eq!(agenda.advance(), Some('a'));
        agenda.at(0, 'x');
        let rest: String = std::iter::from_fn(|| agenda.advance()).collect();
        assert_eq!((rest.as_str(), agenda.now()), ("xbcd", 5));
    }
}
