//! A process with its owner, its disk and the clocks of its machine.
//!
//! ```text
//! event -> owner.step -> records -> disk, later actions wait in the gate -> next_action -> the world
//! ```
//! It may die between any two actions: what is durable then is all that the next one finds.

use std::collections::VecDeque;
use std::time::Duration;

use journal::Write;
use protocol::planted::{Bug, planted};

use crate::agenda::Micros;
use crate::clocks::Clocks;
use crate::gate::Gate;
use crate::scenario::Who;
use crate::store::{Disk, DiskError};

/// One of the real owners.
pub trait Owner {
    type Event;
    type Action;
    fn step(&mut self, now: Duration, event: Self::Event) -> Vec<Self::Action>;
    fn next_wake(&self) -> Option<Duration>;
    /// What an action makes durable, if that is what it is about.
    fn record(action: &Self::Action) -> Option<Write>;
}

/// What comes out of a process next.
#[derive(Debug)]
pub enum Next<A> {
    Action(A),
    /// Nothing that may be done now.
    Nothing,
    /// It died here.
    Crash,
}

/// What a planned wake is good for when it comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Woken {
    Due,
    /// The owner wants to be woken later by now.
    Early,
    /// Another one was planned in its place.
    Void,
}

#[derive(Debug)]
pub struct Host<O: Owner> {
    pub who: Who,
    /// Counts its starts; what was planned for an older life is void.
    pub life: u32,
    pub owner: Option<O>,
    pub disk: Disk,
    pub clocks: Clocks,
    gate: Gate<O::Action>,
    inbox: VecDeque<O::Event>,
    pub paused: bool,
    /// Actions that it will still do before it dies.
    pub fuse: Option<u32>,
    /// The wake that is planned.
    pub wake: Option<Micros>,
    /// Time of a commit.
    pub commit: Micros,
    /// Ticks since time last moved.
    ticks: (Micros, u32),
}

impl<O: Owner> Host<O> {
    pub fn new(who: Who, base: Micros) -> Self {
        Self {
            who,
            life: 0,
            owner: None,
            disk: Disk::default(),
            clocks: Clocks::new(base),
            gate: Gate::default(),
            inbox: VecDeque::new(),
            paused: false,
            fuse: None,
            wake: None,
            commit: 5_000,
            ticks: (0, 0),
        }
    }

    pub fn is_up(&self) -> bool {
        self.owner.is_some()
    }

    pub fn now(&self, at: Micros) -> Duration {
        self.clocks.now(at)
    }

    /// A new life out of what is durable.
    pub fn start(&mut self, (owner, actions): (O, Vec<O::Action>)) {
        self.life += 1;
        self.owner = Some(owner);
        self.gate = Gate::new(self.disk.ticket());
        self.wake = None;
        self.queue(actions);
    }

    pub fn crash(&mut self, commit_reached: bool) {
        self.owner = None;
        self.disk.crash(commit_reached);
        self.gate = Gate::default();
        self.inbox.clear();
        self.paused = false;
        self.fuse = None;
        self.wake = None;
    }

    /// Lets something happen to it; or keeps it, if it is paused.
    pub fn feed(&mut self, at: Micros, event: O::Event) {
        let now = self.now(at);
        match &mut self.owner {
            Some(_) if self.paused => self.inbox.push_back(event),
            Some(owner) => {
                let actions = owner.step(now, event);
                self.queue(actions);
            }
            None => {}
        }
    }

    pub fn resume(&mut self, at: Micros) {
        self.paused = false;
        for event in std::mem::take(&mut self.inbox) {
            self.feed(at, event);
        }
    }

    fn queue(&mut self, actions: Vec<O::Action>) {
        for action in actions {
            match O::record(&action) {
                Some(write) => {
                    let ticket = self.disk.write(write);
                    self.gate.commit(ticket);
                }
                None => self.gate.action(action),
            }
        }
    }

    pub fn next_action(&mut self) -> Next<O::Action> {
        if self.paused || self.owner.is_none() {
            return Next::Nothing;
        }
        match self.gate.release() {
            None => Next::Nothing,
            Some(action) => match &mut self.fuse {
                Some(0) => Next::Crash,
                Some(left) => {
                    *left -= 1;
                    Next::Action(action)
                }
                None => Next::Action(action),
            },
        }
    }

    /// The commit on its way is over.
    ///
    /// # Errors
    /// It failed: memory is ahead of the disk, and the process must end.
    pub fn synced(&mut self) -> Result<(), DiskError> {
        let upto = self.disk.ticket();
        match self.disk.synced() {
            Ok(ticket) => self.gate.durable(ticket),
            Err(_) if planted(Bug::WriteFailureIgnored) => self.gate.durable(upto - 1),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// When it next wants a tick, if that is not planned yet.
    pub fn wants_wake(&mut self, now: Micros) -> Option<Micros> {
        if self.paused {
            return None;
        }
        let at = self.clocks.when(now, self.owner.as_ref()?.next_wake()?);
        if self.wake.is_some_and(|planned| planned <= at) {
            return None;
        }
        self.wake = Some(at);
        Some(at)
    }

    /// What a wake is good for that was planned for now.
    pub fn woken(&mut self, at: Micros) -> Woken {
        if self.wake != Some(at) {
            return Woken::Void;
        }
        self.wake = None;
        if self.paused {
            return Woken::Void;
        }
        let now = self.now(at);
        if self.owner.as_ref().and_then(O::next_wake).is_none_or(|wake| wake > now) {
            return Woken::Early;
        }
        self.ticks = if self.ticks.0 == at { (at, self.ticks.1 + 1) } else { (at, 0) };
        Woken::Due
    }

    /// It asks for ticks without end while no time passes.
    pub fn spins(&self) -> bool {
        self.ticks.1 > 50
    }
}
