//! The conversation between a site's CRM and the agent of one NodeManager. The agent dials.
//! The CRM's requests carry a correlation id and are answered by one [`Reply`]; what happens by
//! itself is a [`Notice`]. The first frame of the agent is the request [`First`].
//!
//! **The lease.** Each side says something at least every quarter of the lease, `Beat` if there is
//! nothing else; any frame is a sign of life. An agent that hears nothing for the lease tears its
//! sandbox down. One that loses its connection dials again with the same certificate and returns;
//! whatever was under way is asked again then, and output goes on by `Resend`, never by itself.
//!
//! The wire form of an enum is the *position* of its variant, so variants are only ever
//! appended; `golden/node_v3.txt` pins the bytes of every variant.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::at_most;
use crate::ids::{Epoch, JobId, ReservationId};
use crate::job::{self, Command, ExitStatus, Hits, Stream};
use crate::keys::{KeyRing, MemberKeys};
use crate::limits::{self, COMMAND_BYTES_MAX, GRANT_BYTES_MAX, SIGNATURE_BYTES};
use crate::names::{EnvironmentName, HostName, NodeName, Text, VariableName};
use crate::refusal::{Failure, Refusal};

/// The cause that an agent gives when its pilot was told to end, by whoever may tell a batch job to:
/// only the batch system can say why it did.
pub const ENDED_BY_BATCH_SYSTEM: &str = "the batch system ended the pilot";

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

/// The agent's first request on a connection. Answered by [`Reply::Done`], or refused and
/// disconnected.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum First {
    Arrive(Arrive),
    /// It was let in before, with the certificate that it shows again.
    Return(Return),
}

impl First {
    /// What the CRM checks before it looks who it is.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Return(Return { rates: Some(rates), .. }) => rates.check(),
            Self::Arrive(_) | Self::Return(_) => Ok(()),
        }
    }
}

/// How a NodeManager stands whose connection was lost. Who it is, its certificate says.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Return {
    /// As in [`Arrive`]: of the same monitor.
    pub nonce: [u8; 16],
    pub node: NodeName,
    pub uid: u32,
    pub boot_id: [u8; 16],
    pub state: State,
    /// From ready on.
    pub keys: Option<MemberKeys>,
    /// The rates that hold, as the CRM signed them.
    pub rates: Option<SignedRates>,
    pub version: Text,
}

/// A pilot is there. Answered by [`Reply::Done`], or refused and disconnected.
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
    /// Signal every process of the command, also one that left its session; 1 to
    /// [`limits::SIGNAL_MAX`]. An unknown job is answered `Done`. After SIGTERM or SIGKILL the
    /// command's `Exited` is not told before all of them are gone; SIGKILL is answered when they
    /// are, or `Failed` naming one that does not die.
    Signal { job: JobId, signal: u8 },
    /// Output is kept up to here: more may be sent, and this much is never sent again. Not
    /// answered.
    OutputSaved { job: JobId, stream: Stream, upto: u64 },
    /// Tear down. Legal in every state, repeatable, always answered.
    Shutdown,
    /// State, since when. Legal in every state.
    GetStatus,
    /// Give the sandbox's classes these rates, in place. Legal from ready on; repeatable with a
    /// larger serial. Answered `Done` when they hold, `Failed` when the monitor did not accept or
    /// could not install them.
    Shape(SignedRates),
    /// Send again what of this command is not saved: all output from the last `OutputSaved` on,
    /// then its `Exited` if it has ended. Not answered; nothing comes for a command that is not
    /// known here, or whose end was saved.
    Resend { job: JobId },
    /// The end of the command is kept, and with it all of its output: the agent forgets both. Not
    /// answered. Until then they wait, those of at least [`limits::ENDED_MAX`] commands.
    ExitSaved { job: JobId },
    /// Tear down as [`Request::Shutdown`], but first send SIGTERM to everything that runs inside, and
    /// let it have so long to end by itself. Legal and answered like it; the first one counts.
    End { grace_ms: u32 },
    /// A sign of life, answered by [`Notice::Beat`].
    Beat,
}

