//! What sites say. A site is believed only about its own parts, and only in the incarnation that
//! it was given: everything else changes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::ids::{Epoch, ReservationId};
use protocol::names::{NodeName, SiteName, Text};
use protocol::refusal::{Failure, Refusal};
use protocol::reservation::Progress;
use protocol::site::{FromSite, Offer, ReadyMember, ToSite};

use super::event::Due;
use super::life::{exchange_failure, step_of};
use super::{Action, ConnectionId, Coordinator};
use crate::exchange::{self, ExchangeError};
use crate::plan::addresses::{self, AddressSet};
use crate::reservation::{Happening, PartStage, Phase};
use crate::view::SiteFacts;

/// Dirty nodes that a reservation remembers by name.
const DIRTY_SHOWN_MAX: usize = 16;

/// One site of the config, connected or not.
#[derive(Debug, Default)]
pub(super) struct Site {
    pub connection: Option<ConnectionId>,
    pub offer: Option<Offer>,
    /// What its ranges give to sandboxes.
    pub usable: AddressSet,
    pub last_seen: Option<Duration>,
    /// Why it takes no part, until it does.
    pub problem: Option<Text>,
    /// Reservations with a part here that is not over.
    pub reservations: BTreeSet<ReservationId>,
}

impl Site {
    pub fn facts(&self) -> SiteFacts<'_> {
        SiteFacts {
            connected: self.connection.is_some(),
            offer: self.offer.as_ref(),
            last_seen: self.last_seen,
            problem: self.problem.as_ref(),
        }
    }
}

impl Coordinator {
    pub(super) fn heard(&mut self, name: &SiteName, connection: ConnectionId, message: FromSite) {
        let now = self.now;
        let Some(site) = self.sites.get_mut(name) else { return };
        if let FromSite::Publish { site: claimed, offer } = message {
            site.last_seen = Some(now);
            self.publish(name, connection, &claimed, offer);
            return;
        }
        if site.connection != Some(connection) {
            return;
        }
        site.last_seen = Some(now);
        match message {
            FromSite::Held { reservation, epoch } => {
                if self.current(name, reservation, epoch) {
                    self.held(name, reservation);
                }
            }
            FromSite::HoldRefused { reservation, epoch, refusal } => {
                if self.current(name, reservation, epoch) {
                    self.hold_refused(name, reservation, refusal);
                }
            }
            FromSite::Progress { reservation, epoch, progress } => {
                if self.current(name, reservation, epoch) {
                    self.progress(name, reservation, progress);
                }
            }
            FromSite::SiteReady { reservation, epoch, members } => {
                if self.current(name, reservation, epoch) {
                    self.site_ready(name, reservation, members);
                }
            }
            FromSite::Joined { reservation, epoch } => {
                if self.current(name, reservation, epoch) {
                    self.joined(name, reservation);
                }
            }
            FromSite::Failed { reservation, epoch, failure } => {
                if self.current(name, reservation, epoch) {
                    self.fail(reservation, failure.at_site(name));
                }
            }
            FromSite::Exited { reservation, epoch, job, member, status } => {
                self.exited(name, (reservation, epoch), job, member, status);
            }
            FromSite::ExecFailed { reservation, epoch, job, member, failure } => {
                self.exec_failed(name, (reservation, epoch), job, member, failure);
            }
            FromSite::Ended { reservation, epoch, dirty } => self.ended(name, reservation, epoch, dirty),
            // The edge's: tickets, pins and output never come here.
            FromSite::Register { .. } | FromSite::Publish { .. } | FromSite::Output { .. } => {}
        }
    }

    /// Whether a site may speak of this incarnation: it has a part in it that is not over.
    pub(super) fn current(&self, site: &SiteName, id: ReservationId, epoch: Epoch) -> bool {
        self.reservations.get(&id).is_some_and(|reservation| {
            reservation.epoch == epoch
                && reservation.part(site).is_some_and(|part| part.stage < PartStage::Ended)
        })
    }

    fn publish(&mut self, name: &SiteName, connection: ConnectionId, claimed: &SiteName, offer: Offer) {
        let supernets = self.settings.supernets.get(name).map_or(&[][..], Vec::as_slice);
        let refusal = if claimed != name {
            Some(Refusal::UnknownPeer { who: format!("site {claimed}").into() })
        } else if let Err(refusal) = offer.check() {
            Some(refusal)
        } else {
            addresses::first_outside(&offer.ranges, supernets)
                .map(|range| Refusal::RangeNotAllowed { site: name.clone(), range: range.to_string().into() })
        };
        if let Some(refusal) = refusal {
            // What it had is given up with the connection; nobody else's word is spoilt by it.
            if let Some(site) = self.sites.get_mut(name) {
                site.problem = Some(refusal.to_string().into());
            }
            self.out.push(Action::Send {
                site: name.clone(),
                connection,
                message: ToSite::Refused(refusal.clone()),
            });
            self.out.push(Action::Disconnect { connection });
            if self.sites.get(name).and_then(|site| site.connection) == Some(connection) {
                self.site_lost(name, &refusal.to_string());
            }
            return;
        }
        let before = self.sites.get(name).and_then(|site| site.connection);
        if let Some(old) = before.filter(|old| *old != connection) {
            // The site dialled again before its old connection was noticed gone. It has ended
            // everything of before.
            self.out.push(Action::Disconnect { connection: old });
            self.site_lost(name, "it connected anew");
        }
        self.book.set_reserved(name, &offer.reserved, &offer.ranges);
        if let Some(site) = self.sites.get_mut(name) {
            site.usable = addresses::usable(&offer.ranges);
            site.offer = Some(offer);
            site.connection = Some(connection);
            site.problem = None;
        }
        self.send(name, ToSite::Welcome);
        self.replan = true;
    }

