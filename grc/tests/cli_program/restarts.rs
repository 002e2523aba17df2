//! The GRC dies and comes back while somebody waits for it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::{Mutex, mpsc};

use protocol::client::{Notice, Reply, Request};
use protocol::ids::ReservationId;
use protocol::job::{ExitStatus, JobState, Stream};
use protocol::reservation::ReservationState;

use crate::fake::{Act, Grc, Outcome, honest, job, output, reservation};

/// A run that is under way, with its standard error as it comes.
struct Run {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    said: String,
}

impl Run {
    fn start(grc: &Grc, args: &[&str]) -> Self {
        let mut command = grc.gridpilot(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr, said: String::new() }
    }

    /// Until a line with these words was said.
    fn hears(&mut self, words: &str) {
        while !self.said.contains(words) {
            let heard = self.stderr.read_line(&mut self.said).unwrap();
            assert!(heard > 0, "ended before {words:?}: {}", self.said);
        }
    }

    fn end(mut self) -> Outcome {
        self.stderr.read_to_string(&mut self.said).unwrap();
        let output = self.child.wait_with_output().unwrap();
        Outcome { stderr: self.said, ..Outcome::of(output) }
    }
}

/// Takes the order and dies with it; the socket stays behind, as after a kill -9.
fn dies(_: u32, request: &Request) -> Vec<Act> {
    match request {
        Request::ShowReservation(_) => honest(1, request),
        _ => vec![Act::Vanish],
    }
}

#[test]
fn an_order_is_answered_after_the_restart_and_is_the_same_order() {
    for (args, told) in [
        (&["reserve", "--nodes", "2"][..], "r2 granted; `gridpilot wait r2` returns when it is ready\n"),
        (&["submit", "--", "true"], "j3 submitted in r2\n"),
        (&["modify", "r2", "--extend", "1h"], "r2 changed: version 4 is in force\n"),
    ] {
        let grc = Grc::new(dies);
        let mut run = Run::start(&grc, args);
        run.hears("went away; trying again for 30s");
        let (before, grc) = grc.restart(honest);
        let outcome = run.end();
        assert_eq!((outcome.code, outcome.text()), (Some(0), told), "{args:?} {outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert_eq!(grc.requests(), before[before.len() - 1..], "the same request, with its id");
        grc.close();
    }
}

#[test]
fn submit_wait_survives_a_death_before_and_one_after_the_answer() {
    let dying_later = |_: u32, request: &Request| match request {
        Request::Log { stream: Stream::Stdout, .. } => vec![output(Stream::Stdout, 0, b"abc")],
        Request::Log { .. } => vec![Act::Vanish],
        Request::Submit { .. } => honest(1, request),
        _ => vec![],
    };
    let lasting = |_: u32, request: &Request| match request {
        Request::Log { stream: Stream::Stdout, offset: 3, .. } => {
            vec![output(Stream::Stdout, 3, b"def"), Act::Reply(Reply::LogEnd { offset: 6 })]
        }
        Request::Log { stream: Stream::Stderr, .. } => vec![Act::Reply(Reply::LogEnd { offset: 0 })],
        Request::WaitJob(_) => vec![Act::Reply(Reply::Job(job(JobState::Done(ExitStatus::Code(7)))))],
        _ => vec![],
    };
    let grc = Grc::new(dies);
    let mut run = Run::start(&grc, &["submit", "--wait", "--", "prog"]);
    run.hears("went away");
    let (_, grc) = grc.restart(dying_later);
    run.hears("j3 submitted in r2");
    run.hears("submitted in r2\ngridpilot: the GRC at");
    let (_, grc) = grc.restart(lasting);
    let outcome = run.end();
    assert_eq!((outcome.code, outcome.text()), (Some(7), "abcdef"), "{outcome:?}");
    grc.close();
}

#[test]
fn wait_and_a_followed_log_go_on_where_they_were() {
    let grc = Grc::new(|_, request| match request {
        Request::ShowReservation(_) => {
            vec![Act::Reply(Reply::Reservation(reservation(ReservationState::Booked, 0)))]
        }
        _ => vec![Act::Vanish],
    });
    let mut run = Run::start(&grc, &["wait", "r2"]);
    run.hears("went away");
    let (_, grc) = grc.restart(|_, _| {
        let ready = reservation(ReservationState::Ready, 2);
        vec![Act::Notice(Notice::Reservation(ready.clone())), Act::Reply(Reply::Reservation(ready))]
    });
    let outcome = run.end();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    grc.close();

    let grc = Grc::new(|_, _| vec![output(Stream::Stdout, 0, b"abc"), Act::Vanish]);
    let mut run = Run::start(&grc, &["log", "-f", "j3"]);
    run.hears("went away");
    let (_, grc) = grc.restart(|_, request| match request {
        Request::Log { offset: 3, follow: true, .. } => {
            vec![output(Stream::Stdout, 3, b"d"), Act::Reply(Reply::LogEnd { offset: 4 })]
        }
        Request::ShowJob(_) => vec![Act::Reply(Reply::Job(job(JobState::Cancelled)))],
        other => panic!("{other:?}"),
    });
    let outcome = run.end();
    assert_eq!((outcome.code, outcome.text()), (Some(0), "abcd"), "{outcome:?}");
    grc.close();
}

#[test]
fn an_answer_that_takes_its_time_is_waited_for_with_its_deadline() {
    let (answer, wanted) = mpsc::channel();
    let wanted = Mutex::new(wanted);
    let grc = Grc::new(move |_, _| {
        wanted.lock().unwrap().recv().unwrap();
        vec![Act::Reply(Reply::Reserved(ReservationId(2)))]
    });
    let mut run = Run::start(&grc, &["reserve"]);
    run.hears("waiting for the answer of the GRC (by ");
    answer.send(()).unwrap();
    let outcome = run.end();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    grc.close();
}
