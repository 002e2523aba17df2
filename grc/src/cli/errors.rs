//! Everything that can end `gridpilot` other than well, with its exit code and its sentence.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 2 | usage |
//! | 120 | refused: nothing was changed |
//! | 121 | not found |
//! | 122 | the GRC cannot be reached |
//! | 123 | the grid failed |
//! | 124 | timed out |
//! | 125 | a bug of ours |
//! | 130 | interrupted; what was submitted goes on |
//! | 141 | the reader of our output went away |
//!
//! `submit --wait` and `wait` end with the job's own code (128 + signal); a cancelled job has 143.

use std::io;

use protocol::refusal::{Failure, Refusal};

/// What clap uses as well.
pub const USAGE: u8 = 2;
/// A cancelled job: what its SIGTERM makes of it.
pub const CANCELLED: u8 = 143;

/// Why there is no good end. Every variant prints as one to three lines.
#[derive(Debug)]
pub enum CliError {
    /// What was typed, or a file that was named, cannot be meant.
    Usage(String),
    Refused(Refusal),
    Unreachable {
        /// Its socket or address.
        grc: String,
        cause: String,
        /// What the reader can do about it.
        hint: String,
    },
    /// Who answers there is not who was meant.
    WrongPin {
        grc: String,
    },
    /// No key that could be tried lets the user in.
    NotLetIn {
        grc: String,
        user: String,
        tried: Vec<String>,
        /// Why others could not be tried.
        unusable: Vec<String>,
    },
    /// Something of the user's failed; `what` is its id.
    Failed {
        what: String,
        failure: Box<Failure>,
    },
    TimedOut {
        what: String,
        hint: String,
    },
    Bug(String),
    /// Ctrl-C; the sentence says how to come back.
    Interrupted(String),
    /// Nobody reads our output: an ordinary end, so nothing is said.
    OutputClosed,
    Output(io::Error),
}

impl CliError {
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Refused(refusal) if refusal.is_not_found() => 121,
            Self::Refused(_) | Self::WrongPin { .. } | Self::NotLetIn { .. } => 120,
            Self::Unreachable { .. } => 122,
            Self::Failed { .. } => 123,
            Self::TimedOut { .. } => 124,
            Self::Bug(_) | Self::Output(_) => 125,
            Self::Interrupted(_) => 130,
            Self::OutputClosed => 141,
        }
    }

    /// The same in one word, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Refused(refusal) if refusal.is_not_found() => "not-found",
            Self::Refused(_) | Self::NotLetIn { .. } => "refused",
            Self::WrongPin { .. } => "wrong-pin",
            Self::Unreachable { .. } => "unreachable",
            Self::Failed { .. } => "failed",
            Self::TimedOut { .. } => "timed-out",
            Self::Bug(_) => "bug",
            Self::Output(_) => "output",
            Self::Interrupted(_) => "interrupted",
            Self::OutputClosed => "output-closed",
        }
    }

    /// One to three lines; empty when there is nothing to say.
    pub fn sentence(&self) -> String {
        match self {
            Self::Usage(text) | Self::Interrupted(text) => text.clone(),
            Self::Refused(refusal) => super::room::sentence(refusal),
            Self::Unreachable { grc, cause, hint } => {
                format!("the GRC cannot be reached at {grc}: {cause}\n  {hint}")
            }
            Self::WrongPin { grc } => format!(
                "the GRC at {grc} is not the one whose pin you gave: nothing was said to it; ask its administrator"
            ),
            Self::NotLetIn { grc, user, tried, unusable } => not_let_in(grc, user, tried, unusable),
            Self::Failed { what, failure } => format!("{what} failed: {failure}"),
            Self::TimedOut { what, hint } => format!("{what}\n  {hint}"),
            Self::Bug(text) => {
                let first = text.lines().collect::<Vec<_>>().join(" ");
                format!("this is a bug in gridpilot, please report it\n  {first}")
            }
            Self::Output(error) => format!("cannot write to the standard output: {error}"),
            Self::OutputClosed => String::new(),
        }
    }

    /// The sentence of a write that failed.
    pub fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Output(error),
        }
    }

    /// A reply that does not belong to what was asked.
    pub fn unexpected(reply: &protocol::client::Reply) -> Self {
        let name = format!("{reply:?}");
        let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        Self::Bug(format!("the GRC answered {name}, which does not fit what was asked"))
    }
}

