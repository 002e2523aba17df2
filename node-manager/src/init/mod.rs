//! The sandbox's first process: reaps, writes the agent's files, starts commands and
//! sshd. It runs as the user, without any privilege, and dies with the monitor.
//!
//! It has one thread and one `poll`. The monitor's lifeline closing ends it, and with it
//! everything in its pid namespace; that is the only way in which it ends.

mod file;
pub mod filter;
mod processes;
pub mod record;
mod spawn;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::signal::{SigSet, Signal as NixSignal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

use crate::channel::{self, Datagram};
use crate::sys;
use file::Directories;
use processes::Process;
use record::{Command, ExitStatus, Found, Full, Notice, RECORD_BYTES_MAX, Request, SpawnStage, Whom};
use spawn::{Program, Starting};

const SSH_PORT: u16 = 22;
const SSHD: &str = "/usr/sbin/sshd";
const SSHD_CONFIG: &str = "/etc/gridpilot/sshd_config";
const SSHD_LOG: &str = "/run/sshd.log";
const NUL: &str = "/dev/null";
/// While commands run, the room of the writable part is looked at so often, and when one ends.
const LOOK_PAUSE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// With less than this left it counts as full.
const ROOM_BYTES_MIN: u64 = 64 * 1024;
/// A bound for a command that makes processes faster than they can be stopped; who asked asks again.
const STOP_ROUNDS_MAX: u32 = 100;

/// A command of the agent's.
struct Running {
    id: u64,
    /// Until the program is executed or the attempt has failed.
    starting: Option<Starting>,
    /// Set when it was reaped while still starting.
    status: Option<ExitStatus>,
    full: Full,
}

struct Init {
    agent: OwnedFd,
    signals: SignalFd,
    listener: Option<TcpListener>,
    directories: Directories,
    address: Ipv4Addr,
    /// Every command's standard input.
    null: File,
    running: HashMap<i32, Running>,
    /// Ids that were ever spawned.
    used: HashSet<u64>,
    agent_open: bool,
}

/// Serves until the monitor's end of the lifeline is closed.
pub fn serve(lifeline: OwnedFd, agent: OwnedFd, address: Ipv4Addr, user: &str) -> Infallible {
    let started = Init::new(agent, address, user);
    if let Ok(mut init) = started {
        while init.turn(&lifeline).is_ok() {}
    }
    sys::process::exit_now(0)
}

/// The lifeline is closed, the agent broke the rules, or the kernel refuses something that cannot fail.
struct Over;

impl<E: std::error::Error> From<E> for Over {
    fn from(_: E) -> Over {
        Over
    }
}

impl Init {
    fn new(agent: OwnedFd, address: Ipv4Addr, user: &str) -> Result<Init, Over> {
        let mut mask = SigSet::empty();
        mask.add(NixSignal::SIGCHLD);
        mask.thread_block()?;
        Ok(Init {
            agent,
            signals: SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            listener: None,
            directories: Directories::open(user)?,
            address,
            null: File::open(NUL)?,
            running: HashMap::new(),
            used: HashSet::new(),
            agent_open: true,
        })
    }

