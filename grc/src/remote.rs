//! The users' door for other machines: TLS 1.3 with the GRC's certificate, which the client has
//! pinned, and then a login by ssh key ([`protocol::login`]).
//!
//! ```text
//! accept --TLS, greeting--> stranger --challenge, login--> user --requests--> owner
//! ```
//! Of strangers there are so many at a time ([`crate::strangers`]), and each has so much time; who
//! runs out of it or has to make room hears why. A user goes as soon as his key is not in the users
//! file any more.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::connection::{self, Connection, ConnectionError, Inbox, Outbox};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::identity::Pin;
use protocol::limits::LOGIN_BYTES_MAX;
use protocol::login::{self, ATTEMPTS_MAX, FromStranger, LOGIN_TIME, ToStranger};
use protocol::names::UserName;
use protocol::refusal::Refusal;
use protocol::tls;
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::login::key;
use crate::login::users::Users;
use crate::seats::Seat;
use crate::server::{self, farewell};
use crate::sites::watch_line;
use crate::strangers::{Place, Said, Strangers, crowded};

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

/// Accepts users until told to stop.
pub async fn listen(listener: TcpListener, door: Door) {
    let strangers: Arc<Strangers> = Arc::default();
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
        let (place, door) = (strangers.admit(address.ip()), door.clone());
        tokio::spawn(async move { welcome(stream, address, place, door).await });
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
    #[error("the GRC stops")]
    Stopped,
}

impl Stranger {
    /// What he is told who did nothing wrong.
    fn last_word(&self) -> Option<Refusal> {
        let state = "it took longer than the GRC waits; try again".into();
        match self {
            Self::Late => Some(Refusal::WrongState { what: "this login".into(), state }),
            Self::Crowded => Some(crowded()),
            _ => None,
        }
    }
}

/// Somebody who has logged in.
struct User {
    name: UserName,
    key: Vec<u8>,
    seat: Seat,
}

async fn welcome(stream: TcpStream, address: SocketAddr, place: Place, mut door: Door) {
    if let Err(error) = watch_line(&stream) {
        tracing::warn!(%address, %error, "cannot watch the line to a user");
    }
    let failed = |door: &Door, error: Stranger| {
        door.said.say(|more| tracing::info!(%address, %error, more, "nobody logged in"));
    };
    let (given_up, stop) = (place.given_up(), door.door.stop.clone());
    let mut ended = std::pin::pin!(async {
        tokio::select! {
            () = tokio::time::sleep(LOGIN_TIME) => Stranger::Late,
            () = given_up => Stranger::Crowded,
            () = stop.cancelled() => Stranger::Stopped,
        }
    });
    let greeted = tokio::select! {
        greeted = greet(stream, &door) => greeted,
        why = &mut ended => Err(why),
    };
    let (line, binding) = match greeted {
        Ok(greeted) => greeted,
        Err(error) => return failed(&door, error),
    };
    let Connection { mut inbox, outbox, writer, .. } = line;
    let introduced = tokio::select! {
        introduced = log_in(&mut inbox, &outbox, binding, address, &mut door) => introduced,
        why = ended => Err(why),
    };
    drop(place);
    let User { name, key, seat: _seat } = match introduced {
        Ok(user) => user,
        Err(error) => {
            if let Some(refusal) = error.last_word() {
                let _ = outbox.post(Kind::Notice, 0, &ToStranger::Refused(refusal));
            }
            failed(&door, error);
            // So that the refusal arrives: the end of a connection may overtake it.
            return farewell(outbox, writer).await;
        }
    };
    tracing::info!(user = %name, %address, key = key::shown(&key), "user logged in");
    let (mut removed, cut) = (false, writer.abort_handle());
    let leave = async {
        let lets_in = |users: &Arc<Users>| users.key(&name, &key).is_some();
        // An error is a file that nobody follows any more: the GRC stops.
        removed = door.users.wait_for(|users| !lets_in(users)).await.is_ok();
        if removed {
            // Not one more word, though a log may still be on its way.
            cut.abort();
        }
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
    farewell(outbox, writer).await;
}

/// TLS and greeting; with the connection comes what is only true of it.
async fn greet(stream: TcpStream, door: &Door) -> Result<(Connection<Stream>, [u8; 32]), Stranger> {
    // What certificate he shows says nothing: his ssh key does.
    let (stream, _) = tls::accept(&door.acceptor, stream).await?;
    let binding = tls::binding(&stream)?;
    let mut line = connection::greet(stream, Role::Grc, &[Role::Client]).await?;
    line.inbox.limit_bodies(LOGIN_BYTES_MAX);
    Ok((line, binding))
}

async fn log_in(
    inbox: &mut Inbox<Stream>,
    outbox: &Outbox,
    binding: [u8; 32],
    address: SocketAddr,
    door: &mut Door,
) -> Result<User, Stranger> {
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
                Ok(User { name: user, key, seat })
            }
            Err(refusal) => {
                refuse(&refusal)?;
                Err(Stranger::Refused(refusal))
            }
        };
    }
    Err(Stranger::TooManyKeys)
}
