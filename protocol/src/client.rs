//! The conversation between `gridpilot` (or any client) and the GRC. A request has a correlation
//! id; it is answered by any number of [`Notice`]s and then exactly one [`Reply`], all carrying
//! that id. Several requests may be open on one connection.
//!
//! The wire form of an enum is the position of its variant: append only;
//! `golden/client_v3.txt` pins it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::at_most;
use crate::ids::{JobId, RequestId, ReservationId, Version};
use crate::job::{Command, JobView, Stream, Target};
use crate::limits;
use crate::names::{EnvironmentName, Label, SiteName, Text};
use crate::refusal::{Failure, Refusal};
use crate::reservation::{Ask, Change, ReservationView, UsagePoint};

/// What a client asks. A `RequestId` makes a repeated request harmless: it is answered with the
/// first outcome.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Request {
    Sites,
    /// Nodes, and bandwidth, without a command. Answered `Reserved`: at once if it may wait
    /// (`Start::Open`), else when it is granted, which takes no longer than the deadline of a
    /// hold. Refused when it cannot be had.
    Reserve {
        id: RequestId,
        ask: Ask,
    },
    /// A command in a reservation of its own, which ends with it. Answered `Submitted`, when a
    /// `Reserve` would be answered.
    Submit {
        id: RequestId,
        ask: Ask,
        job: NewJob,
    },
    /// A command in a standing reservation. Answered `Submitted`.
    SubmitIn {
        id: RequestId,
        reservation: ReservationId,
        job: NewJob,
    },
    Reservations,
    Jobs,
    ShowReservation(Selector<ReservationId>),
    ShowJob(Selector<JobId>),
    /// Output from `offset` on as `Notice::Output`; with `follow` until the job is over.
    Log {
        job: Selector<JobId>,
        stream: Stream,
        offset: u64,
        follow: bool,
    },
    /// `Notice::Job` on every change, then `Job` when the job is over.
    WaitJob(Selector<JobId>),
    /// `Notice::Reservation` on every change, then `Reservation` when it is ready or over.
    WaitReservation(Selector<ReservationId>),
    /// SIGTERM to the job; its own reservation, if it has one, ends. Repeatable.
    Cancel(Selector<JobId>),
    /// End the reservation and every job in it. Repeatable. Answered at once; wait for `ended`.
    Release(Selector<ReservationId>),
    ExplainJob(Selector<JobId>),
    ExplainReservation(Selector<ReservationId>),
    /// Change a granted reservation. Answered `Modified` when every site and link holds the new
    /// grant; refused, and everything as before, when one does not.
    Modify {
        id: RequestId,
        reservation: ReservationId,
        change: Change,
    },
    /// What was used of its bandwidth, newest points last. Answered `Usage`.
    Usage(Selector<ReservationId>),
}

impl Request {
    /// What the GRC checks before it looks at the grid: what it refuses needs no state.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Reserve { ask, .. } => ask.check(),
            Self::Submit { ask, job, .. } => ask.check().and_then(|()| job.command.check()),
            Self::SubmitIn { job, .. } => job.command.check(),
            Self::Modify { change, .. } => change.check(),
            Self::Usage(_)
            | Self::Sites
            | Self::Reservations
            | Self::Jobs
            | Self::ShowReservation(_)
            | Self::ShowJob(_)
            | Self::Log { .. }
            | Self::WaitJob(_)
            | Self::WaitReservation(_)
            | Self::Cancel(_)
            | Self::Release(_)
            | Self::ExplainJob(_)
            | Self::ExplainReservation(_) => Ok(()),
        }
    }
}

/// One of the user's own things, by id or as the newest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Selector<T> {
    Id(T),
    Last,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct NewJob {
    pub command: Command,
    pub target: Target,
    pub label: Option<Label>,
    /// Between SIGTERM and SIGKILL when it is cancelled; what the GRC's config says if nothing.
    pub grace_s: Option<u16>,
}

/// The one final answer to a request.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Sites(#[serde(deserialize_with = "at_most::<{limits::SITES_MAX}, _, _>")] Vec<SiteView>),
    Reserved(ReservationId),
    Submitted {
        job: JobId,
        reservation: ReservationId,
    },
    /// Without the `members` of their parts: show one to see them.
    Reservations(#[serde(deserialize_with = "at_most::<{limits::LISTING_MAX}, _, _>")] Vec<ReservationView>),
    Jobs(#[serde(deserialize_with = "at_most::<{limits::LISTING_MAX}, _, _>")] Vec<JobView>),
    Reservation(ReservationView),
    Job(JobView),
    Explained(Explanation),
    /// End of a log; `offset` is where the next one would begin.
    LogEnd {
        offset: u64,
    },
    Refused(Refusal),
    Failed(Failure),
    Modified {
        reservation: ReservationId,
        version: Version,
    },
    Usage(#[serde(deserialize_with = "at_most::<{limits::USAGE_POINTS_MAX}, _, _>")] Vec<UsagePoint>),
}

/// What a request says before its reply.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Notice {
    Output { stream: Stream, offset: u64, bytes: Bytes },
    Job(JobView),
    Reservation(ReservationView),
}

/// One site as shown by `gridpilot sites`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SiteView {
    pub name: SiteName,
    /// In the GRC's config; connected or not.
    pub connected: bool,
    /// Seconds since the epoch, on the GRC's clock.
    pub last_seen_s: Option<u64>,
    pub batch_system: Text,
    pub nodes_usable: u32,
    pub nodes_free: u32,
    #[serde(deserialize_with = "at_most::<{limits::RANGES_PER_SITE_MAX}, _, _>")]
    pub ranges: Vec<Text>,
    #[serde(deserialize_with = "at_most::<{limits::ENVIRONMENTS_PER_SITE_MAX}, _, _>")]
    pub environments: Vec<EnvironmentName>,
    /// Why the site or some of its nodes take no part, one sentence each.
    #[serde(deserialize_with = "at_most::<{limits::NODES_PER_SITE_MAX}, _, _>")]
    pub problems: Vec<Text>,
}

/// Why something waits or failed, in the order of importance.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// One sentence: how it stands.
    pub summary: Text,
    /// What it waits for or what failed: step, site, node, resource.
    #[serde(deserialize_with = "at_most::<{limits::REASONS_MAX}, _, _>")]
    pub reasons: Vec<Text>,
    /// By when the present state must be left (seconds since the epoch).
    pub deadline_s: Option<u64>,
    /// What the user can do.
    #[serde(deserialize_with = "at_most::<{limits::REASONS_MAX}, _, _>")]
    pub hints: Vec<Text>,
}
