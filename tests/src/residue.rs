//! What a pilot leaves behind, counted by identity and not by number: totals move whenever
//! anything else on the machine does.
//!
//! [`Residue::before`] notes what the grid's machines look like without pilots;
//! [`Residue::observe`] notes, any number of times, what pilots have now; [`Residue::left`]
//! says what of it is still there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::node::Machine;
use crate::process::{self, Identity, run, wait_until};
use crate::world::Grid;

/// The promise: so long after a death nothing is left.
pub const GONE_TIME: Duration = Duration::from_secs(10);

/// Things that outlive a process if they are forgotten.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ground {
    /// `machine: link` of every machine of the grid.
    links: BTreeSet<String>,
    /// `machine: mount point and root` of every machine of the grid.
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    /// Hidden files in the account's home, and the grid's directory, logs and job output aside.
    files: BTreeSet<PathBuf>,
}

impl Ground {
    /// What is here and was not before, or the other way round, one line each.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        let mut left = Vec::new();
        left.extend(self.links.difference(&before.links).map(|link| format!("link {link}")));
        left.extend(before.links.difference(&self.links).map(|link| format!("lost link {link}")));
        left.extend(self.mounts.difference(&before.mounts).map(|mount| format!("mount {mount}")));
        left.extend(before.mounts.difference(&self.mounts).map(|mount| format!("lost mount {mount}")));
        left.extend(self.cgroups.difference(&before.cgroups).map(|dir| format!("cgroup {}", dir.display())));
        left.extend(self.files.difference(&before.files).map(|file| format!("file {}", file.display())));
        left
    }
}

/// Before and meanwhile.
#[derive(Debug)]
pub struct Residue {
    before: Ground,
    /// Namespaces of the machines and of the host: nobody's residue.
    standing: BTreeSet<String>,
    processes: BTreeSet<Identity>,
    namespaces: BTreeSet<String>,
}

impl Residue {
    /// To be taken while no pilot lives.
    pub fn before(grid: &Grid) -> Result<Self> {
        let pilots = grid.pilot_processes();
        ensure!(pilots.is_empty(), "pilots live already: {pilots:?}");
        let mut standing = namespaces_of(std::process::id() as i32);
        for machine in &grid.state.machines {
            standing.extend(namespaces_of(machine.holder.pid));
        }
        Ok(Self { before: ground(grid)?, standing, processes: BTreeSet::new(), namespaces: BTreeSet::new() })
    }

    /// Notes processes and namespaces of all pilots and of everything below them. Returns how
    /// many processes are known by now.
    pub fn observe(&mut self, grid: &Grid) -> usize {
        let mut roots: Vec<Identity> = grid.pilot_processes().iter().map(|stat| stat.identity).collect();
        roots.extend(grid.batch_processes());
        for identity in process::with_descendants(&roots) {
            let theirs = namespaces_of(identity.pid);
            self.namespaces.extend(theirs.difference(&self.standing).cloned());
            self.processes.insert(identity);
        }
        self.processes.len()
    }

    /// Whether anything in a namespace of its own was ever seen.
    pub fn saw_a_sandbox(&self) -> bool {
        self.namespaces.iter().any(|namespace| namespace.starts_with("net:"))
    }

    /// Everything that is there now and was not before, one line each.
    pub fn left(&self, grid: &Grid) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let mut alive: BTreeSet<Identity> = grid.pilot_processes().iter().map(|s| s.identity).collect();
        alive.extend(self.processes.iter().copied().filter(|process| process.alive()));
        alive.extend(grid.batch_processes());
        left.extend(alive.iter().map(|process| format!("process {}", process.describe())));
        left.extend(self.held_namespaces(grid));
        left.extend(ground(grid)?.beyond(&self.before));
        Ok(left)
    }

    /// Waits for at most [`GONE_TIME`] until nothing is left.
    ///
    /// # Errors
    /// What is left then, by name.
    pub fn expect_none(&self, grid: &Grid) -> Result<()> {
        let mut left = Vec::new();
        let clean = wait_until(GONE_TIME, || {
            left = self.left(grid).unwrap_or_else(|error| vec![format!("{error:#}")]);
            left.is_empty()
        });
        ensure!(clean, "left after {} s:\n  {}", GONE_TIME.as_secs(), left.join("\n  "));
        Ok(())
    }

    /// Namespaces of pilots that a process of this grid still lives in, holds open, or has
    /// mounted. Only those are asked: whoever lived in such a namespace died with its first
    /// process, and numbers of namespaces are used again by whoever makes the next.
    fn held_namespaces(&self, grid: &Grid) -> Vec<String> {
        let mut asked: BTreeSet<Identity> = self.processes.clone();
        asked.extend(grid.state.daemons.iter().map(|daemon| daemon.identity));
        asked.extend(grid.state.machines.iter().map(|machine| machine.holder));
        asked.extend(grid.pilot_processes().iter().map(|stat| stat.identity));
        let mut held = Vec::new();
        for identity in asked.into_iter().filter(|identity| identity.alive()) {
            let mut theirs = namespaces_of(identity.pid);
            theirs.extend(links_in(&format!("/proc/{}/fd", identity.pid)));
            theirs.extend(mounted_namespaces(identity.pid));
            for namespace in theirs.intersection(&self.namespaces) {
                held.push(format!("namespace {namespace} held by {}", identity.describe()));
            }
        }
        held
    }
}

