//! A greeted connection: frames in, frames out, over any byte stream.
//!
//! Reading is cancel-safe. Writing goes through an [`Outbox`]: a queue bounded in bytes with one
//! task behind it, so that an owner never waits for a peer. A peer that lets its queue fill up is
//! disconnected rather than waited for: both halves end.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::codec::{Decoder, Encoder, FramedRead, FramedWrite};

use crate::codec::{self, CodecError};
use crate::frame::{self, Frame, FrameError, Kind};
use crate::hello::{HELLO_BYTES_MAX, Hello, HelloError, Role};
use crate::limits::{FRAME_BYTES_MAX, OUTBOX_BULK_BYTES_MAX, OUTBOX_BYTES_MAX};
use crate::refusal::Refusal;

/// How long a peer may take to greet.
pub const GREETING_TIME: Duration = Duration::from_secs(10);
/// How long what is still queued may take to leave after the last [`Outbox`] was dropped.
pub const LINGER_TIME: Duration = Duration::from_secs(10);
/// What a queued frame costs beside its body.
const FRAME_COST_BYTES: usize = 256;

/// Why a connection ended or never came to be.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("the connection broke: {}", in_words(.0))]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("{0}")]
    Version(Refusal),
    #[error("the peer is a {0:?}, which has no business here")]
    WrongRole(Role),
    #[error("the peer did not greet within {} s", GREETING_TIME.as_secs())]
    GreetingTimeout,
    #[error("the peer closed the connection")]
    Closed,
    #[error("nothing was heard of it for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the peer does not read what it is sent")]
    PeerTooSlow,
}

/// TLS calls a peer that was killed a protocol error, and says where to read about it.
fn in_words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "the other end died or was cut off".to_owned(),
        _ => error.to_string(),
    }
}

