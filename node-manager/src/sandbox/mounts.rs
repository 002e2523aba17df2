//! The new mount API, one key at a time: no option strings, no paths but our own.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::sys::mount::set_attributes;

/// What every mount of the sandbox is, with one exception for `/dev`.
pub const INERT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

const VIEW: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE
    .union(OpenTreeFlags::OPEN_TREE_CLOEXEC)
    .union(OpenTreeFlags::AT_EMPTY_PATH);

/// A new filesystem, attached to nothing yet. An option without a value is a flag.
pub fn filesystem(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for &(key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(&context, key)?;
        } else {
            fsconfig_set_string(&context, key, value)?;
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A second view of what `directory` names (a file or a directory), without the mounts
/// below it, attached to nothing yet.
pub fn view(directory: impl AsFd, path: &str, attributes: MountAttrFlags) -> Result<OwnedFd> {
    let view = open_tree(directory, path, VIEW)?;
    set_attributes(view.as_fd(), attributes.bits().into())?;
    Ok(view)
}

/// The same with everything mounted below it, as it is.
pub fn view_of_tree(directory: impl AsFd) -> Result<OwnedFd> {
    open_tree(directory, "", VIEW | OpenTreeFlags::AT_RECURSIVE)
}

/// Attaches a mount onto what `target` names: never by a path that could change.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// Names a directory by an absolute path of the current root.
pub fn open_directory(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(CWD, path.as_ref(), flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

/// Names what `path` leads to when `root` is taken for `/`.
pub fn open_inside(root: impl AsFd, path: impl AsRef<Path>) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path.as_ref(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// The same for a mount point. The kernel lists them without symbolic links; one that is
/// on the way was put there since, to lead us elsewhere.
pub fn open_itself(root: impl AsFd, path: &Path) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// The same for a directory, made with its parents where it is missing: in the sandbox's
/// own root, never in what is mounted on it.
pub fn make_inside(root: impl AsFd, path: impl AsRef<Path>) -> Result<OwnedFd> {
    if let Ok(found) = open_inside(&root, &path) {
        return Ok(found);
    }
    let mut walked = PathBuf::from("/");
    let mut parent = open_inside(&root, &walked)?;
    for component in path.as_ref().components() {
        let name: &OsStr = match component {
            Component::Normal(name) => name,
            Component::RootDir | Component::CurDir => continue,
            _ => return Err(Errno::INVAL),
        };
        walked.push(name);
        parent = match open_inside(&root, &walked) {
            Err(Errno::NOENT) => {
                if fstat(&parent)?.st_dev != fstat(&root)?.st_dev {
                    return Err(Errno::XDEV);
                }
                mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                open_inside(&root, &walked)?
            }
            other => other?,
        };
    }
    Ok(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_not_looked_for_behind_a_link() {
        let directory = std::env::temp_dir().join(format!("gridpilot-link-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        std::os::unix::fs::symlink("/", directory.join("link")).unwrap();
        let root = open_directory("/").unwrap();
        let direct = open_itself(&root, &directory);
        let behind = open_itself(&root, &directory.join("link/etc"));
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(direct.is_ok());
        assert_eq!(behind.unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn nothing_is_made_in_what_is_mounted_on_the_root() {
        let made = make_inside(open_directory("/").unwrap(), "/proc/gridpilot-was-here");
        assert_eq!(made.unwrap_err(), Errno::XDEV);
    }
}
