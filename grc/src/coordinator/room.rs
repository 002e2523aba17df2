//! What is taken when: nodes and addresses of every site over time.
//!
//! An attempt takes before anybody is asked, a change beside what is in force, so that at every
//! moment the larger of both is taken. What a part has comes back when its end is confirmed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use protocol::ids::{ReservationId, Version};
use protocol::limits::BLOCKS_PER_PART_MAX;
use protocol::names::SiteName;
use protocol::planted::{Bug, planted};
use protocol::refusal::{Refusal, Resource};
use protocol::reservation::{AddressBlock, Ask, BlockProof, Placement};
use protocol::site::Offer;

use crate::plan::addresses::{self, AddressSet};
use crate::plan::nodes::{self, Capacity, Sites};
use crate::reservation::{Share, Window};

/// Seconds, the end not included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seconds {
    pub from: u64,
    pub to: u64,
}

impl Seconds {
    fn overlaps(self, other: Self) -> bool {
        self.from < other.to && other.from < self.to
    }
}

fn ceil_s(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub start_s: u64,
    pub shares: Vec<Share>,
}

/// Why nothing was.
#[derive(Clone, Debug)]
pub(super) struct Short {
    pub refusal: Refusal,
    /// The earliest second at which it could begin, as far as the book knows.
    pub next_s: Option<u64>,
}

impl From<Refusal> for Short {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, next_s: None }
    }
}

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub ask: &'a Ask,
    /// Sites that are connected.
    pub sites: &'a Sites,
    pub now_s: u64,
    pub earliest_s: u64,
    pub latest_s: u64,
}

#[derive(Clone, Debug)]
struct Charge {
    version: Version,
    share: Share,
    nodes: Seconds,
    addresses: Seconds,
}

#[derive(Clone, Debug, Default)]
struct SiteRoom {
    layers: Vec<u32>,
    lead_s: u64,
    /// What its ranges give to sandboxes.
    usable: AddressSet,
    /// Machines of the site itself.
    reserved: AddressSet,
}

#[derive(Debug)]
pub(super) struct Room {
    /// After a window's end until addresses come back unconfirmed.
    tail: Duration,
    sites: BTreeMap<SiteName, SiteRoom>,
    charges: BTreeMap<ReservationId, Vec<Charge>>,
    /// Given back before: carved again only when nothing fresher is left.
    worn: AddressSet,
}

impl Room {
    pub fn new(tail: Duration) -> Self {
        Self { tail, sites: BTreeMap::new(), charges: BTreeMap::new(), worn: AddressSet::default() }
    }

    pub fn set_site(&mut self, name: &SiteName, offer: &Offer) {
        let mut reserved = AddressSet::default();
        let own = |a: &&Ipv4Addr| offer.ranges.iter().any(|range: &Ipv4Net| range.contains(*a));
        offer.reserved.iter().filter(own).for_each(|a| reserved.insert(*a, *a));
        let room = SiteRoom {
            layers: offer.layers.clone(),
            lead_s: offer.lead_s.into(),
            usable: addresses::usable(&offer.ranges),
            reserved,
        };
        self.sites.insert(name.clone(), room);
    }

    /// How many members a site could ever have: its addresses without its own machines'.
    pub fn could_give(&self, site: &SiteName) -> u64 {
        self.sites
            .get(site)
            .map_or(0, |site| site.usable.count() - site.reserved.intersection(&site.usable).count())
    }

    /// How long before the start the sandboxes at these sites may stand.
    pub fn lead(&self, shares: &[Share]) -> Duration {
        let leads = shares.iter().filter_map(|share| self.sites.get(&share.site)).map(|site| site.lead_s);
        Duration::from_secs(leads.max().unwrap_or(0))
    }

    fn used(&self, site: &SiteName, layer: u32, at: u64, but: Option<ReservationId>) -> u32 {
        let of = |charges: &Vec<Charge>| {
            let here = charges.iter().filter(|charge| {
                charge.share.site == *site
                    && charge.share.layer == layer
                    && charge.nodes.from <= at
                    && at < charge.nodes.to
            });
            here.map(|charge| charge.share.members).max().unwrap_or(0)
        };
        self.charges.iter().filter(|(id, _)| Some(**id) != but).map(|(_, charges)| of(charges)).sum()
    }

