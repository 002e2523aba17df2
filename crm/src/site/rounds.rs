//! Rounds: what of a reservation was handed to the batch system. A newer epoch takes a round over
//! while all of it waits in the queue, so that trouble elsewhere costs nobody his place; pilots that
//! came and waited too long for the others are released and begun again later, in a round of their
//! own and in the same epoch, for nobody has seen their sandboxes.

use std::time::Duration;

use protocol::ids::{Epoch, ReservationId};
use protocol::names::Text;
use protocol::refusal::{Failure, Step};
use protocol::site::{FromSite, Waits};

use super::Site;
use super::booking::{Booking, Incarnation, Phase};
use crate::pilot::{Pilot, PilotId, State};

/// Before pilots that were released begin again; doubled with every time in a row.
pub(super) const AGAIN_FIRST: Duration = Duration::from_secs(30);
const AGAIN_LAST: Duration = Duration::from_secs(600);

/// Members that did not come and are named.
const NAMED_MAX: usize = 8;

fn is_queued(pilot: &Pilot) -> bool {
    matches!(pilot.state, State::Held | State::Submitted)
}

impl Incarnation {
    /// Whether none of its pilots has come, and none was lost: as good as one that is begun now.
    pub fn is_untouched(&self) -> bool {
        self.phase == Phase::Starting && self.roster.pilots().iter().all(is_queued)
    }

    /// What its pilots wait for; `None` when nothing is to be said of it. Times are the site's.
    fn waits(&self, is_queue: bool, paused: Option<&Text>, held_until: Option<Duration>) -> Option<Told> {
        if !matches!(self.phase, Phase::Starting | Phase::Ready) {
            return None;
        }
        let waiting: Vec<&Pilot> = self.roster.pilots().iter().filter(|pilot| is_queued(pilot)).collect();
        let why = paused.cloned().or_else(|| waiting.iter().find_map(|pilot| pilot.waits_for().cloned()));
        let told = Told {
            pilots: waiting.len() as u32,
            why: why.unwrap_or_default(),
            expected: waiting.iter().filter_map(|pilot| pilot.expected).max(),
            until: waiting.iter().filter_map(|pilot| pilot.deadline).max(),
            held_until,
        };
        // Pilots that are started at once are on their way: of them there is nothing to say.
        let queued = told.pilots > 0 && (is_queue || paused.is_some() || !told.why.as_str().is_empty());
        (queued || told.held_until.is_some()).then_some(told)
    }
}

/// What was told of waiting last, in the site's own times.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Told {
    pilots: u32,
    why: Text,
    expected: Option<Duration>,
    until: Option<Duration>,
    held_until: Option<Duration>,
}

impl Told {
    fn message(self, now: Duration) -> Waits {
        let left = |at: Duration| u32::try_from(at.saturating_sub(now).as_secs()).unwrap_or(u32::MAX);
        Waits {
            pilots: self.pilots,
            why: self.why,
            expected_in_s: self.expected.map(left),
            until_in_s: self.until.map(left),
            held_for_s: self.held_until.map(left),
        }
    }
}

impl Site {
    /// An order of a newer epoch takes over what still waits in the queue. Returns whether it did.
    pub(super) fn take_over(&mut self, reservation: ReservationId, epoch: Epoch) -> bool {
        let until = match self.bookings.get(&reservation) {
            Some(booking) => self.queued_until(booking),
            None => return false,
        };
        let Some(booking) = self.bookings.get_mut(&reservation) else { return false };
        let Some(incarnation) = booking.incarnation.as_mut().filter(|one| one.is_untouched()) else {
            return false;
        };
        incarnation.epoch = epoch;
        incarnation.told = Default::default();
        booking.waits = None;
        let (record, pilots) = (incarnation.record(reservation), incarnation.pilot_ids());
        (booking.wanted, booking.begun, booking.failed) = (epoch, epoch, None);
        // The newer one waits as long as one that is begun now.
        pilots.into_iter().for_each(|id| self.set_deadline(id, Some(until)));
        self.record(record);
        self.record_booking(reservation);
        self.progressed.insert(reservation);
        true
    }

    /// Until when pilots that are submitted now may wait in the queue: as long as any, counted from
    /// when the window begins.
    pub(super) fn queued_until(&self, booking: &Booking) -> Duration {
        let start = booking.grant.as_ref().map_or(self.now, |grant| grant.start);
        self.now.max(start) + self.settings.times.pilots
    }

    /// When pilots that came are released, if the others have not come by then: counted from the
    /// first that came, but not before the window.
    pub(super) fn held_until(&self, booking: &Booking) -> Option<Duration> {
        let incarnation = booking.incarnation.as_ref()?;
        let waits = matches!(incarnation.phase, Phase::Starting | Phase::Ready);
        // While the GRC is away nothing is ended for the sake of others.
        if !waits || !self.connected || booking.failed.is_some() || booking.ending {
            return None;
        }
        let start = booking.grant.as_ref()?.start;
        Some(incarnation.came?.max(start) + self.settings.hold)
    }

    /// Remembers when the first pilot of a round came.
    pub(super) fn came(&mut self, id: PilotId) {
        let now = self.now;
        if let Some(incarnation) = self.incarnation_mut(id) {
            incarnation.came.get_or_insert(now);
            self.schedule(id.reservation);
        }
    }

