//! One question, one answer: requests, exit codes, forms of output.

use std::io::Write;
use std::os::unix::net::UnixListener;

use protocol::client::{Reply, Request, Selector};
use protocol::ids::{JobId, ReservationId};
use protocol::job::{ExitStatus, Hits, JobState, JobView, Stream};
use protocol::refusal::{Failure, Refusal, Step};
use protocol::reservation::ReservationState;
use serde_json::json;

use crate::fake::{Act, Grc, Outcome, gridpilot, honest, job, reservation};

fn failure() -> Failure {
    Failure::new(Step::Run, "no sshd answers", "look at /usr/sbin/sshd on that node")
        .at_site(&"a".parse().unwrap())
        .at_node(&"a1".parse().unwrap())
}

#[test]
fn every_verb_asks_what_it_says() {
    let (r2, j3) = (Selector::Id(ReservationId(2)), Selector::Id(JobId(3)));
    let log = |stream, follow| Request::Log { job: j3, stream, offset: 0, follow };
    let table: Vec<(&[&str], Vec<Request>)> = vec![
        (&["sites"], vec![Request::Sites]),
        (&["reservations"], vec![Request::Reservations]),
        (&["jobs"], vec![Request::Jobs]),
        (&["show", "j3"], vec![Request::ShowJob(j3)]),
        (&["show", "r2"], vec![Request::ShowReservation(r2)]),
        (&["cancel", "j3"], vec![Request::Cancel(j3)]),
        (&["cancel", "last"], vec![Request::ShowJob(Selector::Last), Request::Cancel(j3)]),
        (&["release", "r2"], vec![Request::Release(r2)]),
        (&["release", "last"], vec![Request::ShowReservation(Selector::Last), Request::Release(r2)]),
        (&["explain", "j3"], vec![Request::ShowJob(j3), Request::ExplainJob(j3)]),
        (&["explain", "r2"], vec![Request::ShowReservation(r2), Request::ExplainReservation(r2)]),
        (&["log", "j3"], vec![log(Stream::Stdout, false), Request::ShowJob(j3)]),
        (&["log", "-f", "j3"], vec![log(Stream::Stdout, true), Request::ShowJob(j3)]),
        (&["log", "j3", "--stderr"], vec![log(Stream::Stderr, false), Request::ShowJob(j3)]),
        (&["wait", "r2"], vec![Request::ShowReservation(r2)]),
        (&["usage", "r2"], vec![Request::Usage(r2)]),
        (&["usage", "last"], vec![Request::ShowReservation(Selector::Last), Request::Usage(r2)]),
    ];
    for (args, requests) in table {
        let grc = Grc::new(honest);
        let outcome = grc.run(args);
        assert_eq!(outcome.code, Some(0), "{args:?} {outcome:?}");
        assert_eq!(grc.requests(), requests, "{args:?}");
        grc.close();
    }
}

#[test]
fn exit_codes_tell_refused_not_found_failed_and_bug_apart() {
    for (reply, code, words) in [
        (Reply::Refused(Refusal::ZeroNodes), 120, "at least one node"),
        (Reply::Refused(Refusal::UnknownSite { site: "q".parse().unwrap() }), 120, "no site is called q"),
        (Reply::Refused(Refusal::UnknownJob { id: JobId(9) }), 121, "no job j9"),
        (Reply::Refused(Refusal::UnknownReservation { id: ReservationId(9) }), 121, "no reservation r9"),
        (Reply::Refused(Refusal::NothingYet), 121, "`last`"),
        (Reply::Failed(failure()), 123, "RUN, site a, node a1: no sshd answers"),
        (Reply::LogEnd { offset: 0 }, 125, "bug"),
    ] {
        let grc = Grc::answering(reply);
        let outcome = grc.run(&["show", "j9"]);
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{outcome:?}");
        assert!(outcome.stderr.lines().count() <= 3, "{outcome:?}");
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
        grc.close();
    }
}

