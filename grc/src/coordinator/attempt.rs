//! From waiting to granted, and from one grant to the next: planning, the holds, the decision.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::client::Reply;
use protocol::ids::{RequestId, ReservationId, Version};
use protocol::job::JobState;
use protocol::names::{SiteName, Text};
use protocol::planted::{Bug, planted};
use protocol::refusal::{Failure, Refusal, Step};
use protocol::reservation::{Ask, PairRate, Placement};
use protocol::site::{Part, Peer, ToSite};

use super::event::Due;
use super::room::{Found, Short, Wish};
use super::{Action, Coordinator, Record};
use crate::coallocate::Coallocation;
use crate::plan::nodes::{Capacity, Sites};
use crate::record::Key;
use crate::reservation::{
    Attempt, Grant, Happening, PartStage, PartState, Phase, Reservation, Share, Why, Window,
};

/// Pause after an attempt that came to nothing, doubled with each one in a row.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(30);
/// The same, when a site did not even answer.
const SILENT_FIRST: Duration = Duration::from_secs(5);

/// Requests that changed one reservation and are remembered.
const CHANGES_MAX: usize = 256;

/// The seconds in which something may begin, both included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub earliest_s: u64,
    pub latest_s: u64,
}

/// What an attempt will ask for.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub window: Window,
    pub shares: Vec<Share>,
    pub rates: Vec<PairRate>,
}

impl Coordinator {
    /// What the sites that are connected have.
    pub(super) fn capacities(&self) -> Sites {
        let capacity = |name: &SiteName| {
            let site = &self.sites[name];
            site.connection.and(site.offer.as_ref()).map(|offer| Capacity {
                usable: offer.nodes_usable,
                free: offer.nodes_usable,
                environments: offer.environments.clone(),
                nodes_max: offer.nodes_max,
                lasts_s_max: offer.lasts_s_max,
                lead_s: offer.lead_s,
                paused: offer.paused.clone(),
            })
        };
        self.sites.keys().map(|name| (name.clone(), capacity(name))).collect()
    }

    /// The earliest start in the span at which everything is free, whoever asks. A free choice puts at
    /// most so many members at the sites named in `most`.
    pub(super) fn plan_free(
        &mut self,
        ask: &Ask,
        span: Span,
        most: &BTreeMap<SiteName, u32>,
    ) -> Result<Planned, Short> {
        let mut sites = self.capacities();
        if matches!(ask.placement, Placement::Anywhere(_)) {
            // Somebody who did not answer is not chosen while others can be.
            let silent =
                |name: &SiteName| self.sites[name].silent_until.is_some_and(|until| until > self.now);
            sites.iter_mut().filter(|(name, _)| silent(name)).for_each(|(_, capacity)| *capacity = None);
        }
        let Span { earliest_s, latest_s } = span;
        let wish = Wish { ask, sites: &sites, most, now: self.now, earliest_s, latest_s };
        let Found { start_s, shares, rates, lead } = self.room.plan(wish, self.network.as_ref())?;
        // Seconds are whole in the book only: what begins now begins at once.
        let start = Duration::from_secs(start_s).max(self.now);
        // Nothing can stand before now: somebody else may have had its addresses until then.
        let lead = lead.min(start - self.now);
        let end = start + Duration::from_secs(ask.duration_s.into());
        let window = Window { start, end, lead, until: end };
        Ok(Planned { window, shares, rates })
    }

    /// Tries every waiting reservation once, oldest first; a later one may pass an earlier one
    /// that does not fit yet.
    pub(super) fn plan_waiting(&mut self) {
        let now_s = self.now.as_secs();
        for id in self.waiting.iter().copied().collect::<Vec<_>>() {
            let Some(reservation) = self.reservations.get(&id) else { continue };
            if reservation.not_before > self.now {
                continue;
            }
            let (user, ask) = (reservation.user.clone(), reservation.ask.clone());
            let planned = self.plan(&user, &ask, Span { earliest_s: now_s, latest_s: now_s });
            match planned.and_then(|planned| Ok(self.begin(id, planned, None)?)) {
                Ok(()) => {}
                Err(Short { refusal, next_s }) => {
                    let now = self.now;
                    if let Some(reservation) = self.reservations.get_mut(&id) {
                        reservation.waits_for = Some((Why::Refused(refusal), now));
                        reservation.expected = next_s.map(Duration::from_secs);
                    }
                    self.watchers.reservation_changed(id);
                }
            }
        }
        self.set_plan_timer();
    }

