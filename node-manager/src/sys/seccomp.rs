//! `seccomp(2)`, which rustix does not have.

use rustix::io::Result;

/// Puts a filter on this thread and on everything it starts, for good.
/// Needs no_new_privs.
pub fn install(mut program: Vec<libc::sock_filter>) -> Result<()> {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `filter` describes `program`, which outlives the call; the kernel copies it.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    if result == 0 { Ok(()) } else { Err(super::fd::last_error()) }
}
