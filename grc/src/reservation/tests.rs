//! What the machine of a reservation can and cannot do.

use super::*;

const PHASES: [Phase; 8] = [
    Phase::Waiting,
    Phase::Holding,
    Phase::Booked,
    Phase::Starting,
    Phase::Joining,
    Phase::Ready,
    Phase::Ending,
    Phase::Over,
];
const HAPPENINGS: [Happening; 9] = [
    Happening::Planned,
    Happening::TurnedDown,
    Happening::Granted,
    Happening::Near,
    Happening::AllReady,
    Happening::AllJoined,
    Happening::Broken,
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
        assert_eq!(orders.contains(&Order::End), phase.is_granted(), "{phase:?}");
    }
}

#[test]
fn over_is_final_and_nothing_goes_back_but_a_hold_turned_down_and_a_broken_incarnation() {
    for phase in PHASES {
        for happening in HAPPENINGS {
            let Ok((next, _)) = phase.step(happening) else { continue };
            if phase == Phase::Over {
                assert_eq!(next, Phase::Over);
            }
            let anew = happening == Happening::Broken && phase > Phase::Starting;
            let turned_down = (phase, happening) == (Phase::Holding, Happening::TurnedDown);
            assert_eq!(next < phase, anew || turned_down, "{phase:?} {happening:?}");
        }
    }
}

#[test]
fn a_grant_is_never_lost_but_by_its_end() {
    for phase in PHASES.into_iter().filter(|phase| phase.is_granted()) {
        for happening in HAPPENINGS {
            let Ok((next, orders)) = phase.step(happening) else { continue };
            assert!(next.is_granted() || happening == Happening::EndWanted, "{phase:?} {happening:?}");
            assert!(!orders.contains(&Order::Release));
        }
    }
}

#[test]
fn what_remains_of_a_window_never_goes_below_nothing() {
    let s = Duration::from_secs;
    let window = Window { start: s(10), end: s(20), lead: s(2), until: s(20) };
    assert_eq!(window.remaining(s(4)), Remaining { starts_in_ms: 6000, ends_in_ms: 16_000 });
    assert_eq!(window.remaining(s(15)), Remaining { starts_in_ms: 0, ends_in_ms: 5000 });
    assert_eq!(window.remaining(s(25)), Remaining { starts_in_ms: 0, ends_in_ms: 0 });
}
