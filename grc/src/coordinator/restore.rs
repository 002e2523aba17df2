//! The owner out of its records: a start without any is the start of a new grid.
//!
//! Presumed abort: what had begun without a decision never was. A reservation that may wait waits
//! again, one whose user waits for the answer is forgotten, and a site that holds for it asks and
//! is told to release. What was decided is said again until it is acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::client::Reply;
use protocol::ids::{JobId, ReservationId};
use protocol::job::{JobState, Target};
use protocol::names::SiteName;
use protocol::planted::{Bug, planted};
use protocol::reservation::Start;

use super::event::Due;
use super::life::spent;
use super::network::criteria;
use super::resend::RESEND_FIRST;
use super::room::Room;
use super::sites::Site;
use super::submit::command_bytes;
use super::watch::Watchers;
use super::{Action, Coordinator, Ids, Record, Settings};
use crate::job::{Job, Stage};
use crate::network::{Connection, StaticLinks};
use crate::record::{Key, SavedAnswer, SavedJob, SavedOwed, SavedReservation, SavedRun, Standing, Value};
use crate::reservation::{Happening, PartStage, PartState, Phase, Reservation, Share, Window};

impl Coordinator {
    /// The owner as it stood when these records were made, and what is to be done first. Whoever
    /// calls it then steps a [`super::Event::Tick`], as [`Coordinator::next_wake`] says.
    pub fn restore(settings: Settings, records: Vec<Record>) -> (Self, Vec<Action>) {
        let mut owner = Self::empty(settings);
        let mut jobs: BTreeMap<JobId, SavedJob> = BTreeMap::new();
        let mut runs: BTreeMap<JobId, SavedRun> = BTreeMap::new();
        let (mut answers, mut owed) = (Vec::new(), Vec::new());
        let mut ended: BTreeSet<(Duration, ReservationId)> = BTreeSet::new();
        let mut forgotten = Vec::new();
        for record in records {
            let Record::Put(value) = record else { continue };
            match value {
                Value::Ids(ids) => (owner.next, owner.reserved) = (ids, ids),
                Value::Job(saved) => drop(jobs.insert(saved.id, *saved)),
                Value::Run(saved) => drop(runs.insert(saved.id, *saved)),
                Value::Answer(saved) => answers.push(*saved),
                Value::Owed(saved) => owed.push(*saved),
                Value::Reservation(saved) => {
                    let id = saved.id;
                    if let Standing::Over { at } = saved.standing {
                        ended.insert((at, id));
                    }
                    if !owner.bring_back(*saved) {
                        forgotten.push(id);
                    }
                }
            }
        }
        for (_, id) in ended {
            let Some(user) = owner.reservations.get(&id).map(|r| r.user.clone()) else { continue };
            owner.user(&user).reservations.end(id);
        }
        owner.bring_back_jobs(jobs, runs);
        owner.bring_back_answers(answers);
        owner.bring_back_owed(owed);
        for id in forgotten {
            owner.out.push(Action::Record(Record::Forget(Key::Reservation(id))));
        }
        owner.set_timer(Duration::ZERO, Due::Resume);
        let actions = std::mem::take(&mut owner.out);
        (owner, actions)
    }

    fn empty(settings: Settings) -> Self {
        let ids = Ids { reservation: 1, job: 1 };
        Self {
            now: Duration::ZERO,
            out: Vec::new(),
            next: ids,
            reserved: ids,
            answers: 0,
            sites: settings.supernets.keys().map(|name| (name.clone(), Site::default())).collect(),
            reservations: BTreeMap::new(),
            jobs: BTreeMap::new(),
            users: BTreeMap::new(),
            waiting: BTreeSet::new(),
            room: Room::new(Self::tail(settings.deadlines.quarantine)),
            network: Box::new(links(&settings)),
            owed: BTreeMap::new(),
            watchers: Watchers::default(),
            timers: BTreeSet::new(),
            plan_at: None,
            replan: false,
            settings,
        }
    }

