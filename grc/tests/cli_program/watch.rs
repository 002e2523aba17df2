//! What waits: output as bytes, codes, Ctrl-C, lost connections, deadlines.

use std::io::Read;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::client::{Explanation, Notice, Reply, Request, Selector};
use protocol::ids::{JobId, ReservationId};
use protocol::job::{ExitStatus, JobState, Stream};
use protocol::refusal::{Failure, Refusal, Step};
use protocol::reservation::{ReservationState, ReservationView};

use crate::fake::{Act, Grc, Outcome, job, output, reservation};

fn failure() -> Failure {
    Failure::new(Step::Pilots, "the pilot did not come in", "ask the site's administrator")
        .at_site(&"b".parse().unwrap())
        .at_node(&"b2".parse().unwrap())
}

/// A job that prints on both streams and ends as told.
fn ends_with(state: JobState) -> impl Fn(u32, &Request) -> Vec<Act> + Send + Sync {
    move |_, request| match request {
        Request::Submit { .. } | Request::SubmitIn { .. } => submitted(),
        Request::Log { stream: Stream::Stdout, .. } => {
            vec![
                output(Stream::Stdout, 0, b"out \xff\0"),
                output(Stream::Stdout, 6, b"more\n"),
                Act::Reply(Reply::LogEnd { offset: 11 }),
            ]
        }
        Request::Log { stream: Stream::Stderr, .. } => {
            vec![output(Stream::Stderr, 0, b"err\n"), Act::Reply(Reply::LogEnd { offset: 4 })]
        }
        Request::WaitJob(_) => {
            vec![Act::Notice(Notice::Job(job(JobState::Running))), Act::Reply(Reply::Job(job(state.clone())))]
        }
        Request::ShowJob(_) => vec![Act::Reply(Reply::Job(job(JobState::Running)))],
        _ => vec![Act::Reply(Reply::Reservation(reservation(ReservationState::Ready, 2)))],
    }
}

fn submitted() -> Vec<Act> {
    vec![Act::Reply(Reply::Submitted { job: JobId(3), reservation: ReservationId(2) })]
}

/// A job that prints a line and then runs for ever.
fn runs_for_ever(_: u32, request: &Request) -> Vec<Act> {
    match request {
        Request::Submit { .. } => submitted(),
        Request::Log { stream: Stream::Stdout, .. } => vec![output(Stream::Stdout, 0, b"started\n")],
        Request::ShowJob(_) => vec![Act::Reply(Reply::Job(job(JobState::Running)))],
        Request::ShowReservation(_) => {
            vec![Act::Reply(Reply::Reservation(reservation(ReservationState::Starting, 1)))]
        }
        _ => vec![],
    }
}

/// Of a job that runs there is nothing to show but that: news of it that say the same mean that
/// something else did change.
#[test]
fn who_waits_for_a_job_that_runs_reads_what_stands_in_its_way() {
    let away = "site b has been away for 10s (the connection was lost: nothing was heard of it for 10 s)";
    let script = move |connection: u32, request: &Request| match request {
        Request::Submit { .. } => submitted(),
        Request::WaitJob(_) if connection == 1 => {
            vec![
                Act::Notice(Notice::Job(job(JobState::Running))),
                Act::Notice(Notice::Job(job(JobState::Running))),
            ]
        }
        Request::WaitJob(_) => vec![Act::Reply(Reply::Job(job(JobState::Done(ExitStatus::Code(7)))))],
        Request::ExplainJob(Selector::Id(JobId(3))) => {
            let told = Explanation {
                summary: "job j3 runs on 2 member(s)".into(),
                reasons: vec![away.into()],
                deadline_s: None,
                hints: vec![],
            };
            vec![Act::Reply(Reply::Explained(told)), Act::Disconnect]
        }
        Request::Log { .. } if connection > 1 => vec![Act::Reply(Reply::LogEnd { offset: 0 })],
        _ => vec![],
    };
    let grc = Grc::new(script);
    let outcome = grc.run(&["submit", "--wait", "--", "prog"]);
    assert_eq!(outcome.code, Some(7), "{outcome:?}");
    assert!(outcome.stderr.contains(&format!("gridpilot: j3: {away}\n")), "{outcome:?}");
    grc.close();
}

