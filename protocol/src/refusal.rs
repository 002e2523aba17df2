//! Why something was refused or failed, as data with one sentence each.
//!
//! A [`Refusal`] means: nothing was changed. A [`Failure`] means: something had begun; it names
//! step, site, node, cause and what to do, and prints in at most three lines.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::codec::at_most;
use crate::ids::{JobId, ReservationId};
use crate::limits::ALTERNATIVES_MAX;
use crate::names::{EnvironmentName, NodeName, SiteName, Text, UserName};

/// Reasons for which a request is turned down before anything changes.
///
/// The wire form is the position of the variant: append only.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("no site is called {site} here; `gridpilot sites` lists them")]
    UnknownSite { site: SiteName },
    #[error("site {site} is named twice")]
    SiteTwice { site: SiteName },
    #[error("site {site} is not connected now; `gridpilot sites` shows since when")]
    SiteDown { site: SiteName },
    #[error("site {site} has {have} usable nodes in all, {asked} were asked")]
    MoreNodesThanExist { site: SiteName, asked: u32, have: u32 },
    #[error("all sites together have {have} usable nodes, {asked} were asked")]
    MoreNodesThanGrid { asked: u32, have: u32 },
    #[error("site {site} has {have} free nodes now, {asked} were asked; try again later or release one")]
    NodesBusy { site: SiteName, asked: u32, have: u32 },
    #[error("a reservation needs at least one node")]
    ZeroNodes,
    #[error("a reservation has at most {max} members, {asked} were asked")]
    TooManyMembers { asked: u32, max: u32 },
    #[error("a member has 1 to {max} slots, {asked} were asked")]
    BadSlots { asked: u32, max: u32 },
    #[error("a reservation lasts 1 to {max_s} seconds, {asked_s} were asked")]
    BadDuration { asked_s: u32, max_s: u32 },
    #[error("the command is empty; put it after `--`")]
    EmptyCommand,
    #[error("the command or its variables are too long: {what}")]
    CommandTooLong { what: Text },
    #[error("the command holds a NUL byte, which no program can be given")]
    NulInCommand,
    #[error("site {site} publishes {range}, which lies outside what this grid allows it")]
    RangeNotAllowed { site: SiteName, range: Text },
    #[error("site {site} has no free address left in its ranges for {asked} members")]
    AddressesExhausted { site: SiteName, asked: u32 },
    #[error("site {site} does not hold environment {environment}")]
    UnknownEnvironment { site: SiteName, environment: EnvironmentName },
    #[error("there is no reservation {id} of yours; `gridpilot reservations` lists them")]
    UnknownReservation { id: ReservationId },
    #[error("there is no job {id} of yours; `gridpilot jobs` lists them")]
    UnknownJob { id: JobId },
    #[error("there is nothing of yours to select as `last`")]
    NothingYet,
    #[error("reservation {id} is {state}: it takes no new jobs")]
    ReservationOver { id: ReservationId, state: Text },
    #[error("{what} is not possible now: {state}")]
    WrongState { what: Text, state: Text },
    #[error("user {user} has no account at site {site}; its administrator maps users in the grid-mapfile")]
    UserNotMapped { site: SiteName, user: Text },
    #[error("this token is not valid here: {why}")]
    BadToken { why: Text },
    #[error("this ticket is not valid here: {why}; ask the grid's administrator for a new one")]
    BadTicket { why: Text },
    #[error("the certificate is not the one pinned for {who}; run `crm join` again with a new ticket")]
    UnknownPeer { who: Text },
    #[error(
        "version {ours_min}..{ours_max} is spoken here, the peer speaks {theirs_min}..{theirs_max}; upgrade the older side"
    )]
    Version { ours_min: u16, ours_max: u16, theirs_min: u16, theirs_max: u16 },
    #[error("the message cannot be read: {why}")]
    Malformed { why: Text },
    #[error("site {site} asks more of a node than its policy allows: {what}")]
    AgainstPolicy { site: SiteName, what: Text },
    #[error("the grid has {count} of {what} already, which is its limit; release or wait")]
    TooMany { what: Text, count: u32 },
    #[error("reservation {id} has no member {host}")]
    UnknownMember { id: ReservationId, host: Text },
    #[error("{count} {what} in one message, at most {max} are accepted")]
    OverLimit { what: Text, count: u64, max: u64 },
    #[error("what was sent does not fit together: {what}")]
    Inconsistent { what: Text },
    #[error("{resource} has {have} {unit}, {asked} are needed{}", later(.in_s), unit = .resource.unit())]
    NoRoom {
        resource: Resource,
        asked: u64,
        have: u64,
        /// Seconds from now to starts at which it could be had, the earliest first; empty when
        /// that is never, as far as anybody knows.
        #[serde(deserialize_with = "at_most::<{ALTERNATIVES_MAX}, _, _>")]
        in_s: Vec<u64>,
    },
    #[error("the window cannot be: {why}")]
    BadWindow { why: Text },
    #[error("a rate is {min_kbit} to {max_kbit} kbit/s, {asked_kbit} were asked")]
    BadRate { asked_kbit: u32, min_kbit: u32, max_kbit: u32 },
    #[error("no link between {a} and {b} is known here; the grid's administrator names links in grc.toml")]
    UnknownLink { a: SiteName, b: SiteName },
    #[error("{asked} {what}, the limit for you is {limit}; the grid's administrator sets it in grc.toml")]
    OverUserLimit { what: Text, asked: u64, limit: u64 },
    #[error("site {site} is not open to {user}; the grid's administrator names its users in grc.toml")]
    SiteNotForUser { site: SiteName, user: UserName },
    #[error("this key does not let anybody in as {user}; the grid's administrator keeps the `users` file")]
    LoginRefused { user: UserName },
    #[error("site {site} begins nothing now, its batch queue is paused: {why}")]
    QueuePaused { site: SiteName, why: Text },
    #[error("the queue of site {site} gives at most {max} {what}, {asked} were asked")]
    OverQueueLimit { site: SiteName, what: Text, asked: u64, max: u64 },
}

