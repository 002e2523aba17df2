//! The batch system: who starts pilots on nodes, takes them away, and knows when they are gone.
//!
//! One trait, one file per system. [`run`] is the task in between: it takes the driver's commands
//! and turns what the system says into [`Event`]s of the owner. [`start`] knows which file a
//! configuration means; nothing else does.

mod commands;
pub mod embedded;
mod ending;
mod files;
mod grid_engine;
mod host_script;
mod keeper;
mod ledger;
#[cfg(test)]
mod looks;
mod names;
mod notes;
mod pbs;
mod process;
mod run;
mod slurm;
#[cfg(test)]
mod stand_ins;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use protocol::ids::ReservationId;
use protocol::names::{NodeName, Text};
use tokio::sync::mpsc;

pub use run::{Command, run};

use crate::config::{Config, System};
use crate::pilot::PilotId;
use crate::site::{Account, Ahead, Event, Submit};
pub use crate::standing::{BatchError, Capabilities, Standing};

/// What is submitted at once: pilots of one round, for one account, with equal limits and
/// times. They begin together.
#[derive(Debug)]
pub struct BatchJob {
    /// Never empty, in the order of their members. The bytes are the Launcher's invocation, a
    /// secret: they reach it by its standard input or a file of mode 0600, never by a command line
    /// or a variable.
    pub pilots: Vec<(Submit, Vec<u8>)>,
}

impl BatchJob {
    /// A job of one pilot.
    pub fn of(submit: Submit, invocation: Vec<u8>) -> Self {
        Self { pilots: vec![(submit, invocation)] }
    }

    /// Whether this pilot belongs into this job.
    pub fn takes(&self, submit: &Submit) -> bool {
        let of = |pilot: PilotId| (pilot.reservation, pilot.round);
        self.pilots.first().is_some_and(|(first, _)| of(first.pilot) == of(submit.pilot))
    }

    pub fn pilot_ids(&self) -> Vec<PilotId> {
        self.pilots.iter().map(|(submit, _)| submit.pilot).collect()
    }
}

/// What a queue admits now.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Admits {
    nodes_max: Option<u32>,
    walltime_max: Option<Duration>,
    /// Why it starts nothing now.
    closed: Option<Text>,
}

impl Admits {
    /// A system that refuses to say what its queue admits answers all the same: it has no such
    /// queue, or none that pilots can run in.
    fn or_closed(said: Result<Self, BatchError>) -> Result<Self, BatchError> {
        match said {
            Err(BatchError::Refused(why)) => Ok(Self { closed: Some(why), ..Self::default() }),
            said => said,
        }
    }
}

/// A batch system. Everything may be repeated; a pilot that it does not know is gone.
pub trait Batch: Send + Sync + 'static {
    /// How long a submission without an answer, or one that a CRM made when it died, may take to
    /// turn up in [`Self::status`].
    const TURN_UP_TIME: Duration = Duration::from_secs(60);

    /// What it can do and admits. Asked at the start and every half a minute: queues change. Where
    /// it answers, but has no such queue or none that pilots can run in, that is `closed`.
    fn capabilities(&self) -> impl Future<Output = Result<Capabilities, BatchError>> + Send;

    /// Hands a job over: all of its pilots, or none. A pilot that was started and died is not an
    /// error of this call but one of those that are gone.
    fn submit(&self, job: &BatchJob) -> impl Future<Output = Result<(), BatchError>> + Send;

    /// How every pilot stands, in one call; also those of before a restart of the CRM. `None` when
    /// it has none of ours and was not asked: that says nothing of whether it answers.
    fn status(&self) -> impl Future<Output = Result<Option<Vec<(PilotId, Standing)>>, BatchError>> + Send;

    /// Resolves when [`Self::status`] is worth asking again.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// Asks for the end of pilots: politely first, then by force. Returns when the system has heard
    /// it; `status` tells when they are gone. What is cancelled together is given together.
    fn cancel(&self, pilots: &[PilotId]) -> impl Future<Output = Result<(), BatchError>> + Send;

    /// Keeps nodes free for a window, or keeps them otherwise than before; for a system that says
    /// so in its capabilities. What is submitted for that reservation then runs there.
    ///
    /// # Errors
    /// Nothing is kept, or not as asked: pilots queue like everybody's.
    fn reserve(&self, ahead: &Ahead) -> impl Future<Output = Result<(), BatchError>> + Send {
        let _ = ahead;
        async { Ok(()) }
    }

    /// Keeps them no more. Repeatable, also of what was never kept.
    fn unreserve(&self, reservation: ReservationId) -> impl Future<Output = Result<(), BatchError>> + Send {
        let _ = reservation;
        async { Ok(()) }
    }

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

/// Starts the batch system of a configuration; its task ends with the sender of commands. To be
/// called in a runtime.
///
/// # Errors
/// What it needs here is missing. That the system itself does not answer is no error: it may later.
pub fn start(
    config: &Config,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Event>,
) -> Result<()> {
    match config.batch.system {
        System::Embedded => {
            let embedded = embedded::Embedded::new(&config.batch.node, &config.launcher, &config.state)?;
            tokio::spawn(run(Arc::new(embedded), commands, events));
        }
        System::Slurm => {
            tokio::spawn(run(Arc::new(slurm::Slurm::new(config)?), commands, events));
        }
        System::GridEngine => {
            let grid_engine = grid_engine::GridEngine::new(config)?;
            tokio::spawn(run(Arc::new(grid_engine), commands, events));
        }
        System::Pbs => {
            tokio::spawn(run(Arc::new(pbs::Pbs::new(config)?), commands, events));
        }
    }
    Ok(())
}