/// Two lines: what happened, and the first thing that can be done.
fn not_let_in(grc: &str, user: &str, tried: &[String], unusable: &[String]) -> String {
    let hint = match unusable.first() {
        Some(first) if unusable.len() == 1 => first.clone(),
        Some(first) => format!("{first} (and {} more)", unusable.len() - 1),
        None if tried.is_empty() => "start an ssh agent with your key, or say --key FILE".to_owned(),
        None => {
            "its administrator adds your public key to the users file; `gridpilot login --user NAME` says \
                 another name"
                .to_owned()
        }
    };
    match tried {
        [] => format!("cannot log in to the GRC at {grc} as {user}: there is no ssh key to use\n  {hint}"),
        [one] => format!("the GRC at {grc} does not let in {user} with the key {one}\n  {hint}"),
        many => format!("the GRC at {grc} does not let in {user} with any of {} keys\n  {hint}", many.len()),
    }
}

/// A message of clap's in at most three lines: what is wrong, a tip, where help is.
pub fn condense(rendered: &str) -> String {
    let said = rendered.split("\nUsage:").next().unwrap_or_default();
    let mut lines: Vec<String> = Vec::new();
    for line in said.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with("For more information") {
            continue;
        }
        let line = line.strip_prefix("error: ").unwrap_or(line);
        match lines.last_mut() {
            // What clap breaks after a colon belongs together.
            Some(last) if last.ends_with(':') || lines_belong(last, line) => {
                last.push(' ');
                last.push_str(line);
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.truncate(2);
    lines.push("`gridpilot --help` and `gridpilot VERB --help` show what is understood".to_owned());
    lines.join("\n  ")
}

/// Lists of missing arguments come one below the other.
fn lines_belong(last: &str, line: &str) -> bool {
    last.contains("required arguments") && !line.starts_with("tip:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::ids::JobId;
    use protocol::names::SiteName;
    use protocol::refusal::Step;

    fn not_let_in(tried: &[&str], unusable: &[&str]) -> CliError {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let (tried, unusable) = (owned(tried), owned(unusable));
        CliError::NotLetIn { grc: "h:1".into(), user: "u".into(), tried, unusable }
    }

    fn every_error() -> Vec<CliError> {
        let site: SiteName = "a".parse().unwrap();
        vec![
            CliError::Usage("no".into()),
            CliError::Refused(Refusal::ZeroNodes),
            CliError::Refused(Refusal::UnknownJob { id: JobId(3) }),
            CliError::Unreachable { grc: "/x".into(), cause: "gone".into(), hint: "start it".into() },
            CliError::Failed {
                what: "j3".into(),
                failure: Box::new(Failure::new(Step::Run, "no sshd", "look there").at_site(&site)),
            },
            CliError::TimedOut { what: "late".into(), hint: "wait".into() },
            CliError::Bug("a\nb\nc\nd".into()),
            CliError::Output(io::Error::other("full")),
            CliError::Interrupted("x".into()),
            CliError::OutputClosed,
            CliError::WrongPin { grc: "h:1".into() },
            not_let_in(&[], &[]),
            not_let_in(&["k"], &[]),
            not_let_in(&["k", "l"], &["a", "b"]),
        ]
    }

    #[test]
    fn every_error_prints_in_at_most_three_lines() {
        for error in every_error() {
            assert!(error.sentence().lines().count() <= 3, "{error:?}");
        }
    }

    #[test]
    fn codes_are_those_that_are_documented() {
        let codes: Vec<u8> = every_error().iter().map(CliError::code).collect();
        assert_eq!(codes, [2, 120, 121, 122, 123, 124, 125, 125, 130, 141, 120, 120, 120, 120]);
    }

    #[test]
    fn a_usage_message_keeps_what_is_wrong_and_the_tip() {
        let text = condense(
            "error: unexpected argument '--nods' found\n\n  tip: a similar argument exists: '--nodes'\n\n\
             Usage: gridpilot submit [OPTIONS]\n\nFor more information, try '--help'.\n",
        );
        assert_eq!(
            text.lines().take(2).collect::<Vec<_>>(),
            ["unexpected argument '--nods' found", "  tip: a similar argument exists: '--nodes'"]
        );
        assert_eq!(text.lines().count(), 3);
    }
}
