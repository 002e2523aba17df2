//! What processes that are there use, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::kib_of;
use crate::process::{Identity, stat};

/// Of one program's processes, or what they used between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// In user and kernel mode, all threads, not the children.
    pub cpu: Duration,
    /// How often one of their threads went to sleep: as often it was woken.
    pub wakeups: u64,
}

impl Usage {
    /// Until now. The processor time is utime and stime of `/proc/<pid>/stat`, read from the
    /// processes' clocks: those count nanoseconds, the file shows hundredths of a second.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn of(processes: &[Identity]) -> Result<Self> {
        let mut sum = Self::default();
        for process in processes {
            let used = Self::of_one(process.pid).with_context(|| format!("pid {} is gone", process.pid))?;
            sum.cpu += used.cpu;
            sum.wakeups += used.wakeups;
        }
        Ok(sum)
    }

    fn of_one(pid: i32) -> Result<Self> {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid))?;
        let mut wakeups = 0;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = thread?.path().join("status");
            wakeups += kib_of(&status.display().to_string(), "voluntary_ctxt_switches").unwrap_or(0);
        }
        Ok(Self { cpu: clock_gettime(clock)?.into(), wakeups })
    }

    /// What was used since `before`. A thread that has ended takes its wakeups with it.
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            wakeups: self.wakeups.saturating_sub(before.wakeups),
        }
    }
}

/// Processor time of the children that a process has waited for, and of theirs: cutime and cstime
/// of `/proc/<pid>/stat`, in steps of 10 ms.
pub fn of_children(process: Identity) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{}/stat", process.pid))?;
    let fields = text.rsplit_once(')').context("no name in stat")?.1;
    let ticks = fields.split_whitespace().skip(13).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Proportional share of memory of these processes, KiB: what several share is divided among them.
pub fn pss_kib(processes: &[Identity]) -> Result<u64> {
    let of = |process: &Identity| {
        let file = format!("/proc/{}/smaps_rollup", process.pid);
        kib_of(&file, "Pss").with_context(|| format!("no Pss in {file}"))
    };
    processes.iter().map(of).sum()
}

/// Which of a pilot's programs a process is: `launcher`, `monitor`, `agent` or `init`.
pub fn part_of_pilot(process: Identity) -> Option<&'static str> {
    let program = |pid: i32| Some(fs::read_link(format!("/proc/{pid}/exe")).ok()?.file_name()?.to_owned());
    let name = program(process.pid)?;
    match name.to_str()? {
        "launcher" => Some("launcher"),
        "node-agent" => Some("agent"),
        // The monitor's child goes on in the same file, in its sandbox.
        "node-manager" => match program(stat(process.pid)?.parent)? == "node-manager" {
            true => Some("init"),
            false => Some("monitor"),
        },
        _ => None,
    }
}
