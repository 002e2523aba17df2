//! A free choice of sites over time.
//!
//! First the earliest start, where any sites will do. If there is nothing, then for each number of
//! sites the parts are made equal: when each site has room for one is exact and soon known, and
//! sets of the earliest are searched together, each with the best start so far as its bound. At
//! the starts that come out of it, the earliest first, sites are chosen afresh.

use capacity::{Window, earliest};

use super::gate::Needed;
use super::planner::{Found, Parts};
use super::request::{Blocked, NoPlan, Pair, Plan, Request};
use super::{Book, STARTS_MAX};
use crate::network::BandwidthProvider;

/// Sites of a set whose start is searched, and sets of each size.
const SIZE_MAX: usize = 8;
const SETS_MAX: usize = 16;
/// Starts at which sites are chosen afresh.
const STARTS_TRIED_MAX: usize = 32;

impl Book {
    pub(super) fn plan_anywhere(
        &self,
        request: &Request,
        members: u32,
        network: &dyn BandwidthProvider,
    ) -> Result<Plan, NoPlan> {
        let window = Window::lasting(request.earliest, request.duration).unwrap_or(Window::MAX);
        let short = match self.choose_at(request, members, network, window) {
            Ok((parts, pairs, found)) => return Ok(self.finish(request, &parts, pairs, &found)),
            Err(short) => short,
        };
        let mut starts = Vec::new();
        let mut from = request.earliest.checked_add(1);
        while let Some(next) = from.filter(|from| *from <= request.horizon()) {
            let Some((parts, pairs, found)) = self.first_choice(request, members, network, next) else {
                break;
            };
            if found.window.start() <= request.latest {
                return Ok(self.finish(request, &parts, pairs, &found));
            }
            starts.push(found.window.start());
            from = Some(found.window.end()).filter(|_| starts.len() < STARTS_MAX);
        }
        Err(match short {
            NoPlan::Blocked(blocked) => NoPlan::Blocked(Blocked { starts, ..blocked }),
            other => other,
        })
    }

    /// The best choice at the earliest start from `from` on that is found.
    fn first_choice(
        &self,
        request: &Request,
        members: u32,
        network: &dyn BandwidthProvider,
        from: u64,
    ) -> Option<(Parts, Vec<Pair>, Found)> {
        let mut latest = request.horizon();
        let mut best: Option<(Parts, Vec<Pair>, Found)> = None;
        let mut tries = Vec::new();
        'sizes: for size in
            1..=request.sites_max.min(request.candidates.len()).min(members as usize).min(SIZE_MAX)
        {
            let share = members.div_ceil(size as u32);
            let mut sites = self.by_start(request, share, from, latest);
            tries.extend(sites.iter().map(|(start, _)| *start));
            sites.truncate(SIZE_MAX.max(size + 1));
            for set in sets(sites.len(), size).take(SETS_MAX) {
                // None of a set has room before the last of it has.
                let first = set.iter().map(|site| sites[*site].0).max().unwrap_or(from);
                if first > latest {
                    continue;
                }
                let Some(parts) = even(set.iter().map(|site| sites[*site].1), members) else { continue };
                let pairs = self.pairs(request, &parts);
                let Ok(gates) = self.gates(&parts, &pairs, network) else { continue };
                if let Ok(found) = self.find(request, &parts, &gates, first, latest) {
                    let start = found.window.start();
                    best = Some((parts, pairs, found));
                    if start == from {
                        break 'sizes;
                    }
                    // From here on only what is earlier is of interest.
                    latest = start - 1;
                }
            }
        }
        let last = best.as_ref().map_or(request.horizon(), |(_, _, found)| found.window.start());
        tries.extend(best.as_ref().map(|(_, _, found)| found.window.start()));
        tries.sort_unstable();
        tries.dedup();
        let chosen =
            tries.into_iter().filter(|start| *start <= last).take(STARTS_TRIED_MAX).find_map(|start| {
                let window = Window::lasting(start, request.duration)?;
                self.choose_at(request, members, network, window).ok()
            });
        chosen.or(best)
    }

    /// Sites that could ever have a part, with the first start at which each has room for `share`
    /// members, or for as many as it ever has; earliest first.
    fn by_start(&self, request: &Request, share: u32, from: u64, latest: u64) -> Vec<(u64, Able)> {
        let first = request.candidates.iter().filter_map(|candidate| {
            let (index, site) = self.site(&candidate.site)?;
            let most = site.layers.iter().map(|layer| layer.capacity).max()?;
            let most = most.min(u32::try_from(site.usable.count()).unwrap_or(u32::MAX)).min(candidate.most);
            let gate = Needed::places(site, share.min(most));
            let start = earliest(&[gate], from, latest, request.duration).ok()?;
            (most > 0).then_some((start, !candidate.warm, &site.name, Able { index, most }))
        });
        let mut first: Vec<_> = first.collect();
        first.sort_unstable_by_key(|(start, cold, name, _)| (*start, *cold, *name));
        first.into_iter().map(|(start, _, _, able)| (start, able)).collect()
    }
}

/// A site, and the most members that a part could ever have there.
#[derive(Clone, Copy)]
struct Able {
    index: u16,
    most: u32,
}

/// Sets of `size` numbers below `count`, those of small numbers first.
fn sets(count: usize, size: usize) -> impl Iterator<Item = Vec<usize>> {
    let mut next: Option<Vec<usize>> = (size <= count).then(|| (0..size).collect());
    std::iter::from_fn(move || {
        let set = next.take()?;
        // The next in the order of the largest number: that is the one that decides the start.
        let mut following = set.clone();
        let moves = (0..size).find(|n| following[*n] + 1 < following.get(n + 1).copied().unwrap_or(count));
        next = moves.map(|place| {
            following[place] += 1;
            (0..place).for_each(|n| following[n] = n);
            following
        });
        Some(set)
    })
}

/// Parts as equal as can be: who can have less leaves more to the others. The largest comes first.
/// `None` if all together cannot have so many.
fn even(sites: impl Iterator<Item = Able>, members: u32) -> Option<Parts> {
    let mut sites: Vec<Able> = sites.collect();
    sites.sort_by_key(|site| site.most);
    let mut left = members;
    let behind = (1..=sites.len() as u32).rev();
    let mut parts: Parts = Vec::with_capacity(sites.len());
    for (site, sites_left) in sites.iter().zip(behind) {
        let share = site.most.min(left / sites_left);
        left -= share;
        parts.push((site.index, share));
    }
    parts.retain(|(_, share)| *share > 0);
    parts.reverse();
    (left == 0).then_some(parts)
}