    /// False if it never was: begun, not decided, and its user waits for the answer.
    fn bring_back(&mut self, saved: SavedReservation) -> bool {
        let SavedReservation { id, standing, .. } = saved;
        let waits = match standing {
            Standing::Begun if saved.ask.start != Start::Open => return false,
            Standing::Begun | Standing::Waiting => true,
            _ => false,
        };
        let (phase, stage) = match standing {
            Standing::Begun | Standing::Waiting => (Phase::Waiting, PartStage::Asked),
            Standing::Granted if saved.ready => (Phase::Ready, PartStage::Joined),
            Standing::Granted => (Phase::Booked, PartStage::Held),
            Standing::Ending => (Phase::Ending, PartStage::Held),
            Standing::Over { .. } => (Phase::Over, PartStage::Ended),
        };
        let shares = if waits { &[][..] } else { saved.shares.as_slice() };
        let confirmed = |share: &Share| saved.confirmed.contains(&share.site);
        let open: Vec<Share> = shares.iter().filter(|share| !confirmed(share)).cloned().collect();
        if phase != Phase::Over
            && let Some(grant) = &saved.grant
            && !planted(Bug::RestartForgetsBook)
        {
            self.room.take(id, grant.window, &open);
            let (connection, criteria) = (Connection(id.0), criteria(grant.window, &grant.rates));
            if !grant.rates.is_empty() {
                self.network.restore(connection, grant.version, criteria);
            }
            if phase == Phase::Ending {
                self.room.end(id);
            }
        }
        for share in open.iter().filter(|_| phase != Phase::Over) {
            if let Some(site) = self.sites.get_mut(&share.site) {
                site.reservations.insert(id);
            }
        }
        let changed = saved.changes;
        let deadline = waits.then_some(saved.made + self.settings.deadlines.waiting);
        let reservation = Reservation {
            own_job: saved.own_job,
            changes: changed.clone(),
            phase,
            version: saved.version,
            grant: saved.grant,
            parts: shares
                .iter()
                .map(|share| {
                    let part = PartState::new(share, if confirmed(share) { PartStage::Ended } else { stage });
                    let sent = saved.ring.iter().find(|sent| sent.site == share.site);
                    PartState { round: sent.map_or(0, |sent| sent.round), ..part }
                })
                .collect(),
            epoch: saved.epoch,
            ring: saved.ring.clone(),
            was_ready: saved.ready,
            resized: !saved.ready && !changed.is_empty(),
            resumed: true,
            failure: saved.failure,
            deadline,
            remarks: saved.remarks,
            ended: if let Standing::Over { at } = standing { Some(at) } else { None },
            ..Reservation::new(id, saved.user.clone(), saved.ask, saved.request, saved.made)
        };
        let user = self.user(&saved.user);
        user.reservations.begin(id);
        if phase != Phase::Over {
            user.live.insert(id);
        }
        if !planted(Bug::RequestForgotten) {
            let made = match reservation.own_job {
                Some(job) => Reply::Submitted { job, reservation: id },
                None => Reply::Reserved(id),
            };
            let modified = |(request, version): &(_, _)| {
                (*request, Reply::Modified { reservation: id, version: *version })
            };
            // One that was released before it was granted was refused.
            let accepted = reservation.grant.is_some() || reservation.ask.start == Start::Open;
            let made = Some((saved.request, made)).filter(|_| accepted);
            let replies = changed.iter().map(modified).chain(made);
            self.user(&saved.user).made.extend(replies.collect::<Vec<_>>());
        }
        if waits {
            self.waiting.insert(id);
        }
        self.reservations.insert(id, reservation);
        true
    }

    fn bring_back_jobs(&mut self, jobs: BTreeMap<JobId, SavedJob>, mut runs: BTreeMap<JobId, SavedRun>) {
        let mut ended: BTreeSet<(Duration, JobId)> = BTreeSet::new();
        for (id, saved) in jobs {
            let Some(run) = runs.remove(&id) else {
                // Made, but its request was never answered.
                self.out.push(Action::Record(Record::Forget(Key::Job(id))));
                continue;
            };
            let live = !run.state.is_final();
            if live && !self.reservations.contains_key(&saved.reservation) {
                // Its reservation never was.
                self.out.push(Action::Record(Record::Forget(Key::Job(id))));
                self.out.push(Action::Record(Record::Forget(Key::Run(id))));
                self.out.push(Action::ForgetOutput { job: id });
                continue;
            }
            let mut job = job_of(saved, run);
            let within = self.reservations.get_mut(&job.reservation);
            match within.filter(|one| one.phase.is_granted() && one.epoch == job.epoch) {
                Some(stands) if !job.kills.is_empty() => drop(stands.kills.insert(id)),
                Some(_) => {}
                // With its sandboxes it has ended.
                None => job.kills.clear(),
            }
            let (user, bytes) = (job.user.clone(), job.command.as_ref().map_or(0, command_bytes));
            let user = self.user(&user);
            user.jobs.begin(id);
            user.command_bytes += bytes;
            if let Some(request) = job.request.filter(|_| !planted(Bug::RequestForgotten)) {
                let reservation = job.reservation;
                user.made.insert(request, Reply::Submitted { job: id, reservation });
            }
            if live && let Some(reservation) = self.reservations.get_mut(&job.reservation) {
                reservation.jobs.insert(id);
            }
            self.out.push(Action::ExpectOutput { job: id, sources: self.sources(&job) });
            if !live {
                if job.kills.is_empty() {
                    ended.insert((job.ended.unwrap_or_default(), id));
                }
                self.out.push(Action::CloseOutput { job: id });
            }
            self.jobs.insert(id, job);
        }
        for id in runs.into_keys() {
            self.out.push(Action::Record(Record::Forget(Key::Run(id))));
        }
        for (_, id) in ended {
            let Some(user) = self.jobs.get(&id).map(|job| job.user.clone()) else { continue };
            self.user(&user).jobs.end(id);
        }
    }

    /// Which sites may send output of a job, and of how many members.
    fn sources(&self, job: &Job) -> Vec<(SiteName, u32)> {
        let Some(reservation) = self.reservations.get(&job.reservation) else { return Vec::new() };
        let runs_there = |part: &&PartState| job.running.contains_key(&part.site);
        let count = |part: &PartState| if job.target == Target::Head { 1 } else { part.members };
        reservation.parts.iter().filter(runs_there).map(|part| (part.site.clone(), count(part))).collect()
    }

