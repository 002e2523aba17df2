//! The edge to the GRC: its unix socket, or a login over the network, greeted, with requests, notices
//! and replies told apart by correlation id. When the connection is lost it is sought again for a shown time; who waits
//! for something then asks again (request ids make a repeated order harmless).

use std::path::Path;
use std::time::Duration;

use protocol::client::{Notice, Reply, Request};
use protocol::connection::{self, Connection, ConnectionError, greet};
use protocol::frame::Kind;
use protocol::hello::Role;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::errors::CliError;
use super::target::Target;
use super::{login, out, values};

/// How long the GRC may take for an answer that needs no waiting.
pub const ANSWER_TIME: Duration = Duration::from_secs(30);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Bytes to the GRC and back, whichever way they go.
pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Bytes for S {}
pub type Line = Box<dyn Bytes>;

/// What comes from the GRC.
#[derive(Debug)]
pub enum Incoming {
    Notice(u64, Notice),
    Reply(u64, Reply),
}

/// Why nothing comes.
#[derive(Debug)]
pub enum Trouble {
    /// The connection is gone; [`Client::reconnect`] and ask again.
    Lost,
    Final(CliError),
}

impl From<CliError> for Trouble {
    fn from(error: CliError) -> Self {
        Self::Final(error)
    }
}

/// One connection at a time to one GRC.
pub struct Client {
    grc: Target,
    patience: Duration,
    live: Option<Connection<Line>>,
    correlation: u64,
    /// Since when there was no word from the GRC; a GRC that accepts and falls over each time
    /// does not renew it.
    lost_at: Option<Instant>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("grc", &self.grc).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects when it is first needed. `patience` is for a connection that was lost; one that
    /// never was is not sought again.
    pub fn new(grc: Target, patience: Duration) -> Self {
        Self { grc, patience, live: None, correlation: 0, lost_at: None }
    }

    /// Makes sure that there is a connection.
    ///
    /// # Errors
    /// `Unreachable`, or `Refused` by version.
    pub async fn connect(&mut self) -> Result<(), CliError> {
        if self.live.is_none() {
            self.live = Some(dial(&self.grc).await?);
        }
        Ok(())
    }

    /// Sends a request and returns its correlation id. Ids are never used twice, over
    /// reconnections too.
    pub fn post(&mut self, request: &Request) -> Result<u64, Trouble> {
        let live = self.live.as_ref().ok_or(Trouble::Lost)?;
        self.correlation += 1;
        match live.outbox.post(Kind::Request, self.correlation, request) {
            Ok(()) => Ok(self.correlation),
            Err(ConnectionError::Codec(error)) => Err(CliError::Usage(error.to_string()).into()),
            Err(_) => Err(self.lose()),
        }
    }

    /// The next thing that the GRC says. Cancel-safe.
    pub async fn next(&mut self) -> Result<Incoming, Trouble> {
        let live = self.live.as_mut().ok_or(Trouble::Lost)?;
        let frame = match live.inbox.next().await {
            Ok(frame) => frame,
            Err(ConnectionError::Io(_) | ConnectionError::Closed) => return Err(self.lose()),
            Err(error) => return Err(garbled(&error)),
        };
        self.lost_at = None;
        let incoming = match frame.kind {
            Kind::Notice => {
                connection::read(&frame).map(|notice| Incoming::Notice(frame.correlation, notice))
            }
            Kind::Reply => connection::read(&frame).map(|reply| Incoming::Reply(frame.correlation, reply)),
            Kind::Hello | Kind::Request => Err(ConnectionError::Closed),
        };
        incoming.map_err(|error| garbled(&error))
    }

    fn lose(&mut self) -> Trouble {
        self.live = None;
        self.lost_at.get_or_insert_with(Instant::now);
        Trouble::Lost
    }