fn links_in(directory: &str) -> BTreeSet<String> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        .filter(|target| target.contains(":["))
        .collect()
}

/// The namespaces that a process lives in, as `net:[4026531840]`.
pub fn namespaces_of(pid: i32) -> BTreeSet<String> {
    links_in(&format!("/proc/{pid}/ns"))
}

fn mounted_namespaces(pid: i32) -> BTreeSet<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    text.lines()
        .filter(|line| line.contains(" - nsfs "))
        .filter_map(|line| line.split(' ').nth(3).map(String::from))
        .collect()
}

/// Links and mounts of one machine.
pub fn machine_ground(machine: &Machine) -> Result<Ground> {
    let mut ground = Ground::default();
    let enter = machine.enter();
    let text = run(Command::new(&enter[0]).args(&enter[1..]).args(["ip", "-d", "-o", "link"]))?;
    for line in text.lines() {
        // "4: eth0@if3: <... promiscuity 0 ...": number and name are its identity. A macvlan
        // whose namespace nobody can see any more still shows as promiscuity of its parent.
        let link: String = line.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
        let promiscuity = line.split("promiscuity ").nth(1).and_then(|rest| rest.split(' ').next());
        ground.links.insert(format!("{}: {link} {}", machine.name, promiscuity.unwrap_or("?")));
    }
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", machine.holder.pid))?;
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if let [_, _, device, root, point, ..] = fields[..] {
            ground.mounts.insert(format!("{}: {point} ({device} {root})", machine.name));
        }
    }
    Ok(ground)
}

fn ground(grid: &Grid) -> Result<Ground> {
    let mut ground = Ground::default();
    for machine in &grid.state.machines {
        let of_machine = machine_ground(machine)?;
        ground.links.extend(of_machine.links);
        ground.mounts.extend(of_machine.mounts);
    }
    find_cgroups(Path::new("/sys/fs/cgroup"), 0, &mut ground.cgroups);
    // Another grid on this machine may have pilots of its own.
    let ours: BTreeSet<i32> = grid.pilot_processes().iter().map(|stat| stat.identity.pid).collect();
    ground.cgroups.retain(|directory| match monitor_of(directory) {
        Some(pid) => ours.contains(&pid) || process::stat(pid).is_none_or(|stat| stat.zombie),
        None => true,
    });
    let home = &grid.account()?.home;
    list(home, &mut ground.files);
    // Other files there are the user's. One thing a sandbox may make: the empty directory over
    // which its own ~/.ssh is mounted.
    ground.files.retain(|file| {
        let below = file.strip_prefix(home).unwrap_or(file);
        below.to_string_lossy().starts_with('.') && below != Path::new(".ssh")
    });
    for below in ["run", "etc", "lib"] {
        list(&grid.state.path(below), &mut ground.files);
    }
    Ok(ground)
}

/// The monitor whose sandbox a cgroup is of: its pid stands at the end of the name.
fn monitor_of(cgroup: &Path) -> Option<i32> {
    cgroup.file_name()?.to_str()?.rsplit('-').next()?.parse().ok()
}

/// Directories named `gridpilot-...` anywhere in the cgroup trees.
fn find_cgroups(directory: &Path, depth: u32, found: &mut BTreeSet<PathBuf>) {
    if depth > 8 {
        return;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with("gridpilot-") {
            found.insert(entry.path());
        }
        find_cgroups(&entry.path(), depth + 1, found);
    }
}

/// All paths below a directory, links not followed.
fn list(directory: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        found.insert(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), found);
        }
    }
}
