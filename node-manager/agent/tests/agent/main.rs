//! The agent among a CRM, a monitor and an init that only act their parts: what it promises the
//! CRM in every state, whatever ends it.

mod back;
mod crowds;
mod ends;
mod kept;
mod shaped;
mod world;

use node_agent::handler::Ending;
use node_manager::operation::{self, EndReason, Step as BuildStep};
use protocol::ids::JobId;
use protocol::job::{ExitStatus, Stream};
use protocol::keys::{MemberKeys, PublicKey};
use protocol::limits::OUTPUT_AHEAD_BYTES_MAX;
use protocol::names::AbsolutePath;
use protocol::node::{Notice, Reply, Request, State};
use protocol::refusal::{Refusal, Step};

use world::{HITS, World, command, ring, setup, shell};

pub const LIVE_STATES: [State; 5] =
    [State::Idle, State::Building, State::Ready, State::Joined, State::Running];

/// Skips what happened before and returns the last word of the sandbox.
async fn gone(world: &mut World) -> Notice {
    loop {
        if let gone @ Notice::Gone { .. } = world.notice().await {
            return gone;
        }
    }
}

#[tokio::test]
async fn shutdown_is_answered_in_every_state_after_the_sandbox_is_gone() {
    for state in LIVE_STATES {
        let mut world = World::in_state(state).await;
        let shutdown = world.send(&Request::Shutdown).await;
        if state == State::Building {
            // What the end has overtaken is answered first: nobody waits for ever.
            assert!(matches!(world.reply(1).await, Reply::Failed(_)));
        }
        assert_eq!(world.reply(shutdown).await, Reply::Done, "in {state:?}");
        assert_eq!(gone(&mut world).await, Notice::Gone { dirty: None, cause: None }, "in {state:?}");
        assert_eq!(world.seen().tear_downs, 1, "in {state:?}");
        assert!(matches!(world.agent.await.unwrap(), Ending::Confirmed { dirty: None, cause: None }));
    }
}

#[tokio::test]
async fn what_the_monitor_ends_by_itself_is_told_with_its_reason() {
    for state in LIVE_STATES {
        let mut world = World::in_state(state).await;
        let ended = operation::Notice::Ended { reason: EndReason::LauncherGone };
        if state != State::Building {
            // The sandbox is removed before the word, and its first process is missed meanwhile.
            world.seen().init = None;
            for _ in 0..50 {
                assert!(matches!(world.ask(&Request::GetStatus).await, Reply::Status { .. }));
            }
        }
        world.monitor.send(&ended.encode(), &[]).await.unwrap();
        if state == State::Building {
            assert!(matches!(world.reply(1).await, Reply::Failed(_)));
        }
        // At once, and again when nothing is left.
        let first = loop {
            if let Notice::StateChanged { state: State::TearingDown, cause } = world.notice().await {
                break cause.unwrap();
            }
        };
        assert_eq!(first.cause.as_str(), "the Launcher died");
        let Notice::Gone { dirty: None, cause: Some(cause) } = gone(&mut world).await else {
            panic!("in {state:?}")
        };
        assert_eq!(cause, first);
        assert_eq!(cause.node.unwrap().as_str(), "a1");
        assert_eq!(world.seen().tear_downs, 1, "asked once what is left");
        assert!(matches!(world.agent.await.unwrap(), Ending::Confirmed { .. }));
    }
}

/// The CRM knows it by these words.
#[test]
fn an_end_by_the_batch_system_is_told_in_the_words_of_the_protocol() {
    assert_eq!(EndReason::LauncherAsked.sentence(), protocol::node::ENDED_BY_BATCH_SYSTEM);
}

#[tokio::test]
async fn a_dead_monitor_is_never_reported_as_a_confirmed_end() {
    for state in LIVE_STATES {
        let mut world = World::in_state(state).await;
        world.monitor_task.abort();
        let _ = (&mut world.monitor_task).await;
        // The last holder of the monitor's end.
        let World { mut crm, monitor, agent, .. } = world;
        drop(monitor);
        assert!(matches!(agent.await.unwrap(), Ending::Unconfirmed { cause: Some(_) }), "in {state:?}");
        while let Ok(frame) = crm.inbox.next().await {
            let notice = protocol::connection::read::<Notice>(&frame);
            assert!(!matches!(notice, Ok(Notice::Gone { .. })), "in {state:?}");
        }
    }
}

#[tokio::test]
async fn a_failed_build_names_step_site_and_node_and_ends_the_pilot() {
    let mut world = World::in_state(State::Building).await;
    let failed = operation::Notice::Failed { step: BuildStep::OpenHome, errno: 13, detail: "/home/u".into() };
    world.monitor.send(&failed.encode(), &[]).await.unwrap();
    let Reply::Failed(failure) = world.reply(1).await else { panic!() };
    let text = failure.to_string();
    assert!(text.starts_with("SETUP, site a, node a1: cannot open the user's home directory: "), "{text}");
    assert!(text.contains("/home/u: Permission denied") && text.lines().count() <= 3, "{text}");
    assert_eq!(gone(&mut world).await, Notice::Gone { dirty: None, cause: Some(failure) });
}

