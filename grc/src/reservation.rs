//! One reservation and what is known of it; its machine is drawn in [`phase`].

mod phase;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use protocol::ids::{Epoch, JobId, RequestId, ReservationId, Version};
use protocol::names::{SiteName, Text, UserName};
use protocol::refusal::{Failure, Refusal};
use protocol::reservation::{AddressBlock, Ask, PairRate, Progress};
use protocol::site::{ReadyMember, Remaining, Waits};
use serde::{Deserialize, Serialize};

use crate::coallocate::Coallocation;
use crate::record::{InRing, SavedAttempt, SavedReservation, Standing};
use crate::usage::Series;
pub use phase::{Happening, Order, Phase, WrongPhase};

/// How many texts about one reservation are kept: a record holds them all.
const REMARKS_MAX: usize = 64;

/// From when until when, on the owner's own time line. Sites are told what remains of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Window {
    pub start: Duration,
    pub end: Duration,
    /// How long before the start its sandboxes may stand already.
    pub lead: Duration,
    /// The latest end that any version of the grant had. A site that has not heard of a shorter
    /// window counts with this one, so that addresses come back unconfirmed only behind it.
    pub until: Duration,
}

impl Window {
    /// From when on its sandboxes may stand.
    pub fn near(self) -> Duration {
        self.start.saturating_sub(self.lead)
    }

    pub fn remaining(self, now: Duration) -> Remaining {
        let left = |at: Duration| u64::try_from(at.saturating_sub(now).as_millis()).unwrap_or(u64::MAX);
        Remaining { starts_in_ms: left(self.start), ends_in_ms: left(self.end) }
    }
}

/// What one site gives.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Share {
    pub site: SiteName,
    pub members: u32,
    /// In which layer of the site its members stand.
    pub layer: u32,
    pub carve: Vec<AddressBlock>,
}

/// What is in force: held by every site and link, and durable.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    pub version: Version,
    pub window: Window,
    /// Between which parts, each pair once.
    pub rates: Vec<PairRate>,
}

/// Something that sites and links are being asked to hold: the first grant, or a change of it.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub version: Version,
    pub window: Window,
    pub shares: Vec<Share>,
    pub rates: Vec<PairRate>,
    pub all: Coallocation,
    pub deadline: Duration,
    /// The request that waits for the outcome; none does for one that may wait its turn.
    pub request: Option<RequestId>,
    /// Who asks for this change, if that is not its user: it is said when it is in force.
    pub operator: Option<UserName>,
}

impl Attempt {
    pub fn share(&self, site: &SiteName) -> Option<&Share> {
        self.shares.iter().find(|share| share.site == *site)
    }
}

/// How far one part is. Each includes the earlier ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum PartStage {
    Asked,
    Held,
    Ready,
    Joined,
    /// Confirmed by the site, or given up: nothing more is expected of it.
    Ended,
}

/// One site's share and how far it is.
#[derive(Clone, Debug)]
pub struct PartState {
    pub site: SiteName,
    pub members: u32,
    pub layer: u32,
    pub carve: Vec<AddressBlock>,
    pub stage: PartStage,
    /// The site said that it has committed the grant in force.
    pub acknowledged: bool,
    pub progress: Progress,
    /// What the site reported, checked and in order; empty before.
    pub ready: Vec<ReadyMember>,
    /// The latest of the site's submissions that it spoke of.
    pub round: u32,
    /// What its pilots wait for, while they do.
    pub waiting: Option<Waiting>,
    /// The site's batch system and which of its queues, once something was said of waiting.
    pub queue: Text,
    /// When it begins its pilots again, which it has released.
    pub again: Option<Duration>,
}

/// What the pilots of a part wait for; times are the owner's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Waiting {
    pub pilots: u32,
    pub why: Text,
    pub expected: Option<Duration>,
    /// When the site gives them up.
    pub until: Option<Duration>,
    /// Until when those that came are held for the others.
    pub held_until: Option<Duration>,
}

impl Waiting {
    /// As a site says it now.
    pub fn new(said: Waits, now: Duration) -> Self {
        let at = |span: Option<u32>| span.map(|seconds| now + Duration::from_secs(seconds.into()));
        Self {
            pilots: said.pilots,
            why: said.why,
            expected: at(said.expected_in_s),
            until: at(said.until_in_s),
            held_until: at(said.held_for_s),
        }
    }
}

