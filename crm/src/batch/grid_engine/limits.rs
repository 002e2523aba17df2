//! What a queue of Grid Engine admits: from `qconf -sq`, `qconf -sp` and `qstat -f`.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::names::Text;

use super::xml::records;

/// A queue instance in one of these states starts nothing: disabled by hand or by its calendar,
/// suspended, unreachable, in error, or of a configuration that is no more.
const CLOSED: [char; 9] = ['d', 'D', 's', 'S', 'C', 'u', 'E', 'c', 'o'];

/// One key of `qconf -s...`; long values go on behind a backslash.
pub fn value(text: &str, key: &str) -> Option<String> {
    let text = text.replace("\\\n", " ");
    let line =
        text.lines().find_map(|line| line.strip_prefix(key).filter(|rest| rest.starts_with([' ', '\t'])))?;
    Some(line.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

/// The longest time that a job may get in any of these queues, which stand one after another in the
/// answer of `qconf -sq Q,Q`; `None` = one of them is not limited, or nothing is said.
pub fn walltime_max(queues: &str) -> Option<Duration> {
    let queues = queues.replace("\\\n", " ");
    let mut longest = None;
    for line in queues.lines().filter_map(|line| line.strip_prefix("h_rt")) {
        // Like "24:00:00,[a1=1:0:0],[@big=INFINITY]": for all hosts, and for some.
        for one in line.trim().split(',') {
            let time = one.trim_matches(['[', ']']).rsplit('=').next().unwrap_or_default();
            longest = longest.max(Some(duration(time)?));
        }
    }
    longest
}

/// `INFINITY`, seconds, or hours:minutes:seconds.
fn duration(text: &str) -> Option<Duration> {
    let mut seconds: u64 = 0;
    for part in text.trim().split(':') {
        seconds = seconds.checked_mul(60)?.checked_add(part.parse().ok()?)?;
    }
    Some(Duration::from_secs(seconds))
}

/// The hosts of a queue.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hosts {
    /// How many there are, whatever state they are in.
    pub count: u32,
    /// Why none of them starts anything now.
    pub closed: Option<Text>,
    /// The cluster queues that they are in.
    pub queues: BTreeSet<String>,
}

/// Reads `qstat -f -xml -pe PE`. `None` if it is no such list.
pub fn hosts(document: &str) -> Option<Hosts> {
    let instances = records(document, "job_info", "Queue-List")?;
    let mut hosts = BTreeSet::new();
    let mut queues = BTreeSet::new();
    let mut states = BTreeSet::new();
    let mut open = 0;
    for instance in &instances {
        let Some((queue, host)) = instance.get("name").and_then(|name| name.split_once('@')) else {
            continue;
        };
        hosts.insert(host.to_owned());
        queues.insert(queue.to_owned());
        let state = instance.get("state").unwrap_or_default();
        match state.chars().any(|letter| CLOSED.contains(&letter)) {
            true => states.extend(state.chars().filter_map(state_word)),
            false => open += 1,
        }
    }
    let closed = match (hosts.len(), open) {
        (0, _) => Some("no queue has its parallel environment".into()),
        (count, 0) => {
            let states: Vec<&str> = states.into_iter().collect();
            let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
            Some(
                format!("queue {} is {} on all {count} hosts", queues.join(", "), states.join(" or ")).into(),
            )
        }
        _ => None,
    };
    Some(Hosts { count: u32::try_from(hosts.len()).unwrap_or(u32::MAX), closed, queues })
}

fn state_word(letter: char) -> Option<&'static str> {
    Some(match letter {
        'd' => "disabled",
        'D' => "disabled by its calendar",
        's' | 'S' => "suspended",
        'C' => "suspended by its calendar",
        'u' => "unreachable",
        'E' => "in error",
        'c' => "configured ambiguously",
        'o' => "orphaned",
        _ => return None,
    })
}

