//! The child's side of a build: from the first instruction in the new namespaces to
//! init's loop. It never returns.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{setrlimit, setsid, umask};

use super::cgroup::Cgroups;
use super::{Plan, drop, root};
use crate::channel;
use crate::failure::{At, Failure};
use crate::init;
use crate::net::netlink::Netlink;
use crate::operation::Notice;
use crate::operation::Step::*;
use crate::sys;

/// What the child inherits and keeps.
pub struct Ends<'a> {
    pub lifeline: BorrowedFd<'a>,
    pub agent: BorrowedFd<'a>,
    /// A netlink socket of the node's network namespace.
    pub node: BorrowedFd<'a>,
}

const LIFELINE: i32 = 3;
const AGENT: i32 = 4;
const NODE: i32 = 5;
/// A link with the same MAC may still be on its way out.
const LINK_BUSY_TIMEOUT: Duration = Duration::from_secs(8);

/// Builds, reports, serves. The process ends here, whatever happens.
pub fn run(plan: &Plan, carried: &[PathBuf], cgroups: &Cgroups, ends: Ends<'_>) -> ! {
    let work = || -> Result<Infallible, Failure> {
        cgroups.enter().at(MakeCgroup, "")?;
        let [lifeline, agent, node] = keep_only(ends).at(CreateProcess, "descriptors")?;
        build(plan, carried, lifeline.as_fd(), node)
            .inspect_err(|failure| drop_report(&lifeline, failure))
            .map(|()| init::serve(lifeline, agent, plan.link.address, plan.user.as_str()))
    };
    let _ = catch_unwind(AssertUnwindSafe(work));
    sys::process::exit_now(1)
}

fn drop_report(lifeline: &OwnedFd, failure: &Failure) {
    let _ = channel::send(lifeline, &failure.notice().encode(), &[]);
}

/// Low numbers for what is kept, `/dev/null` for 0 to 2, and nothing else of the
/// monitor's: no descriptor of it exists inside.
fn keep_only(ends: Ends<'_>) -> Result<[OwnedFd; 3], Errno> {
    // Closed with all the others, not by its owner.
    let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let null = std::mem::ManuallyDrop::new(null);
    sys::fd::arrange(&[null.as_fd(), null.as_fd(), null.as_fd(), ends.lifeline, ends.agent, ends.node])?;
    Ok([sys::fd::adopt(LIFELINE)?, sys::fd::adopt(AGENT)?, sys::fd::adopt(NODE)?])
}

fn build(plan: &Plan, carried: &[PathBuf], lifeline: BorrowedFd<'_>, node: OwnedFd) -> Result<(), Failure> {
    umask(Mode::empty());
    drop::bind_to_parent(lifeline).at(CreateProcess, "the monitor is gone")?;
    setsid().at(CreateProcess, "session")?;
    nix::unistd::sethostname(&plan.host_name).at(CreateProcess, "host name")?;
    set_network_switches()?;
    root::build(plan, carried)?;
    let inside = network(plan, Netlink::adopt(node))?;
    for (resource, limit) in &plan.callers_limits {
        setrlimit(*resource, *limit).at(DropPrivilege, "the caller's limits")?;
    }
    let account = &plan.account;
    drop::for_good(account.uid, account.gid, &account.groups).at(DropPrivilege, "")?;
    drop::bind_to_parent(lifeline).at(DropPrivilege, "the monitor is gone")?;
    sys::seccomp::install(init::filter::program()).at(DropPrivilege, "seccomp")?;
    umask(Mode::from_raw_mode(0o022));
    // Whoever gets this one can change nothing by it, whatever he may do himself.
    let counters = Netlink::open().at(Serve, "netlink")?;
    channel::send(lifeline, &Notice::Built.encode(), &[inside.as_fd(), counters.as_fd()]).at(Serve, "")
}

/// Before there is a link: IPv6 off, and port 22 for a user's sshd. Each name is looked up once:
/// the kernel compares it with that of every other network namespace.
fn set_network_switches() -> Result<(), Failure> {
    for path in ["/proc/sys/net/ipv6/conf/all/disable_ipv6", "/proc/sys/net/ipv6/conf/default/disable_ipv6"] {
        match set(path, "1") {
            // A kernel without IPv6 has no such file.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            outcome => outcome.at(DisableIpv6, path)?,
        }
    }
    // A connection whose peer went first outlives its process, and with it the whole
    // namespace, address and link: for minutes by default, so for about 3 s.
    let orphans = "/proc/sys/net/ipv4/tcp_orphan_retries";
    set(orphans, "2").at(ConfigureNetwork, orphans)?;
    let ports = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    set(ports, "22").at(ConfigureNetwork, ports)
}

fn set(path: &str, value: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn network(plan: &Plan, node: Netlink) -> Result<Netlink, Failure> {
    let link = &plan.link;
    let namespace = openat(CWD, "/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .at(CreateLink, "/proc/self/ns/net")?;
    let start = Instant::now();
    loop {
        match link.create(&node, &namespace) {
            Err(Errno::BUSY | Errno::ADDRINUSE) if start.elapsed() < LINK_BUSY_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => {
                break other.at(CreateLink, format_args!("{} for {}", link.driver.name(), link.address))?;
            }
        }
    }
    let inside = Netlink::open().at(ConfigureNetwork, "netlink")?;
    link.configure(&inside).at(ConfigureNetwork, link.address)?;
    Ok(inside)
}
