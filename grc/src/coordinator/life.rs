//! From granted to over: the arrows of [`crate::reservation`] carried out, and what happens when a
//! deadline passes or a window begins or ends.

use std::time::Duration;

use protocol::ids::ReservationId;
use protocol::job::JobState;
use protocol::names::{SiteName, Text};
use protocol::planted::{Bug, planted};
use protocol::refusal::{Failure, Refusal, Step};
use protocol::site::ToSite;

use super::event::Due;
use super::{Action, Coordinator, Record};
use crate::exchange;
use crate::job::Happening as JobHappening;
use crate::record::Key;
use crate::reservation::{Happening, Order, PartStage, Phase, Reservation};

impl Coordinator {
    /// One arrow of the machine and its orders. What comes late has no arrow and changes nothing.
    pub(super) fn advance(&mut self, id: ReservationId, happening: Happening) {
        let now = self.now;
        let deadlines = self.settings.deadlines;
        let barrier = self.reservations.get(&id).map(|reservation| {
            let start = reservation.window().map_or(now, |window| window.start);
            self.barrier(reservation, start.max(now))
        });
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let Ok((next, orders)) = reservation.phase.step(happening) else { return };
        if next != reservation.phase {
            reservation.phase = next;
            reservation.deadline = match next {
                Phase::Waiting => Some(reservation.made + deadlines.waiting),
                Phase::Holding => reservation.attempt.as_ref().map(|attempt| attempt.deadline),
                Phase::Starting => barrier,
                Phase::Joining => Some(now + deadlines.joining),
                Phase::Ending => Some(now + deadlines.ending),
                Phase::Booked | Phase::Ready | Phase::Over => None,
            };
            if next == Phase::Waiting {
                self.waiting.insert(id);
            } else {
                self.replan |= self.waiting.remove(&id);
            }
        }
        for order in orders {
            match order {
                Order::Release => self.release_attempt(id),
                Order::Join => self.join(id),
                Order::StartJobs => self.all_joined(id),
                Order::BeginAnew => self.pause_before_anew(id),
                Order::End => self.end_parts(id),
                Order::Conclude => self.conclude(id),
            }
        }
        self.resend_soon(id);
        self.set_alarm(id);
        self.watchers.reservation_changed(id);
    }

    /// The next moment at which something is due by the clock alone.
    pub(super) fn set_alarm(&mut self, id: ReservationId) {
        let now = self.now;
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let window = reservation.window();
        let near = window.map(|window| window.near()).filter(|_| reservation.phase == Phase::Booked);
        let start = window.map(|w| w.start).filter(|at| reservation.phase == Phase::Ready && *at > now);
        let end = window.map(|window| window.end).filter(|_| reservation.phase.is_granted());
        let deadline = reservation.deadline.filter(|_| reservation.phase != Phase::Holding);
        let alarm = [near, start, end, deadline].into_iter().flatten().min();
        // The old one goes at once: a deadline of days would outlive thousands of short jobs.
        if let Some(old) = std::mem::replace(&mut reservation.alarm, alarm) {
            self.timers.remove(&(old, Due::Reservation(id)));
        }
        if let Some(at) = alarm {
            self.set_timer(at, Due::Reservation(id));
        }
    }

    pub(super) fn reservation_due(&mut self, id: ReservationId) {
        let now = self.now;
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        reservation.alarm = None;
        let window = reservation.window();
        let passed = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if reservation.phase.is_granted() && passed(window.map(|window| window.end)) {
            self.window_over(id);
        } else if passed(reservation.deadline) && reservation.phase != Phase::Holding {
            let failure = overdue(reservation);
            match reservation.phase {
                Phase::Ending => self.give_up_ending(id, failure),
                // One more incarnation that came to nothing: the grant stands.
                Phase::Starting | Phase::Joining => self.broken(id, failure),
                _ => self.fail(id, failure),
            }
        } else if reservation.phase == Phase::Booked && passed(window.map(|window| window.near())) {
            self.advance(id, Happening::Near);
        } else if reservation.phase == Phase::Ready && passed(window.map(|window| window.start)) {
            self.start_jobs(id);
        }
        self.set_alarm(id);
    }

    /// The time is over: what still runs fails with that, the reservation has simply ended.
    pub(super) fn window_over(&mut self, id: ReservationId) {
        if let Some(spent) = self.reservations.get(&id).map(spent) {
            self.finish(id, None, JobState::Failed(spent));
        }
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
        let user = reservation.user.clone();
        let asked = reservation.attempt.as_ref().and_then(|attempt| attempt.request);
        // What is under way beside the grant is given up with it.
        self.release_attempt(id);
        self.advance(id, Happening::EndWanted);
        if let Some(request) = asked {
            let state = "released meanwhile".into();
            self.settle(
                &user,
                request,
                protocol::client::Reply::Refused(Refusal::ReservationOver { id, state }),
            );
        }
        self.end_jobs(id, &jobs_as);
    }

