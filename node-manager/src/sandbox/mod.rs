//! One sandbox: everything it owns hangs on its first process. Killing that process is
//! the teardown; the kernel removes the rest, whether or not our code gets to run.
//!
//! ```text
//! start(plan) --clone3--> child: mounts, network, drop --"Built"--> init::serve
//!     |                                |
//!   Sandbox (pidfd, lifeline)          +--"Failed"--> exit
//! ```

mod build;
mod carry;
pub mod cgroup;
mod drop;
mod files;
mod home;
mod mounts;
mod root;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use grant::{Driver, Rates, UserName};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

pub use drop::{empty_bounding_set, for_good as drop_for_good};

use crate::account::Account;
use crate::channel;
use crate::failure::{At, Failure};
use crate::net::link::{self, HeldLink, INSIDE_NAME, Link};
use crate::net::netlink::{Batch, Netlink};
use crate::net::shape::Shape;
use crate::operation::{Notice, RECORD_BYTES_MAX, Step};
use crate::sys::process::clone_into;
use cgroup::{Cgroups, Limit};

/// How long the kernel may take to end the sandbox's processes before it is reported.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a pair may outlive its sandbox before it is removed by hand.
const LINK_TIMEOUT: Duration = Duration::from_millis(100);

const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWCGROUP;

/// A host directory that is carried in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Share {
    pub path: PathBuf,
    pub writable: bool,
}

/// Everything that must be known before the first system call.
#[derive(Clone, Debug)]
pub struct Plan {
    pub host_name: String,
    /// Ends the names of what no namespace owns: `<site>-<reservation>-<epoch>-<member>-<pid>`.
    pub tag: String,
    /// The user's name inside.
    pub user: UserName,
    pub account: Account,
    pub shares: Vec<Share>,
    /// What the caller was under and the monitor is not: put back before anything runs.
    pub callers_limits: Vec<(Resource, Rlimit)>,
    pub link: Link,
    pub limits: [Limit; 3],
    pub upper_bytes: u64,
    pub upper_inodes: u64,
}

/// A sandbox that is being built, stands, or has died by itself. Dropping it kills it.
pub struct Sandbox {
    pid: Pid,
    pidfd: OwnedFd,
    /// Closing it tells init to die. Its first datagram is the outcome of the build.
    lifeline: OwnedFd,
    agent_end: Option<OwnedFd>,
    inside: Option<Inside>,
    held: Option<HeldLink>,
    node: Netlink,
    link: Link,
    cgroups: Cgroups,
    /// Its end was tried; what did not die then is named, and not waited for again.
    ended: bool,
}

/// Two sockets of the sandbox's network namespace: ours, and one that can only read.
struct Inside {
    ours: Netlink,
    counters: OwnedFd,
    shape: Shape,
}

/// Starts a build. For processes with one thread. The sandbox's own steps are
/// reported by [`Sandbox::outcome`].
pub fn start(plan: &Plan) -> Result<Sandbox, Failure> {
    let cgroups = Cgroups::make(&plan.tag, &plan.limits)?;
    let node = Netlink::open().at(Step::CreateLink, "netlink")?;
    let carried = carry::find(plan)?;
    let (lifeline, inside_lifeline) = channel::pair().at(Step::CreateProcess, "socket pair")?;
    let (agent_end, inside_agent) = channel::pair().at(Step::CreateProcess, "socket pair")?;
    match clone_into(NAMESPACES as u64, cgroups.clone_into()).at(Step::CreateProcess, "")? {
        None => {
            let ends = build::Ends {
                lifeline: inside_lifeline.as_fd(),
                agent: inside_agent.as_fd(),
                node: node.as_fd(),
            };
            build::run(plan, &carried, &cgroups, ends)
        }
        Some((pid, pidfd)) => Ok(Sandbox {
            pid,
            pidfd,
            lifeline,
            agent_end: Some(agent_end),
            inside: None,
            held: None,
            node,
            link: plan.link.clone(),
            cgroups,
            ended: false,
        }),
    }
}

impl Sandbox {
    /// Readable when [`Sandbox::outcome`] will not wait.
    pub fn lifeline(&self) -> BorrowedFd<'_> {
        self.lifeline.as_fd()
    }

    /// Readable when the sandbox's first process, and with it every other, is dead.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The outcome of the build, once: the agent's end of init's socket.
    pub fn outcome(&mut self) -> Result<OwnedFd, Failure> {
        let died = || Failure::rule(Step::Serve, "the sandbox's first process died while it was built");
        let report =
            channel::receive(&self.lifeline, RECORD_BYTES_MAX).at(Step::Serve, "")?.ok_or_else(died)?;
        match Notice::decode(&report.bytes) {
            Ok(Notice::Built) => {
                let mut sockets = report.descriptors.into_iter();
                let (ours, counters) = sockets.next().zip(sockets.next()).ok_or_else(died)?;
                self.inside = Some(Inside { ours: Netlink::adopt(ours), counters, shape: Shape::default() });
                self.agent_end.take().ok_or_else(died)
            }
            Ok(Notice::Failed { step, errno, detail }) => Err(Failure { step, errno, detail }),
            _ => Err(died()),
        }
    }

    /// Makes the rates hold and opens the link, if it was closed until now. Returns the socket
    /// for its counters. Repeatable.
    pub fn shape(&mut self, rates: &Rates) -> Result<OwnedFd, Errno> {
        let inside = self.inside.as_mut().ok_or(Errno::NODEV)?;
        let index = inside.ours.index_of(INSIDE_NAME)?.ok_or(Errno::NODEV)?;
        inside.shape.apply(&inside.ours, index, rates)?;
        if self.link.closed {
            let mut batch = Batch::default();
            self.link.open(&mut batch, index);
            inside.ours.run(&batch)?;
            self.link.closed = false;
        }
        fcntl_dupfd_cloexec(&inside.counters, 0)
    }

    /// Ends everything inside and waits until it is gone. Returns what is left, by name, and the
    /// link, which goes with its namespace: [`HeldLink::free_mac`] when there is time for it.
    pub fn tear_down(mut self) -> (Result<(), String>, Option<HeldLink>) {
        (self.end(), self.held.take())
    }

    fn end(&mut self) -> Result<(), String> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        // A namespace that somebody holds by a passed-on descriptor keeps its link; without
        // the address it is mute.
        if let Some(Inside { ours, .. }) = self.inside.take()
            && let Ok(Some(index)) = ours.index_of(INSIDE_NAME)
        {
            let _ = self.link.withdraw(&ours, index);
            self.held = (self.link.driver == Driver::Macvlan).then_some(HeldLink(ours, index));
        }
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        if !wait_readable(self.pidfd.as_fd(), KILL_TIMEOUT) {
            return Err(format!("process {} does not die", self.pid.as_raw_nonzero()));
        }
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        self.cgroups.remove()?;
        if self.link.driver == Driver::Veth {
            self.remove_pair()?;
        }
        Ok(())
    }

    fn remove_pair(&self) -> Result<(), String> {
        let name = &self.link.outside_name;
        let start = Instant::now();
        while start.elapsed() < LINK_TIMEOUT {
            if let Ok(None) = self.node.index_of(name) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        link::remove(&self.node, name).map_err(|errno| format!("link {name}: {errno}"))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Waits until a descriptor is readable or closed at its other end.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
