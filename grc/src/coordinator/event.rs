//! What the owner is told and what it wants done: its whole surface beside `step`.

use std::time::Duration;

use protocol::client::{Notice, Reply, Request};
use protocol::ids::{JobId, ReservationId};
use protocol::job::Stream;
use protocol::names::{SiteName, Text, UserName};
use protocol::site::{FromSite, ToSite};
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// One connection of a client; never used twice.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct ClientId(pub u64);

/// One connection of a site; never used twice. It tells news of a connection from those of the one
/// before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct ConnectionId(pub u64);

/// The next ids to give out, or how far they may be given out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Ids {
    pub reservation: u64,
    pub job: u64,
}

/// What happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// `user` is who is at the other end: by the operating system's word, or by a login key of the
    /// users file.
    Request {
        client: ClientId,
        correlation: u64,
        user: UserName,
        request: Request,
    },
    ClientGone {
        client: ClientId,
    },
    /// `site` is who the pin of the connection's certificate belongs to, whatever the message
    /// says. `Register` and `Output` are the edge's and change nothing here.
    FromSite {
        site: SiteName,
        connection: ConnectionId,
        message: FromSite,
    },
    SiteGone {
        site: SiteName,
        connection: ConnectionId,
        why: Text,
    },
    /// The time of [`super::Coordinator::next_wake`] has come.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Tell the administrator, who sees the log.
    Report {
        reservation: ReservationId,
        what: Text,
    },
    /// Make this durable before anything that follows, of this step or a later one. If that fails
    /// nothing that follows may be done, ever.
    Record(Record),
    /// Lost if the connection is.
    Send {
        site: SiteName,
        connection: ConnectionId,
        message: ToSite,
    },
    /// Send what was posted, then close.
    Disconnect {
        connection: ConnectionId,
    },
    Answer {
        client: ClientId,
        correlation: u64,
        reply: Reply,
    },
    Notify {
        client: ClientId,
        correlation: u64,
        notice: Notice,
    },
    /// The job exists; these sites may send output of so many members of it, no other may.
    ExpectOutput {
        job: JobId,
        sources: Vec<(SiteName, u32)>,
    },
    /// The job is over: nothing more is kept of it, and who follows its output reached the end.
    CloseOutput {
        job: JobId,
    },
    /// The job is forgotten; its output may go.
    ForgetOutput {
        job: JobId,
    },
    /// Answer this request from the output kept, with `LogEnd` at its end.
    ReadLog {
        client: ClientId,
        correlation: u64,
        job: JobId,
        stream: Stream,
        offset: u64,
        follow: bool,
    },
}

/// How long things may take. Each is shown to the user as the deadline of the state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Deadlines {
    /// For nodes to become free.
    pub waiting: Duration,
    /// From Hold to the last answer.
    pub holding: Duration,
    /// From Commit, or the beginning of the window, until every sandbox stands.
    pub starting: Duration,
    /// From Join until every sshd answers.
    pub joining: Duration,
    /// From End to the last confirmation.
    pub ending: Duration,
    /// From the end of a window until addresses of sandboxes whose end was never confirmed are
    /// given out again.
    pub quarantine: Duration,
    /// Between SIGTERM and SIGKILL for a command that is stopped, unless its user says otherwise.
    pub grace: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            waiting: Duration::from_secs(7 * 24 * 3600),
            holding: Duration::from_secs(5),
            starting: Duration::from_secs(90),
            joining: Duration::from_secs(60),
            ending: Duration::from_secs(30),
            quarantine: Duration::from_secs(20),
            grace: Duration::from_secs(5),
        }
    }
}

/// Timers that the owner set for itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(super) enum Due {
    /// First after a restart: what needs the time is set going.
    Resume,
    /// A deadline, or the beginning or end of the window.
    Reservation(ReservationId),
    /// An attempt was not answered in time.
    Attempt(ReservationId),
    /// Something was not acknowledged yet.
    Resend(ReservationId),
    /// The next incarnation may begin.
    BeginAnew(ReservationId),
    Job(JobId),
    /// Somebody who did not confirm an end is asked again.
    Owed(ReservationId),
    /// A reservation may be planned again.
    Plan,
}
