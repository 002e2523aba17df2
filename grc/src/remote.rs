//! The users' door for other machines: TLS 1.3 with the GRC's certificate, which the client has
//! pinned, and then a login by ssh key ([`protocol::login`]).
//!
//! ```text
//! accept --TLS, greeting--> stranger --challenge, login--> user --requests--> owner
//! ```
//! Strangers are few, brief and short of words. When there are too many, the one who has been a
//! stranger for longest goes, so that somebody who sits on all places keeps nobody out. A user goes
//! as soon as his key is not in the users file any more.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::connection::{self, Connection, ConnectionError, Inbox, Outbox};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::identity::Pin;
use protocol::limits::LOGIN_BYTES_MAX;
use protocol::login::{self, ATTEMPTS_MAX, FromStranger, ToStranger};
use protocol::names::UserName;
use protocol::refusal::Refusal;
use protocol::tls;
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::sync::CancellationToken;

use crate::login::key;
use crate::login::users::Users;
use crate::seats::Seat;
use crate::server::{self, farewell};
use crate::sites::watch_line;

/// Connections of which nobody knows yet whose they are: in all, and from one address.
pub const STRANGERS_MAX: usize = 256;
pub const STRANGERS_PER_ADDRESS_MAX: usize = 64;
/// From the connection to the login: an agent may ask its owner before it signs.
pub const LOGIN_TIME: Duration = Duration::from_secs(60);

/// Lines of the log about strangers.
const LINES_PER_MINUTE_MAX: usize = 60;
const MINUTE: Duration = Duration::from_secs(60);

type Stream = TlsStream<TcpStream>;

/// What a connection needs to know of its surroundings.
#[derive(Clone)]
pub struct Door {
    pub acceptor: TlsAcceptor,
    /// The GRC's own: what is signed names it.
    pub pin: Pin,
    pub users: watch::Receiver<Arc<Users>>,
    pub door: server::Door,
    pub said: Arc<Said>,
}

/// What the log says of strangers, who must not be able to fill it: so many lines in a minute, and then
/// how many there would have been.
#[derive(Debug, Default)]
pub struct Said(Mutex<(Option<Instant>, usize)>);

impl Said {
    fn say(&self, line: impl FnOnce(usize)) {
        let left_out = self.count(Instant::now());
        if let Some(more) = left_out {
            line(more);
        }
    }

    /// Whether a line may be said at this time, and how many were left out before it.
    fn count(&self, now: Instant) -> Option<usize> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = *state;
        if since.is_none_or(|since| now.duration_since(since) >= MINUTE) {
            *state = (Some(now), 1);
            return Some(count.saturating_sub(LINES_PER_MINUTE_MAX));
        }
        state.1 += 1;
        (count < LINES_PER_MINUTE_MAX).then_some(0)
    }
}

/// Accepts users until told to stop.
pub async fn listen(listener: TcpListener, door: Door) {
    let strangers: Arc<Mutex<Strangers>> = Arc::default();
    loop {
        let (stream, address) = tokio::select! {
            () = door.door.stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a user");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let place = strangers.lock().unwrap_or_else(PoisonError::into_inner).admit(address.ip());
        let Some((number, goes)) = place else {
            tracing::debug!(%address, "too many at once from there");
            continue;
        };
        let place = Place { strangers: strangers.clone(), number };
        let door = door.clone();
        tokio::spawn(async move { welcome(stream, address, place, goes, door).await });
    }
}

/// Those of whom nobody knows yet who they are, in the order in which they came.
#[derive(Debug, Default)]
struct Strangers {
    here: BTreeMap<u64, (IpAddr, CancellationToken)>,
    next: u64,
}

impl Strangers {
    /// A place and what tells its holder to go, unless there are too many from the same address
    /// already. If there are too many in all, the first who came goes.
    fn admit(&mut self, address: IpAddr) -> Option<(u64, CancellationToken)> {
        let address = neighbourhood(address);
        if self.here.values().filter(|(one, _)| *one == address).count() >= STRANGERS_PER_ADDRESS_MAX {
            return None;
        }
        if self.here.len() >= STRANGERS_MAX
            && let Some((_, (_, goes))) = self.here.pop_first()
        {
            goes.cancel();
        }
        let (number, goes) = (self.next, CancellationToken::new());
        self.next += 1;
        self.here.insert(number, (address, goes.clone()));
        Some((number, goes))
    }
}

/// What one machine has many addresses of counts as one.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        four => four,
    }
}