#[test]
fn submit_wait_passes_both_streams_on_as_bytes_and_ends_with_the_jobs_code() {
    for (status, code) in [
        (ExitStatus::Code(0), 0),
        (ExitStatus::Code(1), 1),
        (ExitStatus::Code(42), 42),
        (ExitStatus::Signal(9), 137),
        (ExitStatus::Signal(15), 143),
    ] {
        let grc = Grc::new(ends_with(JobState::Done(status)));
        let outcome = grc.run(&["--output-mode", "quiet", "submit", "--wait", "--", "prog"]);
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert_eq!(outcome.stdout, b"out \xff\0more\n", "{outcome:?}");
        assert_eq!(outcome.stderr, "err\n", "{outcome:?}");
        grc.close();
    }
}

#[test]
fn wait_ends_with_the_jobs_code_and_prints_nothing_to_stdout() {
    let grc = Grc::new(ends_with(JobState::Done(ExitStatus::Code(42))));
    let outcome = grc.run(&["wait", "j3"]);
    assert_eq!((outcome.code, outcome.text()), (Some(42), ""), "{outcome:?}");
    assert!(outcome.stderr.contains("j3 done, exit code 42"), "{outcome:?}");
    let outcome = grc.run(&["--output-mode", "json", "wait", "j3"]);
    assert_eq!((outcome.code, outcome.json()["exit_code"].as_u64()), (Some(42), Some(42)), "{outcome:?}");
    assert_eq!(outcome.stderr, "");
    grc.close();
}

#[test]
fn in_json_mode_stdout_holds_the_job_and_nothing_else() {
    let grc = Grc::new(ends_with(JobState::Done(ExitStatus::Code(1))));
    let outcome = grc.run(&["--output-mode", "json", "submit", "--wait", "--", "prog"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(outcome.json()["state"], "done");
    assert!(!grc.requests().iter().any(|request| matches!(request, Request::Log { .. })));
    grc.close();
}

#[test]
fn a_job_that_the_grid_could_not_run_names_step_site_and_node() {
    for args in [&["submit", "--wait", "--", "prog"][..], &["wait", "j3"]] {
        let grc = Grc::new(ends_with(JobState::Failed(failure())));
        let outcome = grc.run(args);
        assert_eq!(outcome.code, Some(123), "{outcome:?}");
        assert!(
            outcome
                .stderr
                .contains("gridpilot: j3 failed: pilots, site b, node b2: the pilot did not come in\n"),
            "{outcome:?}"
        );
        grc.close();
    }
}

#[test]
fn a_cancelled_job_ends_like_one_that_got_sigterm() {
    let grc = Grc::new(ends_with(JobState::Cancelled));
    let outcome = grc.run(&["wait", "j3"]);
    assert_eq!(outcome.code, Some(143), "{outcome:?}");
    assert!(outcome.stderr.contains("j3 was cancelled"), "{outcome:?}");
    grc.close();
}

#[test]
fn ctrl_c_leaves_the_job_running_and_says_how_to_come_back() {
    let grc = Grc::new(runs_for_ever);
    let mut command = grc.gridpilot(&["submit", "--wait", "--", "prog"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"started\n");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let outcome = Outcome::of(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    for command in ["gridpilot wait j3", "gridpilot log -f j3", "gridpilot cancel j3"] {
        assert!(outcome.stderr.contains(command), "{outcome:?}");
    }
    let stopped = |request: &Request| matches!(request, Request::Cancel(_) | Request::Release(_));
    assert!(!grc.requests().iter().any(stopped));
    grc.close();
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    for args in [&["--output-mode", "quiet", "submit", "--wait", "--", "prog"][..], &["log", "-f", "j3"]] {
        let grc = Grc::new(runs_for_ever);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let outcome = Outcome::of(grc.gridpilot(args).stdout(writer).output().unwrap());
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(141), ""), "{args:?}");
        grc.close();
    }
    let grc = Grc::answering(Reply::Jobs(vec![job(JobState::Running)]));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let outcome = Outcome::of(grc.gridpilot(&["jobs"]).stdout(writer).output().unwrap());
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(141), ""));
    grc.close();
}

