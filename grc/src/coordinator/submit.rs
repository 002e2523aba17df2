//! What users make: reservations and jobs. Everything that can be refused without asking a site is
//! refused here, before anything changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::client::{NewJob, Reply, Selector};
use protocol::ids::{Epoch, JobId, RequestId, ReservationId};
use protocol::job::{Command, Hits, JobState};
use protocol::limits::HORIZON_S_MAX;
use protocol::names::UserName;
use protocol::refusal::Refusal;
use protocol::reservation::{Ask, Placement, Start};

use super::attempt::Span;
use super::requests::Outcome;
use super::users::{COMMAND_BYTES_MAX, LIVE_JOBS_MAX};
use super::{Action, Coordinator};
use crate::job::{self, Happening, Job, Stage};
use crate::plan::nodes;
use crate::record::Value;
use crate::reservation::Reservation;

const DAY_S: u64 = 24 * 3600;

fn too_many(what: &str, count: usize) -> Refusal {
    Refusal::TooMany { what: what.into(), count: u32::try_from(count).unwrap_or(u32::MAX) }
}

/// What a waiting command costs in memory.
pub(super) fn command_bytes(command: &Command) -> usize {
    let arguments: usize = command.argv.iter().map(|a| a.len() + size_of::<Vec<u8>>()).sum();
    let variables: usize =
        command.variables.iter().map(|(n, v)| n.as_str().len() + v.len() + 2 * size_of::<String>()).sum();
    let directories: usize = command.directories.iter().map(|d| d.as_str().len() + size_of::<String>()).sum();
    arguments + variables + directories
}

impl Coordinator {
    /// A reservation, with a job of its own or without. One that may wait its turn is accepted at
    /// once; another is planned now, and answered when everybody holds or somebody refuses.
    pub(super) fn reserve(
        &mut self,
        user: &UserName,
        request: RequestId,
        ask: Ask,
        job: Option<NewJob>,
    ) -> Outcome {
        job.as_ref().map_or(Ok(()), |job| self.check_job(user, job))?;
        self.check_ask(user, &ask)?;
        let planned = match self.span(ask.start)? {
            None => None,
            Some(span) => Some(self.plan(user, &ask, span).map_err(|short| short.refusal)?),
        };
        let id = self.new_reservation(user, request, ask);
        let job = job.map(|job| self.new_job(user, id, None, job));
        if let Some(reservation) = self.reservations.get_mut(&id) {
            reservation.own_job = job;
        }
        match planned {
            Some(planned) => {
                if let Err(refusal) = self.begin(id, planned, Some(request)) {
                    self.forget_refused(id);
                    return Err(refusal);
                }
                Ok(None)
            }
            None => {
                self.announce(id);
                self.save(id);
                self.replan = true;
                Ok(Some(self.made(id)))
            }
        }
    }

    /// From here on its user may speak of it: whoever waits for a grant has nothing before.
    pub(super) fn announce(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        let (user, job) = (reservation.user.clone(), reservation.own_job);
        let user = self.user(&user);
        user.reservations.begin(id);
        if let Some(job) = job {
            user.jobs.begin(job);
        }
    }

    /// What the request that made a reservation is answered.
    pub(super) fn made(&self, id: ReservationId) -> Reply {
        match self.reservations.get(&id).and_then(|reservation| reservation.own_job) {
            Some(job) => Reply::Submitted { job, reservation: id },
            None => Reply::Reserved(id),
        }
    }

    pub(super) fn submit_in(
        &mut self,
        user: &UserName,
        request: RequestId,
        reservation: ReservationId,
        job: NewJob,
    ) -> Result<Reply, Refusal> {
        let reservation = self.own_reservation(user, Selector::Id(reservation))?;
        self.check_job(user, &job)?;
        self.still_live(reservation)?;
        let job = self.new_job(user, reservation, Some(request), job);
        self.user(user).jobs.begin(job);
        if self.takes_commands(reservation) {
            self.advance_job(job, Happening::Start);
        }
        Ok(Reply::Submitted { job, reservation })
    }

