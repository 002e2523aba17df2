//! What the monitor may do, and when. It stays uid 0 with all three ids (a real uid of
//! the user's would let him stop it); of root's rights it keeps the few that build and
//! remove a sandbox, and those are in force only while it does so.

use caps::{CapSet, Capability, CapsHashSet};
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
    empty_bounding_set(KEPT.iter().fold(CapabilitySet::empty(), |all, cap| all | bit(*cap)))?;
    let held = caps::read(None, CapSet::Permitted).map_err(refused)?;
    set(CapSet::Effective, &CapsHashSet::new())?;
    set(CapSet::Inheritable, &CapsHashSet::new())?;
    set(CapSet::Permitted, &KEPT.into_iter().filter(|cap| held.contains(cap)).collect())?;
    set_effective(&ALWAYS)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Runs one operation with everything that was kept; afterwards it rests again.
pub fn raised<T>(operation: impl FnOnce() -> T) -> Result<T> {
    set_effective(&KEPT)?;
    let result = operation();
    // Going on with too much is worse than not going on.
    if set_effective(&ALWAYS).is_err() {
        std::process::abort();
    }
    Ok(result)
}

/// Of these, what is still permitted is in force, and nothing else.
fn set_effective(wanted: &[Capability]) -> Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(refused)?;
    set(CapSet::Effective, &wanted.iter().copied().filter(|cap| permitted.contains(cap)).collect())
}

/// Sets and asks the kernel whether it is so: a drop that had no effect is the classic fault.
fn set(which: CapSet, wanted: &CapsHashSet) -> Result<()> {
    caps::set(None, which, wanted).map_err(refused)?;
    if caps::read(None, which).map_err(refused)? == *wanted { Ok(()) } else { Err(Errno::PERM) }
}

fn bit(capability: Capability) -> CapabilitySet {
    CapabilitySet::from_bits_retain(capability.bitmask())
}

/// The kernel gives no other reason.
fn refused(_: caps::errors::CapsError) -> Errno {
    Errno::PERM
}
