//! PBS: OpenPBS and PBS Professional, and Torque, as their `qsub(1B)`, `qstat(1B)`, `qdel(1B)`,
//! `pbsdsh(1B)` and `pbs_tmrsh(1B)` are documented.
//!
//! The pilots of one round are one job with a processor on each of its hosts. Its script starts the
//! first pilot, and the others by the task manager of PBS, which passes no standard input on; so the
//! invocations go in files of the account's own. Names of jobs may have 15 letters only with some
//! releases: a job is known again by a variable.
//!
//! PBS cannot be told which hosts a job must not get: [`Submit::exclude`] is left to the site, whose
//! administrator takes a host off line that is not clean.
//!
//! No real PBS was at hand when this was written: it is tested against written-out forms of the
//! documentation and against stand-ins for the commands.

mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use protocol::names::{NodeName, SiteName, Text};

use self::status::{Listed, Stage};
use super::commands::{Answer, Commands, filled};
use super::files::{Files, last_words};
use super::host_script::{Dialect, Script, invocations};
use super::ledger::{Found, Job, Ledger};
use super::names::{Group, group, job_name, member};
use super::notes::Note;
use super::{Admits, Batch, BatchError, BatchJob, Capabilities, Standing};
use crate::config::{self, Config};
use crate::pilot::PilotId;
use crate::site::{Account, Submit};

/// Carries the name of a batch job; seen by everybody.
const VARIABLE: &str = "GRIDPILOT_BATCH_JOB";
/// Letters that every release takes as a job's name.
const NAME_LETTERS: usize = 15;
/// How much earlier than its limit a job may end by it.
const LIMIT_SLACK: Duration = Duration::from_secs(3);
/// How long a sweep may take, below what the owner waits for it, and its own limit, seconds.
const SWEEP_TIME: Duration = Duration::from_secs(12);
const SWEEP_LIMIT_S: u64 = 60;

/// Whose PBS it is: what they call things differs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// `json`: it knows `-F json`.
    Open {
        json: bool,
    },
    Torque,
}

/// One site's PBS.
#[derive(Clone, Debug)]
pub struct Pbs {
    site: SiteName,
    launcher: PathBuf,
    config: config::Batch,
    commands: Commands,
    ledger: Arc<Ledger>,
    kind: Arc<Mutex<Option<Kind>>>,
}

impl Pbs {
    /// Takes up the notes of a CRM before.
    ///
    /// # Errors
    /// They cannot be read: what is in the queue is not known.
    pub fn new(config: &Config) -> Result<Self> {
        let poll = Duration::from_secs(config.batch.poll_s.into());
        Ok(Self {
            site: config.site.clone(),
            launcher: config.launcher.clone(),
            commands: Commands::new(&config.batch.commands, Vec::new()),
            ledger: Arc::new(Ledger::open(&config.state, poll)?),
            config: config.batch.clone(),
            kind: Arc::default(),
        })
    }

