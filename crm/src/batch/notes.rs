//! Batch jobs that outlive the CRM: noted in a file each before they are submitted, so that whoever
//! comes after it knows whose they are and what to ask the batch system for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use protocol::ids::MemberNumber;
use serde::{Deserialize, Serialize};

use super::names::Group;
use crate::pilot::Round;
use crate::site::Account;

/// What is known of a batch job without asking for it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    pub account: Account,
    /// In the order of the batch job's nodes.
    pub members: Vec<MemberNumber>,
    /// The batch system's own id, once it has said it.
    pub id: Option<String>,
}

/// The directory of notes.
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

    fn path(&self, (reservation, round): Group) -> PathBuf {
        self.directory.join(format!("{reservation}.{}", round.0))
    }

    /// Durable when it returns. Replaces an older one whole.
    pub fn put(&self, group: Group, note: &Note) -> io::Result<()> {
        let path = self.path(group);
        let aside = path.with_extension("new");
        let mut file = File::create(&aside)?;
        file.write_all(&serde_json::to_vec(note)?)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        File::open(&self.directory)?.sync_all()
    }

    /// Repeatable. A note that stays would be of a job that is not there: no harm.
    pub fn remove(&self, group: Group) {
        let _ = fs::remove_file(self.path(group));
    }

    /// Every note that is there; a file that is none is left alone.
    ///
    /// # Errors
    /// One cannot be read: what is in the queue is not known.
    pub fn all(&self) -> io::Result<BTreeMap<Group, Note>> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let Some(group) = group_of(&path) else { continue };
            all.insert(group, serde_json::from_slice(&fs::read(&path)?)?);
        }
        Ok(all)
    }
}

fn group_of(path: &Path) -> Option<Group> {
    let (reservation, round) = path.file_name()?.to_str()?.split_once('.')?;
    Some((reservation.parse().ok()?, Round(round.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use protocol::ids::ReservationId;

    use super::*;

    #[test]
    fn a_note_comes_back_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::open(dir.path().join("jobs")).unwrap();
        let account = Account { name: "alice".parse().unwrap(), uid: 1001, gid: 1002 };
        let mut note = Note { account, members: vec![0, 2], id: None };
        let group = (ReservationId(3), Round(2));
        notes.put(group, &note).unwrap();
        note.id = Some("17".into());
        notes.put(group, &note).unwrap();
        fs::write(dir.path().join("jobs/r3.4.new"), "half").unwrap();
        fs::write(dir.path().join("jobs/README"), "half").unwrap();
        let again = Notes::open(dir.path().join("jobs")).unwrap();
        assert_eq!(again.all().unwrap(), BTreeMap::from([(group, note)]));
        again.remove(group);
        again.remove(group);
        assert_eq!(again.all().unwrap(), BTreeMap::new());
    }

    #[test]
    fn a_note_that_cannot_be_read_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("r3.4"), "{}").unwrap();
        assert!(Notes::open(dir.path().to_owned()).unwrap().all().is_err());
    }
}
