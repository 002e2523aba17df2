//! What was promised to users, told apart from what the owners believe: taken from the messages
//! that they send and the answers that they give.

use std::collections::BTreeMap;

use protocol::client::{Reply, Request, Selector};
use protocol::ids::{Epoch, JobId, ReservationId, Version};
use protocol::job::{JobState, JobView};
use protocol::reservation::{ReservationState, ReservationView};
use protocol::site::{FromSite, Part, ToSite};

use crate::agenda::{MS, Micros, S};
use crate::history::{History, time};

/// What the clocks of two machines and the way between them may differ after a reboot.
const TOLERANCE: Micros = 2 * S;

/// What is known of a message to a site beside its words.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub site: usize,
    /// For a Commit or an End: the grant that is durable.
    pub decided: Option<Decided>,
}

/// A grant as its record says, in true time.
#[derive(Clone, Copy, Debug)]
pub struct Decided {
    pub version: Version,
    pub begins: Micros,
    pub ends: Micros,
    /// It was made for one job and ends with it, however that ends.
    pub own_job: Option<JobId>,
}

#[derive(Clone, Debug, Default)]
pub struct Promise {
    /// Made for one job: it ends with it, however that ends.
    pub own_job: Option<JobId>,
    /// A user was told.
    pub told: Option<Micros>,
    /// The version that was committed last, and its window.
    pub version: Version,
    pub granted: Option<Micros>,
    pub begins: Micros,
    pub ends: Micros,
    /// Its user gave it back.
    pub released: bool,
    pub ended: bool,
    /// When the version was first committed, and when sites last were told anything of it.
    pub changed: Option<Micros>,
    pub touched: Micros,
    /// What sites were asked to hold, by version and site.
    pub parts: BTreeMap<(Version, usize), Part>,
    /// Incarnations that a site was told to begin, and that it said cannot go on: the newest.
    pub begun: BTreeMap<usize, Epoch>,
    pub failed: BTreeMap<usize, Epoch>,
    /// What sites said they have committed.
    pub committed: BTreeMap<usize, Version>,
    /// The latest that its user was shown.
    shown: Option<(Version, Epoch, bool)>,
}

#[derive(Debug, Default)]
pub struct Promises {
    pub all: BTreeMap<ReservationId, Promise>,
    /// Reservations whose jobs these are.
    jobs: BTreeMap<JobId, ReservationId>,
    /// How jobs ended, as their users were shown.
    ended_jobs: BTreeMap<JobId, JobState>,
}

impl Promises {
    /// The GRC received a request; what it gives up is given up from now on.
    pub fn asked(&mut self, request: &Request) {
        match request {
            Request::Release(Selector::Id(id)) => self.all.entry(*id).or_default().released = true,
            Request::Cancel(Selector::Id(job)) => {
                if let Some(id) = self.jobs.get(job) {
                    let promise = self.all.entry(*id).or_default();
                    promise.released |= promise.own_job == Some(*job);
                }
            }
            _ => {}
        }
    }

    pub fn answered(&mut self, at: Micros, reply: &Reply) {
        match reply {
            Reply::Reserved(id) => {
                self.all.entry(*id).or_default().told.get_or_insert(at);
            }
            Reply::Submitted { job, reservation } => {
                self.jobs.insert(*job, *reservation);
                self.all.entry(*reservation).or_default().told.get_or_insert(at);
            }
            _ => {}
        }
    }

    /// A `Submit` (not a `SubmitIn`) was answered.
    pub fn own_job(&mut self, reservation: ReservationId, job: JobId) {
        self.all.entry(reservation).or_default().own_job = Some(job);
    }

    /// The GRC says something to a site.
    pub fn sent(&mut self, (at, history): (Micros, &mut History), about: Sent, message: &ToSite) {
        match message {
            ToSite::Hold { reservation, version, part } => {
                let promise = self.all.entry(*reservation).or_default();
                promise.touched = at;
                promise.parts.entry((*version, about.site)).or_insert_with(|| part.clone());
            }
            ToSite::Commit { reservation, version, window } => {
                let promise = self.all.entry(*reservation).or_default();
                promise.granted.get_or_insert(at);
                promise.touched = at;
                let told = (at + window.starts_in_ms * MS, at + window.ends_in_ms * MS);
                let decided = about.decided.filter(|decided| decided.version == *version);
                let (begins, ends) = decided.map_or(told, |decided| (decided.begins, decided.ends));
                if *version > promise.version {
                    promise.version = *version;
                    promise.changed = Some(at);
                    promise.begins = begins;
                    promise.ends = ends;
                } else if *version == promise.version
                    && ends.abs_diff(promise.ends) > TOLERANCE
                    && at < promise.ends
                {
                    let was = promise.ends;
                    let what = || format!("{reservation} was to end at {}, now at {}", time(was), time(ends));
                    history.broken(at, "window", what);
                }
            }
            ToSite::Start { reservation, epoch, .. } if *epoch > Epoch::FIRST => {
                self.all.entry(*reservation).or_default().begun.insert(about.site, *epoch);
            }
            ToSite::End { reservation } => {
                if let (Some(promise), Some(decided)) = (self.all.get_mut(reservation), about.decided) {
                    promise.own_job = promise.own_job.or(decided.own_job);
                    // Perhaps a change was decided of which no site has heard yet.
                    if decided.version > promise.version {
                        promise.version = decided.version;
                        (promise.begins, promise.ends) = (decided.begins, decided.ends);
                    }
                }
                self.ends((at, history), *reservation);
            }
            _ => {}
        }
    }

