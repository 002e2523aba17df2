//! The same with the agent, whose SETUP needs a CRM: in a whole grid, call after call from the
//! moment at which the agent is first seen, and with what its user is told in the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::inject::{FAULTS, NOT_REACHED, Sum};
use super::trace::{Fault, Role, Spot, Tracer, label, names};
use crate::process::{Identity, run as run_command, wait_until};
use crate::residue::Residue;
use crate::state::Plan;
use crate::world::Grid;

/// By when a reservation must stand, or be known to have failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one reservation came to.
struct Outcome {
    code: i32,
    said: String,
    hit: Option<String>,
    calls: usize,
}

/// Every `every`-th fault at the calls of an agent from its arrival until its sandbox is ready.
pub fn run(
    every: usize,
    programs: &Path,
    directory: Option<PathBuf>,
    say: &mut dyn FnMut(String),
) -> Result<Sum> {
    let pid = std::process::id();
    let directory = directory.unwrap_or_else(|| format!("/var/lib/gridpilot-test-{pid}-inject").into());
    let plan = Plan { sites: 1, nodes: 1, ..Plan::new(directory) };
    let mut grid = Grid::up_for(&format!("gridpilot-i{pid}"), plan, programs, &mut |_| ())?;
    let sum = all(&grid, every, say);
    // A tracer's children are waited for by it: whoever it saw end is not there for `down`.
    let killed = grid.down(&mut |_| ());
    let sum = sum?;
    ensure!(killed?.is_empty(), "not everything ended by itself");
    Ok(sum)
}

fn all(grid: &Grid, every: usize, say: &mut dyn FnMut(String)) -> Result<Sum> {
    let mut residue = Residue::before(grid)?;
    let mut sum = Sum::default();
    let clean = once(grid, None, &mut residue)?;
    ensure!(clean.code == 0, "a clean run ended with {}: {}", clean.code, clean.said);
    ensure!(residue.saw_a_sandbox(), "no sandbox was seen, so none could be missed");
    sum.calls.insert(Role::Agent, clean.calls);
    let every = if every == 1 { 1 } else { every | 1 };
    let turns = (0..clean.calls).flat_map(|number| FAULTS.map(|fault| (number, fault)));
    for (number, fault) in turns.step_by(every) {
        let outcome = once(grid, Some(Spot { role: Role::Monitor, number, fault }), &mut residue)?;
        let what = format!("agent {number} {} {fault:?}", outcome.hit.as_deref().unwrap_or("(not reached)"));
        sum.runs += 1;
        let left = residue.expect_none(grid).err().map(|error| format!("{what}: {error:#}"));
        sum.leave(left, say);
        let kind = match (&outcome.hit, outcome.code, fault) {
            (None, ..) => NOT_REACHED,
            (_, 0, _) => "built all the same",
            (_, _, Fault::Kill) => "agent killed",
            _ => "failed at a step",
        };
        *sum.ends.entry(kind).or_default() += 1;
        let told = ["site a", "a1"].iter().all(|part| outcome.said.contains(part));
        if outcome.code != 0 && !told {
            sum.nameless.push(format!("{what}: {}", outcome.said));
        }
        if sum.runs.is_multiple_of(10) {
            say(format!("{} runs, {} left, {} nameless", sum.runs, sum.left.len(), sum.nameless.len()));
        }
    }
    Ok(sum)
}

fn agents(grid: &Grid) -> Vec<Identity> {
    let pilots = grid.pilot_processes();
    pilots.iter().filter(|stat| stat.name == "node-agent").map(|stat| stat.identity).collect()
}

/// One reservation; afterwards it is over. What it is made of is noted when its agent comes and when
/// its user is told how it came out.
fn once(grid: &Grid, spot: Option<Spot>, residue: &mut Residue) -> Result<Outcome> {
    let before = agents(grid);
    let said = grid.state.path("log/said");
    let file = fs::File::create(&said)?;
    let mut command = grid.gridpilot_as_user()?;
    command.args(["--output-mode", "quiet", "reserve", "--wait", "--nodes", "a=1"]);
    let mut child =
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn().context("gridpilot")?;
    let client = i32::try_from(child.id())?;
    let mut agent = None;
    let seen = wait_until(PATIENCE, || {
        agent = agents(grid).into_iter().find(|one| !before.contains(one));
        agent.is_some()
    });
    ensure!(seen, "no agent comes");
    let agent = agent.context("no agent")?.pid;
    residue.observe(grid);
    let mut tracer = Tracer::seize(agent, spot)?;
    let deadline = Instant::now() + PATIENCE;
    // Our own children are told of by the same call: the client's end is what is waited for.
    while !tracer.ended.contains_key(&client) {
        tracer.go_on_to_next()?;
        if Instant::now() > deadline {
            drop(tracer.release());
            let _ = child.kill();
            bail!("{spot:?}: nobody is told anything for {} s", PATIENCE.as_secs());
        }
    }
    residue.observe(grid);
    let calls = tracer.calls.get(&Role::Monitor).cloned().unwrap_or_default();
    let hit = spot.filter(|_| tracer.hit).map(|spot| label(&calls, spot.number, &names())).transpose()?;
    let code = tracer.release().remove(&client).unwrap_or(-1);
    release_all(grid)?;
    Ok(Outcome { code, said: fs::read_to_string(&said)?, hit, calls: calls.len() })
}

/// Ends every reservation that is not over.
fn release_all(grid: &Grid) -> Result<()> {
    let mut open = Vec::new();
    let over = wait_until(PATIENCE, || {
        let views = grid
            .gridpilot_as_user()
            .and_then(|mut command| run_command(command.args(["--output-mode", "json", "reservations"])));
        let views: Value = serde_json::from_str(&views.unwrap_or_default()).unwrap_or_default();
        let views =
            views.as_array().or_else(|| views["reservations"].as_array()).cloned().unwrap_or_default();
        let of = |view: &Value, key: &str| view[key].as_str().unwrap_or_default().to_owned();
        open = views
            .iter()
            .filter(|view| !["ended", "failed"].contains(&of(view, "state").as_str()))
            .map(|view| of(view, "id"))
            .collect();
        for id in &open {
            let release = grid.gridpilot_as_user().and_then(|mut c| run_command(c.args(["release", id])));
            drop(release);
        }
        open.is_empty()
    });
    ensure!(over, "these do not end: {open:?}");
    Ok(())
}