/// A stranger's place; given back when it is dropped.
struct Place {
    strangers: Arc<Mutex<Strangers>>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner).here.remove(&self.number);
    }
}

/// Why a stranger does not become a user.
#[derive(Debug, thiserror::Error)]
enum Stranger {
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("{0}")]
    Refused(Refusal),
    #[error("the system gives no random numbers: {0}")]
    NoChallenge(String),
    #[error("{ATTEMPTS_MAX} keys were tried")]
    TooManyKeys,
    #[error("it did not log in within {} s", LOGIN_TIME.as_secs())]
    Late,
    #[error("others came after it")]
    Crowded,
}

/// Somebody who has logged in.
struct User {
    name: UserName,
    key: Vec<u8>,
    seat: Seat,
    line: Connection<Stream>,
}

async fn welcome(
    stream: TcpStream,
    address: SocketAddr,
    place: Place,
    goes: CancellationToken,
    mut door: Door,
) {
    if let Err(error) = watch_line(&stream) {
        tracing::warn!(%address, %error, "cannot watch the line to a user");
    }
    let stop = door.door.stop.clone();
    let introduced = tokio::select! {
        introduced = tokio::time::timeout(LOGIN_TIME, introduce(stream, address, &mut door)) => {
            introduced.unwrap_or(Err(Stranger::Late))
        }
        () = goes.cancelled() => Err(Stranger::Crowded),
        () = stop.cancelled() => return,
    };
    drop(place);
    let User { name, key, seat: _seat, line } = match introduced {
        Ok(user) => user,
        Err(error) => {
            return door.said.say(|more| tracing::info!(%address, %error, more, "nobody logged in"));
        }
    };
    tracing::info!(user = %name, %address, key = key::shown(&key), "user logged in");
    let Connection { mut inbox, outbox, writer, .. } = line;
    let mut removed = false;
    let leave = async {
        let lets_in = |users: &Arc<Users>| users.key(&name, &key).is_some();
        // An error is a file that nobody follows any more: the GRC stops.
        removed = door.users.wait_for(|users| !lets_in(users)).await.is_ok();
    };
    let client = door.door.next_client();
    let result = server::attend(client, name.clone(), &mut inbox, &outbox, &door.door, leave).await;
    match result {
        _ if removed => {
            tracing::info!(user = %name, %address, "disconnected: the key is in the users file no more")
        }
        Err(ConnectionError::Io(error)) if error.kind() == ErrorKind::UnexpectedEof => {
            tracing::debug!(user = %name, %address, "user went without a word");
        }
        Ok(()) => tracing::debug!(user = %name, %address, "user went"),
        Err(error) => tracing::info!(user = %name, %address, %error, "a user was disconnected"),
    }
    if removed {
        // Not one more word, though a log may still be on its way.
        writer.abort();
    }
    farewell(outbox, writer).await;
}

/// TLS, greeting, login.
async fn introduce(stream: TcpStream, address: SocketAddr, door: &mut Door) -> Result<User, Stranger> {
    // What certificate he shows says nothing: his ssh key does.
    let (stream, _) = tls::accept(&door.acceptor, stream).await?;
    let binding = tls::binding(&stream)?;
    let mut line = connection::greet(stream, Role::Grc, &[Role::Client]).await?;
    line.inbox.limit_bodies(LOGIN_BYTES_MAX);
    let known = log_in(&mut line.inbox, &line.outbox, binding, address, door).await;
    match known {
        Ok((name, key, seat)) => Ok(User { name, key, seat, line }),
        Err(error) => {
            // So that the refusal arrives: the end of a connection may overtake it.
            let Connection { outbox, writer, .. } = line;
            farewell(outbox, writer).await;
            Err(error)
        }
    }
}

