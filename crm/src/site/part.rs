//! One part: its phases, its barriers, its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use grant::Grant;
use protocol::ids::{Epoch, JobId, MemberNumber, ReservationId};
use protocol::keys::KeyRing;
use protocol::names::HostName;
use protocol::refusal::Failure;
use protocol::reservation::Progress;
use protocol::site::{FromSite, Part};

use super::{Account, Action, FENCES_MAX, LEASE_MARGIN, Site, Submit};
use crate::pilot::{self, Pilot, PilotId, State};
use crate::roster::Roster;

/// Where a part stands; drawn in [`super`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(super) enum Phase {
    Held,
    Starting,
    Ready,
    Joining,
    Joined,
    Ending,
}

/// A part that the site holds, and everything that belongs to it.
#[derive(Debug)]
pub(super) struct Held {
    pub epoch: Epoch,
    pub part: Part,
    pub account: Account,
    pub roster: Roster,
    pub phase: Phase,
    /// When the duration began to count.
    pub committed_at: Option<Duration>,
    /// The GRC was told that the part cannot go on; it is told once.
    pub failed: bool,
    pub told: Progress,
    /// The head member of the whole reservation, once the ring is here.
    pub head: Option<HostName>,
    /// Every job that was ever started, with the members on which it still runs.
    pub jobs: BTreeMap<JobId, BTreeSet<MemberNumber>>,
}

impl Held {
    /// When the site ends the part by itself.
    pub fn lease_end(&self) -> Option<Duration> {
        let duration = Duration::from_secs(self.part.duration_s.into());
        (self.phase != Phase::Ending).then_some(self.committed_at? + duration + LEASE_MARGIN)
    }

    pub fn pilot_ids(&self) -> Vec<PilotId> {
        self.roster.pilots().iter().map(|pilot| pilot.id).collect()
    }
}

impl Site {
    /// Tells the GRC, once, that a part cannot go on.
    pub(super) fn fail(&mut self, reservation: ReservationId, failure: Failure) {
        let Some(held) = self.parts.get_mut(&reservation) else { return };
        if held.failed || held.phase == Phase::Ending {
            return;
        }
        held.failed = true;
        let epoch = held.epoch;
        let failure = failure.at_site(&self.settings.name);
        self.tell(FromSite::Failed { reservation, epoch, failure });
    }

    pub(super) fn tell_progress(&mut self, reservation: ReservationId) {
        self.progressed.remove(&reservation);
        let Some(held) = self.parts.get_mut(&reservation) else { return };
        let progress = held.roster.progress();
        if held.phase == Phase::Ending || held.told == progress {
            return;
        }
        held.told = progress;
        let epoch = held.epoch;
        self.tell(FromSite::Progress { reservation, epoch, progress });
    }

    /// Whether the part's pilots are together where the next phase begins.
    pub(super) fn check_barriers(&mut self, reservation: ReservationId) {
        let Some(held) = self.parts.get_mut(&reservation) else { return };
        let epoch = held.epoch;
        match held.phase {
            Phase::Starting if held.roster.all_ready() => {
                let Some(members) = held.roster.ready_members() else { return };
                held.phase = Phase::Ready;
                self.tell_progress(reservation);
                self.tell(FromSite::SiteReady { reservation, epoch, members });
            }
            Phase::Joining if held.roster.all_running() => {
                held.phase = Phase::Joined;
                self.tell_progress(reservation);
                self.tell(FromSite::Joined { reservation, epoch });
            }
            Phase::Ending if held.roster.all_settled() => self.finish(reservation),
            _ => {}
        }
    }

    /// Begins the end of a part, from wherever it is.
    pub(super) fn end(&mut self, reservation: ReservationId) {
        let Some(held) = self.parts.get_mut(&reservation) else { return };
        held.phase = Phase::Ending;
        for id in held.pilot_ids() {
            self.advance(id, pilot::Event::EndAsked);
        }
        // A part whose pilots had all gone before has nothing to wait for.
        self.check_barriers(reservation);
    }

    /// Ends everything: the GRC is lost, or the CRM stops.
    pub(super) fn end_all(&mut self) {
        for reservation in self.parts.keys().copied().collect::<Vec<_>>() {
            self.end(reservation);
        }
    }

