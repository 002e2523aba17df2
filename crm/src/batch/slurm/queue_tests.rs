use proptest::prelude::*;

use super::*;

/// `squeue --json` of 22.05.8, cut down to one job that runs, one that waits and two that are over.
const JSON_22_05: &str = include_str!("recorded/squeue-22.05.json");
/// The documented form of current releases (data_parser v0.0.41 and later), of the same jobs.
const JSON_CURRENT: &str = include_str!("recorded/squeue-current.json");
/// `squeue -h --states=all -o LINE_FORMAT` of 22.05.8 with `SLURM_TIME_FORMAT=%s`.
const LINES: &str = "\
4|gpuser1|CANCELLED|PartitionNodeLimit|1795216209||wrap
9|gpuser1|PENDING|BeginTime|1795216471||gridpilot-a-r7.2
10|gpuser1|RUNNING|None|1795216105|b[1-2]|gridpilot-a-r1.1
3|gpuser1|CANCELLED|PartitionDown|N/A||wrap|with|bars
12_[1-4]|gpuser1|PENDING|Priority|N/A||wrap
11|gpuser1|COMPLETED|None|1795216146|b1|gridpilot-a-r2.1
";
/// `squeue --steps -h -o STEP_FORMAT` of 22.05.8.
const STEPS: &str = "\
10.0|gpuser1|gridpilot-a-r1.1-0
10.1|gpuser1|gridpilot-a-r1.1-1
10.batch|gpuser1|batch
";

/// Read as the answer to one question.
fn lines(text: &str, ours: impl Fn(&str) -> bool) -> Result<Vec<Row>, BadAnswer> {
    let (mark, text) = marked(text);
    parse_lines(&text, &mark, ours)
}

fn steps(text: &str, ours: impl Fn(&str) -> bool) -> Result<Vec<Step>, BadAnswer> {
    let (mark, text) = marked(text);
    parse_steps(&text, &mark, ours)
}

fn marked(text: &str) -> (Mark, String) {
    let mark = Mark::new(7);
    let text = text.lines().map(|line| format!("{}{line}\n", mark.0)).collect();
    (mark, text)
}

fn ours(name: &str) -> bool {
    name.starts_with("gridpilot-a-")
}

type Summary<'a> = (u64, &'a str, State, &'a str, &'a str, Option<i32>);

fn summary(rows: &[Row]) -> Vec<Summary<'_>> {
    rows.iter()
        .map(|r| (r.id, r.name.as_str(), r.state.clone(), r.reason.as_str(), r.nodes.as_str(), r.exit))
        .collect()
}

#[test]
fn both_forms_of_json_say_the_same() {
    let (old, new) = (parse_json(JSON_22_05, ours).unwrap(), parse_json(JSON_CURRENT, ours).unwrap());
    assert_eq!(old, new);
    let over = |word: &str| State::Over(word.into());
    assert_eq!(
        summary(&old),
        [
            (10, "gridpilot-a-r1.1", State::Running, "", "b[1-2]", Some(0)),
            (9, "gridpilot-a-r7.2", State::Pending, "BeginTime", "", Some(0)),
            (11, "gridpilot-a-r2.1", over("CANCELLED"), "", "b1", Some(71)),
            (12, "gridpilot-a-r3.1", over("FAILED"), "BadConstraints", "b1", Some(137)),
        ]
    );
    assert_eq!(old[0].start, Some(1_795_216_105));
    assert_eq!(old[1].start, None);
    assert!(old.iter().all(|row| row.user == "gpuser1"));
}

#[test]
fn lines_of_others_hold_anything_and_ours_are_read() {
    let rows = lines(LINES, ours).unwrap();
    assert_eq!(
        summary(&rows),
        [
            (9, "gridpilot-a-r7.2", State::Pending, "BeginTime", "", None),
            (10, "gridpilot-a-r1.1", State::Running, "", "b[1-2]", None),
            (11, "gridpilot-a-r2.1", State::Over("COMPLETED".into()), "", "b1", None),
        ]
    );
    assert_eq!(rows[0].start, Some(1_795_216_471));
}

#[test]
fn steps_are_found_by_name() {
    let found = steps(STEPS, ours).unwrap();
    let found: Vec<_> = found.iter().map(|step| (step.job, step.id.as_str(), step.name.as_str())).collect();
    assert_eq!(found, [(10, "10.0", "gridpilot-a-r1.1-0"), (10, "10.1", "gridpilot-a-r1.1-1")]);
}

/// An empty list would mean that every pilot is gone: it must be said, not guessed.
#[test]
fn an_answer_that_is_none_is_never_an_empty_list() {
    let down = r#"{"meta": {}, "errors": [{"description": "Failed while looking for jobs",
        "error_number": -1, "error": "Unspecified error", "source": "slurm_load_jobs"}], "jobs": []}"#;
    let error = parse_json(down, ours).unwrap_err();
    assert_eq!(error, BadAnswer::Error("Failed while looking for jobs".into()));
    for bad in ["", "{}", "[]", "null", r#"{"jobs": null}"#, r#"{"jobs": [{"name": "x"}]}"#, "slurm: no"] {
        assert!(matches!(parse_json(bad, ours), Err(BadAnswer::Json(_))), "{bad}");
    }
    let no_user = r#"{"jobs": [{"job_id": 1, "name": "gridpilot-a-r1.1", "job_state": "RUNNING"}]}"#;
    let no_state =
        r#"{"jobs": [{"job_id": 1, "name": "gridpilot-a-r1.1", "job_state": [], "user_name": "u"}]}"#;
    assert!(parse_json(no_user, ours).is_err() && parse_json(no_state, ours).is_err());
    for bad in ["error", "1|u|RUNNING", "1||RUNNING|||x|gridpilot-a-r1.1"] {
        assert!(matches!(lines(bad, ours), Err(BadAnswer::Line(_))), "{bad}");
    }
    assert!(steps("1.0", ours).is_err() && steps("1.0|u", ours).is_err());
    assert_eq!(lines("", ours), Ok(Vec::new()));
}

