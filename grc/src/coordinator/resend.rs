//! What is said again: anything may be lost, so whoever has not acknowledged is told again, after a
//! while and whenever he connects.

use std::time::Duration;

use protocol::ids::ReservationId;
use protocol::names::SiteName;
use protocol::planted::{Bug, planted};
use protocol::site::ToSite;

use super::Coordinator;
use super::event::Due;
use crate::reservation::{PartStage, Pause, Phase, Reservation};

/// The first pause; doubled up to the last one while nothing changes.
pub(super) const RESEND_FIRST: Duration = Duration::from_secs(2);
pub(super) const RESEND_LAST: Duration = Duration::from_secs(30);

/// What a site has not acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Open {
    Hold,
    Commit,
    Start,
    Join,
    End,
}

/// What is waited for from one site, in the order in which it is said.
fn open_at(reservation: &Reservation, site: &SiteName) -> Vec<Open> {
    let mut open = Vec::new();
    if reservation.attempt.as_ref().is_some_and(|attempt| attempt.all.waits_for(site)) {
        open.push(Open::Hold);
    }
    let Some(part) = reservation.part(site) else { return open };
    let begins = reservation.troubles.next_try.is_none();
    match reservation.phase {
        Phase::Ending if part.stage < PartStage::Ended => open.push(Open::End),
        phase if phase.is_granted() && !part.acknowledged => open.push(Open::Commit),
        Phase::Starting if begins && part.stage < PartStage::Ready => open.push(Open::Start),
        Phase::Joining if part.stage < PartStage::Joined => open.push(Open::Join),
        _ => {}
    }
    open
}

fn everybody(reservation: &Reservation) -> Vec<SiteName> {
    let parts = reservation.parts.iter().map(|part| part.site.clone());
    parts.collect()
}

impl Coordinator {
    /// Something new is waited for: the pauses begin anew.
    pub(super) fn resend_soon(&mut self, id: ReservationId) {
        self.set_resend(id, RESEND_FIRST);
    }

    fn set_resend(&mut self, id: ReservationId, length: Duration) {
        let now = self.now;
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        if let Some(old) = reservation.resend.take() {
            self.timers.remove(&(old.until, Due::Resend(id)));
        }
        if everybody(reservation).iter().any(|site| !open_at(reservation, site).is_empty()) {
            let until = now + length;
            reservation.resend = Some(Pause { until, length });
            self.set_timer(until, Due::Resend(id));
        }
    }

    pub(super) fn resend_due(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let Some(pause) = reservation.resend.take().filter(|pause| pause.until <= self.now) else { return };
        let holding = reservation.attempt.is_some();
        for site in everybody(reservation) {
            self.say_again(id, &site, false);
        }
        let longer = if holding { RESEND_FIRST } else { (pause.length * 2).min(RESEND_LAST) };
        self.set_resend(id, longer);
    }

    /// Everything that a site has not acknowledged. One that was away is also asked how it stands
    /// with what runs: its news may have been lost with the connection.
    fn say_again(&mut self, id: ReservationId, site: &SiteName, was_away: bool) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        let open = open_at(reservation, site);
        let stands = reservation.stands() && reservation.part(site).is_some_and(|part| part.acknowledged);
        if was_away && stands && !open.contains(&Open::Start) {
            self.start(id, site);
        }
        for one in open {
            match one {
                Open::Hold => self.hold(id, site),
                Open::Commit => self.commit(id, site),
                Open::Start => self.start(id, site),
                Open::Join => self.join_site(id, site),
                Open::End if planted(Bug::EndNotRepeated) => {}
                Open::End => self.send(site, ToSite::End { reservation: id }),
            }
        }
    }

    /// A site is back: it hears at once what it may have missed.
    pub(super) fn say_all_again(&mut self, site: &SiteName) {
        let Some(known) = self.sites.get(site) else { return };
        for id in known.reservations.iter().copied().collect::<Vec<_>>() {
            self.say_again(id, site, true);
            self.exec_again(id, site);
        }
        self.ask_owed(site);
    }
}
