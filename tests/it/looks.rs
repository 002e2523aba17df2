//! What a look at the queue of a real batch system costs: the same call of its command, however many
//! pilots there are. (That one look is one call is counted in `crm/src/batch/looks.rs`, where a look
//! has a beginning and an end.)

use std::collections::BTreeSet;

use gridpilot_tests::batch::{System, Systems, counted};
use gridpilot_tests::process::wait_until;

use crate::common::{PATIENCE, TestGrid, plan, plan_with};

const LOOKS: usize = 8;
const NODES: u32 = 4;

/// What the next calls that ask for pilots say, but for the mark that each has of its own.
fn next_looks(world: &TestGrid) -> BTreeSet<String> {
    let looks = || counted::looks(&world.grid.state, 0).unwrap();
    let before = looks().len();
    let there = wait_until(PATIENCE, || looks().len() >= before + LOOKS);
    assert!(there, "nobody looks{}", world.logs());
    looks()[before..before + LOOKS].iter().map(|words| without_mark(words)).collect()
}

/// Marks are the only long numbers of a call.
fn without_mark(words: &str) -> String {
    let is_mark = |word: &&str| word.len() >= 16 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let parts: Vec<&str> = words.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    parts.into_iter().filter(|part| !is_mark(part)).collect::<Vec<_>>().join(" ")
}

fn expect_the_same_call(system: System) {
    let batch = Systems { counted: true, ..Systems::all(system) };
    let Some(plan) = plan_with(batch, plan(1, NODES)) else { return };
    let mut world = TestGrid::up(plan);
    let mut words_of_one = BTreeSet::new();
    for (reservations, members) in [(1, 1), (1, NODES), (NODES, 1)] {
        let nodes = format!("a={members}");
        let all: Vec<String> = (0..reservations).map(|_| world.reserve(&nodes)).collect();
        let words = next_looks(&world);
        // No call names a pilot, so none is needed for each.
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
fn a_look_at_slurm_is_the_same_squeue_however_many_pilots_there_are() {
    expect_the_same_call(System::Slurm);
}

#[test]
fn a_look_at_grid_engine_is_the_same_qstat_however_many_pilots_there_are() {
    expect_the_same_call(System::GridEngine);
}
