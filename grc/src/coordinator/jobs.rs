//! Commands: started when their reservation is ready, ended by themselves, by their user, or with
//! their reservation.

use protocol::ids::{Epoch, JobId, MemberNumber, ReservationId};
use protocol::job::{ExitStatus, JobState, Target};
use protocol::names::{HostName, SiteName};
use protocol::refusal::{Failure, Step};
use protocol::site::ToSite;

use super::event::Due;
use super::submit::command_bytes;
use super::{Action, Coordinator};
use crate::job::{GRACE, Happening, Order, SIGKILL, SIGTERM, Stage};

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

    fn exec(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(reservation) = self.reservations.get(&job.reservation) else { return };
        let Some(command) = job.command.take() else { return };
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
        let (target, epoch, reservation, user) =
            (job.target, reservation.epoch, reservation.id, job.user.clone());
        let bytes = command_bytes(&command);
        let owner = self.user(&user);
        owner.waiting_command_bytes = owner.waiting_command_bytes.saturating_sub(bytes);
        self.out.push(Action::ExpectOutput { job: id, sources: sources.clone() });
        for (site, _) in sources {
            self.send(&site, ToSite::Exec { reservation, epoch, job: id, target, command: command.clone() });
        }
    }

    /// SIGTERM everywhere it still runs; the timer brings the next blow.
    fn terminate(&mut self, id: JobId) {
        self.signal(id, SIGTERM);
        let next = self.now + GRACE;
        if let Some(job) = self.jobs.get_mut(&id) {
            job.next_blow = Some(next);
        }
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
        let next = self.now + GRACE;
        job.next_blow = Some(next);
        self.signal(id, SIGKILL);
        self.set_timer(next, Due::Job(id));
    }

    fn signal(&mut self, id: JobId, signal: u8) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(reservation) = self.reservations.get(&job.reservation) else { return };
        let (reservation, epoch) = (reservation.id, reservation.epoch);
        let sites: Vec<SiteName> = job.running.keys().cloned().collect();
        for site in sites {
            self.send(&site, ToSite::Signal { reservation, epoch, job: id, signal });
        }
    }

    /// The job is over: its state becomes final, its own reservation ends.
    fn conclude_job(&mut self, id: JobId) {
        let now = self.now;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.state = match (job.stopping_as.take(), job.status) {
            (Some(state), _) => state,
            (None, Some(status)) => JobState::Done(status),
            (None, None) => {
                JobState::Failed(Failure::new(Step::Running, "the job was lost", "submit it again"))
            }
        };
        job.ended = Some(now);
        job.running.clear();
        job.next_blow = None;
        let (reservation, user) = (job.reservation, job.user.clone());
        // A command that never started still counts as waiting.
        let unsent = job.command.take().map_or(0, |command| command_bytes(&command));
        self.out.push(Action::CloseOutput { job: id });
        let owner = self.user(&user);
        owner.waiting_command_bytes = owner.waiting_command_bytes.saturating_sub(unsent);
        if let Some(forgotten) = owner.jobs.end(id) {
            self.jobs.remove(&forgotten);
            self.out.push(Action::ForgetOutput { job: forgotten });
        }
        let Some(reservation) = self.reservations.get_mut(&reservation) else { return };
        reservation.jobs.remove(&id);
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

    /// The job that a site may speak of: it runs there, in that incarnation.
    fn running_at(&self, site: &SiteName, reservation: ReservationId, epoch: Epoch, job: JobId) -> bool {
        self.current(site, reservation, epoch)
            && self
                .jobs
                .get(&job)
                .is_some_and(|job| job.reservation == reservation && job.running.contains_key(site))
    }

    pub(super) fn exited(
        &mut self,
        site: &SiteName,
        (reservation, epoch): (ReservationId, Epoch),
        id: JobId,
        member: MemberNumber,
        status: ExitStatus,
    ) {
        if !self.running_at(site, reservation, epoch, id) {
            return;
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if !job.member_ended(site, member) {
            return;
        }
        job.take_status(status);
        if job.running.is_empty() {
            self.advance_job(id, Happening::AllExited);
        }
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
        job.stopping_as.get_or_insert(JobState::Failed(failure.at_site(site)));
        let happening = if job.running.is_empty() { Happening::AllExited } else { Happening::StopWanted };
        self.advance_job(id, happening);
    }
}