    fn free(&self, site: &SiteName, layer: u32, window: Seconds, but: Option<ReservationId>) -> u32 {
        let size = self.sites.get(site).and_then(|s| s.layers.get(layer as usize)).copied().unwrap_or(0);
        let starts = self.charges.values().flatten().map(|charge| charge.nodes.from);
        let inside = starts.filter(|at| window.from < *at && *at < window.to);
        let used = inside.chain([window.from]).map(|at| self.used(site, layer, at, but)).max();
        size.saturating_sub(used.unwrap_or(0))
    }

    /// The layer with most room, the lowest of equals.
    fn roomiest(&self, site: &SiteName, window: Seconds, but: Option<ReservationId>) -> (u32, u32) {
        let layers = self.sites.get(site).map_or(0, |site| site.layers.len() as u32);
        let all = (0..layers).map(|layer| (self.free(site, layer, window, but), layer));
        all.max_by_key(|(free, layer)| (*free, std::cmp::Reverse(*layer))).unwrap_or((0, 0))
    }

    fn carve(
        &mut self,
        site: &SiteName,
        count: u32,
        window: Seconds,
        also: &[Share],
    ) -> Option<Vec<AddressBlock>> {
        let usable = self.sites.get(site)?.usable.clone();
        let mut taken = AddressSet::default();
        for charge in self.charges.values().flatten().filter(|charge| charge.addresses.overlaps(window)) {
            if planted(Bug::CarvePerSite) && charge.share.site != *site {
                continue;
            }
            charge.share.carve.iter().for_each(|block| taken.insert_block(*block));
        }
        also.iter().flat_map(|share| &share.carve).for_each(|block| taken.insert_block(*block));
        let reserved: Vec<&AddressSet> = self.sites.values().map(|site| &site.reserved).collect();
        let find = |worn: &AddressSet| {
            let avoided: Vec<&AddressSet> =
                [&taken, worn].into_iter().chain(reserved.iter().copied()).collect();
            addresses::carve(&usable, &avoided, count, BLOCKS_PER_PART_MAX)
        };
        find(&self.worn).or_else(|| {
            // Once round: begin anew.
            usable.intervals().for_each(|(first, last)| self.worn.remove(first, last));
            find(&self.worn)
        })
    }

    /// The earliest start in the span at which everything is free.
    pub fn plan(&mut self, wish: Wish<'_>) -> Result<Found, Short> {
        let ends = self.charges.values().flatten().flat_map(|c| [c.nodes.to, c.addresses.to]);
        let mut starts: Vec<u64> = ends.filter(|at| *at > wish.earliest_s).collect();
        starts.push(wish.earliest_s);
        starts.sort_unstable();
        starts.dedup();
        let mut why = None;
        for start_s in starts {
            match self.plan_at(wish, start_s) {
                Ok(shares) if start_s <= wish.latest_s => return Ok(Found { start_s, shares }),
                Ok(_) => {
                    let mut short: Short = why.unwrap_or(Refusal::NothingYet.into());
                    short.next_s = Some(start_s);
                    if let Refusal::NoRoom { in_s, .. } = &mut short.refusal {
                        in_s.push(start_s.saturating_sub(wish.now_s));
                    }
                    return Err(short);
                }
                Err(refusal) => {
                    why.get_or_insert(refusal.into());
                }
            }
        }
        Err(why.unwrap_or(Refusal::NothingYet.into()))
    }

    fn plan_at(&mut self, wish: Wish<'_>, start_s: u64) -> Result<Vec<Share>, Refusal> {
        let window = Seconds { from: start_s, to: start_s + u64::from(wish.ask.duration_s) + 1 };
        let chosen = match &wish.ask.placement {
            Placement::Sites(parts) => {
                for (site, _) in
                    parts.iter().filter(|(site, _)| !matches!(wish.sites.get(site), Some(Some(_))))
                {
                    return Err(Refusal::SiteDown { site: site.clone() });
                }
                parts.clone()
            }
            Placement::Anywhere(_) => {
                let mut sites = wish.sites.clone();
                for (name, capacity) in &mut sites {
                    if let Some(capacity) = capacity {
                        let (free, _) = self.roomiest(name, window, None);
                        *capacity = Capacity { free: free.min(capacity.usable), ..capacity.clone() };
                    }
                }
                nodes::choose(wish.ask, &sites).map_err(|refusal| match refusal {
                    Refusal::NodesBusy { site, asked, have } => no_nodes(site, asked, have),
                    other => other,
                })?
            }
        };
        let mut shares: Vec<Share> = Vec::new();
        for (site, members) in chosen {
            let (free, layer) = self.roomiest(&site, window, None);
            if free < members {
                return Err(no_nodes(site, members, free));
            }
            let lead = self.sites.get(&site).map_or(0, |site| site.lead_s);
            let standing =
                Seconds { from: window.from.saturating_sub(lead), to: window.to + ceil_s(self.tail) };
            let Some(carve) = self.carve(&site, members, standing, &shares) else {
                let resource = Resource::Addresses { site };
                return Err(Refusal::NoRoom { resource, asked: members.into(), have: 0, in_s: vec![] });
            };
            shares.push(Share { site, members, layer, carve });
        }
        Ok(shares)
    }

