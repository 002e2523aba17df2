//! From a grant to sandboxes: when pilots begin, on which nodes, and the barriers between them.

use grant::Grant;
use protocol::ids::{Epoch, ReservationId, Version};
use protocol::keys::KeyRing;
use protocol::limits::DURATION_S_MAX;
use protocol::planted::{Bug, planted};
use protocol::refusal::{Failure, Step};
use protocol::reservation::Progress;
use protocol::site::{FromSite, Remaining};

use super::ahead::seconds;
use super::booking::{Incarnation, Phase, same_sandboxes};
use super::{Action, LEASE_MARGIN, Site, Submit};
use crate::nodes::Charge;
use crate::pilot::{self, Pilot, PilotId, State};
use crate::roster::Roster;

impl Site {
    /// Everything of a booking whose time has come.
    pub(super) fn on_wake(&mut self, reservation: ReservationId) {
        let now = self.now;
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        booking.wake = None;
        if booking.ending {
            return self.shape(reservation);
        }
        if booking.grant.as_ref().is_some_and(|grant| grant.end <= now) {
            return match &booking.held {
                Some(held) if held.end > now => self.outlive(reservation),
                Some(_) | None => self.end(reservation),
            };
        }
        match &booking.held {
            Some(held) if held.end <= now => self.drop_hold(reservation),
            Some(_) if self.connected && Self::ask_at(booking) <= now => self.ask(reservation),
            Some(_) | None => {}
        }
        self.shape(reservation);
        if self.bookings.get(&reservation).and_then(|one| self.held_until(one)).is_some_and(|at| at <= now) {
            self.release_early(reservation);
        }
        self.try_begin(reservation);
        self.schedule(reservation);
    }

    /// Sets when the booking must be looked at again.
    pub(super) fn schedule(&mut self, reservation: ReservationId) {
        let (now, lead) = (self.now, self.lead());
        let held_until = self.bookings.get(&reservation).and_then(|booking| self.held_until(booking));
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        let mut times = Vec::new();
        let shaping = booking.incarnation.as_ref().and_then(|incarnation| incarnation.shaping.as_ref());
        times.extend(shaping.and_then(|shaping| shaping.next_deadline(self.connected)));
        if !booking.ending {
            if let Some(held) = &booking.held {
                times.push(held.end);
                if self.connected {
                    times.push(Self::ask_at(booking));
                }
            }
            if let Some(grant) = &booking.grant {
                times.push(grant.end);
                times.extend(held_until);
                let begins = [grant.start.saturating_sub(lead), grant.start];
                let begins = booking.again_at.into_iter().chain(begins);
                if booking.is_to_begin() && !self.closing {
                    times.extend(begins.filter(|at| *at > now).min().or(booking.late_at));
                }
            }
        }
        let wake = times.into_iter().min();
        if let Some(old) = std::mem::replace(&mut booking.wake, wake) {
            self.wakes.remove(&(old, reservation));
        }
        if let Some(at) = wake {
            self.wakes.insert((at, reservation));
        }
    }

    /// Those that wait for nodes or addresses try again when something came free.
    pub(super) fn begin_waiting(&mut self) {
        while std::mem::take(&mut self.freed) {
            for reservation in std::mem::take(&mut self.waiting) {
                self.try_begin(reservation);
                self.schedule(reservation);
            }
        }
    }

    /// Begins the wanted epoch if its time has come and its nodes and addresses are free.
    pub(super) fn try_begin(&mut self, reservation: ReservationId) {
        self.waiting.remove(&reservation);
        let now = self.now;
        let Some(booking) = self.bookings.get(&reservation).filter(|booking| booking.is_to_begin()) else {
            return;
        };
        let Some(grant) = booking.standing() else { return };
        let begins = booking.again_at.unwrap_or_default().max(grant.start.saturating_sub(self.lead()));
        if self.closing || now < begins {
            return;
        }
        if self.is_paused(&booking.account).is_some() {
            return self.wait_to_begin(reservation, None);
        }
        let part = &grant.part;
        let is_early = now < grant.start;
        if is_early {
            // Who comes early takes nothing from those whose window it is, and a change of its
            // nodes is decided first.
            let room = Charge::before(part.layer, part.members, now, grant.start);
            let undecided = booking.held.as_ref().is_some_and(|held| !same_sandboxes(&held.part, part));
            let early_before = booking.early.is_some();
            if undecided || !early_before && room.is_some_and(|room| !self.nodes.has_room(room)) {
                self.waiting.insert(reservation);
                return;
            }
        }
        let nodes = self.nodes.choose(part.layer, part.members, &part.limits);
        let addresses = self.addresses.choose(&part.addresses, part.members);
        let (nodes, addresses) = match (nodes, addresses) {
            (Ok(nodes), Ok(addresses)) => (nodes, addresses),
            (nodes, _) => return self.wait_to_begin(reservation, nodes.err()),
        };
        let (layer, round) = (part.layer, booking.round.next());
        let places = nodes.into_iter().zip(addresses).enumerate();
        let pilots = places.map(|(member, (node, address))| {
            let id = PilotId { reservation, round, member: member as u32 };
            Pilot::new(id, node, layer, address)
        });
        self.begin(reservation, Roster::new(pilots.collect()), is_early);
    }

