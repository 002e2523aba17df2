//! A site made anew from its records. The first start is the same with none.
//!
//! What was voted for and granted stands as before. Of the pilots nothing is known any more: their
//! agents lost this CRM and tear down, so each is taken away, and its node and address come back
//! when that is confirmed. Their incarnation cannot go on; the GRC hears of it when it connects and
//! orders the next.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ids::{Epoch, ReservationId};
use protocol::planted::{Bug, planted};
use protocol::refusal::{Failure, Step};

use super::booking::{Booking, Incarnation, Phase};
use super::end::leftover;
use super::{Account, Action, Settings, Site};
use crate::nodes::Node;
use crate::pilot::{Pilot, PilotId, Round};
use crate::record::{self, Key, Placed, Record, Value};
use crate::roster::Roster;

impl Site {
    /// The site as its durable records say, at `now` on its timeline. The actions are performed
    /// like those of a step. Records may come in any order as long as those of one key do not.
    pub fn restore(
        settings: Settings,
        nodes: Vec<Node>,
        now: Duration,
        records: impl IntoIterator<Item = Record>,
    ) -> (Self, Vec<Action>) {
        let mut current = BTreeMap::new();
        for record in records {
            match record {
                Record::Put(key, value) => drop(current.insert(key, value)),
                Record::Forget(key) => drop(current.remove(&key)),
            }
        }
        let mut site = Self::new(settings, nodes);
        site.now = now;
        // Keys sort so that a booking comes before its incarnation.
        for (key, value) in current {
            match (key, value) {
                (Key::Booking(reservation), Value::Booking(booking)) => {
                    let booking = site.restore_booking(*booking);
                    site.bookings.insert(reservation, booking);
                }
                (Key::Incarnation(_) | Key::Leftover(_), _) if planted(Bug::PilotsForgotten) => {}
                (Key::Incarnation(reservation), Value::Incarnation { epoch, round, account, members }) => {
                    let id = |placed: &Placed| PilotId { reservation, round, member: placed.member };
                    let pilots = members.into_iter().map(|placed| site.restore_pilot(id(&placed), placed));
                    let pilots: Vec<Pilot> = pilots.collect();
                    site.restore_incarnation(reservation, (epoch, round), account, pilots);
                }
                (Key::Leftover(id), Value::Leftover { account, placed, what }) => {
                    let mut pilot = site.restore_pilot(id, placed);
                    let dirt = what.unwrap_or_else(|| format!("pilot {id} does not go").into());
                    site.nodes.soil(&pilot.node, id, pilot.node_name(), dirt.clone());
                    site.addresses.quarantine(pilot.address, id);
                    pilot.dirt = Some(dirt);
                    site.leftovers.insert(id, (pilot, account));
                }
                // A value under a key of another kind: the store is checked before it comes here.
                _ => {}
            }
        }
        site.take_up();
        let actions = std::mem::take(&mut site.actions);
        (site, actions)
    }

    fn restore_booking(&mut self, kept: record::Booking) -> Booking {
        let mut booking = Booking::new(kept.account);
        booking.held = kept.held;
        booking.grant = kept.grant;
        booking.begun = kept.begun;
        booking.wanted = kept.wanted;
        booking.round = kept.round;
        booking.heard_at = self.now;
        booking.unsure = true;
        booking.charges = booking.charged();
        if !planted(Bug::RestartForgetsNodes) {
            self.nodes.charge(&booking.charges);
        } else {
            booking.charges.clear();
        }
        booking
    }

    fn restore_pilot(&mut self, id: PilotId, placed: Placed) -> Pilot {
        let Placed { node, layer, address, .. } = placed;
        self.nodes.take(&node, layer, id);
        self.addresses.take(address, id);
        Pilot::of_before(id, node, layer, address)
    }

    fn restore_incarnation(
        &mut self,
        reservation: ReservationId,
        (epoch, round): (Epoch, Round),
        account: Account,
        pilots: Vec<Pilot>,
    ) {
        match self.bookings.get_mut(&reservation) {
            Some(booking) => {
                booking.begun = booking.begun.max(epoch);
                booking.wanted = booking.wanted.max(epoch);
                booking.round = booking.round.max(round);
                let roster = Roster::new(pilots);
                booking.incarnation = Some(Incarnation::new((epoch, round), account, roster, Phase::Ending));
            }
            // It was ending, and its booking was forgotten first.
            None => {
                for pilot in pilots {
                    self.record(leftover(&pilot, &account));
                    self.leftovers.insert(pilot.id, (pilot, account.clone()));
                }
                self.record(Record::Forget(Key::Incarnation(reservation)));
            }
        }
    }

    /// Takes everything up where it can be taken up.
    fn take_up(&mut self) {
        let all: Vec<PilotId> = self.pilots().map(|pilot| pilot.id).collect();
        for id in all {
            let state = self.pilot(id).map(|pilot| pilot.state);
            let time = state.and_then(|state| self.settings.times.of(state));
            self.set_deadline(id, time.map(|time| self.now + time));
            self.actions.push(Action::Cancel { pilot: id });
        }
        for reservation in self.bookings.keys().copied().collect::<Vec<_>>() {
            let Some(booking) = self.bookings.get_mut(&reservation) else { continue };
            if booking.begun.0 > 0 {
                let hint = "its sandboxes ended with it; the reservation is kept";
                let failure = Failure::new(Step::Running, "the site's CRM was restarted", hint);
                booking.failed = Some(failure.at_site(&self.settings.name));
            }
            self.on_wake(reservation);
        }
        self.begin_waiting();
    }
}
