//! What is taken when: the owner's face of the book.
//!
//! An attempt takes before anybody is asked, a change beside what is in force, so that at every
//! moment the larger of both is taken. What a part has comes back when its end is confirmed. The
//! book counts whole seconds: a window is taken from the second in which it begins to the one in
//! which it ends.

use std::collections::BTreeMap;
use std::time::Duration;

use capacity::Window as Seconds;
use protocol::ids::ReservationId;
use protocol::limits::{PEERS_MAX, SITES_MAX};
use protocol::names::SiteName;
use protocol::planted::{Bug, planted};
use protocol::refusal::Refusal;
use protocol::reservation::{Ask, Bandwidth, BlockProof, Placement};
use protocol::site::Offer;

use crate::book::{Blocked, Book, Candidate, Change, NoPlan, Part, Plan, Rates, Request};
use crate::network::{BandwidthProvider, Pair};
use crate::plan::nodes::Sites;
use crate::reservation::{Share, Window};

/// Why there is no plan.
#[derive(Clone, Debug)]
pub(super) struct Short {
    pub refusal: Refusal,
    /// The earliest second at which it could begin, as far as anybody knows.
    pub next_s: Option<u64>,
}

impl From<Refusal> for Short {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, next_s: None }
    }
}

/// A start, and who gives what.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub start_s: u64,
    pub shares: Vec<Share>,
    pub rates: Vec<Pair>,
    pub lead: Duration,
}

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub ask: &'a Ask,
    /// Sites that may be used; the others are away.
    pub sites: &'a Sites,
    /// Most members of a free choice at a site, where there is such a limit.
    pub most: &'a BTreeMap<SiteName, u32>,
    pub now: Duration,
    pub earliest_s: u64,
    pub latest_s: u64,
}

/// What a grant shall be instead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Other<'a> {
    pub window: Window,
    /// Other numbers of members, where they change.
    pub members: &'a [(SiteName, u32)],
    pub rates: &'a [Pair],
    /// Pilots may have begun: nobody moves to another layer.
    pub begun: bool,
}

#[derive(Debug)]
pub(super) struct Room {
    book: Book,
    /// After the last end of a window until addresses come back unconfirmed.
    tail: Duration,
    lead_s: BTreeMap<SiteName, u64>,
}

