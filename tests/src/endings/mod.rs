//! Every way in which a pilot under a batch system can end, tried for real, with what is left
//! afterwards counted by identity.
//!
//! ```text
//! a job for each ending, each on nodes of its own -> all of them run
//!   -> all are struck, each in its way -> watched until over, or their time is
//!   -> the whole grid is asked what is left -> every node takes a job again
//! ```
//! All endings of a round go on at once: what they wait for is the batch system, not this machine.

pub mod deaths;
pub mod round;
pub mod scene;
pub mod table;

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::batch::{Proctrack, System, Systems};

/// The promise: so long after a pilot was struck nothing of it is left.
pub const GONE_TIME: Duration = Duration::from_secs(10);

/// What the pilots run under.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Bed {
    Embedded,
    SlurmLinuxproc,
    SlurmCgroup,
    GridEngine,
}

impl Bed {
    pub const ALL: [Self; 4] = [Self::Embedded, Self::SlurmLinuxproc, Self::SlurmCgroup, Self::GridEngine];

    pub fn system(self) -> System {
        match self {
            Self::Embedded => System::Embedded,
            Self::SlurmLinuxproc | Self::SlurmCgroup => System::Slurm,
            Self::GridEngine => System::GridEngine,
        }
    }

    /// For the plan of a grid whose pilots are alone on their nodes.
    pub fn systems(self) -> Systems {
        let proctrack = match self {
            Self::SlurmCgroup => Proctrack::Cgroup,
            _ => Proctrack::Linuxproc,
        };
        Systems { proctrack, alone: true, ..Systems::all(self.system()) }
    }

    /// Those endings that there are under it.
    pub fn endings(self) -> Vec<Ending> {
        use {Blow::*, Ending::*, Process::*};
        // The one with a limit of its own first, while nothing else waits in the queue.
        let mut endings = if self == Self::Embedded { Vec::new() } else { vec![TimeOver] };
        endings.push(CancelledByUser);
        for process in [Launcher, Monitor, Agent, Init] {
            endings.extend([One(process, Term), One(process, Kill)]);
        }
        endings.extend([All(Term), All(Kill)]);
        if self != Self::Embedded {
            endings.extend([CancelledInQueue, NodeDaemon]);
            endings.extend([One(Supervisor, Term), One(Supervisor, Kill)]);
        }
        endings
    }
}

impl fmt::Display for Bed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Embedded => "embedded",
            Self::SlurmLinuxproc => "slurm, linuxproc",
            Self::SlurmCgroup => "slurm, cgroup",
            Self::GridEngine => "grid-engine",
        })
    }
}

/// A process of a pilot, or above it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Process {
    /// What the batch system puts above the Launcher: slurmstepd, sge_shepherd.
    Supervisor,
    Launcher,
    Monitor,
    Agent,
    /// The first process of the sandbox.
    Init,
}

/// A signal as a blow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Blow {
    Term,
    Kill,
}

impl Blow {
    pub fn signal(self) -> Signal {
        match self {
            Self::Term => Signal::SIGTERM,
            Self::Kill => Signal::SIGKILL,
        }
    }
}

/// How a running job's pilots are struck.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Ending {
    /// `gridpilot cancel`.
    CancelledByUser,
    /// `scancel`, `qdel`.
    CancelledInQueue,
    /// The batch job's own limit of time.
    TimeOver,
    One(Process, Blow),
    /// Every process of the batch job on its nodes, at once.
    All(Blow),
    /// slurmd, execd: killed, and started again when its jobs are over.
    NodeDaemon,
}

impl Ending {
    /// On how many nodes its job runs.
    pub fn members(self) -> u32 {
        if matches!(self, Self::One(..)) { 1 } else { 2 }
    }

    /// Whether the job must end of it. The others may leave it alone: processes that do not die of
    /// SIGTERM, or a batch system that does not give up a node for its daemon.
    pub fn is_deadly(self, bed: Bed) -> bool {
        match self {
            Self::One(process, Blow::Term) => matches!(process, Process::Launcher | Process::Agent),
            Self::NodeDaemon => bed.system() == System::Slurm,
            _ => true,
        }
    }

