//! The machine of one pilot: what the batch system starts on a node for one member.
//!
//! ```text
//! Held -> Submitted -> Building -> Built -> Ready -> Joining -> Joined -> Running
//!   |         |            \_________\________\________\__________\_________/
//!   |         |                                  |       |       ^
//!   |         |          asked to end, too late, |       | agent | back: Building, Ready or
//!   |         |          or its Launcher is gone |       | lost  | Running, as it says
//!   |         |                                  |       v       |
//!   |         |                                  v      Away ----'
//!   |         |                              Stopping    | asked to end, too late, Launcher gone
//!   |         |        sandbox confirmed gone /  | too late, agent lost; dirty (from anywhere)
//!   |         |                              /   v       v
//!   |         |---- asked to end, too late -/-> Cancelling -- too late --> Stuck (cancelled again)
//!   |         |                            /        | batch: gone            | batch: gone
//!   |         | batch: gone               /         v                        |
//!   |         |                          /       Sweeping <------------------'
//!   v         v                         v           | swept     \ not swept
//!  Gone <-----+-------------------------+-----------'            Dirty (swept again)
//! ```
//! No I/O and no clock here: [`State::step`] says what follows, [`crate::site`] does it. Every
//! arrow of the picture is one arm below, beside one from `Submitted` back to `Held` (the batch
//! system did not take it, and may later); news that fits no arrow is late or repeated and changes
//! nothing. The node and the address are given back exactly once, on the way into `Gone`.
//! After a restart of the CRM the pilots of before begin at `Submitted` if they never arrived, at
//! `Away` if they did, and at `Cancelling` if they do not go. One that is away with its end asked is
//! ended by the batch system; one that was asked to end and returns is asked again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use grant::Rates;
use protocol::identity::Pin;
use protocol::ids::{MemberNumber, ReservationId};
use protocol::keys::MemberKeys;
use protocol::names::{NodeName, Text};
use protocol::node;
use protocol::refusal::Step;
use serde::{Deserialize, Serialize};

use crate::record::Placed;

/// Counts what this site submitted for a reservation: every time its pilots are handed to the
/// batch system anew, the number grows, and it is never used again. It is durable before they are.
/// An order of the GRC for a newer epoch may take a round over, as long as none of its pilots has
/// arrived; so a round is of one epoch at a time, and an epoch may have several, one after another.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
pub struct Round(pub u32);

impl Round {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Which pilot: one member of one round of a reservation.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
pub struct PilotId {
    pub reservation: ReservationId,
    pub round: Round,
    pub member: MemberNumber,
}

impl fmt::Display for PilotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}/{}", self.reservation, self.round.0, self.member)
    }
}

/// Where a pilot stands. The order is the order of life.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum State {
    /// Node and address are kept for it; nothing was started.
    Held,
    /// The batch system has it.
    Submitted,
    /// It dialled in; SETUP and GET_KEYS are with it.
    Building,
    /// Its sandbox stands; the keys are still being made.
    Built,
    /// Sandbox and keys are there: it counts for the first barrier.
    Ready,
    /// SET_KEYS and RUN are with it.
    Joining,
    /// The key ring is installed; services start.
    Joined,
    /// Its sshd answers: it counts for the second barrier and takes commands.
    Running,
    /// Its agent is not connected, and may come back as long as its lease lasts.
    Away,
    /// SHUTDOWN is with it.
    Stopping,
    /// The batch system was asked to take it away.
    Cancelling,
    /// Its processes are gone; leftovers are being removed.
    Sweeping,
    /// The batch system does not confirm that it is gone.
    Stuck,
    /// Leftovers could not be removed.
    Dirty,
    /// Confirmed: nothing of it is left.
    Gone,
}

/// What happens to a pilot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    Committed,
    Arrived,
    SandboxBuilt,
    KeysGiven,
    JoinAsked,
    KeysInstalled,
    ServicesUp,
    EndAsked,
    /// The agent reports that the monitor confirmed the teardown.
    SandboxGone,
    /// The agent reports a teardown that left something.
    SandboxDirty,
    /// The connection to the agent ended.
    AgentLost,
    /// The agent is connected again and tells how it stands.
    Returned(node::State),
    /// The batch system says that the pilot's process is gone.
    BatchGone,
    /// The batch system did not take it, and may later.
    TurnedBack,
    /// The deadline of the present state passed.
    TimeOver,
    Swept,
    NotSwept,
}

/// What follows from an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Do {
    Submit,
    /// Send SETUP and GET_KEYS back to back.
    SetUp,
    /// Ask for the keys again: they come when the sandbox stands.
    AskKeys,
    /// Ask for what commands are about.
    Resume,
    /// Send SHUTDOWN.
    ShutDown,
    /// Close the connection to the agent.
    Dismiss,
    /// Ask the batch system to take the pilot away; its token is void from now on.
    Cancel,
    /// Remove what a dead pilot left on its node.
    Sweep,
    /// Keep the node away from new pilots and the address from new members, and say so.
    Quarantine,
    /// Give node and address back.
    Release,
}

