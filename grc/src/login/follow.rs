//! The users file while the GRC serves: looked at every second, read again when it changed or on
//! SIGHUP. Who is not in a line that can be read is out: logins and open connections.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::users::{FILE_BYTES_MAX, Users};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A file that was written so shortly before it was read may be written again unseen, for clocks of
/// filesystems are coarse: it is read once more.
const YOUNG: Duration = Duration::from_secs(2);

/// What tells one writing of a file from another.
type Mark = (u64, u64, i64, i64, u64);

/// One users file and everybody who waits for news of it.
#[derive(Debug)]
pub struct UsersFile {
    path: PathBuf,
    hangup: Signal,
    users: watch::Sender<Arc<Users>>,
    mark: Option<Mark>,
    /// What was said last of it, so that it is said once.
    said: Option<String>,
}

impl UsersFile {
    /// # Errors
    /// The file cannot be read, somebody else may write it, or a line is wrong: nothing is begun
    /// with half of it.
    pub fn open(path: PathBuf) -> anyhow::Result<Self> {
        let (bytes, mark) = read(&path)?;
        let (users, mistake) = Users::parse(&bytes);
        if let Some(mistake) = mistake {
            bail!("{}:{mistake}", path.display());
        }
        let hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
        Ok(Self { path, hangup, users: watch::Sender::new(Arc::new(users)), mark, said: None })
    }

    pub fn users(&self) -> watch::Receiver<Arc<Users>> {
        self.users.subscribe()
    }

    /// Follows the file until told to stop.
    pub async fn follow(mut self, stop: CancellationToken) {
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                _ = self.hangup.recv() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let path = self.path.clone();
            let mark = self.mark.filter(|_| !asked);
            let looked = tokio::task::spawn_blocking(move || look(&path, mark)).await;
            match looked {
                Ok(Ok(None)) => {}
                Ok(Ok(Some((bytes, mark)))) => self.take(&bytes, mark),
                Ok(Err(error)) => self.lose(&error),
                Err(error) => tracing::error!(%error, "the users file was not looked at"),
            }
        }
    }

    /// Takes over what stands there now.
    pub fn take(&mut self, bytes: &[u8], mark: Option<Mark>) {
        self.mark = mark;
        let (read, mistake) = Users::parse(bytes);
        let before = self.users.borrow().clone();
        let users = match &mistake {
            None => read,
            Some(_) => before.without_what_left(&read),
        };
        self.say(mistake.map(|mistake| {
            format!("{}:{mistake}; until that is mended nobody new is let in", self.path.display())
        }));
        self.replace(users);
    }

    /// It cannot be read: nobody can be told from anybody.
    fn lose(&mut self, error: &anyhow::Error) {
        self.mark = None;
        self.say(Some(format!("{error:#}; until that is mended nobody is let in over the network")));
        self.replace(Users::default());
    }

    fn replace(&mut self, users: Users) {
        let keys = users.len();
        let changed = self.users.send_if_modified(|now| {
            let other = **now != users;
            if other {
                *now = Arc::new(users);
            }
            other
        });
        if changed {
            tracing::info!(path = %self.path.display(), keys, "the users changed");
        }
    }

    fn say(&mut self, what: Option<String>) {
        if let Some(what) = what.as_ref().filter(|_| self.said != what) {
            tracing::error!("{what}");
        }
        self.said = what;
    }
}

/// The file, if it is not the one with this mark.
fn look(path: &Path, mark: Option<Mark>) -> anyhow::Result<Option<(Vec<u8>, Option<Mark>)>> {
    if mark.is_some() && std::fs::metadata(path).map(|found| mark_of(&found)).ok() == mark {
        return Ok(None);
    }
    read(path).map(Some)
}

/// The whole file and its mark; none for one that may still change unseen.
fn read(path: &Path) -> anyhow::Result<(Vec<u8>, Option<Mark>)> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let found = file.metadata().with_context(|| format!("cannot look at {shown}"))?;
    if !found.is_file() {
        bail!("{shown} is no file");
    }
    // Whoever may write it may be anybody.
    let ours = nix::unistd::geteuid().as_raw();
    if ![0, ours].contains(&found.uid()) || found.mode() & 0o022 != 0 {
        bail!("{shown} must be root's or the grc's and not writable by group or others");
    }
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("cannot read {shown}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        bail!("{shown} has more than {FILE_BYTES_MAX} bytes");
    }
    let age = found
        .modified()
        .and_then(|at| SystemTime::now().duration_since(at).map_err(|_| ErrorKind::Other.into()));
    let settled = age.is_ok_and(|age| age > YOUNG);
    Ok((bytes, settled.then(|| mark_of(&found))))
}

fn mark_of(found: &std::fs::Metadata) -> Mark {
    (found.dev(), found.ino(), found.ctime(), found.ctime_nsec(), found.len())
}
