//! Logging in to a GRC on another machine, each time that it is dialled; and the verb `login`, which
//! does it once and writes down where that was.

pub mod agent;
pub mod file;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::connection::{self, Connection, ConnectionError, greet};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::identity::{Identity, Pin};
use protocol::login::{ATTEMPTS_MAX, FromStranger, LOGIN_TIME, ToStranger, signed};
use protocol::names::UserName;
use protocol::refusal::Refusal;
use protocol::tls::{self, TlsError};
use tokio::time::{Instant, timeout};

use super::client::{Line, reason};
use super::errors::CliError;
use super::out;
use super::target::{self, Remote};
use crate::login::key::{Key, signed_data};
use agent::Agent;
use file::{KeyFile, public_beside};

/// How long the GRC may take for its part of a login.
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// How long signing may take with all keys together: a person may have to allow it, and the GRC does
/// not wait for ever.
const SIGNING_TIME: Duration = Duration::from_secs(40);
const _: () = assert!(agent::LIST_TIME.as_secs() + SIGNING_TIME.as_secs() < LOGIN_TIME.as_secs());
/// Files that are tried when nothing is said, below the home.
const USUAL_FILES: [&str; 2] = [".ssh/id_ed25519", ".ssh/id_ecdsa"];

/// Something that can sign.
#[derive(Debug)]
enum Signer {
    Agent(Key),
    File(Box<KeyFile>),
}

impl Signer {
    fn key(&self) -> &Key {
        match self {
            Self::Agent(key) => key,
            Self::File(file) => &file.key,
        }
    }
}

/// All that can sign, best first, and why others cannot.
#[derive(Debug, Default)]
struct Signers {
    agent: Option<Agent>,
    list: Vec<Signer>,
    unusable: Vec<String>,
}

impl Signers {
    async fn gather(remote: &Remote) -> Self {
        let mut signers = Self::default();
        let mut held = Vec::new();
        if let Some(socket) = std::env::var_os("SSH_AUTH_SOCK").filter(|value| !value.is_empty()) {
            match signers.ask_agent(Path::new(&socket)).await {
                Ok(keys) => held = keys,
                Err(why) => signers.unusable.push(why),
            }
        }
        if let Some(path) = &remote.key {
            // The file says which key; the agent may have it without a passphrase to ask for.
            let public = public_beside(path);
            match held.into_iter().find(|key| Some(key) == public.as_ref()) {
                Some(key) => signers.list.push(Signer::Agent(key)),
                None => signers.add_file(&private_of(path)),
            }
            return signers;
        }
        signers.list = held.into_iter().map(Signer::Agent).collect();
        if let Some(home) = target::home() {
            let files = USUAL_FILES.iter().map(|name| home.join(name)).filter(|path| path.exists());
            files.for_each(|path| signers.add_file(&path));
        }
        let first = |signer: &Signer| remote.public_key.as_ref() != Some(&signer.key().words());
        signers.list.sort_by_key(first);
        signers
    }

    async fn ask_agent(&mut self, socket: &Path) -> Result<Vec<Key>, String> {
        let mut agent = Agent::connect(socket).await?;
        let keys = agent.keys().await?;
        self.agent = Some(agent);
        Ok(keys)
    }

    fn add_file(&mut self, path: &Path) {
        let held = |key: &Key| self.list.iter().any(|signer| signer.key() == key);
        if public_beside(path).as_ref().is_some_and(held) {
            return;
        }
        match KeyFile::read(path) {
            Ok(file) if held(&file.key) => {}
            Ok(file) => self.list.push(Signer::File(Box::new(file))),
            Err(why) => self.unusable.push(why),
        }
    }

    async fn sign(
        agent: &mut Option<Agent>,
        signer: &Signer,
        data: &[u8],
        until: Instant,
    ) -> Result<Vec<u8>, String> {
        match (signer, agent) {
            (Signer::Agent(key), Some(agent)) => agent.sign(key, data, until).await,
            (Signer::Agent(_), None) => Err("the ssh agent went away".to_owned()),
            (Signer::File(file), _) => {
                file.sign(data).ok_or_else(|| format!("{} is damaged", file.path.display()))
            }
        }
    }
}

/// `x.pub` means the key beside it.
fn private_of(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|extension| extension == "pub") {
        path.with_extension("")
    } else {
        path.to_owned()
    }
}

/// Dials, checks the pin, logs in. The key that let us in comes back with the connection.
pub async fn dial(remote: &Remote) -> Result<(Connection<Line>, Key), CliError> {
    let unreachable = |cause: String| unreachable(remote, cause);
    let bug = CliError::Bug;
    let identity = Identity::generate("gridpilot").map_err(|error| bug(error.to_string()))?;
    let connector = tls::connector(&identity, remote.pin).map_err(|error| bug(error.to_string()))?;
    let found = tokio::net::lookup_host(&remote.address).await;
    let mut addresses = found.map_err(|error| unreachable(reason(&error)))?;
    let mut failed = unreachable("its name has no address".to_owned());
    let stream = loop {
        let Some(address) = addresses.next() else { return Err(failed) };
        match tls::dial(&connector, address).await {
            Ok(stream) => break stream,
            // Somebody else answers there, or it was made anew: nothing was said to him.
            Err(TlsError::WrongPin) => return Err(CliError::WrongPin { grc: remote.address.clone() }),
            Err(TlsError::Dial { source, .. }) => failed = unreachable(reason(&source)),
            Err(error) => failed = unreachable(error.to_string()),
        }
    };
    let binding = tls::binding(&stream).map_err(|error| bug(error.to_string()))?;
    let stream: Line = Box::new(stream);
    let mut line = greet(stream, Role::Client, &[Role::Grc]).await.map_err(|error| match error {
        ConnectionError::Version(refusal) => CliError::Refused(refusal),
        other => unreachable(ended(&other)),
    })?;
    let lost = |error: ConnectionError| unreachable(ended(&error));
    let ToStranger::Challenge(challenge) = hear(&mut line).await.map_err(lost)? else {
        return Err(bug("the GRC did not begin with a challenge".to_owned()));
    };
    let message = signed(&challenge, &binding, &remote.pin.0, &remote.user);
    let data = signed_data(&message).ok_or_else(|| bug("nothing to sign".to_owned()))?;
    let signers = Signers::gather(remote).await;
    let key = log_in(&mut line, remote, signers, &data).await?;
    Ok((line, key))
}

