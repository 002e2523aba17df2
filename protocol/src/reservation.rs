//! A reservation: nodes at sites, addresses for them, over a bounded time.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::codec::at_most;
use crate::ids::{Epoch, ReservationId, Version};
use crate::limits::{self, DURATION_S_MAX, MEMBERS_MAX, RATE_KBIT_MAX, RATE_KBIT_MIN, SLOTS_MAX};
use crate::names::{EnvironmentName, HostName, Label, NodeName, SiteName, Text};
use crate::refusal::{Failure, Refusal};

/// Where the nodes shall be.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Placement {
    /// So many at each of these sites; the first member of the first site is the head.
    Sites(#[serde(deserialize_with = "at_most::<{limits::SITES_MAX}, _, _>")] Vec<(SiteName, u32)>),
    /// So many anywhere; the GRC chooses, preferring few sites.
    Anywhere(u32),
}

impl Placement {
    /// What can be refused without knowing the grid.
    pub fn check(&self) -> Result<(), Refusal> {
        let asked: u64 = match self {
            Self::Anywhere(count) => u64::from(*count),
            Self::Sites(parts) => {
                let mut seen = std::collections::BTreeSet::new();
                for (site, count) in parts {
                    if !seen.insert(site) {
                        return Err(Refusal::SiteTwice { site: site.clone() });
                    }
                    if *count == 0 {
                        return Err(Refusal::ZeroNodes);
                    }
                }
                parts.iter().map(|(_, count)| u64::from(*count)).sum()
            }
        };
        if asked == 0 {
            return Err(Refusal::ZeroNodes);
        }
        if asked > MEMBERS_MAX as u64 {
            let asked = u32::try_from(asked).unwrap_or(u32::MAX);
            return Err(Refusal::TooManyMembers { asked, max: MEMBERS_MAX as u32 });
        }
        Ok(())
    }
}

/// Per member; 0 asks for nothing in particular. Enforced where the member runs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Thousandths of a processor.
    pub cpus_milli: u32,
    pub memory_bytes: u64,
    /// Size of the writable layer.
    pub disk_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
}

/// When the window shall begin. Times are seconds since the epoch on the GRC's clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Start {
    /// As soon as everything is free: the request is accepted at once and waits its turn.
    Open,
    /// Within so many seconds from now; granted for a start in that span, or refused. 0 is now.
    Within { wait_s: u32 },
    /// Between these times, both included; granted for the earliest that is free, or refused.
    Between { earliest_s: u64, latest_s: u64 },
}

/// A rate between two sites, each way.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PairRate {
    pub a: SiteName,
    pub b: SiteName,
    pub rate_kbit: u32,
}

/// What shall be reserved between the parts.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Bandwidth {
    /// Nothing: traffic between the sites is neither promised nor held back.
    Unasked,
    /// The same rate between every two sites of the reservation, each way, kbit/s.
    Between(u32),
    /// Pair by pair; a pair that is not named gets nothing. Each pair once, in either order.
    Pairs(#[serde(deserialize_with = "at_most::<{limits::PAIRS_MAX}, _, _>")] Vec<PairRate>),
}

impl Bandwidth {
    /// What can be refused without knowing the grid.
    pub fn check(&self) -> Result<(), Refusal> {
        let fits = |rate_kbit: u32| match (RATE_KBIT_MIN..=RATE_KBIT_MAX).contains(&rate_kbit) {
            true => Ok(()),
            false => Err(Refusal::BadRate {
                asked_kbit: rate_kbit,
                min_kbit: RATE_KBIT_MIN,
                max_kbit: RATE_KBIT_MAX,
            }),
        };
        match self {
            Self::Unasked => Ok(()),
            Self::Between(rate_kbit) => fits(*rate_kbit),
            Self::Pairs(pairs) => {
                let mut seen = std::collections::BTreeSet::new();
                for PairRate { a, b, rate_kbit } in pairs {
                    fits(*rate_kbit)?;
                    Refusal::unless(a != b, "a rate between a site and itself")?;
                    let first_time = seen.insert((a.min(b), a.max(b)));
                    Refusal::unless(first_time, "two rates for the same pair of sites")?;
                }
                Ok(())
            }
        }
    }
}