#[test]
fn a_strangers_job_of_our_name_does_not_blind_the_site() {
    let theirs: String = ["15_1", "15_[1-4]", "12+1", "x", ""]
        .map(|id| format!("{id}|mallory|RUNNING|None|N/A||gridpilot-a-r1.1\n"))
        .concat();
    assert_eq!(lines(&format!("{theirs}{LINES}"), ours), lines(LINES, ours));
    let theirs: String = ["15_1.0", "1", "1.x", "y.0", "1.batch", "12+1.0"]
        .map(|id| format!("{id}|mallory|gridpilot-a-r1.1-0\n"))
        .concat();
    assert_eq!(steps(&format!("{theirs}{STEPS}"), ours), steps(STEPS, ours));
    let theirs = r#""jobs": [{"job_id": {"set": false, "number": 0}, "name": "gridpilot-a-r1.1",
        "user_name": "mallory", "job_state": "RUNNING"}, "#;
    let json = JSON_22_05.replacen("\"jobs\": [", theirs, 1);
    assert_ne!(json, JSON_22_05);
    assert_eq!(parse_json(&json, ours), parse_json(JSON_22_05, ours));
}

/// As 22.05.8 prints a name that was given with line ends.
#[test]
fn what_stands_in_a_name_is_never_a_line() {
    let victims = "10|gpuser1|COMPLETED|None|N/A||gridpilot-a-r1.1";
    for forged in [victims, "garbage", "", &format!("{}{victims}", Mark::new(8).0)] {
        let name = format!("evil\n{forged}\n{forged}");
        let (mark, mut text) = marked(LINES);
        text.push_str(&format!("{}99|mallory|RUNNING|None|N/A|b1|{name}\n", mark.0));
        assert_eq!(parse_lines(&text, &mark, ours), lines(LINES, ours));
        let (mark, text) = marked(STEPS);
        let text = format!("{}99.0|mallory|evil\n10.1|gpuser1|gridpilot-a-r1.1-0\n{text}", mark.0);
        assert_eq!(parse_steps(&text, &mark, ours), steps(STEPS, ours));
    }
    // Words without any line are no empty list.
    for words in ["slurm_load_jobs error: x\n", "\n", victims] {
        assert!(parse_lines(words, &Mark::new(7), ours).is_err(), "{words}");
    }
}

#[test]
fn a_job_that_still_ends_is_there() {
    for words in [vec!["CANCELLED", "COMPLETING"], vec!["COMPLETING"], vec!["FAILED", "COMPLETING"]] {
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        assert_eq!(State::of(&words), State::Ending, "{words:?}");
    }
    assert_eq!(State::of(&["CONFIGURING".into()]), State::Running);
    assert_eq!(State::of(&["SUSPENDED".into()]), State::Running);
    assert_eq!(State::of(&["NODE_FAIL".into()]), State::Over("NODE_FAIL".into()));
}

#[test]
fn host_lists_are_expanded_in_order() {
    let of = |list: &str| hosts(list, 100).map(|hosts| hosts.join(" "));
    assert_eq!(of("b[1-2]").unwrap(), "b1 b2");
    assert_eq!(of("a[08-10,3],c,d1.x-y").unwrap(), "a08 a09 a10 a3 c d1.x-y");
    assert_eq!(of("r[1-2]n[1,3]").unwrap(), "r1n1 r1n3 r2n1 r2n3");
    assert_eq!(of("").unwrap(), "");
    for bad in ["a[1-2", "a]1[", "a[]", "a[2-1]", "a[1-200]", "a[-]", "a,,b", "a,", "a b", "a[1-9999999999]"]
    {
        assert_eq!(of(bad), None, "{bad}");
    }
    assert_eq!(hosts("a[1-3]", 2), None);
}

/// Changes some bytes of a recorded answer, as a broken pipe or a new release would.
fn damaged(text: &'static str) -> impl Strategy<Value = String> {
    let change = (0..text.len(), prop::sample::select(b"\"{}[],:0|\nx-. ".to_vec()), 0..40usize);
    prop::collection::vec(change, 1..6).prop_map(move |changes| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte, cut) in changes {
            let at = at.min(bytes.len().saturating_sub(1));
            bytes[at] = byte;
            bytes.drain(at..(at + cut).min(bytes.len()));
            if bytes.is_empty() {
                break;
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

proptest! {
    #[test]
    fn garbage_never_panics(text in "\\PC{0,200}") {
        let _ = (parse_json(&text, |_| true), lines(&text, |_| true), steps(&text, |_| true));
        let _ = hosts(&text, 64);
    }

    #[test]
    fn host_lists_never_grow_beyond_their_maximum(list in "[a-c0-9\\[\\],-]{0,40}", max in 0..20usize) {
        if let Some(hosts) = hosts(&list, max) {
            prop_assert!(hosts.len() <= max);
        }
    }

    #[test]
    fn damaged_json_is_refused_or_read(text in prop_oneof![damaged(JSON_22_05), damaged(JSON_CURRENT)]) {
        if let Ok(rows) = parse_json(&text, |_| true) {
            prop_assert!(rows.len() <= 6);
        }
    }

    #[test]
    fn damaged_lines_are_refused_or_read(text in prop_oneof![damaged(LINES), damaged(STEPS)]) {
        let _ = (lines(&text, |_| true), steps(&text, |_| true));
    }
}
