//! The users' door on this machine: a unix socket whose peers the kernel names; [`crate::remote`] is
//! the other one. Each connection is one task that reads requests and hands them to the owner;
//! answers go through the connection's outbox.

use std::collections::BTreeMap;
use std::future::pending;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use protocol::client::{Reply, Request};
use protocol::connection::{self, Connection, ConnectionError, Inbox, Outbox};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::limits::FRAME_BYTES_MAX;
use protocol::names::UserName;
use protocol::refusal::Refusal;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::coordinator::{ClientId, Event};
use crate::seats::{SEATS_MAX, Seats};
use crate::serve::{Input, Peer};

/// Connections of one account beside those that it may have: room to be told that they are too many.
const TURNED_AWAY_MAX: usize = 8;
/// Longest request: a command of the largest size and what stands around it.
const REQUEST_BYTES_MAX: usize = FRAME_BYTES_MAX / 4;
/// How long what was posted may take to leave when a connection is closed.
const FAREWELL_TIME: Duration = Duration::from_secs(2);

/// Makes the socket. One that nobody listens on is left from an earlier start and replaced.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{} is there and is no socket; move it away", path.display())
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => bail!("a GRC serves on {} already", path.display()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot see who serves on {}", path.display()));
            }
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)
                    .with_context(|| format!("cannot make {}", directory.display()))?;
            }
        }
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    // Everybody may connect: who they are is the kernel's word, what is theirs the owner's.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
        .with_context(|| format!("cannot open {} for all users", path.display()))?;
    Ok(listener)
}

/// What a connection needs to know of its surroundings.
#[derive(Clone, Debug)]
pub struct Door {
    /// Local account to user of the grid.
    pub accounts: Arc<BTreeMap<String, UserName>>,
    pub seats: Arc<Seats>,
    /// Connections so far, of every door.
    pub next: Arc<AtomicU64>,
    pub owner: mpsc::Sender<Input>,
    pub stop: CancellationToken,
}

