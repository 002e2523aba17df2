//! Who may see and touch what. A user sees what is his own: another's id is answered like one that
//! does not exist. An operator sees everybody's things by their ids, ends them and changes them;
//! what he does to others' things stands in the log and is shown to those whose they are. He starts
//! nothing in another's name.

use protocol::client::Selector;
use protocol::ids::{JobId, ReservationId};
use protocol::limits::LISTING_MAX;
use protocol::names::UserName;
use protocol::refusal::{Failure, Refusal, Step};

use super::Coordinator;
use super::users::{Things, User};

impl Coordinator {
    /// A reservation to run something in: the user's own.
    pub(super) fn own_reservation(
        &self,
        user: &UserName,
        which: Selector<ReservationId>,
    ) -> Result<ReservationId, Refusal> {
        let not_found = |id| Refusal::UnknownReservation { id };
        own(self.users.get(user).map(|user| &user.reservations), which, not_found)
    }

    /// A reservation to look at, to end or to change.
    pub(super) fn seen_reservation(
        &self,
        user: &UserName,
        which: Selector<ReservationId>,
    ) -> Result<ReservationId, Refusal> {
        let mut user = user;
        if let Selector::Id(id) = which
            && self.operates(user)
            && let Some(reservation) = self.reservations.get(&id)
        {
            // His who has it: before he was told of it, it is nobody's.
            user = &reservation.user;
        }
        self.own_reservation(user, which)
    }

    pub(super) fn seen_job(&self, user: &UserName, which: Selector<JobId>) -> Result<JobId, Refusal> {
        let mut user = user;
        if let Selector::Id(id) = which
            && self.operates(user)
            && let Some(job) = self.jobs.get(&id)
        {
            user = &job.user;
        }
        own(self.users.get(user).map(|user| &user.jobs), which, |id| Refusal::UnknownJob { id })
    }

    fn operates(&self, user: &UserName) -> bool {
        self.settings.limits.operators.contains(user)
    }

    /// What a list shows, newest first.
    pub(super) fn listed<I: Ord + Copy>(&self, user: &UserName, things: fn(&User) -> &Things<I>) -> Vec<I> {
        if !self.operates(user) {
            let own = self.users.get(user).into_iter();
            return own.flat_map(|user| things(user).newest_first()).take(LISTING_MAX).collect();
        }
        let of = |user| things(user).newest_first().take(LISTING_MAX);
        let mut all: Vec<I> = self.users.values().flat_map(of).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.truncate(LISTING_MAX);
        all
    }

    /// What is to be said where an operator ends what is another's; nothing, if it is his own.
    pub(super) fn operator_at(&self, user: &UserName, owner: &UserName) -> Option<Failure> {
        (user != owner).then(|| {
            Failure::new(Step::End, format!("ended by operator {user}"), format!("ask {user} for the reason"))
        })
    }

    /// In whose name a change of this reservation is asked: that of the one who has it, if it is the
    /// asker's to change. Nothing happens by that.
    pub(super) fn acts_for(&self, user: &UserName, id: ReservationId) -> UserName {
        match (self.seen_reservation(user, Selector::Id(id)), self.reservations.get(&id)) {
            (Ok(_), Some(reservation)) => reservation.user.clone(),
            _ => user.clone(),
        }
    }
}

/// The one meant, of the user's own; the refusal reads the same whether an id is somebody else's or
/// nobody's.
fn own<I: Ord + Copy>(
    things: Option<&Things<I>>,
    which: Selector<I>,
    not_found: fn(I) -> Refusal,
) -> Result<I, Refusal> {
    match (things, which) {
        (Some(things), which) => things.select(which, not_found),
        (None, Selector::Id(id)) => Err(not_found(id)),
        (None, Selector::Last) => Err(Refusal::NothingYet),
    }
}
