//! The batch system of a site that has none: the CRM starts pilots itself, on configured nodes.
//!
//! A node's `start` command is put in front of the Launcher's command line; it gets the process
//! onto the node and into the mapped account (`ssh`, `nsenter` with `setpriv`, ...) and must end
//! as the Launcher, not beside it. The invocation goes through its standard input.
//!
//! A pilot does not die with the CRM: its agent waits for the next one as long as its lease lasts.
//! Every pilot is noted in a file before it gets its invocation, so that the next CRM finds those of
//! before and knows when they are gone. Its standard error is an unlinked file, so that
//! neither a full nor a broken pipe can hurt it; its last words are the reason that users see when a
//! pilot ends before its time.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::names::{NodeName, Text};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use super::commands::filled;
use super::process::{Identity, Notes, Process};
use super::{Batch, BatchError, BatchJob, Capabilities, Standing};
use crate::config::NodeConfig;
use crate::pilot::PilotId;
use crate::site::{Account, Submit};

/// From SIGTERM to SIGKILL: more than the 10 s that a Launcher waits for its NodeManager.
const KILL_AFTER: Duration = Duration::from_secs(12);
/// How long a sweep may take; below what the owner waits for it.
const SWEEP_TIME: Duration = Duration::from_secs(10);
/// Of what a pilot printed, so much of the end is looked at.
const TAIL_BYTES: u64 = 4096;
/// What a pilot starts with instead of the CRM's own environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Pilots that this process started, or one before it, and that were not reported gone yet.
#[derive(Debug, Default)]
struct Started {
    pilots: BTreeMap<PilotId, Entry>,
}

#[derive(Debug)]
struct Entry {
    standing: Standing,
    cancel: Arc<Notify>,
}

/// The embedded batch system.
#[derive(Debug)]
pub struct Embedded {
    starts: BTreeMap<NodeName, Vec<String>>,
    launcher: PathBuf,
    /// Where unlinked files for pilots' last words are made.
    state: PathBuf,
    notes: Notes,
    started: Arc<Mutex<Started>>,
    changed: Arc<Notify>,
}

fn lock(started: &Mutex<Started>) -> MutexGuard<'_, Started> {
    // Nothing that holds the lock can panic half way through a change.
    started.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Embedded {
    /// Takes up what a CRM before has left in the state directory: those pilots go on. To be called
    /// in a runtime.
    ///
    /// # Errors
    /// The notes cannot be read: what is running on the nodes is not known.
    pub fn new(nodes: &[NodeConfig], launcher: &Path, state: &Path) -> anyhow::Result<Self> {
        let notes = state.join("pilots");
        let named = || format!("the notes of pilots in {}", notes.display());
        let embedded = Self {
            starts: nodes.iter().map(|node| (node.name.clone(), node.start.clone())).collect(),
            launcher: launcher.to_owned(),
            state: state.to_owned(),
            notes: Notes::open(notes.clone()).with_context(named)?,
            started: Arc::default(),
            changed: Arc::default(),
        };
        for (pilot, identity) in embedded.notes.all().with_context(named)? {
            let process = identity.map(|identity| identity.open()).transpose().with_context(named)?;
            match process.flatten() {
                Some(process) => embedded.adopt(pilot, process),
                None => embedded.notes.remove(pilot),
            }
        }
        Ok(embedded)
    }

    /// Takes up a pilot of a CRM before.
    fn adopt(&self, pilot: PilotId, process: Process) {
        tracing::info!("pilot {pilot} is left from before and goes on");
        let cancel = Arc::new(Notify::new());
        let entry = Entry { standing: Standing::Running { node: None }, cancel: cancel.clone() };
        lock(&self.started).pilots.insert(pilot, entry);
        let (started, changed, notes) = (self.started.clone(), self.changed.clone(), self.notes.clone());
        tokio::spawn(async move {
            if let Err(error) = watch_process(&process, &cancel).await {
                // It stays in the notes, and with the owner, who asks again after a while.
                return tracing::warn!(
                    "pilot {pilot}, left from before, cannot be watched or ended: {error}"
                );
            }
            notes.remove(pilot);
            if let Some(entry) = lock(&started).pilots.get_mut(&pilot) {
                entry.standing =
                    Standing::Gone("it ended, and another CRM than the present one saw how it began".into());
            }
            changed.notify_one();
        });
    }

    /// The command that runs `program` on a node as an account, with nothing of our environment.
    fn command(
        &self,
        node: &NodeName,
        account: &Account,
        program: &Path,
        arguments: &[&str],
    ) -> Result<Command, BatchError> {
        let start = self
            .starts
            .get(node)
            .ok_or_else(|| BatchError::refused(format!("node {node} is not configured")))?;
        let mut words = filled(start, node, account).into_iter();
        let first =
            words.next().ok_or_else(|| BatchError::refused(format!("node {node} has no start command")))?;
        let mut command = Command::new(first);
        command.args(words).arg(program).args(arguments);
        command.env_clear().env("PATH", PATH).current_dir("/");
        // Away from our terminal's signals: Ctrl-C on the CRM is not meant for pilots.
        command.process_group(0);
        Ok(command)
    }
}

