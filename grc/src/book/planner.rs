//! Plans: the earliest start for named sites, what is in the way if there is none, and changes.

use capacity::{Block, Blocked as Stop, Use, Window, earliest, extra};
use protocol::limits::BLOCKS_PER_PART_MAX;
use protocol::names::SiteName;
use protocol::reservation::Placement;

use super::gate::{Needed, Short};
use super::request::{Blocked, Change, NoPlan, Part, Plan, Request, Resource};
use super::{Book, HORIZON_S, STARTS_MAX, from_wire, to_wire};
use crate::network::{BandwidthProvider, Connection, Criteria, Pair, Refused};

/// How often a search goes on behind the return of an address before it is given up: each time,
/// all addresses of the sites are looked at.
const RELEASES_MAX: usize = 256;

/// Sites with their numbers of members, in the order of the parts.
pub(super) type Parts = Vec<(u16, u32)>;

/// A start at which everything is free, and the addresses that each part would have.
pub(super) struct Found {
    pub window: Window,
    pub carves: Vec<Vec<Block>>,
}

/// Why a search found no start.
#[derive(Clone, Debug)]
pub(super) struct Stuck {
    pub short: Short,
    /// Where a search for later ones goes on, if anywhere.
    pub not_before: Option<u64>,
}

impl Request<'_> {
    /// The last start that anybody looks at.
    pub(super) fn horizon(&self) -> u64 {
        self.now.max(self.earliest).saturating_add(HORIZON_S)
    }

    /// For how long addresses are taken for a window: never from before now on.
    pub(super) fn span(&self, window: Window) -> Window {
        let wide = window.widened(self.lead, self.tail);
        wide.split(self.now.min(window.start())).1.unwrap_or(wide)
    }

    pub(super) fn candidate(&self, site: &SiteName) -> bool {
        self.candidates.iter().any(|candidate| candidate.site == *site)
    }
}

impl Book {
    /// Nodes, layers, addresses and rates for the earliest start of the request; of a free choice
    /// at that start the fewest sites, then those that have the environment, then those with
    /// bandwidth to spare. Nothing is taken.
    ///
    /// # Errors
    /// What is short, and other starts. Those of named sites are exact: the first is the earliest
    /// of all. Those of a free choice are possible, and no single site could begin earlier.
    pub fn plan(&self, request: &Request, network: &dyn BandwidthProvider) -> Result<Plan, NoPlan> {
        match request.placement {
            Placement::Anywhere(members) => self.plan_anywhere(request, *members, network),
            Placement::Sites(named) => {
                let mut parts = Parts::with_capacity(named.len());
                for (site, members) in named {
                    let Some((index, _)) = self.site(site).filter(|_| request.candidate(site)) else {
                        let resource = Resource::Nodes { site: site.clone() };
                        let (asked, have) = (u64::from(*members), 0);
                        return Err(NoPlan::Blocked(Blocked { resource, asked, have, starts: Vec::new() }));
                    };
                    parts.push((index, *members));
                }
                let pairs = self.pairs(request, &parts);
                let gates = self.gates(&parts, &pairs, network)?;
                match self.find(request, &parts, &gates, request.earliest, request.latest) {
                    Ok(found) => Ok(self.finish(request, &parts, pairs, &found)),
                    Err(stuck) => {
                        let starts = self.starts(request, &parts, &gates, stuck.not_before);
                        let Short { resource, asked, have } = stuck.short;
                        Err(NoPlan::Blocked(Blocked { resource, asked, have, starts }))
                    }
                }
            }
        }
    }

    /// The rates that the request asks between these parts.
    pub(super) fn pairs(&self, request: &Request, parts: &[(u16, u32)]) -> Vec<Pair> {
        let names: Vec<&SiteName> =
            parts.iter().map(|(site, _)| &self.sites[usize::from(*site)].name).collect();
        request.rates.among(&names)
    }

    /// The earliest start from `from` to `latest` for these very parts.
    pub(super) fn find(
        &self,
        request: &Request,
        parts: &[(u16, u32)],
        gates: &[Needed],
        from: u64,
        latest: u64,
    ) -> Result<Found, Stuck> {
        let mut from = from;
        let mut tries = 0;
        loop {
            let start = match earliest(gates, from, latest, request.duration) {
                Ok(start) => start,
                Err(Stop { gate, at, not_before }) => {
                    let window = Window::lasting(at, request.duration).unwrap_or(Window::MAX);
                    return Err(Stuck { short: gates[gate].short(window), not_before });
                }
            };
            let window = Window::lasting(start, request.duration).unwrap_or(Window::MAX);
            let span = request.span(window);
            let part = match self.carve(parts, span) {
                Ok(carves) => return Ok(Found { window, carves }),
                Err(part) => part,
            };
            let back = self.next_release(parts, span.start());
            let later = back.map(|back| back.saturating_add(request.lead).max(start + 1));
            tries += 1;
            from = match later {
                Some(later) if later <= latest && tries < RELEASES_MAX => later,
                not_before => {
                    return Err(Stuck { short: self.short_of_addresses(parts[part], span), not_before });
                }
            }
        }
    }

    pub(super) fn short_of_addresses(&self, (site, members): (u16, u32), span: Window) -> Short {
        let site = &self.sites[usize::from(site)];
        Short {
            resource: Resource::Addresses { site: site.name.clone() },
            asked: u64::from(members),
            have: self.calendar.count_free(&site.usable, &[&self.machines], span),
        }
    }