    /// When the first that waits can be tried again by the clock alone.
    fn set_plan_timer(&mut self) {
        let waiting = self.waiting.iter().filter_map(|id| self.reservations.get(id));
        let next = waiting.flat_map(|r| [Some(r.not_before), r.expected]).flatten();
        let next = next.filter(|at| *at > self.now).min();
        if let Some(old) = std::mem::replace(&mut self.plan_at, next) {
            self.timers.remove(&(old, Due::Plan));
        }
        if let Some(at) = next {
            self.set_timer(at, Due::Plan);
        }
    }

    /// Begins an attempt: for the first grant of a reservation that waits, or for a change.
    ///
    /// # Errors
    /// What was planned is somebody else's by now; nothing was begun.
    pub(super) fn begin(
        &mut self,
        id: ReservationId,
        planned: Planned,
        request: Option<RequestId>,
    ) -> Result<(), Refusal> {
        let deadline = self.now + self.settings.deadlines.holding;
        let Planned { window, shares, rates } = planned;
        let taken_by = || Refusal::WrongState {
            what: "the reservation".into(),
            state: "what was planned for it was taken meanwhile; ask again".into(),
        };
        let Some(reservation) = self.reservations.get_mut(&id) else { return Err(taken_by()) };
        let first = reservation.phase == Phase::Waiting;
        let taken = match first {
            true => self.room.take(id, window, &shares),
            false => self.room.take_beside(id, window, &shares),
        };
        debug_assert!(taken || planted(Bug::CarvePerSite), "planned and taken in one step");
        if !taken {
            return Err(taken_by());
        }
        reservation.version = Version(reservation.version.0 + 1);
        let version = reservation.version;
        let sites: Vec<SiteName> = shares.iter().map(|share| share.site.clone()).collect();
        if first {
            reservation.parts = shares.iter().map(|share| PartState::new(share, PartStage::Asked)).collect();
            reservation.deadline = Some(deadline);
        }
        let all = Coallocation::begin(sites.clone());
        let operator = None;
        reservation.attempt =
            Some(Attempt { version, window, shares, rates, all, deadline, request, operator });
        for site in &sites {
            if let Some(site) = self.sites.get_mut(site) {
                site.reservations.insert(id);
            }
        }
        self.set_timer(deadline, Due::Attempt(id));
        if first {
            self.advance(id, Happening::Planned);
        }
        if !planted(Bug::BeginNotRecorded) {
            self.save(id);
        }
        for site in &sites {
            self.hold(id, site);
        }
        self.resend_soon(id);
        self.watchers.reservation_changed(id);
        Ok(())
    }

    /// Asks one site to hold; may be repeated.
    pub(super) fn hold(&mut self, id: ReservationId, site: &SiteName) {
        let now = self.now;
        let Some(reservation) = self.reservations.get(&id) else { return };
        let Some(attempt) = reservation.attempt.as_ref().filter(|a| a.all.waits_for(site)) else { return };
        let Some(share) = attempt.share(site) else { return };
        // A newer hold takes the place of one that was not committed: a site that has only voted for
        // the grant is told of that first, and asked when it has acknowledged.
        let voted = |part: &PartState| reservation.grant.is_some() && !part.acknowledged;
        if reservation.part(site).is_some_and(voted) {
            return;
        }
        let part = part_of(reservation, attempt, share, now);
        self.send(site, ToSite::Hold { reservation: id, version: attempt.version, part });
    }