#[tokio::test]
async fn requests_out_of_order_are_refused_and_change_nothing() {
    let mut world = World::in_state(State::Idle).await;
    for request in [Request::GetKeys, Request::Run, Request::Exec { job: JobId(1), command: shell(":") }] {
        let reply = world.ask(&request).await;
        assert!(matches!(reply, Reply::Refused(Refusal::WrongState { .. })), "{request:?}: {reply:?}");
    }
    let mut world = World::in_state(State::Ready).await;
    let second = world.ask(&Request::Setup(setup())).await;
    assert!(matches!(second, Reply::Refused(Refusal::WrongState { .. })), "{second:?}");
    assert_eq!(world.seen().builds, 1);
    let status = world.ask(&Request::GetStatus).await;
    assert!(matches!(status, Reply::Status { state: State::Ready, commands: 0, .. }), "{status:?}");
}

#[tokio::test]
async fn a_setup_that_contradicts_its_grant_is_refused_before_the_monitor_hears_of_it() {
    let mut world = World::in_state(State::Idle).await;
    let mut other_address = setup();
    other_address.address = "10.71.128.2".parse().unwrap();
    let mut short = setup();
    short.grant.pop();
    let mut two_lines = setup();
    two_lines.variables = vec![("A".parse().unwrap(), "x\nPermitRootLogin yes".into())];
    for setup in [other_address, short, two_lines] {
        let reply = world.ask(&Request::Setup(setup)).await;
        assert!(matches!(reply, Reply::Refused(Refusal::Malformed { .. })), "{reply:?}");
    }
    assert_eq!(world.seen().builds, 0);
    assert_eq!(world.ask(&Request::Setup(setup())).await, Reply::Done, "still idle");
}

#[tokio::test]
async fn a_key_ring_for_somebody_else_is_refused_and_writes_nothing() {
    let mut world = World::in_state(State::Ready).await;
    let Reply::Keys(keys) = world.ask(&Request::GetKeys).await else { panic!() };
    let foreign = ring(MemberKeys { host: PublicKey([1; 32]), user: keys.user });
    let mut other_user = ring(keys);
    other_user.user = "mallory".parse().unwrap();
    let mut twice = ring(keys);
    twice.members[1].address = twice.members[0].address;
    let mut without = ring(keys);
    without.members.remove(0);
    let mut no_slots = ring(keys);
    no_slots.members[1].slots = 0;
    for (bad, why) in [
        (foreign, "other keys for this member"),
        (other_user, "for another user"),
        (twice, "two members have one address"),
        (without, "does not hold this member"),
        (no_slots, "0 were asked"),
    ] {
        let reply = world.ask(&Request::SetKeys(bad)).await;
        let Reply::Refused(refusal) = reply else { panic!("{why}: {reply:?}") };
        assert!(refusal.to_string().contains(why), "{refusal}");
    }
    assert!(world.seen().files.is_empty());
    assert_eq!(world.ask(&Request::SetKeys(ring(keys))).await, Reply::Done);
    assert_eq!(world.seen().files["nodes"], b"a-0\nb-0\n");
}

#[tokio::test]
async fn run_fails_when_another_machine_answers_with_a_foreign_key() {
    let mut world = World::in_state(State::Joined).await;
    let foreign = node_agent::render::ssh::public_key(PublicKey([1; 32]));
    world.seen().scanned = format!("10.71.128.1 {foreign}\n");
    let Reply::Failed(failure) = world.ask(&Request::Run).await else { panic!() };
    assert_eq!(failure.step, Step::Run);
    assert!(failure.cause.as_str().contains("foreign host key"), "{failure}");
    let status = world.ask(&Request::GetStatus).await;
    assert!(matches!(status, Reply::Status { state: State::Joined, .. }), "{status:?}");
}

#[tokio::test]
async fn a_command_runs_with_its_own_environment_and_ends_as_it_ended() {
    let mut world = World::in_state(State::Running).await;
    for (script, status) in [
        ("exit 0", ExitStatus::Code(0)),
        ("exit 42", ExitStatus::Code(42)),
        ("kill -9 $$", ExitStatus::Signal(9)),
    ] {
        let job = JobId(world.seen().spawned.len() as u64);
        assert_eq!(world.run(job, shell(script)).await.2, status, "{script}");
    }
    let mut set = shell("echo $GRIDPILOT_JOB $GRIDPILOT_MEMBER/$GRIDPILOT_MEMBERS $X; echo oops >&2; pwd");
    set.variables = vec![("X".parse().unwrap(), "y z".into())];
    let (stdout, stderr, _) = world.run(JobId(90), set).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("j90 0/2 y z\n/\n", "oops\n"));
    // Programs open their output again by name.
    let (stdout, _, status) = world.run(JobId(91), shell("echo again > /dev/stdout")).await;
    assert_eq!((stdout.as_str(), status), ("again\n", ExitStatus::Code(0)));
}

