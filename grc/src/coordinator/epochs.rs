//! Incarnations of a granted reservation: sandboxes stand, keys are exchanged, and when they are
//! lost while the grant stands, the next epoch begins them anew.

use std::time::Duration;

use protocol::ids::{Epoch, ReservationId};
use protocol::job::JobState;
use protocol::names::SiteName;
use protocol::planted::{Bug, planted};
use protocol::refusal::Failure;
use protocol::reservation::Progress;
use protocol::site::{ReadyMember, ToSite};

use super::Coordinator;
use super::event::Due;
use super::life::exchange_failure;
use crate::exchange::{self, ExchangeError};
use crate::job::{Happening as JobHappening, Stage};
use crate::record::InRing;
use crate::reservation::{Happening, PartStage, PartState, Phase};

/// Pause before the next incarnation, doubled with each that fails in a row.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LAST: Duration = Duration::from_secs(60);

impl Coordinator {
    /// Whether a site may speak of this incarnation: it has a part in it that is not over, and the
    /// incarnation has not failed.
    pub(super) fn current(&self, site: &SiteName, id: ReservationId, epoch: Epoch) -> bool {
        self.reservations.get(&id).is_some_and(|reservation| {
            reservation.epoch == epoch
                && reservation.phase.is_granted()
                && reservation.troubles.next_try.is_none()
                && reservation.part(site).is_some_and(|part| part.stage < PartStage::Ended)
        })
    }

    /// A site is ahead of our clock: its first pilots come in.
    fn has_begun(&mut self, id: ReservationId) {
        if self.reservations.get(&id).is_some_and(|reservation| reservation.phase == Phase::Booked) {
            self.advance(id, Happening::Near);
        }
    }

    pub(super) fn progress(&mut self, site: &SiteName, id: ReservationId, progress: Progress) {
        self.has_begun(id);
        if let Some(part) = self.reservations.get_mut(&id).and_then(|r| r.part_mut(site)) {
            part.progress = Progress { wanted: part.members, ..progress };
            if progress.submitted > 0 {
                part.again = None;
            }
            self.watchers.reservation_changed(id);
        }
    }

    pub(super) fn site_ready(&mut self, site: &SiteName, id: ReservationId, members: Vec<ReadyMember>) {
        self.has_begun(id);
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let sent = reservation.ring.iter().find(|sent| sent.site == *site).map(|sent| sent.digest);
        let Some(part) = reservation.part_mut(site) else { return };
        let error = match exchange::check(part.members, &part.carve, members) {
            Ok(ready) if sent.is_some_and(|sent| sent != exchange::digest(&ready)) => {
                Some(ExchangeError::Changed)
            }
            // What was ready before a restart of ours is told again: only then is it not known.
            Ok(ready) if part.ready.is_empty() => {
                part.stage = part.stage.max(PartStage::Ready);
                part.progress.built = part.members;
                part.progress.arrived = part.members;
                part.progress.submitted = part.members;
                part.ready = ready;
                part.all_came();
                None
            }
            Ok(again) => (again != part.ready).then_some(ExchangeError::Changed),
            Err(error) => Some(error),
        };
        let resized = reservation.resized;
        self.watchers.reservation_changed(id);
        if let Some(error) = error.as_ref().filter(|_| resized) {
            // Not a lie: these sandboxes were begun before their number was changed.
            self.lose_incarnation(id, exchange_failure(site, error));
        } else if let Some(error) = error {
            self.fail(id, exchange_failure(site, &error));
        } else if self.reservations.get(&id).is_some_and(|r| r.all_parts(PartStage::Ready)) {
            self.advance(id, Happening::AllReady);
        } else {
            self.hasten(id);
        }
    }

    /// All sites are ready: one ring out of all reports, the same for every site.
    pub(super) fn join(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        let in_ring = |part: &PartState| InRing {
            site: part.site.clone(),
            round: part.round,
            digest: exchange::digest(&part.ready),
        };
        let ring: Vec<InRing> = reservation.parts.iter().map(in_ring).collect();
        let sites: Vec<SiteName> = ring.iter().map(|sent| sent.site.clone()).collect();
        // Durable before anybody has the ring: a restart must not send another one of this epoch, nor
        // take other members for those that are in it.
        if reservation.ring != ring {
            if let Some(reservation) = self.reservations.get_mut(&id) {
                reservation.ring = ring;
            }
            self.save(id);
        }
        for site in &sites {
            self.join_site(id, site);
        }
    }

