//! Which sites give how many nodes. Two questions, two functions: [`check`] says whether an ask
//! could ever be met by the sites as they stand, [`choose`] whether it can be met now.

use std::collections::BTreeMap;

use protocol::names::{EnvironmentName, SiteName, Text};
use protocol::refusal::Refusal;
use protocol::reservation::{Ask, Placement};

/// What planning needs to know of one connected site.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Capacity {
    /// Nodes that take pilots at all. A part never has two members on one node.
    pub usable: u32,
    /// Nodes with room now, less what holds on their way will take.
    pub free: u32,
    pub environments: Vec<EnvironmentName>,
    /// Most nodes that its queue gives to one part.
    pub nodes_max: Option<u32>,
    /// Longest that its queue gives a part, seconds, with what lies before the window: that many.
    pub lasts_s_max: Option<u32>,
    pub lead_s: u32,
    /// Why it begins nothing now.
    pub paused: Option<Text>,
}

impl Capacity {
    /// What the site's queue would turn down, whatever else is there.
    fn check_queue(&self, site: &SiteName, members: u32, duration_s: u32) -> Result<(), Refusal> {
        let over = |what: &str, asked: u64, max: u32| {
            let (site, what) = (site.clone(), what.into());
            Err(Refusal::OverQueueLimit { site, what, asked, max: max.into() })
        };
        if let Some(max) = self.nodes_max.filter(|max| members > *max) {
            return over("nodes of one batch job", members.into(), max);
        }
        let lasts_s = duration_s.saturating_add(self.lead_s);
        match self.lasts_s_max {
            Some(max) if lasts_s > max => {
                over("seconds of one batch job, what lies before the window included", lasts_s.into(), max)
            }
            _ => Ok(()),
        }
    }

    /// Nodes that one part could have at most.
    fn at_most(&self) -> u32 {
        self.usable.min(self.nodes_max.unwrap_or(u32::MAX))
    }

    /// Whether a part of this length could ever be there.
    pub fn lasts(&self, duration_s: u32) -> bool {
        self.lasts_s_max.is_none_or(|max| duration_s.saturating_add(self.lead_s) <= max)
    }
}

/// The sites of the grid: `None` is one that is not connected.
pub type Sites = BTreeMap<SiteName, Option<Capacity>>;

/// How many members at which site; the first site has the head.
pub type Choice = Vec<(SiteName, u32)>;

/// What can be refused at once: nothing that waiting for others to end would heal.
pub fn check(ask: &Ask, sites: &Sites) -> Result<(), Refusal> {
    ask.check()?;
    match &ask.placement {
        Placement::Sites(parts) => parts.iter().try_for_each(|(site, count)| {
            let capacity = capacity(sites, site)?;
            if !capacity.environments.contains(&ask.environment) {
                let environment = ask.environment.clone();
                return Err(Refusal::UnknownEnvironment { site: site.clone(), environment });
            }
            if capacity.usable < *count {
                let (asked, have) = (*count, capacity.usable);
                return Err(Refusal::MoreNodesThanExist { site: site.clone(), asked, have });
            }
            capacity.check_queue(site, *count, ask.duration_s)
        }),
        Placement::Anywhere(asked) => {
            let have = candidates(ask, sites).fold(0u32, |sum, (_, c)| sum.saturating_add(c.at_most()));
            if have >= *asked {
                return Ok(());
            }
            // Sites with enough nodes, but none whose queue gives so long: say that.
            let short = sites
                .iter()
                .find_map(|(site, c)| Some((site, c.as_ref().filter(|c| !c.lasts(ask.duration_s))?)));
            if let Some((site, capacity)) = short.filter(|_| have == 0) {
                capacity.check_queue(site, 1, ask.duration_s)?;
            }
            // Say which of the two it is: too few nodes, or too few with this environment.
            let missing = sites.iter().find_map(|(site, capacity)| {
                let lacks = |c: &Capacity| c.usable > 0 && !c.environments.contains(&ask.environment);
                capacity.as_ref().filter(|c| lacks(c)).map(|_| site.clone())
            });
            match missing {
                Some(site) if have == 0 => {
                    Err(Refusal::UnknownEnvironment { site, environment: ask.environment.clone() })
                }
                _ => Err(Refusal::MoreNodesThanGrid { asked: *asked, have }),
            }
        }
    }
}

