//! Actions in their order, each behind the records that it must not overtake.
//!
//! Pure: the driver submits the records that [`Behind::take`] gives, under the ticket that stands
//! beside them, and says with [`Behind::durable`] how far they are on disk. Many steps may be
//! under way at once; the journal makes one write of what has gathered meanwhile.

use std::collections::VecDeque;

use crate::record::Record;
use crate::site::Action;

/// What is to be made durable together; nothing of the same step behind it is done before.
#[derive(Debug)]
pub struct Batch {
    pub ticket: u64,
    pub records: Vec<Record>,
}

/// The actions that are not performed yet.
#[derive(Debug, Default)]
pub struct Behind {
    waiting: VecDeque<(u64, Action)>,
    /// The last ticket given, and the last one that is durable.
    given: u64,
    durable: u64,
}

impl Behind {
    /// Queues the actions of one step. Its records become durable together, which is sooner than
    /// those behind other actions need; a site that is restored from them is one that has lost
    /// the actions.
    pub fn take(&mut self, actions: Vec<Action>) -> Option<Batch> {
        let mut records = Vec::new();
        for action in actions {
            match action {
                Action::Record(record) => records.push(record),
                action => self.waiting.push_back((self.given + u64::from(!records.is_empty()), action)),
            }
        }
        if records.is_empty() {
            return None;
        }
        self.given += 1;
        Some(Batch { ticket: self.given, records })
    }

    /// Everything up to this ticket is on disk.
    pub fn durable(&mut self, ticket: u64) {
        self.durable = self.durable.max(ticket);
    }

    /// The next action that may be performed now.
    pub fn next_ready(&mut self) -> Option<Action> {
        let ready = self.waiting.front().is_some_and(|(ticket, _)| *ticket <= self.durable);
        if ready { self.waiting.pop_front().map(|(_, action)| action) } else { None }
    }

    /// Actions that wait, and whether all that was given is durable.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.durable == self.given
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::ReservationId;

    use super::*;
    use crate::pilot::{PilotId, Round};
    use crate::record::Key;

    fn act(member: u32) -> Action {
        Action::Cancel { pilot: PilotId { reservation: ReservationId(1), round: Round(1), member } }
    }

    fn record(number: u64) -> Action {
        Action::Record(Record::Forget(Key::Booking(ReservationId(number))))
    }

    fn done(behind: &mut Behind) -> Vec<u32> {
        std::iter::from_fn(|| behind.next_ready())
            .map(|action| match action {
                Action::Cancel { pilot } => pilot.member,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn nothing_overtakes_its_record_or_an_earlier_action() {
        let mut behind = Behind::default();
        assert!(behind.take(vec![act(1)]).is_none());
        let first = behind.take(vec![act(2), record(1), act(3), record(2), act(4)]).unwrap();
        assert_eq!((first.ticket, first.records.len()), (1, 2));
        assert!(behind.take(vec![act(5)]).is_none());
        let second = behind.take(vec![record(3), act(6)]).unwrap();
        assert_eq!(done(&mut behind), [1, 2]);
        behind.durable(first.ticket);
        assert_eq!(done(&mut behind), [3, 4, 5]);
        assert!(!behind.is_idle());
        behind.durable(second.ticket);
        behind.durable(first.ticket);
        assert_eq!(done(&mut behind), [6]);
        assert!(behind.is_idle());
    }
}
