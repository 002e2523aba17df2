//! What the monitor may do, and when. It stays uid 0 with all three ids (a real uid of
//! the user's would let him stop it); of root's rights it keeps the few that build and
//! remove a sandbox, and those are in force only while it does so.

use rustix::fs::{Gid, Uid};
use rustix::io::Result;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::sandbox::empty_bounding_set;

/// For files and mounts of the sandbox, its link, its ids, and its end.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD);
/// The kernel asks for it when our death must reach the sandbox, whatever we do then.
const ALWAYS: CapabilitySet = CapabilitySet::KILL;

/// All ids 0, no groups, only [`KEPT`] left, not traceable.
pub fn settle() -> Result<()> {
    set_thread_groups(&[])?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    clear_ambient_capability_set()?;
    empty_bounding_set(KEPT)?;
    set_effective(ALWAYS)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Runs one operation with everything that was kept; afterwards it rests again.
pub fn raised<T>(operation: impl FnOnce() -> T) -> Result<T> {
    set_effective(KEPT)?;
    let result = operation();
    // Going on with too much is worse than not going on.
    if set_effective(ALWAYS).is_err() {
        std::process::abort();
    }
    Ok(result)
}

fn set_effective(effective: CapabilitySet) -> Result<()> {
    let permitted = capabilities(None)?.permitted & KEPT;
    let sets =
        CapabilitySets { effective: effective & permitted, permitted, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    if capabilities(None)? == sets { Ok(()) } else { Err(rustix::io::Errno::PERM) }
}
