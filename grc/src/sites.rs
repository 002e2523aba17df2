//! The sites' door: CRMs dial in over mutual TLS and are known by the pin of their certificate.
//!
//! A stranger may do one thing, show a ticket, within a deadline and in a short message, and of
//! strangers there are so many at a time ([`crate::strangers`]). From a known site everything goes to
//! the owner, but for output, which is kept here and acknowledged, so that bulk data never passes
//! through the owner.

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
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::sync::CancellationToken;

use crate::coordinator::{ConnectionId, Event};
use crate::output::{OutputError, Store};
use crate::pins::Pins;
use crate::serve::{Input, Peer};
use crate::server::farewell;
use crate::strangers::{Place, Said, Strangers, crowded};

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
    pub said: Arc<Said>,
    pub owner: mpsc::Sender<Input>,
    pub stop: CancellationToken,
}

type Stream = TlsStream<TcpStream>;

/// Accepts sites until told to stop.
pub async fn listen(listener: TcpListener, door: Door) {
    let strangers: Arc<Strangers> = Arc::default();
    let next = Arc::new(AtomicU64::new(0));
    loop {
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
        let place = strangers.admit(address.ip());
        tokio::spawn(async move { welcome(stream, address, connection, place, &door).await });
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
    place: Place,
    door: &Door,
) {
    if let Err(error) = watch_line(&stream) {
        tracing::warn!(%address, %error, "cannot watch the line to a site");
    }
    let failed = |pin: Option<Pin>, error: Stranger| {
        let pin = pin.map_or_else(|| "unknown".to_owned(), |pin| pin.to_string());
        door.said.say(|more| tracing::warn!(%address, pin, %error, more, "no site came of a connection"));
    };
    let given_up = place.given_up();
    let mut ended = std::pin::pin!(async {
        tokio::select! {
            () = given_up => Stranger::Crowded,
            () = door.stop.cancelled() => Stranger::Stopped,
        }
    });
    let greeted = tokio::select! {
        greeted = greet(stream, door) => greeted,
        why = &mut ended => Err(why),
    };
    let (Connection { mut inbox, outbox, writer, .. }, pin) = match greeted {
        Ok(greeted) => greeted,
        Err(error) => return failed(None, error),
    };
    let introduced = tokio::select! {
        introduced = introduce(&mut inbox, &outbox, pin, door) => introduced,
        why = ended => Err(why),
    };
    drop(place);
    match introduced {
        Ok((site, first)) => {
            tracing::info!(%site, %address, "site connected");
            let why = attend(&site, connection, first, &mut inbox, &outbox, door).await;
            tracing::warn!(%site, %address, %why, "site disconnected");
        }
        // `crm join` says what it has to and hangs up.
        Err(Stranger::Connection(error)) if door.pins.site_of(pin).is_some() => {
            tracing::debug!(%address, %error, "a site hung up before it published");
        }
        Err(error) => {
            if let Some(refusal) = error.last_word() {
                let _ = outbox.post(Kind::Notice, 0, &ToSite::Refused(refusal));
            }
            failed(Some(pin), error);
        }
    }
    farewell(outbox, writer).await;
}

/// TLS and greeting; with the connection comes whose certificate was shown.
async fn greet(stream: TcpStream, door: &Door) -> Result<(Connection<Stream>, Pin), Stranger> {
    let (stream, pin) = tls::accept(&door.acceptor, stream).await?;
    Ok((connection::greet(stream, Role::Grc, &[Role::Crm]).await?, pin))
}

/// Why a peer does not become a site.
#[derive(Debug, thiserror::Error)]
enum Stranger {
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("{0}")]
    Refused(Refusal),
    #[error("it did not say who it is within {} s", INTRODUCTION_TIME.as_secs())]
    Late,
    #[error("others came after it")]
    Crowded,
    #[error("the GRC stops")]
    Stopped,
}

impl Stranger {
    /// What he is told who did nothing wrong; a refusal was told already.
    fn last_word(&self) -> Option<Refusal> {
        let state = "it did not say in time who it is; try again".into();
        match self {
            Self::Late => Some(Refusal::WrongState { what: "this connection".into(), state }),
            Self::Crowded => Some(crowded()),
            _ => None,
        }
    }
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
                    // Output of a job that was forgotten before it came is nobody's fault, and what an
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
