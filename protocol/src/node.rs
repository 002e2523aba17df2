//! The conversation between a site's CRM and the agent of one NodeManager. The agent dials.
//! The CRM's requests carry a correlation id and are answered by one [`Reply`]; what happens by
//! itself is a [`Notice`]. The first frame of the agent is the request [`Arrive`].
//!
//! The wire form of an enum is the *position* of its variant, so variants are only ever
//! appended; `golden/node_v1.txt` pins the bytes of every variant.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::at_most;
use crate::ids::{Epoch, JobId, ReservationId};
use crate::job::{self, Command, ExitStatus, Stream};
use crate::keys::{KeyRing, MemberKeys};
use crate::limits::{self, COMMAND_BYTES_MAX, GRANT_BYTES_MAX, SIGNATURE_BYTES};
use crate::names::{EnvironmentName, HostName, NodeName, Text, VariableName};
use crate::refusal::{Failure, Refusal};

/// What a pilot is started with: handed over in a 0600 file or a pipe, never on a command line.
/// The Launcher passes the encoded bytes on without reading them.
#[derive(Clone, Eq, PartialEq, Serialize, Deserialize)]
pub struct Invocation {
    /// Where the site's CRM listens for pilots.
    pub crm: SocketAddr,
    pub token: Token,
}

impl std::fmt::Debug for Invocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invocation").field("crm", &self.crm).finish_non_exhaustive()
    }
}

/// Proves once that a pilot was started by this CRM; bound there to (reservation, epoch, slot,
/// expiry).
#[derive(Clone, Copy, Eq, PartialEq, Hash, Serialize, Deserialize)]
pub struct Token(pub [u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The agent's first request. Answered by [`Reply::Done`], or refused and disconnected.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Arrive {
    pub token: Token,
    /// The monitor's challenge: the grant must carry it, so no grant can be replayed.
    pub nonce: [u8; 16],
    /// Host name of the node, outside the sandbox.
    pub node: NodeName,
    /// The local account that the pilot runs as: the monitor builds for no other.
    pub uid: u32,
    /// Changes when the node reboots: everything before is gone then.
    pub boot_id: [u8; 16],
    /// The agent's own version, for logs.
    pub version: Text,
}

/// Requests of the CRM to one agent.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Build the sandbox. Legal once, when idle; a second one is `Refusal::WrongState`.
    Setup(Setup),
    /// Hand over the public halves of this sandbox's keys. Legal from ready on; repeatable.
    /// Sent right behind SETUP, without waiting: the keys are made meanwhile.
    GetKeys,
    /// Install the merged view of all sites, whole files by rename. Repeatable.
    SetKeys(KeyRing),
    /// Start the sandbox's services; answered when its sshd answers with its own host key.
    /// Repeatable.
    Run,
    /// Start a command as the user; it ends as a [`Notice::Exited`]. The same job id never
    /// starts twice: a repeated one is answered `Done`.
    Exec { job: JobId, command: Command },
    /// Signal every process of the command's session. An unknown job is answered `Done`.
    Signal { job: JobId, signal: u8 },
    /// Output is kept up to here: more may be sent. Not answered.
    OutputSaved { job: JobId, stream: Stream, upto: u64 },
    /// Tear down. Legal in every state, repeatable, always answered.
    Shutdown,
    /// State, since when. Legal in every state.
    GetStatus,
}

impl Request {
    /// What the agent checks of every request before it acts on it.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Setup(setup) => setup.check(),
            Self::SetKeys(ring) => ring.check(),
            Self::Exec { command, .. } => command.check(),
            Self::Signal { signal, .. } => job::check_signal(*signal),
            Self::GetKeys | Self::Run | Self::OutputSaved { .. } | Self::Shutdown | Self::GetStatus => Ok(()),
        }
    }
}

/// SETUP: the signed grant for the monitor, and what the agent needs beside it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Encoded `grant::Grant`; the monitor checks it, the agent passes it on.
    #[serde(deserialize_with = "at_most::<{limits::GRANT_BYTES_MAX}, _, _>")]
    pub grant: Vec<u8>,
    /// Ed25519 signature by the site's grant key, 64 bytes.
    #[serde(deserialize_with = "at_most::<{limits::SIGNATURE_BYTES}, _, _>")]
    pub signature: Vec<u8>,
    pub host: HostName,
    pub address: Ipv4Addr,
    pub reservation: ReservationId,
    pub epoch: Epoch,
    pub environment: EnvironmentName,
    /// Variables for every command and ssh login, beside the standard ones.
    #[serde(deserialize_with = "at_most::<{limits::ARGUMENTS_DECODED_MAX}, _, _>")]
    pub variables: Vec<(VariableName, String)>,
}

impl Setup {
    /// What the agent checks before it hands the grant to the monitor, which checks what is in it.
    pub fn check(&self) -> Result<(), Refusal> {
        let grant = (1..=GRANT_BYTES_MAX).contains(&self.grant.len());
        Refusal::unless(grant, "a grant of a size that no grant has")?;
        Refusal::unless(self.signature.len() == SIGNATURE_BYTES, "a signature that is not 64 bytes")?;
        let bytes = job::check_variables(&self.variables)?;
        Refusal::unless_at_most("bytes of variables", bytes, COMMAND_BYTES_MAX)
    }
}

/// Where a NodeManager stands:
/// `Idle -> Building -> Ready -> Joined -> Running -> TearingDown -> Gone`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
pub enum State {
    Idle,
    Building,
    /// The sandbox stands.
    Ready,
    /// The key ring is installed.
    Joined,
    /// Its sshd answers; commands may be started.
    Running,
    TearingDown,
    Gone,
}

/// Answers to requests.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Keys(MemberKeys),
    Status {
        state: State,
        since_s: u64,
        commands: u32,
    },
    /// Nothing was changed.
    Refused(Refusal),
    /// Something had begun and failed.
    Failed(Failure),
}

/// What the agent says unasked.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Notice {
    /// Every change of state; the cause where it was not asked for.
    StateChanged { state: State, cause: Option<Failure> },
    /// Bytes of a command's stream, in order; never more than
    /// [`crate::limits::OUTPUT_AHEAD_BYTES_MAX`] ahead of `OutputSaved`.
    Output { job: JobId, stream: Stream, offset: u64, bytes: Bytes },
    /// The command ended and all of its output was sent.
    Exited { job: JobId, status: ExitStatus },
    /// The sandbox is gone, confirmed by the monitor; what could not be removed is named.
    Gone { dirty: Option<Text>, cause: Option<Failure> },
}

impl Notice {
    /// What the CRM checks of every notice before it passes it on.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Output { offset, bytes, .. } => job::check_output(*offset, bytes),
            Self::StateChanged { .. } | Self::Exited { .. } | Self::Gone { .. } => Ok(()),
        }
    }
}
