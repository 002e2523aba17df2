//! What pilots do: arrive, answer, report, die.

use std::time::Duration;

use protocol::names::Text;
use protocol::node::{self, Notice, Reply};
use protocol::refusal::{Failure, Refusal, Step};

use super::{Action, Asked, Site};
use crate::pilot::{Event, PilotId, State};
use crate::record::{Arrived, Key, Record, Value};

impl Site {
    pub(super) fn on_arrived(&mut self, id: PilotId, nonce: [u8; 16], mut arrived: Arrived) {
        if !self.advance(id, Event::Arrived) {
            return;
        }
        self.came(id);
        // A node that is configured by name keeps that, whatever its machine calls itself.
        arrived.called = arrived.called.filter(|_| self.settings.anonymous);
        arrived.at = self.pilot(id).and_then(|pilot| pilot.at.clone());
        self.pins.insert(arrived.pin, id);
        if let Some(pilot) = self.pilot_mut(id) {
            pilot.pin = Some(arrived.pin);
            pilot.boot_id = Some(arrived.boot_id);
            pilot.called.clone_from(&arrived.called);
        }
        // Before it has anything that could be left of it.
        self.record(Record::Put(Key::Pilot(id), Value::Pilot(Some(arrived))));
        self.set_up_pilot(id, nonce);
    }

    /// SETUP for a pilot that has arrived, or has come back as if it had.
    pub(super) fn set_up_pilot(&mut self, id: PilotId, nonce: [u8; 16]) {
        if let Some(pilot) = self.pilot_mut(id) {
            (pilot.queued, pilot.expected, pilot.unanswered) = (None, None, None);
            pilot.nonce = Some(nonce);
        }
        let granted = self.bookings.get(&id.reservation).and_then(|booking| booking.grant.as_ref());
        let environment = granted.map(|grant| grant.part.environment.clone());
        if let (Some(grant), Some(environment)) = (self.grant(id, nonce), environment) {
            let lease_end = self.now + Duration::from_secs(grant.lifetime_s.into());
            if let Some(pilot) = self.pilot_mut(id) {
                pilot.lease_end = lease_end;
            }
            let rates = self.first_rates(id).map(Box::new);
            self.actions.push(Action::SetUp { pilot: id, grant: Box::new(grant), rates, environment });
        }
    }

    pub(super) fn on_answer(&mut self, id: PilotId, asked: Asked, reply: Reply) {
        match (asked, reply) {
            (Asked::Exec(job), reply) => self.on_exec_answer(id, job, reply),
            // Something of a command does not die there: no other shall run beside it.
            (Asked::Signal(_), Reply::Failed(failure)) => {
                self.give_up(id, failure);
            }
            (asked, reply) => self.on_answer_of_step(id, asked, reply),
        }
    }

    fn on_answer_of_step(&mut self, id: PilotId, asked: Asked, reply: Reply) {
        let step = match asked {
            Asked::Setup => Step::Setup,
            Asked::GetKeys => Step::GetKeys,
            Asked::SetKeys => Step::SetKeys,
            Asked::Run => Step::Run,
            Asked::Shape(serial) => return self.on_shaped(id, serial, &reply),
            // The job is over meanwhile, or the notice `Gone` follows: nothing hangs on these.
            Asked::Signal(job) => return self.on_signalled(id, job),
            Asked::Shutdown | Asked::Exec(_) => return,
        };
        match (asked, reply) {
            (Asked::Setup, Reply::Done) => {
                self.set_up(id);
                let moved = self.advance(id, Event::SandboxBuilt);
                self.renew(id);
                moved
            }
            (Asked::GetKeys, Reply::Keys(keys)) => {
                if self.pilot(id).is_some_and(|pilot| pilot.state == State::Building) {
                    // The answer to SETUP went to a connection that broke.
                    self.set_up(id);
                    self.advance(id, Event::SandboxBuilt);
                    self.renew(id);
                }
                if let Some(pilot) = self.pilot_mut(id).filter(|pilot| pilot.state == State::Built) {
                    pilot.keys = Some(keys);
                }
                self.advance(id, Event::KeysGiven)
            }
            (Asked::SetKeys, Reply::Done) => self.advance(id, Event::KeysInstalled),
            (Asked::Run, Reply::Done) => self.advance(id, Event::ServicesUp),
            (_, Reply::Failed(failure)) => self.give_up(id, failure),
            // It was asked twice, for it dialled again while the first waited for the journal.
            (Asked::Setup, Reply::Refused(Refusal::WrongState { .. }))
                if self.pilot(id).is_some_and(|pilot| pilot.state > State::Building) =>
            {
                false
            }
            (_, Reply::Refused(refusal)) => {
                let hint = "the CRM's log and the node's system log say more";
                self.give_up(id, Failure::new(step, refusal.to_string(), hint))
            }
            (_, reply) => {
                let cause = format!("the agent gave an answer that fits no such request: {}", word(&reply));
                self.give_up(id, Failure::new(step, cause, "upgrade the older of CRM and node"))
            }
        };
    }

