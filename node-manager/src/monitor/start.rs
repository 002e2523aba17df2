//! The first acts of the setuid program: take nothing over from the caller, then find
//! out whether it was installed and called as it should be. Every refusal is one line.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, chdir, getegid, geteuid, getgid, getppid, getrlimit, getuid,
    pidfd_open, setrlimit, umask,
};

use crate::sys;

const TETHER_FD: i32 = 3;
const INVOCATION_FD: i32 = 4;
/// Inodes of the namespaces that every kernel starts with.
const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;
const OPEN_FILES_MIN: u64 = 256;
const OPEN_FILES_WANTED: u64 = 1 << 20;
const STACK_WANTED: u64 = 8 << 20;
const STACK_MIN: u64 = 1 << 20;

/// The Launcher, as far as it is watched: a socket that it would close, and its process.
pub struct Launcher {
    pub tether: OwnedFd,
    /// Readable when it is dead.
    pub pidfd: OwnedFd,
}

/// Takes nothing over: descriptors above `last_fd`, environment, umask, directory,
/// signals. Resource limits follow in [`reset_limits`], which can be refused.
pub fn sanitise(last_fd: i32) -> Result<(), String> {
    sys::process::clear_environment();
    sys::process::reset_signals();
    sys::process::stop_timers();
    sys::process::ignore_failing_writes();
    umask(Mode::from_raw_mode(0o077));
    let failed = |errno: Errno| format!("cannot put the process in order: {errno}");
    chdir("/").map_err(failed)?;
    for number in 0..3 {
        if !sys::fd::is_open(number) {
            let null = openat(CWD, "/dev/null", OFlags::RDWR, Mode::empty()).map_err(failed)?;
            // The lowest free number is this very one; it stays open for good.
            std::mem::forget(null);
        }
    }
    sys::fd::close_from(last_fd + 1).map_err(failed)
}

/// The caller's limits are not ours: a file size of 0 would end us at the first write.
/// They are the sandbox's, though (a batch system may keep memory in bounds by them), and
/// returned for it.
pub fn reset_limits() -> Result<Vec<(Resource, Rlimit)>, String> {
    let mut callers = Vec::new();
    // Name, the value wanted (none: no limit at all), and the least that will do.
    for (name, resource, wanted, least) in [
        ("file size", Resource::Fsize, None, None),
        ("CPU time", Resource::Cpu, None, None),
        ("address space", Resource::As, None, None),
        ("data size", Resource::Data, None, None),
        ("open files", Resource::Nofile, Some(OPEN_FILES_WANTED), Some(OPEN_FILES_MIN)),
        ("stack", Resource::Stack, Some(STACK_WANTED), Some(STACK_MIN)),
        ("processes", Resource::Nproc, None, Some(64)),
    ] {
        let old = getrlimit(resource);
        let reaches = |value: Option<u64>, aim: Option<u64>| {
            value.is_none_or(|value| aim.is_some_and(|aim| value >= aim))
        };
        // The stack's limit decides the layout of every program started later: no more than needed.
        if reaches(old.current, if resource == Resource::Stack { least } else { wanted }) {
            continue;
        }
        let too_low = || Err(format!("the limit on {name} is too low here and cannot be raised"));
        // What only root may raise stays a limit inside, and init needs as much as we do; what the
        // caller may raise himself does not hinder it.
        if least.is_some() && !reaches(old.maximum, least) {
            return too_low();
        }
        let soft = old.current.map(|soft| soft.max(least.unwrap_or(0)));
        callers.push((resource, Rlimit { current: soft, ..old }));
        let maximum = old.maximum.zip(wanted).map(|(maximum, wanted)| maximum.max(wanted));
        if setrlimit(resource, Rlimit { current: wanted, maximum }).is_ok() {
            continue;
        }
        let _ = setrlimit(resource, Rlimit { current: old.maximum, maximum: old.maximum });
        if !reaches(old.maximum, least) {
            return too_low();
        }
    }
    // By this one init tells whose a process is; no kernel heeds it. So it is not put back.
    setrlimit(Resource::Locks, Rlimit { current: None, maximum: None })
        .map_err(|_| "the limit on file locks is too low here and cannot be raised")?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|errno| format!("cannot switch core dumps off: {errno}"))?;
    Ok(callers)
}

