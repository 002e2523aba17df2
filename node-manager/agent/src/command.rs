//! One command of a job: start it inside, stream its output no further ahead than the CRM has
//! saved, tell how it ended once all of its output is on its way. What was sent and not saved is
//! kept and can be sent again, after the end as well, until the CRM has saved the end. A broken connection ends none of this: what is read meanwhile is kept as if it had been
//! sent, and all that is not saved goes out again when the CRM of the next connection asks.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use node_manager::init::record::{self, Full, SpawnStage, Whom};
use protocol::ids::JobId;
use protocol::job::{Command, ExitStatus, Hits, Stream};
use protocol::limits::OUTPUT_CHUNK_BYTES_MAX;
use protocol::names::{HostName, Text};
use protocol::node::Notice;
use protocol::refusal::{Failure, Step};
use rustix::fs::Mode;
use rustix::pipe::PipeFlags;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::init::{Exited, Init, InitError};
use crate::limits::{Counters, Seen};
use crate::tail::Tail;
use crate::voice::Voice;

/// How long a background process may hold a command's output open after the command ended.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks whether a command that is being ended is gone.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// What a pipe holds at most: after the grace no more than this can be the command's own.
const PIPE_BYTES: usize = 64 * 1024;
const ENOENT: i32 = 2;
/// In the order of their numbers.
const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// What the CRM says of a command's output; told by the handler, heeded by the command. Dropping it
/// means that nothing need be kept any more.
#[derive(Clone, Debug, Default)]
pub struct Wishes(watch::Sender<Wished>);

#[derive(Clone, Copy, Debug, Default)]
struct Wished {
    /// Of stdout and stderr.
    saved: [u64; 2],
    /// How often all that is not saved was asked for again.
    resends: u64,
    end: End,
}

/// When the command's end may be told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum End {
    /// As soon as it ended.
    #[default]
    Own,
    /// It is being ended: when none of its processes is left.
    Emptied,
    /// Something of it does not die: that was told, and is waited for no more.
    GivenUp,
}

impl Wishes {
    /// So much of a stream is saved. Never goes back, in whatever order the words arrive.
    pub fn save(&self, stream: Stream, upto: u64) {
        self.0.send_modify(|wished| {
            let saved = &mut wished.saved[stream as usize];
            *saved = upto.max(*saved);
        });
    }

    /// What is not saved shall be sent again.
    pub fn resend(&self) {
        self.0.send_modify(|wished| wished.resends += 1);
    }

    /// It is being ended: it is not over before none of its processes is left.
    pub fn stop(&self) {
        self.0.send_modify(|wished| wished.end = End::Emptied);
    }

    /// Something of it does not die.
    pub fn give_up(&self) {
        self.0.send_modify(|wished| wished.end = End::GivenUp);
    }

    /// For the command.
    pub fn subscribe(&self) -> Heeded {
        Heeded(self.0.subscribe())
    }
}

/// The command's side of [`Wishes`].
#[derive(Debug)]
pub struct Heeded(watch::Receiver<Wished>);

/// What one command needs of its surroundings.
#[derive(Debug)]
pub struct Start {
    pub init: Init,
    pub voice: Voice,
    /// On which its output goes until it is asked for again.
    pub line: u64,
    pub job: JobId,
    pub host: HostName,
    pub command: Command,
    /// The whole environment, `NAME=value` each.
    pub environment: Vec<Vec<u8>>,
    pub home: String,
    pub wishes: Heeded,
    pub counters: Counters,
}

impl Start {
    /// Runs the command to its end; `begun` is called once it started, or did not. Returns what is
    /// kept of a command that ended; nothing if it never started, or nobody wants to know.
    ///
    /// # Errors
    /// Its output cannot be read.
    pub async fn run(self, begun: impl FnOnce(Result<(), Failure>)) -> io::Result<Option<Ended>> {
        let seen = self.counters.look();
        match self.spawn().await {
            Ok((exited, pipes)) => {
                begun(Ok(()));
                let streams = pipes.map(|pipe| Source { pipe: Some(pipe), left_after_grace: PIPE_BYTES });
                self.into_live(streams, seen).run(exited).await
            }
            // As a shell would have it: the command ended, with a line that says why.
            Err(InitError::Spawn { stage: SpawnStage::Exec, errno }) => {
                begun(Ok(()));
                let (line, code) = self.not_executed(errno);
                let closed = || Source { pipe: None, left_after_grace: 0 };
                let mut live = self.into_live([closed(), closed()], seen);
                live.sent.post(Stream::Stderr, line.into()).await;
                Ok(Some(live.end(ExitStatus::Code(code), Full::default()).await))
            }
            // The same job never starts twice, and it did start.
            Err(InitError::Spawn { stage: SpawnStage::Repeated, .. }) => {
                begun(Ok(()));
                Ok(None)
            }
            Err(error) => {
                begun(Err(self.failure(&error)));
                Ok(None)
            }
        }
    }

