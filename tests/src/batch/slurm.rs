//! Slurm of one site: munged and slurmctld on the head, slurmd on each node, without systemd.
//!
//! Everything of it stands in one directory. The nodes' daemons see the machine's cgroups, for their
//! machine shares them; `ip netns exec` would hide them, and slurmd then ends at once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{
    Job, Proctrack, Queue, READY_TIME, Systems, counted, directory, find, first_missing, give_names,
};
use crate::netns::{self, machine_address, site_name};
use crate::process::{run, wait_until};
use crate::site::{nodes_of, write_public};
use crate::state::State;
use crate::world::Grid;

/// Programs, with their packages.
const PROGRAMS: [(&str, &str); 9] = [
    ("munged", "munge"),
    ("slurmctld", "slurmctld"),
    ("slurmd", "slurmd"),
    ("slurmstepd", "slurmd"),
    ("sbatch", "slurm-client"),
    ("srun", "slurm-client"),
    ("squeue", "slurm-client"),
    ("scancel", "slurm-client"),
    ("scontrol", "slurm-client"),
];
/// Where the first version of cgroups has what Slurm freezes and kills steps by.
const FREEZER: &str = "/sys/fs/cgroup/freezer";
/// Where slurmctld listens, unless told otherwise.
const CONTROLLER_PORT: u16 = 6817;
/// Memory that every node says it has.
const NODE_MEMORY_MIB: u32 = 4000;
/// From SIGTERM to SIGKILL.
const KILL_WAIT_S: u32 = 5;
/// So long a node may be silent until it is down and its batch jobs are lost.
pub const NODE_SILENT_S: u32 = 20;

/// Slurm, 22.05 or newer.
#[derive(Debug)]
pub struct Slurm;

impl Queue for Slurm {
    fn missing(&self, systems: &Systems) -> Option<String> {
        first_missing(&PROGRAMS).or_else(|| {
            let needs = systems.proctrack == Proctrack::Cgroup && !usable_freezer();
            needs.then(|| format!("the freezer hierarchy of cgroups (version 1) at {FREEZER}"))
        })
    }

    fn start(&self, grid: &mut Grid, site: u32) -> Result<()> {
        let name = site_name(site);
        let place = directory(&grid.state, site);
        write_files(&grid.state, site, &place)?;
        let head = format!("{name}0");
        give_names(&grid.state, site, &head)?;
        grid.start_daemon(&format!("munged-{name}"), &head, &munged(&place)?)?;
        let socket = place.join("munge/munge.sock");
        let up = wait_until(READY_TIME, || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        ensure!(up, "munged of site {name} does not listen; see log/munged-{name}.log");
        grid.start_daemon(&format!("slurmctld-{name}"), &head, &words(&place, "slurmctld", &["-D"])?)?;
        // Whoever asks too early, node or command, asks again after five seconds.
        let (machine, address) = (grid.state.machine(&head)?.holder.pid, machine_address(site, 0));
        let address: std::net::SocketAddr = format!("{address}:{CONTROLLER_PORT}").parse()?;
        let up = netns::inside(machine, || {
            wait_until(READY_TIME, || std::net::TcpStream::connect_timeout(&address, READY_TIME).is_ok())
        })?;
        ensure!(up, "slurmctld of site {name} does not answer; see log/slurmctld-{name}.log");
        let nodes: Vec<String> = nodes_of(&grid.state, site).map(|node| node.name.clone()).collect();
        for node in &nodes {
            self.start_node(grid, node)?;
        }
        let mut said = String::new();
        let ready = wait_until(READY_TIME, || {
            said = self.answers(&grid.state, site, &["sinfo", "-h", "-o", "%t %D"]);
            idle(&said) == nodes.len()
        });
        let limit = READY_TIME.as_secs();
        ensure!(ready, "not all nodes of site {name} take jobs of Slurm after {limit} s: {}", said.trim());
        Ok(())
    }

    fn start_node(&self, grid: &mut Grid, node: &str) -> Result<()> {
        let site = grid.state.machine(node)?.site.context("not a machine of a site")?;
        let place = directory(&grid.state, site);
        grid.start_daemon(&self.node_daemon(node), node, &words(&place, "slurmd", &["-D", "-N", node])?)?;
        Ok(())
    }

    fn node_daemon(&self, node: &str) -> String {
        format!("slurmd-{node}")
    }

    fn crm_table(&self, state: &State, site: u32) -> String {
        let config = config_path(&directory(state, site));
        format!(
            "[batch]\nsystem = \"slurm\"\nnodes = {}\nnode_memory = \"{NODE_MEMORY_MIB}MiB\"\nconfig = {:?}\n\
             commands = {:?}\npartition = \"grid\"\n{}",
            state.plan.nodes,
            config.display().to_string(),
            counted::commands(state, site),
            if state.plan.batch.alone { "extra = [\"--exclusive\"]\n" } else { "" },
        )
    }

    fn command(&self, state: &State, site: u32, words: &[&str]) -> Result<Command> {
        let enter = state.machine(&format!("{}0", site_name(site)))?.enter();
        let program = find(words[0]).with_context(|| format!("no program is called {}", words[0]))?;
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).arg(program).args(&words[1..]);
        command.env("SLURM_CONF", config_path(&directory(state, site)));
        Ok(command)
    }

