//! The sandbox's root: an overlay over the node's `/` whose writable part is a tmpfs of
//! its own, and what is mounted on top.
//!
//! The tmpfs covers the node's `/tmp` while the root is put together (in the new mount
//! namespace only) and goes out of sight with the old root:
//!
//! ```text
//! /tmp (tmpfs, size-capped)   upper work root   tmp run shm     keys (small tmpfs)
//!                               \____|____/       |   |   |       ssh gridpilot
//!                                 overlay       /tmp /run /dev/shm  ~/.ssh /etc/gridpilot
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, XattrFlags, chmodat, chownat, fchmod, fsetxattr,
    lstat, makedev, mkdirat, mknodat, openat, symlinkat,
};
use rustix::io::{Errno, Result};
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{fchdir, pivot_root};

use super::mounts::{
    INERT, attach, filesystem, make_inside, open_directory, open_inside, open_itself, view, view_of_tree,
};
use super::{Plan, Share, files, home};
use crate::failure::{At, Failure};
use crate::operation::Step::{self, *};

const STAGE: &str = "/tmp";
const LIST: Access = Access::READ_OK.union(Access::EXEC_OK);
/// Directories in which the user may make files, where the node has them as directories.
const USER_DIRECTORIES: &[&str] = &["etc", "usr", "usr/local", "opt", "var", "srv", "mnt"];
/// Mount points and parents that must exist.
const DIRECTORIES: &[&str] = &["proc", "sys", "dev", "tmp", "run", "home"];
/// Keys and host lists: 8 MiB a file is the most that init takes.
const KEYS_SIZE: &str = "64m";

/// Puts the root together and changes to it.
pub fn build(plan: &Plan, carried: &[PathBuf]) -> std::result::Result<(), Failure> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).at(IsolateMounts, "/")?;
    // Opened before anything covers them.
    let (home, shares) = (home::open(&plan.account)?, home::open_shares(plan)?);
    let stage = stage(plan).at(MountUpper, "tmpfs")?;
    write_files(plan, stage.as_fd()).at(WriteFiles, "/etc")?;
    let root = overlay(stage.as_fd()).at(MountOverlay, "/")?;
    carry(root.as_fd(), carried)?;
    device_files(root.as_fd(), stage.as_fd()).at(MountDev, "/dev")?;
    let quiet = INERT | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let read_only = quiet | MountAttrFlags::MOUNT_ATTR_RDONLY;
    for (kind, flags, target, step) in
        [("proc", quiet, "/proc", MountProc), ("sysfs", read_only, "/sys", MountSys)]
    {
        let mount = filesystem(kind, &[], flags).at(step, "")?;
        open_inside(&root, target).and_then(|target| attach(mount, target)).at(step, "")?;
    }
    for (part, target) in [("tmp", "/tmp"), ("run", "/run")] {
        mount_part(stage.as_fd(), part, &root, target).at(MountTmp, target)?;
    }
    mount_part(stage.as_fd(), "keys/gridpilot", &root, "/etc/gridpilot").at(WriteFiles, "/etc/gridpilot")?;
    mount_homes(plan, &home, root.as_fd(), stage.as_fd())?;
    for (source, share) in &shares {
        mount_share(root.as_fd(), source.as_fd(), share).at(MountShare, share.path.display())?;
    }
    pivot(root.as_fd()).at(PivotRoot, "")
}

