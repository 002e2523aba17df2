//! Slurm, by its own commands: `sbatch`, `squeue`, `scancel`, `srun` and `scontrol`.
//!
//! The pilots of a round are one batch job, in whose script each is a step on a node of its own
//! ([`script`]). Jobs are found again by their names: after a submission whose answer was lost, and
//! after a restart, for every job is noted before it is submitted. Whatever bears such a name and
//! is not of the noted account is somebody else's joke.
//!
//! One `squeue` runs per tick. While batch jobs of several pilots run it asks in turn for jobs and
//! for steps, since a pilot that ends among others that live shows in the steps only.

mod ahead;
mod jobs;
mod queue;
mod script;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use protocol::ids::ReservationId;
use protocol::names::{NodeName, SiteName};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::commands::{Answer, CommandError, Commands, filled};
use super::names::{Group, group, job_name, parse_job, parse_pilot};
use super::notes::{Note, Notes};
use super::{Admits, Batch, BatchError, BatchJob, Capabilities, Standing};
use crate::config::{self, Config};
use crate::pilot::PilotId;
use crate::site::{Account, Ahead};
use jobs::{Job, Jobs, Order};
use queue::{Mark, Row};

/// From submission to running pilots on free nodes.
const LEAD: Duration = Duration::from_secs(15);
/// After a cancel the queue is looked at sooner, then at the usual pace again.
const HASTE: Duration = Duration::from_millis(300);
/// The JSON of releases that do not filter it holds the whole cluster's queue: above this lines are
/// asked for instead, which are filtered.
const JSON_BYTES_MAX: usize = 4 << 20;
/// How long a sweep may take in all, below what the owner waits for it, and to get its node.
const SWEEP_TIME: Duration = Duration::from_secs(13);
const SWEEP_WAIT_S: u32 = 8;

/// One site's Slurm.
#[derive(Debug)]
pub struct Slurm {
    site: SiteName,
    config: config::Batch,
    launcher: PathBuf,
    commands: Commands,
    notes: Notes,
    state: Mutex<State>,
    /// Something was submitted or cancelled.
    touched: Notify,
}

#[derive(Debug)]
struct State {
    jobs: Jobs,
    /// When the queue is worth a look, while anything is in it.
    look_at: Instant,
    /// Ask for lines, from now on: this release has no JSON, or too much of it.
    lines: bool,
    /// What the last look asked for.
    looked_at_steps: bool,
}

