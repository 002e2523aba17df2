//! What `qstat` says of our batch jobs.

use std::collections::BTreeMap;

use protocol::names::{NodeName, SiteName, Text};

use super::xml::records;
use crate::batch::ledger::Found;
use crate::batch::names::{Group, parse_job};
use crate::batch::{BatchError, Standing};

/// A batch job's number in its cell.
pub type Number = u32;

/// One of our batch jobs in the list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    pub number: Number,
    pub group: Group,
    /// The local account that it runs as.
    pub owner: String,
    pub stage: Stage,
    /// It is being ended by somebody's `qdel`, or by its limit.
    pub deleted: bool,
    /// Its hosts, the one with the script first. Those after it are in no order.
    pub hosts: Vec<NodeName>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    Waiting,
    /// It could not be started, and never will be unless somebody clears that.
    Broken,
    Running,
}

/// Reads `qstat -xml -g t -u '*'`: one entry for each host of a job. Jobs of others are left out.
///
/// # Errors
/// It is not such a list, or not all of it: nothing can be said of any job.
pub fn read(document: &str, site: &SiteName) -> Result<BTreeMap<Number, Listed>, BatchError> {
    let entries = records(document, "job_info", "job_list")
        .ok_or_else(|| BatchError::unavailable("qstat answered with something else than a list of jobs"))?;
    let mut jobs: BTreeMap<Number, Listed> = BTreeMap::new();
    for entry in entries {
        let text = |name| entry.get(name).unwrap_or_default();
        let Some(group) = parse_job(site, text("JB_name")) else { continue };
        let Ok(number) = text("JB_job_number").parse() else { continue };
        let state = text("state");
        let stage = match state {
            _ if state.contains('E') => Stage::Broken,
            _ if state.contains('w') => Stage::Waiting,
            _ => Stage::Running,
        };
        let owner = text("JB_owner").to_owned();
        let deleted = state.contains('d');
        let new = Listed { number, group, owner, stage, deleted, hosts: Vec::new() };
        let job = jobs.entry(number).or_insert(new);
        if let Some(host) = host(text("queue_name")).filter(|host| !job.hosts.contains(host)) {
            let place = if text("master") == "MASTER" { 0 } else { job.hosts.len() };
            job.hosts.insert(place, host);
        }
    }
    Ok(jobs)
}

/// The host of a queue instance like `all.q@a1`.
fn host(instance: &str) -> Option<NodeName> {
    instance.split_once('@')?.1.parse().ok()
}

impl Listed {
    pub fn found(&self) -> Found {
        let Self { group, deleted, .. } = *self;
        let running = self.stage == Stage::Running;
        Found { group, id: self.number.to_string(), owner: self.owner.clone(), running, deleted }
    }

    /// How its pilot of this place in the script stands; `why` is what `qstat -j` said of it.
    pub fn standing(&self, place: usize, why: Option<&Text>) -> Standing {
        match self.stage {
            Stage::Waiting | Stage::Broken => Standing::Queued { why: why.cloned(), expected: None },
            // The script starts the first pilot where it runs itself, and the others where it
            // finds them in its file of hosts; of two there is no choice.
            Stage::Running if place == 0 || self.hosts.len() == 2 => {
                Standing::Running { node: self.hosts.get(place).cloned() }
            }
            Stage::Running => Standing::Running { node: None },
        }
    }
}

/// Reads `qstat -j N,N,...`: why jobs wait or failed to start, in Grid Engine's words.
pub fn reasons(text: &str) -> BTreeMap<Number, Text> {
    let mut reasons: BTreeMap<Number, Vec<&str>> = BTreeMap::new();
    let (mut number, mut listening) = (None, false);
    for line in text.lines() {
        let (key, value) = match line.split_once(':') {
            Some((key, value)) if !line.starts_with(' ') => (key.trim_end(), value.trim()),
            _ => ("", line.trim()),
        };
        match key {
            "job_number" => (number, listening) = (value.parse().ok(), false),
            // What follows with an indent belongs to it, too.
            "" => {}
            key => listening = key == "scheduling info" || key.starts_with("error reason"),
        }
        if let Some(number) = number.filter(|_| listening && says_something(value)) {
            let said = reasons.entry(number).or_default();
            match key.starts_with("error reason") {
                true => said.insert(0, without_time(value)),
                false => said.push(value),
            }
        }
    }
    let two = |said: Vec<&str>| said.into_iter().take(2).collect::<Vec<_>>().join("; ").into();
    reasons.into_iter().map(|(number, said)| (number, two(said))).collect()
}

