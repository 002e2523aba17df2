//! `gridpilot-storm`: a grid of its own, real reserve calls, and kill -9 of its daemons meanwhile.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use gridpilot_tests::exec_storm;
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
    /// Instead of calls: so many commands in a reservation, killing GRC and CRM while they run.
    #[arg(long)]
    exec: Option<u32>,
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
    let Arguments { calls, clients, kills, seed, dir, tight_kib, exec } = arguments;
    let mut grid =
        Grid::up(Plan { state_kib: tight_kib, ..Plan::new(dir) }, &install::programs()?, &mut |step| {
            eprintln!("storm: {step}")
        })?;
    if let Some(runs) = exec {
        let outcome = exec_storm::blow(&mut grid, runs, seed);
        let killed = grid.down(&mut |_| ());
        return tell_exec(&outcome?, &killed?);
    }
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

fn tell_exec(outcome: &exec_storm::Outcome, killed: &[String]) -> Result<()> {
    println!(
        "{} commands, {} kills; starts of one command at most {}",
        outcome.runs, outcome.kills, outcome.most_starts
    );
    for (name, list) in [
        ("started twice", &outcome.started_twice),
        ("output lost", &outcome.output_lost),
        ("output doubled or out of order", &outcome.output_doubled),
        ("not ended with their own code", &outcome.not_ended_well),
    ] {
        println!("{name}: {}", list.len());
        list.iter().take(10).for_each(|line| println!("  {line}"));
    }
    ensure!(outcome.is_clean(), "a command did not run once and whole");
    ensure!(killed.is_empty(), "had to be killed: {killed:?}");
    Ok(())
}
