//! The records of one daemon in one file.
//!
//! redb does the work: a copy-on-write B+tree, in which every page's checksum stands in its parent.
//! Commits are in two phases (pages and slot, then the byte that names the slot, each with its own
//! fsync) although redb can do with one: after one phase a page that was damaged later looks like a
//! commit that was torn, and redb would quietly go back to the commit before. After two, whatever
//! the named slot leads to was on disk, so that damage is told from a torn write and refused. The
//! second fsync costs little, since a commit carries what many requests wait for.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use crate::disk::{Disk, Medium};
use crate::header::{HEADER_BYTES, Header};
use crate::{Key, Kind, StoreError, VALUE_BYTES_MAX, Write, file, record};

/// A record as it was stored.
pub type Record = (Key, Vec<u8>);

/// Of what stands in `ABOUT`. Raise it when a program of today could not read the file.
pub(crate) const FORMAT: u32 = 1;

const ABOUT: TableDefinition<&str, &[u8]> = TableDefinition::new("gridpilot store");
const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
/// Pages kept in memory. The records themselves are their owner's to keep.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// Whose store it is, and in which form.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub format: u32,
    pub kind: Kind,
    pub owner: String,
}

/// The open store of one daemon; dropping it writes nothing.
pub struct Store {
    core: Core<File>,
}

impl Store {
    /// Opens the store at `path`, or makes one if nothing has that name, and returns all records
    /// in the order of their keys. `owner` is the site's name or the grid's pin.
    ///
    /// The file is verified as a whole before a byte of it is changed, and a commit that was cut
    /// short is taken back, or kept whole. Refused, and left as it is: what is damaged, another's,
    /// of another format, open to others, or in use. A full disk is no obstacle.
    pub fn open(path: &Path, kind: Kind, owner: &str) -> Result<(Store, Vec<Record>), StoreError> {
        let mut records = Vec::new();
        let store = Store::open_each(path, kind, owner, |key, value| records.push((key, value.to_vec())))?;
        Ok((store, records))
    }

    /// The same, showing one record after the other instead of keeping them all. What was shown
    /// counts only if this returns a store.
    pub fn open_each(
        path: &Path,
        kind: Kind,
        owner: &str,
        show: impl FnMut(Key, &[u8]),
    ) -> Result<Store, StoreError> {
        let file = match file::existing(path, true)? {
            Some(file) => file,
            None => {
                let (file, new) = file::beside(path)?;
                let medium = Arc::new(file);
                let made = Core::make(&medium, path, kind, owner).and_then(|()| file::appear(&new, path));
                if let Err(error) = made {
                    // It is ours: nothing that anybody relies on is in it yet.
                    let _ = std::fs::remove_file(&new);
                    return Err(error);
                }
                // Nobody else has it: the database was left, and nothing below was cloned.
                Arc::into_inner(medium).ok_or_else(|| StoreError::Ended { path: path.to_owned() })?
            }
        };
        Ok(Store { core: Core::open(Arc::new(file), path, kind, owner, show)? })
    }

    /// Makes all of these changes durable, or none; returns after fsync. No changes: no fsync.
    /// An error other than [`StoreError::TooLong`] (which changes nothing) ends the store: all
    /// further commits are refused.
    pub fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        self.core.commit(writes)
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.core.path
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.core.path).finish_non_exhaustive()
    }
}

/// The store over any medium.
pub(crate) struct Core<M: Medium> {
    // Dropped first, after the disk was sealed.
    database: Database,
    disk: Disk<M>,
    path: PathBuf,
    ended: bool,
}

impl<M: Medium> Core<M> {
    /// Writes a new, empty store to an empty medium, durably.
    pub fn make(medium: &Arc<M>, path: &Path, kind: Kind, owner: &str) -> Result<(), StoreError> {
        let disk = Disk::through(medium.clone());
        let made = || -> Result<Database, redb::Error> {
            let database = Database::builder().create_with_backend(disk.clone())?;
            let mut transaction = database.begin_write()?;
            transaction.set_two_phase_commit(true);
            let mut about = transaction.open_table(ABOUT)?;
            about.insert("format", FORMAT.to_le_bytes().as_slice())?;
            about.insert("kind", [kind.number()].as_slice())?;
            about.insert("owner", owner.as_bytes())?;
            drop(about);
            transaction.open_table(RECORDS)?;
            transaction.commit()?;
            Ok(database)
        };
        let result = made();
        disk.seal();
        result.map(drop).map_err(|error| explain(&disk, "create", path, error))
    }