impl State {
    /// Every state, in the order of life.
    pub const ALL: [State; 15] = {
        use State::*;
        [
            Held, Submitted, Building, Built, Ready, Joining, Joined, Running, Away, Stopping, Cancelling,
            Sweeping, Stuck, Dirty, Gone,
        ]
    };

    /// What follows. Total: news that fits no arrow changes nothing.
    pub fn step(self, event: Event) -> (State, &'static [Do]) {
        use {Do::*, Event::*, State::*};
        match (self, event) {
            (Held, Committed) => (Submitted, &[Submit]),
            (Submitted, TurnedBack) => (Held, &[]),
            (Submitted, Arrived) => (Building, &[SetUp]),
            (Building, SandboxBuilt) => (Built, &[]),
            (Built, KeysGiven) => (Ready, &[]),
            (Ready, JoinAsked) => (Joining, &[]),
            (Joining, KeysInstalled) => (Joined, &[]),
            (Joined, ServicesUp) => (Running, &[]),

            // It may be there all the same, or turn up.
            (Held, EndAsked | TimeOver) => (Gone, &[Cancel, Release]),
            (Submitted, EndAsked | TimeOver) => (Cancelling, &[Cancel]),
            // It never arrived, so it never had a grant: nothing can be left of it.
            (Submitted, BatchGone) => (Gone, &[Cancel, Release]),

            // When the Launcher is gone the monitor tears down by itself; the agent, as long as
            // it is connected, still tells how that ended.
            (s, EndAsked | TimeOver | BatchGone) if s.has_agent() => (Stopping, &[ShutDown]),
            (s, SandboxGone) if s.has_agent() || s == Stopping => (Gone, &[Dismiss, Cancel, Release]),
            (s, SandboxDirty) if s.has_agent() || s == Stopping => (Cancelling, &[Dismiss, Cancel]),
            (Stopping, AgentLost) => (Cancelling, &[Cancel]),

            (s, AgentLost) if s.has_agent() => (Away, &[]),
            (Away, Returned(node::State::Idle)) => (Building, &[SetUp]),
            (Away, Returned(node::State::Building)) => (Building, &[AskKeys]),
            (Away, Returned(node::State::Ready | node::State::Joined)) => (Ready, &[Resume]),
            (Away, Returned(node::State::Running)) => (Running, &[Resume]),
            (Away, Returned(node::State::TearingDown | node::State::Gone)) => (Stopping, &[ShutDown]),
            // Nobody can tell it anything: the batch system must.
            (Away, EndAsked | TimeOver | BatchGone) => (Cancelling, &[Cancel]),

            (Stopping, TimeOver) => (Cancelling, &[Dismiss, Cancel]),

            (Cancelling | Stuck, BatchGone) => (Sweeping, &[Sweep]),
            (Cancelling, TimeOver) => (Stuck, &[Quarantine]),
            (Stuck, TimeOver) => (Stuck, &[Cancel]),

            (Sweeping | Dirty, Swept) => (Gone, &[Release]),
            (Sweeping, NotSwept | TimeOver) => (Dirty, &[Quarantine]),
            (Dirty, TimeOver) => (Sweeping, &[Sweep]),

            (state, _) => (state, &[]),
        }
    }

    /// Whether an agent is connected and nothing is ending yet.
    pub fn has_agent(self) -> bool {
        (State::Building..=State::Running).contains(&self)
    }

    /// Nothing more is waited for: it is gone, or it is known by name that it is not.
    pub fn is_settled(self) -> bool {
        matches!(self, State::Stuck | State::Dirty | State::Gone)
    }

    /// What is under way, for a failure that strikes now.
    pub fn step_under_way(self) -> Step {
        match self {
            State::Held => Step::Commit,
            State::Submitted => Step::Pilots,
            State::Building => Step::Setup,
            State::Built => Step::GetKeys,
            State::Joining => Step::SetKeys,
            State::Joined => Step::Run,
            State::Ready | State::Running | State::Away => Step::Running,
            _ => Step::End,
        }
    }
}

/// How long each state may last. Not shown: a state without a limit is left by the part's end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Times {
    /// From submission until the pilot dials in.
    pub pilots: Duration,
    pub setup: Duration,
    /// GET_KEYS, and likewise SET_KEYS.
    pub keys: Duration,
    pub run: Duration,
    /// From SHUTDOWN, grace aside, until the sandbox is confirmed gone.
    pub end: Duration,
    /// How long CRM and agent may hear nothing of each other before both give up.
    pub lease: Duration,
    /// What runs inside has so long to end by itself, from SIGTERM on.
    pub grace: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let s = Duration::from_secs;
        let (pilots, setup, keys, run) = (s(60), s(20), s(20), s(30));
        Self { pilots, setup, keys, run, end: s(10), lease: s(10), grace: s(5) }
    }
}

