//! The verbs that wait: `submit --wait`, `reserve --wait`, `wait` and `log`. Each keeps a few
//! requests open on one connection; when that is lost, what is still wanted is asked again from
//! where it stood, so no byte of output is lost or printed twice.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use protocol::client::{Notice, Reply, Request, Selector};
use protocol::ids::{JobId, ReservationId};
use protocol::job::{ExitStatus, JobState, JobView, Stream};
use protocol::names::Text;
use protocol::reservation::{ReservationState, ReservationView};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, interval, sleep_until};

use super::args::OutputMode;
use super::client::{ANSWER_TIME, Incoming, Trouble};
use super::errors::{CANCELLED, CliError};
use super::progress::{self, Progress};
use super::show::{self, Found};
use super::table::safe;
use super::values::{Thing, show_duration};
use super::{Session, hits, json, out};

/// Ctrl-C, caught from before an order is sent, so that none is left without a word.
#[derive(Debug)]
pub struct Interrupt(Signal);

impl Interrupt {
    pub fn listen() -> Result<Self, CliError> {
        let signal = signal(SignalKind::interrupt())
            .map_err(|error| CliError::Bug(format!("cannot listen for Ctrl-C: {error}")))?;
        Ok(Self(signal))
    }

    /// Resolves when it is pressed. Cancel-safe.
    pub async fn pressed(&mut self) {
        self.0.recv().await;
    }
}

/// `submit --wait`: the job's output on ours, then its code.
pub async fn submitted(
    session: &mut Session,
    interrupt: &mut Interrupt,
    job: JobId,
    reservation: ReservationId,
) -> Result<u8, CliError> {
    let mode = session.mode;
    let mut watch = Watch::new(session);
    watch.for_job = true;
    watch.progress.say(&format!("{job} submitted in {reservation}"));
    watch.wants = vec![Want::Job(job), Want::Show(reservation), Want::Reservation(reservation)];
    if mode != OutputMode::Json {
        watch.wants.extend([Want::Log(job, Stream::Stdout), Want::Log(job, Stream::Stderr)]);
    }
    tokio::select! {
        outcome = watch.run() => outcome?,
        () = interrupt.pressed() => return Err(interrupted(&job.to_string())),
    }
    let view = watch.job.take().ok_or_else(lost_end)?;
    if mode == OutputMode::Json {
        json::print(&json::JobJson::from(&view))?;
    }
    let code = conclude(&mut watch.progress, &view)?;
    // A job that came to its end by itself, but of whose output something is missing.
    watch.log_error.take().map_or(Ok(code), Err)
}

/// `reserve --wait`: until it is ready.
pub async fn reservation(
    session: &mut Session,
    interrupt: &mut Interrupt,
    id: ReservationId,
) -> Result<u8, CliError> {
    let mode = session.mode;
    let mut watch = Watch::new(session);
    watch.wants = vec![Want::Show(id), Want::Reservation(id)];
    tokio::select! {
        outcome = watch.run() => outcome?,
        () = interrupt.pressed() => return Err(interrupted_reservation(id)),
    }
    let view = watch.reservation.take().ok_or_else(lost_end)?;
    drop(watch);
    show::print_reservation(mode, &view)?;
    settled(&view)
}

/// `wait`: until a job is over, or a reservation is ready or over.
pub async fn wait(session: &mut Session, thing: Thing, timeout: Option<u32>) -> Result<u8, CliError> {
    let deadline = timeout.map(|seconds| (Instant::now() + Duration::from_secs(seconds.into()), seconds));
    let mut interrupt = Interrupt::listen()?;
    let mode = session.mode;
    let found = tokio::select! {
        found = show::find(session, thing) => found?,
        () = interrupt.pressed() => return Err(CliError::Interrupted("interrupted".to_owned())),
    };
    let mut watch = Watch::new(session);
    let (id, goes_on) = match &found {
        Found::Job(job) => (job.id.to_string(), interrupted(&job.id.to_string())),
        Found::Reservation(view) => (view.id.to_string(), interrupted_reservation(view.id)),
    };
    let is_job = matches!(found, Found::Job(_));
    watch.expect(found);
    tokio::select! {
        outcome = watch.run() => outcome?,
        () = interrupt.pressed() => return Err(goes_on),
        () = reached(deadline.map(|(moment, _)| moment)) => {
            let seconds = deadline.map_or(0, |(_, seconds)| u64::from(seconds));
            return Err(CliError::TimedOut {
                what: format!("{id} is not {} after {}", if is_job { "over" } else { "ready" }, show_duration(seconds)),
                hint: format!("it goes on; `gridpilot explain {id}` says how it stands"),
            });
        }
    }
    if let Some(job) = watch.job.take() {
        if mode == OutputMode::Json {
            json::print(&json::JobJson::from(&job))?;
        }
        if let JobState::Done(ExitStatus::Code(code)) = job.state {
            watch.progress.say(&format!("{id} done, exit code {code}"));
        }
        return conclude(&mut watch.progress, &job);
    }
    let view = watch.reservation.take().ok_or_else(lost_end)?;
    if mode == OutputMode::Json {
        json::print(&json::ReservationJson::from(&view))?;
    }
    if !matches!(view.state, ReservationState::Failed(_)) {
        watch.progress.say(&format!("{id} {}", view.state));
    }
    settled(&view)
}