/// The file must act with root's rights, in the namespace where they are worth something.
pub fn check_rights() -> Result<(), String> {
    let ineffective = |why| Err(format!("setuid is ineffective: {why}"));
    if rustix::thread::no_new_privs() == Ok(true) {
        return ineffective("no_new_privs is set on the caller; start the pilot without it");
    }
    if !geteuid().is_root() {
        return ineffective("this file is not setuid root, or lies on a filesystem mounted nosuid");
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let inode = |name| std::fs::metadata(format!("/proc/self/ns/{name}")).map(|status| status.ino()).ok();
    let whole: Vec<&str> = map.split_whitespace().collect();
    // What a sweep finds is named after pids.
    if inode("pid") != Some(INITIAL_PID_NAMESPACE) {
        return Err("called inside a pid namespace; start the pilot outside of it".to_owned());
    }
    if inode("user") != Some(INITIAL_USER_NAMESPACE) || whole != ["0", "0", "4294967295"] {
        return Err("called inside a user namespace; start the pilot outside of it".to_owned());
    }
    Ok(())
}

/// The directory that this program stands in; it and everything above is root's alone.
pub fn own_directory() -> Result<PathBuf, String> {
    let own = std::fs::read_link("/proc/self/exe").map_err(|error| format!("/proc/self/exe: {error}"))?;
    owned_by_root(&own)?;
    own.parent().map(Path::to_owned).ok_or_else(|| "has no directory".to_owned())
}

/// Whether nobody but root can change the file or put another in its place.
pub fn owned_by_root(path: &Path) -> Result<(), String> {
    for step in path.ancestors() {
        let status =
            std::fs::symlink_metadata(step).map_err(|error| format!("{}: {error}", step.display()))?;
        let mode = status.mode();
        if status.uid() != 0 || mode & 0o022 != 0 || FileType::from_raw_mode(mode) == FileType::Symlink {
            return Err(format!(
                "{} must be root's and not writable by group or others (chown root, chmod go-w)",
                step.display()
            ));
        }
    }
    Ok(())
}

/// The caller's real uid: whose sandbox it will be.
pub fn caller() -> Result<u32, String> {
    // A group id that the file's mode would give is not wanted either.
    if getgid() != getegid() {
        return Err("this file must not be setgid".to_owned());
    }
    let uid = getuid();
    if uid.is_root() {
        return Err("started by root; a pilot is started as the user of its reservation".to_owned());
    }
    Ok(uid.as_raw())
}

/// Only a Launcher starts this program: it made the tether, and it is our parent. The pipe
/// with its invocation is for the agent.
pub fn launcher(uid: u32) -> Result<(Launcher, OwnedFd), String> {
    let refused = || "not started by a pilot's Launcher".to_owned();
    let tether = sys::fd::adopt(TETHER_FD).map_err(|_| refused())?;
    let invocation = sys::fd::adopt(INVOCATION_FD).map_err(|_| refused())?;
    let unix = sockopt::socket_domain(&tether) == Ok(AddressFamily::UNIX);
    let seqpacket = sockopt::socket_type(&tether) == Ok(SocketType::SEQPACKET);
    let pipe =
        fstat(&invocation).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Fifo);
    if !unix || !seqpacket || !pipe {
        return Err(refused());
    }
    let parent: Pid = getppid().ok_or_else(refused)?;
    let pidfd = pidfd_open(parent, PidfdFlags::empty()).map_err(|_| refused())?;
    let peer = sockopt::socket_peercred(&tether).map_err(|_| refused())?;
    if peer.pid != parent || peer.uid.as_raw() != uid || getppid() != Some(parent) {
        return Err(refused());
    }
    rustix::io::ioctl_fionbio(tether.as_fd(), true).map_err(|_| refused())?;
    Ok((Launcher { tether, pidfd }, invocation))
}
