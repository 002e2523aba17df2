//! One reservation: its machine and what is known of it.
//!
//! ```text
//!    ,--busy after all--.
//!    v                  |
//! Waiting --planned--> Holding --all held--> Starting --all ready--> Joining --all joined--> Ready
//!    \                   \                     \                       \                     /
//!     \                   \                     `-------end wanted------+-------------------'
//!      \                   \                                    v
//!       `----end wanted-----+--------------------> Over <-- Ending (every part confirms, or is
//!                                                           quarantined, or the deadline passes)
//! ```
//! Release, cancel, failure, a lost site and the end of the time are one event, so there is one
//! way down. `Over` is shown as `ended`, or as `failed` with its reason.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::ids::{Epoch, JobId, ReservationId};
use protocol::names::{SiteName, Text, UserName};
use protocol::refusal::{Failure, Refusal};
use protocol::reservation::{AddressBlock, Ask, Progress};
use protocol::site::ReadyMember;

use crate::coallocate::Coallocation;

/// Where a reservation stands; drawn above.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Phase {
    Waiting,
    Holding,
    Starting,
    Joining,
    Ready,
    Ending,
    Over,
}

/// What can happen to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Happening {
    /// Sites with room and addresses were found.
    Planned,
    /// A site had no room after all.
    TurnedDown,
    AllHeld,
    AllReady,
    AllJoined,
    EndWanted,
    /// Every part has confirmed its end, or will not within the deadline.
    AllEnded,
}

/// What the owner does on an arrow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// Ask all sites to hold; addresses are taken.
    Hold,
    /// Give all holds and their addresses back.
    Release,
    Commit,
    /// Merge the reports and send the key ring to all sites.
    Join,
    /// Start the jobs that wait for it.
    StartJobs,
    /// Tell all sites to end; addresses come back as they confirm.
    End,
    /// Answer who waits for it.
    Conclude,
}

/// An event that has no arrow from this phase.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{happening:?} cannot happen in {phase:?}")]
pub struct WrongPhase {
    pub phase: Phase,
    pub happening: Happening,
}

impl Phase {
    /// Every arrow of the picture is one arm.
    pub fn step(self, happening: Happening) -> Result<(Self, &'static [Order]), WrongPhase> {
        use Happening::*;
        use Phase::*;
        Ok(match (self, happening) {
            (Waiting, Planned) => (Holding, &[Order::Hold]),
            (Holding, TurnedDown) => (Waiting, &[Order::Release]),
            (Holding, AllHeld) => (Starting, &[Order::Commit]),
            (Starting, AllReady) => (Joining, &[Order::Join]),
            (Joining, AllJoined) => (Ready, &[Order::StartJobs]),

            (Waiting, EndWanted) => (Over, &[Order::Conclude]),
            (Holding, EndWanted) => (Over, &[Order::Release, Order::Conclude]),
            (Starting | Joining | Ready, EndWanted) => (Ending, &[Order::End]),
            (Ending, AllEnded) => (Over, &[Order::Conclude]),
            (Ending | Over, EndWanted) => (self, &[]),

            (phase, happening) => return Err(WrongPhase { phase, happening }),
        })
    }

    /// Whether sites hold or have granted something for it.
    pub fn is_granted(self) -> bool {
        matches!(self, Self::Starting | Self::Joining | Self::Ready | Self::Ending)
    }
}

/// How far one part is. Each includes the earlier ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum PartStage {
    Asked,
    Held,
    Ready,
    Joined,
    /// Confirmed by the site, or its site was lost: nothing more is expected of it.
    Ended,
}

/// One site's share.
#[derive(Clone, Debug)]
pub struct PartState {
    pub site: SiteName,
    pub members: u32,
    pub carve: Vec<AddressBlock>,
    pub stage: PartStage,
    pub progress: Progress,
    /// What the site reported, checked and in order; empty before.
    pub ready: Vec<ReadyMember>,
}

/// A reservation with everything that the owner knows of it. Times are since the owner's start.
#[derive(Clone, Debug)]
pub struct Reservation {
    pub id: ReservationId,
    pub user: UserName,
    pub ask: Ask,
    /// The job that it was made for and ends with.
    pub own_job: Option<JobId>,
    /// Jobs that are not over, oldest first.
    pub jobs: BTreeSet<JobId>,
    pub made: Duration,
    /// Fences messages of earlier attempts; a new one with every attempt to hold.
    pub epoch: Epoch,
    pub attempts: u32,
    pub phase: Phase,
    /// Chosen with each attempt; empty while it waits.
    pub parts: Vec<PartState>,
    pub holding: Option<Coallocation>,
    pub failure: Option<Failure>,
    /// By when the phase must be left.
    pub deadline: Option<Duration>,
    /// End of the window, counted from the commit.
    pub ends: Option<Duration>,
    /// No new attempt before this: a site's word and its offer disagreed.
    pub not_before: Duration,
    /// Why it waits.
    pub waits_for: Option<Refusal>,
    /// Nodes that sites keep away from new pilots because of it.
    pub dirty: Vec<Text>,
    pub ended: Option<Duration>,
}

impl Reservation {
    pub fn part(&self, site: &SiteName) -> Option<&PartState> {
        self.parts.iter().find(|part| part.site == *site)
    }

    pub fn part_mut(&mut self, site: &SiteName) -> Option<&mut PartState> {
        self.parts.iter_mut().find(|part| part.site == *site)
    }

    /// Whether every part is at least this far.
    pub fn all_parts(&self, stage: PartStage) -> bool {
        self.parts.iter().all(|part| part.stage >= stage)
    }

    /// The first site that is not as far as `stage`: who is named when a deadline passes.
    pub fn laggard(&self, stage: PartStage) -> Option<&PartState> {
        self.parts.iter().find(|part| part.stage < stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 7] = [
        Phase::Waiting,
        Phase::Holding,
        Phase::Starting,
        Phase::Joining,
        Phase::Ready,
        Phase::Ending,
        Phase::Over,
    ];
    const HAPPENINGS: [Happening; 7] = [
        Happening::Planned,
        Happening::TurnedDown,
        Happening::AllHeld,
        Happening::AllReady,
        Happening::AllJoined,
        Happening::EndWanted,
        Happening::AllEnded,
    ];

    #[test]
    fn every_phase_can_be_ended_and_ending_twice_is_harmless() {
        for phase in PHASES {
            let (next, orders) = phase.step(Happening::EndWanted).unwrap();
            assert!(matches!(next, Phase::Ending | Phase::Over), "{phase:?} went to {next:?}");
            let (again, _) = next.step(Happening::EndWanted).unwrap();
            assert_eq!(again, next);
            assert_eq!(orders.contains(&Order::Release), phase == Phase::Holding);
            let granted = matches!(phase, Phase::Starting | Phase::Joining | Phase::Ready);
            assert_eq!(orders.contains(&Order::End), granted, "{phase:?}");
        }
    }

    #[test]
    fn over_is_final_and_nothing_goes_back_but_a_hold_turned_down() {
        for phase in PHASES {
            for happening in HAPPENINGS {
                let Ok((next, _)) = phase.step(happening) else { continue };
                if phase == Phase::Over {
                    assert_eq!(next, Phase::Over);
                }
                let back = next < phase;
                assert_eq!(back, (phase, happening) == (Phase::Holding, Happening::TurnedDown));
            }
        }
    }
}
