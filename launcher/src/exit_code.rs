//! How the Launcher ends: a documented code for the batch system and one line for people.

use std::fmt;

use crate::invocation::InvocationError;

/// Why the Launcher ended.
#[derive(Debug)]
pub enum Ending {
    /// The NodeManager ended by itself: the reservation is over, or its CRM ended it.
    Finished,
    /// A signal asked for the end, and the NodeManager is down.
    Asked {
        signal: &'static str,
    },
    /// Started with arguments that are not ours.
    Usage(String),
    Invocation(InvocationError),
    /// No NodeManager could be started.
    Start {
        cause: String,
    },
    /// The NodeManager refused or failed; its own line stands above.
    NodeManagerFailed {
        code: i32,
    },
    /// The NodeManager was killed; what it owned died with it, and a sweep has run.
    NodeManagerKilled {
        signal: &'static str,
        swept: bool,
    },
}

impl Ending {
    /// 0 orderly, 2 usage, 65 invocation unusable, 69 no NodeManager, 70 the NodeManager refused
    /// or failed, 71 it was killed.
    pub fn code(&self) -> u8 {
        match self {
            Self::Finished | Self::Asked { .. } => 0,
            Self::Usage(_) => 2,
            Self::Invocation(_) => 65,
            Self::Start { .. } => 69,
            Self::NodeManagerFailed { .. } => 70,
            Self::NodeManagerKilled { .. } => 71,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => write!(f, "ended: the NodeManager is done"),
            Self::Asked { signal } => write!(f, "ended on {signal}: the NodeManager is down"),
            Self::Usage(given) => {
                write!(f, "{given}; usage: launcher --invocation FILE, or --invocation - for standard input")
            }
            Self::Invocation(error) => write!(f, "{error}"),
            Self::Start { cause } => write!(f, "cannot start the NodeManager: {cause}"),
            Self::NodeManagerFailed { code } => {
                write!(f, "the NodeManager ended with code {code}; its reason stands above")
            }
            Self::NodeManagerKilled { signal, swept } => {
                let sweep = if *swept { "the sweep has run" } else { "the sweep failed too" };
                write!(f, "the NodeManager was killed by {signal}; {sweep}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_is_one_line_and_only_orderly_ones_are_zero() {
        let endings = [
            (Ending::Finished, 0),
            (Ending::Asked { signal: "SIGTERM" }, 0),
            (Ending::Usage("x".into()), 2),
            (Ending::Invocation(InvocationError::Empty), 65),
            (Ending::Start { cause: "gone".into() }, 69),
            (Ending::NodeManagerFailed { code: 3 }, 70),
            (Ending::NodeManagerKilled { signal: "SIGKILL", swept: true }, 71),
        ];
        for (ending, code) in endings {
            assert_eq!(ending.code(), code, "{ending:?}");
            assert_eq!(ending.to_string().lines().count(), 1, "{ending:?}");
        }
    }
}
