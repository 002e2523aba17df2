//! What a look at the queue of a real batch system costs: one call of its command, however many
//! pilots there are.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use gridpilot_tests::batch::{System, Systems, counted};
use gridpilot_tests::process::wait_until;

use crate::common::{PATIENCE, TestGrid, plan, plan_with};

/// Between two looks, as the local grid's sites have it.
const POLL: Duration = Duration::from_secs(1);
const LOOKS: u32 = 8;
const NODES: u32 = 4;

/// The next calls that ask for pilots, and from first to last the time that they take at least.
fn next_looks(world: &TestGrid) -> (BTreeSet<String>, Duration) {
    let looks = || counted::looks(&world.grid.state, 0).unwrap();
    let before = looks().len();
    let come = |count: u32| {
        let there = wait_until(PATIENCE, || looks().len() >= before + count as usize);
        assert!(there, "nobody looks{}", world.logs());
    };
    come(1);
    let begin = Instant::now();
    come(LOOKS);
    let took = begin.elapsed();
    (looks()[before..before + LOOKS as usize].iter().cloned().collect(), took)
}

fn expect_one_call(system: System) {
    let batch = Systems { counted: true, ..Systems::all(system) };
    let Some(plan) = plan_with(batch, plan(1, NODES)) else { return };
    let mut world = TestGrid::up(plan);
    let mut words_of_one = BTreeSet::new();
    for (reservations, members) in [(1, 1), (1, NODES), (NODES, 1)] {
        let nodes = format!("a={members}");
        let all: Vec<String> = (0..reservations).map(|_| world.reserve(&nodes)).collect();
        let (words, took) = next_looks(&world);
        // A machine that is slow makes it longer only: nothing but a second call shortens it, or one
        // look more when the end of a batch job before has been looked into.
        let ticks = LOOKS / 2;
        assert!(took >= POLL * ticks, "{LOOKS} calls of {words:?} in {took:?}, not in {ticks} s at least");
        // Nor does one call after another ask for another pilot.
        match (reservations, members) {
            (1, 1) => words_of_one = words,
            (_, 1) => assert_eq!(words, words_of_one),
            // Jobs and steps, in turn.
            _ => assert!(words.len() <= 2, "{words:?}"),
        }
        all.iter().for_each(|reservation| world.release(reservation));
    }
    world.expect_nothing_left();
}

#[test]
fn a_look_at_slurm_is_one_squeue_however_many_pilots_there_are() {
    expect_one_call(System::Slurm);
}

#[test]
fn a_look_at_grid_engine_is_one_qstat_however_many_pilots_there_are() {
    expect_one_call(System::GridEngine);
}
