//! Descriptors by number: what was inherited, and what must not be passed on.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags, Result};

/// Takes ownership of an open descriptor by its number; `EBADF` when it is not open.
/// Each number may be adopted once per process: from then on the returned value owns it.
pub fn adopt(number: RawFd) -> Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: F_GETFD on any number is harmless, and the borrow ends with this call.
    let probe = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(probe, FdFlags::CLOEXEC)?;
    // SAFETY: the descriptor is open, and by this function's contract nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether a descriptor of that number is open.
pub fn is_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD on any number is harmless, and the borrow ends with this call.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok()
}

/// Names an open descriptor for the length of one call.
pub fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: callers use it at once, for a number that they have just opened themselves.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Closes every descriptor from `first` on. For a process that will never again touch
/// what it owned before: right after start, or in a child that does not return.
pub fn close_from(first: RawFd) -> Result<()> {
    // SAFETY: close_range takes three integers. Owners of these descriptors in this
    // process are never used or dropped again (contract above).
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

/// Makes `number` name what `fd` names, without close-on-exec.
fn place(fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    // SAFETY: dup2 takes two integers; the caller decided that `number` is free or owned
    // by nothing that is used later.
    match unsafe { libc::dup2(fd.as_raw_fd(), number) } {
        -1 => Err(last_error()),
        _ => Ok(()),
    }
}

/// Makes the descriptors 0, 1, ... in their order, without close-on-exec, and closes every
/// other. For a child that goes on with these only (as for [`close_from`]).
pub fn arrange(fds: &[BorrowedFd<'_>]) -> Result<()> {
    let above = fds.len() as RawFd;
    // First all out of the way, so that no number is overwritten before it is copied.
    let high = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, above)).collect::<Result<Vec<_>>>()?;
    for (number, fd) in (0..).zip(&high) {
        place(fd.as_fd(), number)?;
    }
    // Their numbers are closed next, so their owners must not close them again.
    std::mem::forget(high);
    close_from(above)
}

pub(super) fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
