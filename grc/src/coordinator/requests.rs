//! What users ask. Everything is limited to what is the asker's to see and to touch: his own things, an
//! operator's everybody's; see [`super::whose`].

use protocol::client::{Explanation, Reply, Request};
use protocol::ids::{JobId, RequestId, ReservationId};
use protocol::job::JobState;
use protocol::names::UserName;
use protocol::planted::{Bug, planted};
use protocol::refusal::{Failure, Refusal};
use protocol::reservation::ReservationView;

use super::watch::Asker;
use super::{Action, ClientId, Coordinator, Record};
use crate::explain::{self, Away};
use crate::job::{Happening as JobHappening, Stage};
use crate::record::{Key, SavedAnswer, Value};
use crate::reservation::Phase;
use crate::view::{self, Members};

/// What becomes of a request: its reply, unless somebody else answers it later.
pub(super) type Outcome = Result<Option<Reply>, Refusal>;

impl Coordinator {
    pub(super) fn request(&mut self, client: ClientId, correlation: u64, user: &UserName, request: Request) {
        let asker = (client, correlation);
        // What the request alone says is refused the same way each time: nothing is kept of it.
        let outcome = match request.check() {
            Err(refusal) => Err(refusal),
            Ok(()) => self.dispatch(asker, user, request),
        };
        let reply = match outcome {
            Ok(None) => return,
            Ok(Some(reply)) => reply,
            Err(refusal) => Reply::Refused(refusal),
        };
        self.out.push(Action::Answer { client, correlation, reply });
    }

    fn dispatch(&mut self, asker: Asker, user: &UserName, request: Request) -> Outcome {
        match request {
            Request::Reserve { id, ask } => {
                self.once(user, id, asker, |owner| owner.reserve(user, id, ask, None))
            }
            Request::Submit { id, ask, job } => {
                self.once(user, id, asker, |owner| owner.reserve(user, id, ask, Some(job)))
            }
            Request::SubmitIn { id, reservation, job } => {
                self.once(user, id, asker, |owner| owner.submit_in(user, id, reservation, job).map(Some))
            }
            Request::Modify { id, reservation, change } => {
                // In the name of whose it is: he is told with everything else what became of it.
                let owner = &self.acts_for(user, reservation);
                let operator = (user != owner).then_some(user);
                self.once(owner, id, asker, |all| all.modify((owner, operator), id, reservation, change))
            }
            // These are answered later, by a watcher or by the output edge.
            Request::WaitJob(which) => self.seen_job(user, which).map(|id| {
                self.watchers.watch_job(id, asker);
                None
            }),
            Request::WaitReservation(which) => self.seen_reservation(user, which).map(|id| {
                self.watchers.watch_reservation(id, asker);
                None
            }),
            Request::Log { job, stream, offset, follow } => self.seen_job(user, job).map(|job| {
                let (client, correlation) = asker;
                self.out.push(Action::ReadLog { client, correlation, job, stream, offset, follow });
                None
            }),
            Request::Cancel(which) => {
                let id = self.seen_job(user, which)?;
                let stopped_by = self.operator_at(user, &self.jobs[&id].user);
                self.cancel(id, stopped_by);
                Ok(Some(Reply::Done))
            }
            Request::Release(which) => {
                let id = self.seen_reservation(user, which)?;
                let failure = self.operator_at(user, &self.reservations[&id].user);
                let jobs_as = failure.clone().map_or(JobState::Cancelled, JobState::Failed);
                self.finish(id, failure, jobs_as);
                Ok(Some(Reply::Done))
            }
            Request::Sites
            | Request::Reservations
            | Request::Jobs
            | Request::ShowReservation(_)
            | Request::ShowJob(_)
            | Request::ExplainJob(_)
            | Request::ExplainReservation(_)
            | Request::Usage(_) => self.look(user, request).map(Some),
        }
    }

    /// What changes nothing.
    fn look(&self, user: &UserName, request: Request) -> Result<Reply, Refusal> {
        let wall = self.wall();
        Ok(match request {
            Request::Sites => {
                Reply::Sites(self.sites.iter().map(|(name, s)| view::site(name, &s.facts(), wall)).collect())
            }
            Request::Reservations => {
                let ids = self.listed(user, |user| &user.reservations);
                let known = ids.into_iter().filter_map(|id| self.reservations.get(&id));
                Reply::Reservations(view::listing(
                    known.map(|one| view::reservation(one, wall, Members::LeftOut)),
                ))
            }
            Request::Jobs => {
                let ids = self.listed(user, |user| &user.jobs);
                let known = ids.into_iter().filter_map(|id| self.jobs.get(&id));
                Reply::Jobs(view::listing(known.map(|job| view::job(job, wall))))
            }
            Request::ShowReservation(which) => {
                let id = self.seen_reservation(user, which)?;
                Reply::Reservation(self.shown(id))
            }
            Request::ShowJob(which) => {
                let id = self.seen_job(user, which)?;
                Reply::Job(view::job(&self.jobs[&id], wall))
            }
            Request::ExplainJob(which) => {
                let id = self.seen_job(user, which)?;
                Reply::Explained(self.explain_job(id))
            }
            Request::ExplainReservation(which) => {
                let id = self.seen_reservation(user, which)?;
                let reservation = &self.reservations[&id];
                Reply::Explained(explain::reservation(reservation, wall, &self.away(id)))
            }
            Request::Usage(which) => {
                let id = self.seen_reservation(user, which)?;
                Reply::Usage(self.reservations[&id].usage.points())
            }
            // The others change something; `dispatch` names them all.
            _ => Reply::Done,
        })
    }

