//! The batch queue as the owner deals with it: what it says, what it would refuse, and what waits
//! while it is paused.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::ids::ReservationId;
use protocol::names::{NodeName, Text};
use protocol::refusal::{Failure, Refusal, Step};
use protocol::site::Part;

use super::booking::Incarnation;
use super::{Account, Action, LEASE_MARGIN, News, Site, Submit};
use crate::pilot::{Event, Pilot, PilotId, State};
use crate::queue::QueueState;
use crate::standing::{BatchError, Standing};

/// What a batch job is given beyond the lifetime of its pilots: the system counts from when it
/// begins, and ends it by force.
const WALLTIME_MARGIN: Duration = Duration::from_secs(60);

/// After so long a submission is tried again for an account that had as many jobs as it may.
const FULL_TIME: Duration = Duration::from_secs(30);

/// The walltime of a pilot that is over after `lifetime_s` in any case: with a margin, in whole
/// minutes.
pub fn walltime(lifetime_s: u32) -> Duration {
    let seconds = Duration::from_secs(lifetime_s.into()) + WALLTIME_MARGIN;
    Duration::from_secs(seconds.as_secs().div_ceil(60) * 60)
}

impl Submit {
    /// The limit that its batch job is given, from when it may begin: whole minutes, and more than
    /// the pilot's own life, so that a reservation ends by itself.
    pub fn walltime(&self) -> Duration {
        walltime(self.lifetime_s.saturating_sub(self.begin_in_s))
    }
}

/// The longest that a part may last, from its pilots' submission to the end of its window, for a
/// queue with this limit.
pub fn lasts_max(walltime_max: Duration, grace: Duration) -> Duration {
    let minutes = Duration::from_secs(walltime_max.as_secs() / 60 * 60);
    minutes.saturating_sub(WALLTIME_MARGIN + LEASE_MARGIN + grace)
}

impl Site {
    pub(super) fn on_batch_news(&mut self, news: News) {
        let now = self.now;
        match news {
            News::NotSubmitted { pilots, error } => self.on_not_submitted(&pilots, error),
            News::Stands { pilot, standing } => self.on_stands(pilot, standing),
            News::NotThere { pilots } => self.on_not_there(&pilots),
            News::Capabilities(capabilities) => {
                self.lead_of_batch = capabilities.lead;
                self.set_reserves_ahead(capabilities.reserves_ahead);
                let state = QueueState {
                    closed: capabilities.closed,
                    nodes_max: capabilities.nodes_max,
                    walltime_max: capabilities.walltime_max,
                };
                let resumes = self.queue.heard(now, Ok(state));
                self.queue_changed(resumes);
            }
            News::Answers(said) => {
                let resumes = self.queue.answers(now, said);
                self.queue_changed(resumes);
            }
        }
    }

    fn queue_changed(&mut self, resumes: bool) {
        self.offer_changed = true;
        if resumes {
            self.freed = true;
            self.submit_held();
        }
        for (reservation, booking) in &self.bookings {
            if booking.incarnation.is_some() {
                self.progressed.insert(*reservation);
            }
        }
    }

    /// Pilots that were turned back go to the queue again, each round at once, but for those of
    /// accounts for which nothing is submitted now.
    fn submit_held(&mut self) {
        let mut held: Vec<PilotId> = Vec::new();
        let goes_on = |account: &Account| self.is_paused(account).is_none();
        let bookings = self.bookings.values().filter(|booking| booking.standing().is_some());
        for booking in bookings.filter(|booking| goes_on(&booking.account)) {
            let pilots = booking.incarnation.iter().flat_map(|incarnation| incarnation.roster.pilots());
            held.extend(pilots.filter(|pilot| pilot.state == State::Held).map(|pilot| pilot.id));
        }
        for id in held {
            self.advance(id, Event::Committed);
        }
    }

    /// A batch job was not taken: for good, for now, or perhaps.
    fn on_not_submitted(&mut self, pilots: &[PilotId], error: BatchError) {
        match error {
            BatchError::Refused(why) => {
                let Some(first) = pilots.first() else { return };
                self.account_failed(*first, &why);
                let reason = format!("it was refused: {why}").into();
                pilots.iter().for_each(|pilot| self.on_batch_gone(*pilot, &reason));
            }
            BatchError::Unavailable(why) => {
                self.queue.turned_back(self.now, why);
                for pilot in pilots {
                    self.advance(*pilot, Event::TurnedBack);
                }
                self.queue_changed(false);
            }
            BatchError::AccountFull(why) => {
                let account = pilots.first().and_then(|first| self.incarnation(*first));
                let Some(uid) = account.map(|incarnation| incarnation.account.uid) else { return };
                self.full.insert(uid, (self.now + FULL_TIME, why));
                for pilot in pilots {
                    self.advance(*pilot, Event::TurnedBack);
                }
                self.queue_changed(false);
            }
            // It may be there. The batch task says what became of it: it is found by its name, or
            // it is not there, and submitted again then.
            BatchError::Unknown(why) => {
                for id in pilots {
                    if let Some(pilot) = self.pilot_mut(*id).filter(|pilot| pilot.state == State::Submitted) {
                        pilot.unanswered = Some(why.clone());
                    }
                }
            }
        }
    }

