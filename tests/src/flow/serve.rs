//! The receiver: takes TCP and UDP on one port and counts.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::{Arrived, Second, Total};

/// More connections than this wait until the end.
const STREAMS_MAX: u64 = 256;
const BUFFER_BYTES: usize = 128 * 1024;

#[derive(Clone, Debug, clap::Args)]
pub struct Serve {
    #[arg(long)]
    pub port: u16,
    /// Count for so long, from the first byte on.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// Give up when nothing came within so many seconds.
    #[arg(long, default_value_t = 30)]
    pub patience: u32,
}

#[derive(Debug, Default)]
struct Counters {
    tcp_bytes: AtomicU64,
    udp_bytes: AtomicU64,
    streams: AtomicU64,
}

impl Counters {
    fn arrived(&self) -> Arrived {
        Arrived {
            tcp_bytes: self.tcp_bytes.load(Ordering::Relaxed),
            udp_bytes: self.udp_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Counts, and writes a line of JSON for each second and one at the end. The threads that receive
/// end with the process.
///
/// # Errors
/// The port is taken, or nothing came in time.
pub fn serve(args: &Serve, out: &mut impl Write) -> Result<Total> {
    let here = (Ipv4Addr::UNSPECIFIED, args.port);
    let cannot = || format!("cannot listen on port {}", args.port);
    let listener = TcpListener::bind(here).with_context(cannot)?;
    let datagrams = UdpSocket::bind(here).with_context(cannot)?;
    let counters = Arc::new(Counters::default());
    let to = Arc::clone(&counters);
    // Whoever receives first wakes the counting.
    let (first, begun) = std::sync::mpsc::sync_channel(1);
    let wake = first.clone();
    thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok(bytes) = datagrams.recv(&mut buffer) {
            if to.udp_bytes.fetch_add(bytes as u64, Ordering::Relaxed) == 0 {
                let _ = wake.try_send(Instant::now());
            }
        }
    });
    let to = Arc::clone(&counters);
    thread::spawn(move || {
        for stream in listener.incoming().flatten().take(STREAMS_MAX as usize) {
            to.streams.fetch_add(1, Ordering::Relaxed);
            let (to, wake) = (Arc::clone(&to), first.clone());
            thread::spawn(move || receive(stream, &to, &wake));
        }
        // Kept, so that the connections beyond the last wait instead of being refused.
        listener
    });

    let Ok(begin) = begun.recv_timeout(Duration::from_secs(args.patience.into())) else {
        bail!("nothing came to port {} within {} s", args.port, args.patience);
    };
    let mut seconds = Vec::with_capacity(args.seconds as usize);
    let (mut before, mut since) = (Arrived::default(), begin);
    for second in 1..=args.seconds {
        let end = begin + Duration::from_secs(second.into());
        thread::sleep(end.saturating_duration_since(Instant::now()));
        let (all, now) = (counters.arrived(), Instant::now());
        let arrived = Arrived {
            tcp_bytes: all.tcp_bytes - before.tcp_bytes,
            udp_bytes: all.udp_bytes - before.udp_bytes,
        };
        let passed = (now - since).as_secs_f64();
        let ended_unix_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let line = Second {
            second,
            ended_unix_ms,
            passed_ms: (now - since).as_millis() as u64,
            arrived,
            mbit: arrived.mbit(passed),
            class_mbit: arrived.class_mbit(passed),
        };
        say(out, &line)?;
        seconds.push(line);
        (before, since) = (all, now);
    }
    let total = Total::of(&seconds, counters.streams.load(Ordering::Relaxed));
    say(out, &total)?;
    Ok(total)
}

fn receive(mut stream: impl Read, to: &Counters, wake: &std::sync::mpsc::SyncSender<Instant>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
        if to.tcp_bytes.fetch_add(bytes as u64, Ordering::Relaxed) == 0 {
            let _ = wake.try_send(Instant::now());
        }
    }
}

pub(super) fn say(out: &mut impl Write, line: &impl serde::Serialize) -> Result<()> {
    writeln!(out, "{}", serde_json::to_string(line)?).and_then(|()| out.flush()).context("cannot write")
}