    fn into_live(self, sources: [Source; 2], seen: Seen) -> Live {
        let Self { voice, line, job, init, counters, .. } = self;
        let sent = Sent { voice, line, job, tails: Default::default(), resends: 0 };
        Live { sent, wishes: self.wishes.0, sources, init, counters, seen }
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
}

/// What was sent of both streams.
#[derive(Debug)]
struct Sent {
    voice: Voice,
    /// Where all that is not saved was sent. On another line nothing goes before it is asked for:
    /// what was on its way when this one broke may be lost.
    line: u64,
    job: JobId,
    tails: [Tail; 2],
    /// How many wishes to send again were fulfilled.
    resends: u64,
}

impl Sent {
    async fn post(&mut self, stream: Stream, bytes: Bytes) {
        let tail = &mut self.tails[stream as usize];
        let offset = tail.end();
        tail.push(&bytes);
        self.tell(&Notice::Output { job: self.job, stream, offset, bytes }).await;
    }

    /// Does what is wished; whether that was to send again.
    async fn heed(&mut self, wished: Wished) -> bool {
        for (tail, upto) in self.tails.iter_mut().zip(wished.saved) {
            tail.save(upto);
        }
        if wished.resends == self.resends {
            return false;
        }
        self.resends = wished.resends;
        self.line = self.voice.line();
        for stream in STREAMS {
            for (offset, bytes) in self.tails[stream as usize].unsaved() {
                self.tell(&Notice::Output { job: self.job, stream, offset, bytes }).await;
            }
        }
        true
    }

    /// The end, behind where each stream ended: whoever has missed some of it knows then.
    async fn tell_end(&self, status: ExitStatus, hits: Hits) {
        let job = self.job;
        for stream in STREAMS {
            let offset = self.tails[stream as usize].end();
            self.tell(&Notice::Output { job, stream, offset, bytes: Bytes::new() }).await;
        }
        self.tell(&Notice::Exited { job, status, hits }).await;
    }

    async fn tell(&self, notice: &Notice) {
        self.voice.tell(self.line, notice).await;
    }
}

/// A stream's pipe, until its end was read.
#[derive(Debug)]
struct Source {
    pipe: Option<pipe::Receiver>,
    left_after_grace: usize,
}

impl Source {
    /// Resolves when there is something to read and room for it.
    async fn ready(&self, room: usize) -> io::Result<()> {
        match &self.pipe {
            Some(pipe) if room > 0 => pipe.readable().await,
            _ => pending().await,
        }
    }

