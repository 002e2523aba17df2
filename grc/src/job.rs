//! One job: its machine and what is known of it.
//!
//! ```text
//! Waiting --start--> Running --all exited--> Over
//!    |                  | \                   ^ ^
//!    |                  |  `--lost------------' |
//!    |       stop wanted|                       |
//!    |                  v                       |
//!    |               Stopping --all exited, lost, or given up
//!    `---stop wanted, lost----------------------'
//! ```
//! Stopping is SIGTERM, SIGKILL after the job's grace, and given up [`KILL_TIME`] after that: the
//! members say that a command ended when none of its processes is left. A job is stopped because its
//! user cancels it or because one of its members could not start it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::ids::{Epoch, JobId, MemberNumber, RequestId, ReservationId};
use protocol::job::{Command, ExitStatus, Hits, JobState, Target};
use protocol::names::{HostName, Label, SiteName, Text, UserName};

use crate::record::{SavedJob, SavedRun};

/// Between SIGKILL and giving up.
pub const KILL_TIME: Duration = Duration::from_secs(10);
pub const SIGTERM: u8 = 15;
pub const SIGKILL: u8 = 9;
/// Longest readable form of a command, in characters.
const SUMMARY_CHARS_MAX: usize = 160;

/// Where a job stands; drawn above. How it ended stands in [`Job::state`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    Waiting,
    Running,
    Stopping,
    Over,
}

/// What can happen to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Happening {
    /// Its reservation is ready.
    Start,
    StopWanted,
    AllExited,
    /// Its reservation is going down, or stopping led nowhere.
    Lost,
}

/// What the owner does on an arrow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    Exec,
    Terminate,
    Conclude,
}

impl Stage {
    /// Every arrow of the picture is one arm; what is late changes nothing.
    pub fn step(self, happening: Happening) -> (Self, &'static [Order]) {
        use Happening::*;
        use Stage::*;
        match (self, happening) {
            (Waiting, Start) => (Running, &[Order::Exec]),
            (Running, StopWanted) => (Stopping, &[Order::Terminate]),
            (Waiting, StopWanted | Lost) => (Over, &[Order::Conclude]),
            (Running | Stopping, AllExited | Lost) => (Over, &[Order::Conclude]),
            (Waiting, AllExited)
            | (Running | Stopping, Start)
            | (Stopping, StopWanted)
            | (Over, Start | StopWanted | AllExited | Lost) => (self, &[]),
        }
    }
}

/// A job with everything that the owner knows of it. Times are on the owner's time line, since the
/// epoch.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub user: UserName,
    pub reservation: ReservationId,
    /// The request that made it; none for one that was made with its reservation.
    pub request: Option<RequestId>,
    pub label: Option<Label>,
    pub target: Target,
    /// Until it is over, for it may have to be sent again: afterwards only the summary is kept.
    pub command: Option<Command>,
    pub summary: Text,
    pub stage: Stage,
    /// What the user sees; final once `stage` is `Over`.
    pub state: JobState,
    /// What it will be once stopped.
    pub stopping_as: Option<JobState>,
    /// The incarnation in which it was started.
    pub epoch: Epoch,
    /// Members on which the command has not ended; of a job that is over, is not known to have.
    pub running: BTreeMap<SiteName, Vec<MemberNumber>>,
    /// The largest status so far.
    pub status: Option<ExitStatus>,
    pub submitted: Duration,
    pub started: Option<Duration>,
    pub ended: Option<Duration>,
    /// SIGKILL, or after it giving up, is due.
    pub next_blow: Option<Duration>,
    pub killed: bool,
    /// Sites that must hear SIGKILL for it when they are back, though it is over.
    pub kills: BTreeSet<SiteName>,
    pub head: Option<HostName>,
    /// Limits that were hit on its members so far.
    pub hits: Hits,
    /// Between SIGTERM and SIGKILL, if its user said so.
    pub grace: Option<Duration>,
}

