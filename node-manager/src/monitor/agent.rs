//! Starting the unprivileged half: an account of its own, no rights, four descriptors,
//! a fixed environment.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::unistd::User;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{
    Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};

use crate::channel;
use crate::sandbox::drop_for_good;
use crate::sys;
use crate::sys::process::fork;

use super::start::owned_by_root;

/// Stands beside the monitor's own file.
const FILE: &str = "node-agent";
/// The agent's own account where the site made one.
const ACCOUNTS: [&str; 2] = ["gridpilot", "nobody"];

/// The running agent. Dropping it kills it.
pub struct Agent {
    pid: Pid,
    /// Readable when it is dead.
    pub pidfd: OwnedFd,
    /// The monitor's end of its socket; never blocks, so an agent that does not read
    /// cannot hold the monitor up.
    pub socket: OwnedFd,
}

impl Agent {
    /// Forks, drops everything and executes. The invocation goes to the agent unread.
    pub fn start(directory: &Path, invocation: OwnedFd, user: u32) -> Result<Agent, String> {
        let file = directory.join(FILE);
        owned_by_root(&file)?;
        let account = ACCOUNTS
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .filter(|account| !account.uid.is_root() && account.uid.as_raw() != user)
            .ok_or("neither an account `gridpilot` nor `nobody` that is not the user's own")?;
        let failed = |what: &'static str| move |errno| format!("cannot start the agent: {what}: {errno}");
        let program = std::ffi::CString::new(file.into_os_string().into_encoded_bytes())
            .map_err(|_| "cannot start the agent: its path".to_owned())?;
        let (socket, its_end) = channel::pair().map_err(failed("socket pair"))?;
        rustix::io::ioctl_fionbio(&socket, true).map_err(failed("socket pair"))?;
        match fork().map_err(failed("fork"))? {
            Some(pid) => {
                let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed("pidfd"))?;
                Ok(Agent { pid, pidfd, socket })
            }
            None => {
                let run = || -> rustix::io::Result<()> {
                    let null = openat(CWD, "/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
                    let null = std::mem::ManuallyDrop::new(null);
                    let (out, log) = (sys::fd::borrow(1), sys::fd::borrow(2));
                    sys::fd::arrange(&[null.as_fd(), out, log, its_end.as_fd(), invocation.as_fd()])?;
                    sys::process::reset_signals();
                    drop_for_good(account.uid.as_raw(), account.gid.as_raw(), &[])?;
                    set_parent_process_death_signal(Some(Signal::KILL))
                };
                if run().is_ok() {
                    let _ = nix::unistd::execve(&program, &[c"node-agent"], &[c"PATH=/usr/bin:/bin"]);
                }
                sys::process::exit_now(127)
            }
        }
    }

    /// Ends it and waits: nobody else reaps it.
    pub fn end(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::empty());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Also when it has died by itself: then this only reaps.
        self.end();
    }
}
