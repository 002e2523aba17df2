//! How a step fails: its name, the kernel's reason, and on what.

use std::fmt;

use crate::operation::{Notice, Step};

/// A step that failed. Printed it reads `cannot <step>: <detail>: <errno text>`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    pub step: Step,
    /// 0 when the detail says it all.
    pub errno: i32,
    /// On what, or why; may be empty.
    pub detail: String,
}

impl Failure {
    /// A failure of our own rules, without an errno.
    pub fn rule(step: Step, detail: impl fmt::Display) -> Failure {
        Failure { step, errno: 0, detail: detail.to_string() }
    }

    /// The record that carries it to the agent.
    pub fn notice(&self) -> Notice {
        Notice::Failed { step: self.step, errno: self.errno, detail: self.detail.clone() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.step.sentence())?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        if self.errno != 0 {
            write!(f, ": {}", std::io::Error::from_raw_os_error(self.errno))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Names the step at which a system call failed, and on what.
pub trait At<T> {
    fn at(self, step: Step, detail: impl fmt::Display) -> Result<T, Failure>;
}

/// Whatever has the kernel's number: of std, rustix or nix.
impl<T, E: Into<std::io::Error>> At<T> for Result<T, E> {
    fn at(self, step: Step, detail: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            step,
            errno: error.into().raw_os_error().unwrap_or(libc::EIO),
            detail: detail.to_string(),
        })
    }
}
