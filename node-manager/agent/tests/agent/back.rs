//! A CRM that is lost, silent, or another process with the same certificate: what the agent does
//! until the lease is over, and how it goes on when there is a CRM again.

use std::time::Duration;

use node_agent::handler::Ending;
use protocol::ids::JobId;
use protocol::job::{ExitStatus, Stream};
use protocol::node::{First, Notice, Reply, Request, Return, State};
use protocol::refusal::Refusal;
use tokio::time::Instant;

use crate::LIVE_STATES;
use crate::kept::{hear, said};
use crate::world::{World, ring, setup, shell};

const LEASE: Duration = Duration::from_secs(10);

async fn back(world: &mut World) -> Return {
    let First::Return(back) = world.reconnect().await else { panic!("it arrives anew") };
    world.answer(&Reply::Done);
    back
}

fn unknown() -> Reply {
    Reply::Refused(Refusal::BadToken { why: "its pilot is not awaited any more".into() })
}

#[tokio::test(start_paused = true)]
async fn a_crm_that_is_lost_or_silent_takes_the_sandbox_down_after_the_lease_and_not_before() {
    for state in LIVE_STATES {
        for lost in [true, false] {
            let world = World::in_state(state).await;
            let heard = Instant::now();
            let World { crm, agent, seen, .. } = world;
            let kept = (!lost).then_some(crm);
            let ending = agent.await.unwrap();
            let Ending::Confirmed { cause: Some(cause), .. } = &ending else { panic!("{ending:?}") };
            assert_eq!(cause.cause.as_str(), "nothing was heard from the site's CRM for 10 s");
            assert_eq!(seen.lock().unwrap().tear_downs, 1, "in {state:?}");
            let took = heard.elapsed();
            assert!(took >= LEASE && took < LEASE + Duration::from_secs(1), "{took:?} in {state:?}");
            drop(kept);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn any_word_of_the_crm_keeps_it_up_and_the_monitor_is_told() {
    let mut world = World::in_state(State::Running).await;
    let before = world.seen().heard;
    for _ in 0..8 {
        tokio::time::advance(LEASE / 2).await;
        world.send(&Request::Beat).await;
        while world.notice().await != Notice::Beat {}
    }
    // An answer to the monitor's side of it: what was told it was told before.
    world.ask(&Request::GetStatus).await;
    assert!(world.seen().heard >= before + 8, "{} and {before}", world.seen().heard);
}

#[tokio::test]
async fn it_comes_back_in_every_state_says_how_it_stands_and_goes_on() {
    for state in LIVE_STATES {
        let mut world = World::in_state(state).await;
        let back = back(&mut world).await;
        assert_eq!((back.state, back.nonce, back.boot_id), (state, [1; 16], [5; 16]));
        assert_eq!(back.keys.is_some(), state >= State::Ready, "in {state:?}");
        let status = world.ask(&Request::GetStatus).await;
        assert!(matches!(status, Reply::Status { state: now, .. } if now == state), "{status:?}");
        if let Some(keys) = back.keys {
            assert_eq!(world.ask(&Request::GetKeys).await, Reply::Keys(keys));
            assert_eq!(world.ask(&Request::SetKeys(ring(keys))).await, Reply::Done, "it is repeatable");
        }
        assert_eq!(world.seen().tear_downs, 0);
        let shutdown = world.send(&Request::Shutdown).await;
        if state != State::Building {
            assert_eq!(world.reply(shutdown).await, Reply::Done, "in {state:?}");
        }
        assert!(matches!(world.agent.await.unwrap(), Ending::Confirmed { .. }));
    }
}

#[tokio::test]
async fn an_answer_goes_to_the_connection_on_which_it_was_asked_for() {
    // SETUP of the first connection is under way; on the second, 1 is another request.
    let mut world = World::in_state(State::Building).await;
    assert_eq!(back(&mut world).await.state, State::Building);
    let keys = world.send(&Request::GetKeys).await;
    assert_eq!(keys, 1);
    let shutdown = world.send(&Request::Shutdown).await;
    // The first answer is the one to GET_KEYS, which the end has overtaken; none is for SETUP.
    assert!(matches!(world.reply(keys).await, Reply::Refused(_)));
    assert_eq!(world.reply(shutdown).await, Reply::Done);
}

#[tokio::test]
async fn output_goes_on_where_it_is_asked_for_and_nothing_is_lost_or_doubled() {
    let mut world = World::in_state(State::Running).await;
    let job = JobId(1);
    let gate = tempfile::tempdir().unwrap();
    let gate = gate.path().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("echo one; cat {gate}; echo three; exit 3", gate = gate.display());
    assert_eq!(world.ask(&Request::Exec { job, command: shell(&script) }).await, Reply::Done);
    loop {
        match world.notice().await {
            Notice::Output { bytes, .. } => break assert_eq!(bytes, "one\n"),
            other => assert!(matches!(other, Notice::StateChanged { .. }), "{other:?}"),
        }
    }
    back(&mut world).await;
    // It goes on and ends, but nobody has asked for it here.
    let open = gate.clone();
    tokio::task::spawn_blocking(move || std::fs::write(open, "two\n")).await.unwrap().unwrap();
    while !matches!(world.ask(&Request::GetStatus).await, Reply::Status { commands: 0, .. }) {}
    assert_eq!(said(&mut world).await, []);
    world.send(&Request::Resend { job }).await;
    let (streams, status) = hear(&mut world, job).await;
    assert_eq!(streams[0], (0, b"one\ntwo\nthree\n".to_vec()));
    assert_eq!(status, ExitStatus::Code(3));
    world.send(&Request::OutputSaved { job, stream: Stream::Stdout, upto: 4 }).await;
    back(&mut world).await;
    world.send(&Request::Resend { job }).await;
    assert_eq!(hear(&mut world, job).await.0[0], (4, b"two\nthree\n".to_vec()));
}

#[tokio::test]
async fn a_command_that_is_asked_for_again_starts_nothing_and_is_answered_as_the_first_time() {
    let mut world = World::in_state(State::Running).await;
    let before = world.seen().spawned.len();
    let mut nowhere = shell("echo never");
    nowhere.directories = vec!["/no/such/place".to_owned().try_into().unwrap()];
    nowhere.directory_required = true;
    let failed = world.ask(&Request::Exec { job: JobId(2), command: nowhere.clone() }).await;
    assert!(matches!(failed, Reply::Failed(_)));
    let spawned = world.seen().spawned.len();
    // The answer to this one is lost.
    world.send(&Request::Exec { job: JobId(1), command: shell("echo once") }).await;
    while world.seen().spawned.len() == spawned {
        tokio::task::yield_now().await;
    }
    back(&mut world).await;
    assert_eq!(world.ask(&Request::Exec { job: JobId(1), command: shell("echo once") }).await, Reply::Done);
    assert_eq!(world.ask(&Request::Exec { job: JobId(2), command: nowhere }).await, failed);
    world.send(&Request::Resend { job: JobId(1) }).await;
    assert_eq!(hear(&mut world, JobId(1)).await.0[0], (0, b"once\n".to_vec()));
    assert_eq!(world.seen().spawned.len(), before + 2);
}

#[tokio::test]
async fn one_that_is_not_known_any_more_tears_down() {
    for state in [State::Building, State::Ready, State::Running] {
        let mut world = World::in_state(state).await;
        assert!(matches!(world.reconnect().await, First::Return(_)));
        world.answer(&unknown());
        let ending = world.agent.await.unwrap();
        let Ending::Confirmed { cause: Some(cause), .. } = ending else { panic!("{ending:?}") };
        assert!(cause.cause.as_str().contains("does not take this pilot back"), "{cause}");
    }
}

#[tokio::test]
async fn an_idle_one_that_is_not_known_arrives_anew_once() {
    let mut world = World::in_state(State::Idle).await;
    assert!(matches!(world.reconnect().await, First::Return(_)));
    world.answer(&unknown());
    let First::Arrive(arrive) = world.reconnect().await else { panic!("it returns again") };
    assert_eq!(arrive.nonce, [1; 16]);
    world.answer(&Reply::Done);
    assert_eq!(world.ask(&Request::Setup(setup())).await, Reply::Done);
}

#[tokio::test]
async fn where_both_streams_end_is_said_before_the_end() {
    let mut world = World::in_state(State::Running).await;
    let job = JobId(1);
    let printing = Request::Exec { job, command: shell("echo four; echo er >&2") };
    assert_eq!(world.ask(&printing).await, Reply::Done);
    hear(&mut world, job).await;
    for _ in 0..2 {
        world.send(&Request::Resend { job }).await;
        let mut last = Vec::new();
        loop {
            match world.any_notice().await {
                Notice::Exited { .. } => break,
                notice => last.push(notice),
            }
        }
        let ends = [(Stream::Stdout, 5), (Stream::Stderr, 3)];
        let ends =
            ends.map(|(stream, offset)| Notice::Output { job, stream, offset, bytes: Default::default() });
        assert_eq!(last[last.len() - 2..], ends);
    }
}
