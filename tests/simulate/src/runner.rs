//! One history or very many.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::planted::Bug;

use crate::history::{History, Violation};
use crate::scenario::Scenario;
use crate::shrink::shrink;
use crate::world::World;

/// A seed whose history breaks a rule.
#[derive(Clone, Debug)]
pub struct Finding {
    pub seed: u64,
    pub violation: Violation,
}

/// What very many histories came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub histories: u64,
    pub events: u64,
    pub took: Duration,
    /// The one with the smallest seed.
    pub finding: Option<Finding>,
}

/// The history of a scenario. A panic of an owner is a broken rule like any other.
fn play(scenario: Scenario, recorded: bool) -> History {
    let mut world = World::new(scenario, recorded);
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run())).err();
    if let Some(panic) = panicked {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without words").to_owned();
        let now = world.agenda.now();
        world.history.broken(now, "panic", || text);
    }
    world.history
}

/// The history of a seed.
pub fn simulate(seed: u64) -> History {
    play(Scenario::new(seed), false)
}

/// The history of a seed in words; a broken rule is shown by the smallest scenario that breaks it.
pub fn replay(seed: u64, smaller: bool) -> (Scenario, History) {
    let scenario = Scenario::new(seed);
    let history = play(scenario.clone(), true);
    match &history.violation {
        Some(violation) if smaller => {
            let rule = violation.rule;
            let breaks =
                |one: &Scenario| play(one.clone(), false).violation.is_some_and(|other| other.rule == rule);
            let scenario = shrink(scenario, breaks);
            let history = play(scenario.clone(), true);
            (scenario, history)
        }
        _ => (scenario, history),
    }
}

/// Plants a bug in what this thread runs from now on, or none.
fn plant(bug: Option<Bug>) {
    #[cfg(feature = "planted")]
    protocol::planted::plant(bug);
    #[cfg(not(feature = "planted"))]
    assert!(bug.is_none(), "bugs are planted with the feature `planted` only");
}

/// The histories of `count` seeds from `first` on, on so many threads, until one breaks a rule.
pub fn simulate_many(first: u64, count: u64, threads: u32, bug: Option<Bug>) -> Summary {
    let (next, stop, events) = (AtomicU64::new(first), AtomicBool::new(false), AtomicU64::new(0));
    let (started, end) = (Instant::now(), first.saturating_add(count));
    let work = || {
        plant(bug);
        let mut found: Option<Finding> = None;
        let mut done = 0;
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            let history = simulate(seed);
            done += 1;
            events.fetch_add(history.events, Ordering::Relaxed);
            // A history that breaks a rule without the bug says nothing about it.
            let sound = || {
                plant(None);
                let sound = simulate(seed).violation.is_none();
                plant(bug);
                sound
            };
            if let Some(violation) = history.violation.filter(|_| bug.is_none() || sound()) {
                found = Some(Finding { seed, violation });
                stop.store(true, Ordering::Relaxed);
            }
        }
        plant(None);
        (done, found)
    };
    let results: Vec<(u64, Option<Finding>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
    });
    Summary {
        histories: results.iter().map(|(done, _)| done).sum(),
        events: events.into_inner(),
        took: started.elapsed(),
        finding: results.into_iter().filter_map(|(_, found)| found).min_by_key(|found| found.seed),
    }
}
