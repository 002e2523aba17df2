//! Commands: started when their reservation is ready, ended by themselves, by their user, or with
//! their reservation.

use protocol::ids::{Epoch, JobId, MemberNumber, ReservationId};
use protocol::job::{ExitStatus, Hits, JobState, Target};
use protocol::names::{HostName, SiteName};
use protocol::refusal::{Failure, Step};
use protocol::site::ToSite;

use super::event::Due;
use super::submit::command_bytes;
use super::{Action, Coordinator, Record};
use crate::job::{Happening, Job, KILL_TIME, Order, SIGKILL, SIGTERM, Stage};
use crate::record::{Key, Value};

impl Coordinator {
    pub(super) fn advance_job(&mut self, id: JobId, happening: Happening) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let (next, orders) = job.stage.step(happening);
        job.stage = next;
        for order in orders {
            match order {
                Order::Exec => self.exec(id),
                Order::Terminate => self.terminate(id),
                Order::Conclude => self.conclude_job(id),
            }
        }
        self.watchers.job_changed(id);
    }

    /// Starts it everywhere; that it was started is durable before any site hears of it, so that
    /// no restart of ours starts it again in another incarnation.
    fn exec(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(reservation) = self.reservations.get(&job.reservation) else { return };
        let parts = match job.target {
            Target::Head => &reservation.parts[..1],
            Target::All => &reservation.parts[..],
        };
        let sources: Vec<(SiteName, u32)> = parts
            .iter()
            .map(|part| (part.site.clone(), if job.target == Target::Head { 1 } else { part.members }))
            .collect();
        job.running = sources.iter().map(|(site, n)| (site.clone(), (0..*n).collect())).collect();
        job.head = sources.first().map(|(site, _)| HostName { site: site.clone(), number: 0 });
        job.state = JobState::Running;
        job.started = Some(self.now);
        job.epoch = reservation.epoch;
        self.out.push(Action::ExpectOutput { job: id, sources: sources.clone() });
        self.save_run(id);
        for (site, _) in &sources {
            self.exec_at(id, site);
        }
    }

    fn exec_at(&mut self, id: JobId, site: &SiteName) {
        let Some(Job { reservation, epoch, target, command: Some(command), .. }) = self.jobs.get(&id) else {
            return;
        };
        let (reservation, epoch, target, command) = (*reservation, *epoch, *target, command.clone());
        self.send(site, ToSite::Exec { reservation, epoch, job: id, target, command });
    }

    pub(super) fn save_run(&mut self, id: JobId) {
        if let Some(run) = self.jobs.get(&id).map(Job::saved_run) {
            self.record(Value::Run(Box::new(run)));
        }
    }

    /// A site is back. What runs there of this reservation it is told again to start, which it answers
    /// by how it stands; of what is being stopped, or was and is not known to have ended there, only
    /// that: it must not start any more. On a connection that stands nothing of this is repeated.
    pub(super) fn exec_again(&mut self, reservation: ReservationId, site: &SiteName) {
        let Some(reservation) = self.reservations.get(&reservation) else { return };
        for id in reservation.jobs.union(&reservation.kills).copied().collect::<Vec<_>>() {
            let Some(job) = self.jobs.get(&id) else { continue };
            let (reservation, epoch, runs) = (job.reservation, job.epoch, job.running.contains_key(site));
            let signal = match job.stage {
                Stage::Running if runs => {
                    self.exec_at(id, site);
                    continue;
                }
                Stage::Stopping if runs && !job.killed => SIGTERM,
                Stage::Stopping if runs => SIGKILL,
                Stage::Over if job.kills.contains(site) => SIGKILL,
                _ => continue,
            };
            self.send(site, ToSite::Signal { reservation, epoch, job: id, signal });
        }
    }

    /// SIGTERM everywhere it still runs; the timer brings the next blow.
    pub(super) fn terminate(&mut self, id: JobId) {
        self.save_run(id);
        self.signal(id, SIGTERM);
        let (now, grace) = (self.now, self.settings.deadlines.grace);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let next = now + job.grace.unwrap_or(grace);
        job.next_blow = Some(next);
        self.set_timer(next, Due::Job(id));
    }

    pub(super) fn job_due(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.stage != Stage::Stopping || job.next_blow.is_none_or(|at| at > self.now) {
            return;
        }
        if job.killed {
            // Not even SIGKILL was confirmed: its user need not wait for that node.
            job.next_blow = None;
            self.advance_job(id, Happening::Lost);
            return;
        }
        job.killed = true;
        let next = self.now + KILL_TIME;
        job.next_blow = Some(next);
        self.signal(id, SIGKILL);
        self.set_timer(next, Due::Job(id));
    }

    /// To every site of its reservation: it may have started something by ssh on any member.
    pub(super) fn signal(&mut self, id: JobId, signal: u8) {
        let Some(job) = self.jobs.get(&id) else { return };
        let (reservation, epoch) = (job.reservation, job.epoch);
        let Some(live) = self.reservations.get(&reservation) else { return };
        let sites: Vec<SiteName> = live.parts.iter().map(|part| part.site.clone()).collect();
        for site in sites {
            self.send(&site, ToSite::Signal { reservation, epoch, job: id, signal });
        }
    }

    /// The job is over: its state becomes final, its own reservation ends.
    fn conclude_job(&mut self, id: JobId) {
        let now = self.now;
        let kills = self.kill_what_is_left(id);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.state = match (job.stopping_as.take(), job.status) {
            (Some(state), _) => state,
            (None, Some(status)) => JobState::Done(status),
            (None, None) => {
                JobState::Failed(Failure::new(Step::Running, "the job was lost", "submit it again"))
            }
        };
        job.ended = Some(now);
        job.running.retain(|site, _| kills.contains(site));
        job.kills = kills;
        if let Some(due) = job.next_blow.take() {
            self.timers.remove(&(due, Due::Job(id)));
        }
        let (reservation, user, is_left) = (job.reservation, job.user.clone(), !job.kills.is_empty());
        let bytes = job.command.take().map_or(0, |command| command_bytes(&command));
        let saved = job.saved();
        self.record(Value::Job(Box::new(saved)));
        self.save_run(id);
        self.out.push(Action::CloseOutput { job: id });
        let owner = self.user(&user);
        owner.command_bytes = owner.command_bytes.saturating_sub(bytes);
        if !is_left {
            self.retire_job(id);
        }
        let Some(reservation) = self.reservations.get_mut(&reservation) else { return };
        reservation.jobs.remove(&id);
        if is_left {
            reservation.kills.insert(id);
        }
        if reservation.own_job == Some(id) {
            let ended = Failure::new(
                Step::Running,
                format!("its reservation ended with job {id}, for which it was made"),
                "use `gridpilot reserve` for several jobs",
            );
            let reservation = reservation.id;
            self.finish(reservation, None, JobState::Failed(ended));
        }
    }

    /// It counts no more among what its user has, and is history: the oldest goes for it.
    pub(super) fn retire_job(&mut self, id: JobId) {
        let Some(user) = self.jobs.get(&id).map(|job| job.user.clone()) else { return };
        if let Some(forgotten) = self.user(&user).jobs.end(id) {
            let request = self.jobs.remove(&forgotten).and_then(|gone| gone.request);
            request.map(|request| self.user(&user).made.remove(&request));
            self.drop_job_records(forgotten);
        }
    }

    fn drop_job_records(&mut self, id: JobId) {
        self.out.push(Action::Record(Record::Forget(Key::Job(id))));
        self.out.push(Action::Record(Record::Forget(Key::Run(id))));
        self.out.push(Action::ForgetOutput { job: id });
    }

    /// Nothing remains of a job whose reservation was refused.
    pub(super) fn forget_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(&id) else { return };
        let bytes = job.command.as_ref().map_or(0, command_bytes);
        let user = self.user(&job.user);
        user.jobs.forget(id);
        user.command_bytes = user.command_bytes.saturating_sub(bytes);
        self.drop_job_records(id);
    }

    /// The job that a site may speak of: it runs there, in that incarnation.
    fn running_at(&self, site: &SiteName, reservation: ReservationId, epoch: Epoch, job: JobId) -> bool {
        self.current(site, reservation, epoch)
            && self.jobs.get(&job).is_some_and(|job| {
                job.reservation == reservation && job.epoch == epoch && job.running.contains_key(site)
            })
    }

    pub(super) fn exited(
        &mut self,
        site: &SiteName,
        (reservation, epoch): (ReservationId, Epoch),
        id: JobId,
        member: MemberNumber,
        (status, hits): (ExitStatus, Hits),
    ) {
        if self.running_at(site, reservation, epoch, id)
            && let Some(job) = self.jobs.get_mut(&id)
            && job.member_ended(site, member)
        {
            if job.stage == Stage::Over {
                self.killed_there(id, site);
            } else {
                job.take_status(status);
                job.hits = job.hits.and(hits);
                self.one_less(id);
            }
        }
        // Whatever it was: it is durable by now, or nobody waits for it.
        self.send(site, ToSite::ExitSaved { reservation, epoch, job: id, member });
    }

    /// One member could not start it: the others are stopped, and the job has failed.
    pub(super) fn exec_failed(
        &mut self,
        site: &SiteName,
        (reservation, epoch): (ReservationId, Epoch),
        id: JobId,
        member: MemberNumber,
        failure: Failure,
    ) {
        if !self.running_at(site, reservation, epoch, id) {
            return;
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if !job.member_ended(site, member) {
            return;
        }
        if job.stage == Stage::Over {
            return self.killed_there(id, site);
        }
        job.stopping_as.get_or_insert(JobState::Failed(failure.at_site(site)));
        let happening = if job.running.is_empty() { Happening::AllExited } else { Happening::StopWanted };
        self.advance_job(id, happening);
    }
}
