//! The two ends of a TCP connection, as programs: run on a node or inside a sandbox.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Where the server listens.
pub const PORT: u16 = 7777;
/// Bytes of a small message.
const SMALL: usize = 64;
/// Bytes of one write of the stream.
const CHUNK: usize = 128 * 1024;
/// How long a client knocks.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// A dead peer ends a probe.
const SILENCE: Duration = Duration::from_secs(20);

/// What one connection is for: its first byte.
const STREAM: u8 = b's';
const PING: u8 = b'p';

/// Keeps this process on one processor: where the scheduler puts the two ends of an echo makes more
/// of a difference than the path between them. Both ends of an echo share one; the ends of a
/// stream have one each.
fn stay_on(processor: usize) -> Result<()> {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(processor % count)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot stay on one processor")
}

/// Serves `connections` one after the other, then ends.
pub fn serve(address: Ipv4Addr, connections: usize) -> Result<()> {
    let listener = TcpListener::bind((address, PORT)).context("cannot listen")?;
    for _ in 0..connections {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        let mut buffer = vec![0; CHUNK];
        stay_on(usize::from(kind[0] == STREAM))?;
        if kind[0] == STREAM {
            let mut bytes = 0u64;
            loop {
                match stream.read(&mut buffer)? {
                    0 => break,
                    read => bytes += read as u64,
                }
            }
            stream.write_all(&bytes.to_be_bytes())?;
        } else {
            while stream.read_exact(&mut buffer[..SMALL]).is_ok() {
                stream.write_all(&buffer[..SMALL])?;
            }
        }
    }
    Ok(())
}

fn connect(address: Ipv4Addr, kind: u8) -> Result<TcpStream> {
    stay_on(0)?;
    let begin = Instant::now();
    let mut stream = loop {
        match TcpStream::connect_timeout(&(address, PORT).into(), Duration::from_secs(2)) {
            Ok(stream) => break stream,
            Err(error) if begin.elapsed() > CONNECT_TIME => {
                return Err(error).with_context(|| format!("cannot reach {address}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.write_all(&[kind])?;
    Ok(stream)
}

/// Sends as much as goes in this time; prints bits per second that arrived.
pub fn stream(address: Ipv4Addr, time: Duration) -> Result<()> {
    let mut stream = connect(address, STREAM)?;
    let buffer = vec![7; CHUNK];
    let begin = Instant::now();
    while begin.elapsed() < time {
        stream.write_all(&buffer)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut arrived = [0; 8];
    stream.read_exact(&mut arrived)?;
    let bits = u64::from_be_bytes(arrived) as f64 * 8.0;
    println!("{}", bits / begin.elapsed().as_secs_f64());
    Ok(())
}

/// Sends a small message and waits for its echo, `count` times; prints the median in seconds.
pub fn ping(address: Ipv4Addr, count: usize) -> Result<()> {
    ensure!(count > 0, "nothing to send");
    let mut stream = connect(address, PING)?;
    let mut buffer = [7; SMALL];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        times.push(begin.elapsed());
    }
    println!("{}", super::median(&mut times).as_secs_f64());
    Ok(())
}
