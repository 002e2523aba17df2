//! What one user may have at a time. Counted over the windows of his reservations: what he has
//! tomorrow is not in the way of what he has today.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::ids::ReservationId;
use protocol::limits::{HORIZON_S_MAX, MEMBERS_MAX};
use protocol::names::{SiteName, UserName};
use protocol::refusal::Refusal;
use protocol::reservation::{Ask, Placement};

use super::Coordinator;
use super::attempt::{Planned, Span};
use super::room::{Short, seconds};
use crate::reservation::{Phase, Reservation, Window};

/// Plans that are tried for one ask before it is told of the limit that the first came up against.
const TRIES_MAX: usize = 32;

/// The limits of every user alike. What is more than a limit is refused by its name, or waits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Reservations that are not over.
    pub reservations: usize,
    /// Members at any one moment, over all sites.
    pub nodes: u32,
    /// How far ahead a window may begin, seconds.
    pub horizon_s: u64,
    /// Rates between sites at any one moment, all pairs together, kbit/s.
    pub rate_kbit: u64,
    pub sites: BTreeMap<SiteName, SiteLimits>,
    /// Who sees everybody's things, and may end or change them.
    pub operators: BTreeSet<UserName>,
}

/// What holds at one site beside that.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SiteLimits {
    /// Who may have something there; `None` is everybody.
    pub users: Option<BTreeSet<UserName>>,
    /// Members of one user at any one moment.
    pub nodes: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reservations: 1024,
            nodes: 4 * MEMBERS_MAX as u32,
            horizon_s: HORIZON_S_MAX,
            rate_kbit: u64::MAX,
            sites: BTreeMap::new(),
            operators: BTreeSet::new(),
        }
    }
}

impl Limits {
    fn open_to(&self, site: &SiteName, user: &UserName) -> bool {
        let users = self.sites.get(site).and_then(|limits| limits.users.as_ref());
        users.is_none_or(|users| users.contains(user))
    }

    /// Most members that a free choice may put at a site, where that is not as many as there are.
    fn most_of(&self, user: &UserName) -> BTreeMap<SiteName, u32> {
        let most = |site: &SiteName| if self.open_to(site, user) { self.nodes_at(site) } else { Some(0) };
        self.sites.keys().filter_map(|site| Some((site.clone(), most(site)?))).collect()
    }

    fn nodes_at(&self, site: &SiteName) -> Option<u32> {
        self.sites.get(site).and_then(|limits| limits.nodes)
    }
}

/// What a reservation has from one second to another.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Use {
    from_s: u64,
    upto_s: u64,
    sites: BTreeMap<SiteName, u64>,
    rate_kbit: u64,
}

impl Use {
    fn of<'a>(
        window: Window,
        sites: impl Iterator<Item = (&'a SiteName, u32)>,
        rates: &[protocol::reservation::PairRate],
    ) -> Self {
        let window = seconds(window.start, window.end);
        let mut by_site = BTreeMap::new();
        for (site, members) in sites {
            *by_site.entry(site.clone()).or_default() += u64::from(members);
        }
        let rate_kbit = rates.iter().map(|rate| u64::from(rate.rate_kbit)).sum();
        Self { from_s: window.start(), upto_s: window.end(), sites: by_site, rate_kbit }
    }

    /// Both: the one that is in force, and the one that may take its place.
    fn with(mut self, other: Self) -> Self {
        self.from_s = self.from_s.min(other.from_s);
        self.upto_s = self.upto_s.max(other.upto_s);
        self.rate_kbit = self.rate_kbit.max(other.rate_kbit);
        for (site, members) in other.sites {
            let here = self.sites.entry(site).or_default();
            *here = members.max(*here);
        }
        self
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.from_s < other.upto_s && other.from_s < self.upto_s
    }
}

/// What is used at the worst moment, each for itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Peak {
    nodes: u64,
    rate_kbit: u64,
    sites: BTreeMap<SiteName, u64>,
}

/// The peak of these uses. Those that end at a moment make room for those that begin then.
fn peak<'a>(uses: impl Iterator<Item = &'a Use>) -> Peak {
    let uses: Vec<&Use> = uses.collect();
    let ends = uses.iter().enumerate().map(|(n, one)| (one.upto_s, false, n));
    let begins = uses.iter().enumerate().map(|(n, one)| (one.from_s, true, n));
    let mut moments: Vec<(u64, bool, usize)> = ends.chain(begins).collect();
    moments.sort_unstable();
    let (mut now, mut peak) = (Peak::default(), Peak::default());
    for (_, begins, n) in moments {
        let one = uses[n];
        for (site, members) in &one.sites {
            let here = now.sites.entry(site.clone()).or_default();
            if begins {
                (*here, now.nodes) = (*here + members, now.nodes + members);
                let most = peak.sites.entry(site.clone()).or_default();
                *most = (*most).max(*here);
            } else {
                (*here, now.nodes) = (*here - members, now.nodes - members);
            }
        }
        if begins {
            now.rate_kbit += one.rate_kbit;
        } else {
            now.rate_kbit -= one.rate_kbit;
        }
        peak.nodes = peak.nodes.max(now.nodes);
        peak.rate_kbit = peak.rate_kbit.max(now.rate_kbit);
    }
    peak
}

