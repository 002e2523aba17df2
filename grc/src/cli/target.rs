//! Which GRC is meant: a socket of this machine, or one far away with its pin and who we are there.
//!
//! Far away: `--grc HOST:PORT` or `GRIDPILOT_GRC=HOST:PORT`, else what `gridpilot login` has written
//! to `~/.config/gridpilot/grc.toml`. The pin is the file's, if it is about the same address, or
//! `GRIDPILOT_PIN`; nobody is dialled without one.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use protocol::identity::Pin;
use protocol::names::UserName;
use serde::Deserialize;

use super::args::SOCKET_DEFAULT;
use super::client::reason;
use super::errors::CliError;

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    Socket(PathBuf),
    Remote(Box<Remote>),
}

/// A GRC on another machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remote {
    /// `host:port`, as it was typed.
    pub address: String,
    pub pin: Pin,
    pub user: UserName,
    /// The file of the key to log in with; without one the agent's keys and the usual files are tried.
    pub key: Option<PathBuf>,
    /// Type and base64 of the key that let us in last; tried first.
    pub public_key: Option<String>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Remote(remote) => f.write_str(&remote.address),
        }
    }
}

/// What `gridpilot login` writes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
struct Entry {
    grc: String,
    pin: String,
    user: UserName,
    key: Option<PathBuf>,
    public_key: Option<String>,
}

/// What stands around the program: variables, the file, the account.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub grc: Option<OsString>,
    pub pin: Option<OsString>,
    pub user: Option<OsString>,
    /// Where the file is, whether it is there or not; `None` without a home.
    pub file: Option<PathBuf>,
}

impl Surroundings {
    pub fn of_this_process() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            grc: variable("GRIDPILOT_GRC"),
            pin: variable("GRIDPILOT_PIN"),
            user: variable("GRIDPILOT_USER"),
            file: file(variable("XDG_CONFIG_HOME").map(PathBuf::from), home()),
        }
    }
}

fn file(config: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let config = config.filter(|path| path.is_absolute());
    Some(config.or_else(|| Some(home?.join(".config")))?.join("gridpilot/grc.toml"))
}

/// The user's home, as the shell sees it, else as the system does.
pub fn home() -> Option<PathBuf> {
    let variable = std::env::var_os("HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    variable.or_else(|| Some(account()?.dir))
}

fn account() -> Option<nix::unistd::User> {
    nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten()
}

/// `host:port`, and no path.
pub fn is_address(text: &str) -> bool {
    let parts = text.rsplit_once(':').filter(|_| !text.contains('/'));
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// The option, else the variable, else the file, else the usual socket.
pub fn choose(option: Option<&Path>, around: &Surroundings) -> Result<Target, CliError> {
    let named = option.map(|path| path.as_os_str().to_owned()).or_else(|| around.grc.clone());
    let file = around.file.as_deref();
    let Some(named) = named else {
        return Ok(match read(file)? {
            Some(entry) => Target::Remote(Box::new(remote(entry.grc.clone(), Some(entry), around)?)),
            None => Target::Socket(SOCKET_DEFAULT.into()),
        });
    };
    match named.to_str().filter(|text| is_address(text)) {
        None => Ok(Target::Socket(named.into())),
        Some(address) => {
            let entry = read(file)?.filter(|entry| entry.grc == address);
            Ok(Target::Remote(Box::new(remote(address.to_owned(), entry, around)?)))
        }
    }
}

fn remote(address: String, entry: Option<Entry>, around: &Surroundings) -> Result<Remote, CliError> {
    let text = |given: &OsString, name: &str| {
        given.to_str().map(str::to_owned).ok_or_else(|| CliError::Usage(format!("{name} is no text")))
    };
    let given = around.pin.as_ref().map(|pin| text(pin, "GRIDPILOT_PIN")).transpose()?;
    let Some(pin) = given.or_else(|| entry.as_ref().map(|entry| entry.pin.clone())) else {
        return Err(CliError::Usage(format!(
            "the pin of the GRC at {address} is not known\n  run `gridpilot login {address} --pin PIN` once; \
             its administrator has the pin"
        )));
    };
    let pin = pin.parse().map_err(|error| CliError::Usage(format!("the pin of {address}: {error}")))?;
    let user = match (&around.user, &entry) {
        (Some(user), _) => {
            let user = text(user, "GRIDPILOT_USER")?;
            user.parse().map_err(|error| CliError::Usage(format!("GRIDPILOT_USER: {error}")))?
        }
        (None, Some(entry)) => entry.user.clone(),
        (None, None) => this_account()?,
    };
    let (key, public_key) = entry.map_or((None, None), |entry| (entry.key, entry.public_key));
    Ok(Remote { address, pin, user, key, public_key })
}

/// The account's name as a grid user, when nothing else is said.
pub fn this_account() -> Result<UserName, CliError> {
    let hint = "say who you are in the grid with `gridpilot login --user NAME` or GRIDPILOT_USER";
    let Some(account) = account() else {
        return Err(CliError::Usage(format!("this account has no name\n  {hint}")));
    };
    account.name.parse().map_err(|error| CliError::Usage(format!("{error}\n  {hint}")))
}

fn read(path: Option<&Path>) -> Result<Option<Entry>, CliError> {
    let Some(path) = path else { return Ok(None) };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(CliError::Usage(format!("cannot read {}: {}", path.display(), reason(&error))));
        }
    };
    let bad = |line: usize, what: &str| {
        CliError::Usage(format!("{}:{line}: {what}\n  `gridpilot login` writes it anew", path.display()))
    };
    let entry: Entry = toml::from_str(&text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let line = 1 + text[..at].matches('\n').count();
        bad(line, error.message().lines().next().unwrap_or("cannot be read"))
    })?;
    if !is_address(&entry.grc) {
        return Err(bad(1, "grc is no HOST:PORT"));
    }
    Ok(Some(entry))
}

