//! Keys made by the real ssh-keygen, in files or in a real ssh-agent, and the steps of a login one by
//! one for those who take them otherwise than they are meant.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use grc::cli::client::Line;
use grc::cli::login::file::KeyFile;
use grc::login::key::signed_data;
use protocol::client::{Reply, Request};
use protocol::connection::{self, Connection, ConnectionError};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::identity::{Identity, Pin};
use protocol::login::{FromStranger, ToStranger, signed};
use protocol::tls;

use crate::peers::{Client, Grc, PATIENCE};

/// A directory with keys in it.
pub struct Keys {
    pub directory: tempfile::TempDir,
}

impl Keys {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// Makes a key; `more` is for ssh-keygen, like `-t ed25519`. Its file.
    pub fn make(&self, name: &str, more: &[&str]) -> PathBuf {
        let path = self.directory.path().join(name);
        let words = ["-q", "-C", "a comment", "-f", path.to_str().unwrap()];
        let passphrase = if more.contains(&"-N") { &[][..] } else { &["-N", ""][..] };
        let made = Command::new("ssh-keygen").args(words).args(more).args(passphrase).status().unwrap();
        assert!(made.success(), "ssh-keygen {more:?}; is openssh-client installed?");
        path
    }

    /// One without a passphrase that can sign by itself.
    pub fn ed25519(&self, name: &str) -> KeyFile {
        KeyFile::read(&self.make(name, &["-t", "ed25519"])).unwrap()
    }
}

/// The line of the users file for a key's file.
pub fn line(user: &str, key: &Path) -> String {
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    format!("{user} {}\n", public.trim_end())
}

/// A real agent, gone with this value.
pub struct Agent {
    process: Child,
    pub socket: PathBuf,
}

impl Agent {
    pub fn start(keys: &Keys) -> Self {
        let socket = keys.directory.path().join("agent");
        let mut process = Command::new("ssh-agent")
            .args(["-D", "-a", socket.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("ssh-agent; is openssh-client installed?");
        // It says where it listens when it does.
        let mut said = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("SSH_AUTH_SOCK"), "{said}");
        Self { process, socket }
    }

    pub fn add(&self, key: &Path) {
        let added = Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket).status();
        assert!(added.unwrap().success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Somebody at the users' port who has greeted and was challenged.
pub struct Stranger {
    pub line: Connection<Line>,
    pub binding: [u8; 32],
    pub challenge: [u8; 32],
    next: u64,
}

impl Stranger {
    pub async fn at(grc: &Grc) -> Self {
        Self::dial(grc.users_address.unwrap(), grc.pin).await
    }

    pub async fn dial(address: SocketAddr, grc: Pin) -> Self {
        let identity = Identity::generate("stranger").unwrap();
        let connector = tls::connector(&identity, grc).unwrap();
        let stream = tls::dial(&connector, address).await.unwrap();
        let binding = tls::binding(&stream).unwrap();
        let bytes: Line = Box::new(stream);
        let line = connection::greet(bytes, Role::Client, &[Role::Grc]).await.unwrap();
        let mut stranger = Self { line, binding, challenge: [0; 32], next: 0 };
        let ToStranger::Challenge(challenge) = stranger.hear().await.unwrap() else { panic!() };
        stranger.challenge = challenge;
        stranger
    }

    pub async fn hear(&mut self) -> Result<ToStranger, ConnectionError> {
        let frame = tokio::time::timeout(PATIENCE, self.line.inbox.next()).await.expect("an answer")?;
        connection::read(&frame)
    }

    /// What is to be signed on this connection.
    pub fn message(&self, grc: &Grc, user: &str) -> Vec<u8> {
        self.message_to(grc.pin, user)
    }

    fn message_to(&self, grc: Pin, user: &str) -> Vec<u8> {
        signed(&self.challenge, &self.binding, &grc.0, &user.parse().unwrap())
    }

    /// Shows a key with a signature, whatever they are.
    pub async fn show(
        &mut self,
        user: &str,
        key: &[u8],
        signature: Vec<u8>,
    ) -> Result<ToStranger, ConnectionError> {
        let login = FromStranger::Login { user: user.parse().unwrap(), key: key.to_vec(), signature };
        self.next += 1;
        self.line.outbox.post(Kind::Request, self.next, &login)?;
        self.hear().await
    }

    /// As it is meant.
    pub async fn log_in(&mut self, grc: &Grc, user: &str, file: &KeyFile) -> ToStranger {
        self.log_in_to(grc.pin, user, file).await
    }

    pub async fn log_in_to(&mut self, grc: Pin, user: &str, file: &KeyFile) -> ToStranger {
        let data = signed_data(&self.message_to(grc, user)).unwrap();
        self.show(user, file.key.as_bytes(), file.sign(&data).unwrap()).await.unwrap()
    }

    /// Whether it is let in to nothing: requests get no answer, and the connection is gone.
    pub async fn assert_out(mut self) {
        let _ = self.line.outbox.post(Kind::Request, 77, &Request::Sites);
        while let Ok(frame) = tokio::time::timeout(PATIENCE, self.line.inbox.next()).await.expect("an end") {
            assert!(connection::read::<Reply>(&frame).is_err() || frame.correlation != 77, "{frame:?}");
        }
    }
}

/// A user who came in over the network.
pub async fn user(grc: &Grc, name: &str, file: &KeyFile) -> Client {
    let mut stranger = Stranger::at(grc).await;
    assert_eq!(stranger.log_in(grc, name, file).await, ToStranger::Welcome);
    Client::over(stranger.line)
}
