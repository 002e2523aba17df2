//! Many sandboxes at once on one node: each its own address, overlay root and keys. Time until all
//! are up, all answer ssh, all are gone; memory of one that idles.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use grant::Driver;
use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node_agent::keys::Keys;
use node_agent::render::{self, environment::Variables};
use node_manager::channel;
use node_manager::init::record::{FileId, Notice, Request};
use node_manager::net::netlink::{Batch, Netlink, attribute};

use super::bed::{Bed, Built, NODE_LINK, ip, memory_file, own_network};
use super::far::{self, Far};
use super::helper::{self, Helper};
use super::{kib_of, row, table};

/// Files that hold keys or make sshd serve with them.
const FILES: usize = 5;
/// How long the kernel may take to forget the links.
const FORGET_TIME: Duration = Duration::from_secs(20);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 70, 4, 0);

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST) + number)
}

/// Kernel memory of the whole machine, KiB: slab, page tables, kernel stacks, tmpfs.
#[derive(Clone, Copy, Debug)]
struct Kernel([u64; 4]);

impl Kernel {
    fn now() -> Result<Kernel> {
        let of = |name| kib_of("/proc/meminfo", name).with_context(|| format!("no {name} in /proc/meminfo"));
        Ok(Kernel([of("Slab")?, of("PageTables")?, of("KernelStack")?, of("Shmem")?]))
    }

    /// KiB per sandbox that this is more than before.
    fn each(self, before: Kernel, count: u32) -> [f64; 4] {
        let mut each = [0.0; 4];
        for ((each, now), then) in each.iter_mut().zip(self.0).zip(before.0) {
            *each = (now as f64 - then as f64) / f64::from(count);
        }
        each
    }
}

/// Sends everything that an agent would have written, without waiting for the answers.
fn equip(built: &Built, address: Ipv4Addr) -> Result<()> {
    let keys = Keys::generate()?;
    let user = "grid".parse()?;
    let sshd_config = render::ssh::sshd_config(&user, address, &Variables::new());
    let public = render::ssh::public_key_file(keys.user.public());
    let files: [(FileId, &[u8]); FILES] = [
        (FileId::HostKey, keys.host.private()),
        (FileId::SshdConfig, sshd_config.as_bytes()),
        (FileId::UserKey, keys.user.private()),
        (FileId::UserKeyPublic, public.as_bytes()),
        (FileId::AuthorizedKeys, public.as_bytes()),
    ];
    for (file, content) in files {
        let content = memory_file(content)?;
        channel::send(
            &built.init,
            &Request::PutFile { file }.encode(),
            &[std::os::fd::AsFd::as_fd(&content)],
        )?;
    }
    channel::send(&built.init, &Request::Listen.encode(), &[])?;
    Ok(())
}

fn equipped(built: &Built) -> Result<()> {
    for _ in 0..=FILES {
        match built.next()? {
            Notice::Done => (),
            other => bail!("init answered {other:?}"),
        }
    }
    Ok(())
}

/// Builds some, one after the other, and writes their keys. Seconds until the last was built,
/// and until its sshd could be called.
fn build(bed: &Bed, all: &mut Vec<Built>, first: u32, count: u32) -> Result<Vec<f64>> {
    let begin = Instant::now();
    let mut built_after = Duration::ZERO;
    for number in first..first + count {
        let built = Built::build(&bed.plan(Driver::Macvlan, address(number))?)?;
        equip(&built, address(number))?;
        all.push(built);
        built_after = begin.elapsed();
    }
    all.iter().try_for_each(equipped)?;
    Ok(vec![built_after.as_secs_f64(), begin.elapsed().as_secs_f64()])
}

/// The program `builder`: stands for the monitors of some of the node's NodeManagers.
pub fn builder(bed: &Path) -> Result<()> {
    let bed = Bed::at(bed);
    let mut all = Vec::new();
    // A monitor has few descriptors; this one has those of many.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")?;
    helper::serve(|words| match words {
        ["build", first, count] => build(&bed, &mut all, first.parse()?, count.parse()?),
        ["introduce"] => introduce(&all).map(|()| vec![]),
        ["memory"] => {
            let inits = all.iter().map(of_init).collect::<Result<Vec<_>>>()?;
            let sum = |of: fn(&(u64, u64)) -> u64| inits.iter().map(of).sum::<u64>() as f64;
            Ok(vec![sum(|init| init.0), sum(|init| init.1)])
        }
        ["end"] => end(std::mem::take(&mut all)).map(|()| vec![]),
        other => bail!("{other:?}"),
    })
}

