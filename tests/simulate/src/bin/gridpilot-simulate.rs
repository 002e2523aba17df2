//! `gridpilot-simulate`: histories of whole grids, and the bugs that it must find.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gridpilot_simulate::{Summary, replay, simulate, simulate_many};

#[derive(Parser)]
#[command(about = "Simulates grids with the real owners of GRC and CRM, and looks for broken rules")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Shows the history of one seed.
    Seed {
        seed: u64,
        /// Show it whole, even if less of it breaks the same rule.
        #[arg(long)]
        whole: bool,
        /// With this bug planted.
        #[cfg(feature = "planted")]
        #[arg(long)]
        bug: Option<String>,
    },
    /// Histories of many seeds, and how often each rule broke in them.
    Survey {
        #[arg(long, default_value_t = 1)]
        from: u64,
        #[arg(long, default_value_t = 1_000)]
        count: u64,
    },
    /// Histories of many seeds, until one breaks a rule.
    Run {
        #[arg(long, default_value_t = 1)]
        from: u64,
        #[arg(long, default_value_t = 10_000)]
        count: u64,
        #[arg(long, default_value_t = 2)]
        threads: u32,
    },
    /// Plants every bug in turn and counts the seeds until it is found.
    #[cfg(feature = "planted")]
    Planted {
        #[arg(long, default_value_t = 20_000)]
        most: u64,
        #[arg(long, default_value_t = 2)]
        threads: u32,
        /// This one only.
        #[arg(long)]
        bug: Option<String>,
    },
}

fn main() -> ExitCode {
    // What an owner panics with stands in the finding.
    std::panic::set_hook(Box::new(|_| {}));
    match Arguments::parse().what {
        What::Seed {
            seed,
            whole,
            #[cfg(feature = "planted")]
            bug,
        } => {
            #[cfg(feature = "planted")]
            protocol::planted::plant(bug.and_then(|name| bug_of(&name)));
            let (scenario, history) = replay(seed, !whole);
            print!("{}", history.lines());
            if let Some(violation) = &history.violation {
                print!("{}", scenario.in_words());
                println!("seed {seed} breaks {violation}");
                return ExitCode::FAILURE;
            }
            println!("seed {seed}: {} happenings, every rule holds", history.events);
            ExitCode::SUCCESS
        }
        What::Survey { from, count } => survey(from, count),
        What::Run { from, count, threads } => report(&simulate_many(from, count, threads, None)),
        #[cfg(feature = "planted")]
        What::Planted { most, threads, bug } => planted(most, threads, bug.as_deref()),
    }
}

fn survey(from: u64, count: u64) -> ExitCode {
    let mut broken: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for seed in from..from + count {
        if let Some(violation) = simulate(seed).violation {
            broken.entry(violation.rule).or_default().push(seed);
        }
    }
    for (rule, seeds) in &broken {
        let some: Vec<_> = seeds.iter().take(8).collect();
        println!("{rule}: {} of {count} histories, as {some:?}", seeds.len());
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(summary: &Summary) -> ExitCode {
    let Summary { histories, events, took, finding } = summary;
    let seconds = took.as_secs_f64();
    println!(
        "{histories} histories, {events} happenings in {seconds:.1} s: {:.0} histories/s, {:.0} happenings/s",
        *histories as f64 / seconds,
        *events as f64 / seconds
    );
    match finding {
        None => {
            println!("every rule holds");
            ExitCode::SUCCESS
        }
        Some(finding) => {
            println!("seed {} breaks {}", finding.seed, finding.violation);
            println!("to see it: make simulate SEED={}", finding.seed);
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "planted")]
fn bug_of(name: &str) -> Option<protocol::planted::Bug> {
    protocol::planted::Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
}

#[cfg(feature = "planted")]
fn planted(most: u64, threads: u32, only: Option<&str>) -> ExitCode {
    use protocol::planted::Bug;

    let mut missed = 0;
    println!("| bug | seeds needed | rule that caught it | seed |\n|---|---|---|---|");
    for bug in Bug::ALL {
        let name = format!("{bug:?}");
        if only.is_some_and(|only| only != name) {
            continue;
        }
        match simulate_many(1, most, threads, Some(bug)).finding {
            Some(finding) => {
                println!("| {name} | {} | {} | {} |", finding.seed, finding.violation.rule, finding.seed);
            }
            None => {
                missed += 1;
                println!("| {name} | not in {most} | | |");
            }
        }
    }
    println!("{missed} not found");
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