/// Sites with room for the ask now, as few as possible.
///
/// # Errors
/// Why it has to wait: the first site that is busy or away.
pub fn choose(ask: &Ask, sites: &Sites) -> Result<Choice, Refusal> {
    match &ask.placement {
        Placement::Sites(parts) => {
            for (site, asked) in parts {
                let have = capacity(sites, site)?.free;
                if have < *asked {
                    return Err(Refusal::NodesBusy { site: site.clone(), asked: *asked, have });
                }
            }
            Ok(parts.clone())
        }
        Placement::Anywhere(asked) => {
            let mut free: Vec<(&SiteName, u32)> =
                candidates(ask, sites).map(|(site, c)| (site, c.free)).filter(|(_, n)| *n > 0).collect();
            // Largest first needs the fewest sites; the last one taken is the tightest that fits,
            // so that large gaps stay whole.
            free.sort_by_key(|(site, n)| (std::cmp::Reverse(*n), *site));
            let mut wanted = *asked;
            let mut choice = Choice::new();
            while wanted > 0 {
                if let Some((site, _)) = free.iter().rfind(|(_, n)| *n >= wanted) {
                    choice.push(((*site).clone(), wanted));
                    return Ok(choice);
                }
                if free.is_empty() {
                    break;
                }
                let (site, n) = free.remove(0);
                choice.push((site.clone(), n));
                wanted -= n;
            }
            let have = asked - wanted;
            let site = choice.first().map(|(site, _)| site.clone());
            let site = site.or_else(|| candidates(ask, sites).next().map(|(site, _)| site.clone()));
            Err(match site {
                Some(site) => Refusal::NodesBusy { site, asked: *asked, have },
                None => Refusal::MoreNodesThanGrid { asked: *asked, have: 0 },
            })
        }
    }
}

fn capacity<'a>(sites: &'a Sites, site: &SiteName) -> Result<&'a Capacity, Refusal> {
    match sites.get(site) {
        None => Err(Refusal::UnknownSite { site: site.clone() }),
        Some(None) => Err(Refusal::SiteDown { site: site.clone() }),
        Some(Some(capacity)) => Ok(capacity),
    }
}

