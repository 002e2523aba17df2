//! `mount_setattr(2)`, which rustix does not have.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Result;

/// Adds attributes (`MOUNT_ATTR_*`) to the one mount that `mount` is the root of.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: u64) -> Result<()> {
    let request = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is an empty C string, `request` outlives the call and its size is
    // given; the kernel only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const request,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(super::fd::last_error()) }
}
