//! Processes that outlive the CRM which started them: noted in a file each, known again by it.
//!
//! A process id alone says nothing, for the kernel gives it to others later. With the time at which
//! the process began and the boot in which that was it names one process for ever.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::ids::ReservationId;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::pilot::{PilotId, Round};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// One process of one boot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    pid: i32,
    /// When it began, in ticks since the boot.
    start: u64,
    boot_id: String,
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// The 22nd field of its `stat`; the name before it may hold blanks and parentheses.
fn start_of(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let field = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19));
    field.and_then(|start| start.parse().ok()).ok_or_else(|| io::Error::other("its stat has no start time"))
}

impl Identity {
    /// Of a process that is there and cannot go away now, such as a child that was not awaited.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, start: start_of(pid)?, boot_id: boot_id()? })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        let (pid, start) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let boot_id = words.next().filter(|id| !id.is_empty())?.to_owned();
        words.next().is_none().then_some(Self { pid, start, boot_id })
    }

    /// The process itself, if it still is: what has the number now and is not it is left alone.
    pub fn open(&self) -> io::Result<Option<Process>> {
        if boot_id()? != self.boot_id {
            return Ok(None);
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // If it has the right start now, it had the number before, and the descriptor is its.
        match start_of(self.pid) {
            Ok(start) if start == self.start => Ok(Some(Process { descriptor })),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A process that is not our child.
#[derive(Debug)]
pub struct Process {
    descriptor: OwnedFd,
}

impl Process {
    /// Repeatable; of one that is gone it changes nothing.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.descriptor.as_fd(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Resolves when it has ended. Cancel-safe.
    pub async fn ended(&self) -> io::Result<()> {
        // A descriptor of a process is readable when that has ended, and for ever after.
        #[expect(deprecated, reason = "it is borrowed, so it stays open as long as it is registered")]
        let descriptor = AsyncFd::with_interest(self.descriptor.as_fd(), Interest::READABLE)?;
        loop {
            let mut ready = descriptor.readable().await?;
            if poll(&mut [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)? > 0 {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

/// The directory with a file for each pilot that was started and is not known to be gone.
#[derive(Clone, Debug)]
pub struct Notes {
    directory: PathBuf,
}

impl Notes {
    /// The directory, made with mode 0700 if it is not there.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self { directory }),
        }
    }

    fn path(&self, pilot: PilotId) -> PathBuf {
        let PilotId { reservation, round, member } = pilot;
        self.directory.join(format!("{reservation}-{}-{member}", round.0))
    }

    /// Notes a pilot's process, in the place of what was noted before.
    pub fn put(&self, pilot: PilotId, process: &Identity) -> io::Result<()> {
        let Identity { pid, start, boot_id } = process;
        let text = format!("{pid} {start} {boot_id}\n");
        // Not synced: after a power cut there is no such process.
        fs::write(self.path(pilot), text)
    }

    /// Repeatable.
    pub fn remove(&self, pilot: PilotId) {
        if let Err(error) = fs::remove_file(self.path(pilot))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{} cannot be removed: {error}", self.path(pilot).display());
        }
    }

    /// Every pilot that is noted; `None` where the note is not whole: it was written when its CRM
    /// died, which had not given the pilot its invocation then.
    pub fn all(&self) -> io::Result<Vec<(PilotId, Option<Identity>)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let Some(pilot) = pilot_of(&path) else { continue };
            all.push((pilot, Identity::parse(&fs::read_to_string(&path)?)));
        }
        Ok(all)
    }
}

fn pilot_of(path: &Path) -> Option<PilotId> {
    let mut words = path.file_name()?.to_str()?.split('-');
    let reservation: ReservationId = words.next()?.parse().ok()?;
    let (round, member) = (Round(words.next()?.parse().ok()?), words.next()?.parse().ok()?);
    words.next().is_none().then_some(PilotId { reservation, round, member })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Identity {
        Identity::of(std::process::id() as i32).unwrap()
    }

    #[test]
    fn a_process_is_known_again_and_another_with_its_number_is_not_it() {
        let own = own();
        assert!(own.open().unwrap().is_some());
        for other in [
            Identity { start: own.start + 1, ..own.clone() },
            Identity { boot_id: "another".into(), ..own.clone() },
            Identity { pid: i32::MAX, ..own.clone() },
            Identity { pid: 0, ..own.clone() },
        ] {
            assert!(other.open().unwrap().is_none(), "{other:?}");
        }
    }

    /// Without a clock: nobody looks again and again.
    #[test]
    fn the_end_of_a_process_of_before_is_told_by_the_kernel() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Identity::of(child.id() as i32).unwrap().open().unwrap().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                biased;
                ended = process.ended() => panic!("it sleeps: {ended:?}"),
                () = tokio::task::yield_now() => {}
            }
            process.signal(Signal::KILL).unwrap();
            process.ended().await.unwrap();
            process.ended().await.unwrap();
        });
        child.wait().unwrap();
    }

    #[test]
    fn a_note_comes_back_whole_or_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::open(dir.path().join("pilots")).unwrap();
        let pilot = PilotId { reservation: ReservationId(3), round: Round(2), member: 7 };
        notes.put(pilot, &own()).unwrap();
        assert_eq!(notes.all().unwrap(), [(pilot, Some(own()))]);
        let whole = fs::read(notes.path(pilot)).unwrap();
        for length in 0..whole.len() {
            fs::write(notes.path(pilot), &whole[..length]).unwrap();
            assert_eq!(notes.all().unwrap(), [(pilot, None)], "{length} bytes");
        }
        notes.remove(pilot);
        notes.remove(pilot);
        assert_eq!(notes.all().unwrap(), []);
    }
}
