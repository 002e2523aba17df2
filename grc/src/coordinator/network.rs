//! The bandwidth of an attempt and of a grant: reserved last, committed first, given back at the
//! end. What a provider says may come at once or later.

use protocol::ids::ReservationId;
use protocol::refusal::{Failure, Refusal, Step};
use protocol::reservation::PairRate;

use super::Coordinator;
use crate::network::{Answer, Confirmation, Connection, Criteria, Operation, Refused};
use crate::reservation::{Attempt, Reservation, Why, Window};

pub(super) fn criteria(window: Window, rates: &[PairRate]) -> Criteria {
    Criteria { window: super::room::seconds(window.start, window.end), pairs: rates.to_vec() }
}

impl Coordinator {
    fn ask_network(&mut self, id: ReservationId, operation: Operation) {
        let said = self.network.request(self.now, Connection(id.0), operation);
        self.network_says(said);
    }

    /// What the network decided, or what ran out, until now.
    pub(super) fn network_tick(&mut self) {
        let said = self.network.tick(self.now);
        self.network_says(said);
    }

    fn network_says(&mut self, said: Vec<Confirmation>) {
        for Confirmation { connection: Connection(id), answer } in said {
            let id = ReservationId(id);
            let attempt = self.reservations.get(&id).and_then(|reservation| reservation.attempt.as_ref());
            let asked = attempt.map(|attempt| attempt.version);
            match answer {
                Answer::Held { version } if asked == Some(version) => self.decide(id),
                Answer::Refused { version, refused } if asked == Some(version) => {
                    let refusal = self.refusal_of(refused);
                    self.abort(id, Why::Refused(refusal));
                }
                Answer::TimedOut { version } if asked == Some(version) => {
                    let cause = "the network gave the hold up before it was committed";
                    self.abort(id, Why::Failed(Failure::new(Step::Hold, cause, "try again")));
                }
                Answer::CommitRefused { version, .. } | Answer::TimedOut { version } => {
                    self.network_lost(id, version);
                }
                Answer::Held { .. }
                | Answer::Refused { .. }
                | Answer::Committed { .. }
                | Answer::Aborted { .. }
                | Answer::Provisioned
                | Answer::Released
                | Answer::NotGranted
                | Answer::Terminated
                | Answer::Summary(_) => {}
            }
        }
    }

    /// The links have lost what was decided.
    fn network_lost(&mut self, id: ReservationId, version: protocol::ids::Version) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        if reservation.in_force() == version && reservation.phase.is_granted() {
            let cause = "the network lost what it had granted";
            self.fail(id, Failure::new(Step::Commit, cause, "the sites' share is given back; ask again"));
        }
    }

    fn refusal_of(&self, refused: Refused) -> Refusal {
        let now_s = self.now.as_secs();
        match refused {
            Refused::UnknownLink { a, b } => Refusal::UnknownLink { a, b },
            Refused::NoRoom { resource, asked_kbit, have_kbit, free_from } => Refusal::NoRoom {
                resource,
                asked: asked_kbit,
                have: have_kbit,
                in_s: free_from.into_iter().map(|at| at.saturating_sub(now_s)).collect(),
            },
            Refused::Stale { .. } | Refused::NotHeld => {
                Refusal::WrongState { what: "the bandwidth".into(), state: "another attempt is newer".into() }
            }
        }
    }

    /// Every site holds: now the links, if any are asked for.
    pub(super) fn reserve_network(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        let Some(Attempt { version, window, rates, .. }) = &reservation.attempt else { return };
        if rates.is_empty() && !has_network(reservation) {
            return self.decide(id);
        }
        let operation = Operation::Reserve { version: *version, criteria: criteria(*window, rates) };
        self.ask_network(id, operation);
    }

    /// The decision is recorded; the links hear of it before any site.
    pub(super) fn commit_network(&mut self, id: ReservationId) {
        let Some(grant) = self.reservations.get(&id).and_then(|r| r.grant.as_ref()) else { return };
        let version = grant.version;
        if !grant.rates.is_empty() {
            self.ask_network(id, Operation::Commit { version });
            self.ask_network(id, Operation::Provision);
        } else {
            self.ask_network(id, Operation::Terminate);
        }
    }

    /// The hold of an attempt is given back; a grant beside it stays.
    pub(super) fn abort_network(&mut self, id: ReservationId, attempt: &Attempt) {
        if !attempt.rates.is_empty() {
            self.ask_network(id, Operation::Abort { version: attempt.version });
        }
    }

    /// Nothing of it may send at a granted rate any more.
    pub(super) fn end_network(&mut self, id: ReservationId) {
        if self.reservations.get(&id).is_some_and(has_network) {
            self.ask_network(id, Operation::Terminate);
        }
    }
}

fn has_network(reservation: &Reservation) -> bool {
    reservation.grant.as_ref().is_some_and(|grant| !grant.rates.is_empty())
}