/// The order to all, then all their answers.
fn everybody(builders: &mut [Helper], order: impl Fn(usize) -> String) -> Result<Vec<Vec<f64>>> {
    for (number, builder) in builders.iter_mut().enumerate() {
        builder.tell(&order(number))?;
    }
    builders.iter_mut().map(Helper::answer).collect()
}

/// The far machine as a permanent neighbour inside each: entries that are learned would fill the
/// machine's one table.
fn introduce(all: &[Built]) -> Result<()> {
    let here = File::open("/proc/self/ns/net")?;
    for built in all {
        let there = File::open(format!("/proc/{}/ns/net", built.pid()?))?;
        setns(&there, CloneFlags::CLONE_NEWNET)?;
        let inside = Netlink::open();
        setns(&here, CloneFlags::CLONE_NEWNET)?;
        let inside = inside?;
        let index = inside.index_of("eth0")?.context("no eth0 inside")?;
        let mut batch = Batch::default();
        let mut fixed = [0; 12];
        fixed[0] = 2; // AF_INET
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[8..10].copy_from_slice(&0x80u16.to_ne_bytes()); // NUD_PERMANENT
        // RTM_NEWNEIGH; NLM_F_CREATE | NLM_F_REPLACE; NDA_DST, NDA_LLADDR.
        let attributes = [attribute(1, &[&far::ADDRESS.octets()]), attribute(2, &[&far::MAC])];
        batch.request(28, 0x500, &fixed, &attributes);
        inside.run(&batch).context("cannot add a neighbour")?;
    }
    Ok(())
}

/// KiB of one init that are its own: proportional share, and private pages.
fn of_init(built: &Built) -> Result<(u64, u64)> {
    let file = format!("/proc/{}/smaps_rollup", built.pid()?);
    let of = |name| kib_of(&file, name).with_context(|| format!("no {name} in {file}"));
    Ok((of("Pss")?, of("Private_Clean")? + of("Private_Dirty")?))
}

/// MAC addresses that the node's interface listens to: one of every macvlan that is still there.
fn links() -> Result<usize> {
    let output = Command::new("bridge").args(["fdb", "show", "dev", NODE_LINK]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with("02:47:")).count())
}

/// Kills all, as the end of as many Launchers would, and waits until they are dead.
fn end(all: Vec<Built>) -> Result<()> {
    for built in &all {
        kill(Pid::from_raw(built.pid()?), Signal::SIGKILL)?;
    }
    all.into_iter().try_for_each(Built::tear_down)
}

/// One round: all up, all asked, all gone.
struct Round {
    built: Duration,
    up: Duration,
    introduced: Duration,
    answered: far::Answered,
    answered_again: far::Answered,
    dead: Duration,
    gone: Duration,
    kernel: [f64; 4],
    pss: f64,
    private: f64,
}

fn round(builders: &mut [Helper], far: &mut Far, count: u32) -> Result<Round> {
    let share = |number: usize| {
        let from = |number: usize| (u64::from(count) * number as u64 / builders.len() as u64) as u32;
        (from(number), from(number + 1) - from(number))
    };
    let shares: Vec<(u32, u32)> = (0..builders.len()).map(share).collect();
    let before = Kernel::now()?;
    let begin = Instant::now();
    let times = everybody(builders, |number| format!("build {} {}", shares[number].0, shares[number].1))?;
    let up = begin.elapsed();
    let built = times.iter().filter_map(|times| times.first().copied()).fold(0.0, f64::max);
    // The kernel frees and counts in the background.
    std::thread::sleep(Duration::from_millis(500));
    let kernel = Kernel::now()?.each(before, count);
    let memory = everybody(builders, |_| "memory".into())?;
    let mean = |part: usize| memory.iter().map(|sums| sums[part]).sum::<f64>() / f64::from(count);
    let (pss, private) = (mean(0), mean(1));
    let begin = Instant::now();
    everybody(builders, |_| "introduce".into())?;
    let introduced = begin.elapsed();
    ensure!(links()? == count as usize, "{} links of {count} are seen on the node", links()?);
    let answered = far.ask(FIRST, count)?;
    let answered_again = far.ask(FIRST, count)?;
    let begin = Instant::now();
    everybody(builders, |_| "end".into())?;
    let dead = begin.elapsed();
    while links()? > 0 {
        ensure!(begin.elapsed() < FORGET_TIME, "{} links are left", links()?);
        std::thread::sleep(Duration::from_millis(5));
    }
    let gone = begin.elapsed();
    let built = Duration::try_from_secs_f64(built)?;
    Ok(Round { built, up, introduced, answered, answered_again, dead, gone, kernel, pss, private })
}

