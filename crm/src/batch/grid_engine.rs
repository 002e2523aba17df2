//! Grid Engine: Sun's and its descendants, as `qsub(1)`, `qstat(1)`, `qdel(1)`, `qrsub(1)` and
//! `qconf(1)` describe it.
//!
//! The pilots of one round are one parallel job with one slot a host. Its script starts the first
//! pilot, and the others by `qrsh -inherit`, so that all of them are Grid Engine's to limit and to
//! kill. It knows jobs and no pilots: which are in a job stands in a note, and a job is deleted when
//! all of its pilots are cancelled.
//!
//! Whoever has an account on a host may read the scripts of jobs that run there, so a script holds
//! no secret. The invocations are in a file of the account's own, below a directory that head and
//! hosts share; the script removes it when it has opened it.

mod ahead;
mod ending;
mod limits;
mod status;
mod submit;
#[cfg(test)]
mod tests;
mod xml;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use protocol::ids::ReservationId;
use protocol::names::{NodeName, SiteName, Text};
use tokio::time::Instant;

use self::status::{Listed, Number, Stage};
use super::commands::{Answer, Commands};
use super::files::last_words;
use super::ledger::{Found, Job, Ledger};
use super::names::{Group, job_name, member};
use super::{Admits, Batch, BatchError, BatchJob, Capabilities, Standing};
use crate::config::Config;
use crate::pilot::PilotId;
use crate::site::{Account, Ahead};

/// Between two questions why jobs wait, which cost the qmaster more than the list of them.
const REASONS_INTERVAL: Duration = Duration::from_secs(15);
/// The end of the accounting file in which a job that has just ended is looked for.
const ACCOUNTING_BYTES: u32 = 256 << 10;
/// How long it may take to write of jobs that have ended, and between two looks whether it did. Sites
/// may let it take longer: then what is seen of the job must do.
const ACCOUNTING_TIME: Duration = Duration::from_millis(2500);
const ACCOUNTING_INTERVAL: Duration = Duration::from_millis(250);
const DEFAULT_ROOT: &str = "/var/lib/gridengine";
const DEFAULT_CELL: &str = "default";
const DEFAULT_ENVIRONMENT: &str = "gridpilot";

/// One cell of Grid Engine.
#[derive(Clone, Debug)]
pub struct GridEngine {
    site: SiteName,
    launcher: PathBuf,
    queue: Option<String>,
    environment: String,
    project: Option<String>,
    reserve_ahead: bool,
    extra: Vec<String>,
    directory: Option<String>,
    sweep: Vec<String>,
    poll: Duration,
    accounting: PathBuf,
    commands: Commands,
    ledger: Arc<Ledger>,
    /// When it was asked last why jobs wait.
    reasons_at: Arc<Mutex<Option<Instant>>>,
}

impl GridEngine {
    /// Takes up the notes of a CRM before.
    ///
    /// # Errors
    /// They cannot be read: what is in the queue is not known.
    pub fn new(config: &Config) -> Result<Self> {
        let batch = &config.batch;
        let root = batch.root.clone().unwrap_or_else(|| DEFAULT_ROOT.into());
        let cell = batch.cell.clone().unwrap_or_else(|| DEFAULT_CELL.into());
        let accounting = root.join(&cell).join("common/accounting");
        let ports = [("SGE_QMASTER_PORT", batch.qmaster_port), ("SGE_EXECD_PORT", batch.execd_port)];
        let mut variables: Vec<(String, OsString)> =
            vec![("SGE_ROOT".into(), root.into()), ("SGE_CELL".into(), cell.into())];
        let ports =
            ports.into_iter().filter_map(|(name, port)| Some((name.into(), port?.to_string().into())));
        variables.extend(ports);
        let poll = Duration::from_secs(batch.poll_s.into());
        Ok(Self {
            site: config.site.clone(),
            launcher: config.launcher.clone(),
            queue: batch.queue.clone(),
            environment: batch.parallel_environment.clone().unwrap_or_else(|| DEFAULT_ENVIRONMENT.into()),
            project: batch.account.clone(),
            reserve_ahead: batch.reserve_ahead,
            extra: batch.extra.clone(),
            directory: batch.invocations.clone(),
            sweep: batch.sweep.clone(),
            poll,
            accounting,
            commands: Commands::new(&batch.commands, variables),
            ledger: Arc::new(Ledger::open(&config.state, poll)?),
            reasons_at: Arc::default(),
        })
    }