    fn bring_back_answers(&mut self, mut answers: Vec<SavedAnswer>) {
        answers.sort_by_key(|answer| answer.number);
        for SavedAnswer { user, request, reply, number } in answers {
            self.answers = self.answers.max(number);
            if let Some(oldest) = self.user(&user).remember(request, reply, number) {
                self.out.push(Action::Record(Record::Forget(Key::Answer(oldest))));
            }
        }
    }

    fn bring_back_owed(&mut self, owed: Vec<SavedOwed>) {
        let mut of: BTreeMap<ReservationId, (Window, Vec<Share>)> = BTreeMap::new();
        for SavedOwed { reservation, share, window } in owed {
            let known = self.reservations.get(&reservation);
            if known.is_some_and(|known| known.phase != Phase::Over) {
                // It had not ended yet when that was written: it will owe again.
                let key = Key::Owed(reservation, share.site);
                self.out.push(Action::Record(Record::Forget(key)));
                continue;
            }
            self.keep_owed(reservation, share.clone(), window);
            of.entry(reservation).or_insert((window, Vec::new())).1.push(share);
        }
        for (id, (window, shares)) in of {
            self.room.take(id, window, &shares);
            self.room.end(id);
        }
    }

    /// An end that was recorded of one thing, but not yet of what ends with it.
    fn finish_half_ends(&mut self) {
        for id in self.reservations.keys().copied().collect::<Vec<_>>() {
            let Some(reservation) = self.reservations.get(&id) else { continue };
            let over = |job: &JobId| self.jobs.get(job).is_none_or(|job| job.stage == Stage::Over);
            if reservation.phase < Phase::Ending && reservation.own_job.is_some_and(|job| over(&job)) {
                self.finish(id, None, JobState::Cancelled);
                continue;
            }
            if reservation.phase < Phase::Ending {
                continue;
            }
            let jobs_as = match &reservation.failure {
                Some(failure) => JobState::Failed(failure.clone()),
                None if reservation.window().is_some_and(|window| window.end <= self.now) => {
                    JobState::Failed(spent(reservation))
                }
                None => JobState::Cancelled,
            };
            self.end_jobs(id, &jobs_as);
        }
    }

    /// First thing after a restart, with the time: deadlines and timers begin.
    pub(super) fn resume(&mut self) {
        let ending = self.now + self.settings.deadlines.ending;
        self.finish_half_ends();
        for id in self.reservations.keys().copied().collect::<Vec<_>>() {
            let Some(reservation) = self.reservations.get_mut(&id) else { continue };
            if reservation.phase == Phase::Over {
                continue;
            }
            if reservation.phase == Phase::Ending {
                reservation.deadline = Some(ending);
                if reservation.all_parts(PartStage::Ended) {
                    self.advance(id, Happening::AllEnded);
                    continue;
                }
            }
            self.resend_soon(id);
            self.set_alarm(id);
            self.start_jobs(id);
        }
        for id in self.jobs.keys().copied().collect::<Vec<_>>() {
            match self.jobs[&id].stage {
                Stage::Stopping => self.terminate(id),
                // What runs is asked for when its sites are back.
                Stage::Running | Stage::Waiting | Stage::Over => {}
            }
        }
        for id in self.owed.keys().copied().collect::<Vec<_>>() {
            self.set_owed_timer(id, RESEND_FIRST);
        }
        self.replan = true;
    }
}

/// The links of the configuration, which is checked before it comes here.
fn links(settings: &Settings) -> StaticLinks {
    let links = settings.links.iter().map(|((a, b), kbit)| (a.clone(), b.clone(), *kbit));
    let uplinks = settings.uplinks.iter().map(|(site, kbit)| (site.clone(), *kbit));
    // Reserved and committed in one step; a minute is for whoever does not.
    let hold_time = Duration::from_secs(60);
    StaticLinks::new(links, uplinks, hold_time).unwrap_or_else(|error| {
        tracing::error!(%error, "the links of the configuration cannot be");
        StaticLinks::default()
    })
}

fn job_of(saved: SavedJob, run: SavedRun) -> Job {
    let stage = match (&run.state, &run.stopping_as) {
        (state, _) if state.is_final() => Stage::Over,
        (JobState::Waiting, _) => Stage::Waiting,
        (_, Some(_)) => Stage::Stopping,
        (_, None) => Stage::Running,
    };
    Job {
        id: saved.id,
        user: saved.user,
        reservation: saved.reservation,
        request: saved.request,
        label: saved.label,
        target: saved.target,
        command: saved.command,
        summary: saved.summary,
        stage,
        state: run.state,
        stopping_as: run.stopping_as,
        epoch: run.epoch,
        running: run.running.into_iter().collect(),
        status: run.status,
        submitted: saved.submitted,
        started: run.started,
        ended: run.ended,
        next_blow: None,
        killed: false,
        kills: run.kills.into_iter().collect(),
        head: run.head,
        hits: run.hits,
        grace: saved.grace,
    }
}