/// The first connection breaks in the middle; the second begins a little before that.
#[test]
fn output_goes_on_where_it_stopped_when_the_connection_was_lost() {
    let grc = Grc::new(|connection, request| match (connection, request) {
        (_, Request::Submit { .. }) => submitted(),
        (1, Request::Log { stream: Stream::Stdout, .. }) => vec![output(Stream::Stdout, 0, b"abc")],
        // The last of the requests that are opened at first.
        (1, Request::Log { stream: Stream::Stderr, .. }) => vec![Act::Disconnect],
        (2, Request::Log { stream: Stream::Stdout, offset: 3, .. }) => vec![
            output(Stream::Stdout, 2, b"cde"),
            output(Stream::Stdout, 5, b"f"),
            Act::Reply(Reply::LogEnd { offset: 6 }),
        ],
        (2, Request::Log { stream: Stream::Stderr, offset: 0, .. }) => {
            vec![Act::Reply(Reply::LogEnd { offset: 0 })]
        }
        (2, Request::WaitJob(Selector::Id(JobId(3)))) => {
            vec![Act::Reply(Reply::Job(job(JobState::Done(ExitStatus::Code(7)))))]
        }
        _ => vec![],
    });
    let outcome = grc.run(&["--output-mode", "quiet", "submit", "--wait", "--", "prog"]);
    assert_eq!((outcome.code, outcome.text()), (Some(7), "abcdef"), "{outcome:?}");
    let orders = grc.requests().iter().filter(|request| matches!(request, Request::Submit { .. })).count();
    assert_eq!(orders, 1, "an order that was answered is not repeated");
    grc.close();
}

#[test]
fn a_grc_that_does_not_come_back_in_the_shown_time_is_unreachable() {
    let grc = Grc::new(|_, request| match request {
        Request::ShowJob(_) => vec![Act::Reply(Reply::Job(job(JobState::Running)))],
        _ => vec![Act::Vanish],
    });
    let outcome = grc.run(&["--reconnect", "1s", "wait", "j3"]);
    assert_eq!(outcome.code, Some(122), "{outcome:?}");
    assert!(outcome.stderr.contains("trying again for 1s"), "{outcome:?}");
    assert!(outcome.stderr.contains(grc.socket().to_str().unwrap()), "{outcome:?}");
    grc.close();
}

#[test]
fn wait_gives_up_after_its_timeout_and_says_what_goes_on() {
    for (id, hint) in [("j3", "explain j3"), ("r2", "explain r2")] {
        let grc = Grc::new(runs_for_ever);
        let outcome = grc.run(&["wait", id, "--timeout", "1s"]);
        assert_eq!(outcome.code, Some(124), "{outcome:?}");
        assert!(outcome.stderr.contains("after 1s") && outcome.stderr.contains(hint), "{outcome:?}");
        grc.close();
    }
}

