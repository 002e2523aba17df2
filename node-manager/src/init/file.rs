//! The agent's files: whole, by rename, at their fixed places.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchmod, openat, renameat, unlinkat};
use rustix::io::{Errno, Result};

use super::record::{Directory, FILE_BYTES_MAX, FileId};

/// The two directories, held from the start.
pub struct Directories {
    gridpilot: OwnedFd,
    ssh: OwnedFd,
}

impl Directories {
    pub fn open(user: &str) -> Result<Directories> {
        let open = |path: &Path| {
            openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        };
        let ssh: PathBuf = ["/home", user, ".ssh"].iter().collect();
        Ok(Directories { gridpilot: open(Path::new("/etc/gridpilot"))?, ssh: open(&ssh)? })
    }

    /// Writes aside, then renames: a reader sees the old file or the new one.
    pub fn put(&self, file: FileId, content: OwnedFd) -> Result<()> {
        let content = read_all(content, FILE_BYTES_MAX)?;
        let (directory, name, mode) = file.place();
        let directory = match directory {
            Directory::Gridpilot => &self.gridpilot,
            Directory::Ssh => &self.ssh,
        };
        let aside = format!(".{name}.new");
        match unlinkat(directory, &aside, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new = openat(directory, &aside, flags, Mode::from_raw_mode(0o600))?;
        fchmod(&new, Mode::from_raw_mode(mode))?;
        let written = File::from(new).write_all(&content);
        written.map_err(errno).and_then(|()| renameat(directory, &aside, directory, name)).inspect_err(|_| {
            let _ = unlinkat(directory, &aside, AtFlags::empty());
        })
    }
}

/// Reads a descriptor to its end, from the start where it has one.
pub fn read_all(fd: OwnedFd, limit: usize) -> Result<Vec<u8>> {
    let mut file = File::from(fd);
    // Room for all of it at once, and one byte by which the end is seen. A pipe has no size, cannot
    // be rewound and needs not.
    let size = file.seek(SeekFrom::End(0)).unwrap_or(0).min(limit as u64);
    let _ = file.seek(SeekFrom::Start(0));
    let mut content = Vec::with_capacity(size as usize + 1);
    file.take(limit as u64 + 1).read_to_end(&mut content).map_err(errno)?;
    if content.len() > limit { Err(Errno::FBIG) } else { Ok(content) }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
