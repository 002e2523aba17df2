//! Why a store cannot be opened or written: one line that names the file and says what to do.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::{Key, Kind};

/// Nothing was changed when an open fails. After a failed commit the process must end: what is on
/// disk is either the state before that commit or after it, and only a new open tells which.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot write state: no space left for {path}; make room and start again")]
    Full { path: PathBuf },
    #[error("{path} is in use by {holder}; stop that one first")]
    InUse { path: PathBuf, holder: String },
    #[error("{path} is not a plain file; name a file, or a name that does not exist yet")]
    NotAFile { path: PathBuf },
    #[error("{path} is open to others (mode {mode:03o}); check what it holds, then chmod 600 it")]
    OpenToOthers { path: PathBuf, mode: u32 },
    #[error("{path} is no store of gridpilot ({why}); name another file")]
    Foreign { path: PathBuf, why: String },
    #[error("{path} is damaged ({why}); it was left as it is: restore it from a copy")]
    Damaged { path: PathBuf, why: String },
    #[error("{path} is damaged: record {key} does not match its checksum; restore the file from a copy")]
    Record { path: PathBuf, key: Key },
    #[error(
        "{path} has store format {found}, this program knows format {known}; use the program that wrote it"
    )]
    Format { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is the store of a {found}, not of a {wanted}; name another file")]
    OtherKind { path: PathBuf, found: Kind, wanted: Kind },
    #[error("{path} is the store of {found:?}, not of {wanted:?}; name another file")]
    OtherOwner { path: PathBuf, found: String, wanted: String },
    #[error("a record of {bytes} bytes for {key} is longer than {max}")]
    TooLong { key: Key, bytes: usize, max: usize },
    #[error("an earlier write to {path} failed; start again")]
    Ended { path: PathBuf },
}

impl StoreError {
    /// An operation on the file failed with `source`.
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> StoreError {
        match is_full(&source) {
            true => StoreError::Full { path: path.to_owned() },
            false => StoreError::Io { doing, path: path.to_owned(), source },
        }
    }
}

/// No space, no quota, or no room below the limit of a file's size.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
