//! What the site has of one reservation, and the sandboxes of its present incarnation.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use protocol::ids::{Epoch, JobId, MemberNumber, ReservationId, Version};
use protocol::job::{Command, ExitStatus, Hits};
use protocol::keys::KeyRing;
use protocol::names::HostName;
use protocol::refusal::Failure;
use protocol::reservation::Progress;
use protocol::site::{Part, Remaining};

use super::Account;
use super::rounds::Told;
use super::shaping::Shaping;
use crate::nodes::Charge;
use crate::pilot::{PilotId, Round};
use crate::record::{self, Key, Placed, Record, Terms, Value};
use crate::roster::Roster;

/// Jobs of an incarnation whose ends are still known after they were saved.
const ENDED_JOBS_MAX: usize = 1024;

/// Where an incarnation stands; drawn in [`super`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(super) enum Phase {
    Starting,
    Ready,
    Joining,
    Joined,
    Ending,
}

/// What the site has of a reservation.
#[derive(Debug)]
pub(super) struct Booking {
    pub account: Account,
    /// Voted for: the GRC decides, and no timer of ours.
    pub held: Option<Terms>,
    /// When the GRC last said something of it, or was asked.
    pub heard_at: Duration,
    /// In force.
    pub grant: Option<Terms>,
    /// Highest epoch whose pilots were begun, 0 before any.
    pub begun: Epoch,
    /// Highest epoch that is to be: the first by itself, later ones by the GRC's order.
    pub wanted: Epoch,
    /// The last round that was submitted.
    pub round: Round,
    /// Why the epoch that was begun cannot go on.
    pub failed: Option<Failure>,
    pub incarnation: Option<Incarnation>,
    /// The end was asked, or the window is over: it goes when its pilots have gone.
    pub ending: bool,
    /// Since when its nodes are used before the window, for the pilots' sake.
    pub early: Option<Duration>,
    /// When the wait for nodes and addresses, that should be free, is given up.
    pub late_at: Option<Duration>,
    /// What is charged for it now.
    pub charges: Vec<Charge>,
    /// Its pilots were released, for the others did not come: when they begin again.
    pub again_at: Option<Duration>,
    /// How often in a row.
    pub releases: u32,
    /// What its pilots wait for, as it was told.
    pub waits: Option<Told>,
    /// When it must be looked at again.
    pub wake: Option<Duration>,
    /// Its times are from before a restart: the next word about them is taken whole.
    pub unsure: bool,
}

impl Booking {
    pub fn new(account: Account) -> Self {
        Self {
            account,
            held: None,
            heard_at: Duration::ZERO,
            grant: None,
            begun: Epoch(0),
            wanted: Epoch::FIRST,
            round: Round(0),
            failed: None,
            incarnation: None,
            ending: false,
            early: None,
            late_at: None,
            charges: Vec::new(),
            again_at: None,
            releases: 0,
            waits: None,
            wake: None,
            unsure: false,
        }
    }

    /// What is to be charged: while a change is held, the larger of old and new at any time.
    pub fn charged(&self) -> Vec<Charge> {
        let charge = |terms: &Terms, early: Option<Duration>| {
            let Part { layer, members, .. } = terms.part;
            Charge::new(layer, members, early, terms.start, terms.end)
        };
        match (&self.grant, &self.held) {
            (Some(grant), Some(held)) => {
                Charge::larger_of(charge(grant, self.early), charge(held, self.early))
            }
            (Some(grant), None) => vec![charge(grant, self.early)],
            (None, Some(held)) => vec![charge(held, None)],
            (None, None) => Vec::new(),
        }
    }

    /// The grant, as long as nothing ends it.
    pub fn standing(&self) -> Option<&Terms> {
        self.grant.as_ref().filter(|_| !self.ending)
    }

    /// An epoch is to be begun, and nothing of an older one is in its way.
    pub fn is_to_begin(&self) -> bool {
        let anew = self.wanted > self.begun || self.again_at.is_some();
        self.standing().is_some() && self.incarnation.is_none() && anew
    }

    /// The highest version that was heard of.
    pub fn newest(&self) -> Version {
        let of = |terms: &Option<Terms>| terms.as_ref().map_or(Version(0), |terms| terms.version);
        of(&self.held).max(of(&self.grant))
    }

    /// The window as the GRC states it now. Every word comes late by its way, so that of several
    /// about one window the earliest is the truest; after a restart the first one is taken whole.
    pub fn tighten(&mut self, now: Duration, window: Remaining) {
        let heard = window_of(now, window);
        let unsure = std::mem::take(&mut self.unsure);
        let Some(grant) = &mut self.grant else { return };
        (grant.start, grant.end) = match unsure {
            true => heard,
            false => (grant.start.min(heard.0), grant.end.min(heard.1)),
        };
    }

    pub fn record(&self, reservation: ReservationId) -> Record {
        let booking = record::Booking {
            account: self.account.clone(),
            held: self.held.clone(),
            grant: self.grant.clone(),
            begun: self.begun,
            wanted: self.wanted,
            round: self.round,
            failed: self.failed.clone(),
        };
        Record::Put(Key::Booking(reservation), Value::Booking(Box::new(booking)))
    }
}

