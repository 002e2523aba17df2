//! What is left of pilots on a node, by identity and not by number: totals move whenever anybody
//! on the machine does anything.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::bed::{Accounts, LIB, tagged_cgroups};
use crate::process::{self, wait_until};
use crate::residue::namespaces_of;

/// By when nothing may be left.
pub const GONE_TIME: Duration = Duration::from_secs(10);

/// What stands on the node without any pilot.
#[derive(Clone, Debug)]
pub struct Ground {
    links: BTreeSet<String>,
    mounts: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    files: BTreeSet<String>,
    /// Promiscuity of the node's interface: a macvlan that nobody can see any more still counts.
    promiscuity: String,
}

impl Ground {
    pub fn now() -> Result<Ground> {
        Ok(Ground {
            links: links()?,
            mounts: mounts()?,
            namespaces: namespaces_of(std::process::id() as i32),
            files: files(),
            promiscuity: promiscuity(),
        })
    }

    /// What is there now and was not, one line each.
    pub fn left(&self, accounts: Accounts) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for stat in ours(accounts) {
            left.push(format!("process {}", stat.identity.describe()));
            for namespace in namespaces_of(stat.identity.pid).difference(&self.namespaces) {
                left.push(format!("namespace {namespace} of pid {}", stat.identity.pid));
            }
        }
        left.extend(links()?.difference(&self.links).map(|link| format!("link {link}")));
        left.extend(mounts()?.difference(&self.mounts).map(|mount| format!("mount {mount}")));
        left.extend(self.mounts.difference(&mounts()?).map(|mount| format!("lost mount {mount}")));
        left.extend(files().difference(&self.files).map(|file| format!("file {file}")));
        let promiscuity = promiscuity();
        if promiscuity != self.promiscuity {
            left.push(format!("node0 has promiscuity {promiscuity}, not {}", self.promiscuity));
        }
        // Others on this machine have sandboxes, too; our reservations have the user's number.
        let tag = format!("gridpilot-a-{}-", accounts.user);
        left.extend(
            tagged_cgroups().iter().filter(|name| name.contains(&tag)).map(|n| format!("cgroup {n}")),
        );
        Ok(left)
    }

    /// Waits for at most [`GONE_TIME`] until nothing is left; what is then.
    pub fn wait_until_nothing_is_left(&self, accounts: Accounts) -> Vec<String> {
        let mut left = Vec::new();
        wait_until(GONE_TIME, || {
            left = self.left(accounts).unwrap_or_else(|error| vec![format!("{error:#}")]);
            left.is_empty()
        });
        left
    }

    /// The same as an error.
    pub fn expect_nothing_left(&self, accounts: Accounts) -> Result<()> {
        let left = self.wait_until_nothing_is_left(accounts);
        ensure!(left.is_empty(), "left after {} s:\n  {}", GONE_TIME.as_secs(), left.join("\n  "));
        Ok(())
    }
}

/// Processes of the accounts of this run, and whoever runs the installed programs.
pub fn ours(accounts: Accounts) -> Vec<process::Stat> {
    let file = |name: &str| fs::metadata(format!("{LIB}/{name}")).map(|meta| (meta.dev(), meta.ino())).ok();
    let files: BTreeSet<_> =
        ["node-manager", "launcher", "node-agent"].into_iter().filter_map(file).collect();
    let mut found = process::all();
    found.retain(|stat| {
        let directory = format!("/proc/{}", stat.identity.pid);
        let uid = fs::read_to_string(format!("{directory}/status")).ok().and_then(|text| {
            text.lines().find(|line| line.starts_with("Uid:"))?.split('\t').nth(1)?.parse().ok()
        });
        let runs = fs::metadata(format!("{directory}/exe")).map(|meta| (meta.dev(), meta.ino())).ok();
        !stat.zombie
            && (uid.is_some_and(|uid: u32| accounts.all().contains(&uid))
                || runs.is_some_and(|runs| files.contains(&runs)))
    });
    found
}

fn links() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/self/net/dev").context("/proc/self/net/dev")?;
    Ok(text.lines().skip(2).filter_map(|line| Some(line.split(':').next()?.trim().to_owned())).collect())
}

fn mounts() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let point = |line: &str| -> Option<String> {
        let fields: Vec<&str> = line.split(' ').collect();
        Some(format!("{} ({} {})", fields.get(4)?, fields.get(2)?, fields.get(3)?))
    };
    Ok(text.lines().filter_map(point).collect())
}

/// What root's programs could leave on the node's disks: in their own directories, in
/// /etc, and where nodes mount things.
fn files() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for directory in [LIB, "/etc/gridpilot", "/etc", "/mnt", "/srv", "/opt/secrets", "/opt/home/other"] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let owner = entry.metadata().map(|meta| meta.uid()).unwrap_or_default();
            found.insert(format!("{} of {owner}", entry.path().display()));
        }
    }
    found
}

fn promiscuity() -> String {
    let words = ["-d", "-o", "link", "show", "node0"];
    let output = std::process::Command::new("ip").args(words).output().map(|o| o.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).into_owned();
    text.split("promiscuity ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("?").to_owned()
}