    /// Takes for a version, beside what other versions of the same reservation have.
    pub fn take(&mut self, id: ReservationId, version: Version, window: Window, shares: &[Share]) {
        let nodes = Seconds { from: window.start.as_secs(), to: ceil_s(window.end) };
        let addresses = Seconds { from: window.near().as_secs(), to: ceil_s(window.end + self.tail) };
        let charges = self.charges.entry(id).or_default();
        charges.retain(|charge| charge.version != version);
        let charge = |share: &Share| Charge { version, share: share.clone(), nodes, addresses };
        charges.extend(shares.iter().map(charge));
    }

    /// Only this version counts from here on.
    pub fn settle(&mut self, id: ReservationId, version: Version) {
        self.drop_if(id, |charge| charge.version != version);
    }

    /// This version does not count any more.
    pub fn drop_version(&mut self, id: ReservationId, version: Version) {
        self.drop_if(id, |charge| charge.version == version);
    }

    fn drop_if(&mut self, id: ReservationId, gone: impl Fn(&Charge) -> bool) {
        let Some(charges) = self.charges.get_mut(&id) else { return };
        for charge in charges.extract_if(.., |charge| gone(charge)) {
            charge.share.carve.iter().for_each(|block| self.worn.insert_block(*block));
        }
        if charges.is_empty() {
            self.charges.remove(&id);
        }
    }

    /// A part is gone, confirmed: what it had is free from now on.
    pub fn give_back(&mut self, id: ReservationId, site: &SiteName) {
        self.drop_if(id, |charge| charge.share.site == *site);
    }

    /// The window of a part is over; its addresses stay taken for a while.
    pub fn expire(&mut self, now: Duration) {
        let now_s = now.as_secs();
        let ids: Vec<ReservationId> = self.charges.keys().copied().collect();
        for id in ids {
            self.drop_if(id, |charge| charge.addresses.to <= now_s && charge.nodes.to <= now_s);
        }
    }

    /// All addresses that no carve may touch while this window lasts.
    pub fn addresses(&self) -> impl Iterator<Item = (ReservationId, &SiteName, &[AddressBlock])> {
        self.charges
            .iter()
            .flat_map(|(id, charges)| charges.iter().map(|c| (*id, &c.share.site, c.share.carve.as_slice())))
    }

    /// Members that are taken in a layer of a site at a second.
    pub fn nodes_taken(&self, site: &SiteName, layer: u32, at_s: u64) -> u32 {
        self.used(site, layer, at_s, None)
    }

    /// Why nobody else has an address of a part.
    pub fn proof(&self, id: ReservationId, site: &SiteName) -> Vec<BlockProof> {
        let Some(own) = self.charges.get(&id).and_then(|all| all.iter().find(|c| c.share.site == *site))
        else {
            return Vec::new();
        };
        let overlapping = || {
            let all = self.charges.values().flatten();
            all.filter(|charge| charge.addresses.overlaps(own.addresses)).flat_map(|c| &c.share.carve)
        };
        let last = |block: &AddressBlock| u32::from(block.first).saturating_add(block.count - 1);
        own.share
            .carve
            .iter()
            .map(|block| BlockProof {
                block: *block,
                below: overlapping().filter(|o| o.first < block.first).map(last).max().map(Ipv4Addr::from),
                above: overlapping().map(|o| o.first).filter(|first| *first > block.first).min(),
            })
            .collect()
    }
}

fn no_nodes(site: SiteName, asked: u32, have: u32) -> Refusal {
    let resource = Resource::Nodes { site };
    Refusal::NoRoom { resource, asked: asked.into(), have: have.into(), in_s: vec![] }
}
