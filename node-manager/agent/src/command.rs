//! One command of a job: start it inside, stream its output no further ahead than the CRM has
//! saved, tell how it ended once all of its output is on its way.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use node_manager::init::record::{self, SpawnStage};
use protocol::connection::{ConnectionError, Outbox};
use protocol::frame::Kind;
use protocol::ids::JobId;
use protocol::job::{Command, ExitStatus, Stream};
use protocol::limits::{OUTPUT_AHEAD_BYTES_MAX, OUTPUT_CHUNK_BYTES_MAX};
use protocol::names::{HostName, Text};
use protocol::node::{Notice, Reply};
use protocol::refusal::{Failure, Step};
use rustix::fs::Mode;
use rustix::pipe::PipeFlags;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::init::{Exited, Init, InitError};

/// How long a background process may hold a command's output open after the command ended.
const GRACE: Duration = Duration::from_secs(2);
/// What a pipe holds at most: after the grace no more than this can be the command's own.
const PIPE_BYTES: usize = 64 * 1024;
const ENOENT: i32 = 2;

/// How much of each stream the CRM has saved; told by the handler, heeded by the streams.
#[derive(Debug, Default)]
pub struct Saved {
    stdout: watch::Sender<u64>,
    stderr: watch::Sender<u64>,
}

impl Saved {
    /// Never goes back, in whatever order the words arrive.
    pub fn raise(&self, stream: Stream, upto: u64) {
        let sender = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        sender.send_if_modified(|saved| {
            let more = upto > *saved;
            *saved = upto.max(*saved);
            more
        });
    }

    /// For stdout and stderr.
    pub fn subscribe(&self) -> [watch::Receiver<u64>; 2] {
        [self.stdout.subscribe(), self.stderr.subscribe()]
    }
}

/// What one command needs of its surroundings.
#[derive(Debug)]
pub struct Start {
    pub init: Init,
    pub outbox: Outbox,
    /// Of the request that started it.
    pub correlation: u64,
    pub job: JobId,
    pub host: HostName,
    pub command: Command,
    /// The whole environment, `NAME=value` each.
    pub environment: Vec<Vec<u8>>,
    pub home: String,
    pub saved: [watch::Receiver<u64>; 2],
}

impl Start {
    /// Runs the command to its end. Answers the request once it started, or did not.
    ///
    /// # Errors
    /// The connection to the CRM is over.
    pub async fn run(self) -> Result<(), ConnectionError> {
        match self.spawn().await {
            Ok((exited, pipes)) => {
                self.reply(&Reply::Done).await?;
                self.stream(exited, pipes).await
            }
            // As a shell would have it: the command ended, with a line that says why.
            Err(InitError::Spawn { stage: SpawnStage::Exec, errno }) => {
                self.reply(&Reply::Done).await?;
                let (line, code) = self.not_executed(errno);
                self.post(Stream::Stderr, 0, line.into()).await?;
                self.post_exit(ExitStatus::Code(code)).await
            }
            // The same job never starts twice, and it did start.
            Err(InitError::Spawn { stage: SpawnStage::Repeated, .. }) => self.reply(&Reply::Done).await,
            Err(error) => self.reply(&Reply::Failed(self.failure(&error))).await,
        }
    }

    async fn spawn(&self) -> Result<(Exited, [pipe::Receiver; 2]), InitError> {
        let (stdout, stdout_end) = output_pipe().map_err(InitError::System)?;
        let (stderr, stderr_end) = output_pipe().map_err(InitError::System)?;
        let command = record::Command {
            cwd: self.directories(),
            argv: self.command.argv.clone(),
            env: self.environment.clone(),
        };
        let exited = self.init.spawn(self.job.0, &command, stdout_end, stderr_end).await?;
        Ok((exited, [stdout, stderr]))
    }

    fn directories(&self) -> Vec<Vec<u8>> {
        let given = self.command.directories.iter().map(|path| path.as_str().as_bytes().to_vec());
        match self.command.directory_required {
            true if !self.command.directories.is_empty() => given.take(1).collect(),
            _ => given.chain([self.home.clone().into_bytes()]).collect(),
        }
    }

    fn not_executed(&self, errno: i32) -> (String, u8) {
        let program = Text::from(String::from_utf8_lossy(&self.command.argv[0]).into_owned());
        let (what, code) = match errno {
            ENOENT => ("command not found".to_owned(), 127),
            _ => (system_text(errno), 126),
        };
        (format!("gridpilot: {}: {program}: {what}\n", self.host), code)
    }