/// What a user asks for.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    pub placement: Placement,
    /// Processes per member that MPI may start.
    pub slots: u32,
    pub limits: Limits,
    pub start: Start,
    pub duration_s: u32,
    pub bandwidth: Bandwidth,
    pub environment: EnvironmentName,
    pub label: Option<Label>,
}

/// What of a granted reservation shall be different. What is `None` stays as it is. The old grant
/// is in force until the new one holds everywhere.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The whole length of the window, counted from its start: longer or shorter than before.
    pub duration_s: Option<u32>,
    pub bandwidth: Option<Bandwidth>,
    /// Other numbers of nodes at the same sites; only before the window begins.
    pub placement: Option<Placement>,
}

impl Change {
    /// What can be refused without knowing the reservation.
    pub fn check(&self) -> Result<(), Refusal> {
        let Self { duration_s, bandwidth, placement } = self;
        let any = duration_s.is_some() || bandwidth.is_some() || placement.is_some();
        Refusal::unless(any, "a change that changes nothing")?;
        duration_s.map_or(Ok(()), check_duration)?;
        bandwidth.as_ref().map_or(Ok(()), Bandwidth::check)?;
        placement.as_ref().map_or(Ok(()), Placement::check)
    }
}

fn check_duration(asked_s: u32) -> Result<(), Refusal> {
    match (1..=DURATION_S_MAX).contains(&asked_s) {
        true => Ok(()),
        false => Err(Refusal::BadDuration { asked_s, max_s: DURATION_S_MAX }),
    }
}

impl Ask {
    /// What can be refused without knowing the grid.
    pub fn check(&self) -> Result<(), Refusal> {
        self.placement.check()?;
        if !(1..=SLOTS_MAX).contains(&self.slots) {
            return Err(Refusal::BadSlots { asked: self.slots, max: SLOTS_MAX });
        }
        if let Start::Between { earliest_s, latest_s } = self.start
            && earliest_s > latest_s
        {
            return Err(Refusal::BadWindow { why: "its latest start lies before its earliest".into() });
        }
        self.bandwidth.check()?;
        check_duration(self.duration_s)
    }
}

/// Consecutive addresses of a carve.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Serialize, Deserialize)]
pub struct AddressBlock {
    pub first: Ipv4Addr,
    pub count: u32,
}

impl AddressBlock {
    /// The addresses, lowest first. Stops at the end of the address space.
    pub fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        let first = u32::from(self.first);
        (0..self.count).map_while(move |n| first.checked_add(n)).map(Ipv4Addr::from)
    }
}

impl fmt::Display for AddressBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = u32::from(self.first).saturating_add(self.count.saturating_sub(1));
        write!(f, "{}-{}", self.first, Ipv4Addr::from(last))
    }
}

/// A reservation's life:
///
/// ```text
/// Waiting <-> Holding -> Booked -> Starting -> Joining -> Ready -> Ending -> Ended
///    \___________\_________\___________\__________\_________\______/^     (or Failed, with its reason)
/// ```
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ReservationState {
    /// Accepted; some of its nodes are busy now.
    Waiting,
    /// Sites were asked to hold their share.
    Holding,
    /// Granted; pilots are submitted and come in, sandboxes are built.
    Starting,
    /// All sites are ready; the key ring goes out and services start.
    Joining,
    Ready,
    Ending,
    Ended,
    Failed(Failure),
    /// Granted; its window has not begun.
    Booked,
}

impl fmt::Display for ReservationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Waiting => "waiting",
            Self::Holding => "holding",
            Self::Starting => "starting",
            Self::Joining => "joining",
            Self::Ready => "ready",
            Self::Ending => "ending",
            Self::Ended => "ended",
            Self::Failed(_) => "failed",
            Self::Booked => "booked",
        })
    }
}

