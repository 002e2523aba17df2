//! Waiting for pilots at the first barrier: until when, what sites say of their queues, and sites
//! that released their pilots because others did not come.
//!
//! How long it may take is for the sites to say, whose queues they are: the barrier's deadline is
//! the longest of their waiting times, and what it takes to build a sandbox beyond. A site that
//! withdraws begins anew by itself, in the same epoch, for nobody has seen its sandboxes; the others
//! keep their places. When it is the last that is missing, it is told to begin at once.

use std::time::Duration;

use protocol::ids::ReservationId;
use protocol::names::{SiteName, Text};
use protocol::refusal::{Failure, Step};
use protocol::site::{ToSite, Waits};

use super::{Action, Coordinator};
use crate::reservation::{PartStage, Phase, Reservation, Waiting};

impl Coordinator {
    /// When everybody must be ready, for what begins at `start`. Queues count from when all sites
    /// have acknowledged the grant: nothing is submitted before.
    pub(super) fn barrier(&self, reservation: &Reservation, start: Duration) -> Duration {
        if reservation.parts.iter().any(|part| !part.acknowledged) {
            return start + self.settings.deadlines.starting;
        }
        let offers = reservation.parts.iter().filter_map(|part| self.sites.get(&part.site)?.offer.as_ref());
        let queued = offers.map(|offer| offer.pilots_s).max().unwrap_or(0);
        start + Duration::from_secs(queued.into()) + self.settings.deadlines.starting
    }

    /// All sites have acknowledged: from now on pilots are waited for.
    pub(super) fn all_acknowledged(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        let all = reservation.parts.iter().all(|part| part.acknowledged);
        if !all || reservation.phase != Phase::Starting || reservation.troubles.next_try.is_some() {
            return;
        }
        let start = reservation.window().map_or(self.now, |window| window.start);
        let barrier = self.barrier(reservation, start.max(self.now));
        if let Some(reservation) = self.reservations.get_mut(&id) {
            reservation.deadline = Some(barrier);
        }
        self.set_alarm(id);
        self.watchers.reservation_changed(id);
    }

    /// Whether what a site says is not of an older submission than it spoke of before. A newer one
    /// is not what others may have been told of: then all begin anew.
    pub(super) fn hears_of(&mut self, site: &SiteName, id: ReservationId, round: u32) -> bool {
        let Some(reservation) = self.reservations.get_mut(&id) else { return false };
        let joins = reservation.phase >= Phase::Joining;
        let sent = !reservation.ring.is_empty();
        let pauses = reservation.troubles.next_try.is_some();
        let Some(part) = reservation.part_mut(site) else { return false };
        let was_ready = part.stage >= PartStage::Ready;
        let is_newer = part.round > 0 && round > part.round;
        if !part.hears_of(round) {
            return false;
        }
        if pauses && sent && is_newer {
            return false; // This epoch is given up already.
        }
        if (joins && was_ready || sent) && is_newer {
            let cause = "its pilots were released, and begun again, when all others were ready";
            let failure = Failure::new(Step::Pilots, cause, "they are begun anew").at_site(site);
            self.lose_incarnation(id, failure);
            return false;
        }
        true
    }

    /// What a site's pilots wait for. The site keeps to its own limit: the barrier waits as long.
    pub(super) fn site_waits(&mut self, site: &SiteName, id: ReservationId, waits: Option<Waits>) {
        let now = self.now;
        let building = self.settings.deadlines.starting;
        let queue = self.queue_of(site);
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let waits_for_pilots = matches!(reservation.phase, Phase::Booked | Phase::Starting);
        let Some(part) = reservation.part_mut(site).filter(|_| waits_for_pilots) else { return };
        part.queue = queue;
        part.waiting = waits.map(|waits| Waiting::new(waits, now));
        let until = part.waiting.as_ref().and_then(|waiting| waiting.until).map(|until| until + building);
        // A restart of ours may not know how long queues take.
        if reservation.phase == Phase::Starting && reservation.resumed {
            reservation.deadline = reservation.deadline.max(until);
            self.set_alarm(id);
        }
        self.watchers.reservation_changed(id);
    }

    /// A site has released its pilots, which waited too long for others.
    pub(super) fn withdrawn(&mut self, site: &SiteName, id: ReservationId, why: &Text, again_in_s: u32) {
        let again = self.now + Duration::from_secs(again_in_s.into());
        let queue = self.queue_of(site);
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let what =
            format!("site {site} releases its pilots: {why}; it begins them again in {again_in_s} s").into();
        self.out.push(Action::Report { reservation: id, what });
        let Some(reservation) = Some(reservation).filter(|r| r.phase >= Phase::Starting) else { return };
        let sent = !reservation.ring.is_empty();
        if sent && reservation.troubles.next_try.is_some() {
            return; // This epoch is given up already.
        }
        if reservation.phase > Phase::Starting || sent {
            let failure = Failure::new(Step::Pilots, why.clone(), "they are begun anew").at_site(site);
            return self.lose_incarnation(id, failure);
        }
        if let Some(part) = reservation.part_mut(site) {
            part.begin_anew();
            (part.again, part.queue) = (Some(again), queue);
        }
        self.watchers.reservation_changed(id);
        self.hasten(id);
    }

    /// What users call a site's queue.
    fn queue_of(&self, site: &SiteName) -> Text {
        match self.sites.get(site).and_then(|site| site.offer.as_ref()) {
            Some(offer) if offer.queue.as_str().is_empty() => offer.batch_system.clone(),
            Some(offer) => format!("{}, {}", offer.batch_system, offer.queue).into(),
            None => Text::default(),
        }
    }

    /// Whoever has released his pilots begins them at once, when nobody else is waited for.
    pub(super) fn hasten(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        let missing = || reservation.parts.iter().filter(|part| part.stage < PartStage::Ready);
        if reservation.phase != Phase::Starting || missing().any(|part| part.again.is_none()) {
            return;
        }
        let epoch = reservation.epoch;
        let sites: Vec<SiteName> = missing().map(|part| part.site.clone()).collect();
        for site in &sites {
            self.send(site, ToSite::Hasten { reservation: id, epoch });
        }
    }
}