    /// Asks one of Grid Engine's commands, as the CRM itself.
    async fn ask(&self, program: &str, words: &[&str]) -> Result<String, BatchError> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let answer = self.commands.run(None, program, &words, b"").await.map_err(|e| e.of_question())?;
        match answer.status.success() {
            true => Ok(answer.out),
            false => Err(submit::refusal(&answer)),
        }
    }

    async fn act(&self, account: &Account, program: &str, words: Vec<String>) -> Result<Answer, BatchError> {
        self.commands.run(Some(account), program, &words, b"").await.map_err(|e| e.of_question())
    }

    /// Deletes all batch jobs of this name.
    async fn delete(&self, group: Group, account: &Account) -> Result<(), BatchError> {
        let name = job_name(&self.site, group);
        let answer = self.act(account, "qdel", vec![name]).await?;
        let is_gone = answer.out.contains("do not exist") || answer.err.contains("do not exist");
        match answer.status.success() || is_gone {
            true => Ok(()),
            false => Err(submit::refusal(&answer)),
        }
    }

    /// Queues and parallel environment, as they are now.
    async fn admits(&self) -> Result<Admits, BatchError> {
        let mut words = vec!["-f", "-xml", "-pe", &self.environment];
        words.extend(self.queue.as_deref().map(|queue| ["-q", queue]).into_iter().flatten());
        let listed = self.ask("qstat", &words).await?;
        let no_list = || BatchError::unavailable("qstat answered with something else than a list of queues");
        let hosts = limits::hosts(&listed).ok_or_else(no_list)?;
        let environment = self.ask("qconf", &["-sp", &self.environment]).await?;
        if let Some(why) = limits::unfit(&environment) {
            return Err(BatchError::Refused(why));
        }
        let slots = limits::value(&environment, "slots").and_then(|slots| slots.parse().ok());
        let queues: Vec<&str> = hosts.queues.iter().map(String::as_str).collect();
        let walltime_max = match queues.is_empty() {
            true => None,
            false => limits::walltime_max(&self.ask("qconf", &["-sq", &queues.join(",")]).await?),
        };
        let nodes_max = Some(slots.unwrap_or(u32::MAX).min(hosts.count)).filter(|max| *max > 0);
        Ok(Admits { nodes_max, walltime_max, closed: hosts.closed })
    }

    /// Our jobs in the list.
    async fn listed(&self) -> Result<BTreeMap<Number, Listed>, BatchError> {
        let listed = self.ask("qstat", &["-xml", "-g", "t", "-u", "*"]).await?;
        let mut listed = status::read(&listed, &self.site)?;
        listed.retain(|_, job| self.ledger.is_ours(job.group, &job.owner));
        Ok(listed)
    }

    /// Why jobs wait, when it is time to ask again.
    async fn ask_reasons(&self, listed: &BTreeMap<Number, Listed>) {
        let waiting: Vec<String> = listed
            .values()
            .filter(|job| job.stage != Stage::Running)
            .map(|job| job.number.to_string())
            .collect();
        let is_new = |job: &Listed| self.ledger.of(job.group, |job| job.why.is_none()) == Some(true);
        let is_new = listed.values().any(|job| job.stage != Stage::Running && is_new(job));
        let interval = if is_new { self.poll } else { REASONS_INTERVAL };
        let asked_at = *self.reasons_at.lock().unwrap_or_else(PoisonError::into_inner);
        let due = asked_at.is_none_or(|at| at.elapsed() >= interval);
        if waiting.is_empty() || !due {
            return;
        }
        // Without an answer the old reasons stay.
        let Ok(said) = self.ask("qstat", &["-j", &waiting.join(",")]).await else { return };
        let mut reasons = status::reasons(&said);
        *self.reasons_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        for (number, listed) in listed {
            if let Some(why) = reasons.remove(number) {
                self.ledger.set_why(listed.group, why);
            }
        }
    }

    /// What is in the list and must not be: second jobs of one round, after a submission without an
    /// answer was repeated, and jobs that will never start.
    async fn clear(&self, listed: &mut BTreeMap<Number, Listed>) {
        let mut older: BTreeSet<Group> = BTreeSet::new();
        let mut unwanted = Vec::new();
        for job in listed.values().filter(|job| !job.deleted) {
            let is_second = !older.insert(job.group);
            if is_second || job.stage == Stage::Broken {
                unwanted.push((job.number, job.group, is_second));
            }
        }
        for (number, group, is_second) in unwanted {
            let Some(account) = self.ledger.account(group) else { continue };
            tracing::info!("batch job {number} ({}) is deleted", job_name(&self.site, group));
            if let Err(error) = self.act(&account, "qdel", vec![number.to_string()]).await {
                tracing::warn!("batch job {number} cannot be deleted: {error}");
            }
            if is_second {
                listed.remove(&number);
            }
        }
    }

    /// Why a job ended, with the last words of its Launchers; its files are removed. For a while
    /// the line of a job that ran is waited for.
    async fn post_mortem(&self, group: Group, job: &Job) -> Text {
        let patience = Instant::now() + ACCOUNTING_TIME;
        let name = job_name(&self.site, group);
        let number: Option<Number> = job.note.id.as_ref().and_then(|id| id.parse().ok());
        let seen = job.seen();
        let accounted = loop {
            let found = match number {
                Some(number) => ending::accounted(&self.accounting_tail(patience).await, number, &name),
                None => None,
            };
            if found.is_some() || !seen.ran || Instant::now() >= patience {
                break found;
            }
            tokio::time::sleep(ACCOUNTING_INTERVAL).await;
        };
        let reason = ending::reason(&seen, accounted);
        let account = &job.note.account;
        let words = last_words(self.files(group, account), &self.commands, account).await;
        match (words, &job.why) {
            (Some(words), _) => format!("its Launcher says: {words} ({reason})").into(),
            // It never ran, and what held it up may be why somebody gave up.
            (None, Some(why)) if !seen.ran && !seen.cancelled => format!("{reason}; it waited: {why}").into(),
            _ => reason,
        }
    }

    /// Nothing, where it cannot be read by `until`: the reason is poorer then. By a command, for it
    /// may stand on a server that does not answer.
    async fn accounting_tail(&self, until: Instant) -> String {
        let words = ["-c".to_owned(), ACCOUNTING_BYTES.to_string(), self.accounting.display().to_string()];
        let time = until.saturating_duration_since(Instant::now()).max(ACCOUNTING_INTERVAL);
        match self.commands.execute(None, "tail", &words, b"", time).await {
            Ok(answer) => answer.out,
            Err(_) => String::new(),
        }
    }
}