/// How far the pilots of one part are. Each count includes the later ones.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub wanted: u32,
    /// Pilots that the batch system has.
    pub submitted: u32,
    /// Pilots that dialled in.
    pub arrived: u32,
    /// Sandboxes that are built and handed over their keys.
    pub built: u32,
    /// Members whose sshd answers with the expected key.
    pub joined: u32,
}

/// What the pilots of a part wait for, as shown to the user. Times are seconds since the epoch on
/// the GRC's clock.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct QueueView {
    /// Pilots that have not come.
    pub pilots: u32,
    /// The site's batch system, and which of its queues.
    pub queue: Text,
    /// Why they wait, as it says; empty when it says nothing.
    pub why: Text,
    /// When they may start, as it expects.
    pub expected_s: Option<u64>,
    /// When the site gives them up.
    pub until_s: Option<u64>,
    /// Until when those that came are held for the others.
    pub held_until_s: Option<u64>,
    /// They were released and are begun again then.
    pub again_s: Option<u64>,
}

/// One site's share as shown to the user.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PartView {
    pub site: SiteName,
    pub nodes: u32,
    /// The carve: no reservation that overlaps in time holds any of these at any site.
    #[serde(deserialize_with = "at_most::<{limits::BLOCKS_PER_PART_MAX}, _, _>")]
    pub addresses: Vec<AddressBlock>,
    pub progress: Progress,
    #[serde(deserialize_with = "at_most::<{limits::MEMBERS_MAX}, _, _>")]
    pub members: Vec<MemberView>,
    /// One for each block, when the reservation is shown by itself; empty in listings.
    #[serde(deserialize_with = "at_most::<{limits::BLOCKS_PER_PART_MAX}, _, _>")]
    pub proof: Vec<BlockProof>,
    /// While pilots are waited for.
    pub queue: Option<QueueView>,
}

/// Why nobody else has an address of a block: of all blocks in the whole grid whose reservation
/// overlaps this one in time, the nearest ends below it and the next begins above it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct BlockProof {
    pub block: AddressBlock,
    /// Last address of the nearest such block below, if there is one.
    pub below: Option<Ipv4Addr>,
    /// First address of the nearest such block above, if there is one.
    pub above: Option<Ipv4Addr>,
}

/// A rate between two parts as shown to the user.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PairView {
    pub a: SiteName,
    pub b: SiteName,
    pub granted_kbit: u32,
    /// Measured last, from `a` to `b`; `None` before the first measurement.
    pub a_to_b_kbit: Option<u32>,
    pub b_to_a_kbit: Option<u32>,
}

/// One second, or a few, of what a part sent to another.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct UsagePoint {
    /// Seconds since the epoch on the GRC's clock.
    pub at_s: u64,
    pub from: SiteName,
    pub to: SiteName,
    pub granted_kbit: u32,
    pub used_kbit: u32,
}

/// One member as shown to the user; known once the site is ready.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    pub host: HostName,
    pub address: Ipv4Addr,
    pub node: NodeName,
}

/// A reservation as shown to its user. Times are seconds since the epoch on the GRC's clock.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ReservationView {
    pub id: ReservationId,
    pub label: Option<Label>,
    pub user: Text,
    pub state: ReservationState,
    pub slots: u32,
    pub environment: EnvironmentName,
    #[serde(deserialize_with = "at_most::<{limits::SITES_MAX}, _, _>")]
    pub parts: Vec<PartView>,
    pub made_s: u64,
    /// Of the grant in force, 0 before there is one.
    pub version: Version,
    /// The incarnation of its sandboxes.
    pub epoch: Epoch,
    /// Start of the window; expected, as long as it waits.
    pub starts_s: u64,
    /// End of the window.
    pub ends_s: u64,
    #[serde(deserialize_with = "at_most::<{limits::PAIRS_MAX}, _, _>")]
    pub pairs: Vec<PairView>,
    /// By when the present state must be left, else the reservation fails.
    pub deadline_s: Option<u64>,
}
