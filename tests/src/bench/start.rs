//! From `submit` to the first line of output, over a whole grid: without pilots, and in a
//! reservation whose pilots stand. The share of each phase comes from the reservation's own
//! changes of state, as any client is told them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use protocol::client::{NewJob, Notice, Reply, Request, Selector};
use protocol::connection::{self, Connection, read};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::ids::{JobId, RequestId, ReservationId};
use protocol::job::{Command, Stream, Target};
use protocol::names::EnvironmentName;
use protocol::reservation::{Ask, Bandwidth, Limits, Placement, ReservationState, ReservationView, Start};
use tokio::net::UnixStream;

use super::{median, ms, table};
use crate::netns::site_name;
use crate::world::Grid;

/// How long any one answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(120);

/// When what was reached, counted from the sending of the request.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    held: Duration,
    built: Duration,
    ready: Duration,
    output: Duration,
}

pub(super) struct Client {
    connection: Connection<UnixStream>,
    correlation: u64,
    request: u128,
}

impl Client {
    pub async fn connect(grid: &Grid) -> Result<Self> {
        let stream = UnixStream::connect(grid.state.socket()).await?;
        let connection = connection::greet(stream, Role::Client, &[Role::Grc]).await?;
        let request = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
        Ok(Self { connection, correlation: 0, request })
    }

    pub fn send(&mut self, request: &Request) -> Result<u64> {
        self.correlation += 1;
        self.connection.outbox.post(Kind::Request, self.correlation, request)?;
        Ok(self.correlation)
    }

    pub fn request_id(&mut self) -> RequestId {
        self.request += 1;
        RequestId(self.request.to_be_bytes())
    }

    pub async fn next(&mut self) -> Result<(u64, Message)> {
        let frame = tokio::time::timeout(ANSWER_TIME, self.connection.inbox.next()).await??;
        Ok(match frame.kind {
            Kind::Reply => (frame.correlation, Message::Reply(read(&frame)?)),
            Kind::Notice => (frame.correlation, Message::Notice(read(&frame)?)),
            other => bail!("a {other:?} from the GRC"),
        })
    }

    pub async fn reply(&mut self, request: &Request) -> Result<Reply> {
        let correlation = self.send(request)?;
        loop {
            if let (answer, Message::Reply(reply)) = self.next().await?
                && answer == correlation
            {
                return Ok(reply);
            }
        }
    }

