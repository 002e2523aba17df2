//! What a set of parts needs, as gates of the search, and what is short where one is closed.

use capacity::{Answer, Demand, Gate, Window};

use super::request::{Blocked, NoPlan, Pair, Resource};
use super::{Book, Layer, Site};
use crate::network::{BandwidthProvider, Need, Refused};

/// One thing that is needed for all of a window.
pub(super) enum Needed<'a> {
    /// Places of one layer, whichever.
    Places { site: &'a Site, members: u32 },
    /// A rate on a link or an uplink.
    Rate(Need<'a>),
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

impl Gate for Needed<'_> {
    fn ask(&self, window: Window) -> Answer {
        match self {
            Self::Rate(need) => need.demand.ask(window),
            Self::Places { site, members } => {
                // It fits if one layer has room, so no start is possible before the first has.
                let mut first = Answer::Never;
                for layer in site.layers.iter().filter(|layer| layer.capacity >= *members) {
                    first = match (layer.demand(*members).ask(window), first) {
                        (Answer::Fits, _) => return Answer::Fits,
                        (Answer::NotBefore(one), Answer::NotBefore(other)) => {
                            Answer::NotBefore(one.min(other))
                        }
                        (Answer::Never, first) => first,
                        (answer, _) => answer,
                    };
                }
                first
            }
        }
    }
}

impl Needed<'_> {
    /// What of it there is in all of the window.
    pub fn short(&self, window: Window) -> Short {
        match self {
            Self::Places { site, members } => Short {
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
        let places = parts
            .iter()
            .map(|&(site, members)| Needed::Places { site: &self.sites[usize::from(site)], members });
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