    /// What runs in a reservation that ends, or waits for it, is over.
    pub(super) fn end_jobs(&mut self, id: ReservationId, jobs_as: &JobState) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        for job in reservation.jobs.iter().copied().collect::<Vec<_>>() {
            if let Some(job) = self.jobs.get_mut(&job) {
                job.stopping_as.get_or_insert_with(|| jobs_as.clone());
            }
            self.advance_job(job, JobHappening::Lost);
        }
        self.forget_kills(id);
    }

    pub(super) fn fail(&mut self, id: ReservationId, failure: Failure) {
        self.finish(id, Some(failure.clone()), JobState::Failed(failure));
    }

    /// A site has lost what was granted: that is recorded before anybody is told to undo it.
    pub(super) fn compensate(&mut self, id: ReservationId, site: &SiteName) {
        let cause = "the site lost what it had granted";
        let hint = "the other sites' share is given back; ask again, and tell the site's administrator";
        self.fail(id, Failure::new(Step::Commit, cause, hint).at_site(site));
    }

    fn end_parts(&mut self, id: ReservationId) {
        // The end stands before any site hears of it.
        self.save(id);
        self.room.end(id);
        let Some(reservation) = self.reservations.get(&id) else { return };
        let open = reservation.parts.iter().filter(|part| part.stage < PartStage::Ended);
        let sites: Vec<SiteName> = open.map(|part| part.site.clone()).collect();
        for site in &sites {
            self.send(site, ToSite::End { reservation: id });
            if planted(Bug::AddressesBackAtEnd) {
                self.room.give_back(id, site);
            }
        }
        if sites.is_empty() {
            self.advance(id, Happening::AllEnded);
        }
    }

    /// A site says that nothing is left of its part.
    pub(super) fn part_ended(&mut self, id: ReservationId, site: &SiteName) {
        self.room.give_back(id, site);
        self.part_over(id, site);
    }

    /// Nothing more is expected of a part; what it had was dealt with.
    pub(super) fn part_over(&mut self, id: ReservationId, site: &SiteName) {
        if let Some(site) = self.sites.get_mut(site) {
            site.reservations.remove(&id);
        }
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        if let Some(part) = reservation.part_mut(site) {
            part.stage = PartStage::Ended;
        }
        self.watchers.reservation_changed(id);
        if reservation.phase == Phase::Ending && reservation.all_parts(PartStage::Ended) {
            self.advance(id, Happening::AllEnded);
        } else {
            // Durable before anybody else gets what it had: a restart must not take it again.
            self.save(id);
        }
        self.replan = true;
    }

    fn conclude(&mut self, id: ReservationId) {
        let now = self.now;
        self.end_network(id);
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        reservation.ended = Some(now);
        let user = reservation.user.clone();
        self.save(id);
        self.user(&user).live.remove(&id);
        if let Some(forgotten) = self.user(&user).reservations.end(id) {
            let requests = self.reservations.remove(&forgotten).map(|gone| gone.requests());
            let made = &mut self.user(&user).made;
            requests.into_iter().flatten().for_each(|request| drop(made.remove(&request)));
            self.out.push(Action::Record(Record::Forget(Key::Reservation(forgotten))));
        }
    }

    /// Some sites do not confirm: what they have stays taken until they do, or until they have
    /// ended it by themselves.
    fn give_up_ending(&mut self, id: ReservationId, failure: Failure) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        self.out.push(Action::Report { reservation: id, what: failure.to_string().into() });
        reservation.failure.get_or_insert(failure);
        let late = reservation.parts.iter().filter(|part| part.stage < PartStage::Ended);
        let late: Vec<_> = late.map(|part| part.share()).collect();
        let Some(window) = reservation.window() else { return };
        for share in late {
            let site = share.site.clone();
            self.owe(id, share, window);
            self.part_over(id, &site);
        }
    }
}

/// Why what ran in it was cut short.
pub(super) fn spent(reservation: &Reservation) -> Failure {
    let lasted = reservation.window().map_or(Duration::ZERO, |window| window.end - window.start);
    let cause = format!("its time of {} s is over", lasted.as_secs());
    Failure::new(Step::Running, cause, "ask for more with --time")
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
        Phase::Booked => Step::Commit,
        Phase::Starting => Step::Pilots,
        Phase::Joining => Step::SetKeys,
        Phase::Ready => Step::Running,
        Phase::Ending | Phase::Over => Step::End,
    }
}

/// The failure of a phase whose deadline passed: names the first site that is behind.
fn overdue(reservation: &Reservation) -> Failure {
    let stage = match reservation.phase {
        Phase::Waiting | Phase::Holding | Phase::Booked => PartStage::Held,
        Phase::Starting => PartStage::Ready,
        Phase::Joining | Phase::Ready => PartStage::Joined,
        Phase::Ending | Phase::Over => PartStage::Ended,
    };
    let late = reservation.laggard(stage);
    let progress = late.map(|part| part.progress).unwrap_or_default();
    let wanted = late.map_or(0, |part| part.members);
    let silent = late.is_some_and(|part| !part.acknowledged);
    let (cause, hint): (Text, &str) = match reservation.phase {
        Phase::Waiting | Phase::Booked | Phase::Holding => {
            ("the nodes did not become free".into(), "ask for fewer nodes or other sites")
        }
        Phase::Starting if silent => (
            "the site did not confirm the grant in time".into(),
            "the other sites' share is given back; `gridpilot sites` shows the site",
        ),
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
            "what it has stays taken until it does; tell its administrator",
        ),
    };
    let step = if silent && reservation.phase == Phase::Starting {
        Step::Commit
    } else {
        step_of(reservation.phase)
    };
    let failure = Failure::new(step, cause, hint);
    match late {
        Some(part) => failure.at_site(&part.site),
        None => failure,
    }
}
