//! From a part's peers to the classes of its sandboxes: which addresses belong to which class.
//!
//! A class is a remote part; it keeps its number as long as the grant names that part, for a
//! sandbox's counters go with the number. Address blocks become prefixes, of which a record of
//! rates takes a bounded number. When there are too many, neighbours are taken together into the
//! prefix that covers both, as long as nobody else of the reservation is in it.

use std::net::Ipv4Addr;

use grant::{CLASSES_MAX, DESTINATIONS_MAX, Destination, Rates};
use protocol::names::SiteName;
use protocol::reservation::AddressBlock;
use protocol::site::{Part, Peer};

/// Why a part's peers cannot be shaped.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadPeers {
    #[error("its rates name {0} ranges of addresses, at most {DESTINATIONS_MAX} can be told a node")]
    TooManyPrefixes(usize),
    #[error("{rate_kbit} kbit/s to site {site} for {members} members is less than 1 kbit/s for each")]
    TooThin { site: SiteName, rate_kbit: u32, members: u32 },
    #[error("its rates name site {0} twice, or addresses of it that another part has")]
    Overlap(SiteName),
    #[error("more than {CLASSES_MAX} sites have a rate")]
    TooMany,
}

/// The classes of a part's sandboxes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Classes {
    peers: [Option<(SiteName, u32)>; CLASSES_MAX],
    destinations: Vec<Destination>,
}

/// First and last address of a stretch, and whose it is.
type Stretch = (u32, u32, u8);

impl Classes {
    /// The classes of a part whose sandboxes are new.
    ///
    /// # Errors
    /// Peers that cannot be shaped.
    pub fn new(part: &Part) -> Result<Self, BadPeers> {
        let none = Self { peers: Default::default(), destinations: Vec::new() };
        none.renewed(part)
    }

    /// Who has which class, for a restart.
    pub fn names(&self) -> Vec<Option<SiteName>> {
        self.peers.iter().map(|peer| peer.as_ref().map(|(site, _)| site.clone())).collect()
    }

    /// The classes of sandboxes of before a restart: whoever had one keeps its number.
    ///
    /// # Errors
    /// Peers that cannot be shaped.
    pub fn resumed(names: &[Option<SiteName>], part: &Part) -> Result<Self, BadPeers> {
        let mut before = Self { peers: Default::default(), destinations: Vec::new() };
        for (peer, name) in before.peers.iter_mut().zip(names) {
            *peer = name.clone().map(|name| (name, 0));
        }
        before.renewed(part)
    }

    /// The classes after a change of the grant: whoever had a class keeps its number.
    ///
    /// # Errors
    /// Peers that cannot be shaped.
    pub fn renewed(&self, part: &Part) -> Result<Self, BadPeers> {
        let mut peers: [Option<(SiteName, u32)>; CLASSES_MAX] = Default::default();
        let mut stretches = Vec::new();
        let (known, new): (Vec<&Peer>, Vec<&Peer>) =
            part.peers.iter().partition(|peer| self.class_of(&peer.site).is_some());
        for peer in known.into_iter().chain(new) {
            let site = peer.site.clone();
            if peer.rate_kbit < part.members {
                let (rate_kbit, members) = (peer.rate_kbit, part.members);
                return Err(BadPeers::TooThin { site, rate_kbit, members });
            }
            if peers.iter().flatten().any(|(other, _)| *other == site) {
                return Err(BadPeers::Overlap(site));
            }
            let free = || peers.iter().position(Option::is_none);
            let class = self.class_of(&site).or_else(free).ok_or(BadPeers::TooMany)?;
            peers[class] = Some((site, peer.rate_kbit));
            stretches.extend(peer.addresses.iter().filter_map(|block| stretch(block, class as u8)));
        }
        stretches.sort_unstable();
        if let Some(pair) = stretches.windows(2).find(|pair| pair[1].0 <= pair[0].1) {
            let site = peers[usize::from(pair[1].2)].clone().map(|(site, _)| site);
            return Err(site.map_or(BadPeers::TooMany, BadPeers::Overlap));
        }
        let mut destinations = prefixes(&stretches);
        if destinations.len() > DESTINATIONS_MAX {
            let own: Vec<Stretch> =
                part.addresses.iter().filter_map(|block| stretch(block, u8::MAX)).collect();
            coarsen(&mut destinations, &own);
        }
        match destinations.len() {
            count if count > DESTINATIONS_MAX => Err(BadPeers::TooManyPrefixes(count)),
            _ => Ok(Self { peers, destinations }),
        }
    }