impl PartState {
    pub fn new(share: &Share, stage: PartStage) -> Self {
        let Share { site, members, layer, carve } = share.clone();
        let progress = Progress { wanted: members, ..Progress::default() };
        let (ready, round, waiting, again, queue) = (Vec::new(), 0, None, None, Text::default());
        Self {
            site,
            members,
            layer,
            carve,
            stage,
            acknowledged: false,
            progress,
            ready,
            round,
            waiting,
            queue,
            again,
        }
    }

    /// Nobody of it is waited for any more; those that came may be held for others.
    pub fn all_came(&mut self) {
        self.again = None;
        let held_until = self.waiting.take().and_then(|waiting| waiting.held_until);
        let why = Text::default();
        self.waiting =
            held_until.map(|_| Waiting { pilots: 0, why, expected: None, until: None, held_until });
    }

    /// Whether this is not of an older submission than the site spoke of before. A newer one takes
    /// the place of whatever was known.
    pub fn hears_of(&mut self, round: u32) -> bool {
        if round > self.round {
            let anew = self.round > 0;
            self.round = round;
            if anew {
                self.begin_anew();
            }
        }
        round == self.round
    }

    pub fn share(&self) -> Share {
        Share { site: self.site.clone(), members: self.members, layer: self.layer, carve: self.carve.clone() }
    }

    /// Back to the beginning, for the next incarnation.
    pub fn begin_anew(&mut self) {
        self.stage = PartStage::Held;
        self.progress = Progress { wanted: self.members, ..Progress::default() };
        self.ready.clear();
        (self.waiting, self.again) = (None, None);
    }
}

/// Why a reservation waits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Why {
    /// What was missing when it was tried last.
    Refused(Refusal),
    /// What went wrong when it was tried last.
    Failed(Failure),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            // One line: a reason, not an answer.
            Self::Failed(failure) => match &failure.site {
                Some(site) => write!(f, "{}, site {site}: {}", failure.step, failure.cause),
                None => write!(f, "{}: {}", failure.step, failure.cause),
            },
        }
    }
}

/// When something is done again, and the pause before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pause {
    pub until: Duration,
    pub length: Duration,
}

/// What became of the incarnations before this one.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    /// Failed in a row.
    pub count: u32,
    /// The last one, while the next is not ready.
    pub last: Option<Failure>,
    /// When the next epoch will be ordered; `None` when it was.
    pub next_try: Option<Duration>,
}

/// A reservation with everything that the owner knows of it. Times are on the owner's time line,
/// since the epoch.
#[derive(Clone, Debug)]
pub struct Reservation {
    pub id: ReservationId,
    pub user: UserName,
    pub ask: Ask,
    /// The request that made it.
    pub request: RequestId,
    /// Requests that changed it, and to which version; the last ones.
    pub changes: Vec<(RequestId, Version)>,
    /// The job that it was made for and ends with.
    pub own_job: Option<JobId>,
    /// Jobs that are not over, oldest first.
    pub jobs: BTreeSet<JobId>,
    /// Jobs that are over and may still run somewhere in this incarnation.
    pub kills: BTreeSet<JobId>,
    pub made: Duration,
    pub phase: Phase,
    /// The last one that was given out: an attempt takes the next.
    pub version: Version,
    pub attempt: Option<Attempt>,
    pub grant: Option<Grant>,
    /// Of the attempt while it is held for the first time, then of the grant; empty while it waits.
    pub parts: Vec<PartState>,
    /// The incarnation of its sandboxes.
    pub epoch: Epoch,
    /// Whose members are in the key ring of this epoch; empty until one was sent.
    pub ring: Vec<InRing>,
    /// Everybody answered in this epoch, once.
    pub was_ready: bool,
    /// Numbers of nodes were changed in this epoch: a site may have begun it with the old ones.
    pub resized: bool,
    /// It comes from records: what its sites reported before is to be asked again.
    pub resumed: bool,
    pub troubles: Troubles,
    /// What everything that is over ended with, if not by itself.
    pub failure: Option<Failure>,
    /// By when the phase must be left.
    pub deadline: Option<Duration>,
    /// No new attempt before this, and how often it was put off in a row.
    pub not_before: Duration,
    pub put_off: u32,
    /// Why it waits, and when that was found.
    pub waits_for: Option<(Why, Duration)>,
    /// When it could begin, as far as the book knows; while it waits.
    pub expected: Option<Duration>,
    /// What its user should know beside its state: nodes that are not clean because of it, what
    /// operators did.
    pub remarks: Vec<Text>,
    /// When sites are told again what they have not acknowledged.
    pub resend: Option<Pause>,
    /// The timer that is set for it: a deadline, or the beginning or end of its window.
    pub alarm: Option<Duration>,
    pub ended: Option<Duration>,
    /// What was used of its bandwidth.
    pub usage: Series,
}

