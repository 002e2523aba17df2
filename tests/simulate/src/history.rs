//! What happened, for people; and the rule that was broken, if one was.

use std::fmt::{self, Write as _};

use crate::agenda::Micros;

/// A rule that must hold in every history, broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// Which rule; the names stand in `docs/simulation.md`.
    pub rule: &'static str,
    pub what: String,
    pub at: Micros,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (at {})", self.rule, self.what, time(self.at))
    }
}

pub fn time(at: Micros) -> String {
    format!("{}.{:06} s", at / 1_000_000, at % 1_000_000)
}

/// The lines of a history, if somebody wants to read them, and the first violation.
#[derive(Debug, Default)]
pub struct History {
    lines: Option<String>,
    pub events: u64,
    /// Of everything that was said, so that two histories can be compared without their lines.
    pub digest: u64,
    pub violation: Option<Violation>,
}

impl History {
    pub fn new(recorded: bool) -> Self {
        Self { lines: recorded.then(String::new), ..Self::default() }
    }

    pub fn is_recorded(&self) -> bool {
        self.lines.is_some()
    }

    /// A line, made only when somebody reads it.
    pub fn say(&mut self, at: Micros, who: impl fmt::Display, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let what = what();
            let _ = writeln!(lines, "{:>6} {:>12} {who:<8} {what}", self.events, time(at));
        }
    }

    /// Counts a happening and takes its kind and time into the digest.
    pub fn count(&mut self, at: Micros, kind: u64) {
        self.events += 1;
        self.digest = (self.digest ^ at.wrapping_mul(31) ^ kind).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// The first broken rule stays.
    pub fn broken(&mut self, at: Micros, rule: &'static str, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let violation = Violation { rule, what: what(), at };
            self.say(at, "RULE", || violation.to_string());
            self.violation = Some(violation);
        }
    }

    pub fn lines(&self) -> &str {
        self.lines.as_deref().unwrap_or("")
    }
}