/// The tmpfs and its parts, attached at [`STAGE`].
fn stage(plan: &Plan) -> Result<OwnedFd> {
    let (size, inodes) = (plan.upper_bytes.to_string(), plan.upper_inodes.to_string());
    let options = [("size", size.as_str()), ("nr_inodes", inodes.as_str()), ("mode", "0700")];
    let stage = filesystem("tmpfs", &options, INERT)?;
    let user = (plan.account.uid, plan.account.gid);
    let top = if home::may(&plan.account, "/", LIST)? { user } else { (0, 0) };
    for (name, mode, owner) in [
        ("upper", node_directory("").unwrap_or(0o755), top),
        ("work", 0o700, (0, 0)),
        ("root", 0o700, (0, 0)),
        ("tmp", 0o1777, (0, 0)),
        ("shm", 0o1777, (0, 0)),
        ("run", 0o755, user),
        ("keys", 0o700, (0, 0)),
    ] {
        directory(&stage, name, mode, owner)?;
    }
    for name in USER_DIRECTORIES {
        // Where the node has a symbolic link, or nothing, or what the user may not look
        // into, it stays so: owning a directory opens it.
        if let Some(mode) = node_directory(name)
            && home::may(&plan.account, &format!("/{name}"), LIST)?
        {
            match directory(&stage, &format!("upper/{name}"), mode, user) {
                // Below one that stays so.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    for name in DIRECTORIES {
        if lstat(format!("/{name}")).err() == Some(Errno::NOENT) {
            directory(&stage, &format!("upper/{name}"), 0o755, (0, 0))?;
        }
    }
    upper_home(plan, &stage)?;
    attach(&stage, open_directory(STAGE)?)?;
    let keys = filesystem("tmpfs", &[("size", KEYS_SIZE), ("nr_inodes", "4096"), ("mode", "0700")], INERT)?;
    directory(&keys, "ssh", 0o700, user)?;
    directory(&keys, "gridpilot", 0o755, user)?;
    attach(&keys, open_inside(&stage, "keys")?)?;
    Ok(stage)
}

fn directory(parent: &OwnedFd, name: &str, mode: u32, owner: (u32, u32)) -> Result<()> {
    mkdirat(parent, name, Mode::from_raw_mode(mode))?;
    // mkdir drops the sticky bit and obeys the umask.
    chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    if owner != (0, 0) {
        own(parent, name, owner)?;
    }
    Ok(())
}

/// `/home`, to hold the user's: it shows of the node's what the user may see there.
fn upper_home(plan: &Plan, stage: &OwnedFd) -> Result<()> {
    let home = "upper/home";
    if node_directory("home").is_some() {
        let (list, enter) =
            (home::may(&plan.account, "/home", LIST)?, home::may(&plan.account, "/home", Access::EXEC_OK)?);
        directory(stage, home, if enter && !list { 0o711 } else { 0o755 }, (0, 0))?;
        if !enter {
            let opaque = openat(stage, home, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            fsetxattr(opaque, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
        }
    } else if lstat("/home").is_ok() {
        return Ok(());
    }
    directory(stage, &format!("{home}/{}", plan.user), 0o755, (0, 0))
}

fn own(parent: impl AsFd, name: &str, (uid, gid): (u32, u32)) -> Result<()> {
    let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    chownat(parent, name, ids.0, ids.1, AtFlags::SYMLINK_NOFOLLOW)
}

/// Mode of a real directory of the node.
fn node_directory(name: &str) -> Option<u32> {
    let status = lstat(format!("/{name}")).ok()?;
    let is_directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
    is_directory.then_some(status.st_mode & 0o755)
}

/// The files that differ from the node's, into the upper directory.
fn write_files(plan: &Plan, stage: impl AsFd) -> std::io::Result<()> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let user = (plan.account.uid, plan.account.gid);
    write(&stage, "upper/etc/passwd", &files::passwd(plan, &read("/etc/passwd")))?;
    write(&stage, "upper/etc/group", &files::group(plan, &read("/etc/group")))?;
    write(&stage, "upper/etc/hostname", &format!("{}\n", plan.host_name))?;
    // Often a link into /run, which is the sandbox's own and empty.
    if std::fs::read_link("/etc/resolv.conf").is_ok() {
        write(&stage, "upper/etc/resolv.conf", &read("/etc/resolv.conf"))?;
    }
    symlinkat("gridpilot/hosts", &stage, "upper/etc/hosts")?;
    mkdirat(&stage, "upper/etc/gridpilot", Mode::from_raw_mode(0o755))?;
    write(&stage, "keys/gridpilot/hosts", &files::hosts(plan))?;
    own(&stage, "keys/gridpilot/hosts", user)?;
    Ok(())
}

fn write(stage: impl AsFd, path: &str, content: &str) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(stage, path, flags, Mode::from_raw_mode(0o644))?;
    fchmod(&file, Mode::from_raw_mode(0o644))?;
    std::io::Write::write_all(&mut std::fs::File::from(file), content.as_bytes())
}

/// The overlay, attached; its descriptor stands for the new root from now on.
fn overlay(stage: impl AsFd) -> Result<OwnedFd> {
    // `volatile`: nothing of it outlives the sandbox, so nothing needs to reach a disk.
    let options = [("lowerdir", "/"), ("upperdir", "/tmp/upper"), ("workdir", "/tmp/work"), ("volatile", "")];
    let overlay = filesystem("overlay", &options, INERT)?;
    attach(&overlay, open_inside(stage, "root")?)?;
    Ok(overlay)
}

/// The node's other filesystems, read-only. One that cannot be entered (another user's
/// FUSE mount, a dead server) is left out: the sandbox would see nothing there anyway.
fn carry(root: impl AsFd, carried: &[PathBuf]) -> std::result::Result<(), Failure> {
    for point in carried {
        let (Ok(source), Ok(target)) = (open_itself(CWD, point), open_itself(&root, point)) else {
            continue;
        };
        let read_only = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
        view(&source, "", read_only)
            .and_then(|mount| attach(mount, target))
            .at(CarryMounts, point.display())?;
    }
    Ok(())
}

/// A minimal `/dev`. The tmpfs of the nodes is the one mount without `nodev`; it is
/// root's and nothing can be made in it.
fn device_files(root: impl AsFd, stage: impl AsFd) -> Result<()> {
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev = filesystem("tmpfs", &[("size", "64k"), ("nr_inodes", "64"), ("mode", "0755")], quiet)?;
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(&dev, name, FileType::CharacterDevice, mode, makedev(major, minor))?;
    }
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlinkat(target, &dev, name)?;
    }
    mkdirat(&dev, "pts", Mode::from_raw_mode(0o755))?;
    mkdirat(&dev, "shm", Mode::from_raw_mode(0o755))?;
    attach(&dev, open_inside(&root, "/dev")?)?;
    // A terminal's group is the node's `tty`: sshd cannot change it, nor need it.
    let tty = files::group_id("tty", &std::fs::read_to_string("/etc/group").unwrap_or_default()).unwrap_or(5);
    let options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", &tty.to_string())];
    let terminals = filesystem("devpts", &options, quiet)?;
    attach(&terminals, open_inside(&dev, "pts")?)?;
    attach(view(&stage, "shm", INERT)?, open_inside(&dev, "shm")?)
}

