//! The programs of a grid, installed as an administrator would: root's own, the node manager
//! setuid, and no directory on the way that anybody else may write to.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::statvfs::{FsFlags, statvfs};

/// Programs below `lib`, with their modes.
const LIBRARY: [(&str, u32); 5] =
    [("grc", 0o755), ("crm", 0o755), ("launcher", 0o755), ("node-manager", 0o4755), ("node-agent", 0o755)];
/// The one on the PATH.
const COMMAND: &str = "gridpilot";
/// Ordinary programs for jobs, below `programs`: a sandbox sees them where they stand.
const JOB_PROGRAMS: [&str; 1] = ["gridpilot-flow"];

/// Directory in which cargo left the programs: that of the running program, or the one above
/// when a test is running.
pub fn programs() -> Result<PathBuf> {
    let here = std::env::current_exe().context("cannot tell where this program stands")?;
    let mut directory = here.parent().context("this program stands nowhere")?;
    if directory.ends_with("deps") {
        directory = directory.parent().context("no directory above deps")?;
    }
    Ok(directory.to_owned())
}

/// Every directory from the root down to `path` must be root's and writable by nobody else,
/// else the setuid program refuses to run from there.
pub fn check_parents(path: &Path) -> Result<()> {
    ensure!(path.is_absolute(), "{} is not an absolute path", path.display());
    for directory in path.ancestors().filter(|directory| directory.exists()) {
        let meta = fs::symlink_metadata(directory)?;
        let shown = directory.display();
        ensure!(meta.is_dir(), "{shown} is not a directory (links are not followed here)");
        ensure!(meta.uid() == 0, "{shown} does not belong to root; choose another --dir");
        ensure!(
            meta.mode() & 0o022 == 0,
            "{shown} may be written to by others than root; choose another --dir"
        );
    }
    let there = path.ancestors().find(|directory| directory.exists()).unwrap_or(Path::new("/"));
    let flags = statvfs(there).with_context(|| format!("cannot ask about {}", there.display()))?.flags();
    ensure!(
        !flags.intersects(FsFlags::ST_NOSUID | FsFlags::ST_NOEXEC),
        "{} is mounted nosuid or noexec, so the node manager cannot work there; choose another --dir",
        there.display()
    );
    Ok(())
}

/// Copies the programs below `directory` to `lib`, `bin` and `programs`.
pub fn install(from: &Path, directory: &Path) -> Result<()> {
    let lib = directory.join("lib");
    let bin = directory.join("bin");
    let programs = directory.join("programs");
    for made in [&lib, &bin, &programs] {
        fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
        fs::set_permissions(made, fs::Permissions::from_mode(0o755))?;
    }
    for (name, mode) in LIBRARY {
        put(&from.join(name), &lib.join(name), mode)?;
    }
    for name in JOB_PROGRAMS {
        put(&from.join(name), &programs.join(name), 0o755)?;
    }
    put(&from.join(COMMAND), &bin.join(COMMAND), 0o755)
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    ensure!(
        from.is_file(),
        "{} is missing; build the programs first: cargo build --workspace --bins",
        from.display()
    );
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    // The owner first: changing it takes the setuid bit away.
    std::os::unix::fs::chown(to, Some(0), Some(0))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_may_write_to_is_refused_by_name() {
        let error = check_parents(Path::new("/tmp/a/b")).unwrap_err().to_string();
        assert!(error.contains("/tmp"), "{error}");
        assert!(check_parents(Path::new("relative")).is_err());
    }
}