async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// `log`: what is there, and with `follow` what comes until the job is over.
pub async fn log(
    session: &mut Session,
    job: Selector<JobId>,
    follow: bool,
    stderr: bool,
) -> Result<u8, CliError> {
    let id = match job {
        Selector::Id(id) => id,
        // Looked up once, so that a newer job does not slip in when the connection is made again.
        Selector::Last => show::job_view(session, job).await?.id,
    };
    let mut watch = Watch::new(session);
    let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
    watch.wants = vec![Want::Log(id, stream)];
    watch.follow = follow;
    watch.to_stdout = true;
    watch.run().await?;
    let error = watch.log_error.take();
    drop(watch);
    if let Some(error) = error {
        return Err(error);
    }
    if session.mode == OutputMode::Cli {
        // What a log cannot show: why a program ended in the middle of a line.
        let view = show::job_view(session, Selector::Id(id)).await?;
        let mut progress = Progress::new(session.mode);
        hits::lines(&view.hits).iter().for_each(|line| progress.say(&format!("{id}: {line}")));
    }
    Ok(0)
}

/// What a job's end means for ours.
fn conclude(progress: &mut Progress, job: &JobView) -> Result<u8, CliError> {
    for line in hits::lines(&job.hits) {
        progress.say(&format!("{}: {line}", job.id));
    }
    match &job.state {
        JobState::Done(status) => {
            if let ExitStatus::Signal(signal) = status {
                progress.say(&format!("{} was ended by signal {signal}", job.id));
            }
            Ok(status.code())
        }
        JobState::Cancelled => {
            progress.say(&format!("{} was cancelled", job.id));
            Ok(CANCELLED)
        }
        JobState::Failed(failure) => {
            Err(CliError::Failed { what: job.id.to_string(), failure: Box::new(failure.clone()) })
        }
        JobState::Waiting | JobState::Running => Err(lost_end()),
    }
}

/// A reservation that is ready, or ended as it was told to, is good news.
fn settled(view: &ReservationView) -> Result<u8, CliError> {
    match &view.state {
        ReservationState::Failed(failure) => {
            Err(CliError::Failed { what: view.id.to_string(), failure: Box::new(failure.clone()) })
        }
        _ => Ok(0),
    }
}

fn lost_end() -> CliError {
    CliError::Bug("the GRC ended the wait before there was an end".to_owned())
}

fn interrupted(id: &str) -> CliError {
    CliError::Interrupted(format!(
        "{id} goes on without this command\n  \
         come back: `gridpilot wait {id}` or `gridpilot log -f {id}`\n  \
         stop it: `gridpilot cancel {id}`"
    ))
}

fn interrupted_reservation(id: ReservationId) -> CliError {
    CliError::Interrupted(format!(
        "{id} goes on without this command\n  come back: `gridpilot wait {id}`\n  end it: `gridpilot release {id}`"
    ))
}

/// One thing that is waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Want {
    Job(JobId),
    /// How the reservation stands at first; afterwards the changes tell.
    Show(ReservationId),
    Reservation(ReservationId),
    Log(JobId, Stream),
    /// What stands in a job's way, asked when there are news of it that change nothing it shows.
    Why(JobId),
}

