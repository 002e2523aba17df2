//! Handing a batch job over to Grid Engine, and the files that go with it.

use std::path::Path;
use std::time::Duration;

use protocol::names::NodeName;

use super::GridEngine;
use crate::batch::commands::{Answer, filled};
use crate::batch::files::Files;
use crate::batch::host_script::{Dialect, Script, invocations};
use crate::batch::names::{Group, group, job_name};
use crate::batch::notes::Note;
use crate::batch::{BatchError, BatchJob};
use crate::site::{Account, Submit};

/// How long a sweep may take, with the time that the scheduler takes to begin it; below what the
/// owner waits for it.
const SWEEP_TIME: Duration = Duration::from_secs(12);
/// The sweep itself, seconds.
const SWEEP_LIMIT: &str = "h_rt=60";

impl GridEngine {
    pub(super) async fn hand_over(&self, job: &BatchJob) -> Result<(), BatchError> {
        let Some((first, _)) = job.pilots.first() else { return Ok(()) };
        let group = group(first.pilot);
        let files = self.files(group, &first.account).await?;
        let members = job.pilots.iter().map(|(submit, _)| submit.pilot.member).collect();
        let note = Note { account: first.account.clone(), members, id: None };
        self.ledger.note(group, note, first.walltime())?;
        match self.try_submit(job, first, group, &files).await {
            Ok(number) => {
                self.ledger.accepted(group, number);
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

    async fn try_submit(
        &self,
        job: &BatchJob,
        first: &Submit,
        group: Group,
        files: &Files,
    ) -> Result<String, BatchError> {
        let secrets = invocations(job.pilots.iter().map(|(_, invocation)| invocation.as_slice()));
        files.write(&self.commands, &first.account, &secrets).await?;
        let mut words = self.request(first, group, job.pilots.len());
        if first.begin_in_s > 0 {
            words.extend(["-a".to_owned(), self.commands.local_time(first.begin_in_s).await?]);
        }
        if let Some(number) = self.place(group.0, &first.account).await {
            words.extend(["-ar".to_owned(), number]);
        }
        words.extend(self.extra.iter().cloned());
        let script = Script {
            dialect: Dialect::GridEngine,
            launcher: &self.launcher,
            invocations: &files.invocations,
            words: &files.words,
        };
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
        words.extend(["-l".to_owned(), format!("h_rt={}", submit.walltime().as_secs())]);
        let without = without(&submit.exclude).map(|hosts| ["-l".to_owned(), hosts]);
        let queue = self.queue.clone().map(|queue| ["-q".to_owned(), queue]);
        let project = self.project.clone().map(|project| ["-P".to_owned(), project]);
        words.extend([without, queue, project].into_iter().flatten().flatten());
        words
    }

    pub(super) async fn files(&self, group: Group, account: &Account) -> Result<Files, BatchError> {
        Files::new(self.directory.as_deref(), &job_name(&self.site, group), account, &self.commands).await
    }

    /// By the site's own command, else by a small batch job that runs on the node soon or not at all.
    pub(super) async fn sweep_node(&self, node: &NodeName, account: &Account) -> Result<(), BatchError> {
        let node_manager = self.launcher.with_file_name("node-manager");
        let name = format!("gridpilot-sweep-{node}");
        let own = filled(&self.sweep, node, account);
        let (program, words, user) = match own.split_first() {
            Some((program, words)) => (program.clone(), words.to_vec(), None),
            None => {
                let own = ["-sync", "y", "-b", "y", "-r", "n", "-m", "n", "-wd", "/", "-j", "y"];
                let mut words: Vec<String> = own.map(String::from).into();
                words.extend(["-o", "/dev/null", "-l", SWEEP_LIMIT, "-l"].map(String::from));
                words.extend([format!("h={node}"), "-N".to_owned(), name.clone()]);
                words.extend(self.queue.iter().flat_map(|queue| ["-q".to_owned(), queue.clone()]));
                words.extend(self.extra.iter().cloned());
                words.extend([shown(&node_manager), "sweep".to_owned()]);
                ("qsub".to_owned(), words, Some(account))
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

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The request for hosts: none of those that are not clean. `None` = any host.
pub fn without(hosts: &[NodeName]) -> Option<String> {
    let all: Vec<String> = hosts.iter().map(|host| format!("!{host}")).collect();
    (!all.is_empty()).then(|| format!("h={}", all.join("&")))
}

/// As Grid Engine writes a length of time.
pub(super) fn clock(seconds: u32) -> String {
    format!("{}:{}:{}", seconds / 3600, seconds / 60 % 60, seconds % 60)
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
        true if what.contains("per user") => BatchError::account_full(what),
        true => BatchError::unavailable(what),
        false => BatchError::refused(what),
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn hosts_that_are_not_clean_are_excluded_together() {
        let hosts = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(without(&[]), None);
        assert_eq!(without(&hosts(&["a1"])).unwrap(), "h=!a1");
        assert_eq!(without(&hosts(&["a1", "b.c"])).unwrap(), "h=!a1&!b.c");
    }

    #[test]
    fn a_refusal_is_told_apart_from_a_qmaster_that_is_away() {
        let answer =
            |err: &str| Answer { status: ExitStatus::default(), out: String::new(), err: err.into() };
        let kind = |err: &str| refusal(&answer(err));
        // Recorded from Grid Engine 8.1.9.
        for (err, words) in [
            ("Unable to run job: error: no suitable queues\nExiting.\n", "no suitable queues"),
            (
                "Unable to run job: Job was rejected because job requests unknown queue \"no.q\"\nExiting.\n",
                "Job was rejected because job requests unknown queue \"no.q\"",
            ),
            (
                "denied: \"u\" must be manager or in userset \"arusers\"\n",
                "denied: \"u\" must be manager or in userset \"arusers\"",
            ),
        ] {
            assert_eq!(kind(err), BatchError::refused(words));
        }
        let refused = "error: commlib error: got select error (Connection refused)\nerror: unable to send \
                       message to qmaster using port 6444 on host \"a0\": got send error\n";
        assert!(matches!(kind(refused), BatchError::Unavailable(_)));
        let lost = "error: commlib error: got select error (Connection reset by peer)\n\
                    failed receiving gdi request response for mid=1 (can't find connection).\n";
        assert!(matches!(kind(lost), BatchError::Unknown(_)));
        let many = "Unable to run job: job rejected: Only 2 jobs are allowed per ";
        let of_user = kind(&format!("{many}user (current job count: 2).\nExiting.\n"));
        let why = "job rejected: Only 2 jobs are allowed per user (current job count: 2).";
        assert_eq!(of_user, BatchError::account_full(why));
        assert!(matches!(kind(&format!("{many}cluster\nExiting.\n")), BatchError::Unavailable(_)));
    }
}
