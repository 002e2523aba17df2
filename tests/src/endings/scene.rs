//! One job of a round: submitted, found on its nodes, struck.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Bed, Ending, Process};
use crate::batch::{self, Queue};
use crate::netns::site_name;
use crate::process::{self, Identity, Stat, run, wait_until};
use crate::residue::{Ground, machine_ground};
use crate::world::Grid;

/// The site at which all of it happens.
pub const SITE: u32 = 0;
/// How long a job may take until its command runs.
const RUN_TIME: Duration = Duration::from_secs(90);
/// What runs: a process that stays, and one that left its session.
const SCRIPT: &str = "echo up; setsid sleep 4321 & sleep 4322";

/// All processes of the machine at one moment, with the machine of the grid each lives in.
#[derive(Debug)]
pub struct Snapshot {
    stats: BTreeMap<Identity, Stat>,
    on_node: BTreeMap<String, BTreeSet<Identity>>,
}

impl Snapshot {
    /// What is on the nodes and is neither a daemon nor a machine's own, with all descendants:
    /// sandboxes have a host name of their own.
    pub fn take(grid: &Grid) -> Self {
        let host_name = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/uts")).ok();
        let nodes: BTreeMap<PathBuf, &str> = (grid.state.nodes())
            .filter_map(|node| Some((host_name(node.holder.pid)?, node.name.as_str())))
            .collect();
        let mut known: Vec<Identity> = grid.state.daemons.iter().map(|daemon| daemon.identity).collect();
        known.extend(grid.state.machines.iter().map(|machine| machine.holder));
        let alive: Vec<Stat> = process::all().into_iter().filter(|stat| !stat.zombie).collect();
        let mut children: BTreeMap<i32, Vec<Identity>> = BTreeMap::new();
        for stat in &alive {
            children.entry(stat.parent).or_default().push(stat.identity);
        }
        let mut on_node: BTreeMap<String, BTreeSet<Identity>> = BTreeMap::new();
        for stat in alive.iter().filter(|stat| !known.contains(&stat.identity)) {
            let Some(node) = host_name(stat.identity.pid).and_then(|uts| nodes.get(&uts).copied()) else {
                continue;
            };
            let found = on_node.entry(node.to_owned()).or_default();
            let mut open = vec![stat.identity];
            while let Some(next) = open.pop() {
                if found.insert(next) {
                    open.extend(children.get(&next.pid).into_iter().flatten());
                }
            }
        }
        Self { stats: alive.into_iter().map(|stat| (stat.identity, stat)).collect(), on_node }
    }

    pub(super) fn on(&self, node: &str) -> BTreeSet<Identity> {
        self.on_node.get(node).cloned().unwrap_or_default()
    }

    fn alive(&self, identity: Identity) -> bool {
        self.stats.contains_key(&identity)
    }
}

/// A job that runs, and what it is made of.
#[derive(Debug)]
pub struct Scene {
    pub ending: Ending,
    pub job: String,
    pub reservation: String,
    /// In the order of its members.
    pub nodes: Vec<String>,
    /// What the batch system calls it; none without one.
    pub batch_job: Option<String>,
    processes: BTreeSet<Identity>,
    victims: BTreeMap<Process, Identity>,
    before: BTreeMap<String, Ground>,
}

impl Scene {
    /// Submits a job for an ending.
    pub fn submit(grid: &Grid, queue: Option<&dyn Queue>, ending: Ending) -> Result<Self> {
        let nodes = format!("{}={}", site_name(SITE), ending.members());
        let words = ["submit", "--time", "20m", "--nodes", &nodes, "--", "sh", "-c", SCRIPT];
        let mut made = Value::Null;
        let mut submit = || {
            made = ask(grid, &words)?;
            made["reservation"].as_str().map(tag).context("submit says no reservation")
        };
        match (ending, queue) {
            (Ending::TimeOver, Some(queue)) => queue.submit_limited(&grid.state, SITE, &mut submit)?,
            _ => submit().map(drop)?,
        }
        let id = |key: &str| made[key].as_str().map(String::from).context("submit says no id");
        Ok(Self {
            ending,
            job: id("job")?,
            reservation: id("reservation")?,
            nodes: Vec::new(),
            batch_job: None,
            processes: BTreeSet::new(),
            victims: BTreeMap::new(),
            before: BTreeMap::new(),
        })
    }

    /// Waits until its command runs, and finds out where.
    pub fn wait_until_it_runs(&mut self, grid: &Grid, before: &BTreeMap<String, Ground>) -> Result<()> {
        let mut said = String::new();
        let runs = wait_until(RUN_TIME, || {
            let log = grid.gridpilot_as_user().and_then(|mut command| run(command.args(["log", &self.job])));
            said = log.unwrap_or_else(|error| format!("{error:#}"));
            said.contains("up")
        });
        let explained = || grid.gridpilot_as_user().and_then(|mut c| run(c.args(["explain", &self.job])));
        ensure!(runs, "{} for {}: {}", self.job, self.ending, explained().unwrap_or(said.clone()));
        let view = ask(grid, &["show", &self.reservation])?;
        let members = view["parts"][0]["members"].as_array().cloned().unwrap_or_default();
        self.nodes = members.iter().filter_map(|member| Some(member["node"].as_str()?.to_owned())).collect();
        ensure!(self.nodes.len() == self.ending.members() as usize, "{} runs on {:?}", self.job, self.nodes);
        self.before = self.nodes.iter().filter_map(|node| before.get_key_value(node)).map(own).collect();
        Ok(())
    }

