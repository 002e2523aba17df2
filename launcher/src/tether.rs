//! The NodeManager at the end of a tether: a socket pair whose closing means that the Launcher
//! died, however it died. The NodeManager is root and the Launcher is not, so it cannot be
//! signalled; a word on the tether asks it to end, and only its exit says that it is down.

use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollTimeout, poll};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, close, pipe2};

/// The NodeManager finds its end of the tether here, and the invocation one above.
const TETHER_FD: RawFd = 3;
const INVOCATION_FD: RawFd = 4;
/// Descriptors are moved up here first, so that putting one in its place never hits another.
const OUT_OF_THE_WAY: RawFd = 10;
/// What the NodeManager understands as the wish to end.
const END: &[u8] = b"end";

/// A NodeManager that runs, and our end of its tether. Dropping it ends the NodeManager too.
#[derive(Debug)]
pub struct Tether {
    socket: OwnedFd,
    pid: Pid,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    Code(i32),
    Signal(&'static str),
}

impl Tether {
    /// Starts the NodeManager with standard input from `/dev/null`, the tether and a pipe that
    /// holds the invocation; standard output and error are ours.
    pub fn start(node_manager: &Path, invocation: &[u8]) -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        // Never blocks: a fresh pipe takes more than the longest invocation.
        std::fs::File::from(write).write_all(invocation)?;
        let pid = spawn(node_manager, &[], &[(theirs, TETHER_FD), (read, INVOCATION_FD)])?;
        Ok(Self { socket: ours, pid })
    }

    /// Asks for an orderly end. Repeatable; no matter if the NodeManager is already gone.
    pub fn ask_to_end(&self) {
        let _ = send(self.socket.as_raw_fd(), END, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    }

    /// How the NodeManager ended, once it has.
    pub fn ended(&self) -> Option<Exit> {
        ended(self.pid)
    }
}

/// Readable, with nothing to read, once the NodeManager has closed its end.
impl AsFd for Tether {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Runs `node-manager sweep`: it removes what a killed NodeManager left with nobody to own it.
/// True when it did so within `patience`.
pub fn sweep(node_manager: &Path, patience: Duration) -> bool {
    let Ok(pid) = spawn(node_manager, &[c"sweep"], &[]) else { return false };
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(exit) = ended(pid) {
            return exit == Exit::Code(0);
        }
        // A short life and a long deadline: asking again costs less than another descriptor.
        let _ = poll(&mut [] as &mut [PollFd], PollTimeout::from(10u8));
    }
    false
}

fn ended(pid: Pid) -> Option<Exit> {
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => Some(Exit::Code(code)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(Exit::Signal(signal.as_str())),
        // Only we reap, so this cannot be; whoever waited for it would wait for ever.
        Err(Errno::ECHILD) => Some(Exit::Signal("a signal that is not known")),
        _ => None,
    }
}

/// Starts a program with our environment, every signal at its default, none blocked, and the
/// given descriptors in the given places, besides 0 to 2.
fn spawn(program: &Path, arguments: &[&CStr], descriptors: &[(OwnedFd, RawFd)]) -> io::Result<Pid> {
    let mut actions = PosixSpawnFileActions::init()?;
    let null = OwnedFd::from(std::fs::File::open("/dev/null")?);
    let mut moved = Vec::new();
    let outcome = (|| {
        for (descriptor, place) in descriptors.iter().map(|(d, place)| (d, *place)).chain([(&null, 0)]) {
            let high = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(OUT_OF_THE_WAY))?;
            moved.push(high);
            actions.add_dup2(high, place)?;
        }
        let mut attributes = PosixSpawnAttr::init()?;
        attributes
            .set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
        attributes.set_sigdefault(&SigSet::all())?;
        attributes.set_sigmask(&SigSet::empty())?;
        let path = CString::new(program.as_os_str().as_bytes())?;
        let argv: Vec<&CStr> = [path.as_c_str()].into_iter().chain(arguments.iter().copied()).collect();
        Ok(posix_spawn(program, &actions, &attributes, &argv, &environment())?)
    })();
    // Copies that stayed open here would keep the tether alive after its NodeManager.
    for descriptor in moved {
        let _ = close(descriptor);
    }
    outcome
}

fn environment() -> Vec<CString> {
    let pair = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let mut pair = name.into_vec();
        pair.push(b'=');
        pair.extend_from_slice(value.as_bytes());
        CString::new(pair).ok()
    };
    std::env::vars_os().filter_map(pair).collect()
}
