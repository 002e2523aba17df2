//! `gridpilot-kills`: grids under real batch systems, whose pilots are ended in every way.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use gridpilot_tests::endings::table::Table;
use gridpilot_tests::endings::{Bed, nodes_for, round};
use gridpilot_tests::install;
use gridpilot_tests::process::run;
use gridpilot_tests::state::Plan;
use gridpilot_tests::world::Grid;

/// Ends pilots in every way under each batch system and counts what is left. Needs root.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How often each ending is tried.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Only under these.
    #[arg(long, value_enum)]
    batch: Vec<Bed>,
    /// Where a grid lives meanwhile.
    #[arg(long, default_value = "/var/lib/gridpilot-kills")]
    dir: PathBuf,
    /// Where to keep the daemons' logs.
    #[arg(long)]
    logs: Option<PathBuf>,
}

fn main() -> ExitCode {
    match kill(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gridpilot-kills: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn kill(arguments: &Arguments) -> Result<()> {
    let all = Bed::ALL.to_vec();
    let beds = if arguments.batch.is_empty() { &all } else { &arguments.batch };
    let mut table = Table::default();
    let mut failed = Vec::new();
    for &bed in beds {
        match bed.systems().missing(1).first() {
            Some(missing) => table.absent(bed, missing),
            None => {
                let outcome = under(bed, arguments, &mut table);
                failed.extend(outcome.err().map(|error| format!("{bed}: {error:#}")));
            }
        }
    }
    println!("{table}");
    table.complaints.iter().chain(&failed).for_each(|line| println!("  {line}"));
    ensure!(table.complaints.is_empty() && failed.is_empty(), "not every pilot ended as promised");
    Ok(())
}

fn under(bed: Bed, arguments: &Arguments, table: &mut Table) -> Result<()> {
    let Arguments { rounds, dir, logs, .. } = arguments;
    let endings = bed.endings();
    let plan = Plan { sites: 1, nodes: nodes_for(&endings), batch: bed.systems(), ..Plan::new(dir.clone()) };
    let mut grid = Grid::up(plan, &install::programs()?, &mut |_| ())?;
    let mut outcome = Ok(());
    for number in 1..=*rounds {
        let begin = Instant::now();
        match round::round(&mut grid, bed, &endings) {
            Ok(outcome) => table.add(bed, &outcome),
            Err(error) => {
                outcome = Err(error.context(format!("round {number}")));
                break;
            }
        }
        eprintln!("{bed}: round {number} of {rounds} took {:.1} s", begin.elapsed().as_secs_f64());
    }
    // Whatever cannot be kept, the grid goes.
    let kept = logs.as_deref().map_or(Ok(()), |logs| keep(&grid.state.path("log"), logs, bed));
    let killed = grid.down(&mut |_| ())?;
    outcome?;
    kept?;
    ensure!(killed.is_empty(), "had to be killed: {}", killed.join("; "));
    Ok(())
}

/// Copies the daemons' logs of a bed below a directory.
fn keep(from: &Path, logs: &Path, bed: Bed) -> Result<()> {
    std::fs::create_dir_all(logs).with_context(|| format!("cannot keep logs in {}", logs.display()))?;
    run(Command::new("cp").arg("-r").arg(from).arg(logs.join(bed.to_string().replace(", ", "-")))).map(drop)
}
