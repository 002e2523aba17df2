use proptest::prelude::*;

use super::*;

const EVENTS: [Event; 23] = {
    use Event::*;
    [
        Committed,
        Arrived,
        SandboxBuilt,
        KeysGiven,
        JoinAsked,
        KeysInstalled,
        ServicesUp,
        EndAsked,
        SandboxGone,
        SandboxDirty,
        AgentLost,
        BatchGone,
        TurnedBack,
        TimeOver,
        Swept,
        NotSwept,
        Returned(node::State::Idle),
        Returned(node::State::Building),
        Returned(node::State::Ready),
        Returned(node::State::Joined),
        Returned(node::State::Running),
        Returned(node::State::TearingDown),
        Returned(node::State::Gone),
    ]
};

/// A cancel makes the token void.
#[test]
fn whoever_is_not_awaited_any_more_has_no_token() {
    for start in [State::Held, State::Submitted] {
        for over in [Event::EndAsked, Event::TimeOver] {
            assert!(start.step(over).1.contains(&Do::Cancel), "{start:?} {over:?}");
        }
    }
}

/// A lost connection alone gives nothing back and lets nothing be built again.
#[test]
fn who_is_away_keeps_what_he_has_until_his_end_is_confirmed() {
    let connected = State::ALL.into_iter().filter(|state| state.has_agent());
    for start in connected {
        let (away, follows) = start.step(Event::AgentLost);
        assert_eq!((away, follows.is_empty()), (State::Away, true), "from {start:?}");
        let (over, follows) = away.step(Event::TimeOver);
        assert_eq!((over, follows), (State::Cancelling, &[Do::Cancel][..]));
        for event in EVENTS {
            let (next, follows) = away.step(event);
            assert!(!follows.contains(&Do::Release), "{event:?}");
            assert_eq!(follows.contains(&Do::SetUp), event == Event::Returned(node::State::Idle));
            assert!(next != State::Gone, "{event:?}");
        }
    }
}

/// The promise to the GRC: `End` is always answered, whoever stays silent.
#[test]
fn every_state_can_be_ended() {
    for start in State::ALL {
        let (mut state, _) = start.step(Event::EndAsked);
        for _ in 0..4 {
            if state.is_settled() {
                break;
            }
            state = state.step(Event::TimeOver).0;
        }
        assert!(state.is_settled(), "{start:?} came to rest in {state:?}");
    }
}

/// A pilot that the batch system says is gone does not keep its node, from wherever it was.
#[test]
fn every_state_ends_clean_when_everybody_answers() {
    for start in State::ALL {
        let mut state = start.step(Event::EndAsked).0;
        for event in [Event::AgentLost, Event::BatchGone, Event::Swept] {
            state = state.step(event).0;
        }
        // Dirty waits for its next sweep, which is asked for by time.
        assert_eq!(state, State::Gone, "from {start:?}");
    }
}

proptest! {
    #[test]
    fn node_and_address_are_given_back_exactly_once(events in prop::collection::vec(0..EVENTS.len(), 0..60)) {
        let mut state = State::Held;
        let mut released = 0;
        for event in events {
            let (next, follows) = state.step(EVENTS[event]);
            released += follows.iter().filter(|d| **d == Do::Release).count();
            prop_assert_eq!(next == State::Gone, released == 1);
            prop_assert!(state != State::Gone || (next == State::Gone && follows.is_empty()));
            // Nothing comes back to life.
            prop_assert!(state < State::Stopping || next >= State::Stopping);
            state = next;
        }
    }

    #[test]
    fn a_repeated_event_starts_nothing_twice(events in prop::collection::vec(0..EVENTS.len(), 0..60)) {
        let mut state = State::Held;
        for event in events {
            state = state.step(EVENTS[event]).0;
            let (_, again) = state.step(EVENTS[event]);
            prop_assert!(!again.contains(&Do::Submit) && !again.contains(&Do::SetUp));
        }
    }
}
