//! The lines of static links: what each can carry, what is charged to it, what has room.

use std::collections::BTreeMap;

use capacity::{Demand, Profile, Use, Window, extra};
use protocol::names::SiteName;
use protocol::planted::{Bug, planted};

use super::{Criteria, Need, Pair, Refused, Resource};

/// Links that cannot be: what the configuration says wrongly.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadLinks {
    #[error("the link {0}-{0} leads from a site to itself")]
    ToItself(SiteName),
    #[error("the link {0}-{1} is named twice")]
    LinkTwice(SiteName, SiteName),
    #[error("the uplink of {0} is named twice")]
    UplinkTwice(SiteName),
    #[error("there are more than {} links and uplinks", u16::MAX)]
    TooMany,
}

/// Which line.
pub(super) type Index = u16;

#[derive(Debug)]
struct Carrier {
    resource: Resource,
    capacity_kbit: u64,
    used: Profile,
}

/// Criteria, small: a grid has a million of them and few links.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rates {
    pub window: Window,
    pub pairs: Box<[(Index, u32)]>,
}

/// Charges to lines.
pub(super) type Uses = Vec<(Index, Use)>;

#[derive(Debug, Default)]
pub(super) struct Carriers {
    carriers: Vec<Carrier>,
    /// By the smaller name, then by the other.
    links: BTreeMap<SiteName, BTreeMap<SiteName, Index>>,
    uplinks: BTreeMap<SiteName, Index>,
}

impl Carriers {
    pub fn add_link(&mut self, a: &SiteName, b: &SiteName, capacity_kbit: u64) -> Result<(), BadLinks> {
        let (a, b) = (a.min(b).clone(), a.max(b).clone());
        if a == b {
            return Err(BadLinks::ToItself(a));
        }
        let index = self.push(Resource::Link { a: a.clone(), b: b.clone() }, capacity_kbit)?;
        match self.links.entry(a.clone()).or_default().insert(b.clone(), index) {
            Some(_) => Err(BadLinks::LinkTwice(a, b)),
            None => Ok(()),
        }
    }

    pub fn add_uplink(&mut self, site: SiteName, capacity_kbit: u64) -> Result<(), BadLinks> {
        let index = self.push(Resource::Uplink { site: site.clone() }, capacity_kbit)?;
        match self.uplinks.insert(site.clone(), index) {
            Some(_) => Err(BadLinks::UplinkTwice(site)),
            None => Ok(()),
        }
    }

    fn push(&mut self, resource: Resource, capacity_kbit: u64) -> Result<Index, BadLinks> {
        let index = Index::try_from(self.carriers.len()).map_err(|_| BadLinks::TooMany)?;
        self.carriers.push(Carrier { resource, capacity_kbit, used: Profile::default() });
        Ok(index)
    }

    fn get(&self, index: Index) -> &Carrier {
        &self.carriers[usize::from(index)]
    }

    pub fn lines(&self) -> impl Iterator<Item = (&Resource, u64, &Profile)> {
        self.carriers.iter().map(|carrier| (&carrier.resource, carrier.capacity_kbit, &carrier.used))
    }

    /// The link of a pair, or that there is none.
    pub fn link(&self, pair: &Pair) -> Result<(Index, u32), Refused> {
        let (a, b) = ((&pair.a).min(&pair.b), (&pair.a).max(&pair.b));
        match self.links.get(a).and_then(|links| links.get(b)) {
            Some(link) => Ok((*link, pair.rate_kbit)),
            None => Err(Refused::UnknownLink { a: a.clone(), b: b.clone() }),
        }
    }

    pub fn rates(&self, criteria: &Criteria) -> Result<Rates, Refused> {
        let pairs = criteria.pairs.iter().map(|pair| self.link(pair)).collect::<Result<_, _>>()?;
        Ok(Rates { window: criteria.window, pairs })
    }

