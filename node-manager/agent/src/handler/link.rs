//! The connection to the CRM, and how the next one comes to be.
//!
//! ```text
//! Up ---- broken ----> Dialling --> Waiting -- no rates under way: Return --> Up ...
//!  \                      |            |          (refused, not even idle: the end)
//!   '---------------------+------------+--- going down --> Down
//! ```

use protocol::connection::{Connection, ConnectionError, Inbox, Outbox, read};
use protocol::frame::{Frame, Kind};
use protocol::node::{First, Reply, Return, State};
use protocol::refusal::Step;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};

use super::Handler;
use crate::connection::Redial;

/// The monitor is told of a CRM that was heard no more often than this.
const HEARD_INTERVAL: Duration = Duration::from_millis(100);
/// Of the first request on a line.
const FIRST: u64 = 1;

pub(super) enum Link<S> {
    Up {
        inbox: Inbox<S>,
        writer: JoinHandle<()>,
    },
    Dialling(JoinHandle<Connection<S>>),
    /// It is connected and has not said who it is.
    Waiting(Option<Connection<S>>),
    Down,
}

pub(super) enum Word<S> {
    Frame(Result<Frame, ConnectionError>),
    Connected(Connection<S>),
}

impl<S: AsyncRead + AsyncWrite> Link<S> {
    pub fn up(connection: Connection<S>) -> (Self, Outbox) {
        let Connection { inbox, outbox, writer, .. } = connection;
        (Self::Up { inbox, writer }, outbox)
    }

    pub fn connected(&mut self, connection: Connection<S>) {
        *self = Self::Waiting(Some(connection));
    }

    /// What it says next. Cancel-safe.
    pub async fn next(&mut self) -> Word<S> {
        match self {
            Self::Up { inbox, .. } => Word::Frame(inbox.next().await),
            Self::Dialling(dialled) => match dialled.await {
                Ok(connection) => Word::Connected(connection),
                // The runtime is going down.
                Err(_) => std::future::pending().await,
            },
            Self::Waiting(_) | Self::Down => std::future::pending().await,
        }
    }

    /// Resolves when what was said last has left.
    pub async fn finish(self) {
        if let Self::Up { writer, .. } = self {
            let _ = writer.await;
        }
    }

    fn close(&mut self) {
        match std::mem::replace(self, Self::Down) {
            // Those who wait for it to take more must not wait for a peer that is gone.
            Self::Up { writer, .. } => writer.abort(),
            Self::Dialling(dialled) => dialled.abort(),
            Self::Waiting(_) | Self::Down => {}
        }
    }
}

impl Handler {
    /// The connection is of no use any more. What is up goes on, as long as the lease lasts.
    pub(super) fn lose<R: Redial>(&mut self, link: &mut Link<R::Stream>, crm: &R, cause: &str) {
        self.voice.hang_up();
        self.returning = false;
        link.close();
        if self.state < State::TearingDown {
            tracing::info!("the connection to the CRM is lost: {cause}; dialling again");
            *link = Link::Dialling(tokio::spawn(crm.clone().dial()));
        }
    }

    /// Says on a new connection who is there. Not while rates are under way: the CRM must know
    /// which hold.
    pub(super) fn come_back<S: AsyncRead + AsyncWrite>(&mut self, link: &mut Link<S>) {
        let Link::Waiting(waiting) = link else { return };
        let Some(connection) = waiting.take_if(|_| self.shaping.is_empty()) else { return };
        let (up, outbox) = Link::up(connection);
        *link = up;
        let first = self.first();
        self.unheard |= outbox.post(Kind::Request, FIRST, &first).is_err();
        // What happens from now on is told behind it.
        self.voice.connect(outbox);
        self.returning = true;
    }

    fn first(&self) -> First {
        if self.unknown {
            return First::Arrive(self.arrive.clone());
        }
        First::Return(Return {
            nonce: self.arrive.nonce,
            node: self.arrive.node.clone(),
            uid: self.arrive.uid,
            boot_id: self.arrive.boot_id,
            state: self.state,
            keys: self.sandbox.as_ref().filter(|_| self.state >= State::Ready).map(|one| one.keys.public()),
            rates: self.rates.clone(),
            version: self.arrive.version.clone(),
        })
    }

    /// The CRM's answer to it.
    pub(super) async fn let_in<R: Redial>(&mut self, link: &mut Link<R::Stream>, crm: &R, frame: &Frame) {
        let refused = match read::<Reply>(frame) {
            Ok(Reply::Done) if frame.correlation == FIRST => {
                self.unknown = false;
                return self.heard().await;
            }
            Ok(Reply::Refused(refusal)) => refusal.to_string(),
            Ok(_) | Err(_) => "it answered something else than was asked".to_owned(),
        };
        let fresh = self.state == State::Idle && !std::mem::replace(&mut self.unknown, true);
        if fresh {
            // It may have died before it kept that this pilot arrived: then its token is good still.
            return self.lose(link, crm, &refused);
        }
        let cause = format!("the site's CRM does not take this pilot back: {refused}");
        self.end(Some(self.failure(Step::Running, cause))).await;
    }

    /// The CRM lives, and the monitor is told.
    pub(super) async fn heard(&mut self) {
        let now = Instant::now();
        self.heard_at = now;
        if self.heard_told.is_none_or(|told| now >= told + HEARD_INTERVAL) {
            self.heard_told = Some(now);
            // A socket that is broken says the same to its reader, which ends everything.
            let _ = self.monitor.heard().await;
        }
    }
}
