//! A CRM that asks on and on without waiting for answers: it is refused before that fills the node.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use protocol::ids::JobId;
use protocol::limits::{COMMANDS_MAX, UNANSWERED_MAX};
use protocol::node::{Reply, Request, State};
use protocol::refusal::Refusal;

use crate::shaped::rates;
use crate::world::{World, shell};

/// Asks for one more than `max`, and returns the answer to the last.
async fn one_too_many(world: &mut World, max: usize, request: impl Fn(u64) -> Request) -> Refusal {
    for number in 0..max as u64 {
        world.send(&request(number)).await;
    }
    match world.ask(&request(max as u64)).await {
        Reply::Refused(refusal) => refusal,
        reply => panic!("{reply:?}"),
    }
}

fn is_crowded(refusal: &Refusal, max: usize) -> bool {
    refusal.to_string().contains(&format!("not possible now: {max} before it are not answered or over"))
}

#[tokio::test(start_paused = true)]
async fn requests_that_cannot_begin_yet_are_kept_in_a_small_number() {
    let mut world = World::in_state(State::Building).await;
    let refusal = one_too_many(&mut world, UNANSWERED_MAX, |_| Request::GetKeys).await;
    assert!(is_crowded(&refusal, UNANSWERED_MAX), "{refusal}");
    // The others are answered, as ever.
    let shutdown = world.send(&Request::Shutdown).await;
    assert!(matches!(world.reply(1).await, Reply::Failed(_)), "SETUP");
    for correlation in 2..2 + UNANSWERED_MAX as u64 {
        assert!(matches!(world.reply(correlation).await, Reply::Refused(_)));
    }
    assert_eq!(world.reply(shutdown).await, Reply::Done);
}

#[tokio::test(start_paused = true)]
async fn rates_that_the_monitor_does_not_answer_are_kept_in_a_small_number() {
    let mut world = World::in_state(State::Running).await;
    let refusal =
        one_too_many(&mut world, UNANSWERED_MAX, |number| Request::Shape(rates(number as u8))).await;
    assert!(is_crowded(&refusal, UNANSWERED_MAX), "{refusal}");
    world.ask(&Request::GetStatus).await;
    assert!(world.seen().shaped.len() <= UNANSWERED_MAX, "it was passed on");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_the_end_is_one_of_few_and_the_end_comes_all_the_same() {
    let mut world = World::in_state(State::Running).await;
    // So that the grace lasts.
    world.seen().stopped = true;
    let first = world.send(&Request::Beat).await + 1;
    let refusal = one_too_many(&mut world, UNANSWERED_MAX, |_| Request::End { grace_ms: 3_600_000 }).await;
    assert!(is_crowded(&refusal, UNANSWERED_MAX), "{refusal}");
    let shutdown = world.ask(&Request::Shutdown).await;
    assert!(
        matches!(&shutdown, Reply::Refused(refusal) if is_crowded(refusal, UNANSWERED_MAX)),
        "{shutdown:?}"
    );
    // All that were asked before those two.
    for correlation in first..first + UNANSWERED_MAX as u64 {
        assert_eq!(world.reply(correlation).await, Reply::Done);
    }
    assert_eq!(world.seen().tear_downs, 1);
}

#[tokio::test(start_paused = true)]
async fn signals_and_commands_under_way_have_a_maximum() {
    // Each command that starts takes two descriptors of the agent, which is this process.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let mut world = World::in_state(State::Running).await;
    world.seen().starts_hang = true;
    let exec = |number| Request::Exec { job: JobId(number), command: shell(":") };
    let refusal = one_too_many(&mut world, COMMANDS_MAX, exec).await;
    assert!(is_crowded(&refusal, COMMANDS_MAX), "{refusal}");
    world.seen().stopped = true;
    let signal = |number| Request::Signal { job: JobId(number), signal: 9 };
    let refusal = one_too_many(&mut world, COMMANDS_MAX, signal).await;
    assert!(is_crowded(&refusal, COMMANDS_MAX), "{refusal}");
}
