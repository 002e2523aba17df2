//! A filesystem for the daemons' state that is small, can be filled up, and can be enlarged.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// What takes the room that is left.
const FILLER: &str = "filler";

/// A small tmpfs over the directory that all state of a grid lies in.
#[derive(Debug)]
pub struct Tight {
    directory: PathBuf,
}

impl Tight {
    /// Mounts it; the directory is there and empty.
    pub fn mount(directory: &Path, kib: u32) -> Result<Self> {
        let options = format!("size={kib}k,mode=0755");
        mount(Some("gridpilot-state"), directory, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("cannot mount {kib} KiB on {}", directory.display()))?;
        Ok(Self::at(directory))
    }

    /// One that another process mounted.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Takes all room that is left.
    pub fn fill(&self) -> Result<()> {
        let mut file = fs::File::options().create(true).append(true).open(self.directory.join(FILLER))?;
        while file.write(&[0x5a; 4096]).is_ok_and(|written| written > 0) {}
        Ok(())
    }

    /// Makes it this large; what is in it stays.
    pub fn enlarge(&self, kib: u32) -> Result<()> {
        let options = format!("size={kib}k");
        let none: Option<&str> = None;
        mount(none, &self.directory, none, MsFlags::MS_REMOUNT, Some(options.as_str()))
            .with_context(|| format!("cannot enlarge {} to {kib} KiB", self.directory.display()))
    }

    /// Takes the filler away again.
    pub fn clear(&self) -> Result<()> {
        let path = self.directory.join(FILLER);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Unmounts it, whoever still has a file open there. Fine when nothing is mounted.
    pub fn unmount(&self) {
        let _ = umount2(&self.directory, MntFlags::MNT_DETACH);
    }
}
