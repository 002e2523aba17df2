//! What sites say. A site is believed only about its own parts, and only of the version and the
//! incarnation that it was given: everything else changes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::ids::{Epoch, ReservationId, Version};
use protocol::job::JobState;
use protocol::names::{NodeName, SiteName, Text};
use protocol::planted::{Bug, planted};
use protocol::refusal::{Failure, Refusal};
use protocol::site::{Flow, FromSite, Offer, ToSite};

use super::life::step_of;
use super::{Action, ConnectionId, Coordinator};
use crate::plan::addresses;
use crate::reservation::{PartStage, Phase, Window};
use crate::usage;
use crate::view::SiteFacts;

/// Dirty nodes that a reservation remembers by name.
const DIRTY_SHOWN_MAX: usize = 16;
/// A site whose clock is ahead of ours by no more than this may end a window before we do.
const EARLY_END: Duration = Duration::from_secs(5);

/// One site of the config, connected or not.
#[derive(Debug, Default)]
pub(super) struct Site {
    pub connection: Option<ConnectionId>,
    /// The last one that was in use and ended: it and all before it are over.
    pub closed: Option<ConnectionId>,
    pub offer: Option<Offer>,
    pub last_seen: Option<Duration>,
    /// Why it takes no part, until it does.
    pub problem: Option<Text>,
    /// It did not answer a hold: until then, or until it speaks again, nothing is planned there.
    pub silent_until: Option<Duration>,
    /// Reservations with a part here that is not over, or that asks for one.
    pub reservations: BTreeSet<ReservationId>,
}

impl Site {
    pub fn facts(&self) -> SiteFacts<'_> {
        SiteFacts {
            connected: self.connection.is_some(),
            offer: self.offer.as_ref(),
            last_seen: self.last_seen,
            problem: self.problem.as_ref(),
        }
    }
}

impl Coordinator {
    pub(super) fn heard(&mut self, name: &SiteName, connection: ConnectionId, message: FromSite) {
        let now = self.now;
        let Some(site) = self.sites.get_mut(name) else { return };
        if site.connection.max(site.closed) > Some(connection) || site.closed == Some(connection) {
            return;
        }
        if let FromSite::Publish { site: claimed, offer } = message {
            site.last_seen = Some(now);
            self.publish(name, connection, &claimed, offer);
            return;
        }
        if site.connection != Some(connection) {
            return;
        }
        site.last_seen = Some(now);
        if self.answer_the_dead(name, &message) {
            return;
        }
        match message {
            FromSite::Held { reservation, version } => self.held(name, reservation, version),
            FromSite::HoldRefused { reservation, version, refusal } => {
                self.hold_refused(name, reservation, version, refusal);
            }
            FromSite::Asks { reservation, version } => self.asks(name, reservation, version),
            FromSite::Committed { reservation, version } => self.committed(name, reservation, version),
            FromSite::Lost { reservation, version } => self.lost(name, reservation, version),
            FromSite::Progress { reservation, epoch, round, progress } => {
                if self.current(name, reservation, epoch) && self.hears_of(name, reservation, round) {
                    self.progress(name, reservation, progress);
                }
            }
            FromSite::SiteReady { reservation, epoch, round, members } => {
                if self.current(name, reservation, epoch) && self.hears_of(name, reservation, round) {
                    self.site_ready(name, reservation, members);
                }
            }
            FromSite::Waits { reservation, epoch, waits } => {
                if self.current(name, reservation, epoch) {
                    self.site_waits(name, reservation, waits);
                }
            }
            FromSite::Withdrawn { reservation, epoch, round, why, again_in_s } => {
                if self.current(name, reservation, epoch) && self.hears_of(name, reservation, round) {
                    self.withdrawn(name, reservation, &why, again_in_s);
                }
            }
            FromSite::Joined { reservation, epoch } => {
                if self.current(name, reservation, epoch) {
                    self.joined(name, reservation);
                }
            }
            FromSite::Failed { reservation, epoch, failure } => {
                if self.current(name, reservation, epoch) {
                    self.broken(reservation, failure.at_site(name));
                }
            }
            FromSite::Exited { reservation, epoch, job, member, status, hits } => {
                self.exited(name, (reservation, epoch), job, member, (status, hits));
            }
            FromSite::ExecFailed { reservation, epoch, job, member, failure } => {
                self.exec_failed(name, (reservation, epoch), job, member, failure);
            }
            FromSite::NothingRuns { reservation, epoch, job } => {
                self.nothing_runs(name, (reservation, epoch), job);
            }
            FromSite::Ended { reservation, dirty } => self.ended(name, reservation, dirty),
            FromSite::Used { reservation, epoch, over_ms, flows } => {
                if self.current(name, reservation, epoch) {
                    self.used(name, reservation, over_ms, &flows);
                }
            }
            // All that it says was noted above.
            FromSite::Beat => {}
            // The edge's: tickets, pins and output never come here.
            FromSite::Register { .. } | FromSite::Publish { .. } | FromSite::Output { .. } => {}
        }
    }