#[test]
fn what_cannot_be_meant_is_usage_and_nothing_is_asked() {
    let grc = Grc::new(honest);
    let table: &[&[&str]] = &[
        &[],
        &["bogus"],
        &["show"],
        &["show", "34"],
        &["cancel", "r2"],
        &["release", "j3"],
        &["submit", "--nodes", "a", "--", "true"],
        &["submit", "--nodes", "a=x", "--", "true"],
        &["submit", "--time", "90", "--", "true"],
        &["submit", "--memory", "2X", "--", "true"],
        &["submit", "--set", "A", "--", "true"],
        &["submit", "--packages", "a", "--", "true"],
        &["submit", "/no/such/file.toml"],
        &["reserve", "--", "true"],
        &["--output-mode", "xml", "sites"],
    ];
    for args in table {
        let outcome = grc.run(args);
        assert_eq!(outcome.code, Some(2), "{args:?} {outcome:?}");
        assert!(args.is_empty() || outcome.stderr.lines().count() <= 3, "{args:?} {outcome:?}");
        assert!(outcome.stdout.is_empty(), "{args:?} {outcome:?}");
    }
    let outcome =
        Outcome::of(grc.gridpilot(&["sites"]).env("GRIDPILOT_OUTPUT_MODE", "xml").output().unwrap());
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert_eq!(grc.requests(), []);
    grc.close();
}

#[test]
fn a_program_gets_its_usage_errors_as_documents_too() {
    let grc = Grc::new(honest);
    let usage = |outcome: Outcome| {
        let document: serde_json::Value =
            serde_json::from_str(&outcome.stderr).unwrap_or_else(|_| panic!("{outcome:?}"));
        assert_eq!((&document["error"]["kind"], outcome.code), (&json!("usage"), Some(2)));
    };
    usage(grc.run(&["--output-mode", "json", "bogus"]));
    usage(grc.run(&["submit", "--output-mode=json", "--bogus", "--", "true"]));
    usage(Outcome::of(grc.gridpilot(&["bogus"]).env("GRIDPILOT_OUTPUT_MODE", "json").output().unwrap()));
    let text = grc.run(&["submit", "--bogus", "--", "true", "--output-mode", "json"]);
    assert!(text.stderr.starts_with("gridpilot: "), "what stands behind -- is the job's: {text:?}");
    grc.close();
}

#[test]
fn an_absent_grc_is_named_by_its_socket_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let outcome = Outcome::of(gridpilot(&["sites"]).env("GRIDPILOT_GRC", &socket).output().unwrap());
    assert_eq!(outcome.code, Some(122), "{outcome:?}");
    assert!(outcome.stderr.contains(socket.to_str().unwrap()), "{outcome:?}");
    assert!(outcome.stderr.contains("No such file or directory"), "{outcome:?}");
    assert!(outcome.stderr.contains("grc serve") && outcome.stderr.contains("GRIDPILOT_GRC"), "{outcome:?}");
    assert!(outcome.stderr.lines().count() <= 3, "{outcome:?}");
}

/// Something answers at the socket, but it is no GRC of our version.
fn run_against_bytes(bytes: &'static [u8]) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("odd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(bytes);
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut rest);
    });
    let outcome = Outcome::of(gridpilot(&["sites"]).env("GRIDPILOT_GRC", &socket).output().unwrap());
    peer.join().unwrap();
    outcome
}

