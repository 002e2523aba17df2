//! `submit --each`: a job for each line.

use std::collections::BTreeMap;
use std::sync::Mutex;

use protocol::client::{Notice, Reply, Request, Selector};
use protocol::ids::{JobId, ReservationId};
use protocol::job::{ExitStatus, JobState, JobView, Stream};

use crate::fake::{Act, Grc, honest, job};

/// Job `n` runs line `n`; it prints its number and ends with it as its code.
fn answer(request: &Request, known: &Mutex<BTreeMap<[u8; 16], u64>>) -> Vec<Act> {
    let of = |selector: &Selector<JobId>| match selector {
        Selector::Id(id) => id.0,
        Selector::Last => panic!("no job is asked for as the last"),
    };
    match request {
        Request::SubmitIn { id, job, .. } => {
            let line = String::from_utf8(job.command.argv.last().unwrap().clone()).unwrap();
            let number: u64 = line.parse().unwrap();
            let before = known.lock().unwrap().insert(id.0, number);
            assert!(before.is_none_or(|before| before == number), "an id stands for one line");
            vec![Act::Reply(Reply::Submitted { job: JobId(number), reservation: ReservationId(2) })]
        }
        Request::WaitJob(id) => {
            let number = of(id);
            let state = JobState::Done(ExitStatus::Code(number as u8));
            vec![Act::Reply(Reply::Job(JobView { id: JobId(number), stdout_bytes: 2, ..job(state) }))]
        }
        Request::Log { job, stream: Stream::Stdout, offset, follow: false } => {
            let text = format!("{}\n", of(job));
            let bytes = text.into_bytes()[*offset as usize..].to_vec().into();
            let notice = Notice::Output { stream: Stream::Stdout, offset: *offset, bytes };
            vec![Act::Notice(notice), Act::Reply(Reply::LogEnd { offset: 2 })]
        }
        other => honest(1, other),
    }
}

#[test]
fn every_line_is_one_job_whose_output_stays_together_and_the_largest_code_counts() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "1\n2\n\n3\n4\r\n5\n").unwrap();
    let path = file.path().to_str().unwrap();
    for at_once in ["1", "3", "32"] {
        // The first connection breaks behind the third answer: nothing is lost, nothing twice.
        let (known, count) = (Mutex::default(), Mutex::new(0));
        let grc = Grc::new(move |connection, request| {
            let mut count = count.lock().unwrap();
            *count += 1;
            let breaks = connection == 1 && *count == 4;
            if breaks { vec![Act::Disconnect] } else { answer(request, &known) }
        });
        let words = ["submit", "--in", "r2", "--each", path, "--at-once", at_once, "--", "prog", "{}"];
        let outcome = grc.run(&words);
        assert_eq!(outcome.code, Some(5), "{outcome:?}");
        assert!(outcome.stderr.contains("went away"), "{outcome:?}");
        let mut lines: Vec<&str> = outcome.text().lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["1", "2", "3", "4", "5"], "at once {at_once}: {outcome:?}");
        assert!(outcome.stderr.contains("j3, line 3: exit code 3"), "{outcome:?}");
        assert!(outcome.stderr.contains("5 of 5 jobs failed"), "{outcome:?}");
        grc.close();
    }
}

#[test]
fn lines_need_a_reservation_that_stands() {
    let grc = Grc::new(honest);
    let outcome = grc.run(&["submit", "--each", "/dev/null", "--", "prog"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(grc.requests().is_empty());
    assert_eq!(grc.run(&["submit", "--in", "r2", "--each", "/dev/null", "--", "prog"]).code, Some(0));
    grc.close();
}
