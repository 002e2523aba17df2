//! Waiting for pilots that are in the queues of their sites, and for sites that release theirs.

use std::time::Duration;

use protocol::client::{Reply, Request, Selector};
use protocol::ids::{Epoch, ReservationId};
use protocol::job::Target;
use protocol::refusal::{Refusal, Step};
use protocol::reservation::{Placement, Progress, Start};
use protocol::site::{FromSite, ToSite, Waits};

use crate::fake::{Mute, offer, ready};
use crate::grid::{Grid, ask, job, site};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Site a is ready, the pilots of site b wait in a queue for up to an hour.
fn b_queues() -> (Grid, ReservationId) {
    let mut grid = Grid::new();
    grid.sites.get_mut(&site("b")).unwrap().pilots_s = 3600;
    publish(&mut grid, "b");
    grid.sites.get_mut(&site("b")).unwrap().mute.insert(Mute::Start);
    let ask = protocol::reservation::Ask { duration_s: 7200, ..ask(&[("a", 1), ("b", 2)]) };
    let (_, id) = grid.submit(ask, job(Target::Head));
    (grid, id)
}

fn publish(grid: &mut Grid, name: &str) {
    let offer = offer(&grid.sites[&site(name)]);
    grid.say(name, FromSite::Publish { site: site(name), offer });
}

fn is_ready(grid: &mut Grid, name: &str, id: ReservationId, epoch: Epoch, round: u32) {
    let members = ready(&site(name), id, Epoch(round), grid.sites[&site(name)].part(id));
    grid.say(name, FromSite::SiteReady { reservation: id, epoch, round, members });
}

fn withdraws(grid: &mut Grid, name: &str, id: ReservationId, round: u32) {
    let why = "its pilots waited 600 s for those of other sites".into();
    grid.say(name, FromSite::Withdrawn { reservation: id, epoch: Epoch(1), round, why, again_in_s: 30 });
}

