//! A free choice of sites for one window: as few as possible; of these such as have the
//! environment; of these such as leave the most bandwidth.
//!
//! To choose sites such that every two have a rate is to find a clique, so the branching is
//! bounded: what it gives is possible, and the best of what was looked at, largest sites first.

use capacity::{Answer, Gate, Window};
use protocol::names::SiteName;

use super::Book;
use super::gate::Short;
use super::planner::{Found, Parts};
use super::request::{NoPlan, Pair, Rates, Request, Resource};
use crate::network::BandwidthProvider;

/// Steps of the branching, and sets that it compares, for each number of sites.
const STEPS_MAX: usize = 4096;
const SETS_MAX: usize = 256;
/// Of these, how many are tried in earnest: uplinks as sums, addresses.
const TRIED_MAX: usize = 8;

/// A site with room in the window.
struct Roomy {
    index: u16,
    free: u64,
    warm: bool,
}

/// Sites, as places in the list of those with room; what is better is less.
#[derive(Debug, Eq, PartialEq, Ord, PartialOrd)]
struct Set {
    cold: usize,
    /// What is left on the narrowest link, negated: more is better.
    narrow: std::cmp::Reverse<u64>,
    /// The tightest fit, so that large gaps stay whole.
    sum: u64,
    chosen: Vec<usize>,
}

/// The branching over sets of one size.
struct Branching<'a, S: FnMut(usize, usize) -> Option<u64>> {
    roomy: &'a [Roomy],
    members: u64,
    size: usize,
    /// What two sites have left between them beside the rate asked; `None` if not even that.
    left: S,
    steps: usize,
    sets: Vec<Set>,
}

impl<S: FnMut(usize, usize) -> Option<u64>> Branching<'_, S> {
    fn branch(&mut self, chosen: &mut Vec<usize>, sum: u64, narrow: u64) {
        if chosen.len() == self.size {
            let cold = chosen.iter().filter(|site| !self.roomy[**site].warm).count();
            let narrow = std::cmp::Reverse(narrow);
            self.sets.push(Set { cold, narrow, sum, chosen: chosen.clone() });
            return;
        }
        let missing = self.size - chosen.len();
        for next in chosen.last().map_or(0, |last| last + 1)..self.roomy.len() {
            // They are in descending order: what these cannot reach, no later ones can.
            let best: u64 = self.roomy[next..].iter().take(missing).map(|site| site.free).sum();
            if next + missing > self.roomy.len() || sum + best < self.members {
                return;
            }
            self.steps += 1;
            if self.steps > STEPS_MAX || self.sets.len() >= SETS_MAX {
                return;
            }
            let left = chosen.iter().try_fold(narrow, |least, one| Some(least.min((self.left)(*one, next)?)));
            if let Some(narrow) = left {
                chosen.push(next);
                self.branch(chosen, sum + self.roomy[next].free, narrow);
                chosen.pop();
            }
        }
    }
}

/// What there is between two sites of the list, asked once for each pair.
struct Between<'a> {
    request: &'a Request<'a>,
    network: &'a dyn BandwidthProvider,
    window: Window,
    names: Vec<&'a SiteName>,
    known: Vec<Option<Option<u64>>>,
}

impl Between<'_> {
    fn left(&mut self, one: usize, other: usize) -> Option<u64> {
        if *self.request.rates == Rates::None {
            return Some(u64::MAX);
        }
        let place = one * self.names.len() + other;
        if let Some(left) = self.known[place] {
            return left;
        }
        let pairs = self.request.rates.among(&[self.names[one], self.names[other]]);
        let needs = self.network.needs(&pairs).ok();
        let left = needs.and_then(|needs| {
            let left =
                |need: &crate::network::Need| need.demand.free(self.window).checked_sub(need.demand.amount);
            needs.iter().map(left).try_fold(u64::MAX, |least, left| Some(least.min(left?)))
        });
        self.known[place] = Some(left);
        left
    }
}