    fn jobs(&self, state: &State, site: u32) -> Result<Vec<Job>> {
        let listed = run(&mut self.command(state, site, &["squeue", "-h", "-o", "%i %t %j"])?)?;
        let job = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let (id, state, name) = (words.next()?, words.next()?, words.next()?);
            Some(Job { id: id.to_owned(), name: name.to_owned(), running: state == "R" })
        };
        Ok(listed.lines().filter_map(job).collect())
    }

    fn cancel(&self, state: &State, site: u32, job: &str) -> Result<()> {
        run(&mut self.command(state, site, &["scancel", job])?).map(drop)
    }

    fn expire(&self, state: &State, site: u32, job: &str) -> Result<()> {
        let job = format!("JobId={job}");
        run(&mut self.command(state, site, &["scontrol", "update", &job, "EndTime=now"])?).map(drop)
    }

    fn supervisor(&self) -> &'static str {
        "slurmstepd"
    }

    fn clean(&self, state: &State, site: u32) {
        for node in nodes_of(state, site) {
            remove_empty(&Path::new(FREEZER).join(format!("slurm_{}", node.name)));
        }
    }
}

impl Slurm {
    /// What a command says, or why it says nothing.
    fn answers(&self, state: &State, site: u32, words: &[&str]) -> String {
        let said = self.command(state, site, words).and_then(|mut command| run(&mut command));
        said.unwrap_or_else(|error| format!("{error:#}"))
    }
}

/// Whether steps can be put into cgroups of their own here.
fn usable_freezer() -> bool {
    let probe = Path::new(FREEZER).join(format!("slurm-probe-{}", std::process::id()));
    let made = Path::new(FREEZER).join("release_agent").exists() && fs::create_dir(&probe).is_ok();
    made && fs::remove_dir(&probe).is_ok()
}