    /// Whether nothing is shaped.
    pub fn is_empty(&self) -> bool {
        self.peers.iter().all(Option::is_none)
    }

    fn class_of(&self, site: &SiteName) -> Option<usize> {
        self.peers.iter().position(|peer| peer.as_ref().is_some_and(|(name, _)| name == site))
    }

    /// Site and rate of every class that is used, in kbit/s for all members together.
    pub fn used(&self) -> impl Iterator<Item = (usize, &SiteName, u32)> {
        let used = self.peers.iter().enumerate();
        used.filter_map(|(class, peer)| peer.as_ref().map(|(site, rate_kbit)| (class, site, *rate_kbit)))
    }

    /// The grant of each class; 0 where there is none.
    pub fn grants_kbit(&self) -> [u32; CLASSES_MAX] {
        std::array::from_fn(|class| self.peers[class].as_ref().map_or(0, |(_, rate_kbit)| *rate_kbit))
    }

    /// What one member's node is told: its rate in each class, of which those that are not used
    /// are left out. Nonce, serial and lifetime are the caller's to set.
    pub fn rates(&self, member_kbit: &[u32]) -> Rates {
        let rate = |class: usize| match &self.peers[class] {
            // A class that is used must have a rate, be it the smallest.
            Some(_) => member_kbit.get(class).copied().unwrap_or(0).max(1),
            None => 0,
        };
        Rates {
            nonce: [0; 16],
            serial: 0,
            lifetime_s: 0,
            rates_kbit: std::array::from_fn(rate),
            destinations: self.destinations.clone(),
        }
    }
}

fn stretch(block: &AddressBlock, class: u8) -> Option<Stretch> {
    let first = u32::from(block.first);
    Some((first, first.checked_add(block.count.checked_sub(1)?)?, class))
}

/// The fewest prefixes that are exactly these stretches, which are in order.
fn prefixes(stretches: &[Stretch]) -> Vec<Destination> {
    let mut joined: Vec<Stretch> = Vec::new();
    for &(first, last, class) in stretches {
        match joined.last_mut() {
            Some(before) if before.2 == class && before.1.checked_add(1) == Some(first) => before.1 = last,
            _ => joined.push((first, last, class)),
        }
    }
    let mut all = Vec::new();
    for (first, last, class) in joined {
        let (mut next, end) = (u64::from(first), u64::from(last) + 1);
        while next < end {
            let aligned = if next == 0 { 32 } else { next.trailing_zeros().min(32) };
            let fits = (end - next).ilog2();
            // No prefix is shorter than 8 bits.
            let bits = aligned.min(fits).min(24);
            let network = Ipv4Addr::from(next as u32);
            all.push(Destination { network, prefix_len: (32 - bits) as u8, class });
            next += 1 << bits;
        }
    }
    all
}

fn bounds(one: &Destination) -> (u32, u32) {
    let first = u32::from(one.network);
    (first, first | !one.mask())
}

/// The smallest prefix that covers both.
fn cover(one: &Destination, other: &Destination) -> Destination {
    let (first, last) = (bounds(one).0, bounds(other).1);
    let prefix_len = (first ^ last).leading_zeros() as u8;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0);
    Destination { network: (first & mask).into(), prefix_len, class: one.class }
}

/// Takes neighbours together, the nearest first, until there are few enough or none can be.
fn coarsen(all: &mut Vec<Destination>, own: &[Stretch]) {
    while all.len() > DESTINATIONS_MAX {
        let covers = all.windows(2).enumerate().filter(|(_, pair)| pair[0].class == pair[1].class);
        let covers = covers.map(|(at, pair)| (at, cover(&pair[0], &pair[1])));
        let harmless = covers.filter(|(_, cover)| {
            let (low, high) = bounds(cover);
            let meets = |first: u32, last: u32| first <= high && low <= last;
            let others = all.iter().filter(|one| one.class != cover.class).map(bounds);
            let mut strangers = others.chain(own.iter().map(|&(first, last, _)| (first, last)));
            cover.prefix_len >= 8 && !strangers.any(|(first, last)| meets(first, last))
        });
        let Some((at, cover)) = harmless.max_by_key(|(at, cover)| (cover.prefix_len, usize::MAX - at)) else {
            return;
        };
        let (low, high) = bounds(&cover);
        all[at] = cover;
        let mut place = 0;
        all.retain(|one| {
            place += 1;
            let (first, last) = bounds(one);
            place == at + 1 || last < low || first > high
        });
    }
}

#[cfg(test)]
mod tests;
