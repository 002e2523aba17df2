//! Which limits of the sandbox were hit while a command ran, and how large they are.
//!
//! The kernel counts in the sandbox's cgroup, which everybody may read. The agent finds it by
//! itself: it is below the one that agent and monitor are in, and ends with the monitor's pid.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use node_manager::init::record::Full;
use node_manager::sandbox::cgroup;
use protocol::job::Hits;

/// A file of the kernel's with a counter in it, and the limit that it is about.
#[derive(Debug)]
struct Counter {
    file: File,
    name: &'static str,
    limit: u64,
}

/// The counters of one sandbox; empty where it has no limits.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    memory: Option<Counter>,
    pids: Option<Counter>,
}

/// How far the counters are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    killed: u64,
    refused: u64,
}

/// Counter and limit: file, name in it, file of the limit. Version 1 and 2 of cgroups.
const MEMORY: [[&str; 3]; 2] = [
    ["memory.oom_control", "oom_kill", "memory.limit_in_bytes"],
    ["memory.events", "oom_kill", "memory.max"],
];
const PIDS: [[&str; 3]; 1] = [["pids.events", "max", "pids.max"]];

impl Counters {
    /// Those of the sandbox of this monitor.
    pub fn of(monitor: u32) -> Self {
        let ends = format!("-{monitor}");
        let ours = |name: &str| name.starts_with(cgroup::DIRECTORY_PREFIX) && name.ends_with(&ends);
        let below = cgroup::places().into_iter().flat_map(|place| fs::read_dir(place).into_iter().flatten());
        let found = below.flatten().filter(|entry| entry.file_name().to_str().is_some_and(ours));
        Self::open(&found.map(|entry| entry.path()).collect::<Vec<_>>())
    }

    /// Those in these directories of the sandbox's. What cannot be read is not watched.
    pub fn open(directories: &[PathBuf]) -> Self {
        let find = |kinds: &'static [[&'static str; 3]]| {
            let pairs =
                directories.iter().flat_map(|directory| kinds.iter().map(move |kind| (directory, kind)));
            pairs.filter_map(|(directory, kind)| Counter::open(directory, kind)).next()
        };
        Self(Arc::new(Inner { memory: find(&MEMORY), pids: find(&PIDS) }))
    }

    /// How far they are now.
    pub fn look(&self) -> Seen {
        let read = |counter: &Option<Counter>| counter.as_ref().and_then(Counter::read).unwrap_or(0);
        Seen { killed: read(&self.0.memory), refused: read(&self.0.pids) }
    }

    /// What was hit since `before`; `full` is how full the disk was meanwhile.
    pub fn hits(&self, before: Seen, full: Full) -> Hits {
        let now = self.look();
        let since = |now: u64, before: u64| u32::try_from(now.saturating_sub(before)).unwrap_or(u32::MAX);
        let limit = |counter: &Option<Counter>| counter.as_ref().map_or(0, |counter| counter.limit);
        let mut hits = Hits {
            out_of_memory: since(now.killed, before.killed),
            processes_refused: since(now.refused, before.refused),
            disk_full: full.bytes > 0,
            files_full: full.files > 0,
            disk_bytes: full.bytes,
            files: full.files,
            ..Hits::default()
        };
        if hits.out_of_memory > 0 {
            hits.memory_bytes = limit(&self.0.memory);
        }
        if hits.processes_refused > 0 {
            hits.pids = u32::try_from(limit(&self.0.pids)).unwrap_or(u32::MAX);
        }
        hits
    }
}

impl Counter {
    /// Nothing where there is no such file, or no limit.
    fn open(directory: &Path, [file, name, limit]: &[&'static str; 3]) -> Option<Self> {
        let limit = fs::read_to_string(directory.join(limit)).ok()?.trim().parse().ok()?;
        Some(Self { file: File::open(directory.join(file)).ok()?, name, limit })
    }

    /// The number behind its name. The kernel makes the file anew for every read from its start.
    fn read(&self) -> Option<u64> {
        let mut buffer = [0; 512];
        let length = self.file.read_at(&mut buffer, 0).ok()?;
        let text = std::str::from_utf8(&buffer[..length]).ok()?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(name, _)| *name == self.name)?.1.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, text: &str) {
        fs::write(directory.join(name), text).unwrap();
    }

    #[test]
    fn both_versions_of_cgroups_name_what_was_hit_since_the_command_began() {
        for [events, before, after, limit] in [
            [
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
                "oom_kill_disable 0\nunder_oom 1\noom_kill 3\n",
                "memory.limit_in_bytes",
            ],
            ["memory.events", "low 0\noom 4\noom_kill 1\n", "low 0\noom 9\noom_kill 3\n", "memory.max"],
        ] {
            let [memory, pids] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            write(memory.path(), events, before);
            write(memory.path(), limit, "536870912\n");
            write(pids.path(), "pids.events", "max 5\n");
            write(pids.path(), "pids.max", "64\n");
            let counters = Counters::open(&[pids.path().to_owned(), memory.path().to_owned()]);
            let seen = counters.look();
            assert!(counters.hits(seen, Full::default()).is_none());
            write(memory.path(), events, after);
            write(pids.path(), "pids.events", "max 45\n");
            let hits = counters.hits(seen, Full { bytes: 1 << 20, files: 0 });
            let wanted = Hits {
                out_of_memory: 2,
                processes_refused: 40,
                disk_full: true,
                memory_bytes: 536_870_912,
                pids: 64,
                disk_bytes: 1 << 20,
                ..Hits::default()
            };
            assert_eq!(hits, wanted, "{events}");
        }
    }

    #[test]
    fn without_limits_only_the_disk_is_watched() {
        let counters = Counters::open(&[PathBuf::from("/nowhere")]);
        let hits = counters.hits(counters.look(), Full { bytes: 0, files: 9 });
        assert_eq!(hits, Hits { files_full: true, files: 9, ..Hits::default() });
    }
}
