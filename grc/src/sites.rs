//! The sites' door: CRMs dial in over mutual TLS and are known by the pin of their certificate.
//!
//! A stranger may do one thing, show a ticket, within a deadline and in a short message. From a
//! known site everything goes to the owner, but for output, which is kept here and acknowledged, so
//! that bulk data never passes through the owner.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use protocol::connection::{self, Connection, ConnectionError, Inbox, Outbox};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::identity::Pin;
use protocol::ids::{JobId, MemberNumber};
use protocol::job::Stream as ProgramStream;
use protocol::limits::FRAME_BYTES_MAX;
use protocol::names::SiteName;
use protocol::refusal::Refusal;
use protocol::site::{FromSite, SILENCE_TIME, ToSite};
use protocol::tls;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::sync::CancellationToken;

use crate::coordinator::{ConnectionId, Event};
use crate::output::{OutputError, Store};
use crate::pins::Pins;
use crate::serve::{Input, Peer};
use crate::server::farewell;

/// Connections that have not yet said who they are.
const STRANGERS_MAX: usize = 32;
/// Longest message of somebody whose certificate is not pinned.
const STRANGER_BYTES_MAX: usize = 1024;
/// How long a peer may take from the greeting to its first message, and from there to the next.
const INTRODUCTION_TIME: Duration = Duration::from_secs(10);
/// A silent connection is probed after this, and given up after this many probes.
const PROBE_AFTER_S: u32 = 5;
const PROBE_EVERY_S: u32 = 2;
const PROBES: u32 = 3;
/// Data that the other side does not acknowledge for so long means that it is gone.
const UNACKNOWLEDGED_MS: u32 = 12_000;

const STREAMS: [ProgramStream; 2] = [ProgramStream::Stdout, ProgramStream::Stderr];

/// What a connection needs to know of its surroundings.
#[derive(Clone)]
pub struct Door {
    pub acceptor: TlsAcceptor,
    pub pins: Arc<Pins>,
    pub store: Arc<Store>,
    pub owner: mpsc::Sender<Input>,
    pub stop: CancellationToken,
}

type Stream = TlsStream<TcpStream>;

/// Accepts sites until told to stop.
pub async fn listen(listener: TcpListener, door: Door) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let next = Arc::new(AtomicU64::new(0));
    loop {
        let permit = tokio::select! {
            () = door.stop.cancelled() => return,
            permit = strangers.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else { return };
        let (stream, address) = tokio::select! {
            () = door.stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a site");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (door, connection) = (door.clone(), ConnectionId(next.fetch_add(1, Ordering::Relaxed)));
        tokio::spawn(async move { welcome(stream, address, connection, permit, &door).await });
    }
}

/// Notices a peer whose machine or line is gone, which says nothing.
pub(crate) fn watch_line(stream: &TcpStream) -> nix::Result<()> {
    let stream = stream.as_fd();
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &PROBE_AFTER_S)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &PROBE_EVERY_S)?;
    setsockopt(&stream, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(&stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS)
}

async fn welcome(
    stream: TcpStream,
    address: SocketAddr,
    connection: ConnectionId,
    permit: OwnedSemaphorePermit,
    door: &Door,
) {
    if let Err(error) = watch_line(&stream) {
        tracing::warn!(%address, %error, "cannot watch the line to a site");
    }
    let (stream, pin) = match tls::accept(&door.acceptor, stream).await {
        Ok(accepted) => accepted,
        Err(error) => return tracing::warn!(%address, %error, "a connection to the sites' port failed"),
    };
    let Connection { mut inbox, outbox, writer, .. } =
        match connection::greet(stream, Role::Grc, &[Role::Crm]).await {
            Ok(greeted) => greeted,
            Err(error) => return tracing::warn!(%address, %error, "a peer at the sites' port did not greet"),
        };
    match introduce(&mut inbox, &outbox, pin, door).await {
        Ok((site, first)) => {
            drop(permit);
            tracing::info!(%site, %address, "site connected");
            let why = attend(&site, connection, first, &mut inbox, &outbox, door).await;
            tracing::warn!(%site, %address, %why, "site disconnected");
        }
        // `crm join` says what it has to and hangs up.
        Err(Stranger::Connection(error)) if door.pins.site_of(pin).is_some() => {
            tracing::debug!(%address, %error, "a site hung up before it published");
        }
        Err(error) => tracing::warn!(%address, %pin, %error, "a peer at the sites' port was sent away"),
    }
    farewell(outbox, writer).await;
}

/// Why a peer does not become a site.
#[derive(Debug, thiserror::Error)]
enum Stranger {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("{0}")]
    Refused(Refusal),
    #[error("it did not say who it is within {} s", INTRODUCTION_TIME.as_secs())]
    Late,
}

