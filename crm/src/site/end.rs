//! The way down: of an incarnation, and of all that the site has of a reservation.

use protocol::ids::{Epoch, ReservationId};
use protocol::names::{NodeName, Text};
use protocol::planted::{Bug, planted};
use protocol::refusal::{Failure, Step};
use protocol::site::FromSite;

use super::booking::Phase;
use super::{Account, Site};
use crate::pilot::{self, Pilot, PilotId, State};
use crate::record::{Key, Placed, Record, Value};

impl Site {
    /// An incarnation cannot go on; the GRC is told, and again when it asks. It decides: the grant
    /// stays until then.
    pub(super) fn fail(&mut self, reservation: ReservationId, epoch: Epoch, failure: Failure) {
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        if booking.failed.is_some() || booking.ending || booking.begun != epoch {
            return;
        }
        let failure = failure.at_site(&self.settings.name);
        booking.failed = Some(failure.clone());
        self.record_booking(reservation);
        self.tell(FromSite::Failed { reservation, epoch, failure });
    }

    pub(super) fn tell_progress(&mut self, reservation: ReservationId) {
        self.progressed.remove(&reservation);
        let booking = self.bookings.get_mut(&reservation);
        let Some(incarnation) = booking.and_then(|booking| booking.incarnation.as_mut()) else { return };
        let progress = incarnation.roster.progress();
        if incarnation.phase == Phase::Ending || incarnation.told == progress {
            return;
        }
        incarnation.told = progress;
        let (epoch, round) = (incarnation.epoch, incarnation.round.0);
        self.tell(FromSite::Progress { reservation, epoch, round, progress });
    }

    /// Begins the end of everything of a reservation, from wherever it is.
    pub(super) fn end(&mut self, reservation: ReservationId) {
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        booking.ending = true;
        booking.held = None;
        if let Some(at) = booking.wake.take() {
            self.wakes.remove(&(at, reservation));
        }
        self.waiting.remove(&reservation);
        match self.bookings[&reservation].incarnation {
            Some(_) => self.wind_down(reservation),
            None => self.finish(reservation, false),
        }
    }

    /// Ends the present incarnation, if there is one.
    pub(super) fn wind_down(&mut self, reservation: ReservationId) {
        let booking = self.bookings.get_mut(&reservation);
        let Some(incarnation) = booking.and_then(|booking| booking.incarnation.as_mut()) else { return };
        incarnation.phase = Phase::Ending;
        if planted(Bug::AddressBackUnconfirmed) {
            for pilot in incarnation.roster.pilots() {
                self.addresses.release(pilot.address, pilot.id);
            }
        }
        for id in incarnation.pilot_ids() {
            self.advance(id, pilot::Event::EndAsked);
        }
        // One whose pilots had all gone before has nothing to wait for.
        self.check_barriers(reservation);
    }

    /// The grant that was committed needs other nodes than those that have begun.
    pub(super) fn begin_anew_changed(&mut self, reservation: ReservationId) {
        let booking = self.bookings.get(&reservation);
        let Some(epoch) = booking.and_then(|booking| booking.incarnation.as_ref()).map(|i| i.epoch) else {
            return;
        };
        let cause = "its nodes were changed when its pilots had begun";
        self.fail(reservation, epoch, Failure::new(Step::Pilots, cause, "it is begun anew"));
        self.wind_down(reservation);
    }

    /// Ends all pilots because the CRM stops. What was granted stays, in the journal.
    pub(super) fn stop(&mut self) {
        self.closing = true;
        for reservation in self.bookings.keys().copied().collect::<Vec<_>>() {
            let booking = &self.bookings[&reservation];
            if let Some(epoch) = booking.incarnation.as_ref().map(|incarnation| incarnation.epoch) {
                let hint = "it is begun anew when the CRM is back";
                let failure = Failure::new(Step::Running, "the site's CRM was stopped", hint);
                self.fail(reservation, epoch, failure);
                self.wind_down(reservation);
            }
            self.schedule(reservation);
        }
    }

    /// Nothing more is waited for: the incarnation goes, and pilots that do not go are kept apart.
    pub(super) fn settled(&mut self, reservation: ReservationId) {
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        let Some(incarnation) = booking.incarnation.take() else { return };
        let ending = booking.ending;
        self.progressed.remove(&reservation);
        let pilots = incarnation.pilot_ids();
        let account = incarnation.account;
        for pilot in incarnation.roster.into_pilots() {
            if pilot.state != State::Gone {
                self.record(leftover(&pilot, &account));
                self.leftovers.insert(pilot.id, (pilot, account.clone()));
            }
        }
        if ending {
            self.finish(reservation, true);
            return self.forget_arrivals(pilots);
        }
        self.record_booking(reservation);
        self.record(Record::Forget(Key::Incarnation(reservation)));
        self.forget_arrivals(pilots);
        self.try_begin(reservation);
        self.schedule(reservation);
    }

    /// Behind their incarnation: without these records its pilots would be awaited.
    pub(super) fn forget_arrivals(&mut self, pilots: Vec<PilotId>) {
        pilots.into_iter().for_each(|pilot| self.record(Record::Forget(Key::Pilot(pilot))));
    }

    fn finish(&mut self, reservation: ReservationId, had_pilots: bool) {
        let Some(booking) = self.bookings.remove(&reservation) else { return };
        self.nodes.give_back(&booking.charges);
        self.freed = true;
        self.waiting.remove(&reservation);
        self.fence_all(reservation);
        self.free_ahead(reservation);
        // In this order: pilots without a booking are taken away, a booking without pilots begins.
        self.record(Record::Forget(Key::Booking(reservation)));
        if had_pilots {
            self.record(Record::Forget(Key::Incarnation(reservation)));
        }
        // The offer goes first: when the GRC hears of the end it plans with what is free.
        self.publish();
        self.tell_ended(reservation);
    }

    /// Nothing of the reservation is here, but for the nodes named.
    pub(super) fn tell_ended(&mut self, reservation: ReservationId) {
        let of_it = self.leftovers.iter().filter(|(id, _)| id.reservation == reservation);
        let dirty: Vec<(NodeName, Text)> = of_it
            .map(|(id, (pilot, _))| {
                let what = pilot.dirt.clone().unwrap_or_else(|| format!("pilot {id} does not go").into());
                (pilot.node_name().clone(), what)
            })
            .collect();
        self.tell(FromSite::Ended { reservation, dirty });
    }

    /// A pilot of an incarnation that is over has gone after all.
    pub(super) fn forget_leftover(&mut self, id: PilotId) {
        if self.leftovers.remove(&id).is_some() {
            self.record(Record::Forget(Key::Leftover(id)));
        }
    }
}

/// What must not be forgotten of a pilot that does not go.
pub(super) fn leftover(pilot: &Pilot, account: &Account) -> Record {
    let placed = Placed {
        member: pilot.id.member,
        node: pilot.node.clone(),
        at: pilot.at.clone(),
        called: pilot.called.clone(),
        layer: pilot.layer,
        address: pilot.address,
    };
    let value = Value::Leftover { account: account.clone(), placed, what: pilot.dirt.clone() };
    Record::Put(Key::Leftover(pilot.id), value)
}
