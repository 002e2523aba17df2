//! Commands while the GRC and a CRM are killed at random and come back within the lease: each
//! starts once, and its output is whole and in order.
//!
//! ```text
//! round: some commands that note their starts -> kill -9 of GRC, CRM or both -> started again -> all end
//! ```

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::process::{run, wait_until};
use crate::storm::Dice;
use crate::world::Grid;

/// Commands of one round, at once.
const AT_ONCE: u32 = 10;
/// Lines that each prints, and how long it pauses behind each.
const LINES: u32 = 25;
const PAUSE_S: &str = "0.08";
/// How long one round may take.
const ROUND_TIME: Duration = Duration::from_secs(120);
/// What every command ends with.
const CODE: u64 = 7;

/// What came of it. All but the first two are failures.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub runs: u32,
    pub kills: u32,
    /// The most starts of one command.
    pub most_starts: usize,
    pub started_twice: Vec<String>,
    pub output_lost: Vec<String>,
    pub output_doubled: Vec<String>,
    pub not_ended_well: Vec<String>,
}

impl Outcome {
    pub fn is_clean(&self) -> bool {
        self.started_twice.is_empty()
            && self.output_lost.is_empty()
            && self.output_doubled.is_empty()
            && self.not_ended_well.is_empty()
    }
}

fn typed(grid: &Grid, words: &[&str]) -> Result<String> {
    run(grid.gridpilot_as_user()?.args(words).stdin(Stdio::null()))
}

/// Kills a daemon; 0 is the GRC, then the sites.
fn kill(grid: &Grid, name: &str) -> Result<()> {
    let identity = grid.state.daemon(name)?.identity;
    identity.signal(Signal::SIGKILL);
    ensure!(wait_until(Duration::from_secs(10), || !identity.alive()), "{name} survives kill -9");
    Ok(())
}

/// Runs commands on both sites' members, so many in all.
pub fn blow(grid: &mut Grid, runs: u32, seed: u64) -> Result<Outcome> {
    let mut dice = Dice(seed);
    let mut outcome = Outcome::default();
    let starts = grid.account()?.home.join("exec-storm-starts");
    let _ = std::fs::remove_file(&starts);
    let words = ["--output-mode", "quiet", "reserve", "--wait", "--time", "3h", "--nodes", "a=1,b=1"];
    let reservation = typed(grid, &words)?.trim().to_owned();
    while outcome.runs < runs {
        round(grid, &reservation, &mut dice, &mut outcome)?;
        println!("{} commands, {} kills", outcome.runs, outcome.kills);
    }
    let text = std::fs::read_to_string(&starts).context("nothing started")?;
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    for job in text.lines() {
        *counted.entry(job).or_default() += 1;
    }
    outcome.most_starts = counted.values().copied().max().unwrap_or(0);
    let twice = counted.iter().filter(|(_, count)| **count > 1);
    outcome.started_twice = twice.map(|(job, count)| format!("{job}: {count} times")).collect();
    let _ = std::fs::remove_file(&starts);
    typed(grid, &["release", &reservation])?;
    Ok(outcome)
}

fn round(grid: &mut Grid, reservation: &str, dice: &mut Dice, outcome: &mut Outcome) -> Result<()> {
    let script = format!(
        "echo $GRIDPILOT_JOB >> $HOME/exec-storm-starts; i=0; while [ $i -lt {LINES} ]; do \
         echo line $i; i=$((i+1)); sleep {PAUSE_S}; done; exit {CODE}"
    );
    let words = ["--output-mode", "quiet", "submit", "--in", reservation, "--", "sh", "-c", &script];
    let mut jobs = Vec::new();
    for _ in 0..AT_ONCE {
        jobs.push(typed(grid, &words)?.trim().to_owned());
        std::thread::sleep(Duration::from_millis(dice.below(30)));
    }
    let which = dice.below(3);
    std::thread::sleep(Duration::from_millis(dice.below(1200)));
    let (grc, crm) = (which != 1, which != 0);
    if grc {
        kill(grid, "grc")?;
    }
    if crm {
        kill(grid, "crm-a")?;
    }
    outcome.kills += u32::from(grc) + u32::from(crm);
    std::thread::sleep(Duration::from_millis(dice.below(1000)));
    if crm {
        grid.start_crm(0)?;
    }
    if grc {
        grid.restart_grc()?;
    }
    grid.wait_connected()?;
    let whole: String = (0..LINES).map(|n| format!("line {n}\n")).collect();
    let end = Instant::now() + ROUND_TIME;
    for job in jobs {
        let state = loop {
            let view: serde_json::Value =
                serde_json::from_str(&typed(grid, &["--output-mode", "json", "show", &job])?)?;
            let state = view["state"].as_str().unwrap_or("").to_owned();
            if ["done", "failed", "cancelled"].contains(&state.as_str()) {
                break view;
            }
            if Instant::now() > end {
                bail!("{job} is {state} for ever");
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        outcome.runs += 1;
        if state["exit_code"].as_u64() != Some(CODE) {
            outcome.not_ended_well.push(format!("{job}: {state}"));
        }
        let mut log: Command = grid.gridpilot_as_user()?;
        let text = run(log.args(["log", &job]).stdin(Stdio::null()))?;
        let lines = text.lines().count();
        if text.len() < whole.len() {
            outcome.output_lost.push(format!("{job}: {lines} of {LINES} lines"));
        } else if text != whole {
            outcome.output_doubled.push(format!("{job}: {lines} of {LINES} lines, or out of order"));
        }
    }
    Ok(())
}