/// Reads on until the peer publishes: who it is, and what it published.
async fn introduce(
    inbox: &mut Inbox<Stream>,
    outbox: &Outbox,
    pin: Pin,
    door: &Door,
) -> Result<(SiteName, FromSite), Stranger> {
    let refuse = |refusal: Refusal| {
        let _ = outbox.post(Kind::Notice, 0, &ToSite::Refused(refusal.clone()));
        Stranger::Refused(refusal)
    };
    loop {
        let known = door.pins.site_of(pin);
        inbox.limit_bodies(if known.is_some() { FRAME_BYTES_MAX } else { STRANGER_BYTES_MAX });
        let frame =
            tokio::time::timeout(INTRODUCTION_TIME, inbox.next()).await.map_err(|_| Stranger::Late)??;
        let message = match connection::read(&frame) {
            Ok(message) if frame.kind == Kind::Notice => message,
            Ok(_) => return Err(refuse(Refusal::Malformed { why: "a notice was expected".into() })),
            Err(error) => return Err(refuse(Refusal::Malformed { why: error.to_string().into() })),
        };
        match (message, known) {
            (FromSite::Register { site, secret }, _) => {
                door.pins.register(&site, &secret, pin).map_err(refuse)?;
                tracing::info!(%site, %pin, "site registered");
                outbox.post(Kind::Notice, 0, &ToSite::Welcome)?;
            }
            (FromSite::Publish { site, .. }, None) => {
                return Err(refuse(Refusal::UnknownPeer { who: format!("site {site}").into() }));
            }
            (publish @ FromSite::Publish { .. }, Some(site)) => return Ok((site, publish)),
            _ => {
                let why = "a site first says Register or Publish".into();
                return Err(refuse(Refusal::Malformed { why }));
            }
        }
    }
}

/// Why a connection ended, in words for users: TLS calls a peer that was killed a protocol error.
fn lost(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "its CRM ended without a word".into()
        }
        ConnectionError::Closed => "its CRM closed the connection".into(),
        other => other.to_string(),
    }
}

/// Hands everything to the owner until the connection ends; why it did.
async fn attend(
    site: &SiteName,
    connection: ConnectionId,
    first: FromSite,
    inbox: &mut Inbox<Stream>,
    outbox: &Outbox,
    door: &Door,
) -> String {
    let close = CancellationToken::new();
    let peer = Peer { outbox: outbox.clone(), close: close.clone() };
    let opened = Input::SiteOpened { connection, peer };
    let event = |message| Input::Event(Box::new(Event::FromSite { site: site.clone(), connection, message }));
    if door.owner.send(opened).await.is_err() || door.owner.send(event(first)).await.is_err() {
        return "the GRC stops".into();
    }
    // Streams of which something was lost with another connection, and is sent again.
    let mut gaps: BTreeSet<(JobId, MemberNumber, ProgramStream)> = BTreeSet::new();
    let why = loop {
        let frame = tokio::select! {
            frame = inbox.next_within(SILENCE_TIME) => frame,
            () = close.cancelled() => break "closed by the GRC".into(),
            () = door.stop.cancelled() => break "the GRC stops".into(),
        };
        let message = match frame.and_then(|frame| connection::read::<FromSite>(&frame)) {
            Ok(message) => message,
            Err(error) => break lost(&error),
        };
        // An offer is the owner's to refuse: it keeps the reason to show it.
        if !matches!(message, FromSite::Publish { .. })
            && let Err(refusal) = message.check()
        {
            let _ = outbox.post(Kind::Notice, 0, &ToSite::Refused(refusal.clone()));
            break refusal.to_string();
        }
        match message {
            FromSite::Output { reservation, epoch, job, member, stream, offset, bytes } => {
                match door.store.append(site, job, member, stream, offset, &bytes) {
                    Ok(upto) => {
                        gaps.remove(&(job, member, stream));
                        let saved = ToSite::OutputSaved { reservation, epoch, job, member, stream, upto };
                        if let Err(error) = outbox.post(Kind::Notice, 0, &saved) {
                            break error.to_string();
                        }
                    }
                    // Output of a job that was over before it came is nobody's fault, and what an
                    // earlier connection has lost is sent again.
                    Err(error @ (OutputError::Unexpected { .. } | OutputError::Gap { .. })) => {
                        if matches!(error, OutputError::Gap { .. }) {
                            gaps.insert((job, member, stream));
                        }
                        tracing::debug!(%site, %error);
                    }
                    Err(error) => break error.to_string(),
                }
            }
            // Not before all of its output is here: both come again.
            FromSite::Exited { job, member, .. }
                if STREAMS.iter().any(|stream| gaps.contains(&(job, member, *stream))) =>
            {
                tracing::debug!(%site, %job, member, "its end came before its output; waiting for both");
            }
            message => {
                if door.owner.send(event(message)).await.is_err() {
                    break "the GRC stops".into();
                }
            }
        }
    };
    let gone = Event::SiteGone { site: site.clone(), connection, why: why.as_str().into() };
    let _ = door.owner.send(Input::Event(Box::new(gone))).await;
    let _ = door.owner.send(Input::SiteClosed { connection }).await;
    why
}
