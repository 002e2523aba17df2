//! Handing a batch job over to Grid Engine, and the files that go with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Uid, User};
use protocol::names::NodeName;

use super::GridEngine;
use super::script::{Script, invocations, without};
use crate::batch::commands::Answer;
use crate::batch::names::{Group, group, job_name};
use crate::batch::notes::Note;
use crate::batch::{BatchError, BatchJob};
use crate::site::{Account, Submit};

/// Of the time of a batch job beyond the life of its pilots, so that they end first.
const WALLTIME_MARGIN_S: u32 = 60;
/// Of what Launchers said, the end.
const WORDS_BYTES: &str = "2048";
/// How long a sweep may take, with the time that the scheduler takes to begin it; below what the
/// owner waits for it.
const SWEEP_TIME: Duration = Duration::from_secs(12);
/// The sweep itself, seconds.
const SWEEP_LIMIT: &str = "h_rt=60";

/// The files of one batch job.
struct Files {
    directory: PathBuf,
    invocations: PathBuf,
    words: PathBuf,
}

impl GridEngine {
    pub(super) async fn hand_over(&self, job: &BatchJob) -> Result<(), BatchError> {
        let Some((first, _)) = job.pilots.first() else { return Ok(()) };
        let group = group(first.pilot);
        let files = self.files(group, &first.account)?;
        let members = job.pilots.iter().map(|(submit, _)| submit.pilot.member).collect();
        let note = Note { account: first.account.clone(), members, id: None };
        self.ledger.note(group, note, Duration::from_secs(walltime_s(first).into()))?;
        match self.try_submit(job, first, group, &files).await {
            Ok(number) => {
                self.ledger.accepted(group, number);
                Ok(())
            }
            Err(error @ BatchError::Unknown(_)) => Err(error),
            Err(error) => {
                self.ledger.forget(group);
                self.remove_files(&files, &first.account).await;
                Err(error)
            }
        }
    }

    async fn try_submit(
        &self,
        job: &BatchJob,
        first: &Submit,
        group: Group,
        files: &Files,
    ) -> Result<String, BatchError> {
        let secrets = invocations(job.pilots.iter().map(|(_, invocation)| invocation.as_slice()));
        self.write(files, &first.account, &secrets).await?;
        let mut words = self.request(first, group, job.pilots.len());
        if first.begin_in_s > 0 {
            words.extend(self.begin(first, group, job.pilots.len()).await?);
        }
        words.extend(self.extra.iter().cloned());
        let script =
            Script { launcher: &self.launcher, invocations: &files.invocations, words: &files.words };
        let answer = self.commands.run(Some(&first.account), "qsub", &words, script.text().as_bytes()).await;
        let answer = answer.map_err(|error| error.of_submission())?;
        let number = answer.out.trim();
        match answer.status.success() {
            true if number.parse::<super::status::Number>().is_ok() => Ok(number.to_owned()),
            true => Err(BatchError::unknown(format!("qsub said no number: {}", answer.complaint()))),
            false => Err(refusal(&answer)),
        }
    }

    /// The words of `qsub`, without the site's own.
    fn request(&self, submit: &Submit, group: Group, hosts: usize) -> Vec<String> {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let mut words = own(&["-terse", "-notify", "-r", "n", "-m", "n", "-S", "/bin/sh", "-wd", "/"]);
        words.extend(own(&["-o", "/dev/null", "-j", "y", "-N"]));
        words.push(job_name(&self.site, group));
        words.extend(["-pe".to_owned(), self.environment.clone(), hosts.to_string()]);
        words.extend(["-l".to_owned(), format!("h_rt={}", walltime_s(submit))]);
        let without = without(&submit.exclude).map(|hosts| ["-l".to_owned(), hosts]);
        let queue = self.queue.clone().map(|queue| ["-q".to_owned(), queue]);
        let project = self.project.clone().map(|project| ["-P".to_owned(), project]);
        words.extend([without, queue, project].into_iter().flatten().flatten());
        words
    }

