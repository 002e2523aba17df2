//! Short commands in a standing reservation: a thousand as fast as they go, against `xargs` that
//! starts the same program without any grid; one after another; and on every member at once.

use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use protocol::client::{NewJob, Reply, Request, Selector};
use protocol::ids::ReservationId;
use protocol::job::{Command, ExitStatus, JobState, Target};
use protocol::reservation::ReservationState;

use super::start::{Client, Message, ask};
use super::{fine_ms, median, ratio, table};
use crate::world::Grid;

const PROGRAM: &str = "/bin/true";
/// Commands that are open at once, as a client that knows them all beforehand would have it.
const WINDOW: usize = 32;
/// Commands one after another.
const IN_A_ROW: usize = 100;

fn job() -> NewJob {
    let command = Command {
        argv: vec![PROGRAM.into()],
        variables: vec![],
        directories: vec![],
        directory_required: false,
    };
    NewJob { command, target: Target::Head, label: None, grace_s: None }
}

/// Runs so many commands, never more than `window` of them open; how long that took.
async fn through(
    client: &mut Client,
    reservation: ReservationId,
    commands: usize,
    window: usize,
) -> Result<Duration> {
    let begin = Instant::now();
    let (mut sent, mut over) = (0, 0);
    while over < commands {
        while sent < commands && sent - over < window {
            let id = client.request_id();
            client.send(&Request::SubmitIn { id, reservation, job: job() })?;
            sent += 1;
        }
        match client.next().await?.1 {
            Message::Reply(Reply::Submitted { job, .. }) => {
                client.send(&Request::WaitJob(Selector::Id(job)))?;
            }
            Message::Reply(Reply::Job(view)) => {
                ensure!(view.state == JobState::Done(ExitStatus::Code(0)), "{view:?}");
                over += 1;
            }
            Message::Reply(other) => bail!("{other:?}"),
            Message::Notice(_) => {}
        }
    }
    Ok(begin.elapsed())
}

/// The same without a grid.
fn xargs(commands: usize) -> Result<Duration> {
    let begin = Instant::now();
    let script = format!("seq {commands} | xargs -P2 -n1 {PROGRAM}");
    let status = Process::new("sh").args(["-c", &script]).stdin(Stdio::null()).status()?;
    ensure!(status.success(), "xargs: {status}");
    Ok(begin.elapsed())
}

/// `gridpilot submit --wait --all`, a process of its own, beside the program by itself.
fn whole(grid: &Grid, reservation: ReservationId) -> Result<(Duration, Duration)> {
    let run = |command: &mut Process| -> Result<Duration> {
        let begin = Instant::now();
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(begin.elapsed())
    };
    let words = ["submit", "--wait", "--all", "--in", &reservation.to_string(), "--", PROGRAM];
    let submitted = run(grid.gridpilot().args(words))?;
    Ok((submitted, run(&mut Process::new(PROGRAM))?))
}

/// Measures and prints. `grid` must be idle.
pub fn run(grid: &Grid, rounds: usize, commands: usize) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::connect(grid).await?;
        let (id, ask) = (client.request_id(), ask(grid)?);
        let reply = client.reply(&Request::Reserve { id, ask }).await?;
        let Reply::Reserved(reservation) = reply else { bail!("{reply:?}") };
        let reply = client.reply(&Request::WaitReservation(Selector::Id(reservation))).await?;
        let ready = matches!(&reply, Reply::Reservation(view) if view.state == ReservationState::Ready);
        ensure!(ready, "{reply:?}");
        let (mut many, mut alone, mut row, mut all, mut itself) = (vec![], vec![], vec![], vec![], vec![]);
        through(&mut client, reservation, IN_A_ROW, WINDOW).await.context("warming up")?;
        for _ in 0..rounds {
            many.push(through(&mut client, reservation, commands, WINDOW).await?);
            alone.push(xargs(commands)?);
            row.push(through(&mut client, reservation, IN_A_ROW, 1).await? / IN_A_ROW as u32);
            for _ in 0..10 {
                let (submitted, program) = whole(grid, reservation)?;
                all.push(submitted);
                itself.push(program);
            }
        }
        client.reply(&Request::Release(Selector::Id(reservation))).await?;
        client.wait_ended(reservation).await?;
        let ratio = format!("{:.2}", ratio(&many, &alone));
        let rows = vec![
            vec!["what".to_owned(), "ms".into(), "ratio to xargs".into()],
            vec![format!("{commands} {PROGRAM} on one member"), fine_ms(median(&mut many)), ratio],
            vec![format!("xargs -P2 -n1 {PROGRAM}, as many"), fine_ms(median(&mut alone)), "1".into()],
            vec![
                "one command of a hundred one after another".into(),
                fine_ms(median(&mut row)),
                String::new(),
            ],
            vec!["submit --wait on 4 members".into(), fine_ms(median(&mut all)), String::new()],
            vec![format!("{PROGRAM} by itself"), fine_ms(median(&mut itself)), String::new()],
        ];
        Ok(table(&rows))
    })
}