    pub fn open(
        medium: Arc<M>,
        path: &Path,
        kind: Kind,
        owner: &str,
        mut show: impl FnMut(Key, &[u8]),
    ) -> Result<Core<M>, StoreError> {
        let (core, about) = Core::held(medium, path)?;
        let path = || path.to_owned();
        if about.kind != kind {
            return Err(StoreError::OtherKind { path: path(), found: about.kind, wanted: kind });
        }
        if about.owner != owner {
            let (found, wanted) = (about.owner, owner.to_owned());
            return Err(StoreError::OtherOwner { path: path(), found, wanted });
        }
        core.each(|key, value| {
            show(key, value);
            Ok(())
        })?;
        core.disk.release().map_err(|error| StoreError::io("repair", &core.path, error))?;
        Ok(core)
    }

    /// A verified store whose medium is as it was; nothing can be committed to it.
    pub fn held(medium: Arc<M>, path: &Path) -> Result<(Core<M>, About), StoreError> {
        let damaged = |why: &str| StoreError::Damaged { path: path.to_owned(), why: why.to_owned() };
        let read = |error| StoreError::io("read", path, error);
        let len = medium.len().map_err(read)?;
        if len < HEADER_BYTES as u64 {
            return Err(damaged(&format!("it is {len} bytes long")));
        }
        let mut bytes = [0; HEADER_BYTES];
        medium.read(0, &mut bytes).map_err(read)?;
        let header = Header::parse(bytes).ok_or_else(|| StoreError::Foreign {
            path: path.to_owned(),
            why: "it begins otherwise".into(),
        })?;
        let finished = header.finished().ok_or_else(|| damaged("its header does not match its checksum"))?;

        let (offset, byte) = header.to_be_verified();
        let disk = Disk::held(medium, offset, byte).map_err(read)?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(disk.clone())
            .map_err(|error| explain(&disk, "verify", path, error.into()))?;
        let core = Core { database, disk, path: path.to_owned(), ended: false };
        // redb has numbered its repair behind the commit that it kept.
        if core.finished().map_err(read)?.is_none_or(|kept| kept <= finished) {
            return Err(damaged("pages of its last commit do not match their checksums"));
        }
        let about = core.about()?;
        Ok((core, about))
    }

    fn finished(&self) -> std::io::Result<Option<u64>> {
        let mut bytes = [0; HEADER_BYTES];
        redb::StorageBackend::read(&self.disk, 0, &mut bytes)?;
        Ok(Header::parse(bytes).and_then(|header| header.finished()))
    }

    fn about(&self) -> Result<About, StoreError> {
        let foreign = |why: &str| StoreError::Foreign { path: self.path.clone(), why: why.to_owned() };
        let read = |error: redb::Error| explain(&self.disk, "read", &self.path, error);
        let transaction = self.database.begin_read().map_err(|error| read(error.into()))?;
        let table = match transaction.open_table(ABOUT) {
            Ok(table) => table,
            Err(TableError::Storage(error)) => return Err(read(error.into())),
            Err(_) => return Err(foreign("another program's tables")),
        };
        let get = |name: &str| -> Result<Vec<u8>, StoreError> {
            let value = table.get(name).map_err(|error| read(error.into()))?;
            value.map(|value| value.value().to_vec()).ok_or_else(|| foreign(&format!("no {name}")))
        };
        // First: what follows may look different in another format.
        let format = get("format")?.try_into().map(u32::from_le_bytes).map_err(|_| foreign("no format"))?;
        if format != FORMAT {
            return Err(StoreError::Format { path: self.path.clone(), found: format, known: FORMAT });
        }
        let kind = match get("kind")?.as_slice() {
            [number] => Kind::from_number(*number),
            _ => None,
        };
        let owner = String::from_utf8(get("owner")?).ok();
        match (kind, owner) {
            (Some(kind), Some(owner)) => Ok(About { format, kind, owner }),
            _ => Err(foreign("an unknown kind or owner")),
        }
    }