/// Why a parallel environment cannot start pilots one to a host; `None` = it can. From `qconf -sp`.
pub fn unfit(environment: &str) -> Option<Text> {
    let says = |key: &str| value(environment, key).unwrap_or_default();
    let name = says("pe_name");
    for (key, wanted) in [("allocation_rule", "1"), ("control_slaves", "TRUE")] {
        let is = says(key);
        if !is.eq_ignore_ascii_case(wanted) {
            return Some(format!("parallel environment {name} has {key} {is}; it must be {wanted}").into());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUEUE: &str = include_str!("records/qconf-sq.txt");
    const ENVIRONMENT: &str = include_str!("records/qconf-sp.txt");

    fn limit(h_rt: &str) -> Option<u64> {
        let queue =
            QUEUE.replacen("h_rt                  INFINITY", &format!("h_rt                  {h_rt}"), 1);
        walltime_max(&queue).map(|limit| limit.as_secs())
    }

    #[test]
    fn the_longest_time_of_any_host_is_the_limit() {
        for (h_rt, seconds) in [
            ("INFINITY", None),
            ("86400", Some(86_400)),
            ("24:00:00", Some(86_400)),
            ("0:10:0", Some(600)),
            ("1:0:0,[a1=2:0:0],[a2=0:0:5]", Some(7200)),
            ("1:0:0, \\\n                      [a1=INFINITY]", None),
            ("99999999999999999999:00:00", None),
        ] {
            assert_eq!(limit(h_rt), seconds, "{h_rt}");
        }
        let two = format!("{}\n{}", QUEUE.replace("INFINITY", "60"), QUEUE.replace("INFINITY", "90"));
        assert_eq!(walltime_max(&two), Some(Duration::from_secs(90)));
        assert_eq!(walltime_max(""), None);
    }

    #[test]
    fn a_queue_is_closed_when_none_of_its_hosts_is_open() {
        let open = hosts(include_str!("records/qstat-f.xml")).unwrap();
        assert_eq!((open.count, open.closed), (2, None));
        assert_eq!(open.queues.into_iter().collect::<Vec<_>>(), ["all.q"]);
        let half = include_str!("records/qstat-f-closed.xml");
        assert_eq!(hosts(half).unwrap().closed, None, "one of two is disabled");
        let closed = half.replace("</arch>\n    </Queue-List>", "</arch>\n<state>auE</state></Queue-List>");
        let closed = hosts(&closed).unwrap().closed.unwrap();
        assert_eq!(closed.as_str(), "queue all.q is disabled or in error or unreachable on all 2 hosts");
        assert_eq!(hosts("error: no such parallel environment"), None);
    }

    #[test]
    fn an_overloaded_host_is_no_closed_queue() {
        let alarm = include_str!("records/qstat-f-closed.xml").replace("<state>d<", "<state>a<");
        assert_eq!(hosts(&alarm).unwrap().closed, None);
    }

    #[test]
    fn a_parallel_environment_that_packs_hosts_or_has_no_control_is_unfit() {
        assert_eq!(unfit(ENVIRONMENT), None);
        let packs =
            unfit(&ENVIRONMENT.replace("allocation_rule    1", "allocation_rule    $fill_up")).unwrap();
        assert!(packs.as_str().contains("gridpilot has allocation_rule $fill_up"), "{packs}");
        assert!(unfit(&ENVIRONMENT.replace("control_slaves     TRUE", "control_slaves FALSE")).is_some());
        assert_eq!(value(ENVIRONMENT, "slots").as_deref(), Some("999"));
        assert_eq!(value(ENVIRONMENT, "slot"), None);
    }

    proptest! {
        #[test]
        fn no_output_upsets_the_readers(text in "[ -~\n]{0,200}") {
            let _ = (walltime_max(&text), hosts(&text), unfit(&text), value(&text, "h_rt"));
            let _ = limit(&text);
        }
    }
}
