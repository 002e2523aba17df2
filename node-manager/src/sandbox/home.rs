//! Everything on the user's own filesystem, done as the user: nothing is opened or made
//! there that the user could not open or make, whatever symbolic links say, and a
//! server that squashes root does not notice.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, accessat, fstat, mkdirat, openat2,
    statat,
};
use rustix::io::{Errno, Result};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::{Plan, Share};
use crate::account::Account;
use crate::failure::{At, Failure};
use crate::operation::Step::{MountSsh, OpenHome, OpenShare};

const NAME_ONLY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Runs `work` with the user's effective ids and groups, then comes back or dies.
/// Losing the ids clears the parent-death signal, so it is set again.
pub fn as_user<T>(account: &Account, work: impl FnOnce() -> T) -> Result<T> {
    let ids = (Gid::from_raw(account.gid), Uid::from_raw(account.uid));
    let groups: Vec<Gid> = account.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(Gid::ROOT, ids.0, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, ids.1, Uid::ROOT)?;
    let result = work();
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_groups(&[])?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(result)
}

/// Whether the user himself may do that to a path of the node, by whatever rules it has.
pub fn may(account: &Account, path: &str, access: Access) -> Result<bool> {
    as_user(account, || accessat(CWD, path, access, AtFlags::EACCESS).is_ok())
}

/// The user's home on the node, with a `.ssh` in it for a mount point: the one thing
/// that is ever made on the node, and only where it was missing.
pub fn open(account: &Account) -> std::result::Result<OwnedFd, Failure> {
    let path = account.home.as_path();
    let home = as_user(account, || {
        let home = openat2(CWD, path, NAME_ONLY, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?;
        match statat(&home, ".ssh", AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => match mkdirat(&home, ".ssh", Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            },
            other => drop(other?),
        }
        Ok(home)
    })
    .and_then(|opened| opened)
    .at(OpenHome, path.display())?;
    let owner = fstat(&home).at(OpenHome, path.display())?.st_uid;
    if owner != account.uid {
        return Err(Failure::rule(OpenHome, format_args!("{} belongs to uid {owner}", path.display())));
    }
    Ok(home)
}

/// Names `.ssh` in the (already attached) home, and only a real directory.
pub fn open_ssh(account: &Account, home: impl AsFd) -> std::result::Result<OwnedFd, Failure> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let ssh = as_user(account, || openat2(&home, ".ssh", NAME_ONLY, Mode::empty(), resolve))
        .and_then(|opened| opened)
        .at(MountSsh, "~/.ssh of the node")?;
    let status = fstat(&ssh).at(MountSsh, "~/.ssh of the node")?;
    if FileType::from_raw_mode(status.st_mode) != FileType::Directory || status.st_uid != account.uid {
        return Err(Failure::rule(MountSsh, "~/.ssh of the node is not the user's directory"));
    }
    Ok(ssh)
}

/// The site's listed directories, as far as the user can reach them: whoever may change a
/// path above one of them could else lead root somewhere.
pub fn open_shares(plan: &Plan) -> std::result::Result<Vec<(OwnedFd, Share)>, Failure> {
    let open = |path: &Path| openat2(CWD, path, NAME_ONLY, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
    let mut opened = Vec::new();
    for share in &plan.shares {
        match as_user(&plan.account, || open(&share.path)).and_then(|fd| fd) {
            Err(Errno::ACCESS) => {}
            other => opened.push((other.at(OpenShare, share.path.display())?, share.clone())),
        }
    }
    Ok(opened)
}
