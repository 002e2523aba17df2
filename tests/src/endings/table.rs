//! What many rounds came to, as a table for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::round::Outcome;
use super::{Bed, Ending};

/// Of what users read, so much is shown.
const SHOWN_CHARS: usize = 70;

/// One line of the table.
#[derive(Clone, Debug, Default)]
struct Line {
    rounds: u32,
    ran_on: u32,
    left: u32,
    broken: u32,
    slowest: Duration,
    shown: String,
}

/// All rounds so far.
#[derive(Clone, Debug, Default)]
pub struct Table {
    lines: BTreeMap<(String, Ending), Line>,
    /// Each leftover and each broken promise, one line each.
    pub complaints: Vec<String>,
    /// Batch systems that are not on this machine, and what of them is missing.
    absent: Vec<String>,
}

impl Table {
    /// Adds a round of a bed.
    pub fn add(&mut self, bed: Bed, outcome: &Outcome) {
        self.complaints.extend(outcome.after.iter().map(|what| format!("{bed}: after all endings: {what}")));
        for report in &outcome.reports {
            let line = self.lines.entry((bed.to_string(), report.ending)).or_default();
            line.rounds += 1;
            line.ran_on += u32::from(report.ran_on);
            line.left += u32::from(!report.left.is_empty());
            line.broken += u32::from(!report.broken.is_empty());
            line.slowest = line.slowest.max(report.clean_after.unwrap_or_default());
            line.shown.clone_from(&report.shown);
            let complain = |what: &String| format!("{bed}: {}: {what}", report.ending);
            self.complaints
                .extend(report.left.iter().map(|left| format!("left: {left}")).map(|l| complain(&l)));
            self.complaints.extend(report.broken.iter().map(complain));
        }
    }

    /// Notes a bed that could not be tried here.
    pub fn absent(&mut self, bed: Bed, missing: &str) {
        self.absent.push(format!("NOT TRIED: {bed}: {missing} is not on this machine"));
    }

    /// Rounds of single endings, and those after which something was left.
    pub fn counts(&self) -> (u32, u32) {
        self.lines.values().fold((0, 0), |(rounds, left), line| (rounds + line.rounds, left + line.left))
    }
}

/// As much of a text as a line of the table has room for.
fn short(text: &str) -> String {
    let first: String = text.chars().take(SHOWN_CHARS).collect();
    if first.len() < text.len() { first + "..." } else { first }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<17} {:<21} {:>6} {:>6} {:>4} {:>6} {:>7}  SHOWN",
            "BATCH", "ENDING", "ROUNDS", "RAN ON", "LEFT", "BROKEN", "GONE IN"
        )?;
        for ((bed, ending), line) in &self.lines {
            writeln!(
                f,
                "{bed:<17} {ending:<21} {:>6} {:>6} {:>4} {:>6} {:>5.1} s  {}",
                line.rounds,
                line.ran_on,
                line.left,
                line.broken,
                line.slowest.as_secs_f64(),
                short(&line.shown)
            )?;
        }
        for absent in &self.absent {
            writeln!(f, "{absent}")?;
        }
        let (rounds, left) = self.counts();
        write!(f, "{rounds} endings, {left} of them left something, {} complaints", self.complaints.len())
    }
}
