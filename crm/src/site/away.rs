//! Agents whose connection is lost, and agents that are there again.
//!
//! A lost connection is no end: the sandbox stands and its commands run on, until the node's lease
//! is over. That it is over frees nothing here; see [`crate::pilot`].

use std::time::Duration;

use protocol::names::Text;
use protocol::node;
use protocol::planted::{Bug, planted};
use protocol::refusal::{Failure, Step};

use super::booking::Phase;
use super::words::Back;
use super::{Action, Site};
use crate::pilot::{Event, PilotId, State};

/// The least that an agent is waited for once it was found to be silent.
const LEAST_TIME: Duration = Duration::from_secs(1);

impl Site {
    /// `silent`: since the last word of it.
    pub(super) fn on_agent_lost(&mut self, id: PilotId, cause: &Text, silent: Duration) {
        if let Some(pilot) = self.pilot_mut(id) {
            pilot.away = Some(cause.clone());
        }
        if !self.advance(id, Event::AgentLost) {
            return;
        }
        if let Some(pilot) = self.pilot(id).filter(|pilot| pilot.state == State::Away) {
            let time = pilot.deadline.map(|at| at.saturating_sub(silent).max(self.now + LEAST_TIME));
            self.set_deadline(id, time);
        }
    }

    /// Its lease is over by its own clock too: whatever is there is no member any more.
    pub(super) fn stays_away(&mut self, id: PilotId) {
        if planted(Bug::AddressBackAtLease)
            && let Some(pilot) = self.pilot(id).cloned()
        {
            self.nodes.release(&pilot.node, id);
            self.addresses.release(pilot.address, id);
            self.freed = true;
        }
        let lease_s = self.settings.times.lease.as_secs();
        let cause = self.pilot(id).and_then(|pilot| pilot.away.clone()).unwrap_or_default();
        let cause = format!("its agent did not come back within its lease of {lease_s} s: {cause}");
        let hint = "the node is down, or cut off from the CRM; what ran there is ended";
        self.fail_at(id, Failure::new(Step::Running, cause, hint));
    }

    pub(super) fn on_returned(&mut self, id: PilotId, back: Back) {
        let Back { nonce, state, keys, rates } = back;
        let Some(pilot) = self.pilot_mut(id).filter(|pilot| pilot.state == State::Away) else { return };
        let stands = (node::State::Ready..=node::State::Running).contains(&state);
        if stands && keys.is_none() {
            let cause = "the agent says that its sandbox stands, and not with which keys";
            self.fail_at(id, Failure::new(Step::Running, cause, "upgrade the older of CRM and node"));
            self.advance(id, Event::EndAsked);
            return;
        }
        pilot.nonce = Some(nonce);
        pilot.away = None;
        if stands {
            pilot.keys = keys;
        }
        self.back_to_rates(id, state, rates.as_ref());
        self.advance(id, Event::Returned(state));
        self.came(id);
        match self.pilot(id).map(|pilot| pilot.state) {
            Some(State::Building) if state == node::State::Idle => self.set_up_pilot(id, nonce),
            Some(State::Ready) => self.join_again(id),
            _ => {}
        }
        if stands {
            self.renew(id);
            self.resume_jobs(id);
        }
    }

    /// The key ring, for one that was away when the others got it, or did not answer.
    fn join_again(&mut self, id: PilotId) {
        let Some(incarnation) = self.incarnation(id) else { return };
        let joins = matches!(incarnation.phase, Phase::Joining | Phase::Joined);
        let Some(ring) = incarnation.ring.clone().filter(|_| joins) else { return };
        self.actions.push(Action::Join { pilots: vec![id], ring });
        self.advance(id, Event::JoinAsked);
    }
}
