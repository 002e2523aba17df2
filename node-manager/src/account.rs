//! The local account of the user, as the node knows it.

use std::ffi::CString;
use std::path::PathBuf;

use nix::unistd::{Uid, User, getgrouplist};
use rustix::io::Errno;

use crate::failure::{At, Failure};
use crate::operation::Step::FindAccount;

/// Who runs inside, with everything a login would give.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, so that what the group may read stays readable.
    pub groups: Vec<u32>,
    pub home: PathBuf,
    pub shell: PathBuf,
}

impl Account {
    /// Looks the uid up in the node's user database.
    pub fn of(uid: u32) -> Result<Account, Failure> {
        let user =
            User::from_uid(Uid::from_raw(uid)).at(FindAccount, format_args!("uid {uid}"))?.ok_or_else(
                || Failure::rule(FindAccount, format_args!("uid {uid} has no account on this node")),
            )?;
        let name = CString::new(user.name.as_str()).map_err(|_| Errno::INVAL).at(FindAccount, "name")?;
        let groups = getgrouplist(&name, user.gid).at(FindAccount, "groups")?;
        if !user.dir.is_absolute() {
            return Err(Failure::rule(FindAccount, format_args!("home of uid {uid} is not absolute")));
        }
        Ok(Account {
            name: user.name,
            uid,
            gid: user.gid.as_raw(),
            groups: groups.into_iter().map(|gid| gid.as_raw()).collect(),
            home: user.dir,
            shell: user.shell,
        })
    }
}