/// A limit that a plan does not keep to.
#[derive(Clone, Debug)]
pub(super) struct Over {
    pub refusal: Refusal,
    /// When something of the user's ends that is in the way; never, if nothing is.
    next_s: Option<u64>,
    /// The site whose limit it is, and what may still be had there.
    site: Option<(SiteName, u32)>,
}

fn over(what: String, asked: u64, limit: u64) -> Refusal {
    Refusal::OverUserLimit { what: what.into(), asked, limit }
}

fn at_once(site: &SiteName) -> String {
    format!("nodes at once at site {site} would be yours")
}

impl Coordinator {
    /// The earliest start in the span at which everything is free and its user may have it.
    pub(super) fn plan(&mut self, user: &UserName, ask: &Ask, span: Span) -> Result<Planned, Short> {
        // The configuration may be another one than when it was accepted.
        self.check_limits(user, ask)?;
        let mut span = span;
        let mut most = self.settings.limits.most_of(user);
        let mut first: Option<Short> = None;
        let mut tries_left = TRIES_MAX;
        loop {
            let planned = match self.plan_free(ask, span, &most) {
                Ok(planned) => planned,
                // Without the limit there would be a plan, so the limit is what is in the way.
                Err(short) => return Err(first.unwrap_or(short)),
            };
            let Err(over) = self.within_limits(user, None, &planned) else { return Ok(planned) };
            let over = *over;
            let short = first.get_or_insert(Short { refusal: over.refusal, next_s: over.next_s });
            tries_left -= 1;
            match (&ask.placement, over.site, over.next_s) {
                _ if tries_left == 0 => return Err(short.clone()),
                (Placement::Anywhere(_), Some((site, left)), _) if most.get(&site) != Some(&left) => {
                    most.insert(site, left);
                }
                (_, _, Some(next_s)) if next_s > span.earliest_s && next_s <= span.latest_s => {
                    span.earliest_s = next_s;
                    most = self.settings.limits.most_of(user);
                }
                _ => return Err(short.clone()),
            }
        }
    }

    /// What no waiting heals: sites that are not open to the user, more than he may ever have.
    pub(super) fn check_limits(&self, user: &UserName, ask: &Ask) -> Result<(), Refusal> {
        let limits = &self.settings.limits;
        let asked: u64 = match &ask.placement {
            Placement::Anywhere(asked) => {
                if !self.sites.keys().any(|site| limits.open_to(site, user)) {
                    let site = self.sites.keys().next().cloned();
                    let closed = |site| Refusal::SiteNotForUser { site, user: user.clone() };
                    return site.map_or(Ok(()), |site| Err(closed(site)));
                }
                (*asked).into()
            }
            Placement::Sites(parts) => {
                for (site, asked) in parts {
                    if !limits.open_to(site, user) {
                        return Err(Refusal::SiteNotForUser { site: site.clone(), user: user.clone() });
                    }
                    if let Some(limit) = limits.nodes_at(site).filter(|limit| asked > limit) {
                        return Err(over(at_once(site), (*asked).into(), limit.into()));
                    }
                }
                parts.iter().map(|(_, asked)| u64::from(*asked)).sum()
            }
        };
        if asked > limits.nodes.into() {
            return Err(over("nodes at once would be yours".into(), asked, limits.nodes.into()));
        }
        Ok(())
    }

    /// Whether a change asks nothing more of a site that is not open to its user any more: what he has
    /// there he keeps, but no longer and not with more members.
    pub(super) fn still_open(
        &self,
        user: &UserName,
        reservation: &Reservation,
        planned: &Planned,
    ) -> Result<(), Refusal> {
        let longer = reservation.window().is_some_and(|window| window.end < planned.window.end);
        for share in &planned.shares {
            let larger = reservation.part(&share.site).is_none_or(|part| part.members < share.members);
            if (longer || larger) && !self.settings.limits.open_to(&share.site, user) {
                return Err(Refusal::SiteNotForUser { site: share.site.clone(), user: user.clone() });
            }
        }
        Ok(())
    }