/// Measures and prints. `at_once` processes build beside each other.
pub fn run(count: u32, at_once: usize, rounds: usize) -> Result<String> {
    ensure!((1..=10_000).contains(&count), "between 1 and 10000 sandboxes");
    ensure!((1..=64).contains(&at_once), "between 1 and 64 build at once");
    let bed = Bed::make()?;
    own_network()?;
    let mut far = Far::start()?;
    ip(&[
        format!("link add {NODE_LINK} type veth peer name {} netns {}", far::LINK, far.pid()),
        format!("link set {NODE_LINK} up"),
    ])?;
    far.plug_in(FIRST, count)?;
    let directory = bed.directory().to_str().context("the directory's name is not text")?;
    let mut builders =
        (0..at_once).map(|_| Helper::start(&["builder", directory])).collect::<Result<Vec<_>>>()?;
    let all = (0..rounds).map(|_| round(&mut builders, &mut far, count)).collect::<Result<Vec<_>>>()?;
    drop(builders);
    Ok(show(&all, count, at_once))
}

/// One time of a round.
type Part = fn(&Round) -> Duration;

fn show(all: &[Round], count: u32, at_once: usize) -> String {
    let seconds = |of: Part| {
        let mut times: Vec<Duration> = all.iter().map(of).collect();
        let middle = super::median(&mut times);
        [middle, times[0], times[times.len() - 1]].map(|time| format!("{:.2}", time.as_secs_f64()))
    };
    let mut rows = vec![row([&format!("{count} sandboxes at once"), "median s", "min s", "max s", "aim s"])];
    let times: [(&str, Part, &str); 7] = [
        ("all built (address, overlay root, init serves)", |r| r.built, ""),
        ("all up: also keys made and written, port 22 open", |r| r.up, "2.5"),
        ("  permanent neighbour entry in each (not counted)", |r| r.introduced, ""),
        ("all answer ssh (banner of a fresh `sshd -i` each)", |r| r.answered.all, "10"),
        ("  the slowest one's answer", |r| r.answered.worst, ""),
        ("  the same a second time", |r| r.answered_again.all, ""),
        ("all processes gone", |r| r.dead, "1"),
    ];
    for (name, of, aim) in times {
        let [middle, min, max] = seconds(of);
        rows.push(vec![name.into(), middle, min, max, aim.into()]);
    }
    let [middle, min, max] = seconds(|r| r.gone);
    rows.push(vec!["all links gone as well".into(), middle, min, max, "1".into()]);
    // The most of all rounds: later ones find slabs that the kernel has kept.
    let kib = |of: &dyn Fn(&Round) -> f64| format!("{:.0}", all.iter().map(of).fold(0.0, f64::max));
    let mut memory = vec![row(["memory of an idle sandbox", "KiB", "aim KiB"])];
    let mut add = |name: &str, of: &dyn Fn(&Round) -> f64, aim: &str| {
        memory.push(vec![name.into(), kib(of), aim.into()]);
    };
    add("init: proportional share (PSS)", &|r| r.pss, "");
    add("init: private pages", &|r| r.private, "");
    for (number, name) in ["slab", "page tables", "kernel stacks", "tmpfs: keys and files"].iter().enumerate()
    {
        add(&format!("kernel: {name}"), &|r| r.kernel[number], "");
    }
    add("sum of PSS and kernel", &|r| r.pss + r.kernel.iter().sum::<f64>(), "1024");
    let rounds = all.len();
    format!(
        "{rounds} rounds, {at_once} processes build beside each other.\n\n{}\n{}",
        table(&rows),
        table(&memory)
    )
}
