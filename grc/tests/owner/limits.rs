//! What one user may have at a time: refused by its name with the limit, or waited for; and not in
//! the way of anybody else.

use std::time::Duration;

use grc::coordinator::{Coordinator, SiteLimits};
use protocol::client::{Reply, Request, Selector};
use protocol::ids::ReservationId;
use protocol::refusal::Refusal;
use protocol::reservation::{Ask, Bandwidth, Change, Placement, Start};

use crate::grid::*;
use crate::windows::{at, now};

/// Two sites of four nodes under these limits.
fn limited(change: impl FnOnce(&mut grc::coordinator::Limits)) -> Grid {
    let mut grid = Grid::disconnected(&[("a", 4, &["10.1.0.0/27"]), ("b", 4, &["10.1.0.0/27"])]);
    change(&mut grid.settings.limits);
    grid.owner = Coordinator::new(grid.settings.clone());
    grid.connect("a");
    grid.connect("b");
    grid
}

fn asked(grid: &mut Grid, user: &str, ask: Ask) -> Result<ReservationId, Refusal> {
    let id = grid.fresh_id();
    match grid.request(user, Request::Reserve { id, ask }) {
        Reply::Reserved(id) => Ok(id),
        Reply::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

/// What is over which limit, as far as the refusal says it.
fn over(refused: Result<ReservationId, Refusal>) -> (String, u64, u64) {
    match refused.unwrap_err() {
        Refusal::OverUserLimit { what, asked, limit } => (what.to_string(), asked, limit),
        other => panic!("{other}"),
    }
}

fn anywhere(nodes: u32, start: Start) -> Ask {
    Ask { placement: Placement::Anywhere(nodes), start, ..ask(&[]) }
}

const NODES: &str = "nodes at once would be yours";

#[test]
fn nodes_at_once_are_counted_over_all_sites_and_over_time() {
    let mut grid = limited(|limits| limits.nodes = 4);
    assert_eq!(over(asked(&mut grid, "u", now(&[("a", 3), ("b", 2)]))), (NODES.into(), 5, 4));
    assert_eq!(
        over(asked(&mut grid, "u", ask(&[("a", 3), ("b", 2)]))),
        (NODES.into(), 5, 4),
        "waiting heals nothing"
    );
    let first = asked(&mut grid, "u", now(&[("a", 3)])).unwrap();
    assert_eq!(over(asked(&mut grid, "u", now(&[("b", 2)]))), (NODES.into(), 5, 4));
    asked(&mut grid, "u", now(&[("b", 1)])).unwrap();
    asked(&mut grid, "v", now(&[("b", 3)])).unwrap();
    // When the first is over there is room: at that very second, and not before.
    let later = at(&[("a", 3)], 3600, 60);
    asked(&mut grid, "u", later).unwrap();
    assert_eq!(over(asked(&mut grid, "u", at(&[("a", 1)], 3599, 60))).1, 5);
    assert_eq!(grid.state(first), "ready");
}

#[test]
fn what_may_begin_later_begins_when_its_users_own_things_are_over() {
    let mut grid = limited(|limits| limits.nodes = 2);
    asked(&mut grid, "u", now(&[("a", 2)])).unwrap();
    let within = Ask { start: Start::Within { wait_s: 4000 }, ..ask(&[("b", 2)]) };
    let id = asked(&mut grid, "u", within.clone()).unwrap();
    assert_eq!(grid.reservation(id).starts_s, BEGIN.as_secs() + 3600);
    assert_eq!(over(asked(&mut grid, "u", within)).1, 4, "the next is too late");
    // Of its own accord, when the other is released; until then `explain` names the limit.
    let mut grid = limited(|limits| limits.nodes = 2);
    let first = asked(&mut grid, "u", now(&[("a", 2)])).unwrap();
    let waits = asked(&mut grid, "u", ask(&[("b", 2)])).unwrap();
    assert_eq!(grid.state(waits), "waiting");
    let Reply::Explained(why) = grid.request("u", Request::ExplainReservation(Selector::Id(waits))) else {
        panic!()
    };
    assert!(why.reasons.iter().any(|reason| reason.as_str().contains(NODES)), "{why:?}");
    let others = asked(&mut grid, "v", ask(&[("b", 2)])).unwrap();
    grid.request("u", Request::Release(Selector::Id(first)));
    assert_eq!(grid.state(waits), "ready");
    let Reply::Reservation(view) = grid.request("v", Request::ShowReservation(Selector::Id(others))) else {
        panic!()
    };
    assert_eq!(view.state.to_string(), "ready", "another user was never in the way");
    // Or by the clock.
    let waits = asked(&mut grid, "u", ask(&[("a", 2)])).unwrap();
    assert_eq!(grid.state(waits), "waiting");
    grid.pass(Duration::from_secs(3700));
    assert_eq!(grid.state(waits), "ready");
}

#[test]
fn many_asks_at_the_same_time_do_not_pass_the_limit_together() {
    let mut grid = limited(|limits| limits.nodes = 2);
    for name in ["a", "b"] {
        grid.sites.get_mut(&site(name)).unwrap().mute.insert(crate::fake::Mute::Hold);
    }
    let ids: Vec<_> = (0..4).map(|_| grid.fresh_id()).collect();
    let id = ids[0];
    let open = grid.post("u", Request::Reserve { id, ask: now(&[("a", 2)]) });
    assert!(!grid.answers.contains_key(&open), "nobody has answered it yet");
    assert_eq!(over(asked(&mut grid, "u", now(&[("b", 1)]))), (NODES.into(), 3, 2));
}

#[test]
fn a_site_may_be_open_to_some_and_give_each_so_much() {
    let mut grid = limited(|limits| {
        let users = Some(["v".parse().unwrap()].into());
        limits.sites.insert(site("a"), SiteLimits { users, nodes: None });
        limits.sites.insert(site("b"), SiteLimits { users: None, nodes: Some(2) });
    });
    let closed = Refusal::SiteNotForUser { site: site("a"), user: "u".parse().unwrap() };
    for ask in [ask(&[("a", 1)]), now(&[("a", 1)]), now(&[("b", 1), ("a", 1)])] {
        assert_eq!(asked(&mut grid, "u", ask), Err(closed.clone()));
    }
    let at_b = "nodes at once at site b would be yours";
    assert_eq!(over(asked(&mut grid, "u", now(&[("b", 3)]))), (at_b.into(), 3, 2));
    let first = asked(&mut grid, "u", anywhere(1, Start::Within { wait_s: 0 })).unwrap();
    assert_eq!(grid.reservation(first).parts[0].site, site("b"), "a free choice knows what is open");
    assert_eq!(over(asked(&mut grid, "u", now(&[("b", 2)]))), (at_b.into(), 3, 2));
    asked(&mut grid, "v", now(&[("a", 4), ("b", 2)])).unwrap();
    asked(&mut grid, "u", now(&[("b", 1)])).unwrap();
}

#[test]
fn a_free_choice_spreads_over_sites_rather_than_pass_a_sites_limit() {
    let mut grid = limited(|limits| {
        let few = SiteLimits { users: None, nodes: Some(3) };
        limits.sites = [(site("a"), few.clone()), (site("b"), few)].into();
    });
    let at_once = Start::Within { wait_s: 0 };
    asked(&mut grid, "u", now(&[("a", 1)])).unwrap();
    let id = asked(&mut grid, "u", anywhere(5, at_once)).unwrap();
    let mut parts: Vec<_> =
        grid.reservation(id).parts.iter().map(|p| (p.site.to_string(), p.nodes)).collect();
    parts.sort();
    assert_eq!(parts, [("a".to_owned(), 2), ("b".to_owned(), 3)]);
    assert_eq!(over(asked(&mut grid, "u", anywhere(1, at_once))).2, 3);
}

#[test]
fn bandwidth_at_once_is_the_sum_of_all_rates() {
    let mut grid = limited(|limits| limits.rate_kbit = 100_000);
    let rated = |kbit| Ask { bandwidth: Bandwidth::Between(kbit), ..now(&[("a", 1), ("b", 1)]) };
    let rate = "kbit/s at once would be yours";
    assert_eq!(over(asked(&mut grid, "u", rated(100_001))), (rate.into(), 100_001, 100_000));
    let id = asked(&mut grid, "u", rated(60_000)).unwrap();
    assert_eq!(over(asked(&mut grid, "u", rated(40_001))).1, 100_001);
    asked(&mut grid, "v", rated(50_000)).unwrap();
    asked(&mut grid, "u", rated(30_000)).unwrap();
    let change = Change { bandwidth: Some(Bandwidth::Between(70_001)), ..Change::default() };
    let request = grid.fresh_id();
    let refused = grid.request("u", Request::Modify { id: request, reservation: id, change });
    assert!(matches!(refused, Reply::Refused(Refusal::OverUserLimit { asked: 100_001, .. })), "{refused:?}");
    let change = Change { bandwidth: Some(Bandwidth::Between(70_000)), ..Change::default() };
    let request = grid.fresh_id();
    let done = grid.request("u", Request::Modify { id: request, reservation: id, change });
    assert!(
        matches!(done, Reply::Modified { .. }),
        "its own old rate does not count beside the new: {done:?}"
    );
}

#[test]
fn how_far_ahead_and_how_many_is_limited() {
    let day = 24 * 3600;
    let mut grid = limited(|limits| (limits.horizon_s, limits.reservations) = (2 * day, 2));
    let ahead = "days ahead it may begin";
    assert_eq!(over(asked(&mut grid, "u", at(&[("a", 1)], 2 * day + 1, 60))), (ahead.into(), 3, 2));
    let wide = Start::Between { earliest_s: 0, latest_s: BEGIN.as_secs() + 5 * day };
    assert_eq!(over(asked(&mut grid, "u", Ask { start: wide, ..ask(&[("a", 1)]) })).1, 5);
    asked(&mut grid, "u", at(&[("a", 1)], 2 * day, 60)).unwrap();
    asked(&mut grid, "u", ask(&[("a", 1)])).unwrap();
    let refused = asked(&mut grid, "u", ask(&[("a", 1)])).unwrap_err();
    assert!(matches!(refused, Refusal::TooMany { count: 2, .. }), "{refused}");
}

#[test]
fn limits_hold_over_a_restart_and_new_ones_from_it_on() {
    let mut grid = limited(|limits| limits.nodes = 3);
    asked(&mut grid, "u", now(&[("a", 2)])).unwrap();
    let waits = asked(&mut grid, "u", ask(&[("b", 2)])).unwrap();
    grid.restart();
    grid.connect("a");
    grid.connect("b");
    assert_eq!(over(asked(&mut grid, "u", now(&[("b", 2)]))), (NODES.into(), 4, 3));
    assert_eq!(grid.state(waits), "waiting");
    grid.settings.limits.nodes = 4;
    grid.settings.limits.sites.insert(site("b"), SiteLimits { users: Some([].into()), nodes: None });
    grid.restart();
    grid.connect("a");
    grid.connect("b");
    assert_eq!(grid.state(waits), "waiting", "the site is not open to its user any more");
    grid.settings.limits.sites.clear();
    grid.restart();
    grid.connect("a");
    grid.connect("b");
    assert_eq!(grid.state(waits), "ready");
}

#[test]
fn what_a_user_has_at_a_site_that_was_closed_to_him_he_keeps_but_gets_no_more_of() {
    let mut grid = limited(|_| ());
    let running = asked(&mut grid, "u", now(&[("a", 2), ("b", 2)])).unwrap();
    let later = asked(&mut grid, "u", at(&[("a", 1), ("b", 1)], 4000, 600)).unwrap();
    let nobody = SiteLimits { users: Some([].into()), nodes: None };
    grid.settings.limits.sites.insert(site("b"), nobody);
    grid.restart();
    grid.connect("a");
    grid.connect("b");
    let mut change = |reservation, change| {
        let id = grid.fresh_id();
        grid.request("u", Request::Modify { id, reservation, change })
    };
    let lasts = |duration_s| Change { duration_s: Some(duration_s), ..Change::default() };
    let nodes = |a, b| Change {
        placement: Some(Placement::Sites(vec![(site("a"), a), (site("b"), b)])),
        ..Change::default()
    };
    let closed = Reply::Refused(Refusal::SiteNotForUser { site: site("b"), user: "u".parse().unwrap() });
    assert_eq!(change(running, lasts(3700)), closed);
    assert_eq!(change(later, nodes(1, 2)), closed);
    for (id, less) in [(running, lasts(3000)), (later, nodes(2, 1))] {
        let done = change(id, less);
        assert!(matches!(done, Reply::Modified { .. }), "{done:?}");
    }
}
