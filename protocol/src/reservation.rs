//! A reservation: nodes at sites, addresses for them, over a bounded time.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::codec::at_most;
use crate::ids::ReservationId;
use crate::limits::{self, DURATION_S_MAX, MEMBERS_MAX, SLOTS_MAX};
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

/// What a user asks for.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    pub placement: Placement,
    /// Processes per member that MPI may start.
    pub slots: u32,
    pub limits: Limits,
    pub duration_s: u32,
    pub environment: EnvironmentName,
    pub label: Option<Label>,
}

impl Ask {
    /// What can be refused without knowing the grid.
    pub fn check(&self) -> Result<(), Refusal> {
        let asked: u64 = match &self.placement {
            Placement::Anywhere(count) => u64::from(*count),
            Placement::Sites(parts) => {
                for (index, (site, count)) in parts.iter().enumerate() {
                    if parts[..index].iter().any(|(earlier, _)| earlier == site) {
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
        if !(1..=SLOTS_MAX).contains(&self.slots) {
            return Err(Refusal::BadSlots { asked: self.slots, max: SLOTS_MAX });
        }
        if !(1..=DURATION_S_MAX).contains(&self.duration_s) {
            return Err(Refusal::BadDuration { asked_s: self.duration_s, max_s: DURATION_S_MAX });
        }
        Ok(())
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
/// Waiting <-> Holding -> Starting -> Joining -> Ready -> Ending -> Ended
///    \___________\_________\___________\__________\_______/^        (or Failed, with its reason)
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
    /// End of the window.
    pub ends_s: u64,
    /// By when the present state must be left, else the reservation fails.
    pub deadline_s: Option<u64>,
}
