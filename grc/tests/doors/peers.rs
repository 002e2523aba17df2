//! A real GRC in this process, and peers that speak to its sockets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use grc::cli::client::Line;
use grc::config::{Config, Connections, Remote};
use grc::coordinator::{Deadlines, Limits};
use grc::pins;
use grc::serve::Server;
use protocol::client::{Notice, Reply, Request};
use protocol::connection::{self, Connection, ConnectionError, Inbox, Outbox};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::identity::{Identity, Pin, hex32};
use protocol::names::{EnvironmentName, SiteName};
use protocol::site::{FromSite, Offer, ToSite};
use protocol::tls;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;
use tokio_util::sync::CancellationToken;

/// Nothing here takes long; what does is stuck.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Grc {
    pub directory: tempfile::TempDir,
    pub config: Config,
    pub address: SocketAddr,
    /// Where users of other machines dial.
    pub users_address: Option<SocketAddr>,
    pub pin: Pin,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

/// A loopback address of this machine, whichever family it has.
pub fn loopback() -> SocketAddr {
    let any: [SocketAddr; 2] = ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    let usable = |address: &&SocketAddr| std::net::TcpListener::bind(**address).is_ok();
    *any.iter().find(usable).expect("a loopback interface")
}

impl Grc {
    pub async fn start() -> Self {
        Self::start_with("", |_| ()).await
    }

    /// With this users file, and whatever else is changed of the configuration.
    pub async fn start_with(users: &str, change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let users_file = directory.path().join("users");
        std::fs::write(&users_file, users).unwrap();
        let state = directory.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let identity = Identity::generate("grc").unwrap();
        identity.save(&state).unwrap();
        let account = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
        let net = |text: &str| vec![text.parse().unwrap()];
        let mut config = Config {
            state,
            listen: loopback(),
            socket: directory.path().join("run/grc.sock"),
            supernets: [("a", net("10.1.0.0/16")), ("b", net("10.2.0.0/16"))]
                .map(|(name, nets)| (name.parse().unwrap(), nets))
                .into(),
            users: [(account, "u".parse().unwrap())].into(),
            deadlines: Deadlines::default(),
            links: [].into(),
            uplinks: [].into(),
            remote: Some(Remote { listen: loopback(), users_file }),
            limits: Limits { reservations: 100, ..Limits::default() },
            connections: Connections::default(),
            output_bytes_max: 1 << 20,
        };
        change(&mut config);
        let stop = CancellationToken::new();
        let server = Server::start(config.clone(), stop.clone()).await.unwrap();
        let (address, users_address) = (server.address, server.users_address);
        let task = tokio::spawn(server.run());
        Self { directory, config, address, users_address, pin: identity.pin(), stop, task }
    }

