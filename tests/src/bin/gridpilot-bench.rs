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
    /// TCP between two sandboxes against the nodes' own interfaces.
    Network {
        #[arg(long, default_value_t = 9)]
        rounds: usize,
        #[arg(long, value_enum, default_value_t)]
        driver: Driver,
    },
    /// One side of the network measurement; GRIDPILOT_MEMBER says which.
    #[command(hide = true)]
    Tcp { address: String },
}

fn main() -> ExitCode {
    let all = || {
        let network = |driver| What::Network { rounds: 9, driver };
        vec![What::Start { rounds: 15 }, network(Driver::Macvlan), network(Driver::Veth)]
    };
    let wanted = Arguments::parse().what.map_or_else(all, |one| vec![one]);
    for what in wanted {
        if let Err(error) = measure(&what) {
            eprintln!("gridpilot-bench: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn measure(what: &What) -> Result<()> {
    let text = match what {
        What::Start { rounds } => with_grid(Driver::default(), |grid| bench::start::run(grid, *rounds))?,
        What::Network { rounds, driver } => {
            with_grid(*driver, |grid| bench::network::measure(grid, *rounds))?
        }
        What::Tcp { address } => return bench::network::pair(address),
    };
    println!("Machine: {}\n\n{text}", bench::machine());
    Ok(())
}

/// A grid of two sites of two nodes for one measurement.
fn with_grid(driver: Driver, measure: impl FnOnce(&Grid) -> Result<String>) -> Result<String> {
    let directory = PathBuf::from(format!("/var/lib/gridpilot-bench-{}", std::process::id()));
    let plan = Plan { directory, sites: 2, nodes: 2, driver };
    let mut grid = Grid::up(plan, &install::programs()?, &mut |_| ())?;
    let text = measure(&grid);
    grid.down(&mut |_| ())?;
    text
}
