//! What programs see: documents of our own, apart from the wire types, so that neither moves the
//! other. Fields are only ever added. One document per line; times are RFC 3339 in UTC; what is
//! not known is `null`.

mod reservation;

use jiff::Timestamp;
use protocol::client::{Explanation, SiteView};
use protocol::ids::{JobId, ReservationId, Version};
use protocol::job::{ExitStatus, JobState, JobView, Target};
use protocol::refusal::Failure;
use serde::Serialize;

use super::errors::CliError;
use super::hits;
use super::out;
use super::room::RoomJson;

pub use reservation::{ReservationJson, UsageJson};

/// Prints one document.
pub fn print<T: Serialize>(document: &T) -> Result<(), CliError> {
    let mut line = serde_json::to_vec(document).map_err(|error| CliError::Bug(error.to_string()))?;
    line.push(b'\n');
    out::print(&line)
}

/// An error as a document on standard error.
pub fn complain(error: &CliError) {
    let message = error.sentence();
    if message.is_empty() {
        return;
    }
    let failure = match error {
        CliError::Failed { failure, .. } => Some(FailureJson::from(&**failure)),
        _ => None,
    };
    let room = match error {
        CliError::Refused(refusal) => RoomJson::of(refusal),
        _ => None,
    };
    let document =
        ErrorJson { error: ErrorBody { kind: error.kind(), code: error.code(), message, failure, room } };
    out::say(&serde_json::to_string(&document).unwrap_or_default());
}

#[derive(Debug, Serialize)]
struct ErrorJson {
    error: ErrorBody,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    kind: &'static str,
    code: u8,
    message: String,
    failure: Option<FailureJson>,
    /// What was short, of a refusal for want of room.
    room: Option<RoomJson>,
}

/// Seconds since the epoch as a time that programs and people read.
pub fn time(seconds: u64) -> Option<String> {
    let seconds = i64::try_from(seconds).ok()?;
    Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// `submit`.
#[derive(Debug, Serialize)]
pub struct SubmittedJson {
    job: String,
    reservation: String,
}

impl SubmittedJson {
    pub fn new(job: JobId, reservation: ReservationId) -> Self {
        Self { job: job.to_string(), reservation: reservation.to_string() }
    }
}

/// `reserve`, `release` and `cancel`: what it was about.
#[derive(Debug, Serialize)]
pub struct IdJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation: Option<String>,
}

impl From<JobId> for IdJson {
    fn from(id: JobId) -> Self {
        Self { job: Some(id.to_string()), reservation: None }
    }
}

impl From<ReservationId> for IdJson {
    fn from(id: ReservationId) -> Self {
        Self { job: None, reservation: Some(id.to_string()) }
    }
}

/// `modify`: what is in force now.
#[derive(Debug, Serialize)]
pub struct ModifiedJson {
    reservation: String,
    version: u32,
}

impl ModifiedJson {
    pub fn new(reservation: ReservationId, version: Version) -> Self {
        Self { reservation: reservation.to_string(), version: version.0 }
    }
}

/// One of `sites`.
#[derive(Debug, Serialize)]
pub struct SiteJson {
    name: String,
    connected: bool,
    batch_system: String,
    nodes_free: u32,
    nodes_usable: u32,
    ranges: Vec<String>,
    environments: Vec<String>,
    last_seen: Option<String>,
    problems: Vec<String>,
}

impl From<&SiteView> for SiteJson {
    fn from(site: &SiteView) -> Self {
        Self {
            name: site.name.to_string(),
            connected: site.connected,
            batch_system: site.batch_system.to_string(),
            nodes_free: site.nodes_free,
            nodes_usable: site.nodes_usable,
            ranges: texts(&site.ranges),
            environments: texts(&site.environments),
            last_seen: site.last_seen_s.and_then(time),
            problems: texts(&site.problems),
        }
    }
}

/// A failure with all it names.
#[derive(Debug, Serialize)]
pub struct FailureJson {
    step: String,
    site: Option<String>,
    node: Option<String>,
    cause: String,
    hint: String,
}

impl From<&Failure> for FailureJson {
    fn from(failure: &Failure) -> Self {
        Self {
            step: failure.step.to_string(),
            site: failure.site.as_ref().map(ToString::to_string),
            node: failure.node.as_ref().map(ToString::to_string),
            cause: failure.cause.to_string(),
            hint: failure.hint.to_string(),
        }
    }
}

/// A job: `jobs`, `show`, `wait`, and `submit --wait`.
#[derive(Debug, Serialize)]
pub struct JobJson {
    id: String,
    reservation: String,
    name: Option<String>,
    user: String,
    command: String,
    /// `head` or `all`.
    target: &'static str,
    /// `waiting`, `running`, `done`, `failed` or `cancelled`.
    state: &'static str,
    /// Of a done one, as a shell says it: 128 + signal.
    exit_code: Option<u8>,
    signal: Option<u8>,
    failure: Option<FailureJson>,
    submitted: Option<String>,
    started: Option<String>,
    ended: Option<String>,
    head: Option<String>,
    stdout_bytes: u64,
    stderr_bytes: u64,
    /// Limits that were hit, with their sizes; empty when none was.
    limits_hit: Vec<hits::HitJson>,
}

impl From<&JobView> for JobJson {
    fn from(job: &JobView) -> Self {
        let (exit, failure) = match &job.state {
            JobState::Done(status) => (Some(*status), None),
            JobState::Failed(failure) => (None, Some(failure.into())),
            JobState::Waiting | JobState::Running | JobState::Cancelled => (None, None),
        };
        Self {
            id: job.id.to_string(),
            reservation: job.reservation.to_string(),
            name: job.label.as_ref().map(ToString::to_string),
            user: job.user.to_string(),
            command: job.command.to_string(),
            target: match job.target {
                Target::Head => "head",
                Target::All => "all",
            },
            state: job_state(&job.state),
            exit_code: exit.map(ExitStatus::code),
            signal: match exit {
                Some(ExitStatus::Signal(signal)) => Some(signal),
                _ => None,
            },
            failure,
            submitted: time(job.submitted_s),
            started: job.started_s.and_then(time),
            ended: job.ended_s.and_then(time),
            head: job.head.as_ref().map(ToString::to_string),
            stdout_bytes: job.stdout_bytes,
            stderr_bytes: job.stderr_bytes,
            limits_hit: hits::json(&job.hits),
        }
    }
}

/// A job's state in one word.
pub fn job_state(state: &JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Done(_) => "done",
        JobState::Failed(_) => "failed",
        JobState::Cancelled => "cancelled",
    }
}

/// `explain`.
#[derive(Debug, Serialize)]
pub struct ExplanationJson {
    id: String,
    summary: String,
    reasons: Vec<String>,
    deadline: Option<String>,
    hints: Vec<String>,
}

impl ExplanationJson {
    pub fn new(id: String, explanation: &Explanation) -> Self {
        Self {
            id,
            summary: explanation.summary.to_string(),
            reasons: texts(&explanation.reasons),
            deadline: explanation.deadline_s.and_then(time),
            hints: texts(&explanation.hints),
        }
    }
}
