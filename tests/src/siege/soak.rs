//! Many sandboxes one after another, ended in every way, and what that does to the node.
//!
//! Of ten: five end in order, two lose their Launcher by SIGKILL, one its monitor, one has its
//! agent stopped until its lifetime is over, one fails while it is built.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use grant::{Driver, Grant};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node_manager::operation::{EndReason, Notice, Request};

use super::bed::Bed;
use super::pilot::{Manner, Pilot, wait_for};

/// How a sandbox ends.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Ending {
    Clean,
    LauncherKilled,
    MonitorKilled,
    AgentStopped,
    ErrorAtSetup,
}

/// The mix, in an order that puts different ends next to each other.
pub const MIX: [Ending; 10] = [
    Ending::Clean,
    Ending::LauncherKilled,
    Ending::Clean,
    Ending::ErrorAtSetup,
    Ending::Clean,
    Ending::MonitorKilled,
    Ending::Clean,
    Ending::AgentStopped,
    Ending::LauncherKilled,
    Ending::Clean,
];
/// Between looks at what is left, by identity.
const LOOK_EVERY: usize = 200;
/// Those that wait for their lifetime's end at the same time.
const WAITING_MAX: usize = 12;
/// Objects of the kernel that a forgotten namespace or mount would keep.
const SLABS: [&str; 4] = ["net_namespace", "pid_namespace", "mnt_cache", "ovl_inode"];

