//! The owner dies between any two of its actions and is started again with what was durable by
//! then: what was granted is kept, what was not is held nowhere, and whoever asks again hears the
//! same.

use std::time::Duration;

use protocol::client::{Reply, Request, Selector};
use protocol::ids::{JobId, RequestId, ReservationId, Version};
use protocol::job::{ExitStatus, JobState, Target};
use protocol::reservation::{Ask, Bandwidth, Change, Start};
use protocol::site::ToSite;

use crate::grid::*;

/// A client, and whoever starts the owner again when it died.
struct World {
    grid: Grid,
    /// Died again after so many actions of its next life.
    again: Option<usize>,
    deaths: usize,
}

impl World {
    fn new(dies_after: Option<usize>, again: Option<usize>) -> Self {
        let mut grid = Grid::new();
        grid.dies_after = dies_after;
        Self { grid, again, deaths: 0 }
    }

    fn revive(&mut self) {
        while self.grid.dead {
            self.deaths += 1;
            self.grid.dies_after = self.again.take();
            self.grid.restart();
            for name in ["a", "b"] {
                if !self.grid.dead {
                    self.grid.connect(name);
                }
            }
        }
    }

    /// Repeats a request until it is answered.
    fn ask(&mut self, request: &Request) -> Reply {
        for _ in 0..20 {
            let correlation = self.grid.post("u", request.clone());
            self.revive();
            if let Some(reply) = self.grid.answers.remove(&correlation) {
                return reply;
            }
            self.pass(1);
            if let Some(reply) = self.grid.answers.remove(&correlation) {
                return reply;
            }
        }
        panic!("no answer to {request:?} after {} deaths", self.deaths);
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.grid.pass(Duration::from_secs(1));
            self.revive();
        }
    }

    fn until(&mut self, what: &str, holds: impl Fn(&mut Grid) -> bool) {
        for _ in 0..100 {
            if holds(&mut self.grid) {
                return;
            }
            self.pass(1);
        }
        panic!("never {what}, after {} deaths", self.deaths);
    }
}

fn request(n: u8) -> RequestId {
    RequestId([n; 16])
}

/// The whole life of a reservation: granted with bandwidth, longer, a command, its end.
fn life(world: &mut World) -> Vec<(Request, Reply)> {
    let mut said = Vec::new();
    let mut ask_once = |world: &mut World, request: Request| {
        let reply = world.ask(&request);
        said.push((request, reply.clone()));
        reply
    };
    let start = Start::Within { wait_s: 30 };
    let ask = Ask { start, bandwidth: Bandwidth::Between(150_000), ..ask(&[("a", 2), ("b", 3)]) };
    let reply = ask_once(world, Request::Reserve { id: request(1), ask });
    let Reply::Reserved(id) = reply else { panic!("{reply:?} after {} deaths", world.deaths) };
    let change = Change { duration_s: Some(7200), ..Change::default() };
    let modify = Request::Modify { id: request(2), reservation: id, change };
    let (deaths, reply) = (world.deaths, ask_once(world, modify));
    let Reply::Modified { version, .. } = reply else { panic!("{reply:?}, {deaths} deaths before") };
    assert!(version > Version(1));
    world.until("ready", |grid| grid.state(id) == "ready");
    let job = Request::SubmitIn { id: request(3), reservation: id, job: job(Target::Head) };
    let Reply::Submitted { job, .. } = ask_once(world, job) else { panic!() };
    world.until("running", |grid| grid.sent("a", |m| matches!(m, ToSite::Exec { .. })) > 0);
    assert_eq!(world.grid.job(job).state, JobState::Running);
    // Told again until it is saved, as the sites do.
    let saved = |message: &ToSite| matches!(message, ToSite::ExitSaved { job: one, .. } if *one == job);
    while world.grid.sent("a", saved) == 0 {
        world.grid.exit("a", job, 0, ExitStatus::Code(3));
        world.revive();
        world.pass(1);
    }
    world.until("done", |grid| grid.job(job).state == JobState::Done(ExitStatus::Code(3)));
    let view = world.grid.reservation(id);
    assert_eq!((view.version, view.ends_s - view.starts_s), (version, 7200));
    check_started_once(&world.grid, id, job);
    assert_eq!(world.ask(&Request::Release(Selector::Id(id))), Reply::Done);
    world.until("ended", |grid| grid.state(id) == "ended");
    said
}

fn check_started_once(grid: &Grid, id: ReservationId, job: JobId) {
    let mut epochs: Vec<_> = grid.sites[&site("a")]
        .sent
        .iter()
        .filter_map(|message| match message {
            ToSite::Exec { reservation, epoch, job: one, .. } if (*reservation, *one) == (id, job) => {
                Some(*epoch)
            }
            _ => None,
        })
        .collect();
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "the command belongs to one incarnation");
}

fn check_over(mut world: World, said: Vec<(Request, Reply)>) {
    for (request, reply) in said {
        assert_eq!(world.ask(&request), reply, "asked again after {} deaths", world.deaths);
    }
    world.pass(60);
    world.grid.assert_nothing_left();
}

fn actions_of_a_life() -> usize {
    let mut world = World::new(None, None);
    let said = life(&mut world);
    let actions = world.grid.actions.len();
    check_over(world, said);
    actions
}

