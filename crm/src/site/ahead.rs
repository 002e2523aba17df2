//! Windows in the future that the batch system itself keeps free, where it can: an advance
//! reservation of its own for each that is granted here. It is a help and no promise: without it
//! pilots queue like everybody's.

use std::time::Duration;

use protocol::ids::ReservationId;

use super::{Account, Action, LEASE_MARGIN, Site};

/// What begins sooner is submitted as it is.
const SOON: Duration = Duration::from_secs(5);

/// Nodes that the batch system shall keep for an account.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ahead {
    pub reservation: ReservationId,
    pub account: Account,
    pub nodes: u32,
    pub begin_in_s: u32,
    /// From then on, with the margin that pilots have.
    pub lasts_s: u32,
}

pub(super) fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

impl Site {
    /// The batch system keeps nodes free for windows, or does so no more.
    pub(super) fn set_reserves_ahead(&mut self, does: bool) {
        // A queue: of its own nodes the site knows itself when they are free.
        let does = does && self.settings.anonymous;
        if std::mem::replace(&mut self.reserves_ahead, does) == does {
            return;
        }
        for reservation in self.bookings.keys().copied().collect::<Vec<_>>() {
            self.reserve_ahead(reservation);
        }
    }

    /// Asks for what a grant needs, if that was not asked already. Repeatable.
    pub(super) fn reserve_ahead(&mut self, reservation: ReservationId) {
        let now = self.now;
        let Some(booking) = self.bookings.get(&reservation).filter(|booking| !booking.ending) else { return };
        let Some(grant) = booking.grant.as_ref().filter(|_| self.reserves_ahead) else { return };
        let begin = self.runs_from(grant.start);
        if begin < now + SOON {
            return;
        }
        // The GRC states windows anew with every message, a little off each time.
        let wanted = (grant.part.members, begin, grant.end);
        let is_near = |a: Duration, b: Duration| a.abs_diff(b) < SOON;
        let asked = self.ahead.get(&reservation);
        if asked
            .is_some_and(|(nodes, a, b)| *nodes == wanted.0 && is_near(*a, wanted.1) && is_near(*b, wanted.2))
        {
            return;
        }
        let ahead = Ahead {
            reservation,
            account: booking.account.clone(),
            nodes: grant.part.members,
            begin_in_s: seconds(begin - now),
            lasts_s: seconds(grant.end.saturating_sub(begin) + LEASE_MARGIN),
        };
        self.ahead.insert(reservation, wanted);
        self.actions.push(Action::Reserve(ahead));
    }

    /// Gives it back when nothing of the reservation is here any more.
    pub(super) fn free_ahead(&mut self, reservation: ReservationId) {
        if self.ahead.remove(&reservation).is_some() || self.reserves_ahead {
            // One of before a restart may be there, too.
            self.actions.push(Action::Unreserve { reservation });
        }
    }
}