    fn on_stands(&mut self, id: PilotId, standing: Standing) {
        let (anonymous, now) = (self.settings.anonymous, self.now);
        let Some(pilot) = self.pilot_mut(id).filter(|pilot| pilot.state != State::Gone) else {
            // Nobody waits for it any more: its submission had no answer, and came late.
            return self.actions.push(Action::Cancel { pilot: id });
        };
        pilot.unanswered = None;
        match standing {
            Standing::Queued { why, expected } => {
                pilot.queued = why;
                pilot.expected = expected.map(|expected| now + expected);
            }
            Standing::Running { node } => {
                (pilot.queued, pilot.expected) = (None, None);
                if let Some(node) = node.filter(|_| anonymous) {
                    pilot.at = Some(node);
                }
            }
            Standing::Gone(_) => {}
        }
        self.progressed.insert(id.reservation);
    }

    /// The batch system does not know these. A round that it never said to have is handed over again,
    /// by the same name; what it had before, and pilots that were there, are gone.
    fn on_not_there(&mut self, pilots: &[PilotId]) {
        let (never, gone): (Vec<PilotId>, Vec<PilotId>) = pilots.iter().partition(|id| self.never_was(**id));
        for id in never {
            if let Some(pilot) = self.pilot_mut(id) {
                pilot.unanswered = None;
            }
            self.advance(id, Event::TurnedBack);
        }
        let reason = "the batch system does not know it".into();
        gone.into_iter().for_each(|id| self.on_batch_gone(id, &reason));
        self.submit_held();
    }

    /// Whether this pilot is of a submission that may never have come to the batch system. A queue
    /// has all of a batch job or nothing; on nodes by name each pilot is one of its own.
    fn never_was(&self, id: PilotId) -> bool {
        let is_unsure = |pilot: &Pilot| pilot.state == State::Submitted && pilot.unanswered.is_some();
        let Some(incarnation) = self.incarnation(id) else { return false };
        match self.settings.anonymous {
            true => incarnation.roster.pilots().iter().all(is_unsure),
            false => incarnation.roster.get(id.member).is_some_and(is_unsure),
        }
    }

    /// No pilot of this submission came.
    pub(super) fn account_failed(&mut self, id: PilotId, why: &Text) {
        let Some(account) = self.incarnation(id).map(|incarnation| incarnation.account.clone()) else {
            return;
        };
        self.accounts.failed(self.now, &account.uid, id.reservation, why);
    }

    /// Whether no node is kept away and the queue is open: for the simulator.
    pub fn gives_all(&self) -> bool {
        self.nodes.unusable().is_empty() && self.queue.paused_as().is_none()
    }

    /// Why nothing is submitted for this account now.
    pub(super) fn is_paused(&self, account: &Account) -> Option<Text> {
        let of_account = || {
            let why = self.accounts.of(&account.uid).map(String::from).or_else(|| {
                let (_, why) = self.full.get(&account.uid)?;
                Some(format!("{why}; it is tried again every {} s", FULL_TIME.as_secs()))
            })?;
            Some(format!("for user {}: {why}", account.name).into())
        };
        self.queue.paused_as().or_else(of_account)
    }

    /// What the queue would turn down is turned down before anything is queued.
    pub(super) fn check_limits(&self, part: &Part, start: Duration, end: Duration) -> Result<(), Refusal> {
        let site = || self.settings.name.clone();
        let limits = self.queue.state();
        if let Some(max) = limits.nodes_max.filter(|max| part.members > *max) {
            let what = "nodes of one batch job".into();
            return Err(Refusal::OverQueueLimit {
                site: site(),
                what,
                asked: part.members.into(),
                max: max.into(),
            });
        }
        let begins = self.now.max(self.runs_from(start));
        let lifetime = (end + self.settings.times.grace + LEASE_MARGIN).saturating_sub(begins).as_secs();
        let needed = walltime(u32::try_from(lifetime).unwrap_or(u32::MAX));
        if let Some(max) = limits.walltime_max.filter(|max| needed > *max) {
            let what = "minutes of one batch job, its margins included".into();
            let minutes = |time: Duration| time.as_secs() / 60;
            let (asked, max) = (minutes(needed), minutes(max));
            return Err(Refusal::OverQueueLimit { site: site(), what, asked, max });
        }
        Ok(())
    }

    /// Until when the batch job of pilots that are submitted now lasts at least.
    pub(super) fn lasts_until(&self, reservation: ReservationId) -> Duration {
        let grant = self.bookings.get(&reservation).and_then(|booking| booking.grant.as_ref());
        let begins = self.now.max(self.runs_from(grant.map_or(self.now, |grant| grant.start)));
        let life =
            (self.now + Duration::from_secs(self.lifetime_s(reservation).into())).saturating_sub(begins);
        begins + walltime(u32::try_from(life.as_secs()).unwrap_or(u32::MAX))
    }

