//! The privileged half: one thread, no runtime, not a byte from a network. It starts
//! the agent, builds the one sandbox that the site signed for, and owns its end.

mod agent;
mod audit;
pub mod policy;
mod privilege;
mod start;
mod sweep;
mod verify;
mod watch;

use std::io::Write;

use rustix::rand::{GetRandomFlags, getrandom};

use agent::Agent;
use policy::Policy;
use verify::Expected;
use watch::Monitor;

/// Exit code: over, and nothing is left.
pub const EXIT_CLEAN: u8 = 0;
/// Exit code: refused or unable to start; one line on standard error says why.
pub const EXIT_REFUSED: u8 = 1;
/// Exit code: no such option.
pub const EXIT_USAGE: u8 = 2;
/// Exit code: over, but something could not be removed; the line names it.
pub const EXIT_DIRTY: u8 = 3;

/// The pilot: from the Launcher's exec to the end of the sandbox.
pub fn run() -> u8 {
    match serve() {
        Ok(None) => EXIT_CLEAN,
        Ok(Some(left)) => {
            complain(format_args!("left behind: {left}; the next start on this node sweeps it"));
            EXIT_DIRTY
        }
        Err(reason) => refuse(&reason),
    }
}

/// There are no options, whatever somebody hopes for.
pub fn misused() -> u8 {
    refuse("usage: node-manager [sweep | --version]");
    EXIT_USAGE
}

/// Removes what monitors that were killed have left, and names it; what stays makes the node dirty.
pub fn sweep() -> u8 {
    let swept = start::sanitise(2).and_then(|()| start::check_rights()).and_then(|()| {
        start::own_directory()?;
        start::reset_limits()?;
        privilege::settle().map_err(unsettled)?;
        privilege::raised(sweep::sweep).map_err(unsettled)
    });
    match swept {
        Ok(swept) => {
            for name in swept.removed {
                let _ = writeln!(std::io::stdout(), "removed {name}");
            }
            if swept.left.is_empty() {
                return EXIT_CLEAN;
            }
            complain(format_args!("cannot be removed: {}", swept.left.join(", ")));
            EXIT_DIRTY
        }
        Err(reason) => refuse(&reason),
    }
}

fn serve() -> Result<Option<String>, String> {
    start::sanitise(4)?;
    start::check_rights()?;
    let directory = start::own_directory()?;
    let uid = start::caller()?;
    let (launcher, invocation) = start::launcher(uid)?;
    let limits = start::reset_limits()?;
    let policy = Policy::read()?;
    if uid < policy.uid_min {
        return Err(format!("uid {uid} is below the node policy's uid_min {}", policy.uid_min));
    }
    // Out of the reach of the caller's terminal, whose driver stops whom it likes.
    rustix::process::setsid()
        .map_err(|_| "started as the leader of a process group; a Launcher does not do that")?;
    privilege::settle().map_err(unsettled)?;
    let swept = privilege::raised(sweep::sweep).map_err(unsettled)?;
    for name in swept.removed.iter().chain(&swept.left) {
        audit::line(uid, format_args!("swept at the start: {name}"));
    }
    let mut nonce = [0; 16];
    getrandom(&mut nonce, GetRandomFlags::empty()).map_err(|errno| format!("no randomness: {errno}"))?;
    let agent = privilege::raised(|| Agent::start(&directory, invocation, uid)).map_err(unsettled)??;
    Monitor::new(launcher, agent, policy, Expected { nonce, uid, limits, serial: 0 }).run()
}

fn unsettled(errno: rustix::io::Errno) -> String {
    format!("cannot settle privileges: {errno}")
}

fn refuse(reason: &str) -> u8 {
    let uid = rustix::process::getuid().as_raw();
    audit::line_to_system_log(uid, format_args!("refused to start: {reason}"));
    complain(reason);
    EXIT_REFUSED
}

/// To the caller, only when nothing is up: he may not read, or not be there.
fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "node-manager: {text}");
}
