//! What `qstat -f` says of jobs and queues: as JSON (OpenPBS from 14.1 on), or as text (Torque, and
//! OpenPBS, too).

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::names::{NodeName, SiteName, Text};
use serde_json::Value;

use super::VARIABLE;
use crate::batch::ledger::Found;
use crate::batch::names::{Group, parse_job};
use crate::batch::{Admits, BatchError, Standing, ending};

/// One of our batch jobs in the list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    pub id: String,
    pub group: Group,
    /// The local account that submitted it.
    pub owner: String,
    pub stage: Stage,
    /// In the order of the file that the script reads.
    pub hosts: Vec<NodeName>,
    /// What the scheduler or the server noted last.
    pub comment: Option<Text>,
    /// Once it has ended.
    pub exit_status: Option<i64>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    Waiting,
    Running,
    /// Kept for people to look at.
    Over,
}

/// Attributes of one job or queue; those of a resource like `Resource_List.walltime`.
type Attributes = BTreeMap<String, String>;

/// Reads the answer of `qstat -f -F json`. Jobs of others are left out.
///
/// # Errors
/// It is no such answer: nothing can be said of any job.
pub fn read_json(text: &str, site: &SiteName) -> Result<Vec<Listed>, BatchError> {
    let garbled =
        |what: &str| BatchError::unavailable(format!("qstat answered with no list of jobs: {what}"));
    let document: Value = serde_json::from_str(text).map_err(|error| garbled(&error.to_string()))?;
    if document.get("pbs_server").is_none() {
        return Err(garbled("it names no server"));
    }
    // Without jobs there is no such key.
    let Some(jobs) = document.get("Jobs") else { return Ok(Vec::new()) };
    let jobs = jobs.as_object().ok_or_else(|| garbled("its jobs are none"))?;
    let listed = jobs.iter().filter_map(|(id, job)| {
        let mut attributes = Attributes::new();
        for (key, value) in job.as_object()? {
            match value.as_object() {
                Some(parts) if key == "Variable_List" => {
                    let tag = parts.get(VARIABLE).and_then(Value::as_str)?;
                    attributes.insert(key.clone(), format!("{VARIABLE}={tag}"));
                }
                Some(parts) => {
                    let part = |(name, value): (&String, &Value)| (format!("{key}.{name}"), plain(value));
                    attributes.extend(parts.iter().map(part));
                }
                None => drop(attributes.insert(key.clone(), plain(value))),
            }
        }
        listed(id, &attributes, site)
    });
    Ok(listed.collect())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Reads the answer of `qstat -f`.
pub fn read_text(text: &str, site: &SiteName) -> Vec<Listed> {
    let records = records(text, "Job Id: ");
    records.iter().filter_map(|(id, attributes)| listed(id, attributes, site)).collect()
}

/// Records that begin with a line like `Job Id: 1.head`; a line that begins with a tab goes on the one
/// before it, at whatever letter that was broken.
fn records(text: &str, head: &str) -> Vec<(String, Attributes)> {
    let joined = text.replace("\r\n", "\n").replace("\n\t", "");
    let mut records: Vec<(String, Attributes)> = Vec::new();
    for line in joined.lines() {
        if let Some(name) = line.strip_prefix(head) {
            records.push((name.trim().to_owned(), Attributes::new()));
        } else if let (Some((_, attributes)), Some((key, value))) =
            (records.last_mut(), line.split_once(" = "))
        {
            attributes.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    records
}

fn listed(id: &str, attributes: &Attributes, site: &SiteName) -> Option<Listed> {
    let variables = attributes.get("Variable_List")?;
    let mut tags = variables.split(',').filter_map(|pair| pair.strip_prefix(VARIABLE)?.strip_prefix('='));
    let group = parse_job(site, tags.next()?.trim())?;
    let stage = match attributes.get("job_state")?.as_str() {
        "Q" | "H" | "W" | "T" | "M" => Stage::Waiting,
        "F" | "C" | "X" => Stage::Over,
        _ => Stage::Running,
    };
    let exit_status = attributes.get("Exit_status").or_else(|| attributes.get("exit_status"));
    Some(Listed {
        id: id.to_owned(),
        group,
        owner: attributes.get("Job_Owner")?.split('@').next()?.to_owned(),
        stage,
        hosts: hosts(attributes.get("exec_host").map_or("", String::as_str)),
        comment: attributes.get("comment").filter(|text| !text.is_empty()).map(|text| text.trim().into()),
        exit_status: exit_status.and_then(|status| status.parse().ok()),
    })
}

/// Of `n1/0*2+n2/0-1`: each once, in its order.
fn hosts(list: &str) -> Vec<NodeName> {
    let mut hosts: Vec<NodeName> = Vec::new();
    for host in list.split('+').filter_map(|part| part.split('/').next()?.parse().ok()) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

impl Listed {
    /// `None` of a job that is over.
    pub fn found(&self) -> Option<Found> {
        let running = match self.stage {
            Stage::Waiting => false,
            Stage::Running => true,
            Stage::Over => return None,
        };
        Some(Found {
            group: self.group,
            id: self.id.clone(),
            owner: self.owner.clone(),
            running,
            deleted: false,
        })
    }

    /// How its pilot of this place in the script stands.
    pub fn standing(&self, place: usize) -> Standing {
        match self.stage {
            Stage::Running => Standing::Running { node: self.hosts.get(place).cloned() },
            _ => Standing::Queued { why: self.comment.clone(), expected: None },
        }
    }
}

/// Why a job is over, in people's words; `ran_out` = it had been running for as long as it may.
pub fn reason(exit_status: Option<i64>, ran_out: bool, comment: Option<&Text>) -> Text {
    match exit_status {
        // OpenPBS -29, Torque -11 and the older: the limit on its time.
        Some(-29) => "its batch job reached its time limit".into(),
        Some(-28..=-24) => "its batch job reached a limit on memory or processors".into(),
        // A signal is 256 more there, and 128 more with Torque's shells.
        Some(status @ (265 | 271)) if ran_out => {
            format!("its batch job reached its time limit (signal {})", status - 256).into()
        }
        Some(271) => "its batch job was ended by qdel, or by a limit (signal 15)".into(),
        Some(status @ 257..) => format!("its batch job was killed by signal {}", status - 256).into(),
        Some(status @ 0..) => ending::words(i32::try_from(status).unwrap_or(i32::MAX)).into(),
        Some(status) => match comment {
            Some(comment) => format!("its batch job failed: {comment} (code {status})").into(),
            None => format!("its batch job failed before it ran (code {status})").into(),
        },
        None if ran_out => "its batch job reached its time limit".into(),
        None => "its batch job ended, and PBS keeps nothing of it".into(),
    }
}

/// Reads `qstat -Q -f QUEUE`. `None` if that queue is not in it.
pub fn queue(text: &str, name: &str) -> Option<Admits> {
    let (_, attributes) = records(text, "Queue: ").into_iter().find(|(known, _)| known == name)?;
    let is_off = |key: &str| attributes.get(key).is_some_and(|value| value.eq_ignore_ascii_case("false"));
    let closed = match (is_off("enabled"), is_off("started")) {
        (true, _) => Some(format!("queue {name} takes no jobs (enabled = False)").into()),
        (_, true) => Some(format!("queue {name} starts no jobs (started = False)").into()),
        _ => None,
    };
    let walltime_max = attributes.get("resources_max.walltime").and_then(|time| duration(time));
    let nodes_max = attributes.get("resources_max.nodect").and_then(|count| count.parse().ok());
    Some(Admits { nodes_max, walltime_max, closed })
}

/// The queue of jobs that name none, from `qstat -B -f`.
pub fn default_queue(text: &str) -> Option<String> {
    records(text, "Server: ").into_iter().find_map(|(_, attributes)| attributes.get("default_queue").cloned())
}

/// Seconds, or hours:minutes:seconds.
fn duration(text: &str) -> Option<Duration> {
    let mut seconds: u64 = 0;
    for part in text.split(':') {
        seconds = seconds.checked_mul(60)?.checked_add(part.parse().ok()?)?;
    }
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::ids::ReservationId;

    use super::*;
    use crate::pilot::Round;

    const JSON: &str = include_str!("records/openpbs.json");
    const TEXT: &str = include_str!("records/torque.txt");
    const QUEUE: &str = include_str!("records/queue.txt");

    fn site() -> SiteName {
        "a".parse().unwrap()
    }

    #[test]
    fn both_forms_say_the_same_of_our_jobs_and_nothing_of_others() {
        let json = read_json(JSON, &site()).unwrap();
        let text = read_text(TEXT, &site());
        let stages = [Stage::Waiting, Stage::Running, Stage::Over];
        for jobs in [&json, &text] {
            let of = |r| jobs.iter().find(|job| job.group.0 == ReservationId(r)).unwrap();
            assert_eq!(jobs.len(), 3);
            assert_eq!([of(13).stage, of(12).stage, of(14).stage], stages);
            assert_eq!(of(13).group.1, Round(2));
            assert_eq!(of(12).hosts.iter().map(NodeName::as_str).collect::<Vec<_>>(), ["n1", "n2"]);
            assert_eq!((of(12).owner.as_str(), of(14).owner.as_str()), ("alice", "bob"));
            assert_eq!(of(14).found(), None);
        }
        let waits = Standing::Queued {
            why: Some("Not Running: Insufficient amount of resource: ncpus".into()),
            expected: None,
        };
        assert_eq!(json[1].standing(0), waits);
        assert_eq!((json[2].exit_status, text[2].exit_status), (Some(-29), Some(271)));
    }

    #[test]
    fn an_answer_without_jobs_is_one_and_a_broken_one_is_none() {
        let empty = r#"{"timestamp":1,"pbs_version":"23.06.06","pbs_server":"head"}"#;
        assert_eq!(read_json(empty, &site()), Ok(Vec::new()));
        for broken in ["", "{}", "[]", "Connection refused", &JSON[..JSON.len() / 2]] {
            assert!(matches!(read_json(broken, &site()), Err(BatchError::Unavailable(_))), "{broken:.20}");
        }
    }

    #[test]
    fn every_ending_is_told_by_what_caused_it() {
        for (status, ran_out, word) in [
            (Some(-29), false, "time limit"),
            (Some(271), true, "time limit"),
            (Some(271), false, "qdel"),
            (Some(265), false, "signal 9"),
            (Some(137), false, "signal 9"),
            (Some(71), false, "NodeManager was killed"),
            (Some(0), false, "in order"),
            (Some(-1), false, "before it ran"),
            (None, false, "keeps nothing"),
        ] {
            let words = reason(status, ran_out, None);
            assert!(words.as_str().contains(word), "{status:?}: {words}");
        }
        let comment = Text::from("Job failed at n1");
        assert!(reason(Some(-3), false, Some(&comment)).as_str().contains("failed at n1"));
    }

    #[test]
    fn a_queue_says_its_limits_and_whether_it_is_open() {
        let open = queue(QUEUE, "workq").unwrap();
        let day = Some(Duration::from_secs(86_400));
        assert_eq!((open.nodes_max, open.walltime_max, open.closed), (Some(16), day, None));
        for (key, words) in [("enabled", "takes no jobs"), ("started", "starts no jobs")] {
            let text = QUEUE.replace(&format!("{key} = True"), &format!("{key} = False"));
            let closed = queue(&text, "workq").unwrap().closed.unwrap();
            assert!(closed.as_str().contains(words), "{closed}");
        }
        assert_eq!(queue(QUEUE, "other"), None);
        let server = "Server: head\n    server_state = Active\n    default_queue = workq\n";
        assert_eq!(default_queue(server).as_deref(), Some("workq"));
    }

    proptest! {
        #[test]
        fn no_output_upsets_the_readers(text in "[ -~\n\t]{0,200}", at in 0..1000_usize) {
            let _ = (read_json(&text, &site()), read_text(&text, &site()));
            let _ = (queue(&text, "workq"), default_queue(&text), hosts(&text), duration(&text));
            for recorded in [JSON, TEXT, QUEUE] {
                let (before, after) = recorded.split_at_checked(at).unwrap_or((recorded, ""));
                let spliced = format!("{before}{text}{after}");
                let _ = (read_json(&spliced, &site()), read_text(&spliced, &site()), queue(&spliced, "workq"));
            }
        }

        #[test]
        fn every_status_has_words(status in any::<i64>(), ran_out: bool) {
            prop_assert!(!reason(Some(status), ran_out, None).as_str().is_empty());
        }
    }
}
