//! From granted to over: the arrows of [`crate::reservation`] carried out, and what happens when a
//! deadline passes.

use std::time::Duration;

use protocol::ids::ReservationId;
use protocol::job::JobState;
use protocol::names::{SiteName, Text};
use protocol::refusal::{Failure, Step};
use protocol::site::ToSite;

use super::event::Due;
use super::{Action, Coordinator};
use crate::exchange;
use crate::job::Happening as JobHappening;
use crate::reservation::{Happening, Order, PartStage, PartState, Phase, Reservation};

impl Coordinator {
    /// One arrow of the machine and its orders. What comes late has no arrow and changes nothing.
    pub(super) fn advance(&mut self, id: ReservationId, happening: Happening) {
        let now = self.now;
        let deadlines = self.settings.deadlines;
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let Ok((next, orders)) = reservation.phase.step(happening) else { return };
        if next != reservation.phase {
            // Old timers go at once: a deadline of days would outlive thousands of short jobs.
            let old = [reservation.deadline, reservation.ends.filter(|_| next == Phase::Over)];
            for at in old.into_iter().flatten() {
                self.timers.remove(&(at, Due::Reservation(id)));
            }
            reservation.phase = next;
            reservation.deadline = match next {
                Phase::Waiting => Some(reservation.made + deadlines.waiting),
                Phase::Holding => Some(now + deadlines.holding),
                Phase::Starting => Some(now + deadlines.starting),
                Phase::Joining => Some(now + deadlines.joining),
                Phase::Ending => Some(now + deadlines.ending),
                Phase::Ready | Phase::Over => None,
            };
            if next == Phase::Starting {
                reservation.ends = Some(now + Duration::from_secs(reservation.ask.duration_s.into()));
            }
            let timers = [reservation.deadline, reservation.ends.filter(|_| next < Phase::Ending)];
            for at in timers.into_iter().flatten() {
                self.set_timer(at, Due::Reservation(id));
            }
            set_member(&mut self.waiting, id, next == Phase::Waiting);
            set_member(&mut self.holding, id, next == Phase::Holding);
        }
        for order in orders {
            match order {
                Order::Hold => self.hold(id),
                Order::Release => self.release_holds(id),
                Order::Commit => self.commit(id),
                Order::Join => self.join(id),
                Order::StartJobs => self.start_jobs(id),
                Order::End => self.end_parts(id),
                Order::Conclude => self.conclude(id),
            }
        }
        self.watchers.reservation_changed(id);
    }

    /// The one way down: release, cancel, failure, loss, end of time. Its jobs get `jobs_as`.
    /// Repeatable; the first reason stays.
    pub(super) fn finish(&mut self, id: ReservationId, failure: Option<Failure>, jobs_as: JobState) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        if reservation.phase >= Phase::Ending {
            return;
        }
        if let Some(failure) = &failure {
            self.out.push(Action::Report { reservation: id, what: format!("failed: {failure}").into() });
        }
        reservation.failure = failure;
        let jobs: Vec<_> = reservation.jobs.iter().copied().collect();
        self.advance(id, Happening::EndWanted);
        for job in jobs {
            if let Some(job) = self.jobs.get_mut(&job) {
                job.stopping_as.get_or_insert_with(|| jobs_as.clone());
            }
            self.advance_job(job, JobHappening::Lost);
        }
    }

    pub(super) fn fail(&mut self, id: ReservationId, failure: Failure) {
        self.finish(id, Some(failure.clone()), JobState::Failed(failure));
    }

    /// All sites are ready: one ring out of all reports, the same for every site.
    fn join(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        let reports: Vec<_> =
            reservation.parts.iter().map(|part| (&part.site, part.ready.as_slice())).collect();
        match exchange::merge(&reservation.user, reservation.ask.slots, &reports) {
            Ok(ring) => {
                let epoch = reservation.epoch;
                for site in sites_of(reservation) {
                    self.send(&site, ToSite::Join { reservation: id, epoch, ring: ring.clone() });
                }
            }
            Err((site, error)) => self.fail(id, exchange_failure(&site, &error)),
        }
    }

    fn start_jobs(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        let jobs: Vec<_> = reservation.jobs.iter().copied().collect();
        for job in jobs {
            self.advance_job(job, JobHappening::Start);
        }
    }

    fn end_parts(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        let epoch = reservation.epoch;
        let open = reservation.parts.iter().filter(|part| part.stage < PartStage::Ended);
        let sites: Vec<SiteName> = open.map(|part| part.site.clone()).collect();
        for site in &sites {
            self.send(site, ToSite::End { reservation: id, epoch });
        }
        if sites.is_empty() {
            self.advance(id, Happening::AllEnded);
        }
    }

    /// A part is over, one way or the other; its addresses were dealt with.
    pub(super) fn part_ended(&mut self, id: ReservationId, site: &SiteName) {
        if let Some(site) = self.sites.get_mut(site) {
            site.reservations.remove(&id);
        }
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        if let Some(part) = reservation.part_mut(site) {
            part.stage = PartStage::Ended;
        }
        if reservation.all_parts(PartStage::Ended) {
            self.advance(id, Happening::AllEnded);
        }
        self.replan = true;
    }

    fn conclude(&mut self, id: ReservationId) {
        let now = self.now;
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        reservation.ended = Some(now);
        let user = reservation.user.clone();
        if let Some(forgotten) = self.user(&user).reservations.end(id) {
            self.reservations.remove(&forgotten);
        }
    }

    pub(super) fn reservation_due(&mut self, id: ReservationId) {
        let now = self.now;
        let Some(reservation) = self.reservations.get(&id) else { return };
        if reservation.deadline.is_some_and(|at| at <= now) {
            let failure = overdue(reservation);
            match reservation.phase {
                Phase::Ending => self.give_up_ending(id, failure),
                _ => self.fail(id, failure),
            }
        } else if reservation.ends.is_some_and(|at| at <= now) && reservation.phase < Phase::Ending {
            let spent = Failure::new(
                Step::Running,
                format!("its time of {} s is over", reservation.ask.duration_s),
                "ask for more with --time",
            );
            self.finish(id, None, JobState::Failed(spent));
        }
    }

    /// A site does not confirm: its addresses stay taken until it does or is lost.
    fn give_up_ending(&mut self, id: ReservationId, failure: Failure) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        self.out.push(Action::Report { reservation: id, what: failure.to_string().into() });
        reservation.failure.get_or_insert(failure);
        let epoch = reservation.epoch;
        let late: Vec<PartState> =
            reservation.parts.iter().filter(|part| part.stage < PartStage::Ended).cloned().collect();
        for part in late {
            self.book.owe((id, epoch, part.site.clone()), part.carve);
            self.part_ended(id, &part.site);
        }
    }
}

