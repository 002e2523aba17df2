//! Processes by identity. A pid alone names nothing for long, so what is remembered and what is
//! killed is always pid *and* start time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// How often a condition is looked at while one waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One process for as long as the machine runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    pub start: u64,
}

/// What `/proc/<pid>/stat` says, as far as it is used here.
#[derive(Clone, Debug)]
pub struct Stat {
    pub identity: Identity,
    pub parent: i32,
    pub name: String,
    /// Dead, but not yet waited for by its parent.
    pub zombie: bool,
}

/// Reads one process; `None` when there is none of this pid.
pub fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may itself hold brackets and spaces.
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some(Stat {
        identity: Identity { pid, start: fields.get(19)?.parse().ok()? },
        parent: fields.get(1)?.parse().ok()?,
        name,
        zombie: fields.first() == Some(&"Z"),
    })
}

/// Every process that can be seen now.
pub fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?)).collect()
}

impl Identity {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| stat.identity)
    }

    /// Still there and not only waiting to be reaped.
    pub fn alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.identity == self && !stat.zombie)
    }

    /// Sends a signal if this very process still lives; `false` when it does not.
    pub fn signal(self, signal: Signal) -> bool {
        self.alive() && kill(Pid::from_raw(self.pid), signal).is_ok()
    }

    /// What it was started as, for messages.
    pub fn describe(self) -> String {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let name = stat(self.pid).map_or_else(String::new, |stat| stat.name);
        format!("pid {} ({}) {}", self.pid, name, line.trim_end())
    }
}

/// Waits until `done` says so; `false` when the time is over first.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// SIGTERM to all, SIGKILL to whoever is left after `grace`. Returns those that needed SIGKILL.
pub fn end_all(processes: &[Identity], grace: Duration) -> Vec<Identity> {
    for process in processes {
        process.signal(Signal::SIGTERM);
    }
    wait_until(grace, || !processes.iter().any(|process| process.alive()));
    let stubborn: Vec<_> = processes.iter().copied().filter(|process| process.alive()).collect();
    for process in &stubborn {
        process.signal(Signal::SIGKILL);
    }
    wait_until(Duration::from_secs(5), || !stubborn.iter().any(|process| process.alive()));
    stubborn
}

/// All descendants of these processes, as they are linked now, and the processes themselves.
pub fn with_descendants(roots: &[Identity]) -> BTreeSet<Identity> {
    let everyone = all();
    let mut children: BTreeMap<i32, Vec<Identity>> = BTreeMap::new();
    for stat in everyone.iter().filter(|stat| !stat.zombie) {
        children.entry(stat.parent).or_default().push(stat.identity);
    }
    let mut found = BTreeSet::new();
    let mut open: Vec<Identity> = roots.iter().copied().filter(|root| root.alive()).collect();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(children.get(&next.pid).into_iter().flatten());
        }
    }
    found
}

/// Processes that execute one of the files below `directory`, whatever name they carry and
/// whatever mount namespace they are in: compared by device and inode.
pub fn executing_files_of(directory: &Path) -> Vec<Stat> {
    let files: BTreeSet<(u64, u64)> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|meta| (meta.dev(), meta.ino()))
        .collect();
    all()
        .into_iter()
        .filter(|stat| !stat.zombie)
        .filter(|stat| {
            fs::metadata(format!("/proc/{}/exe", stat.identity.pid))
                .is_ok_and(|meta| files.contains(&(meta.dev(), meta.ino())))
        })
        .collect()
}

/// Processes whose environment at their start held `NAME=value`.
pub fn marked(name: &str, value: &str) -> Vec<Stat> {
    let wanted = format!("{name}={value}");
    all()
        .into_iter()
        .filter(|stat| !stat.zombie)
        .filter(|stat| {
            fs::read(format!("/proc/{}/environ", stat.identity.pid))
                .is_ok_and(|all| all.split(|&b| b == 0).any(|one| one == wanted.as_bytes()))
        })
        .collect()
}

/// Starts a daemon in a session of its own, with nothing on its stdin and its output in `log`.
/// The returned child must be waited for by whoever keeps living; see [`crate::world`].
pub fn spawn_daemon(command: &[String], marker: (&str, &str), log: &Path) -> Result<std::process::Child> {
    let file = File::options().create(true).append(true).open(log);
    let file = file.with_context(|| format!("cannot write {}", log.display()))?;
    // setsid becomes the program itself: the pid stays the same, for the child of a spawn
    // never leads its process group.
    Command::new("setsid")
        .args(command)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        .env(marker.0, marker.1)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .current_dir("/")
        .spawn()
        .with_context(|| format!("cannot start {}", command.join(" ")))
}

/// Runs a command to its end and returns what it printed. An error holds what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = said.trim_end().lines().rev().take(3).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        bail!("{shown}: {}\n{}", output.status, last.join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_more_than_its_pid() {
        let me = Identity::of(std::process::id() as i32).unwrap();
        assert!(me.alive());
        let other = Identity { start: me.start + 1, ..me };
        assert!(!other.alive(), "the same pid with another start time is another process");
        assert!(!other.signal(Signal::SIGKILL), "and is never signalled");
    }

    #[test]
    fn an_unreaped_child_counts_as_gone() {
        let mut child = Command::new("true").spawn().unwrap();
        let identity = Identity::of(child.id() as i32).unwrap();
        assert!(wait_until(Duration::from_secs(10), || !identity.alive()));
        child.wait().unwrap();
    }
}