    /// Other starts for these parts, one reservation's length apart at least.
    fn starts(
        &self,
        request: &Request,
        parts: &[(u16, u32)],
        gates: &[Needed],
        from: Option<u64>,
    ) -> Vec<u64> {
        let mut starts = Vec::new();
        let mut from = from;
        while let Some(next) = from.filter(|from| *from <= request.horizon()) {
            let Ok(found) = self.find(request, parts, gates, next, request.horizon()) else { break };
            starts.push(found.window.start());
            from = Some(found.window.end()).filter(|_| starts.len() < STARTS_MAX);
        }
        starts
    }

    /// The plan for parts that were found to fit.
    pub(super) fn finish(
        &self,
        request: &Request,
        parts: &[(u16, u32)],
        pairs: Vec<Pair>,
        found: &Found,
    ) -> Plan {
        let part = |(&(site, members), blocks): (&(u16, u32), &Vec<Block>)| Part {
            site: self.sites[usize::from(site)].name.clone(),
            members,
            layer: self.layer_for(site, members, found.window).unwrap_or(0),
            blocks: to_wire(blocks),
        };
        let parts = parts.iter().zip(&found.carves).map(part).collect();
        Plan { window: found.window, addresses: request.span(found.window), parts, pairs }
    }

    /// What a grant would be after a change, if there is room for both it and the grant until the
    /// change is certain. Nothing is taken: see [`Book::hold_change`].
    ///
    /// # Errors
    /// What is short. Other starts are not proposed, for the start of a grant stays.
    pub fn plan_change(
        &self,
        reservation: u64,
        change: &Change,
        network: &dyn BandwidthProvider,
    ) -> Result<Plan, NoPlan> {
        let entry = self.entries.get(&reservation).ok_or(NoPlan::NotBooked)?;
        let (old, span) = (entry.window(), entry.addresses());
        let window = Window::lasting(old.start(), change.duration).ok_or(NoPlan::NotBooked)?;
        let addresses =
            Window::new(span.start(), window.end().saturating_add(change.tail)).ok_or(NoPlan::NotBooked)?;
        if !change.pairs.is_empty() {
            let criteria = Criteria { window, pairs: change.pairs.to_vec() };
            if let Some(refused) = network.blocked(Connection(reservation), &criteria) {
                return Err(match refused {
                    Refused::UnknownLink { a, b } => NoPlan::UnknownLink { a, b },
                    Refused::NoRoom { resource, asked_kbit, have_kbit, .. } => {
                        Short { resource, asked: asked_kbit, have: have_kbit }.into()
                    }
                    Refused::Stale { .. } | Refused::NotHeld => NoPlan::NotBooked,
                });
            }
        }
        let mut parts = Vec::with_capacity(entry.parts().len());
        let mut chosen = capacity::AddressSet::default();
        for held in entry.parts() {
            let site = &self.sites[usize::from(held.site)];
            let asked = change.members.iter().find(|(name, _)| *name == site.name);
            let members = asked.map_or(held.members, |(_, members)| *members);
            let beside = extra(
                Some(Use { window: old, amount: u64::from(held.members) }),
                Some(Use { window, amount: u64::from(members) }),
            );
            let own = &site.layers[usize::from(held.layer)];
            let free = |held: &Use| own.free(held.window) >= held.amount;
            let layer = match beside.iter().find(|held| !free(held)) {
                None => u32::from(held.layer),
                Some(short) => {
                    let other = self.layer_for(held.site, members, window);
                    other.filter(|_| !change.begun).ok_or_else(|| {
                        let have = u64::from(members) - short.amount + own.free(short.window);
                        let resource = Resource::Nodes { site: site.name.clone() };
                        Short { resource, asked: u64::from(members), have }
                    })?
                }
            };
            let longer = addresses.split(span.end()).1;
            let stays = |block| longer.is_none_or(|longer| self.calendar.is_free(block, longer));
            // Nobody moves to other addresses: a site that has not heard of the change may stand at
            // those that it was given first.
            let mut blocks = held.blocks.to_vec();
            if let Some(block) = blocks.iter().find(|block| !stays(**block)) {
                let resource = Resource::Addresses { site: site.name.clone() };
                return Err(Short { resource, asked: u64::from(block.count), have: 0 }.into());
            }
            let had: u32 = blocks.iter().map(|block| block.count).sum();
            if let Some(more) = members.checked_sub(had).filter(|more| *more > 0) {
                let blocks_max = BLOCKS_PER_PART_MAX.saturating_sub(blocks.len());
                let avoid = [&self.machines, &chosen];
                let carved =
                    self.calendar.carve(&site.usable, &avoid, more, addresses, blocks_max, site.next);
                let carved =
                    carved.ok_or_else(|| self.short_of_addresses((held.site, members), addresses))?;
                carved.iter().for_each(|block| chosen.insert_run(block.first.into(), block.count));
                blocks.extend(carved);
            }
            parts.push(Part { site: site.name.clone(), members, layer, blocks: to_wire(&blocks) });
        }
        debug_assert!(parts.iter().all(|part| from_wire(&part.blocks).count() > 0));
        Ok(Plan { window, addresses, parts, pairs: change.pairs.to_vec() })
    }
}
