//! The monitor's loop: one `poll`, and whatever ends the pilot leads down the same way.
//!
//! ```text
//! Idle --Build--> Building --outcome ok--> Built
//!   \                |  \--failed-------\    |
//!    \_______________|___________________v___v
//!      TearDown, Launcher, agent,     TornDown --agent exits, or patience ends--> over
//!      lifetime, lease, sandbox's own end
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use grant::{GRANT_LEN, RATES_LEN};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::agent::Agent;
use super::policy::Policy;
use super::start::Launcher;
use super::verify::{self, Expected};
use super::{audit, privilege};
use crate::channel;
use crate::failure::{At, Failure};
use crate::net::link::{HeldLink, INSIDE_NAME};
use crate::operation::{EndReason, Notice, RECORD_BYTES_MAX, Request, Step, Welcome};
use crate::sandbox::{Sandbox, start};

/// A build takes milliseconds; a dead file server must not hold a node for ever.
const BUILD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the agent may go on after the end, to tell the CRM.
const AGENT_PATIENCE: Duration = Duration::from_secs(3);
/// `poll` does not count while the machine sleeps; leases do.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// What it has; drawn above.
#[derive(Clone, Copy, Eq, PartialEq)]
enum State {
    Idle,
    Building,
    Built,
    TornDown,
}

pub struct Monitor {
    launcher: Launcher,
    agent: Agent,
    policy: Policy,
    expected: Expected,
    sandbox: Option<Sandbox>,
    state: State,
    /// When the state ends by itself, on the clock that counts sleep.
    deadline: Option<Duration>,
    lifetime: Duration,
    lease: Duration,
    /// When the lease ends unless the agent says `Heard`, while there is something to end.
    silent_at: Option<Duration>,
    left_over: Option<String>,
    /// Of a sandbox that is gone, until there is time for it.
    held: Option<HeldLink>,
    /// Whatever it said (it is never read), it is the end.
    launcher_spoke: bool,
}

/// What a round of the loop leads to.
enum Turn {
    Stay,
    End(EndReason),
    Over,
}

/// Which descriptors spoke.
#[derive(Clone, Copy)]
struct Ready {
    signal: bool,
    launcher: Option<EndReason>,
    agent_dead: bool,
    request: bool,
    sandbox: bool,
}

impl Monitor {
    pub fn new(launcher: Launcher, agent: Agent, policy: Policy, expected: Expected) -> Monitor {
        Monitor {
            launcher,
            agent,
            policy,
            expected,
            sandbox: None,
            state: State::Idle,
            deadline: None,
            lifetime: Duration::ZERO,
            lease: Duration::ZERO,
            silent_at: None,
            left_over: None,
            held: None,
            launcher_spoke: false,
        }
    }