/// Seconds of the epoch, for the start times that Slurm expects.
fn epoch_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Slurm {
    /// Takes up what a CRM before has left in the queue, as its notes in the state directory say.
    ///
    /// # Errors
    /// The notes cannot be read: what is in the queue is not known.
    pub fn new(config: &Config) -> Result<Self> {
        let directory = config.state.join("batch-jobs");
        let named = || format!("the notes of batch jobs in {}", directory.display());
        let notes = Notes::open(directory.clone()).with_context(named)?;
        let now = Instant::now();
        let kept = notes.all().with_context(named)?;
        let jobs =
            Jobs::new(kept.into_iter().map(|(group, note)| (group, Job::of_before(note, now))).collect());
        let mut environment: Vec<(String, OsString)> = vec![("SLURM_TIME_FORMAT".into(), "%s".into())];
        environment.extend(config.batch.config.iter().map(|path| ("SLURM_CONF".into(), path.into())));
        Ok(Self {
            site: config.site.clone(),
            commands: Commands::new(&config.batch.commands, environment),
            config: config.batch.clone(),
            launcher: config.launcher.clone(),
            notes,
            state: Mutex::new(State { jobs, look_at: now, lines: false, looked_at_steps: false }),
            touched: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self) -> Duration {
        Duration::from_secs(self.config.poll_s.into())
    }

    fn hasten(&self) {
        let mut state = self.state();
        state.look_at = state.look_at.min(Instant::now() + HASTE);
        drop(state);
        self.touched.notify_one();
    }

    /// A command of Slurm's that only asks; one that fails is no answer.
    async fn ask(&self, program: &str, arguments: &[String]) -> Result<Answer, BatchError> {
        let answer = self.commands.run(None, program, arguments, b"").await;
        let answer = answer.map_err(|error| error.of_question())?;
        match answer.status.success() {
            true => Ok(answer),
            false => Err(BatchError::unavailable(answer.complaint())),
        }
    }

    /// All batch jobs that bear our names.
    async fn rows(&self) -> Result<Vec<Row>, BatchError> {
        let is_ours = |name: &str| parse_job(&self.site, name).is_some();
        let users = self.state().jobs.users().join(",");
        if !self.state().lines {
            let arguments = ["--json", "--states=all", &format!("--user={users}")].map(str::to_owned);
            let has_none = ["unrecognized option", "serializer", "data_parser", "plugin", "JSON"];
            let why_not = match self.commands.run(None, "squeue", &arguments, b"").await {
                Ok(answer) if answer.status.success() => {
                    self.state().lines = answer.out.len() > JSON_BYTES_MAX;
                    return queue::parse_json(&answer.out, is_ours)
                        .map_err(|e| BatchError::unavailable(e.to_string()));
                }
                Ok(answer) if has_none.iter().any(|word| answer.err.contains(word)) => answer.complaint(),
                Ok(answer) => return Err(BatchError::unavailable(answer.complaint())),
                Err(error @ CommandError::TooLong { .. }) => error.to_string(),
                Err(error) => return Err(error.of_question()),
            };
            tracing::info!("squeue --json does not serve here, lines are asked for: {why_not}");
            self.state().lines = true;
        }
        let mark = Mark::new(rand::random());
        let (users, format) = (format!("--user={users}"), mark.line_format());
        let arguments = ["--noheader", "--states=all", &users, "-o", &format];
        let answer = self.ask("squeue", &arguments.map(str::to_owned)).await?;
        queue::parse_lines(&answer.out, &mark, is_ours)
            .map_err(|error| BatchError::unavailable(error.to_string()))
    }

    /// All steps that bear our names, of jobs that run.
    async fn steps(&self) -> Result<Vec<(PilotId, queue::Step)>, BatchError> {
        let pilot = |name: &str| parse_pilot(&self.site, name);
        let users = format!("--user={}", self.state().jobs.users().join(","));
        let mark = Mark::new(rand::random());
        let format = mark.step_format();
        let arguments = ["--steps", "--noheader", &users, "-o", &format].map(str::to_owned);
        let answer = self.ask("squeue", &arguments).await?;
        let steps = queue::parse_steps(&answer.out, &mark, |name| pilot(name).is_some());
        let steps = steps.map_err(|error| BatchError::unavailable(error.to_string()))?;
        Ok(steps.into_iter().filter_map(|step| Some((pilot(&step.name)?, step))).collect())
    }

    /// Whether Slurm keeps nodes for a reservation of ours.
    async fn is_reserved(&self, reservation: ReservationId) -> bool {
        let name = ahead::name(&self.site, reservation);
        let arguments = ["show".to_owned(), "reservation".to_owned(), name];
        self.config.reserve_ahead && self.ask("scontrol", &arguments).await.is_ok()
    }

    /// What sweeps a node: the site's own command, or the NodeManager in a small job of the account.
    fn sweep_command<'a>(
        &self,
        node: &NodeName,
        account: &'a Account,
    ) -> (Option<&'a Account>, String, Vec<String>) {
        let own = filled(&self.config.sweep, node, account);
        if let Some((program, words)) = own.split_first() {
            return (None, program.clone(), words.to_vec());
        }
        let options = ["--nodes=1", "--ntasks=1", "--time=1", "--mem=32M", "--oversubscribe", "--mpi=none"];
        let mut words: Vec<String> = options.map(str::to_owned).to_vec();
        words.push("--chdir=/".into());
        words.push(format!("--job-name=gridpilot-{}-sweep", self.site));
        words.push(format!("--nodelist={node}"));
        words.push(format!("--immediate={SWEEP_WAIT_S}"));
        let config::Batch { partition, account: own, qos, .. } = &self.config;
        for (option, value) in [("partition", partition), ("account", own), ("qos", qos)] {
            words.extend(value.as_ref().map(|value| format!("--{option}={value}")));
        }
        let program = self.launcher.with_file_name("node-manager");
        words.extend([program.to_string_lossy().into_owned(), "sweep".into()]);
        (Some(account), "srun".to_owned(), words)
    }

    /// Carries out what follows from a look or a cancel; each account's in one call.
    async fn carry_out(&self, orders: Vec<Order>) -> Result<(), BatchError> {
        let mut calls: BTreeMap<(u32, bool), (Account, Vec<String>)> = BTreeMap::new();
        for order in orders {
            let (account, id, politely) = match order {
                Order::CancelJob { account, id } => (account, id, false),
                Order::SignalStep { account, id } => (account, id, true),
                Order::KillStep { account, id } => (account, id, false),
            };
            calls.entry((account.uid, politely)).or_insert_with(|| (account, Vec::new())).1.push(id);
        }
        let mut outcome = Ok(());
        for ((_, politely), (account, ids)) in calls {
            let mut arguments = ids;
            if politely {
                arguments.insert(0, "--signal=TERM".into());
            }
            let answer = self.commands.run(Some(&account), "scancel", &arguments, b"").await;
            outcome = match answer.map_err(|error| error.of_question()) {
                // What ended meanwhile is what was wanted.
                Ok(answer) if answer.status.success() || answer.err.contains("Invalid job id") => outcome,
                Ok(answer) => Err(words::error(&answer)),
                Err(error) => Err(error),
            };
        }
        outcome
    }
}

impl Batch for Slurm {
    async fn capabilities(&self) -> Result<Capabilities, BatchError> {
        let arguments = ["--oneliner", "show", "partition"].map(str::to_owned);
        let answer = self.ask("scontrol", &arguments).await?;
        let name = self.config.partition.as_deref();
        let partition = words::partition(&answer.out, name).ok_or_else(|| {
            BatchError::refused(match name {
                Some(name) => format!("Slurm has no partition {name}"),
                None => "Slurm has no default partition; name one in [batch]".into(),
            })
        });
        let Admits { nodes_max, walltime_max, closed } = Admits::or_closed(partition)?;
        Ok(Capabilities {
            places_on_named_nodes: false,
            reserves_ahead: self.config.reserve_ahead,
            enforces_limits: true,
            lead: LEAD,
            nodes_max,
            walltime_max,
            closed,
        })
    }

    async fn submit(&self, job: &BatchJob) -> Result<(), BatchError> {
        let Some((first, _)) = job.pilots.first() else { return Ok(()) };
        let group = group(first.pilot);
        let members = job.pilots.iter().map(|(submit, _)| submit.pilot.member).collect();
        let mut note = Note { account: first.account.clone(), members, id: None };
        let unnoted = |error| BatchError::unavailable(format!("the batch job cannot be noted: {error}"));
        self.notes.put(group, &note).map_err(unnoted)?;
        self.state().jobs.submitted(group, Job::new(note.clone(), Instant::now()));
        let reservation = first.pilot.reservation;
        let kept = self.is_reserved(reservation).await.then(|| ahead::name(&self.site, reservation));
        let arguments = script::arguments(&self.site, &self.config, job, kept.as_deref());
        let script = script::script(&self.site, &self.launcher, job);
        let answer = self.commands.run(Some(&first.account), "sbatch", &arguments, script.as_bytes()).await;
        let outcome = answer.map_err(|error| error.of_submission()).and_then(|answer| submitted(&answer));
        match outcome {
            Ok(id) => {
                tracing::debug!("{} is Slurm's batch job {id}", job_name(&self.site, group));
                self.state().jobs.accepted(group, id);
                note.id = Some(id.to_string());
                if let Err(error) = self.notes.put(group, &note) {
                    // It is found again by its name.
                    tracing::warn!("the number of a batch job cannot be noted: {error}");
                }
                self.hasten();
                Ok(())
            }
            Err(BatchError::Unknown(why)) => {
                self.hasten();
                Err(BatchError::Unknown(why))
            }
            Err(error) => {
                self.state().jobs.forget(group);
                self.notes.remove(group);
                Err(error)
            }
        }
    }

    async fn status(&self) -> Result<Option<Vec<(PilotId, Standing)>>, BatchError> {
        let now = Instant::now();
        let wants_steps = {
            let mut state = self.state();
            state.look_at = now + self.poll();
            if state.jobs.is_empty() {
                return Ok(None);
            }
            state.looked_at_steps = !state.looked_at_steps && state.jobs.has_siblings();
            state.looked_at_steps
        };
        let seen = match wants_steps {
            true => {
                let steps = self.steps().await?;
                self.state().jobs.see_steps(&steps, now)
            }
            false => {
                let rows = self.rows().await?;
                let named = rows.iter().filter_map(|row| Some((parse_job(&self.site, &row.name)?, row)));
                let named: Vec<(Group, &Row)> = named.collect();
                self.state().jobs.see_rows(&named, now, epoch_s())
            }
        };
        for group in seen.over {
            self.notes.remove(group);
        }
        if let Err(error) = self.carry_out(seen.orders).await {
            tracing::warn!("what is to be cancelled is not: {error}");
        }
        Ok(Some(seen.standings))
    }

    async fn changed(&self) {
        loop {
            let look_at = {
                let state = self.state();
                (!state.jobs.is_empty()).then_some(state.look_at)
            };
            match look_at {
                None => self.touched.notified().await,
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => return,
                    () = self.touched.notified() => {}
                },
            }
        }
    }

    async fn cancel(&self, pilots: &[PilotId]) -> Result<(), BatchError> {
        let now = Instant::now();
        let needs_steps = self.state().jobs.cancel(pilots, now);
        let steps = match needs_steps {
            true => self.steps().await?,
            false => Vec::new(),
        };
        let orders = self.state().jobs.cancels(pilots, &steps, now);
        self.hasten();
        self.carry_out(orders).await
    }

    async fn reserve(&self, ahead: &Ahead) -> Result<(), BatchError> {
        // As the CRM itself: it takes an operator, which the account is not.
        let mut verb = vec!["create".to_owned(), "reservation".to_owned()];
        if self.is_reserved(ahead.reservation).await {
            verb = vec!["update".to_owned()];
        }
        verb.extend(ahead::terms(&self.site, self.config.partition.as_deref(), ahead));
        let answer = self.commands.run(None, "scontrol", &verb, b"").await;
        let answer = answer.map_err(|error| error.of_question())?;
        if answer.status.success() { Ok(()) } else { Err(words::error(&answer)) }
    }

    async fn unreserve(&self, reservation: ReservationId) -> Result<(), BatchError> {
        if !self.config.reserve_ahead || !self.is_reserved(reservation).await {
            return Ok(());
        }
        let name = ahead::name(&self.site, reservation);
        let arguments = ["delete".to_owned(), format!("ReservationName={name}")];
        let answer = self.commands.run(None, "scontrol", &arguments, b"").await;
        let answer = answer.map_err(|error| error.of_question())?;
        if answer.status.success() { Ok(()) } else { Err(words::error(&answer)) }
    }

    async fn sweep(&self, node: &NodeName, account: &Account) -> Result<(), BatchError> {
        let (r#as, program, arguments) = self.sweep_command(node, account);
        let answer = self.commands.execute(r#as, &program, &arguments, b"", SWEEP_TIME).await;
        let answer = answer.map_err(|error| error.of_question())?;
        match answer.status.success() {
            true => Ok(()),
            false => {
                Err(BatchError::refused(format!("the sweep of node {node} failed: {}", answer.complaint())))
            }
        }
    }
}

/// The number of the batch job that `sbatch --parsable` has made.
fn submitted(answer: &Answer) -> Result<u64, BatchError> {
    if !answer.status.success() {
        return Err(words::error(answer));
    }
    // With several clusters the cluster's name follows.
    let number = answer.out.lines().last().and_then(|line| line.split(';').next()?.trim().parse().ok());
    number.ok_or_else(|| BatchError::unknown(format!("sbatch did not say a number: {}", answer.complaint())))
}
