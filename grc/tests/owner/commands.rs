//! Commands: exit codes, cancelling, and what cannot be started.

use std::time::Duration;

use grc::coordinator::LIVE_JOBS_MAX;
use protocol::client::{NewJob, Reply, Request, Selector};
use protocol::ids::{JobId, ReservationId};
use protocol::job::{Command, ExitStatus, Hits, JobState, Target};
use protocol::refusal::{Failure, Refusal, Step};
use protocol::site::{FromSite, ToSite};

use crate::grid::*;
use crate::windows::at;

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

fn execs(grid: &Grid, name: &str) -> usize {
    grid.sent(name, |message| matches!(message, ToSite::Exec { .. }))
}

fn nothing_runs(grid: &mut Grid, name: &str, reservation: ReservationId, job: JobId) {
    let epoch = grid.reservation(reservation).epoch;
    grid.say(name, FromSite::NothingRuns { reservation, epoch, job });
}

/// Nothing is lost on a connection that stands, and a command may be large.
#[test]
fn a_command_is_sent_once_on_a_connection_and_again_on_the_next() {
    let mut grid = Grid::new();
    let reservation = grid.reserve(ask(&[("a", 1), ("b", 1)]));
    grid.lose("b");
    let id = grid.submit_in(reservation, job(Target::All));
    grid.pass(Duration::from_secs(1000));
    assert_eq!((execs(&grid, "a"), execs(&grid, "b")), (1, 0), "at once, and once");
    for times in 1..3 {
        grid.connect("b");
        grid.pass(Duration::from_secs(300));
        assert_eq!((execs(&grid, "a"), execs(&grid, "b")), (1, times));
        grid.lose("b");
    }
    grid.restart();
    grid.connect("a");
    grid.connect("b");
    grid.pass(Duration::from_secs(300));
    assert_eq!((execs(&grid, "a"), execs(&grid, "b")), (2, 3));
    assert_eq!(grid.job(id).state, JobState::Running);
}

#[test]
fn a_command_that_was_cancelled_before_its_site_heard_of_it_is_never_sent() {
    for restarts in [false, true] {
        let mut grid = Grid::new();
        let reservation = grid.reserve(ask(&[("a", 2), ("b", 1)]));
        grid.lose("a");
        let id = grid.submit_in(reservation, job(Target::All));
        grid.exit("b", id, 0, ExitStatus::Code(0));
        grid.request("u", Request::Cancel(Selector::Id(id)));
        if restarts {
            grid.restart();
            grid.connect("b");
        }
        grid.connect("a");
        assert_eq!((execs(&grid, "a"), signals(&grid, "a")), (0, vec![15]));
        nothing_runs(&mut grid, "b", reservation, id);
        assert_eq!(grid.job(id).state, JobState::Running, "a has not said so");
        nothing_runs(&mut grid, "a", reservation, id);
        assert_eq!(grid.job(id).state, JobState::Cancelled);
        assert_eq!(grid.state(reservation), "ready");
    }
}

#[test]
fn that_nothing_runs_is_believed_only_of_what_was_to_stop() {
    let mut grid = Grid::new();
    let reservation = grid.reserve(ask(&[("a", 1)]));
    let id = grid.submit_in(reservation, job(Target::Head));
    nothing_runs(&mut grid, "a", reservation, id);
    assert_eq!(grid.job(id).state, JobState::Running);
    grid.exit("a", id, 0, ExitStatus::Code(0));
    nothing_runs(&mut grid, "a", reservation, id);
    assert_eq!(grid.job(id).state, JobState::Done(ExitStatus::Code(0)));
}

/// Its user need not wait for a site that is away; the command there does not outlive that.
#[test]
fn what_was_cancelled_while_its_site_was_away_is_killed_when_it_is_back_until_it_has_ended() {
    for restarts in [false, true] {
        let mut grid = Grid::new();
        let reservation = grid.reserve(ask(&[("a", 2), ("b", 1)]));
        let id = grid.submit_in(reservation, job(Target::All));
        grid.exit("b", id, 0, ExitStatus::Code(0));
        grid.lose("a");
        grid.request("u", Request::Cancel(Selector::Id(id)));
        grid.pass(Duration::from_secs(16));
        assert_eq!(grid.job(id).state, JobState::Cancelled);
        for blows in 1..3 {
            if restarts {
                grid.restart();
                grid.connect("b");
            }
            grid.connect("a");
            assert_eq!((signals(&grid, "a"), execs(&grid, "a")), (vec![9; blows], 1));
            grid.exit("a", id, 0, ExitStatus::Signal(9));
            grid.lose("a");
        }
        grid.connect("a");
        grid.exit("a", id, 0, ExitStatus::Signal(9));
        grid.exit("a", id, 1, ExitStatus::Signal(9));
        if restarts {
            // It has forgotten the first; whoever is asked says that all of it is saved.
            nothing_runs(&mut grid, "a", reservation, id);
        }
        let blows = signals(&grid, "a").len();
        grid.lose("a");
        grid.connect("a");
        assert_eq!(signals(&grid, "a").len(), blows, "it has ended");
        let view = grid.job(id);
        assert_eq!((view.state, view.hits), (JobState::Cancelled, Hits::default()));
    }
}