fn set_member(set: &mut std::collections::BTreeSet<ReservationId>, id: ReservationId, member: bool) {
    if member {
        set.insert(id);
    } else {
        set.remove(&id);
    }
}

pub(super) fn sites_of(reservation: &Reservation) -> Vec<SiteName> {
    reservation.parts.iter().map(|part| part.site.clone()).collect()
}

pub(super) fn exchange_failure(site: &SiteName, error: &exchange::ExchangeError) -> Failure {
    let hint = "tell the site's administrator; `gridpilot explain` shows it again";
    Failure::new(Step::GetKeys, format!("the site {error}"), hint).at_site(site)
}

/// What step a reservation is at, for failures that name it.
pub(super) fn step_of(phase: Phase) -> Step {
    match phase {
        Phase::Waiting => Step::Plan,
        Phase::Holding => Step::Hold,
        Phase::Starting => Step::Pilots,
        Phase::Joining => Step::SetKeys,
        Phase::Ready => Step::Running,
        Phase::Ending | Phase::Over => Step::End,
    }
}

/// The failure of a phase whose deadline passed: names the first site that is behind.
fn overdue(reservation: &Reservation) -> Failure {
    let stage = match reservation.phase {
        Phase::Waiting | Phase::Holding => PartStage::Held,
        Phase::Starting => PartStage::Ready,
        Phase::Joining | Phase::Ready => PartStage::Joined,
        Phase::Ending | Phase::Over => PartStage::Ended,
    };
    let late = reservation.laggard(stage);
    let progress = late.map(|part| part.progress).unwrap_or_default();
    let wanted = late.map_or(0, |part| part.members);
    let (cause, hint): (Text, &str) = match reservation.phase {
        Phase::Waiting => ("the nodes did not become free".into(), "ask for fewer nodes or other sites"),
        Phase::Holding => ("no answer in time".into(), "try again; `gridpilot sites` shows the site"),
        Phase::Starting => (
            format!(
                "in time came {} of {wanted} pilots, {} sandboxes stand",
                progress.arrived.min(wanted),
                progress.built.min(wanted)
            )
            .into(),
            "the site's batch queue may be full; try again or choose another site",
        ),
        Phase::Joining | Phase::Ready => (
            format!("in time {} of {wanted} members had joined", progress.joined.min(wanted)).into(),
            "try again; the site's log says more",
        ),
        Phase::Ending | Phase::Over => (
            "the site did not confirm in time that everything is gone".into(),
            "its addresses stay unused until it does; tell its administrator",
        ),
    };
    let failure = Failure::new(step_of(reservation.phase), cause, hint);
    match late {
        Some(part) => failure.at_site(&part.site),
        None => failure,
    }
}