#[test]
fn a_peer_that_is_no_grc_is_unreachable_and_one_of_another_version_is_refused() {
    let outcome = run_against_bytes(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
    assert_eq!(outcome.code, Some(122), "{outcome:?}");
    let outcome = run_against_bytes(b"\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0\0\0GPLT\x01\0\x07\0\x09\0");
    assert_eq!(outcome.code, Some(120), "{outcome:?}");
    assert!(outcome.stderr.contains("3..3") && outcome.stderr.contains("7..9"), "{outcome:?}");
    // A site's CRM listens at the place of the GRC.
    let outcome = run_against_bytes(b"\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0\0\0GPLT\x02\0\x03\0\x03\0");
    assert_eq!(outcome.code, Some(122), "{outcome:?}");
}

#[test]
fn quiet_prints_just_the_ids() {
    let grc = Grc::new(honest);
    for (args, text) in [
        (&["submit", "--", "true"][..], "j3\n"),
        (&["reserve"], "r2\n"),
        (&["jobs"], "j3\nj3\n"),
        (&["reservations"], "r2\n"),
        (&["sites"], "a\n"),
        (&["show", "last"], "j3\n"),
        (&["cancel", "last"], "j3\n"),
        (&["release", "last"], "r2\n"),
    ] {
        let outcome =
            Outcome::of(grc.gridpilot(args).env("GRIDPILOT_OUTPUT_MODE", "quiet").output().unwrap());
        assert_eq!((outcome.text(), outcome.stderr.as_str()), (text, ""), "{args:?}");
    }
    grc.close();
}

#[test]
fn json_has_its_documented_shape() {
    let grc = Grc::new(honest);
    let ask = |args: &[&str]| grc.run(&[&["--output-mode", "json"], args].concat()).json();
    assert_eq!(
        ask(&["sites"]),
        json!([{
            "name": "a", "connected": true, "batch_system": "embedded", "nodes_free": 1, "nodes_usable": 2,
            "ranges": ["10.71.128.0/17"], "environments": ["host"], "last_seen": "2027-01-15T08:00:00Z",
            "problems": ["node a2 is dirty"],
        }])
    );
    let killed = json!({
        "id": "j3", "reservation": "r2", "name": "ring", "user": "grid", "command": "mpirun ./ring", "target": "head",
        "state": "done", "exit_code": 137, "signal": 9, "failure": null, "submitted": "2027-01-15T08:00:00Z",
        "started": "2027-01-15T08:00:02Z", "ended": "2027-01-15T08:01:05Z", "head": "a-0",
        "stdout_bytes": 12, "stderr_bytes": 0, "limits_hit": [],
    });
    assert_eq!(ask(&["jobs"])[0], killed);
    let ready = json!({
        "id": "r2", "name": null, "user": "grid", "state": "ready", "failure": null, "slots": 1,
        "environment": "host", "made": "2027-01-15T08:00:00Z", "starts": "2027-01-15T08:00:10Z",
        "ends": "2027-01-15T09:00:10Z", "deadline": "2027-01-15T08:01:00Z", "version": 3, "epoch": 1,
        "pairs": [{"a": "a", "b": "b", "granted_kbit": 100_000, "a_to_b_kbit": 1500, "b_to_a_kbit": null}],
        "parts": [{
            "site": "a", "nodes": 2, "addresses": [{"first": "10.71.128.0", "count": 2}],
            "submitted": 2, "arrived": 2, "built": 2, "joined": 0, "queue": null,
            "members": [{"host": "a-0", "address": "10.71.128.0", "node": "a1"}],
            "proof": [{"first": "10.71.128.0", "count": 2, "below": null, "above": "10.71.128.7"}],
        }],
    });
    assert_eq!(ask(&["show", "r2"]), ready);
    assert_eq!(ask(&["reservations"]), json!([ready]));
    assert_eq!(ask(&["submit", "--", "true"]), json!({"job": "j3", "reservation": "r2"}));
    assert_eq!(ask(&["reserve"]), json!({"reservation": "r2"}));
    assert_eq!(ask(&["modify", "r2", "--time", "2h"]), json!({"reservation": "r2", "version": 4}));
    assert_eq!(
        ask(&["usage", "r2"]),
        json!([{
            "at": "2027-01-15T08:00:20Z", "from": "a", "to": "b", "granted_kbit": 100_000, "used_kbit": 1500,
        }])
    );
    assert_eq!(ask(&["cancel", "j3"]), json!({"job": "j3"}));
    assert_eq!(ask(&["release", "r2"]), json!({"reservation": "r2"}));
    assert_eq!(
        ask(&["explain", "j3"]),
        json!({
            "id": "j3", "summary": "waiting for nodes", "reasons": ["site a has 0 free nodes"],
            "deadline": null, "hints": ["release one"],
        })
    );
    grc.close();
}

#[test]
fn errors_are_documents_too_in_json_mode() {
    let grc = Grc::answering(Reply::Failed(failure()));
    let outcome = grc.run(&["--output-mode", "json", "show", "j3"]);
    assert_eq!((outcome.code, outcome.text()), (Some(123), ""));
    let error: serde_json::Value = serde_json::from_str(&outcome.stderr).unwrap();
    assert_eq!(error["error"]["code"], 123);
    assert_eq!(error["error"]["kind"], "failed");
    assert_eq!(
        error["error"]["failure"],
        json!({
            "step": "RUN", "site": "a", "node": "a1", "cause": "no sshd answers",
            "hint": "look at /usr/sbin/sshd on that node",
        })
    );
    grc.close();
}

#[test]
fn tables_show_what_people_look_for() {
    let grc = Grc::new(honest);
    let text = |args: &[&str]| grc.run(args).text().to_owned();
    let sites = text(&["sites"]);
    for word in ["SITE", "embedded", "1/2", "10.71.128.0/17", "node a2 is dirty"] {
        assert!(sites.contains(word), "{word} in {sites}");
    }
    let jobs = text(&["jobs"]);
    for word in ["j3", "done (signal 9)", "1m3s", "mpirun ./ring"] {
        assert!(jobs.contains(word), "{word} in {jobs}");
    }
    assert_eq!(jobs.lines().count(), 3, "one line each, unbroken when nobody has a width: {jobs}");
    let shown = text(&["show", "r2"]);
    for word in [
        "a=2",
        "10.71.128.0-10.71.128.1",
        "a-0",
        "a1",
        "3, epoch 1",
        "2027-01-15 08:00",
        "a-b: 100Mbit granted each way, used 1.5Mbit from a to b, - from b to a",
    ] {
        assert!(shown.contains(word), "{word} in {shown}");
    }
    let used = text(&["usage", "r2"]);
    for word in ["GRANTED", "100Mbit", "1.5Mbit"] {
        assert!(used.contains(word), "{word} in {used}");
    }
    grc.close();
    let grc = Grc::answering(Reply::Jobs(vec![]));
    let outcome = grc.run(&["jobs"]);
    assert_eq!((outcome.code, outcome.text(), outcome.stderr.as_str()), (Some(0), "", "no jobs\n"));
    grc.close();
}

/// `last` means what was made last, a job or a reservation.
#[test]
fn last_is_the_newest_of_both_kinds() {
    for (newest, wanted) in [(2, "j3\n"), (4, "r4\n")] {
        let grc = Grc::new(move |_, request| {
            let mut view = reservation(ReservationState::Ready, 2);
            view.id = ReservationId(newest);
            view.made_s += newest - 2;
            vec![Act::Reply(match request {
                Request::ShowJob(Selector::Last) => Reply::Job(job(JobState::Running)),
                _ => Reply::Reservation(view),
            })]
        });
        assert_eq!(grc.run(&["--output-mode", "quiet", "show", "last"]).text(), wanted);
        grc.close();
    }
    let grc = Grc::new(|_, request| {
        vec![Act::Reply(match request {
            Request::ShowJob(_) => Reply::Refused(Refusal::NothingYet),
            _ => Reply::Reservation(reservation(ReservationState::Ready, 2)),
        })]
    });
    assert_eq!(grc.run(&["--output-mode", "quiet", "show", "last"]).text(), "r2\n");
    grc.close();
}

#[test]
fn completions_and_help_need_no_grc() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = Outcome::of(gridpilot(&["completions", shell]).output().unwrap());
        assert_eq!(outcome.code, Some(0));
        assert!(outcome.text().contains("reservations"));
    }
    let help = Outcome::of(gridpilot(&["--help"]).output().unwrap());
    assert_eq!(help.code, Some(0));
    for code in ["120", "121", "122", "123", "124", "125", "130", "141"] {
        assert!(help.text().contains(code), "{code} is explained");
    }
}

