//! Changes of a grant: an attempt beside it, with the old one in force until the new one holds.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::client::Selector;
use protocol::ids::{RequestId, ReservationId};
use protocol::limits::PEERS_MAX;
use protocol::names::{SiteName, UserName};
use protocol::refusal::Refusal;
use protocol::reservation::{Ask, Bandwidth, Change, PairRate};

use super::Coordinator;
use super::attempt::Planned;
use super::requests::Outcome;
use crate::reservation::{Share, Window};

impl Coordinator {
    /// Plans the change and asks everybody to hold it. Answered when they do.
    pub(super) fn modify(
        &mut self,
        user: &UserName,
        request: RequestId,
        id: ReservationId,
        change: Change,
    ) -> Outcome {
        let id = self.own_reservation(user, Selector::Id(id))?;
        self.still_live(id)?;
        let reservation = &self.reservations[&id];
        let wrong = |state: &str| Refusal::WrongState { what: "a change".into(), state: state.into() };
        let Some(grant) = reservation.grant.clone() else {
            return Err(wrong("nothing is granted yet"));
        };
        if reservation.attempt.is_some() {
            return Err(wrong("another change is under way"));
        }
        let shares = reservation.shares();
        if change.placement.is_some() {
            return Err(wrong("the numbers of nodes stay as they are"));
        }
        let window = match change.duration_s {
            None => grant.window,
            Some(duration_s) => {
                let end = grant.window.start + Duration::from_secs(duration_s.into());
                Window { end, ..grant.window }
            }
        };
        if window.end <= self.now {
            return Err(Refusal::BadWindow { why: "its new end lies in the past".into() });
        }
        let rates = match &change.bandwidth {
            None => grant.rates,
            Some(bandwidth) => rates(bandwidth, &shares)?,
        };
        self.begin(id, Planned { window, shares, rates }, Some(request));
        Ok(None)
    }
}

/// The rate of each pair of sites, of those that take part.
pub(super) fn rates(bandwidth: &Bandwidth, shares: &[Share]) -> Result<Vec<PairRate>, Refusal> {
    let rates: Vec<PairRate> = match bandwidth {
        Bandwidth::Unasked => Vec::new(),
        Bandwidth::Between(rate_kbit) => {
            let pairs = shares
                .iter()
                .enumerate()
                .flat_map(|(n, a)| shares[n + 1..].iter().map(move |b| (a.site.clone(), b.site.clone())));
            pairs.map(|(a, b)| PairRate { a, b, rate_kbit: *rate_kbit }).collect()
        }
        Bandwidth::Pairs(pairs) => pairs.clone(),
    };
    let sites: BTreeSet<&SiteName> = shares.iter().map(|share| &share.site).collect();
    for rate in &rates {
        if let Some(foreign) = [&rate.a, &rate.b].into_iter().find(|site| !sites.contains(site)) {
            let what = format!("a rate is asked to site {foreign}, which takes no part").into();
            return Err(Refusal::Inconsistent { what });
        }
    }
    for site in sites {
        let peers = rates.iter().filter(|rate| rate.a == *site || rate.b == *site).count();
        if peers > PEERS_MAX {
            let (count, max) = (peers as u64, PEERS_MAX as u64);
            return Err(Refusal::OverLimit { what: format!("rates of site {site}").into(), count, max });
        }
    }
    Ok(rates)
}

impl Coordinator {
    /// Rates that no link could ever carry are refused at once.
    pub(super) fn check_rates(&self, ask: &Ask) -> Result<(), Refusal> {
        match &ask.bandwidth {
            Bandwidth::Unasked => Ok(()),
            _ => Err(Refusal::Inconsistent { what: "this grid has no links".into() }),
        }
    }

    /// Every site holds: now the links.
    pub(super) fn reserve_network(&mut self, id: ReservationId) {
        self.decide(id);
    }

    pub(super) fn end_network(&mut self, _id: ReservationId) {}
}