    /// In which seconds it may begin; `None` is whenever it can.
    fn span(&self, start: Start) -> Result<Option<Span>, Refusal> {
        let now_s = self.now.as_secs();
        let bad = |why: &str| Err(Refusal::BadWindow { why: why.into() });
        let (earliest_s, latest_s) = match start {
            Start::Open => return Ok(None),
            Start::Within { wait_s } => (now_s, now_s.saturating_add(wait_s.into())),
            Start::Between { earliest_s, latest_s } => (earliest_s, latest_s),
        };
        if latest_s < now_s {
            return bad("it would begin in the past");
        }
        if latest_s > now_s.saturating_add(HORIZON_S_MAX) {
            return bad("it may begin more than 366 days ahead");
        }
        let (ahead_s, limit_s) = (latest_s - now_s, self.settings.limits.horizon_s);
        if ahead_s > limit_s {
            let (asked, limit) = (ahead_s.div_ceil(DAY_S), limit_s / DAY_S);
            return Err(Refusal::OverUserLimit { what: "days ahead it may begin".into(), asked, limit });
        }
        Ok(Some(Span { earliest_s: earliest_s.max(now_s), latest_s }))
    }

    fn check_ask(&mut self, user: &UserName, ask: &Ask) -> Result<(), Refusal> {
        self.check_limits(user, ask)?;
        let most = self.settings.limits.reservations;
        let asker = self.user(user);
        if asker.reservations.live() + asker.open.len() >= most {
            return Err(too_many("your reservations", most));
        }
        nodes::check(ask, &self.capacities())?;
        if let Placement::Sites(parts) = &ask.placement {
            for (name, asked) in parts {
                if self.room.could_give(name) < u64::from(*asked) {
                    return Err(Refusal::AddressesExhausted { site: name.clone(), asked: *asked });
                }
            }
        }
        self.check_rates(user, ask)
    }

    fn check_job(&mut self, user: &UserName, job: &NewJob) -> Result<(), Refusal> {
        job.command.check()?;
        let user = self.user(user);
        if user.jobs.live() >= LIVE_JOBS_MAX {
            return Err(too_many("your jobs", LIVE_JOBS_MAX));
        }
        if user.command_bytes + command_bytes(&job.command) > COMMAND_BYTES_MAX {
            return Err(too_many("bytes of your commands", COMMAND_BYTES_MAX));
        }
        Ok(())
    }

    fn new_reservation(&mut self, user: &UserName, request: RequestId, ask: Ask) -> ReservationId {
        let id = self.new_reservation_id();
        let mut reservation = Reservation::new(id, user.clone(), ask, request, self.now);
        reservation.deadline = Some(self.now + self.settings.deadlines.waiting);
        self.reservations.insert(id, reservation);
        self.user(user).live.insert(id);
        self.waiting.insert(id);
        self.set_alarm(id);
        id
    }

    fn new_job(
        &mut self,
        user: &UserName,
        reservation: ReservationId,
        request: Option<RequestId>,
        new: NewJob,
    ) -> JobId {
        let id = self.new_job_id();
        let bytes = command_bytes(&new.command);
        let job = Job {
            id,
            user: user.clone(),
            reservation,
            request,
            label: new.label,
            target: new.target,
            summary: job::summary(&new.command),
            command: Some(new.command),
            stage: Stage::Waiting,
            state: JobState::Waiting,
            stopping_as: None,
            epoch: Epoch::FIRST,
            running: BTreeMap::new(),
            status: None,
            submitted: self.now,
            started: None,
            ended: None,
            next_blow: None,
            killed: false,
            kills: BTreeSet::new(),
            head: None,
            hits: Hits::default(),
            grace: new.grace_s.map(|seconds| Duration::from_secs(seconds.into())),
        };
        self.record(Value::Job(Box::new(job.saved())));
        self.record(Value::Run(Box::new(job.saved_run())));
        self.jobs.insert(id, job);
        if let Some(reservation) = self.reservations.get_mut(&reservation) {
            reservation.jobs.insert(id);
        }
        self.user(user).command_bytes += bytes;
        self.out.push(Action::ExpectOutput { job: id, sources: Vec::new() });
        id
    }
}
