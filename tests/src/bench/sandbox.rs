//! One sandbox with one address: created, `/bin/true` run inside, gone; against bare fork/exec of
//! `/bin/true` and against neighbours, all in turn.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use grant::Driver;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::bed::{Bed, Built, NODE_LINK, ip, own_network};
use super::{fine_ms, median, ratio, row, spread, table};

const TRUE: &str = "/bin/true";

/// What is measured: one row of the table each. The first is the reference.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Contestant {
    Fork,
    Spawn,
    Ours,
    OursVeth,
    OursProgram,
    Bubblewrap,
    Crun,
}

impl Contestant {
    const ALL: [Contestant; 7] = [
        Self::Fork,
        Self::Spawn,
        Self::Ours,
        Self::OursVeth,
        Self::OursProgram,
        Self::Bubblewrap,
        Self::Crun,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork, exec, wait",
            Self::Spawn => "the same by posix_spawn (vfork)",
            Self::Ours => "gridpilot, macvlan, from the standing monitor",
            Self::OursVeth => "gridpilot, veth, until its pair is gone",
            Self::OursProgram => "gridpilot, macvlan, as a program started for it",
            Self::Bubblewrap => "bubblewrap --unshare-all (no address)",
            Self::Crun => "crun, cgroups disabled (no address)",
        }
    }

    /// The program that must be there.
    fn needs(self) -> Option<&'static str> {
        match self {
            Self::Bubblewrap => Some("bwrap"),
            Self::Crun => Some("crun"),
            _ => None,
        }
    }
}

/// A different address for every sandbox: the kernel takes its time with the last one's link.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 70, 1, 0)) + number)
}

fn network() -> Result<()> {
    own_network()?;
    ip(&[
        format!("link add {NODE_LINK} type veth peer name far0"),
        format!("link set {NODE_LINK} up"),
        "link set far0 up".into(),
    ])
}

/// Builds, runs, tears down; the three times.
fn whole(bed: &Bed, driver: Driver, number: u32) -> Result<[Duration; 3]> {
    let begin = Instant::now();
    let built = Built::build(&bed.plan(driver, address(number))?)?;
    let created = begin.elapsed();
    let null = fs::File::options().write(true).open("/dev/null")?;
    built.run(1, &[TRUE], &null)?;
    let ran = begin.elapsed();
    built.tear_down()?;
    Ok([created, ran - created, begin.elapsed() - ran])
}

/// What the program `one` does: a whole sandbox in a process of its own. The caller has made the
/// node's interface and the home.
pub fn one(bed: &Path, number: u32) -> Result<()> {
    let bed = Bed::at(bed);
    whole(&bed, Driver::Macvlan, number).map(drop)
}

fn wait(mut command: Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// A bundle for crun: all namespaces, the root of the machine read-only. Lies below `/run`, which
/// no sandbox of ours looks into.
struct Bundle(PathBuf);

impl Bundle {
    fn make() -> Result<Bundle> {
        let bundle = Bundle(PathBuf::from(format!("/run/gridpilot-bench-{}", std::process::id())));
        fs::create_dir_all(bundle.0.join("rootfs"))?;
        // Only in the mount namespace of this process: crun wants a plain cgroup2 to look at, and
        // a root that is not `/`.
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
        mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), none)?;
        mount(Some("/"), &bundle.0.join("rootfs"), none, MsFlags::MS_BIND, none)?;
        let kinds = ["pid", "network", "ipc", "uts", "mount"].map(|kind| serde_json::json!({"type": kind}));
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "cwd": "/", "args": [TRUE], "env": ["PATH=/usr/bin:/bin"],
                "user": {"uid": 65534, "gid": 65534}, "noNewPrivileges": true,
            },
            "root": {"path": "rootfs", "readonly": true},
            "hostname": "a-0",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            ],
            "linux": {"namespaces": kinds},
        });
        fs::write(bundle.0.join("config.json"), config.to_string())?;
        Ok(bundle)
    }

    fn command(&self, number: u32) -> Command {
        let mut command = Command::new("crun");
        command.arg("--cgroup-manager=disabled").arg("--root").arg(self.0.join("state"));
        command.args(["run", "--bundle"]).arg(&self.0);
        command.arg(format!("gridpilot-bench-{}-{number}", std::process::id()));
        command
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0.join("rootfs"), nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bubblewrap() -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]);
    command.args(["--tmpfs", "/tmp", TRUE]);
    command
}

