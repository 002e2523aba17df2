//! Limits. A directory with the sandbox's tag is made only for a limit, below the
//! cgroup that the monitor itself is in (v2: beside it), so that nothing leaves the batch system's.
//! v1 controllers where the node has them mounted, else v2. (Killing needs no cgroup:
//! the sandbox's first process takes all others with it.)

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::{At, Failure};
use crate::operation::Step::MakeCgroup;

/// Every directory of ours begins with this; the monitor's pid ends it.
pub const DIRECTORY_PREFIX: &str = "gridpilot-";
/// How long a directory may stay busy after its last process is dead.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
const CPU_PERIOD_US: u64 = 100_000;
/// What a batch system may have set on a v2 cgroup to keep a job in bounds.
const V2_LIMITS: [&str; 8] = [
    "memory.max",
    "memory.high",
    "memory.swap.max",
    "pids.max",
    "cpu.max",
    "cpuset.cpus",
    "cpuset.mems",
    "io.max",
];

/// What the sandbox may use of the node, by the kernel's name of the controller: bytes of
/// memory, processes, thousandths of a CPU.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub controller: &'static str,
    /// 0 = none.
    pub value: u64,
    /// Not to have it is a failure.
    pub required: bool,
}

/// The sandbox's directories; removed when dropped.
#[derive(Debug, Default)]
pub struct Cgroups {
    directories: Vec<PathBuf>,
    /// Open `cgroup.procs` of v1 directories: the sandbox's first process enters by itself.
    enter: Vec<File>,
    v2: Option<OwnedFd>,
}

/// A mounted hierarchy and the monitor's own place in it.
struct Hierarchy {
    /// Names of v1 controllers; empty for v2.
    controllers: Vec<String>,
    point: PathBuf,
    place: PathBuf,
}

impl Cgroups {
    /// Makes what the limits need; nothing for no limits.
    pub fn make(tag: &str, limits: &[Limit]) -> Result<Cgroups, Failure> {
        let mut made = Cgroups::default();
        let limits = limits.iter().filter(|limit| limit.value != 0);
        let hierarchies = if limits.clone().next().is_some() { hierarchies() } else { Vec::new() };
        for &Limit { controller, value, required } in limits {
            let outcome = made.limit(&hierarchies, tag, controller, value);
            if required {
                outcome.at(MakeCgroup, format_args!("the node cannot limit {controller}"))?;
            }
        }
        Ok(made)
    }

    fn limit(&mut self, all: &[Hierarchy], tag: &str, controller: &str, value: u64) -> std::io::Result<()> {
        let missing = || std::io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        let v1 = all.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller));
        let v2 = all.iter().find(|hierarchy| hierarchy.controllers.is_empty());
        let hierarchy = v1.or(v2).ok_or_else(missing)?;
        let base = hierarchy.base().ok_or_else(missing)?;
        // In a user's own directory he could move processes out of a limit.
        if fs::metadata(&base)?.uid() != 0 || v1.is_none() && !offers(&base, controller) {
            return Err(missing());
        }
        let directory = base.join(format!("{DIRECTORY_PREFIX}{tag}"));
        if !self.directories.contains(&directory) {
            fs::create_dir(&directory)?;
            self.prepare(&directory, v1.is_some()).inspect_err(|_| drop(fs::remove_dir(&directory)))?;
            self.directories.push(directory.clone());
        }
        let put = |file: &str, text: String| {
            OpenOptions::new().write(true).open(directory.join(file))?.write_all(text.as_bytes())
        };
        let quota = value * CPU_PERIOD_US / 1000;
        match (controller, v1.is_some()) {
            ("memory", true) => put("memory.limit_in_bytes", value.to_string()),
            ("memory", false) => put("memory.max", value.to_string()),
            ("pids", _) => put("pids.max", value.to_string()),
            (_, true) => put("cpu.cfs_quota_us", quota.to_string()),
            (_, false) => put("cpu.max", format!("{quota} {CPU_PERIOD_US}")),
        }
    }

    fn prepare(&mut self, directory: &Path, v1: bool) -> std::io::Result<()> {
        // The agent reads in it what was hit.
        fs::set_permissions(directory, Permissions::from_mode(0o755))?;
        if v1 {
            self.enter.push(OpenOptions::new().write(true).open(directory.join("cgroup.procs"))?);
        } else {
            // Of another type when something above it has both processes and limits.
            if fs::read_to_string(directory.join("cgroup.type"))?.trim() != "domain" {
                return Err(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP));
            }
            self.v2 = Some(File::open(directory)?.into());
        }
        Ok(())
    }

    /// The v2 directory to clone into, if there is one.
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(|fd| fd.as_fd())
    }

    /// Moves the calling process into the v1 directories.
    pub fn enter(&self) -> std::io::Result<()> {
        self.enter.iter().try_for_each(|mut file| file.write_all(b"0"))
    }

    /// Removes the directories; their processes must be dead. Names one that stays.
    pub fn remove(&mut self) -> Result<(), String> {
        let start = Instant::now();
        while let Some(directory) = self.directories.last() {
            match fs::remove_dir(directory) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && start.elapsed() < BUSY_TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(format!("cgroup {}: {error}", directory.display()));
                }
                _ => drop(self.directories.pop()),
            }
        }
        Ok(())
    }
}

