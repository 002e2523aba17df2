//! What the owner remembers of each user: their things, newest known, how many are live, and the
//! answers to their recent requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::client::{Reply, Selector};
use protocol::ids::{JobId, RequestId, ReservationId};
use protocol::limits::LISTING_MAX;
use protocol::refusal::Refusal;

use super::watch::Asker;

/// Refused requests that are remembered, per user.
const REQUESTS_MAX: usize = 1024;
/// Jobs that are not over, per user.
pub const LIVE_JOBS_MAX: usize = 1024;
/// Bytes of commands that are not over, per user.
pub const COMMAND_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Things of one kind: live ones and a bounded history.
#[derive(Debug)]
pub(super) struct Things<I> {
    all: BTreeSet<I>,
    /// Those that are over, in the order in which they ended.
    ended: VecDeque<I>,
}

impl<I: Ord + Copy> Default for Things<I> {
    fn default() -> Self {
        Self { all: BTreeSet::new(), ended: VecDeque::new() }
    }
}

impl<I: Ord + Copy> Things<I> {
    pub fn begin(&mut self, id: I) {
        self.all.insert(id);
    }

    /// Moves a live one to the history; the one that falls out of it, if any.
    pub fn end(&mut self, id: I) -> Option<I> {
        self.ended.push_back(id);
        if self.ended.len() <= LISTING_MAX {
            return None;
        }
        let oldest = self.ended.pop_front()?;
        self.all.remove(&oldest);
        Some(oldest)
    }

    pub fn live(&self) -> usize {
        self.all.len() - self.ended.len()
    }

    /// Takes a live one away as if it had never been.
    pub fn forget(&mut self, id: I) {
        self.all.remove(&id);
    }

    /// All that are known, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = I> {
        self.all.iter().rev().copied()
    }

    /// The one meant; `not_found` makes the refusal for an id that is not the user's own, which
    /// reads the same whether it is somebody else's or nobody's.
    pub fn select(&self, which: Selector<I>, not_found: fn(I) -> Refusal) -> Result<I, Refusal> {
        match which {
            Selector::Id(id) if self.all.contains(&id) => Ok(id),
            Selector::Id(id) => Err(not_found(id)),
            Selector::Last => self.all.last().copied().ok_or(Refusal::NothingYet),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct User {
    pub reservations: Things<ReservationId>,
    pub jobs: Things<JobId>,
    /// Reservations that are not over, whether their user was told of them yet or not.
    pub live: BTreeSet<ReservationId>,
    pub command_bytes: usize,
    /// Requests that are answered when their attempt is decided, and who asks.
    pub open: BTreeMap<RequestId, Vec<Asker>>,
    /// What requests have made that is still remembered.
    pub made: BTreeMap<RequestId, Reply>,
    /// Refusals.
    answers: BTreeMap<RequestId, Reply>,
    answered: VecDeque<(RequestId, u64)>,
}

impl User {
    /// The answer given to this request before.
    pub fn answer_to(&self, request: RequestId) -> Option<&Reply> {
        self.made.get(&request).or_else(|| self.answers.get(&request))
    }

    /// Keeps an answer under a number; that of the one which is forgotten for it, if one is.
    pub fn remember(&mut self, request: RequestId, reply: Reply, number: u64) -> Option<u64> {
        self.answers.insert(request, reply);
        self.answered.push_back((request, number));
        if self.answered.len() <= REQUESTS_MAX {
            return None;
        }
        let (oldest, number) = self.answered.pop_front()?;
        self.answers.remove(&oldest);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_bounded_and_live_things_are_never_forgotten() {
        let mut things = Things::default();
        things.begin(JobId(0));
        for id in 1..=LISTING_MAX as u64 + 10 {
            things.begin(JobId(id));
            let forgotten = things.end(JobId(id));
            assert_eq!(forgotten, id.checked_sub(LISTING_MAX as u64).filter(|n| *n > 0).map(JobId));
        }
        let not_found = |id| Refusal::UnknownJob { id };
        assert_eq!(things.live(), 1);
        assert_eq!(things.select(Selector::Id(JobId(0)), not_found), Ok(JobId(0)));
        assert!(things.select(Selector::Id(JobId(10)), not_found).is_err());
        assert_eq!(things.newest_first().count(), LISTING_MAX + 1);
    }

    #[test]
    fn answers_are_remembered_for_a_bounded_number_of_requests() {
        let mut user = User::default();
        let id = |n: u16| RequestId([n.to_le_bytes(); 8].concat().try_into().unwrap());
        for n in 0..=REQUESTS_MAX as u16 {
            user.remember(id(n), Reply::Done, n.into());
        }
        assert_eq!(user.answer_to(id(0)), None);
        assert!(user.answer_to(id(1)).is_some());
        assert_eq!(user.answers.len(), REQUESTS_MAX);
    }
}