impl Request {
    /// What the agent checks of every request before it acts on it.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Setup(setup) => setup.check(),
            Self::SetKeys(ring) => ring.check(),
            Self::Exec { command, .. } => command.check(),
            Self::Signal { signal, .. } => job::check_signal(*signal),
            Self::Shape(rates) => rates.check(),
            Self::GetKeys
            | Self::Run
            | Self::OutputSaved { .. }
            | Self::Shutdown
            | Self::GetStatus
            | Self::Resend { .. }
            | Self::ExitSaved { .. }
            | Self::End { .. }
            | Self::Beat => Ok(()),
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
    /// For a grant that says `shaped`, and for no other: until its rates are installed, the
    /// sandbox has no network.
    pub rates: Option<SignedRates>,
}

/// Encoded `grant::Rates`: the monitor checks them, the agent passes them on.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SignedRates {
    #[serde(deserialize_with = "at_most::<{limits::GRANT_BYTES_MAX}, _, _>")]
    pub record: Vec<u8>,
    /// Ed25519 signature by the site's grant key, 64 bytes.
    #[serde(deserialize_with = "at_most::<{limits::SIGNATURE_BYTES}, _, _>")]
    pub signature: Vec<u8>,
}

impl SignedRates {
    /// What the agent checks before it hands them to the monitor.
    pub fn check(&self) -> Result<(), Refusal> {
        check_signed(&self.record, &self.signature)
    }
}

fn check_signed(record: &[u8], signature: &[u8]) -> Result<(), Refusal> {
    let sized = (1..=GRANT_BYTES_MAX).contains(&record.len());
    Refusal::unless(sized, "a signed record of a size that none has")?;
    Refusal::unless(signature.len() == SIGNATURE_BYTES, "a signature that is not 64 bytes")
}

impl Setup {
    /// What the agent checks before it hands the grant to the monitor, which checks what is in it.
    pub fn check(&self) -> Result<(), Refusal> {
        check_signed(&self.grant, &self.signature)?;
        self.rates.as_ref().map_or(Ok(()), SignedRates::check)?;
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
    /// Bytes of a command's stream, in order; none at all say where it ended, in front of `Exited`; never more than
    /// [`limits::OUTPUT_AHEAD_BYTES_MAX`] ahead of `OutputSaved`. After `Resend` they begin anew at
    /// what was saved.
    Output { job: JobId, stream: Stream, offset: u64, bytes: Bytes },
    /// The command ended and all of its output was sent. Awaits `ExitSaved`.
    Exited { job: JobId, status: ExitStatus, hits: Hits },
    /// The sandbox is gone, confirmed by the monitor; what could not be removed is named.
    Gone { dirty: Option<Text>, cause: Option<Failure> },
    /// What the sandbox's classes have sent so far, told once a second while it is shaped.
    Used {
        /// Milliseconds on a clock of the agent's own: differences only mean something.
        at_ms: u64,
        /// In the order of their numbers; a class that was never given a rate is left out.
        #[serde(deserialize_with = "at_most::<{limits::CLASSES_MAX}, _, _>")]
        classes: Vec<ClassUse>,
    },
    /// A sign of life.
    Beat,
}

/// Counters of one class since it was made; they never go back.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ClassUse {
    /// Its number in the rates, below [`limits::CLASSES_MAX`].
    pub class: u8,
    /// Bytes that left, with their headers.
    pub sent_bytes: u64,
    /// Packets that found its queue full.
    pub dropped: u64,
    /// Bytes that wait in its queue now.
    pub backlog_bytes: u32,
}

impl Notice {
    /// What the CRM checks of every notice before it passes it on.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Output { offset, bytes, .. } => job::check_output(*offset, bytes),
            Self::Used { classes, .. } => {
                let known = classes.iter().all(|one| usize::from(one.class) < limits::CLASSES_MAX);
                Refusal::unless(known, "a class that no sandbox has")?;
                let once = classes.is_sorted_by(|one, next| one.class < next.class);
                Refusal::unless(once, "classes twice, or out of their order")
            }
            Self::StateChanged { .. } | Self::Exited { .. } | Self::Gone { .. } | Self::Beat => Ok(()),
        }
    }
}
