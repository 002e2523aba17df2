//! A job: the command that a user runs inside a reservation, and how it stands.

use serde::{Deserialize, Serialize};

use crate::codec::at_most;
use crate::ids::{JobId, ReservationId};
use crate::limits::{
    self, ARGUMENTS_MAX, COMMAND_BYTES_MAX, DIRECTORIES_MAX, OUTPUT_CHUNK_BYTES_MAX, SIGNAL_MAX,
};
use crate::names::{AbsolutePath, HostName, Label, Text, VariableName};
use crate::refusal::{Failure, Refusal};

/// The command and its surroundings, as given; never through a shell.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments; at least the program. Bytes, for the kernel takes any but NUL.
    #[serde(deserialize_with = "at_most::<{limits::ARGUMENTS_DECODED_MAX}, _, _>")]
    pub argv: Vec<Vec<u8>>,
    /// Added to the clean environment (`--set`).
    #[serde(deserialize_with = "at_most::<{limits::ARGUMENTS_DECODED_MAX}, _, _>")]
    pub variables: Vec<(VariableName, String)>,
    /// Directories to start in, the first that can be entered; the home comes after them.
    #[serde(deserialize_with = "at_most::<{limits::DIRECTORIES_MAX}, _, _>")]
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
        if self.argv.iter().any(|argument| argument.contains(&0)) {
            return Err(Refusal::NulInCommand);
        }
        let variables = check_variables(&self.variables)?;
        if self.argv.len() > ARGUMENTS_MAX {
            let what = format!("more than {ARGUMENTS_MAX} arguments").into();
            return Err(Refusal::CommandTooLong { what });
        }
        let arguments: usize = self.argv.iter().map(|a| a.len() + 1).sum();
        if self.directories.len() > DIRECTORIES_MAX {
            let what = format!("more than {DIRECTORIES_MAX} directories to start in").into();
            return Err(Refusal::CommandTooLong { what });
        }
        if arguments + variables > COMMAND_BYTES_MAX {
            let what = format!("more than {COMMAND_BYTES_MAX} bytes").into();
            return Err(Refusal::CommandTooLong { what });
        }
        Ok(())
    }
}

/// What is checked of variables wherever they come with something to run: no NUL, not too many.
pub(crate) fn check_variables(variables: &[(VariableName, String)]) -> Result<usize, Refusal> {
    if variables.iter().any(|(_, value)| value.contains('\0')) {
        return Err(Refusal::NulInCommand);
    }
    if variables.len() > ARGUMENTS_MAX {
        let what = format!("more than {ARGUMENTS_MAX} variables").into();
        return Err(Refusal::CommandTooLong { what });
    }
    Ok(variables.iter().map(|(n, v)| n.as_str().len() + v.len() + 2).sum())
}

/// What is checked of a piece of output.
pub(crate) fn check_output(offset: u64, bytes: &[u8]) -> Result<(), Refusal> {
    Refusal::unless_at_most("bytes of output", bytes.len(), OUTPUT_CHUNK_BYTES_MAX)?;
    let end = offset.checked_add(bytes.len() as u64);
    Refusal::unless(end.is_some(), "output beyond the largest offset")
}

/// What is checked of a signal's number.
pub(crate) fn check_signal(signal: u8) -> Result<(), Refusal> {
    let fits = (1..=SIGNAL_MAX).contains(&signal);
    Refusal::unless(fits, &format!("signal {signal} cannot be sent, only 1 to {SIGNAL_MAX} can"))
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

/// Which limits of a sandbox were hit while a command ran in it; zero and false where none was. They
/// are counted for the sandbox, so commands that run beside each other share the blame.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Hits {
    /// Processes that the kernel killed because there was no memory left.
    pub out_of_memory: u32,
    /// How often a process or thread could not be made, for there were too many.
    pub processes_refused: u32,
    /// The writable part was full.
    pub disk_full: bool,
    /// The writable part could hold no more files.
    pub files_full: bool,
    /// How large the limits that were hit are; 0 for one that was not, or where it is not known.
    pub memory_bytes: u64,
    pub pids: u32,
    pub disk_bytes: u64,
    pub files: u64,
}

impl Hits {
    /// No limit was hit.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What was hit here or there. Of two sizes the smaller: that is the one in the way.
    pub fn and(self, other: Self) -> Self {
        fn least<T: Ord + Default>(one: T, other: T) -> T {
            let none = T::default();
            if one == none || (other != none && other < one) { other } else { one }
        }
        Self {
            out_of_memory: self.out_of_memory.saturating_add(other.out_of_memory),
            processes_refused: self.processes_refused.saturating_add(other.processes_refused),
            disk_full: self.disk_full || other.disk_full,
            files_full: self.files_full || other.files_full,
            memory_bytes: least(self.memory_bytes, other.memory_bytes),
            pids: least(self.pids, other.pids),
            disk_bytes: least(self.disk_bytes, other.disk_bytes),
            files: least(self.files, other.files),
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
    /// The head member: the first of the reservation's first site, where a job for the head runs. None
    /// before the job was started.
    pub head: Option<HostName>,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    /// Limits that were hit on any of its members.
    pub hits: Hits,
}