    pub(super) fn on_notice(&mut self, id: PilotId, notice: Notice) {
        match notice {
            Notice::StateChanged { state: node::State::TearingDown | node::State::Gone, cause } => {
                // Asked for by us it changes nothing; else the pilot is lost, and this says why.
                self.lost(id, cause, "the sandbox ended by itself".into());
                self.advance(id, Event::EndAsked);
            }
            Notice::StateChanged { .. } | Notice::Beat => {}
            Notice::Output { job, stream, offset, bytes } => {
                self.on_output(id, job, stream, offset, bytes);
            }
            Notice::Exited { job, status, hits } => self.on_exited(id, job, status, hits),
            Notice::Used { at_ms, classes } => self.on_used(id, at_ms, &classes),
            Notice::Gone { dirty, cause } => {
                self.lost(id, cause, "the sandbox ended by itself".into());
                match dirty {
                    None => self.advance(id, Event::SandboxGone),
                    Some(what) => {
                        self.set_dirt(id, what);
                        self.advance(id, Event::SandboxDirty)
                    }
                };
            }
        }
    }

    pub(super) fn on_batch_gone(&mut self, id: PilotId, reason: &Text) {
        let Some(pilot) = self.pilot_mut(id).filter(|pilot| pilot.state != State::Held) else { return };
        let was_queued = pilot.state == State::Submitted;
        // Where it ran, the node is looked at.
        let nowhere = self.settings.anonymous && self.pilot(id).is_some_and(|pilot| pilot.at.is_none());
        if was_queued && nowhere {
            self.account_failed(id, reason);
        }
        let Some(pilot) = self.pilot_mut(id) else { return };
        pilot.batch_gone = true;
        let cause = match pilot.state {
            State::Submitted => format!("the pilot ended before it dialled in: {reason}"),
            _ => format!("the pilot's Launcher is gone: {reason}"),
        };
        self.pass_verdict(id, reason);
        self.lost(id, None, cause.into());
        self.advance(id, Event::BatchGone);
    }

    pub(super) fn on_swept(&mut self, id: PilotId, outcome: Result<(), Text>) {
        match outcome {
            Ok(()) => self.advance(id, Event::Swept),
            Err(what) => {
                self.set_dirt(id, what);
                self.advance(id, Event::NotSwept)
            }
        };
    }

    pub(super) fn on_time_over(&mut self, id: PilotId) {
        let Some(pilot) = self.pilot_mut(id) else { return };
        pilot.deadline = None;
        let state = pilot.state;
        let time = self.settings.times.of(state).unwrap_or_default().as_secs();
        match state {
            State::Submitted => {
                let failure = self.never_came(id);
                self.fail_at(id, failure);
            }
            State::Held => {
                let account = self.incarnation(id).map(|incarnation| incarnation.account.clone());
                let why = account.and_then(|account| self.is_paused(&account));
                let why = why.unwrap_or_else(|| "it takes no submission".into());
                let failure = self.paused_failure(id.reservation, &why);
                self.fail_at(id, failure);
            }
            state if state.has_agent() => {
                let step = state.step_under_way();
                let cause = format!("{step} was not answered within {time} s");
                self.fail_at(id, Failure::new(step, cause, "the node is overloaded or hangs; see its log"));
            }
            State::Away => self.stays_away(id),
            State::Sweeping => self.set_dirt(id, "the sweep of the node does not end".into()),
            State::Cancelling => {
                self.set_dirt(id, format!("the batch system does not end pilot {id}").into())
            }
            _ => {}
        }
        self.advance(id, Event::TimeOver);
    }

    /// A pilot that ends without having been asked fails its part, once, with the best cause
    /// there is: the agent's own if it gave one.
    fn lost(&mut self, id: PilotId, cause: Option<Failure>, otherwise: Text) {
        let Some(state) = self.pilot(id).map(|pilot| pilot.state) else { return };
        if !matches!(state, State::Submitted | State::Away) && !state.has_agent() {
            return;
        }
        let hint = "the reservation cannot go on; see the CRM's log and the node's system log";
        let failure = cause.unwrap_or_else(|| Failure::new(state.step_under_way(), otherwise, hint));
        if failure.cause.as_str() == node::ENDED_BY_BATCH_SYSTEM {
            return self.await_word(id, failure);
        }
        self.fail_at(id, failure);
    }

    /// The pilot cannot go on: its part fails and it is torn down.
    pub(super) fn give_up(&mut self, id: PilotId, failure: Failure) -> bool {
        if self.pilot(id).is_some_and(|pilot| pilot.state.has_agent()) {
            self.fail_at(id, failure);
        }
        self.advance(id, Event::EndAsked)
    }

    pub(super) fn fail_at(&mut self, id: PilotId, failure: Failure) {
        if let Some(epoch) = self.epoch_of(id) {
            let began =
                |pilot: &crate::pilot::Pilot| (State::Submitted..State::Running).contains(&pilot.state);
            if self.pilot(id).is_some_and(began) {
                self.node_failed(id, &failure.cause);
            }
            let failure = self.placed(id, failure);
            self.fail(id.reservation, epoch, failure);
        }
    }

    /// The failure with site and node as this site knows them.
    pub(super) fn placed(&self, id: PilotId, failure: Failure) -> Failure {
        match self.pilot(id) {
            // A place of a queue that no machine has taken is nothing that people know.
            Some(pilot) if !self.settings.anonymous || pilot.machine().is_some() => {
                failure.at_site(&self.settings.name).at_node(pilot.node_name())
            }
            _ => failure.at_site(&self.settings.name),
        }
    }

    fn set_dirt(&mut self, id: PilotId, what: Text) {
        if let Some(pilot) = self.pilot_mut(id) {
            pilot.dirt = Some(what);
        }
    }
}

/// What kind of reply it is, without what an agent put into it.
fn word(reply: &Reply) -> &'static str {
    match reply {
        Reply::Done => "done",
        Reply::Keys(_) => "keys",
        Reply::Status { .. } => "a status",
        Reply::Refused(_) => "a refusal",
        Reply::Failed(_) => "a failure",
    }
}
