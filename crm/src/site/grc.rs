//! What the GRC says.

use protocol::ids::ReservationId;
use protocol::node::Request;
use protocol::site::{FromSite, ToSite};

use super::booking::Outcome;
use super::{Action, Site};
use crate::pilot::PilotId;

impl Site {
    /// A connection stands: what the site has is said, and what may have been lost is said again.
    pub(super) fn on_connected(&mut self) {
        self.connected = true;
        self.published = None;
        self.publish();
        for reservation in self.bookings.keys().copied().collect::<Vec<_>>() {
            self.hold_anew(reservation);
            self.tell_all(reservation);
            self.schedule(reservation);
        }
    }

    fn tell_all(&mut self, reservation: ReservationId) {
        let Some(booking) = self.bookings.get(&reservation).filter(|booking| !booking.ending) else { return };
        let (grant, held) = (booking.grant.as_ref(), booking.held.as_ref());
        let failed = booking.failed.clone();
        let begun = booking.begun;
        let committed = grant.map(|grant| grant.version);
        let asks = held.map(|held| held.version);
        if let Some(version) = committed {
            self.tell(FromSite::Committed { reservation, version });
        }
        if asks.is_some() {
            self.ask(reservation);
        }
        if let Some(failure) = failed {
            self.tell(FromSite::Failed { reservation, epoch: begun, failure });
        }
        if let Some(booking) = self.bookings.get_mut(&reservation) {
            booking.waits = None;
            self.tell_waits(reservation);
        }
        self.resend(reservation);
    }

    /// Commands whose end the GRC has not saved: their agents send again what is not saved.
    fn resend(&mut self, reservation: ReservationId) {
        let booking = self.bookings.get(&reservation);
        let Some(incarnation) = booking.and_then(|booking| booking.incarnation.as_ref()) else { return };
        let (epoch, round) = (incarnation.epoch, incarnation.round);
        let unsaved = incarnation.jobs.iter().flat_map(|(job, of)| {
            let members = of.members.iter().filter(|(_, ran)| !ran.saved);
            members.map(|(member, ran)| (*job, *member, ran.outcome.clone()))
        });
        for (job, member, outcome) in unsaved.collect::<Vec<_>>() {
            match outcome {
                Outcome::NotStarted(failure) => {
                    self.tell(FromSite::ExecFailed { reservation, epoch, job, member, failure });
                }
                outcome => self.resend_one(PilotId { reservation, round, member }, job, outcome),
            }
        }
    }

    pub(super) fn on_grc(&mut self, message: ToSite) {
        match message {
            // The edge deals with both; a hold comes as an event of its own, with its account.
            ToSite::Welcome | ToSite::Refused(_) | ToSite::Hold { .. } => {}
            ToSite::Commit { reservation, version, window } => self.commit(reservation, version, window),
            ToSite::Release { reservation, version } => self.release_hold(reservation, version),
            ToSite::Start { reservation, epoch, window } => self.start(reservation, epoch, window),
            ToSite::Join { reservation, epoch, ring } => self.join(reservation, epoch, ring),
            ToSite::Hasten { reservation, epoch } => self.hasten(reservation, epoch),
            ToSite::End { reservation } => match self.bookings.get(&reservation) {
                Some(booking) if booking.ending => {}
                Some(_) => self.end(reservation),
                None => {
                    self.fence_all(reservation);
                    self.tell_ended(reservation);
                }
            },
            ToSite::Exec { reservation, epoch, job, target, command } => {
                self.exec(reservation, epoch, job, target, &command);
            }
            ToSite::Signal { reservation, epoch, job, signal } => {
                self.signal(reservation, epoch, job, signal);
            }
            ToSite::OutputSaved { reservation, epoch, job, member, stream, upto } => {
                let pilot = self.pilot_of(reservation, epoch, member);
                if let Some(pilot) = pilot.filter(|pilot| self.is_told_of(*pilot, job)) {
                    let request = Request::OutputSaved { job, stream, upto };
                    self.actions.push(Action::Pass { pilot, request });
                }
            }
            ToSite::ExitSaved { reservation, epoch, job, member } => {
                if let Some(pilot) = self.pilot_of(reservation, epoch, member) {
                    self.exit_saved(pilot, job);
                }
            }
        }
    }
}
