//! Holding one reservation's shares at all sites at once: all or nothing.
//!
//! ```text
//! Asking --all held--> Committed
//!    \--refused, late or lost, at any site--> Aborted
//! ```
//! Every site is asked at the same time; the one answer that completes the set commits all, the
//! first bad one releases all. After the commit a lost share is no matter of this machine: the
//! reservation fails and every site is told `End`.
//!
//! A release follows its hold on the same ordered connection, so it also takes back a hold that
//! the site has not answered yet.

use protocol::names::SiteName;

/// What a site is to be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verb {
    Hold,
    Commit,
    Release,
}

/// One call, to the site with this index among the parts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Call {
    pub part: usize,
    pub verb: Verb,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Asking,
    Committed,
    Aborted,
}

/// The transaction of one attempt; an attempt has an epoch of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Coallocation {
    sites: Vec<SiteName>,
    held: Vec<bool>,
    outcome: Outcome,
}

impl Coallocation {
    /// Begins: a hold to every site.
    pub fn begin(sites: Vec<SiteName>) -> (Self, Vec<Call>) {
        let held = vec![false; sites.len()];
        let all = Self { sites, held, outcome: Outcome::Asking };
        let calls = all.to_all(Verb::Hold);
        (all, calls)
    }

    fn to_all(&self, verb: Verb) -> Vec<Call> {
        (0..self.sites.len()).map(|part| Call { part, verb }).collect()
    }

    /// A site holds its share. Repeatable; what comes after the outcome changes nothing.
    pub fn held(&mut self, site: &SiteName) -> Vec<Call> {
        if let Some(index) = self.sites.iter().position(|one| one == site) {
            self.held[index] = true;
        }
        if self.outcome != Outcome::Asking || !self.held.iter().all(|held| *held) {
            return Vec::new();
        }
        self.outcome = Outcome::Committed;
        self.to_all(Verb::Commit)
    }

    /// A site refused, did not answer in time or was lost: everything is given back, also where
    /// the answer is still on its way.
    pub fn abort(&mut self) -> Vec<Call> {
        if self.outcome != Outcome::Asking {
            return Vec::new();
        }
        self.outcome = Outcome::Aborted;
        self.to_all(Verb::Release)
    }

    pub fn is_committed(&self) -> bool {
        self.outcome == Outcome::Committed
    }

    /// Sites that have not answered yet, in the order of the parts.
    pub fn unanswered(&self) -> impl Iterator<Item = &SiteName> {
        self.sites.iter().zip(&self.held).filter(|(_, held)| !**held).map(|(site, _)| site)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sites that do as they are told, but for one call.
    #[derive(Default)]
    struct World {
        calls: usize,
        refuse_at: usize,
        /// Per part: false is held, true is committed.
        reserved: Vec<(usize, bool)>,
    }

    impl World {
        fn call(&mut self, call: Call) -> Result<(), ()> {
            let refuse = call.verb != Verb::Release && self.calls == self.refuse_at;
            self.calls += usize::from(call.verb != Verb::Release);
            self.reserved.retain(|(part, _)| *part != call.part);
            match call.verb {
                _ if refuse => return Err(()),
                Verb::Hold => self.reserved.push((call.part, false)),
                Verb::Commit => self.reserved.push((call.part, true)),
                Verb::Release => {}
            }
            Ok(())
        }
    }

    fn sites() -> Vec<SiteName> {
        ["a", "b", "c"].map(|site| site.parse().unwrap()).to_vec()
    }

    /// Refuse the n-th call, for every n, and demand that nothing is left. A commit is refused
    /// only by a site that is gone; what follows then is the reservation's `End` to all.
    #[test]
    fn failure_of_any_call_leaves_nothing_reserved() {
        let sites = sites();
        for refuse_at in 0..=sites.len() * 2 {
            let mut world = World { refuse_at, ..World::default() };
            let (mut all, mut calls) = Coallocation::begin(sites.clone());
            let mut failed = false;
            while !calls.is_empty() {
                let mut next = Vec::new();
                for call in std::mem::take(&mut calls) {
                    match (world.call(call), call.verb) {
                        (Ok(()), Verb::Hold) => next.extend(all.held(&sites[call.part])),
                        (Ok(()), _) => {}
                        (Err(()), _) => {
                            failed = true;
                            next.extend(all.abort());
                        }
                    }
                }
                calls = next;
            }
            if failed && all.is_committed() {
                world.reserved.clear(); // End is answered by every site, gone ones end by themselves
            }
            let expected: Vec<_> = if failed { vec![] } else { vec![(0, true), (1, true), (2, true)] };
            assert_eq!(world.reserved, expected, "after refusing call {refuse_at}");
            assert_eq!(failed, refuse_at < sites.len() * 2);
        }
    }

    #[test]
    fn answers_that_come_twice_or_late_change_nothing() {
        let sites = sites();
        let (mut all, _) = Coallocation::begin(sites.clone());
        assert_eq!(all.held(&sites[0]), []);
        assert_eq!(all.held(&sites[0]), []);
        assert_eq!(all.held(&"x".parse().unwrap()), []);
        assert_eq!(all.unanswered().collect::<Vec<_>>(), [&sites[1], &sites[2]]);
        assert_eq!(all.abort().len(), 3);
        assert_eq!(all.held(&sites[1]), []);
        assert_eq!(all.held(&sites[2]), [], "an aborted attempt never commits");
        assert_eq!(all.abort(), []);
    }
}