/// Several wants over one connection after the other.
struct Watch<'a> {
    session: &'a mut Session,
    progress: Progress,
    /// What was not answered to the end yet.
    wants: Vec<Want>,
    /// The same by the correlation id of the present connection.
    open: BTreeMap<u64, Want>,
    /// Bytes of each stream that were passed on.
    printed: BTreeMap<Stream, u64>,
    follow: bool,
    /// A log of standard error goes to standard output like any other answer.
    to_stdout: bool,
    /// It is a job that is waited for.
    for_job: bool,
    running: bool,
    /// A reason was said why it may not go on.
    hindered: bool,
    /// The end of each, once it is known.
    job: Option<JobView>,
    reservation: Option<ReservationView>,
    log_error: Option<CliError>,
}

impl<'a> Watch<'a> {
    fn new(session: &'a mut Session) -> Self {
        Self {
            progress: Progress::new(session.mode),
            session,
            wants: Vec::new(),
            open: BTreeMap::new(),
            printed: BTreeMap::new(),
            follow: true,
            to_stdout: false,
            for_job: false,
            running: false,
            hindered: false,
            job: None,
            reservation: None,
            log_error: None,
        }
    }

    /// Waits for what was found, unless it is at its end already.
    fn expect(&mut self, found: Found) {
        match found {
            Found::Job(job) if job.state.is_final() => self.job = Some(job),
            Found::Job(job) => {
                self.for_job = true;
                self.wants =
                    vec![Want::Job(job.id), Want::Show(job.reservation), Want::Reservation(job.reservation)];
                self.on_job(&job);
            }
            Found::Reservation(view) if is_settled(&view) => self.reservation = Some(view),
            Found::Reservation(view) => {
                self.wants = vec![Want::Reservation(view.id)];
                self.on_reservation(&view);
            }
        }
    }

    /// A job's reservation is there for the progress only: whatever comes of it, the job says.
    fn is_aside(&self, want: Want) -> bool {
        match want {
            Want::Show(_) | Want::Why(_) => true,
            Want::Reservation(_) => self.for_job,
            Want::Job(_) | Want::Log(..) => false,
        }
    }

    /// Nothing that was asked for is missing.
    fn is_over(&self) -> bool {
        self.wants.iter().all(|want| self.is_aside(*want))
    }