/// What was found.
#[derive(Debug, Default)]
pub struct Sum {
    pub ends: BTreeMap<Ending, usize>,
    pub left: Vec<String>,
    /// After so many sandboxes: objects in use, by slab.
    pub slabs: Vec<(usize, BTreeMap<&'static str, u64>)>,
    /// After so many sandboxes: descriptors of this process, which plays all agents, and its pages.
    pub own: Vec<(usize, usize, u64)>,
    pub took: Duration,
}

/// A pilot whose agent is stopped: its monitor ends it by its own clock.
struct Stopped {
    pilot: Pilot,
    address: Ipv4Addr,
}

/// Runs `count` sandboxes. `say` is told now and then how far it is.
pub fn run(bed: &Bed, count: usize, say: &mut dyn FnMut(String)) -> Result<Sum> {
    let begin = Instant::now();
    let mut sum = Sum::default();
    let mut waiting: VecDeque<Stopped> = VecDeque::new();
    for number in 0..count {
        let ending = MIX[number % MIX.len()];
        let what = || format!("sandbox {number} ({ending:?})");
        if let Some(stopped) = one(bed, number, ending).with_context(what)? {
            waiting.push_back(stopped);
        }
        *sum.ends.entry(ending).or_default() += 1;
        while waiting.len() > WAITING_MAX {
            waiting.pop_front().map_or(Ok(()), finish)?;
        }
        let done = number + 1;
        let sample = done == count || done == count.div_ceil(10);
        if sample || done % LOOK_EVERY == 0 {
            waiting.drain(..).try_for_each(finish)?;
            sum.left.extend(bed.ground.wait_until_nothing_is_left(bed.accounts));
            // Nobody else reads it, and it is long.
            let lines = bed.log.lines()?;
            ensure!(
                !lines.iter().any(|line| line.contains("left: ") && !line.ends_with("left: nothing")),
                "{lines:?}"
            );
        }
        if sample {
            sum.slabs.push((done, slabs()?));
            let (descriptors, pages) = own()?;
            sum.own.push((done, descriptors, pages));
        }
        if done % 1000 == 0 {
            say(format!(
                "{done} sandboxes in {:.0} s, {} left",
                begin.elapsed().as_secs_f64(),
                sum.left.len()
            ));
        }
    }
    sum.took = begin.elapsed();
    Ok(sum)
}

fn one(bed: &Bed, number: usize, ending: Ending) -> Result<Option<Stopped>> {
    let manner = Manner { launcher_of: Some(bed.accounts.user), ..Manner::default() };
    let mut pilot = Pilot::start(&manner)?.map_err(|refused| anyhow!("{refused:?}"))?;
    let (third, fourth) = (128 + (number / 250 % 120) as u8, (number % 250 + 1) as u8);
    let address = Ipv4Addr::new(10, 71, third, fourth);
    let driver = if number / 10 % 4 == 3 { Driver::Veth } else { Driver::Macvlan };
    let mut grant = Grant { address, driver, pids: 100, upper_bytes: 16 << 20, ..pilot.grant() };
    match ending {
        Ending::ErrorAtSetup => {
            // Refused at once, refused by the policy, failed in the middle of the build.
            match number / 10 % 3 {
                0 => grant.nonce = [7; 16],
                1 => grant.address = Ipv4Addr::new(10, 71, 1, 1),
                _ => (grant.driver, grant.mtu) = (Driver::Macvlan, 60_000),
            }
        }
        Ending::AgentStopped => grant.lifetime_s = 1,
        _ => {}
    }
    let mut inside = match (pilot.build(&grant)?, ending) {
        (Err(Notice::Failed { .. }), Ending::ErrorAtSetup) => {
            drop(pilot.leash);
            kill(Pid::from_raw(pilot.launcher.id() as i32), Signal::SIGTERM)?;
            ensure!(wait_for(&mut pilot.launcher)? != 1, "the Launcher failed");
            return Ok(None);
        }
        (Ok(inside), ending) if ending != Ending::ErrorAtSetup => inside,
        (Ok(_), _) => bail!("it was built"),
        (Err(other), _) => bail!("it said {other:?}"),
    };
    if number.is_multiple_of(5) {
        // Something that would like to stay.
        let script = "echo x >/var/tmp/x; (setsid sh -c 'trap \"\" TERM HUP; sleep 1000' >/dev/null 2>&1 &)";
        inside.run(&["sh", "-c", script])?;
    }
    match ending {
        Ending::Clean => {
            pilot.ask(&Request::TearDown)?;
            let (answer, _) = pilot.answer()?;
            ensure!(answer == Notice::Gone, "it said {answer:?}");
        }
        Ending::LauncherKilled => pilot.launcher.kill()?,
        Ending::MonitorKilled => kill(Pid::from_raw(pilot.monitor), Signal::SIGKILL)?,
        Ending::AgentStopped => {
            kill(Pid::from_raw(pilot.agent), Signal::SIGSTOP)?;
            return Ok(Some(Stopped { pilot, address }));
        }
        Ending::ErrorAtSetup => {}
    }
    if ending == Ending::LauncherKilled {
        let (answer, _) = pilot.answer()?;
        ensure!(answer == (Notice::Ended { reason: EndReason::LauncherGone }), "it said {answer:?}");
    }
    drop(inside);
    drop(pilot.leash);
    wait_for(&mut pilot.launcher)?;
    Ok(None)
}

fn finish(stopped: Stopped) -> Result<()> {
    let Stopped { mut pilot, address } = stopped;
    let (answer, _) = pilot.answer()?;
    ensure!(answer == (Notice::Ended { reason: EndReason::LifetimeOver }), "{address} said {answer:?}");
    // It is killed with the rest: stopped as it is, it cannot go by itself.
    wait_for(&mut pilot.launcher)?;
    Ok(())
}

/// Objects in use, the least of three looks, with nothing cached.
fn slabs() -> Result<BTreeMap<&'static str, u64>> {
    let mut least: BTreeMap<&'static str, u64> = BTreeMap::new();
    for _ in 0..3 {
        // Namespaces are taken apart some time after their last process.
        std::thread::sleep(Duration::from_millis(500));
        fs::write("/proc/sys/vm/drop_caches", "2")?;
        let text = fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let name = words.next().and_then(|name| SLABS.into_iter().find(|slab| *slab == name));
            let active = words.next().and_then(|active| active.parse::<u64>().ok());
            if let (Some(name), Some(active)) = (name, active) {
                let kept = least.entry(name).or_insert(active);
                *kept = active.min(*kept);
            }
        }
    }
    Ok(least)
}

/// Open descriptors and resident KiB of this process.
fn own() -> Result<(usize, u64)> {
    usage(std::process::id() as i32)
}

/// Open descriptors and resident KiB of a process.
pub fn usage(pid: i32) -> Result<(usize, u64)> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok((descriptors, line.split_whitespace().next().context("no VmRSS")?.parse()?))
}
