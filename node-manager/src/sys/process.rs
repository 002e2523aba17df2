//! Making processes, and putting signals back.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Result;
use rustix::process::Pid;

/// `fork(2)`: the child's pid, or nothing in the child. For processes with one thread; then
/// the child may do anything.
pub fn fork() -> Result<Option<Pid>> {
    // SAFETY: the callers (monitor, init, their children) have a single thread, so no
    // lock can be held by a thread that does not exist in the child.
    match unsafe { libc::fork() } {
        -1 => Err(super::fd::last_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// `clone3(2)` like a fork into new namespaces (`CLONE_NEW*`), optionally straight into
/// a cgroup of the v2 hierarchy; the child comes with its pidfd. For processes with one thread.
pub fn clone_into(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Option<(Pid, OwnedFd)>> {
    let mut pidfd: RawFd = -1;
    // libc's own constant does not fit its type.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let into_cgroup = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    // SAFETY: an all-zero clone_args is valid: no stack, no tid pointers, no tls.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | libc::CLONE_PIDFD as u64 | into_cgroup;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = cgroup.map_or(0, |fd| fd.as_raw_fd() as u64);
    // SAFETY: without CLONE_VM the child has its own copy of everything; the process has
    // one thread (contract above), so the copy is consistent. `args` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(super::fd::last_error()),
        // SAFETY: with CLONE_PIDFD the kernel stored a new descriptor there, in the parent.
        pid => Ok(Pid::from_raw(pid as i32).map(|pid| (pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))),
    }
}

/// Every signal at its default, none blocked: nobody's inheritance.
pub fn reset_signals() {
    const SIGNALS: i32 = 64;
    // The kernel's own `struct sigaction`, larger than on any machine: all zero is
    // SIG_DFL without flags. libc's call refuses the two signals that it uses itself.
    let default = [0u64; 4];
    let none = 0u64;
    // SAFETY: both structures outlive the calls and are only read; the default action
    // installs no code. SIGKILL and SIGSTOP are refused, which is as good.
    unsafe {
        for signal in 1..=SIGNALS {
            let old: *mut u64 = std::ptr::null_mut();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, size_of_val(&none));
        }
        let old: *mut u64 = std::ptr::null_mut();
        let how = libc::SIG_SETMASK;
        libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const none, old, size_of_val(&none));
    }
}

/// Interval timers outlive an exec, and their signals ask for nobody's permission.
pub fn stop_timers() {
    // SAFETY: the new value outlives the calls and is only read; the old one is not wanted.
    unsafe {
        let never: libc::itimerval = std::mem::zeroed();
        for timer in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
            libc::setitimer(timer, &raw const never, std::ptr::null_mut());
        }
    }
}

/// The hard limit of a process of the same user on file locks; `None` when it is gone.
pub fn lock_limit(pid: i32) -> Option<u64> {
    // SAFETY: all zero is a valid rlimit64.
    let mut old: libc::rlimit64 = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is set, and the old limit is written to a value that outlives the call.
    let result = unsafe { libc::prlimit64(pid, libc::RLIMIT_LOCKS, std::ptr::null(), &raw mut old) };
    (result == 0).then_some(old.rlim_max)
}

/// Ends the process at once; nothing is dropped or flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Forgets the whole environment. For the start of a program, before anything reads it.
pub fn clear_environment() {
    // SAFETY: the process has one thread, and nothing has kept a pointer into the
    // environment: this runs before anything else of ours.
    unsafe {
        libc::clearenv();
    }
}

/// An error instead of a signal for a write that nobody takes or that no limit allows.
pub fn ignore_failing_writes() {
    for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
        // SAFETY: SIG_IGN installs no code.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}
