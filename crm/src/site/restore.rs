//! A site made anew from its records. The first start is the same with none.
//!
//! What was voted for and granted stands as before, and so do the pilots. One that arrived is away
//! and may come back as long as its lease lasts: it says how it stands, and what runs there is not
//! disturbed. One that never did is awaited as before, wherever it queues, and handed over again if it
//! never came to the batch system. How far their incarnation is follows from what they say. What was
//! failing, ending or replaced by a newer epoch goes on ending.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ids::ReservationId;
use protocol::planted::{Bug, planted};
use protocol::refusal::{Failure, Step};

use super::booking::{Booking, Incarnation, Phase};
use super::end::leftover;
use super::rounds::AGAIN_FIRST;
use super::{Action, Settings, Site};
use crate::nodes::Node;
use crate::pilot::{Pilot, PilotId, State};
use crate::record::{self, Arrived, Key, Placed, Record, Value};
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
        let (arrivals, current): (BTreeMap<_, _>, BTreeMap<_, _>) =
            current.into_iter().partition(|(key, _)| matches!(key, Key::Pilot(_)));
        let mut arrived: BTreeMap<PilotId, Option<Arrived>> = BTreeMap::new();
        for (key, value) in arrivals {
            if let (Key::Pilot(id), Value::Pilot(of)) = (key, value) {
                arrived.insert(id, of);
            }
        }
        // Keys sort so that a booking comes before its incarnation.
        for (key, value) in current {
            match (key, value) {
                (Key::Booking(reservation), Value::Booking(booking)) => {
                    let booking = site.restore_booking(*booking);
                    site.bookings.insert(reservation, booking);
                }
                (Key::Incarnation(_) | Key::Leftover(_), _) if planted(Bug::PilotsForgotten) => {}
                (Key::Incarnation(reservation), Value::Incarnation(kept)) => {
                    let mut pilots = Vec::with_capacity(kept.members.len());
                    for placed in &kept.members {
                        let id = PilotId { reservation, round: kept.round, member: placed.member };
                        let arrival = arrived.remove(&id);
                        pilots.push(site.restore_member(id, placed.clone(), arrival));
                    }
                    site.restore_incarnation(reservation, *kept, pilots);
                }
                (Key::Leftover(id), Value::Leftover { account, placed, what }) => {
                    let mut pilot = site.restore_pilot(id, placed, State::Cancelling);
                    let dirt = what.unwrap_or_else(|| format!("pilot {id} does not go").into());
                    site.nodes.soil(&pilot, dirt.clone());
                    site.addresses.quarantine(pilot.address, id);
                    pilot.dirt = Some(dirt);
                    site.leftovers.insert(id, (pilot, account));
                }
                // A value under a key of another kind: the store is checked before it comes here.
                _ => {}
            }
        }
        for id in arrived.into_keys() {
            site.record(Record::Forget(Key::Pilot(id)));
        }
        site.take_up();
        // Who dials now must be known, before anything is durable anew.
        let (mut actions, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut site.actions)
            .into_iter()
            .partition(|action| matches!(action, Action::Adopt { .. }));
        actions.extend(rest);
        (site, actions)
    }

    fn restore_booking(&mut self, kept: record::Booking) -> Booking {
        let mut booking = Booking::new(kept.account);
        booking.held = kept.held;
        booking.grant = kept.grant;
        booking.begun = kept.begun;
        booking.wanted = kept.wanted;
        booking.round = kept.round;
        booking.failed = kept.failed;
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

    fn restore_pilot(&mut self, id: PilotId, placed: Placed, state: State) -> Pilot {
        self.nodes.take(&placed.node, placed.layer, id);
        self.addresses.take(placed.address, id);
        Pilot::of_before(id, placed, state)
    }

    /// A pilot of an incarnation: gone, away, or not arrived.
    fn restore_member(&mut self, id: PilotId, placed: Placed, arrival: Option<Option<Arrived>>) -> Pilot {
        match arrival {
            // What it had is given back.
            Some(None) => Pilot::of_before(id, placed, State::Gone),
            Some(Some(Arrived { pin, at, called, boot_id })) => {
                let mut pilot = self.restore_pilot(id, placed, State::Away);
                (pilot.at, pilot.called) = (at, called);
                (pilot.pin, pilot.boot_id) = (Some(pin), Some(boot_id));
                pilot.away = Some("the site's CRM was restarted meanwhile".into());
                self.pins.insert(pin, id);
                pilot
            }
            None => {
                let mut pilot = self.restore_pilot(id, placed, State::Submitted);
                let why = "the site's CRM was restarted before its batch system said that it has it";
                pilot.unanswered = Some(why.into());
                pilot
            }
        }
    }

    fn restore_incarnation(
        &mut self,
        reservation: ReservationId,
        kept: record::Incarnation,
        pilots: Vec<Pilot>,
    ) {
        let record::Incarnation { epoch, round, account, classes, lasts_until, .. } = kept;
        match self.bookings.get_mut(&reservation) {
            Some(booking) => {
                let newer = booking.wanted.max(epoch);
                let epoch = if planted(Bug::OlderEpochAdopted) { newer } else { epoch };
                if epoch > booking.begun {
                    // Of the one before.
                    booking.failed = None;
                }
                booking.begun = booking.begun.max(epoch);
                booking.wanted = booking.wanted.max(epoch);
                booking.round = booking.round.max(round);
                let roster = Roster::new(pilots);
                let mut incarnation = Incarnation::new((epoch, round), account, roster, Phase::Starting);
                incarnation.adopted = true;
                incarnation.lasts_until = lasts_until;
                booking.incarnation = Some(incarnation);
                self.resume_rates(reservation, &classes);
            }
            // It was ending, and its booking was forgotten first.
            None => {
                let ids = pilots.iter().map(|pilot| pilot.id).collect();
                for mut pilot in pilots.into_iter().filter(|pilot| pilot.state != State::Gone) {
                    pilot.state = State::Cancelling;
                    self.record(leftover(&pilot, &account));
                    self.leftovers.insert(pilot.id, (pilot, account.clone()));
                }
                self.record(Record::Forget(Key::Incarnation(reservation)));
                self.forget_arrivals(ids);
            }
        }
    }

    /// Takes everything up where it can be taken up.
    fn take_up(&mut self) {
        let all: Vec<(PilotId, State)> = self.pilots().map(|pilot| (pilot.id, pilot.state)).collect();
        for (pilot, state) in all {
            let deadline = match self.bookings.get(&pilot.reservation) {
                Some(booking) if state == State::Submitted => Some(self.queued_until(booking)),
                _ => self.settings.times.of(state).map(|time| self.now + time),
            };
            self.set_deadline(pilot, deadline);
            let awaited = state == State::Submitted && !planted(Bug::QueueTokenForgotten);
            let token_s = awaited.then(|| self.lifetime_s(pilot.reservation));
            self.actions.push(match state {
                State::Away if planted(Bug::RestartEndsPilots) => Action::Cancel { pilot },
                State::Submitted | State::Away => Action::Adopt { pilot, token_s },
                _ => Action::Cancel { pilot },
            });
        }
        for reservation in self.bookings.keys().copied().collect::<Vec<_>>() {
            self.take_up_incarnation(reservation);
            self.on_wake(reservation);
        }
        self.begin_waiting();
    }

    /// Whether an incarnation goes on, or an end that had begun does.
    fn take_up_incarnation(&mut self, reservation: ReservationId) {
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        let has_failed = booking.failed.is_some();
        let Some(incarnation) = &booking.incarnation else {
            if booking.begun.0 > 0 && booking.begun == booking.wanted && !has_failed {
                // Its pilots were released for the sake of others: nothing else ends without a failure.
                booking.again_at = Some(self.now + AGAIN_FIRST);
            }
            return;
        };
        let lost = incarnation.roster.pilots().iter().find(|pilot| pilot.state == State::Gone);
        let lost = lost.map(|pilot| pilot.id);
        let newer = booking.wanted > incarnation.epoch || booking.standing().is_none();
        if let Some(id) = lost.filter(|_| !has_failed) {
            let cause = "its sandbox ended before the site's CRM was restarted";
            self.fail_at(id, Failure::new(Step::Running, cause, "the reservation is begun anew"));
        }
        if newer {
            self.wind_down(reservation);
        }
    }
}
