//! Every system call of a build, made the last one or made to fail, one at a time; afterwards
//! nothing may be left, and who asked must know what went wrong.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use grant::{Driver, Grant};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node_agent::setup::build_failure;
use node_manager::channel;
use node_manager::operation::{Notice, RECORD_BYTES_MAX, Request};
use protocol::refusal::Failure;

use super::bed::Bed;
use super::pilot::{Manner, Pilot, sign};
use super::trace::{Calls, Fault, Role, Spot, Tracer, label, names};

/// What is done at each call.
pub const FAULTS: [Fault; 4] =
    [Fault::Kill, Fault::Error(Errno::ENOSPC), Fault::Error(Errno::EPERM), Fault::Error(Errno::EMFILE)];
/// A build that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(40);

/// The kind of end of a run in which the call was never made.
pub const NOT_REACHED: &str = "not reached";

/// What the runs came to.
#[derive(Debug, Default)]
pub struct Sum {
    pub runs: usize,
    /// By kind of end: built all the same, failed at a step, ended, killed.
    pub ends: BTreeMap<&'static str, usize>,
    pub steps: BTreeMap<String, usize>,
    /// Things left on the node, with the run.
    pub left: Vec<String>,
    /// Ends of which nobody is told step, site, node and cause.
    pub nameless: Vec<String>,
    pub calls: BTreeMap<Role, usize>,
}

/// Runs every `every`-th fault of a build with a driver: call after call, one fault after another.
/// (An even number is taken one higher, so that all four faults have their turn.)
pub fn run(bed: &Bed, driver: Driver, every: usize, say: &mut dyn FnMut(String)) -> Result<Sum> {
    let mut sum = Sum::default();
    let clean = once(bed, driver, None)?;
    ensure!(matches!(clean.end, End::Built), "a clean run ended as {:?}", clean.end);
    let names = names();
    let mut turn = 0;
    for (&role, calls) in &clean.calls {
        sum.calls.insert(role, calls.len());
        for number in 0..calls.len() {
            let place = format!("{role:?} {number} {}", label(calls, number, &names)?).to_lowercase();
            for fault in FAULTS {
                turn += 1;
                if turn % (if every == 1 { 1 } else { every | 1 }) != 0 {
                    continue;
                }
                let spot = Spot { role, number, fault };
                let what = format!("{} {place} {fault:?}", driver.name());
                let outcome = once(bed, driver, Some(spot)).with_context(|| what.clone())?;
                sum.add(&what, fault, outcome, say);
                if sum.runs % 200 == 0 {
                    say(format!(
                        "{} runs, {} left, {} nameless",
                        sum.runs,
                        sum.left.len(),
                        sum.nameless.len()
                    ));
                }
            }
        }
    }
    Ok(sum)
}

/// How a build ended.
#[derive(Debug)]
enum End {
    Built,
    Failed(String, Failure),
    Ended,
    /// The monitor is dead; what its Launcher said, and its exit code.
    Dead(String, i32),
}

struct Outcome {
    end: End,
    calls: Calls,
    left: Vec<String>,
    hit: bool,
}

fn once(bed: &Bed, driver: Driver, spot: Option<Spot>) -> Result<Outcome> {
    let manner = Manner { launcher_of: Some(bed.accounts.user), ..Manner::default() };
    let mut pilot = Pilot::start(&manner)?.map_err(|refused| anyhow!("{refused:?}"))?;
    let mut tracer = Tracer::seize(pilot.monitor, spot)?;
    // With limits, so that cgroups are made as well.
    let grant = Grant { driver, pids: 50, ..pilot.grant() };
    channel::send(&pilot.operations, &sign(&grant).encode(), &[])?;
    let heard = listen(&pilot, &mut tracer)?;
    let (hit, calls) = (tracer.hit, tracer.calls.clone());
    let mut ended = tracer.release();
    let end = match heard {
        Some(Notice::Built) => {
            // It was not hindered: the end must be a clean one.
            let _ = pilot.ask(&Request::TearDown);
            End::Built
        }
        Some(Notice::Failed { step, errno, detail }) => {
            let failure = build_failure(step, errno, &detail).at_node(&"a1".parse()?).at_site(&"a".parse()?);
            End::Failed(format!("{step:?}"), failure)
        }
        Some(Notice::Ended { .. }) => End::Ended,
        Some(other) => return Err(anyhow!("it said {other:?}")),
        None => End::Dead(String::new(), 0),
    };
    drop(pilot.leash);
    let launcher = pilot.launcher.id() as i32;
    let code = match ended.remove(&launcher) {
        Some(code) => code,
        None => {
            if !matches!(end, End::Dead(..)) {
                let _ = kill(Pid::from_raw(launcher), Signal::SIGTERM);
            }
            super::pilot::wait_for(&mut pilot.launcher)?
        }
    };
    let mut said = String::new();
    pilot.launcher.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
    let end = if let End::Dead(..) = end { End::Dead(said, code) } else { end };
    let left = bed.ground.wait_until_nothing_is_left(bed.accounts);
    Ok(Outcome { end, calls, left, hit })
}

