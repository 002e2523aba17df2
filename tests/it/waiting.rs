//! Pilots of an embedded site and of a real Slurm, which start when Slurm lets them.

use gridpilot_tests::batch::{self, Queue, System};
use gridpilot_tests::process::{run, wait_until};

use crate::common::{PATIENCE, TestGrid, finish, plan, plan_with};

/// Site a is embedded, site b has Slurm.
struct Mixed {
    world: TestGrid,
    slurm: &'static dyn Queue,
}

impl Mixed {
    /// `None` where there is no Slurm; that is said.
    fn up() -> Option<Self> {
        let plan = plan_with("a=embedded,b=slurm".parse().unwrap(), plan(2, 2))?;
        let slurm = batch::queue(System::Slurm).unwrap();
        Some(Self { world: TestGrid::up(plan), slurm })
    }

    /// A command of Slurm's, on the head of site b.
    fn type_at_b(&self, words: &[&str]) -> String {
        run(&mut self.slurm.command(&self.world.grid.state, 1, words).unwrap()).unwrap()
    }

    /// A job on both sites, not waited for.
    fn submit(&self) -> String {
        let words = ["--output-mode", "quiet", "submit", "--nodes", "a=1,b=1", "--all", "--", "hostname"];
        self.world.type_in(&words).ok().trim().to_owned()
    }

    fn explains(&self, id: &str, wanted: &str) {
        let mut said = String::new();
        let reached = wait_until(PATIENCE, || {
            said = self.world.type_in(&["explain", id]).ok();
            said.contains(wanted)
        });
        assert!(reached, "no word of {wanted:?} in {said}{}", self.world.logs());
    }

    fn ends_well(&self, job: &str) {
        let ended = self.world.type_in(&["wait", job]);
        assert_eq!(ended.code, 0, "{ended:?}{}", self.world.logs());
        let mut hosts: Vec<String> =
            self.world.type_in(&["log", job]).ok().lines().map(str::to_owned).collect();
        hosts.sort();
        assert_eq!(hosts, ["a-0", "b-0"]);
    }
}

#[test]
fn a_partition_that_is_down_is_paused_and_shown_and_resumes_by_itself() {
    let Some(grid) = Mixed::up() else { return };
    grid.type_at_b(&["scontrol", "update", "PartitionName=grid", "State=DOWN"]);
    let paused = "its batch queue (partition grid) is paused: Slurm's partition grid is DOWN";
    let sites = || grid.world.type_in(&["sites"]).ok();
    assert!(wait_until(PATIENCE, || sites().contains(paused)), "{}{}", sites(), grid.world.logs());
    let refused = finish(&mut grid.world.command(&["reserve", "--nodes", "b=1"]));
    assert_eq!(refused.code, 120, "{refused:?}");
    assert!(refused.err.contains("Slurm's partition grid is DOWN"), "{refused:?}");
    let job = grid.submit();
    grid.explains(&job, "its batch queue is paused: Slurm's partition grid is DOWN");
    grid.type_at_b(&["scontrol", "update", "PartitionName=grid", "State=UP"]);
    grid.ends_well(&job);
    assert!(!sites().contains("paused"));
}

#[test]
fn a_job_waits_while_anothers_batch_job_has_the_nodes_and_then_runs() {
    let Some(grid) = Mixed::up() else { return };
    let sbatch = ["sbatch", "--uid=nobody", "--gid=nogroup", "--nodes=2", "--exclusive", "--chdir=/"];
    let others = ["--output=/dev/null", "--job-name=others", "--wrap", "srun sleep 600"];
    grid.type_at_b(&[&sbatch[..], &others[..]].concat());
    let running = || grid.slurm.jobs(&grid.world.grid.state, 1).unwrap().iter().any(|job| job.running);
    assert!(wait_until(PATIENCE, running), "{}", grid.world.logs());
    let job = grid.submit();
    grid.explains(&job, "1 wait in its queue (slurm, partition grid): it waits for free nodes");
    grid.explains(&job, "site a holds the pilots that came");
    grid.type_at_b(&["scancel", "--name=others"]);
    grid.ends_well(&job);
}

#[test]
fn a_batch_job_that_is_held_is_waited_for_and_named_with_who_holds_it() {
    let Some(grid) = Mixed::up() else { return };
    // Held before Slurm can start it.
    grid.type_at_b(&["scontrol", "update", "NodeName=b1,b2", "State=DRAIN", "Reason=test"]);
    let job = grid.submit();
    let queued = || grid.slurm.jobs(&grid.world.grid.state, 1).unwrap();
    assert!(wait_until(PATIENCE, || !queued().is_empty()), "{}", grid.world.logs());
    let id = queued()[0].id.clone();
    grid.type_at_b(&["scontrol", "hold", &id]);
    grid.type_at_b(&["scontrol", "update", "NodeName=b1,b2", "State=RESUME"]);
    grid.explains(&job, "it is held by the administrator (Slurm: JobHeldAdmin)");
    grid.type_at_b(&["scontrol", "release", &id]);
    grid.ends_well(&job);
}

#[test]
fn what_the_partition_would_refuse_is_refused_before_anything_is_queued() {
    let Some(grid) = Mixed::up() else { return };
    grid.type_at_b(&["scontrol", "update", "PartitionName=grid", "MaxNodes=1", "MaxTime=30"]);
    let mut refused = None;
    let reached = wait_until(PATIENCE, || {
        let words = ["--output-mode", "quiet", "reserve", "--nodes", "b=2", "--time", "5m"];
        let outcome = finish(&mut grid.world.command(&words));
        if outcome.code == 0 {
            grid.world.release(outcome.out.trim());
        }
        let over = outcome.code == 120;
        refused = Some(outcome);
        over
    });
    let refused = refused.unwrap();
    assert!(reached && refused.err.contains("at most 1 nodes of one batch job, 2 were asked"), "{refused:?}");
    let long = finish(&mut grid.world.command(&["reserve", "--nodes", "b=1", "--time", "1h"]));
    assert!(long.code == 120 && long.err.contains("seconds of one batch job"), "{long:?}");
    let gone = wait_until(PATIENCE, || grid.slurm.jobs(&grid.world.grid.state, 1).unwrap().is_empty());
    assert!(gone, "{}", grid.world.logs());
}