/// How much longer than its lease a node is waited for: it has ended by itself by then.
const AWAY_MARGIN: Duration = Duration::from_secs(3);
/// How long the batch system may take, beyond the end time, to take a pilot away.
const CANCEL_MARGIN: Duration = Duration::from_secs(5);
/// How long a sweep may take; the edge that runs it gives up before.
const SWEEP_TIME: Duration = Duration::from_secs(15);
/// Between two attempts to get rid of a pilot that does not go.
const RETRY_TIME: Duration = Duration::from_secs(30);

impl Times {
    /// How long `state` may last, if that is bounded by itself.
    pub fn of(&self, state: State) -> Option<Duration> {
        match state {
            State::Submitted => Some(self.pilots),
            State::Building => Some(self.setup),
            State::Built | State::Joining => Some(self.keys),
            State::Joined => Some(self.run),
            State::Away => Some(self.lease + AWAY_MARGIN),
            State::Stopping => Some(self.grace + self.end),
            State::Cancelling => Some(self.end + CANCEL_MARGIN),
            State::Sweeping => Some(SWEEP_TIME),
            State::Stuck | State::Dirty => Some(RETRY_TIME),
            State::Held | State::Ready | State::Running | State::Gone => None,
        }
    }
}

/// One pilot and what is known of it.
#[derive(Clone, Debug)]
pub struct Pilot {
    pub id: PilotId,
    /// Its place: a node by name, or one of the equal places of a queue.
    pub node: NodeName,
    /// The machine that took a queue's place, once the batch system has said which.
    pub at: Option<NodeName>,
    /// What that machine calls itself. The pilot's user may have made it say so: it is for people,
    /// and counts for or against no machine.
    pub called: Option<NodeName>,
    /// Of that machine's boot, from its arrival on: after a reboot nothing of before is left.
    pub boot_id: Option<[u8; 16]>,
    /// In which layer of the site its place on the node is.
    pub layer: u32,
    pub address: Ipv4Addr,
    pub state: State,
    /// When the present state has lasted too long.
    pub deadline: Option<Duration>,
    /// The batch system said that its process is gone.
    pub batch_gone: bool,
    pub keys: Option<MemberKeys>,
    /// The certificate of its agent, once it arrived: by it, it is known again.
    pub pin: Option<Pin>,
    /// Why it is away, while it is.
    pub away: Option<Text>,
    /// The challenge of its monitor, once it arrived.
    pub nonce: Option<[u8; 16]>,
    /// What its node was told last of rates and lifetime.
    pub told: Option<Box<Rates>>,
    /// Orders of its part's shares that its node has not answered, by the serial it was told.
    pub orders: BTreeMap<u32, u32>,
    /// When its node ends it by itself, margin included.
    pub lease_end: Duration,
    /// Why it waits in the queue, and until when, as the batch system says.
    pub queued: Option<Text>,
    pub expected: Option<Duration>,
    /// Why it may be with the batch system or not, which has not said either.
    pub unanswered: Option<Text>,
    /// Why it is not clean, while it is not.
    pub dirt: Option<Text>,
}

impl Pilot {
    pub fn new(id: PilotId, node: NodeName, layer: u32, address: Ipv4Addr) -> Self {
        Self {
            id,
            node,
            at: None,
            called: None,
            boot_id: None,
            layer,
            address,
            state: State::Held,
            deadline: None,
            batch_gone: false,
            keys: None,
            pin: None,
            away: None,
            nonce: None,
            told: None,
            orders: BTreeMap::new(),
            lease_end: Duration::ZERO,
            queued: None,
            expected: None,
            unanswered: None,
            dirt: None,
        }
    }

    /// Why it is not there yet, as far as that is known.
    pub fn waits_for(&self) -> Option<&Text> {
        self.queued.as_ref().or(self.unanswered.as_ref())
    }

    /// What people call the node it is on, or shall be on.
    pub fn node_name(&self) -> &NodeName {
        self.machine().unwrap_or(&self.node)
    }

    /// Which machine has a queue's place, as far as anybody said; `None` = it has come to none.
    pub fn machine(&self) -> Option<&NodeName> {
        self.at.as_ref().or(self.called.as_ref())
    }

    /// One that a CRM of before has submitted, where it was or may be.
    pub fn of_before(id: PilotId, placed: Placed, state: State) -> Self {
        let Placed { node, at, called, layer, address, .. } = placed;
        Self { state, at, called, ..Self::new(id, node, layer, address) }
    }
}

#[cfg(test)]
mod tests;
