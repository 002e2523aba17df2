//! The few things that several grids on one machine share: the account and the mount point of
//! the node policy. Who made them is written down, and the last grid to go takes them away.
//! All of it happens under one lock.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::account::{self, Account};
use crate::node::POLICY_DIRECTORY;

/// Notes about shared things; gone when no grid is up.
const NOTES: &str = "/var/lib/gridpilot-local.shared";
/// Followed by the account's name.
const MADE_ACCOUNT: &str = "made-account-";
const MADE_POLICY_DIRECTORY: &str = "made-policy-directory";

/// Everybody else waits while this lives. The lock is on a directory that is always there, so
/// that taking it leaves nothing behind.
struct Locked {
    _file: File,
}

fn lock() -> Result<Locked> {
    let file = File::open("/var/lib").context("cannot open /var/lib")?;
    file.lock().context("cannot lock /var/lib")?;
    Ok(Locked { _file: file })
}

fn user_note(grid: &Path) -> PathBuf {
    let name = grid.to_string_lossy().replace('%', "%25").replace('/', "%2f");
    Path::new(NOTES).join(format!("grid-{name}"))
}

/// Makes sure that account and mount point are there, on behalf of the grid in `grid`. The
/// account is that of whoever called sudo, else the one called `name`.
pub fn enter(grid: &Path, name: &str) -> Result<Account> {
    let _locked = lock()?;
    fs::create_dir_all(NOTES).with_context(|| format!("cannot make {NOTES}"))?;
    fs::write(user_note(grid), name)?;
    if !Path::new(POLICY_DIRECTORY).exists() {
        // The note first: a crash between the two leaves a note too many, never a directory.
        fs::write(Path::new(NOTES).join(MADE_POLICY_DIRECTORY), "")?;
        fs::create_dir(POLICY_DIRECTORY).with_context(|| format!("cannot make {POLICY_DIRECTORY}"))?;
    }
    if let Some(caller) = account::caller()? {
        return Ok(caller);
    }
    if let Some(there) = account::find(name)? {
        return Ok(there);
    }
    fs::write(Path::new(NOTES).join(format!("{MADE_ACCOUNT}{name}")), "")?;
    account::make(name)
}

/// Ends what [`enter`] began. Repeatable. Whatever was made goes with the last grid.
pub fn leave(grid: &Path) -> Result<()> {
    let _locked = lock()?;
    let notes = Path::new(NOTES);
    if !notes.exists() {
        return Ok(());
    }
    let _ = fs::remove_file(user_note(grid));
    let names: Vec<String> = fs::read_dir(notes)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let grids: Vec<&String> = names.iter().filter(|name| name.starts_with("grid-")).collect();
    let in_use: Vec<String> =
        grids.iter().map(|note| fs::read_to_string(notes.join(note)).unwrap_or_default()).collect();
    for made in names.iter().filter_map(|name| name.strip_prefix(MADE_ACCOUNT)) {
        if !in_use.iter().any(|name| name == made) {
            account::remove(made)?;
            fs::remove_file(notes.join(format!("{MADE_ACCOUNT}{made}")))?;
        }
    }
    if !grids.is_empty() {
        return Ok(());
    }
    if notes.join(MADE_POLICY_DIRECTORY).exists() {
        // Only when empty: whatever somebody put there is theirs.
        let _ = fs::remove_dir(POLICY_DIRECTORY);
    }
    fs::remove_dir_all(notes).with_context(|| format!("cannot remove {NOTES}"))
}