async fn log_in(
    inbox: &mut Inbox<Stream>,
    outbox: &Outbox,
    binding: [u8; 32],
    address: SocketAddr,
    door: &mut Door,
) -> Result<(UserName, Vec<u8>, Seat), Stranger> {
    let mut challenge = [0; 32];
    SysRng.try_fill_bytes(&mut challenge).map_err(|error| Stranger::NoChallenge(error.to_string()))?;
    outbox.post(Kind::Notice, 0, &ToStranger::Challenge(challenge))?;
    for _ in 0..ATTEMPTS_MAX {
        let frame = inbox.next().await?;
        let refuse = |refusal: &Refusal| {
            outbox.post(Kind::Reply, frame.correlation, &ToStranger::Refused(refusal.clone()))
        };
        let read = match frame.kind {
            Kind::Request => connection::read(&frame).map_err(|error| error.to_string()),
            _ => Err("a login was expected".to_owned()),
        };
        let FromStranger::Login { user, key, signature } = match read {
            Ok(login) => login,
            Err(why) => {
                let refusal = Refusal::Malformed { why: why.into() };
                refuse(&refusal)?;
                return Err(Stranger::Refused(refusal));
            }
        };
        let message = login::signed(&challenge, &binding, &door.pin.0, &user);
        let lets_in =
            |users: &Users| users.key(&user, &key).is_some_and(|key| key.signed(&message, &signature));
        if !lets_in(&door.users.borrow_and_update()) {
            let key = key::shown(&key);
            door.said.say(|more| tracing::info!(%user, %address, %key, more, "a login was refused"));
            refuse(&Refusal::LoginRefused { user })?;
            continue;
        }
        return match door.door.seats.take(&user) {
            Ok(seat) => {
                outbox.post(Kind::Reply, frame.correlation, &ToStranger::Welcome)?;
                Ok((user, key, seat))
            }
            Err(refusal) => {
                refuse(&refusal)?;
                Err(Stranger::Refused(refusal))
            }
        };
    }
    Err(Stranger::TooManyKeys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_too_often_from_one_place_is_not_let_in_and_the_oldest_stranger_makes_room() {
        let mut strangers = Strangers::default();
        let here: IpAddr = "192.0.2.1".parse().unwrap();
        let first: Vec<_> = (0..STRANGERS_PER_ADDRESS_MAX).map(|_| strangers.admit(here).unwrap()).collect();
        assert!(strangers.admit(here).is_none());
        let rest: Vec<_> = (0..STRANGERS_MAX - STRANGERS_PER_ADDRESS_MAX)
            .map(|n| strangers.admit(IpAddr::from([198, 51, 100, n as u8])).unwrap())
            .collect();
        assert!(first.iter().chain(&rest).all(|(_, goes)| !goes.is_cancelled()));
        let last = strangers.admit("203.0.113.1".parse().unwrap()).unwrap();
        assert_eq!(strangers.here.len(), STRANGERS_MAX);
        assert!(first[0].1.is_cancelled() && !first[1].1.is_cancelled() && !last.1.is_cancelled());
        assert!(strangers.admit(here).is_some(), "there is one less from there");
    }

    #[test]
    fn strangers_cannot_fill_the_log_and_what_was_left_out_is_counted() {
        let (said, begin) = (Said::default(), Instant::now());
        let spoken = (0..1000).filter(|_| said.count(begin).is_some()).count();
        assert_eq!(spoken, LINES_PER_MINUTE_MAX);
        assert_eq!(said.count(begin + MINUTE), Some(1000 - LINES_PER_MINUTE_MAX));
        assert_eq!(said.count(begin + MINUTE), Some(0));
    }

    #[test]
    fn the_addresses_of_one_machine_count_as_one() {
        let of = |text: &str| neighbourhood(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
