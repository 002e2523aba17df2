//! Bandwidth between sites: what a provider of it is asked, and what it answers.
//!
//! The operations and their states are those of OGF NSI CS 2.x, so that a requester that speaks
//! NSI to a network domain is one more [`BandwidthProvider`] and no caller changes. For one
//! connection:
//!
//! ```text
//!            Reserve            Commit
//! Nothing ------------> Held ------------> Granted <---> Provisioned     Provision, Release
//!    ^                   | |                | ^ |
//!    +--- Abort ---------+ |         Reserve| | | Abort, time-out: the grant stays
//!    +--- time-out --------+        (newer) v | v
//!                                    Granted + Held ---> Granted         Commit: the newer one
//! any state --- Terminate ---> Nothing
//! ```
//! Reserved is not provisioned: traffic is promised only while both, and inside the window. A
//! change is a Reserve of a higher version beside the grant; until it is committed the larger of
//! both is kept free, second by second.
//!
//! Shaped for a provider far away, yet sans-IO: a request may be confirmed at once or by a later
//! [`BandwidthProvider::tick`], and every request may be repeated: it is answered by how it
//! stands. A hold may time out, and the requester is told. Hence bandwidth is held last and
//! committed first.

mod carriers;
pub mod static_links;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::time::Duration;

use capacity::{Demand, Window};
use protocol::names::SiteName;

pub use protocol::ids::Version;
pub use protocol::refusal::Resource;
/// A rate between two sites, each way; in which order they are named does not matter.
pub use protocol::reservation::PairRate as Pair;

pub use static_links::StaticLinks;

/// What one reservation has at the network; its number is the reservation's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Connection(pub u64);

/// What is reserved for a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Criteria {
    /// In whole seconds since the epoch on the owner's clock.
    pub window: Window,
    pub pairs: Vec<Pair>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Keep this free. A newer version beside a grant is a change; it replaces an older hold.
    Reserve {
        version: Version,
        criteria: Criteria,
    },
    /// The hold of this version is the grant now.
    Commit {
        version: Version,
    },
    /// Give the hold of this version back. A grant is not touched by it.
    Abort {
        version: Version,
    },
    /// Let traffic pass during the window.
    Provision,
    /// Let none pass any more; it stays reserved.
    Release,
    /// Give everything back. Legal at any time.
    Terminate,
    Query,
}

/// Why nothing is held or committed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refused {
    UnknownLink {
        a: SiteName,
        b: SiteName,
    },
    NoRoom {
        /// A link or an uplink.
        resource: Resource,
        /// Of the whole connection there.
        asked_kbit: u64,
        /// What it could have there in all of the window.
        have_kbit: u64,
        /// The earliest start from the window's on at which it has room; `None` is never.
        free_from: Option<u64>,
    },
    /// A newer version was asked before.
    Stale {
        newest: Version,
    },
    /// Commit, Provision or Release of what is not held, or no longer.
    NotHeld,
}

/// What a provider says, at once or later.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    Held {
        version: Version,
    },
    /// Nothing is held of this version.
    Refused {
        version: Version,
        refused: Refused,
    },
    Committed {
        version: Version,
    },
    /// The hold is gone or was never there; a grant of before stays.
    CommitRefused {
        version: Version,
        refused: Refused,
    },
    Aborted {
        version: Version,
    },
    /// Unasked: the hold was not committed in time and is gone.
    TimedOut {
        version: Version,
    },
    Provisioned,
    Released,
    /// Provision or Release without a grant.
    NotGranted,
    Terminated,
    Summary(Summary),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Confirmation {
    pub connection: Connection,
    pub answer: Answer,
}

/// How a connection stands.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    pub granted: Option<(Version, Criteria)>,
    pub held: Option<(Version, Criteria)>,
    pub provisioned: bool,
    /// Provisioned, and inside its window.
    pub active: bool,
}

/// What a connection would need of one link or uplink.
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    pub resource: &'a Resource,
    pub demand: Demand<'a>,
}

/// Somebody who can promise rates between sites.
pub trait BandwidthProvider: Debug + Send {
    /// Begins an operation. What is decided at once is in the answer; the rest comes with a tick.
    fn request(&mut self, now: Duration, connection: Connection, operation: Operation) -> Vec<Confirmation>;

    /// What was decided, or ran out, until now. Legal at any time.
    fn tick(&mut self, now: Duration) -> Vec<Confirmation>;

    /// When the next tick is due at the latest.
    fn next_wake(&self) -> Option<Duration>;

    /// For planning: what these pairs would need of which line, uplinks as the sum of their
    /// pairs. Empty from a provider that cannot know before it is asked.
    ///
    /// # Errors
    /// A link that there is not.
    fn needs(&self, pairs: &[Pair]) -> Result<Vec<Need<'_>>, Refused>;

    /// For planning: why a Reserve of this would be refused now, be it new or a change. `None` is
    /// no promise, and what a provider says that cannot know.
    fn blocked(&self, connection: Connection, criteria: &Criteria) -> Option<Refused>;

    /// After a restart: this is granted. Repeatable. A provider that keeps its own records
    /// ignores it.
    fn restore(&mut self, connection: Connection, version: Version, criteria: Criteria);

    /// Nobody asks about what lies before this second any more.
    fn forget_before(&mut self, second: u64);
}
