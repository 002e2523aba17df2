//! Changes of a grant: the new one holds everywhere, or the old one stands as it was.

use std::time::Duration;

use protocol::client::{Reply, Request, Selector};
use protocol::ids::{Epoch, RequestId, ReservationId, Version};
use protocol::job::{JobState, Target};
use protocol::refusal::{Refusal, Resource, Step};
use protocol::reservation::{Ask, Bandwidth, Change, Placement};
use protocol::site::{FromSite, ToSite};

use crate::fake::*;
use crate::grid::*;
use crate::windows::{at, now};

fn modify(grid: &mut Grid, reservation: ReservationId, change: Change) -> Reply {
    let id = grid.fresh_id();
    grid.request("u", Request::Modify { id, reservation, change })
}

fn longer(duration_s: u32) -> Change {
    Change { duration_s: Some(duration_s), ..Change::default() }
}

fn faster(rate_kbit: u32) -> Change {
    Change { bandwidth: Some(Bandwidth::Between(rate_kbit)), ..Change::default() }
}

fn modified(reservation: ReservationId, version: u32) -> Reply {
    Reply::Modified { reservation, version: Version(version) }
}

/// What the book has taken at a site in a second of its first layer.
fn taken(grid: &Grid, name: &str, second: u64) -> u64 {
    let layers = grid.owner.book().layers().filter(|(site, layer, ..)| (site.as_str(), *layer) == (name, 0));
    let window = capacity::Window::lasting(second, 1).unwrap();
    layers.map(|(.., used)| used.max(window)).sum()
}

#[test]
fn time_and_rate_change_in_place_while_it_runs() {
    let mut grid = Grid::new();
    let ask = Ask { bandwidth: Bandwidth::Between(100_000), ..now(&[("a", 2), ("b", 2)]) };
    let id = grid.reserve(ask);
    let running = grid.submit_in(id, job(Target::All));
    let before = grid.reservation(id);
    assert_eq!(modify(&mut grid, id, longer(7200)), modified(id, 2));
    assert_eq!(modify(&mut grid, id, faster(150_000)), modified(id, 3));
    assert_eq!(modify(&mut grid, id, longer(600)), modified(id, 4));
    let view = grid.reservation(id);
    assert_eq!((view.version, view.epoch, view.ends_s), (Version(4), before.epoch, before.starts_s + 600));
    assert_eq!(view.pairs[0].granted_kbit, 150_000);
    for (old, new) in before.parts.iter().zip(&view.parts) {
        assert_eq!((&old.addresses, &old.members), (&new.addresses, &new.members), "nobody moves");
    }
    for name in ["a", "b"] {
        let part = grid.sites[&site(name)].part(id);
        assert_eq!((part.peers[0].rate_kbit, part.window.ends_in_ms), (150_000, 600_000));
        assert_eq!(grid.sent(name, |m| matches!(m, ToSite::Start { .. } | ToSite::End { .. })), 0);
    }
    assert_eq!(grid.job(running).state, JobState::Running);
    let second = grid.reserve(Ask { bandwidth: Bandwidth::Between(50_000), ..now(&[("a", 1), ("b", 1)]) });
    let refused = modify(&mut grid, second, faster(50_001));
    let link = Resource::Link { a: site("a"), b: site("b") };
    let (asked, have, in_s) = (50_001, 50_000, vec![]);
    assert_eq!(refused, Reply::Refused(Refusal::NoRoom { resource: link, asked, have, in_s }));
    grid.pass(Duration::from_secs(600));
    assert_eq!(grid.state(id), "ended", "at the end of the last version");
    grid.request("u", Request::Release(Selector::Id(second)));
    grid.assert_nothing_left();
}

#[test]
fn a_change_that_one_site_refuses_leaves_the_old_grant_everywhere() {
    let mut grid = Grid::new();
    let ask = Ask { bandwidth: Bandwidth::Between(100_000), ..now(&[("a", 2), ("b", 2)]) };
    let id = grid.reserve(ask);
    let before = (grid.reservation(id), grid.owner.live_grants());
    let refusal = Refusal::NodesBusy { site: site("b"), asked: 2, have: 0 };
    grid.sites.get_mut(&site("b")).unwrap().refuse = Some(refusal.clone());
    let both = Change { bandwidth: Some(Bandwidth::Between(200_000)), ..longer(7200) };
    assert_eq!(modify(&mut grid, id, both), Reply::Refused(refusal));
    assert_eq!((grid.reservation(id), grid.owner.live_grants()), before);
    assert!(grid.sites[&site("a")].kept[&id].held.is_none(), "released");
    assert_eq!(taken(&grid, "a", BEGIN.as_secs() + 3599), 2);
    assert_eq!(taken(&grid, "a", BEGIN.as_secs() + 3600), 0, "what it would have taken is free");
    let free = Ask { bandwidth: Bandwidth::Between(100_000), ..now(&[("a", 1), ("b", 1)]) };
    grid.reserve(free);
}

