//! The promise of the lease: whoever of the daemons is killed and back within it, what runs goes on,
//! its output is whole and in order, and nothing starts twice; after it, nothing is left and the
//! place is named.

use std::process::{Child, Stdio};
use std::time::Duration;

use gridpilot_tests::batch::{self, System, Systems};
use gridpilot_tests::process::{Identity, wait_until};
use nix::sys::signal::Signal;

use crate::common::{Outcome, TestGrid, finish_child, plan, plan_with};
use crate::death::at_site;

const MOMENT_TIME: Duration = Duration::from_secs(60);
/// Numbers that the command prints, each a moment after the one before: in all, longer than what
/// daemons need to come back.
const NUMBERS: u32 = 60;

/// A command in a reservation that notes its start in the user's home and prints numbers.
pub struct Counting {
    starts: std::path::PathBuf,
    waits: Child,
    job: String,
}

impl Counting {
    pub fn begin(world: &TestGrid, reservation: &str) -> Self {
        let starts = world.account().home.join(format!("starts-{reservation}"));
        let script = format!(
            "echo x >> $HOME/starts-{reservation}; i=0; while [ $i -lt {NUMBERS} ]; do echo $i; \
             i=$((i+1)); sleep 0.1; done; exit 7"
        );
        let words = ["--output-mode", "json", "submit", "--in", reservation, "--", "sh", "-c", &script];
        let job = world.type_in(&words).json()["job"].as_str().unwrap().to_owned();
        let waits = world.command(&["wait", &job]);
        let waits =
            { waits }.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let counting = Self { starts, waits, job };
        let begun = wait_until(MOMENT_TIME, || world.type_in(&["log", &counting.job]).out.contains("3\n"));
        assert!(begun, "it does not begin{}", world.logs());
        counting
    }

    /// It ended as it should: all numbers once and in order, one start, its own exit code.
    pub fn expect_whole(self, world: &TestGrid) {
        let Self { starts, waits, job } = self;
        let waited = finish_child(waits);
        assert_eq!(waited.code, 7, "{waited:?}{}", world.logs());
        let numbers: String = (0..NUMBERS).map(|n| format!("{n}\n")).collect();
        assert_eq!(world.type_in(&["log", &job]).ok(), numbers, "{}", world.logs());
        assert_eq!(std::fs::read_to_string(&starts).unwrap(), "x\n", "it started more than once");
        std::fs::remove_file(starts).unwrap();
    }

    fn expect_failed(self, world: &TestGrid) -> Outcome {
        let Self { starts, waits, .. } = self;
        let waited = finish_child(waits);
        assert_eq!(waited.code, 123, "{waited:?}{}", world.logs());
        assert_eq!(std::fs::read_to_string(&starts).unwrap(), "x\n", "it started more than once");
        std::fs::remove_file(starts).unwrap();
        waited
    }
}

fn kill(world: &TestGrid, daemon: &str) {
    let identity = world.grid.state.daemon(daemon).unwrap().identity;
    assert!(identity.signal(Signal::SIGKILL));
    assert!(wait_until(Duration::from_secs(10), || !identity.alive()));
}

/// Under a batch system the pilots are no children of the CRM: the next one finds the batch job of the
/// one before.
pub fn outlive_the_crm_under(system: System) {
    let Some(plan) = plan_with(Systems::all(system), plan(1, 2)) else { return };
    let mut world = TestGrid::up(plan);
    let queue = batch::queue(system).unwrap();
    let reservation = world.reserve("a=2");
    let addresses = world.addresses(&reservation);
    let batch_jobs = |world: &TestGrid| queue.jobs(&world.grid.state, 0).unwrap();
    let before = batch_jobs(&world);
    assert!(before.len() == 1 && before[0].running, "{before:?}");
    let counting = Counting::begin(&world, &reservation);
    kill(&world, "crm-a");
    world.grid.start_crm(0).unwrap();
    world.grid.wait_connected().unwrap();
    counting.expect_whole(&world);
    assert_eq!(batch_jobs(&world), before, "the same batch job{}", world.logs());
    assert_eq!(world.addresses(&reservation), addresses, "the same sandboxes");
    assert_eq!(world.on_head(&reservation, "ssh a-1 hostname").out, "a-1\n", "{}", world.logs());
    world.release(&reservation);
    world.expect_nothing_left();
    let gone = wait_until(MOMENT_TIME, || batch_jobs(&world).is_empty());
    assert!(gone, "{:?}{}", batch_jobs(&world), world.logs());
}

