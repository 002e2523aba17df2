//! The batch system: who starts pilots on nodes, takes them away, and knows when they are gone.
//!
//! One trait, one file per system. [`run`] is the task in between: it takes the driver's commands
//! and turns what the system says into [`Event`]s of the owner.

pub mod embedded;
mod process;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use protocol::names::{NodeName, Text};
use tokio::sync::mpsc;

use crate::pilot::PilotId;
use crate::site::{Account, Event, Submit};

/// Why a batch system did not do what it was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct BatchError(pub String);

/// What a batch system can do by itself; what it cannot, the CRM does around it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capabilities {
    /// It starts a pilot on the node that the CRM names. If not, a node is known at arrival.
    pub places_on_named_nodes: bool,
    /// It keeps nodes free for a window in the future. If not, pilots begin early and wait for
    /// their window.
    pub reserves_ahead: bool,
    /// It enforces memory and processor limits around the pilot.
    pub enforces_limits: bool,
    /// How long before a window pilots must be submitted at least, so that they run when it opens.
    pub lead: Duration,
}

/// A pilot as the batch system knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// In the queue or running.
    There,
    /// Its process is gone, and why; said once, then the system forgets the pilot.
    Gone(Text),
}

/// A batch system. Everything may be repeated; a pilot that it does not know is gone.
pub trait Batch: Send + Sync + 'static {
    /// What users see: `slurm`, `embedded`.
    fn name(&self) -> &'static str;

    fn capabilities(&self) -> Capabilities;

    /// Hands a pilot over. `invocation` is a secret: it reaches the Launcher by its standard input
    /// or a file of mode 0600, never by a command line or a variable.
    fn submit(
        &self,
        submit: &Submit,
        invocation: &[u8],
    ) -> impl Future<Output = Result<(), BatchError>> + Send;

    /// How every pilot stands, in one call.
    fn status(&self) -> impl Future<Output = Result<Vec<(PilotId, Standing)>, BatchError>> + Send;

    /// Resolves when [`Self::status`] is worth asking again.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// Ends a pilot: politely first, then by force. Returns at once; `status` tells when it is gone.
    fn cancel(&self, pilot: PilotId) -> impl Future<Output = Result<(), BatchError>> + Send;

    /// Removes what dead pilots left on a node. Bounded in time.
    ///
    /// # Errors
    /// What could not be removed, or why the node cannot be reached.
    fn sweep(
        &self,
        node: &NodeName,
        account: &Account,
    ) -> impl Future<Output = Result<(), BatchError>> + Send;
}

/// What the driver asks of the batch task.
#[derive(Debug)]
pub enum Command {
    Submit { submit: Box<Submit>, invocation: Vec<u8> },
    Cancel { pilot: PilotId },
    Sweep { pilot: PilotId, node: NodeName, account: Account },
}

/// Carries commands out and reports, until the driver is gone.
pub async fn run<B: Batch>(
    batch: Arc<B>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Event>,
) {
    // Pilots that the system has, as far as we know: one that it forgot is gone, too.
    let mut known: BTreeSet<PilotId> = BTreeSet::new();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => return,
                Some(Command::Submit { submit, invocation }) => {
                    let pilot = submit.pilot;
                    match batch.submit(&submit, &invocation).await {
                        Ok(()) => {
                            known.insert(pilot);
                        }
                        Err(error) => {
                            let reason = format!("it could not be submitted: {error}").into();
                            let _ = events.send(Event::BatchGone { pilot, reason }).await;
                        }
                    }
                }
                Some(Command::Cancel { pilot }) => {
                    if known.insert(pilot) {
                        // One of before a restart, or one that is gone: the system must say.
                        look(&*batch, &mut known, &events).await;
                    }
                    if known.contains(&pilot)
                        && let Err(error) = batch.cancel(pilot).await
                    {
                        tracing::warn!("pilot {pilot} cannot be cancelled: {error}");
                    }
                }
                Some(Command::Sweep { pilot, node, account }) => {
                    let (batch, events) = (batch.clone(), events.clone());
                    tokio::spawn(async move {
                        let outcome = batch.sweep(&node, &account).await.map_err(|e| e.to_string().into());
                        let _ = events.send(Event::Swept { pilot, outcome }).await;
                    });
                }
            },
            () = batch.changed() => look(&*batch, &mut known, &events).await,
        }
    }
}

/// Asks how all pilots stand and reports those that are gone.
async fn look<B: Batch>(batch: &B, known: &mut BTreeSet<PilotId>, events: &mpsc::Sender<Event>) {
    let standings = match batch.status().await {
        Ok(standings) => standings,
        Err(error) => return tracing::warn!("the batch system does not answer: {error}"),
    };
    let mut there = BTreeSet::new();
    let mut gone = Vec::new();
    for (pilot, standing) in standings {
        match standing {
            Standing::There => {
                there.insert(pilot);
            }
            Standing::Gone(reason) => gone.push((pilot, reason)),
        }
    }
    let named: BTreeSet<_> = gone.iter().map(|(pilot, _)| *pilot).collect();
    for pilot in known.iter().filter(|p| !there.contains(p) && !named.contains(p)) {
        gone.push((*pilot, "the batch system does not know it".into()));
    }
    for (pilot, reason) in gone {
        known.remove(&pilot);
        let _ = events.send(Event::BatchGone { pilot, reason }).await;
    }
}