impl Job {
    /// Takes a member's command as ended; false if it was not running there.
    pub fn member_ended(&mut self, site: &SiteName, member: MemberNumber) -> bool {
        let Some(members) = self.running.get_mut(site) else { return false };
        let Ok(index) = members.binary_search(&member) else { return false };
        members.remove(index);
        if members.is_empty() {
            self.running.remove(site);
        }
        true
    }

    /// What does not change of it, to be made durable.
    pub fn saved(&self) -> SavedJob {
        SavedJob {
            id: self.id,
            user: self.user.clone(),
            reservation: self.reservation,
            request: self.request,
            label: self.label.clone(),
            target: self.target,
            command: self.command.clone(),
            summary: self.summary.clone(),
            submitted: self.submitted,
            grace: self.grace,
        }
    }

    /// How it stands, to be made durable.
    pub fn saved_run(&self) -> SavedRun {
        SavedRun {
            id: self.id,
            state: self.state.clone(),
            stopping_as: self.stopping_as.clone(),
            epoch: self.epoch,
            running: self.running.iter().map(|(site, members)| (site.clone(), members.clone())).collect(),
            status: self.status,
            started: self.started,
            ended: self.ended,
            head: self.head.clone(),
            hits: self.hits,
            kills: self.kills.iter().cloned().collect(),
        }
    }

    /// With several members the largest code is the job's.
    pub fn take_status(&mut self, status: ExitStatus) {
        if self.status.is_none_or(|so_far| so_far.code() < status.code()) {
            self.status = Some(status);
        }
    }
}

/// The command as one line for people: quoted where needed, cut where long.
pub fn summary(command: &Command) -> Text {
    let mut line = String::new();
    for argument in &command.argv {
        if !line.is_empty() {
            line.push(' ');
        }
        let text = String::from_utf8_lossy(argument);
        let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%^".contains(c);
        if !text.is_empty() && text.chars().all(plain) {
            line.push_str(&text);
        } else {
            line.push('\'');
            line.extend(text.chars().take(SUMMARY_CHARS_MAX).flat_map(char::escape_debug));
            line.push('\'');
        }
        if let Some((cut, _)) = line.char_indices().nth(SUMMARY_CHARS_MAX) {
            line.truncate(cut);
            line.push_str("...");
            break;
        }
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: [Stage; 4] = [Stage::Waiting, Stage::Running, Stage::Stopping, Stage::Over];
    const HAPPENINGS: [Happening; 4] =
        [Happening::Start, Happening::StopWanted, Happening::AllExited, Happening::Lost];

    #[test]
    fn a_job_is_started_once_concluded_once_and_can_always_be_stopped() {
        for stage in STAGES {
            assert!(matches!(stage.step(Happening::StopWanted).0, Stage::Stopping | Stage::Over));
            assert_eq!(stage.step(Happening::Lost).0, Stage::Over);
            for happening in HAPPENINGS {
                let (next, orders) = stage.step(happening);
                assert_eq!(orders.contains(&Order::Exec), (stage, next) == (Stage::Waiting, Stage::Running));
                let concluded = stage != Stage::Over && next == Stage::Over;
                assert_eq!(orders.contains(&Order::Conclude), concluded, "{stage:?} {happening:?}");
            }
        }
    }

    fn command(argv: &[&str]) -> Command {
        let argv = argv.iter().map(|a| a.as_bytes().to_vec()).collect();
        Command { argv, variables: vec![], directories: vec![], directory_required: false }
    }

    #[test]
    fn a_summary_is_one_short_line_whatever_the_command_holds() {
        assert_eq!(summary(&command(&["mpirun", "-n", "4", "./a.out"])).as_str(), "mpirun -n 4 ./a.out");
        assert_eq!(summary(&command(&["sh", "-c", "echo a\nb", ""])).as_str(), r"sh -c 'echo a\nb' ''");
        let long = "x y".repeat(100_000);
        let line = summary(&command(&["a", &long, &long]));
        assert!(line.as_str().chars().count() < SUMMARY_CHARS_MAX + 4, "{line}");
    }
}