    pub fn criteria(&self, rates: &Rates) -> Criteria {
        let pair = |&(link, rate_kbit): &(Index, u32)| match &self.get(link).resource {
            Resource::Link { a, b } => Some(Pair { a: a.clone(), b: b.clone(), rate_kbit }),
            _ => None,
        };
        Criteria { window: rates.window, pairs: rates.pairs.iter().filter_map(pair).collect() }
    }

    /// What these pairs take of each line: of a link its rate, of an uplink the sum of its pairs.
    pub fn charges(&self, pairs: &[(Index, u32)]) -> Vec<(Index, u64)> {
        let mut charges: Vec<(Index, u64)> = Vec::with_capacity(3 * pairs.len());
        let mut add = |index: Index, rate: u32| match charges.iter_mut().find(|(one, _)| *one == index) {
            Some((_, largest)) if planted(Bug::UplinkNotSummed) => *largest = (*largest).max(rate.into()),
            Some((_, sum)) => *sum += u64::from(rate),
            None => charges.push((index, u64::from(rate))),
        };
        for &(link, rate) in pairs {
            add(link, rate);
            let Resource::Link { a, b } = &self.get(link).resource else { continue };
            for uplink in [a, b].into_iter().filter_map(|site| self.uplinks.get(site)) {
                add(*uplink, rate);
            }
        }
        charges
    }

    /// The same over the window.
    pub fn whole(&self, rates: &Rates) -> Uses {
        let window = rates.window;
        self.charges(&rates.pairs)
            .into_iter()
            .map(|(index, amount)| (index, Use { window, amount }))
            .collect()
    }

    /// What of each line `pairs` would need.
    pub fn needs(&self, pairs: &[(Index, u32)]) -> Vec<Need<'_>> {
        let need = |(index, amount): (Index, u64)| {
            let Carrier { resource, capacity_kbit, used } = self.get(index);
            Need { resource, demand: Demand { profile: used, amount, capacity: *capacity_kbit } }
        };
        self.charges(pairs).into_iter().map(need).collect()
    }

    /// What `rates` needs beside what is granted, if there is room for it.
    pub fn beside(&self, granted: Option<&Rates>, rates: &Rates) -> Result<Uses, Refused> {
        let old = granted.map_or(Vec::new(), |granted| self.whole(granted));
        let mut beside = Uses::new();
        for (index, new) in self.whole(rates) {
            let Carrier { resource, capacity_kbit, used } = self.get(index);
            let old = old.iter().find(|(one, _)| *one == index).map(|(_, old)| *old);
            for held in extra(old, Some(new)) {
                let free = capacity_kbit.saturating_sub(used.max(held.window));
                if held.amount > free {
                    let (from, length) = (new.window.start(), new.window.seconds());
                    return Err(Refused::NoRoom {
                        resource: resource.clone(),
                        asked_kbit: new.amount,
                        have_kbit: new.amount - held.amount + free,
                        free_from: used.first_fit(from, u64::MAX, length, new.amount, *capacity_kbit),
                    });
                }
                beside.push((index, held));
            }
        }
        Ok(beside)
    }

    pub fn charge(&mut self, uses: &[(Index, Use)]) {
        uses.iter().for_each(|(index, held)| held.add_to(&mut self.carriers[usize::from(*index)].used));
    }

    pub fn give_back(&mut self, uses: &[(Index, Use)]) {
        uses.iter().for_each(|(index, held)| held.take_from(&mut self.carriers[usize::from(*index)].used));
    }

    /// Charges many at once, when nothing is charged yet.
    pub fn charge_all<'a>(&mut self, all: impl Iterator<Item = &'a Rates>) {
        let mut uses: Vec<Vec<(Window, u64)>> = self.carriers.iter().map(|_| Vec::new()).collect();
        for rates in all {
            for (index, amount) in self.charges(&rates.pairs) {
                uses[usize::from(index)].push((rates.window, amount));
            }
        }
        for (carrier, uses) in self.carriers.iter_mut().zip(uses) {
            carrier.used = Profile::of(uses);
        }
    }

    pub fn forget_before(&mut self, second: u64) {
        self.carriers.iter_mut().for_each(|carrier| carrier.used.forget_before(second));
    }
}