    pub(super) fn site_gone(&mut self, name: &SiteName, connection: ConnectionId, why: &str) {
        if self.sites.get(name).and_then(|site| site.connection) == Some(connection) {
            self.site_lost(name, why);
        }
    }

    /// Every reservation with a part there fails. The site ends its sandboxes by itself when it
    /// notices; until then nobody else gets their addresses.
    fn site_lost(&mut self, name: &SiteName, why: &str) {
        let now = self.now;
        let until = now + self.settings.deadlines.quarantine;
        let Some(site) = self.sites.get_mut(name) else { return };
        site.connection = None;
        if site.problem.is_none() {
            site.problem = Some(format!("the connection was lost: {why}").into());
        }
        for id in std::mem::take(&mut site.reservations) {
            let Some(reservation) = self.reservations.get(&id) else { continue };
            let phase = reservation.phase;
            let hint = "the other sites' share is given back; `gridpilot sites` shows when it is back";
            let failure =
                Failure::new(step_of(phase), format!("site {name} lost: {why}"), hint).at_site(name);
            if phase == Phase::Holding {
                // A hold dies with its connection, and nothing was started in it.
                self.fail(id, failure);
                continue;
            }
            let carve = reservation.part(name).map(|part| part.carve.clone()).unwrap_or_default();
            self.book.quarantine(&carve, until);
            self.part_ended(id, name);
            self.fail(id, failure);
        }
        self.book.site_lost(name, until);
        let expiry = self.book.next_expiry().unwrap_or(until);
        self.set_timer(expiry, Due::Addresses);
        self.replan = true;
    }

    fn progress(&mut self, site: &SiteName, id: ReservationId, progress: Progress) {
        if let Some(part) = self.reservations.get_mut(&id).and_then(|r| r.part_mut(site)) {
            part.progress = Progress { wanted: part.members, ..progress };
            self.watchers.reservation_changed(id);
        }
    }

    fn site_ready(&mut self, site: &SiteName, id: ReservationId, members: Vec<ReadyMember>) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        if !matches!(reservation.phase, Phase::Starting | Phase::Joining | Phase::Ready) {
            return;
        }
        let Some(part) = reservation.part_mut(site) else { return };
        let checked = exchange::check(part.members, &part.carve, members);
        let error = match checked {
            Ok(ready) if part.stage < PartStage::Ready => {
                part.stage = PartStage::Ready;
                part.progress.built = part.members;
                part.progress.arrived = part.members;
                part.progress.submitted = part.members;
                part.ready = ready;
                None
            }
            Ok(again) => (again != part.ready).then_some(ExchangeError::Changed),
            Err(error) => Some(error),
        };
        self.watchers.reservation_changed(id);
        if let Some(error) = error {
            self.fail(id, exchange_failure(site, &error));
        } else if self.reservations.get(&id).is_some_and(|r| r.all_parts(PartStage::Ready)) {
            self.advance(id, Happening::AllReady);
        }
    }

    fn joined(&mut self, site: &SiteName, id: ReservationId) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        if reservation.phase != Phase::Joining {
            return;
        }
        if let Some(part) = reservation.part_mut(site) {
            part.stage = PartStage::Joined;
            part.progress.joined = part.members;
        }
        let all = reservation.all_parts(PartStage::Joined);
        self.watchers.reservation_changed(id);
        if all {
            self.advance(id, Happening::AllJoined);
        }
    }

    fn ended(&mut self, site: &SiteName, id: ReservationId, epoch: Epoch, dirty: Vec<(NodeName, Text)>) {
        if !self.current(site, id, epoch) {
            self.replan |= self.book.settle(&(id, epoch, site.clone()));
            return;
        }
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        for (node, why) in dirty.into_iter().take(DIRTY_SHOWN_MAX) {
            let what: Text = format!("site {site}, node {node} is not clean: {why}").into();
            self.out.push(Action::Report { reservation: id, what: what.clone() });
            reservation.dirty.push(what);
        }
        let phase = reservation.phase;
        let hint = "try again; the site's log says more";
        let unasked = Failure::new(step_of(phase), "the site ended its part unasked", hint).at_site(site);
        if phase == Phase::Holding {
            self.fail(id, unasked);
            return;
        }
        let carve = reservation.part(site).map(|part| part.carve.clone()).unwrap_or_default();
        self.book.give_back(&carve);
        self.part_ended(id, site);
        self.fail(id, unasked);
    }
}
