//! What the owner makes durable, one record per thing, replaced whole: after a restart the records
//! that are there are all that was ever promised.
//!
//! | record | before |
//! |---|---|
//! | reservation, with the attempt that it begins | Hold |
//! | reservation, with the grant that was decided | Commit, the answer |
//! | reservation, ending and why | End, the answer |
//! | reservation, with its next epoch | Start of it |
//! | reservation, with what is in its key ring | Join |
//! | job, and how it stands | its answer; Exec; ExitSaved |
//! | refusal of a request | the answer |
//! | what a site did not confirm | that the reservation is over |
//! | ids that may be in use | the first of them |

use std::time::Duration;

use protocol::client::Reply;
use protocol::codec::{self, CodecError};
use protocol::ids::{Epoch, JobId, MemberNumber, RequestId, ReservationId, Version};
use protocol::job::{Command, ExitStatus, Hits, JobState, Target};
use protocol::names::{HostName, Label, SiteName, Text, UserName};
use protocol::refusal::Failure;
use protocol::reservation::{Ask, PairRate};
use serde::{Deserialize, Serialize};

use crate::coordinator::Ids;
use crate::reservation::{Grant, Share, Window};

/// One change of what is durable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    Put(Value),
    Forget(Key),
}

impl Record {
    pub fn key(&self) -> Key {
        match self {
            Self::Put(value) => value.key(),
            Self::Forget(key) => key.clone(),
        }
    }

    /// The change of the store.
    pub fn encode(&self) -> Result<journal::Write, CodecError> {
        let key = self.key().stored();
        Ok(match self {
            Self::Put(value) => journal::Write::Put { key, value: codec::encode(value)? },
            Self::Forget(_) => journal::Write::Delete { key },
        })
    }
}

/// What a record is about. The wire form is the position: append only.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Serialize, Deserialize)]
pub enum Key {
    Ids,
    Reservation(ReservationId),
    Job(JobId),
    Run(JobId),
    Owed(ReservationId, SiteName),
    Answer(u64),
}

/// What is kept under a key. The wire form is the position: append only.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// All ids below these may be in use.
    Ids(Ids),
    Reservation(Box<SavedReservation>),
    Job(Box<SavedJob>),
    Run(Box<SavedRun>),
    Owed(Box<SavedOwed>),
    Answer(Box<SavedAnswer>),
}

impl Value {
    pub fn key(&self) -> Key {
        match self {
            Self::Ids(_) => Key::Ids,
            Self::Reservation(saved) => Key::Reservation(saved.id),
            Self::Job(saved) => Key::Job(saved.id),
            Self::Run(saved) => Key::Run(saved.id),
            Self::Owed(saved) => Key::Owed(saved.reservation, saved.share.site.clone()),
            Self::Answer(saved) => Key::Answer(saved.number),
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes)
    }
}

impl Key {
    /// Its name in the store. Numbers grow, so that what is made together lies together.
    pub fn stored(&self) -> journal::Key {
        match self {
            Self::Ids => journal::Key::of(0, 0),
            Self::Reservation(id) => journal::Key::of(1, id.0),
            Self::Job(id) => journal::Key::of(2, id.0),
            Self::Run(id) => journal::Key::of(3, id.0),
            Self::Owed(id, site) => {
                let id = [&id.0.to_be_bytes(), site.as_str().as_bytes()].concat();
                journal::Key::new(4, &id).unwrap_or_else(|_| journal::Key::of(4, u64::MAX))
            }
            Self::Answer(number) => journal::Key::of(5, *number),
        }
    }
}

/// Where a reservation stands, as far as it must be known again.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Standing {
    /// Accepted, waits its turn.
    Waiting,
    /// Sites were asked to hold. Without a decision the attempt is aborted by a restart, and the
    /// reservation waits again or, where its user waits for the answer, never was.
    Begun,
    /// Every site and link has it until the end of the window.
    Granted,
    /// Sites are told to end.
    Ending,
    Over {
        at: Duration,
    },
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedReservation {
    pub id: ReservationId,
    pub user: UserName,
    pub ask: Ask,
    /// The request that made it, and those that changed it: what they were answered follows.
    pub request: RequestId,
    pub changes: Vec<(RequestId, Version)>,
    pub own_job: Option<JobId>,
    pub made: Duration,
    pub standing: Standing,
    pub version: Version,
    pub attempt: Option<SavedAttempt>,
    pub grant: Option<Grant>,
    pub shares: Vec<Share>,
    /// Sites that have confirmed the end: what they had may be somebody else's by now.
    pub confirmed: Vec<SiteName>,
    pub epoch: Epoch,
    /// A key ring of this epoch was sent, with these reports of its sites.
    pub ring: Vec<InRing>,
    /// This epoch was ready once.
    pub ready: bool,
    pub failure: Option<Failure>,
    pub remarks: Vec<Text>,
}

/// Which report of a site is in a key ring.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct InRing {
    pub site: SiteName,
    /// The submission of which its members are.
    pub round: u32,
    /// Of who they are, see [`crate::exchange::digest`]: the site cannot change that any more.
    pub digest: [u8; 32],
}

/// What sites were asked to hold.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedAttempt {
    pub version: Version,
    pub window: Window,
    pub shares: Vec<Share>,
    pub rates: Vec<PairRate>,
}

/// What does not change of a job.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedJob {
    pub id: JobId,
    pub user: UserName,
    pub reservation: ReservationId,
    /// The request that made it; none for one that was made with its reservation.
    pub request: Option<RequestId>,
    pub label: Option<Label>,
    pub target: Target,
    /// Until it is over.
    pub command: Option<Command>,
    pub summary: Text,
    pub submitted: Duration,
    pub grace: Option<Duration>,
}

/// How a job stands.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedRun {
    pub id: JobId,
    pub state: JobState,
    pub stopping_as: Option<JobState>,
    /// The incarnation in which it was started.
    pub epoch: Epoch,
    pub running: Vec<(SiteName, Vec<MemberNumber>)>,
    pub status: Option<ExitStatus>,
    pub started: Option<Duration>,
    pub ended: Option<Duration>,
    pub head: Option<HostName>,
    pub hits: Hits,
    /// Sites where it may still run though it is over.
    pub kills: Vec<SiteName>,
}

/// A part whose site did not confirm its end: what it has stays taken.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedOwed {
    pub reservation: ReservationId,
    pub share: Share,
    pub window: Window,
}

/// What a request was refused with, for one that comes again. What one was granted stands with
/// the thing that it made.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedAnswer {
    pub user: UserName,
    pub request: RequestId,
    pub reply: Reply,
    /// Orders the answers of one user.
    pub number: u64,
}
