//! What `squeue` says, as data. Pure; what cannot be read is refused whole, for half a list would
//! say of pilots that they are gone. A name says little, for anybody may give ours to a job: one
//! whose number is none that we get (`15_1` of an array, `12+1` of a heterogeneous job) is left out.
//!
//! Three forms are understood: the JSON of 22.05 (states are words, numbers are numbers), that of
//! current releases (states are lists, numbers are `{"set": true, "number": 1}`), and the lines of
//! [`Mark::line_format`], which every release prints.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// For `squeue -o`, together with `SLURM_TIME_FORMAT=%s`. The name comes last: those of others may
/// hold anything.
const LINE_FORMAT: &str = "%i|%u|%T|%r|%S|%N|%j";
/// For `squeue --steps -o`.
const STEP_FORMAT: &str = "%i|%u|%j";

/// Begins every line of an answer. A job's name may have line ends in it, and what looks like lines
/// behind them: nobody who gave one knew the mark, for it is another with every question.
#[derive(Debug)]
pub struct Mark(String);

impl Mark {
    /// Of a number that nobody can guess.
    pub fn new(secret: u128) -> Self {
        Self(format!("{secret:032x}|"))
    }

    /// For `squeue -o`, as [`parse_lines`] reads it.
    pub fn line_format(&self) -> String {
        format!("{}{LINE_FORMAT}", self.0)
    }

    /// For `squeue --steps -o`, as [`parse_steps`] reads it.
    pub fn step_format(&self) -> String {
        format!("{}{STEP_FORMAT}", self.0)
    }

    /// The lines that are ours, without it.
    fn lines<'a>(&self, text: &'a str) -> Result<Vec<&'a str>, BadAnswer> {
        let mut lines = Vec::new();
        for line in text.lines() {
            match line.strip_prefix(&self.0) {
                Some(line) => lines.push(line),
                // The rest of a name.
                None if !lines.is_empty() => {}
                None => return Err(bad(line)),
            }
        }
        Ok(lines)
    }
}

fn bad(line: &str) -> BadAnswer {
    BadAnswer::Line(line.chars().take(200).collect())
}

/// Why an answer of `squeue` is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadAnswer {
    #[error("squeue's JSON cannot be read: {0}")]
    Json(String),
    /// It says so itself, with exit code 0 in some releases.
    #[error("squeue: {0}")]
    Error(String),
    #[error("squeue printed a line that is none: {0:?}")]
    Line(String),
}

/// One batch job of the queue.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    pub id: u64,
    pub user: String,
    pub name: String,
    pub state: State,
    /// Why it waits, in Slurm's word; empty when it does not.
    pub reason: String,
    /// When it began or will, seconds of the epoch.
    pub start: Option<u64>,
    /// The nodes it has, as a host list.
    pub nodes: String,
    /// Its exit code, 128 and the number if a signal ended it; not in every form.
    pub exit: Option<i32>,
}

/// Where a batch job stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    Pending,
    /// It has nodes: runs or begins.
    Running,
    /// It still has processes on its nodes, or may have.
    Ending,
    /// It is over, in Slurm's word.
    Over(String),
}

impl State {
    /// Of the words that squeue uses; the state itself comes first, and flags may follow.
    fn of(words: &[String]) -> Self {
        // A flag, whatever else is said of it.
        if words.iter().any(|word| word == "COMPLETING") {
            return Self::Ending;
        }
        match words.first().map(String::as_str).unwrap_or_default() {
            "PENDING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => {
                Self::Pending
            }
            word @ ("COMPLETED" | "CANCELLED" | "FAILED" | "TIMEOUT" | "NODE_FAIL" | "PREEMPTED"
            | "BOOT_FAIL" | "DEADLINE" | "OUT_OF_MEMORY" | "REVOKED" | "LAUNCH_FAILED"
            | "RECONFIG_FAIL") => Self::Over(word.into()),
            // SUSPENDED, STOPPED, SIGNALING, STAGE_OUT, RESIZING and what may come: it is there.
            _ => Self::Running,
        }
    }
}

#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    errors: Vec<JsonError>,
    jobs: Vec<JsonJob>,
}

#[derive(Deserialize)]
struct JsonError {
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize)]
struct JsonJob {
    job_id: Number,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    user_name: Option<String>,
    job_state: Words,
    #[serde(default)]
    state_reason: Option<String>,
    #[serde(default)]
    start_time: Option<Number>,
    #[serde(default)]
    nodes: Option<String>,
    #[serde(default)]
    exit_code: Option<Exit>,
}

/// A number, plain or with word of whether it is set.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Plain(u64),
    Told { set: bool, number: u64 },
    Other(IgnoredAny),
}

