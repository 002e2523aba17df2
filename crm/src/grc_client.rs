//! The connection to the GRC. The CRM dials, and dials again: 0.2 to 5 s apart.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::connection::{ConnectionError, Outbox, greet, read};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::ids::{Epoch, JobId, MemberNumber, ReservationId};
use protocol::job::Stream;
use protocol::limits::OUTPUT_CHUNK_BYTES_MAX;
use protocol::names::SiteName;
use protocol::refusal::Refusal;
use protocol::site::{BEAT_TIME, FromSite, ToSite};
use protocol::tls::{TlsError, dial};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::mapfile::{self, Accounts};
use crate::pilots::notice_dead_peers;
use crate::serve::Input;
use crate::site::Event;

/// How long the last words may take.
const GOODBYE_TIME: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What the connection needs to know.
#[derive(Clone)]
pub struct Grc {
    pub site: SiteName,
    pub address: SocketAddr,
    pub connector: TlsConnector,
    pub accounts: Accounts,
}

/// The way to the GRC, as the driver holds it.
#[derive(Debug)]
pub struct Uplink {
    queue: mpsc::UnboundedSender<FromSite>,
    sender: JoinHandle<()>,
}

impl Uplink {
    /// Queues a message. A broken connection is reported by its own task.
    pub fn tell(&self, message: FromSite) {
        let _ = self.queue.send(message);
    }

    /// Ends the connection in order, once everything queued has left.
    pub async fn close(self) {
        drop(self.queue);
        let _ = tokio::time::timeout(GOODBYE_TIME, self.sender).await;
    }
}

/// Why there is no conversation with the GRC (any more).
#[derive(Debug, thiserror::Error)]
pub enum GrcError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("the GRC sent what no site can act on: {0}")]
    Malformed(Refusal),
    #[error("the GRC refuses this site: {0}")]
    Refused(Refusal),
    #[error("the GRC did not answer")]
    NoAnswer,
}

