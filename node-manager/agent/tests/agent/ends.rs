//! Ends of commands: not told before nothing of the command is left, and what is left is named.

use std::time::Duration;

use node_manager::operation::{self, EndReason};
use protocol::frame::Kind;
use protocol::ids::JobId;
use protocol::job::ExitStatus;
use protocol::limits::SIGNAL_MAX;
use protocol::node::{Notice, Reply, Request, State};
use protocol::refusal::Refusal;
use tokio::time::{Instant, sleep, timeout};

use crate::world::{AbortOnDrop, HITS, World, ring, shell};

/// Ends on SIGTERM and leaves a process behind that does not.
const STUBBORN: &str = "trap 'exit 3' TERM; (trap '' TERM; echo up; while :; do sleep 0.05; done) & wait";

async fn exited(world: &mut World) -> Notice {
    loop {
        if let exited @ Notice::Exited { .. } = world.notice().await {
            return exited;
        }
    }
}

/// Until the command has printed something.
async fn started(world: &mut World, job: JobId, script: &str) {
    assert_eq!(world.ask(&Request::Exec { job, command: shell(script) }).await, Reply::Done);
    while !matches!(world.notice().await, Notice::Output { .. }) {}
}

#[tokio::test]
async fn a_command_that_is_ended_is_not_over_before_its_last_process() {
    let mut world = World::in_state(State::Running).await;
    let job = JobId(1);
    started(&mut world, job, STUBBORN).await;
    assert_eq!(world.ask(&Request::Signal { job, signal: 15 }).await, Reply::Done);
    // Another command comes and goes meanwhile, and nothing is said of the first.
    let (stdout, _, _) = world.run(JobId(2), shell("echo between")).await;
    assert_eq!(stdout, "between\n");
    let Reply::Status { commands, .. } = world.ask(&Request::GetStatus).await else { panic!() };
    assert_eq!(commands, 1, "the first is still there");
    let killed = world.send(&Request::Signal { job, signal: 9 }).await;
    assert_eq!(world.reply(killed).await, Reply::Done);
    assert_eq!(exited(&mut world).await, Notice::Exited { job, status: ExitStatus::Code(3), hits: HITS });
}

#[tokio::test]
async fn a_signal_that_would_not_arrive_is_refused_by_its_number() {
    for signal in 1..=SIGNAL_MAX {
        assert!(nix::sys::signal::Signal::try_from(i32::from(signal)).is_ok(), "init drops {signal}");
    }
    let mut world = World::in_state(State::Running).await;
    let job = JobId(1);
    started(&mut world, job, "echo up; exec sleep 60").await;
    for signal in [SIGNAL_MAX + 1, 64] {
        let reply = world.ask(&Request::Signal { job, signal }).await;
        let Reply::Refused(refusal) = reply else { panic!("{reply:?}") };
        assert!(refusal.to_string().contains(&format!("signal {signal} cannot be sent")), "{refusal}");
    }
    assert_eq!(world.ask(&Request::Signal { job, signal: SIGNAL_MAX }).await, Reply::Done);
    let end = Notice::Exited { job, status: ExitStatus::Signal(SIGNAL_MAX), hits: HITS };
    assert_eq!(exited(&mut world).await, end);
}

#[tokio::test]
async fn an_end_with_a_grace_lets_commands_end_by_themselves() {
    let mut world = World::in_state(State::Running).await;
    let job = JobId(1);
    started(&mut world, job, "trap 'echo saved; exit 4' TERM; echo up; while :; do sleep 0.05; done").await;
    let before = Instant::now();
    let end = world.send(&Request::End { grace_ms: 60_000 }).await;
    let refused = world.ask(&Request::Exec { job: JobId(2), command: shell(":") }).await;
    assert!(matches!(refused, Reply::Refused(Refusal::WrongState { .. })), "{refused:?}");
    assert_eq!(exited(&mut world).await, Notice::Exited { job, status: ExitStatus::Code(4), hits: HITS });
    assert_eq!(world.reply(end).await, Reply::Done);
    assert!(before.elapsed() < Duration::from_secs(60), "nobody waited for the end of the grace");
    assert_eq!(world.seen().tear_downs, 1);
}

