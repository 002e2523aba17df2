//! `[batch]`: which batch system starts the pilots, and how it is spoken to.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use protocol::limits::{LAYERS_MAX, NODES_PER_SITE_MAX};
use protocol::names::NodeName;
use serde::Deserialize;

use super::read_size;
use crate::nodes::Node;

/// How long pilots may wait in a queue, unless `[times] pilots_s` says otherwise.
const QUEUE_TIME: Duration = Duration::from_secs(600);
/// Words in `extra`, and in `sweep`.
const WORDS_MAX: usize = 64;

/// The whole section. What belongs to another system than the one named is refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    pub system: System,
    /// `[[batch.node]]`, of the embedded system only.
    #[serde(default)]
    pub node: Vec<NodeConfig>,
    /// Pilots in the queue at once at most; of every system but the embedded one.
    pub nodes: Option<u32>,
    /// Memory of a node, like "2GiB"; 0 = not checked.
    #[serde(default, deserialize_with = "read_size")]
    pub node_memory: u64,
    /// Slurm's `SLURM_CONF`; absent = where its commands look by themselves.
    pub config: Option<PathBuf>,
    pub partition: Option<String>,
    pub account: Option<String>,
    pub qos: Option<String>,
    pub constraint: Option<String>,
    /// Grid Engine and PBS.
    pub queue: Option<String>,
    /// Have the batch system itself keep the nodes of a granted window free.
    #[serde(default)]
    pub reserve_ahead: bool,
    /// Verbatim arguments of `sbatch` or `qsub`.
    #[serde(default)]
    pub extra: Vec<String>,
    /// Grid Engine's `SGE_ROOT` and what belongs to it.
    pub root: Option<PathBuf>,
    pub cell: Option<String>,
    pub parallel_environment: Option<String>,
    pub qmaster_port: Option<u16>,
    pub execd_port: Option<u16>,
    /// A directory of the account's own that head and nodes share; `{home}` and `{user}` are
    /// replaced. Grid Engine and PBS have no other way to hand a secret to every host of a job.
    pub invocations: Option<String>,
    /// The directory of the batch system's commands.
    #[serde(default = "commands")]
    pub commands: PathBuf,
    /// Between two looks at the queue, seconds.
    #[serde(default = "poll")]
    pub poll_s: u32,
    /// The command that removes what dead pilots left on a node; `{node}`, `{user}`, `{uid}` and
    /// `{gid}` are replaced. Absent = a small batch job on that node.
    #[serde(default)]
    pub sweep: Vec<String>,
}

/// The batch systems that this build speaks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// The CRM starts pilots itself, on the nodes named here.
    Embedded,
    Slurm,
    GridEngine,
    Pbs,
}

impl System {
    /// As in the file, and as users see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Slurm => "slurm",
            Self::GridEngine => "grid-engine",
            Self::Pbs => "pbs",
        }
    }

    /// Whether it chooses the nodes itself, so that a node is known when its pilot arrives.
    pub fn is_queue(self) -> bool {
        self != Self::Embedded
    }

    /// How long it may take to say why a pilot ended: Slurm and we ourselves do at the next look,
    /// the others when all of the batch job has ended and is accounted for. Slurm needs 5 s to cancel
    /// a step, and a pilot is to be gone in 10 s.
    pub fn word_time(self) -> Duration {
        match self {
            Self::Embedded | Self::Slurm => Duration::from_secs(3),
            Self::GridEngine | Self::Pbs => Duration::from_secs(10),
        }
    }

    /// How long pilots may take from submission to arrival, if nothing is configured.
    pub fn pilots_time(self, embedded: Duration) -> Duration {
        if self.is_queue() { QUEUE_TIME } else { embedded }
    }
}

/// `[[batch.node]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    pub name: NodeName,
    /// Processors, for people; how many processes MPI starts is the user's `--slots`.
    #[serde(default = "slots")]
    pub slots: u32,
    /// Memory of the node, like "2GiB"; a reservation that asks more per member goes elsewhere.
    #[serde(default, deserialize_with = "read_size")]
    pub memory: u64,
    /// Sandboxes of different reservations at once.
    #[serde(default = "members")]
    pub members: u32,
    /// Put in front of the Launcher's command line to start it on this node as the mapped
    /// account: `{user}`, `{uid}` and `{gid}` are replaced.
    pub start: Vec<String>,
}

fn slots() -> u32 {
    1
}

fn members() -> u32 {
    4
}

fn commands() -> PathBuf {
    "/usr/bin".into()
}

fn poll() -> u32 {
    1
}

/// A word for an exec: none is empty, none ends early.
fn is_blank(word: &str) -> bool {
    word.is_empty() || word.contains('\0')
}

