//! What users ask. Everything is limited to the asker's own things: another user's id is answered
//! like one that does not exist.

use protocol::client::{Explanation, Reply, Request, Selector};
use protocol::ids::{JobId, RequestId, ReservationId};
use protocol::names::UserName;
use protocol::refusal::Refusal;

use super::{Action, ClientId, Coordinator};
use crate::job::{Happening as JobHappening, Stage};
use crate::view::{self, Members};
use crate::{explain, reservation::Phase};
use protocol::job::JobState;

impl Coordinator {
    pub(super) fn request(&mut self, client: ClientId, correlation: u64, user: &UserName, request: Request) {
        let answer = match request {
            // These are answered later, by a watcher or by the output edge.
            Request::WaitJob(which) => self.own_job(user, which).map(|id| {
                self.watchers.watch_job(id, (client, correlation));
                None
            }),
            Request::WaitReservation(which) => self.own_reservation(user, which).map(|id| {
                self.watchers.watch_reservation(id, (client, correlation));
                None
            }),
            Request::Log { job, stream, offset, follow } => self.own_job(user, job).map(|job| {
                self.out.push(Action::ReadLog { client, correlation, job, stream, offset, follow });
                None
            }),
            other => self.answer_now(user, other).map(Some),
        };
        match answer {
            Ok(None) => {}
            Ok(Some(reply)) => self.out.push(Action::Answer { client, correlation, reply }),
            Err(refusal) => {
                self.out.push(Action::Answer { client, correlation, reply: Reply::Refused(refusal) });
            }
        }
    }

    fn answer_now(&mut self, user: &UserName, request: Request) -> Result<Reply, Refusal> {
        let wall = self.wall();
        Ok(match request {
            Request::Sites => {
                Reply::Sites(self.sites.iter().map(|(name, s)| view::site(name, &s.facts(), wall)).collect())
            }
            Request::Reserve { id, ask } => self.once(user, id, |owner| owner.reserve(user, ask)),
            Request::Submit { id, ask, job } => self.once(user, id, |owner| owner.submit(user, ask, job)),
            Request::SubmitIn { id, reservation, job } => {
                self.once(user, id, |owner| owner.submit_in(user, reservation, job))
            }
            Request::Reservations => {
                let ids = self.users.get(user).map(|user| user.reservations.newest_first());
                let known = ids.into_iter().flatten().filter_map(|id| self.reservations.get(&id));
                Reply::Reservations(view::listing(
                    known.map(|one| view::reservation(one, wall, Members::LeftOut)),
                ))
            }
            Request::Jobs => {
                let ids = self.users.get(user).map(|user| user.jobs.newest_first());
                let known = ids.into_iter().flatten().filter_map(|id| self.jobs.get(&id));
                Reply::Jobs(view::listing(known.map(|job| view::job(job, wall))))
            }
            Request::ShowReservation(which) => {
                let id = self.own_reservation(user, which)?;
                Reply::Reservation(view::reservation(&self.reservations[&id], wall, Members::Shown))
            }
            Request::ShowJob(which) => {
                let id = self.own_job(user, which)?;
                Reply::Job(view::job(&self.jobs[&id], wall))
            }
            Request::Cancel(which) => {
                let id = self.own_job(user, which)?;
                self.cancel(id);
                Reply::Done
            }
            Request::Release(which) => {
                let id = self.own_reservation(user, which)?;
                self.finish(id, None, JobState::Cancelled);
                Reply::Done
            }
            Request::ExplainJob(which) => {
                let id = self.own_job(user, which)?;
                Reply::Explained(self.explain_job(id))
            }
            Request::ExplainReservation(which) => {
                let id = self.own_reservation(user, which)?;
                Reply::Explained(explain::reservation(&self.reservations[&id], wall))
            }
            // Answered elsewhere; listed so that a new request is not forgotten here.
            Request::WaitJob(_) | Request::WaitReservation(_) | Request::Log { .. } => Reply::Done,
        })
    }

    fn explain_job(&self, id: JobId) -> Explanation {
        let job = &self.jobs[&id];
        explain::job(job, self.reservations.get(&job.reservation), self.wall())
    }

    /// Carries a request out, unless it was: then the first outcome is the answer again.
    fn once(
        &mut self,
        user: &UserName,
        id: RequestId,
        carry_out: impl FnOnce(&mut Self) -> Result<Reply, Refusal>,
    ) -> Reply {
        if let Some(reply) = self.users.get(user).and_then(|user| user.answer_to(id)) {
            return reply.clone();
        }
        let reply = carry_out(self).unwrap_or_else(Reply::Refused);
        self.user(user).remember(id, reply.clone());
        reply
    }

    pub(super) fn own_reservation(
        &self,
        user: &UserName,
        which: Selector<ReservationId>,
    ) -> Result<ReservationId, Refusal> {
        let not_found = |id| Refusal::UnknownReservation { id };
        match (self.users.get(user), which) {
            (Some(user), which) => user.reservations.select(which, not_found),
            (None, Selector::Id(id)) => Err(not_found(id)),
            (None, Selector::Last) => Err(Refusal::NothingYet),
        }
    }

    fn own_job(&self, user: &UserName, which: Selector<JobId>) -> Result<JobId, Refusal> {
        let not_found = |id| Refusal::UnknownJob { id };
        match (self.users.get(user), which) {
            (Some(user), which) => user.jobs.select(which, not_found),
            (None, Selector::Id(id)) => Err(not_found(id)),
            (None, Selector::Last) => Err(Refusal::NothingYet),
        }
    }

    /// SIGTERM to what runs; what waits is over at once. A job's own reservation ends with it.
    fn cancel(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.stage == Stage::Over {
            return;
        }
        job.stopping_as.get_or_insert(JobState::Cancelled);
        self.advance_job(id, JobHappening::StopWanted);
    }

    /// Why no further job is taken by a reservation, if so.
    pub(super) fn takes_jobs(&self, id: ReservationId) -> Result<(), Refusal> {
        let reservation = &self.reservations[&id];
        if reservation.phase >= Phase::Ending {
            let state =
                view::reservation(reservation, self.wall(), Members::LeftOut).state.to_string().into();
            return Err(Refusal::ReservationOver { id, state });
        }
        Ok(())
    }
}