impl Reservation {
    /// Keeps what its user should know. Of what is too much, the first is what matters.
    pub fn remark(&mut self, what: Text) {
        if self.remarks.len() < REMARKS_MAX {
            self.remarks.push(what);
        }
    }

    /// One that waits, of which nobody knows yet.
    pub fn new(id: ReservationId, user: UserName, ask: Ask, request: RequestId, made: Duration) -> Self {
        Self {
            id,
            user,
            ask,
            request,
            changes: Vec::new(),
            own_job: None,
            jobs: BTreeSet::new(),
            kills: BTreeSet::new(),
            made,
            phase: Phase::Waiting,
            version: Version::default(),
            attempt: None,
            grant: None,
            parts: Vec::new(),
            epoch: Epoch::FIRST,
            ring: Vec::new(),
            was_ready: false,
            resized: false,
            resumed: false,
            troubles: Troubles::default(),
            failure: None,
            deadline: None,
            not_before: Duration::ZERO,
            put_off: 0,
            waits_for: None,
            expected: None,
            remarks: Vec::new(),
            resend: None,
            alarm: None,
            ended: None,
            usage: Series::default(),
        }
    }

    pub fn part(&self, site: &SiteName) -> Option<&PartState> {
        self.parts.iter().find(|part| part.site == *site)
    }

    pub fn part_mut(&mut self, site: &SiteName) -> Option<&mut PartState> {
        self.parts.iter_mut().find(|part| part.site == *site)
    }

    /// Whether every part is at least this far.
    pub fn all_parts(&self, stage: PartStage) -> bool {
        self.parts.iter().all(|part| part.stage >= stage)
    }

    /// The first site that is not as far as `stage`: who is named when a deadline passes.
    pub fn laggard(&self, stage: PartStage) -> Option<&PartState> {
        self.parts.iter().find(|part| part.stage < stage)
    }

    /// The window of the grant, of the attempt before there is one.
    pub fn window(&self) -> Option<Window> {
        let attempt = self.attempt.as_ref().map(|attempt| attempt.window);
        self.grant.as_ref().map(|grant| grant.window).or(attempt)
    }

    /// All requests that have made something of it.
    pub fn requests(&self) -> Vec<RequestId> {
        self.changes.iter().map(|(request, _)| *request).chain([self.request]).collect()
    }

    /// Whether an incarnation is on, or was ordered.
    pub fn stands(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Joining | Phase::Ready)
            && self.troubles.next_try.is_none()
    }

    /// Of the grant in force; 0 before there is one.
    pub fn in_force(&self) -> Version {
        self.grant.as_ref().map_or(Version::default(), |grant| grant.version)
    }

    /// What must be known of it after a restart.
    pub fn saved(&self) -> SavedReservation {
        let attempt = self.attempt.as_ref().map(|attempt| SavedAttempt {
            version: attempt.version,
            window: attempt.window,
            shares: attempt.shares.clone(),
            rates: attempt.rates.clone(),
        });
        SavedReservation {
            id: self.id,
            user: self.user.clone(),
            ask: self.ask.clone(),
            request: self.request,
            changes: self.changes.clone(),
            own_job: self.own_job,
            made: self.made,
            standing: match self.phase {
                Phase::Waiting => Standing::Waiting,
                Phase::Holding => Standing::Begun,
                Phase::Booked | Phase::Starting | Phase::Joining | Phase::Ready => Standing::Granted,
                Phase::Ending => Standing::Ending,
                Phase::Over => Standing::Over { at: self.ended.unwrap_or(self.made) },
            },
            version: self.version,
            attempt,
            grant: self.grant.clone(),
            shares: self.shares(),
            confirmed: self
                .parts
                .iter()
                .filter(|part| part.stage == PartStage::Ended)
                .map(|part| part.site.clone())
                .collect(),
            epoch: self.epoch,
            ring: self.ring.clone(),
            ready: self.was_ready,
            failure: self.failure.clone(),
            remarks: self.remarks.clone(),
        }
    }

    pub fn shares(&self) -> Vec<Share> {
        self.parts.iter().map(PartState::share).collect()
    }
}

#[cfg(test)]
mod tests;
