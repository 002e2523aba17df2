//! Commands of jobs: started once, told of until the GRC has saved how they ended.

use std::collections::BTreeMap;

use bytes::Bytes;
use protocol::ids::{Epoch, JobId, MemberNumber, ReservationId};
use protocol::job::{Command, ExitStatus, Hits, Stream, Target};
use protocol::names::Text;
use protocol::node::{Reply, Request};
use protocol::planted::{Bug, planted};
use protocol::refusal::{Failure, Step};
use protocol::site::FromSite;

use super::booking::{Job, Outcome, Phase, Ran};
use super::{Action, Asked, Site};
use crate::pilot::{PilotId, State};

impl Site {
    pub(super) fn exec(
        &mut self,
        reservation: ReservationId,
        epoch: Epoch,
        job: JobId,
        target: Target,
        command: &Command,
    ) {
        let booking = self.bookings.get_mut(&reservation).filter(|booking| !booking.ending);
        let begun = booking.as_ref().map_or(Epoch(0), |booking| booking.begun);
        if epoch < begun && !planted(Bug::OlderEpochObeyed) {
            return;
        }
        let site = self.settings.name.clone();
        let Some(incarnation) = booking.and_then(|booking| booking.incarnation.as_mut()) else {
            let cause = "the reservation's sandboxes are not here any more";
            let failure = Failure::new(Step::Exec, cause, "reserve again").at_site(&site);
            return self.tell(FromSite::ExecFailed { reservation, epoch, job, member: 0, failure });
        };
        let (epoch, round) = (incarnation.epoch, incarnation.round);
        if incarnation.jobs.contains_key(&job) {
            return self.exec_again(reservation, epoch, job, command);
        }
        let members: Vec<MemberNumber> = match target {
            Target::All => (0..incarnation.roster.len()).collect(),
            Target::Head => match &incarnation.head {
                Some(head) if head.site != site => Vec::new(),
                Some(head) => vec![head.number],
                None => vec![0],
            },
        };
        let refuse = |cause: Text| {
            let hint = "`gridpilot show` tells how the reservation stands";
            Outcome::NotStarted(Failure::new(Step::Exec, cause, hint).at_site(&site))
        };
        let mut outcomes: BTreeMap<MemberNumber, Outcome> = BTreeMap::new();
        for member in members {
            let runs = |state: State| match state {
                State::Running => incarnation.phase == Phase::Joined || incarnation.adopted,
                // It is told when it is back, if it comes back.
                State::Away => incarnation.phase == Phase::Joined || incarnation.adopted,
                _ => false,
            };
            let outcome = match incarnation.roster.get(member) {
                Some(pilot) if runs(pilot.state) => Outcome::Runs,
                Some(pilot) => {
                    refuse(format!("the member on node {} is not running", pilot.node_name()).into())
                }
                None => refuse("there is no such member".into()),
            };
            outcomes.insert(member, outcome);
        }
        if outcomes.is_empty() {
            outcomes.insert(0, refuse("the head member is at another site".into()));
        }
        let members = outcomes
            .iter()
            .map(|(member, outcome)| (*member, Ran { outcome: outcome.clone(), ..Ran::begun() }));
        let members = members.collect();
        incarnation.jobs.insert(job, Job { members, command: Some(command.clone()) });
        let adopted = incarnation.adopted;
        for (member, outcome) in outcomes {
            match outcome {
                Outcome::NotStarted(failure) => {
                    self.tell(FromSite::ExecFailed { reservation, epoch, job, member, failure });
                }
                _ => {
                    let pilot = PilotId { reservation, round, member };
                    self.ask_exec(pilot, job, command);
                    if adopted {
                        // A CRM of before may have started it: then this starts nothing, and what it
                        // has to say is asked for.
                        self.actions.push(Action::Pass { pilot, request: Request::Resend { job } });
                    }
                }
            }
        }
    }

    fn ask_exec(&mut self, pilot: PilotId, job: JobId, command: &Command) {
        let request = Request::Exec { job, command: command.clone() };
        self.actions.push(Action::Ask { pilot, asked: Asked::Exec(job), request });
    }

    /// It was started before: the answer is how it stands.
    fn exec_again(&mut self, reservation: ReservationId, epoch: Epoch, job: JobId, command: &Command) {
        let Some(incarnation) = self.incarnation_of(reservation, epoch) else { return };
        let Some(Job { members, .. }) = incarnation.jobs.get(&job) else { return };
        let round = incarnation.round;
        for (member, ran) in members.clone() {
            let pilot = PilotId { reservation, round, member };
            match ran.outcome {
                Outcome::Runs if planted(Bug::ExecTwice) => self.ask_exec(pilot, job, command),
                // What it says is on its way, or will be; on a new connection it was asked for.
                Outcome::Runs => {}
                Outcome::NotStarted(failure) => {
                    self.tell(FromSite::ExecFailed { reservation, epoch, job, member, failure });
                }
                Outcome::Exited(status, hits) if ran.saved => {
                    let exited = FromSite::Exited { reservation, epoch, job, member, status, hits };
                    self.tell(exited);
                }
                outcome => self.resend_one(pilot, job, outcome),
            }
        }
    }