    /// Whether what is planned keeps to the limits of its user beside what else he has. `instead` is
    /// the reservation that it is a change of.
    pub(super) fn within_limits(
        &self,
        user: &UserName,
        instead: Option<ReservationId>,
        planned: &Planned,
    ) -> Result<(), Box<Over>> {
        let limits = &self.settings.limits;
        let shares = planned.shares.iter().map(|share| (&share.site, share.members));
        let wanted = Use::of(planned.window, shares, &planned.rates);
        let live = || self.users.get(user).into_iter().flat_map(|user| &user.live);
        if limits.sites.is_empty() && limits.rate_kbit == u64::MAX {
            // The common case, without a look at any window: all together are not too many.
            let all = live().filter_map(|id| self.reservations.get(id)).map(members).sum::<u64>();
            if all + wanted.sites.values().sum::<u64>() <= limits.nodes.into() {
                return Ok(());
            }
        }
        let others: Vec<Use> = live()
            .filter(|id| Some(**id) != instead)
            .filter_map(|id| used(self.reservations.get(id)?, self.now))
            .filter(|other| other.overlaps(&wanted))
            .map(|other| Use {
                from_s: other.from_s.max(wanted.from_s),
                upto_s: other.upto_s.min(wanted.upto_s),
                ..other
            })
            .collect();
        let used = peak(others.iter());
        let all = peak(others.iter().chain([&wanted]));
        let next_s = others.iter().map(|other| other.upto_s).min();
        for (site, members) in &wanted.sites {
            let (here, limit) = (all.sites.get(site).copied().unwrap_or(*members), limits.nodes_at(site));
            if let Some(limit) = limit.filter(|limit| here > u64::from(*limit)) {
                let before = used.sites.get(site).copied().unwrap_or(0);
                let left = u64::from(limit).saturating_sub(before) as u32;
                let site_left = Some((site.clone(), left));
                let refusal = over(at_once(site), here, limit.into());
                return Err(Box::new(Over { refusal, next_s, site: site_left }));
            }
        }
        let refused = |what: &str, asked, limit| {
            Err(Box::new(Over { refusal: over(what.into(), asked, limit), next_s, site: None }))
        };
        if all.nodes > limits.nodes.into() {
            return refused("nodes at once would be yours", all.nodes, limits.nodes.into());
        }
        if all.rate_kbit > limits.rate_kbit {
            return refused("kbit/s at once would be yours", all.rate_kbit, limits.rate_kbit);
        }
        Ok(())
    }
}

/// The most members that a reservation has or is being asked for.
fn members(reservation: &Reservation) -> u64 {
    let has: u64 = reservation.parts.iter().map(|part| u64::from(part.members)).sum();
    let shares = reservation.attempt.iter().flat_map(|attempt| &attempt.shares);
    has.max(shares.map(|share| u64::from(share.members)).sum())
}

/// What a reservation has or is being asked for; nothing, while it waits and when it is over.
fn used(reservation: &Reservation, now: Duration) -> Option<Use> {
    if reservation.phase == Phase::Over {
        return None;
    }
    let parts = || reservation.parts.iter().map(|part| (&part.site, part.members));
    let granted = reservation.grant.as_ref().map(|grant| {
        // What is there until it has ended, even behind its window.
        let end = grant.window.end.max(now + Duration::from_secs(1));
        Use::of(Window { end, ..grant.window }, parts(), &grant.rates)
    });
    let asked = reservation.attempt.as_ref().map(|attempt| {
        let shares = attempt.shares.iter().map(|share| (&share.site, share.members));
        Use::of(attempt.window, shares, &attempt.rates)
    });
    match (granted, asked) {
        (Some(granted), Some(asked)) => Some(granted.with(asked)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uses() -> impl Strategy<Value = Vec<Use>> {
        let site = prop_oneof![Just("a"), Just("b")].prop_map(|name| name.parse::<SiteName>().unwrap());
        let one = (0u64..20, 1u64..8, proptest::collection::btree_map(site, 1u64..5, 0..3), 0u64..9);
        let one = one.prop_map(|(from_s, length, sites, rate_kbit)| Use {
            from_s,
            upto_s: from_s + length,
            sites,
            rate_kbit,
        });
        proptest::collection::vec(one, 0..7)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        /// Against every second counted for itself.
        #[test]
        fn the_peak_is_the_most_of_any_second(uses in uses()) {
            let mut expected = Peak::default();
            for second in 0..30 {
                let now = || uses.iter().filter(|one| (one.from_s..one.upto_s).contains(&second));
                expected.nodes = expected.nodes.max(now().flat_map(|one| one.sites.values()).sum());
                expected.rate_kbit = expected.rate_kbit.max(now().map(|one| one.rate_kbit).sum());
                for site in now().flat_map(|one| one.sites.keys()) {
                    let here = now().filter_map(|one| one.sites.get(site)).sum();
                    let most = expected.sites.entry(site.clone()).or_default();
                    *most = (*most).max(here);
                }
            }
            prop_assert_eq!(peak(uses.iter()), expected);
        }
    }
}
