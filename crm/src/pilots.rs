//! The listener for agents: TLS, greeting, and the one request that a stranger may make, `First`.
//!
//! Until its token was redeemed, or its certificate found, a peer is nobody: it has [`ARRIVE_TIME`] in all, may send small
//! frames only, and there is a bounded number of such peers at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::socket::{setsockopt, sockopt};
use protocol::codec::{self, CodecError};
use protocol::connection::{Connection, ConnectionError, Outbox, greet, read};
use protocol::frame::{Frame, Kind};
use protocol::hello::Role;
use protocol::identity::Pin;
use protocol::limits::{FRAME_BYTES_MAX, SMALL_BODY_BYTES};
use protocol::node::{First, Notice, Reply, Request};
use protocol::refusal::Refusal;
use protocol::tls::{TlsError, accept};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::pilot::PilotId;
use crate::serve::Input;

/// From the connection to a redeemed token.
pub const ARRIVE_TIME: Duration = Duration::from_secs(10);
/// Peers at once whose token was not redeemed yet.
const STRANGERS_MAX: usize = 1024;
/// How long what was sent last may take to reach an agent that is dismissed.
const GOODBYE_TIME: Duration = Duration::from_secs(5);

/// An agent that asks to be let in.
#[derive(Debug)]
pub struct Knock {
    pub from: SocketAddr,
    pub first: First,
    /// Its certificate.
    pub pin: Pin,
    /// The number of its connection.
    pub connection: u64,
    pub outbox: Outbox,
    /// Correlation id of its request, for the answer.
    pub correlation: u64,
    /// Tells the connection's task that the driver is done with it.
    pub dismissed: Arc<Notify>,
    /// Whose it is, if it was let in.
    pub answer: oneshot::Sender<Option<PilotId>>,
}

/// Why a stranger stays one.
#[derive(Debug, thiserror::Error)]
enum NotLetIn {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("its first message is not a request to arrive")]
    NotArriving,
    #[error("it did not arrive within {} s", ARRIVE_TIME.as_secs())]
    TooSlow,
}

/// Accepts agents until the driver is gone.
pub async fn listen(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    inputs: mpsc::Sender<Input>,
    lease: Duration,
) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let mut number = 0;
    while !inputs.is_closed() {
        let Ok(permit) = strangers.clone().acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others must close before more can come.
                tracing::warn!("no connection can be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, inputs) = (acceptor.clone(), inputs.clone());
        number += 1;
        tokio::spawn(async move {
            let arrived = tokio::time::timeout(ARRIVE_TIME, arrive(stream, &acceptor)).await;
            match arrived.unwrap_or(Err(NotLetIn::TooSlow)) {
                Ok(arrived) => {
                    let knocked = knock(arrived, number, from, &inputs).await;
                    drop(permit);
                    if let Some((pilot, agent, dismissed)) = knocked {
                        converse((pilot, number), agent, &dismissed, &inputs, lease).await;
                    }
                }
                Err(error) => tracing::warn!("a peer at {from} is not let in: {error}"),
            }
        });
    }
}

/// A machine that vanishes says nothing: the kernel asks, and the connection ends within 12 s.
pub fn notice_dead_peers(stream: &TcpStream) {
    let set = || {
        setsockopt(stream, sockopt::KeepAlive, &true)?;
        setsockopt(stream, sockopt::TcpKeepIdle, &5)?;
        setsockopt(stream, sockopt::TcpKeepInterval, &2)?;
        setsockopt(stream, sockopt::TcpKeepCount, &3)?;
        setsockopt(stream, sockopt::TcpUserTimeout, &12_000)
    };
    if let Err(errno) = set() {
        tracing::warn!("a dead peer would not be noticed: {errno}");
    }
}

type Agent = Connection<TlsStream<TcpStream>>;

/// One that has said what it wants, and what its certificate is.
struct Arrived {
    agent: Agent,
    first: First,
    pin: Pin,
    correlation: u64,
}

async fn arrive(stream: TcpStream, acceptor: &TlsAcceptor) -> Result<Arrived, NotLetIn> {
    notice_dead_peers(&stream);
    // Its certificate is made for this one pilot; at first the token says which pilot it is.
    let (stream, pin) = accept(acceptor, stream).await?;
    let mut connection = greet(stream, Role::Crm, &[Role::Agent]).await?;
    connection.inbox.limit_bodies(SMALL_BODY_BYTES);
    let first = connection.inbox.next().await?;
    if first.kind != Kind::Request {
        return Err(NotLetIn::NotArriving);
    }
    let correlation = first.correlation;
    let first: First = read(&first)?;
    first.check().map_err(|_| NotLetIn::NotArriving)?;
    connection.inbox.limit_bodies(FRAME_BYTES_MAX);
    Ok(Arrived { agent: connection, first, pin, correlation })
}

