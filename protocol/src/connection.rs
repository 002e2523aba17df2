//! A greeted connection: frames in, frames out, over any byte stream.
//!
//! Reading is cancel-safe. Writing goes through an [`Outbox`]: a bounded queue with one task
//! behind it, so that an owner never waits for a peer. A peer that lets its queue fill up is
//! disconnected rather than waited for.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::codec::{Decoder, Encoder, FramedRead, FramedWrite};

use crate::codec::{self, CodecError};
use crate::frame::{self, Frame, FrameError, Kind};
use crate::hello::{HELLO_BYTES_MAX, Hello, HelloError, Role};
use crate::limits::FRAME_BYTES_MAX;
use crate::refusal::Refusal;

/// How long a peer may take to greet.
pub const GREETING_TIME: Duration = Duration::from_secs(10);
/// Frames that may wait for a slow peer.
const OUTBOX_FRAMES_MAX: usize = 4096;
/// Bytes that may wait for a slow peer, whatever the number of frames.
const OUTBOX_BYTES_MAX: usize = 4 * FRAME_BYTES_MAX;
/// Bytes of these that bulk data may take ([`Outbox::post_wait`]), so that a log never stands
/// between a peer and its answers.
const BULK_BYTES_MAX: usize = 1024 * 1024;
const _: () = assert!(BULK_BYTES_MAX < OUTBOX_BYTES_MAX && OUTBOX_BYTES_MAX <= u32::MAX as usize);

/// Why a connection ended or never came to be.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("the connection broke: {0}")]
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
    #[error("the peer does not read what it is sent")]
    PeerTooSlow,
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
}

impl<S: AsyncRead + AsyncWrite> Inbox<S> {
    /// The next frame; `Closed` at an orderly end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Frame, ConnectionError> {
        self.frames.next().await.unwrap_or(Err(ConnectionError::Closed))
    }

    /// From now on the peer's frames have at most this many bytes: for peers that have not yet
    /// proven who they are, or have nothing long to say.
    pub fn limit(&mut self, body_bytes_max: usize) {
        self.frames.decoder_mut().body_bytes_max = body_bytes_max.min(FRAME_BYTES_MAX);
    }
}

/// A message read out of a frame's body, checked.
pub fn read<T: DeserializeOwned>(frame: &Frame) -> Result<T, ConnectionError> {
    Ok(codec::decode(&frame.body)?)
}

/// A frame on its way out and the room it takes until it was sent.
type Queued = (Frame, [OwnedSemaphorePermit; 2]);

/// The sending half: cheap to clone, never waits.
#[derive(Clone, Debug)]
pub struct Outbox {
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    bulk_room: Arc<Semaphore>,
}

impl Outbox {
    fn new(queue: mpsc::Sender<Queued>) -> Self {
        Self {
            queue,
            room: Arc::new(Semaphore::new(OUTBOX_BYTES_MAX)),
            bulk_room: Arc::new(Semaphore::new(BULK_BYTES_MAX)),
        }
    }

    /// Queues a message. An error means that the connection is over or must be given up; the
    /// caller drops it.
    pub fn post<T: Serialize>(
        &self,
        kind: Kind,
        correlation: u64,
        message: &T,
    ) -> Result<(), ConnectionError> {
        let body = Bytes::from(codec::encode(message)?);
        let take = |room: &Arc<Semaphore>, bytes: usize| {
            room.clone().try_acquire_many_owned(bytes as u32).map_err(|_| ConnectionError::PeerTooSlow)
        };
        let room = [take(&self.room, body.len())?, take(&self.bulk_room, 0)?];
        let queued = (Frame { kind, correlation, body }, room);
        self.queue.try_send(queued).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ConnectionError::PeerTooSlow,
            mpsc::error::TrySendError::Closed(_) => ConnectionError::Closed,
        })
    }

    /// Like [`Self::post`], but waits for room: for bulk data, by a task that has nothing else
    /// to do.
    pub async fn post_wait<T: Serialize>(
        &self,
        kind: Kind,
        correlation: u64,
        message: &T,
    ) -> Result<(), ConnectionError> {
        let body = Bytes::from(codec::encode(message)?);
        let take = async |room: &Arc<Semaphore>, bytes: usize| {
            tokio::select! {
                permit = room.clone().acquire_many_owned(bytes as u32) => {
                    permit.map_err(|_| ConnectionError::Closed)
                }
                // What a dead writer holds is not given back.
                () = self.queue.closed() => Err(ConnectionError::Closed),
            }
        };
        let bulk = take(&self.bulk_room, body.len().min(BULK_BYTES_MAX)).await?;
        let room = take(&self.room, body.len()).await?;
        let queued = (Frame { kind, correlation, body }, [room, bulk]);
        self.queue.send(queued).await.map_err(|_| ConnectionError::Closed)
    }

    /// Resolves when nothing can be sent any more.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }
}

/// Both halves of a connection that has greeted.
#[derive(Debug)]
pub struct Connection<S> {
    pub inbox: Inbox<S>,
    pub outbox: Outbox,
    pub peer: Hello,
    /// The agreed version of the messages.
    pub version: u16,
    /// Ends when everything posted was sent and every [`Outbox`] dropped, or at an error.
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
    let first = tokio::time::timeout(GREETING_TIME, exchange)
        .await
        .map_err(|_| ConnectionError::GreetingTimeout)??;
    if first.kind != Kind::Hello {
        return Err(HelloError::NotOurs.into());
    }
    let peer = Hello::decode(&first.body)?;
    let version = hello.agree(&peer).map_err(ConnectionError::Version)?;
    if !welcome.contains(&peer.role) {
        return Err(ConnectionError::WrongRole(peer.role));
    }
    frames.decoder_mut().body_bytes_max = FRAME_BYTES_MAX;
    let (queue, waiting) = mpsc::channel(OUTBOX_FRAMES_MAX);
    let writer = tokio::spawn(write_all(sink, waiting));
    Ok(Connection { inbox: Inbox { frames }, outbox: Outbox::new(queue), peer, version, writer })
}

/// Sends what is queued, several frames per system call when several wait.
async fn write_all<S>(mut sink: FramedWrite<WriteHalf<S>, FrameCodec>, mut waiting: mpsc::Receiver<Queued>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    while let Some((frame, _room)) = waiting.recv().await {
        if sink.feed(frame).await.is_err() {
            return;
        }
        while let Ok((frame, _room)) = waiting.try_recv() {
            if sink.feed(frame).await.is_err() {
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