/// Writes the file, whole or not at all, for the user alone.
pub fn write(path: &Path, remote: &Remote) -> Result<(), CliError> {
    let mut text = format!(
        "# Written by `gridpilot login`; without this file gridpilot uses the GRC of this machine.\n\
         grc = {}\npin = \"{}\"\nuser = \"{}\"\n",
        quoted(&remote.address)?,
        remote.pin,
        remote.user
    );
    if let Some(key) = &remote.key {
        let key = key.to_str().ok_or_else(|| CliError::Usage("the key's path is no text".to_owned()))?;
        text.push_str(&format!("key = {}\n", quoted(key)?));
    }
    if let Some(public_key) = &remote.public_key {
        text.push_str(&format!("public_key = {}\n", quoted(public_key)?));
    }
    let failed = |error: std::io::Error| {
        CliError::Usage(format!("cannot write {}: {}", path.display(), reason(&error)))
    };
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    let new = path.with_extension(format!("new{}", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.map_err(failed)
}

/// As TOML writes a string.
fn quoted(text: &str) -> Result<String, CliError> {
    if text.chars().any(char::is_control) {
        return Err(CliError::Usage(format!("{text:?} has a control character in it")));
    }
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Remote {
        Remote {
            address: "grid.example:7401".into(),
            pin: Pin([0xab; 32]),
            user: "ada".parse().unwrap(),
            key: Some("/home/a \"b\\c/id".into()),
            public_key: Some("ssh-ed25519 AAAA".into()),
        }
    }

    #[test]
    fn what_login_wrote_is_what_the_next_command_uses() {
        let home = tempfile::tempdir().unwrap();
        let file = file(None, Some(home.path().to_owned())).unwrap();
        let around = Surroundings { file: Some(file.clone()), ..Surroundings::default() };
        assert_eq!(choose(None, &around).unwrap(), Target::Socket(SOCKET_DEFAULT.into()));
        for remote in [example(), Remote { key: None, public_key: None, ..example() }] {
            write(&file, &remote).unwrap();
            assert_eq!(choose(None, &around).unwrap(), Target::Remote(Box::new(remote)));
        }
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "no half file is left");
    }

    #[test]
    fn nobody_is_dialled_without_a_pin_and_another_address_does_not_get_the_files() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("grc.toml");
        let mut around = Surroundings { file: Some(file.clone()), ..Surroundings::default() };
        let named = |around: &Surroundings, grc: &str| choose(Some(Path::new(grc)), around);
        assert!(matches!(named(&around, "h:1"), Err(CliError::Usage(text)) if text.contains("pin")));
        write(&file, &example()).unwrap();
        assert!(named(&around, "h:1").is_err(), "the file is about another one");
        assert_eq!(named(&around, "grid.example:7401").unwrap(), Target::Remote(Box::new(example())));
        around.pin = Some("cd".repeat(32).into());
        around.user = Some("bob".into());
        let Target::Remote(remote) = named(&around, "h:1").unwrap() else { panic!() };
        assert_eq!((remote.pin, remote.user.as_str()), (Pin([0xcd; 32]), "bob"));
        assert_eq!(remote.key, None);
        around.pin = Some("cd".into());
        assert!(named(&around, "h:1").is_err());
    }

    #[test]
    fn a_path_is_a_socket_and_an_address_is_none() {
        for path in ["/run/x.sock", "x.sock", "./a:1", "a:b", "a:", ":1", "a:0", "a:65536"] {
            assert!(!is_address(path), "{path}");
        }
        for address in ["a:1", "grid.example:7401", "192.0.2.1:7401", "[2001:db8::1]:7401"] {
            assert!(is_address(address), "{address}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_line() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("grc.toml");
        let around = Surroundings { file: Some(file.clone()), ..Surroundings::default() };
        for (text, line) in
            [("grc = \"h:1\"\npim = 1\n", ":2:"), ("grc = \"h\"\npin=\"\"\nuser=\"u\"", ":1:")]
        {
            fs::write(&file, text).unwrap();
            let Err(CliError::Usage(said)) = choose(None, &around) else { panic!("{text}") };
            assert!(said.contains(line) && said.lines().count() <= 3, "{said}");
        }
    }
}
