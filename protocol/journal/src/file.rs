//! The file of a store: who may open it, and how it comes into being.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::StoreError;

/// For the owner alone: the store names users, hosts and keys.
const MODE: u32 = 0o600;

/// Opens what is there, locked against every other process; `None` if nothing has this name.
/// A reader's lock lets other readers in.
pub fn existing(path: &Path, write: bool) -> Result<Option<File>, StoreError> {
    // Not blocking: a pipe of that name must not hold up the daemon.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).write(write).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(match fs::symlink_metadata(path) {
                Ok(metadata) if !metadata.is_file() => StoreError::NotAFile { path: path.to_owned() },
                _ => StoreError::io("open", path, error),
            });
        }
    };
    let metadata = file.metadata().map_err(|error| StoreError::io("look at", path, error))?;
    if !metadata.is_file() {
        return Err(StoreError::NotAFile { path: path.to_owned() });
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(StoreError::OpenToOthers { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
    }
    lock(&file, path, write)?;
    Ok(Some(file))
}

/// A file beside `path` that [`appear`] will give this name, empty and locked.
pub fn beside(path: &Path) -> Result<(File, PathBuf), StoreError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let create = |error| StoreError::io("create", &new, error);
    // One that a start cut short has left is used again; whoever makes one at this moment has it.
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags(flags)
        .open(&new)
        .map_err(create)?;
    lock(&file, &new, true)?;
    // Between the two lines above another process may have finished this very file.
    let same = fs::metadata(&new).is_ok_and(|named| {
        file.metadata().is_ok_and(|ours| (named.ino(), named.dev()) == (ours.ino(), ours.dev()))
    });
    if !same {
        return Err(in_use(&file, path));
    }
    file.set_len(0).map_err(create)?;
    Ok((file, new))
}

/// Gives a finished file its name, for good. A file of that name is not replaced.
pub fn appear(new: &Path, path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("create", path, error);
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        new,
        rustix::fs::CWD,
        path,
        rustix::fs::RenameFlags::NOREPLACE,
    )
    .map_err(|errno| failed(errno.into()))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

fn lock(file: &File, path: &Path, write: bool) -> Result<(), StoreError> {
    let operation = match write {
        true => FlockOperation::NonBlockingLockExclusive,
        false => FlockOperation::NonBlockingLockShared,
    };
    match flock(file, operation) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(in_use(file, path)),
        Err(errno) => Err(StoreError::io("lock", path, errno.into())),
    }
}

/// The kernel's list of locks names their holders: `1: FLOCK  ADVISORY  WRITE 812 fd:00:1573 0 EOF`.
fn in_use(file: &File, path: &Path) -> StoreError {
    let holder = || {
        let metadata = file.metadata().ok()?;
        let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
        let wanted = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
        // One read sees one state of the list; several could miss a line that moves.
        let mut locks = vec![0; 1 << 16];
        let len = File::open("/proc/locks").and_then(|mut list| list.read(&mut locks)).ok()?;
        String::from_utf8_lossy(&locks[..len]).lines().find_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (flock, pid) = (words.next()? == "FLOCK", words.nth(2)?);
            (flock && words.next()? == wanted).then(|| format!("process {pid}"))
        })
    };
    let holder = holder().unwrap_or_else(|| "another process".into());
    StoreError::InUse { path: path.to_owned(), holder }
}