#[test]
fn a_change_that_is_not_answered_in_time_names_the_site_and_leaves_the_old_grant() {
    let mut grid = Grid::new();
    let id = grid.reserve(now(&[("a", 2), ("b", 2)]));
    grid.sites.get_mut(&site("b")).unwrap().mute.insert(Mute::Hold);
    let request = grid.fresh_id();
    let change = Request::Modify { id: request, reservation: id, change: longer(7200) };
    let correlation = grid.post("u", change);
    assert_eq!(grid.state(id), "ready", "the old grant is in force");
    assert_eq!(taken(&grid, "a", BEGIN.as_secs() + 7199), 2, "and the new one is kept free");
    let busy = modify(&mut grid, id, longer(600));
    assert!(matches!(busy, Reply::Refused(Refusal::WrongState { .. })), "one at a time: {busy:?}");
    grid.pass(Duration::from_secs(5));
    let Some(Reply::Failed(failure)) = grid.answers.get(&correlation) else { panic!() };
    assert_eq!((failure.step, failure.site.as_ref()), (Step::Hold, Some(&site("b"))));
    assert_eq!((grid.state(id).as_str(), taken(&grid, "a", BEGIN.as_secs() + 7199)), ("ready", 0));
    assert_eq!(grid.reservation(id).ends_s, BEGIN.as_secs() + 3600);
}

#[test]
fn numbers_of_nodes_change_before_the_window_only_and_at_the_same_sites() {
    let mut grid = Grid::new();
    let id = grid.reserve(at(&[("a", 1), ("b", 3)], 1000, 600));
    let other = |nodes: &[(&str, u32)]| {
        let sites = nodes.iter().map(|(name, n)| (site(name), *n)).collect();
        Change { placement: Some(Placement::Sites(sites)), ..Change::default() }
    };
    assert_eq!(modify(&mut grid, id, other(&[("a", 4), ("b", 1)])), modified(id, 2));
    let view = grid.reservation(id);
    assert_eq!(view.parts.iter().map(|part| part.nodes).collect::<Vec<_>>(), [4, 1]);
    let addresses: u32 = view.parts[0].addresses.iter().map(|block| block.count).sum();
    assert_eq!(addresses, 4);
    assert_eq!(grid.sites[&site("b")].part(id).members, 1);
    let in_the_window = BEGIN.as_secs() + 1200;
    assert_eq!((taken(&grid, "a", in_the_window), taken(&grid, "b", in_the_window)), (4, 1));
    let too_many = modify(&mut grid, id, other(&[("a", 5), ("b", 1)]));
    assert!(matches!(too_many, Reply::Refused(Refusal::NoRoom { asked: 5, have: 4, .. })), "{too_many:?}");
    let fewer_sites = modify(&mut grid, id, other(&[("a", 1)]));
    assert!(matches!(fewer_sites, Reply::Refused(Refusal::WrongState { .. })), "{fewer_sites:?}");
    grid.pass(Duration::from_secs(1003));
    assert_eq!(grid.state(id), "ready");
    let late = modify(&mut grid, id, other(&[("a", 1), ("b", 1)]));
    assert!(matches!(late, Reply::Refused(Refusal::WrongState { .. })), "{late:?}");
    grid.pass(Duration::from_secs(601));
    grid.assert_nothing_left();
}

/// A site may begin while the change is decided: what it built is not what is in force.
#[test]
fn sandboxes_that_were_begun_before_a_change_of_their_number_are_begun_anew() {
    let mut grid = Grid::new();
    let id = grid.reserve(at(&[("a", 1), ("b", 2)], 1000, 600));
    let epoch = Epoch::FIRST;
    let members = ready(&site("b"), id, epoch, grid.sites[&site("b")].part(id));
    let sites = [("a", 1), ("b", 1)].map(|(name, n)| (site(name), n)).to_vec();
    let fewer = Change { placement: Some(Placement::Sites(sites)), ..Change::default() };
    assert_eq!(modify(&mut grid, id, fewer), modified(id, 2));
    grid.pass(Duration::from_secs(999));
    grid.say("b", FromSite::SiteReady { reservation: id, epoch, round: 1, members });
    assert_eq!((grid.state(id).as_str(), grid.owner.live_grants().len()), ("starting", 1));
    grid.pass(Duration::from_secs(10));
    let view = grid.reservation(id);
    assert_eq!((view.state.to_string().as_str(), view.epoch), ("ready", Epoch(2)));
    assert_eq!(view.parts[1].members.len(), 1);
}

