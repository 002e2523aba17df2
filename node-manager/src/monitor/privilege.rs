//! What the monitor may do, and when. It stays uid 0 with all three ids (a real uid of
//! the user's would let him stop it); of root's rights it keeps the few that build and
//! remove a sandbox, and those are in force only while it does so.

use caps::{CapSet, Capability};
use rustix::fs::{Gid, Uid};
use rustix::io::{Errno, Result};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, clear_ambient_capability_set, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::sandbox::empty_bounding_set;

/// For files and mounts of the sandbox, its link, its ids, and its end.
const KEPT: [Capability; 13] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_MKNOD,
];
/// The kernel asks for it when our death must reach the sandbox, whatever we do then.
const ALWAYS: [Capability; 1] = [Capability::CAP_KILL];

/// All ids 0, no groups, only [`KEPT`] left, not traceable.
pub fn settle() -> Result<()> {
    set_thread_groups(&[])?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    clear_ambient_capability_set()?;
    empty_bounding_set(CapabilitySet::from_bits_retain(KEPT.iter().fold(0, |all, cap| all | cap.bitmask())))?;
    // Never more in force than is permitted, so this first.
    set(CapSet::Effective, &[])?;
    set(CapSet::Inheritable, &[])?;
    set(CapSet::Permitted, &KEPT)?;
    set(CapSet::Effective, &ALWAYS)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Runs one operation with everything that was kept; afterwards it rests again.
pub fn raised<T>(operation: impl FnOnce() -> T) -> Result<T> {
    set(CapSet::Effective, &KEPT)?;
    let result = operation();
    // Going on with too much is worse than not going on.
    if set(CapSet::Effective, &ALWAYS).is_err() {
        std::process::abort();
    }
    Ok(result)
}

/// Makes a set what is wanted of what is permitted, and asks the kernel whether it is so: a drop
/// that had no effect is the classic fault.
fn set(which: CapSet, wanted: &[Capability]) -> Result<()> {
    let read = |which| caps::read(None, which).map_err(|_| Errno::PERM);
    let permitted = read(CapSet::Permitted)?;
    let wanted = wanted.iter().copied().filter(|cap| permitted.contains(cap)).collect();
    caps::set(None, which, &wanted).map_err(|_| Errno::PERM)?;
    if read(which)? == wanted { Ok(()) } else { Err(Errno::PERM) }
}