impl Drop for Cgroups {
    /// Of a sandbox that was never started, or whose processes did not die: there is nothing to wait for.
    fn drop(&mut self) {
        for directory in &self.directories {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Below which directories those of the caller's sandbox are; for the agent.
pub fn places() -> Vec<PathBuf> {
    hierarchies().iter().filter_map(Hierarchy::base).collect()
}

/// Where the hierarchies are mounted, for the sweep.
pub fn roots() -> Vec<PathBuf> {
    hierarchies().into_iter().map(|hierarchy| hierarchy.point).collect()
}

/// Whether children of a v2 cgroup may have the controller, switched on if need be. With processes
/// of its own in it (the root may have them) that would make its children useless.
fn offers(place: &Path, controller: &str) -> bool {
    let read = |file: &str| fs::read_to_string(place.join(file)).unwrap_or_default();
    let has = |file: &str| read(file).split_whitespace().any(|name| name == controller);
    let is_free = || is_root(place) || read("cgroup.procs").is_empty();
    let switch_on = || fs::write(place.join("cgroup.subtree_control"), format!("+{controller}")).is_ok();
    has("cgroup.subtree_control") || (has("cgroup.controllers") && is_free() && switch_on())
}

/// Of a v2 directory: the root of the hierarchy, which is of no type.
fn is_root(place: &Path) -> bool {
    !place.join("cgroup.type").exists()
}

impl Hierarchy {
    /// Below which the sandbox's directory is made. In v2 a cgroup with processes, as the monitor's
    /// own is, has no children with limits (cgroup-v2.rst, "No Internal Process Constraint"): there it
    /// is a sibling, unless the own one has limits, which the sandbox would leave by that.
    fn base(&self) -> Option<PathBuf> {
        if !self.controllers.is_empty() || is_root(&self.place) {
            return Some(self.place.clone());
        }
        let limits = |file: &&str| {
            let text = fs::read_to_string(self.place.join(file)).unwrap_or_default();
            !matches!(text.trim(), "" | "max" | "max 100000")
        };
        let leaves = self.place != self.point && !V2_LIMITS.iter().any(limits);
        self.place.parent().filter(|_| leaves).map(Path::to_owned)
    }
}

fn hierarchies() -> Vec<Hierarchy> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    table.lines().filter_map(|line| hierarchy(line, &own)).filter(|found| found.place.is_dir()).collect()
}

/// A hierarchy from its line of mountinfo, and the own place from `/proc/self/cgroup`
/// (`number:controllers:path`; v2 has no controllers there).
fn hierarchy(mount: &str, own: &str) -> Option<Hierarchy> {
    let (before, after) = mount.split_once(" - ")?;
    let mut words = before.split(' ').skip(3);
    let (root, point) = (words.next()?, words.next()?);
    let mut kind = after.split(' ');
    let (kind, options) = (kind.next()?, kind.nth(1)?);
    if kind != "cgroup" && kind != "cgroup2" {
        return None;
    }
    let (controllers, path) = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let names: Vec<String> =
            controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let ours = match kind {
            "cgroup2" => names.is_empty(),
            _ => {
                !names.is_empty() && names.iter().all(|name| options.split(',').any(|option| option == name))
            }
        };
        ours.then_some((names, path))
    })?;
    // Seen from a container the mount's root is already the own place.
    let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    Some(Hierarchy { controllers, point: PathBuf::from(point), place: Path::new(point).join(below) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_place_is_found_in_both_kinds() {
        let own = "8:pids:/\n4:memory:/slurm/uid_7/job_1\n1:name=systemd:/\n0::/user.slice\n";
        let v1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory";
        let found = hierarchy(v1, own).unwrap();
        assert_eq!(found.controllers, ["memory"]);
        assert_eq!(found.place, Path::new("/sys/fs/cgroup/memory/slurm/uid_7/job_1"));
        let v2 = "41 31 0:38 / /sys/fs/cgroup/unified rw shared:3 - cgroup2 cgroup2 rw";
        let found = hierarchy(v2, own).unwrap();
        assert!(found.controllers.is_empty());
        assert_eq!(found.place, Path::new("/sys/fs/cgroup/unified/user.slice"));
        let contained = "35 31 0:32 /slurm/uid_7 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        assert_eq!(hierarchy(contained, own).unwrap().place, Path::new("/sys/fs/cgroup/memory/job_1"));
        assert!(hierarchy("22 27 0:21 / /proc rw - proc proc rw", own).is_none());
    }

    /// Files with the names and contents that the kernel gives them.
    fn v2(files: &[(&str, &str)]) -> (tempfile::TempDir, Hierarchy) {
        let point = tempfile::tempdir().unwrap();
        let place = point.path().join("job/task");
        fs::create_dir_all(&place).unwrap();
        for (file, content) in files {
            fs::write(point.path().join(file), content).unwrap();
        }
        let hierarchy = Hierarchy { controllers: vec![], point: point.path().to_owned(), place };
        (point, hierarchy)
    }

    const TASK: [(&str, &str); 5] = [
        ("job/cgroup.type", "domain\n"),
        ("job/task/cgroup.type", "domain\n"),
        ("job/task/memory.max", "max\n"),
        ("job/task/cpu.max", "max 100000\n"),
        ("job/task/cpuset.cpus", "\n"),
    ];

    #[test]
    fn in_v2_a_sandbox_is_beside_its_monitor_and_leaves_no_limit_by_that() {
        let (point, free) = v2(&TASK);
        assert_eq!(free.base(), Some(point.path().join("job")));
        for limit in [("memory.max", "1073741824\n"), ("pids.max", "100\n"), ("cpuset.cpus", "0-1\n")] {
            let (_point, bound) = v2(&[&TASK[..], &[(&*format!("job/task/{}", limit.0), limit.1)]].concat());
            assert_eq!(bound.base(), None, "{limit:?}");
        }
        let (point, _) = v2(&TASK);
        let root = Hierarchy { controllers: vec![], point: point.path().into(), place: point.path().into() };
        assert_eq!(root.base(), Some(point.path().to_owned()), "the root may have both");
        // The root of what a container sees is none.
        fs::write(point.path().join("cgroup.type"), "domain\n").unwrap();
        assert_eq!(root.base(), None);
    }

    #[test]
    fn a_v2_cgroup_with_processes_is_not_given_controllers() {
        let (point, _hierarchy) = v2(&TASK);
        let job = point.path().join("job");
        fs::write(job.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        fs::write(job.join("cgroup.subtree_control"), "memory\n").unwrap();
        fs::write(job.join("cgroup.procs"), "17\n").unwrap();
        assert!(offers(&job, "memory") && !offers(&job, "pids") && !offers(&job, "io"));
        fs::write(job.join("cgroup.procs"), "").unwrap();
        assert!(offers(&job, "pids"));
        assert_eq!(fs::read_to_string(job.join("cgroup.subtree_control")).unwrap(), "+pids");
    }
}