    /// Has the agent send again what is not saved, the end included; when there is no agent any
    /// more, the end is all that can be told.
    pub(super) fn resend_one(&mut self, pilot: PilotId, job: JobId, outcome: Outcome) {
        let PilotId { reservation, member, .. } = pilot;
        let state = self.pilot(pilot).map(|pilot| pilot.state);
        if state.is_some_and(State::has_agent) {
            self.actions.push(Action::Pass { pilot, request: Request::Resend { job } });
        } else if state == Some(State::Away) {
            // All of it comes when the agent is back, or never.
        } else if let (Outcome::Exited(status, hits), Some(epoch)) = (outcome, self.epoch_of(pilot)) {
            self.tell_end(pilot, job, FromSite::Exited { reservation, epoch, job, member, status, hits });
        }
    }

    /// The pilots that take commands. A signal for a job is for all of them: where it does not run
    /// there may be what it started by ssh.
    fn signalled(&self, reservation: ReservationId, epoch: Epoch) -> Vec<PilotId> {
        let pilots = self.incarnation_of(reservation, epoch).map(|incarnation| incarnation.roster.pilots());
        let running = pilots.into_iter().flatten().filter(|pilot| pilot.state == State::Running);
        running.map(|pilot| pilot.id).collect()
    }

    /// The end of a command, behind where each of its streams ended: the GRC does not take it while
    /// something in front of that is missing. Both in one step, so on one connection.
    fn tell_end(&mut self, id: PilotId, job: JobId, exited: FromSite) {
        let PilotId { reservation, member, .. } = id;
        let (Some(epoch), Some(ran)) = (self.epoch_of(id), self.ran_mut(id, job)) else { return };
        let printed = ran.printed;
        for (stream, offset) in [Stream::Stdout, Stream::Stderr].into_iter().zip(printed) {
            let bytes = Bytes::new();
            self.tell(FromSite::Output { reservation, epoch, job, member, stream, offset, bytes });
        }
        self.tell(exited);
    }

    /// Where a stream ended is kept for the end; what it holds is passed on.
    pub(super) fn on_output(&mut self, id: PilotId, job: JobId, stream: Stream, offset: u64, bytes: Bytes) {
        let PilotId { reservation, member, .. } = id;
        let Some(epoch) = self.epoch_of(id).filter(|_| self.is_told_of(id, job)) else { return };
        if bytes.is_empty() {
            if let Some(ran) = self.ran_mut(id, job) {
                ran.printed[stream as usize] = offset;
            }
            return;
        }
        self.tell(FromSite::Output { reservation, epoch, job, member, stream, offset, bytes });
    }

    fn ran_mut(&mut self, id: PilotId, job: JobId) -> Option<&mut Ran> {
        self.incarnation_mut(id)?.jobs.get_mut(&job)?.members.get_mut(&id.member)
    }

    /// The agent has this job's command, or will never have it: when all do, it need not be kept.
    fn exec_answered(&mut self, id: PilotId, job: JobId) {
        let Some(incarnation) = self.incarnation_mut(id) else { return };
        let Some(job) = incarnation.jobs.get_mut(&job) else { return };
        if let Some(ran) = job.members.get_mut(&id.member) {
            ran.answered = true;
        }
        if job.members.values().all(|ran| ran.answered || ran.outcome != Outcome::Runs) {
            job.command = None;
        }
    }

    /// Signals what runs of a job; asked again of agents that do not answer, or are away. The GRC is
    /// told when nothing does, which it then never will: the job is to stop.
    pub(super) fn signal(&mut self, reservation: ReservationId, epoch: Epoch, job: JobId, signal: u8) {
        let signalled = self.signalled(reservation, epoch);
        let incarnation = self.bookings.get_mut(&reservation).and_then(|one| one.incarnation.as_mut());
        let Some(incarnation) = incarnation.filter(|one| one.epoch == epoch) else { return };
        if !incarnation.jobs.contains_key(&job) {
            // Agents may know of it from a CRM of before.
            let members = incarnation.roster.pilots().iter().map(|pilot| pilot.id.member);
            let members = members.filter(|_| incarnation.adopted).map(|member| (member, Ran::begun()));
            let known = Job { members: members.collect(), command: None };
            incarnation.jobs.insert(job, known);
            if incarnation.adopted {
                let ask = |pilot: &PilotId| Action::Pass { pilot: *pilot, request: Request::Resend { job } };
                self.actions.extend(signalled.iter().map(ask));
            }
        }
        let Some(Job { members, .. }) = incarnation.jobs.get_mut(&job) else { return };
        for ran in members.values_mut().filter(|ran| ran.outcome == Outcome::Runs) {
            ran.signal = Some(signal);
        }
        let over = |ran: &Ran| ran.saved || matches!(ran.outcome, Outcome::NotStarted(_));
        let nothing_runs = members.values().all(over);
        for pilot in signalled {
            let request = Request::Signal { job, signal };
            self.actions.push(Action::Ask { pilot, asked: Asked::Signal(job), request });
        }
        if nothing_runs {
            self.tell(FromSite::NothingRuns { reservation, epoch, job });
        }
    }