    /// Runs a command as an account, or as the CRM itself.
    async fn run(
        &self,
        account: Option<&Account>,
        program: &str,
        words: &[&str],
    ) -> Result<Answer, BatchError> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        self.commands.run(account, program, &words, b"").await.map_err(|error| error.of_question())
    }

    async fn ask(&self, program: &str, words: &[&str]) -> Result<String, BatchError> {
        let answer = self.run(None, program, words).await?;
        match answer.status.success() {
            true => Ok(answer.out),
            false => Err(refusal(&answer)),
        }
    }

    fn set_kind(&self, kind: Kind) {
        *self.kind.lock().unwrap_or_else(PoisonError::into_inner) = Some(kind);
    }

    /// Asked once: it changes with a new installation only.
    async fn kind(&self) -> Result<Kind, BatchError> {
        let known = *self.kind.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kind) = known {
            return Ok(kind);
        }
        let answer = self.run(None, "qstat", &["--version"]).await?;
        let is_open = [&answer.out, &answer.err].iter().any(|text| text.contains("pbs_version"));
        let kind = if is_open { Kind::Open { json: true } } else { Kind::Torque };
        self.set_kind(kind);
        Ok(kind)
    }

    async fn admits(&self) -> Result<Admits, BatchError> {
        let queue = match &self.config.queue {
            Some(queue) => queue.clone(),
            None => status::default_queue(&self.ask("qstat", &["-B", "-f"]).await?)
                .ok_or_else(|| BatchError::refused("PBS has no default queue; name one in [batch]"))?,
        };
        let said = self.ask("qstat", &["-Q", "-f", &queue]).await?;
        // A queue of another server is named with it.
        let name = queue.split('@').next().unwrap_or_default();
        status::queue(&said, name)
            .ok_or_else(|| BatchError::unavailable(format!("PBS says nothing of queue {queue}")))
    }

    /// Our jobs in the list. As long as the number of one is not known, all jobs are asked for.
    async fn listed(&self) -> Result<Vec<Listed>, BatchError> {
        let ids = self.ledger.ids();
        let kind = self.kind().await?;
        let mut words = vec!["-f"];
        match kind {
            // With its number also one that has ended and is kept for a while.
            Kind::Open { json } => {
                words.extend(ids.as_ref().map(|_| "-x"));
                words.extend(if json { &["-F", "json"][..] } else { &[] });
            }
            Kind::Torque => {}
        }
        words.extend(ids.iter().flatten().map(String::as_str));
        let answer = self.run(None, "qstat", &words).await?;
        if kind == (Kind::Open { json: true }) && knows_no_json(&answer) {
            tracing::info!("this PBS has no qstat -F json: {}", answer.complaint());
            self.set_kind(Kind::Open { json: false });
            return Err(BatchError::unavailable("qstat is asked in another way next time"));
        }
        if !answer.status.success() && !answer.err.lines().all(is_of_the_past) {
            return Err(refusal(&answer));
        }
        match kind {
            Kind::Open { json: true } if !answer.out.trim().is_empty() => {
                status::read_json(&answer.out, &self.site)
            }
            _ => Ok(status::read_text(&answer.out, &self.site)),
        }
    }

    /// Deletes a job; one that is gone already is what was wanted.
    async fn delete(&self, id: &str, account: &Account) -> Result<(), BatchError> {
        let answer = self.run(Some(account), "qdel", &[id]).await?;
        match answer.status.success() || answer.err.lines().all(is_of_the_past) {
            true => Ok(()),
            false => Err(refusal(&answer)),
        }
    }

    /// The words of `qsub`, the site's own at their end.
    async fn request(&self, submit: &Submit, group: Group, hosts: usize) -> Result<Vec<String>, BatchError> {
        let mut name = format!("gp-{}.{}", group.0, group.1.0);
        name.truncate(NAME_LETTERS);
        let mut words = vec!["-N".to_owned(), name, "-v".to_owned()];
        words.push(format!("{VARIABLE}={}", job_name(&self.site, group)));
        words
            .extend(["-S", "/bin/sh", "-r", "n", "-m", "n", "-j", "oe", "-o", "/dev/null"].map(String::from));
        let chunks = match self.kind().await? {
            Kind::Open { .. } => vec![format!("select={hosts}:ncpus=1"), "place=scatter".to_owned()],
            Kind::Torque => vec![format!("nodes={hosts}:ppn=1")],
        };
        words.extend(chunks.into_iter().flat_map(|chunk| ["-l".to_owned(), chunk]));
        words.extend(["-l".to_owned(), format!("walltime={}", clock(submit.walltime().as_secs()))]);
        for (option, value) in [("-q", &self.config.queue), ("-A", &self.config.account)] {
            words.extend(value.iter().flat_map(|value| [option.to_owned(), value.clone()]));
        }
        if submit.begin_in_s > 0 {
            words.extend(["-a".to_owned(), self.commands.local_time(submit.begin_in_s).await?]);
        }
        words.extend(self.config.extra.iter().cloned());
        Ok(words)
    }

    async fn hand_over(&self, job: &BatchJob, first: &Submit, files: &Files) -> Result<String, BatchError> {
        let account = &first.account;
        let secrets = invocations(job.pilots.iter().map(|(_, invocation)| invocation.as_slice()));
        files.write(&self.commands, account, &secrets).await?;
        let words = self.request(first, group(first.pilot), job.pilots.len()).await?;
        let script = Script {
            dialect: Dialect::Pbs,
            launcher: &self.launcher,
            invocations: &files.invocations,
            words: &files.words,
        };
        let answer = self.commands.run(Some(account), "qsub", &words, script.text().as_bytes()).await;
        let answer = answer.map_err(|error| error.of_submission())?;
        let id = answer.out.trim();
        let is_id = id.starts_with(|c: char| c.is_ascii_digit()) && !id.contains(char::is_whitespace);
        match answer.status.success() {
            true if is_id => Ok(id.to_owned()),
            true => Err(BatchError::unknown(format!("qsub said no job: {}", answer.complaint()))),
            false => Err(refusal(&answer)),
        }
    }

    async fn files(&self, group: Group, account: &Account) -> Result<Files, BatchError> {
        let name = job_name(&self.site, group);
        Files::new(self.config.invocations.as_deref(), &name, account, &self.commands).await
    }

    /// Why a job ended, with the last words of its Launchers; its files are removed.
    async fn post_mortem(&self, group: Group, job: &Job, over: Option<&Listed>) -> Text {
        let seen = job.seen();
        let ran_out = seen.limit.is_some_and(|limit| seen.ran && seen.ran_for + LIMIT_SLACK >= limit);
        let account = &job.note.account;
        let words = last_words(self.files(group, account), &self.commands, account).await;
        let comment = over.and_then(|over| over.comment.as_ref());
        let reason = match over {
            _ if seen.cancelled => "its batch job was cancelled by this site".into(),
            None if !seen.ran => "its batch job was deleted from the queue before it ran".into(),
            over => status::reason(over.and_then(|over| over.exit_status), ran_out, comment),
        };
        words.map_or(reason.clone(), |words| format!("its Launcher says: {words} ({reason})").into())
    }
}