    /// Notes what it is made of, now that it runs.
    pub fn observe(&mut self, snapshot: &Snapshot, queue: Option<&dyn Queue>) -> Result<()> {
        for node in &self.nodes {
            self.processes.extend(snapshot.on(node));
        }
        let first = snapshot.on(&self.nodes[0]);
        let named = |name: &str| {
            let has = |one: &&Identity| {
                let path = std::fs::read_link(format!("/proc/{}/exe", one.pid)).ok();
                path.is_some_and(|path| path.file_name().is_some_and(|file| file == name))
            };
            first.iter().filter(has).copied().collect::<Vec<_>>()
        };
        let child_of = |parent: Identity| move |one: &Identity| parent_of(*one) == Some(parent.pid);
        let lone = |found: Option<Identity>, what: &str| {
            found.with_context(|| format!("no {what} of {} is on {}", self.job, self.nodes[0]))
        };
        let launcher = lone(named("launcher").into_iter().next(), "launcher")?;
        let managers = named("node-manager");
        let monitor = lone(managers.iter().copied().find(child_of(launcher)), "monitor")?;
        let init = lone(managers.iter().copied().find(child_of(monitor)), "first process of the sandbox")?;
        let agent = lone(named("node-agent").into_iter().next(), "agent")?;
        self.victims = BTreeMap::from([
            (Process::Launcher, launcher),
            (Process::Monitor, monitor),
            (Process::Agent, agent),
            (Process::Init, init),
        ]);
        if let Some(queue) = queue {
            let mut above = parent_of(launcher).and_then(process::stat);
            while let Some(stat) = above.as_ref().filter(|stat| stat.name != queue.supervisor()) {
                above = process::stat(stat.parent);
            }
            let supervisor = lone(above.map(|stat| stat.identity), queue.supervisor())?;
            self.victims.insert(Process::Supervisor, supervisor);
        }
        Ok(())
    }

    /// Strikes. The node daemons that died of it must be started again by the caller.
    pub fn strike(&self, grid: &Grid, bed: Bed) -> Result<()> {
        let queue = batch::queue(bed.system());
        let of_queue = || Some((queue?, self.batch_job.as_deref()?));
        match self.ending {
            Ending::CancelledByUser => run(grid.gridpilot_as_user()?.args(["cancel", &self.job])).map(drop),
            Ending::CancelledInQueue => {
                let (queue, job) = of_queue().context("it has no batch job")?;
                queue.cancel(&grid.state, SITE, job)
            }
            Ending::TimeOver => {
                let (queue, job) = of_queue().context("it has no batch job")?;
                queue.expire(&grid.state, SITE, job)
            }
            Ending::One(process, blow) => {
                let victim = self.victims.get(&process).context("no such process")?;
                ensure!(victim.signal(blow.signal()), "{process:?} of {} is gone already", self.job);
                Ok(())
            }
            Ending::All(blow) => {
                for process in &self.processes {
                    process.signal(blow.signal());
                }
                Ok(())
            }
            Ending::NodeDaemon => {
                let (queue, _) = of_queue().context("it has no batch job")?;
                for node in &self.nodes {
                    let daemon = grid.state.daemon(&queue.node_daemon(node))?;
                    daemon.identity.signal(nix::sys::signal::Signal::SIGKILL);
                }
                Ok(())
            }
        }
    }

    /// What is left of it, one line each: its processes and whatever else is on its nodes now. The
    /// rest is looked at only when no process is left.
    pub fn left(&self, grid: &Grid, snapshot: &Snapshot) -> Result<Vec<String>> {
        let mut alive: BTreeSet<Identity> =
            self.processes.iter().copied().filter(|one| snapshot.alive(*one)).collect();
        for node in &self.nodes {
            alive.extend(snapshot.on(node));
        }
        if !alive.is_empty() {
            return Ok(alive.iter().map(|one| one.describe()).collect());
        }
        let mut left = Vec::new();
        for (node, before) in &self.before {
            left.extend(machine_ground(grid.state.machine(node)?)?.beyond(before));
        }
        Ok(left)
    }
}

/// How the name of a reservation's batch job begins.
pub fn tag(reservation: &str) -> String {
    format!("gridpilot-{}-{reservation}.", site_name(SITE))
}

fn own((node, ground): (&String, &Ground)) -> (String, Ground) {
    (node.clone(), ground.clone())
}

fn parent_of(identity: Identity) -> Option<i32> {
    process::stat(identity.pid).map(|stat| stat.parent)
}

/// `gridpilot --output-mode json WORDS` as the account.
pub fn ask(grid: &Grid, words: &[&str]) -> Result<Value> {
    let text = run(grid.gridpilot_as_user()?.args(["--output-mode", "json"]).args(words))?;
    serde_json::from_str(&text).with_context(|| format!("gridpilot {}: no JSON: {text}", words.join(" ")))
}