    fn turn(&mut self, lifeline: &OwnedFd) -> Result<(), Over> {
        let starting: Vec<i32> = self
            .running
            .iter()
            .filter(|(_, running)| running.starting.is_some())
            .map(|(&pid, _)| pid)
            .collect();
        let mut fds = vec![PollFd::new(lifeline, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        // An agent that is gone would speak for ever: its place is kept by what is asked anyway.
        let agent = if self.agent_open { self.agent.as_fd() } else { self.signals.as_fd() };
        fds.push(PollFd::from_borrowed_fd(agent, PollFlags::IN));
        fds.extend(self.listener.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        let first_starting = fds.len();
        for pid in &starting {
            if let Some(Starting { pipe, .. }) =
                self.running.get(pid).and_then(|running| running.starting.as_ref())
            {
                fds.push(PollFd::new(pipe, PollFlags::IN));
            }
        }
        // A program that cleans up behind a full disk is seen while it is full.
        let pause = (!self.running.is_empty()).then_some(LOOK_PAUSE);
        match poll(&mut fds, pause.as_ref()) {
            Err(Errno::INTR) => return Ok(()),
            Ok(0) => {
                self.look_for_room();
                return Ok(());
            }
            other => other?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            return Err(Over);
        }
        for (pid, _) in starting.iter().zip(&ready[first_starting..]).filter(|(_, ready)| **ready) {
            self.started(*pid);
        }
        if ready[1] {
            // One is all there can be: a signal that is pending already is not queued again.
            let _ = self.signals.read_signal();
            self.reap();
        }
        if ready[2] && self.agent_open {
            self.request()?;
        }
        if first_starting == 4 && ready[3] {
            self.accept();
        }
        Ok(())
    }

    fn notify(&mut self, notice: &Notice) {
        // An agent that is gone is the monitor's business.
        if self.agent_open && channel::send(&self.agent, &notice.encode(), &[]).is_err() {
            self.agent_open = false;
        }
    }

    fn request(&mut self) -> Result<(), Over> {
        // What cannot be taken, like descriptors beyond the limit, would be waited for in vain.
        let Some(Datagram { bytes, descriptors }) = channel::receive(&self.agent, RECORD_BYTES_MAX)? else {
            self.agent_open = false;
            return Ok(());
        };
        let done = |result: Result<(), Errno>| match result {
            Ok(()) => Notice::Done,
            Err(errno) => Notice::Failed { errno: errno.raw_os_error() },
        };
        match Request::decode(&bytes) {
            Ok(Request::PutFile { file }) => {
                let content = descriptors.into_iter().next().ok_or(Errno::BADF);
                let result = content.and_then(|content| self.directories.put(file, content));
                self.notify(&done(result));
            }
            Ok(Request::Listen) => {
                let result = self.listen();
                self.notify(&done(result));
            }
            Ok(Request::Spawn { id }) => {
                if let Err((stage, errno)) = self.spawn(id, descriptors) {
                    self.notify(&Notice::SpawnFailed { id, stage, errno: errno.raw_os_error() });
                }
            }
            Ok(Request::Signal { id, signal, whom }) => {
                let found = self.signal(id, signal, whom);
                self.notify(&Notice::Found(found));
            }
            Err(_) => return Err(Over),
        }
        Ok(())
    }

    fn listen(&mut self) -> Result<(), Errno> {
        if self.listener.is_none() {
            let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
            let listener = TcpListener::bind((self.address, SSH_PORT)).map_err(errno)?;
            listener.set_nonblocking(true).map_err(errno)?;
            self.listener = Some(listener);
        }
        Ok(())
    }

    /// One sshd for one connection, as the user. It is reaped like any other orphan.
    fn accept(&mut self) {
        let Some(Ok((connection, _))) = self.listener.as_ref().map(TcpListener::accept) else {
            return;
        };
        let mut log = std::fs::OpenOptions::new();
        // The user may have put a pipe there that nobody reads.
        let log = log.append(true).create(true).custom_flags(libc::O_NONBLOCK).open(SSHD_LOG);
        let Ok(log) = log.or_else(|_| std::fs::OpenOptions::new().write(true).open(NUL)) else {
            return;
        };
        if connection.set_nonblocking(false).is_err() {
            return;
        }
        let text = |text: &str| text.as_bytes().to_vec();
        let command = Command {
            cwd: vec![text("/")],
            argv: [SSHD, "-i", "-e", "-f", SSHD_CONFIG].map(text).to_vec(),
            env: vec![text("PATH=/usr/local/bin:/usr/bin:/bin")],
        };
        if let Ok(program) = Program::new(&command) {
            // What went wrong, if anything, is in the log; the peer sees the close.
            let _ = program.start([connection.as_fd(), connection.as_fd(), log.as_fd()], processes::LOGIN);
        }
    }

    fn spawn(&mut self, id: u64, descriptors: Vec<OwnedFd>) -> Result<(), (SpawnStage, Errno)> {
        if !self.used.insert(id) {
            return Err((SpawnStage::Repeated, Errno::EXIST));
        }
        let [blob, stdout, stderr] =
            <[OwnedFd; 3]>::try_from(descriptors).map_err(|_| (SpawnStage::Command, Errno::BADF))?;
        let content =
            file::read_all(blob, record::COMMAND_BYTES_MAX).map_err(|errno| (SpawnStage::Command, errno))?;
        let command = Command::decode(&content).map_err(|_| (SpawnStage::Command, Errno::INVAL))?;
        let program = Program::new(&command).map_err(|errno| (SpawnStage::Command, errno))?;
        let null = &self.null;
        let starting = program
            .start([null.as_fd(), stdout.as_fd(), stderr.as_fd()], id)
            .map_err(|errno| (SpawnStage::Fork, errno))?;
        let pid = starting.pid;
        self.running
            .insert(pid, Running { id, starting: Some(starting), status: None, full: Full::default() });
        Ok(())
    }

    /// The pipe of a starting command has spoken: an error, or its close at the exec.
    fn started(&mut self, pid: i32) {
        let Some(running) = self.running.get_mut(&pid) else {
            return;
        };
        let Some(starting) = running.starting.take() else {
            return;
        };
        let (id, status) = (running.id, running.status);
        match starting.outcome() {
            Ok(()) => {
                self.notify(&Notice::Spawned { id, pid: pid as u32 });
                if let Some(status) = status {
                    self.exited(pid, status);
                }
            }
            Err((stage, errno)) => {
                self.running.remove(&pid);
                self.notify(&Notice::SpawnFailed { id, stage, errno: errno.raw_os_error() });
            }
        }
    }

    fn exited(&mut self, pid: i32, status: ExitStatus) {
        if let Some(Running { id, full, .. }) = self.running.remove(&pid) {
            self.notify(&Notice::Exited { id, status, full });
        }
    }

    /// Everything without a parent ends up here.
    fn reap(&mut self) {
        self.look_for_room();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitStatus::Code(code as u8),
                (None, signal) => ExitStatus::Signal(signal.unwrap_or(0) as u8),
            };
            match self.running.get_mut(&pid) {
                Some(running) if running.starting.is_some() => running.status = Some(status),
                Some(_) => self.exited(pid, status),
                None => {}
            }
        }
    }

    fn signal(&self, id: u64, number: u8, whom: Whom) -> Found {
        let find = || match whom {
            Whom::Command => processes::of(id, &self.used),
            Whom::Everything => processes::all(),
        };
        let found = find();
        match (number, NixSignal::try_from(i32::from(number))) {
            (0, _) | (_, Err(_)) => {}
            (_, Ok(NixSignal::SIGKILL)) => kill_all(find),
            (_, Ok(signal)) => {
                send(&found, signal);
                if matches!(signal, NixSignal::SIGTERM | NixSignal::SIGINT | NixSignal::SIGHUP) {
                    send(&found, NixSignal::SIGCONT);
                }
            }
        }
        // One that cannot be killed says more than any other.
        let one = found.iter().max_by_key(|process| process.state == b'D');
        let (pid, state) = one.map_or((0, 0), |one| (one.pid as u32, one.state));
        Found { processes: found.len() as u32, pid, state }
    }

    /// Whether the writable part has no room left, noted for all that run.
    fn look_for_room(&mut self) {
        let Ok(room) = rustix::fs::statvfs("/") else { return };
        for running in self.running.values_mut() {
            if room.f_bavail * room.f_bsize < ROOM_BYTES_MIN {
                running.full.bytes = room.f_blocks * room.f_bsize;
            }
            if room.f_ffree == 0 {
                running.full.files = room.f_files;
            }
        }
    }
}

fn send(to: &[Process], signal: NixSignal) {
    for process in to {
        let _ = kill(nix::unistd::Pid::from_raw(process.pid), signal);
    }
}

/// What is stopped makes no children: each round finds those that were made meanwhile, until
/// there are none, and all die together.
fn kill_all(find: impl Fn() -> Vec<Process>) {
    let mut stopped: HashMap<i32, Process> = HashMap::new();
    for _ in 0..STOP_ROUNDS_MAX {
        let born: Vec<Process> =
            find().into_iter().filter(|process| !stopped.contains_key(&process.pid)).collect();
        if born.is_empty() {
            break;
        }
        send(&born, NixSignal::SIGSTOP);
        stopped.extend(born.into_iter().map(|process| (process.pid, process)));
    }
    send(&stopped.into_values().collect::<Vec<_>>(), NixSignal::SIGKILL);
}
