//! An attack script and what its head says of it.
//!
//! ```text
//! # A13 tokens of others, old ones, changed ones      (second line: its entry, and what it tries)
//! # where: node                                       as an ordinary user on the node
//! # where: root                                       the same, but root arranges something first
//! # where: inside                                     as a job in a sandbox of a whole grid
//! # audit: 2 refused to start: not started            so many lines of the system log with this text,
//! # audit: LOOPS build                                ... one for each turn of its loop,
//! # audit: * torn down                                ... any number; no line may be unaccounted for
//! # loops: 20 10000                                   turns in a short run and in a full one
//! # alone                                             in a sandbox of its own (inside)
//! ```
//! One in a sandbox of its own may be killed by that sandbox's limits after it has said `last step`.
//! It ends with 0 when everything was refused as it must be, with 77 and a reason on its last line
//! when this machine cannot show it, and with anything else when something got through.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// A line of a start about pilots before it.
pub const SWEPT: &str = ": swept at the start: ";
/// Number of the last entry of the list.
pub const ENTRIES: u32 = 60;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    Node,
    Root,
    Inside,
}

/// How often a line of the system log must be there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Times {
    Exactly(usize),
    Loops,
    Any,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub entry: u32,
    pub title: String,
    pub path: PathBuf,
    pub place: Place,
    pub audit: Vec<(Times, String)>,
    /// Short, full.
    pub loops: [u32; 2],
    pub alone: bool,
}

impl Script {
    pub fn read(path: &Path) -> Result<Script> {
        let text = fs::read_to_string(path)?;
        let named = || path.display().to_string();
        let mut head = text.lines().skip(1).map_while(|line| line.strip_prefix('#')).map(str::trim);
        let (entry, title) = head.next().and_then(|line| line.split_once(' ')).with_context(named)?;
        let mut script = Script {
            entry: entry.strip_prefix('A').and_then(|number| number.parse().ok()).with_context(named)?,
            title: title.to_owned(),
            path: path.to_owned(),
            place: Place::Node,
            audit: vec![],
            loops: [1, 1],
            alone: false,
        };
        for line in head {
            match line.split_once(": ") {
                Some(("where", "node")) => script.place = Place::Node,
                Some(("where", "root")) => script.place = Place::Root,
                Some(("where", "inside")) => script.place = Place::Inside,
                Some(("audit", rest)) => script.audit.push(audit(rest).with_context(named)?),
                Some(("loops", rest)) => {
                    let (short, full) = rest.split_once(' ').with_context(named)?;
                    script.loops = [short.parse()?, full.parse()?];
                }
                _ if line == "alone" => script.alone = true,
                // The rest is for people.
                _ => {}
            }
        }
        Ok(script)
    }

    /// All of a directory, in the order of their entries.
    pub fn all(directory: &Path) -> Result<Vec<Script>> {
        let mut scripts = Vec::new();
        for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with('a') && name.ends_with(".sh") {
                scripts.push(Script::read(&path)?);
            }
        }
        scripts.sort_by_key(|script| (script.entry, script.path.clone()));
        Ok(scripts)
    }

    /// Entries of the list that have none.
    pub fn missing(scripts: &[Script]) -> Vec<u32> {
        (1..=ENTRIES).filter(|number| !scripts.iter().any(|script| script.entry == *number)).collect()
    }

    pub fn turns(&self, full: bool) -> u32 {
        self.loops[usize::from(full)]
    }

    /// Whether the system log has what it must have, and nothing that it must not.
    pub fn check_log(&self, lines: &[String], full: bool) -> Result<()> {
        // What somebody else's killed monitor left is swept by whoever starts next.
        let mut open: Vec<&String> = lines.iter().filter(|line| !line.contains(SWEPT)).collect();
        for line in lines {
            ensure!(!line.chars().any(char::is_control), "a line with a control character: {line:?}");
        }
        for (times, text) in &self.audit {
            let before = open.len();
            open.retain(|line| !line.contains(text.as_str()));
            let found = before - open.len();
            let wanted = match times {
                Times::Exactly(wanted) => *wanted,
                Times::Loops => self.turns(full) as usize,
                Times::Any => found,
            };
            ensure!(
                found == wanted,
                "{found} lines with `{text}`, not {wanted}; the log:\n  {}",
                lines.join("\n  ")
            );
        }
        ensure!(open.is_empty(), "lines that nobody expects: {open:?}");
        Ok(())
    }
}

fn audit(text: &str) -> Option<(Times, String)> {
    let (times, text) = text.split_once(' ')?;
    let times = match times {
        "*" => Times::Any,
        "LOOPS" => Times::Loops,
        number => Times::Exactly(number.parse().ok()?),
    };
    Some((times, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(head: &str) -> Script {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a7.sh");
        fs::write(&path, format!("#!/bin/bash\n{head}\ntrue\n")).unwrap();
        Script::read(&path).unwrap()
    }

    #[test]
    fn a_log_has_what_the_head_says_and_nothing_else() {
        let head = "# A7 something\n# where: root\n# audit: 2 refused\n# audit: LOOPS build\n# loops: 3 9";
        let script = script(head);
        assert_eq!((script.entry, script.title.as_str(), script.place), (7, "something", Place::Root));
        let log = |refused: usize, built: usize, more: &[&str]| -> Vec<String> {
            let lines = [vec!["refused"; refused], vec!["build"; built], more.to_vec()];
            lines.concat().into_iter().map(str::to_owned).collect()
        };
        assert!(script.check_log(&log(2, 3, &[]), false).is_ok());
        assert!(script.check_log(&log(2, 9, &[]), true).is_ok());
        for wrong in [log(1, 3, &[]), log(2, 2, &[]), log(2, 3, &["other"]), log(3, 3, &[])] {
            assert!(script.check_log(&wrong, false).is_err(), "{wrong:?}");
        }
        let mut split = log(2, 3, &[]);
        split[0].push('\n');
        assert!(script.check_log(&split, false).is_err(), "a control character");
    }

    #[test]
    fn every_entry_of_the_list_has_a_script() {
        let scripts = Script::all(&crate::siege::attacks::scripts_directory()).unwrap();
        assert_eq!(Script::missing(&scripts), Vec::<u32>::new());
    }
}
