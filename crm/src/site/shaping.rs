//! Bandwidth of a part's members: which rates their nodes are told, and what they used of them.
//!
//! How a grant is divided is for [`crate::shares`] to say; here its orders go to the nodes, and
//! what the nodes answer and count goes to it.

use std::collections::BTreeMap;
use std::time::Duration;

use grant::{CLASSES_MAX, Rates};
use protocol::ids::ReservationId;
use protocol::names::SiteName;
use protocol::node::{self, ClassUse, Reply};
use protocol::refusal::{Failure, Step};
use protocol::site::{Flow, FromSite};

use super::{Action, Site};
use crate::pilot::{PilotId, State};
use crate::rates::Classes;
use crate::shares::{Installed, ROUND, Shares};

/// Nodes may end a sandbox by themselves so much earlier or later than they would if they knew.
const LEASE_TOLERANCE: Duration = Duration::from_secs(2);
/// What was used is told the GRC this often.
const USED_INTERVAL: Duration = Duration::from_secs(1);

/// The rates of one incarnation's sandboxes.
#[derive(Debug)]
pub(super) struct Shaping {
    classes: Classes,
    shares: Shares,
    /// Counters as the nodes last told them.
    counted: BTreeMap<(u32, u8), u64>,
    /// By class, sent since it was last told.
    sent: [u64; CLASSES_MAX],
    told_at: Duration,
    news: bool,
    /// When it was looked at, and when it must be because of samples since then: thousands of
    /// members are not to be gone through at each other's samples.
    looked_at: Duration,
    look_at: Option<Duration>,
}

impl Shaping {
    /// Whose each class is, for the journal.
    pub fn names(&self) -> Vec<Option<SiteName>> {
        self.classes.names()
    }

    /// When it must be looked at again.
    pub fn next_deadline(&self, connected: bool) -> Option<Duration> {
        let told = (connected && self.news).then(|| self.told_at + USED_INTERVAL);
        self.shares.next_deadline().into_iter().chain(told).chain(self.look_at).min()
    }
}

impl Site {
    fn shaping_mut(&mut self, id: PilotId) -> Option<&mut Shaping> {
        self.incarnation_mut(id)?.shaping.as_mut()
    }

    /// Gives the members of a new incarnation their shares, if their part has rates at all.
    pub(super) fn start_rates(&mut self, reservation: ReservationId) {
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        let (Some(grant), Some(_)) = (&booking.grant, &booking.incarnation) else { return };
        // Peers that cannot be shaped were not held.
        let Ok(classes) = Classes::new(&grant.part) else { return };
        self.shape_with(reservation, classes);
    }

    fn shape_with(&mut self, reservation: ReservationId, classes: Classes) {
        let now = self.now;
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        let (Some(grant), Some(incarnation)) = (&booking.grant, &mut booking.incarnation) else { return };
        if classes.is_empty() {
            return;
        }
        let Ok(shares) = Shares::new(grant.part.members, &classes.grants_kbit()) else { return };
        incarnation.shaping = Some(Shaping {
            classes,
            shares,
            counted: BTreeMap::new(),
            sent: [0; CLASSES_MAX],
            told_at: now,
            news: false,
            looked_at: now,
            look_at: None,
        });
    }

    /// Takes the shares of sandboxes of before a restart up. What their nodes have is not known
    /// until they are back, so nobody gets more until then.
    pub(super) fn resume_rates(&mut self, reservation: ReservationId, names: &[Option<SiteName>]) {
        let Some(booking) = self.bookings.get(&reservation) else { return };
        let (Some(grant), Some(_)) = (&booking.grant, &booking.incarnation) else { return };
        let Ok(classes) = Classes::resumed(names, &grant.part) else { return };
        self.shape_with(reservation, classes);
        let booking = self.bookings.get_mut(&reservation);
        let Some(incarnation) = booking.and_then(|booking| booking.incarnation.as_mut()) else { return };
        let Some(shaping) = &mut incarnation.shaping else { return };
        for pilot in incarnation.roster.pilots() {
            match pilot.state {
                State::Gone => shaping.shares.gone(pilot.id.member),
                state => shaping.shares.forget(pilot.id.member, state != State::Submitted),
            }
        }
    }

    /// An agent is back with these rates: orders that it has are confirmed, the others are lost.
    pub(super) fn back_to_rates(&mut self, id: PilotId, state: node::State, rates: Option<&Rates>) {
        let Some(pilot) = self.pilot_mut(id) else { return };
        pilot.orders.clear();
        if let Some(rates) = rates {
            // Serials go on; of what else it was told nothing is left.
            pilot.told = Some(Box::new(rates.clone()));
        }
        // When it ends by itself is told anew where that is wrong.
        pilot.lease_end = Duration::ZERO;
        let building = state == node::State::Building;
        if building {
            pilot.orders.insert(0, 1);
        }
        let installed = match rates {
            Some(rates) => Installed::Rates(&rates.rates_kbit),
            None if building => Installed::UnderWay,
            None => Installed::Nothing,
        };
        if let Some(shaping) = self.shaping_mut(id) {
            shaping.shares.back(id.member, installed);
            self.schedule(id.reservation);
        }
    }