    async fn run(&mut self) -> Result<(), CliError> {
        if self.is_over() {
            return Ok(());
        }
        self.session.client.connect().await?;
        let mut tick = interval(Duration::from_secs(1));
        let mut heard = Instant::now();
        'connection: loop {
            if self.post_all()?.is_none() {
                self.seek().await?;
                continue;
            }
            while !self.is_over() {
                let limit = self.silence_limit().map(|limit| heard + limit);
                let incoming = tokio::select! {
                    incoming = self.session.client.next() => incoming,
                    _ = tick.tick() => { self.progress.tick(); continue; }
                    () = reached(limit) => return self.give_up(),
                };
                heard = Instant::now();
                match incoming {
                    Ok(incoming) => self.on(incoming).await?,
                    Err(Trouble::Lost) => {
                        self.seek().await?;
                        continue 'connection;
                    }
                    Err(Trouble::Final(error)) => return Err(error),
                }
            }
            self.progress.clear();
            return Ok(());
        }
    }

    async fn seek(&mut self) -> Result<(), CliError> {
        self.progress.clear();
        self.session.client.reconnect().await
    }

    /// Opens every want on the present connection; `None` when that is lost again.
    fn post_all(&mut self) -> Result<Option<()>, CliError> {
        self.open.clear();
        for want in &self.wants.clone() {
            if self.post(*want)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    fn post(&mut self, want: Want) -> Result<Option<()>, CliError> {
        let request = match want {
            Want::Job(id) => Request::WaitJob(Selector::Id(id)),
            Want::Show(id) => Request::ShowReservation(Selector::Id(id)),
            Want::Reservation(id) => Request::WaitReservation(Selector::Id(id)),
            Want::Log(id, stream) => Request::Log {
                job: Selector::Id(id),
                stream,
                offset: self.printed.get(&stream).copied().unwrap_or(0),
                follow: self.follow,
            },
            Want::Why(id) => Request::ExplainJob(Selector::Id(id)),
        };
        match self.session.client.post(&request) {
            Ok(correlation) => {
                self.open.insert(correlation, want);
                Ok(Some(()))
            }
            // The loss itself is met where the next word is awaited.
            Err(Trouble::Lost) => Ok(None),
            Err(Trouble::Final(error)) => Err(error),
        }
    }

    /// How long it may be silent, where the GRC need not wait for anything: a log that is not
    /// followed, and the rest of the output of a job that is over.
    fn silence_limit(&self) -> Option<Duration> {
        (!self.follow || self.job.is_some()).then_some(ANSWER_TIME)
    }

    fn give_up(&mut self) -> Result<(), CliError> {
        self.progress.clear();
        self.log_error = Some(self.session.client.silent());
        Ok(())
    }

    async fn on(&mut self, incoming: Incoming) -> Result<(), CliError> {
        match incoming {
            Incoming::Notice(id, notice) => match (self.open.get(&id).copied(), notice) {
                (Some(Want::Log(_, ours)), Notice::Output { stream, offset, bytes }) if stream == ours => {
                    self.on_output(stream, offset, bytes).await?;
                }
                (Some(Want::Job(id)), Notice::Job(view)) => {
                    let known = self.running;
                    self.on_job(&view);
                    if known && view.state == JobState::Running {
                        self.wants.push(Want::Why(id));
                        self.post(Want::Why(id))?;
                    }
                }
                (Some(Want::Reservation(_)), Notice::Reservation(view)) => self.on_reservation(&view),
                // Of a want that was answered already, or news of a later version.
                _ => {}
            },
            Incoming::Reply(id, reply) => {
                if let Some(want) = self.open.remove(&id) {
                    self.wants.retain(|other| *other != want);
                    self.on_reply(want, reply)?;
                }
            }
        }
        Ok(())
    }

    fn on_reply(&mut self, want: Want, reply: Reply) -> Result<(), CliError> {
        match (want, reply) {
            (Want::Job(_), Reply::Job(view)) => self.job = Some(view),
            (Want::Show(_), Reply::Reservation(view)) => self.on_reservation(&view),
            (Want::Reservation(_), Reply::Reservation(view)) => {
                self.on_reservation(&view);
                self.reservation = Some(view);
            }
            (Want::Log(..), Reply::LogEnd { .. }) => {}
            (Want::Why(id), Reply::Explained(told)) => self.on_reasons(id, &told.reasons),
            // The job may still say better why; if it does not, this is told in the end.
            (Want::Log(..), Reply::Refused(refusal)) => self.log_error = Some(CliError::Refused(refusal)),
            (Want::Log(id, _), Reply::Failed(failure)) => {
                self.log_error =
                    Some(CliError::Failed { what: format!("the log of {id}"), failure: Box::new(failure) });
            }
            (want, _) if self.is_aside(want) => {}
            (Want::Job(id), Reply::Failed(failure)) => {
                return Err(CliError::Failed { what: id.to_string(), failure: Box::new(failure) });
            }
            (Want::Reservation(id), Reply::Failed(failure)) => {
                return Err(CliError::Failed { what: id.to_string(), failure: Box::new(failure) });
            }
            (_, Reply::Refused(refusal)) => return Err(CliError::Refused(refusal)),
            (_, other) => return Err(CliError::unexpected(&other)),
        }
        Ok(())
    }

    fn on_job(&mut self, view: &JobView) {
        if let Some(phase) = progress::of_job(view) {
            self.running = true;
            self.progress.show(phase);
        }
    }

    /// Each is said when it comes, and that it is over.
    fn on_reasons(&mut self, id: JobId, reasons: &[Text]) {
        for reason in reasons {
            self.progress.say(&format!("{id}: {}", safe(reason)));
        }
        if reasons.is_empty() && self.hindered {
            self.progress.say(&format!("{id}: all its sites are there again"));
        }
        self.hindered = !reasons.is_empty();
    }

    fn on_reservation(&mut self, view: &ReservationView) {
        if self.running || self.job.is_some() {
            return;
        }
        if let Some(phase) = progress::of_reservation(view) {
            self.progress.show(phase);
        }
    }

    async fn on_output(&mut self, stream: Stream, offset: u64, bytes: Bytes) -> Result<(), CliError> {
        let printed = self.printed.entry(stream).or_insert(0);
        let end = offset + bytes.len() as u64;
        if end <= *printed {
            return Ok(());
        }
        // After a new connection the first piece may begin before what we have.
        let known = usize::try_from(printed.saturating_sub(offset)).unwrap_or(bytes.len()).min(bytes.len());
        *printed = end;
        self.progress.clear();
        let to = if self.to_stdout { Stream::Stdout } else { stream };
        out::pass_on(to, bytes.slice(known..)).await
    }
}

fn is_settled(view: &ReservationView) -> bool {
    matches!(view.state, ReservationState::Ready | ReservationState::Ended | ReservationState::Failed(_))
}
