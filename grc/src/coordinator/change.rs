//! Changes of a grant: an attempt beside it, with the old one in force until the new one holds.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::client::Selector;
use protocol::ids::{RequestId, ReservationId};
use protocol::limits::PEERS_MAX;
use protocol::names::{SiteName, UserName};
use protocol::refusal::{Refusal, Resource};
use protocol::reservation::{Ask, Bandwidth, Change, PairRate, Placement, Start};

use super::Coordinator;
use super::attempt::{Planned, Span};
use super::requests::Outcome;
use super::room::Other;
use crate::reservation::{Phase, Reservation, Window};

/// A window that ends sooner than this is not changed any more: the sites end it by themselves, and
/// might not have heard.
const TOO_LATE: Duration = Duration::from_secs(10);

impl Coordinator {
    /// Plans the change and asks everybody to hold it, in the name of the one who has it. Answered
    /// when they do.
    pub(super) fn modify(
        &mut self,
        (user, operator): (&UserName, Option<&UserName>),
        request: RequestId,
        id: ReservationId,
        change: Change,
    ) -> Outcome {
        let id = self.own_reservation(user, Selector::Id(id))?;
        self.still_live(id)?;
        let reservation = &self.reservations[&id];
        let Some(grant) = reservation.grant.clone() else {
            return Err(wrong("nothing is granted yet"));
        };
        if reservation.attempt.is_some() {
            return Err(wrong("another change is under way"));
        }
        if grant.window.end <= self.now + TOO_LATE {
            return Err(wrong("it ends within seconds"));
        }
        let away = |site: &&SiteName| self.sites.get(site).is_none_or(|site| site.connection.is_none());
        if let Some(site) = reservation.parts.iter().map(|part| &part.site).find(away) {
            return Err(Refusal::SiteDown { site: site.clone() });
        }
        let members = match &change.placement {
            None => Vec::new(),
            Some(placement) => other_members(reservation, placement, self.now)?,
        };
        let window = match change.duration_s {
            None => grant.window,
            Some(duration_s) => {
                let end = grant.window.start + Duration::from_secs(duration_s.into());
                Window { end, until: grant.window.until.max(end), ..grant.window }
            }
        };
        if window.end <= self.now {
            return Err(Refusal::BadWindow { why: "its new end lies in the past".into() });
        }
        let sites: Vec<&SiteName> = reservation.parts.iter().map(|part| &part.site).collect();
        let rates = match &change.bandwidth {
            None => grant.rates,
            Some(bandwidth) => rates(bandwidth, &sites)?,
        };
        let begun = reservation.phase > Phase::Booked || window.near() <= self.now;
        let other = Other { window, members: &members, rates: &rates, begun };
        let shares = self.room.plan_change(id, other, self.network.as_ref())?;
        let planned = Planned { window, shares, rates };
        self.still_open(user, &self.reservations[&id], &planned)?;
        self.within_limits(user, Some(id), &planned).map_err(|over| over.refusal)?;
        self.begin(id, planned, Some(request))?;
        let attempt = self.reservations.get_mut(&id).and_then(|reservation| reservation.attempt.as_mut());
        if let Some(attempt) = attempt {
            attempt.operator = operator.cloned();
        }
        Ok(None)
    }

    /// What of the rates is wrong whenever it begins: pairs that take no part, links that are not
    /// there or can never carry so much.
    pub(super) fn check_rates(&mut self, user: &UserName, ask: &Ask) -> Result<(), Refusal> {
        match (&ask.bandwidth, &ask.placement) {
            (Bandwidth::Unasked, _) => return Ok(()),
            (Bandwidth::Pairs(_), Placement::Anywhere(_)) => {
                let what = "rates pair by pair, and sites that nobody has named";
                return Err(Refusal::Inconsistent { what: what.into() });
            }
            (bandwidth, Placement::Sites(parts)) => {
                let sites: Vec<&SiteName> = parts.iter().map(|(site, _)| site).collect();
                rates(bandwidth, &sites)?;
            }
            (Bandwidth::Between(_), Placement::Anywhere(_)) => {}
        }
        if ask.start != Start::Open {
            return Ok(()); // It is planned at once.
        }
        let now_s = self.now.as_secs();
        match self.plan(user, ask, Span { earliest_s: now_s, latest_s: now_s }) {
            Err(short) if short.next_s.is_none() && never(&short.refusal) => Err(short.refusal),
            _ => Ok(()),
        }
    }
}

/// Whether waiting does not help: more is asked of a line than it carries.
fn never(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::UnknownLink { .. } => true,
        Refusal::NoRoom { resource, .. } => {
            matches!(resource, Resource::Link { .. } | Resource::Uplink { .. })
        }
        _ => false,
    }
}

fn wrong(state: &str) -> Refusal {
    Refusal::WrongState { what: "a change".into(), state: state.into() }
}

/// Other numbers of members, at the same sites.
fn other_members(
    reservation: &Reservation,
    placement: &Placement,
    now: Duration,
) -> Result<Vec<(SiteName, u32)>, Refusal> {
    let begun = reservation.window().is_none_or(|window| window.near() <= now);
    if reservation.phase != Phase::Booked || begun {
        return Err(wrong("its pilots may have begun; only its time and rates can be changed"));
    }
    let Placement::Sites(parts) = placement else {
        return Err(wrong("its sites stay; name them with their new numbers"));
    };
    let same =
        |sites: BTreeSet<&SiteName>| sites == reservation.parts.iter().map(|part| &part.site).collect();
    if !same(parts.iter().map(|(site, _)| site).collect()) {
        return Err(wrong("its sites stay; name each of them with its new number"));
    }
    Ok(parts.clone())
}

/// The rate of each pair of sites, of those that take part.
pub(super) fn rates(bandwidth: &Bandwidth, sites: &[&SiteName]) -> Result<Vec<PairRate>, Refusal> {
    let rates: Vec<PairRate> = match bandwidth {
        Bandwidth::Unasked => Vec::new(),
        Bandwidth::Between(rate_kbit) => {
            let rate_kbit = *rate_kbit;
            let others = |n: usize| sites[n + 1..].iter();
            let pair = |a: &SiteName, b: &SiteName| PairRate { a: a.clone(), b: b.clone(), rate_kbit };
            sites.iter().enumerate().flat_map(|(n, a)| others(n).map(move |b| pair(a, b))).collect()
        }
        Bandwidth::Pairs(pairs) => pairs.clone(),
    };
    for rate in &rates {
        if let Some(foreign) = [&rate.a, &rate.b].into_iter().find(|site| !sites.contains(site)) {
            let what = format!("a rate is asked to site {foreign}, which takes no part").into();
            return Err(Refusal::Inconsistent { what });
        }
    }
    for site in sites {
        let peers = rates.iter().filter(|rate| rate.a == **site || rate.b == **site).count();
        if peers > PEERS_MAX {
            let (count, max) = (peers as u64, PEERS_MAX as u64);
            return Err(Refusal::OverLimit { what: format!("rates of site {site}").into(), count, max });
        }
    }
    Ok(rates)
}