    /// Serves to the end. Returns what could not be removed, by name.
    pub fn run(mut self) -> Result<Option<String>, String> {
        let failed = |error: &dyn std::fmt::Display| format!("cannot watch: {error}");
        let mask: SigSet =
            [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2]
                .into_iter()
                .collect();
        mask.thread_block().map_err(|error| failed(&error))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|error| failed(&error))?;
        let welcome = Welcome {
            nonce: self.expected.nonce,
            crm_pin: self.policy.crm_pin,
            uid: self.expected.uid,
            node_name: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
        };
        // An agent that is dead already is seen by its pidfd.
        let _ = self.tell(&Notice::Welcome(welcome), &[]);
        loop {
            let ready = self.wait(signals.as_fd()).map_err(|error| {
                self.tear_down("it cannot watch any more");
                failed(&error)
            })?;
            if ready.signal {
                while let Ok(Some(_)) = signals.read_signal() {}
            }
            let turn = self.turn(ready);
            if let Turn::End(reason) = turn {
                self.end(reason);
            }
            // After the answer: the next sandbox waits for a MAC that is not free yet.
            if let Some(link) = self.held.take() {
                let _ = privilege::raised(|| link.free_mac());
            }
            if matches!(turn, Turn::Over) {
                break;
            }
        }
        let left_over = self.left_over.take();
        self.agent.end();
        // Unread datagrams may hold descriptors: the exit closes those without waiting.
        std::mem::forget(self);
        Ok(left_over)
    }

    fn wait<'a>(&'a self, signals: BorrowedFd<'a>) -> Result<Ready, Errno> {
        // The place of what is not there, or has spoken for good, is kept by what is looked
        // at first.
        let launcher = |fd: &'a OwnedFd| if self.launcher_spoke { signals } else { fd.as_fd() };
        let sandbox = match (&self.sandbox, self.state) {
            (None, _) => signals,
            (Some(sandbox), State::Building) => sandbox.lifeline(),
            (Some(sandbox), _) => sandbox.pidfd(),
        };
        let (tether, process) = (launcher(&self.launcher.tether), launcher(&self.launcher.pidfd));
        let mut fds =
            [signals, tether, process, self.agent.pidfd.as_fd(), self.agent.socket.as_fd(), sandbox]
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let due = self.deadline.into_iter().chain(self.silent_at).min();
        let left = due.map_or(LOOK_AGAIN, |due| due.saturating_sub(boot_time()));
        let left = Timespec::try_from(left.min(LOOK_AGAIN)).unwrap_or_default();
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let said = fds.map(|fd| fd.revents());
        let [signal, tether, process, agent_dead, request, sandbox] = said.map(|events| !events.is_empty());
        let gone = process || said[1].contains(PollFlags::HUP);
        let asked = tether.then_some(EndReason::LauncherAsked);
        let launcher = if gone { Some(EndReason::LauncherGone) } else { asked };
        Ok(Ready { signal, launcher, agent_dead, request, sandbox })
    }

    /// The order decides what is told as the reason when several things happen at once.
    fn turn(&mut self, ready: Ready) -> Turn {
        if ready.signal {
            return Turn::End(EndReason::LauncherAsked);
        }
        if let Some(reason) = ready.launcher {
            self.launcher_spoke = true;
            return Turn::End(reason);
        }
        if ready.agent_dead {
            self.end(EndReason::AgentGone);
            return Turn::Over;
        }
        if ready.sandbox {
            return self.sandbox_spoke();
        }
        if self.deadline.is_some_and(|deadline| boot_time() >= deadline) {
            return match self.state {
                State::Building => self.built(Err(Failure {
                    step: Step::Serve,
                    errno: libc::ETIMEDOUT,
                    detail: format!("not done within {} s", BUILD_TIMEOUT.as_secs()),
                })),
                State::TornDown => Turn::Over,
                State::Idle | State::Built => Turn::End(EndReason::LifetimeOver),
            };
        }
        // Last, so that an agent that never stops asking holds up nothing but the lease, which is
        // for silence.
        if ready.request {
            return self.request();
        }
        match self.silent_at {
            Some(at) if boot_time() >= at => Turn::End(EndReason::LeaseOver),
            _ => Turn::Stay,
        }
    }

    fn request(&mut self) -> Turn {
        if channel::is_plain(&self.agent.socket) == Ok(false) {
            return self.broke();
        }
        let datagram = match channel::receive(&self.agent.socket, RECORD_BYTES_MAX) {
            Ok(Some(datagram)) => datagram,
            Err(Errno::AGAIN) => return Turn::Stay,
            // It closed its end: it is dying, or as good as dead.
            Ok(None) => {
                self.end(EndReason::AgentGone);
                return Turn::Over;
            }
            Err(_) => return self.broke(),
        };
        match (Request::decode(&datagram.bytes), self.state) {
            (Ok(Request::Build { grant, signature }), State::Idle) => {
                let outcome = self.begin(&grant, &signature);
                match outcome {
                    Ok(()) => Turn::Stay,
                    Err(failure) => self.built(Err(failure)),
                }
            }
            (Ok(Request::Shape { rates, signature }), State::Built) => match self.shape(&rates, &signature) {
                Ok(counters) => self.tell(&Notice::Shaped, &[counters.as_fd()]),
                Err(failure) => self.tell(&failure.notice(), &[]),
            },
            (Ok(Request::TearDown), _) => {
                self.tear_down("asked by the CRM");
                let answer = match &self.left_over {
                    None => Notice::Gone,
                    Some(what) => Notice::Dirty { what: what.clone() },
                };
                self.tell(&answer, &[])
            }
            (Ok(Request::Heard), _) => {
                self.silent_at = self.silent_at.map(|_| boot_time() + self.lease);
                Turn::Stay
            }
            (Ok(Request::Build { .. } | Request::Shape { .. }) | Err(_), _) => self.broke(),
        }
    }

    /// An agent that breaks the rules gets no second chance.
    fn broke(&mut self) -> Turn {
        self.end(EndReason::AgentBroke);
        Turn::Over
    }

    fn begin(&mut self, record: &[u8; GRANT_LEN], signature: &[u8; 64]) -> Result<(), Failure> {
        let grant = verify::verify(record, signature, &self.policy, &self.expected)?;
        let plan = verify::plan(&grant, &self.policy, &self.expected)?;
        self.lifetime = Duration::from_secs(grant.lifetime_s.into());
        self.lease = Duration::from_secs(grant.lease_s.into());
        audit::line(
            self.expected.uid,
            format_args!("build {} address {} as {}", plan.tag, grant.address, grant.user),
        );
        self.sandbox = Some(privilege::raised(|| start(&plan)).at(Step::CreateProcess, "capabilities")??);
        self.state = State::Building;
        self.deadline = Some(boot_time() + BUILD_TIMEOUT);
        // The CRM signed this a moment ago.
        self.silent_at = Some(boot_time() + self.lease);
        Ok(())
    }

    fn shape(&mut self, record: &[u8; RATES_LEN], signature: &[u8; 64]) -> Result<OwnedFd, Failure> {
        // Anybody's agent can have this said as often as it likes.
        let refused =
            |failure: &_| audit::line_to_system_log(self.expected.uid, format_args!("refused: {failure}"));
        let rates =
            verify::newer_rates(record, signature, &self.policy, &self.expected).inspect_err(refused)?;
        let sandbox = self.sandbox.as_mut().ok_or(Errno::NODEV).at(Step::Shape, "")?;
        let shaped = privilege::raised(|| sandbox.shape(&rates)).and_then(|shaped| shaped);
        let counters = shaped.at(Step::Shape, INSIDE_NAME)?;
        self.expected.serial = rates.serial;
        self.deadline = Some(boot_time() + Duration::from_secs(rates.lifetime_s.into()));
        Ok(counters)
    }

    fn sandbox_spoke(&mut self) -> Turn {
        match (self.state, self.sandbox.as_mut()) {
            (State::Building, Some(sandbox)) => {
                let outcome = sandbox.outcome();
                self.built(outcome)
            }
            _ => Turn::End(EndReason::SandboxDied),
        }
    }

    fn built(&mut self, outcome: Result<OwnedFd, Failure>) -> Turn {
        match outcome {
            Ok(agent_end) => {
                self.state = State::Built;
                self.deadline = Some(boot_time() + self.lifetime);
                self.tell(&Notice::Built, &[agent_end.as_fd()])
            }
            Err(failure) => {
                self.tear_down("not built");
                audit::line(self.expected.uid, format_args!("refused: {failure}"));
                self.tell(&failure.notice(), &[])
            }
        }
    }

    /// The one way down. Afterwards the agent has a moment to report.
    fn end(&mut self, reason: EndReason) {
        if self.state == State::TornDown {
            return;
        }
        self.tear_down(reason.sentence());
        let _ = self.tell(&Notice::Ended { reason }, &[]);
    }

    fn tear_down(&mut self, why: &str) {
        if let Some(sandbox) = self.sandbox.take() {
            let (outcome, held) = privilege::raised(|| sandbox.tear_down())
                .unwrap_or_else(|errno| (Err(format!("capabilities: {errno}")), None));
            (self.left_over, self.held) = (outcome.err(), held);
            let left = self.left_over.as_deref().unwrap_or("nothing");
            audit::line(self.expected.uid, format_args!("torn down: {why}; left: {left}"));
        }
        self.silent_at = None;
        if self.state != State::TornDown {
            self.state = State::TornDown;
            self.deadline = Some(boot_time() + AGENT_PATIENCE);
        }
    }

    /// An agent that does not read what it is told is a broken one.
    fn tell(&mut self, notice: &Notice, descriptors: &[BorrowedFd<'_>]) -> Turn {
        match channel::send(&self.agent.socket, &notice.encode(), descriptors) {
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Turn::Stay,
            Err(errno) => {
                self.tear_down(EndReason::AgentBroke.sentence());
                super::complain(format_args!("the agent takes nothing any more: {errno}"));
                Turn::Over
            }
        }
    }
}

/// Time since boot, sleep included: leases do not stop because a machine does.
fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