    /// The rates that go with a member's SETUP.
    pub(super) fn first_rates(&mut self, id: PilotId) -> Option<Rates> {
        let shaping = self.shaping_mut(id)?;
        let order = shaping.shares.setup(id.member)?;
        let rates = shaping.classes.rates(&order.rates_kbit);
        self.completed(id, rates, Some(order.serial))
    }

    /// Completes rates for a member's node, and notes that it is told them.
    fn completed(&mut self, id: PilotId, rates: Rates, order: Option<u32>) -> Option<Rates> {
        let lifetime_s = self.lifetime_s(id.reservation);
        let lease_end = self.now + Duration::from_secs(lifetime_s.into());
        let pilot = self.pilot_mut(id)?;
        let serial = pilot.told.as_ref().map_or(0, |told| told.serial) + 1;
        let rates = Rates { nonce: pilot.nonce?, serial, lifetime_s, ..rates };
        pilot.told = Some(Box::new(rates.clone()));
        pilot.lease_end = lease_end;
        pilot.orders.extend(order.map(|order| (serial, order)));
        Some(rates)
    }

    /// SETUP was answered well, and with it the first rates hold. Whose SETUP went out before
    /// there were any, or before the window was changed, is told now.
    pub(super) fn set_up(&mut self, id: PilotId) {
        let with_setup = self.pilot_mut(id).and_then(|pilot| pilot.orders.pop_first());
        match with_setup {
            Some((_, order)) => {
                if let Some(shaping) = self.shaping_mut(id) {
                    shaping.shares.confirmed(id.member, order);
                    self.shape(id.reservation);
                }
            }
            None => {
                let rates = self.first_rates(id).map(Box::new);
                self.actions.extend(rates.map(|rates| Action::Shape { pilot: id, rates }));
            }
        }
    }

    pub(super) fn on_shaped(&mut self, id: PilotId, serial: u32, reply: &Reply) {
        let now = self.now;
        let Some(pilot) = self.pilot_mut(id) else { return };
        let order = pilot.orders.remove(&serial);
        let done = *reply == Reply::Done;
        match (order, self.shaping_mut(id)) {
            (Some(order), Some(shaping)) if done => shaping.shares.confirmed(id.member, order),
            // Its first rates are not among these: without them it is not limited at all.
            (Some(order), Some(shaping)) if order > 1 => shaping.shares.failed(now, id.member, order),
            _ if done => {}
            _ => return self.unshapeable(id),
        }
        self.shape(id.reservation);
    }

    fn unshapeable(&mut self, id: PilotId) {
        let hint = "the node's system log says why; what was granted cannot be kept there";
        let failure = Failure::new(Step::Running, "its node does not take its rates or its new end", hint);
        self.give_up(id, failure);
    }

    /// Tells the nodes of a reservation when its window ends, as far as they know otherwise.
    pub(super) fn renew_all(&mut self, reservation: ReservationId) {
        let incarnation = self.bookings.get(&reservation).and_then(|booking| booking.incarnation.as_ref());
        for id in incarnation.map(|incarnation| incarnation.pilot_ids()).unwrap_or_default() {
            self.renew(id);
        }
    }

    /// Tells a node when its sandbox's window ends, if it knows otherwise.
    pub(super) fn renew(&mut self, id: PilotId) {
        let end = self.now + Duration::from_secs(self.lifetime_s(id.reservation).into());
        let Some(pilot) = self.pilot(id) else { return };
        let built = pilot.state.has_agent() && pilot.state > State::Building;
        if !built || pilot.lease_end.abs_diff(end) <= LEASE_TOLERANCE {
            return;
        }
        let none = || Rates {
            nonce: [0; 16],
            serial: 0,
            lifetime_s: 0,
            rates_kbit: [0; CLASSES_MAX],
            destinations: Vec::new(),
        };
        let rates = pilot.told.as_deref().cloned().unwrap_or_else(none);
        if let Some(rates) = self.completed(id, rates, None) {
            self.actions.push(Action::Shape { pilot: id, rates: Box::new(rates) });
        }
    }

    pub(super) fn on_used(&mut self, id: PilotId, at_ms: u64, classes: &[ClassUse]) {
        let now = self.now;
        let Some(shaping) = self.shaping_mut(id) else { return };
        for used in classes.iter().filter(|used| usize::from(used.class) < CLASSES_MAX) {
            shaping.shares.sample(now, id.member, used.class.into(), at_ms, used.sent_bytes);
            let before = shaping.counted.insert((id.member, used.class), used.sent_bytes).unwrap_or(0);
            let more = used.sent_bytes.checked_sub(before).unwrap_or(used.sent_bytes);
            let sent = &mut shaping.sent[usize::from(used.class)];
            *sent = sent.saturating_add(more);
            shaping.news = true;
        }
        let next = shaping.looked_at + ROUND;
        if now >= next {
            self.shape(id.reservation);
        } else if shaping.look_at.replace(next).is_none() {
            self.schedule(id.reservation);
        }
    }