/// A window on the site's own timeline.
pub(super) fn window_of(now: Duration, window: Remaining) -> (Duration, Duration) {
    (now + Duration::from_millis(window.starts_in_ms), now + Duration::from_millis(window.ends_in_ms))
}

/// The part without what every message says anew.
pub(super) fn timeless(part: Part) -> Part {
    Part { window: Remaining { starts_in_ms: 0, ends_in_ms: 0 }, ..part }
}

/// Whether both need the same sandboxes: only window and rates are different.
pub(super) fn same_sandboxes(old: &Part, new: &Part) -> bool {
    let bare = |part: &Part| Part { peers: Vec::new(), ..timeless(part.clone()) };
    bare(old) == bare(new)
}

/// The sandboxes of one epoch.
#[derive(Debug)]
pub(super) struct Incarnation {
    pub epoch: Epoch,
    pub round: Round,
    pub account: Account,
    pub roster: Roster,
    pub phase: Phase,
    pub told: Progress,
    /// When the first of its pilots came.
    pub came: Option<Duration>,
    /// Until when its batch job, as it was submitted last, lasts at least.
    pub lasts_until: Duration,
    /// Only of a part with peers.
    pub shaping: Option<Shaping>,
    /// The head member of the whole reservation, once the ring is here.
    pub head: Option<HostName>,
    /// For members whose agents must be asked again; not after a restart.
    pub ring: Option<KeyRing>,
    /// It was begun by a CRM of before: agents know what this one does not.
    pub adopted: bool,
    /// Every job that was ever started in it.
    pub jobs: BTreeMap<JobId, Job>,
    /// Those whose ends are all saved, the oldest first.
    pub ended_jobs: VecDeque<JobId>,
}

impl Incarnation {
    pub fn new((epoch, round): (Epoch, Round), account: Account, roster: Roster, phase: Phase) -> Self {
        Self {
            epoch,
            round,
            account,
            roster,
            phase,
            told: Progress::default(),
            came: None,
            lasts_until: Duration::ZERO,
            shaping: None,
            head: None,
            ring: None,
            adopted: false,
            jobs: BTreeMap::new(),
            ended_jobs: VecDeque::new(),
        }
    }

    pub fn pilot_ids(&self) -> Vec<PilotId> {
        self.roster.pilots().iter().map(|pilot| pilot.id).collect()
    }

    pub fn record(&self, reservation: ReservationId) -> Record {
        let members = self.roster.pilots().iter().map(|pilot| Placed {
            member: pilot.id.member,
            node: pilot.node.clone(),
            at: pilot.at.clone(),
            called: pilot.called.clone(),
            layer: pilot.layer,
            address: pilot.address,
        });
        let value = record::Incarnation {
            epoch: self.epoch,
            round: self.round,
            account: self.account.clone(),
            members: members.collect(),
            classes: self.shaping.as_ref().map(Shaping::names).unwrap_or_default(),
            lasts_until: self.lasts_until,
        };
        Record::Put(Key::Incarnation(reservation), Value::Incarnation(Box::new(value)))
    }

    /// Remembers that the end of a member's command is kept by the GRC. Of long ago ended jobs
    /// only the number stays, so that they never start again.
    pub fn exit_saved(&mut self, job: JobId, member: MemberNumber) {
        let Some(Job { members, .. }) = self.jobs.get_mut(&job) else { return };
        match members.get_mut(&member) {
            Some(ran) if ran.outcome != Outcome::Runs && !ran.saved => ran.saved = true,
            _ => return,
        }
        if members.values().all(|ran| ran.saved) {
            self.ended_jobs.push_back(job);
        }
        if self.ended_jobs.len() > ENDED_JOBS_MAX
            && let Some(oldest) = self.ended_jobs.pop_front()
        {
            self.jobs.insert(oldest, Job::default());
        }
    }
}

/// A job's commands, by member.
#[derive(Clone, Debug, Default)]
pub(super) struct Job {
    pub members: BTreeMap<MemberNumber, Ran>,
    /// Until every agent has answered that it has it.
    pub command: Option<Command>,
}

/// How one member's command stands.
#[derive(Clone, Debug)]
pub(super) struct Ran {
    pub outcome: Outcome,
    /// Its agent has said whether it started.
    pub answered: bool,
    /// How much it printed, once it has ended.
    pub printed: [u64; 2],
    /// The last signal to it that its agent has not answered.
    pub signal: Option<u8>,
    /// The GRC keeps it: it need not be told again.
    pub saved: bool,
}

impl Ran {
    /// Its agent is, or was, asked to start it.
    pub fn begun() -> Self {
        Self { outcome: Outcome::Runs, answered: false, printed: [0; 2], signal: None, saved: false }
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    Runs,
    Exited(ExitStatus, Hits),
    NotStarted(Failure),
}
