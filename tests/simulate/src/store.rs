//! The store of a process as a model: what is durable is exactly what was synced.
//!
//! A commit is atomic. One is on its way to the disk at a time; what is written meanwhile forms
//! the next one (group commit). A crash loses the next one for certain, and the one on its way
//! half of the time: it may have reached the disk although nobody was told.

use std::collections::BTreeMap;

use journal::{Key, Write};

/// Why a commit did not become durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DiskError {
    Full,
    Io,
}

#[derive(Debug, Default)]
pub struct Disk {
    durable: BTreeMap<Key, Vec<u8>>,
    on_its_way: Vec<Write>,
    syncing: bool,
    next: Vec<Write>,
    /// Number of the commit that is collected now.
    ticket: u64,
    pub full: bool,
    /// The next commit fails.
    pub broken: bool,
}

impl Disk {
    /// Adds to the next commit; what comes behind may not happen before that is durable.
    pub fn write(&mut self, write: Write) -> u64 {
        self.next.push(write);
        self.ticket
    }

    /// Starts the next commit if there is something to write and none is on its way. It is over
    /// when [`Self::synced`] is called.
    pub fn begin(&mut self) -> bool {
        if self.syncing || self.next.is_empty() {
            return false;
        }
        self.syncing = true;
        self.on_its_way = std::mem::take(&mut self.next);
        self.ticket += 1;
        true
    }

    /// The commit on its way is durable: everything up to the ticket returned.
    ///
    /// # Errors
    /// It is not, and nothing of it.
    pub fn synced(&mut self) -> Result<u64, DiskError> {
        self.syncing = false;
        if self.full || std::mem::take(&mut self.broken) {
            self.on_its_way.clear();
            return Err(if self.full { DiskError::Full } else { DiskError::Io });
        }
        self.apply();
        Ok(self.ticket - 1)
    }

    fn apply(&mut self) {
        for write in self.on_its_way.drain(..) {
            match write {
                Write::Put { key, value } => self.durable.insert(key, value),
                Write::Delete { key } => self.durable.remove(&key),
            };
        }
    }

    /// The process is gone. `reached` says whether the commit on its way had made it.
    pub fn crash(&mut self, reached: bool) {
        if reached && self.syncing && !self.full {
            self.apply();
        }
        self.on_its_way.clear();
        self.next.clear();
        self.syncing = false;
    }

    /// The number of the commit that is collected now.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    pub fn get(&self, key: &Key) -> Option<&[u8]> {
        self.durable.get(key).map(Vec::as_slice)
    }

    /// What the next process finds.
    pub fn records(&self) -> impl ExactSizeIterator<Item = (&Key, &Vec<u8>)> {
        self.durable.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(disk: &mut Disk, key: u8) -> u64 {
        disk.write(Write::Put { key: Key::of(1, key.into()), value: vec![key] })
    }

    fn keys(disk: &Disk) -> Vec<u8> {
        disk.records().map(|(_, value)| value[0]).collect()
    }

    #[test]
    fn a_commit_is_there_whole_or_not_at_all() {
        for reached in [false, true] {
            let mut disk = Disk::default();
            assert_eq!((put(&mut disk, 1), put(&mut disk, 2)), (0, 0));
            assert!(disk.begin() && !disk.begin());
            assert_eq!(put(&mut disk, 3), 1);
            disk.crash(reached);
            assert_eq!(keys(&disk), if reached { vec![1, 2] } else { vec![] });
        }
    }

    #[test]
    fn a_full_disk_keeps_what_it_has() {
        let mut disk = Disk::default();
        put(&mut disk, 1);
        disk.begin();
        assert_eq!(disk.synced(), Ok(0));
        disk.full = true;
        put(&mut disk, 2);
        disk.begin();
        assert_eq!(disk.synced(), Err(DiskError::Full));
        disk.crash(true);
        assert_eq!(keys(&disk), [1]);
    }
}
