//! The grid's capacity over time: nodes of sites and addresses. Links and uplinks are the
//! [`crate::network`] provider's; the planner asks both.
//!
//! **Layers.** A node may take several members at once, but never two of one part. So a site's
//! nodes are counted in layers: layer `j` has as many places as the site has nodes that take more
//! than `j` members, and a part of `m` members takes `m` places of *one* layer. Within a layer a
//! place is a node, so members of a part find distinct nodes, whichever they are in the end: what
//! counts as at most `n` at any time can always be given to `n` nodes.
//!
//! **Addresses.** One calendar for the whole grid, for ranges of sites may overlap. They are taken
//! from a while before the window, when sandboxes are prepared, until a while after it, and are
//! given back, as nodes are, when a site has confirmed that nothing is left.
//!
//! Everything here is pure: planning changes nothing, and what it proposes is taken by
//! [`Book::take`] in the same step. Times are whole seconds since the epoch on the owner's clock.

mod anywhere;
mod choice;
mod entry;
mod gate;
mod planner;
mod request;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use capacity::{AddressSet, Block, Calendar, Profile, Window};
use ipnet::Ipv4Net;
use protocol::limits::BLOCKS_PER_PART_MAX;
use protocol::names::SiteName;
use protocol::planted::{Bug, planted};
use protocol::reservation::AddressBlock;

use crate::plan::addresses;

use entry::Entry;
pub use entry::NotTaken;
pub use request::{Blocked, Candidate, Change, NoPlan, Part, Plan, Rates, Request};

/// How far ahead a start is looked for, and how many are proposed.
const HORIZON_S: u64 = 366 * 24 * 3600;
const STARTS_MAX: usize = 3;
/// How long the past is kept: dropping it looks at every page of the calendar.
const FORGET_EVERY_S: u64 = 600;

/// Places of one layer.
#[derive(Clone, Debug, Default)]
struct Layer {
    capacity: u32,
    used: Profile,
}

/// What one site has. Of a site that is no longer there, what was booked stays.
#[derive(Clone, Debug)]
struct Site {
    name: SiteName,
    layers: Vec<Layer>,
    usable: AddressSet,
    /// The site's own machines, where they lie in its own ranges: it cannot keep others from theirs.
    machines: AddressSet,
    /// The address behind its last carve, from which the next one looks on: an address is used
    /// again after all others. A connection that the last holder left half closed, or a neighbour
    /// who remembers it, then meets nobody new.
    next: u32,
    /// Sites that can have some of its addresses, itself among them: they go round together.
    shared: Vec<u16>,
}

impl Layer {
    /// How many members it has room for in all of the window.
    fn free(&self, window: Window) -> u64 {
        u64::from(self.capacity).saturating_sub(self.used.max(window))
    }
}

impl Site {
    /// The most members that one part could have here in all of the window.
    fn free(&self, window: Window) -> u64 {
        let mut best = 0;
        for layer in self.layers.iter().filter(|layer| layer.capacity > 0) {
            if u64::from(layer.capacity) > best {
                best = best.max(layer.free(window));
            }
        }
        best
    }
}

/// The whole book. What is granted stands in the owner's records; this is rebuilt from them.
#[derive(Debug, Default)]
pub struct Book {
    sites: Vec<Site>,
    names: BTreeMap<SiteName, u16>,
    calendar: Calendar,
    /// Machines of all sites: never carved, at whichever site.
    machines: AddressSet,
    /// By reservation. Never walked through, so its order is nobody's concern.
    entries: HashMap<u64, Entry>,
    /// Until when the past was dropped last.
    forgotten: u64,
}

fn to_wire(blocks: &[Block]) -> Vec<AddressBlock> {
    blocks.iter().map(|block| AddressBlock { first: block.first.into(), count: block.count }).collect()
}

fn from_wire(blocks: &[AddressBlock]) -> impl Iterator<Item = Block> {
    blocks.iter().map(|block| Block { first: block.first.into(), count: block.count })
}

impl Book {
    /// How many nodes of a site take more than 0, 1, ... members at once. What is booked beyond
    /// stays booked; only nothing more is planned there. A site that is away keeps its last
    /// layers, or gets none: then nothing is planned there.
    pub fn set_capacity(&mut self, site: &SiteName, layers: &[u32]) {
        let index = self.index_or_new(site);
        let site = &mut self.sites[usize::from(index)];
        let known = site.layers.len().max(layers.len());
        site.layers.resize_with(known, Layer::default);
        for (number, layer) in site.layers.iter_mut().enumerate() {
            layer.capacity = layers.get(number).copied().unwrap_or(0);
        }
    }

    /// Where a site's sandboxes may have addresses, and which of these its machines have.
    pub fn set_addresses(&mut self, site: &SiteName, ranges: &[Ipv4Net], machines: &[Ipv4Addr]) {
        let index = self.index_or_new(site);
        let usable = addresses::usable(ranges);
        let mut shared = Vec::new();
        for (other, number) in self.sites.iter_mut().zip(0..) {
            other.shared.retain(|one| *one != index);
            if number == index {
                shared.push(index);
            } else if !other.usable.intersection(&usable).is_empty() {
                other.shared.push(index);
                shared.push(number);
            }
        }
        let site = &mut self.sites[usize::from(index)];
        (site.usable, site.shared) = (usable, shared);
        site.machines = AddressSet::default();
        for machine in machines.iter().filter(|machine| ranges.iter().any(|range| range.contains(*machine))) {
            site.machines.insert(*machine, *machine);
        }
        self.machines = AddressSet::default();
        for (first, last) in self.sites.iter().flat_map(|site| site.machines.intervals()) {
            self.machines.insert(first, last);
        }
    }