impl Batch for GridEngine {
    async fn capabilities(&self) -> Result<Capabilities, BatchError> {
        let Admits { nodes_max, walltime_max, closed } = Admits::or_closed(self.admits().await)?;
        Ok(Capabilities {
            places_on_named_nodes: false,
            reserves_ahead: self.reserve_ahead,
            enforces_limits: false,
            lead: Duration::ZERO,
            nodes_max,
            walltime_max,
            closed,
        })
    }

    async fn submit(&self, job: &BatchJob) -> Result<(), BatchError> {
        self.hand_over(job).await
    }

    async fn status(&self) -> Result<Option<Vec<(PilotId, Standing)>>, BatchError> {
        let mut listed = self.listed().await?;
        self.ask_reasons(&listed).await;
        self.clear(&mut listed).await;
        let found: Vec<Found> = listed.values().map(Listed::found).collect();
        for (group, job) in self.ledger.see(&found) {
            if job.was_never_there() {
                // Now: it may be submitted again, with files of the same names.
                let account = &job.note.account;
                last_words(self.files(group, account), &self.commands, account).await;
                self.ledger.forget(group);
                continue;
            }
            let own = self.clone();
            tokio::spawn(async move { own.ledger.examine(group, own.post_mortem(group, &job)).await });
        }
        let mut standings = self.ledger.ended();
        for found in listed.values() {
            let stand = |job: &Job| {
                let stands = |(place, number): (usize, &u32)| {
                    (member(found.group, *number), found.standing(place, job.why.as_ref()))
                };
                job.note.members.iter().enumerate().map(stands).collect::<Vec<_>>()
            };
            standings.extend(self.ledger.of(found.group, stand).into_iter().flatten());
        }
        Ok(Some(standings))
    }

    async fn changed(&self) {
        self.ledger.changed().await;
    }

    async fn cancel(&self, pilots: &[PilotId]) -> Result<(), BatchError> {
        // Whoever was first is why it ended. Without an answer that is us.
        if let Ok(listed) = self.listed().await {
            self.ledger.observe(&listed.values().map(Listed::found).collect::<Vec<_>>());
        }
        let mut outcome = Ok(());
        for (group, account) in self.ledger.cancel(pilots) {
            outcome = outcome.and(self.delete(group, &account).await);
        }
        outcome
    }

    async fn reserve(&self, ahead: &Ahead) -> Result<(), BatchError> {
        self.keep(ahead).await
    }

    async fn unreserve(&self, reservation: ReservationId) -> Result<(), BatchError> {
        if self.reserve_ahead { self.keep_no_more(reservation).await } else { Ok(()) }
    }

    async fn sweep(&self, node: &NodeName, account: &Account) -> Result<(), BatchError> {
        self.sweep_node(node, account).await
    }
}
