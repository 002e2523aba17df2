//! Where a NodeManager stands, and what follows from what.
//!
//! ```text
//! Idle -> Building -> Ready -> Joined -> Running -> TearingDown -> Gone
//!    \________\_________\________\__________/^                      ^
//!     \________\_________\________\__________\_____________________/   (the monitor ended it)
//! ```
//!
//! No I/O and no clock here: `step` says what follows, the handler does it. Every arrow of the
//! picture is one arm below, and an arrow that is not in the picture is a [`WrongState`].
//! SHUTDOWN, a lost CRM, a dead monitor and a dead init are one event: there is one way down.

use protocol::node::State;

/// What can happen to a NodeManager.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    SetupRequested,
    /// The sandbox stands and its keys are made.
    SandboxBuilt,
    SandboxFailed,
    KeysAsked,
    RingReceived,
    /// Every file of the key ring is in its place.
    RingInstalled,
    RunRequested,
    /// The sandbox's sshd answered with its own key.
    ServicesAnswer,
    CommandRequested,
    /// New rates of a sandbox that stands.
    RatesReceived,
    EndRequested,
    /// The monitor confirms that nothing of the sandbox is left, asked or unasked.
    SandboxRemoved,
}

/// What follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    BuildSandbox,
    TellKeys,
    InstallRing,
    StartServices,
    StartCommand,
    PassRates,
    RemoveSandbox,
    /// Say that all is gone, and exit.
    Exit,
}

/// The event is not legal now; nothing was changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{event:?} in state {state:?}")]
pub struct WrongState {
    pub state: State,
    pub event: Event,
}

/// All states, in their order.
pub const STATES: [State; 7] = [
    State::Idle,
    State::Building,
    State::Ready,
    State::Joined,
    State::Running,
    State::TearingDown,
    State::Gone,
];

/// The state after `event`, and what is to be done.
///
/// # Errors
/// `WrongState` when the event is not legal in this state.
pub fn step(state: State, event: Event) -> Result<(State, &'static [Action]), WrongState> {
    use {Action::*, Event::*, State::*};
    Ok(match (state, event) {
        (Idle, SetupRequested) => (Building, &[BuildSandbox]),
        (Building, SandboxBuilt) => (Ready, &[]),
        (Building, SandboxFailed) => (TearingDown, &[RemoveSandbox]),

        (Ready | Joined | Running, KeysAsked) => (state, &[TellKeys]),
        (Ready | Joined | Running, RingReceived) => (state, &[InstallRing]),
        (Ready, RingInstalled) => (Joined, &[]),
        (Joined | Running, RingInstalled) => (state, &[]),
        (Joined | Running, RunRequested) => (state, &[StartServices]),
        (Joined | Running, ServicesAnswer) => (Running, &[]),
        (Running, CommandRequested) => (Running, &[StartCommand]),
        (Ready | Joined | Running, RatesReceived) => (state, &[PassRates]),

        (Idle | Building | Ready | Joined | Running, EndRequested) => (TearingDown, &[RemoveSandbox]),
        (TearingDown, SandboxRemoved) => (Gone, &[Exit]),
        // The monitor ended it by itself: the Launcher died, or its lease is over.
        (Idle | Building | Ready | Joined | Running, SandboxRemoved) => (Gone, &[Exit]),

        // Late news from a node that is already going down changes nothing.
        (
            TearingDown | Gone,
            EndRequested | SandboxBuilt | SandboxFailed | RingInstalled | ServicesAnswer,
        ) => (state, &[]),
        (Gone, SandboxRemoved) => (Gone, &[]),

        (state, event) => return Err(WrongState { state, event }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 12] = [
        Event::SetupRequested,
        Event::SandboxBuilt,
        Event::SandboxFailed,
        Event::KeysAsked,
        Event::RingReceived,
        Event::RingInstalled,
        Event::RunRequested,
        Event::ServicesAnswer,
        Event::CommandRequested,
        Event::RatesReceived,
        Event::EndRequested,
        Event::SandboxRemoved,
    ];

    /// The promise to the batch system: kill us whenever you like.
    #[test]
    fn every_state_can_be_ended() {
        for state in STATES {
            let (next, _) = step(state, Event::EndRequested).unwrap();
            assert!(matches!(next, State::TearingDown | State::Gone), "{state:?} went to {next:?}");
            let (next, _) = step(next, Event::SandboxRemoved).unwrap();
            assert_eq!(next, State::Gone, "{state:?} was not confirmed");
        }
    }

    #[test]
    fn nothing_leads_back_up() {
        for state in STATES {
            for event in EVENTS {
                if let Ok((next, _)) = step(state, event) {
                    assert!(next >= state, "{event:?} led from {state:?} back to {next:?}");
                }
            }
        }
    }

    #[test]
    fn the_monitor_may_end_it_in_any_state() {
        for state in STATES {
            assert_eq!(step(state, Event::SandboxRemoved).unwrap().0, State::Gone, "from {state:?}");
        }
    }

    #[test]
    fn a_sandbox_is_built_removed_and_left_at_most_once() {
        for once in [Action::BuildSandbox, Action::RemoveSandbox, Action::Exit] {
            for state in STATES {
                for event in EVENTS {
                    let Ok((next, actions)) = step(state, event) else { continue };
                    if actions.contains(&once) {
                        // States only go up, so what changes the state cannot come twice.
                        assert!(next > state, "{once:?} on {event:?} stays in {state:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn requests_that_come_too_early_or_late_are_refused() {
        assert!(step(State::Building, Event::SetupRequested).is_err());
        assert!(step(State::Idle, Event::KeysAsked).is_err());
        assert!(step(State::Ready, Event::RunRequested).is_err());
        assert!(step(State::Building, Event::RatesReceived).is_err());
        assert!(step(State::TearingDown, Event::RatesReceived).is_err());
        assert!(step(State::Joined, Event::CommandRequested).is_err());
        assert!(step(State::TearingDown, Event::CommandRequested).is_err());
        assert!(step(State::Gone, Event::SetupRequested).is_err());
    }
}