#[tokio::test]
async fn what_ignores_the_end_is_torn_down_after_the_grace() {
    let mut world = World::in_state(State::Running).await;
    started(&mut world, JobId(1), "trap '' TERM; echo up; while :; do sleep 0.05; done").await;
    let first = world.send(&Request::End { grace_ms: 200 }).await;
    let second = world.send(&Request::End { grace_ms: 3_600_000 }).await;
    assert_eq!(world.reply(first).await, Reply::Done);
    assert_eq!(world.reply(second).await, Reply::Done, "the first grace counts");
    assert_eq!(world.seen().tear_downs, 1);
}

/// The CRM lives, whatever the test waits for; it says what nobody answers.
fn beat(world: &World) -> AbortOnDrop {
    let outbox = world.crm.outbox.clone();
    AbortOnDrop(tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(2)).await;
            let _ = outbox.post(Kind::Notice, 0, &Request::Resend { job: JobId(0) });
        }
    }))
}

/// Whatever is asked, of a first process that its user has stopped.
#[tokio::test(start_paused = true)]
async fn nothing_waits_for_an_init_that_does_not_answer() {
    let job = JobId(1);
    for what in ["kill", "signal", "command", "keys", "run", "end"] {
        let mut world = World::in_state(State::Running).await;
        let Reply::Keys(keys) = world.ask(&Request::GetKeys).await else { panic!() };
        let request = match what {
            "kill" => Request::Signal { job, signal: 9 },
            "signal" => Request::Signal { job, signal: 15 },
            "command" => Request::Exec { job: JobId(2), command: shell(":") },
            "keys" => Request::SetKeys(ring(keys)),
            "run" => Request::Run,
            _ => Request::End { grace_ms: 5_000 },
        };
        let _beats = beat(&world);
        world.seen().stopped = true;
        let reply = timeout(Duration::from_secs(60), world.ask(&request)).await;
        let reply = reply.unwrap_or_else(|_| panic!("{what} waits for ever"));
        if what == "end" {
            assert_eq!((reply, world.seen().tear_downs), (Reply::Done, 1));
            continue;
        }
        let Reply::Failed(failure) = reply else { panic!("{what}: {reply:?}") };
        assert!(failure.cause.as_str().contains("the sandbox's first process does not answer"), "{failure}");
        if what == "kill" {
            // The CRM ends it now.
            continue;
        }
        // What it may still do when it goes on happens in no sandbox of ours.
        let gone = loop {
            if let Notice::Gone { cause, .. } = world.notice().await {
                break cause.unwrap();
            }
        };
        assert!(gone.cause.as_str().contains("does not answer"), "{gone}");
        assert_eq!(world.seen().tear_downs, 1);
    }
}

/// As on a file server that hangs: the member goes on, for others and for this one.
#[tokio::test(start_paused = true)]
async fn a_command_whose_program_hangs_ends_nothing_else() {
    let mut world = World::in_state(State::Running).await;
    let _beats = beat(&world);
    world.seen().starts_hang = true;
    world.send(&Request::Exec { job: JobId(1), command: shell(":") }).await;
    sleep(Duration::from_secs(3600)).await;
    world.seen().starts_hang = false;
    let (stdout, ..) = world.run(JobId(2), shell("echo goes on")).await;
    assert_eq!(stdout, "goes on\n");
}

#[tokio::test]
async fn what_the_monitor_left_is_named_although_it_ended_by_itself() {
    let mut world = World::in_state(State::Running).await;
    world.seen().left_over = Some("process 7 does not die".into());
    let ended = operation::Notice::Ended { reason: EndReason::LifetimeOver };
    world.monitor.send(&ended.encode(), &[]).await.unwrap();
    let gone = loop {
        if let gone @ Notice::Gone { .. } = world.notice().await {
            break gone;
        }
    };
    let Notice::Gone { dirty: Some(what), cause: Some(_) } = gone else { panic!("{gone:?}") };
    assert_eq!(what.as_str(), "process 7 does not die");
}