    pub(super) fn held(&mut self, site: &SiteName, id: ReservationId, version: Version) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let Some(attempt) = reservation.attempt.as_mut() else { return };
        if attempt.version != version && !planted(Bug::StaleHeldCounts) {
            return;
        }
        let complete = attempt.all.held(site);
        if reservation.phase == Phase::Holding
            && let Some(part) = reservation.part_mut(site)
        {
            part.stage = part.stage.max(PartStage::Held);
        }
        self.watchers.reservation_changed(id);
        if complete {
            self.reserve_network(id);
        }
    }

    pub(super) fn hold_refused(
        &mut self,
        site: &SiteName,
        id: ReservationId,
        version: Version,
        refusal: Refusal,
    ) {
        let attempt = self.reservations.get(&id).and_then(|reservation| reservation.attempt.as_ref());
        // Only while its answer is waited for: a site cannot take back what it held.
        if attempt.is_some_and(|a| a.version == version && a.all.waits_for(site)) {
            self.abort(id, Why::Refused(refusal));
        }
    }

    /// Everybody holds: from here on it is granted, and nothing but its end takes it away.
    pub(super) fn decide(&mut self, id: ReservationId) {
        let now = self.now;
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let Some(attempt) = reservation.attempt.as_mut() else { return };
        if attempt.window.end <= now {
            let why = "it would be over before everybody holds it".into();
            return self.abort(id, Why::Refused(Refusal::BadWindow { why }));
        }
        if !attempt.all.network_held() {
            return;
        }
        let Some(attempt) = reservation.attempt.take() else { return };
        let Attempt { version, window, shares, rates, request, operator, .. } = attempt;
        if let Some(operator) = operator {
            let what: Text = format!("operator {operator} changed it").into();
            self.out.push(Action::Report { reservation: id, what: what.clone() });
            reservation.remark(what);
        }
        reservation.grant = Some(Grant { version, window, rates });
        if let Some(request) = request.filter(|_| reservation.phase != Phase::Holding) {
            reservation.changes.push((request, version));
            if reservation.changes.len() > CHANGES_MAX {
                let (forgotten, _) = reservation.changes.remove(0);
                self.users.get_mut(&reservation.user).map(|user| user.made.remove(&forgotten));
            }
        }
        for share in &shares {
            let same = |part: &PartState| part.members == share.members && part.carve == share.carve;
            reservation.resized |= !reservation.part(&share.site).is_some_and(same);
            if let Some(part) = reservation.part_mut(&share.site) {
                (part.members, part.layer, part.carve) = (share.members, share.layer, share.carve.clone());
                part.progress.wanted = share.members;
                part.acknowledged = false;
            }
        }
        (reservation.waits_for, reservation.expected, reservation.put_off) = (None, None, 0);
        let user = reservation.user.clone();
        let first = reservation.phase == Phase::Holding;
        let parts: Vec<String> = shares.iter().map(|s| format!("{}={}", s.site, s.members)).collect();
        let what = format!("version {} granted to {user}: {}", version.0, parts.join(",")).into();
        self.room.settle(id);
        if planted(Bug::CommitBeforeRecord) {
            self.commit_all(id);
        }
        if first {
            self.advance(id, Happening::Granted);
            self.announce(id);
        }
        self.save(id);
        self.commit_network(id);
        if let Some(request) = request {
            let reply = if first { self.made(id) } else { Reply::Modified { reservation: id, version } };
            self.settle(&user, request, reply);
        }
        self.out.push(Action::Report { reservation: id, what });
        self.commit_all(id);
        self.resend_soon(id);
        self.set_alarm(id);
        self.watchers.reservation_changed(id);
        self.replan = true;
    }

    fn commit_all(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        let sites: Vec<SiteName> = reservation.parts.iter().map(|part| part.site.clone()).collect();
        for site in &sites {
            self.commit(id, site);
        }
    }

    /// Tells one site that its hold is the grant; may be repeated.
    pub(super) fn commit(&mut self, id: ReservationId, site: &SiteName) {
        let Some(grant) = self.reservations.get(&id).and_then(|r| r.grant.as_ref()) else { return };
        let (version, window) = (grant.version, grant.window.remaining(self.now));
        self.send(site, ToSite::Commit { reservation: id, version, window });
    }

    /// Somebody refused or did not answer: everything is as before the attempt, and its user is
    /// told, or it waits for another.
    pub(super) fn abort(&mut self, id: ReservationId, why: Why) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let Some(attempt) = reservation.attempt.as_mut() else { return };
        if !attempt.all.abort() {
            return;
        }
        let (request, user) = (attempt.request, reservation.user.clone());
        let first = reservation.phase == Phase::Holding;
        match (request, first) {
            (Some(request), true) => {
                self.release_attempt(id);
                self.forget_refused(id);
                self.settle(&user, request, reply_of(why));
            }
            (Some(request), false) => {
                self.release_attempt(id);
                self.save(id);
                self.settle(&user, request, reply_of(why));
            }
            (None, _) if may_be_tried_again(&why) => {
                let first = if matches!(why, Why::Failed(_)) { SILENT_FIRST } else { RETRY_FIRST };
                let pause = first * 2u32.saturating_pow(reservation.put_off.min(16));
                reservation.put_off += 1;
                let not_before = self.now + pause.min(RETRY_LAST);
                reservation.not_before = not_before;
                reservation.waits_for = Some((why, self.now));
                self.advance(id, Happening::TurnedDown);
            }
            (None, _) => {
                let failure = match why {
                    Why::Failed(failure) => failure,
                    Why::Refused(refusal) => {
                        let hint = "ask differently, or tell the site's administrator";
                        Failure::new(Step::Hold, refusal.to_string(), hint)
                    }
                };
                self.finish(id, Some(failure.clone()), JobState::Failed(failure));
            }
        }
    }

    /// What sites and links hold for the attempt is given back. Nothing was started in it, so
    /// that addresses are free at once: what a site is told next comes after the release.
    pub(super) fn release_attempt(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let Some(attempt) = reservation.attempt.take() else { return };
        let first = reservation.grant.is_none();
        if first {
            reservation.parts.clear();
        }
        let version = attempt.version;
        self.timers.remove(&(attempt.deadline, Due::Attempt(id)));
        self.abort_network(id, &attempt);
        match first {
            true => self.room.cancel(id, &attempt.shares),
            false => self.room.abort_change(id),
        }
        for site in attempt.all.sites() {
            if first && let Some(site) = self.sites.get_mut(site) {
                site.reservations.remove(&id);
            }
            self.send(site, ToSite::Release { reservation: id, version });
        }
        self.watchers.reservation_changed(id);
        self.replan = true;
    }

    /// Nothing remains of a reservation whose user was refused.
    pub(super) fn forget_refused(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.remove(&id) else { return };
        self.waiting.remove(&id);
        self.timers.retain(|(_, due)| *due != Due::Reservation(id) && *due != Due::Resend(id));
        self.out.push(Action::Record(Record::Forget(Key::Reservation(id))));
        let user = self.user(&reservation.user);
        user.reservations.forget(id);
        user.live.remove(&id);
        for job in reservation.jobs {
            self.forget_job(job);
        }
    }

    pub(super) fn attempt_due(&mut self, id: ReservationId) {
        let now = self.now;
        let attempt = self.reservations.get(&id).and_then(|reservation| reservation.attempt.as_ref());
        let Some(attempt) = attempt.filter(|attempt| attempt.deadline <= now) else { return };
        let late: Option<SiteName> = attempt.all.unanswered().next().cloned();
        let seconds = self.settings.deadlines.holding.as_secs();
        let failure = Failure::new(
            Step::Hold,
            format!("no answer in {seconds} s"),
            "nothing is held anywhere; try again, or without this site",
        );
        let failure = match &late {
            Some(site) => failure.at_site(site),
            None => failure,
        };
        if let Some(site) = late.and_then(|site| self.sites.get_mut(&site)) {
            site.silent_until = Some(now + RETRY_LAST);
        }
        self.abort(id, Why::Failed(failure));
    }
}

