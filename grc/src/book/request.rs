//! What is asked of the book, and what it answers.

use capacity::Window;
use protocol::names::SiteName;
use protocol::reservation::{AddressBlock, Placement};

pub use crate::network::{Pair, Resource};

/// A site that may be used: connected, with the environment, with an account for the user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Candidate {
    pub site: SiteName,
    /// It has the environment already; others would have to fetch it.
    pub warm: bool,
    /// Most members that a free choice may put there; `u32::MAX` is as many as there is room for.
    pub most: u32,
}

/// What shall be reserved between the parts, each way.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Rates {
    #[default]
    None,
    /// Between every two sites, kbit/s.
    Between(u32),
    /// As far as both sites of a pair are among those chosen.
    Pairs(Vec<Pair>),
}

impl Rates {
    /// What these sites would have between each other.
    pub fn among(&self, sites: &[&SiteName]) -> Vec<Pair> {
        match self {
            Self::None => Vec::new(),
            Self::Between(rate_kbit) => {
                let pair = |a: &&SiteName, b: &&SiteName| Pair {
                    a: (*a).clone(),
                    b: (*b).clone(),
                    rate_kbit: *rate_kbit,
                };
                let others = |n: usize| sites[n + 1..].iter();
                sites.iter().enumerate().flat_map(|(n, a)| others(n).map(move |b| pair(a, b))).collect()
            }
            Self::Pairs(pairs) => {
                let chosen = |site: &SiteName| sites.contains(&site);
                pairs.iter().filter(|pair| chosen(&pair.a) && chosen(&pair.b)).cloned().collect()
            }
        }
    }
}

/// Nodes, addresses and rates for a while.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub placement: &'a Placement,
    /// Sites that may be used. One that is named and not here is refused as having nothing.
    pub candidates: &'a [Candidate],
    /// Most sites of a free choice.
    pub sites_max: usize,
    pub rates: &'a Rates,
    pub now: u64,
    /// The window begins from here to `latest`, both included; the same for a fixed start.
    pub earliest: u64,
    pub latest: u64,
    /// Seconds, at least 1.
    pub duration: u64,
    /// Seconds for which addresses are taken before the window, and after it.
    pub lead: u64,
    pub tail: u64,
}

/// What shall be different of a grant. The window's start stays.
#[derive(Clone, Debug)]
pub struct Change<'a> {
    /// The whole length of the new window.
    pub duration: u64,
    /// Numbers of members where they shall be others; the sites stay.
    pub members: &'a [(SiteName, u32)],
    /// All rates of the new grant, changed or not.
    pub pairs: &'a [Pair],
    /// Pilots may have begun: nobody moves to another layer.
    pub begun: bool,
    pub tail: u64,
}

/// What a reservation takes at one site.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    pub site: SiteName,
    pub members: u32,
    pub layer: u32,
    pub blocks: Vec<AddressBlock>,
}

/// What would be booked. The first part has the head.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    pub window: Window,
    /// For how long the addresses are taken.
    pub addresses: Window,
    pub parts: Vec<Part>,
    pub pairs: Vec<Pair>,
}

/// Why there is no plan, and when there could be one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Blocked {
    /// What is short at the latest start that was looked at.
    pub resource: Resource,
    pub asked: u64,
    /// What could be had of it for all of the window.
    pub have: u64,
    /// Starts at which it could be had, the earliest first; empty if that is never, as far as
    /// anybody knows.
    pub starts: Vec<u64>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NoPlan {
    Blocked(Blocked),
    /// There is no link between these sites.
    UnknownLink {
        a: SiteName,
        b: SiteName,
    },
    /// There is no site to choose from.
    NoSites,
    /// A change of what is not booked, or to a window that cannot be.
    NotBooked,
}
