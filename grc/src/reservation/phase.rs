//! The machine of one reservation.
//!
//! ```text
//!    ,-- turned down --.                                     ,------------- broken -------------.
//!    v                 |                                     v                                  |
//! Waiting --planned--> Holding --granted--> Booked --near--> Starting --all ready--> Joining ---+
//!    |                   |                    |                |          all joined |          |
//!    |                   |                    |                |                     v          |
//!    |                   |                    |                |                   Ready -------'
//!    |                   |                    `---end wanted---+---------------------'
//!    |                   |                                     v
//!    `----end wanted-----+------------------> Over <-------- Ending (every part confirms, or the
//!                                                            deadline passes and the rest is owed)
//! ```
//! Release, cancel, failure and the end of the window are one event, so there is one way down.
//! *Broken* is an incarnation that failed while the grant stands: the next epoch begins anew. A
//! change of the grant is an [`super::Attempt`] beside the phase. `Over` is shown as `ended`, or as
//! `failed` with its reason.

/// Where a reservation stands; drawn above.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Phase {
    Waiting,
    Holding,
    Booked,
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
    /// A site or link had no room after all, or a site did not answer in time.
    TurnedDown,
    /// Everybody holds, and that is durable.
    Granted,
    /// The window begins soon: pilots may come.
    Near,
    AllReady,
    AllJoined,
    /// Its sandboxes are lost, the grant is not.
    Broken,
    EndWanted,
    /// Every part has confirmed its end, or will not within the deadline.
    AllEnded,
}

/// What the owner does on an arrow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// Give all holds and what they took back.
    Release,
    /// Merge the reports and send the key ring to all sites.
    Join,
    /// Start the jobs that wait for it, once the window has begun.
    StartJobs,
    /// Order the next incarnation after a pause.
    BeginAnew,
    /// Tell all sites to end; what they have comes back as they confirm.
    End,
    /// It is history.
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
            (Waiting, Planned) => (Holding, &[]),
            (Holding, TurnedDown) => (Waiting, &[Order::Release]),
            (Holding, Granted) => (Booked, &[]),
            (Booked, Near) => (Starting, &[]),
            (Starting, AllReady) => (Joining, &[Order::Join]),
            (Joining, AllJoined) => (Ready, &[Order::StartJobs]),
            (Booked | Starting | Joining | Ready, Broken) => (Starting, &[Order::BeginAnew]),

            (Waiting, EndWanted) => (Over, &[Order::Conclude]),
            (Holding, EndWanted) => (Over, &[Order::Release, Order::Conclude]),
            (Booked | Starting | Joining | Ready, EndWanted) => (Ending, &[Order::End]),
            (Ending, AllEnded) => (Over, &[Order::Conclude]),
            (Ending | Over, EndWanted) => (self, &[]),

            (phase, happening) => return Err(WrongPhase { phase, happening }),
        })
    }

    /// Whether the user has the grant: sites keep a share for it until the window's end.
    pub fn is_granted(self) -> bool {
        matches!(self, Self::Booked | Self::Starting | Self::Joining | Self::Ready)
    }
}
