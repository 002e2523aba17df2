//! A job: the command that a user runs inside a reservation, and how it stands.

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, ReservationId};
use crate::limits::{ARGUMENTS_MAX, COMMAND_BYTES_MAX};
use crate::names::{AbsolutePath, HostName, Label, Text, VariableName};
use crate::refusal::{Failure, Refusal};

/// The command and its surroundings, as given; never through a shell.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments; at least the program. Bytes, for the kernel takes any but NUL.
    pub argv: Vec<Vec<u8>>,
    /// Added to the clean environment (`--set`).
    pub variables: Vec<(VariableName, String)>,
    /// Directories to start in, the first that can be entered; the home comes after them.
    pub directories: Vec<AbsolutePath>,
    /// `--cwd` was given: the first directory must be there, or the command does not start.
    pub directory_required: bool,
}

impl Command {
    /// What every receiver checks before it keeps the command.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.argv.is_empty() || self.argv[0].is_empty() {
            return Err(Refusal::EmptyCommand);
        }
        if self.argv.iter().any(|argument| argument.contains(&0))
            || self.variables.iter().any(|(_, value)| value.contains('\0'))
        {
            return Err(Refusal::NulInCommand);
        }
        if self.argv.len() > ARGUMENTS_MAX || self.variables.len() > ARGUMENTS_MAX {
            let what = format!("more than {ARGUMENTS_MAX} arguments or variables").into();
            return Err(Refusal::CommandTooLong { what });
        }
        let arguments: usize = self.argv.iter().map(|a| a.len() + 1).sum();
        let variables: usize = self.variables.iter().map(|(n, v)| n.as_str().len() + v.len() + 2).sum();
        if arguments + variables > COMMAND_BYTES_MAX || self.directories.len() > 4 {
            let what = format!("more than {COMMAND_BYTES_MAX} bytes").into();
            return Err(Refusal::CommandTooLong { what });
        }
        Ok(())
    }
}

/// Which members a command is started on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Target {
    /// The head member only; the program brings the others in by ssh.
    Head,
    /// Every member (`--all`).
    All,
}

/// Which of a command's outputs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ExitStatus {
    Code(u8),
    Signal(u8),
}

impl ExitStatus {
    /// As a shell says it: the code, or 128 + the signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128u8.saturating_add(signal),
        }
    }
}

/// A job's life: `Waiting -> Running -> Done`, or from either to `Failed` or `Cancelled`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum JobState {
    /// Its reservation is not ready yet.
    Waiting,
    Running,
    /// The command ended by itself. With `--all`, the largest code of all members.
    Done(ExitStatus),
    /// The grid could not run it, or lost it.
    Failed(Failure),
    Cancelled,
}

impl JobState {
    /// Nothing more will happen to it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Failed(_) | Self::Cancelled)
    }
}

/// A job as shown to its user. Times are seconds since the epoch on the GRC's clock.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    pub id: JobId,
    pub reservation: ReservationId,
    pub label: Option<Label>,
    pub user: Text,
    /// The command as one readable line, for people only.
    pub command: Text,
    pub target: Target,
    pub state: JobState,
    pub submitted_s: u64,
    pub started_s: Option<u64>,
    pub ended_s: Option<u64>,
    /// Member on which each not yet ended or failed part of the job runs, if few.
    pub head: Option<HostName>,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
}