impl Door {
    pub(crate) fn next_client(&self) -> ClientId {
        ClientId(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Accepts clients until told to stop.
pub async fn listen(listener: UnixListener, path: PathBuf, door: Door) {
    let open: Arc<Mutex<BTreeMap<u32, usize>>> = Arc::default();
    loop {
        let stream = tokio::select! {
            () = door.stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: they come back.
                    tracing::warn!(%error, "cannot accept a client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(uid) = stream.peer_cred().map(|cred| cred.uid()) else { continue };
        {
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            let all: usize = open.values().sum();
            let own = open.entry(uid).or_default();
            if all >= 2 * SEATS_MAX || *own >= door.seats.per_user() + TURNED_AWAY_MAX {
                tracing::warn!(uid, all, own, "too many clients");
                continue;
            }
            *own += 1;
        }
        let client = door.next_client();
        let (door, open) = (door.clone(), open.clone());
        tokio::spawn(async move {
            if let Err(error) = serve(client, uid, stream, door).await {
                tracing::info!(uid, %error, "a client was disconnected");
            }
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(own) = open.get_mut(&uid) {
                *own -= 1;
            }
            open.retain(|_, own| *own > 0);
        });
    }
    let _ = std::fs::remove_file(path);
}

async fn serve(client: ClientId, uid: u32, stream: UnixStream, door: Door) -> Result<(), ConnectionError> {
    let user = user_of(uid, &door.accounts).await;
    let Connection { mut inbox, outbox, writer, .. } =
        connection::greet(stream, Role::Grc, &[Role::Client]).await?;
    let seat = user.and_then(|user| door.seats.take(&user).map(|seat| (user, seat)));
    let result = match seat {
        Ok((user, _seat)) => attend(client, user, &mut inbox, &outbox, &door, pending()).await,
        Err(refusal) => turn_away(&mut inbox, &outbox, refusal).await,
    };
    farewell(outbox, writer).await;
    result
}

/// Hands the requests of somebody who is known to the owner, until he goes, `leave` says that he has
/// to, or the GRC stops.
pub(crate) async fn attend<S: AsyncRead + AsyncWrite>(
    client: ClientId,
    user: UserName,
    inbox: &mut Inbox<S>,
    outbox: &Outbox,
    door: &Door,
    leave: impl Future<Output = ()>,
) -> Result<(), ConnectionError> {
    inbox.limit_bodies(REQUEST_BYTES_MAX);
    let close = CancellationToken::new();
    let peer = Peer { outbox: outbox.clone(), close: close.clone() };
    if door.owner.send(Input::ClientOpened { client, user: user.clone(), peer }).await.is_err() {
        return Ok(());
    }
    let mut leave = std::pin::pin!(leave);
    let result = loop {
        // Handing over belongs to it: the owner may be behind for long.
        let handed_over = async {
            let (correlation, request) = take(inbox.next().await?, outbox)?;
            let event = Event::Request { client, correlation, user: user.clone(), request };
            Ok(door.owner.send(Input::Event(Box::new(event))).await.is_ok())
        };
        tokio::select! {
            biased;
            () = &mut leave => break Ok(()),
            () = close.cancelled() => break Err(ConnectionError::PeerTooSlow),
            () = door.stop.cancelled() => break Ok(()),
            handed_over = handed_over => match handed_over {
                Ok(true) => {}
                Ok(false) | Err(ConnectionError::Closed) => break Ok(()),
                Err(error) => break Err(error),
            },
        }
    };
    let _ = door.owner.send(Input::ClientClosed { client }).await;
    result
}

/// Answers the first request with why there will be no other.
async fn turn_away<S: AsyncRead + AsyncWrite>(
    inbox: &mut Inbox<S>,
    outbox: &Outbox,
    refusal: Refusal,
) -> Result<(), ConnectionError> {
    inbox.limit_bodies(REQUEST_BYTES_MAX);
    let asked = tokio::time::timeout(FAREWELL_TIME, inbox.next()).await;
    let Ok(Ok(frame)) = asked else { return Ok(()) };
    outbox.post(Kind::Reply, frame.correlation, &Reply::Refused(refusal))
}

/// The request in a frame; what cannot be read is refused and ends the connection.
fn take(frame: protocol::frame::Frame, outbox: &Outbox) -> Result<(u64, Request), ConnectionError> {
    let correlation = frame.correlation;
    let refuse = |why: String| {
        let refused = Reply::Refused(Refusal::Malformed { why: why.into() });
        let _ = outbox.post(Kind::Reply, correlation, &refused);
    };
    if frame.kind != Kind::Request {
        refuse("a request was expected".into());
        return Err(protocol::hello::HelloError::Damaged.into());
    }
    let request = connection::read(&frame).inspect_err(|error| refuse(error.to_string()))?;
    Ok((correlation, request))
}

/// Lets what was posted leave, but not for ever: every other outbox of this connection is dropped
/// by its holder at about the same time.
pub(crate) async fn farewell(outbox: Outbox, writer: tokio::task::JoinHandle<()>) {
    drop(outbox);
    let abort = writer.abort_handle();
    if tokio::time::timeout(FAREWELL_TIME, writer).await.is_err() {
        abort.abort();
    }
}

/// Who this account is in the grid.
async fn user_of(uid: u32, accounts: &BTreeMap<String, UserName>) -> Result<UserName, Refusal> {
    let nobody = |why: String| Refusal::WrongState { what: "any request".into(), state: why.into() };
    // May ask a directory service.
    let found = tokio::task::spawn_blocking(move || nix::unistd::User::from_uid(uid.into())).await;
    let account = match found {
        Ok(Ok(Some(account))) => account.name,
        _ => return Err(nobody(format!("uid {uid} has no account on this machine"))),
    };
    match accounts.get(&account) {
        Some(user) => Ok(user.clone()),
        None => account.parse().map_err(|error: protocol::names::BadName| nobody(error.to_string())),
    }
}
