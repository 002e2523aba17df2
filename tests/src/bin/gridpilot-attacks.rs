//! `gridpilot-attacks`: tries every entry of the attack list against the installed setuid program
//! and from inside the sandboxes of a grid. Needs root. It is three more programs: by the name
//! `node-agent` the agent that hands its place over, by the name `pilot` what scripts use.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use gridpilot_tests::install;
use gridpilot_tests::siege::attacks::{check, on_node, scripts_directory, table};
use gridpilot_tests::siege::grid::inside_grid;
use gridpilot_tests::siege::pilot::agent_role;
use gridpilot_tests::siege::script::{Place, Script};
use gridpilot_tests::siege::steps;

/// Tries all attacks and prints how each came out.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Every loop to its full length.
    #[arg(long)]
    full: bool,
    /// Only these entries, such as 19,41.
    #[arg(long, value_delimiter = ',')]
    only: Vec<u32>,
    /// Where the grid is made for attacks from inside.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    match act() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gridpilot-attacks: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act() -> Result<()> {
    agent_role()?;
    let mut words = std::env::args();
    let name = words.next().unwrap_or_default();
    if Path::new(&name).file_name() == Some("pilot".as_ref()) {
        return steps::run(&words.collect::<Vec<_>>());
    }
    let arguments = Arguments::parse();
    let mut scripts = Script::all(&scripts_directory())?;
    scripts.retain(|script| arguments.only.is_empty() || arguments.only.contains(&script.entry));
    let (inside, node): (Vec<_>, Vec<_>) = scripts.into_iter().partition(|one| one.place == Place::Inside);
    let programs = install::programs()?;
    // The grid first: afterwards this process is in namespaces of its own.
    let mut outcomes = inside_grid(&inside, arguments.full, &programs, arguments.dir)?;
    outcomes.extend(on_node(&node, arguments.full, &programs)?);
    outcomes.sort_by_key(|one| (one.script.entry, one.script.path.clone()));
    print!("{}", table(&outcomes));
    check(&outcomes)
}