    /// Shows every record in the order of keys, each compared with its checksum.
    pub fn each(&self, mut show: impl FnMut(Key, &[u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let read = |error: redb::Error| explain(&self.disk, "read", &self.path, error);
        let transaction = self.database.begin_read().map_err(|error| read(error.into()))?;
        let table = transaction.open_table(RECORDS).map_err(|error| read(error.into()))?;
        for entry in table.iter().map_err(|error| read(error.into()))? {
            let (stored_key, stored) = entry.map_err(|error| read(error.into()))?;
            let Some(key) = Key::decode(stored_key.value()) else {
                let why = format!("a key of {} bytes", stored_key.value().len());
                return Err(StoreError::Damaged { path: self.path.clone(), why });
            };
            match record::unseal(stored_key.value(), stored.value()) {
                Some(value) => show(key, value)?,
                None => return Err(StoreError::Record { path: self.path.clone(), key }),
            }
        }
        Ok(())
    }

    pub fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        // In the order of keys, each once: neighbours share pages.
        let mut last: BTreeMap<Key, Option<&[u8]>> = BTreeMap::new();
        for write in writes {
            let value = match write {
                Write::Put { key, value } if value.len() > VALUE_BYTES_MAX => {
                    let (bytes, max) = (value.len(), VALUE_BYTES_MAX);
                    return Err(StoreError::TooLong { key: *key, bytes, max });
                }
                Write::Put { value, .. } => Some(value.as_slice()),
                Write::Delete { .. } => None,
            };
            last.insert(write.key(), value);
        }
        if self.ended {
            return Err(StoreError::Ended { path: self.path.clone() });
        }
        if last.is_empty() {
            return Ok(());
        }
        // What a failed write has left on disk is for the next open to tell.
        self.transact(&last).map_err(|error| {
            self.ended = true;
            self.disk.seal();
            explain(&self.disk, "write", &self.path, error)
        })
    }

    fn transact(&self, changes: &BTreeMap<Key, Option<&[u8]>>) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        transaction.set_durability(Durability::Immediate)?;
        let mut table = transaction.open_table(RECORDS)?;
        let mut sealed = Vec::new();
        for (key, value) in changes {
            let (bytes, len) = key.encode();
            let key = &bytes[..len];
            match value {
                Some(value) => {
                    record::seal(key, value, &mut sealed);
                    table.insert(key, sealed.as_slice())?;
                }
                None => drop(table.remove(key)?),
            }
        }
        drop(table);
        transaction.commit()?;
        Ok(())
    }
}

impl<M: Medium> Drop for Core<M> {
    fn drop(&mut self) {
        // redb would write a farewell.
        self.disk.seal();
    }
}

/// What redb says, in our words; the disk knows better what failed below redb.
fn explain<M: Medium>(disk: &Disk<M>, doing: &'static str, path: &Path, error: redb::Error) -> StoreError {
    match (disk.take_failure(), error) {
        (Some(cause), _) if cause.kind() == std::io::ErrorKind::UnexpectedEof => {
            StoreError::Damaged { path: path.to_owned(), why: "it ends early".into() }
        }
        (Some(cause), _) => StoreError::io(doing, path, cause),
        (None, redb::Error::Io(cause)) => StoreError::io(doing, path, cause),
        (None, redb::Error::Corrupted(why)) => {
            StoreError::Damaged { path: path.to_owned(), why: format!("redb: {why}") }
        }
        (None, error) => StoreError::Damaged { path: path.to_owned(), why: format!("redb: {error}") },
    }
}

/// What only a test does to a store.
#[cfg(test)]
impl<M: Medium> Core<M> {
    pub fn set_format(&self, format: u32) {
        let mut transaction = self.database.begin_write().unwrap();
        transaction.set_two_phase_commit(true);
        let mut about = transaction.open_table(ABOUT).unwrap();
        about.insert("format", format.to_le_bytes().as_slice()).unwrap();
        drop(about);
        transaction.commit().unwrap();
    }

    pub fn copy_stored(&self, from: &Key, to: &Key) {
        let ((from, from_len), (to, to_len)) = (from.encode(), to.encode());
        let mut transaction = self.database.begin_write().unwrap();
        transaction.set_two_phase_commit(true);
        let mut records = transaction.open_table(RECORDS).unwrap();
        let stored = records.get(&from[..from_len]).unwrap().unwrap().value().to_vec();
        records.insert(&to[..to_len], stored.as_slice()).unwrap();
        drop(records);
        transaction.commit().unwrap();
    }
}
