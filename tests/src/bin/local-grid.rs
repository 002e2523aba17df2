//! `local-grid`: a real grid on one machine, to try things out and to test against.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};
use gridpilot_tests::batch::{Proctrack, Systems};
use gridpilot_tests::links::Links;
use gridpilot_tests::node::{Hold, hold};
use gridpilot_tests::state::{DEFAULT_DIRECTORY, Driver, Plan, State};
use gridpilot_tests::world::{self, Grid};
use gridpilot_tests::{demo, install};

/// Makes a whole grid on this machine: sites as namespaces, with the real programs in them.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a grid and leave it running.
    Up(Shape),
    /// Print the lines that make `gridpilot` talk to the grid: eval "$(local-grid env)".
    Env(Place),
    /// Take the grid away; nothing of it is left. Fine when there is none.
    Down(Place),
    /// Make a grid, run an MPI program over its sites, take it away again.
    Demo(Shape),
    /// Be one machine of a grid.
    #[command(hide = true)]
    Hold(Hold),
}

#[derive(Args)]
struct Place {
    /// Where the grid lives. Every directory above must be root's and writable by nobody else.
    #[arg(long, default_value = DEFAULT_DIRECTORY)]
    dir: PathBuf,
}

#[derive(Args)]
struct Shape {
    #[command(flatten)]
    place: Place,
    /// Number of sites: a, b, c, ...
    #[arg(long, default_value_t = 2)]
    sites: u32,
    /// Nodes of each site.
    #[arg(long, default_value_t = 2)]
    nodes: u32,
    /// How a sandbox gets its interface.
    #[arg(long, value_enum, default_value_t)]
    driver: Driver,
    /// What starts the pilots, with real daemons: slurm, grid-engine or embedded, or of each site
    /// like a=slurm,b=grid-engine.
    #[arg(long, default_value = "embedded")]
    batch: Systems,
    /// How Slurm knows the processes of a step.
    #[arg(long, value_enum, default_value_t)]
    slurm_proctrack: Proctrack,
    #[command(flatten)]
    links: Links,
}

impl Shape {
    fn plan(self) -> Plan {
        let Self { place, sites, nodes, driver, batch, slurm_proctrack, links } = self;
        let batch = Systems { proctrack: slurm_proctrack, ..batch };
        Plan { sites, nodes, driver, batch, links, ..Plan::new(place.dir) }
    }
}

fn main() -> ExitCode {
    match act(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("local-grid: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(verb: Verb) -> Result<()> {
    let mut say = |step: &str| eprintln!("local-grid: {step}");
    match verb {
        Verb::Up(shape) => {
            let grid = Grid::up(shape.plan(), &install::programs()?, &mut say)?;
            let dir = grid.state.plan.directory.display();
            eprintln!("local-grid: up; now: eval \"$(local-grid env --dir {dir})\" && gridpilot sites");
            Ok(())
        }
        Verb::Env(place) => env(&place.dir),
        Verb::Down(place) => {
            let killed = world::down(&place.dir, &mut say)?;
            for process in &killed {
                eprintln!("local-grid: had to be killed: {process}");
            }
            ensure!(killed.is_empty(), "the grid is gone, but not everything ended by itself");
            Ok(())
        }
        Verb::Demo(shape) => demo::run(shape.plan()),
        Verb::Hold(args) => hold(&args),
    }
}

fn env(dir: &Path) -> Result<()> {
    let state = State::load(dir)?;
    println!("export GRIDPILOT_GRC='{}'", state.socket().display());
    println!("export PATH='{}':\"$PATH\"", state.path("bin").display());
    Ok(())
}
