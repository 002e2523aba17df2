//! What the owner of a site is told and what it tells its driver.

use std::time::Duration;

use grant::{Grant, Rates};
use protocol::identity::Pin;
use protocol::ids::{JobId, ReservationId, Version};
use protocol::keys::{KeyRing, MemberKeys};
use protocol::names::{EnvironmentName, NodeName, Text, UserName};
use protocol::node::{self, Notice, Reply, Request};
use protocol::refusal::Refusal;
use protocol::reservation::Limits;
use protocol::site::{FromSite, Part, ToSite};
use serde::{Deserialize, Serialize};

use super::Ahead;
use crate::pilot::PilotId;
use crate::record::Record;
use crate::standing::{BatchError, Capabilities, Standing};

/// The local account that a grid user's pilots run as.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub name: UserName,
    pub uid: u32,
    pub gid: u32,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A connection to the GRC stands and has greeted.
    GrcConnected,
    /// It is gone. That ends nothing: windows do, and the GRC's own word.
    GrcLost,
    /// `ToSite::Hold`, with the account that the edge looked up for its user.
    Hold { reservation: ReservationId, version: Version, part: Part, account: Result<Account, Refusal> },
    /// Every other message of the GRC.
    Grc(ToSite),
    /// A pilot showed its token, and [`crate::site::Site::expects`] said yes. `node` is what its
    /// machine calls itself.
    Arrived { pilot: PilotId, pin: Pin, nonce: [u8; 16], node: NodeName, boot_id: [u8; 16] },
    /// An agent that was let in before is connected again, and [`crate::site::Site::returns`] said
    /// which pilot that is.
    Returned { pilot: PilotId, back: Box<Back> },
    /// The agent answered a request.
    Answered { pilot: PilotId, asked: Asked, reply: Reply },
    /// The agent said something unasked.
    Noticed { pilot: PilotId, notice: Notice },
    /// The connection to the agent ended, or was given up, so long after its last word.
    AgentLost { pilot: PilotId, cause: Text, silent: Duration },
    /// The batch system had the pilot, or started it in vain, and says that it is gone.
    BatchGone { pilot: PilotId, reason: Text },
    /// What else the batch system says.
    Batch(News),
    /// The answer to [`Action::Sweep`].
    Swept { pilot: PilotId, outcome: Result<(), Text> },
    /// Time passed; sent at the latest at [`crate::site::Site::next_deadline`].
    Tick,
    /// The CRM shall stop: end all pilots, hold nothing new. What was granted stays granted.
    Stop,
}

/// How an agent stands that is there again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Back {
    pub nonce: [u8; 16],
    pub state: node::State,
    pub keys: Option<MemberKeys>,
    /// Those that hold there. The site signed them, or they are not here.
    pub rates: Option<Rates>,
}

/// What the batch system says unasked, or of a submission. The site may do without any of it:
/// pilots arrive or do not, and their end is an event of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum News {
    /// What the system can do and admits; said at the start and whenever it changed.
    Capabilities(Capabilities),
    /// Whether the system answers, and else why not; said when it changed.
    Answers(Result<(), Text>),
    /// A pilot waits or runs; said when it changed. Also of a pilot that nobody knows any more.
    Stands { pilot: PilotId, standing: Standing },
    /// These pilots, one batch job, were not taken. After [`BatchError::Unknown`] they may be there
    /// all the same: [`News::NotThere`] or another word of them follows. After the others they are not.
    NotSubmitted { pilots: Vec<PilotId>, error: BatchError },
    /// The system knows nothing of these pilots: they never came there, or their end was not heard
    /// of. Those of one round come together.
    NotThere { pilots: Vec<PilotId> },
}

/// Which request an agent's reply belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    Setup,
    GetKeys,
    SetKeys,
    Run,
    Exec(JobId),
    Signal(JobId),
    /// The rates with this serial.
    Shape(u32),
    Shutdown,
}

/// What the driver shall do, in this order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Make this durable before anything behind it is done; if that fails, end the process.
    Record(Record),
    /// Send to the GRC; dropped when it is not connected.
    Tell(FromSite),
    /// Make a token for this pilot and hand the pilot to the batch system. What follows one another
    /// and is of one round goes there as one batch job.
    Submit(Submit),
    /// A CRM of before submitted this pilot: the batch system is to say when it is gone, and its
    /// token is good for so many seconds more, if it may still arrive.
    Adopt { pilot: PilotId, token_s: Option<u32> },
    /// Void the pilot's token and have the batch system take it away; answered by
    /// [`Event::BatchGone`], or by [`News::NotThere`] when that does not know the pilot. Repeatable.
    Cancel { pilot: PilotId },
    /// Have the batch system keep nodes free for a window, or keep them otherwise than before.
    Reserve(Ahead),
    /// It need not any more. Repeatable, also of what was never kept.
    Unreserve { reservation: ReservationId },
    /// Ask the batch system how the queue is; answered by [`News::Capabilities`] if it answers.
    Probe,
    /// Remove what dead pilots left on the node; answered by [`Event::Swept`].
    Sweep { pilot: PilotId, node: NodeName, account: Account },
    /// Sign grant and rates, then send SETUP and GET_KEYS back to back.
    SetUp { pilot: PilotId, grant: Box<Grant>, rates: Option<Box<Rates>>, environment: EnvironmentName },
    /// Sign these rates and send them to the agent; answered as [`Asked::Shape`].
    Shape { pilot: PilotId, rates: Box<Rates> },
    /// Send SET_KEYS and RUN back to back to each of them; the ring is encoded once.
    Join { pilots: Vec<PilotId>, ring: KeyRing },
    /// Send a request that is answered.
    Ask { pilot: PilotId, asked: Asked, request: Request },
    /// Send what is not answered (`OutputSaved`, `Resend`, `ExitSaved`).
    Pass { pilot: PilotId, request: Request },
    /// Close the connection after what was sent.
    Dismiss { pilot: PilotId },
}

/// A pilot for the batch system.
#[derive(Clone, Debug)]
pub struct Submit {
    pub pilot: PilotId,
    /// Where it shall run; of a queue only the place, which says nothing to the batch system.
    pub node: NodeName,
    /// Nodes that it must not come to, for something of a pilot before is left there.
    pub exclude: Vec<NodeName>,
    pub account: Account,
    pub limits: Limits,
    /// It shall not begin before so many seconds have passed; 0 = as soon as there is room.
    pub begin_in_s: u32,
    /// After so many seconds, counted from now, it is over in any case. Its token is good as long,
    /// for it may wait as long as somebody waits for it; cancelled, the token is void.
    pub lifetime_s: u32,
}