impl Batch {
    /// Which of its queues it is, as users see it: empty where there is none, or none was named.
    pub fn queue_name(&self) -> String {
        match (&self.partition, &self.queue) {
            (Some(partition), _) => format!("partition {partition}"),
            (None, Some(queue)) => format!("queue {queue}"),
            (None, None) => String::new(),
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.check_keys()?;
        match self.system.is_queue() {
            true => self.check_queue(),
            false => self.check_nodes(),
        }
    }

    /// A key that would be silently without effect is a mistake somewhere.
    fn check_keys(&self) -> Result<(), String> {
        use System::{Embedded, GridEngine, Pbs, Slurm};
        let queues: &[System] = &[Slurm, GridEngine, Pbs];
        let keys: [(&str, bool, &[System]); 19] = [
            ("node", !self.node.is_empty(), &[Embedded]),
            ("nodes", self.nodes.is_some(), queues),
            ("node_memory", self.node_memory > 0, queues),
            ("config", self.config.is_some(), &[Slurm]),
            ("partition", self.partition.is_some(), &[Slurm]),
            ("account", self.account.is_some(), queues),
            ("qos", self.qos.is_some(), &[Slurm]),
            ("constraint", self.constraint.is_some(), &[Slurm]),
            ("queue", self.queue.is_some(), &[GridEngine, Pbs]),
            ("reserve_ahead", self.reserve_ahead, &[Slurm, GridEngine]),
            ("extra", !self.extra.is_empty(), queues),
            ("root", self.root.is_some(), &[GridEngine]),
            ("cell", self.cell.is_some(), &[GridEngine]),
            ("parallel_environment", self.parallel_environment.is_some(), &[GridEngine]),
            ("qmaster_port", self.qmaster_port.is_some(), &[GridEngine]),
            ("execd_port", self.execd_port.is_some(), &[GridEngine]),
            ("invocations", self.invocations.is_some(), &[GridEngine, Pbs]),
            ("sweep", !self.sweep.is_empty(), queues),
            ("poll_s", self.poll_s != poll(), queues),
        ];
        match keys.into_iter().find(|(_, said, systems)| *said && !systems.contains(&self.system)) {
            Some((key, ..)) => Err(format!("[batch] {key} means nothing to {}", self.system.name())),
            None => Ok(()),
        }
    }

    fn check_queue(&self) -> Result<(), String> {
        match self.nodes {
            None => {
                let name = self.system.name();
                return Err(format!("[batch] nodes is missing: how many pilots may {name} have at once?"));
            }
            Some(nodes) if nodes == 0 || nodes as usize > NODES_PER_SITE_MAX => {
                return Err(format!("[batch] nodes is {nodes}, it must be 1 to {NODES_PER_SITE_MAX}"));
            }
            Some(_) => {}
        }
        if !(1..=60).contains(&self.poll_s) {
            return Err(format!("[batch] poll_s is {}, it must be 1 to 60", self.poll_s));
        }
        let paths = [("config", self.config.as_ref()), ("root", self.root.as_ref())];
        let named = paths.into_iter().filter_map(|(key, path)| Some((key, path?)));
        for (key, path) in named.chain([("commands", &self.commands)]) {
            if !path.is_absolute() {
                return Err(format!("[batch] {key} is {}; name an absolute path", path.display()));
            }
        }
        let words = [&self.partition, &self.account, &self.qos, &self.constraint, &self.queue, &self.cell];
        for word in words.into_iter().chain([&self.parallel_environment]).flatten() {
            if word.is_empty() || word.starts_with('-') || word.contains(|c: char| c.is_control() || c == ' ')
            {
                return Err(format!("[batch] {word:?} is no name that {} knows", self.system.name()));
            }
        }
        for (key, words) in [("extra", &self.extra), ("sweep", &self.sweep)] {
            if words.len() > WORDS_MAX || words.iter().any(|word| is_blank(word)) {
                return Err(format!("[batch] {key} holds an empty word, or more than {WORDS_MAX}"));
            }
        }
        Ok(())
    }

    fn check_nodes(&self) -> Result<(), String> {
        if self.node.is_empty() {
            return Err("[[batch.node]] is missing; the embedded batch system needs nodes".into());
        }
        if self.node.len() > NODES_PER_SITE_MAX {
            return Err(format!("more than {NODES_PER_SITE_MAX} nodes"));
        }
        let mut names = BTreeSet::new();
        for node in &self.node {
            if !names.insert(&node.name) {
                return Err(format!("node {} is named twice", node.name));
            }
            if node.members == 0 || node.slots == 0 {
                return Err(format!("node {} has 0 members or slots", node.name));
            }
            if node.members as usize > LAYERS_MAX {
                let (name, members) = (&node.name, node.members);
                return Err(format!("node {name} has {members} members, at most {LAYERS_MAX} are possible"));
            }
            if node.start.is_empty() || node.start.iter().any(|word| is_blank(word)) {
                return Err(format!("start of node {} is empty or holds an empty word", node.name));
            }
        }
        Ok(())
    }

    /// The nodes for the owner. Of a queue they are places without a name of their own: which
    /// machine takes one is known when its pilot arrives.
    pub(super) fn places(&self) -> Vec<Node> {
        if !self.system.is_queue() {
            return self.node.iter().map(|n| Node::new(n.name.clone(), n.memory, n.members)).collect();
        }
        let place = |number| {
            let name = format!("place-{number}").parse();
            Node::new(name.unwrap_or_else(|_| unreachable!("it is a name")), self.node_memory, 1)
        };
        (0..self.nodes.unwrap_or(0)).map(place).collect()
    }
}
