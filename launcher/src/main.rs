//! The Launcher: what a batch system runs on a node, as the job's user. It starts the setuid
//! NodeManager on a tether, passes the invocation on unread, and does not end before the
//! NodeManager is down, because batch systems kill or lose what is left once it does.
#![forbid(unsafe_code)]

mod batch_env;
mod exit_code;
mod guardian;
mod invocation;
mod tether;

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use exit_code::Ending;
use guardian::Guardian;
use tether::{Exit, Tether};

/// How long the NodeManager may take to come down once asked, before that is said.
const END_TIME: Duration = Duration::from_secs(10);
/// How long a sweep may take.
const SWEEP_TIME: Duration = Duration::from_secs(10);
/// Between looks at a NodeManager that let go of its tether but has not been reaped.
const REAP_INTERVAL: Duration = Duration::from_millis(20);
/// All mean the same, whichever a batch system sends: Slurm TERM or the user's choice, Grid
/// Engine USR2 or USR1, a terminal INT or HUP.
const END_SIGNALS: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGINT, Signal::SIGHUP];

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments == ["--version"] {
        let _ = writeln!(std::io::stdout(), "launcher {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let ending = match arguments.as_mut_slice() {
        [option, source] if *option == "--invocation" => run(source),
        [] => Ending::Usage("no invocation is named".into()),
        _ => Ending::Usage("these arguments are not known".into()),
    };
    say(ending.to_string());
    ExitCode::from(ending.code())
}

/// One line for people, where it can be said: a batch system's file may have no room, or nobody at
/// its other end, and that must not end a pilot.
fn say(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "gridpilot launcher: {line}");
}

fn run(source: &OsString) -> Ending {
    // Before anything else: from here on a signal is an event and cannot end us half way.
    let signals = match block_signals() {
        Ok(signals) => signals,
        Err(error) => return Ending::Start { cause: format!("no signal descriptor: {error}") },
    };
    let invocation = match invocation::read(source) {
        Ok(invocation) => invocation,
        Err(error) => return Ending::Invocation(error),
    };
    if let Some(origin) = batch_env::origin(|name| std::env::var(name).ok()) {
        say(format_args!("started by {origin}"));
    }
    let node_manager = match sibling("node-manager") {
        Ok(path) => path,
        Err(error) => return Ending::Start { cause: format!("own path unknown: {error}") },
    };
    // Before there is anything that it must end.
    let guardian = Guardian::find();
    let tether = match Tether::start(&node_manager, &invocation) {
        Ok(tether) => tether,
        Err(error) => return Ending::Start { cause: format!("{}: {error}", node_manager.display()) },
    };
    match watch(&tether, &signals, guardian.as_ref()) {
        Ending::NodeManagerKilled { signal, .. } => {
            let swept = tether::sweep(&node_manager, SWEEP_TIME);
            Ending::NodeManagerKilled { signal, swept }
        }
        ending => ending,
    }
}

/// Programs of one installation stand beside each other; a path from outside is never used.
fn sibling(name: &str) -> std::io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

fn block_signals() -> std::io::Result<SignalFd> {
    let mut mask: SigSet = END_SIGNALS.into_iter().collect();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    // Whoever started us may have had it ignored, and the kernel would then not keep how a child
    // ended. It is blocked, so this never runs.
    signal_hook::flag::register(Signal::SIGCHLD as i32, Arc::default())?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Waits until the NodeManager is down; a signal asks it to come down, and so does the death of the
/// batch system's process above us.
fn watch(tether: &Tether, signals: &SignalFd, guardian: Option<&Guardian>) -> Ending {
    let mut asked: Option<(&'static str, Instant)> = None;
    let mut tethered = true;
    let mut complained = false;
    loop {
        if let Some(exit) = tether.ended() {
            return match (exit, asked) {
                (Exit::Signal(signal), _) => Ending::NodeManagerKilled { signal, swept: false },
                (Exit::Code(code), _) if code != 0 => Ending::NodeManagerFailed { code },
                (_, Some((signal, _))) => Ending::Asked { signal },
                (_, None) => Ending::Finished,
            };
        }
        let left = asked.map(|(_, since)| END_TIME.saturating_sub(since.elapsed())).filter(|_| !complained);
        if left == Some(Duration::ZERO) {
            // Whoever ended now would have the batch system kill or lose the rest.
            complained = true;
            let seconds = END_TIME.as_secs();
            say(format_args!("the NodeManager is not down after {seconds} s; still waiting"));
            continue;
        }
        // A closed tether stays readable, so it is watched once; SIGCHLD may have been lost.
        let reap = (!tethered).then_some(REAP_INTERVAL);
        let guardian = guardian.filter(|_| asked.is_none());
        let news = wait(signals, tethered.then_some(tether), guardian, left.into_iter().chain(reap).min());
        tethered &= !news.tether_closed;
        if let Some(guardian) = guardian.filter(|_| news.guardian_died) {
            asked = Some(end(tether, guardian.death, ""));
        }
        while let Ok(Some(information)) = signals.read_signal() {
            let signal = END_SIGNALS.into_iter().find(|known| *known as u32 == information.ssi_signo);
            if let (Some(signal), None) = (signal, asked) {
                asked = Some(end(tether, signal.as_str(), " received"));
            }
        }
    }
}

/// Asks for the end, and then says so: to be heard may take any time.
fn end(tether: &Tether, cause: &'static str, happened: &str) -> (&'static str, Instant) {
    tether.ask_to_end();
    let asked = (cause, Instant::now());
    say(format_args!("{cause}{happened}, ending the NodeManager"));
    asked
}

/// What happened besides signals.
#[derive(Default)]
struct News {
    tether_closed: bool,
    guardian_died: bool,
}

/// Sleeps until anything happened or the time is over.
fn wait(
    signals: &SignalFd,
    tether: Option<&Tether>,
    guardian: Option<&Guardian>,
    time: Option<Duration>,
) -> News {
    let timeout = match time {
        // Rounded up: a wait that ends a moment too early would only be repeated.
        Some(time) => PollTimeout::try_from(time.as_millis() + 1).unwrap_or(PollTimeout::MAX),
        None => PollTimeout::NONE,
    };
    let own = || PollFd::new(signals.as_fd(), PollFlags::POLLIN);
    // Whoever is not there is never asked for: the place is taken by what is asked for anyway.
    let mut watched = [
        own(),
        tether.map_or_else(own, |tether| PollFd::new(tether.as_fd(), PollFlags::POLLIN)),
        guardian.map_or_else(own, |guardian| PollFd::new(guardian.as_fd(), PollFlags::POLLIN)),
    ];
    if poll(&mut watched, timeout).is_err() {
        return News::default();
    }
    let happened = |place: usize| watched[place].any().unwrap_or(false);
    News { tether_closed: tether.is_some() && happened(1), guardian_died: guardian.is_some() && happened(2) }
}