impl Number {
    fn get(&self) -> Option<u64> {
        match self {
            Self::Plain(number) => Some(*number),
            Self::Told { set: true, number } => Some(*number),
            Self::Told { .. } | Self::Other(_) => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    More(Vec<String>),
}

/// The status of a wait, or its parts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Exit {
    Status(u32),
    Parts { return_code: Option<Number>, signal: Option<Signal> },
    Other(IgnoredAny),
}

#[derive(Deserialize)]
struct Signal {
    #[serde(alias = "signal_id")]
    id: Option<Number>,
}

impl Exit {
    fn code(&self) -> Option<i32> {
        match self {
            Self::Status(status) if status & 0x7f != 0 => i32::try_from(128 + (status & 0x7f)).ok(),
            Self::Status(status) => i32::try_from(status >> 8 & 0xff).ok(),
            Self::Parts { return_code, signal } => {
                let signal = signal.as_ref().and_then(|signal| signal.id.as_ref()?.get());
                match signal.filter(|number| (1..128).contains(number)) {
                    Some(number) => i32::try_from(128 + number).ok(),
                    None => return_code.as_ref()?.get()?.try_into().ok(),
                }
            }
            Self::Other(_) => None,
        }
    }
}

/// The jobs whose names `is_ours`, out of `squeue --json`.
///
/// # Errors
/// It is not the answer to that question, or says itself that it is none.
pub fn parse_json(text: &str, is_ours: impl Fn(&str) -> bool) -> Result<Vec<Row>, BadAnswer> {
    let json: Json = serde_json::from_str(text).map_err(|error| BadAnswer::Json(error.to_string()))?;
    if let Some(error) = json.errors.into_iter().next() {
        let what = error.description.or(error.error).filter(|what| !what.is_empty());
        return Err(BadAnswer::Error(what.unwrap_or_else(|| "an error without a word".into())));
    }
    let mut rows = Vec::new();
    for job in json.jobs {
        let name = job.name.unwrap_or_default();
        if !is_ours(&name) {
            continue;
        }
        let states = match job.job_state {
            Words::One(word) => vec![word],
            Words::More(words) => words,
        };
        let missing = |what: &str| BadAnswer::Json(format!("job {name} has no {what}"));
        let Some(id) = job.job_id.get() else { continue };
        if states.is_empty() {
            return Err(missing("state"));
        }
        rows.push(Row {
            id,
            user: job.user_name.ok_or_else(|| missing("user"))?,
            state: State::of(&states),
            reason: plain(&job.state_reason.unwrap_or_default()),
            start: job.start_time.and_then(|time| time.get()).filter(|at| *at > 0),
            nodes: plain(&job.nodes.unwrap_or_default()),
            exit: job.exit_code.and_then(|exit| exit.code()),
            name,
        });
    }
    Ok(rows)
}

/// The same out of lines of [`Mark::line_format`].
///
/// # Errors
/// As for [`parse_json`].
pub fn parse_lines(text: &str, mark: &Mark, is_ours: impl Fn(&str) -> bool) -> Result<Vec<Row>, BadAnswer> {
    let mut rows = Vec::new();
    for line in mark.lines(text)? {
        let fields: Vec<&str> = line.splitn(7, '|').collect();
        let [id, user, state, reason, start, nodes, name] = fields[..] else { return Err(bad(line)) };
        if !is_ours(name) {
            continue;
        }
        let Ok(id) = id.parse() else { continue };
        if state.is_empty() || user.is_empty() {
            return Err(bad(line));
        }
        rows.push(Row {
            id,
            user: user.into(),
            name: name.into(),
            state: State::of(&[state.to_owned()]),
            reason: plain(reason),
            start: start.parse().ok().filter(|at| *at > 0),
            nodes: plain(nodes),
            exit: None,
        });
    }
    Ok(rows)
}

/// Slurm's several words for nothing.
fn plain(word: &str) -> String {
    match word.trim() {
        "None" | "(null)" | "N/A" => String::new(),
        word => word.into(),
    }
}

/// A step of a batch job that runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    pub job: u64,
    /// As `scancel` takes it: `12.0`.
    pub id: String,
    pub name: String,
}

/// The steps whose names `is_ours`, out of lines of [`Mark::step_format`].
///
/// # Errors
/// As for [`parse_json`].
pub fn parse_steps(text: &str, mark: &Mark, is_ours: impl Fn(&str) -> bool) -> Result<Vec<Step>, BadAnswer> {
    let mut steps = Vec::new();
    for line in mark.lines(text)? {
        let fields: Vec<&str> = line.splitn(3, '|').collect();
        let [id, _user, name] = fields[..] else { return Err(bad(line)) };
        if !is_ours(name) {
            continue;
        }
        let Some((job, step)) = id.split_once('.') else { continue };
        let is_number = !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
        let Some(job) = job.parse().ok().filter(|_| is_number) else { continue };
        steps.push(Step { job, id: id.into(), name: name.into() });
    }
    Ok(steps)
}

/// The names of a host list like `a[1-3,07],b`, at most `max`; `None` for what is none.
pub fn hosts(list: &str, max: usize) -> Option<Vec<String>> {
    let mut hosts = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        // Up to a comma that is in no brackets.
        let mut inside = false;
        let end = rest.find(|c: char| {
            inside = (inside || c == '[') && c != ']';
            c == ',' && !inside
        });
        let (one, more) = match end {
            Some(end) => (&rest[..end], rest[end + 1..].trim_start()),
            None => (rest, ""),
        };
        if end.is_some() && more.is_empty() {
            return None;
        }
        expand("", one, max, &mut hosts)?;
        rest = more;
    }
    Some(hosts)
}

/// One word of the list behind what was already read of it; brackets may come more than once.
fn expand(before: &str, word: &str, max: usize, hosts: &mut Vec<String>) -> Option<()> {
    let Some((head, rest)) = word.split_once('[') else {
        let host = format!("{before}{word}");
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if host.is_empty() || !host.chars().all(is_name) || hosts.len() >= max {
            return None;
        }
        hosts.push(host);
        return Some(());
    };
    let (ranges, tail) = rest.split_once(']')?;
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let is_number =
            |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(first) || !is_number(last) {
            return None;
        }
        let width = first.len();
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last - first >= max {
            return None;
        }
        for number in first..=last {
            expand(&format!("{before}{head}{number:0width$}"), tail, max, hosts)?;
        }
    }
    Some(())
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