#[test]
fn a_command_runs_on_whoever_of_the_daemons_is_killed_and_back_within_the_lease() {
    let mut world = TestGrid::two_by_two();
    let reservation = world.reserve("a=1,b=1");
    let before = world.addresses(&reservation);
    for (crm, grc) in [(true, false), (false, true), (true, true)] {
        let counting = Counting::begin(&world, &reservation);
        for (name, wanted) in [("crm-a", crm), ("grc", grc)] {
            if wanted {
                kill(&world, name);
            }
        }
        if crm {
            world.grid.start_crm(0).unwrap();
        }
        if grc {
            world.grid.restart_grc().unwrap();
        }
        world.grid.wait_connected().unwrap();
        counting.expect_whole(&world);
        assert_eq!(world.addresses(&reservation), before, "the same sandboxes");
    }
    // And what they stand for goes on: other members, new commands.
    assert_eq!(world.on_head(&reservation, "ssh b-0 hostname").out, "b-0\n", "{}", world.logs());
    world.release(&reservation);
    world.expect_nothing_left();
}

#[test]
fn a_crm_that_is_left_by_sigusr1_leaves_its_pilots_to_the_next() {
    let mut world = TestGrid::two_by_two();
    let reservation = world.reserve("a=1");
    let counting = Counting::begin(&world, &reservation);
    let crm = world.grid.state.daemon("crm-a").unwrap().identity;
    assert!(crm.signal(Signal::SIGUSR1));
    assert!(wait_until(Duration::from_secs(10), || !crm.alive()), "{}", world.logs());
    world.grid.start_crm(0).unwrap();
    world.grid.wait_connected().unwrap();
    counting.expect_whole(&world);
    world.release(&reservation);
    world.expect_nothing_left();
}

#[test]
fn a_crm_that_is_back_after_the_lease_finds_nothing_and_says_so() {
    let mut world = TestGrid::two_by_two();
    let reservation = world.reserve("a=1,b=1");
    let counting = Counting::begin(&world, &reservation);
    kill(&world, "crm-a");
    let gone = wait_until(MOMENT_TIME, || at_site(&world.grid, "a", "node-manager").is_none());
    assert!(gone, "the node waits for ever{}", world.logs());
    world.grid.start_crm(0).unwrap();
    world.grid.wait_connected().unwrap();
    let outcome = counting.expect_failed(&world);
    assert!(outcome.err.contains("site a") && outcome.err.contains("node a"), "{outcome:?}");
    world.release(&reservation);
    world.expect_nothing_left();
}

/// Stops the agent of the one pilot at site a.
fn stop_agent(world: &TestGrid) -> (String, Identity) {
    let (node, agent) = at_site(&world.grid, "a", "node-agent").unwrap();
    assert!(agent.signal(Signal::SIGSTOP));
    (node, agent)
}

#[test]
fn an_agent_that_stands_still_is_borne_with_for_the_lease_and_no_longer() {
    let mut world = TestGrid::two_by_two();
    let reservation = world.reserve("a=1,b=1");
    let counting = Counting::begin(&world, &reservation);
    let (_, agent) = stop_agent(&world);
    wait_until(Duration::from_secs(2), || false);
    agent.signal(Signal::SIGCONT);
    counting.expect_whole(&world);

    let counting = Counting::begin(&world, &reservation);
    let (node, agent) = stop_agent(&world);
    let gone = wait_until(MOMENT_TIME, || at_site(&world.grid, "a", "node-manager").is_none());
    agent.signal(Signal::SIGCONT);
    assert!(gone, "its monitor waits for ever{}", world.logs());
    let outcome = counting.expect_failed(&world);
    assert!(outcome.err.contains("site a") && outcome.err.contains(&node), "{outcome:?}");
    world.release(&reservation);
    world.expect_nothing_left();
}

/// Switches a machine's interface, in its own namespace.
fn switch(world: &TestGrid, machine: &str, to: &str) {
    let holder = world.grid.state.machine(machine).unwrap().holder.pid;
    let words =
        ["--target", &holder.to_string(), "--net", "ip", "link", "set", "eth0", to].map(str::to_owned);
    assert!(std::process::Command::new("nsenter").args(words).status().unwrap().success());
}

#[test]
fn a_node_that_is_cut_off_is_named_and_the_reservation_stands_anew_when_it_is_back() {
    let mut world = TestGrid::two_by_two();
    let reservation = world.reserve("a=1,b=1");
    let epoch = |world: &TestGrid| world.ask(&["show", &reservation])["epoch"].as_u64().unwrap();
    let first = epoch(&world);
    let counting = Counting::begin(&world, &reservation);
    let (node, _) = at_site(&world.grid, "a", "node-agent").unwrap();
    switch(&world, &node, "down");
    let outcome = counting.expect_failed(&world);
    assert!(outcome.err.contains("site a") && outcome.err.contains(&node), "{outcome:?}");
    switch(&world, &node, "up");
    let anew = wait_until(MOMENT_TIME, || epoch(&world) > first && world.state_of(&reservation) == "ready");
    assert!(anew, "it does not begin anew{}", world.logs());
    assert_eq!(world.on_head(&reservation, "ssh b-0 hostname").out, "b-0\n", "{}", world.logs());
    world.release(&reservation);
    world.expect_nothing_left();
}