    /// An orderly end; the socket is gone with it.
    pub async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.task).await.expect("ends");
        ended.unwrap().unwrap();
        assert!(!self.config.socket.exists());
    }

    /// Ends, which says nothing to anybody and writes nothing; then another one on the same state.
    pub async fn restart(self) -> Self {
        self.restart_after(|_| ()).await
    }

    /// Between its end and the next start something happens to its state directory.
    pub async fn restart_after(self, happens: impl FnOnce(&Path)) -> Self {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        happens(&self.config.state);
        let stop = CancellationToken::new();
        let server = Server::start(self.config.clone(), stop.clone()).await.unwrap();
        let (address, users_address) = (server.address, server.users_address);
        let task = tokio::spawn(server.run());
        Self { address, users_address, stop, task, ..self }
    }

    pub fn secret(&self, site: &str) -> [u8; 32] {
        let ticket = pins::make_ticket(&self.config.state, &name(site), self.pin).unwrap();
        hex32(ticket.rsplit('.').next().unwrap()).unwrap()
    }

    pub fn output(&self, job: &str) -> PathBuf {
        self.config.state.join("jobs").join(job)
    }

    pub async fn client(&self) -> Client {
        let stream = UnixStream::connect(&self.config.socket).await.unwrap();
        let bytes: Line = Box::new(stream);
        Client::over(connection::greet(bytes, Role::Client, &[Role::Grc]).await.unwrap())
    }

    pub async fn site(&self, identity: &Identity) -> Site {
        let connector = tls::connector(identity, self.pin).unwrap();
        let stream = tls::dial(&connector, self.address).await.unwrap();
        let greeted = connection::greet(stream, Role::Crm, &[Role::Grc]).await.unwrap();
        Site { inbox: greeted.inbox, outbox: greeted.outbox }
    }

    /// A site that has joined and published.
    pub async fn joined(&self, site: &str, range: &str) -> (Site, Identity) {
        let identity = Identity::generate("crm").unwrap();
        let mut peer = self.site(&identity).await;
        peer.say(FromSite::Register { site: name(site), secret: self.secret(site) });
        assert_eq!(peer.hear().await, ToSite::Welcome);
        peer.say(publish(site, range));
        assert_eq!(peer.hear().await, ToSite::Welcome);
        (peer, identity)
    }

    /// It still answers.
    pub async fn assert_serves(&self) {
        let mut client = self.client().await;
        assert!(matches!(client.ask(Request::Sites).await, Reply::Sites(_)));
    }
}

pub fn name(text: &str) -> SiteName {
    text.parse().unwrap()
}

pub fn publish(site: &str, range: &str) -> FromSite {
    let offer = Offer {
        batch_system: "fake".into(),
        ranges: vec![range.parse().unwrap()],
        reserved: vec![],
        nodes_usable: 4,
        nodes_free: 4,
        layers: vec![4],
        lead_s: 0,
        unusable: vec![],
        environments: vec![EnvironmentName::host()],
        queue: "".into(),
        pilots_s: 60,
        nodes_max: None,
        lasts_s_max: None,
        paused: None,
    };
    FromSite::Publish { site: name(site), offer }
}

pub struct Client {
    pub inbox: Inbox<Line>,
    pub outbox: Outbox,
    next: u64,
    pub notices: Vec<Notice>,
}

impl Client {
    pub fn over(greeted: Connection<Line>) -> Self {
        Self { inbox: greeted.inbox, outbox: greeted.outbox, next: 0, notices: Vec::new() }
    }

    pub fn post(&mut self, request: Request) -> u64 {
        self.next += 1;
        self.outbox.post(Kind::Request, self.next, &request).unwrap();
        self.next
    }

    /// The answer to a request; notices on the way are kept.
    pub async fn answer(&mut self, correlation: u64) -> Reply {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.inbox.next()).await.expect("an answer").unwrap();
            match frame.kind {
                Kind::Notice => self.notices.push(connection::read(&frame).unwrap()),
                _ if frame.correlation == correlation => return connection::read(&frame).unwrap(),
                _ => {}
            }
        }
    }

    pub async fn ask(&mut self, request: Request) -> Reply {
        let correlation = self.post(request);
        self.answer(correlation).await
    }
}

pub struct Site {
    inbox: Inbox<TlsStream<TcpStream>>,
    outbox: Outbox,
}

impl Site {
    pub fn say(&self, message: FromSite) {
        self.outbox.post(Kind::Notice, 0, &message).unwrap();
    }

    pub async fn hear(&mut self) -> ToSite {
        let frame = tokio::time::timeout(PATIENCE, self.inbox.next()).await.expect("a message").unwrap();
        connection::read(&frame).unwrap()
    }

    /// What comes before the connection is closed, which it must be.
    pub async fn hear_all(&mut self) -> Vec<ToSite> {
        let mut heard = Vec::new();
        loop {
            match tokio::time::timeout(PATIENCE, self.inbox.next()).await.expect("an end") {
                Ok(frame) => heard.push(connection::read(&frame).unwrap()),
                Err(ConnectionError::Closed | ConnectionError::Io(_)) => return heard,
                Err(other) => panic!("{other}"),
            }
        }
    }
}
