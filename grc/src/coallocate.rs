//! Holding one reservation's shares at all sites and links at once: all or nothing.
//!
//! ```text
//! Asking --every site holds--> Reserving --the links hold--> Decided
//!    \                            \
//!     `--refused, late, ended------+--> Aborted
//! ```
//! Every site is asked at the same time. The network is reserved last, because its providers drop
//! a hold by their own timers while sites never do, and is committed first. The first bad answer
//! releases all. After the decision a lost share is no matter of this machine.
//!
//! A release may overtake its hold: a site that then holds and hears nothing asks, and is told.

use protocol::names::SiteName;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Asking,
    Reserving,
    Decided,
    Aborted,
}

/// The transaction of one attempt; an attempt has a version of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Coallocation {
    sites: Vec<SiteName>,
    held: Vec<bool>,
    stage: Stage,
}

impl Coallocation {
    /// Begins: every site is to be asked.
    pub fn begin(sites: Vec<SiteName>) -> Self {
        Self { held: vec![false; sites.len()], sites, stage: Stage::Asking }
    }

    /// A site holds its share; true if it completes the set, so that the network is to be
    /// reserved. Repeatable; what comes late changes nothing.
    pub fn held(&mut self, site: &SiteName) -> bool {
        if let Some(index) = self.sites.iter().position(|one| one == site) {
            self.held[index] = true;
        }
        if self.stage != Stage::Asking || !self.held.iter().all(|held| *held) {
            return false;
        }
        self.stage = Stage::Reserving;
        true
    }

    /// The links hold; true if that decides for the grant.
    pub fn network_held(&mut self) -> bool {
        let decides = self.stage == Stage::Reserving;
        if decides {
            self.stage = Stage::Decided;
        }
        decides
    }

    /// Somebody refused or did not answer in time; true if everybody is to be told to release,
    /// also those whose answer is still on its way.
    pub fn abort(&mut self) -> bool {
        let undecided = matches!(self.stage, Stage::Asking | Stage::Reserving);
        if undecided {
            self.stage = Stage::Aborted;
        }
        undecided
    }

    /// Whether the answer of this site is still waited for.
    pub fn waits_for(&self, site: &SiteName) -> bool {
        self.stage == Stage::Asking && self.unanswered().any(|one| one == site)
    }

    /// Sites that have not answered yet, in the order of the parts.
    pub fn unanswered(&self) -> impl Iterator<Item = &SiteName> {
        self.sites.iter().zip(&self.held).filter(|(_, held)| !**held).map(|(site, _)| site)
    }

    pub fn sites(&self) -> &[SiteName] {
        &self.sites
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites() -> Vec<SiteName> {
        ["a", "b", "c"].map(|site| site.parse().unwrap()).to_vec()
    }

    /// Refuse the n-th answer, for every n (three sites, then the network), and demand that what
    /// was held by then is what a release to all takes back.
    #[test]
    fn failure_of_any_answer_leaves_nothing_reserved() {
        let sites = sites();
        for refuse_at in 0..=sites.len() + 1 {
            let mut all = Coallocation::begin(sites.clone());
            let (mut reserved, mut granted) = (Vec::new(), false);
            let mut answers = 0;
            let mut refuse = |all: &mut Coallocation, reserved: &mut Vec<String>| {
                answers += 1;
                if answers - 1 == refuse_at {
                    assert!(all.abort(), "undecided until the last answer");
                    reserved.clear();
                    return true;
                }
                false
            };
            for site in &sites {
                if refuse(&mut all, &mut reserved) {
                    continue;
                }
                if all.held(site) {
                    assert!(reserved.len() == 2, "the network comes last");
                    if !refuse(&mut all, &mut reserved) {
                        reserved.push("network".into());
                        granted = all.network_held();
                    }
                }
                if !all.clone().abort() && !granted {
                    continue; // Aborted: a hold that comes now is released by the same word.
                }
                reserved.push(site.to_string());
            }
            assert_eq!(granted, refuse_at > sites.len(), "after refusing answer {refuse_at}");
            assert_eq!(reserved.len(), if granted { 4 } else { 0 }, "{reserved:?}");
        }
    }

    #[test]
    fn answers_that_come_twice_or_late_change_nothing() {
        let sites = sites();
        let mut all = Coallocation::begin(sites.clone());
        assert!(!all.held(&sites[0]));
        assert!(!all.held(&sites[0]));
        assert!(!all.held(&"x".parse().unwrap()));
        assert!(!all.network_held(), "not before every site holds");
        assert_eq!(all.unanswered().collect::<Vec<_>>(), [&sites[1], &sites[2]]);
        assert!(all.waits_for(&sites[1]) && !all.waits_for(&sites[0]));
        let mut granted = all.clone();
        assert!(all.abort());
        assert!(!all.held(&sites[1]));
        assert!(!all.held(&sites[2]), "an aborted attempt never decides");
        assert!(!all.network_held());
        assert!(!all.abort());
        assert!(!granted.held(&sites[1]) && granted.held(&sites[2]) && granted.network_held());
        assert!(!granted.abort(), "a decision stands");
        assert!(!granted.network_held());
    }
}
