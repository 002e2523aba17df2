//! Commands: exit codes, cancelling, and what cannot be started.

use std::time::Duration;

use protocol::client::{NewJob, Reply, Request, Selector};
use protocol::job::{ExitStatus, Hits, JobState, Target};
use protocol::refusal::{Failure, Step};
use protocol::site::{FromSite, ToSite};

use crate::grid::*;

fn signals(grid: &Grid, name: &str) -> Vec<u8> {
    let signal = |m: &ToSite| if let ToSite::Signal { signal, .. } = m { Some(*signal) } else { None };
    grid.sites[&site(name)].sent.iter().filter_map(signal).collect()
}

#[test]
fn with_all_members_the_largest_code_is_the_jobs() {
    let mut grid = Grid::new();
    let (id, _) = grid.submit(ask(&[("a", 2), ("b", 1)]), job(Target::All));
    grid.exit("a", id, 1, ExitStatus::Code(3));
    grid.exit("a", id, 1, ExitStatus::Code(200));
    grid.exit("b", id, 0, ExitStatus::Signal(11));
    assert_eq!(grid.job(id).state, JobState::Running, "one member still runs; a repeated exit is not two");
    grid.exit("a", id, 0, ExitStatus::Code(0));
    assert_eq!(grid.job(id).state, JobState::Done(ExitStatus::Signal(11)));
    grid.assert_nothing_left();
}

#[test]
fn a_cancelled_job_gets_sigterm_and_after_five_seconds_sigkill() {
    let mut grid = Grid::new();
    let (id, reservation) = grid.submit(ask(&[("a", 1)]), job(Target::Head));
    assert_eq!(grid.request("u", Request::Cancel(Selector::Last)), Reply::Done);
    assert_eq!(grid.request("u", Request::Cancel(Selector::Last)), Reply::Done, "repeatable");
    assert_eq!(signals(&grid, "a"), [15]);
    grid.pass(Duration::from_secs(6));
    assert_eq!(signals(&grid, "a"), [15, 9]);
    grid.exit("a", id, 0, ExitStatus::Signal(9));
    assert_eq!(grid.job(id).state, JobState::Cancelled);
    assert_eq!(grid.state(reservation), "ended");
    grid.assert_nothing_left();
}

#[test]
fn the_grace_of_a_job_is_its_users_and_limits_that_were_hit_are_kept() {
    let mut grid = Grid::new();
    let new = NewJob { grace_s: Some(60), ..job(Target::Head) };
    let (id, _) = grid.submit(ask(&[("a", 1)]), new);
    grid.request("u", Request::Cancel(Selector::Last));
    grid.pass(Duration::from_secs(50));
    assert_eq!(signals(&grid, "a"), [15]);
    grid.pass(Duration::from_secs(11));
    assert_eq!(signals(&grid, "a"), [15, 9]);
    let (reservation, epoch) = grid.key("a", id);
    let hits = Hits { out_of_memory: 2, memory_bytes: 1 << 20, ..Hits::default() };
    let status = ExitStatus::Signal(9);
    grid.say("a", FromSite::Exited { reservation, epoch, job: id, member: 0, status, hits });
    assert_eq!(grid.job(id).hits, hits);
}

#[test]
fn a_job_that_not_even_sigkill_ends_does_not_keep_its_user_waiting() {
    let mut grid = Grid::new();
    let (id, _) = grid.submit(ask(&[("a", 1)]), job(Target::Head));
    grid.request("u", Request::Cancel(Selector::Last));
    grid.pass(Duration::from_secs(16));
    assert_eq!(grid.job(id).state, JobState::Cancelled);
    grid.assert_nothing_left();
}

#[test]
fn cancelling_in_a_standing_reservation_leaves_it_standing() {
    let mut grid = Grid::new();
    let reservation = grid.reserve(ask(&[("a", 1), ("b", 1)]));
    let (one, other) =
        (grid.submit_in(reservation, job(Target::All)), grid.submit_in(reservation, job(Target::Head)));
    grid.request("u", Request::Cancel(Selector::Id(one)));
    assert_eq!((signals(&grid, "a"), signals(&grid, "b")), (vec![15], vec![15]));
    grid.exit("a", one, 0, ExitStatus::Signal(15));
    grid.exit("b", one, 0, ExitStatus::Code(0));
    // What it started by ssh may be anywhere.
    assert_eq!((signals(&grid, "a"), signals(&grid, "b")), (vec![15, 9], vec![15, 9]));
    assert_eq!(grid.job(one).state, JobState::Cancelled);
    assert_eq!(grid.job(other).state, JobState::Running);
    assert_eq!(grid.state(reservation), "ready");
}

#[test]
fn a_waiting_job_is_cancelled_at_once() {
    let mut grid = Grid::new();
    grid.reserve(ask(&[("a", 4)]));
    let (id, reservation) = grid.submit(ask(&[("a", 1)]), job(Target::Head));
    assert_eq!(grid.job(id).state, JobState::Waiting);
    grid.request("u", Request::Cancel(Selector::Id(id)));
    assert_eq!(grid.job(id).state, JobState::Cancelled);
    assert_eq!(grid.state(reservation), "ended");
}

#[test]
fn one_member_that_cannot_start_it_fails_the_job_and_stops_the_others() {
    let mut grid = Grid::new();
    let reservation = grid.reserve(ask(&[("a", 1), ("b", 1)]));
    let id = grid.submit_in(reservation, job(Target::All));
    let failure = Failure::new(Step::Exec, "no directory /x", "use --cwd");
    let (key, member) = (grid.key("b", id), 0);
    let failed = FromSite::ExecFailed { reservation: key.0, epoch: key.1, job: id, member, failure };
    grid.say("b", failed);
    assert_eq!((signals(&grid, "a"), signals(&grid, "b")), (vec![15], vec![15]));
    grid.exit("a", id, 0, ExitStatus::Signal(15));
    let JobState::Failed(failure) = grid.job(id).state else { panic!() };
    assert_eq!(failure.to_string(), "EXEC, site b: no directory /x\n  use --cwd");
    assert_eq!(grid.state(reservation), "ready");
}

#[test]
fn a_site_cannot_end_a_job_that_runs_elsewhere() {
    let mut grid = Grid::new();
    let (id, _) = grid.submit(ask(&[("a", 1), ("b", 1)]), job(Target::Head));
    let (reservation, epoch) = grid.key("a", id);
    let status = ExitStatus::Code(0);
    grid.say("b", FromSite::Exited { reservation, epoch, job: id, member: 0, status, hits: Hits::default() });
    grid.say("a", FromSite::Exited { reservation, epoch, job: id, member: 1, status, hits: Hits::default() });
    assert_eq!(grid.job(id).state, JobState::Running);
}