    /// Whoever speaks of what is over, or was never known, is told so; true if that was all there
    /// is to say.
    fn answer_the_dead(&mut self, site: &SiteName, message: &FromSite) -> bool {
        let asks = matches!(message, FromSite::Asks { .. });
        let (id, version) = match message {
            FromSite::Asks { reservation, version } | FromSite::Held { reservation, version } => {
                (*reservation, Some(*version))
            }
            FromSite::HoldRefused { reservation, .. }
            | FromSite::Committed { reservation, .. }
            | FromSite::Progress { reservation, .. }
            | FromSite::SiteReady { reservation, .. }
            | FromSite::Joined { reservation, .. }
            | FromSite::Failed { reservation, .. }
            | FromSite::Exited { reservation, .. }
            | FromSite::ExecFailed { reservation, .. }
            | FromSite::Waits { reservation, .. }
            | FromSite::Withdrawn { reservation, .. }
            | FromSite::Used { reservation, .. } => (*reservation, None),
            // These say themselves that nothing is there.
            FromSite::Lost { .. }
            | FromSite::Ended { .. }
            | FromSite::NothingRuns { .. }
            | FromSite::Beat => return false,
            FromSite::Register { .. } | FromSite::Publish { .. } | FromSite::Output { .. } => return false,
        };
        let Some(reservation) = self.reservations.get(&id).filter(|r| r.phase < Phase::Ending) else {
            match version {
                Some(version) if planted(Bug::PresumedCommit) => self.presume_commit(site, id, version),
                Some(version) if asks => self.send(site, ToSite::Release { reservation: id, version }),
                _ => self.send(site, ToSite::End { reservation: id }),
            }
            return true;
        };
        let asked = reservation.attempt.as_ref().is_some_and(|attempt| attempt.share(site).is_some());
        if asked || reservation.part(site).is_some() {
            return false;
        }
        // It lives elsewhere or waits: only what this site held once is to be released. It is not
        // told to end, for that might reach it when it has a part again.
        if let Some(version) = version {
            self.send(site, ToSite::Release { reservation: id, version });
        }
        true
    }

    /// The wrong presumption, for the bug of this name.
    fn presume_commit(&mut self, site: &SiteName, id: ReservationId, version: Version) {
        let end = self.now + Duration::from_secs(3600);
        let window = Window { start: self.now, end, lead: Duration::ZERO, until: end }.remaining(self.now);
        self.send(site, ToSite::Commit { reservation: id, version, window });
    }