    /// How long the batch system may take until it strikes by itself; zero where it is we who do.
    pub fn patience(self, bed: Bed) -> Duration {
        match self {
            Self::TimeOver => crate::batch::EXPIRE_TIME,
            Self::NodeDaemon if self.is_deadly(bed) => {
                Duration::from_secs(3 * u64::from(crate::batch::slurm::NODE_SILENT_S))
            }
            _ => Duration::ZERO,
        }
    }

    /// Whether a text says why a job ended that its user did not end: every deadly blow has words of
    /// its own. Which of several comes first is a race between the node, the agent and the batch
    /// system.
    pub fn is_explained_by(self, bed: Bed, cause: &str) -> bool {
        let words: &[&str] = match self {
            Self::CancelledByUser => &[],
            Self::CancelledInQueue if bed == Bed::GridEngine => &["deleted by qdel"],
            Self::CancelledInQueue => &["cancelled"],
            Self::TimeOver => &["time limit"],
            // To the Launcher a signal is the batch system's wish.
            Self::One(Process::Launcher, Blow::Term) => &["the batch system ended the pilot"],
            Self::One(Process::Launcher, Blow::Kill) => &["Launcher"],
            // So is the end of what stands above it; or the Launcher dies with that.
            Self::One(Process::Supervisor, _) => &["the batch system ended the pilot", "Launcher"],
            Self::One(Process::Monitor, _) => &["NodeManager", "Launcher ended"],
            // Without its agent a pilot ends in order.
            Self::One(Process::Agent, _) => &["the pilot's Launcher is gone"],
            Self::One(Process::Init, _) => &["the sandbox's first process"],
            Self::All(Blow::Term) => &["Launcher", "ended on SIGTERM"],
            // Whoever of them saw another die before it died itself.
            Self::All(Blow::Kill) => {
                &["Launcher", "its agent did not come back", "the batch system ended the pilot"]
            }
            Self::NodeDaemon => &["a node of it failed"],
        };
        !cause.is_empty() && (words.is_empty() || words.iter().any(|word| cause.contains(word)))
    }

    /// Whether the user asked for it: then no failure is shown.
    pub fn is_wanted(self) -> bool {
        self == Self::CancelledByUser
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::CancelledByUser => "gridpilot cancel".to_owned(),
            Self::CancelledInQueue => "scancel, qdel".to_owned(),
            Self::TimeOver => "time limit".to_owned(),
            Self::One(process, blow) => {
                let process = format!("{process:?}").to_lowercase();
                format!("{} {process}", blow.signal())
            }
            Self::All(blow) => format!("{} all of it", blow.signal()),
            Self::NodeDaemon => "SIGKILL node daemon".to_owned(),
        };
        f.pad(&text)
    }
}

/// Nodes that a round of these endings takes.
pub fn nodes_for(endings: &[Ending]) -> u32 {
    endings.iter().map(|ending| ending.members()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_is_struck_by_both_blows_under_every_batch_system() {
        for bed in Bed::ALL {
            let mut endings = bed.endings();
            let count = endings.len();
            assert_eq!(count, if bed == Bed::Embedded { 11 } else { 16 });
            endings.sort();
            endings.dedup();
            assert_eq!(endings.len(), count, "{bed}");
        }
    }

    #[test]
    fn no_deadly_ending_is_explained_by_just_any_text() {
        for bed in Bed::ALL {
            let unasked = bed.endings().into_iter().filter(|one| one.is_deadly(bed) && !one.is_wanted());
            for ending in unasked {
                for cause in ["", "the connection broke", "the pilot is gone", "its window is over"] {
                    assert!(!ending.is_explained_by(bed, cause), "{bed}: {ending}: {cause:?}");
                }
            }
        }
        let monitor = Ending::One(Process::Monitor, Blow::Kill);
        assert!(monitor.is_explained_by(Bed::SlurmCgroup, "the NodeManager's monitor is gone"));
    }
}
