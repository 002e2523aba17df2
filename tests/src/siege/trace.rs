//! One system call of one process, made to fail or to be its last: what `strace -e inject` does,
//! but for the n-th call of exactly one process of a pilot, so that every call is tried once.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Whose call it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Role {
    /// The process that was there when tracing began.
    Monitor,
    /// What it forks: the sandbox's first process.
    Child,
    /// The same as `Monitor` for the tracer: the one that was there.
    Agent,
}

/// What happens at the call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    Kill,
    Error(Errno),
}

/// Where it happens: the n-th call, from 0, of a process since tracing began, or since its birth.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    pub role: Role,
    pub number: usize,
    pub fault: Fault,
}

/// The numbers of the calls that were made, in order.
pub type Calls = BTreeMap<Role, Vec<u64>>;

/// A process under trace, and whether it is between the entry and the exit of a call.
#[derive(Clone, Copy, Debug)]
struct Tracee {
    role: Role,
    inside: bool,
    /// What the call under way shall return.
    pending: Option<Errno>,
}

/// The tracer of one pilot. All of it must be used by one thread.
pub struct Tracer {
    tracees: BTreeMap<i32, Tracee>,
    spot: Option<Spot>,
    pub calls: Calls,
    /// Whether the spot was reached.
    pub hit: bool,
    /// Children of ours that are not traced and ended meanwhile.
    pub ended: BTreeMap<i32, i32>,
}

impl Tracer {
    /// Takes hold of a monitor that waits.
    pub fn seize(monitor: i32, spot: Option<Spot>) -> Result<Tracer> {
        let options =
            Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACECLONE;
        ptrace::seize(Pid::from_raw(monitor), options).context("cannot trace the monitor")?;
        ptrace::interrupt(Pid::from_raw(monitor))?;
        let tracee = Tracee { role: Role::Monitor, inside: false, pending: None };
        let tracees = BTreeMap::from([(monitor, tracee)]);
        let mut tracer =
            Tracer { tracees, spot, calls: Calls::default(), hit: false, ended: BTreeMap::new() };
        // It waits in a call that began before: that one's end is the first stop but one.
        while tracer.go_on_to_next()? != Some(monitor) {}
        Ok(tracer)
    }

    /// Lets everything go on to the next stop of anybody. The pid that stopped and now goes on;
    /// nothing when somebody ended.
    ///
    /// # Errors
    /// Nobody is left.
    pub fn go_on_to_next(&mut self) -> Result<Option<i32>> {
        let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Err(Errno::EINTR) => return Ok(None),
            other => other.context("nobody is left to wait for")?,
        };
        match status {
            WaitStatus::Exited(pid, code) => self.over(pid, code),
            WaitStatus::Signaled(pid, signal, _) => self.over(pid, 128 + signal as i32),
            WaitStatus::PtraceSyscall(pid) => {
                self.at_call(pid)?;
                self.go_on(pid, None);
                return Ok(Some(pid.as_raw()));
            }
            WaitStatus::PtraceEvent(pid, ..) => {
                self.known(pid);
                self.go_on(pid, None);
                return Ok(Some(pid.as_raw()));
            }
            WaitStatus::Stopped(pid, signal) => {
                self.known(pid);
                self.go_on(pid, Some(signal));
                return Ok(Some(pid.as_raw()));
            }
            _ => {}
        }
        Ok(None)
    }

    /// Lets go of everybody. Those who run are stopped for it first.
    pub fn release(mut self) -> BTreeMap<i32, i32> {
        for pid in self.tracees.keys().copied().collect::<Vec<_>>() {
            let pid = Pid::from_raw(pid);
            if ptrace::interrupt(pid).is_err() {
                continue;
            }
            // The next stop of this very one, whatever it is.
            match waitpid(pid, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Stopped(_, signal)) => drop(ptrace::detach(pid, Some(signal))),
                Ok(WaitStatus::Exited(_, code)) => self.over(pid, code),
                Ok(WaitStatus::Signaled(_, signal, _)) => self.over(pid, 128 + signal as i32),
                _ => drop(ptrace::detach(pid, None)),
            }
        }
        self.ended
    }

    fn over(&mut self, pid: Pid, code: i32) {
        if self.tracees.remove(&pid.as_raw()).is_none() {
            self.ended.insert(pid.as_raw(), code);
        }
    }

    fn known(&mut self, pid: Pid) -> &mut Tracee {
        let born = Tracee { role: Role::Child, inside: false, pending: None };
        self.tracees.entry(pid.as_raw()).or_insert(born)
    }

    fn go_on(&self, pid: Pid, signal: Option<Signal>) {
        // One that was killed meanwhile is told of by its end.
        let _ = ptrace::syscall(pid, signal);
    }

    fn at_call(&mut self, pid: Pid) -> Result<()> {
        let spot = self.spot;
        let Ok(mut registers) = ptrace::getregs(pid) else { return Ok(()) };
        let tracee = self.known(pid);
        tracee.inside = !tracee.inside;
        if !tracee.inside {
            if let Some(errno) = tracee.pending.take() {
                set_result(&mut registers, errno);
                let _ = ptrace::setregs(pid, registers);
            }
            return Ok(());
        }
        let role = tracee.role;
        let calls = self.calls.entry(role).or_default();
        calls.push(call_of(&registers));
        let number = calls.len() - 1;
        let Some(spot) = spot.filter(|spot| spot.role == role && spot.number == number) else {
            return Ok(());
        };
        self.hit = true;
        match spot.fault {
            Fault::Kill => drop(kill(pid, Signal::SIGKILL)),
            Fault::Error(errno) => {
                self.known(pid).pending = Some(errno);
                skip_call(&mut registers);
                ptrace::setregs(pid, registers)?;
            }
        }
        Ok(())
    }
}

type Registers = nix::libc::user_regs_struct;

#[cfg(target_arch = "x86_64")]
fn call_of(registers: &Registers) -> u64 {
    registers.orig_rax
}

/// The kernel does nothing for a call of this number.
#[cfg(target_arch = "x86_64")]
fn skip_call(registers: &mut Registers) {
    registers.orig_rax = u64::MAX;
}

#[cfg(target_arch = "x86_64")]
fn set_result(registers: &mut Registers, errno: Errno) {
    registers.rax = (-i64::from(errno as i32)) as u64;
}

#[cfg(not(target_arch = "x86_64"))]
compile_error!("which register holds the number of a call must be said for this machine");

/// Names of system calls, by the C library's header where it is there.
pub fn names() -> BTreeMap<u64, String> {
    let header = ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"];
    let text = header.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
            Some((number.trim().parse().ok()?, name.to_owned()))
        })
        .collect()
}

/// `openat#3`: a call and which of its kind it is, from 1, as `strace` counts.
pub fn label(calls: &[u64], number: usize, names: &BTreeMap<u64, String>) -> Result<String> {
    let Some(call) = calls.get(number) else { bail!("there are {} calls", calls.len()) };
    let nth = calls[..=number].iter().filter(|one| *one == call).count();
    let name = names.get(call).cloned().unwrap_or_else(|| call.to_string());
    Ok(format!("{name}#{nth}"))
}
