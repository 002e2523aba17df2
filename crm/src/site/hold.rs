//! Votes: hold, commit, release, and what the site asks when it hears nothing.
//!
//! The votes of one version are for one attempt of the GRC. A version below the newest that was
//! heard of is stale and changes nothing; what is over stays over.

use std::time::Duration;

use protocol::ids::{ReservationId, Version};
use protocol::planted::{Bug, planted};
use protocol::refusal::{Failure, Refusal, Step};
use protocol::reservation::AddressBlock;
use protocol::site::{FromSite, Part, Remaining};

use super::booking::{Booking, same_sandboxes, timeless, window_of};
use super::{ALL_VERSIONS, ASK_INTERVAL, Account, FENCES_MAX, Site};
use crate::addresses::CarveError;
use crate::record::{Key, Record, Terms};

fn wrong(state: &str) -> Refusal {
    Refusal::WrongState { what: "a hold".into(), state: state.into() }
}

impl Site {
    pub(super) fn hold(
        &mut self,
        reservation: ReservationId,
        version: Version,
        part: Part,
        account: Result<Account, Refusal>,
    ) {
        if let Some(booking) = self.bookings.get_mut(&reservation).filter(|booking| !booking.ending) {
            let is = |terms: &Option<Terms>| terms.as_ref().is_some_and(|terms| terms.version == version);
            if is(&booking.grant) {
                return self.tell(FromSite::Committed { reservation, version });
            }
            if is(&booking.held) {
                booking.heard_at = self.now;
                let same = booking.held.as_ref().is_some_and(|held| held.part == timeless(part));
                self.schedule(reservation);
                return self.tell(match same {
                    true => FromSite::Held { reservation, version },
                    false => {
                        let refusal = wrong("another part is held under this version");
                        FromSite::HoldRefused { reservation, version, refusal }
                    }
                });
            }
        }
        match self.vote(reservation, version, part, account) {
            Ok(()) => {
                let held = FromSite::Held { reservation, version };
                if planted(Bug::HeldBeforeRecord) {
                    self.tell(held);
                    return self.record_booking(reservation);
                }
                self.record_booking(reservation);
                self.tell(held);
            }
            Err(refusal) => self.tell(FromSite::HoldRefused { reservation, version, refusal }),
        }
        self.schedule(reservation);
    }

    fn vote(
        &mut self,
        reservation: ReservationId,
        version: Version,
        part: Part,
        account: Result<Account, Refusal>,
    ) -> Result<(), Refusal> {
        if self.fences.get(&reservation).is_some_and(|fence| version <= *fence) {
            return Err(wrong("this version of the reservation is over here"));
        }
        if self.closing {
            return Err(wrong("the site's CRM is stopping; it will be back"));
        }
        match self.bookings.get(&reservation) {
            Some(booking) if booking.ending => return Err(wrong("the reservation is ending here")),
            Some(booking) if version < booking.newest() => {
                return Err(wrong("a newer version is known here"));
            }
            // A newer attempt says that the older one was given up.
            Some(booking) if booking.held.is_some() => self.drop_hold(reservation),
            Some(_) | None => {}
        }
        if self.bookings.get(&reservation).is_some_and(|booking| booking.ending) {
            return Err(wrong("the reservation is ending here"));
        }
        let (start, end) = window_of(self.now, part.window);
        if end <= self.now {
            return Err(Refusal::BadWindow { why: "it is over already".into() });
        }
        let part = timeless(part);
        let account = self.check_part(&part, account)?;
        self.check_limits(&part, start, end)?;
        // A change of what is granted is no new submission.
        let is_granted = self.bookings.get(&reservation).is_some_and(|booking| booking.grant.is_some());
        if let Some(why) = self.is_paused(&account).filter(|_| !is_granted) {
            return Err(Refusal::QueuePaused { site: self.settings.name.clone(), why });
        }
        if let Some(grant) = self.bookings.get(&reservation).and_then(|booking| booking.grant.as_ref()) {
            if grant.part.user != part.user {
                return Err(wrong("the reservation is of another user"));
            }
            let begun = self.bookings[&reservation].begun.0 > 0;
            if begun && !same_sandboxes(&grant.part, &part) {
                return Err(wrong("its sandboxes have begun: only its window and its rates can be changed"));
            }
            self.check_lasts(reservation, end)?;
        }
        self.check_carve(reservation, &part, start, end)?;

        let held = Some(Terms { version, part, start, end });
        let mut booking = match self.bookings.remove(&reservation) {
            Some(booking) => booking,
            None => {
                let mut booking = Booking::new(account);
                // What is left of it from before has its rounds still.
                let left = self.leftovers.keys().filter(|id| id.reservation == reservation);
                booking.round = left.map(|id| id.round).max().unwrap_or_default();
                booking
            }
        };
        booking.held = held;
        booking.heard_at = self.now;
        let new = booking.charged();
        let limits = booking.held.as_ref().map(|held| held.part.limits).unwrap_or_default();
        let booked = self.nodes.book(&self.settings.name, &booking.charges, &new, &limits);
        match booked {
            Ok(()) => booking.charges = new,
            Err(_) => booking.held = None,
        }
        if booking.held.is_some() || booking.grant.is_some() {
            self.bookings.insert(reservation, booking);
        }
        self.offer_changed = true;
        booked
    }

