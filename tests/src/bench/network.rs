//! TCP between two sandboxes of one site against TCP between the nodes' own interfaces: a stream
//! and 64-byte messages to and fro. Both by the same program, in turn.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::table;
use crate::demo::Workplace;
use crate::netns::machine_address;
use crate::process::run;
use crate::state::Driver;
use crate::world::Grid;

/// Port of the measuring program.
const PORT: u16 = 7777;
/// How long the stream runs in one sample.
const STREAM_TIME: Duration = Duration::from_secs(1);
const MESSAGES: usize = 20_000;
/// Name under which the program is put into the account's home.
const PROGRAM: &str = "gridpilot-bench";

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Sample {
    bytes_per_s: f64,
    /// Median of a message there and back.
    round_trip_s: f64,
}

/// The measuring program itself, `gridpilot-bench tcp ADDRESS`: member 1 serves, member 0 dials
/// and prints what it saw.
pub fn pair(address: &str) -> Result<()> {
    let member = std::env::var("GRIDPILOT_MEMBER").context("GRIDPILOT_MEMBER is not set")?;
    if member == "1" { serve(address) } else { dial(address) }
}

fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind((address, PORT))?;
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; 256 * 1024];
    while stream.read(&mut buffer)? > 0 {}
    let (mut messages, _) = listener.accept()?;
    messages.set_nodelay(true)?;
    let mut message = [0; 64];
    while messages.read_exact(&mut message).is_ok() {
        messages.write_all(&message)?;
    }
    Ok(())
}

fn connect(address: &str) -> Result<TcpStream> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect((address, PORT)) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => return Err(error).context("the other side never came"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn dial(address: &str) -> Result<()> {
    let mut stream = connect(address)?;
    let buffer = vec![7; 256 * 1024];
    let begin = Instant::now();
    let mut sent = 0usize;
    while begin.elapsed() < STREAM_TIME {
        stream.write_all(&buffer)?;
        sent += buffer.len();
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The server hangs up when it has read everything.
    stream.read_to_end(&mut Vec::new())?;
    let rate = sent as f64 / begin.elapsed().as_secs_f64();
    drop(stream);
    let mut messages = connect(address)?;
    messages.set_nodelay(true)?;
    let mut message = [0; 64];
    let mut times = Vec::with_capacity(MESSAGES);
    for _ in 0..MESSAGES {
        let begin = Instant::now();
        messages.write_all(&message)?;
        messages.read_exact(&mut message)?;
        times.push(begin.elapsed());
    }
    println!("{rate} {}", super::median(&mut times).as_secs_f64());
    Ok(())
}

fn parse(text: &str) -> Result<Sample> {
    let mut words = text.split_whitespace().map(str::parse::<f64>);
    let mut next = || words.next().context("the measuring program said nothing")?.context("not a number");
    Ok(Sample { bytes_per_s: next()?, round_trip_s: next()? })
}

/// Between the nodes themselves.
fn native(grid: &Grid, program: &str) -> Result<Sample> {
    let address = machine_address(0, 2);
    let command = |machine: &str, member: &str| -> Result<Command> {
        let enter = grid.state.machine(machine)?.enter();
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).args([program, "tcp", &address]).env("GRIDPILOT_MEMBER", member);
        Ok(command)
    };
    let mut server = command("a2", "1")?.stdin(Stdio::null()).spawn()?;
    let said = run(&mut command("a1", "0")?);
    if said.is_err() {
        let _ = server.kill();
    }
    server.wait()?;
    parse(&said?)
}

/// Between two sandboxes on the same two nodes.
fn sandboxed(grid: &Grid, program: &str, reservation: &str, address: &str) -> Result<Sample> {
    let mut command = grid.gridpilot_as_user()?;
    let words = ["submit", "--wait", "--all", "--in", reservation, "--", program, "tcp", address];
    parse(&run(command.args(words))?)
}

/// Measures and prints.
pub fn measure(grid: &Grid, rounds: usize) -> Result<String> {
    let account = grid.account()?.clone();
    let place = Workplace::new(&account, "bench")?;
    let bytes = std::fs::read(std::env::current_exe()?)?;
    let program = place.put(&account, PROGRAM, &bytes)?;
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let program = program.display().to_string();
    let words = ["--output-mode", "json", "reserve", "--wait", "--nodes", "a=2"];
    let view: serde_json::Value = serde_json::from_str(&run(grid.gridpilot_as_user()?.args(words))?)?;
    let reservation = view["id"].as_str().context("no id")?.to_owned();
    let address = view["parts"][0]["members"][1]["address"].as_str().context("no address")?.to_owned();
    let mut samples = Vec::new();
    for round in 0..rounds {
        // In turn, and each first half of the time: whatever else the machine does meets both.
        let (ours, theirs) = if round % 2 == 0 {
            let ours = sandboxed(grid, &program, &reservation, &address)?;
            (ours, native(grid, &program)?)
        } else {
            let theirs = native(grid, &program)?;
            (sandboxed(grid, &program, &reservation, &address)?, theirs)
        };
        samples.push((ours, theirs));
    }
    run(grid.gridpilot_as_user()?.args(["release", &reservation]))?;
    ensure!(!samples.is_empty(), "nothing was measured");
    Ok(show(grid.state.plan.driver, &samples))
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn show(driver: Driver, samples: &[(Sample, Sample)]) -> String {
    let of = |take: fn(&(Sample, Sample)) -> f64| middle(samples.iter().map(take).collect());
    let rows = [
        ["TCP, two nodes of a site".to_owned(), "native".into(), driver.name().into(), "ratio".into()],
        [
            "stream, Gbit/s".into(),
            format!("{:.2}", of(|(_, native)| native.bytes_per_s * 8e-9)),
            format!("{:.2}", of(|(ours, _)| ours.bytes_per_s * 8e-9)),
            format!("{:.2}", of(|(ours, native)| ours.bytes_per_s / native.bytes_per_s)),
        ],
        [
            "64 B there and back, us".into(),
            format!("{:.1}", of(|(_, native)| native.round_trip_s * 1e6)),
            format!("{:.1}", of(|(ours, _)| ours.round_trip_s * 1e6)),
            format!("{:.2}", of(|(ours, native)| ours.round_trip_s / native.round_trip_s)),
        ],
    ];
    table(&rows.map(Vec::from))
}
