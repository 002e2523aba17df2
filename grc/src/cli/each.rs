//! `submit --each FILE`: one job for each line of a file, over one connection, so many open at once.
//!
//! What users of `xargs`, GNU parallel and HyperQueue expect: `{}` in the command is the line, or it
//! becomes the last argument; at most `--at-once` run beside each other; the output of a job stays
//! together and comes when the job is over; the end's code is the largest of all.
//!
//! ```text
//! Waiting --posted--> Ordered --Submitted--> Running --Job--> Over --its output printed--> (gone)
//! ```
//! On a new connection what is open is asked again: an order is repeated with its id, so no line is
//! run twice.

use std::collections::{BTreeMap, VecDeque};

use protocol::client::{NewJob, Notice, Reply, Request, Selector};
use protocol::ids::{JobId, RequestId, ReservationId};
use protocol::job::{JobState, JobView, Stream};

use super::args::OutputMode;
use super::client::{Incoming, Trouble};
use super::errors::{CANCELLED, CliError};
use super::order::new_id;
use super::watch::Interrupt;
use super::{Session, hits, json, out};

/// What stands for the line in an argument.
const PLACE: &[u8] = b"{}";

/// What is wanted of the GRC for one line.
#[derive(Clone, Debug)]
enum Want {
    Order {
        line: usize,
        id: RequestId,
    },
    End {
        line: usize,
        job: JobId,
    },
    /// Of the job that is printed.
    Output {
        stream: Stream,
    },
}

/// The job whose output is printed, from where it stands.
struct Printing {
    view: JobView,
    streams: VecDeque<Stream>,
    offset: u64,
}

/// All lines and how far they are.
struct Each<'a> {
    session: &'a mut Session,
    reservation: ReservationId,
    template: NewJob,
    lines: Vec<Vec<u8>>,
    /// The next line that was not ordered yet.
    next: usize,
    at_once: usize,
    wants: BTreeMap<u64, Want>,
    /// Over, and not printed yet, in the order of their ends.
    over: VecDeque<JobView>,
    printing: Option<Printing>,
    code: u8,
    failed: usize,
}

/// The lines of a file, `-` for standard input; empty ones are left out.
///
/// # Errors
/// `Usage` when it cannot be read.
pub fn lines(file: &std::path::Path) -> Result<Vec<Vec<u8>>, CliError> {
    let content = match file.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()).map(String::into_bytes),
        _ => std::fs::read(file),
    };
    let content = content.map_err(|error| CliError::Usage(format!("--each {}: {error}", file.display())))?;
    let lines = content.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    Ok(lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
}

/// The command for one line.
fn argv(template: &[Vec<u8>], line: &[u8]) -> Vec<Vec<u8>> {
    let placed = |argument: &Vec<u8>| argument.windows(PLACE.len()).any(|window| window == PLACE);
    if !template.iter().any(placed) {
        return template.iter().cloned().chain([line.to_vec()]).collect();
    }
    let fill = |argument: &Vec<u8>| {
        let (mut filled, mut rest) = (Vec::new(), argument.as_slice());
        while let Some(at) = rest.windows(PLACE.len()).position(|window| window == PLACE) {
            filled.extend_from_slice(&rest[..at]);
            filled.extend_from_slice(line);
            rest = &rest[at + PLACE.len()..];
        }
        filled.extend_from_slice(rest);
        filled
    };
    template.iter().map(fill).collect()
}

/// Runs all lines; the largest code.
pub async fn run(
    session: &mut Session,
    interrupt: &mut Interrupt,
    reservation: ReservationId,
    template: NewJob,
    lines: Vec<Vec<u8>>,
    at_once: usize,
) -> Result<u8, CliError> {
    let mut each = Each {
        session,
        reservation,
        template,
        lines,
        next: 0,
        at_once,
        wants: BTreeMap::new(),
        over: VecDeque::new(),
        printing: None,
        code: 0,
        failed: 0,
    };
    tokio::select! {
        done = each.work() => done?,
        () = interrupt.pressed() => return Err(CliError::Interrupted(
            "what was submitted goes on without this command; no more lines are\n  \
             `gridpilot jobs` lists it, `gridpilot cancel` stops it".to_owned(),
        )),
    }
    if each.failed > 0 && each.session.mode == OutputMode::Cli {
        out::say(&format!("gridpilot: {} of {} jobs failed", each.failed, each.lines.len()));
    }
    Ok(each.code)
}

