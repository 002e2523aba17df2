//! What a command printed and how it ended can be asked for until it is saved.

use protocol::ids::JobId;
use protocol::job::{ExitStatus, Stream};
use protocol::limits::{ENDED_MAX, OUTPUT_AHEAD_BYTES_MAX};
use protocol::node::{Notice, Reply, Request, State};

use crate::world::{World, command, shell};

/// Everything said up to an end: both streams from where they begin, and the end.
pub async fn hear(world: &mut World, job: JobId) -> ([(u64, Vec<u8>); 2], ExitStatus) {
    let mut streams = [(u64::MAX, Vec::new()), (u64::MAX, Vec::new())];
    loop {
        match world.notice().await {
            Notice::Output { job: of, stream, offset, bytes } => {
                assert_eq!(of, job);
                let (begin, heard) = &mut streams[stream as usize];
                if heard.is_empty() {
                    *begin = offset;
                }
                assert_eq!(offset, *begin + heard.len() as u64, "out of order");
                heard.extend_from_slice(&bytes);
            }
            Notice::Exited { job: of, status, .. } => {
                assert_eq!(of, job);
                return (streams, status);
            }
            Notice::StateChanged { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// What the agent says up to the end of another command, which it does not begin before it has
/// told everybody what was wished; but for what is about states, and that command.
pub async fn said(world: &mut World) -> Vec<Notice> {
    let other = JobId(1 << 40);
    assert_eq!(world.ask(&Request::Exec { job: other, command: command(&["ring"]) }).await, Reply::Done);
    let mut notices = Vec::new();
    loop {
        match world.notice().await {
            Notice::Exited { job, .. } if job == other => return notices,
            Notice::Output { job, .. } if job == other => {}
            Notice::StateChanged { .. } => {}
            notice => notices.push(notice),
        }
    }
}

#[tokio::test]
async fn what_was_never_saved_comes_again_as_often_as_it_is_wanted() {
    let mut world = World::in_state(State::Running).await;
    let job = JobId(1);
    let script = shell("echo one; echo two >&2; exit 7");
    assert_eq!(world.ask(&Request::Exec { job, command: script }).await, Reply::Done);
    let expected = ([(0, b"one\n".to_vec()), (0, b"two\n".to_vec())], ExitStatus::Code(7));
    assert_eq!(hear(&mut world, job).await, expected);
    for _ in 0..3 {
        world.send(&Request::Resend { job }).await;
        assert_eq!(hear(&mut world, job).await, expected);
    }
    world.send(&Request::OutputSaved { job, stream: Stream::Stdout, upto: 2 }).await;
    world.send(&Request::OutputSaved { job, stream: Stream::Stderr, upto: 4 }).await;
    world.send(&Request::Resend { job }).await;
    let rest = ([(2, b"e\n".to_vec()), (u64::MAX, Vec::new())], ExitStatus::Code(7));
    assert_eq!(hear(&mut world, job).await, rest);
    // An older word changes nothing; one about more than there was saves all.
    world.send(&Request::OutputSaved { job, stream: Stream::Stdout, upto: 1 }).await;
    world.send(&Request::Resend { job }).await;
    assert_eq!(hear(&mut world, job).await, rest);
    world.send(&Request::OutputSaved { job, stream: Stream::Stdout, upto: u64::MAX }).await;
    world.send(&Request::Resend { job }).await;
    let only_the_end = ([(u64::MAX, Vec::new()), (u64::MAX, Vec::new())], ExitStatus::Code(7));
    assert_eq!(hear(&mut world, job).await, only_the_end);
    world.send(&Request::ExitSaved { job }).await;
    world.send(&Request::Resend { job }).await;
    assert_eq!(said(&mut world).await, []);
}

#[tokio::test]
async fn a_command_that_runs_sends_again_what_is_not_saved_and_goes_on() {
    let mut world = World::in_state(State::Running).await;
    let job = JobId(1);
    // As much as goes without a word, then it waits for one.
    let script = format!("head -c {OUTPUT_AHEAD_BYTES_MAX} /dev/zero; echo end");
    assert_eq!(world.ask(&Request::Exec { job, command: shell(&script) }).await, Reply::Done);
    let fill = async |world: &mut World, from: u64| {
        let mut next = from;
        while next < OUTPUT_AHEAD_BYTES_MAX {
            match world.notice().await {
                Notice::Output { offset, bytes, .. } => {
                    assert_eq!(offset, next);
                    next += bytes.len() as u64;
                }
                other => assert!(matches!(other, Notice::StateChanged { .. }), "{other:?}"),
            }
        }
        assert_eq!(next, OUTPUT_AHEAD_BYTES_MAX);
    };
    fill(&mut world, 0).await;
    // Its end is not saved before it has one.
    world.send(&Request::ExitSaved { job }).await;
    world.send(&Request::Resend { job }).await;
    fill(&mut world, 0).await;
    let status = world.ask(&Request::GetStatus).await;
    assert!(matches!(status, Reply::Status { commands: 1, .. }), "{status:?}");
    world.send(&Request::OutputSaved { job, stream: Stream::Stdout, upto: OUTPUT_AHEAD_BYTES_MAX - 1 }).await;
    let (streams, status) = hear(&mut world, job).await;
    let expected = (OUTPUT_AHEAD_BYTES_MAX, b"end\n"[..1].to_vec());
    assert_eq!(streams[0].0, expected.0);
    assert!(streams[0].1.starts_with(&expected.1));
    assert_eq!(status, ExitStatus::Code(0));
    world.send(&Request::Resend { job }).await;
    let (streams, _) = hear(&mut world, job).await;
    assert_eq!(streams[0], (OUTPUT_AHEAD_BYTES_MAX - 1, b"\0end\n".to_vec()));
    let status = world.ask(&Request::GetStatus).await;
    assert!(matches!(status, Reply::Status { commands: 0, .. }), "it ended: {status:?}");
}

#[tokio::test]
async fn a_command_that_was_never_executed_says_so_again() {
    let mut world = World::in_state(State::Running).await;
    let job = JobId(1);
    assert_eq!(world.ask(&Request::Exec { job, command: command(&["ring"]) }).await, Reply::Done);
    let first = hear(&mut world, job).await;
    assert_eq!(first.1, ExitStatus::Code(127));
    world.send(&Request::Resend { job }).await;
    assert_eq!(hear(&mut world, job).await, first);
}

#[tokio::test]
async fn a_crm_that_never_saves_makes_the_oldest_be_forgotten() {
    let mut world = World::in_state(State::Running).await;
    let last = ENDED_MAX as u64 + 1;
    for job in (0..=last).map(JobId) {
        assert_eq!(world.ask(&Request::Exec { job, command: command(&["ring"]) }).await, Reply::Done);
        hear(&mut world, job).await;
    }
    for job in [JobId(2), JobId(last)] {
        world.send(&Request::Resend { job }).await;
        assert_eq!(hear(&mut world, job).await.1, ExitStatus::Code(127));
    }
    for job in [JobId(0), JobId(1), JobId(u64::MAX)] {
        world.send(&Request::Resend { job }).await;
    }
    assert_eq!(said(&mut world).await, [], "these two are forgotten, and the third never was");
    // None starts twice, forgotten or not.
    let before = world.seen().spawned.len();
    assert_eq!(world.ask(&Request::Exec { job: JobId(0), command: command(&["ring"]) }).await, Reply::Done);
    assert_eq!(world.seen().spawned.len(), before);
}
