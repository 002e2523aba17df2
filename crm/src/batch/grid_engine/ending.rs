//! Why a batch job ended, from the line that Grid Engine writes of it into its accounting file
//! (`accounting(5)`), and from what was seen of it before.

use std::time::Duration;

use protocol::names::Text;

use super::status::Number;
use crate::batch::ending;
use crate::batch::ledger::Seen;

/// Fields of a line that are used, counted from 0.
const JOB_NAME: usize = 4;
const JOB_NUMBER: usize = 5;
/// Seconds since the epoch.
const STARTED: usize = 9;
const ENDED: usize = 10;
const FAILED: usize = 11;
const EXIT_STATUS: usize = 12;
/// This one from the end, for what was requested stands before it and may hold colons.
const TASK_FROM_END: usize = 4;
/// Fields of a whole line at least.
const FIELDS: usize = 45;
/// How much earlier than its limit a job may end by it: Grid Engine counts whole seconds, and so do
/// those who look.
const LIMIT_SLACK: Duration = Duration::from_secs(3);

/// How a job ended, as it was accounted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Accounted {
    /// `sge_status(5)`: 0 = it ran to its end.
    pub failed: u32,
    pub exit_status: u32,
    /// It ran as long as it had asked for, or was made to ask by whoever may change that.
    pub at_limit: bool,
}

/// Finds a job's own line in the end of the accounting file; the newest, for numbers are used again.
/// Those of its parts at other hosts are not it.
pub fn accounted(tail: &str, number: Number, name: &str) -> Option<Accounted> {
    tail.lines().rev().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_whole = fields.len() >= FIELDS && fields[fields.len() - TASK_FROM_END] == "NONE";
        if !is_whole || fields[JOB_NAME] != name {
            return None;
        }
        let of = fields[JOB_NUMBER].parse::<Number>().ok()?;
        let accounted = Accounted {
            failed: fields[FAILED].parse().ok()?,
            exit_status: fields[EXIT_STATUS].parse().ok()?,
            at_limit: ran_to_its_limit(&fields),
        };
        (of == number).then_some(accounted)
    })
}

/// Whether a job ended at the limit that stands among what it requested.
fn ran_to_its_limit(fields: &[&str]) -> bool {
    let limit = fields.iter().find_map(|field| {
        let (_, rest) = field.split_once("h_rt=")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    });
    let at = |field: usize| fields[field].parse::<u64>().ok();
    let (Some(limit), Some(started), Some(ended)) = (limit, at(STARTED), at(ENDED)) else { return false };
    ended.saturating_sub(started) + LIMIT_SLACK.as_secs() >= limit
}

/// In people's words.
pub fn reason(seen: &Seen, accounted: Option<Accounted>) -> Text {
    let at_limit = seen.limit.filter(|limit| seen.ran && seen.ran_for + LIMIT_SLACK >= *limit);
    match (seen, accounted) {
        // Before the cancel, which follows for whatever has ended already.
        (_, Some(Accounted { failed: 37, .. } | Accounted { at_limit: true, .. })) => {
            "its batch job reached its time limit (h_rt)".into()
        }
        (Seen { cancelled: true, .. }, _) => "its batch job was cancelled by this site".into(),
        (Seen { ran: false, .. }, None) => "its batch job was deleted from the queue before it ran".into(),
        (Seen { deleted: true, .. }, _) => match at_limit {
            Some(limit) => format!("its batch job reached its time limit of {} s", limit.as_secs()).into(),
            None => "its batch job was deleted by qdel".into(),
        },
        (_, Some(Accounted { failed, exit_status, .. })) => {
            let how = ending::words(i32::try_from(exit_status).unwrap_or(i32::MAX));
            match failed_words(failed) {
                Some(words) => format!("its batch job failed {words}; {how}").into(),
                None => how.into(),
            }
        }
        (_, None) => "its batch job ended, and Grid Engine has not accounted for it yet".into(),
    }
}

