//! What a CRM calls of its batch system, noted. In the place of each command stands a script that
//! writes the words down and becomes the real command: what it answers is real, and so is its cost
//! but for a shell's start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{directory, find};
use crate::state::State;

/// All that a CRM may call, of either system.
const PROGRAMS: [&str; 12] = [
    "sbatch", "squeue", "scancel", "srun", "scontrol", "qsub", "qstat", "qdel", "qconf", "qrsub", "qrstat",
    "qrdel",
];

/// How a question for all pilots begins. Other words of `qstat` are for a queue's limits, and why
/// jobs wait.
const LOOKS: [&str; 2] = ["squeue ", "qstat -xml -g t "];

/// The directory in which a site's CRM finds the commands.
pub fn commands(state: &State, site: u32) -> PathBuf {
    if state.plan.batch.counted { directory(state, site).join("counted") } else { "/usr/bin".into() }
}

fn notes(state: &State, site: u32) -> PathBuf {
    directory(state, site).join("called")
}

/// Writes the scripts of a site whose batch system stands.
pub fn make(state: &State, site: u32) -> Result<()> {
    let notes = notes(state, site);
    fs::write(&notes, "").with_context(|| format!("cannot write {}", notes.display()))?;
    // Some are called as the account.
    fs::set_permissions(&notes, fs::Permissions::from_mode(0o666))?;
    let place = commands(state, site);
    fs::create_dir_all(&place)?;
    for (program, real) in PROGRAMS.iter().filter_map(|program| Some((program, find(program)?))) {
        let (notes, real) = (notes.display(), real.display());
        let text = format!("#!/bin/sh\nprintf '%s\\n' \"{program} $*\" >> '{notes}'\nexec '{real}' \"$@\"\n");
        let script = place.join(program);
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// All calls of a site's CRM until now, in their order: the command's name and its words.
pub fn called(state: &State, site: u32) -> Result<Vec<String>> {
    Ok(fs::read_to_string(notes(state, site))?.lines().map(String::from).collect())
}

/// Those of them that ask how all pilots stand.
pub fn looks(state: &State, site: u32) -> Result<Vec<String>> {
    let mut called = called(state, site)?;
    called.retain(|call| LOOKS.iter().any(|look| call.starts_with(look)));
    Ok(called)
}
