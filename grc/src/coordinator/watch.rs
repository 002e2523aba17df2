//! Who waits for news of a job or a reservation. News go out once per step, however much the step
//! changed.

use std::collections::{BTreeMap, BTreeSet};

use protocol::client::{Notice, Reply};
use protocol::ids::{JobId, ReservationId};

use super::{Action, ClientId, Coordinator};
use crate::reservation::Phase;
use crate::view;

/// An open request.
pub(super) type Asker = (ClientId, u64);

#[derive(Debug, Default)]
pub(super) struct Watchers {
    jobs: BTreeMap<JobId, BTreeSet<Asker>>,
    reservations: BTreeMap<ReservationId, BTreeSet<Asker>>,
    changed_jobs: BTreeSet<JobId>,
    changed_reservations: BTreeSet<ReservationId>,
}

impl Watchers {
    /// The first news is how it stands now.
    pub fn watch_job(&mut self, job: JobId, asker: Asker) {
        self.jobs.entry(job).or_default().insert(asker);
        self.changed_jobs.insert(job);
    }

    pub fn watch_reservation(&mut self, reservation: ReservationId, asker: Asker) {
        self.reservations.entry(reservation).or_default().insert(asker);
        self.changed_reservations.insert(reservation);
    }

    pub fn job_changed(&mut self, job: JobId) {
        if self.jobs.contains_key(&job) {
            self.changed_jobs.insert(job);
        }
    }

    pub fn reservation_changed(&mut self, reservation: ReservationId) {
        if self.reservations.contains_key(&reservation) {
            self.changed_reservations.insert(reservation);
        }
    }

    pub fn forget(&mut self, client: ClientId) {
        self.jobs.retain(|_, askers| {
            askers.retain(|(one, _)| *one != client);
            !askers.is_empty()
        });
        self.reservations.retain(|_, askers| {
            askers.retain(|(one, _)| *one != client);
            !askers.is_empty()
        });
    }
}

impl Coordinator {
    /// Notices to all who wait for what this step changed, replies where the waiting is over.
    pub(super) fn tell_watchers(&mut self) {
        let wall = self.wall();
        for id in std::mem::take(&mut self.watchers.changed_jobs) {
            let (Some(askers), Some(job)) = (self.watchers.jobs.get(&id), self.jobs.get(&id)) else {
                continue;
            };
            let view = view::job(job, wall);
            let over = job.state.is_final();
            for &(client, correlation) in askers {
                self.out.push(if over {
                    Action::Answer { client, correlation, reply: Reply::Job(view.clone()) }
                } else {
                    Action::Notify { client, correlation, notice: Notice::Job(view.clone()) }
                });
            }
            if over {
                self.watchers.jobs.remove(&id);
            }
        }
        for id in std::mem::take(&mut self.watchers.changed_reservations) {
            let (Some(askers), Some(reservation)) =
                (self.watchers.reservations.get(&id), self.reservations.get(&id))
            else {
                continue;
            };
            let settled = matches!(reservation.phase, Phase::Ready | Phase::Over);
            // News on the way are counts; the list of members comes with the end of the waiting.
            let members = if settled { view::Members::Shown } else { view::Members::LeftOut };
            let view = view::reservation(reservation, wall, members);
            for &(client, correlation) in askers {
                self.out.push(if settled {
                    Action::Answer { client, correlation, reply: Reply::Reservation(view.clone()) }
                } else {
                    Action::Notify { client, correlation, notice: Notice::Reservation(view.clone()) }
                });
            }
            if settled {
                self.watchers.reservations.remove(&id);
            }
        }
    }
}
