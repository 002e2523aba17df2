//! What the batch system's variables say about this pilot: worth one line in its output, so that
//! a pilot can be found again with the batch system's own commands. Nothing is decided by it.

use std::fmt;

/// Longest value that is repeated.
const VALUE_BYTES_MAX: usize = 64;

/// Batch systems whose variables are known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BatchSystem {
    Slurm,
    GridEngine,
    Pbs,
}

/// Where a pilot runs, in the batch system's own words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    pub system: BatchSystem,
    /// The batch job's id, with its array task where there is one.
    pub batch_job: String,
    /// Which of the batch job's nodes this is, from 0, where the system says so.
    pub node_rank: Option<u32>,
    /// What the batch system calls this node, where it says so.
    pub node: Option<String>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let system = match self.system {
            BatchSystem::Slurm => "Slurm",
            BatchSystem::GridEngine => "Grid Engine",
            BatchSystem::Pbs => "PBS",
        };
        write!(f, "{system} batch job {}", self.batch_job)?;
        match (self.node_rank, &self.node) {
            (Some(rank), Some(node)) => write!(f, ", node {rank} ({node})"),
            (Some(rank), None) => write!(f, ", node {rank}"),
            (None, Some(node)) => write!(f, ", node {node}"),
            (None, None) => Ok(()),
        }
    }
}

/// Reads the variables through `get`. `None` without a batch system, and when what it says is not
/// an id: the values come from outside and are printed.
pub fn origin(get: impl Fn(&str) -> Option<String>) -> Option<Origin> {
    let word = |name: &str| get(name).filter(|value| is_word(value));
    let rank = |names: &[&str]| names.iter().find_map(|name| word(name)?.parse().ok());
    if let Some(batch_job) = word("SLURM_JOB_ID").or_else(|| word("SLURM_JOBID")) {
        // NODEID counts nodes; PROCID counts tasks, one of which runs per node here.
        let node_rank = rank(&["SLURM_NODEID", "SLURM_PROCID"]);
        return Some(Origin {
            system: BatchSystem::Slurm,
            batch_job,
            node_rank,
            node: word("SLURMD_NODENAME"),
        });
    }
    if let Some(batch_job) = word("PBS_JOBID") {
        let node_rank = rank(&["PBS_NODENUM"]);
        return Some(Origin { system: BatchSystem::Pbs, batch_job, node_rank, node: None });
    }
    // JOB_ID alone is too common a name to mean Grid Engine.
    if get("SGE_ROOT").is_some() || get("SGE_TASK_ID").is_some() {
        let job = word("JOB_ID")?;
        let batch_job = match word("SGE_TASK_ID").filter(|task| task != "undefined") {
            Some(task) => format!("{job}.{task}"),
            None => job,
        };
        // Its shepherd says by this which host of the job it is; a login sets it to the same.
        let node = word("HOSTNAME");
        return Some(Origin { system: BatchSystem::GridEngine, batch_job, node_rank: None, node });
    }
    None
}

fn is_word(value: &str) -> bool {
    (1..=VALUE_BYTES_MAX).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<String> {
        let get = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        origin(get).map(|origin| origin.to_string())
    }

    #[test]
    fn each_batch_system_is_recognised_by_its_own_variables() {
        let slurm = of(&[("SLURM_JOB_ID", "123"), ("SLURM_NODEID", "1"), ("SLURM_PROCID", "7")]);
        assert_eq!(slurm.unwrap(), "Slurm batch job 123, node 1");
        let named = of(&[("SLURM_JOB_ID", "123"), ("SLURM_NODEID", "1"), ("SLURMD_NODENAME", "a2")]);
        assert_eq!(named.unwrap(), "Slurm batch job 123, node 1 (a2)");
        let pbs = of(&[("PBS_JOBID", "12.head"), ("PBS_NODENUM", "0")]);
        assert_eq!(pbs.unwrap(), "PBS batch job 12.head, node 0");
        let plain = of(&[("SGE_ROOT", "/opt/sge"), ("JOB_ID", "9"), ("SGE_TASK_ID", "undefined")]);
        assert_eq!(plain.unwrap(), "Grid Engine batch job 9");
        let host = of(&[("SGE_ROOT", "/opt/sge"), ("JOB_ID", "9"), ("HOSTNAME", "b1")]);
        assert_eq!(host.unwrap(), "Grid Engine batch job 9, node b1");
        let array = of(&[("SGE_ROOT", "/opt/sge"), ("JOB_ID", "9"), ("SGE_TASK_ID", "4")]);
        assert_eq!(array.unwrap(), "Grid Engine batch job 9.4");
    }

    #[test]
    fn nothing_is_claimed_without_a_batch_system() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("JOB_ID", "9")]), None);
    }

    #[test]
    fn values_that_could_garble_a_log_are_not_repeated() {
        for value in ["", "1\n2", "\u{1b}[2J", "a b", &"9".repeat(65)] {
            assert_eq!(of(&[("SLURM_JOB_ID", value)]), None, "{value:?}");
        }
        let odd_rank = of(&[("SLURM_JOB_ID", "5"), ("SLURM_NODEID", "x")]);
        assert_eq!(odd_rank.unwrap(), "Slurm batch job 5");
    }
}