/// Removes cgroups from the leaves up. One that holds a process stays, and so do those above it.
fn remove_empty(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

/// How many nodes take jobs, of the lines of `sinfo -h -o "%t %D"`.
fn idle(lines: &str) -> usize {
    let counts = lines.lines().filter_map(|line| line.strip_prefix("idle "));
    counts.filter_map(|count| count.trim().parse::<usize>().ok()).sum()
}

fn config_path(place: &Path) -> PathBuf {
    place.join("slurm.conf")
}

/// A daemon or command of this very Slurm.
fn words(place: &Path, program: &str, rest: &[&str]) -> Result<Vec<String>> {
    let config = config_path(place).display().to_string();
    let path = find(program).with_context(|| format!("{program} is missing"))?;
    let mut words = vec!["env".to_owned(), format!("SLURM_CONF={config}"), path.display().to_string()];
    words.extend(rest.iter().copied().map(String::from));
    words.extend(["-f".to_owned(), config]);
    Ok(words)
}

fn munged(place: &Path) -> Result<Vec<String>> {
    let path = find("munged").context("munged is missing")?;
    let file = |option: &str, name: &str| format!("--{option}={}", place.join("munge").join(name).display());
    Ok(vec![
        path.display().to_string(),
        "--foreground".to_owned(),
        "--num-threads=2".to_owned(),
        file("socket", "munge.sock"),
        file("key-file", "munge.key"),
        file("pid-file", "munged.pid"),
        file("log-file", "munged.log"),
        file("seed-file", "munged.seed"),
    ])
}

fn write_files(state: &State, site: u32, place: &Path) -> Result<()> {
    for below in ["", "munge", "state", "spool", "run"] {
        let made = place.join(below);
        fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
        fs::set_permissions(&made, fs::Permissions::from_mode(0o755))?;
    }
    let key = place.join("munge/munge.key");
    fs::write(&key, "")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let mut secret = [0; 64];
    let mut random = fs::File::open("/dev/urandom").context("no random numbers")?;
    std::io::Read::read_exact(&mut random, &mut secret)?;
    fs::write(&key, secret)?;
    write_public(&place.join("plugstack.conf"), "")?;
    // Also without steps in cgroups: every slurmd looks for the hierarchies when it starts.
    write_public(&place.join("cgroup.conf"), "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")?;
    write_public(&config_path(place), &config(state, site, place))
}

fn config(state: &State, site: u32, place: &Path) -> String {
    let name = site_name(site);
    let place = place.display();
    let track = match state.plan.batch.proctrack {
        Proctrack::Linuxproc => "linuxproc",
        Proctrack::Cgroup => "cgroup",
    };
    // Steps of other grids on this machine are in cgroups named after node and batch job, too.
    let first_job = 1 + (std::process::id() % 60_000) * 1000 + site * 30;
    let mut text = format!(
        "ClusterName={name}\n\
         SlurmctldHost={name}0({head})\n\
         SlurmUser=root\n\
         AuthType=auth/munge\n\
         AuthInfo=socket={place}/munge/munge.sock\n\
         CredType=cred/munge\n\
         StateSaveLocation={place}/state\n\
         SlurmdSpoolDir={place}/spool/%n\n\
         SlurmctldPidFile={place}/run/slurmctld.pid\n\
         SlurmdPidFile={place}/run/slurmd-%n.pid\n\
         SlurmctldSyslogDebug=quiet\n\
         SlurmdSyslogDebug=quiet\n\
         PlugStackConfig={place}/plugstack.conf\n\
         FirstJobId={first_job}\n\
         ProctrackType=proctrack/{track}\n\
         TaskPlugin=task/none\n\
         JobAcctGatherType=jobacct_gather/none\n\
         MpiDefault=none\n\
         SelectType=select/cons_tres\n\
         SelectTypeParameters=CR_Core\n\
         SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1\n\
         SlurmdParameters=config_overrides\n\
         PropagateResourceLimits=NONE\n\
         MailProg=/bin/true\n\
         ReturnToService=2\n\
         KillWait={KILL_WAIT_S}\n\
         SlurmdTimeout={NODE_SILENT_S}\n",
        head = machine_address(site, 0),
    );
    for (number, node) in (1..).zip(nodes_of(state, site)) {
        text.push_str(&format!(
            "NodeName={} NodeAddr={} CPUs=4 RealMemory={NODE_MEMORY_MIB}\n",
            node.name,
            machine_address(site, number)
        ));
    }
    text.push_str("PartitionName=grid Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_that_are_idle_are_counted() {
        assert_eq!(idle("idle 2\ndown* 1\nidle* 4\nidle 3\n"), 5);
        assert_eq!(idle("slurm_load_partitions: Unable to contact slurm controller"), 0);
    }
}
