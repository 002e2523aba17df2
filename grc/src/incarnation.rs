//! What must not repeat over restarts: ids and the count of starts. One small file each in the
//! state directory, replaced whole and synced before what it covers is used.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::coordinator::Ids;

const IDS: &str = "next-id";
const INCARNATION: &str = "incarnation";

/// Replaces a file whole: at any moment, also after a power cut, it is the old or the new one.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut aside: PathBuf = path.to_owned();
    aside.as_mut_os_string().push(".new");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The number of this start, from 1; durable when this returns.
pub fn begin(state: &Path) -> anyhow::Result<u32> {
    let path = state.join(INCARNATION);
    let last: u32 = match read(&path)? {
        None => 0,
        Some(text) => text.trim().parse().with_context(|| format!("{} is damaged", path.display()))?,
    };
    let Some(next) = last.checked_add(1) else { bail!("{} is damaged", path.display()) };
    replace(&path, format!("{next}\n").as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(next)
}

/// The first ids that were never given out.
pub fn ids(state: &Path) -> anyhow::Result<Ids> {
    let path = state.join(IDS);
    let Some(text) = read(&path)? else { return Ok(Ids { reservation: 1, job: 1 }) };
    let mut words = text.split_ascii_whitespace().map(str::parse);
    match (words.next(), words.next(), words.next()) {
        (Some(Ok(reservation)), Some(Ok(job)), None) => Ok(Ids { reservation, job }),
        _ => bail!("{} is damaged; it must hold the next reservation and job number", path.display()),
    }
}

/// Makes durable that all ids below these may be in use.
pub fn reserve_ids(state: &Path, ids: Ids) -> std::io::Result<()> {
    replace(&state.join(IDS), format!("{} {}\n", ids.reservation, ids.job).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_given_out_twice_over_restarts() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(ids(state.path()).unwrap(), Ids { reservation: 1, job: 1 });
        let reserved = Ids { reservation: 257, job: 300 };
        reserve_ids(state.path(), reserved).unwrap();
        assert_eq!(ids(state.path()).unwrap(), reserved);
        assert_eq!([1, 2, 3].map(|_| begin(state.path()).unwrap()), [1, 2, 3]);
        for name in [IDS, INCARNATION] {
            fs::write(state.path().join(name), "x").unwrap();
        }
        assert!(ids(state.path()).is_err() && begin(state.path()).is_err(), "never from 1 again by accident");
    }
}
