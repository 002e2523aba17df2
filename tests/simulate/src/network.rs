//! The way between one site and the GRC: connections that break, directions that are cut, and
//! messages that are lost, repeated, late or out of order.

use crate::agenda::{MS, Micros, S};
use crate::random::Random;
use crate::scenario::Temper;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// CRM to GRC.
    Up,
    Down,
}

/// What may become of a message while its connection stands. Who says it waits for an answer and says it
/// again after a while, or on the next connection only, and then it must not be lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    Anything,
    Arrives,
    ArrivesInOrder,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    Grc,
    Site,
}

#[derive(Debug)]
pub struct Link<M> {
    random: Random,
    /// How many faults cut it, up and down.
    cuts: [u32; 2],
    /// The connection as the CRM sees it.
    pub at_site: Option<u64>,
    /// The connections as the GRC sees them: an old one may not be noticed gone.
    pub at_grc: Vec<u64>,
    /// Connections on which nothing more gets through.
    broken: Vec<u64>,
    /// What is sent into a cut waits for its end, as TCP does.
    stalled: Vec<(Direction, u64, M)>,
    /// Arrival of the last message in each direction.
    last: [Micros; 2],
}

/// When copies of a message arrive; empty if it is lost.
pub type Arrivals = [Option<Micros>; 2];

impl<M: Clone> Link<M> {
    pub fn new(random: Random) -> Self {
        Self {
            random,
            cuts: [0; 2],
            at_site: None,
            at_grc: Vec::new(),
            broken: Vec::new(),
            stalled: Vec::new(),
            last: [0; 2],
        }
    }

    pub fn is_cut(&self) -> bool {
        self.cuts != [0; 2]
    }

    pub fn cut(&mut self, up: bool, down: bool) {
        self.cuts[0] += u32::from(up);
        self.cuts[1] += u32::from(down);
    }

    /// The cut is over; what was sent meanwhile goes on its way, unless its connection broke.
    pub fn heal(&mut self, up: bool, down: bool) -> Vec<(Direction, u64, M)> {
        self.cuts[0] -= u32::from(up);
        self.cuts[1] -= u32::from(down);
        let mut free = Vec::new();
        for (direction, connection, message) in std::mem::take(&mut self.stalled) {
            if self.cuts[direction as usize] > 0 {
                self.stalled.push((direction, connection, message));
            } else if !self.broken.contains(&connection) {
                free.push((direction, connection, message));
            }
        }
        free
    }

    pub fn connect(&mut self, connection: u64) {
        self.at_site = Some(connection);
        self.at_grc.push(connection);
    }

    pub fn break_off(&mut self, connection: u64) {
        self.broken.push(connection);
    }

    /// An end lets go of a connection. True if it had it.
    pub fn close(&mut self, end: End, connection: u64) -> bool {
        match end {
            End::Site => {
                let had = self.at_site == Some(connection);
                if had {
                    self.at_site = None;
                }
                had
            }
            End::Grc => {
                let before = self.at_grc.len();
                self.at_grc.retain(|one| *one != connection);
                self.at_grc.len() < before
            }
        }
    }

    /// Puts a message on its way at `now`; says when it arrives, and when once more.
    pub fn post(
        &mut self,
        now: Micros,
        temper: &Temper,
        direction: Direction,
        connection: u64,
        (message, fate): (&M, Fate),
    ) -> Arrivals {
        if self.broken.contains(&connection) {
            return [None; 2];
        }
        if self.cuts[direction as usize] > 0 {
            self.stalled.push((direction, connection, message.clone()));
            return [None; 2];
        }
        if fate == Fate::Anything && self.random.chance(temper.drop) {
            return [None; 2];
        }
        let delay = self.random.between(MS, temper.delay);
        let mut at = now + delay;
        let in_order = fate == Fate::ArrivesInOrder;
        if !in_order && self.random.chance(temper.out_of_order) {
            at += self.random.below(2 * S);
        } else {
            at = self.in_order(direction, at);
        }
        let again = (!in_order && self.random.chance(temper.twice)).then(|| at + self.random.below(4 * S));
        [Some(at), again]
    }

    /// The time, or as much later that what was sent before has arrived by then.
    pub fn in_order(&mut self, direction: Direction, at: Micros) -> Micros {
        let last = &mut self.last[direction as usize];
        *last = at.max(*last);
        *last
    }

    /// How long an end takes to notice that the other one is gone.
    pub fn notice_time(&mut self) -> Micros {
        if self.is_cut() { self.random.between(5 * S, 20 * S) } else { self.random.below(S) }
    }
}