/// Asks the driver. A refused agent gets its refusal, which the driver queued, and is closed.
async fn knock(
    arrived: Arrived,
    number: u64,
    from: SocketAddr,
    inputs: &mpsc::Sender<Input>,
) -> Option<(PilotId, Agent, Arc<Notify>)> {
    let Arrived { agent: connection, first, pin, correlation } = arrived;
    let dismissed = Arc::new(Notify::new());
    let (answer, answered) = oneshot::channel();
    let outbox = connection.outbox.clone();
    let dismissed_by = dismissed.clone();
    let knock =
        Knock { from, first, pin, connection: number, outbox, correlation, dismissed: dismissed_by, answer };
    inputs.send(Input::Knock(Box::new(knock))).await.ok()?;
    match answered.await {
        Ok(Some(pilot)) => Some((pilot, connection, dismissed)),
        Ok(None) | Err(_) => {
            say_goodbye(connection).await;
            None
        }
    }
}

/// Says that this CRM lives, so that any frame comes at least every quarter of the lease.
struct Heart {
    outbox: Outbox,
    beats: Interval,
    beat: Bytes,
    /// The agent's answer: all that need be known of it is that it came.
    echo: Bytes,
}

impl Heart {
    fn new(outbox: Outbox, lease: Duration) -> Result<Self, CodecError> {
        let mut beats = interval_at(Instant::now() + lease / 4, lease / 4);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (beat, echo) = (codec::encode(&Request::Beat)?.into(), codec::encode(&Notice::Beat)?.into());
        Ok(Self { outbox, beats, beat, echo })
    }

    async fn rests(&mut self) {
        self.beats.tick().await;
    }

    /// A connection that does not take it is noticed where it is read.
    fn beat(&self) {
        let _ = self.outbox.post_encoded(Kind::Notice, 0, self.beat.clone());
    }

    fn is_echo(&self, frame: &Frame) -> bool {
        frame.kind == Kind::Notice && frame.body == self.echo
    }
}

/// Passes on what the agent says until either side ends the conversation, or it is silent for the
/// lease.
async fn converse(
    (pilot, number): (PilotId, u64),
    connection: Agent,
    dismissed: &Notify,
    inputs: &mpsc::Sender<Input>,
    lease: Duration,
) {
    let Connection { mut inbox, outbox, writer, peer, version } = connection;
    let Ok(mut heart) = Heart::new(outbox, lease) else { return };
    let mut heard = Instant::now();
    let cause = loop {
        let frame: Frame = tokio::select! {
            // What has come while this process stood still was said in time.
            biased;
            () = dismissed.notified() => break None,
            frame = inbox.next() => match frame {
                Ok(frame) => frame,
                Err(error) => break Some(error.to_string()),
            },
            () = heart.rests() => {
                if heard.elapsed() >= lease {
                    break Some(format!("nothing was heard of it for {} s", lease.as_secs()));
                }
                heart.beat();
                continue;
            }
        };
        heard = Instant::now();
        if heart.is_echo(&frame) {
            continue;
        }
        let passed_on = inputs.send(Input::Frame { pilot, connection: number, frame });
        tokio::pin!(passed_on);
        // A driver that has much to do is no reason to be taken for dead.
        let sent = loop {
            tokio::select! {
                biased;
                sent = &mut passed_on => break sent,
                () = heart.rests() => heart.beat(),
            }
        };
        if sent.is_err() {
            break None;
        }
    };
    // From here on only the driver sends: when it drops its outbox the writer ends.
    drop(heart);
    tracing::debug!("pilot {pilot} ({}, version {version}) is disconnected", peer.software);
    match cause {
        Some(cause) => {
            let lost =
                Input::Lost { pilot, connection: number, cause: cause.into(), silent: heard.elapsed() };
            let _ = inputs.send(lost).await;
        }
        None => {
            let _ = tokio::time::timeout(GOODBYE_TIME, writer).await;
        }
    }
}

async fn say_goodbye(connection: Agent) {
    let Connection { inbox, outbox, writer, .. } = connection;
    drop(outbox);
    let _ = tokio::time::timeout(GOODBYE_TIME, writer).await;
    drop(inbox);
}

/// Answers an arrival.
pub fn answer(knock: Knock, verdict: Result<PilotId, Refusal>) {
    let (reply, pilot) = match verdict {
        Ok(pilot) => (Reply::Done, Some(pilot)),
        Err(refusal) => (Reply::Refused(refusal), None),
    };
    // A peer that is gone already is noticed by its own task.
    let _ = knock.outbox.post(Kind::Reply, knock.correlation, &reply);
    let _ = knock.answer.send(pilot);
}