#[test]
fn dying_before_any_action_loses_nothing_and_contradicts_nobody() {
    let (actions, mut deaths) = (actions_of_a_life(), 0);
    for dies_after in 0..actions {
        let mut world = World::new(Some(dies_after), None);
        let said = life(&mut world);
        deaths += world.deaths;
        check_over(world, said);
    }
    // Nobody dies of a look at how it stands, and some of the actions were that.
    assert!(deaths > actions / 2 && deaths > 30, "{deaths} deaths in {actions} actions");
}

#[test]
fn dying_again_while_it_comes_back_is_no_different() {
    for dies_after in (0..actions_of_a_life()).step_by(3) {
        for again in [0, 1, 2, 5, 8] {
            let mut world = World::new(Some(dies_after), Some(again));
            let said = life(&mut world);
            check_over(world, said);
        }
    }
}

/// What sites hold for a transaction that was never decided is released when they ask.
#[test]
fn what_had_begun_without_a_decision_never_was() {
    let mut grid = Grid::new();
    grid.sites.get_mut(&site("b")).unwrap().mute.insert(crate::fake::Mute::Hold);
    let now = Ask { start: Start::Within { wait_s: 0 }, ..ask(&[("a", 4), ("b", 1)]) };
    grid.post("u", Request::Reserve { id: request(1), ask: now });
    let waiting = grid.reserve(ask(&[("a", 2), ("b", 2)]));
    assert_eq!(grid.sites[&site("a")].kept.len(), 1);
    grid.restart();
    assert_eq!(grid.owner.taken(), []);
    grid.connect("a");
    assert_eq!(grid.sites[&site("a")].kept.len(), 0, "it asked, and was told to release");
    grid.sites.get_mut(&site("b")).unwrap().mute.clear();
    grid.connect("b");
    assert_eq!(grid.state(waiting), "ready", "what may wait was tried again");
    let Reply::Reservations(views) = grid.request("u", Request::Reservations) else { panic!() };
    assert_eq!(views.len(), 1, "what may not is forgotten");
}

#[test]
fn what_is_granted_is_committed_by_a_site_that_had_only_voted_when_both_come_back() {
    let mut grid = Grid::new();
    grid.sites.get_mut(&site("b")).unwrap().mute.insert(crate::fake::Mute::Commit);
    let id = grid.reserve(ask(&[("a", 2), ("b", 2)]));
    assert!(grid.sites[&site("b")].kept[&id].granted.is_none());
    grid.restart();
    grid.sites.get_mut(&site("b")).unwrap().mute.clear();
    assert_eq!(grid.state(id), "starting", "its window has begun");
    grid.connect("b");
    assert!(grid.sites[&site("b")].kept[&id].granted.is_some());
    grid.connect("a");
    assert_eq!(grid.state(id), "ready");
}

/// Ready before, and a site is away when the owner comes back: nobody is disturbed.
#[test]
fn a_restart_while_a_site_is_away_leaves_what_is_ready_ready() {
    let mut grid = Grid::new();
    let id = grid.reserve(ask(&[("a", 2), ("b", 2)]));
    let running = grid.submit_in(id, job(Target::Head));
    grid.lose("b");
    grid.restart();
    grid.connect("a");
    grid.pass(Duration::from_secs(3000));
    assert_eq!(grid.state(id), "ready");
    assert_eq!(grid.job(running).state, JobState::Running);
    assert!(grid.reservation(id).parts[1].members.is_empty(), "who they are is not known yet");
    let later = grid.submit_in(id, job(Target::All));
    grid.connect("b");
    assert_eq!(grid.reservation(id).parts[1].members.len(), 2);
    assert_eq!(grid.sent("b", |m| matches!(m, ToSite::Exec { job, .. } if *job == later)), 1);
    grid.exit("a", running, 0, ExitStatus::Code(0));
    assert_eq!(grid.job(running).state, JobState::Done(ExitStatus::Code(0)));
}

#[test]
fn a_window_that_ended_while_nobody_was_there_has_ended() {
    let mut grid = Grid::new();
    let mut short = ask(&[("a", 1)]);
    short.duration_s = 600;
    let id = grid.reserve(short);
    grid.now += Duration::from_secs(700);
    grid.restart();
    assert_eq!(grid.state(id), "ending");
    grid.connect("a");
    assert_eq!(grid.state(id), "ended");
}

#[test]
fn history_and_answers_outlive_a_restart() {
    let mut grid = Grid::new();
    let (id, reservation) = grid.submit(ask(&[("a", 1)]), job(Target::Head));
    grid.exit("a", id, 0, ExitStatus::Code(9));
    let refused = Request::Reserve { id: request(7), ask: ask(&[("nowhere", 1)]) };
    let refusal = grid.request("u", refused.clone());
    let (before, state) = (grid.job(id), grid.reservation(reservation).state);
    grid.restart();
    assert_eq!((grid.job(id), grid.reservation(reservation).state), (before, state));
    assert_eq!(grid.request("u", refused), refusal);
    grid.connect("a");
    let next = grid.reserve(ask(&[("a", 1)]));
    assert!(next > reservation, "no id is given out twice");
}
