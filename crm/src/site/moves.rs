//! How pilots move: their machine's steps, and what follows from each.

use std::time::Duration;

use super::{Action, Asked, Site};
use crate::pilot::{self, Do, Pilot, PilotId, State};
use crate::record::{Key, Record, Value};

impl Site {
    /// Lets something happen to a pilot and does what follows. Returns whether it moved.
    pub(super) fn advance(&mut self, id: PilotId, event: pilot::Event) -> bool {
        let (before, after, follows) = match self.incarnation_mut(id) {
            Some(incarnation) => match incarnation.roster.step(id.member, event) {
                Some(made) => (made.before, made.after, made.follows),
                None => return false,
            },
            None => match self.leftovers.get_mut(&id) {
                Some((pilot, _)) => {
                    let before = pilot.state;
                    let (after, follows) = before.step(event);
                    pilot.state = after;
                    (before, after, follows)
                }
                None => return false,
            },
        };
        if before == after && follows.is_empty() {
            return false;
        }
        let queued_until = match after {
            State::Held | State::Submitted => {
                self.bookings.get(&id.reservation).map(|one| self.queued_until(one))
            }
            _ => None,
        };
        let deadline = match (before, after) {
            // How long it may wait counts from when it was first submitted.
            (State::Submitted, State::Held) => self.pilot(id).and_then(|pilot| pilot.deadline),
            (State::Held, State::Submitted) => {
                self.pilot(id).and_then(|pilot| pilot.deadline).or(queued_until)
            }
            _ => self.settings.times.of(after).map(|time| self.now + time),
        };
        self.set_deadline(id, deadline);
        if after == State::Ready {
            self.worked(id);
        }
        if before.has_agent() && !after.has_agent() {
            self.lost_from_rates(id);
        }
        for what in follows {
            self.perform(id, *what);
        }
        if self.bookings.contains_key(&id.reservation) {
            self.progressed.insert(id.reservation);
        }
        let batch_gone = self.pilot(id).is_some_and(|pilot| pilot.batch_gone);
        if after == State::Cancelling && batch_gone {
            // It was said while the agent was still there, and is not said again.
            self.advance(id, pilot::Event::BatchGone);
        } else if after == State::Gone {
            self.forget_leftover(id);
        }
        self.check_barriers(id.reservation);
        true
    }

    pub(super) fn pilot_mut(&mut self, id: PilotId) -> Option<&mut Pilot> {
        // Not `incarnation_mut`: the borrow would outlive the other arm.
        let present = self.incarnation(id).is_some();
        match present {
            true => self.incarnation_mut(id)?.roster.get_mut(id.member),
            false => self.leftovers.get_mut(&id).map(|(pilot, _)| pilot),
        }
    }

    pub(super) fn set_deadline(&mut self, id: PilotId, deadline: Option<Duration>) {
        let old = match self.pilot_mut(id) {
            Some(pilot) => std::mem::replace(&mut pilot.deadline, deadline),
            None => None,
        };
        if let Some(old) = old {
            self.deadlines.remove(&(old, id));
        }
        if let Some(at) = deadline {
            self.deadlines.insert((at, id));
        }
    }

    fn perform(&mut self, id: PilotId, what: Do) {
        let Some(pilot) = self.pilot(id).cloned() else { return };
        match what {
            Do::Submit => self.submit(&pilot),
            // The nonce comes with the arrival, and these with the return; see `on_arrived`.
            Do::SetUp | Do::Resume => {}
            Do::AskKeys => self.actions.push(Action::Ask {
                pilot: id,
                asked: Asked::GetKeys,
                request: protocol::node::Request::GetKeys,
            }),
            Do::ShutDown => self.actions.push(Action::Ask {
                pilot: id,
                asked: Asked::Shutdown,
                request: protocol::node::Request::End {
                    grace_ms: u32::try_from(self.settings.times.grace.as_millis()).unwrap_or(u32::MAX),
                },
            }),
            Do::Dismiss => self.actions.push(Action::Dismiss { pilot: id }),
            Do::Cancel if self.verdicts.keep_cancel(id) => {}
            Do::Cancel => self.actions.push(Action::Cancel { pilot: id }),
            Do::Sweep => {
                let account = match self.incarnation(id) {
                    Some(incarnation) => Some(incarnation.account.clone()),
                    None => self.leftovers.get(&id).map(|(_, account)| account.clone()),
                };
                if self.settings.anonymous && pilot.machine().is_none() {
                    // It never ran anywhere, so nothing of it can be left.
                    self.advance(id, pilot::Event::Swept);
                } else if let Some(account) = account {
                    let node = pilot.node_name().clone();
                    self.actions.push(Action::Sweep { pilot: id, node, account });
                }
            }
            Do::Quarantine => {
                let what = pilot.dirt.clone().unwrap_or_else(|| format!("pilot {id} does not go").into());
                self.nodes.soil(&pilot, what);
                self.addresses.quarantine(pilot.address, id);
                self.offer_changed = true;
            }
            Do::Release => {
                if let Some(pin) = &pilot.pin {
                    self.pins.remove(pin);
                }
                if self.incarnation(id).is_some() {
                    self.record(Record::Put(Key::Pilot(id), Value::Pilot(None)));
                }
                self.nodes.release(&pilot.node, id);
                self.addresses.release(pilot.address, id);
                self.gone_from_rates(id);
                self.freed = true;
                self.offer_changed = true;
            }
        }
    }
}
