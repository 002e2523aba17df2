//! Windows ahead and now: granted or refused with a reason, begun in time, ended in time.

use std::time::Duration;

use protocol::client::{Reply, Request, Selector};
use protocol::ids::ReservationId;
use protocol::job::{JobState, Target};
use protocol::refusal::{Refusal, Resource};
use protocol::reservation::{Ask, Bandwidth, PairRate, Placement, Start};
use protocol::site::ToSite;

use crate::grid::*;

const BEGIN_S: u64 = BEGIN.as_secs();

pub fn now(nodes: &[(&str, u32)]) -> Ask {
    Ask { start: Start::Within { wait_s: 0 }, ..ask(nodes) }
}

pub fn at(nodes: &[(&str, u32)], in_s: u64, duration_s: u32) -> Ask {
    let start_s = BEGIN_S + in_s;
    Ask { start: Start::Between { earliest_s: start_s, latest_s: start_s }, duration_s, ..ask(nodes) }
}

fn refused(grid: &mut Grid, ask: Ask) -> Refusal {
    let id = grid.fresh_id();
    match grid.request("u", Request::Reserve { id, ask }) {
        Reply::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

fn short(grid: &mut Grid, ask: Ask) -> (Resource, u64, u64, Vec<u64>) {
    match refused(grid, ask) {
        Refusal::NoRoom { resource, asked, have, in_s } => (resource, asked, have, in_s),
        other => panic!("{other:?}"),
    }
}

fn nodes(name: &str) -> Resource {
    Resource::Nodes { site: site(name) }
}

#[test]
fn a_window_ahead_is_granted_at_once_begins_with_its_lead_and_ends_on_time() {
    let mut grid = Grid::disconnected(&[("a", 4, &["10.1.0.0/27"]), ("b", 4, &["10.1.0.0/27"])]);
    for name in ["a", "b"] {
        grid.sites.get_mut(&site(name)).unwrap().lead_s = 10;
        grid.connect(name);
    }
    let id = grid.reserve(at(&[("a", 2), ("b", 2)], 1000, 600));
    assert_eq!(grid.state(id), "booked");
    let view = grid.reservation(id);
    assert_eq!((view.starts_s, view.ends_s), (BEGIN_S + 1000, BEGIN_S + 1600));
    let early = grid.submit_in(id, job(Target::Head));
    grid.pass(Duration::from_secs(989));
    assert_eq!(grid.state(id), "booked");
    grid.pass(Duration::from_secs(4));
    assert_eq!(grid.state(id), "ready", "sandboxes and keys are there before it opens");
    assert_eq!(grid.job(early).state, JobState::Waiting, "commands are not");
    assert_eq!(grid.sent("a", |m| matches!(m, ToSite::Exec { .. })), 0);
    grid.pass(Duration::from_secs(7));
    assert_eq!(grid.job(early).state, JobState::Running);
    grid.pass(Duration::from_secs(599));
    assert_eq!(grid.state(id), "ready");
    grid.pass(Duration::from_secs(1));
    assert_eq!(grid.state(id), "ended");
    grid.assert_nothing_left();
}

#[test]
fn what_is_booked_ahead_is_kept_free_and_the_refusal_names_site_amount_and_starts() {
    let mut grid = Grid::new();
    let first = grid.reserve(at(&[("a", 3)], 100, 100));
    let (resource, asked, have, in_s) = short(&mut grid, at(&[("a", 2)], 150, 30));
    assert_eq!((resource, asked, have), (nodes("a"), 2, 1));
    assert_eq!(in_s.first(), Some(&200), "the earliest is exact: {in_s:?}");
    assert!(in_s.len() <= 3 && in_s.is_sorted());
    grid.reserve(at(&[("a", 1)], 150, 30));
    let before = grid.reserve(at(&[("a", 2)], 10, 90));
    assert_eq!(grid.state(before), "booked", "right up to it");
    let wide = Start::Between { earliest_s: BEGIN_S + 50, latest_s: BEGIN_S + 5000 };
    let id = grid.reserve(Ask { start: wide, duration_s: 60, ..ask(&[("a", 4)]) });
    assert_eq!(grid.reservation(id).starts_s, BEGIN_S + 200, "the earliest that is free");
    grid.request("u", Request::Release(Selector::Id(first)));
    let id = grid.reserve(at(&[("a", 2)], 150, 30));
    assert_eq!(grid.state(id), "booked");
}

#[test]
fn what_begins_now_is_granted_now_or_refused_now() {
    let mut grid = Grid::new();
    let first = grid.reserve(now(&[("a", 4)]));
    assert_eq!(grid.state(first), "ready");
    let (resource, asked, have, in_s) = short(&mut grid, now(&[("a", 1), ("b", 1)]));
    assert_eq!((resource, asked, have, in_s[0]), (nodes("a"), 1, 0, 3600));
    let soon = Ask { start: Start::Within { wait_s: 3600 }, ..ask(&[("a", 1)]) };
    let id = grid.reserve(soon);
    assert_eq!(grid.reservation(id).starts_s, BEGIN_S + 3600);
    let Reply::Reservations(views) = grid.request("u", Request::Reservations) else { panic!() };
    assert_eq!(views.len(), 2, "nothing of what was refused remains");
}

#[test]
fn two_for_the_last_node_one_is_granted_and_the_other_told_when() {
    let mut grid = Grid::new();
    grid.sites.get_mut(&site("a")).unwrap().mute.insert(crate::fake::Mute::Hold);
    let first = grid.fresh_id();
    let one = grid.post("u", Request::Reserve { id: first, ask: now(&[("a", 4)]) });
    let second = grid.fresh_id();
    let two = grid.post("v", Request::Reserve { id: second, ask: now(&[("a", 1)]) });
    let answer = grid.answers.get(&two).expect("the book knows, though no site has answered");
    assert!(matches!(answer, Reply::Refused(Refusal::NoRoom { in_s, .. }) if in_s[0] == 3600), "{answer:?}");
    grid.sites.get_mut(&site("a")).unwrap().mute.clear();
    grid.pass(Duration::from_secs(3));
    assert!(matches!(grid.answers.get(&one), Some(Reply::Reserved(_))));
}

#[test]
fn windows_that_cannot_be_are_refused_and_change_nothing() {
    let mut grid = Grid::new();
    grid.pass(Duration::from_secs(1000));
    let between =
        |earliest_s, latest_s| Ask { start: Start::Between { earliest_s, latest_s }, ..ask(&[("a", 1)]) };
    let year = 366 * 24 * 3600;
    let cases = [
        (between(BEGIN_S, BEGIN_S + 999), "it would begin in the past"),
        (between(BEGIN_S + 2000, BEGIN_S + 1500), "latest start lies before its earliest"),
        (between(BEGIN_S + 2000, BEGIN_S + 1001 + year), "more than 366 days ahead"),
        (between(0, u64::MAX), "more than 366 days ahead"),
        (Ask { start: Start::Within { wait_s: u32::MAX }, ..ask(&[("a", 1)]) }, "more than 366 days"),
        (Ask { duration_s: 0, ..now(&[("a", 1)]) }, "seconds"),
        (Ask { duration_s: u32::MAX, ..now(&[("a", 1)]) }, "seconds"),
        (Ask { placement: Placement::Anywhere(1_000_000), ..now(&[]) }, "at most 4096 members"),
    ];
    let records = grid.store.len();
    for (ask, sentence) in cases {
        let refusal = refused(&mut grid, ask).to_string();
        assert!(refusal.contains(sentence), "{refusal}");
    }
    assert_eq!(grid.request("u", Request::Reservations), Reply::Reservations(vec![]));
    assert!(grid.store.len() <= records + 4, "what the request alone says is not even remembered");
    grid.assert_nothing_left();
    let late = grid.reserve(between(BEGIN_S, BEGIN_S + 1000));
    assert_eq!(
        grid.reservation(late).starts_s,
        BEGIN_S + 1000,
        "a span that began in the past is what is left of it"
    );
}

fn with_rate(ask: Ask, rate_kbit: u32) -> Ask {
    Ask { bandwidth: Bandwidth::Between(rate_kbit), ..ask }
}

fn link() -> Resource {
    Resource::Link { a: site("a"), b: site("b") }
}

/// The grid's only link carries 200 Mbit/s.
#[test]
fn a_link_is_granted_up_to_its_capacity_and_the_next_is_told_when_it_is_free() {
    let mut grid = Grid::new();
    let both = |rate_kbit| with_rate(now(&[("a", 1), ("b", 1)]), rate_kbit);
    let first = grid.reserve(both(150_000));
    let second = grid.reserve(both(50_000));
    let (resource, asked, have, in_s) = short(&mut grid, both(64));
    assert_eq!((resource, asked, have, in_s[0]), (link(), 64, 0, 3600));
    let view = grid.reservation(first);
    assert_eq!(view.pairs.len(), 1);
    assert_eq!((view.pairs[0].granted_kbit, view.pairs[0].a_to_b_kbit), (150_000, None));
    for name in ["a", "b"] {
        let peers = &grid.sites[&site(name)].part(first).peers;
        let other = if name == "a" { "b" } else { "a" };
        assert_eq!((peers.len(), &peers[0].site, peers[0].rate_kbit), (1, &site(other), 150_000));
        assert_eq!(peers[0].addresses, grid.sites[&site(other)].part(first).addresses);
    }
    grid.request("u", Request::Release(Selector::Id(second)));
    grid.reserve(both(50_000));
    let free = grid.reserve(now(&[("a", 1), ("b", 1)]));
    assert_eq!(grid.state(free), "ready", "who asks for no rate is not charged");
}

#[test]
fn rates_that_no_link_carries_are_refused_at_once_whatever_the_start() {
    let mut grid = Grid::disconnected(&[
        ("a", 4, &["10.1.0.0/27"]),
        ("b", 4, &["10.1.0.0/27"]),
        ("c", 4, &["10.1.1.0/27"]),
    ]);
    ["a", "b", "c"].iter().for_each(|name| grid.connect(name));
    let pair = |a: &str, b: &str, rate_kbit| PairRate { a: site(a), b: site(b), rate_kbit };
    for start in [Start::Open, Start::Within { wait_s: 0 }] {
        let asked = |nodes: &[(&str, u32)], bandwidth| Ask { start, bandwidth, ..ask(nodes) };
        let over = asked(&[("a", 1), ("b", 1)], Bandwidth::Between(200_001));
        let (resource, amount, have, in_s) = short(&mut grid, over);
        assert_eq!((resource, amount, have, in_s), (link(), 200_001, 200_000, vec![]));
        let unknown = asked(&[("a", 1), ("c", 1)], Bandwidth::Between(1000));
        assert_eq!(refused(&mut grid, unknown), Refusal::UnknownLink { a: site("a"), b: site("c") });
        let foreign = asked(&[("a", 1), ("b", 1)], Bandwidth::Pairs(vec![pair("a", "c", 100)]));
        assert!(refused(&mut grid, foreign).to_string().contains("site c, which takes no part"));
        let itself = asked(&[("a", 1), ("b", 1)], Bandwidth::Pairs(vec![pair("a", "a", 100)]));
        assert!(refused(&mut grid, itself).to_string().contains("itself"));
        for rate_kbit in [0, 63, u32::MAX] {
            let absurd = asked(&[("a", 1), ("b", 1)], Bandwidth::Between(rate_kbit));
            assert!(matches!(refused(&mut grid, absurd), Refusal::BadRate { .. }));
        }
    }
    assert_eq!(grid.request("u", Request::Reservations), Reply::Reservations(vec![]));
    grid.assert_nothing_left();
}

/// An uplink carries the sum of its pairs.
#[test]
fn an_uplink_is_charged_with_the_sum_of_its_pairs() {
    let mut grid = Grid::disconnected(&[
        ("a", 4, &["10.1.0.0/27"]),
        ("b", 4, &["10.1.0.0/27"]),
        ("c", 4, &["10.1.1.0/27"]),
    ]);
    grid.settings.links.insert((site("a"), site("c")), 200_000);
    grid.settings.uplinks.insert(site("a"), 250_000);
    grid.restart();
    ["a", "b", "c"].iter().for_each(|name| grid.connect(name));
    let pair = |other: &str, rate_kbit| PairRate { a: site("a"), b: site(other), rate_kbit };
    let star = |rate_kbit| {
        let bandwidth = Bandwidth::Pairs(vec![pair("b", rate_kbit), pair("c", rate_kbit)]);
        Ask { bandwidth, ..now(&[("a", 1), ("b", 1), ("c", 1)]) }
    };
    let (resource, asked, have, _) = short(&mut grid, star(150_000));
    assert_eq!((resource, asked, have), (Resource::Uplink { site: site("a") }, 300_000, 250_000));
    let id: ReservationId = grid.reserve(star(125_000));
    assert_eq!(grid.state(id), "ready");
}

#[test]
fn the_proof_shows_for_every_block_its_nearest_neighbours_in_the_whole_grid() {
    let mut grid = Grid::new();
    let ids =
        [grid.reserve(ask(&[("a", 2)])), grid.reserve(ask(&[("b", 1)])), grid.reserve(ask(&[("a", 1)]))];
    let view = grid.reservation(ids[1]);
    let [proof] = view.parts[0].proof.as_slice() else { panic!("{view:?}") };
    assert_eq!(proof.block, view.parts[0].addresses[0]);
    let address = |text: &str| Some(text.parse().unwrap());
    // Both sites publish the same range: 10.1.0.1 is a machine, then come 2 and 3, 4, 5.
    assert_eq!((proof.below, proof.above), (address("10.1.0.3"), address("10.1.0.5")));
    let Reply::Reservations(views) = grid.request("u", Request::Reservations) else { panic!() };
    assert!(views.iter().flat_map(|view| &view.parts).all(|part| part.proof.is_empty()));
}