    fn index_or_new(&mut self, site: &SiteName) -> u16 {
        if let Some(index) = self.names.get(site) {
            return *index;
        }
        // A grid has far fewer sites than there are numbers.
        let index = self.sites.len() as u16;
        let (usable, machines) = Default::default();
        let (name, layers, shared) = (site.clone(), Vec::new(), vec![index]);
        self.sites.push(Site { name, layers, usable, machines, next: 0, shared });
        self.names.insert(site.clone(), index);
        index
    }

    fn site(&self, name: &SiteName) -> Option<(u16, &Site)> {
        let index = *self.names.get(name)?;
        Some((index, &self.sites[usize::from(index)]))
    }

    /// Addresses for so many members of each of these sites over the window, no two the same.
    ///
    /// # Errors
    /// The place in the list of a site that has not enough.
    fn carve(&self, parts: &[(u16, u32)], window: Window) -> Result<Vec<Vec<Block>>, usize> {
        let usable = |part: usize| &self.sites[usize::from(parts[part].0)].usable;
        // Who can choose among few chooses first.
        let mut order: Vec<usize> = (0..parts.len()).collect();
        if parts.len() > 1 {
            order.sort_by_key(|part| usable(*part).count());
        }
        let mut chosen = AddressSet::default();
        let mut carves = vec![Vec::new(); parts.len()];
        for part in order {
            let (site, count) = parts[part];
            let next = self.sites[usize::from(site)].next;
            let avoid = [&self.machines, &chosen];
            let here = planted(Bug::CarvePerSite).then(|| self.calendar_of(site));
            let calendar = here.as_ref().unwrap_or(&self.calendar);
            let blocks = calendar.carve(usable(part), &avoid, count, window, BLOCKS_PER_PART_MAX, next);
            let blocks = blocks.ok_or(part)?;
            blocks.iter().for_each(|block| chosen.insert_run(block.first.into(), block.count));
            carves[part] = blocks;
        }
        Ok(carves)
    }

    /// What is taken at one site alone, for the bug that looks at nothing else.
    fn calendar_of(&self, site: u16) -> Calendar {
        let mut calendar = Calendar::default();
        for entry in self.entries.values() {
            let here = entry.parts().iter().filter(|part| part.site == site);
            here.for_each(|part| calendar.take(&part.blocks, entry.addresses()));
        }
        calendar
    }

    /// When, behind `after`, the first address of these sites comes back.
    fn next_release(&self, parts: &[(u16, u32)], after: u64) -> Option<u64> {
        let usable = parts.iter().map(|(site, _)| &self.sites[usize::from(*site)].usable);
        usable.filter_map(|usable| self.calendar.next_release(usable, after)).min()
    }

    /// How many members a site could ever have: its addresses without any machine's.
    pub fn addresses_of(&self, site: &SiteName) -> u64 {
        self.site(site)
            .map_or(0, |(_, site)| site.usable.count() - site.usable.intersection(&self.machines).count())
    }

    /// The proof that a block is nobody else's: the last taken address below it and the first
    /// above it, of all that are taken at any time while this reservation has it.
    pub fn neighbours(&self, reservation: u64, block: AddressBlock) -> (Option<Ipv4Addr>, Option<Ipv4Addr>) {
        let Some(entry) = self.entries.get(&reservation) else { return (None, None) };
        let first = u32::from(block.first);
        let last = Block { first, count: block.count }.last();
        let below = self.calendar.below(first, entry.addresses());
        (below.map(Ipv4Addr::from), self.calendar.above(last, entry.addresses()).map(Ipv4Addr::from))
    }

    /// Each site's layers with their capacity and what is booked of them over time.
    pub fn layers(&self) -> impl Iterator<Item = (&SiteName, usize, u32, &Profile)> {
        self.sites.iter().flat_map(|site| {
            let layers = site.layers.iter().enumerate();
            layers.map(|(number, layer)| (&site.name, number, layer.capacity, &layer.used))
        })
    }

    /// Addresses that are taken in this second.
    pub fn taken_at(&self, second: u64) -> AddressSet {
        self.calendar.taken_at(second)
    }

    /// Whether nothing is booked at any time.
    pub fn is_empty(&self) -> bool {
        let mut layers = self.sites.iter().flat_map(|site| &site.layers);
        self.entries.is_empty() && self.calendar.is_empty() && layers.all(|layer| layer.used.is_empty())
    }

    /// Nobody asks about what lies before this second any more: it bounds what the past costs.
    /// Legal as often as one likes; something is done only every few minutes.
    pub fn forget_before(&mut self, second: u64) {
        if second < self.forgotten.saturating_add(FORGET_EVERY_S) {
            return;
        }
        self.forgotten = second;
        for layer in self.sites.iter_mut().flat_map(|site| &mut site.layers) {
            layer.used.forget_before(second);
        }
        self.calendar.forget_before(second);
    }
}
