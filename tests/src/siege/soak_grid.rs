//! The soak through a whole grid: reservations made and ended in every way by its user, its GRC,
//! its CRM and real agents, several at a time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::soak::{Ending, MIX, usage};
use crate::process::{self, Identity, run as run_command, wait_until};
use crate::residue::Residue;
use crate::state::Plan;
use crate::world::Grid;

/// Reservations at the same time: one node has four slots.
const AT_ONCE: usize = 3;
const END_TIME: Duration = Duration::from_secs(60);

/// One grid of one node, and what was seen of its pilots while they stood.
struct Soak<'a> {
    grid: &'a Grid,
    residue: Mutex<Residue>,
}

/// Runs `count` reservations and says what they came to.
pub fn run(
    count: usize,
    programs: &Path,
    directory: Option<PathBuf>,
    say: &mut dyn FnMut(String),
) -> Result<String> {
    let pid = std::process::id();
    let directory = directory.unwrap_or_else(|| format!("/var/lib/gridpilot-test-{pid}-soak").into());
    let plan = Plan { sites: 1, nodes: 1, ..Plan::new(directory) };
    let mut grid = Grid::up_for(&format!("gridpilot-k{pid}"), plan, programs, &mut |_| ())?;
    let text = all(&grid, count, say);
    let killed = grid.down(&mut |_| ())?;
    let text = text?;
    ensure!(killed.is_empty(), "not everything ended by itself: {killed:?}");
    Ok(text)
}

fn all(grid: &Grid, count: usize, say: &mut dyn FnMut(String)) -> Result<String> {
    let begin = Instant::now();
    let soak = Soak { grid, residue: Mutex::new(Residue::before(grid)?) };
    let mut text = String::new();
    let mut ends: BTreeMap<Ending, usize> = BTreeMap::new();
    let mut done = 0;
    // The first tenth warms the daemons; what they use grows only by what they forget to give back.
    for part in [count.div_ceil(10), count - count.div_ceil(10)] {
        let next = AtomicUsize::new(done);
        let end = done + part;
        let failed: Mutex<Vec<String>> = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= end {
                            return;
                        }
                        if let Err(error) = soak.one(MIX[number % MIX.len()]) {
                            let mut failed = failed.lock().unwrap_or_else(|e| e.into_inner());
                            failed.push(format!(
                                "reservation {number} ({:?}): {error:#}",
                                MIX[number % MIX.len()]
                            ));
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner().unwrap_or_else(|e| e.into_inner());
        ensure!(
            failed.is_empty(),
            "{} failed:\n  {}",
            failed.len(),
            failed[..failed.len().min(10)].join("\n  ")
        );
        (done..end).for_each(|number| *ends.entry(MIX[number % MIX.len()]).or_default() += 1);
        done = end;
        {
            let residue = soak.residue();
            ensure!(residue.saw_a_sandbox(), "no sandbox was seen, so none could be missed");
            residue.expect_none(grid)?;
        }
        for daemon in &grid.state.daemons {
            let (descriptors, kib) = usage(daemon.identity.pid)?;
            let _ = writeln!(text, "{} after {done}: {descriptors} descriptors, {kib} KiB", daemon.name);
        }
        say(format!("{done} reservations in {:.0} s", begin.elapsed().as_secs_f64()));
    }
    let head = format!(
        "{count} sandboxes in {:.0} s through GRC, CRM and agents: {ends:?}\n",
        begin.elapsed().as_secs_f64()
    );
    Ok(format!("{head}{text}left: 0\n"))
}

impl Soak<'_> {
    fn residue(&self) -> MutexGuard<'_, Residue> {
        self.residue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn type_in(&self, words: &[&str]) -> Result<String> {
        run_command(self.grid.gridpilot_as_user()?.args(words))
    }

    fn state(&self, id: &str) -> Result<String> {
        let view: Value = serde_json::from_str(&self.type_in(&["--output-mode", "json", "show", id])?)?;
        Ok(view["state"].as_str().unwrap_or_default().to_owned())
    }

    fn one(&self, ending: Ending) -> Result<()> {
        let mut words = vec!["--output-mode", "quiet", "reserve", "--nodes", "a=1"];
        if ending == Ending::ErrorAtSetup {
            // More than the node's policy lets anybody write.
            words.extend(["--disk", "100GiB"]);
        }
        let id = self.type_in(&words)?.trim().to_owned();
        let reached = |wanted: &[&str]| {
            let mut last = String::new();
            let there = wait_until(END_TIME, || {
                last = self.state(&id).unwrap_or_default();
                wanted.contains(&last.as_str())
            });
            ensure!(there, "{id} is {last}, not {wanted:?}");
            Ok(())
        };
        if ending == Ending::ErrorAtSetup {
            // It may be tried again, or be over: either way its user is told why.
            let mut told = String::new();
            let named = wait_until(END_TIME, || {
                told = self.type_in(&["explain", &id]).unwrap_or_default();
                told.contains("upper_bytes") && told.contains("a1")
            });
            ensure!(named, "nobody is told why {id} is not built: {told}");
        } else {
            reached(&["ready"])?;
            self.residue().observe(self.grid);
        }
        let victim = match ending {
            Ending::LauncherKilled => Some(("launcher", Signal::SIGKILL)),
            Ending::MonitorKilled => Some(("node-manager", Signal::SIGKILL)),
            Ending::AgentStopped => Some(("node-agent", Signal::SIGSTOP)),
            _ => None,
        };
        if let Some((program, signal)) = victim {
            let [monitor, victim] = self.processes_of(&id, program)?;
            victim.signal(signal);
            ensure!(wait_until(END_TIME, || !monitor.alive()), "the monitor of {id} outlives its {program}");
        }
        // What lost its pilot may be about to get another; released it ends all the same.
        let _ = self.type_in(&["release", &id]);
        reached(&["ended", "failed"])
    }

    /// The monitor and another program of the pilot of a reservation: that whose sandbox has the
    /// reservation's address.
    fn processes_of(&self, id: &str, program: &str) -> Result<[Identity; 2]> {
        let view: Value = serde_json::from_str(&self.type_in(&["--output-mode", "json", "show", id])?)?;
        let address = view["parts"][0]["members"][0]["address"].as_str().context("no address")?.to_owned();
        let pilots = self.grid.pilot_processes();
        let init = pilots
            .iter()
            .find(|stat| {
                let table = std::fs::read_to_string(format!("/proc/{}/net/fib_trie", stat.identity.pid));
                stat.name == "node-manager"
                    && table
                        .is_ok_and(|text| text.lines().any(|line| line.ends_with(&format!("|-- {address}"))))
            })
            .with_context(|| format!("no sandbox has {address}"))?;
        let monitor = process::stat(init.parent).context("it has no monitor")?;
        let found = match program {
            "node-manager" => Some(monitor.identity),
            "launcher" => Identity::of(monitor.parent),
            _ => pilots
                .iter()
                .find(|stat| stat.name == program && stat.parent == monitor.identity.pid)
                .map(|stat| stat.identity),
        };
        Ok([monitor.identity, found.with_context(|| format!("no {program} of {id}"))?])
    }
}