/// Refusals that waiting may heal.
fn may_be_tried_again(why: &Why) -> bool {
    match why {
        Why::Failed(_) => true,
        Why::Refused(refusal) => matches!(
            refusal,
            Refusal::NodesBusy { .. }
                | Refusal::AddressesExhausted { .. }
                | Refusal::MoreNodesThanExist { .. }
                | Refusal::NoRoom { .. }
                | Refusal::SiteDown { .. }
                | Refusal::QueuePaused { .. }
                | Refusal::TooMany { .. }
                | Refusal::WrongState { .. }
        ),
    }
}

fn reply_of(why: Why) -> Reply {
    match why {
        Why::Refused(refusal) => Reply::Refused(refusal),
        Why::Failed(failure) => Reply::Failed(failure),
    }
}

/// What one site is asked to hold.
fn part_of(reservation: &Reservation, attempt: &Attempt, share: &Share, now: Duration) -> Part {
    let peer = |rate: &PairRate| {
        let other = match () {
            () if rate.a == share.site => &rate.b,
            () if rate.b == share.site => &rate.a,
            () => return None,
        };
        let addresses = attempt.share(other)?.carve.clone();
        Some(Peer { site: other.clone(), rate_kbit: rate.rate_kbit, addresses })
    };
    Part {
        user: reservation.user.clone(),
        members: share.members,
        slots: reservation.ask.slots,
        limits: reservation.ask.limits,
        window: attempt.window.remaining(now),
        layer: share.layer,
        environment: reservation.ask.environment.clone(),
        addresses: share.carve.clone(),
        peers: attempt.rates.iter().filter_map(peer).collect(),
    }
}
