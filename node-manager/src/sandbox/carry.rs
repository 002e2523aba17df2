//! The node's other filesystems. An overlay over `/` shows one filesystem only; a
//! separate `/usr`, `/var` or an NFS tree of applications would be an empty directory.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Plan;
use crate::failure::{At, Failure};
use crate::operation::Step;

/// Kernel interfaces and other people's views: made fresh inside, or none of its business.
const NOT_CARRIED: &str = "proc sysfs cgroup cgroup2 devtmpfs devpts mqueue debugfs tracefs securityfs pstore bpf \
    configfs fusectl hugetlbfs binfmt_misc autofs nsfs rpc_pipefs efivarfs selinuxfs overlay fuse.gvfsd-fuse fuse.portal";

/// The sandbox has its own of everything below these.
const OWN: &str = "/proc /sys /dev /run /tmp /etc/gridpilot /etc/hosts /etc/hostname /etc/passwd /etc/group \
    /etc/resolv.conf";

/// Mount points to carry in, outer ones first.
pub fn find(plan: &Plan) -> Result<Vec<PathBuf>, Failure> {
    let table = std::fs::read("/proc/self/mountinfo").at(Step::CarryMounts, "/proc/self/mountinfo")?;
    let mut own: Vec<&Path> = OWN.split_whitespace().map(Path::new).collect();
    own.push(&plan.account.home);
    own.extend(plan.shares.iter().map(|share| share.path.as_path()));
    Ok(select(&table, &own, &plan.account.home))
}

/// Whatever holds the home is left out as well: other homes are nobody's business, and
/// the user's own is mounted by itself.
fn select(table: &[u8], own: &[&Path], home: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = table
        .split(|&b| b == b'\n')
        .filter_map(mount_point)
        .filter(|point| point != Path::new("/") && !home.starts_with(point))
        .filter(|point| !own.iter().any(|own| point.starts_with(own)))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The mount point of a line of mountinfo, if its kind of filesystem is carried.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let mut words = line.split(|&b| b == b' ');
    let point = words.nth(4)?;
    let kind = words.skip_while(|&word| word != b"-").nth(1)?;
    if NOT_CARRIED.split_whitespace().any(|skipped| skipped.as_bytes() == kind) {
        return None;
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(unescape(point))))
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut rest = word.iter().copied();
    let mut out = Vec::with_capacity(word.len());
    while let Some(byte) = rest.next() {
        let digit = |value: u8, digit: u8| value.wrapping_shl(3) | (digit & 7);
        out.push(if byte == b'\\' { rest.by_ref().take(3).fold(0, digit) } else { byte });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_filesystems_are_carried_and_the_kernels_are_not() {
        let table = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw\n\
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
30 27 254:1 / /usr rw,relatime shared:2 master:3 - ext4 /dev/vdb rw\n\
31 30 0:55 / /usr/local/nfs\\040apps ro - nfs4 server:/apps rw\n\
32 27 0:56 / /home rw - nfs4 server:/home rw\n\
33 32 0:57 / /home/alice/deep rw - nfs4 server:/deep rw\n\
34 27 0:58 / /scratch rw - lustre x rw\n\
35 27 0:59 / /run rw - tmpfs tmpfs rw\n\
36 35 0:60 / /run/user/7 rw - ext4 x rw\n\
37 27 0:61 net:[1] /var/netns rw - nsfs nsfs rw\n\
38 27 0:62 / /usr rw - xfs /dev/vdc rw\n";
        let own = [Path::new("/run"), Path::new("/home/alice"), Path::new("/scratch")];
        let found = select(table, &own, Path::new("/home/alice"));
        assert_eq!(found, [PathBuf::from("/usr"), PathBuf::from("/usr/local/nfs apps")]);
    }
}
