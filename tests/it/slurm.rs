//! Slurm of a local grid, and pilots under it.

use gridpilot_tests::batch::{self, Proctrack, System, Systems};
use gridpilot_tests::process::{run, wait_until};

use crate::common::{TestGrid, plan, plan_with};
use crate::grid::run_both_rings;

/// The batch system alone, before anything of ours uses it: real daemons, a real batch job on every
/// node, nothing left.
fn run_a_batch_job_on_every_node(proctrack: Proctrack) {
    let batch = Systems { proctrack, ..Systems::all(System::Slurm) };
    let Some(plan) = plan_with(batch, plan(1, 2)) else { return };
    let mut world = TestGrid::machines(plan);
    let slurm = batch::queue(System::Slurm).unwrap();
    slurm.start(&mut world.grid, 0).unwrap();
    let account = world.account();
    let place = world.workplace();
    let output = place.path.join("out").display().to_string();
    let (uid, gid) = (format!("--uid={}", account.uid), format!("--gid={}", account.gid));
    let script = "srun sh -c 'echo $(hostname) $(id -un) $(ip -br addr show eth0)'";
    let words = ["sbatch", &uid, &gid, "--nodes=2", "--output", &output, "--chdir=/", "--wrap", script];
    run(&mut slurm.command(&world.grid.state, 0, &words).unwrap()).unwrap();
    let gone = wait_until(batch::READY_TIME, || slurm.jobs(&world.grid.state, 0).unwrap().is_empty());
    let said = std::fs::read_to_string(&output).unwrap_or_default();
    assert!(gone, "the batch job is still in the queue: {said}{}", world.logs());
    for (node, address) in [("a1", "10.71.0.11"), ("a2", "10.71.0.12")] {
        let line = said.lines().find(|line| line.starts_with(node));
        let line = line.unwrap_or_else(|| panic!("nothing of {node}: {said}{}", world.logs()));
        assert!(line.contains(&account.name) && line.contains(address), "{said}");
    }
    let left = || world.grid.batch_processes();
    let clean = wait_until(batch::READY_TIME, || left().is_empty());
    assert!(clean, "{:?}", left().iter().map(|one| one.describe()).collect::<Vec<_>>());
}

#[test]
fn slurm_of_a_site_runs_the_accounts_batch_job_on_every_node_and_goes() {
    run_a_batch_job_on_every_node(Proctrack::Linuxproc);
}

#[test]
fn slurm_of_a_site_that_tracks_by_cgroups_does_the_same() {
    run_a_batch_job_on_every_node(Proctrack::Cgroup);
}

#[test]
fn unmodified_mpi_programs_run_over_two_slurm_sites() {
    if let Some(plan) = plan_with(Systems::all(System::Slurm), plan(2, 2)) {
        run_both_rings(TestGrid::up(plan));
    }
}
