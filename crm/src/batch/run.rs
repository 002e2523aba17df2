//! The task between the driver and a batch system.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::ids::ReservationId;
use protocol::names::{NodeName, Text};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::keeper::Keeper;
use super::{Batch, BatchError, BatchJob, Capabilities, Standing};
use crate::pilot::PilotId;
use crate::site::{Account, Ahead, Event, News};

/// Queues are shut, opened and given other limits without telling.
const CAPABILITIES_INTERVAL: Duration = Duration::from_secs(30);
/// A system that did not answer is asked sooner.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Sweeps under way at once: each is a command, or a batch job of its own.
const SWEEPS: usize = 32;

/// What the driver asks of the batch task.
#[derive(Debug)]
pub enum Command {
    Submit(BatchJob),
    Cancel {
        pilot: PilotId,
    },
    /// A pilot of before a restart: its end is to be said. One that never arrived is awaited, for
    /// its submission may have been on its way then.
    Watch {
        pilot: PilotId,
        awaited: bool,
    },
    /// Asks how the queue is, now: answered by [`News::Capabilities`] or [`News::Answers`].
    Probe,
    Sweep {
        pilot: PilotId,
        node: NodeName,
        account: Account,
    },
    Reserve(Ahead),
    Unreserve {
        reservation: ReservationId,
    },
}

/// A pilot that the system has, as far as we know.
#[derive(Debug, Default)]
struct Known {
    /// As it was told last.
    told: Option<Standing>,
    /// Until then the system may not know it yet.
    turns_up_until: Option<Instant>,
}

/// What the system is asked. That it answers one says nothing of the other.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Question {
    Capabilities,
    Status,
}

/// What was told of the system.
struct Task<B> {
    batch: Arc<B>,
    events: mpsc::Sender<Event>,
    known: BTreeMap<PilotId, Known>,
    /// Questions without an answer, and why.
    unanswered: BTreeMap<Question, Text>,
    /// Whether the site was told that it answers.
    answers: bool,
    capabilities: Option<Capabilities>,
    /// Not before is it looked again whether something turned up.
    look_again: Instant,
    keeper: Keeper,
    sweeps: Sweeps,
}

/// Sweeps that were asked for and are not over.
#[derive(Clone)]
struct Sweeps {
    pilots: Arc<Mutex<BTreeSet<PilotId>>>,
    turns: Arc<Semaphore>,
}

/// Carries commands out and reports, until the driver is gone.
pub async fn run<B: Batch>(
    batch: Arc<B>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Event>,
) {
    let mut ask_at = Instant::now();
    let mut task = Task {
        keeper: Keeper::new(batch.clone()),
        batch,
        events,
        known: BTreeMap::new(),
        unanswered: BTreeMap::new(),
        answers: true,
        capabilities: None,
        look_again: ask_at,
        sweeps: Sweeps { pilots: Arc::default(), turns: Arc::new(Semaphore::new(SWEEPS)) },
    };
    // What came behind cancels that were taken together.
    let mut next = None;
    loop {
        if let Some(command) = next.take() {
            next = task.perform(command, &mut commands).await;
            continue;
        }
        tokio::select! {
            command = commands.recv() => match command {
                None => return,
                Some(command) => next = task.perform(command, &mut commands).await,
            },
            () = task.batch.changed() => task.look().await,
            () = task.nothing_turned_up() => task.look().await,
            () = tokio::time::sleep_until(ask_at) => {
                task.ask_capabilities().await;
                let is_fine = task.unanswered.is_empty() && task.answers;
                ask_at = Instant::now() + if is_fine { CAPABILITIES_INTERVAL } else { RETRY_INTERVAL };
            }
        }
    }
}

