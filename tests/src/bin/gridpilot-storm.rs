//! `gridpilot-storm`: a grid of its own, real reserve calls, and kill -9 of its daemons meanwhile.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use gridpilot_tests::install;
use gridpilot_tests::state::Plan;
use gridpilot_tests::storm::{self, Storm};
use gridpilot_tests::world::Grid;

/// Kills the GRC and the CRMs of a grid of its own at random while clients reserve, change and
/// release, and compares what they were told with what is there. Needs root.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[arg(long, default_value_t = 1000)]
    calls: u32,
    #[arg(long, default_value_t = 4)]
    clients: u32,
    #[arg(long, default_value_t = 300)]
    kills: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the grid lives meanwhile.
    #[arg(long, default_value = "/var/lib/gridpilot-storm")]
    dir: PathBuf,
    /// State directories on filesystems of so many KiB, which fill up and are enlarged again.
    #[arg(long)]
    tight_kib: Option<u32>,
}

fn main() -> ExitCode {
    match blow(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gridpilot-storm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn blow(arguments: Arguments) -> Result<()> {
    let Arguments { calls, clients, kills, seed, dir, tight_kib } = arguments;
    let mut grid =
        Grid::up(Plan { state_kib: tight_kib, ..Plan::new(dir) }, &install::programs()?, &mut |step| {
            eprintln!("storm: {step}")
        })?;
    let outcome = storm::blow(&mut grid, Storm { calls, clients, kills, seed, tight_kib });
    let killed = grid.down(&mut |_| ());
    let outcome = outcome?;
    let (granted, refused) = (outcome.granted, outcome.refused);
    println!(
        "{calls} calls of {clients} clients: {granted} granted, {refused} refused, {} times repeated",
        outcome.repeated
    );
    println!("{} kills; {} times a disk was full", outcome.kills, outcome.full);
    for (name, list) in [
        ("grants lost", &outcome.lost),
        ("contradictory answers", &outcome.contradictions),
        ("resources held by nobody", &outcome.orphans),
    ] {
        println!("{name}: {}", list.len());
        list.iter().take(10).for_each(|line| println!("  {line}"));
    }
    ensure!(outcome.is_clean(), "the grid did not keep its word");
    let killed = killed?;
    ensure!(killed.is_empty(), "had to be killed: {killed:?}");
    Ok(())
}
