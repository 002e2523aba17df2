//! Random histories: whatever users, sites and lines do, no address is held twice (checked after
//! every step by the grid), nobody is answered twice, and in the end nothing is left.

use std::time::Duration;

use proptest::prelude::*;
use protocol::client::{Reply, Request, Selector};
use protocol::ids::ReservationId;
use protocol::job::{ExitStatus, JobState, Target};
use protocol::reservation::{Placement, ReservationState};
use protocol::site::ToSite;

use crate::fake::*;
use crate::grid::*;

#[derive(Clone, Debug)]
enum Doing {
    Submit { a: u32, b: u32, all: bool },
    Anywhere(u32),
    Release(u64),
    Cancel(u64),
    Exit,
    Lose(bool),
    Connect(bool),
    Silence(bool, u8),
    Speak(bool),
    Refuse(bool),
    Pass(u64),
}

fn doing() -> impl Strategy<Value = Doing> {
    prop_oneof![
        4 => (0u32..4, 0u32..4, any::<bool>()).prop_map(|(a, b, all)| Doing::Submit { a, b, all }),
        2 => (1u32..7).prop_map(Doing::Anywhere),
        2 => (1u64..20).prop_map(Doing::Release),
        2 => (1u64..20).prop_map(Doing::Cancel),
        3 => Just(Doing::Exit),
        1 => any::<bool>().prop_map(Doing::Lose),
        2 => any::<bool>().prop_map(Doing::Connect),
        1 => (any::<bool>(), 0u8..5).prop_map(|(b, what)| Doing::Silence(b, what)),
        2 => any::<bool>().prop_map(Doing::Speak),
        1 => any::<bool>().prop_map(Doing::Refuse),
        3 => (1u64..100).prop_map(Doing::Pass),
    ]
}

fn name(b: bool) -> &'static str {
    if b { "b" } else { "a" }
}

fn perform(grid: &mut Grid, doing: Doing) {
    match doing {
        Doing::Submit { a, b, all } => {
            let nodes: Vec<_> = [("a", a), ("b", b)].into_iter().filter(|(_, n)| *n > 0).collect();
            let target = if all { Target::All } else { Target::Head };
            let id = grid.fresh_id();
            grid.request("u", Request::Submit { id, ask: ask(&nodes), job: job(target) });
        }
        Doing::Anywhere(count) => {
            let mut anywhere = ask(&[]);
            anywhere.placement = Placement::Anywhere(count);
            let id = grid.fresh_id();
            grid.request("u", Request::Reserve { id, ask: anywhere });
        }
        Doing::Release(id) => {
            grid.request("u", Request::Release(Selector::Id(ReservationId(id))));
        }
        Doing::Cancel(id) => {
            grid.request("u", Request::Cancel(Selector::Id(protocol::ids::JobId(id))));
        }
        Doing::Exit => exit_all(grid),
        Doing::Lose(b) => grid.lose(name(b)),
        Doing::Connect(b) => {
            if grid.sites[&site(name(b))].connection.is_none() {
                grid.connect(name(b));
            }
        }
        Doing::Silence(b, what) => {
            let mute = [Mute::Hold, Mute::Commit, Mute::Start, Mute::Join, Mute::End][usize::from(what)];
            grid.sites.get_mut(&site(name(b))).unwrap().mute.insert(mute);
        }
        Doing::Speak(b) => speak(grid, name(b)),
        Doing::Refuse(b) => {
            let refusal = protocol::refusal::Refusal::NodesBusy { site: site(name(b)), asked: 1, have: 0 };
            grid.sites.get_mut(&site(name(b))).unwrap().refuse = Some(refusal);
        }
        Doing::Pass(seconds) => grid.pass(Duration::from_secs(seconds)),
    }
}

/// A site that kept silent goes on: it ends what it was told to end meanwhile.
fn speak(grid: &mut Grid, name: &str) {
    let fake = grid.sites.get_mut(&site(name)).unwrap();
    fake.mute.clear();
    if fake.connection.is_none() {
        return;
    }
    // Everything that it did not answer is said again by the owner, in its own time.
}

/// Every command that ever was started, on every member, says that it ended.
fn exit_all(grid: &mut Grid) {
    for name in ["a", "b"] {
        let fake = &grid.sites[&site(name)];
        if fake.connection.is_none() {
            continue;
        }
        let started: Vec<_> = fake
            .sent
            .iter()
            .filter_map(|m| if let ToSite::Exec { job, .. } = m { Some(*job) } else { None })
            .collect();
        for job in started {
            for member in 0..4 {
                grid.exit(name, job, member, ExitStatus::Code(0));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_history_holds_an_address_twice_or_leaves_anything(
        doings in prop::collection::vec(doing(), 1..60)
    ) {
        let mut grid = Grid::new();
        for doing in doings {
            perform(&mut grid, doing);
        }
        for name in ["a", "b"] {
            if grid.sites[&site(name)].connection.is_none() {
                grid.connect(name);
            }
            speak(&mut grid, name);
        }
        let Reply::Reservations(views) = grid.request("u", Request::Reservations) else { panic!() };
        for view in views {
            grid.request("u", Request::Release(Selector::Id(view.id)));
        }
        grid.pass(Duration::from_secs(120));
        grid.assert_nothing_left();
        let Reply::Reservations(views) = grid.request("u", Request::Reservations) else { panic!() };
        for view in views {
            prop_assert!(matches!(view.state, ReservationState::Ended | ReservationState::Failed(_)));
            prop_assert_eq!(view.deadline_s, None);
        }
        let Reply::Jobs(views) = grid.request("u", Request::Jobs) else { panic!() };
        prop_assert!(views.iter().all(|view| JobState::is_final(&view.state)));
        prop_assert_eq!(grid.owner.next_wake(), None, "no timer outlives its reason");
    }
}