fn candidates<'a>(ask: &'a Ask, sites: &'a Sites) -> impl Iterator<Item = (&'a SiteName, &'a Capacity)> {
    sites
        .iter()
        .filter_map(|(site, capacity)| capacity.as_ref().map(|c| (site, c)))
        .filter(|(_, c)| c.environments.contains(&ask.environment) && c.lasts(ask.duration_s))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::reservation::{Bandwidth, Limits, Start};

    use super::*;

    fn site(text: &str) -> SiteName {
        text.parse().unwrap()
    }

    fn sites(free: &[u32]) -> Sites {
        let name = |n: usize| site(&format!("s{n:02}"));
        let host = vec![EnvironmentName::host()];
        free.iter()
            .enumerate()
            .map(|(n, &free)| {
                let (environments, lead_s) = (host.clone(), 0);
                let (nodes_max, lasts_s_max, paused) = (None, None, None);
                let usable = 10;
                (
                    name(n),
                    Some(Capacity { usable, free, environments, nodes_max, lasts_s_max, lead_s, paused }),
                )
            })
            .collect()
    }

    fn ask(placement: Placement) -> Ask {
        let limits = Limits::default();
        let (start, bandwidth) = (Start::Open, Bandwidth::Unasked);
        let environment = EnvironmentName::host();
        Ask { placement, slots: 1, limits, start, duration_s: 60, bandwidth, environment, label: None }
    }

    /// The fewest sites that could do it, by trying every subset.
    fn fewest(free: &[u32], asked: u32) -> Option<u32> {
        (1u32..1 << free.len())
            .filter(|subset| {
                let sum: u32 =
                    free.iter().enumerate().filter(|(n, _)| subset >> n & 1 == 1).map(|(_, f)| f).sum();
                sum >= asked
            })
            .map(u32::count_ones)
            .min()
    }

    proptest! {
        #[test]
        fn anywhere_takes_the_fewest_sites_and_never_more_than_is_free(
            free in prop::collection::vec(0u32..10, 1..8),
            asked in 1u32..50,
        ) {
            let choice = choose(&ask(Placement::Anywhere(asked)), &sites(&free));
            match fewest(&free, asked) {
                None => {
                    let busy = matches!(choice, Err(Refusal::NodesBusy { .. }));
                    prop_assert!(busy);
                }
                Some(count) => {
                    let choice = choice.unwrap();
                    prop_assert_eq!(choice.len() as u32, count);
                    prop_assert_eq!(choice.iter().map(|(_, n)| n).sum::<u32>(), asked);
                    for (name, n) in &choice {
                        let index: usize = name.as_str()[1..].parse().unwrap();
                        prop_assert!(*n > 0 && *n <= free[index]);
                        prop_assert_eq!(choice.iter().filter(|(other, _)| other == name).count(), 1);
                    }
                }
            }
        }
    }

    #[test]
    fn one_site_that_fits_tightly_is_preferred() {
        let choice = choose(&ask(Placement::Anywhere(3)), &sites(&[9, 3, 4])).unwrap();
        assert_eq!(choice, [(site("s01"), 3)]);
    }

    #[test]
    fn named_sites_keep_their_order_for_the_first_has_the_head() {
        let parts = vec![(site("s01"), 2), (site("s00"), 1)];
        assert_eq!(choose(&ask(Placement::Sites(parts.clone())), &sites(&[5, 5])).unwrap(), parts);
    }

    #[test]
    fn what_a_queue_would_turn_down_is_refused_with_its_limit() {
        let mut grid = sites(&[5, 5]);
        let queue = grid.get_mut(&site("s00")).unwrap().as_mut().unwrap();
        (queue.nodes_max, queue.lasts_s_max, queue.lead_s) = (Some(4), Some(100), 10);
        let at = |name: &str, count| Placement::Sites(vec![(site(name), count)]);
        let refused = |asked: &Ask| check(asked, &grid).unwrap_err().to_string();
        let what = refused(&ask(at("s00", 5)));
        assert!(what.contains("at most 4 nodes of one batch job, 5 were asked"), "{what}");
        let long = |placement| Ask { duration_s: 91, ..ask(placement) };
        let what = refused(&long(at("s00", 1)));
        assert!(what.contains("at most 100 seconds") && what.contains("101 were asked"), "{what}");
        assert_eq!(check(&Ask { duration_s: 90, ..ask(at("s00", 4)) }, &grid), Ok(()));
        assert_eq!(check(&long(at("s01", 10)), &grid), Ok(()));
        // A free choice goes elsewhere, as long as there is room elsewhere.
        assert_eq!(check(&ask(Placement::Anywhere(14)), &grid), Ok(()));
        assert_eq!(
            check(&ask(Placement::Anywhere(15)), &grid),
            Err(Refusal::MoreNodesThanGrid { asked: 15, have: 14 })
        );
        assert_eq!(check(&long(Placement::Anywhere(10)), &grid), Ok(()));
        assert!(check(&long(Placement::Anywhere(11)), &grid).is_err());
    }

    #[test]
    fn what_can_never_be_met_is_refused_by_name() {
        let mut grid = sites(&[0, 0]);
        grid.insert(site("down"), None);
        let refused = |placement| check(&ask(placement), &grid).unwrap_err();
        let at = |name: &str, count| Placement::Sites(vec![(site(name), count)]);
        assert_eq!(refused(at("nowhere", 1)), Refusal::UnknownSite { site: site("nowhere") });
        assert_eq!(refused(at("down", 1)), Refusal::SiteDown { site: site("down") });
        let more = Refusal::MoreNodesThanExist { site: site("s00"), asked: 11, have: 10 };
        assert_eq!(refused(at("s00", 11)), more);
        assert_eq!(refused(at("s00", 0)), Refusal::ZeroNodes);
        assert_eq!(refused(Placement::Anywhere(0)), Refusal::ZeroNodes);
        assert_eq!(refused(Placement::Anywhere(21)), Refusal::MoreNodesThanGrid { asked: 21, have: 20 });
        assert_eq!(check(&ask(Placement::Anywhere(20)), &grid), Ok(()), "busy is no reason to refuse");
        let mut other = ask(at("s00", 1));
        other.environment = "mpi".parse().unwrap();
        assert!(matches!(check(&other, &grid), Err(Refusal::UnknownEnvironment { .. })));
        other.placement = Placement::Anywhere(1);
        assert!(matches!(check(&other, &grid), Err(Refusal::UnknownEnvironment { .. })));
    }
}
