//! The way to the site's CRM: dial, prove who is there, arrive; and dial again.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use node_manager::operation::Welcome;
use protocol::connection::{Connection, ConnectionError, greet, read};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::identity::{Identity, IdentityError, Pin};
use protocol::names::NodeName;
use protocol::node::{Arrive, First, Reply, Token};
use protocol::refusal::Refusal;
use protocol::tls::{self, TlsError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::{TlsConnector, TlsStream};

/// How long the CRM is dialled. One that is slow for a moment must not waste a pilot that waited
/// hours in a queue; one that is gone must not keep the node.
const DIAL_TIME: Duration = Duration::from_secs(8);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How long one attempt to come back may take: it must not use up a short lease.
const ATTEMPT_TIME: Duration = Duration::from_secs(3);
/// How long the CRM may take to accept the token.
const ARRIVE_TIME: Duration = Duration::from_secs(10);
/// A CRM whose machine vanished without a word is noticed after idle + count * interval seconds.
const KEEPALIVE_IDLE_S: u32 = 4;
const KEEPALIVE_INTERVAL_S: u32 = 2;
const KEEPALIVE_COUNT: u32 = 2;
const UNACKNOWLEDGED_MS_MAX: u32 = 8000;

/// Why the pilot did not get in.
#[derive(Debug, thiserror::Error)]
pub enum ArriveError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("the CRM refused this pilot: {0}")]
    Refused(Refusal),
    #[error("the CRM did not answer within {} s", ARRIVE_TIME.as_secs())]
    Timeout,
    #[error("the CRM answered something else than was asked")]
    Confused,
    #[error("the node's boot id cannot be read: {0}")]
    BootId(io::Error),
    #[error("the node is called {0:?}, which is no node name")]
    NodeName(String),
}

/// The site's CRM, as this pilot dials it: with the same certificate every time.
#[derive(Clone)]
pub struct Crm {
    connector: TlsConnector,
    address: SocketAddr,
}

/// How a connection comes again.
pub trait Redial: Clone + Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Send + 'static;

    /// A new connection that has greeted, however long it takes.
    fn dial(self) -> impl Future<Output = Connection<Self::Stream>> + Send;
}

impl Redial for Crm {
    type Stream = TlsStream<TcpStream>;

    async fn dial(self) -> Connection<Self::Stream> {
        let mut pause = RETRY_MIN;
        loop {
            match timeout(ATTEMPT_TIME, self.connect()).await {
                Ok(Ok(connection)) => return connection,
                Ok(Err(error)) => tracing::debug!("{error}; trying again"),
                Err(_) => tracing::debug!("no connection within {} s", ATTEMPT_TIME.as_secs()),
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

impl Crm {
    /// The CRM that the node policy pins. Its certificate is fresh for every pilot: the CRM binds it
    /// to this one, and it is never written anywhere.
    ///
    /// # Errors
    /// No certificate can be made.
    pub fn new(address: SocketAddr, pin: [u8; 32]) -> Result<Self, ArriveError> {
        let identity = Identity::generate("node-agent")?;
        Ok(Self { connector: tls::connector(&identity, Pin(pin))?, address })
    }

    async fn connect(&self) -> Result<Connection<TlsStream<TcpStream>>, ArriveError> {
        let stream = tls::dial(&self.connector, self.address).await?;
        watch_closely(stream.get_ref().0);
        Ok(greet(stream, Role::Agent, &[Role::Crm]).await?)
    }

    /// Dials, shows the token, and is let in. Repeated where a connection breaks: a CRM that has let
    /// this certificate in knows it again.
    ///
    /// # Errors
    /// It was not let in, or not in time.
    pub async fn arrive(&self, arrive: &Arrive) -> Result<Connection<TlsStream<TcpStream>>, ArriveError> {
        let deadline = Instant::now() + DIAL_TIME;
        let mut pause = RETRY_MIN;
        loop {
            match self.try_arrive(arrive).await {
                Ok(connection) => return Ok(connection),
                Err(error) if error.passes() && Instant::now() + pause < deadline => {
                    tracing::debug!("{error}; trying again");
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_arrive(&self, arrive: &Arrive) -> Result<Connection<TlsStream<TcpStream>>, ArriveError> {
        let mut connection = self.connect().await?;
        connection.outbox.post(Kind::Request, 1, &First::Arrive(arrive.clone()))?;
        let answer =
            timeout(ARRIVE_TIME, connection.inbox.next()).await.map_err(|_| ArriveError::Timeout)??;
        if answer.kind != Kind::Reply || answer.correlation != 1 {
            return Err(ArriveError::Confused);
        }
        match read(&answer)? {
            Reply::Done => Ok(connection),
            Reply::Refused(refusal) => Err(ArriveError::Refused(refusal)),
            _ => Err(ArriveError::Confused),
        }
    }
}

/// What this pilot arrives with.
///
/// # Errors
/// The node's boot id or name cannot be told.
pub fn arrival(token: Token, welcome: &Welcome) -> Result<Arrive, ArriveError> {
    let node: NodeName =
        welcome.node_name.parse().map_err(|_| ArriveError::NodeName(welcome.node_name.clone()))?;
    Ok(Arrive {
        token,
        nonce: welcome.nonce,
        node,
        uid: welcome.uid,
        boot_id: boot_id().map_err(ArriveError::BootId)?,
        version: env!("CARGO_PKG_VERSION").into(),
    })
}

impl ArriveError {
    /// Whether it may be better a moment later.
    fn passes(&self) -> bool {
        match self {
            Self::Tls(error) => passes(error),
            Self::Connection(ConnectionError::Io(_) | ConnectionError::Closed) => true,
            _ => false,
        }
    }
}

/// Whether it may be better a moment later. A wrong certificate stays wrong.
fn passes(error: &TlsError) -> bool {
    match error {
        TlsError::Dial { .. } | TlsError::Timeout => true,
        TlsError::Handshake(error) => error.kind() != io::ErrorKind::InvalidData,
        TlsError::NoCertificate | TlsError::WrongPin | TlsError::NoBinding(_) | TlsError::Identity(_) => {
            false
        }
    }
}

/// A lost CRM must be noticed even if no packet says so. Without these options it still works,
/// only more slowly, so a refusal is no reason to give up.
fn watch_closely(stream: &TcpStream) {
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S);
    let _ = setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_COUNT);
    let _ = setsockopt(stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS_MAX);
}

/// The kernel's name for this boot, 16 bytes written as a UUID.
fn boot_id() -> io::Result<[u8; 16]> {
    parse_boot_id(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .trim_end()
        .chars()
        .filter(|c| *c != '-')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, d| byte << 4 | d)).collect();
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_id_is_read_as_the_kernel_writes_it() {
        let text = "5a1b0f00-ffff-4e2d-8001-0102030405ff\n";
        let wanted = [0x5a, 0x1b, 0x0f, 0, 0xff, 0xff, 0x4e, 0x2d, 0x80, 1, 1, 2, 3, 4, 5, 0xff];
        assert_eq!(parse_boot_id(text), Some(wanted));
        assert_eq!(parse_boot_id("xyz"), None);
        assert_eq!(parse_boot_id(""), None);
        assert!(boot_id().is_ok());
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(passes(&TlsError::Dial { address: "127.0.0.1:1".parse().unwrap(), source: refused }));
        assert!(!passes(&TlsError::Handshake(io::ErrorKind::InvalidData.into())));
    }
}
