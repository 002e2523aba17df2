//! `gridpilot-inject`: every system call of a build is made to fail, or made the last one, one at a
//! time; nothing may be left, and every failure must be named. Needs root.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use grant::Driver;
use gridpilot_tests::install;
use gridpilot_tests::siege::bed::Bed;
use gridpilot_tests::siege::inject::{Sum, run};
use gridpilot_tests::siege::inject_agent;
use gridpilot_tests::siege::pilot::agent_role;

/// Kills and fails a NodeManager's build at every system call of monitor and sandbox.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Only every n-th run.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Only with this driver.
    #[arg(long, value_enum, conflicts_with = "agent")]
    driver: Option<Only>,
    /// The agent instead, in a whole grid.
    #[arg(long)]
    agent: bool,
    /// Where that grid is made.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
}

/// How a sandbox comes to its interface.
#[derive(Clone, Copy, ValueEnum)]
enum Only {
    Macvlan,
    Veth,
}

fn main() -> ExitCode {
    match act() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gridpilot-inject: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act() -> Result<()> {
    agent_role()?;
    let arguments = Arguments::parse();
    ensure!(arguments.every > 0, "every 0th run is none");
    let programs = install::programs()?;
    if arguments.agent {
        let mut say = |text: String| eprintln!("agent: {text}");
        let sum = inject_agent::run(arguments.every, &programs, arguments.dir, &mut say)?;
        return told(&sum, "calls of an agent until its sandbox is ready");
    }
    let bed = Bed::enter(&programs, &std::env::current_exe()?)?;
    let mut sum = Sum::default();
    let drivers = match arguments.driver {
        None => vec![Driver::Macvlan, Driver::Veth],
        Some(Only::Macvlan) => vec![Driver::Macvlan],
        Some(Only::Veth) => vec![Driver::Veth],
    };
    for driver in drivers {
        let mut say = |text: String| eprintln!("{}: {text}", driver.name());
        sum = sum.and(run(&bed, driver, arguments.every, &mut say)?);
    }
    told(&sum, "calls of a clean build, all drivers")
}

fn told(sum: &Sum, calls: &str) -> Result<()> {
    println!("{calls}: {:?}", sum.calls);
    println!("{} runs: {:?}", sum.runs, sum.ends);
    println!("failed at: {:?}", sum.steps);
    println!("leftovers: {}", sum.left.len());
    sum.left.iter().take(40).for_each(|left| println!("  {left}"));
    println!("errors without step, site, node and cause: {}", sum.nameless.len());
    sum.nameless.iter().take(40).for_each(|text| println!("  {text}"));
    sum.check()
}