fn ceil_s(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

pub(super) fn seconds(from: Duration, to: Duration) -> Seconds {
    let from = from.as_secs();
    Seconds::new(from, ceil_s(to).max(from + 1)).unwrap_or(Seconds::MAX)
}

fn share_of(part: Part) -> Share {
    Share { site: part.site, members: part.members, layer: part.layer, carve: part.blocks }
}

impl Room {
    pub fn new(tail: Duration) -> Self {
        Self { book: Book::default(), tail, lead_s: BTreeMap::new() }
    }

    pub fn book(&self) -> &Book {
        &self.book
    }

    pub fn set_site(&mut self, name: &SiteName, offer: &Offer) {
        self.book.set_capacity(name, &offer.layers);
        self.book.set_addresses(name, &offer.ranges, &offer.reserved);
        self.lead_s.insert(name.clone(), offer.lead_s.into());
    }

    /// How many members a site could ever have: its addresses without any machine's.
    pub fn could_give(&self, site: &SiteName) -> u64 {
        self.book.addresses_of(site)
    }

    /// The earliest start in the span at which everything is free. Nothing is taken.
    pub fn plan(&mut self, wish: Wish<'_>, network: &dyn BandwidthProvider) -> Result<Found, Short> {
        let Wish { ask, sites, now, earliest_s, latest_s, .. } = wish;
        self.book.forget_before(now.as_secs());
        if let Placement::Sites(parts) = &ask.placement {
            let away = |(site, _): &&(SiteName, u32)| !matches!(sites.get(site), Some(Some(_)));
            if let Some((site, _)) = parts.iter().find(away) {
                return Err(Refusal::SiteDown { site: site.clone() }.into());
            }
            let paused =
                parts.iter().find_map(|(site, _)| Some((site, sites.get(site)?.as_ref()?.paused.clone()?)));
            if let Some((site, why)) = paused {
                return Err(Refusal::QueuePaused { site: site.clone(), why }.into());
            }
        }
        let most = |site: &SiteName| wish.most.get(site).copied().unwrap_or(u32::MAX);
        let candidates: Vec<Candidate> = sites
            .iter()
            .filter(|(_, capacity)| {
                capacity.as_ref().is_some_and(|capacity| {
                    let fits =
                        capacity.environments.contains(&ask.environment) && capacity.lasts(ask.duration_s);
                    fits && capacity.paused.is_none()
                })
            })
            .map(|(site, capacity)| {
                let of_queue = capacity.as_ref().and_then(|capacity| capacity.nodes_max).unwrap_or(u32::MAX);
                Candidate { site: site.clone(), warm: true, most: most(site).min(of_queue) }
            })
            .collect();
        let named = |site: &SiteName| match &ask.placement {
            Placement::Sites(parts) => parts.iter().any(|(one, _)| one == site),
            Placement::Anywhere(_) => true,
        };
        let leads = candidates.iter().filter(|one| named(&one.site)).map(|one| self.lead_s.get(&one.site));
        let lead = leads.flatten().max().copied().unwrap_or(0);
        let (rates, sites_max) = match &ask.bandwidth {
            Bandwidth::Unasked => (Rates::None, SITES_MAX),
            Bandwidth::Between(rate_kbit) => (Rates::Between(*rate_kbit), PEERS_MAX + 1),
            Bandwidth::Pairs(pairs) => (Rates::Pairs(pairs.clone()), SITES_MAX),
        };
        let request = Request {
            placement: &ask.placement,
            candidates: &candidates,
            sites_max,
            rates: &rates,
            now: now.as_secs(),
            earliest: earliest_s,
            latest: latest_s,
            // What begins in the middle of a second ends in the middle of one.
            duration: u64::from(ask.duration_s) + u64::from(now.subsec_nanos() > 0),
            lead,
            tail: ceil_s(self.tail),
        };
        let plan = self.book.plan(&request, network).map_err(|none| short(none, ask, now));
        let paused =
            || sites.iter().find_map(|(site, one)| Some((site.clone(), one.as_ref()?.paused.clone()?)));
        let plan = match (plan, paused()) {
            // With its nodes it might have been had.
            (Err(Short { next_s: None, .. }), Some((site, why))) => {
                return Err(Refusal::QueuePaused { site, why }.into());
            }
            (plan, _) => plan?,
        };
        let Plan { window, parts, pairs, .. } = plan;
        let shares = parts.into_iter().map(share_of).collect();
        Ok(Found { start_s: window.start(), shares, rates: pairs, lead: Duration::from_secs(lead) })
    }

    /// What the parts would be after a change, if there is room for both it and the grant. Nothing
    /// is taken.
    pub fn plan_change(
        &self,
        id: ReservationId,
        other: Other<'_>,
        network: &dyn BandwidthProvider,
    ) -> Result<Vec<Share>, Refusal> {
        let window = seconds(other.window.start, other.window.end);
        let change = Change {
            duration: window.seconds(),
            members: other.members,
            pairs: other.rates,
            begun: other.begun,
            tail: ceil_s(self.tail + (other.window.until - other.window.end)),
        };
        match self.book.plan_change(id.0, &change, network) {
            Ok(plan) => Ok(plan.parts.into_iter().map(share_of).collect()),
            Err(NoPlan::Blocked(Blocked { resource, asked, have, .. })) => {
                Err(Refusal::NoRoom { resource, asked, have, in_s: Vec::new() })
            }
            Err(NoPlan::UnknownLink { a, b }) => Err(Refusal::UnknownLink { a, b }),
            Err(NoPlan::NoSites | NoPlan::NotBooked) => {
                Err(Refusal::WrongState { what: "a change".into(), state: "nothing is booked".into() })
            }
        }
    }

    fn booked(&self, window: Window, shares: &[Share]) -> Plan {
        let part = |share: &Share| Part {
            site: share.site.clone(),
            members: share.members,
            layer: share.layer,
            blocks: share.carve.clone(),
        };
        Plan {
            window: seconds(window.start, window.end),
            addresses: seconds(window.near(), window.until + self.tail),
            parts: shares.iter().map(part).collect(),
            // Rates are the network's to book.
            pairs: Vec::new(),
        }
    }

    /// Takes for a first grant, or for one that is there after a restart; false if somebody else
    /// has an address of it.
    pub fn take(&mut self, id: ReservationId, window: Window, shares: &[Share]) -> bool {
        self.book.take(id.0, &self.booked(window, shares)).is_ok()
    }

    /// Takes for a change beside what is in force; false as above.
    pub fn take_beside(&mut self, id: ReservationId, window: Window, shares: &[Share]) -> bool {
        let taken = self.book.hold_change(id.0, &self.booked(window, shares)).is_ok();
        if taken && planted(Bug::ChangeFreesFirst) {
            self.settle(id);
        }
        taken
    }

    /// Only the newest counts from here on: without a change beside it, nothing is different.
    pub fn settle(&mut self, id: ReservationId) {
        let _ = self.book.commit_change(id.0);
    }

    /// The change does not count any more.
    pub fn abort_change(&mut self, id: ReservationId) {
        self.book.abort_change(id.0);
    }

    /// It will end at every site; what it has stays taken until that is confirmed.
    pub fn end(&mut self, id: ReservationId) {
        self.book.end(id.0);
    }

    /// A part is gone, confirmed: what it had is free from now on.
    pub fn give_back(&mut self, id: ReservationId, site: &SiteName) {
        self.book.confirm(id.0, site);
    }

    /// Nothing of it was ever started: all is free at once.
    pub fn cancel(&mut self, id: ReservationId, shares: &[Share]) {
        self.book.end(id.0);
        shares.iter().for_each(|share| self.book.confirm(id.0, &share.site));
    }

    /// Why nobody else has an address of these.
    pub fn proof(&self, id: ReservationId, share: &Share) -> Vec<BlockProof> {
        let proof = |block: &_| {
            let (below, above) = self.book.neighbours(id.0, *block);
            BlockProof { block: *block, below, above }
        };
        share.carve.iter().map(proof).collect()
    }
}

/// Why there is no plan, in the words of a refusal.
fn short(none: NoPlan, ask: &Ask, now: Duration) -> Short {
    match none {
        NoPlan::Blocked(Blocked { resource, asked, have, starts }) => {
            let in_s = starts.iter().map(|start| start.saturating_sub(now.as_secs())).collect();
            let refusal = Refusal::NoRoom { resource, asked, have, in_s };
            Short { refusal, next_s: starts.first().copied() }
        }
        NoPlan::UnknownLink { a, b } => Refusal::UnknownLink { a, b }.into(),
        NoPlan::NoSites | NoPlan::NotBooked => {
            let asked = match &ask.placement {
                Placement::Anywhere(asked) => *asked,
                Placement::Sites(parts) => parts.iter().map(|(_, count)| *count).sum(),
            };
            Refusal::MoreNodesThanGrid { asked, have: 0 }.into()
        }
    }
}