/// What the monitor says of the build; nothing when it died.
fn listen(pilot: &Pilot, tracer: &mut Tracer) -> Result<Option<Notice>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut fds = [PollFd::new(pilot.operations.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, 0u16)? > 0 {
            return match channel::receive(&pilot.operations, RECORD_BYTES_MAX) {
                Ok(Some(datagram)) => {
                    Notice::decode(&datagram.bytes).map(Some).map_err(|error| anyhow!("{error:?}"))
                }
                _ => Ok(None),
            };
        }
        ensure!(Instant::now() < deadline, "it hangs");
        tracer.go_on_to_next()?;
    }
}

impl Sum {
    fn add(&mut self, what: &str, fault: Fault, outcome: Outcome, say: &mut dyn FnMut(String)) {
        self.runs += 1;
        self.leave(outcome.left.iter().map(|left| format!("{what}: {left}")), say);
        let kind = match &outcome.end {
            _ if !outcome.hit => NOT_REACHED,
            End::Built => "built all the same",
            End::Failed(step, failure) => {
                *self.steps.entry(step.clone()).or_default() += 1;
                let text = failure.to_string();
                let whole = ["site a", "a1", "cannot"].iter().all(|part| text.contains(part));
                // After "cannot do this" there must be a reason.
                let reason = text.contains(": ") && text.lines().count() <= 3;
                if !whole || !reason {
                    self.nameless.push(format!("{what}: {text}"));
                }
                "failed at a step"
            }
            End::Ended => "ended with a reason",
            End::Dead(said, code) => {
                let names = |line: &str| line.contains("NodeManager") || line.starts_with("node-manager: ");
                let lines: Vec<&str> = said.lines().filter(|line| !line.contains("received")).collect();
                // The Launcher's words and its code are what the CRM tells, with site and node; an
                // agent that is not told any more says so itself.
                let complaint = said.lines().any(|line| line.starts_with("node-manager: "));
                let told = complaint || *code != 0 && lines.last().is_some_and(|line| names(line));
                if !told {
                    self.nameless.push(format!("{what}: code {code}: {said}"));
                }
                if fault == Fault::Kill { "monitor killed" } else { "monitor gave up" }
            }
        };
        *self.ends.entry(kind).or_default() += 1;
    }

    /// Notes what is left of a run, and says it at once: the runs after it may take hours.
    pub fn leave(&mut self, left: impl IntoIterator<Item = String>, say: &mut dyn FnMut(String)) {
        for left in left {
            say(format!("left: {left}"));
            self.left.push(left);
        }
    }

    /// Whether anything was shown by it, and all of it was as promised.
    ///
    /// # Errors
    /// No run at all, faults that mostly hit nothing, something left, or something not named.
    pub fn check(&self) -> Result<()> {
        let missed = self.ends.get(NOT_REACHED).copied().unwrap_or_default();
        ensure!(self.runs > 0, "no fault was tried");
        ensure!(
            missed * 2 < self.runs,
            "{missed} of {} faults came too late to hit anything, so they say nothing",
            self.runs
        );
        ensure!(self.left.is_empty() && self.nameless.is_empty(), "something is left, or not named");
        Ok(())
    }

    /// Together with another sum.
    pub fn and(mut self, other: Sum) -> Sum {
        self.runs += other.runs;
        for (kind, count) in other.ends {
            *self.ends.entry(kind).or_default() += count;
        }
        for (step, count) in other.steps {
            *self.steps.entry(step).or_default() += count;
        }
        for (role, count) in other.calls {
            *self.calls.entry(role).or_default() += count;
        }
        self.left.extend(other.left);
        self.nameless.extend(other.nameless);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(reached: usize, missed: usize) -> Sum {
        let ends = BTreeMap::from([("failed at a step", reached), (NOT_REACHED, missed)]);
        Sum { runs: reached + missed, ends, ..Sum::default() }
    }

    #[test]
    fn faults_that_hit_nothing_show_nothing() {
        assert!(sum(10, 0).check().is_ok());
        assert!(sum(10, 9).check().is_ok());
        for (reached, missed) in [(0, 0), (0, 10), (5, 5), (1, 9)] {
            assert!(sum(reached, missed).check().is_err(), "{reached} hit, {missed} did not");
        }
    }

    #[test]
    fn a_leftover_is_said_when_it_is_found_and_fails_the_whole() {
        let mut sum = sum(10, 0);
        let mut said = Vec::new();
        sum.leave(["a link".to_owned()], &mut |text| said.push(text));
        assert_eq!(said, ["left: a link"]);
        assert!(sum.check().is_err());
        let nameless = Sum { nameless: vec!["an error".to_owned()], ..super::tests::sum(10, 0) };
        assert!(nameless.check().is_err());
    }
}