    /// One reservation with everything about it.
    pub(super) fn shown(&self, id: ReservationId) -> ReservationView {
        let mut view = view::reservation(&self.reservations[&id], self.wall(), Members::Shown);
        for (shown, part) in view.parts.iter_mut().zip(&self.reservations[&id].parts) {
            shown.proof = self.room.proof(id, &part.share());
        }
        view
    }

    /// Sites of a reservation that are not connected now.
    fn away(&self, id: ReservationId) -> Vec<Away> {
        let parts = self.reservations[&id].parts.iter();
        let sites = parts.filter_map(|part| Some((&part.site, self.sites.get(&part.site)?)));
        sites
            .filter(|(_, site)| site.connection.is_none())
            .map(|(name, site)| Away { site: name.clone(), since: site.last_seen, why: site.problem.clone() })
            .collect()
    }

    fn explain_job(&self, id: JobId) -> Explanation {
        let job = &self.jobs[&id];
        let within = self.reservations.get(&job.reservation);
        let away = within.map(|within| self.away(within.id)).unwrap_or_default();
        explain::job(job, within, self.wall(), &away)
    }

    /// Carries a request out, unless it was: then its outcome is the answer again. One that is
    /// still open gets one more asker.
    fn once(
        &mut self,
        user: &UserName,
        id: RequestId,
        asker: Asker,
        carry_out: impl FnOnce(&mut Self) -> Outcome,
    ) -> Outcome {
        if let Some(known) = self.users.get_mut(user) {
            if let Some(reply) = known.answer_to(id) {
                return Ok(Some(reply.clone()));
            }
            if let Some(askers) = known.open.get_mut(&id) {
                askers.push(asker);
                return Ok(None);
            }
        }
        match carry_out(self).unwrap_or_else(|refusal| Some(Reply::Refused(refusal))) {
            Some(reply) => {
                self.keep_answer(user, id, &reply);
                Ok(Some(reply))
            }
            None => {
                self.user(user).open.insert(id, vec![asker]);
                Ok(None)
            }
        }
    }

    /// Makes an answer durable: the same request will never hear another. What a request has made
    /// is recorded with its number already, in one piece.
    fn keep_answer(&mut self, user: &UserName, request: RequestId, reply: &Reply) {
        if matches!(reply, Reply::Reserved(_) | Reply::Submitted { .. } | Reply::Modified { .. }) {
            self.user(user).made.insert(request, reply.clone());
            return;
        }
        self.answers += 1;
        let number = self.answers;
        let answer = SavedAnswer { user: user.clone(), request, reply: reply.clone(), number };
        self.record(Value::Answer(Box::new(answer)));
        if let Some(oldest) = self.user(user).remember(request, reply.clone(), number) {
            self.out.push(Action::Record(Record::Forget(Key::Answer(oldest))));
        }
    }

    /// The outcome of a request that had to wait for it.
    pub(super) fn settle(&mut self, user: &UserName, request: RequestId, reply: Reply) {
        let askers = self.user(user).open.remove(&request).unwrap_or_default();
        let answers = askers.into_iter().map(|(client, correlation)| {
            let reply = reply.clone();
            Action::Answer { client, correlation, reply }
        });
        if planted(Bug::AnswerBeforeRecord) {
            // In front of the decision, which stands last among the actions.
            let at = self.out.iter().rposition(|a| !matches!(a, Action::Record(_))).map_or(0, |at| at + 1);
            self.out.splice(at..at, answers.collect::<Vec<_>>());
            return self.keep_answer(user, request, &reply);
        }
        let answers: Vec<Action> = answers.collect();
        self.keep_answer(user, request, &reply);
        self.out.extend(answers);
    }

    pub(super) fn client_gone(&mut self, client: ClientId) {
        self.watchers.forget(client);
        for user in self.users.values_mut() {
            for askers in user.open.values_mut() {
                askers.retain(|(one, _)| *one != client);
            }
        }
    }

    /// SIGTERM to what runs; what waits is over at once. A job's own reservation ends with it.
    fn cancel(&mut self, id: JobId, stopped_by: Option<Failure>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.stage == Stage::Over {
            return;
        }
        if let Some(failure) = &stopped_by {
            let what = format!("job {id} of {}: {failure}", job.user).into();
            self.out.push(Action::Report { reservation: job.reservation, what });
        }
        job.stopping_as.get_or_insert(stopped_by.map_or(JobState::Cancelled, JobState::Failed));
        self.advance_job(id, JobHappening::StopWanted);
    }

    /// Why no further job is taken by a reservation, if so.
    pub(super) fn still_live(&self, id: ReservationId) -> Result<(), Refusal> {
        let reservation = &self.reservations[&id];
        if reservation.phase >= Phase::Ending {
            let state =
                view::reservation(reservation, self.wall(), Members::LeftOut).state.to_string().into();
            return Err(Refusal::ReservationOver { id, state });
        }
        Ok(())
    }
}