#[tokio::test]
async fn a_command_that_cannot_be_executed_ends_as_in_a_shell() {
    let mut world = World::in_state(State::Running).await;
    let (_, stderr, status) = world.run(JobId(1), command(&["ring"])).await;
    assert_eq!(status, ExitStatus::Code(127));
    assert_eq!(stderr, "gridpilot: a-0: ring: command not found\n");
    let (_, stderr, status) = world.run(JobId(2), command(&["/etc/passwd"])).await;
    assert_eq!(status, ExitStatus::Code(126));
    assert_eq!(stderr, "gridpilot: a-0: /etc/passwd: Permission denied\n");
}

#[tokio::test]
async fn a_required_directory_that_is_missing_fails_and_starts_nothing() {
    let mut world = World::in_state(State::Running).await;
    let mut there = shell("pwd");
    there.directories =
        vec![AbsolutePath::try_from("/no/such/place".to_owned()).unwrap(), there.directories[0].clone()];
    assert_eq!(world.run(JobId(1), there.clone()).await.0, "/\n", "the next one is taken");
    there.directory_required = true;
    let Reply::Failed(failure) = world.ask(&Request::Exec { job: JobId(2), command: there }).await else {
        panic!()
    };
    assert!(failure.to_string().contains("cannot enter /no/such/place: No such file"), "{failure}");
}

#[tokio::test]
async fn the_same_job_never_starts_twice() {
    let mut world = World::in_state(State::Running).await;
    let before = world.seen().spawned.len();
    world.run(JobId(5), shell("exit 1")).await;
    assert_eq!(world.ask(&Request::Exec { job: JobId(5), command: shell("exit 1") }).await, Reply::Done);
    assert_eq!(world.seen().spawned.len(), before + 1);
}

#[tokio::test]
async fn output_is_never_further_ahead_than_what_was_saved() {
    let mut world = World::in_state(State::Running).await;
    let total = 3 * OUTPUT_AHEAD_BYTES_MAX;
    let script = format!("head -c {total} /dev/zero");
    let job = JobId(1);
    assert_eq!(world.ask(&Request::Exec { job, command: shell(&script) }).await, Reply::Done);
    let (mut sent, mut saved) = (0, 0);
    while sent < total {
        // As far as it goes without a word from us, then one word.
        while sent < total.min(saved + OUTPUT_AHEAD_BYTES_MAX) {
            match world.notice().await {
                Notice::Output { offset, bytes, .. } => {
                    assert_eq!(offset, sent);
                    sent += bytes.len() as u64;
                }
                Notice::StateChanged { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(sent <= saved + OUTPUT_AHEAD_BYTES_MAX, "{sent} sent, {saved} saved");
        saved = sent;
        world.send(&Request::OutputSaved { job, stream: Stream::Stdout, upto: saved }).await;
    }
    assert_eq!(world.notice().await, Notice::Exited { job, status: ExitStatus::Code(0), hits: HITS });
}

#[tokio::test]
async fn a_background_process_that_keeps_the_output_open_does_not_hold_the_job() {
    let mut world = World::in_state(State::Running).await;
    let (stdout, _, status) = world.run(JobId(1), shell("sleep 1000 & echo done")).await;
    assert_eq!((stdout.as_str(), status), ("done\n", ExitStatus::Code(0)));
    // It is still of the job's session, so a signal to the job reaches it.
    assert_eq!(world.ask(&Request::Signal { job: JobId(1), signal: 9 }).await, Reply::Done);
    let chatty = shell("while :; do echo more || exit; done & echo done");
    assert_eq!(world.run(JobId(2), chatty).await.2, ExitStatus::Code(0));
    world.ask(&Request::Signal { job: JobId(2), signal: 9 }).await;
}

#[tokio::test]
async fn a_signal_to_a_job_that_never_was_is_answered() {
    let mut world = World::in_state(State::Running).await;
    assert_eq!(world.ask(&Request::Signal { job: JobId(77), signal: 15 }).await, Reply::Done);
    let job = JobId(1);
    assert_eq!(world.ask(&Request::Exec { job, command: shell("exec sleep 1000") }).await, Reply::Done);
    assert_eq!(world.ask(&Request::Signal { job, signal: 15 }).await, Reply::Done);
    let exited = loop {
        match world.notice().await {
            Notice::StateChanged { .. } => {}
            other => break other,
        }
    };
    assert_eq!(exited, Notice::Exited { job, status: ExitStatus::Signal(15), hits: HITS });
}

#[tokio::test]
async fn a_dead_init_ends_the_sandbox_in_every_state_that_has_one() {
    for state in [State::Ready, State::Joined, State::Running] {
        let mut world = World::in_state(state).await;
        world.seen().init = None;
        let Notice::Gone { dirty: None, cause: Some(cause) } = gone(&mut world).await else {
            panic!("in {state:?}")
        };
        assert_eq!(cause.cause.as_str(), "the sandbox's first process died");
        assert_eq!(world.seen().tear_downs, 1, "in {state:?}");
    }
}