    /// A site orders a command to start. Its window may be late there by what messages took.
    pub fn starts(
        &mut self,
        (at, history): (Micros, &mut History),
        late: Micros,
        reservation: ReservationId,
        job: JobId,
    ) {
        let Some(promise) = self.all.get(&reservation) else { return };
        let (begins, ends) = (promise.begins, promise.ends);
        if at + TOLERANCE < begins || at > ends + TOLERANCE + late {
            let what = || format!("{job} starts outside of its window {}..{}", time(begins), time(ends));
            history.broken(at, "window", what);
        }
    }

    /// A granted reservation ends when its time is over, when its user says so, or with the one
    /// job it was made for; and for nothing else.
    fn ends(&mut self, (at, history): (Micros, &mut History), id: ReservationId) {
        let Some(promise) = self.all.get_mut(&id) else { return };
        if !promise.ended {
            promise.touched = at;
        }
        promise.ended = true;
        let Some(granted) = promise.granted else { return };
        let (ends, own) = (promise.ends, promise.own_job.is_some());
        if !promise.released && !own && at + TOLERANCE < ends {
            let what = || format!("{id}, granted at {}, is ended before {}", time(granted), time(ends));
            history.broken(at, "grant-kept", what);
        }
    }

    /// A site says something to the GRC.
    pub fn told(&mut self, (at, history): (Micros, &mut History), site: usize, message: &FromSite) {
        match message {
            FromSite::Committed { reservation, version } => {
                let promise = self.all.entry(*reservation).or_default();
                let known = promise.committed.entry(site).or_default();
                let older = *version < *known;
                *known = (*known).max(*version);
                if older {
                    let known = known.0;
                    let what =
                        || format!("site {site} says version {} of {reservation}, it had {known}", version.0);
                    history.broken(at, "grant-kept", what);
                }
            }
            FromSite::Failed { reservation, epoch, .. } => {
                self.all.entry(*reservation).or_default().failed.insert(site, *epoch);
            }
            FromSite::Lost { reservation, version }
                if self.in_force(*reservation, at) && self.all[reservation].version == *version =>
            {
                let what = || format!("site {site} has lost version {} of {reservation}", version.0);
                history.broken(at, "grant-kept", what);
            }
            _ => {}
        }
    }

    /// A user is shown a reservation: nothing that was shown before is taken back.
    pub fn viewed(&mut self, (at, history): (Micros, &mut History), view: &ReservationView) {
        let promise = self.all.entry(view.id).or_default();
        let over = matches!(view.state, ReservationState::Ended | ReservationState::Failed(_));
        let before = matches!(view.state, ReservationState::Waiting | ReservationState::Holding);
        if let Some((version, epoch, was_over)) = promise.shown {
            let back = view.version < version || view.epoch < epoch || was_over && !over;
            if back {
                let what = || format!("{view:?} after version {} and epoch {}", version.0, epoch.0);
                history.broken(at, "views", what);
            }
        }
        if before && promise.granted.is_some() {
            history.broken(at, "views", || format!("{} was granted and is shown as {}", view.id, view.state));
        }
        promise.shown = Some((view.version, view.epoch, over));
    }

    /// A user is shown a job: how it ended does not change.
    pub fn viewed_job(&mut self, (at, history): (Micros, &mut History), view: &JobView) {
        if let Some(known) = self.ended_jobs.get(&view.id).filter(|known| **known != view.state) {
            history.broken(at, "views", || format!("{} ended as {known:?}, now {:?}", view.id, view.state));
        }
        if view.state.is_final() {
            self.ended_jobs.insert(view.id, view.state.clone());
        }
    }

    /// Whether the incarnation at a site had a reason to end: it failed, another was ordered, or what
    /// it needs was changed.
    pub fn is_over_at(&self, id: ReservationId, site: usize) -> bool {
        self.all.get(&id).is_none_or(|promise| {
            promise.failed.contains_key(&site)
                || promise.begun.contains_key(&site)
                || promise.parts.keys().filter(|(_, at)| *at == site).count() > 1
        })
    }

    /// Whether a site must have this grant now.
    pub fn in_force(&self, id: ReservationId, at: Micros) -> bool {
        self.all.get(&id).is_some_and(|promise| {
            promise.granted.is_some() && !promise.released && !promise.ended && at + TOLERANCE < promise.ends
        })
    }
}