    /// What is refused whatever else is here.
    fn check_part(&self, part: &Part, account: Result<Account, Refusal>) -> Result<Account, Refusal> {
        let site = || self.settings.name.clone();
        if part.members == 0 {
            return Err(Refusal::ZeroNodes);
        }
        if self.settings.catalog.find(&part.environment).is_err() {
            return Err(Refusal::UnknownEnvironment { site: site(), environment: part.environment.clone() });
        }
        crate::rates::Classes::new(part)
            .map_err(|what| Refusal::AgainstPolicy { site: site(), what: what.to_string().into() })?;
        let account = account?;
        if account.uid == 0 {
            let what = format!("user {} is mapped to {}, whose uid is 0", part.user, account.name).into();
            return Err(Refusal::AgainstPolicy { site: site(), what });
        }
        self.addresses.check(&part.addresses, part.members).map_err(|error| match error {
            CarveError::Outside(block) => {
                Refusal::RangeNotAllowed { site: site(), range: block.to_string().into() }
            }
            CarveError::TooFew(_) => Refusal::AddressesExhausted { site: site(), asked: part.members },
        })?;
        Ok(account)
    }

    /// No address of a carve is granted to somebody else at that time. The GRC sees to it for the
    /// whole grid; two members with one address are not to be had by a fault of its either.
    fn check_carve(
        &self,
        reservation: ReservationId,
        part: &Part,
        start: Duration,
        end: Duration,
    ) -> Result<(), Refusal> {
        let first = |block: &AddressBlock| u64::from(u32::from(block.first));
        let others = self.bookings.iter().filter(|(id, _)| **id != reservation);
        for grant in others.filter_map(|(_, booking)| booking.grant.as_ref()) {
            if grant.end <= start || end <= grant.start {
                continue;
            }
            let overlap = grant.part.addresses.iter().any(|theirs| {
                part.addresses.iter().any(|ours| {
                    first(ours) < first(theirs) + u64::from(theirs.count)
                        && first(theirs) < first(ours) + u64::from(ours.count)
                })
            });
            if overlap {
                let site = self.settings.name.clone();
                return Err(Refusal::AddressesExhausted { site, asked: part.members });
            }
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, reservation: ReservationId, version: Version, window: Remaining) {
        let now = self.now;
        let Some(booking) = self.bookings.get_mut(&reservation) else {
            return self.tell(FromSite::Lost { reservation, version });
        };
        if booking.ending {
            return;
        }
        let is = |terms: &Option<Terms>| terms.as_ref().is_some_and(|terms| terms.version == version);
        if is(&booking.grant) {
            self.hear_window(reservation, window);
            return self.tell(FromSite::Committed { reservation, version });
        }
        if !is(&booking.held) {
            if version > booking.newest() {
                self.tell(FromSite::Lost { reservation, version });
            }
            return;
        }
        let before = std::mem::replace(&mut booking.grant, booking.held.take());
        booking.tighten(now, window);
        let other_sandboxes = match (&before, &booking.grant) {
            (Some(before), Some(grant)) => !same_sandboxes(&before.part, &grant.part),
            _ => false,
        };
        self.rebook(reservation);
        self.record_booking(reservation);
        self.tell(FromSite::Committed { reservation, version });
        if other_sandboxes {
            self.begin_anew_changed(reservation);
        }
        self.reshape(reservation);
        self.renew_all(reservation);
        self.schedule(reservation);
        self.try_begin(reservation);
    }

    pub(super) fn release_hold(&mut self, reservation: ReservationId, version: Version) {
        let Some(booking) = self.bookings.get(&reservation) else {
            return self.fence(reservation, version);
        };
        let is = |terms: &Option<Terms>| terms.as_ref().is_some_and(|terms| terms.version == version);
        if planted(Bug::ReleaseTakesGrant) && booking.grant.is_some() {
            return self.end(reservation);
        }
        if !is(&booking.held) || booking.ending {
            if version > booking.newest() {
                self.fence(reservation, version);
            }
            return;
        }
        self.drop_hold(reservation);
        self.try_begin(reservation);
        self.schedule(reservation);
    }

    /// Gives back what is held and not granted; a grant stays as it was before. Where the window
    /// of a grant was over, and only its change was left, all of it is.
    pub(super) fn drop_hold(&mut self, reservation: ReservationId) {
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        let Some(held) = booking.held.take() else { return };
        let (has_grant, has_begun) = (booking.grant.is_some(), booking.begun.0 > 0);
        self.fence(reservation, held.version);
        self.rebook(reservation);
        if has_grant {
            return self.record_booking(reservation);
        }
        if has_begun {
            return self.end(reservation);
        }
        let Some(booking) = self.bookings.remove(&reservation) else { return };
        if let Some(at) = booking.wake {
            self.wakes.remove(&(at, reservation));
        }
        self.waiting.remove(&reservation);
        self.record(Record::Forget(Key::Booking(reservation)));
    }

    /// The window of the grant is over while a change of it, with a later end, is not decided: its
    /// sandboxes end with it, the hold stays until the GRC says what of it.
    pub(super) fn outlive(&mut self, reservation: ReservationId) {
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        booking.grant = None;
        let begun = booking.begun;
        self.rebook(reservation);
        let cause = "its window was over before a longer one was decided";
        self.fail(reservation, begun, Failure::new(Step::Running, cause, "it is begun anew"));
        self.record_booking(reservation);
        self.wind_down(reservation);
        if self.connected {
            self.ask(reservation);
        }
        self.schedule(reservation);
    }

    /// Charges what the booking is now, without asking: it was admitted before.
    pub(super) fn rebook(&mut self, reservation: ReservationId) {
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        let new = booking.charged();
        if new != booking.charges {
            self.nodes.give_back(&booking.charges);
            self.nodes.charge(&new);
            booking.charges = new;
            self.freed = true;
            self.offer_changed = true;
        }
        self.reserve_ahead(reservation);
    }

    /// The window of the grant as the GRC states it now; kept when that makes a difference.
    pub(super) fn hear_window(&mut self, reservation: ReservationId, window: Remaining) {
        let now = self.now;
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        let times = |booking: &Booking| booking.grant.as_ref().map(|grant| (grant.start, grant.end));
        let before = times(booking);
        booking.tighten(now, window);
        let (Some(before), Some(after)) = (before, times(booking)) else { return };
        if before == after {
            return;
        }
        let differ = |a: Duration, b: Duration| a.abs_diff(b) >= Duration::from_secs(1);
        if differ(before.0, after.0) || differ(before.1, after.1) {
            self.record_booking(reservation);
        }
        self.rebook(reservation);
        self.schedule(reservation);
    }

    /// Asks about a hold of which nothing was heard for a while.
    pub(super) fn ask(&mut self, reservation: ReservationId) {
        let Some(booking) = self.bookings.get_mut(&reservation).filter(|booking| !booking.ending) else {
            return;
        };
        let Some(version) = booking.held.as_ref().map(|held| held.version) else { return };
        booking.heard_at = self.now;
        if planted(Bug::HoldTimesOut) {
            return self.drop_hold(reservation);
        }
        self.tell(FromSite::Asks { reservation, version });
    }

    /// Remembers that this version, and every older one, is over here.
    pub(super) fn fence(&mut self, reservation: ReservationId, version: Version) {
        let fence = self.fences.entry(reservation).or_insert(version);
        *fence = (*fence).max(version);
        while self.fences.len() > FENCES_MAX {
            self.fences.pop_first();
        }
    }

    pub(super) fn fence_all(&mut self, reservation: ReservationId) {
        self.fence(reservation, ALL_VERSIONS);
    }

    /// When this hold is to be asked about next.
    pub(super) fn ask_at(booking: &Booking) -> Duration {
        booking.heard_at + ASK_INTERVAL
    }
}
