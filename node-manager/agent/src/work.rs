//! What the handler has done beside itself, and what comes back from it.

use std::sync::Arc;

use node_manager::init::record::FileId;
use protocol::ids::JobId;
use protocol::keys::KeyRing;
use protocol::names::Text;
use protocol::refusal::{Failure, Refusal};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use crate::init::{Init, InitError, Over};
use crate::keys::{KeyError, Keys};
use crate::limits::Counters;
use crate::render::environment::Variables;
use crate::render::ssh;
use crate::services::{OWN_COMMANDS, Services};
use crate::setup::{self, CheckedSetup, Prepared};
use crate::voice::Asker;

/// Numbers of own commands that one RUN may use.
const OWN_COMMANDS_PER_RUN: u64 = 1 << 16;

/// Keys and account, or why there are none.
pub type PrepareResult = Result<Prepared, KeyError>;

/// A sandbox that stands.
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub init: Init,
    pub keys: Arc<Keys>,
    pub counters: Counters,
    /// The account's login shell.
    pub shell: String,
}

/// What follows from the key ring that was installed last.
#[derive(Clone, Debug)]
pub struct Joined {
    pub ring: Arc<KeyRing>,
    /// Of every command and ssh login.
    pub variables: Arc<Variables>,
}

/// A piece of work came to its end.
#[derive(Debug)]
pub enum Done {
    Prepared {
        init: Init,
        result: Result<Prepared, Text>,
    },
    Installed {
        asker: Asker,
        result: Result<Joined, (FileId, InitError)>,
    },
    Served {
        asker: Asker,
        result: Result<(), Failure>,
    },
    /// It started, or it did not.
    CommandBegun {
        job: JobId,
        result: Result<(), Failure>,
    },
    /// Its end was told; so many bytes of its output wait to be saved.
    CommandEnded {
        job: JobId,
        kept_bytes: usize,
    },
    /// Nothing of it is kept.
    CommandOver(JobId),
    /// What was asked to end by itself has, or had its time.
    Emptied,
    /// The address may be free now.
    ShapeAgain,
    InitOver(Over),
}

/// Waits for the keys, which are nearly always there before the sandbox.
pub async fn prepared(preparing: JoinHandle<PrepareResult>, init: Init, results: UnboundedSender<Done>) {
    let result = match preparing.await {
        Ok(Ok(prepared)) => Ok(prepared),
        Ok(Err(error)) => Err(error.to_string().into()),
        Err(error) => Err(error.to_string().into()),
    };
    let _ = results.send(Done::Prepared { init, result });
}

/// SET_KEYS: writes every file that follows from the ring.
pub async fn install(sandbox: Sandbox, joined: Joined, asker: Asker, results: UnboundedSender<Done>) {
    let result = setup::install(&sandbox.init, &sandbox.keys, &joined.ring, &joined.variables).await;
    let _ = results.send(Done::Installed { asker, result: result.map(|()| joined) });
}

/// RUN: starts the services and proves them. `run` counts the RUNs of this sandbox.
pub async fn serve(
    sandbox: Sandbox,
    setup: Arc<CheckedSetup>,
    joined: Joined,
    run: u64,
) -> Result<(), Failure> {
    let address = setup.setup.address;
    let sshd_config = ssh::sshd_config(&setup.user, address, &joined.variables);
    let services = Services { keys: &sandbox.keys, address, sshd_config: &sshd_config };
    services.start(&sandbox.init, OWN_COMMANDS + run * OWN_COMMANDS_PER_RUN).await
}

/// Job ids share their numbers with the agent's own commands, but for the upper half.
pub fn check_job(job: JobId) -> Result<(), Refusal> {
    if job.0 < OWN_COMMANDS {
        return Ok(());
    }
    Err(Refusal::Malformed { why: format!("{job} is no job id").into() })
}