    /// Until the reservation is over everywhere: rounds must not meet on a node.
    pub async fn wait_ended(&mut self, id: ReservationId) -> Result<()> {
        let deadline = Instant::now() + ANSWER_TIME;
        while Instant::now() < deadline {
            let reply = self.reply(&Request::ShowReservation(Selector::Id(id))).await?;
            let Reply::Reservation(view) = reply else { bail!("{reply:?}") };
            if matches!(view.state, ReservationState::Ended | ReservationState::Failed(_)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("{id} does not end")
    }
}

pub(super) enum Message {
    Reply(Reply),
    Notice(Notice),
}

pub(super) fn ask(grid: &Grid) -> Result<Ask> {
    let plan = &grid.state.plan;
    let sites = (0..plan.sites).map(|site| Ok((site_name(site).parse()?, plan.nodes)));
    Ok(Ask {
        placement: Placement::Sites(sites.collect::<Result<_>>()?),
        slots: 1,
        limits: Limits::default(),
        start: Start::Open,
        duration_s: 600,
        bandwidth: Bandwidth::Unasked,
        environment: EnvironmentName::host(),
        label: None,
    })
}

fn echo() -> NewJob {
    NewJob {
        command: Command {
            argv: vec![b"/bin/echo".to_vec(), b"here".to_vec()],
            variables: vec![],
            directories: vec![],
            directory_required: false,
        },
        target: Target::Head,
        label: None,
        grace_s: None,
    }
}

fn note(times: &mut Times, view: &ReservationView, now: Duration) -> Result<()> {
    let set = |time: &mut Duration, reached: bool| {
        if reached && time.is_zero() {
            *time = now;
        }
    };
    let all = |count: fn(&protocol::reservation::Progress) -> u32| {
        view.parts.iter().all(|part| count(&part.progress) >= part.nodes)
    };
    if let ReservationState::Failed(failure) = &view.state {
        bail!("{failure}");
    }
    set(&mut times.held, !matches!(view.state, ReservationState::Waiting | ReservationState::Holding));
    set(&mut times.built, all(|progress| progress.built));
    set(&mut times.ready, matches!(view.state, ReservationState::Ready));
    Ok(())
}

/// Follows a job until its first byte of output. What still comes of the job before is not its.
async fn first_output(client: &mut Client, job: JobId, begin: Instant, times: &mut Times) -> Result<()> {
    let log = Request::Log { job: Selector::Id(job), stream: Stream::Stdout, offset: 0, follow: true };
    let log = client.send(&log)?;
    while times.output.is_zero() {
        let (answered, message) = client.next().await?;
        match message {
            Message::Notice(Notice::Output { .. }) if answered == log => times.output = begin.elapsed(),
            Message::Notice(Notice::Reservation(view)) => note(times, &view, begin.elapsed())?,
            Message::Reply(Reply::Reservation(view)) => note(times, &view, begin.elapsed())?,
            Message::Reply(Reply::LogEnd { .. }) if answered == log => bail!("the job ended without a word"),
            Message::Reply(Reply::Refused(refusal)) => bail!("{refusal}"),
            Message::Reply(Reply::Failed(failure)) => bail!("{failure}"),
            _ => (),
        }
    }
    Ok(())
}

async fn absent(client: &mut Client, grid: &Grid) -> Result<Times> {
    let (id, ask) = (client.request_id(), ask(grid)?);
    let mut times = Times::default();
    let begin = Instant::now();
    let reply = client.reply(&Request::Submit { id, ask, job: echo() }).await?;
    let Reply::Submitted { job, reservation } = reply else { bail!("{reply:?}") };
    client.send(&Request::WaitReservation(Selector::Id(reservation)))?;
    first_output(client, job, begin, &mut times).await?;
    client.wait_ended(reservation).await?;
    Ok(times)
}

async fn present(client: &mut Client, reservation: ReservationId) -> Result<Times> {
    let id = client.request_id();
    let mut times = Times::default();
    let begin = Instant::now();
    let reply = client.reply(&Request::SubmitIn { id, reservation, job: echo() }).await?;
    let Reply::Submitted { job, .. } = reply else { bail!("{reply:?}") };
    first_output(client, job, begin, &mut times).await?;
    Ok(times)
}

/// Measures and prints. `grid` must be idle.
pub fn run(grid: &Grid, rounds: usize) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::connect(grid).await?;
        let mut without = Vec::new();
        for _ in 0..rounds {
            without.push(absent(&mut client, grid).await.context("without pilots")?);
        }
        let (id, ask) = (client.request_id(), ask(grid)?);
        let reply = client.reply(&Request::Reserve { id, ask }).await?;
        let Reply::Reserved(reservation) = reply else { bail!("{reply:?}") };
        let reply = client.reply(&Request::WaitReservation(Selector::Id(reservation))).await?;
        let ready = matches!(&reply, Reply::Reservation(view) if view.state == ReservationState::Ready);
        ensure!(ready, "{reply:?}");
        let mut with = Vec::new();
        for _ in 0..rounds {
            with.push(present(&mut client, reservation).await.context("with standing pilots")?);
        }
        client.reply(&Request::Release(Selector::Id(reservation))).await?;
        client.wait_ended(reservation).await?;
        Ok(show(&without, &with))
    })
}

/// One number of many.
type Part = fn(&Times) -> Duration;

fn show(without: &[Times], with: &[Times]) -> String {
    let of = |samples: &[Times], field: Part| median(&mut samples.iter().map(field).collect::<Vec<_>>());
    let whole = of(without, |times| times.output);
    let mut rows = vec![vec!["phase".to_owned(), "ms".into(), "share".into()]];
    let mut before = Duration::ZERO;
    // A site tells its progress at most every tenth of a second, so "arrived" alone is not seen.
    let phases: [(&str, Part); 4] = [
        ("hold at all sites, commit", |times| times.held),
        ("pilots start, dial in, build sandboxes, make keys", |times| times.built),
        ("keys exchanged, every sshd answers with its key", |times| times.ready),
        ("command starts, first line", |times| times.output),
    ];
    for (name, field) in phases {
        let at = of(without, field);
        let took = at.saturating_sub(before);
        before = before.max(at);
        let share = format!("{:.0} %", took.as_secs_f64() / whole.as_secs_f64() * 100.0);
        rows.push(vec![name.into(), ms(took), share]);
    }
    rows.push(vec!["submit to first line, no pilots".into(), ms(whole), "100 %".into()]);
    rows.push(vec![
        "submit to first line, standing pilots".into(),
        ms(of(with, |times| times.output)),
        String::new(),
    ]);
    table(&rows)
}
