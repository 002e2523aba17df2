//! Real batch systems for the sites of a local grid: their own daemons in the sites' machines, one
//! directory a site, nothing of the machine's own installation touched. Which site has which is in
//! [`Systems`]; each system is one file with one [`Queue`].

pub mod counted;
pub mod grid_engine;
pub mod slurm;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::netns::{machine_address, site_name};
use crate::process::run;
use crate::site::write_public;
use crate::state::State;
use crate::world::Grid;

/// How long a batch system may take until all its nodes take jobs. It takes one to two seconds,
/// and now and then a controller tries again after ten.
pub const READY_TIME: Duration = Duration::from_secs(20);
/// The limit of a batch job that shall run into it, seconds: enough to set the scene.
pub const LIMIT_S: u32 = 40;
/// How long a system may take to notice that a batch job's time is over.
pub const EXPIRE_TIME: Duration = Duration::from_secs(75);
/// Where the packages put programs.
pub const SEARCHED: [&str; 3] = ["/usr/sbin", "/usr/bin", "/usr/lib/gridengine"];

/// What starts a site's pilots.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// The CRM itself.
    #[default]
    Embedded,
    Slurm,
    GridEngine,
}

impl System {
    /// As in `crm.toml` and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Slurm => "slurm",
            Self::GridEngine => "grid-engine",
        }
    }
}

/// How Slurm knows which processes are a step's.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Proctrack {
    /// By descent: whoever is linked to the step's first process.
    #[default]
    Linuxproc,
    /// By a cgroup of the freezer hierarchy.
    Cgroup,
}

/// The batch system of each site, as `slurm` or `a=slurm,b=grid-engine`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Systems {
    /// Of sites that are not named.
    #[serde(default)]
    pub all: System,
    #[serde(default)]
    pub by_site: BTreeMap<String, System>,
    #[serde(default)]
    pub proctrack: Proctrack,
    /// One pilot a node at a time, so that what is on a node is of one pilot.
    #[serde(default)]
    pub alone: bool,
    /// What the CRMs call is noted; see [`counted`].
    #[serde(default)]
    pub counted: bool,
}

impl Systems {
    /// The same system everywhere.
    pub fn all(system: System) -> Self {
        Self { all: system, ..Self::default() }
    }

    pub fn of(&self, site: u32) -> System {
        self.by_site.get(&site_name(site)).copied().unwrap_or(self.all)
    }

    /// Whether every site that is named is there.
    pub fn check(&self, sites: u32) -> Result<()> {
        let there: Vec<String> = (0..sites).map(site_name).collect();
        for name in self.by_site.keys() {
            ensure!(there.contains(name), "--batch names site {name}, and there are {}", there.join(", "));
        }
        Ok(())
    }

    /// What the sites of a plan need and this machine has not; empty = all is there.
    pub fn missing(&self, sites: u32) -> Vec<String> {
        let of_site = |site| match (self.of(site), queue(self.of(site))) {
            (System::Embedded, _) => None,
            (_, Some(queue)) => queue.missing(self),
            (system, None) => Some(system.name().to_owned()),
        };
        let mut missing: Vec<String> = (0..sites).filter_map(of_site).collect();
        missing.dedup();
        missing
    }
}

impl FromStr for Systems {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let system = |name: &str| {
            let found = System::value_variants().iter().copied().find(|system| system.name() == name);
            found.with_context(|| format!("{name:?} is none of slurm, grid-engine, embedded"))
        };
        if !text.contains('=') {
            return Ok(Self::all(system(text)?));
        }
        let mut systems = Self::default();
        for one in text.split(',') {
            let (site, name) = one.split_once('=').with_context(|| format!("{one:?} is not SITE=SYSTEM"))?;
            if systems.by_site.insert(site.to_owned(), system(name)?).is_some() {
                bail!("site {site} is named twice");
            }
        }
        Ok(systems)
    }
}

impl fmt::Display for Systems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.by_site.is_empty() {
            return f.write_str(self.all.name());
        }
        let each = self.by_site.iter().map(|(site, system)| format!("{site}={}", system.name()));
        f.write_str(&each.collect::<Vec<_>>().join(","))
    }
}

/// A batch job in a queue.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Job {
    pub id: String,
    /// In full, as the CRM gave it.
    pub name: String,
    /// It was started and was not told to end.
    pub running: bool,
}

/// A batch system of a site of a local grid.
///
/// Its daemons are started with [`Grid::start_daemon`], in the foreground and without a service
/// manager, so that each is noted with its identity, carries the grid's mark, and ends with the
/// grid. What a daemon finds at a fixed place is bound over that place in the machine's own mount
/// namespace, which is private and goes with the machine.
pub trait Queue {
    /// What this machine lacks for it, with the package that has it.
    fn missing(&self, systems: &Systems) -> Option<String>;

