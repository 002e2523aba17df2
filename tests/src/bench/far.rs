//! Another machine at the far end of the node's cable: a process in a network namespace of its
//! own, told over its standard input, that asks sandboxes for the banner of their sshd.

use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use node_manager::net::link::inside_mac;

use super::bed::{PREFIX_LEN, ip};
use super::helper::{self, Helper};

/// Its interface, plugged in by the node.
pub const LINK: &str = "far0";
/// Its address, and the neighbour of every sandbox.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 70, 0, 2);
/// Of a locally administered range that no sandbox uses.
pub const MAC: [u8; 6] = [0x02, 0x49, 10, 70, 0, 2];
/// Connections that are open at once: two for every processor keep both busy.
const ASKED_AT_ONCE: u32 = 4;
/// How long one sandbox may take to answer.
const BANNER_TIME: Duration = Duration::from_secs(60);

/// The machine, as the node sees it; ends when dropped.
pub struct Far(Helper);

/// What came of asking all.
pub struct Answered {
    pub all: Duration,
    pub worst: Duration,
}

impl Far {
    /// Starts it. It has no cable yet: plug [`LINK`] into the namespace of [`Far::pid`].
    pub fn start() -> Result<Far> {
        Ok(Far(Helper::start(&["far"])?))
    }

    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Its interface up, with permanent neighbour entries for `count` sandboxes: the table of
    /// entries learned is the whole machine's and ends at 1024.
    pub fn plug_in(&mut self, first: Ipv4Addr, count: u32) -> Result<()> {
        self.0.order(&format!("plug {first} {count}")).map(drop)
    }

    /// Asks all for their banner.
    pub fn ask(&mut self, first: Ipv4Addr, count: u32) -> Result<Answered> {
        let numbers = self.0.order(&format!("ask {first} {count}"))?;
        let [all, worst] = numbers.as_slice() else { bail!("the far machine said {numbers:?}") };
        Ok(Answered { all: Duration::try_from_secs_f64(*all)?, worst: Duration::try_from_secs_f64(*worst)? })
    }
}

/// The program `far`.
pub fn serve() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    helper::serve(obey)
}

fn obey(words: &[&str]) -> Result<Vec<f64>> {
    let [verb, first, count] = words else { bail!("{words:?}") };
    let (first, count): (Ipv4Addr, u32) = (first.parse()?, count.parse()?);
    let address = |number: u32| Ipv4Addr::from(u32::from(first) + number);
    if *verb == "plug" {
        let mut lines = vec![
            "link set lo up".to_owned(),
            format!("link set {LINK} address {}", words_of(MAC)),
            format!("addr add {ADDRESS}/{PREFIX_LEN} dev {LINK}"),
            format!("link set {LINK} up"),
        ];
        for address in (0..count).map(address) {
            let mac = words_of(inside_mac(address));
            lines.push(format!("neigh replace {address} lladdr {mac} dev {LINK} nud permanent"));
        }
        ip(&lines)?;
        return Ok(vec![]);
    }
    let next = AtomicU32::new(0);
    let begin = Instant::now();
    let askers = || -> Result<Duration> {
        let mut worst = Duration::ZERO;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(worst);
            }
            worst = worst.max(banner(address(number))?);
        }
    };
    let worst = std::thread::scope(|scope| {
        let all: Vec<_> = (0..ASKED_AT_ONCE).map(|_| scope.spawn(askers)).collect();
        all.into_iter()
            .map(|one| one.join().unwrap_or_else(|_| bail!("an asker died")))
            .collect::<Result<Vec<_>>>()
    })?;
    let worst = worst.into_iter().max().unwrap_or_default();
    Ok(vec![begin.elapsed().as_secs_f64(), worst.as_secs_f64()])
}

/// How long one sandbox takes from the first packet to the banner of its sshd.
fn banner(address: Ipv4Addr) -> Result<Duration> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect_timeout(&(address, 22).into(), BANNER_TIME)
        .with_context(|| format!("{address} does not answer"))?;
    stream.set_read_timeout(Some(BANNER_TIME))?;
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).with_context(|| format!("{address} says nothing"))?;
    ensure!(&greeting == b"SSH-", "{address} greets with {greeting:?}");
    Ok(begin.elapsed())
}

fn words_of(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