impl Each<'_> {
    async fn work(&mut self) -> Result<(), CliError> {
        self.session.client.connect().await?;
        loop {
            match self.go_on().await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Lost) => {
                    self.session.client.reconnect().await?;
                    for want in std::mem::take(&mut self.wants).into_values() {
                        // A connection that is lost again at once leaves them to the next one.
                        match self.post(want) {
                            Ok(()) | Err(Trouble::Lost) => {}
                            Err(Trouble::Final(error)) => return Err(error),
                        }
                    }
                }
            }
        }
    }

    /// One step; whether that was the last.
    async fn go_on(&mut self) -> Result<bool, Trouble> {
        while self.next < self.lines.len() && self.open() < self.at_once {
            let line = self.next;
            self.next += 1;
            self.post(Want::Order { line, id: new_id() })?;
        }
        self.print_next()?;
        if self.wants.is_empty() {
            return Ok(self.next == self.lines.len() && self.over.is_empty() && self.printing.is_none());
        }
        match self.session.client.next().await? {
            Incoming::Notice(id, Notice::Output { offset, bytes, .. }) if self.wants.contains_key(&id) => {
                if let Some(printing) = self.printing.as_mut().filter(|printing| printing.offset == offset) {
                    printing.offset += bytes.len() as u64;
                    let stream = printing.streams[0];
                    out::pass_on(stream, bytes).await?;
                }
            }
            Incoming::Notice(..) => {}
            Incoming::Reply(id, reply) => {
                if let Some(want) = self.wants.remove(&id) {
                    self.answered(want, reply)?;
                }
            }
        }
        Ok(false)
    }

    /// Lines that are ordered and whose jobs are not over.
    fn open(&self) -> usize {
        self.wants.values().filter(|want| !matches!(want, Want::Output { .. })).count()
    }

    fn post(&mut self, want: Want) -> Result<(), Trouble> {
        let request = match &want {
            Want::Order { line, id } => {
                let mut job = self.template.clone();
                job.command.argv = argv(&self.template.command.argv, &self.lines[*line]);
                Request::SubmitIn { id: *id, reservation: self.reservation, job }
            }
            Want::End { job, .. } => Request::WaitJob(Selector::Id(*job)),
            Want::Output { stream } => {
                let Some(printing) = &self.printing else { return Ok(()) };
                let (job, offset) = (Selector::Id(printing.view.id), printing.offset);
                Request::Log { job, stream: *stream, offset, follow: false }
            }
        };
        let posted = self.session.client.post(&request);
        // Kept also when it could not be sent: then it is asked on the next connection.
        let key = posted.as_ref().copied().unwrap_or_else(|_| u64::MAX - self.wants.len() as u64);
        self.wants.insert(key, want);
        posted.map(drop)
    }

    fn answered(&mut self, want: Want, reply: Reply) -> Result<(), Trouble> {
        match (want, reply) {
            (Want::Order { line, .. }, Reply::Submitted { job, .. }) => self.post(Want::End { line, job }),
            (Want::End { line, .. }, Reply::Job(view)) => {
                self.ended(line, view)?;
                Ok(())
            }
            (Want::Output { stream }, reply) => {
                if let Reply::Failed(failure) = reply {
                    out::complain(&format!("the output of a job is not complete: {failure}"));
                }
                if let Some(printing) = self.printing.as_mut() {
                    printing.streams.retain(|other| *other != stream);
                    printing.offset = 0;
                }
                Ok(())
            }
            (_, Reply::Refused(refusal)) => Err(CliError::Refused(refusal).into()),
            (_, other) => Err(CliError::unexpected(&other).into()),
        }
    }

    fn ended(&mut self, line: usize, view: JobView) -> Result<(), CliError> {
        let code = match &view.state {
            JobState::Done(status) => status.code(),
            JobState::Cancelled => CANCELLED,
            _ => 123,
        };
        self.code = self.code.max(code);
        self.failed += usize::from(code != 0);
        if self.session.mode == OutputMode::Cli {
            let job = view.id;
            if code != 0 {
                let why = match &view.state {
                    JobState::Failed(failure) => failure.to_string(),
                    JobState::Cancelled => "cancelled".to_owned(),
                    _ => format!("exit code {code}"),
                };
                out::say(&format!("gridpilot: {job}, line {}: {why}", line + 1));
            }
            hits::lines(&view.hits).iter().for_each(|hit| out::say(&format!("gridpilot: {job}: {hit}")));
        }
        if self.session.mode == OutputMode::Json {
            json::print(&json::JobJson::from(&view))?;
        } else if view.stdout_bytes + view.stderr_bytes > 0 {
            self.over.push_back(view);
        }
        Ok(())
    }

    /// The output of one job at a time, so that it stays together.
    fn print_next(&mut self) -> Result<(), Trouble> {
        loop {
            if let Some(printing) = &self.printing {
                let Some(&stream) = printing.streams.front() else {
                    self.printing = None;
                    continue;
                };
                let asked = self.wants.values().any(|want| matches!(want, Want::Output { .. }));
                return if asked { Ok(()) } else { self.post(Want::Output { stream }) };
            }
            let Some(view) = self.over.pop_front() else { return Ok(()) };
            let sizes = [(Stream::Stdout, view.stdout_bytes), (Stream::Stderr, view.stderr_bytes)];
            let streams =
                sizes.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(stream, _)| stream).collect();
            self.printing = Some(Printing { view, streams, offset: 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_takes_its_place_or_comes_last_and_is_never_split() {
        let of = |words: &[&str], line: &str| {
            let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            let argv = argv(&words, line.as_bytes());
            argv.into_iter().map(|word| String::from_utf8(word).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(of(&["prog", "-x"], "a b"), ["prog", "-x", "a b"]);
        assert_eq!(of(&["prog", "{}.in", "{}{}"], "a b"), ["prog", "a b.in", "a ba b"]);
        assert_eq!(of(&["prog", "{}"], "{}"), ["prog", "{}"], "a line that is itself a place");
        assert_eq!(of(&["{}", "-x"], "prog"), ["prog", "-x"]);
    }
}