impl Batch for Pbs {
    async fn capabilities(&self) -> Result<Capabilities, BatchError> {
        let Admits { nodes_max, walltime_max, closed } = Admits::or_closed(self.admits().await)?;
        Ok(Capabilities {
            places_on_named_nodes: false,
            reserves_ahead: false,
            enforces_limits: false,
            lead: Duration::ZERO,
            nodes_max,
            walltime_max,
            closed,
        })
    }

    async fn submit(&self, job: &BatchJob) -> Result<(), BatchError> {
        let Some((first, _)) = job.pilots.first() else { return Ok(()) };
        let group = group(first.pilot);
        let files = self.files(group, &first.account).await?;
        let members = job.pilots.iter().map(|(submit, _)| submit.pilot.member).collect();
        let note = Note { account: first.account.clone(), members, id: None };
        self.ledger.note(group, note, first.walltime())?;
        match self.hand_over(job, first, &files).await {
            Ok(id) => {
                self.ledger.accepted(group, id);
                Ok(())
            }
            Err(error @ BatchError::Unknown(_)) => Err(error),
            Err(error) => {
                self.ledger.forget(group);
                files.remove(&self.commands, &first.account).await;
                Err(error)
            }
        }
    }

    async fn status(&self) -> Result<Option<Vec<(PilotId, Standing)>>, BatchError> {
        if self.ledger.is_idle() {
            self.ledger.see(&[]);
            return Ok(None);
        }
        let mut listed = self.listed().await?;
        listed.retain(|job| self.ledger.is_ours(job.group, &job.owner));
        let (over, mut there): (Vec<Listed>, Vec<Listed>) =
            listed.into_iter().partition(|job| job.stage == Stage::Over);
        let mut first: BTreeMap<Group, u64> = BTreeMap::new();
        there.sort_by_key(|job| number(&job.id));
        for job in &there {
            if *first.entry(job.group).or_insert(number(&job.id)) != number(&job.id)
                && let Some(account) = self.ledger.account(job.group)
            {
                // A submission without an answer was repeated, and both were heard.
                tracing::info!("batch job {} is one too many and deleted", job.id);
                if let Err(error) = self.delete(&job.id, &account).await {
                    tracing::warn!("batch job {} cannot be deleted: {error}", job.id);
                }
            }
        }
        there.retain(|job| first.get(&job.group) == Some(&number(&job.id)));
        let found: Vec<Found> = there.iter().filter_map(Listed::found).collect();
        for (group, job) in self.ledger.see(&found) {
            if job.was_never_there() {
                // Now: it may be submitted again, with files of the same names.
                let account = &job.note.account;
                last_words(self.files(group, account), &self.commands, account).await;
                self.ledger.forget(group);
                continue;
            }
            let over = over.iter().find(|over| over.group == group).cloned();
            let own = self.clone();
            tokio::spawn(async move {
                own.ledger.examine(group, own.post_mortem(group, &job, over.as_ref())).await;
            });
        }
        let mut standings = self.ledger.ended();
        for found in &there {
            let stand = |job: &Job| {
                let members = job.note.members.iter().enumerate();
                members.map(|(place, number)| (member(found.group, *number), found.standing(place))).collect()
            };
            let stand: Option<Vec<_>> = self.ledger.of(found.group, stand);
            standings.extend(stand.into_iter().flatten());
        }
        Ok(Some(standings))
    }

