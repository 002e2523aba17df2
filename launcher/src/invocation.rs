//! The invocation: opaque bytes that the CRM hands to the pilot and the Launcher passes on
//! unread. They hold a secret, so they come in a file of mode 0600 that is removed once read, or
//! on standard input; never on a command line or in a variable.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use protocol::limits::INVOCATION_BYTES_MAX;

/// Why there is no invocation.
#[derive(Debug, thiserror::Error)]
pub enum InvocationError {
    #[error("cannot read the invocation {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the invocation {} is not a regular file of your own", path.display())]
    NotOurs { path: PathBuf },
    #[error("the invocation {} has mode {mode:03o}; others may have read it: it must be 600", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the invocation {} cannot be removed after reading: {source}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("the invocation is empty")]
    Empty,
    #[error("the invocation is longer than {INVOCATION_BYTES_MAX} bytes")]
    TooLong,
}

/// Reads from a file, or from standard input for `-`. A file is gone afterwards: it is for one
/// use, and a second pilot could only be refused with it.
pub fn read(source: &OsStr) -> Result<Vec<u8>, InvocationError> {
    if source == "-" {
        let path = PathBuf::from("on standard input");
        return bounded(io::stdin().lock(), &path);
    }
    let path = Path::new(source);
    let bytes = read_file(path)?;
    fs::remove_file(path).map_err(|source| InvocationError::Remove { path: path.to_owned(), source })?;
    Ok(bytes)
}

fn read_file(path: &Path) -> Result<Vec<u8>, InvocationError> {
    let failed = |source| InvocationError::Read { path: path.to_owned(), source };
    // Not blocking, so that a FIFO put in its place cannot hold the pilot up.
    let file =
        OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.uid() != nix::unistd::getuid().as_raw() {
        return Err(InvocationError::NotOurs { path: path.to_owned() });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(InvocationError::Exposed { path: path.to_owned(), mode });
    }
    bounded(file, path)
}

fn bounded(from: impl Read, path: &Path) -> Result<Vec<u8>, InvocationError> {
    let mut bytes = Vec::new();
    from.take(INVOCATION_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| InvocationError::Read { path: path.to_owned(), source })?;
    match bytes.len() {
        0 => Err(InvocationError::Empty),
        1..=INVOCATION_BYTES_MAX => Ok(bytes),
        _ => Err(InvocationError::TooLong),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(directory: &Path, mode: u32, bytes: &[u8]) -> PathBuf {
        let path = directory.join("invocation");
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_private_file_is_read_once_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path(), 0o600, b"secret");
        assert_eq!(read(path.as_os_str()).unwrap(), b"secret");
        assert!(!path.exists());
        assert!(matches!(read(path.as_os_str()), Err(InvocationError::Read { .. })));
    }

    #[test]
    fn files_that_others_may_read_links_and_pipes_are_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o640, 0o604, 0o644, 0o620] {
            let path = file(directory.path(), mode, b"secret");
            assert!(matches!(read(path.as_os_str()), Err(InvocationError::Exposed { .. })), "{mode:o}");
            assert!(path.exists());
        }
        let target = file(directory.path(), 0o600, b"secret");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(read(link.as_os_str()), Err(InvocationError::Read { .. })));
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(read(pipe.as_os_str()), Err(InvocationError::NotOurs { .. })));
    }

    #[test]
    fn empty_and_oversized_invocations_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path(), 0o600, b"");
        assert!(matches!(read(path.as_os_str()), Err(InvocationError::Empty)));
        let path = file(directory.path(), 0o600, &[1; INVOCATION_BYTES_MAX]);
        assert_eq!(read(path.as_os_str()).unwrap().len(), INVOCATION_BYTES_MAX);
        let path = file(directory.path(), 0o600, &[1; INVOCATION_BYTES_MAX + 1]);
        assert!(matches!(read(path.as_os_str()), Err(InvocationError::TooLong)));
    }
}