/// Shows one key after another until one lets us in.
async fn log_in(
    line: &mut Connection<Line>,
    remote: &Remote,
    signers: Signers,
    data: &[u8],
) -> Result<Key, CliError> {
    let lost = |error: ConnectionError| unreachable(remote, ended(&error));
    let until = Instant::now() + SIGNING_TIME;
    let Signers { mut agent, list, mut unusable } = signers;
    let mut tried = Vec::new();
    for signer in list {
        if tried.len() == ATTEMPTS_MAX {
            break;
        }
        let made = tokio::select! {
            made = Signers::sign(&mut agent, &signer, data, until) => made,
            // It was asked nothing: it says that it waits no longer, or hangs up.
            heard = line.inbox.next() => {
                let heard = heard.and_then(|frame| connection::read(&frame)).map_err(lost)?;
                return Err(not_a_key(remote, heard));
            }
        };
        let signature = match made {
            Ok(signature) => signature,
            Err(why) => {
                if !unusable.contains(&why) {
                    unusable.push(why);
                }
                continue;
            }
        };
        let key = signer.key();
        tried.push(key.to_string());
        let login =
            FromStranger::Login { user: remote.user.clone(), key: key.as_bytes().to_vec(), signature };
        match line.outbox.post(Kind::Request, tried.len() as u64, &login) {
            // What it said before it hung up is still to be heard.
            Ok(()) | Err(ConnectionError::Closed) => {}
            Err(error) => return Err(lost(error)),
        }
        match hear(line).await.map_err(lost)? {
            ToStranger::Welcome => return Ok(key.clone()),
            ToStranger::Refused(Refusal::LoginRefused { .. }) => {}
            other => return Err(not_a_key(remote, other)),
        }
    }
    Err(CliError::NotLetIn { grc: remote.address.clone(), user: remote.user.to_string(), tried, unusable })
}

/// What the GRC says instead of letting somebody in, where it is not about a key.
fn not_a_key(remote: &Remote, heard: ToStranger) -> CliError {
    match heard {
        // Over another connection the same may let us in: who seeks the GRC goes on seeking.
        ToStranger::Refused(refusal @ Refusal::WrongState { .. }) => CliError::Unreachable {
            grc: remote.address.clone(),
            cause: refusal.to_string(),
            hint: "it is there and serves; its log says who else comes from where you are".to_owned(),
        },
        ToStranger::Refused(refusal) => CliError::Refused(refusal),
        other => CliError::Bug(format!("the GRC said {other:?} in the middle of a login")),
    }
}

fn unreachable(remote: &Remote, cause: String) -> CliError {
    CliError::Unreachable {
        grc: remote.address.clone(),
        cause,
        hint: "its administrator says where users dial and whether it serves; `gridpilot login` says another"
            .to_owned(),
    }
}

/// Why a login came to nothing, in words; TLS has longer ones for somebody who hangs up.
fn ended(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Closed => "it ended the login".to_owned(),
        ConnectionError::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
            "it hung up: too many log in at once, or that is not its port for users".to_owned()
        }
        ConnectionError::Io(error) => reason(error),
        other => other.to_string(),
    }
}

async fn hear(line: &mut Connection<Line>) -> Result<ToStranger, ConnectionError> {
    let frame = timeout(ANSWER_TIME, line.inbox.next()).await.map_err(|_| ConnectionError::PeerTooSlow)??;
    connection::read(&frame)
}

/// What can be typed behind `login`.
#[derive(Debug, clap::Args)]
pub struct LoginArgs {
    /// Where the GRC takes users
    #[arg(value_name = "HOST:PORT")]
    pub address: String,
    /// The GRC's pin, from its administrator (`grc pin` prints it)
    #[arg(long, value_name = "PIN")]
    pub pin: Pin,
    /// Who you are in the grid [default: this account's name]
    #[arg(long, value_name = "NAME")]
    pub user: Option<UserName>,
    /// The key to log in with [default: those of the ssh agent, then ~/.ssh/id_ed25519, id_ecdsa]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// Logs in once, and writes down how.
pub async fn login(args: LoginArgs) -> Result<u8, CliError> {
    if !target::is_address(&args.address) {
        return Err(CliError::Usage(format!("{:?} is no HOST:PORT", args.address)));
    }
    let Some(path) = target::Surroundings::of_this_process().file else {
        return Err(CliError::Usage("this account has no home to write to; set XDG_CONFIG_HOME".to_owned()));
    };
    let absolute = |path: PathBuf| std::path::absolute(path).map_err(|error| CliError::Usage(reason(&error)));
    let mut remote = Remote {
        address: args.address,
        pin: args.pin,
        user: args.user.map_or_else(target::this_account, Ok)?,
        key: args.key.map(absolute).transpose()?,
        public_key: None,
    };
    let (_, key) = dial(&remote).await?;
    remote.public_key = Some(key.words());
    target::write(&path, &remote)?;
    out::say(&format!(
        "logged in as {} with {key}; {} says so to later commands",
        remote.user,
        path.display()
    ));
    Ok(0)
}

#[cfg(test)]
mod tests;
