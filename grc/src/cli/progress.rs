//! How far it is, on standard error: one line redrawn on a terminal, plain lines elsewhere. Every
//! line names what is waited for and by when it must be over.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use protocol::job::{JobState, JobView};
use protocol::reservation::{ReservationState, ReservationView};

use super::args::OutputMode;
use super::table::{moment, safe, waiting, width};
use super::values::show_duration;
use super::when::now_s;

/// Counts that grow fast are not worth a plain line each.
const PLAIN_LINE_TIME: Duration = Duration::from_secs(2);

/// One step of the way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Phase {
    /// What it is, the same while only the counts move.
    pub name: &'static str,
    /// The whole sentence.
    pub text: String,
    /// Seconds since the epoch.
    pub deadline_s: Option<u64>,
}

/// The line; silent in json and quiet mode.
#[derive(Debug)]
pub struct Progress {
    mode: Mode,
    phase: Option<Phase>,
    /// A line stands on the terminal and is in the way of other output.
    drawn: bool,
    plain_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Silent,
    Plain,
    Redrawn,
}

impl Progress {
    pub fn new(mode: OutputMode) -> Self {
        let mode = match mode {
            OutputMode::Json | OutputMode::Quiet => Mode::Silent,
            OutputMode::Cli if io::stderr().is_terminal() => Mode::Redrawn,
            OutputMode::Cli => Mode::Plain,
        };
        Self { mode, phase: None, drawn: false, plain_at: None }
    }

    /// Shows a step; the same one again shows nothing new.
    pub fn show(&mut self, phase: Phase) {
        if self.phase.as_ref() == Some(&phase) {
            return;
        }
        let same_step = self.phase.as_ref().is_some_and(|shown| shown.name == phase.name);
        match self.mode {
            Mode::Silent => {}
            Mode::Redrawn => {
                self.phase = Some(phase);
                self.tick();
                return;
            }
            Mode::Plain => {
                let soon = self.plain_at.is_some_and(|at| at.elapsed() < PLAIN_LINE_TIME);
                if !(same_step && soon) {
                    let by = phase.deadline_s.map(|s| format!(" (by {})", moment(s))).unwrap_or_default();
                    line(&format!("gridpilot: {}{by}\n", phase.text));
                    self.plain_at = Some(Instant::now());
                }
            }
        }
        self.phase = Some(phase);
    }

    /// Redraws the time that is left; wanted about once a second.
    pub fn tick(&mut self) {
        let (Mode::Redrawn, Some(phase)) = (self.mode, &self.phase) else { return };
        let mut text = phase.text.clone();
        if let Some(deadline) = phase.deadline_s {
            let left = show_duration(deadline.saturating_sub(now_s()));
            text.push_str(&format!(" (by {}, {left} left)", moment(deadline)));
        }
        let columns = width(&io::stderr()).map_or(80, usize::from);
        let cut: String = text.chars().take(columns.saturating_sub(1)).collect();
        line(&format!("\r\x1b[K{cut}"));
        self.drawn = true;
    }

    /// Takes the line away before anything else is printed.
    pub fn clear(&mut self) {
        if self.drawn {
            line("\r\x1b[K");
            self.drawn = false;
        }
        self.phase = None;
    }

    /// A sentence that stays, for people.
    pub fn say(&mut self, text: &str) {
        if self.mode != Mode::Silent {
            self.clear();
            line(&format!("gridpilot: {text}\n"));
        }
    }
}

/// Whatever ends the wait, the next line begins at the margin.
impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn line(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

/// Where a reservation stands, as a step; `None` when there is nothing more to wait for.
pub fn of_reservation(view: &ReservationView) -> Option<Phase> {
    let sum = |count: fn(&protocol::reservation::Progress) -> u32| -> u32 {
        view.parts.iter().map(|part| count(&part.progress)).fold(0, u32::saturating_add)
    };
    let members: u32 = view.parts.iter().map(|part| part.nodes).fold(0, u32::saturating_add);
    let id = view.id;
    let (name, text) = match &view.state {
        ReservationState::Waiting => {
            ("waiting", format!("{id} waiting for what it asks; `gridpilot explain {id}` says what"))
        }
        ReservationState::Holding => ("holding", format!("{id} holding {members} nodes at {}", sites(view))),
        ReservationState::Booked => {
            ("booked", format!("{id} booked from {} at {}", moment(view.starts_s), sites(view)))
        }
        ReservationState::Starting => {
            let (arrived, built) = (sum(|p| p.arrived), sum(|p| p.built));
            if arrived < members {
                (
                    "pilots",
                    format!("{id} pilots in {arrived} of {members} at {}{}", sites(view), queues(view)),
                )
            } else {
                ("keys", format!("{id} keys of {built} of {members} members"))
            }
        }
        ReservationState::Joining => {
            ("joining", format!("{id} keys exchanged, {} of {members} members joined", sum(|p| p.joined)))
        }
        // Its sandboxes stand before the window begins; jobs start in it.
        ReservationState::Ready if view.starts_s > now_s() => {
            ("early", format!("{id} ready; its window begins {}", moment(view.starts_s)))
        }
        ReservationState::Ready => ("ready", format!("{id} ready")),
        ReservationState::Ending => ("ending", format!("{id} ending")),
        ReservationState::Ended | ReservationState::Failed(_) => return None,
    };
    // A ready reservation's deadline is its end, which nobody waits for.
    let deadline_s = view.deadline_s.filter(|_| view.state != ReservationState::Ready);
    Some(Phase { name, text, deadline_s })
}

/// What is waited for at each site that has pilots in a queue, or holds some for the others.
fn queues(view: &ReservationView) -> String {
    let say = |part: &protocol::reservation::PartView| {
        let queue = part.queue.as_ref()?;
        Some(format!("; {}: {}", safe(&part.site), waiting(queue)))
    };
    view.parts.iter().filter_map(say).collect()
}

fn sites(view: &ReservationView) -> String {
    view.parts.iter().map(|part| safe(&part.site)).collect::<Vec<_>>().join(", ")
}

/// A running job, as a step; before that its reservation says more.
pub fn of_job(view: &JobView) -> Option<Phase> {
    let JobState::Running = view.state else { return None };
    let place = view.head.as_ref().map(|head| format!(" on {}", safe(head))).unwrap_or_default();
    Some(Phase { name: "running", text: format!("{} running{place}", view.id), deadline_s: None })
}