    /// Writes its files below [`directory`], starts its daemons in the site's machines, and waits
    /// until every node takes jobs, for at most [`READY_TIME`]. Called once, when the machines
    /// stand and the account is there, before the site's CRM is started.
    fn start(&self, grid: &mut Grid, site: u32) -> Result<()>;

    /// Starts one node's daemon again, for tests that ended it.
    fn start_node(&self, grid: &mut Grid, node: &str) -> Result<()>;

    /// The name under which a node's daemon is noted: `slurmd-a1`.
    fn node_daemon(&self, node: &str) -> String;

    /// The `[batch]` table of the site's `crm.toml`.
    fn crm_table(&self, state: &State, site: u32) -> String;

    /// A command of the batch system as root on the site's head: `squeue`, `qstat`, ...
    fn command(&self, state: &State, site: u32, words: &[&str]) -> Result<Command>;

    /// The batch jobs that it still has, in the queue or running or just ending.
    fn jobs(&self, state: &State, site: u32) -> Result<Vec<Job>>;

    /// What its own users type to end one: `scancel`, `qdel`.
    fn cancel(&self, state: &State, site: u32, job: &str) -> Result<()>;

    /// Lets the time of a running batch job be over: the system itself ends it then, in up to
    /// [`EXPIRE_TIME`]. Nothing to do where the limit was set by [`Self::submit_limited`].
    fn expire(&self, _state: &State, _site: u32, _job: &str) -> Result<()> {
        Ok(())
    }

    /// Calls `submit`, which has gridpilot submit a job and says how the name of its batch job begins,
    /// and sees to it that this batch job gets a limit of [`LIMIT_S`], where that must be done before
    /// it is started.
    fn submit_limited(
        &self,
        _state: &State,
        _site: u32,
        submit: &mut dyn FnMut() -> Result<String>,
    ) -> Result<()> {
        submit().map(drop)
    }

    /// The name of the process that it puts above a Launcher: `slurmstepd`, `sge_shepherd`.
    fn supervisor(&self) -> &'static str;

    /// Removes what its daemons leave outside the grid's directory, now that they have ended.
    /// Repeatable.
    fn clean(&self, _state: &State, _site: u32) {}
}

/// The queue of a system; the embedded one needs nothing.
pub fn queue(system: System) -> Option<&'static dyn Queue> {
    match system {
        System::Embedded => None,
        System::Slurm => Some(&slurm::Slurm),
        System::GridEngine => Some(&grid_engine::GridEngine),
    }
}

/// Where a site's batch system has everything of its own.
pub fn directory(state: &State, site: u32) -> PathBuf {
    state.path(&format!("batch/{}", site_name(site)))
}

/// Lets a machine know the site's machines by name, as any site does: whoever asks for one would
/// else wait for a name server that is not there.
pub fn give_names(state: &State, site: u32, machine: &str) -> Result<()> {
    let hosts = directory(state, site).join("hosts");
    let mut text = "127.0.0.1 localhost\n".to_owned();
    for number in 0..=state.plan.nodes {
        text.push_str(&format!("{} {}{number}\n", machine_address(site, number), site_name(site)));
    }
    write_public(&hosts, &text)?;
    let enter = state.machine(machine)?.enter();
    let mut bind = Command::new(&enter[0]);
    run(bind.args(&enter[1..]).args(["mount", "--bind"]).arg(&hosts).arg("/etc/hosts"))?;
    Ok(())
}

/// A program of a package, where one may be.
pub fn find(program: &str) -> Option<PathBuf> {
    SEARCHED.iter().map(|directory| PathBuf::from(directory).join(program)).find(|path| path.exists())
}

/// The first of these programs that is not here, with its package.
pub fn first_missing(programs: &[(&str, &str)]) -> Option<String> {
    let (program, package) = programs.iter().find(|(program, _)| find(program).is_none())?;
    Some(format!("{program} (package {package})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_system_for_all_or_one_for_each_site_is_read_as_it_is_shown() {
        for text in ["slurm", "embedded", "grid-engine", "a=slurm,b=grid-engine"] {
            assert_eq!(text.parse::<Systems>().unwrap().to_string(), text);
        }
        let mixed: Systems = "b=slurm".parse().unwrap();
        assert_eq!((mixed.of(0), mixed.of(1)), (System::Embedded, System::Slurm));
        for wrong in ["", "lsf", "a=lsf", "a", "a=slurm,a=slurm", "a=slurm,"] {
            assert!(wrong.parse::<Systems>().is_err(), "{wrong}");
        }
        assert!(mixed.check(2).is_ok() && mixed.check(1).is_err());
    }
}
