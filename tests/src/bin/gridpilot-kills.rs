//! `gridpilot-kills`: grids under real batch systems, whose pilots are ended in every way.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use gridpilot_tests::endings::deaths::{self, Death, NAMED_TIME, Told};
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
    /// Instead: nodes and whole sites die, and it is seen when their user reads which it was.
    #[arg(long)]
    deaths: bool,
    /// Where to keep the daemons' logs.
    #[arg(long)]
    logs: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match if arguments.deaths { die(&arguments) } else { kill(&arguments) } {
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
    let down = take_down(grid, logs.as_deref(), &bed.to_string());
    outcome.and(down)
}

/// Takes a grid down, after a copy of its daemons' logs; it goes also when they cannot be kept.
fn take_down(mut grid: Grid, logs: Option<&Path>, what: &str) -> Result<()> {
    let kept = logs.map_or(Ok(()), |logs| keep(&grid.state.path("log"), logs, what));
    let killed = grid.down(&mut |_| ())?;
    ensure!(killed.is_empty(), "had to be killed: {}", killed.join("; "));
    kept
}

fn keep(from: &Path, logs: &Path, what: &str) -> Result<()> {
    std::fs::create_dir_all(logs).with_context(|| format!("cannot keep logs in {}", logs.display()))?;
    let name = what.replace([',', ':'], "").replace(' ', "-");
    run(Command::new("cp").arg("-r").arg(from).arg(logs.join(name))).map(drop)
}

/// Each death in a grid with the lease that a site has when its config says nothing.
fn die(arguments: &Arguments) -> Result<()> {
    let usual = vec![Bed::Embedded, Bed::SlurmLinuxproc];
    let beds = if arguments.batch.is_empty() { &usual } else { &arguments.batch };
    let mut late = 0;
    println!("{:<17} {:<31} {:>6} {:>8} {:>8}  READ", "BATCH", "DEATH", "ROUNDS", "MEDIAN", "LONGEST");
    for &bed in beds {
        if let Some(missing) = bed.systems().missing(1).first() {
            println!("NOT TRIED: {bed}: {missing} is not on this machine");
            continue;
        }
        for death in Death::ALL {
            let plan = Plan { lease_s: None, ..deaths::plan(bed.systems(), arguments.dir.clone()) };
            let mut grid = Grid::up(plan, &install::programs()?, &mut |_| ())?;
            let all =
                (0..arguments.rounds).map(|_| deaths::happen(&mut grid, death)).collect::<Result<Vec<_>>>();
            take_down(grid, arguments.logs.as_deref(), &format!("{bed} {death}"))?;
            let mut all: Vec<Told> = all.with_context(|| format!("{bed}: {death}"))?;
            all.sort_by_key(|told| told.after);
            let (Some(median), Some(longest)) = (all.get(all.len() / 2), all.last()) else { continue };
            let seconds = |told: &Told| format!("{:.1} s", told.after.as_secs_f64());
            let (rounds, median, line) = (all.len(), seconds(median), &longest.line);
            println!("{bed:<17} {death:<31} {rounds:>6} {median:>8} {:>8}  {line}", seconds(longest));
            late += all.iter().filter(|told| told.after > NAMED_TIME).count();
        }
    }
    ensure!(late == 0, "{late} deaths were named later than after {} s", NAMED_TIME.as_secs());
    Ok(())
}
