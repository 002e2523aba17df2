//! Which processes inside belong to a command, whatever they did to get away from it.
//!
//! A command's session is left by `setsid`, its family by forking twice, its environment by an
//! exec. What stays is the limit on file locks: every process inherits it, and no kernel since
//! 2.4 heeds it. So it carries the id of what init started; [`Process::tag`] is it. A process
//! can only lower it; then the nearest ancestor that bears a known one decides, and who has none
//! left bears none on purpose and goes with the first command that is ended.

use std::collections::{HashMap, HashSet};
use std::fs;

use crate::sys::process::lock_limit;

/// The tag of ssh logins: no command has it.
pub const LOGIN: u64 = u64::MAX - 1;
/// What an ssh login takes along of the command that made it, wherever that runs.
const JOB_VARIABLE: &str = "GRIDPILOT_JOB=j";
const INIT: i32 = 1;

/// A process that can still do something: no zombie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Process {
    pub pid: i32,
    parent: i32,
    tag: u64,
    /// The kernel's letter; `D` cannot be killed.
    pub state: u8,
}

/// Everything inside but init, in no order.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != INIT).filter_map(process).collect()
}

fn process(pid: i32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything.
    let after = String::from_utf8_lossy(&stat[stat.iter().rposition(|&b| b == b')')? + 1..]).into_owned();
    let mut words = after.split_whitespace();
    let (state, parent) = (words.next()?.bytes().next()?, words.next()?.parse().ok()?);
    let alive = !matches!(state, b'Z' | b'X');
    alive.then(|| Process { pid, parent, tag: lock_limit(pid).unwrap_or(u64::MAX), state })
}

/// Those of a command. `used` are all ids that ever were.
pub fn of(id: u64, used: &HashSet<u64>) -> Vec<Process> {
    belonging(&all(), id, used, |pid| came_with(pid, id))
}

/// Pure: `remote` says whether a login belongs to the command.
fn belonging(all: &[Process], id: u64, used: &HashSet<u64>, remote: impl Fn(i32) -> bool) -> Vec<Process> {
    let by_pid: HashMap<i32, &Process> = all.iter().map(|process| (process.pid, process)).collect();
    let owner = |process: &Process| {
        // A parent is older than its child, so this ends; the bound is for numbers that come again.
        let mut next = Some(process);
        for _ in 0..=all.len() {
            let one = next?;
            if one.tag == LOGIN || used.contains(&one.tag) {
                return Some(one.tag);
            }
            next = by_pid.get(&one.parent).copied();
        }
        None
    };
    let belongs = |process: &&Process| match owner(process) {
        Some(LOGIN) => remote(process.pid),
        Some(owner) => owner == id,
        None => true,
    };
    all.iter().filter(belongs).copied().collect()
}

/// Whether a process of a login was started by the command, on whichever member that runs.
fn came_with(pid: i32, id: u64) -> bool {
    let wanted = format!("{JOB_VARIABLE}{id}");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|&b| b == 0).any(|variable| variable == wanted.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNLIMITED: u64 = u64::MAX;

    fn process(pid: i32, parent: i32, tag: u64) -> Process {
        Process { pid, parent, tag, state: b'S' }
    }

    fn pids(all: &[Process], id: u64) -> Vec<i32> {
        let used = HashSet::from([1, 2, 3]);
        belonging(all, id, &used, |pid| pid == 22).iter().map(|process| process.pid).collect()
    }

    #[test]
    fn a_process_belongs_to_the_command_whose_tag_it_or_its_nearest_ancestor_bears() {
        let all = [
            process(10, 1, 2),
            process(11, 10, 2),
            // Forked twice and left its session.
            process(12, 1, 2),
            // Threw its tag away, but not its parent.
            process(13, 12, 0),
            process(14, 13, 7),
            process(20, 1, LOGIN),
            process(21, 20, LOGIN),
            process(22, 20, LOGIN),
            process(30, 1, 3),
        ];
        assert_eq!(pids(&all, 2), [10, 11, 12, 13, 14, 22]);
        assert_eq!(pids(&all, 3), [22, 30]);
        assert_eq!(pids(&all, 1), [22]);
    }

    #[test]
    fn who_threw_away_both_tag_and_parents_goes_with_whatever_is_ended() {
        let all = [process(10, 1, 2), process(11, 1, 0), process(12, 11, UNLIMITED)];
        assert_eq!(pids(&all, 3), [11, 12]);
        assert_eq!(pids(&all, 2), [10, 11, 12]);
    }

    #[test]
    fn parents_that_make_a_ring_end_the_search() {
        assert_eq!(pids(&[process(10, 11, 0), process(11, 10, 0)], 1), [10, 11]);
    }
}
