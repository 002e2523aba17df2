//! What a set of parts needs, as gates of the search, and what is short where one is closed.

use std::cell::Cell;

use capacity::{Answer, Demand, Gate, Window};

use super::request::{Blocked, NoPlan, Pair, Resource};
use super::{Book, Layer, Site};
use crate::network::{BandwidthProvider, Need, Refused};

/// One thing that is needed for all of a window. Asked about later and later starts only.
pub(super) enum Needed<'a> {
    /// Places of one layer, whichever.
    Places(Places<'a>),
    /// A rate on a link or an uplink.
    Rate(Need<'a>),
}

pub(super) struct Places<'a> {
    site: &'a Site,
    members: u32,
    /// Before which start each layer is known to have no room: it need not be asked again.
    not_before: Vec<Cell<u64>>,
}

/// What is short, in whole.
#[derive(Clone, Debug)]
pub(super) struct Short {
    pub resource: Resource,
    pub asked: u64,
    pub have: u64,
}

impl From<Short> for NoPlan {
    /// Without other starts.
    fn from(Short { resource, asked, have }: Short) -> Self {
        Self::Blocked(Blocked { resource, asked, have, starts: Vec::new() })
    }
}

impl Layer {
    fn demand(&self, members: u32) -> Demand<'_> {
        Demand { profile: &self.used, amount: u64::from(members), capacity: u64::from(self.capacity) }
    }
}

impl<'a> Needed<'a> {
    pub fn places(site: &'a Site, members: u32) -> Self {
        Self::Places(Places { site, members, not_before: vec![Cell::new(0); site.layers.len()] })
    }
}

impl Gate for Needed<'_> {
    fn ask(&self, window: Window) -> Answer {
        match self {
            Self::Rate(need) => need.demand.ask(window),
            Self::Places(places) => places.ask(window),
        }
    }
}

impl Gate for Places<'_> {
    /// It fits if one layer has room, so no start is possible before the first has.
    fn ask(&self, window: Window) -> Answer {
        let mut first = Answer::Never;
        let layers = self.site.layers.iter().zip(&self.not_before);
        for (layer, not_before) in layers.filter(|(layer, _)| layer.capacity >= self.members) {
            if not_before.get() <= window.start() {
                match layer.demand(self.members).ask(window) {
                    Answer::Fits => return Answer::Fits,
                    Answer::Never => continue,
                    Answer::NotBefore(later) => not_before.set(later),
                }
            }
            first = match first {
                Answer::NotBefore(other) => Answer::NotBefore(other.min(not_before.get())),
                _ => Answer::NotBefore(not_before.get()),
            };
        }
        first
    }
}

impl Needed<'_> {
    /// What of it there is in all of the window.
    pub fn short(&self, window: Window) -> Short {
        match self {
            Self::Places(Places { site, members, .. }) => Short {
                resource: Resource::Nodes { site: site.name.clone() },
                asked: u64::from(*members),
                have: site.free(window),
            },
            Self::Rate(Need { resource, demand }) => {
                Short { resource: (*resource).clone(), asked: demand.amount, have: demand.free(window) }
            }
        }
    }
}

impl Book {
    /// Everything that these parts, with these rates between them, need but addresses.
    pub(super) fn gates<'a>(
        &'a self,
        parts: &[(u16, u32)],
        pairs: &[Pair],
        network: &'a dyn BandwidthProvider,
    ) -> Result<Vec<Needed<'a>>, NoPlan> {
        let places =
            parts.iter().map(|&(site, members)| Needed::places(&self.sites[usize::from(site)], members));
        let mut gates: Vec<Needed> = places.collect();
        if !pairs.is_empty() {
            gates.extend(network.needs(pairs).map_err(no_link)?.into_iter().map(Needed::Rate));
        }
        Ok(gates)
    }

    /// The layer in which a part leaves the least over: large gaps stay whole. Of equal ones the
    /// lowest. `None` if none has room.
    pub(super) fn tightest_layer(&self, site: u16, members: u32, window: Window) -> Option<u32> {
        let layers = self.sites[usize::from(site)].layers.iter().zip(0u32..);
        let roomy = layers.filter(|(layer, _)| layer.capacity >= members);
        let fitting = roomy.filter_map(|(layer, number)| {
            let left = layer.free(window).checked_sub(u64::from(members))?;
            Some((left, number))
        });
        fitting.min().map(|(_, number)| number)
    }
}

/// A provider's answer while planning, which is about links that are not there or nothing.
fn no_link(refused: Refused) -> NoPlan {
    match refused {
        Refused::UnknownLink { a, b } => NoPlan::UnknownLink { a, b },
        Refused::NoRoom { .. } | Refused::Stale { .. } | Refused::NotHeld => NoPlan::NotBooked,
    }
}
