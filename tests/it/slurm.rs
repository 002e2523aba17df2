//! Slurm of a local grid, and pilots under it.

use std::time::Instant;

use gridpilot_tests::batch::slurm::Slurm;
use gridpilot_tests::batch::{self, Proctrack, Queue, System, Systems};
use gridpilot_tests::process::{run, wait_until};

use crate::common::{PATIENCE, TestGrid, announce, plan, plan_with};
use crate::grid::run_both_rings;
use crate::leases::outlive_the_crm_under;

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

#[test]
fn a_command_under_slurm_runs_on_while_the_crm_is_killed_and_back() {
    outlive_the_crm_under(System::Slurm);
}

/// Slurm's number of the next batch job.
fn next_batch_job(world: &TestGrid) -> String {
    let mut ask = Slurm.command(&world.grid.state, 0, &["scontrol", "show", "config"]).unwrap();
    let said = run(&mut ask).unwrap();
    let line = said.lines().find(|line| line.starts_with("NEXT_JOB_ID"));
    line.unwrap_or_else(|| panic!("no number in {said}")).to_owned()
}

/// The partition starts nothing meanwhile, so whatever went through its queue would wait for ever.
#[test]
fn a_hundred_commands_in_a_standing_reservation_meet_no_batch_queue() {
    const COMMANDS: u32 = 100;
    let Some(plan) = plan_with(Systems::all(System::Slurm), plan(1, 2)) else { return };
    let mut world = TestGrid::up(plan);
    let reservation = world.reserve("a=1");
    let partition = |state: &str| {
        let words = ["scontrol", "update", "PartitionName=grid", state];
        run(&mut Slurm.command(&world.grid.state, 0, &words).unwrap()).unwrap();
    };
    let batch_jobs = || (next_batch_job(&world), Slurm.jobs(&world.grid.state, 0).unwrap());
    partition("State=DOWN");
    let before = batch_jobs();
    let begin = Instant::now();
    for number in 0..COMMANDS {
        let ran = world.type_in(&["submit", "--wait", "--in", &reservation, "--", "/bin/true"]);
        assert_eq!(ran.code, 0, "command {number}: {ran:?}{}", world.logs());
    }
    let each = begin.elapsed() / COMMANDS;
    announce(&format!("{COMMANDS} commands under Slurm: {:.1} ms each", each.as_secs_f64() * 1000.0));
    assert_eq!(batch_jobs(), before);
    let jobs = world.ask(&["jobs"]);
    let done = jobs.as_array().unwrap().iter().filter(|job| job["state"] == "done" && job["exit_code"] == 0);
    assert_eq!(done.count(), COMMANDS as usize, "{jobs}");
    // One that asks for nodes of its own does go through the queue.
    partition("State=UP");
    let own = || world.submit("a=1", &["true"]).code == 0;
    assert!(wait_until(PATIENCE, own), "{}", world.logs());
    assert_ne!(next_batch_job(&world), before.0);
    world.release(&reservation);
    world.expect_nothing_left();
}
