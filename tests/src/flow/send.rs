//! The sender: streams of TCP as fast as they go, or datagrams at a rate.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, setsockopt, sockopt::TcpCongestion};
use serde::Serialize;

use super::{UDP_PAYLOAD_BYTES, serve::say};
use crate::rate::Rate;

/// How long a sender knocks at a receiver that may still be starting.
const CONNECT_TIME: Duration = Duration::from_secs(10);
const KNOCK_EVERY: Duration = Duration::from_millis(50);
/// A write that gets nowhere looks at the clock this often.
const WRITE_TIME: Duration = Duration::from_millis(200);
/// Datagrams are sent in handfuls, this often.
const PACE: Duration = Duration::from_millis(1);
const CHUNK_BYTES: usize = 128 * 1024;

#[derive(Clone, Debug, clap::Args)]
pub struct Send {
    /// Host name or address.
    #[arg(long)]
    pub to: String,
    #[arg(long)]
    pub port: u16,
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// Send datagrams at this rate, whatever becomes of them; else TCP.
    #[arg(long, value_name = "RATE")]
    pub udp: Option<Rate>,
    /// Connections of TCP beside each other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub streams: u32,
    /// Of TCP.
    #[arg(long, value_name = "NAME", required_unless_present = "udp", conflicts_with = "udp")]
    pub congestion: Option<Congestion>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    Cubic,
    Bbr,
    Reno,
}

impl Congestion {
    fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
            Self::Reno => "reno",
        }
    }

    /// Makes a connection use it.
    fn set(self, stream: &TcpStream) -> Result<()> {
        let name = self.name();
        match setsockopt(stream, TcpCongestion, &name.into()) {
            Ok(()) => {}
            Err(Errno::EPERM) => bail!(
                "congestion control {name} is only for root on this host, whose administrator can allow it to all\n\
                 in net.ipv4.tcp_allowed_congestion_control (one setting for all network namespaces)"
            ),
            Err(Errno::ENOENT) => bail!("this kernel has no congestion control {name}"),
            Err(errno) => return Err(errno).context(format!("cannot set congestion control {name}")),
        }
        let set = getsockopt(stream, TcpCongestion)?;
        let set = set.to_string_lossy();
        ensure!(set.trim_end_matches('\0') == name, "asked for {name}, the kernel uses {set}");
        Ok(())
    }
}

/// What was handed to the kernel; the receiver knows what came of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Sent {
    pub sent_bytes: u64,
    pub streams: u32,
    pub congestion: Option<Congestion>,
}

/// Sends for the time that was asked, then writes one line of JSON.
///
/// # Errors
/// No such host, nobody there, or a congestion control that cannot be had.
pub fn send(args: &Send, out: &mut impl Write) -> Result<Sent> {
    let target = (args.to.as_str(), args.port)
        .to_socket_addrs()
        .with_context(|| format!("cannot find host {}", args.to))?
        .find(SocketAddr::is_ipv4)
        .with_context(|| format!("host {} has no IPv4 address", args.to))?;
    let length = Duration::from_secs(args.seconds.into());
    let sent = match (args.udp, args.congestion) {
        (Some(rate), _) => {
            Sent { sent_bytes: datagrams(target, rate.kbit, length)?, streams: 0, congestion: None }
        }
        (None, Some(congestion)) => {
            let streams = (0..args.streams).map(|_| connect(target, congestion));
            let streams = streams.collect::<Result<Vec<_>>>()?;
            let end = Instant::now() + length;
            let threads: Vec<_> =
                streams.into_iter().map(|stream| thread::spawn(move || stream_until(stream, end))).collect();
            let mut sent_bytes = 0;
            for thread in threads {
                sent_bytes += thread.join().map_err(|_| anyhow!("a sender panicked"))??;
            }
            Sent { sent_bytes, streams: args.streams, congestion: Some(congestion) }
        }
        (None, None) => bail!("TCP without the name of a congestion control"),
    };
    say(out, &sent)?;
    Ok(sent)
}

fn connect(target: SocketAddr, congestion: Congestion) -> Result<TcpStream> {
    let end = Instant::now() + CONNECT_TIME;
    loop {
        match TcpStream::connect_timeout(&target, CONNECT_TIME) {
            Ok(stream) => {
                congestion.set(&stream)?;
                stream.set_write_timeout(Some(WRITE_TIME))?;
                return Ok(stream);
            }
            Err(error) if Instant::now() + KNOCK_EVERY > end => {
                return Err(error).with_context(|| {
                    format!("nobody answered at {target} within {} s", CONNECT_TIME.as_secs())
                });
            }
            Err(_) => thread::sleep(KNOCK_EVERY),
        }
    }
}

fn stream_until(mut stream: TcpStream, end: Instant) -> Result<u64> {
    let chunk = vec![0x5a; CHUNK_BYTES];
    let mut sent = 0;
    while Instant::now() < end {
        match stream.write(&chunk) {
            Ok(bytes) => sent += bytes as u64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // The receiver has counted to its end.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => break,
            Err(error) => return Err(error).context("the connection broke"),
        }
    }
    Ok(sent)
}

fn datagrams(target: SocketAddr, rate_kbit: u32, length: Duration) -> Result<u64> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).context("cannot make a socket")?;
    socket.connect(target).with_context(|| format!("no way to {target}"))?;
    socket.set_write_timeout(Some(WRITE_TIME))?;
    let datagram = [0x5a; UDP_PAYLOAD_BYTES];
    let begin = Instant::now();
    let (mut due_bytes, mut sent_bytes, mut last) = (0.0, 0, begin);
    while last < begin + length {
        thread::sleep(PACE);
        let now = Instant::now();
        // Bits of a millisecond are kbit/s. What a busy machine could not send in 50 ms is forgotten.
        let passed_ms = (now - last).as_secs_f64() * 1e3;
        due_bytes =
            f64::min(due_bytes + passed_ms * f64::from(rate_kbit) / 8.0, 50.0 * f64::from(rate_kbit) / 8.0);
        last = now;
        while due_bytes >= UDP_PAYLOAD_BYTES as f64 && Instant::now() < begin + length {
            due_bytes -= UDP_PAYLOAD_BYTES as f64;
            // A full queue, or nobody there any more: it is lost, as datagrams are.
            sent_bytes += socket.send(&datagram).unwrap_or(0) as u64;
        }
    }
    Ok(sent_bytes)
}