impl Batch for Embedded {
    /// Nobody else's hands are in between: what is not there now never comes.
    const TURN_UP_TIME: Duration = Duration::ZERO;

    async fn capabilities(&self) -> Result<Capabilities, BatchError> {
        Ok(Capabilities {
            places_on_named_nodes: true,
            // Nobody else starts anything there: when its nodes are free is the CRM's to say.
            reserves_ahead: true,
            enforces_limits: false,
            lead: Duration::ZERO,
            nodes_max: None,
            walltime_max: None,
            closed: None,
        })
    }

    /// Each pilot is a process of its own; one that cannot be started is gone at once.
    async fn submit(&self, job: &BatchJob) -> Result<(), BatchError> {
        for (submit, invocation) in &job.pilots {
            if let Err(error) = self.start(submit, invocation).await {
                let standing = Standing::Gone(format!("it could not be submitted: {error}").into());
                let entry = Entry { standing, cancel: Arc::default() };
                lock(&self.started).pilots.insert(submit.pilot, entry);
                self.changed.notify_one();
            }
        }
        Ok(())
    }

    async fn status(&self) -> Result<Option<Vec<(PilotId, Standing)>>, BatchError> {
        let mut started = lock(&self.started);
        let standings =
            started.pilots.iter().map(|(pilot, entry)| (*pilot, entry.standing.clone())).collect();
        started.pilots.retain(|_, entry| !matches!(entry.standing, Standing::Gone(_)));
        Ok(Some(standings))
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn cancel(&self, pilots: &[PilotId]) -> Result<(), BatchError> {
        let started = lock(&self.started);
        for entry in pilots.iter().filter_map(|pilot| started.pilots.get(pilot)) {
            entry.cancel.notify_one();
        }
        Ok(())
    }

    async fn sweep(&self, node: &NodeName, account: &Account) -> Result<(), BatchError> {
        let program = self.launcher.with_file_name("node-manager");
        let mut command = self.command(node, account, &program, &["sweep"])?;
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(SWEEP_TIME, command.output())
            .await
            .map_err(|_| {
                BatchError::refused(format!("the sweep did not end within {} s", SWEEP_TIME.as_secs()))
            })?
            .map_err(|e| BatchError::refused(format!("the sweep cannot be started: {e}")))?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        Err(BatchError::refused(format!(
            "the sweep failed ({}): {}",
            ending(output.status),
            last_lines(&words, 1)
        )))
    }
}

impl Embedded {
    async fn start(&self, submit: &Submit, invocation: &[u8]) -> Result<(), BatchError> {
        let words = File::options()
            .read(true)
            .append(true)
            .create_new(true)
            .open(self.words_path(submit.pilot))
            .and_then(|file| std::fs::remove_file(self.words_path(submit.pilot)).map(|()| file))
            .map_err(|e| BatchError::refused(format!("no file for its last words: {e}")))?;
        let for_child = words.try_clone().map_err(|e| BatchError::unavailable(e.to_string()))?;
        let mut command =
            self.command(&submit.node, &submit.account, &self.launcher, &["--invocation", "-"])?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(for_child);
        let program = command.as_std().get_program().to_owned();
        let mut child = command
            .spawn()
            .map_err(|e| BatchError::refused(format!("cannot start {}: {e}", program.display())))?;
        let noted = child.id().ok_or_else(|| std::io::Error::other("it has no number")).and_then(|pid| {
            let process = Identity::of(pid as i32)?;
            self.notes.put(submit.pilot, &process)
        });
        if let Err(error) = noted {
            let _ = child.kill().await;
            self.notes.remove(submit.pilot);
            return Err(BatchError::refused(format!("its process cannot be noted: {error}")));
        }
        let stdin = child.stdin.take();
        let cancel = Arc::new(Notify::new());
        let standing = Standing::Running { node: Some(submit.node.clone()) };
        let entry = Entry { standing, cancel: cancel.clone() };
        lock(&self.started).pilots.insert(submit.pilot, entry);
        if let Some(mut stdin) = stdin {
            // It fits into the pipe, so this does not wait; a child that died is noticed by its end.
            let _ = stdin.write_all(invocation).await;
        }
        let (started, changed, pilot) = (self.started.clone(), self.changed.clone(), submit.pilot);
        let notes = self.notes.clone();
        tokio::spawn(async move {
            let status = watch(child, &cancel).await;
            let reason = reason(status, &words);
            tracing::debug!("pilot {pilot}: {reason}; its last lines:\n{}", tail(&words));
            notes.remove(pilot);
            if let Some(entry) = lock(&started).pilots.get_mut(&pilot) {
                entry.standing = Standing::Gone(reason);
            }
            changed.notify_one();
        });
        Ok(())
    }

