//! A modest number of histories, on every run of the tests. `make simulate` plays very many.

use gridpilot_simulate::{replay, simulate, simulate_many};

const HISTORIES: u64 = 1_500;

#[test]
fn every_rule_holds_in_every_history() {
    let summary = simulate_many(1, HISTORIES, 2, None);
    let finding =
        summary.finding.map(|finding| format!("seed {} breaks {}", finding.seed, finding.violation));
    assert_eq!(finding, None);
    assert_eq!(summary.histories, HISTORIES);
}

#[test]
fn the_same_seed_gives_the_same_history_twice() {
    for seed in 1..40 {
        let (first, second) = (replay(seed, false).1, replay(seed, false).1);
        assert_eq!(first.lines(), second.lines(), "seed {seed}");
        let unrecorded = simulate(seed);
        assert_eq!((first.digest, first.events), (unrecorded.digest, unrecorded.events), "seed {seed}");
    }
}

/// Histories differ, and in most of them something is granted and something goes wrong.
#[test]
fn histories_are_about_something() {
    let mut granted = 0;
    let mut faulty = 0;
    for seed in 1..40 {
        let (_, history) = replay(seed, false);
        granted += u32::from(history.lines().contains("Committed {"));
        faulty += u32::from(history.lines().contains("FAULT"));
    }
    assert!(granted > 30 && faulty > 30, "{granted} with a grant, {faulty} with a fault, of 39");
}

/// Three of the bugs that `make simulate-planted` goes through, one of each kind.
#[cfg(feature = "planted")]
#[test]
fn planted_bugs_are_found() {
    use protocol::planted::Bug;

    for bug in [Bug::HeldBeforeRecord, Bug::RequestForgotten, Bug::PilotsForgotten] {
        let summary = simulate_many(1, 2_000, 2, Some(bug));
        assert!(summary.finding.is_some(), "{bug:?} is not found in {} histories", summary.histories);
    }
}