/// Something of which there is only so much at a time.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Serialize, Deserialize)]
pub enum Resource {
    Nodes { site: SiteName },
    Addresses { site: SiteName },
    Link { a: SiteName, b: SiteName },
    Uplink { site: SiteName },
}

impl Resource {
    /// What its amounts count.
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Nodes { .. } => "free nodes then",
            Self::Addresses { .. } => "free addresses then",
            Self::Link { .. } | Self::Uplink { .. } => "kbit/s left then",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes { site } | Self::Addresses { site } => write!(f, "site {site}"),
            Self::Link { a, b } => write!(f, "the link {a}-{b}"),
            Self::Uplink { site } => write!(f, "the uplink of site {site}"),
        }
    }
}

fn later(in_s: &[u64]) -> String {
    match in_s.first() {
        Some(first) => format!("; it can begin in {first} s at the earliest"),
        None => "; no later start is known either".to_owned(),
    }
}

impl Refusal {
    /// Whether the thing asked for does not exist (exit code 121) rather than was refused (120).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::UnknownReservation { .. } | Self::UnknownJob { .. } | Self::NothingYet)
    }

    /// For checks of messages: `OverLimit` when there are more than `max` of something.
    pub(crate) fn unless_at_most(what: &str, count: usize, max: usize) -> Result<(), Self> {
        if count > max {
            return Err(Self::OverLimit { what: what.into(), count: count as u64, max: max as u64 });
        }
        Ok(())
    }

    /// For checks of messages: `Inconsistent` when two parts of one contradict each other.
    pub(crate) fn unless(holds: bool, otherwise: &str) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::Inconsistent { what: otherwise.into() }) }
    }
}

/// Where on its way something failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
pub enum Step {
    Plan,
    Hold,
    Commit,
    /// Batch submission, and waiting for the pilots to come in.
    Pilots,
    Setup,
    GetKeys,
    SetKeys,
    Run,
    Exec,
    Running,
    End,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Plan => "plan",
            Self::Hold => "hold",
            Self::Commit => "commit",
            Self::Pilots => "pilots",
            Self::Setup => "SETUP",
            Self::GetKeys => "GET_KEYS",
            Self::SetKeys => "SET_KEYS",
            Self::Run => "RUN",
            Self::Exec => "EXEC",
            Self::Running => "running",
            Self::End => "end",
        })
    }
}

/// Something that had begun and failed. Prints as one to three lines.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub step: Step,
    pub site: Option<SiteName>,
    pub node: Option<NodeName>,
    /// What happened, in a few words; the system's error where there is one.
    pub cause: Text,
    /// What the reader can do about it.
    pub hint: Text,
}

impl Failure {
    pub fn new(step: Step, cause: impl Into<Text>, hint: impl Into<Text>) -> Self {
        Self { step, site: None, node: None, cause: cause.into(), hint: hint.into() }
    }

    pub fn at_site(mut self, site: &SiteName) -> Self {
        self.site = Some(site.clone());
        self
    }

    pub fn at_node(mut self, node: &NodeName) -> Self {
        self.node = Some(node.clone());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step)?;
        if let Some(site) = &self.site {
            write!(f, ", site {site}")?;
        }
        if let Some(node) = &self.node {
            write!(f, ", node {node}")?;
        }
        write!(f, ": {}", self.cause)?;
        if !self.hint.as_str().is_empty() {
            write!(f, "\n  {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
