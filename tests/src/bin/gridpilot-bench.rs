//! `gridpilot-bench`: what `make bench` runs. Prints Markdown, medians and ratios. Each
//! measurement is a process of its own, for it changes namespaces and must not disturb the next.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use gridpilot_tests::bench;
use gridpilot_tests::install;
use gridpilot_tests::state::Plan;
use gridpilot_tests::world::Grid;

/// Measures gridpilot on this machine. Without a name: everything, one after the other.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Clone, Subcommand)]
enum What {
    /// One sandbox with one address against bare fork/exec, bubblewrap and crun.
    Sandbox {
        /// Samples of each kind.
        #[arg(long, default_value_t = 100)]
        rounds: usize,
    },
    /// Many sandboxes at once: up, answering ssh, gone; memory of each.
    Thousand {
        #[arg(long, default_value_t = 1000)]
        count: u32,
        /// Processes that build beside each other, as NodeManagers do.
        #[arg(long, default_value_t = 6)]
        at_once: usize,
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// TCP between two sandboxes against the nodes' own interfaces.
    Network {
        #[arg(long, default_value_t = 9)]
        rounds: usize,
        /// Length of each stream.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
    /// From submit to the first line of output, 4 members over 2 sites.
    Start {
        /// Samples of each kind.
        #[arg(long, default_value_t = 15)]
        rounds: usize,
    },
    /// Short commands in a standing reservation of 4 members, against xargs.
    Short {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Commands of one round.
        #[arg(long, default_value_t = 1000)]
        commands: usize,
    },
    /// What idle pilots cost on the node and at CRM and GRC, and how often real batch systems are
    /// asked for them.
    Idle {
        /// Windows for each number of pilots.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Length of a window.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        #[arg(long, default_value_t = 4)]
        few: u32,
        /// Four on each node.
        #[arg(long, default_value_t = 64)]
        pilots: u32,
        /// Instead of what a CRM does by itself.
        #[arg(long)]
        lease_s: Option<u32>,
        /// Under the real batch systems, and there as many pilots.
        #[arg(long, default_value_t = 8)]
        nodes: u32,
    },
    /// The exchange of addresses and keys over many simulated sites and NodeManagers.
    Exchange {
        #[arg(long, default_value_t = 100)]
        sites: usize,
        /// NodeManagers of each.
        #[arg(long, default_value_t = 100)]
        nodes: usize,
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Planning over nodes, links and uplinks of a year with many live reservations.
    Search {
        #[arg(long, default_value_t = 1_000_000)]
        reservations: usize,
        /// Questions of each kind.
        #[arg(long, default_value_t = 3000)]
        questions: usize,
    },
    /// Decisions made durable by group commit, beside the disk's own fsync.
    Durable {
        /// Should be on the disk that a daemon's state is on.
        #[arg(long, default_value = "/var/lib")]
        directory: PathBuf,
        /// How long each number of waiting requests is kept up.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Of the store that is opened.
        #[arg(long, default_value_t = 1_000_000)]
        records: u64,
        /// Records that come and go in a store of 1,000.
        #[arg(long, default_value_t = 100_000)]
        changes: u64,
    },
    #[command(hide = true)]
    One {
        bed: PathBuf,
        number: u32,
        #[arg(default_value_t = 1)]
        count: u32,
    },
    #[command(hide = true)]
    Builder { bed: PathBuf },
    #[command(hide = true)]
    Far,
    #[command(hide = true)]
    ProbeServe { address: Ipv4Addr, connections: usize },
    #[command(hide = true)]
    ProbeStream { address: Ipv4Addr, seconds: f64 },
    #[command(hide = true)]
    ProbePing { address: Ipv4Addr, count: usize },
}

/// What is measured when nothing is named.
const ALL: [&str; 9] =
    ["sandbox", "thousand", "network", "start", "short", "idle", "exchange", "search", "durable"];

fn main() -> ExitCode {
    let done = match Arguments::parse().what {
        Some(what) => measure(what),
        None => everything(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gridpilot-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// All, even when one fails.
fn everything() -> Result<()> {
    let own = std::env::current_exe()?;
    let mut failed = Vec::new();
    for name in ALL {
        let status = Command::new(&own).arg(name).status().context("cannot start a measurement")?;
        if !status.success() {
            failed.push(name);
        }
    }
    anyhow::ensure!(failed.is_empty(), "did not work: {}", failed.join(", "));
    Ok(())
}

fn measure(what: What) -> Result<()> {
    let (name, text) = match what {
        What::One { bed, number, count } => {
            return (number..number + count).try_for_each(|number| bench::sandbox::one(&bed, number));
        }
        What::Builder { bed } => return bench::thousand::builder(&bed),
        What::Far => return bench::far::serve(),
        What::ProbeServe { address, connections } => return bench::probe::serve(address, connections),
        What::ProbeStream { address, seconds } => {
            return bench::probe::stream(address, Duration::try_from_secs_f64(seconds)?);
        }
        What::ProbePing { address, count } => return bench::probe::ping(address, count),
        What::Sandbox { rounds } => ("One sandbox", bench::sandbox::run(rounds)?),
        What::Thousand { count, at_once, rounds } => {
            ("Many sandboxes", bench::thousand::run(count, at_once, rounds)?)
        }
        What::Network { rounds, seconds } => ("Network", bench::network::run(rounds, seconds)?),
        What::Exchange { sites, nodes, rounds } => ("Exchange", bench::exchange::run(sites, nodes, rounds)?),
        What::Search { reservations, questions } => ("Search", bench::search::run(reservations, questions)?),
        What::Durable { directory, seconds, records, changes } => {
            ("Durable decisions", bench::durable::run(&directory, seconds, records, changes)?)
        }
        What::Start { rounds } => {
            ("From submit to output", in_a_grid(two_by_two(), |grid| bench::start::run(grid, rounds))?)
        }
        What::Short { rounds, commands } => {
            let run = |grid: &Grid| bench::short::run(grid, rounds, commands);
            ("Short commands", in_a_grid(two_by_two(), run)?)
        }
        What::Idle { rounds, seconds, few, pilots, lease_s, nodes } => {
            let window = Duration::try_from_secs_f64(seconds)?;
            let plan = Plan {
                sites: 1,
                nodes: pilots.div_ceil(bench::idle::PILOTS_OF_A_NODE),
                lease_s,
                ..two_by_two()
            };
            let pilots = in_a_grid(plan, |grid| bench::idle::run_in(grid, few, pilots, rounds, window))?;
            let asked = bench::asked::run(&directory(), nodes, window * rounds as u32)?;
            ("Idle pilots", format!("{pilots}\n{asked}"))
        }
    };
    println!("## {name}\n\n{}\n\n{text}", bench::machine());
    Ok(())
}

fn directory() -> PathBuf {
    PathBuf::from(format!("/var/lib/gridpilot-bench-{}", std::process::id()))
}

fn two_by_two() -> Plan {
    Plan::new(directory())
}

/// In a grid, taken down again.
fn in_a_grid(plan: Plan, run: impl FnOnce(&Grid) -> Result<String>) -> Result<String> {
    let mut grid = Grid::up(plan, &install::programs()?, &mut |_| ())?;
    let text = run(&grid);
    grid.down(&mut |_| ())?;
    text
}