    fn failure(&self, error: &InitError) -> Failure {
        let (cause, hint) = match error {
            InitError::Spawn { stage: SpawnStage::Cwd, errno } => {
                let directories = self.directories();
                let last = directories.last().map(|path| String::from_utf8_lossy(path)).unwrap_or_default();
                let cause = format!("{}: cannot enter {last}: {}", self.host, system_text(*errno));
                (cause, "name a directory that exists there with --cwd, or leave it out")
            }
            InitError::Spawn { stage: SpawnStage::Fork, errno } => {
                let cause = format!("{}: no process can be made: {}", self.host, system_text(*errno));
                (cause, "the member is at its limit of processes or memory")
            }
            error => (format!("{}: {error}", self.host), ""),
        };
        Failure::new(Step::Exec, cause, hint)
    }

    async fn stream(
        self,
        exited: Exited,
        [stdout, stderr]: [pipe::Receiver; 2],
    ) -> Result<(), ConnectionError> {
        let (ended, when_ended) = watch::channel(None);
        let exit = async {
            let status = exited.await;
            ended.send_replace(Some(Instant::now() + GRACE));
            status
        };
        let out = self.forward(Stream::Stdout, stdout, self.saved[0].clone(), when_ended.clone());
        let err = self.forward(Stream::Stderr, stderr, self.saved[1].clone(), when_ended);
        let (status, out, err) = tokio::join!(exit, out, err);
        out?;
        err?;
        match status {
            Ok(record::ExitStatus::Code(code)) => self.post_exit(ExitStatus::Code(code)).await,
            Ok(record::ExitStatus::Signal(signal)) => self.post_exit(ExitStatus::Signal(signal)).await,
            // Init died with all its processes; the handler says so.
            Err(_) => Ok(()),
        }
    }

    /// Sends one stream on until it ends, or until the grace after the command's end is over.
    async fn forward(
        &self,
        stream: Stream,
        pipe: pipe::Receiver,
        mut saved: watch::Receiver<u64>,
        mut grace: watch::Receiver<Option<Instant>>,
    ) -> Result<(), ConnectionError> {
        let mut offset = 0;
        let mut left_after_grace = PIPE_BYTES;
        loop {
            let Some(window) = window(&mut saved, offset).await else { return Ok(()) };
            let over = tokio::select! {
                biased;
                () = end_of(&mut grace) => true,
                ready = pipe.readable() => { ready?; false }
            };
            let most = window.min(OUTPUT_CHUNK_BYTES_MAX).min(left_after_grace);
            let mut buffer = BytesMut::new().limit(most);
            match pipe.try_read_buf(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    let bytes = buffer.into_inner().freeze();
                    self.post(stream, offset, bytes).await?;
                    offset += length as u64;
                    if over {
                        left_after_grace -= length;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !over => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if left_after_grace == 0 {
                return Ok(());
            }
        }
    }

    async fn reply(&self, reply: &Reply) -> Result<(), ConnectionError> {
        self.outbox.post_wait(Kind::Reply, self.correlation, reply).await
    }

    async fn post(&self, stream: Stream, offset: u64, bytes: Bytes) -> Result<(), ConnectionError> {
        let notice = Notice::Output { job: self.job, stream, offset, bytes };
        self.outbox.post_wait(Kind::Notice, 0, &notice).await
    }

    async fn post_exit(&self, status: ExitStatus) -> Result<(), ConnectionError> {
        self.outbox.post_wait(Kind::Notice, 0, &Notice::Exited { job: self.job, status }).await
    }
}

/// Waits until something may be sent; `None` when nobody will ever say so again.
async fn window(saved: &mut watch::Receiver<u64>, offset: u64) -> Option<usize> {
    loop {
        let ahead = offset.saturating_sub(*saved.borrow_and_update());
        let window = OUTPUT_AHEAD_BYTES_MAX.saturating_sub(ahead);
        if window > 0 {
            return Some(usize::try_from(window).unwrap_or(usize::MAX));
        }
        saved.changed().await.ok()?;
    }
}

/// Resolves at the end of the grace, which begins when the command has ended.
async fn end_of(grace: &mut watch::Receiver<Option<Instant>>) {
    let until = grace.wait_for(Option::is_some).await.ok().and_then(|until| *until);
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        // The one who waits for the command is gone, and this with it.
        None => std::future::pending().await,
    }
}

/// A pipe for output: our end, and the end for the command.
///
/// The pipe belongs to the agent's account, and opening `/dev/stdout` asks for permission on it:
/// without this the user's `echo >/dev/stderr` would be refused.
pub(crate) fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fchmod(&theirs, Mode::from_raw_mode(0o622))?;
    Ok((pipe::Receiver::from_owned_fd(ours)?, theirs))
}

/// What the system calls an error, without the number.
pub(crate) fn system_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