    /// The words that let it begin later: in a reservation of Grid Engine's own, where the site
    /// permits them, else not before.
    async fn begin(&self, submit: &Submit, group: Group, hosts: usize) -> Result<Vec<String>, BatchError> {
        // Grid Engine reads local times, which only the system's own program should write.
        let words = vec![format!("--date=+{} seconds", submit.begin_in_s), "+%Y%m%d%H%M.%S".to_owned()];
        let begin = self.act(&submit.account, "date", words).await?;
        let begin = begin.out.trim().to_owned();
        if !self.reserve_ahead {
            return Ok(vec!["-a".to_owned(), begin]);
        }
        let duration = walltime_s(submit);
        let duration = format!("{}:{}:{}", duration / 3600, duration / 60 % 60, duration % 60);
        let mut words = vec!["-a".to_owned(), begin, "-d".to_owned(), duration];
        words.extend(["-N".to_owned(), job_name(&self.site, group)]);
        words.extend(["-pe".to_owned(), self.environment.clone(), hosts.to_string()]);
        let without = without(&submit.exclude).map(|hosts| ["-l".to_owned(), hosts]);
        let queue = self.queue.clone().map(|queue| ["-q".to_owned(), queue]);
        words.extend([without, queue].into_iter().flatten().flatten());
        let answer = self.act(&submit.account, "qrsub", words).await?;
        match reservation_number(&answer.out).filter(|_| answer.status.success()) {
            Some(number) => Ok(vec!["-ar".to_owned(), number.to_string()]),
            None => Err(refusal(&answer)),
        }
    }

    fn files(&self, group: Group, account: &Account) -> Result<Files, BatchError> {
        let directory = match self.directory.contains("{home}") {
            true => self.directory.replace("{home}", &home_of(account)?),
            false => self.directory.clone(),
        };
        let directory = PathBuf::from(directory.replace("{user}", account.name.as_str()));
        let name = job_name(&self.site, group);
        Ok(Files {
            invocations: directory.join(format!("{name}.invocations")),
            words: directory.join(format!("{name}.words")),
            directory,
        })
    }

    /// Writes the secrets, as the account and for it alone. What stands there is replaced.
    async fn write(&self, files: &Files, account: &Account, secrets: &str) -> Result<(), BatchError> {
        let make = ["-d".to_owned(), "-m".to_owned(), "700".to_owned(), shown(&files.directory)];
        let file = shown(&files.invocations);
        // Nobody else may read it before anything is in it. Its standard input is not the account's
        // to open by a name.
        let put = ["-m".to_owned(), "600".to_owned(), "/dev/null".to_owned(), file.clone()];
        let fill = [format!("of={file}"), "conv=notrunc".to_owned(), "status=none".to_owned()];
        let steps: [(&str, &[String], &str); 3] =
            [("install", &make, ""), ("install", &put, ""), ("dd", &fill, secrets)];
        for (program, words, input) in steps {
            let answer = self.commands.run(Some(account), program, words, input.as_bytes()).await;
            let answer = answer.map_err(|error| error.of_question())?;
            if !answer.status.success() {
                let what = format!("its invocations cannot be left with account {}", account.name);
                return Err(BatchError::refused(format!("{what}: {}", answer.complaint())));
            }
        }
        Ok(())
    }