    fn begin(&mut self, reservation: ReservationId, roster: Roster, is_early: bool) {
        let now = self.now;
        let lasts_until = self.lasts_until(reservation);
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        for pilot in roster.pilots() {
            self.nodes.take(&pilot.node, pilot.layer, pilot.id);
            self.addresses.take(pilot.address, pilot.id);
        }
        booking.round = booking.round.next();
        let which = (booking.wanted, booking.round);
        let mut incarnation = Incarnation::new(which, booking.account.clone(), roster, Phase::Starting);
        incarnation.lasts_until = lasts_until;
        let (record, pilots) = (incarnation.record(reservation), incarnation.pilot_ids());
        booking.begun = booking.wanted;
        booking.failed = None;
        (booking.late_at, booking.again_at, booking.waits) = (None, None, None);
        if is_early {
            booking.early.get_or_insert(now);
        }
        booking.incarnation = Some(incarnation);
        self.rebook(reservation);
        self.offer_changed = true;
        self.start_rates(reservation);
        self.record(record);
        for id in pilots {
            self.advance(id, pilot::Event::Committed);
        }
        self.schedule(reservation);
    }

    /// What was there by number is not free yet: those who had it before are leaving. Bounded by
    /// the time that pilots have to come in.
    fn wait_to_begin(&mut self, reservation: ReservationId, nodes: Option<u32>) {
        let (now, time) = (self.now, self.settings.times.pilots);
        let paused = self.bookings.get(&reservation).and_then(|booking| self.is_paused(&booking.account));
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        self.progressed.insert(reservation);
        let Some(grant) = &booking.grant else { return };
        self.waiting.insert(reservation);
        if now < grant.start {
            return;
        }
        if *booking.late_at.get_or_insert(now + time) > now {
            return self.schedule(reservation);
        }
        self.waiting.remove(&reservation);
        (booking.late_at, booking.again_at) = (None, None);
        booking.begun = booking.wanted;
        let (epoch, members) = (booking.wanted, grant.part.members);
        if let Some(why) = paused {
            self.record_booking(reservation);
            let failure = self.paused_failure(reservation, &why);
            return self.fail(reservation, epoch, failure);
        }
        let dirty = self.nodes.unusable();
        let cause = match (nodes, dirty.first()) {
            (Some(have), Some((node, what))) => {
                format!("{members} nodes are needed, {have} are free; {node} takes no pilot: {what}")
            }
            (Some(have), None) => {
                format!("{members} nodes are needed, {have} are free: those before did not leave in time")
            }
            (None, _) => format!("{members} addresses are needed, too many of its carve are not free"),
        };
        self.record_booking(reservation);
        let hint = "`gridpilot sites` tells how the nodes are; the CRM's log says more";
        self.fail(reservation, epoch, Failure::new(Step::Pilots, cause, hint));
    }

    /// The GRC wants this incarnation to be on during the window.
    pub(super) fn start(&mut self, reservation: ReservationId, epoch: Epoch, window: Remaining) {
        let booking = self.bookings.get(&reservation);
        let Some(booking) = booking.filter(|booking| booking.grant.is_some()) else {
            return self.not_granted(reservation);
        };
        if booking.ending {
            return;
        }
        let newest = booking.wanted.max(booking.begun);
        // It does not say of which version its window is: a late one would undo a change. After a
        // restart it may be all that is ever said of it.
        if booking.unsure {
            self.hear_window(reservation, window);
        }
        if epoch < newest {
            if planted(Bug::OlderEpochObeyed) {
                self.order(reservation, epoch, Epoch(epoch.0 - 1));
            }
            return;
        }
        if epoch > newest {
            return self.order(reservation, epoch, newest);
        }
        if planted(Bug::StartTwice) {
            self.submit_again(reservation);
        }
        self.tell_standing(reservation);
    }

