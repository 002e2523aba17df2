//! How many connections each user has, whichever door they came in by.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::names::UserName;
use protocol::refusal::Refusal;

/// Connections of all users together.
pub const SEATS_MAX: usize = 1024;

/// The places there are, shared by the doors.
#[derive(Debug)]
pub struct Seats {
    per_user: usize,
    taken: Mutex<BTreeMap<UserName, usize>>,
}

/// One connection's place; given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    user: UserName,
}

impl Seats {
    pub fn new(per_user: usize) -> Arc<Self> {
        Arc::new(Self { per_user, taken: Mutex::default() })
    }

    /// How many one user may have.
    pub fn per_user(&self) -> usize {
        self.per_user
    }

    /// # Errors
    /// The user has as many as he may have, or all are taken.
    pub fn take(self: &Arc<Self>, user: &UserName) -> Result<Seat, Refusal> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= SEATS_MAX {
            return Err(Refusal::TooMany { what: "clients".into(), count: SEATS_MAX as u32 });
        }
        let own = taken.entry(user.clone()).or_default();
        if *own >= self.per_user {
            let what = "connections at once would be yours".into();
            let (asked, limit) = (*own as u64 + 1, self.per_user as u64);
            return Err(Refusal::OverUserLimit { what, asked, limit });
        }
        *own += 1;
        Ok(Seat { seats: self.clone(), user: user.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_his_share_and_what_is_given_back_can_be_had_again() {
        let seats = Seats::new(2);
        let (ada, bob) = ("ada".parse().unwrap(), "bob".parse().unwrap());
        let first = seats.take(&ada).unwrap();
        let _second = seats.take(&ada).unwrap();
        let refused = seats.take(&ada).unwrap_err();
        assert!(matches!(refused, Refusal::OverUserLimit { asked: 3, limit: 2, .. }), "{refused}");
        let _other = seats.take(&bob).unwrap();
        drop(first);
        let _again = seats.take(&ada).unwrap();
        assert!(seats.take(&ada).is_err());
    }

    #[test]
    fn all_together_have_so_many_and_one_who_is_refused_takes_none() {
        let seats = Seats::new(1);
        let user = |n: usize| format!("u{n}").parse().unwrap();
        let all: Vec<Seat> = (0..SEATS_MAX).map(|n| seats.take(&user(n)).unwrap()).collect();
        for _ in 0..3 {
            assert!(matches!(seats.take(&user(SEATS_MAX)), Err(Refusal::TooMany { .. })));
        }
        drop(all);
        assert!(seats.taken.lock().unwrap().is_empty());
    }
}
