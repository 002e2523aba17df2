//! What a pilot costs while nothing runs in it: processor time and wakeups of its programs on the
//! node, and what it adds to the CRM and the GRC; memory of its programs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::usage::{Usage, part_of_pilot, pss_kib};
use super::{middle, row, table};
use crate::netns::site_name;
use crate::process::{Identity, run, wait_until};
use crate::world::Grid;

/// A node of a local grid takes so many pilots, each of another reservation.
pub const PILOTS_OF_A_NODE: u32 = 4;
/// After a reservation is ready: what its start has set going comes to rest.
const REST_TIME: Duration = Duration::from_secs(3);
/// How long the last pilot may take to go.
const GONE_TIME: Duration = Duration::from_secs(30);
const PARTS: [&str; 4] = ["launcher", "monitor", "agent", "init"];
const DAEMONS: [(&str, &str); 2] = [("CRM", "crm-a"), ("GRC", "grc")];

/// Processes by what they are.
type Processes = BTreeMap<&'static str, Vec<Identity>>;

/// One number of pilots: what each program used, window by window, and its memory.
struct Level {
    pilots: u32,
    windows: Vec<BTreeMap<&'static str, Usage>>,
    /// How long each window was.
    lengths: Vec<Duration>,
    pss_kib: BTreeMap<&'static str, u64>,
}

impl Level {
    /// The middle window's, scaled to a minute.
    fn a_minute(&self, program: &str, of: impl Fn(&Usage) -> f64) -> f64 {
        let each = self.windows.iter().zip(&self.lengths);
        let scaled =
            each.map(|(used, length)| used.get(program).map_or(0.0, &of) * 60.0 / length.as_secs_f64());
        middle(&scaled.collect::<Vec<_>>())
    }

    fn cpu_ms(&self, program: &str) -> f64 {
        self.a_minute(program, |used| used.cpu.as_secs_f64() * 1e3)
    }

    fn wakeups(&self, program: &str) -> f64 {
        self.a_minute(program, |used| used.wakeups as f64)
    }

    fn pss(&self, program: &str) -> f64 {
        self.pss_kib.get(program).copied().unwrap_or(0) as f64
    }

    /// For each pilot; of a daemon, what it is more than with no pilot.
    fn each(&self, none: &Self, of: impl Fn(&Self) -> f64) -> f64 {
        (of(self) - of(none)) / f64::from(self.pilots.max(1))
    }
}

/// Reservations that have so many pilots in all at each site, ready.
pub fn reserve(grid: &Grid, pilots: u32, of_one: u32) -> Result<Vec<String>> {
    let sites: Vec<String> = (0..grid.state.plan.sites).map(site_name).collect();
    let mut reservations = Vec::new();
    let mut left = pilots;
    while left > 0 {
        let members = left.min(of_one);
        let nodes = sites.iter().map(|site| format!("{site}={members}")).collect::<Vec<_>>().join(",");
        let words = ["--output-mode", "quiet", "reserve", "--wait", "--time", "1h", "--nodes", &nodes];
        reservations.push(run(grid.gridpilot_as_user()?.args(words))?.trim().to_owned());
        left -= members;
    }
    Ok(reservations)
}

/// Gives them back and waits until no pilot is left.
pub fn release(grid: &Grid, reservations: &[String]) -> Result<()> {
    for reservation in reservations {
        run(grid.gridpilot_as_user()?.args(["release", reservation]))?;
    }
    ensure!(wait_until(GONE_TIME, || grid.pilot_processes().is_empty()), "pilots are left");
    Ok(())
}

fn processes(grid: &Grid, pilots: u32) -> Result<Processes> {
    let mut found = Processes::new();
    for stat in grid.pilot_processes() {
        if let Some(part) = part_of_pilot(stat.identity) {
            found.entry(part).or_default().push(stat.identity);
        }
    }
    for part in PARTS {
        let count = found.get(part).map_or(0, Vec::len);
        ensure!(count == pilots as usize, "{count} processes are a pilot's {part}, of {pilots} pilots");
    }
    for (name, daemon) in DAEMONS {
        found.insert(name, vec![grid.state.daemon(daemon)?.identity]);
    }
    Ok(found)
}