/// What a job started by ssh on a member of a site where it does not run itself.
#[test]
fn a_site_that_was_away_at_the_end_of_a_cancelled_job_hears_of_it_also_where_it_did_not_run() {
    let mut grid = Grid::new();
    let reservation = grid.reserve(ask(&[("a", 1), ("b", 1)]));
    let id = grid.submit_in(reservation, job(Target::Head));
    grid.lose("b");
    grid.request("u", Request::Cancel(Selector::Id(id)));
    grid.exit("a", id, 0, ExitStatus::Signal(15));
    assert_eq!(grid.job(id).state, JobState::Cancelled);
    grid.connect("b");
    assert_eq!(signals(&grid, "b"), [9]);
    nothing_runs(&mut grid, "b", reservation, id);
    grid.lose("b");
    grid.connect("b");
    assert_eq!(signals(&grid, "b"), [9]);
}

#[test]
fn what_may_still_run_counts_among_its_users_jobs_until_it_has_ended() {
    let mut grid = Grid::new();
    let reservation = grid.reserve(ask(&[("a", 1)]));
    grid.lose("a");
    let ids: Vec<JobId> =
        (0..LIVE_JOBS_MAX).map(|_| grid.submit_in(reservation, job(Target::Head))).collect();
    for id in &ids {
        grid.request("u", Request::Cancel(Selector::Id(*id)));
    }
    grid.pass(Duration::from_secs(16));
    assert_eq!(grid.job(ids[0]).state, JobState::Cancelled);
    let one_more = |grid: &mut Grid| {
        let id = grid.fresh_id();
        grid.request("u", Request::SubmitIn { id, reservation, job: job(Target::Head) })
    };
    for restarts in [false, true] {
        if restarts {
            grid.restart();
        }
        let refused = one_more(&mut grid);
        assert!(matches!(refused, Reply::Refused(Refusal::TooMany { .. })), "{refused:?}");
    }
    grid.connect("a");
    nothing_runs(&mut grid, "a", reservation, ids[0]);
    assert!(matches!(one_more(&mut grid), Reply::Submitted { .. }));
    // With the sandboxes everything in them ends.
    let failure = Failure::new(Step::Running, "a pilot was lost", "");
    let epoch = grid.reservation(reservation).epoch;
    grid.say("a", FromSite::Failed { reservation, epoch, failure });
    for _ in 0..LIVE_JOBS_MAX {
        assert!(matches!(one_more(&mut grid), Reply::Submitted { .. }));
    }
    assert!(matches!(one_more(&mut grid), Reply::Refused(Refusal::TooMany { .. })));
    let sent = grid.sites[&site("a")].sent.len();
    grid.lose("a");
    grid.connect("a");
    let killed = |message: &ToSite| matches!(message, ToSite::Signal { .. });
    assert!(!grid.sites[&site("a")].sent[sent..].iter().any(killed));
}

#[test]
fn directories_count_among_the_bytes_of_commands() {
    let mut grid = Grid::new();
    let reservation = grid.reserve(at(&[("a", 1)], 1000, 60));
    let long = |directories| {
        let path = format!("/{}", "d/".repeat(2000) + "d").parse().unwrap();
        let argv = vec![vec![b'a'; 1024 * 1024 - 1024]];
        let command = Command {
            argv,
            variables: vec![],
            directories: vec![path; directories],
            directory_required: false,
        };
        NewJob { command, ..job(Target::Head) }
    };
    let mut fit = |directories| {
        let mut ids = Vec::new();
        loop {
            let id = grid.fresh_id();
            let job = long(directories);
            grid.actions.clear();
            match grid.request("u", Request::SubmitIn { id, reservation, job }) {
                Reply::Submitted { job, .. } => ids.push(job),
                other => {
                    break assert!(matches!(other, Reply::Refused(Refusal::TooMany { .. })), "{other:?}");
                }
            }
        }
        for id in &ids {
            grid.request("u", Request::Cancel(Selector::Id(*id)));
        }
        ids.len()
    };
    assert_eq!((fit(0), fit(4)), (64, 63));
}