    async fn changed(&self) {
        self.ledger.changed().await;
    }

    async fn cancel(&self, pilots: &[PilotId]) -> Result<(), BatchError> {
        let mut outcome = Ok(());
        for (group, account) in self.ledger.cancel(pilots) {
            // Without a number yet: the owner asks again.
            let Some(id) = self.ledger.of(group, |job| job.note.id.clone()).flatten() else { continue };
            outcome = outcome.and(self.delete(&id, &account).await);
        }
        outcome
    }

    async fn sweep(&self, node: &NodeName, account: &Account) -> Result<(), BatchError> {
        let node_manager = self.launcher.with_file_name("node-manager").display().to_string();
        let script = format!("exec '{}' sweep\n", node_manager.replace('\'', r"'\''"));
        let words = filled(&self.config.sweep, node, account);
        let (program, words, user, script) = match words.split_first() {
            Some((program, words)) => (program.clone(), words.to_vec(), None, ""),
            None => {
                let place = match self.kind().await? {
                    Kind::Open { .. } => format!("select=1:ncpus=1:host={node}"),
                    Kind::Torque => format!("nodes={node}"),
                };
                let limit = format!("walltime={}", clock(SWEEP_LIMIT_S));
                let own = ["-W", "block=true", "-N", "gp-sweep", "-S", "/bin/sh", "-r", "n", "-m", "n"];
                let rest = ["-j", "oe", "-o", "/dev/null", "-l", &place, "-l", &limit];
                let mut words: Vec<String> = own.into_iter().chain(rest).map(String::from).collect();
                words.extend(self.config.queue.iter().flat_map(|queue| ["-q".to_owned(), queue.clone()]));
                words.extend(self.config.extra.iter().cloned());
                ("qsub".to_owned(), words, Some(account), script.as_str())
            }
        };
        let swept = self.commands.execute(user, &program, &words, script.as_bytes(), SWEEP_TIME).await;
        match swept.map_err(|error| error.of_question())? {
            answer if answer.status.success() => Ok(()),
            answer => Err(BatchError::unavailable(format!(
                "the sweep of node {node} failed: {}",
                answer.complaint()
            ))),
        }
    }
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Of `101.head.site`.
fn number(id: &str) -> u64 {
    id.split(['.', '[']).next().and_then(|number| number.parse().ok()).unwrap_or(u64::MAX)
}

/// A complaint that a job is not there any more.
fn is_of_the_past(line: &str) -> bool {
    let past =
        ["Unknown Job Id", "has finished", "Request invalid for state of job", "invalid state for job"];
    line.trim().is_empty() || past.iter().any(|words| line.contains(words))
}

fn knows_no_json(answer: &Answer) -> bool {
    let words = ["invalid option", "illegal option", "usage:"];
    !answer.status.success() && words.iter().any(|words| answer.err.to_lowercase().contains(words))
}

/// What a command that failed means.
fn refusal(answer: &Answer) -> BatchError {
    let what = answer.complaint();
    let says = |words: &[&str]| words.iter().any(|words| answer.err.contains(words));
    // It was heard, perhaps, and no answer came back.
    if says(&["End of File", "Communication failure", "timed out", "Premature end of message"]) {
        return BatchError::unknown(what);
    }
    let away =
        ["annot connect to", "Connection refused", "No route to host", "pbs_iff", "Server shutting down"];
    // Limits on how many there are at once: fewer are there later. "... already in queue for user",
    // "... for group g already in complex", "would exceed complex's per-project limit of ...".
    let is_full = says(&["would exceed", "Maximum number of jobs"]);
    let whose = ["user", "group", "project", "per-user", "per-group", "per-project"];
    let is_of_some = answer.err.split_ascii_whitespace().any(|word| whose.contains(&word));
    match () {
        () if is_full && is_of_some => BatchError::account_full(what),
        () if is_full || says(&away) => BatchError::unavailable(what),
        () => BatchError::refused(what),
    }
}