#[test]
fn progress_names_every_step_once_with_its_deadline() {
    let grc = Grc::new(|_, request| {
        let step = |state, arrived| Act::Notice(Notice::Reservation(reservation(state, arrived)));
        let ready = |starts_s| ReservationView { starts_s, ..reservation(ReservationState::Ready, 2) };
        match request {
            Request::Submit { .. } => submitted(),
            Request::ShowReservation(_) => {
                vec![Act::Reply(Reply::Reservation(reservation(ReservationState::Waiting, 0)))]
            }
            Request::WaitReservation(_) => vec![
                step(ReservationState::Waiting, 0),
                step(ReservationState::Holding, 0),
                step(ReservationState::Starting, 1),
                step(ReservationState::Starting, 2),
                step(ReservationState::Joining, 2),
                Act::Notice(Notice::Reservation(ready(4_000_000_000))),
                Act::Reply(Reply::Reservation(ready(1_000_000_000))),
            ],
            // Asked last, so what it says comes last.
            Request::Log { stream: Stream::Stderr, .. } => vec![Act::Vanish],
            _ => vec![],
        }
    });
    let outcome = grc.run(&["--reconnect", "0s", "submit", "--wait", "--", "prog"]);
    let lines: Vec<&str> =
        outcome.stderr.lines().filter_map(|line| line.strip_prefix("gridpilot: ")).collect();
    let by = " (by 2027-01-15 08:01)";
    let wanted = [
        "j3 submitted in r2".to_owned(),
        format!("r2 waiting for what it asks; `gridpilot explain r2` says what{by}"),
        format!("r2 holding 2 nodes at a{by}"),
        format!("r2 pilots in 1 of 2 at a{by}"),
        format!("r2 keys of 2 of 2 members{by}"),
        format!("r2 keys exchanged, 0 of 2 members joined{by}"),
        "r2 ready; its window begins 2096-10-02 07:06".to_owned(),
        "r2 ready".to_owned(),
    ];
    assert_eq!(lines[..wanted.len()], wanted, "{outcome:?}");
    assert_eq!((outcome.code, outcome.text()), (Some(122), ""));
    grc.close();
}

#[test]
fn waiting_for_a_reservation_ends_well_when_it_is_ready_or_ended_and_badly_when_it_failed() {
    for (state, code) in [
        (ReservationState::Ready, 0),
        (ReservationState::Ended, 0),
        (ReservationState::Failed(failure()), 123),
    ] {
        // Once it is so when asked, once it becomes so.
        for first in [ReservationState::Starting, state.clone()] {
            let end = state.clone();
            let grc = Grc::new(move |_, request| {
                let state = if matches!(request, Request::ShowReservation(_)) { &first } else { &end };
                vec![Act::Reply(Reply::Reservation(reservation(state.clone(), 2)))]
            });
            let outcome = grc.run(&["wait", "r2"]);
            assert_eq!((outcome.code, outcome.text()), (Some(code), ""), "{outcome:?}");
            grc.close();
        }
    }
}

#[test]
fn reserve_wait_shows_the_members_once_they_are_ready() {
    let grc = Grc::new(|_, request| {
        vec![Act::Reply(match request {
            Request::Reserve { .. } => Reply::Reserved(ReservationId(2)),
            _ => Reply::Reservation(reservation(ReservationState::Ready, 2)),
        })]
    });
    let outcome = grc.run(&["reserve", "-w", "--nodes", "2"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.text().contains("a-0"), "{outcome:?}");
    grc.close();
}

#[test]
fn a_log_of_standard_error_goes_to_standard_output() {
    let grc = Grc::new(ends_with(JobState::Done(ExitStatus::Code(1))));
    let outcome = grc.run(&["log", "--stderr", "j3"]);
    assert_eq!((outcome.code, outcome.text(), outcome.stderr.as_str()), (Some(0), "err\n", ""));
    grc.close();
}

#[test]
fn what_is_unknown_when_it_is_waited_for_is_not_found() {
    for args in [&["wait", "j9"][..], &["log", "j9"], &["wait", "last"]] {
        let grc = Grc::answering(Reply::Refused(match args {
            ["wait", "last"] => Refusal::NothingYet,
            _ => Refusal::UnknownJob { id: JobId(9) },
        }));
        let outcome = grc.run(args);
        assert_eq!((outcome.code, outcome.text()), (Some(121), ""), "{args:?} {outcome:?}");
        grc.close();
    }
}

#[test]
fn a_jobs_end_counts_whatever_becomes_of_its_reservation() {
    let ends = ends_with(JobState::Done(ExitStatus::Code(42)));
    let grc = Grc::new(move |connection, request| match request {
        Request::ShowReservation(_) | Request::WaitReservation(_) => {
            vec![Act::Reply(Reply::Refused(Refusal::UnknownReservation { id: ReservationId(2) }))]
        }
        other => ends(connection, other),
    });
    for args in [&["submit", "--wait", "--", "prog"][..], &["wait", "j3"]] {
        assert_eq!(grc.run(args).code, Some(42), "{args:?}");
    }
    grc.close();
}