fn mount_part(stage: impl AsFd, part: &str, root: &OwnedFd, target: &str) -> Result<()> {
    attach(view(stage, part, INERT)?, make_inside(root, target)?)
}

/// The home at `/home/<user>` and at the account's own path, with a private `.ssh` in both.
fn mount_homes(
    plan: &Plan,
    home: &OwnedFd,
    root: impl AsFd,
    stage: impl AsFd,
) -> std::result::Result<(), Failure> {
    let first = PathBuf::from("/home").join(plan.user.as_str());
    let detail = || format!("{} at {}", plan.account.home.display(), first.display());
    let step = |result: Result<OwnedFd>, step: Step| result.at(step, detail());
    let mounted = step(view(home, "", INERT), MountHome)?;
    attach(&mounted, step(make_inside(&root, &first), MountHome)?).at(MountHome, detail())?;
    let ssh = home::open_ssh(&plan.account, &mounted)?;
    let keys = view(stage, "keys/ssh", INERT).at(MountSsh, "")?;
    attach(keys, ssh).at(MountSsh, "")?;
    if plan.account.home != first {
        let again = step(view_of_tree(&mounted), MountHome)?;
        let target = make_inside(root, &plan.account.home).at(MountHome, plan.account.home.display())?;
        attach(again, target).at(MountHome, plan.account.home.display())?;
    }
    Ok(())
}

fn mount_share(root: impl AsFd, source: impl AsFd, share: &Share) -> Result<()> {
    let attributes = if share.writable { INERT } else { INERT | MountAttrFlags::MOUNT_ATTR_RDONLY };
    attach(view(source, "", attributes)?, make_inside(root, &share.path)?)
}

/// The old root goes out of sight and, having no user left, out of existence.
fn pivot(root: impl AsFd) -> Result<()> {
    fchdir(root)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    let root = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    fchdir(root)
}