fn explained(grid: &mut Grid, id: ReservationId) -> String {
    match grid.request("u", Request::ExplainReservation(Selector::Id(id))) {
        Reply::Explained(said) => format!("{said:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_barrier_lasts_as_long_as_the_slowest_queue_may_and_the_queue_is_named_everywhere() {
    let (mut grid, id) = b_queues();
    assert_eq!(grid.reservation(id).deadline_s, Some(1_000_000 + 90 + 3600));
    let waits = Waits {
        pilots: 2,
        why: "Priority".into(),
        expected_in_s: Some(300),
        until_in_s: Some(3600),
        held_for_s: None,
    };
    grid.say("b", FromSite::Waits { reservation: id, epoch: Epoch(1), waits: Some(waits) });
    let said = explained(&mut grid, id);
    for words in
        ["2 wait in its queue (fake, partition main): Priority", "expected to start in 5m", "given up in 1h"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    let queue = grid.reservation(id).parts[1].queue.clone().unwrap();
    assert_eq!(
        (queue.pilots, queue.queue.as_str(), queue.why.as_str()),
        (2, "fake, partition main", "Priority")
    );
    assert_eq!((queue.expected_s, queue.until_s), (Some(1_000_300), Some(1_003_600)));
    // What a site said before it was ready stays said: its pilots are held.
    let held =
        Waits { pilots: 1, why: "".into(), expected_in_s: None, until_in_s: None, held_for_s: Some(600) };
    grid.say("b", FromSite::Waits { reservation: id, epoch: Epoch(1), waits: Some(held) });
    grid.pass(s(3000));
    assert_eq!(grid.state(id), "starting", "it waits");
    is_ready(&mut grid, "b", id, Epoch(1), 1);
    assert_eq!(grid.state(id), "ready");
    let queue = grid.reservation(id).parts[1].queue.clone().unwrap();
    assert_eq!((queue.pilots, queue.held_until_s), (0, Some(1_000_600)));
}

#[test]
fn a_site_that_released_its_pilots_begins_at_once_when_the_others_are_ready_and_nobody_loses_his_place() {
    let (mut grid, id) = b_queues();
    let starts =
        |grid: &Grid| grid.sent("b", |message| matches!(message, ToSite::Start { epoch, .. } if epoch.0 > 1));
    let hastened = |grid: &Grid, name| grid.sent(name, |message| matches!(message, ToSite::Hasten { .. }));
    withdraws(&mut grid, "a", id, 1);
    assert_eq!((grid.state(id).as_str(), hastened(&grid, "a")), ("starting", 0));
    assert!(explained(&mut grid, id).contains("were released, and begin again in 30s"));
    is_ready(&mut grid, "b", id, Epoch(1), 1);
    assert_eq!((hastened(&grid, "a"), hastened(&grid, "b")), (1, 0));
    assert_eq!(grid.sent("a", |message| matches!(message, ToSite::Join { .. })), 0);
    // What it said of the round that it gave up counts no more.
    is_ready(&mut grid, "a", id, Epoch(1), 2);
    assert_eq!((grid.state(id).as_str(), starts(&grid)), ("ready", 0));
    assert_eq!(grid.reservation(id).epoch, Epoch(1));
}

#[test]
fn news_of_a_round_that_is_over_change_nothing() {
    let (mut grid, id) = b_queues();
    withdraws(&mut grid, "a", id, 1);
    let progress = Progress { wanted: 1, submitted: 1, ..Progress::default() };
    grid.say("a", FromSite::Progress { reservation: id, epoch: Epoch(1), round: 2, progress });
    is_ready(&mut grid, "a", id, Epoch(1), 1);
    is_ready(&mut grid, "b", id, Epoch(1), 1);
    assert_eq!(grid.state(id), "starting", "a is in its second round");
    is_ready(&mut grid, "a", id, Epoch(1), 2);
    assert_eq!(grid.state(id), "ready");
}

/// The keys of the round before are with the others already.
#[test]
fn pilots_that_are_released_while_all_join_cost_the_epoch() {
    let (mut grid, id) = b_queues();
    grid.sites.get_mut(&site("b")).unwrap().mute.insert(Mute::Join);
    is_ready(&mut grid, "b", id, Epoch(1), 1);
    assert_eq!(grid.state(id), "joining");
    withdraws(&mut grid, "a", id, 1);
    grid.pass(s(2));
    assert_eq!((grid.state(id).as_str(), grid.reservation(id).epoch), ("starting", Epoch(2)));
}

#[test]
fn a_paused_queue_is_shown_with_its_reason_and_what_may_wait_waits_until_it_resumes() {
    let mut grid = Grid::new();
    grid.sites.get_mut(&site("b")).unwrap().paused = Some("partition main is DOWN");
    publish(&mut grid, "b");
    let Reply::Sites(sites) = grid.request("u", Request::Sites) else { panic!() };
    let shown = sites[1].problems.iter().map(ToString::to_string).collect::<String>();
    assert!(shown.contains("its batch queue (partition main) is paused: partition main is DOWN"), "{shown}");
    // Now or never is refused with the reason; a free choice goes elsewhere.
    let refused = now_at(&mut grid, Placement::Sites(vec![(site("b"), 1)]));
    assert!(matches!(refused, Reply::Refused(Refusal::QueuePaused { .. })), "{refused:?}");
    assert!(matches!(now_at(&mut grid, Placement::Anywhere(1)), Reply::Reserved(_)));
    let (_, id) = grid.submit(ask(&[("a", 1), ("b", 1)]), job(Target::Head));
    assert_eq!(grid.state(id), "waiting");
    assert!(explained(&mut grid, id).contains("partition main is DOWN"));
    grid.sites.get_mut(&site("b")).unwrap().paused = None;
    publish(&mut grid, "b");
    assert_eq!(grid.state(id), "ready");
}

/// What is asked for now.
fn now_at(grid: &mut Grid, placement: Placement) -> Reply {
    let ask = protocol::reservation::Ask { placement, start: Start::Within { wait_s: 0 }, ..ask(&[]) };
    let id = grid.fresh_id();
    grid.request("u", Request::Reserve { id, ask })
}

#[test]
fn a_free_choice_takes_no_more_of_a_site_than_its_queue_gives_to_one_part() {
    let mut grid = Grid::new();
    grid.sites.get_mut(&site("a")).unwrap().nodes_max = Some(1);
    publish(&mut grid, "a");
    let Reply::Reserved(id) = now_at(&mut grid, Placement::Anywhere(5)) else { panic!() };
    let parts: Vec<(String, u32)> =
        grid.reservation(id).parts.iter().map(|part| (part.site.to_string(), part.nodes)).collect();
    assert_eq!(parts, [("b".to_owned(), 4), ("a".to_owned(), 1)]);
    let refused = now_at(&mut grid, Placement::Sites(vec![(site("a"), 2)]));
    assert!(matches!(refused, Reply::Refused(Refusal::OverQueueLimit { max: 1, .. })), "{refused:?}");
}

#[test]
fn at_the_end_of_the_barrier_the_site_that_is_missing_is_named() {
    let (mut grid, id) = b_queues();
    grid.pass(s(3600 + 91));
    let failure = grid.failure(id);
    assert_eq!((failure.step, failure.site), (Step::Pilots, Some(site("b"))));
}
