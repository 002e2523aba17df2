//! Who of a part is where: the pilots of one part and how far they are together.
//!
//! The counts are kept beside the pilots, so that asking whether a barrier is reached costs the
//! same for four members and for four thousand.

use protocol::ids::MemberNumber;
use protocol::keys::{KeyRing, Member};
use protocol::names::SiteName;
use protocol::reservation::Progress;
use protocol::site::ReadyMember;

use crate::pilot::{Do, Event, Pilot, State};

/// The pilots of one part; a pilot's place is its member number.
#[derive(Clone, Debug)]
pub struct Roster {
    pilots: Vec<Pilot>,
    counts: [u32; State::ALL.len()],
}

/// One step that a pilot made.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    pub before: State,
    pub after: State,
    pub follows: &'static [Do],
}

impl Roster {
    pub fn new(pilots: Vec<Pilot>) -> Self {
        let mut counts = [0; State::ALL.len()];
        for pilot in &pilots {
            counts[pilot.state as usize] += 1;
        }
        Self { pilots, counts }
    }

    pub fn len(&self) -> u32 {
        self.pilots.len() as u32
    }

    pub fn is_empty(&self) -> bool {
        self.pilots.is_empty()
    }

    pub fn pilots(&self) -> &[Pilot] {
        &self.pilots
    }

    pub fn into_pilots(self) -> Vec<Pilot> {
        self.pilots
    }

    pub fn get(&self, member: MemberNumber) -> Option<&Pilot> {
        self.pilots.get(member as usize)
    }

    /// For everything but the state, which only [`Self::step`] changes.
    pub fn get_mut(&mut self, member: MemberNumber) -> Option<&mut Pilot> {
        self.pilots.get_mut(member as usize)
    }

    /// Lets something happen to one pilot.
    pub fn step(&mut self, member: MemberNumber, event: Event) -> Option<Made> {
        let pilot = self.pilots.get_mut(member as usize)?;
        let before = pilot.state;
        let (after, follows) = before.step(event);
        pilot.state = after;
        self.counts[before as usize] -= 1;
        self.counts[after as usize] += 1;
        Some(Made { before, after, follows })
    }

    fn count(&self, from: State, to: State) -> u32 {
        self.counts[from as usize..=to as usize].iter().sum()
    }

    /// First barrier: every sandbox stands and every key is there. Those of before a restart may be
    /// further than that.
    pub fn all_ready(&self) -> bool {
        self.count(State::Ready, State::Running) == self.len()
    }

    /// Second barrier: every sshd answers.
    pub fn all_running(&self) -> bool {
        self.count(State::Running, State::Running) == self.len()
    }

    /// Nothing more is waited for.
    pub fn all_settled(&self) -> bool {
        self.count(State::Stuck, State::Gone) == self.len()
    }

    /// How far the part is; pilots that are ending no longer count.
    pub fn progress(&self) -> Progress {
        Progress {
            wanted: self.len(),
            submitted: self.count(State::Submitted, State::Away),
            arrived: self.count(State::Building, State::Away),
            built: self.count(State::Ready, State::Running),
            joined: self.count(State::Running, State::Running),
        }
    }

    /// The list for `SiteReady`; `None` while a key is missing.
    pub fn ready_members(&self) -> Option<Vec<ReadyMember>> {
        self.pilots
            .iter()
            .map(|pilot| {
                Some(ReadyMember {
                    number: pilot.id.member,
                    node: pilot.node_name().clone(),
                    address: pilot.address,
                    keys: pilot.keys?,
                })
            })
            .collect()
    }

    /// Whether the merged view says of this site's members what this site said: a ring that
    /// leaves one out, moves it or changes its keys is not installed.
    ///
    /// # Errors
    /// What is wrong with it, in a few words.
    pub fn check_ring(&self, site: &SiteName, ring: &KeyRing) -> Result<(), String> {
        let mut seen = vec![false; self.pilots.len()];
        for Member { host, address, keys, .. } in &ring.members {
            if host.site != *site {
                continue;
            }
            let pilot = self.get(host.number).ok_or_else(|| format!("{host} is no member of this part"))?;
            if pilot.address != *address || pilot.keys.as_ref() != Some(keys) {
                return Err(format!("address or keys of {host} are not what this site reported"));
            }
            if std::mem::replace(&mut seen[host.number as usize], true) {
                return Err(format!("{host} is there twice"));
            }
        }
        match seen.iter().position(|seen| !seen) {
            Some(missing) => Err(format!("{site}-{missing} is missing")),
            None => Ok(()),
        }
    }
}