    /// The last line of what a job's Launchers said, if anything; then its files go.
    pub(super) async fn take_words(&self, group: Group, account: &Account) -> Option<String> {
        let files = self.files(group, account).ok()?;
        let words = vec!["-c".to_owned(), WORDS_BYTES.to_owned(), shown(&files.words)];
        let said = self.act(account, "tail", words).await;
        self.remove_files(&files, account).await;
        let said = said.ok().filter(|answer| answer.status.success())?.out;
        let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty() && !is_log(line));
        lines.next_back().map(str::to_owned)
    }

    /// Repeatable. What cannot be removed stays: it holds nothing that is of use any more.
    async fn remove_files(&self, files: &Files, account: &Account) {
        let remove = vec!["-f".to_owned(), shown(&files.invocations), shown(&files.words)];
        let close = vec!["--ignore-fail-on-non-empty".to_owned(), shown(&files.directory)];
        for (program, words) in [("rm", remove), ("rmdir", close)] {
            if let Err(error) = self.act(account, program, words).await {
                tracing::warn!("files of account {} stay: {error}", account.name);
            }
        }
    }

    /// By the site's own command, else by a small batch job that runs on the node soon or not at all.
    pub(super) async fn sweep_node(&self, node: &NodeName, account: &Account) -> Result<(), BatchError> {
        let node_manager = self.launcher.with_file_name("node-manager");
        let name = format!("gridpilot-sweep-{node}");
        let (program, words, user) = match self.sweep.split_first() {
            Some((program, words)) => {
                let replace = |word: &String| {
                    word.replace("{node}", node.as_str())
                        .replace("{user}", account.name.as_str())
                        .replace("{uid}", &account.uid.to_string())
                        .replace("{gid}", &account.gid.to_string())
                };
                (program.clone(), words.iter().map(replace).collect::<Vec<_>>(), None)
            }
            None => {
                let own = ["-sync", "y", "-b", "y", "-r", "n", "-m", "n", "-wd", "/", "-j", "y"];
                let mut words: Vec<String> = own.map(String::from).into();
                words.extend(["-o", "/dev/null", "-l", SWEEP_LIMIT, "-l"].map(String::from));
                words.extend([format!("h={node}"), "-N".to_owned(), name.clone()]);
                words.extend(self.queue.iter().flat_map(|queue| ["-q".to_owned(), queue.clone()]));
                words.extend(self.extra.iter().cloned());
                words.extend([shown(&node_manager), "sweep".to_owned()]);
                let qsub = shown(&self.commands.path("qsub"));
                (qsub, words, Some(account))
            }
        };
        let swept = self.commands.execute(user, &program, &words, b"", SWEEP_TIME).await;
        match swept {
            Ok(answer) if answer.status.success() => Ok(()),
            Ok(answer) => Err(BatchError::unavailable(format!(
                "the sweep of node {node} failed: {}",
                answer.complaint()
            ))),
            Err(error) => {
                if let Some(account) = user {
                    // Nobody waits for it any more.
                    let _ = self.act(account, "qdel", vec![name]).await;
                }
                Err(BatchError::unavailable(format!("the sweep of node {node}: {error}")))
            }
        }
    }
}

/// How long a batch job may run: Grid Engine's own limit is the last of all.
fn walltime_s(submit: &Submit) -> u32 {
    let life = submit.lifetime_s.saturating_sub(submit.begin_in_s);
    life.saturating_add(WALLTIME_MARGIN_S).div_ceil(60).saturating_mul(60)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn home_of(account: &Account) -> Result<String, BatchError> {
    let found = User::from_uid(Uid::from_raw(account.uid));
    let home = found.ok().flatten().map(|user| shown(&user.dir));
    home.ok_or_else(|| BatchError::refused(format!("account {} has no home here", account.name)))
}

/// The node manager's notes for the system log, which come here when there is none.
fn is_log(line: &str) -> bool {
    line.starts_with("gridpilot node-manager[")
}

/// Of `Your advance reservation 1 has been granted`.
fn reservation_number(said: &str) -> Option<u32> {
    let (_, rest) = said.split_once("advance reservation ")?;
    rest.split_once(" has been granted")?.0.trim().parse().ok()
}

/// What a command that failed means.
pub(super) fn refusal(answer: &Answer) -> BatchError {
    let said = if answer.err.trim().is_empty() { &answer.out } else { &answer.err };
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = |words: &str| lines.iter().find(|line| line.contains(words)).map(|line| (*line).to_owned());
    // Sent, and no answer came back.
    if let Some(line) = line("failed receiving gdi request") {
        return BatchError::unknown(line);
    }
    let down = ["commlib error", "unable to contact qmaster", "unable to send message to qmaster"];
    if let Some(line) = down.into_iter().find_map(line) {
        return BatchError::unavailable(line);
    }
    let first =
        lines.iter().find(|line| **line != "Exiting.").map_or_else(|| answer.complaint(), |l| (*l).into());
    let what = first.trim_start_matches("Unable to run job: ").trim_start_matches("error: ").to_owned();
    // Limits on how many there are at once: fewer are there later.
    match what.contains("jobs are allowed") || what.contains("jobs allowed") {
        true => BatchError::unavailable(what),
        false => BatchError::refused(what),
    }
}