    fn finish(&mut self, reservation: ReservationId) {
        let Some(held) = self.parts.remove(&reservation) else { return };
        self.progressed.remove(&reservation);
        self.fence(reservation, held.epoch);
        let mut dirty = Vec::new();
        for pilot in held.roster.into_pilots() {
            if pilot.state != State::Gone {
                let what =
                    pilot.dirt.clone().unwrap_or_else(|| format!("pilot {} does not go", pilot.id).into());
                dirty.push((pilot.node.clone(), what));
                self.leftovers.insert(pilot.id, (pilot, held.account.clone()));
            }
        }
        // The offer goes first: when the GRC hears of the end it plans with what is free.
        self.publish();
        self.tell(FromSite::Ended { reservation, epoch: held.epoch, dirty });
    }

    /// Remembers that this epoch, and every older one, is over here.
    pub(super) fn fence(&mut self, reservation: ReservationId, epoch: Epoch) {
        let fence = self.fences.entry(reservation).or_insert(epoch);
        *fence = (*fence).max(epoch);
        while self.fences.len() > FENCES_MAX {
            self.fences.pop_first();
        }
    }

    /// Seconds until the lease of a part is over, margin included; at least 1.
    fn lifetime_s(&self, held: &Held) -> u32 {
        let end = held.lease_end().unwrap_or(self.now);
        u32::try_from(end.saturating_sub(self.now).as_secs()).unwrap_or(u32::MAX).max(1)
    }

    pub(super) fn submit(&mut self, pilot: &Pilot) {
        let Some(held) = self.parts.get(&pilot.id.reservation) else { return };
        let submit = Submit {
            pilot: pilot.id,
            node: pilot.node.clone(),
            account: held.account.clone(),
            limits: held.part.limits,
            lifetime_s: self.lifetime_s(held),
            token_s: u32::try_from(self.settings.times.pilots.as_secs())
                .unwrap_or(u32::MAX)
                .saturating_add(1),
        };
        self.actions.push(Action::Submit(submit));
    }

    /// What the monitor of this pilot may build.
    pub(super) fn grant(&self, id: PilotId, nonce: [u8; 16]) -> Option<Grant> {
        let held = self.parts.get(&id.reservation)?;
        let pilot = held.roster.get(id.member)?;
        let limits = &held.part.limits;
        Some(Grant {
            nonce,
            site: grant::SiteName::new(self.settings.name.as_str()).ok()?,
            reservation: id.reservation.0,
            epoch: id.epoch.0.into(),
            member: id.member,
            uid: held.account.uid,
            user: grant::UserName::new(held.part.user.as_str()).ok()?,
            address: pilot.address,
            prefix_len: self.settings.prefix_len,
            gateway: self.settings.gateway,
            mtu: self.settings.mtu,
            driver: self.settings.driver,
            shaped: false,
            lifetime_s: self.lifetime_s(held),
            memory_bytes: limits.memory_bytes,
            pids: limits.pids,
            cpus_milli: limits.cpus_milli,
            upper_bytes: limits.disk_bytes,
            // What was not asked for is the node's to choose, within its policy.
            upper_inodes: 0,
        })
    }

    pub(super) fn join(&mut self, reservation: ReservationId, epoch: Epoch, ring: KeyRing) {
        let Some(held) = self.parts.get_mut(&reservation).filter(|held| held.epoch == epoch) else { return };
        // Repeated, or too early: the GRC joins only sites that said they are ready.
        if held.phase != Phase::Ready {
            return;
        }
        let checked = match ring.user == held.part.user {
            true => held.roster.check_ring(&self.settings.name, &ring),
            false => Err(format!("it is for user {}, not {}", ring.user, held.part.user)),
        };
        if let Err(what) = checked {
            let cause = format!("the merged view of the grid is wrong: {what}");
            let hint = "this is a fault of the GRC; its log says more";
            return self.fail(reservation, Failure::new(protocol::refusal::Step::SetKeys, cause, hint));
        }
        held.phase = Phase::Joining;
        held.head = ring.members.first().map(|member| member.host.clone());
        // Pilots that failed since are not asked; their part has failed already.
        let pilots: Vec<PilotId> = held
            .roster
            .pilots()
            .iter()
            .filter(|pilot| pilot.state == State::Ready)
            .map(|pilot| pilot.id)
            .collect();
        self.actions.push(Action::Join { pilots: pilots.clone(), ring });
        for id in pilots {
            self.advance(id, pilot::Event::JoinAsked);
        }
    }
}