/// What Grid Engine calls the failure, where it is more than how the script ended.
fn failed_words(failed: u32) -> Option<&'static str> {
    match failed {
        0 | 100 => None,
        1..=7 | 11 | 26..=36 => Some("before it ran"),
        8 | 14 | 15 => Some("in the site's prolog or epilog"),
        9 | 10 | 12 | 13 => Some("in the start or stop procedure of the parallel environment"),
        18 | 19 => Some("because its shepherd process died"),
        25 => Some("and was to be run again"),
        _ => Some("by itself"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RECORDED: &str = include_str!("records/accounting");

    fn of(number: Number, name: &str) -> Option<Accounted> {
        accounted(RECORDED, number, name)
    }

    fn words(seen: Seen, accounted: Option<Accounted>) -> String {
        reason(&seen, accounted).as_str().to_owned()
    }

    #[test]
    fn the_line_of_the_job_itself_is_taken() {
        assert_eq!(
            of(21, "gridpilot-a-r20.1"),
            Some(Accounted { failed: 0, exit_status: 3, at_limit: false })
        );
        assert_eq!(
            of(22, "gridpilot-a-r20.2"),
            Some(Accounted { failed: 100, exit_status: 137, at_limit: false })
        );
        // Written after that of its part at another host, and the other way round.
        assert_eq!(of(3, "gp-a-r12.1"), Some(Accounted { failed: 37, exit_status: 137, at_limit: true }));
        assert_eq!(of(2, "gp-a-r12.1"), Some(Accounted { failed: 100, exit_status: 137, at_limit: false }));
        assert_eq!(of(21, "gridpilot-a-r20.2"), None, "a number that is another job's");
        assert_eq!(of(9999, "gridpilot-a-r20.1"), None);
    }

    #[test]
    fn every_ending_is_told_by_what_caused_it() {
        let ran = Seen { ran: true, ran_for: Duration::from_secs(9), ..Seen::default() };
        let limit = Some(Duration::from_secs(60));
        for (seen, accounted, said) in [
            (Seen { cancelled: true, ..ran }, of(22, "gridpilot-a-r20.2"), "cancelled by this site"),
            (Seen::default(), None, "before it ran"),
            (ran, of(3, "gp-a-r12.1"), "time limit"),
            (Seen { cancelled: true, ..ran }, of(3, "gp-a-r12.1"), "time limit"),
            (Seen { deleted: true, limit, ..ran }, None, "qdel"),
            (
                Seen { deleted: true, limit, ran_for: Duration::from_secs(58), ..ran },
                None,
                "time limit of 60 s",
            ),
            (ran, of(21, "gridpilot-a-r20.1"), "ended with code 3"),
            (ran, of(24, "gridpilot-a-r20.4"), "killed by signal 9"),
            (ran, of(25, "gridpilot-a-r20.5"), "shepherd"),
            (ran, Some(Accounted { failed: 0, exit_status: 0, at_limit: false }), "in order"),
            (ran, None, "not accounted"),
        ] {
            let words = words(seen, accounted);
            assert!(words.contains(said), "{seen:?} {accounted:?}: {words}");
        }
    }

    proptest! {
        #[test]
        fn no_file_upsets_the_reader(text in "[ -~\n]{0,200}", at in 0..RECORDED.len()) {
            let _ = accounted(&text, 21, "gridpilot-a-r20.1");
            let spliced = format!("{}{text}{}", &RECORDED[..at], &RECORDED[at..]);
            let _ = accounted(&spliced, 21, "gridpilot-a-r20.1");
        }

        #[test]
        fn every_ending_has_words(failed in 0..200_u32, exit_status in any::<u32>()) {
            let seen = Seen { ran: true, ..Seen::default() };
            let words = words(seen, Some(Accounted { failed, exit_status, at_limit: false }));
            prop_assert!(!words.is_empty());
        }
    }
}