    pub(super) fn on_signalled(&mut self, id: PilotId, job: JobId) {
        if let Some(ran) = self.ran_mut(id, job) {
            ran.signal = None;
        }
    }

    /// The agent is back: what it was asked and has not answered is asked again, and what it has to
    /// say of commands, on a new connection, comes when it is asked for.
    pub(super) fn resume_jobs(&mut self, id: PilotId) {
        let Some(incarnation) = self.incarnation(id) else { return };
        let mine = incarnation.jobs.iter().filter_map(|(job, of)| {
            let ran = of.members.get(&id.member)?;
            Some((*job, ran.clone(), of.command.clone().filter(|_| !ran.answered)))
        });
        for (job, ran, command) in mine.collect::<Vec<_>>() {
            if matches!(ran.outcome, Outcome::NotStarted(_)) {
                continue;
            }
            if ran.saved {
                self.pass_exit_saved(id, job);
                continue;
            }
            if let Some(command) = command.filter(|_| ran.outcome == Outcome::Runs) {
                self.ask_exec(id, job, &command);
            }
            if let Some(signal) = ran.signal {
                let request = Request::Signal { job, signal };
                self.actions.push(Action::Ask { pilot: id, asked: Asked::Signal(job), request });
            }
            self.actions.push(Action::Pass { pilot: id, request: Request::Resend { job } });
        }
    }

    /// Whether this member was asked to run this job and its end is not saved: an agent speaks for
    /// its own commands only, and of what is over no more.
    pub(super) fn is_told_of(&self, id: PilotId, job: JobId) -> bool {
        let jobs = self.incarnation(id).and_then(|incarnation| incarnation.jobs.get(&job));
        let ran = jobs.and_then(|job| job.members.get(&id.member));
        ran.is_some_and(|ran| !ran.saved && !matches!(ran.outcome, Outcome::NotStarted(_)))
    }

    pub(super) fn on_exec_answer(&mut self, id: PilotId, job: JobId, reply: Reply) {
        self.exec_answered(id, job);
        let failure = match reply {
            Reply::Done => return,
            Reply::Failed(failure) => failure,
            Reply::Refused(refusal) => Failure::new(Step::Exec, refusal.to_string(), ""),
            Reply::Keys(_) | Reply::Status { .. } => Failure::new(
                Step::Exec,
                "the agent's answer fits no EXEC",
                "upgrade the older of CRM and node",
            ),
        };
        let failure = self.placed(id, failure);
        let Some(ran) = self.ran_mut(id, job).filter(|ran| ran.outcome == Outcome::Runs) else { return };
        ran.outcome = Outcome::NotStarted(failure.clone());
        let PilotId { reservation, member, .. } = id;
        let Some(epoch) = self.epoch_of(id) else { return };
        self.tell(FromSite::ExecFailed { reservation, epoch, job, member, failure });
    }

    pub(super) fn on_exited(&mut self, id: PilotId, job: JobId, status: ExitStatus, hits: Hits) {
        if !self.is_told_of(id, job) {
            // Saved before: the agent did not hear of it.
            return self.pass_exit_saved(id, job);
        }
        let Some(ran) = self.ran_mut(id, job) else { return };
        ran.outcome = Outcome::Exited(status, hits);
        let PilotId { reservation, member, .. } = id;
        let Some(epoch) = self.epoch_of(id) else { return };
        self.tell_end(id, job, FromSite::Exited { reservation, epoch, job, member, status, hits });
    }

    pub(super) fn exit_saved(&mut self, id: PilotId, job: JobId) {
        if let Some(incarnation) = self.incarnation_mut(id) {
            incarnation.exit_saved(job, id.member);
        }
        self.pass_exit_saved(id, job);
    }

    fn pass_exit_saved(&mut self, id: PilotId, job: JobId) {
        let jobs = self.incarnation(id).and_then(|incarnation| incarnation.jobs.get(&job));
        let saved = jobs.and_then(|job| job.members.get(&id.member)).is_some_and(|ran| ran.saved);
        if saved && self.pilot(id).is_some_and(|pilot| pilot.state.has_agent()) {
            self.actions.push(Action::Pass { pilot: id, request: Request::ExitSaved { job } });
        }
    }
}