    fn words_path(&self, pilot: PilotId) -> PathBuf {
        let PilotId { reservation, round, member } = pilot;
        self.state.join(format!(".pilot-{reservation}-{}-{member}.{}", round.0, std::process::id()))
    }
}

/// Waits for the end of a pilot's process; a cancel ends it, politely first.
async fn watch(mut child: Child, cancel: &Notify) -> std::io::Result<ExitStatus> {
    tokio::select! {
        status = child.wait() => return status,
        () = cancel.notified() => {}
    }
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // Not reaped yet, so the number is still this child's.
        if let Err(errno) = kill(Pid::from_raw(pid), Signal::SIGTERM) {
            tracing::warn!("process {pid} of a pilot cannot be signalled: {errno}");
        }
    }
    match tokio::time::timeout(KILL_AFTER, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            child.start_kill()?;
            child.wait().await
        }
    }
}

/// The same for a process that is not our child.
async fn watch_process(process: &Process, cancel: &Notify) -> std::io::Result<()> {
    tokio::select! {
        ended = process.ended() => return ended,
        () = cancel.notified() => {}
    }
    process.signal(rustix::process::Signal::TERM)?;
    match tokio::time::timeout(KILL_AFTER, process.ended()).await {
        Ok(ended) => ended,
        Err(_) => {
            process.signal(rustix::process::Signal::KILL)?;
            process.ended().await
        }
    }
}

fn reason(status: std::io::Result<ExitStatus>, words: &File) -> Text {
    let (failed, ending) = match status {
        Ok(status) => (!status.success(), ending(status)),
        Err(error) => (true, format!("lost: {error}")),
    };
    let words = tail(words);
    // The Launcher speaks last; when something failed, whoever failed spoke before it.
    let lines = if failed { last_lines(&words, 2) } else { last_lines(&words, 1) };
    match lines.as_str() {
        "" => ending.into(),
        lines => format!("{lines} ({ending})").into(),
    }
}

fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn tail(words: &File) -> String {
    let length = words.metadata().map(|m| m.len()).unwrap_or(0);
    let from = length.saturating_sub(TAIL_BYTES);
    let mut bytes = vec![0; (length - from) as usize];
    match words.read_exact_at(&mut bytes, from) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// Begins the node manager's notes for the system log, which come here when there is none.
const NODE_LOG: &str = "gridpilot node-manager[";

/// The last lines that say something, in their order.
fn last_lines(text: &str, count: usize) -> String {
    let says_something = |line: &&str| !line.is_empty() && !line.starts_with(NODE_LOG);
    let mut lines: Vec<&str> = text.lines().rev().map(str::trim).filter(says_something).take(count).collect();
    lines.reverse();
    lines.join("; ")
}