    /// Something is asked for that only a grant allows. What is held may have been granted: its
    /// Commit is late.
    fn not_granted(&mut self, reservation: ReservationId) {
        match self.bookings.contains_key(&reservation) {
            true => self.ask(reservation),
            false => self.tell(FromSite::Lost { reservation, version: Version(0) }),
        }
    }

    fn order(&mut self, reservation: ReservationId, epoch: Epoch, before: Epoch) {
        if epoch > before && self.take_over(reservation, epoch) {
            self.schedule(reservation);
            return self.tell_standing(reservation);
        }
        let Some(booking) = self.bookings.get_mut(&reservation) else { return };
        booking.wanted = epoch;
        booking.begun = booking.begun.min(before);
        booking.failed = None;
        (booking.late_at, booking.again_at, booking.waits) = (None, None, None);
        self.record_booking(reservation);
        self.wind_down(reservation);
        self.try_begin(reservation);
        self.schedule(reservation);
    }

    fn submit_again(&mut self, reservation: ReservationId) {
        let incarnation = self.bookings.get(&reservation).and_then(|booking| booking.incarnation.as_ref());
        let pilots = incarnation.map(|incarnation| incarnation.roster.pilots().to_vec());
        pilots.unwrap_or_default().iter().for_each(|pilot| self.submit(pilot));
    }

    /// Answers a repeated Start: how this incarnation stands.
    fn tell_standing(&mut self, reservation: ReservationId) {
        let Some(booking) = self.bookings.get(&reservation) else { return };
        let (epoch, members) = (booking.wanted, booking.grant.as_ref().map_or(0, |grant| grant.part.members));
        let round = booking.round.0;
        let message = match (&booking.failed, &booking.incarnation) {
            (Some(failure), _) => FromSite::Failed { reservation, epoch, failure: failure.clone() },
            // Of an older one, which is being torn down, nothing counts.
            (None, Some(incarnation)) if incarnation.epoch == epoch => {
                match incarnation.roster.ready_members() {
                    Some(members) if incarnation.phase != Phase::Starting => {
                        FromSite::SiteReady { reservation, epoch, round, members }
                    }
                    _ => {
                        let progress = incarnation.roster.progress();
                        FromSite::Progress { reservation, epoch, round, progress }
                    }
                }
            }
            (None, _) => {
                let progress = Progress { wanted: members, ..Progress::default() };
                FromSite::Progress { reservation, epoch, round, progress }
            }
        };
        self.tell(message);
        if let Some(booking) = self.bookings.get_mut(&reservation) {
            booking.waits = None;
            self.tell_waits(reservation);
        }
    }

    /// Whether the pilots are together where the next phase begins.
    pub(super) fn check_barriers(&mut self, reservation: ReservationId) {
        let booking = self.bookings.get_mut(&reservation);
        let Some(incarnation) = booking.and_then(|booking| booking.incarnation.as_mut()) else { return };
        let (epoch, round) = (incarnation.epoch, incarnation.round.0);
        match incarnation.phase {
            Phase::Starting if incarnation.roster.all_ready() => {
                let Some(members) = incarnation.roster.ready_members() else { return };
                // Of before a restart they may all be joined already.
                let joined = incarnation.roster.all_running();
                incarnation.phase = if joined { Phase::Joined } else { Phase::Ready };
                self.tell_progress(reservation);
                self.tell(FromSite::SiteReady { reservation, epoch, round, members });
                if joined {
                    self.joined(reservation, epoch);
                }
                // How long it waits for others is told with the next report.
                self.progressed.insert(reservation);
            }
            Phase::Joining if incarnation.roster.all_running() => {
                incarnation.phase = Phase::Joined;
                self.tell_progress(reservation);
                self.joined(reservation, epoch);
            }
            Phase::Ending if incarnation.roster.all_settled() => self.settled(reservation),
            _ => {}
        }
    }

    fn joined(&mut self, reservation: ReservationId, epoch: Epoch) {
        if let Some(booking) = self.bookings.get_mut(&reservation) {
            booking.releases = 0;
        }
        self.tell(FromSite::Joined { reservation, epoch });
    }

