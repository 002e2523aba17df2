//! What a batch system says of itself and of pilots, in words that every system shares.

use std::time::Duration;

use protocol::names::{NodeName, Text};

/// Why a batch system did not do what it was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BatchError {
    /// It says no: asking again for the same is useless (limits, account, partition).
    #[error("{0}")]
    Refused(Text),
    /// It did nothing, and may do it later.
    #[error("{0}")]
    Unavailable(Text),
    /// It did nothing, for this account has as much there as it may have: other accounts are not
    /// concerned, and it may do it later.
    #[error("{0}")]
    AccountFull(Text),
    /// It did not answer: it may have done it. How its pilots stand tells, after a while.
    #[error("{0}")]
    Unknown(Text),
}

impl BatchError {
    pub fn refused(why: impl Into<Text>) -> Self {
        Self::Refused(why.into())
    }

    pub fn unavailable(why: impl Into<Text>) -> Self {
        Self::Unavailable(why.into())
    }

    pub fn account_full(why: impl Into<Text>) -> Self {
        Self::AccountFull(why.into())
    }

    pub fn unknown(why: impl Into<Text>) -> Self {
        Self::Unknown(why.into())
    }
}

/// What a batch system can do by itself; what it cannot, the CRM does around it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Capabilities {
    /// It starts a pilot on the node that the CRM names. If not, a node is known at arrival.
    pub places_on_named_nodes: bool,
    /// It keeps nodes free for a window in the future. If not, pilots begin early and wait for
    /// their window.
    pub reserves_ahead: bool,
    /// It enforces memory and processor limits around the pilot.
    pub enforces_limits: bool,
    /// How long before a window pilots must be submitted at least, so that they run when it opens.
    pub lead: Duration,
    /// The most nodes that one batch job may have; `None` = not limited, or not said.
    pub nodes_max: Option<u32>,
    /// The longest time that a batch job may be given; `None` = not limited, or not said.
    pub walltime_max: Option<Duration>,
    /// Why the queue starts nothing now, whatever is submitted: it is shut or drained.
    pub closed: Option<Text>,
}

/// A pilot as the batch system knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It waits for nodes: why, in the system's words, and in how long it may run, as far as known.
    Queued { why: Option<Text>, expected: Option<Duration> },
    /// It runs, on this node as far as that is known.
    Running { node: Option<NodeName> },
    /// Its process is gone, and why, in people's words; said once, then the system forgets it.
    Gone(Text),
}