    /// Seeks the GRC again, until the time that is shown.
    ///
    /// # Errors
    /// `Unreachable` when that time is over.
    pub async fn reconnect(&mut self) -> Result<(), CliError> {
        let end = *self.lost_at.get_or_insert_with(Instant::now) + self.patience;
        let left = end.saturating_duration_since(Instant::now());
        out::say(&format!(
            "gridpilot: the GRC at {} went away; trying again for {}",
            self.grc,
            values::show_duration(left.as_secs_f64().ceil() as u64),
        ));
        let mut backoff = Duration::from_millis(50);
        loop {
            sleep(backoff.min(end.saturating_duration_since(Instant::now()))).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
            match self.connect().await {
                Ok(()) => return Ok(()),
                Err(CliError::Unreachable { grc, cause, .. }) if Instant::now() >= end => {
                    let hint = format!(
                        "it went away meanwhile and did not come back within {}; what was submitted may go on there",
                        values::show_duration(self.patience.as_secs())
                    );
                    return Err(CliError::Unreachable { grc, cause, hint });
                }
                Err(CliError::Unreachable { .. }) => {}
                Err(other) => return Err(other),
            }
        }
    }

    /// Asks what is answered without waiting. A refusal or failure comes as an error.
    pub async fn ask(&mut self, request: &Request) -> Result<Reply, CliError> {
        self.connect().await?;
        loop {
            match timeout(ANSWER_TIME, self.answer(request)).await {
                Ok(Ok(reply)) => return checked(reply),
                Ok(Err(Trouble::Lost)) => self.reconnect().await?,
                Ok(Err(Trouble::Final(error))) => return Err(error),
                Err(_) => return Err(self.silent()),
            }
        }
    }

    /// Asks once, over the connection that is there; waits as long as it takes.
    pub async fn answer(&mut self, request: &Request) -> Result<Reply, Trouble> {
        let ours = self.post(request)?;
        loop {
            // What else comes belongs to a request that nobody waits for any more.
            match self.next().await? {
                Incoming::Reply(id, reply) if id == ours => return Ok(reply),
                Incoming::Reply(..) | Incoming::Notice(..) => {}
            }
        }
    }

    /// The error of a GRC that is there but does not answer.
    pub fn silent(&self) -> CliError {
        CliError::Unreachable {
            grc: self.grc.to_string(),
            cause: format!("no answer within {} s", ANSWER_TIME.as_secs()),
            hint: "it is there but busy or stuck; its log says more".to_owned(),
        }
    }
}

/// A refusal or a failure as an error.
pub fn checked(reply: Reply) -> Result<Reply, CliError> {
    match reply {
        Reply::Refused(refusal) => Err(CliError::Refused(refusal)),
        Reply::Failed(failure) => {
            Err(CliError::Failed { what: "the request".to_owned(), failure: Box::new(failure) })
        }
        other => Ok(other),
    }
}

fn garbled(error: &ConnectionError) -> Trouble {
    Trouble::Final(CliError::Bug(format!("the GRC cannot be understood: {error}")))
}

async fn dial(grc: &Target) -> Result<Connection<Line>, CliError> {
    match grc {
        Target::Socket(socket) => dial_socket(socket).await,
        Target::Remote(remote) => login::dial(remote).await.map(|(line, _)| line),
    }
}

async fn dial_socket(socket: &Path) -> Result<Connection<Line>, CliError> {
    const HINT: &str =
        "start it with `grc serve`, or set GRIDPILOT_GRC to the socket of the grid that you mean";
    let unreachable = |cause: String| CliError::Unreachable {
        grc: socket.display().to_string(),
        cause,
        hint: HINT.to_owned(),
    };
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(reason(&error)))?;
    let stream: Line = Box::new(stream);
    greet(stream, Role::Client, &[Role::Grc]).await.map_err(|error| match error {
        ConnectionError::Version(refusal) => CliError::Refused(refusal),
        other => unreachable(other.to_string()),
    })
}

/// The system's words without the number behind them.
pub fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