    /// The GRC is back: what came is held anew, for the others have waited as well.
    pub(super) fn hold_anew(&mut self, reservation: ReservationId) {
        let now = self.now;
        let booking = self.bookings.get_mut(&reservation);
        let Some(incarnation) = booking.and_then(|booking| booking.incarnation.as_mut()) else { return };
        // Those of before a restart came then.
        if incarnation.came.is_some() || incarnation.roster.pilots().iter().any(|pilot| pilot.pin.is_some()) {
            incarnation.came = Some(now);
        }
    }

    /// The pilots waited too long for the others: their nodes go back, and they are begun again
    /// after a pause.
    pub(super) fn release_early(&mut self, reservation: ReservationId) {
        let now = self.now;
        let hold_s = self.settings.hold.as_secs();
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        let Some(incarnation) = &booking.incarnation else { return };
        let (epoch, round) = (incarnation.epoch, incarnation.round.0);
        let progress = incarnation.roster.progress();
        let pause = (AGAIN_FIRST * 2u32.saturating_pow(booking.releases.min(16))).min(AGAIN_LAST);
        booking.releases += 1;
        booking.again_at = Some(now + pause);
        let why = match progress.wanted.saturating_sub(progress.arrived) {
            0 => format!("its pilots waited {hold_s} s for those of other sites"),
            missing => format!("its pilots waited {hold_s} s for {missing} more of this site"),
        };
        let again_in_s = u32::try_from(pause.as_secs()).unwrap_or(u32::MAX);
        self.tell(FromSite::Withdrawn { reservation, epoch, round, why: why.into(), again_in_s });
        self.wind_down(reservation);
        self.schedule(reservation);
    }

    /// All others are there: who was released begins at once.
    pub(super) fn hasten(&mut self, reservation: ReservationId, epoch: Epoch) {
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        if booking.wanted != epoch || booking.again_at.is_none() {
            return;
        }
        booking.again_at = Some(self.now);
        self.try_begin(reservation);
        self.schedule(reservation);
    }

    /// Why a pilot that did not come in time fails its part: all that are missing are named, with
    /// what the queue says of them.
    pub(super) fn never_came(&self, id: PilotId) -> Failure {
        let time = self.settings.times.pilots.as_secs();
        let hint = "see the CRM's log and the Launcher's last lines there; is the node up?";
        let Some(incarnation) = self.incarnation(id) else {
            return Failure::new(Step::Pilots, format!("no pilot dialled in within {time} s"), hint);
        };
        let missing: Vec<&Pilot> =
            incarnation.roster.pilots().iter().filter(|pilot| is_queued(pilot)).collect();
        let (count, all) = (missing.len(), incarnation.roster.len());
        let named = missing.iter().take(NAMED_MAX);
        let mut named: Vec<String> =
            named.map(|pilot| format!("{}-{}", self.settings.name, pilot.id.member)).collect();
        if count > NAMED_MAX {
            named.push("...".to_owned());
        }
        let mut cause =
            format!("{count} of {all} pilots did not dial in within {time} s: {}", named.join(", "));
        let queue = &self.settings.queue;
        match missing.iter().find_map(|pilot| pilot.queued.as_ref()) {
            Some(why) if queue.as_str().is_empty() => {
                cause.push_str(&format!("; the batch system says: {why}"))
            }
            Some(why) => cause.push_str(&format!("; {queue} says: {why}")),
            None => {
                let unsure = missing.iter().find_map(|pilot| pilot.unanswered.as_ref());
                cause.extend(unsure.map(|why| format!("; it is not known whether they are queued: {why}")));
            }
        }
        match self.settings.anonymous {
            true => Failure::new(
                Step::Pilots,
                cause,
                "the site's batch queue may be full; try again later or elsewhere",
            ),
            false => Failure::new(Step::Pilots, cause, hint),
        }
    }

    /// Tells what pilots wait for, when that is other than was told.
    pub(super) fn tell_waits(&mut self, reservation: ReservationId) {
        let Some(booking) = self.bookings.get(&reservation) else { return };
        let paused = self.is_paused(&booking.account);
        let held_until = self.held_until(booking);
        let waits = match &booking.incarnation {
            Some(incarnation) => {
                let any_held = incarnation.roster.pilots().iter().any(|pilot| pilot.state == State::Held);
                incarnation.waits(self.settings.anonymous, paused.as_ref().filter(|_| any_held), held_until)
            }
            None => waits_to_begin(booking, paused),
        };
        if waits == booking.waits {
            return;
        }
        let (epoch, now) = (booking.wanted, self.now);
        if let Some(booking) = self.bookings.get_mut(&reservation) {
            booking.waits = waits.clone();
        }
        let waits = waits.map(|waits| waits.message(now));
        self.tell(FromSite::Waits { reservation, epoch, waits });
    }
}

/// Nothing of it is submitted, although its time has come: the queue is paused.
fn waits_to_begin(booking: &Booking, paused: Option<Text>) -> Option<Told> {
    let members = booking.standing().filter(|_| booking.is_to_begin())?.part.members;
    let (until, why) = (booking.late_at?, paused?);
    Some(Told { pilots: members, why, expected: None, until: Some(until), held_until: None })
}