/// Frames as tokio-util wants them; what the bytes mean stands in [`crate::frame`].
#[derive(Debug)]
pub struct FrameCodec {
    body_bytes_max: usize,
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = ConnectionError;
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, ConnectionError> {
        Ok(frame::take(buffer, self.body_bytes_max)?)
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = ConnectionError;
    fn encode(&mut self, frame: Frame, buffer: &mut BytesMut) -> Result<(), ConnectionError> {
        Ok(frame::put(&frame, buffer)?)
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct Inbox<S> {
    frames: FramedRead<ReadHalf<S>, FrameCodec>,
    given_up: watch::Receiver<bool>,
}

impl<S: AsyncRead + AsyncWrite> Inbox<S> {
    /// The next frame; `Closed` at an orderly end, `PeerTooSlow` once the peer was given up.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Result<Frame, ConnectionError> {
        tokio::select! {
            biased;
            // Gone with the last Outbox: then this arm is out, and reading goes on.
            Ok(()) = async { self.given_up.wait_for(|up| *up).await.map(drop) } => {
                Err(ConnectionError::PeerTooSlow)
            }
            frame = self.frames.next() => frame.unwrap_or(Err(ConnectionError::Closed)),
        }
    }

    /// The same, but `Silent` when not even a byte comes for so long. Cancel-safe.
    pub async fn next_within(&mut self, silence: Duration) -> Result<Frame, ConnectionError> {
        loop {
            let begun = self.frames.read_buffer().len();
            // What has come while this process stood still is looked at first: it was said in time.
            match tokio::time::timeout(silence, self.next()).await {
                Ok(frame) => return frame,
                Err(_) if self.frames.read_buffer().len() > begun => {}
                Err(_) => return Err(ConnectionError::Silent(silence)),
            }
        }
    }

    /// From now on refuses longer bodies, before they arrive. For a peer that has greeted but has
    /// not yet said who it is; [`FRAME_BYTES_MAX`] lifts it.
    pub fn limit_bodies(&mut self, body_bytes_max: usize) {
        self.frames.decoder_mut().body_bytes_max = body_bytes_max;
    }
}

/// A message read out of a frame's body. What its encoding cannot say is for its own `check` to find.
pub fn read<T: DeserializeOwned>(frame: &Frame) -> Result<T, ConnectionError> {
    Ok(codec::decode(&frame.body)?)
}

/// The sending half: cheap to clone, never waits.
#[derive(Clone, Debug)]
pub struct Outbox {
    queue: mpsc::UnboundedSender<Queued>,
    /// Bytes that may still be queued; what bounds the queue.
    room: Arc<Semaphore>,
    bulk_room: Arc<Semaphore>,
    give_up: watch::Sender<bool>,
}

/// A frame on its way, with the room that it gives back when it is written.
#[derive(Debug)]
struct Queued {
    frame: Frame,
    _room: OwnedSemaphorePermit,
    _bulk_room: Option<OwnedSemaphorePermit>,
}

impl Outbox {
    fn new() -> (Self, mpsc::UnboundedReceiver<Queued>, watch::Receiver<bool>) {
        let (queue, waiting) = mpsc::unbounded_channel();
        let (give_up, given_up) = watch::channel(false);
        let room = Arc::new(Semaphore::new(OUTBOX_BYTES_MAX));
        let bulk_room = Arc::new(Semaphore::new(OUTBOX_BULK_BYTES_MAX));
        (Self { queue, room, bulk_room, give_up }, waiting, given_up)
    }

    /// Queues a message. An error means that the connection is over or must be given up; the
    /// caller drops it.
    pub fn post<T: Serialize>(
        &self,
        kind: Kind,
        correlation: u64,
        message: &T,
    ) -> Result<(), ConnectionError> {
        self.post_encoded(kind, correlation, codec::encode(message)?.into())
    }

    /// Like [`Self::post`], for a message encoded once for many peers ([`codec::encode`]).
    pub fn post_encoded(&self, kind: Kind, correlation: u64, body: Bytes) -> Result<(), ConnectionError> {
        let frame = Frame { kind, correlation, body };
        let Ok(room) = self.room.clone().try_acquire_many_owned(cost(&frame, OUTBOX_BYTES_MAX)) else {
            // Both halves end, or a peer that stands still would keep the connection for ever.
            self.give_up.send_replace(true);
            return Err(ConnectionError::PeerTooSlow);
        };
        self.put(Queued { frame, _room: room, _bulk_room: None })
    }

    /// Like [`Self::post`], but waits while much is queued: for a task that has nothing else to
    /// do and much to send.
    pub async fn post_wait<T: Serialize>(
        &self,
        kind: Kind,
        correlation: u64,
        message: &T,
    ) -> Result<(), ConnectionError> {
        let frame = Frame { kind, correlation, body: codec::encode(message)?.into() };
        let ended = |_| ConnectionError::Closed;
        let bulk = cost(&frame, OUTBOX_BULK_BYTES_MAX);
        let bulk_room = self.bulk_room.clone().acquire_many_owned(bulk).await.map_err(ended)?;
        let whole = cost(&frame, OUTBOX_BYTES_MAX);
        let room = self.room.clone().acquire_many_owned(whole).await.map_err(ended)?;
        self.put(Queued { frame, _room: room, _bulk_room: Some(bulk_room) })
    }

    fn put(&self, queued: Queued) -> Result<(), ConnectionError> {
        // Given up but not yet noticed by the writer: what is queued now would be lost silently.
        if *self.give_up.borrow() {
            return Err(ConnectionError::PeerTooSlow);
        }
        self.queue.send(queued).map_err(|_| ConnectionError::Closed)
    }

    /// How much may still be queued, for whoever would rather wait than fill it.
    pub fn free_bytes(&self) -> usize {
        self.room.available_permits()
    }

    /// Resolves when nothing can be sent any more.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }
}

/// What a queued frame is charged; never more than there is room for at all.
fn cost(frame: &Frame, max: usize) -> u32 {
    (frame.body.len() + FRAME_COST_BYTES).min(max) as u32
}

/// Both halves of a connection that has greeted.
#[derive(Debug)]
pub struct Connection<S> {
    pub inbox: Inbox<S>,
    pub outbox: Outbox,
    pub peer: Hello,
    /// The agreed version of the messages.
    pub version: u16,
    /// Ends when everything posted was sent and every [`Outbox`] dropped, at an error, or when the
    /// peer was given up.
    pub writer: tokio::task::JoinHandle<()>,
}

/// Greets, waits for the peer's greeting, agrees on a version. `welcome` names the roles that
/// have business here.
pub async fn greet<S>(stream: S, ours: Role, welcome: &[Role]) -> Result<Connection<S>, ConnectionError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(stream);
    let mut frames = FramedRead::new(read, FrameCodec { body_bytes_max: HELLO_BYTES_MAX });
    let mut sink = FramedWrite::new(write, FrameCodec { body_bytes_max: FRAME_BYTES_MAX });
    let hello = Hello::ours(ours);
    let exchange = async {
        sink.send(Frame { kind: Kind::Hello, correlation: 0, body: hello.encode() }).await?;
        frames.next().await.unwrap_or(Err(ConnectionError::Closed))
    };
    let first = match tokio::time::timeout(GREETING_TIME, exchange).await {
        Ok(Ok(first)) => first,
        // Whatever it is, it is no greeting: "a frame of 1195725856 bytes" helps nobody.
        Ok(Err(ConnectionError::Frame(_))) => return Err(HelloError::NotOurs.into()),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(ConnectionError::GreetingTimeout),
    };
    if first.kind != Kind::Hello {
        return Err(HelloError::NotOurs.into());
    }
    let peer = Hello::decode(&first.body)?;
    let version = hello.agree(&peer).map_err(ConnectionError::Version)?;
    if !welcome.contains(&peer.role) {
        return Err(ConnectionError::WrongRole(peer.role));
    }
    frames.decoder_mut().body_bytes_max = FRAME_BYTES_MAX;
    let (outbox, waiting, given_up) = Outbox::new();
    let inbox = Inbox { frames, given_up: given_up.clone() };
    let writer = tokio::spawn(async move {
        tokio::select! {
            () = write_all(sink, waiting) => {}
            () = patience_ends(given_up) => {}
        }
    });
    Ok(Connection { inbox, outbox, peer, version, writer })
}

/// Resolves when nothing more is to be written to a peer that does not read: at once when it was
/// given up, some time after the last [`Outbox`] is gone.
async fn patience_ends(mut given_up: watch::Receiver<bool>) {
    if given_up.wait_for(|up| *up).await.is_err() {
        tokio::time::sleep(LINGER_TIME).await;
    }
}

/// Sends what is queued, several frames per system call when several wait.
async fn write_all<S>(
    mut sink: FramedWrite<WriteHalf<S>, FrameCodec>,
    mut waiting: mpsc::UnboundedReceiver<Queued>,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    while let Some(queued) = waiting.recv().await {
        if sink.feed(queued.frame).await.is_err() {
            return;
        }
        while let Ok(queued) = waiting.try_recv() {
            if sink.feed(queued.frame).await.is_err() {
                return;
            }
        }
        if sink.flush().await.is_err() {
            return;
        }
    }
    // Every sender is gone: say goodbye, so that the peer sees an orderly end.
    let _ = sink.close().await;
}

#[cfg(test)]
mod tests;
