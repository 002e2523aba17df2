//! Commands that are over for their user and may still run: their site was away when they were to be
//! killed, or did not say that it has. While their incarnation stands they count among what their
//! user has, and the site hears SIGKILL whenever it connects, until it says that they ended.

use std::collections::BTreeSet;

use protocol::ids::{Epoch, JobId, ReservationId};
use protocol::names::SiteName;

use super::Coordinator;
use crate::job::{Happening, SIGKILL, Stage};

impl Coordinator {
    /// A job that was stopped is over: what is left of it anywhere ends with it, also what it started
    /// on members where it did not run itself. The sites that may not have heard, or do not obey.
    pub(super) fn kill_what_is_left(&mut self, id: JobId) -> BTreeSet<SiteName> {
        let was_stopped =
            |id| self.jobs.get(id).filter(|job| job.stopping_as.is_some() && job.started.is_some());
        if was_stopped(&id).is_none() {
            return BTreeSet::new();
        }
        self.signal(id, SIGKILL);
        let Some(job) = self.jobs.get(&id) else { return BTreeSet::new() };
        let stands = |id| self.reservations.get(id).filter(|one| one.phase.is_granted());
        let Some(reservation) = stands(&job.reservation).filter(|one| one.own_job != Some(id)) else {
            return BTreeSet::new(); // Its sandboxes go with it.
        };
        let hears = |site: &SiteName| self.sites.get(site).is_some_and(|site| site.connection.is_some());
        let sites = reservation.parts.iter().map(|part| &part.site);
        sites.filter(|site| job.running.contains_key(*site) || !hears(site)).cloned().collect()
    }

    /// Nothing of a job that is over runs at a site any more, if it was not known to.
    pub(super) fn killed_there(&mut self, id: JobId, site: &SiteName) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.running.contains_key(site) || !job.kills.remove(site) {
            return;
        }
        let (reservation, all) = (job.reservation, job.kills.is_empty());
        self.save_run(id);
        if let Some(reservation) = self.reservations.get_mut(&reservation).filter(|_| all) {
            reservation.kills.remove(&id);
            self.retire_job(id);
        }
    }

    /// The answer to a signal: nothing of the job runs at that site, nor ever will.
    pub(super) fn nothing_runs(&mut self, site: &SiteName, of: (ReservationId, Epoch), id: JobId) {
        let (reservation, epoch) = of;
        if !self.current(site, reservation, epoch) {
            return;
        }
        let meant = |job: &&mut crate::job::Job| (job.reservation, job.epoch) == of;
        let Some(job) = self.jobs.get_mut(&id).filter(meant) else { return };
        match job.stage {
            Stage::Stopping if job.running.remove(site).is_some() => self.one_less(id),
            Stage::Over => {
                job.running.remove(site);
                self.killed_there(id, site);
            }
            // Nobody has told it to stop.
            Stage::Waiting | Stage::Running | Stage::Stopping => {}
        }
    }

    /// One command less of a job: over if that was the last.
    pub(super) fn one_less(&mut self, id: JobId) {
        if self.jobs.get(&id).is_some_and(|job| job.running.is_empty()) {
            self.advance_job(id, Happening::AllExited);
        } else {
            self.save_run(id);
        }
    }

    /// With its sandboxes everything ends that was left in them.
    pub(super) fn forget_kills(&mut self, id: ReservationId) {
        let kills = self.reservations.get_mut(&id).map(|reservation| std::mem::take(&mut reservation.kills));
        for id in kills.into_iter().flatten() {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.running.clear();
                job.kills.clear();
            }
            self.save_run(id);
            self.retire_job(id);
        }
    }
}