/// What a contestant's samples took: of the clock, and of the processors (its own processes and
/// this one, not the kernel's work behind them).
struct Row {
    contestant: Contestant,
    times: Vec<Duration>,
    cpu: Vec<Duration>,
}

impl Row {
    fn new(contestant: Contestant) -> Row {
        Row { contestant, times: vec![], cpu: vec![] }
    }
}

/// Processor time of this process and of all that it has waited for.
fn cpu_time() -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        for time in [usage.user_time(), usage.system_time()] {
            sum += Duration::from_micros(time.num_microseconds().unsigned_abs());
        }
    }
    Ok(sum)
}

/// Version of a neighbour, if it is installed.
fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.lines().next()?.to_owned())
}

/// Measures and prints; every contestant once in each round.
pub fn run(rounds: usize) -> Result<String> {
    let bed = Bed::make()?;
    network()?;
    let bundle = Bundle::make()?;
    let own = std::env::current_exe()?;
    let mut notes = Vec::new();
    let mut present = Vec::new();
    for contestant in Contestant::ALL {
        match contestant.needs().map(|program| (program, version(program))) {
            Some((program, None)) => notes.push(format!("{program} is not installed: not measured.")),
            Some((_, Some(version))) => {
                notes.push(format!("{version}."));
                present.push(Row::new(contestant));
            }
            None => present.push(Row::new(contestant)),
        }
    }
    let mut phases: [Vec<Duration>; 3] = Default::default();
    let mut number = 0;
    // The first round warms every cache and does not count.
    for round in 0..=rounds {
        for Row { contestant, times, cpu } in &mut present {
            number += 1;
            let mut phase = None;
            let cpu_before = cpu_time()?;
            let begin = Instant::now();
            match contestant {
                Contestant::Fork => {
                    let mut command = Command::new(TRUE);
                    // A set uid makes the library fork.
                    command.uid(0);
                    wait(command)?;
                }
                Contestant::Spawn => wait(Command::new(TRUE))?,
                Contestant::Ours => phase = Some(whole(&bed, Driver::Macvlan, number)?),
                Contestant::OursVeth => drop(whole(&bed, Driver::Veth, number)?),
                Contestant::OursProgram => {
                    let mut command = Command::new(&own);
                    command.arg("one").arg(bed.directory()).arg(number.to_string());
                    wait(command)?;
                }
                Contestant::Bubblewrap => wait(bubblewrap())?,
                Contestant::Crun => wait(bundle.command(number))?,
            }
            if round > 0 {
                times.push(begin.elapsed());
                cpu.push(cpu_time()?.saturating_sub(cpu_before));
                for (all, one) in phases.iter_mut().zip(phase.iter().flatten()) {
                    all.push(*one);
                }
            }
        }
    }
    let head = ["/bin/true in", "median ms", "min ms", "max ms", "CPU ms", "ratio", "of min", "of CPU"];
    let mut rows = vec![row(head)];
    let least = |times: &[Duration]| times.iter().min().copied().unwrap_or_default().as_secs_f64();
    let reference = &present[0];
    for Row { contestant, times, cpu } in &present {
        let [middle, min, max] = spread(times);
        let mut cells = vec![contestant.name().into(), middle, min, max, fine_ms(median(&mut cpu.clone()))];
        let of_min = least(times) / least(&reference.times);
        let ratios = [ratio(times, &reference.times), of_min, ratio(cpu, &reference.cpu)];
        cells.extend(ratios.map(|ratio| format!("{ratio:.2}")));
        rows.push(cells);
    }
    for (name, times) in ["  of ours: create", "  of ours: /bin/true", "  of ours: gone"].iter().zip(&phases)
    {
        let [middle, min, max] = spread(times);
        rows.push(vec![(*name).into(), middle, min, max]);
    }
    Ok(format!("{rounds} rounds, each in turn.\n\n{}\n{}\n", table(&rows), notes.join(" ")))
}