fn read(processes: &Processes) -> Result<BTreeMap<&'static str, Usage>> {
    processes.iter().map(|(name, processes)| Ok((*name, Usage::of(processes)?))).collect()
}

fn level(grid: &Grid, pilots: u32, rounds: usize, window: Duration) -> Result<Level> {
    let reservations = reserve(grid, pilots, grid.state.plan.nodes)?;
    std::thread::sleep(REST_TIME);
    let processes = processes(grid, pilots)?;
    let (mut windows, mut lengths) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (begin, before) = (Instant::now(), read(&processes)?);
        std::thread::sleep(window);
        let after = read(&processes)?;
        lengths.push(begin.elapsed());
        windows.push(after.into_iter().map(|(name, used)| (name, used.since(before[name]))).collect());
    }
    let pss_kib = processes.iter().map(|(name, all)| Ok((*name, pss_kib(all)?))).collect::<Result<_>>()?;
    release(grid, &reservations)?;
    Ok(Level { pilots, windows, lengths, pss_kib })
}

/// Measures and prints. `grid` must be idle, of one site, with nodes enough for `most` pilots.
pub fn run_in(grid: &Grid, few: u32, most: u32, rounds: usize, window: Duration) -> Result<String> {
    let room = grid.state.plan.nodes * PILOTS_OF_A_NODE;
    ensure!((1..=most).contains(&few) && most <= room, "between 1 and {room} pilots");
    ensure!(rounds > 0, "at least one round");
    let [none, few, most] = [0, few, most]
        .map(|pilots| level(grid, pilots, rounds, window).with_context(|| format!("with {pilots} pilots")));
    Ok(show(&none?, &few?, &most?, grid.state.plan.lease_s))
}

fn show(none: &Level, few: &Level, most: &Level, lease_s: Option<u32>) -> String {
    let levels = [none, few, most];
    let with = |level: &Level| match level.pilots {
        0 => "none".to_owned(),
        pilots => format!("{pilots} pilots"),
    };
    let [_, some, many] = levels.map(with);
    let mut each = vec![vec![
        "an idle pilot, per minute".into(),
        format!("CPU ms, {some}"),
        format!("CPU ms, {many}"),
        format!("wakeups, {many}"),
    ]];
    let mut add = |name: String, programs: &[&str]| {
        let sum = |level: &Level, of: fn(&Level, &str) -> f64| {
            level.each(none, |level| programs.iter().map(|program| of(level, program)).sum())
        };
        each.push(vec![
            name,
            format!("{:.2}", sum(few, Level::cpu_ms)),
            format!("{:.2}", sum(most, Level::cpu_ms)),
            format!("{:.0}", sum(most, Level::wakeups)),
        ]);
    };
    add("on the node".into(), &PARTS);
    PARTS.iter().for_each(|part| add(format!("  {part}"), &[part]));
    DAEMONS.iter().for_each(|(name, _)| add(format!("more at the {name}"), &[name]));
    let mut memory = vec![row(["memory of an idle pilot, KiB (PSS)", &some, &many])];
    let mut add = |name: String, programs: &[&str]| {
        let sum = |level: &Level| {
            let of = |level: &Level| programs.iter().map(|program| level.pss(program)).sum();
            format!("{:.0}", level.each(none, of))
        };
        memory.push(vec![name, sum(few), sum(most)]);
    };
    add("on the node".into(), &PARTS);
    PARTS.iter().for_each(|part| add(format!("  {part}"), &[part]));
    DAEMONS.iter().for_each(|(name, _)| add(format!("more at the {name}"), &[name]));
    let mut whole = vec![row(["a whole daemon, CPU ms per minute (wakeups)", "none", &some, &many])];
    for (name, _) in DAEMONS {
        let cells = levels.map(|level| format!("{:.1} ({:.0})", level.cpu_ms(name), level.wakeups(name)));
        whole.push([vec![name.to_owned()], cells.to_vec()].concat());
    }
    let lease = lease_s.map_or("a CRM's own".to_owned(), |lease_s| format!("{lease_s} s"));
    let window = middle(&most.lengths.iter().map(Duration::as_secs_f64).collect::<Vec<_>>());
    format!(
        "Medians of {} windows of {window:.0} s; the lease is {lease}.\n\n{}\n{}\n{}",
        most.windows.len(),
        table(&each),
        table(&memory),
        table(&whole)
    )
}