impl<B: Batch> Task<B> {
    /// Returns a command that it took from the queue and that is next.
    async fn perform(
        &mut self,
        command: Command,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> Option<Command> {
        match command {
            Command::Submit(job) => self.submit(job).await,
            Command::Cancel { pilot } => {
                // Those of one part come one after another: one call for all of them.
                let mut pilots = vec![pilot];
                let next = loop {
                    match commands.try_recv() {
                        Ok(Command::Cancel { pilot }) => pilots.push(pilot),
                        Ok(other) => break Some(other),
                        Err(_) => break None,
                    }
                };
                self.cancel(pilots).await;
                return next;
            }
            Command::Watch { pilot, awaited } => {
                let mut pilots = vec![(pilot, awaited)];
                let next = loop {
                    match commands.try_recv() {
                        Ok(Command::Watch { pilot, awaited }) => pilots.push((pilot, awaited)),
                        Ok(other) => break Some(other),
                        Err(_) => break None,
                    }
                };
                let until = Instant::now() + B::TURN_UP_TIME;
                let known = |awaited: bool| Known { told: None, turns_up_until: awaited.then_some(until) };
                self.known.extend(pilots.into_iter().map(|(pilot, awaited)| (pilot, known(awaited))));
                self.look().await;
                return next;
            }
            Command::Reserve(ahead) => self.keeper.reserve(ahead),
            Command::Unreserve { reservation } => self.keeper.unreserve(reservation),
            Command::Probe => {
                self.capabilities = None;
                self.ask_capabilities().await;
            }
            Command::Sweep { pilot, node, account } => self.sweep(pilot, node, account),
        }
        None
    }

    /// In its turn. One that is asked for again before it is over is answered once.
    fn sweep(&self, pilot: PilotId, node: NodeName, account: Account) {
        let (batch, events, sweeps) = (self.batch.clone(), self.events.clone(), self.sweeps.clone());
        if !sweeps.pilots().insert(pilot) {
            return;
        }
        tokio::spawn(async move {
            // Nobody closes it. The sweep's own deadline begins with its turn.
            let _turn = sweeps.turns.acquire().await;
            let outcome = batch.sweep(&node, &account).await.map_err(|e| e.to_string().into());
            sweeps.pilots().remove(&pilot);
            let _ = events.send(Event::Swept { pilot, outcome }).await;
        });
    }

    async fn submit(&mut self, job: BatchJob) {
        let pilots = job.pilot_ids();
        if let Some(first) = pilots.first() {
            self.keeper.settled(first.reservation).await;
        }
        let outcome = self.batch.submit(&job).await;
        // A secret that lies around no longer than needed.
        drop(job);
        let is_unknown = matches!(outcome, Err(BatchError::Unknown(_)));
        if outcome.is_ok() || is_unknown {
            let turns_up_until = is_unknown.then(|| Instant::now() + B::TURN_UP_TIME);
            let known = |pilot: &PilotId| (*pilot, Known { told: None, turns_up_until });
            self.known.extend(pilots.iter().map(known));
        }
        if let Err(error) = outcome {
            self.tell(News::NotSubmitted { pilots, error }).await;
        }
    }

    async fn cancel(&mut self, mut pilots: Vec<PilotId>) {
        let unheard: Vec<PilotId> = pilots.iter().copied().filter(|p| !self.known.contains_key(p)).collect();
        if !unheard.is_empty() {
            // Of before a restart, or gone: the system must say.
            self.known.extend(unheard.into_iter().map(|pilot| (pilot, Known::default())));
            self.look().await;
        }
        pilots.retain(|pilot| self.known.contains_key(pilot));
        if pilots.is_empty() {
            return;
        }
        let now = Instant::now();
        for pilot in &pilots {
            // Nobody waits for it: what turns up later is taken away then.
            let until = self.known.get_mut(pilot).and_then(|known| known.turns_up_until.as_mut());
            until.into_iter().for_each(|until| *until = now);
        }
        if let Err(error) = self.batch.cancel(&pilots).await {
            let (first, more) = (pilots[0], pilots.len() - 1);
            tracing::warn!("pilot {first} and {more} others cannot be cancelled: {error}");
        }
    }

    async fn ask_capabilities(&mut self) {
        let said = self.batch.capabilities().await;
        self.note(Question::Capabilities, said.as_ref().map(drop));
        // While it answers to nothing else, this is no news: it would open the queue.
        if let Ok(capabilities) = said
            && self.unanswered.is_empty()
            && self.capabilities.as_ref() != Some(&capabilities)
        {
            self.capabilities = Some(capabilities.clone());
            self.tell(News::Capabilities(capabilities)).await;
        }
        self.tell_whether_it_answers().await;
    }

    /// Resolves when something could have turned up and did not, as far as was seen.
    async fn nothing_turned_up(&self) {
        match self.known.values().filter_map(|known| known.turns_up_until).min() {
            Some(until) => tokio::time::sleep_until(until.max(self.look_again)).await,
            None => std::future::pending().await,
        }
    }

    /// Asks how all pilots stand and reports what is new.
    async fn look(&mut self) {
        self.look_again = Instant::now() + RETRY_INTERVAL;
        let said = self.batch.status().await;
        let standings = match said {
            Ok(Some(standings)) => {
                self.note(Question::Status, Ok(()));
                self.tell_whether_it_answers().await;
                standings
            }
            // Nothing to ask for is no answer: whether there is one the other question tells.
            Ok(None) => {
                self.note(Question::Status, Ok(()));
                Vec::new()
            }
            Err(error) => {
                self.note(Question::Status, Err(&error));
                return self.tell_whether_it_answers().await;
            }
        };
        let mut named = BTreeSet::new();
        let mut gone = Vec::new();
        for (pilot, standing) in standings {
            named.insert(pilot);
            match standing {
                Standing::Gone(reason) => gone.push((pilot, reason)),
                standing => {
                    let known = self.known.entry(pilot).or_default();
                    known.turns_up_until = None;
                    if known.told.as_ref() != Some(&standing) {
                        known.told = Some(standing.clone());
                        self.tell(News::Stands { pilot, standing }).await;
                    }
                }
            }
        }
        let now = Instant::now();
        let is_late = |known: &Known| known.turns_up_until.is_none_or(|until| until <= now);
        let missing = self.known.iter().filter(|(pilot, known)| !named.contains(pilot) && is_late(known));
        let missing: Vec<PilotId> = missing.map(|(pilot, _)| *pilot).collect();
        for (pilot, reason) in gone {
            self.known.remove(&pilot);
            let _ = self.events.send(Event::BatchGone { pilot, reason }).await;
        }
        if !missing.is_empty() {
            missing.iter().for_each(|pilot| drop(self.known.remove(pilot)));
            self.tell(News::NotThere { pilots: missing }).await;
        }
    }

    fn note(&mut self, question: Question, said: Result<(), &BatchError>) {
        match said {
            Ok(()) => drop(self.unanswered.remove(&question)),
            Err(error) => drop(self.unanswered.insert(question, error.to_string().into())),
        }
    }

    /// Tells it if it changed.
    async fn tell_whether_it_answers(&mut self) {
        let why = self.unanswered.values().next().cloned();
        if why.is_none() == self.answers {
            return;
        }
        self.answers = why.is_none();
        match &why {
            None => tracing::info!("the batch system answers again"),
            Some(why) => tracing::warn!("the batch system does not answer: {why}"),
        }
        self.tell(News::Answers(why.map_or(Ok(()), Err))).await;
    }

    async fn tell(&self, news: News) {
        let _ = self.events.send(Event::Batch(news)).await;
    }
}

impl Sweeps {
    fn pilots(&self) -> MutexGuard<'_, BTreeSet<PilotId>> {
        // Nothing that holds the lock can panic half way through a change.
        self.pilots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