impl Book {
    /// Sites for so many members in exactly this window.
    ///
    /// # Errors
    /// What is short.
    pub(super) fn choose_at(
        &self,
        request: &Request,
        members: u32,
        network: &dyn BandwidthProvider,
        window: Window,
    ) -> Result<(Parts, Vec<Pair>, Found), NoPlan> {
        let roomy = self.roomy(request, window);
        let wanted = u64::from(members);
        let mut between = Between {
            request,
            network,
            window,
            names: roomy.iter().map(|site| &self.sites[usize::from(site.index)].name).collect(),
            known: vec![None; roomy.len() * roomy.len()],
        };
        for size in 1..=request.sites_max.min(roomy.len()).min(members as usize) {
            if roomy[..size].iter().map(|site| site.free).sum::<u64>() < wanted {
                continue;
            }
            let left = |one, other| between.left(one, other);
            let (steps, sets) = (0, Vec::new());
            let mut branching = Branching { roomy: &roomy, members: wanted, size, left, steps, sets };
            branching.branch(&mut Vec::with_capacity(size), 0, u64::MAX);
            let mut sets = branching.sets;
            sets.sort_unstable();
            for set in sets.into_iter().take(TRIED_MAX) {
                let parts = shares(set.chosen.iter().map(|site| &roomy[*site]), size, members);
                let pairs = self.pairs(request, &parts);
                if let Ok(found) = self.fits(request, &parts, &pairs, network, window) {
                    return Ok((parts, pairs, found));
                }
            }
        }
        Err(self.why_not(request, members, network, window, &roomy))
    }

    /// Sites with room, largest first.
    fn roomy(&self, request: &Request, window: Window) -> Vec<Roomy> {
        let roomy = request.candidates.iter().filter_map(|candidate| {
            let (index, site) = self.site(&candidate.site)?;
            let free = site.free(window).min(site.usable.count()).min(candidate.most.into());
            (free > 0).then_some(Roomy { index, free, warm: candidate.warm })
        });
        let mut roomy: Vec<Roomy> = roomy.collect();
        roomy.sort_by_key(|site| (std::cmp::Reverse(site.free), &self.sites[usize::from(site.index)].name));
        roomy
    }

    /// Whether these parts fit in exactly this window, and with which addresses.
    fn fits(
        &self,
        request: &Request,
        parts: &[(u16, u32)],
        pairs: &[Pair],
        network: &dyn BandwidthProvider,
        window: Window,
    ) -> Result<Found, NoPlan> {
        let gates = self.gates(parts, pairs, network)?;
        if let Some(closed) = gates.iter().find(|gate| gate.ask(window) != Answer::Fits) {
            return Err(closed.short(window).into());
        }
        let span = request.span(window);
        match self.carve(parts, span) {
            Ok(carves) => Ok(Found { window, carves }),
            Err(part) => Err(self.short_of_addresses(parts[part], span).into()),
        }
    }

    /// What is short where no set of sites was found: nodes in all, or what the largest lack.
    fn why_not(
        &self,
        request: &Request,
        members: u32,
        network: &dyn BandwidthProvider,
        window: Window,
        roomy: &[Roomy],
    ) -> NoPlan {
        let wanted = u64::from(members);
        let sizes = request.sites_max.min(roomy.len()).min(members as usize);
        let have: u64 = roomy[..sizes].iter().map(|site| site.free).sum();
        let enough =
            (1..=sizes).find(|size| roomy[..*size].iter().map(|site| site.free).sum::<u64>() >= wanted);
        if let Some(size) = enough {
            let parts = shares(roomy[..size].iter(), size, members);
            let pairs = self.pairs(request, &parts);
            if let Err(short) = self.fits(request, &parts, &pairs, network, window) {
                return short;
            }
        }
        let first = roomy.first().map(|site| &self.sites[usize::from(site.index)].name);
        match first.or_else(|| request.candidates.first().map(|candidate| &candidate.site)) {
            Some(site) => {
                let resource = Resource::Nodes { site: site.clone() };
                Short { resource, asked: wanted, have: have.min(wanted) }.into()
            }
            None => NoPlan::NoSites,
        }
    }
}

/// Largest first, each as much as it has, but at least one member for each that follows.
fn shares<'a>(sites: impl Iterator<Item = &'a Roomy>, size: usize, members: u32) -> Parts {
    let mut wanted = members;
    sites
        .zip((0..size as u32).rev())
        .map(|(site, behind)| {
            let share = u32::try_from(site.free).unwrap_or(u32::MAX).min(wanted - behind);
            wanted -= share;
            (site.index, share)
        })
        .collect()
}