/// Whoever asks is told of a limit that was hit, with its size and what to do, in one line.
#[test]
fn a_limit_that_was_hit_is_named_by_every_verb_that_tells_of_a_job() {
    let hits = Hits { out_of_memory: 1, memory_bytes: 512 << 20, ..Hits::default() };
    let view = JobView { hits, ..job(JobState::Done(ExitStatus::Signal(9))) };
    let of_job = view.clone();
    let grc = Grc::new(move |connection, request| match request {
        Request::ShowJob(_) | Request::WaitJob(_) => vec![Act::Reply(Reply::Job(of_job.clone()))],
        other => honest(connection, other),
    });
    let line = "out of memory: a process was killed, limit 512MiB per member; ask for more with --memory";
    for args in [&["wait", "j3"][..], &["submit", "--wait", "--", "prog"], &["log", "j3"], &["show", "j3"]] {
        let outcome = grc.run(args);
        let told = format!("{}{}", outcome.text(), outcome.stderr);
        assert_eq!(told.matches(line).count(), 1, "{args:?} {outcome:?}");
    }
    let wait = grc.run(&["--output-mode", "json", "wait", "j3"]).json();
    assert_eq!(wait["limits_hit"], json!([{ "limit": "memory", "size": 536_870_912, "times": 1 }]));
    grc.close();
}