    /// What there is, if anything; the end of the stream, or of the grace, closes it.
    fn take(&mut self, room: usize, over: bool) -> io::Result<Option<Bytes>> {
        let Some(pipe) = &self.pipe else { return Ok(None) };
        let most = room.min(OUTPUT_CHUNK_BYTES_MAX).min(self.left_after_grace);
        let mut buffer = vec![0; most];
        match pipe.try_read(&mut buffer) {
            Ok(0) if most > 0 => self.pipe = None,
            Ok(length) => {
                if over {
                    self.left_after_grace -= length;
                }
                if self.left_after_grace == 0 {
                    self.pipe = None;
                }
                // Often a line: what waits to be sent must not hold a large buffer for it.
                return Ok(Some(Bytes::copy_from_slice(&buffer[..length])));
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if over => self.pipe = None,
            Err(_) => {}
        }
        Ok(None)
    }
}

/// A command that runs, or whose output is not read to its end.
struct Live {
    sent: Sent,
    wishes: watch::Receiver<Wished>,
    sources: [Source; 2],
    init: Init,
    counters: Counters,
    /// How far the counters were when it began.
    seen: Seen,
}

impl Live {
    async fn run(mut self, mut exited: Exited) -> io::Result<Option<Ended>> {
        let mut ended = None;
        let mut looked = false;
        // Set with the status: from then on only so long, and then so much.
        let mut grace_ends = Instant::now();
        let mut over = false;
        loop {
            let rooms = [self.room(0), self.room(1)];
            if over {
                for index in 0..STREAMS.len() {
                    while self.room(index) > 0 && self.sources[index].pipe.is_some() {
                        self.forward(index, true).await?;
                    }
                }
            }
            let drained = ended.filter(|_| self.sources.iter().all(|one| one.pipe.is_none()));
            if let Some((status, full)) = drained {
                let alone = !std::mem::replace(&mut looked, true) && self.is_empty().await;
                if alone || self.wishes.borrow().end != End::Emptied {
                    return Ok(Some(self.end(status, full).await));
                }
            }
            let [stdout, stderr] = &self.sources;
            let turn = tokio::select! {
                changed = self.wishes.changed() => match changed {
                    Ok(()) => Turn::Wished,
                    Err(_) => return Ok(None),
                },
                outcome = &mut exited, if ended.is_none() => match outcome {
                    Ok((status, full)) => Turn::Ended(status, full),
                    // Init died with all its processes; the handler says so.
                    Err(_) => return Ok(None),
                },
                () = sleep_until(grace_ends), if ended.is_some() && !over => Turn::Over,
                () = sleep(LOOK_PAUSE), if drained.is_some() => Turn::Look,
                ready = stdout.ready(rooms[0]), if !over => ready.map(|()| Turn::Readable(0))?,
                ready = stderr.ready(rooms[1]), if !over => ready.map(|()| Turn::Readable(1))?,
            };
            match turn {
                Turn::Wished => {
                    let wished = *self.wishes.borrow_and_update();
                    self.sent.heed(wished).await;
                }
                Turn::Ended(status, full) => {
                    let status = match status {
                        record::ExitStatus::Code(code) => ExitStatus::Code(code),
                        record::ExitStatus::Signal(signal) => ExitStatus::Signal(signal),
                    };
                    ended = Some((status, full));
                    grace_ends = Instant::now() + GRACE;
                }
                Turn::Look => looked = false,
                Turn::Over => over = true,
                Turn::Readable(index) => self.forward(index, false).await?,
            }
        }
    }

    /// Whether none of its processes is left, where that matters.
    async fn is_empty(&self) -> bool {
        if self.wishes.borrow().end != End::Emptied {
            return true;
        }
        // Without an init there are no processes; the handler says so.
        let found = self.init.signal(self.sent.job.0, 0, Whom::Command).await;
        found.is_ok_and(|found| found.processes == 0)
    }

    fn room(&self, index: usize) -> usize {
        self.sent.tails[index].room()
    }

    async fn forward(&mut self, index: usize, over: bool) -> io::Result<()> {
        let room = self.room(index);
        if let Some(bytes) = self.sources[index].take(room, over)? {
            self.sent.post(STREAMS[index], bytes).await;
        }
        Ok(())
    }

    async fn end(mut self, status: ExitStatus, full: Full) -> Ended {
        let hits = self.counters.hits(self.seen, full);
        self.sent.tell_end(status, hits).await;
        self.sent.tails.iter_mut().for_each(Tail::close);
        Ended { sent: self.sent, wishes: self.wishes, status, hits }
    }
}

/// What happened to a command that runs.
#[derive(Clone, Copy)]
enum Turn {
    Wished,
    Ended(record::ExitStatus, Full),
    /// It may be empty by now.
    Look,
    Over,
    Readable(usize),
}

/// A command that ended, with what is not saved of it.
#[derive(Debug)]
pub struct Ended {
    sent: Sent,
    wishes: watch::Receiver<Wished>,
    status: ExitStatus,
    hits: Hits,
}

impl Ended {
    /// Output that is kept.
    pub fn bytes(&self) -> usize {
        self.sent.tails.iter().map(Tail::len).sum()
    }

    /// Sends it again whenever that is wished, until nobody can wish any more.
    pub async fn keep(mut self) {
        while self.wishes.changed().await.is_ok() {
            let wished = *self.wishes.borrow_and_update();
            if self.sent.heed(wished).await {
                self.sent.tell_end(self.status, self.hits).await;
            }
        }
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
