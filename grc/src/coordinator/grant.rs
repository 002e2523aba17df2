//! From waiting to granted: planning, the holds, the commit.

use std::time::Duration;

use protocol::ids::{Epoch, ReservationId};
use protocol::names::SiteName;
use protocol::refusal::{Failure, Refusal, Step};
use protocol::reservation::{Ask, Progress};
use protocol::site::{Part, ToSite};

use super::event::Due;
use super::life::sites_of;
use super::{Action, Coordinator};
use crate::coallocate::Coallocation;
use crate::plan::nodes::{self, Capacity, Sites};
use crate::reservation::{Happening, PartStage, PartState};

/// Pause after a site said no though its offer said yes, doubled with each such attempt.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(5);

impl Coordinator {
    /// What the sites have, less what holds that they have not answered yet will take.
    pub(super) fn capacities(&self) -> Sites {
        let mut sites: Sites = self
            .sites
            .iter()
            .map(|(name, site)| {
                let capacity = site.connection.and(site.offer.as_ref()).map(|offer| Capacity {
                    usable: offer.nodes_usable,
                    free: offer.nodes_free,
                    environments: offer.environments.clone(),
                });
                (name.clone(), capacity)
            })
            .collect();
        for reservation in self.holding.iter().filter_map(|id| self.reservations.get(id)) {
            for part in reservation.parts.iter().filter(|part| part.stage == PartStage::Asked) {
                if let Some(Some(capacity)) = sites.get_mut(&part.site) {
                    capacity.free = capacity.free.saturating_sub(part.members);
                }
            }
        }
        sites
    }

    /// Tries every waiting reservation once, oldest first; a later one may pass an earlier one
    /// that does not fit yet.
    pub(super) fn plan_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut sites = self.capacities();
        let waiting: Vec<ReservationId> = self.waiting.iter().copied().collect();
        for id in waiting {
            let Some(reservation) = self.reservations.get(&id) else { continue };
            if reservation.not_before > self.now {
                continue;
            }
            let ask = reservation.ask.clone();
            match self.plan(&ask, &sites) {
                Ok(parts) => {
                    for part in &parts {
                        if let Some(Some(capacity)) = sites.get_mut(&part.site) {
                            capacity.free = capacity.free.saturating_sub(part.members);
                        }
                    }
                    self.begin(id, parts);
                }
                Err(refusal) => {
                    if let Some(reservation) = self.reservations.get_mut(&id) {
                        reservation.waits_for = Some(refusal);
                    }
                }
            }
        }
    }

    fn plan(&mut self, ask: &Ask, sites: &Sites) -> Result<Vec<PartState>, Refusal> {
        let choice = nodes::choose(ask, sites)?;
        let wants: Vec<_> = choice
            .iter()
            .filter_map(|(name, count)| self.sites.get(name).map(|site| (&site.usable, *count)))
            .collect();
        let carves = self.book.take(&wants).map_err(|index| {
            let (site, asked) = choice[index].clone();
            Refusal::AddressesExhausted { site, asked }
        })?;
        let part = |((site, members), carve)| PartState {
            site,
            members,
            carve,
            stage: PartStage::Asked,
            progress: Progress { wanted: members, ..Progress::default() },
            ready: Vec::new(),
        };
        Ok(choice.into_iter().zip(carves).map(part).collect())
    }

    fn begin(&mut self, id: ReservationId, parts: Vec<PartState>) {
        for part in &parts {
            if let Some(site) = self.sites.get_mut(&part.site) {
                site.reservations.insert(id);
            }
        }
        if let Some(reservation) = self.reservations.get_mut(&id) {
            reservation.parts = parts;
            reservation.attempts += 1;
            reservation.epoch = Epoch(reservation.epoch.0.saturating_add(1));
        }
        self.advance(id, Happening::Planned);
    }

    /// A hold to every site at once.
    pub(super) fn hold(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let (all, calls) = Coallocation::begin(sites_of(reservation));
        reservation.holding = Some(all);
        let epoch = reservation.epoch;
        let ask = &reservation.ask;
        let messages: Vec<(SiteName, ToSite)> = calls
            .into_iter()
            .map(|call| {
                let part = &reservation.parts[call.part];
                let message = Part {
                    user: reservation.user.clone(),
                    members: part.members,
                    slots: ask.slots,
                    limits: ask.limits,
                    duration_s: ask.duration_s,
                    environment: ask.environment.clone(),
                    addresses: part.carve.clone(),
                };
                (part.site.clone(), ToSite::Hold { reservation: id, epoch, part: message })
            })
            .collect();
        for (site, message) in messages {
            self.send(&site, message);
        }
    }

    pub(super) fn held(&mut self, site: &SiteName, id: ReservationId) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let Some(all) = reservation.holding.as_mut() else { return };
        all.held(site);
        let committed = all.is_committed();
        if let Some(part) = reservation.part_mut(site) {
            part.stage = part.stage.max(PartStage::Held);
        }
        if committed {
            self.advance(id, Happening::AllHeld);
        }
        self.watchers.reservation_changed(id);
    }

    pub(super) fn hold_refused(&mut self, site: &SiteName, id: ReservationId, refusal: Refusal) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        // Only while its answer is waited for: a site cannot take back what it held.
        let asked = reservation.part(site).is_some_and(|part| part.stage == PartStage::Asked);
        if reservation.holding.is_none() || !asked {
            return;
        }
        if !matches!(refusal, Refusal::NodesBusy { .. } | Refusal::AddressesExhausted { .. }) {
            let hint = "ask differently, or tell the site's administrator";
            self.fail(id, Failure::new(Step::Hold, refusal.to_string(), hint).at_site(site));
            return;
        }
        let pause = RETRY_FIRST * 2u32.saturating_pow(reservation.attempts.min(8).saturating_sub(1));
        reservation.not_before = self.now + pause.min(RETRY_LAST);
        reservation.waits_for = Some(refusal);
        let not_before = reservation.not_before;
        self.set_timer(not_before, Due::Plan);
        self.advance(id, Happening::TurnedDown);
    }

    /// Everything that was held is given back. Nothing was started, so the addresses are free
    /// at once: what a site is told next comes after the release.
    pub(super) fn release_holds(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let calls = reservation.holding.as_mut().map(Coallocation::abort).unwrap_or_default();
        reservation.holding = None;
        let epoch = reservation.epoch;
        let parts = std::mem::take(&mut reservation.parts);
        for part in &parts {
            self.book.give_back(&part.carve);
            if let Some(site) = self.sites.get_mut(&part.site) {
                site.reservations.remove(&id);
            }
        }
        for call in calls {
            self.send(&parts[call.part].site, ToSite::Release { reservation: id, epoch });
        }
        self.replan = true;
    }

    /// The commit point: every site holds its share.
    pub(super) fn commit(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        reservation.holding = None;
        reservation.waits_for = None;
        let epoch = reservation.epoch;
        let granted: Vec<String> =
            reservation.parts.iter().map(|part| format!("{}={}", part.site, part.members)).collect();
        let what = format!("granted to {}: {}", reservation.user, granted.join(",")).into();
        self.out.push(Action::Report { reservation: id, what });
        for site in sites_of(reservation) {
            self.send(&site, ToSite::Commit { reservation: id, epoch });
        }
    }
}
