//! The end of all privilege: nothing of it can come back, and that is checked.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, Uid};
use rustix::io::{Errno, Result};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, no_new_privs, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

/// Becomes `uid` with `gid` and `groups`, without a capability and without a way to one.
pub fn for_good(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(bits)?;
    empty_bounding_set(CapabilitySet::empty())?;
    clear_ambient_capability_set()?;
    let groups: Vec<Gid> = groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    set_capabilities(None, NOTHING)?;
    set_no_new_privs(true)?;
    check(uid, gid)
}

const NOTHING: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// Takes every capability but those to keep out of the bounding set.
pub fn empty_bounding_set(keep: CapabilitySet) -> Result<()> {
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !keep.contains(one) => remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            // One past the last that this kernel knows.
            Err(_) => break,
        }
    }
    Ok(())
}

/// A drop that had no effect is the classic fault: ask the kernel, do not assume.
fn check(uid: Uid, gid: Gid) -> Result<()> {
    let uids = nix::unistd::getresuid().map_err(|_| Errno::PERM)?;
    let gids = nix::unistd::getresgid().map_err(|_| Errno::PERM)?;
    let uid_gone = [uids.real, uids.effective, uids.saved].iter().all(|id| id.as_raw() == uid.as_raw());
    let gid_gone = [gids.real, gids.effective, gids.saved].iter().all(|id| id.as_raw() == gid.as_raw());
    let caps_gone = capabilities(None)? == NOTHING;
    let bound_gone = !capability_is_in_bounding_set(CapabilitySet::SYS_ADMIN)?;
    let regained = uid.as_raw() != 0 && set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok();
    if uid_gone && gid_gone && caps_gone && bound_gone && no_new_privs()? && !regained {
        Ok(())
    } else {
        Err(Errno::PERM)
    }
}

/// Not traceable, and dead when the parent is. Any change of ids undoes both, so this
/// comes last; then a look whether the parent is still there.
pub fn bind_to_parent(lifeline: BorrowedFd<'_>) -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut fds = [PollFd::from_borrowed_fd(lifeline, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default()))?;
    if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) { Err(Errno::PIPE) } else { Ok(()) }
}