    /// A member can be told nothing any more; what it may send stays its own until it is gone.
    pub(super) fn lost_from_rates(&mut self, id: PilotId) {
        if let Some(shaping) = self.shaping_mut(id) {
            shaping.shares.lost(id.member);
        }
    }

    /// A member's sandbox is confirmed gone: the others may have its share.
    pub(super) fn gone_from_rates(&mut self, id: PilotId) {
        if let Some(shaping) = self.shaping_mut(id) {
            shaping.shares.gone(id.member);
            self.schedule(id.reservation);
        }
    }

    /// The grant was changed: its rates take effect in place, class by class. A part that is not
    /// named any more keeps the least there is until its class is gone from the nodes, which makes
    /// an order for each of them.
    pub(super) fn reshape(&mut self, reservation: ReservationId) {
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        let (Some(grant), Some(incarnation)) = (&booking.grant, &mut booking.incarnation) else { return };
        let Some(shaping) = &mut incarnation.shaping else {
            return self.shape_first(reservation);
        };
        let Ok(classes) = shaping.classes.renewed(&grant.part) else { return };
        let (old, new) = (shaping.classes.grants_kbit(), classes.grants_kbit());
        for class in 0..CLASSES_MAX {
            if old[class] != new[class] {
                // Too thin a grant was not held.
                let _ = shaping.shares.set_grant(class, new[class].max(grant.part.members));
            }
        }
        let renamed = shaping.classes.names() != classes.names();
        shaping.classes = classes;
        if renamed {
            let record = incarnation.record(reservation);
            self.record(record);
        }
        self.shape(reservation);
    }

    /// Sandboxes that were built without rates get their first ones. Those that are not built yet
    /// get them later: with SETUP they had none.
    fn shape_first(&mut self, reservation: ReservationId) {
        self.start_rates(reservation);
        let booking = self.bookings.get(&reservation);
        let Some(incarnation) = booking.and_then(|booking| booking.incarnation.as_ref()) else { return };
        let pilots = incarnation.roster.pilots().iter().map(|pilot| (pilot.id, pilot.state));
        for (pilot, state) in pilots.collect::<Vec<_>>() {
            match state {
                State::Held | State::Submitted | State::Building => {}
                State::Gone => self.gone_from_rates(pilot),
                state if !state.has_agent() => self.lost_from_rates(pilot),
                _ => {
                    if let Some(rates) = self.first_rates(pilot) {
                        self.actions.push(Action::Shape { pilot, rates: Box::new(rates) });
                    }
                }
            }
        }
    }

    /// Sends the orders that are due, ends members whose nodes do not carry any out, and tells
    /// what was used.
    pub(super) fn shape(&mut self, reservation: ReservationId) {
        let (now, connected) = (self.now, self.connected);
        let booking = self.bookings.get_mut(&reservation);
        let Some(incarnation) = booking.and_then(|booking| booking.incarnation.as_mut()) else { return };
        let (epoch, round) = (incarnation.epoch, incarnation.round);
        let Some(shaping) = &mut incarnation.shaping else { return };
        (shaping.looked_at, shaping.look_at) = (now, None);
        let orders = shaping.shares.plan(now);
        let hopeless: Vec<u32> = shaping.shares.hopeless().collect();
        let mut flows = Vec::new();
        let over = now.saturating_sub(shaping.told_at);
        if connected && shaping.news && over >= USED_INTERVAL {
            let sent = std::mem::take(&mut shaping.sent);
            let flow = |(class, to, granted_kbit): (usize, &protocol::names::SiteName, u32)| Flow {
                to: to.clone(),
                granted_kbit,
                sent_bytes: sent[class],
            };
            flows = shaping.classes.used().map(flow).collect();
            (shaping.told_at, shaping.news) = (now, false);
        }
        let orders: Vec<_> = orders
            .into_iter()
            .map(|order| (order.member, order.serial, shaping.classes.rates(&order.rates_kbit)))
            .collect();
        for (member, order, rates) in orders {
            let pilot = PilotId { reservation, round, member };
            let rates = self.completed(pilot, rates, Some(order)).map(Box::new);
            self.actions.extend(rates.map(|rates| Action::Shape { pilot, rates }));
        }
        if !flows.is_empty() {
            let over_ms = u32::try_from(over.as_millis()).unwrap_or(u32::MAX);
            self.tell(FromSite::Used { reservation, epoch, over_ms, flows });
        }
        for member in hopeless {
            self.unshapeable(PilotId { reservation, round, member });
        }
        self.schedule(reservation);
    }
}
