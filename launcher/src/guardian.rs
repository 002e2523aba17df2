//! The process by which a batch system watches over us on this node: `sge_shepherd`, `slurmstepd`.
//!
//! When it is killed nobody ends us any more, while the batch system believes that we are gone and
//! gives the node to others. So its death is a reason to end, like a signal.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};

/// The names of such processes, and what their death is called.
const NAMES: [(&str, &str); 2] =
    [("sge_shepherd", "the death of sge_shepherd"), ("slurmstepd", "the death of slurmstepd")];
/// Between it and us are a script and a starter, not many more.
const GENERATIONS_MAX: usize = 16;

/// The nearest of our ancestors that is such a process. Readable once it is dead.
#[derive(Debug)]
pub struct Guardian {
    descriptor: OwnedFd,
    pub death: &'static str,
}

impl Guardian {
    /// `None` where nobody of that kind is above us, or the kernel tells nothing of others.
    pub fn find() -> Option<Self> {
        let mut pid = getppid()?;
        for _ in 0..GENERATIONS_MAX {
            // Opened before it is looked at: whoever has the number then is who dies.
            let descriptor = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            let (name, parent) = name_and_parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
            if let Some((_, death)) = NAMES.iter().find(|(known, _)| *known == name) {
                return Some(Self { descriptor, death });
            }
            pid = parent?;
        }
        None
    }
}

impl AsFd for Guardian {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// From `/proc/PID/stat`; the name may hold blanks and parentheses.
fn name_and_parent(stat: &str) -> Option<(String, Option<Pid>)> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let parent: i32 = after.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((name.to_owned(), Pid::from_raw(parent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_nothing() {
        let (name, parent) = name_and_parent("12 (a) S 1 (sge_shepherd) R 7 12 12 0").unwrap();
        assert_eq!((name.as_str(), parent), ("a) S 1 (sge_shepherd", Pid::from_raw(7)));
        assert_eq!(name_and_parent("1 (init) S 0 1 1").unwrap().1, None);
        for garbled in ["", "12", "12 (a", "12 (a)", "12 (a) S", "12 (a) S x"] {
            assert!(name_and_parent(garbled).is_none(), "{garbled}");
        }
    }
}