/// Keeps a connection to the GRC until the driver is gone.
pub async fn keep_connected(grc: Grc, inputs: mpsc::Sender<Input>) {
    let mut backoff = BACKOFF_MIN;
    let mut last_said = String::new();
    while !inputs.is_closed() {
        let mut welcome = false;
        if let Err(error) = converse(&grc, &inputs, &mut welcome).await {
            // One line per cause, not one per attempt.
            let said = error.to_string();
            if welcome || said != last_said {
                tracing::warn!("GRC at {}: {said}; dialling again", grc.address);
                last_said = said;
            }
        }
        if welcome {
            backoff = BACKOFF_MIN;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn converse(grc: &Grc, inputs: &mpsc::Sender<Input>, welcome: &mut bool) -> Result<(), GrcError> {
    let stream = dial(&grc.connector, grc.address).await?;
    notice_dead_peers(stream.get_ref().0);
    let mut connection = greet(stream, Role::Crm, &[Role::Grc]).await?;
    let (queue, queued) = mpsc::unbounded_channel();
    let sender = tokio::spawn(async move {
        send_all(connection.outbox, queued).await;
        // Until the last word is out, and with it a goodbye.
        let _ = connection.writer.await;
    });
    if inputs.send(Input::GrcConnected(Uplink { queue, sender })).await.is_err() {
        return Ok(());
    }
    let ended = loop {
        let message = match connection.inbox.next().await.and_then(|frame| read::<ToSite>(&frame)) {
            Ok(message) => message,
            Err(error) => break error.into(),
        };
        if let Err(refusal) = message.check() {
            break GrcError::Malformed(refusal);
        }
        match message {
            ToSite::Refused(refusal) => break GrcError::Refused(refusal),
            ToSite::Welcome => {
                if !std::mem::replace(welcome, true) {
                    tracing::info!("site {} is part of the grid of the GRC at {}", grc.site, grc.address);
                }
            }
            message => {
                let event = with_account(grc, message).await;
                if inputs.send(Input::Event(event)).await.is_err() {
                    return Ok(());
                }
            }
        }
    };
    let _ = inputs.send(Input::GrcLost).await;
    Err(ended)
}

/// A hold needs the user's account, and looking that up may ask a network service: not for the
/// owner to wait for.
async fn with_account(grc: &Grc, message: ToSite) -> Event {
    let ToSite::Hold { reservation, version, part } = message else { return Event::Grc(message) };
    let (accounts, site, user) = (grc.accounts.clone(), grc.site.clone(), part.user.clone());
    let lookup = tokio::task::spawn_blocking(move || mapfile::look_up(&accounts, &site, &user));
    let account = lookup.await.unwrap_or_else(|_| {
        Err(Refusal::UserNotMapped { site: grc.site.clone(), user: part.user.as_str().into() })
    });
    Event::Hold { reservation, version, part, account }
}

/// Sends what the driver queues, and that the site lives when that is nothing. The queue is bounded
/// by what agents may send ahead; small pieces of one stream that wait together go as one.
async fn send_all(outbox: Outbox, mut queued: mpsc::UnboundedReceiver<FromSite>) {
    // A site first says who it is.
    let mut first = queued.recv().await;
    while let Some(mut current) = first.take() {
        loop {
            match queued.try_recv() {
                Ok(next) => {
                    if let Some(next) = append(&mut current, next) {
                        if outbox.post(Kind::Notice, 0, &current).is_err() {
                            return;
                        }
                        current = next;
                    }
                }
                Err(_) => {
                    if outbox.post(Kind::Notice, 0, &current).is_err() {
                        return;
                    }
                    break;
                }
            }
        }
        let next = tokio::time::timeout(BEAT_TIME, queued.recv());
        first = next.await.unwrap_or(Some(FromSite::Beat));
    }
}

/// One stream of one member's command.
type StreamOf = (ReservationId, Epoch, JobId, MemberNumber, Stream);

/// Of which stream a piece is, and where in it it begins and ends.
fn place(message: &FromSite) -> Option<(StreamOf, u64, u64)> {
    match message {
        FromSite::Output { reservation, epoch, job, member, stream, offset, bytes } => {
            let end = offset.checked_add(bytes.len() as u64)?;
            Some(((*reservation, *epoch, *job, *member, *stream), *offset, end))
        }
        _ => None,
    }
}

/// Joins `next` to `current` if it goes on where that ends; else gives it back.
fn append(current: &mut FromSite, next: FromSite) -> Option<FromSite> {
    match (place(current), place(&next)) {
        (Some((from, start, end)), Some((to, offset, last)))
            if from == to && offset == end && last - start <= OUTPUT_CHUNK_BYTES_MAX as u64 => {}
        _ => return Some(next),
    }
    if let (FromSite::Output { bytes, .. }, FromSite::Output { bytes: more, .. }) = (current, next) {
        *bytes = [bytes.as_ref(), more.as_ref()].concat().into();
    }
    None
}

/// First contact: shows the ticket's secret and waits to be welcomed.
pub async fn register(grc: &Grc, secret: [u8; 32]) -> Result<(), GrcError> {
    let stream = dial(&grc.connector, grc.address).await?;
    let mut connection = greet(stream, Role::Crm, &[Role::Grc]).await?;
    let register = FromSite::Register { site: grc.site.clone(), secret };
    connection.outbox.post(Kind::Notice, 0, &register)?;
    let answer = tokio::time::timeout(Duration::from_secs(10), connection.inbox.next());
    let answer = read::<ToSite>(&answer.await.map_err(|_| GrcError::NoAnswer)??)?;
    drop(connection.outbox);
    let _ = tokio::time::timeout(GOODBYE_TIME, connection.writer).await;
    match answer {
        ToSite::Welcome => Ok(()),
        ToSite::Refused(refusal) => Err(GrcError::Refused(refusal)),
        _ => Err(GrcError::NoAnswer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: u64, text: &str, stream: Stream) -> FromSite {
        FromSite::Output {
            reservation: ReservationId(1),
            epoch: Epoch(1),
            job: JobId(1),
            member: 0,
            stream,
            offset,
            bytes: text.to_owned().into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_site_with_nothing_to_say_beats_but_not_before_it_has_said_who_it_is() {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (crm, grc) =
            tokio::join!(greet(ours, Role::Crm, &[Role::Grc]), greet(theirs, Role::Grc, &[Role::Crm]));
        let (crm, mut grc) = (crm.unwrap(), grc.unwrap());
        let (queue, queued) = mpsc::unbounded_channel();
        let sender = tokio::spawn(send_all(crm.outbox, queued));
        assert!(tokio::time::timeout(BEAT_TIME * 5, grc.inbox.next()).await.is_err());
        queue.send(piece(0, "ab", Stream::Stdout)).unwrap();
        for expected in [piece(0, "ab", Stream::Stdout), FromSite::Beat, FromSite::Beat] {
            assert_eq!(read::<FromSite>(&grc.inbox.next().await.unwrap()).unwrap(), expected);
        }
        drop(queue);
        sender.await.unwrap();
    }

    #[test]
    fn only_pieces_that_follow_each_other_in_one_stream_are_joined() {
        let mut current = piece(5, "ab", Stream::Stdout);
        assert_eq!(append(&mut current, piece(7, "cd", Stream::Stdout)), None);
        assert_eq!(current, piece(5, "abcd", Stream::Stdout));
        for other in [
            piece(9, "x", Stream::Stderr),
            piece(8, "x", Stream::Stdout),
            piece(10, "x", Stream::Stdout),
            piece(9, &"x".repeat(OUTPUT_CHUNK_BYTES_MAX - 3), Stream::Stdout),
            FromSite::Joined { reservation: ReservationId(1), epoch: Epoch(1) },
        ] {
            assert_eq!(append(&mut current, other.clone()), Some(other));
        }
        assert_eq!(current, piece(5, "abcd", Stream::Stdout));
    }
}
