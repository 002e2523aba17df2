//! What users make: reservations and jobs. Everything that can be refused without waiting is
//! refused here, before anything changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::client::{NewJob, Reply, Selector};
use protocol::ids::{Epoch, JobId, ReservationId};
use protocol::job::{Command, JobState};
use protocol::names::UserName;
use protocol::refusal::Refusal;
use protocol::reservation::{Ask, Placement};

use super::event::Due;
use super::users::{LIVE_JOBS_MAX, LIVE_RESERVATIONS_MAX, WAITING_COMMAND_BYTES_MAX};
use super::{Action, Coordinator};
use crate::job::{self, Happening, Job, Stage};
use crate::plan::nodes;
use crate::reservation::{Phase, Reservation};

fn too_many(what: &str, count: usize) -> Refusal {
    Refusal::TooMany { what: what.into(), count: u32::try_from(count).unwrap_or(u32::MAX) }
}

/// What a waiting command costs in memory.
pub(super) fn command_bytes(command: &Command) -> usize {
    let arguments: usize = command.argv.iter().map(|a| a.len() + size_of::<Vec<u8>>()).sum();
    let variables: usize =
        command.variables.iter().map(|(n, v)| n.as_str().len() + v.len() + 2 * size_of::<String>()).sum();
    arguments + variables
}

impl Coordinator {
    pub(super) fn reserve(&mut self, user: &UserName, ask: Ask) -> Result<Reply, Refusal> {
        self.check_ask(user, &ask)?;
        Ok(Reply::Reserved(self.new_reservation(user, ask)))
    }

    pub(super) fn submit(&mut self, user: &UserName, ask: Ask, job: NewJob) -> Result<Reply, Refusal> {
        self.check_job(user, &job)?;
        self.check_ask(user, &ask)?;
        let reservation = self.new_reservation(user, ask);
        let job = self.new_job(user, reservation, job);
        if let Some(reservation) = self.reservations.get_mut(&reservation) {
            reservation.own_job = Some(job);
        }
        Ok(Reply::Submitted { job, reservation })
    }

    pub(super) fn submit_in(
        &mut self,
        user: &UserName,
        reservation: ReservationId,
        job: NewJob,
    ) -> Result<Reply, Refusal> {
        let reservation = self.own_reservation(user, Selector::Id(reservation))?;
        self.check_job(user, &job)?;
        self.takes_jobs(reservation)?;
        let job = self.new_job(user, reservation, job);
        if self.reservations[&reservation].phase == Phase::Ready {
            self.advance_job(job, Happening::Start);
        }
        Ok(Reply::Submitted { job, reservation })
    }

    fn check_ask(&mut self, user: &UserName, ask: &Ask) -> Result<(), Refusal> {
        if self.user(user).reservations.live() >= LIVE_RESERVATIONS_MAX {
            return Err(too_many("your reservations", LIVE_RESERVATIONS_MAX));
        }
        nodes::check(ask, &self.capacities())?;
        if let Placement::Sites(parts) = &ask.placement {
            for (name, asked) in parts {
                let could = self.sites.get(name).map_or(0, |site| self.book.could_give(name, &site.usable));
                if could < u64::from(*asked) {
                    return Err(Refusal::AddressesExhausted { site: name.clone(), asked: *asked });
                }
            }
        }
        Ok(())
    }

    fn check_job(&mut self, user: &UserName, job: &NewJob) -> Result<(), Refusal> {
        job.command.check()?;
        let user = self.user(user);
        if user.jobs.live() >= LIVE_JOBS_MAX {
            return Err(too_many("your jobs", LIVE_JOBS_MAX));
        }
        if user.waiting_command_bytes + command_bytes(&job.command) > WAITING_COMMAND_BYTES_MAX {
            return Err(too_many("bytes of your waiting commands", WAITING_COMMAND_BYTES_MAX));
        }
        Ok(())
    }

    fn new_reservation(&mut self, user: &UserName, ask: Ask) -> ReservationId {
        let id = self.new_reservation_id();
        let deadline = self.now + self.settings.deadlines.waiting;
        let reservation = Reservation {
            id,
            user: user.clone(),
            ask,
            own_job: None,
            jobs: BTreeSet::new(),
            made: self.now,
            // Ids are never used again, so within one id the attempts alone would do; the start
            // of the GRC in front keeps epochs growing once reservations outlive it.
            epoch: Epoch(self.settings.incarnation.saturating_mul(1 << 16)),
            attempts: 0,
            phase: Phase::Waiting,
            parts: Vec::new(),
            holding: None,
            failure: None,
            deadline: Some(deadline),
            ends: None,
            not_before: Duration::ZERO,
            waits_for: None,
            dirty: Vec::new(),
            ended: None,
        };
        self.reservations.insert(id, reservation);
        self.user(user).reservations.begin(id);
        self.waiting.insert(id);
        self.set_timer(deadline, Due::Reservation(id));
        self.replan = true;
        id
    }

    fn new_job(&mut self, user: &UserName, reservation: ReservationId, new: NewJob) -> JobId {
        let id = self.new_job_id();
        let bytes = command_bytes(&new.command);
        let job = Job {
            id,
            user: user.clone(),
            reservation,
            label: new.label,
            target: new.target,
            summary: job::summary(&new.command),
            command: Some(new.command),
            stage: Stage::Waiting,
            state: JobState::Waiting,
            stopping_as: None,
            running: BTreeMap::new(),
            status: None,
            submitted: self.now,
            started: None,
            ended: None,
            next_blow: None,
            killed: false,
            head: None,
        };
        self.jobs.insert(id, job);
        if let Some(reservation) = self.reservations.get_mut(&reservation) {
            reservation.jobs.insert(id);
        }
        let user = self.user(user);
        user.jobs.begin(id);
        user.waiting_command_bytes += bytes;
        self.out.push(Action::ExpectOutput { job: id, sources: Vec::new() });
        id
    }
}