    pub(super) fn join(&mut self, reservation: ReservationId, epoch: Epoch, ring: KeyRing) {
        let Some(booking) = self.bookings.get_mut(&reservation) else {
            return self.not_granted(reservation);
        };
        let Some(grant) = &booking.grant else { return self.not_granted(reservation) };
        if booking.ending {
            return;
        }
        let user = grant.part.user.clone();
        // What is of an older epoch is over; and the GRC joins only sites that said they are ready.
        let wrong_epoch = booking.begun != epoch && !planted(Bug::OlderEpochObeyed);
        let Some(incarnation) = booking.incarnation.as_mut().filter(|_| !wrong_epoch) else { return };
        match incarnation.phase {
            Phase::Ready => {}
            Phase::Joined => return self.tell(FromSite::Joined { reservation, epoch }),
            Phase::Starting | Phase::Joining | Phase::Ending => return,
        }
        let checked = match ring.user == user {
            true => incarnation.roster.check_ring(&self.settings.name, &ring),
            false => Err(format!("it is for user {}, not {user}", ring.user)),
        };
        if let Err(what) = checked {
            let cause = format!("the merged view of the grid is wrong: {what}");
            let hint = "this is a fault of the GRC; its log says more";
            return self.fail(reservation, epoch, Failure::new(Step::SetKeys, cause, hint));
        }
        incarnation.phase = Phase::Joining;
        incarnation.head = ring.members.first().map(|member| member.host.clone());
        // Pilots that failed since are not asked; their incarnation has failed already.
        let ready = incarnation.roster.pilots().iter().filter(|pilot| pilot.state == State::Ready);
        let pilots: Vec<PilotId> = ready.map(|pilot| pilot.id).collect();
        incarnation.ring = Some(ring.clone());
        self.actions.push(Action::Join { pilots: pilots.clone(), ring });
        for id in pilots {
            self.advance(id, pilot::Event::JoinAsked);
        }
        // Those of before a restart may have it all.
        self.check_barriers(reservation);
    }

    /// Seconds until the node ends a sandbox by itself, margin included; at least 1.
    pub(super) fn lifetime_s(&self, reservation: ReservationId) -> u32 {
        let grant = self.bookings.get(&reservation).and_then(|booking| booking.grant.as_ref());
        let end = grant.map_or(self.now, |grant| grant.end) + self.settings.times.grace + LEASE_MARGIN;
        let left = end.saturating_sub(self.now).as_secs().clamp(1, 2 * u64::from(DURATION_S_MAX));
        left as u32
    }

    pub(super) fn submit(&mut self, pilot: &Pilot) {
        self.note_lasts(pilot.id);
        let Some(booking) = self.bookings.get(&pilot.id.reservation) else { return };
        let Some(grant) = &booking.grant else { return };
        let submit = Submit {
            pilot: pilot.id,
            node: pilot.node.clone(),
            exclude: self.excluded(),
            account: booking.account.clone(),
            limits: grant.part.limits,
            begin_in_s: seconds(self.runs_from(grant.start).saturating_sub(self.now)),
            lifetime_s: self.lifetime_s(pilot.id.reservation),
        };
        self.actions.push(Action::Submit(submit));
    }

    /// What the monitor of this pilot may build.
    pub(super) fn grant(&self, id: PilotId, nonce: [u8; 16]) -> Option<Grant> {
        let booking = self.bookings.get(&id.reservation)?;
        let part = &booking.grant.as_ref()?.part;
        let pilot = self.pilot(id)?;
        let limits = &part.limits;
        Some(Grant {
            nonce,
            site: grant::SiteName::new(self.settings.name.as_str()).ok()?,
            reservation: id.reservation.0,
            epoch: self.incarnation(id)?.epoch.0.into(),
            member: id.member,
            uid: booking.account.uid,
            user: grant::UserName::new(part.user.as_str()).ok()?,
            address: pilot.address,
            prefix_len: self.settings.prefix_len,
            gateway: self.settings.gateway,
            mtu: self.settings.mtu,
            driver: self.settings.driver,
            shaped: self.incarnation(id)?.shaping.is_some(),
            lifetime_s: self.lifetime_s(id.reservation),
            lease_s: self.settings.times.lease.as_secs() as u32,
            memory_bytes: limits.memory_bytes,
            pids: limits.pids,
            cpus_milli: limits.cpus_milli,
            upper_bytes: limits.disk_bytes,
            // What was not asked for is the node's to choose, within its policy.
            upper_inodes: 0,
        })
    }
}
