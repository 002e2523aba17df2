//! The task between the driver and a batch system.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use protocol::ids::ReservationId;
use protocol::names::NodeName;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Batch, BatchError, BatchJob, Capabilities, Standing};
use crate::pilot::PilotId;
use crate::site::{Account, Ahead, Event, News};

/// Queues are shut, opened and given other limits without telling.
const CAPABILITIES_INTERVAL: Duration = Duration::from_secs(30);
/// A system that did not answer is asked sooner.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// How often the nodes of a reservation that is over are given back before that is left to time.
const UNRESERVE_TRIES: u32 = 6;

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

/// What was told of the system.
struct Task<B> {
    batch: Arc<B>,
    events: mpsc::Sender<Event>,
    known: BTreeMap<PilotId, Known>,
    answers: bool,
    capabilities: Option<Capabilities>,
    /// Not before is it looked again whether something turned up.
    look_again: Instant,
}

/// Carries commands out and reports, until the driver is gone.
pub async fn run<B: Batch>(
    batch: Arc<B>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Event>,
) {
    let mut ask_at = Instant::now();
    let mut task =
        Task { batch, events, known: BTreeMap::new(), answers: true, capabilities: None, look_again: ask_at };
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
                let answered = task.ask_capabilities().await;
                ask_at = Instant::now() + if answered { CAPABILITIES_INTERVAL } else { RETRY_INTERVAL };
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
            Command::Reserve(ahead) => {
                if let Err(error) = self.batch.reserve(&ahead).await {
                    let reservation = ahead.reservation;
                    tracing::warn!(
                        "no nodes are kept ahead for {reservation}, its pilots will queue: {error}"
                    );
                }
            }
            Command::Unreserve { reservation } => {
                let batch = self.batch.clone();
                tokio::spawn(async move {
                    for _ in 0..UNRESERVE_TRIES {
                        match batch.unreserve(reservation).await {
                            Ok(()) => return,
                            // Its last job is still ending, most likely.
                            Err(error) => tracing::debug!("nodes are still kept for {reservation}: {error}"),
                        }
                        tokio::time::sleep(RETRY_INTERVAL).await;
                    }
                    tracing::warn!("nodes stay kept for {reservation} until its window is over");
                });
            }
            Command::Probe => {
                self.capabilities = None;
                self.ask_capabilities().await;
            }
            Command::Sweep { pilot, node, account } => {
                let (batch, events) = (self.batch.clone(), self.events.clone());
                tokio::spawn(async move {
                    let outcome = batch.sweep(&node, &account).await.map_err(|e| e.to_string().into());
                    let _ = events.send(Event::Swept { pilot, outcome }).await;
                });
            }
        }
        None
    }

    async fn submit(&mut self, job: BatchJob) {
        let pilots = job.pilot_ids();
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

    /// Whether the system answered.
    async fn ask_capabilities(&mut self) -> bool {
        match self.batch.capabilities().await {
            Ok(capabilities) => {
                if self.capabilities.as_ref() != Some(&capabilities) {
                    self.capabilities = Some(capabilities.clone());
                    self.tell(News::Capabilities(capabilities)).await;
                }
                self.heard(Ok(())).await;
                true
            }
            Err(error) => {
                self.heard(Err(error)).await;
                false
            }
        }
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
        let standings = match self.batch.status().await {
            Ok(standings) => standings,
            Err(error) => return self.heard(Err(error)).await,
        };
        self.heard(Ok(())).await;
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

    async fn heard(&mut self, heard: Result<(), BatchError>) {
        if heard.is_ok() == self.answers {
            return;
        }
        self.answers = heard.is_ok();
        match &heard {
            Ok(()) => tracing::info!("the batch system answers again"),
            Err(error) => tracing::warn!("the batch system does not answer: {error}"),
        }
        self.tell(News::Answers(heard.map_err(|error| error.to_string().into()))).await;
    }

    async fn tell(&self, news: News) {
        let _ = self.events.send(Event::Batch(news)).await;
    }
}