    /// A site holds and has heard nothing: the decision, or that there is none for this version.
    fn asks(&mut self, site: &SiteName, id: ReservationId, version: Version) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        if reservation.in_force() == version {
            self.commit(id, site);
        } else if reservation.attempt.as_ref().is_some_and(|attempt| attempt.version == version) {
            // Undecided. That it asks says that it holds.
            self.held(site, id, version);
        } else {
            self.send(site, ToSite::Release { reservation: id, version });
        }
    }

    fn committed(&mut self, site: &SiteName, id: ReservationId, version: Version) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let in_force = reservation.in_force();
        // The first incarnation begins by itself, if it is not one that others speak of already.
        let ordered = reservation.stands() && (reservation.resumed || reservation.epoch > Epoch::FIRST);
        let Some(part) = reservation.part_mut(site) else { return };
        if version < in_force {
            self.commit(id, site);
        } else if version == in_force && !std::mem::replace(&mut part.acknowledged, true) {
            if ordered && part.ready.is_empty() {
                self.start(id, site);
            }
            // A change waited for that.
            self.hold(id, site);
            self.all_acknowledged(id);
        }
    }

    /// A site that is asked to commit, start or join has not got it. Version 0 is what one says
    /// that knows nothing of it at all.
    fn lost(&mut self, site: &SiteName, id: ReservationId, version: Version) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        let meant = version == reservation.in_force() || version == Version::default();
        if meant && reservation.phase.is_granted() && reservation.part(site).is_some() {
            self.compensate(id, site);
        }
    }

    fn publish(&mut self, name: &SiteName, connection: ConnectionId, claimed: &SiteName, offer: Offer) {
        let supernets = self.settings.supernets.get(name).map_or(&[][..], Vec::as_slice);
        let refusal = if claimed != name {
            Some(Refusal::UnknownPeer { who: format!("site {claimed}").into() })
        } else if let Err(refusal) = offer.check() {
            Some(refusal)
        } else {
            addresses::first_outside(&offer.ranges, supernets)
                .map(|range| Refusal::RangeNotAllowed { site: name.clone(), range: range.to_string().into() })
        };
        if let Some(refusal) = refusal {
            if let Some(site) = self.sites.get_mut(name) {
                site.problem = Some(refusal.to_string().into());
            }
            self.out.push(Action::Send { site: name.clone(), connection, message: ToSite::Refused(refusal) });
            self.out.push(Action::Disconnect { connection });
            self.site_gone(name, connection, "it was refused");
            return;
        }
        let Some(site) = self.sites.get_mut(name) else { return };
        let before = site.connection.replace(connection);
        if let Some(old) = before.filter(|old| *old != connection) {
            // The site dialled again before its old connection was noticed gone.
            self.out.push(Action::Disconnect { connection: old });
        }
        self.room.set_site(name, &offer);
        site.offer = Some(offer);
        (site.problem, site.silent_until) = (None, None);
        self.send(name, ToSite::Welcome);
        if before != Some(connection) {
            self.say_all_again(name);
            self.tell_who_has_a_part(name);
        }
        self.replan = true;
    }

    pub(super) fn site_gone(&mut self, name: &SiteName, connection: ConnectionId, why: &str) {
        let Some(site) = self.sites.get_mut(name) else { return };
        if site.connection == Some(connection) {
            site.closed = Some(connection);
            self.site_away(name, why);
        }
    }

    /// The site is shown as away, and nothing else: what it holds it keeps, what it is asked is
    /// said again when it is back, and deadlines decide how long that is waited for.
    fn site_away(&mut self, name: &SiteName, why: &str) {
        let Some(site) = self.sites.get_mut(name) else { return };
        site.connection = None;
        if site.problem.is_none() {
            site.problem = Some(format!("the connection was lost: {why}").into());
        }
        self.tell_who_has_a_part(name);
    }

    /// Whoever waits for something in which the site has a part hears that it went or came back: the
    /// same view again, and how it stands is to be asked.
    fn tell_who_has_a_part(&mut self, name: &SiteName) {
        let Some(site) = self.sites.get(name) else { return };
        for id in &site.reservations {
            self.watchers.reservation_changed(*id);
            let jobs = self.reservations.get(id).map(|reservation| &reservation.jobs);
            jobs.into_iter().flatten().for_each(|job| self.watchers.job_changed(*job));
        }
    }

    fn ended(&mut self, site: &SiteName, id: ReservationId, dirty: Vec<(NodeName, Text)>) {
        if self.settle_owed(id, site) {
            return;
        }
        let now = self.now;
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        if reservation.part(site).is_none_or(|part| part.stage == PartStage::Ended) {
            return;
        }
        let phase = reservation.phase;
        if phase != Phase::Ending && !phase.is_granted() {
            return; // Of an earlier attempt, or of none: nothing here was started.
        }
        for (node, why) in dirty.into_iter().take(DIRTY_SHOWN_MAX) {
            let what: Text = format!("site {site}, node {node} is not clean: {why}").into();
            self.out.push(Action::Report { reservation: id, what: what.clone() });
            reservation.remark(what);
        }
        match phase {
            Phase::Ending => self.part_ended(id, site),
            _ => {
                let over = reservation.window().is_some_and(|window| window.end <= now + EARLY_END);
                if over {
                    self.window_over(id);
                } else {
                    let hint = "try again; the site's log says more";
                    let unasked = Failure::new(step_of(phase), "the site ended its part unasked", hint);
                    let failure = unasked.at_site(site);
                    self.finish(id, Some(failure.clone()), JobState::Failed(failure));
                }
                self.part_ended(id, site);
            }
        }
    }

    fn used(&mut self, site: &SiteName, id: ReservationId, over_ms: u32, flows: &[Flow]) {
        let at_s = self.now.as_secs();
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        for flow in flows.iter().filter(|flow| reservation.parts.iter().any(|part| part.site == flow.to)) {
            let used = usage::kbit(flow.sent_bytes, over_ms);
            reservation.usage.add(at_s, site, &flow.to, flow.granted_kbit, used);
        }
    }
}