/// It counts with the window that it knows, and its sandboxes keep their addresses for as long.
#[test]
fn addresses_of_a_site_that_has_not_heard_of_a_shorter_window_stay_taken() {
    for restart in [false, true] {
        let mut grid = Grid::new();
        let id = grid.reserve(at(&[("a", 1)], 0, 600));
        let mute = &mut grid.sites.get_mut(&site("a")).unwrap().mute;
        mute.extend([Mute::Commit, Mute::End]);
        let shorter = Change { duration_s: Some(60), ..Change::default() };
        assert_eq!(modify(&mut grid, id, shorter), modified(id, 2));
        grid.pass(Duration::from_secs(400));
        assert_eq!(grid.failure(id).step, Step::End);
        if restart {
            grid.restart();
            grid.connect("a");
        }
        grid.pass(Duration::from_secs(190));
        assert_eq!((grid.sites[&site("a")].kept.len(), grid.owner.owed()), (1, 1));
        assert!(!grid.taken().is_empty());
        grid.pass(Duration::from_secs(200));
        grid.assert_nothing_left();
    }
}

#[test]
fn what_cannot_be_changed_is_refused_and_stands() {
    let mut grid = Grid::new();
    let waiting = {
        grid.reserve(now(&[("a", 4)]));
        grid.reserve(ask(&[("a", 1)]))
    };
    let Reply::Refused(refusal) = modify(&mut grid, waiting, longer(60)) else { panic!() };
    assert!(refusal.to_string().contains("nothing is granted yet"), "{refusal}");
    let id = grid.reserve(now(&[("b", 1)]));
    let foreign = Request::Modify { id: RequestId([7; 16]), reservation: id, change: longer(60) };
    assert_eq!(grid.request("v", foreign), Reply::Refused(Refusal::UnknownReservation { id }));
    assert!(matches!(modify(&mut grid, id, Change::default()), Reply::Refused(Refusal::Inconsistent { .. })));
    assert!(matches!(modify(&mut grid, id, longer(0)), Reply::Refused(Refusal::BadDuration { .. })));
    assert!(matches!(modify(&mut grid, id, faster(1)), Reply::Refused(Refusal::BadRate { .. })));
    grid.pass(Duration::from_secs(100));
    assert!(matches!(modify(&mut grid, id, longer(100)), Reply::Refused(Refusal::BadWindow { .. })));
    grid.lose("b");
    assert_eq!(modify(&mut grid, id, longer(60)), Reply::Refused(Refusal::SiteDown { site: site("b") }));
    grid.connect("b");
    grid.request("u", Request::Release(Selector::Id(id)));
    assert!(matches!(modify(&mut grid, id, longer(200)), Reply::Refused(Refusal::ReservationOver { .. })));
}

#[test]
fn answers_to_an_older_attempt_count_for_nothing() {
    let mut grid = Grid::new();
    let id = grid.reserve(now(&[("a", 2), ("b", 2)]));
    grid.sites.get_mut(&site("b")).unwrap().mute.insert(Mute::Hold);
    let request = grid.fresh_id();
    grid.post("u", Request::Modify { id: request, reservation: id, change: longer(7200) });
    for version in [0, 1, 3] {
        grid.say("b", FromSite::Held { reservation: id, version: Version(version) });
        let refusal = Refusal::NodesBusy { site: site("b"), asked: 1, have: 0 };
        grid.say("b", FromSite::HoldRefused { reservation: id, version: Version(version), refusal });
    }
    assert_eq!(grid.reservation(id).version, Version(1), "undecided");
    assert_eq!(grid.owner.attempts().len(), 1);
    grid.say("b", FromSite::Asks { reservation: id, version: Version(2) });
    assert_eq!(grid.reservation(id).version, Version(2), "who asks holds");
}

#[test]
fn a_release_during_a_change_ends_both_and_answers_both() {
    let mut grid = Grid::new();
    let id = grid.reserve(now(&[("a", 2), ("b", 2)]));
    grid.sites.get_mut(&site("b")).unwrap().mute.insert(Mute::Hold);
    let request = grid.fresh_id();
    let correlation = grid.post("u", Request::Modify { id: request, reservation: id, change: longer(7200) });
    grid.request("u", Request::Release(Selector::Id(id)));
    let answer = grid.answers.get(&correlation);
    assert!(matches!(answer, Some(Reply::Refused(Refusal::ReservationOver { .. }))), "{answer:?}");
    grid.assert_nothing_left();
}
