//! `gridpilot-bench`: what `make bench` runs. Prints Markdown, medians and ratios.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use gridpilot_tests::bench;
use gridpilot_tests::install;
use gridpilot_tests::state::{Driver, Plan};
use gridpilot_tests::world::Grid;

/// Measures gridpilot on this machine.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Clone, Subcommand)]
enum What {
    /// From submit to the first line of output, 4 members over 2 sites.
    Start {
        /// Samples of each kind.
        #[arg(long, default_value_t = 15)]
        rounds: usize,
    },
}

fn main() -> ExitCode {
    println!("Machine: {}\n", bench::machine());
    let all = vec![What::Start { rounds: 15 }];
    let wanted = Arguments::parse().what.map_or(all, |one| vec![one]);
    for what in wanted {
        match measure(&what) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("gridpilot-bench: {error:#}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn measure(what: &What) -> Result<String> {
    match *what {
        What::Start { rounds } => {
            let plan = Plan {
                directory: PathBuf::from(format!("/var/lib/gridpilot-bench-{}", std::process::id())),
                sites: 2,
                nodes: 2,
                driver: Driver::default(),
            };
            let mut grid = Grid::up(plan, &install::programs()?, &mut |_| ())?;
            let text = bench::start::run(&grid, rounds);
            grid.down(&mut |_| ())?;
            text
        }
    }
}