    /// The key ring to one site; may be repeated.
    pub(super) fn join_site(&mut self, id: ReservationId, site: &SiteName) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        let reports: Vec<_> =
            reservation.parts.iter().map(|part| (&part.site, part.ready.as_slice())).collect();
        match exchange::merge(&reservation.user, reservation.ask.slots, &reports) {
            Ok(ring) => {
                let epoch = reservation.epoch;
                self.send(site, ToSite::Join { reservation: id, epoch, ring });
            }
            Err((site, error)) => self.fail(id, exchange_failure(&site, &error)),
        }
    }

    pub(super) fn joined(&mut self, site: &SiteName, id: ReservationId) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        if reservation.phase != Phase::Joining {
            return;
        }
        if let Some(part) = reservation.part_mut(site) {
            part.stage = PartStage::Joined;
            part.progress.joined = part.members;
        }
        let all = reservation.all_parts(PartStage::Joined);
        self.watchers.reservation_changed(id);
        if all {
            self.advance(id, Happening::AllJoined);
        }
    }

    /// Everybody answers: remembered, so that a restart of ours finds it ready.
    pub(super) fn all_joined(&mut self, id: ReservationId) {
        if let Some(reservation) = self.reservations.get_mut(&id) {
            reservation.was_ready = true;
            reservation.troubles.last = None;
        }
        self.save(id);
        self.start_jobs(id);
    }

    /// Whether commands may start now: everybody answers, and the window has begun.
    pub(super) fn takes_commands(&self, id: ReservationId) -> bool {
        self.reservations.get(&id).is_some_and(|reservation| {
            reservation.phase == Phase::Ready && reservation.window().is_some_and(|w| w.start <= self.now)
        })
    }

    pub(super) fn start_jobs(&mut self, id: ReservationId) {
        if !self.takes_commands(id) {
            return;
        }
        let Some(reservation) = self.reservations.get(&id) else { return };
        for job in reservation.jobs.iter().copied().collect::<Vec<_>>() {
            self.advance_job(job, JobHappening::Start);
        }
    }

    /// An incarnation cannot go on. What was made for one job ends with it; what stands begins
    /// anew.
    pub(super) fn broken(&mut self, id: ReservationId, failure: Failure) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        match reservation.own_job {
            Some(_) => self.fail(id, failure),
            None => self.lose_incarnation(id, failure),
        }
    }

    /// The sandboxes of this epoch are given up, and what ran in them; the grant stands.
    pub(super) fn lose_incarnation(&mut self, id: ReservationId, failure: Failure) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        reservation.troubles.last = Some(failure.clone());
        reservation.was_ready = false;
        let jobs: Vec<_> = reservation.jobs.iter().copied().collect();
        for job in jobs {
            let Some(job) = self.jobs.get_mut(&job).filter(|job| job.stage != Stage::Waiting) else {
                continue;
            };
            job.stopping_as.get_or_insert_with(|| JobState::Failed(failure.clone()));
            let job = job.id;
            self.advance_job(job, JobHappening::Lost);
        }
        self.forget_kills(id);
        self.advance(id, Happening::Broken);
    }

    pub(super) fn pause_before_anew(&mut self, id: ReservationId) {
        let now = self.now;
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let pause = PAUSE_FIRST * 2u32.saturating_pow(reservation.troubles.count.min(16));
        let next = now + pause.min(PAUSE_LAST);
        reservation.troubles.count += 1;
        reservation.troubles.next_try = Some(next);
        let start = reservation.window().map_or(next, |window| window.start);
        for part in &mut reservation.parts {
            part.begin_anew();
        }
        let barrier =
            self.reservations.get(&id).map(|reservation| self.barrier(reservation, start.max(next)));
        if let Some(reservation) = self.reservations.get_mut(&id) {
            reservation.deadline = barrier;
        }
        self.save(id);
        self.set_timer(next, Due::BeginAnew(id));
    }

    /// The next epoch is durable before anybody hears of it.
    pub(super) fn begin_anew_due(&mut self, id: ReservationId) {
        let now = self.now;
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        if !reservation.phase.is_granted() || reservation.troubles.next_try.is_none_or(|at| at > now) {
            return;
        }
        reservation.troubles.next_try = None;
        reservation.epoch = Epoch(reservation.epoch.0 + 1);
        reservation.ring.clear();
        reservation.resized = false;
        let sites: Vec<SiteName> = reservation.parts.iter().map(|part| part.site.clone()).collect();
        if planted(Bug::EpochNotRecorded) {
            self.say_start_to(id, &sites);
        } else {
            self.save(id);
            self.say_start_to(id, &sites);
        }
        self.resend_soon(id);
        self.set_alarm(id);
        self.watchers.reservation_changed(id);
    }

    fn say_start_to(&mut self, id: ReservationId, sites: &[SiteName]) {
        for site in sites {
            self.start(id, site);
        }
    }

    /// This incarnation shall be on: an order for the next one, else the question how it stands.
    /// A site that has not acknowledged the grant is told of that first.
    pub(super) fn start(&mut self, id: ReservationId, site: &SiteName) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        if reservation.part(site).is_none_or(|part| !part.acknowledged) {
            return;
        }
        let Some(grant) = &reservation.grant else { return };
        let (epoch, window) = (reservation.epoch, grant.window.remaining(self.now));
        self.send(site, ToSite::Start { reservation: id, epoch, window });
    }
}
