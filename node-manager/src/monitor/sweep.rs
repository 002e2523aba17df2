//! What no namespace owns carries the pid of its monitor; when that is gone, the thing
//! is nobody's. Needed only after a SIGKILL: everything else cleans up behind itself.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::net::link;
use crate::net::netlink::Netlink;
use crate::sandbox::cgroup;

/// With the pid (6 digits at most) it just fits; nobody else calls a link so.
const LINK_PREFIX: &str = "gridpilot";
/// Batch systems nest their cgroups; nobody nests them deeper.
const DEPTH_MAX: u32 = 8;

/// How long a killed sandbox may take to die.
const DYING_TIMEOUT: Duration = Duration::from_secs(2);

/// Name of the node's end of a pair.
pub fn link_name(pid: u32) -> String {
    format!("{LINK_PREFIX}{pid:x}")
}

/// What a sweep found that has no owner any more, by name.
#[derive(Default)]
pub struct Swept {
    pub removed: Vec<String>,
    /// It could not be removed: the node is not clean.
    pub left: Vec<String>,
}

/// Removes what has no owner any more.
pub fn sweep() -> Swept {
    let mut swept = Swept::default();
    for root in cgroup::roots() {
        sweep_cgroups(&root, 0, &mut swept);
    }
    if let Ok(node) = Netlink::open() {
        for (_, name) in node.links().unwrap_or_default() {
            let pid = name.strip_prefix(LINK_PREFIX).and_then(|tag| i32::from_str_radix(tag, 16).ok());
            if pid.is_some_and(is_gone) {
                swept.note(link::remove(&node, &name).is_ok(), format!("link {name}"));
            }
        }
    }
    swept
}

impl Swept {
    fn note(&mut self, removed: bool, name: String) {
        if removed { &mut self.removed } else { &mut self.left }.push(name);
    }
}

fn sweep_cgroups(directory: &Path, depth: u32, swept: &mut Swept) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        // Only directories can hold others; a cgroup has hundreds of files.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let ours = entry.metadata().is_ok_and(|status| status.uid() == 0);
        let name = entry.file_name().to_string_lossy().into_owned();
        let tag = name.strip_prefix(cgroup::DIRECTORY_PREFIX);
        match tag.and_then(|tag| tag.rsplit('-').next()?.parse().ok()) {
            // A user may have cgroups of his own, call them as he likes, and keep them busy.
            Some(pid) if ours && is_gone(pid) => {
                let name = format!("cgroup {}", entry.path().display());
                swept.note(remove_orphan(&entry.path()), name);
            }
            Some(_) => {}
            None if depth < DEPTH_MAX => sweep_cgroups(&entry.path(), depth + 1, swept),
            None => {}
        }
    }
}

/// Whatever is still in a sandbox without a monitor is about to die; this helps, and waits.
fn remove_orphan(directory: &Path) -> bool {
    let start = Instant::now();
    loop {
        let Err(error) = fs::remove_dir(directory) else { return true };
        if error.raw_os_error() != Some(libc::EBUSY) || start.elapsed() > DYING_TIMEOUT {
            // Somebody else's sweep was faster.
            return error.raw_os_error() == Some(libc::ENOENT);
        }
        let members = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Dead, whether or not its parent has looked: some take their time.
fn is_gone(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let unreaped = stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"));
    unreaped || Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}
