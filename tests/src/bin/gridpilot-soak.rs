//! `gridpilot-soak`: many sandboxes with every kind of end, and what they leave. Needs root.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use gridpilot_tests::install;
use gridpilot_tests::siege::bed::Bed;
use gridpilot_tests::siege::pilot::agent_role;
use gridpilot_tests::siege::{soak, soak_grid};

/// Builds and ends sandboxes and counts what is left of them.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// How many sandboxes.
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// In a whole grid, through its GRC, CRM and agents; else with the node manager alone.
    #[arg(long)]
    grid: bool,
    /// Where that grid is made.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    match act() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gridpilot-soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act() -> Result<()> {
    agent_role()?;
    let arguments = Arguments::parse();
    let mut say = |text: String| eprintln!("{text}");
    let programs = install::programs()?;
    if arguments.grid {
        print!("{}", soak_grid::run(arguments.count, &programs, arguments.dir, &mut say)?);
        return Ok(());
    }
    let bed = Bed::enter(&programs, &std::env::current_exe()?)?;
    let sum = soak::run(&bed, arguments.count, &mut say)?;
    let total: usize = sum.ends.values().sum();
    println!(
        "{total} sandboxes in {:.0} s by the node manager alone: {:?}",
        sum.took.as_secs_f64(),
        sum.ends
    );
    for (done, slabs) in &sum.slabs {
        println!("objects after {done}: {slabs:?}");
    }
    for (done, descriptors, kib) in &sum.own {
        println!("who plays the agents, after {done}: {descriptors} descriptors, {kib} KiB");
    }
    println!("left: {}", sum.left.len());
    sum.left.iter().take(20).for_each(|left| println!("  {left}"));
    ensure!(sum.left.is_empty(), "something is left");
    Ok(())
}