fn says_something(line: &str) -> bool {
    let is_rule = line.bytes().all(|byte| byte == b'=');
    !is_rule && !["There are no messages available", "Job is in error state"].contains(&line)
}

/// Without `11/20/2026 23:04:12 [20000:24684]: error: ` in front.
fn without_time(line: &str) -> &str {
    let rest = line.split_once("]: ").map_or(line, |(_, rest)| rest);
    rest.strip_prefix("error: ").unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn site() -> SiteName {
        "a".parse().unwrap()
    }

    /// Recorded from Grid Engine 8.1.9.
    const RECORDED: &str = include_str!("records/qstat.xml");

    #[test]
    fn our_jobs_are_found_among_others_with_stage_and_hosts() {
        let jobs = read(RECORDED, &site()).unwrap();
        assert_eq!(jobs.keys().copied().collect::<Vec<_>>(), [14, 15, 16, 17, 18], "R&D is not ours");
        let stages: Vec<Stage> = jobs.values().map(|job| job.stage).collect();
        let expected = [Stage::Running, Stage::Waiting, Stage::Broken, Stage::Waiting, Stage::Waiting];
        assert_eq!(stages, expected);
        let names: Vec<&str> = jobs[&14].hosts.iter().map(NodeName::as_str).collect();
        assert_eq!((names, jobs[&14].deleted), (vec!["a1", "a2"], true));
        assert_eq!(jobs[&15].group, (protocol::ids::ReservationId(13), crate::pilot::Round(2)));
        assert!(jobs.values().all(|job| job.owner == "gridpilot-user"));
    }

    #[test]
    fn the_first_pilot_is_where_the_script_is() {
        let swapped = RECORDED.replace("MASTER", "X").replace("SLAVE", "MASTER").replace(">X<", ">SLAVE<");
        let job = &read(&swapped, &site()).unwrap()[&14];
        let on = |name: &str| Standing::Running { node: Some(name.parse().unwrap()) };
        assert_eq!([job.standing(0, None), job.standing(1, None)], [on("a2"), on("a1")]);
    }

    #[test]
    fn an_empty_list_is_an_answer_and_a_broken_one_is_none() {
        let empty = include_str!("records/qstat-empty.xml");
        assert_eq!(read(empty, &site()), Ok(BTreeMap::new()));
        for no_answer in ["", "error: commlib error: got select error (Connection refused)", &empty[..200]] {
            assert!(matches!(read(no_answer, &site()), Err(BatchError::Unavailable(_))), "{no_answer}");
        }
    }

    #[test]
    fn the_reasons_are_those_that_a_person_would_read() {
        let reasons = reasons(include_str!("records/qstat-j.txt"));
        let said = |number| reasons.get(&number).map(|text: &Text| text.as_str().to_owned());
        assert_eq!(said(14), None, "it runs");
        assert_eq!(said(15).unwrap(), "cannot run in PE \"gridpilot\" because it only offers 2 slots");
        assert_eq!(said(16).unwrap(), "can't chdir to /nonexistent: No such file or directory");
        assert_eq!(said(17).unwrap(), "Job is in hold state");
        assert_eq!(said(18).unwrap(), "execution time not reached");
    }

    #[test]
    fn of_several_reasons_two_are_told() {
        let text =
            "job_number:   7\nscheduling info:   queue \"a\" dropped\n             cannot run\n      third\n";
        assert_eq!(reasons(text)[&7].as_str(), "queue \"a\" dropped; cannot run");
    }

    proptest! {
        #[test]
        fn no_output_upsets_the_readers(text in "[ -~\n]{0,200}", cut in 0..4000_usize) {
            let _ = (read(&text, &site()), reasons(&text));
            let halves = RECORDED.split_at_checked(cut).unwrap_or((RECORDED, ""));
            let spliced = format!("{}{text}{}", halves.0, halves.1);
            let _ = read(&spliced, &site());
            let _ = reasons(&include_str!("records/qstat-j.txt").replace(':', &text));
        }
    }
}