    /// A round is submitted again: how long it lasts is what it is given now.
    pub(super) fn note_lasts(&mut self, id: PilotId) {
        let lasts_until = self.lasts_until(id.reservation);
        let Some(incarnation) = self.incarnation_mut(id) else { return };
        if incarnation.lasts_until != lasts_until {
            incarnation.lasts_until = lasts_until;
            let record = incarnation.record(id.reservation);
            self.record(record);
        }
    }

    /// A window that is longer than the batch job of its sandboxes would end before itself, by force.
    pub(super) fn check_lasts(&self, reservation: ReservationId, end: Duration) -> Result<(), Refusal> {
        let incarnation = self.bookings.get(&reservation).and_then(|booking| booking.incarnation.as_ref());
        let was_submitted = |incarnation: &&Incarnation| {
            self.settings.anonymous && incarnation.roster.pilots().iter().any(|one| one.state != State::Held)
        };
        let Some(incarnation) = incarnation.filter(was_submitted) else { return Ok(()) };
        let needed = end + self.settings.times.grace + LEASE_MARGIN;
        // Every word about a window comes a little late, and says it as much too long.
        if needed <= incarnation.lasts_until.saturating_sub(WALLTIME_MARGIN / 2) {
            return Ok(());
        }
        let (site, left) =
            (self.settings.name.clone(), |time: Duration| time.saturating_sub(self.now).as_secs());
        let what = "seconds more to sandboxes whose batch job is submitted, its margins included".into();
        let (asked, max) = (left(needed + WALLTIME_MARGIN / 2), left(incarnation.lasts_until));
        Err(Refusal::OverQueueLimit { site, what, asked, max })
    }

    /// Everything of queue, nodes and accounts whose time has come.
    pub(super) fn look_at_queue(&mut self) {
        let now = self.now;
        if self.queue.probe(now) {
            self.actions.push(Action::Probe);
            self.offer_changed = true;
        }
        let full = self.full.len();
        self.full.retain(|_, (until, _)| now < *until);
        if !self.accounts.back(now).is_empty() || self.full.len() < full {
            self.freed = true;
            self.submit_held();
        }
        for node in self.troubles.back(now) {
            self.nodes.let_back(&node);
            self.freed = true;
            self.offer_changed = true;
        }
    }

    pub(super) fn next_look_at_queue(&self) -> Option<Duration> {
        let full = self.full.values().map(|(until, _)| *until).min();
        [self.queue.next_probe(), self.accounts.next(), self.troubles.next(), full]
            .into_iter()
            .flatten()
            .min()
    }

    /// A sandbox stands: nothing is wrong with its node, its account and the queue.
    pub(super) fn worked(&mut self, id: PilotId) {
        let uid = self.incarnation(id).map(|incarnation| incarnation.account.uid);
        if let Some(node) = self.known_node(id) {
            if self.troubles.of(&node).is_some() {
                self.nodes.let_back(&node);
                (self.freed, self.offer_changed) = (true, true);
            }
            self.troubles.works(&node);
        }
        uid.into_iter().for_each(|uid| self.accounts.works(&uid));
        self.queue.works();
    }

    /// A pilot came to nothing on its node, before its sandbox stood.
    pub(super) fn node_failed(&mut self, id: PilotId, cause: &Text) {
        let Some(node) = self.known_node(id) else { return };
        if self.troubles.failed(self.now, &node, id.reservation, cause) {
            let why = self.troubles.of(&node).unwrap_or_default();
            self.nodes.keep_away(&node, why);
            self.offer_changed = true;
        }
    }

    /// The node that a pilot is on, where that is known from those who run the node.
    fn known_node(&self, id: PilotId) -> Option<NodeName> {
        let pilot = self.pilot(id)?;
        if self.settings.anonymous { pilot.at.clone() } else { Some(pilot.node.clone()) }
    }

    /// Machines of a queue that pilots must not come to.
    pub(super) fn excluded(&self) -> Vec<NodeName> {
        if !self.settings.anonymous {
            return Vec::new();
        }
        let kept_away = self.troubles.away().map(|(node, _)| node);
        self.nodes.soiled().chain(kept_away).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// How long before a window its pilots may be submitted.
    pub(super) fn lead(&self) -> Duration {
        self.settings.lead.max(self.lead_of_batch)
    }

    /// When the batch system may start the pilots of a window that begins at `start`.
    pub(super) fn runs_from(&self, start: Duration) -> Duration {
        start.saturating_sub(self.settings.early.unwrap_or(self.lead()))
    }

    /// Why a part does not begin although its time has come: the queue is paused.
    pub(super) fn paused_failure(&self, reservation: ReservationId, why: &Text) -> Failure {
        let waited = self.settings.times.pilots.as_secs();
        let cause = format!("its batch queue was paused for {waited} s: {why}");
        let hint =
            format!("`gridpilot sites` shows when it is back; `gridpilot explain {reservation}` says more");
        Failure::new(Step::Pilots, cause, hint)
    }
}
