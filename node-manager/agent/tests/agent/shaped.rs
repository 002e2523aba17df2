//! Rates on their way from the CRM to the monitor, and what is used on its way back.

use std::os::fd::{AsFd, OwnedFd};

use node_manager::operation::{self, Step as BuildStep};
use protocol::node::{ClassUse, Notice, Reply, Request, Setup, SignedRates, State};
use protocol::refusal::{Refusal, Step};
use rustix::net::{SendFlags, send};

use crate::world::{World, pair, setup};

pub fn rates(number: u8) -> SignedRates {
    SignedRates { record: vec![number; grant::RATES_LEN], signature: vec![0; 64] }
}

fn shaped_setup() -> Setup {
    let plain = setup();
    let record: [u8; grant::GRANT_LEN] = plain.grant.as_slice().try_into().unwrap();
    let grant = grant::Grant { shaped: true, ..grant::Grant::decode(&record).unwrap() };
    Setup { grant: grant.encode().to_vec(), rates: Some(rates(1)), ..plain }
}

/// Until the monitor was asked so often.
async fn asked(world: &World, times: usize) {
    while world.seen().shaped.len() < times {
        tokio::task::yield_now().await;
    }
}

/// What a kernel would say of one link called `eth0`, and of class 1 of it.
fn kernel() -> (OwnedFd, OwnedFd) {
    let attribute = |kind: u16, value: &[u8]| {
        [&(4 + value.len() as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
    };
    let message = |kind: u16, content: &[u8]| {
        [&(16 + content.len() as u32).to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], content].concat()
    };
    let done = message(3, &[0; 4]);
    let name = attribute(3, b"eth0\0\0\0\0");
    let name = [&9u16.to_ne_bytes()[..], &name[2..]].concat();
    let link = message(16, &[[0, 2, 0, 0].map(u32::to_ne_bytes).concat(), name].concat());
    let header = [0, 2, 0x1_0011, 0x1_0000, 0].map(u32::to_ne_bytes).concat();
    let basic = attribute(1, &[&4_000_000_000u64.to_ne_bytes()[..], &[0; 8]].concat());
    let queue = attribute(3, &[2, 3000, 5, 0, 0].map(u32::to_ne_bytes).concat());
    let class = message(40, &[header, attribute(7, &[basic, queue].concat())].concat());
    let (ours, theirs) = pair();
    for answer in [[link, done.clone()].concat(), [class, done].concat()] {
        send(&theirs, &answer, SendFlags::empty()).unwrap();
    }
    (ours, theirs)
}

async fn say_shaped(world: &World, counters: &OwnedFd) {
    world.monitor.send(&operation::Notice::Shaped.encode(), &[counters.as_fd()]).await.unwrap();
}

async fn say_failed(world: &World, step: BuildStep, errno: i32) {
    let failed = operation::Notice::Failed { step, errno, detail: "eth0".into() };
    world.monitor.send(&failed.encode(), &[]).await.unwrap();
}

#[tokio::test]
async fn a_shaped_sandbox_is_ready_when_its_rates_hold_and_not_before() {
    let mut world = World::in_state(State::Idle).await;
    let request = world.send(&Request::Setup(shaped_setup())).await;
    asked(&world, 1).await;
    assert_eq!(world.seen().shaped, [[1; grant::RATES_LEN]]);
    let status = world.ask(&Request::GetStatus).await;
    assert!(matches!(status, Reply::Status { state: State::Building, .. }), "{status:?}");
    let (counters, _kernel) = kernel();
    say_shaped(&world, &counters).await;
    assert_eq!(world.reply(request).await, Reply::Done);
    let used = loop {
        if let Notice::Used { classes, .. } = world.notice().await {
            break classes;
        }
    };
    let expected = ClassUse { class: 1, sent_bytes: 4_000_000_000, dropped: 5, backlog_bytes: 3000 };
    assert_eq!(used, [expected]);
}

#[tokio::test]
async fn rates_that_the_monitor_refuses_fail_the_setup() {
    let mut world = World::in_state(State::Idle).await;
    let request = world.send(&Request::Setup(shaped_setup())).await;
    asked(&world, 1).await;
    say_failed(&world, BuildStep::CheckRates, 0).await;
    let Reply::Failed(failure) = world.reply(request).await else { panic!() };
    let text = failure.to_string();
    assert!(text.starts_with("SETUP, site a, node a1: cannot accept the rates: eth0\n"), "{text}");
    assert_eq!(crate::gone(&mut world).await, Notice::Gone { dirty: None, cause: Some(failure) });
    assert_eq!(world.seen().tear_downs, 1);
}

#[tokio::test]
async fn an_address_that_is_still_taken_is_asked_for_again() {
    let mut world = World::in_state(State::Idle).await;
    let request = world.send(&Request::Setup(shaped_setup())).await;
    for (times, errno) in [(1, 98), (2, 16), (3, 98)] {
        asked(&world, times).await;
        say_failed(&world, BuildStep::Shape, errno).await;
    }
    asked(&world, 4).await;
    let (counters, _kernel) = kernel();
    say_shaped(&world, &counters).await;
    assert_eq!(world.reply(request).await, Reply::Done);
}

#[tokio::test]
async fn new_rates_are_answered_in_their_order_and_hold_nothing_up() {
    for state in [State::Ready, State::Joined, State::Running] {
        let mut world = World::in_state(state).await;
        let first = world.send(&Request::Shape(rates(2))).await;
        let second = world.send(&Request::Shape(rates(3))).await;
        asked(&world, 2).await;
        assert_eq!(world.seen().shaped, [[2; grant::RATES_LEN], [3; grant::RATES_LEN]]);
        say_failed(&world, BuildStep::CheckRates, 0).await;
        let Reply::Failed(failure) = world.reply(first).await else { panic!("in {state:?}") };
        assert_eq!(failure.step, Step::Running);
        let (counters, _kernel) = kernel();
        say_shaped(&world, &counters).await;
        assert_eq!(world.reply(second).await, Reply::Done, "in {state:?}");
    }
}

#[tokio::test]
async fn rates_out_of_place_are_refused_before_the_monitor_hears_of_them() {
    for state in [State::Idle, State::Building] {
        let mut world = World::in_state(state).await;
        let reply = world.ask(&Request::Shape(rates(2))).await;
        assert!(matches!(reply, Reply::Refused(Refusal::WrongState { .. })), "in {state:?}: {reply:?}");
        assert_eq!(world.seen().shaped.len(), 0);
    }
    let short = SignedRates { record: vec![1; grant::RATES_LEN - 1], ..rates(1) };
    let mut world = World::in_state(State::Ready).await;
    let reply = world.ask(&Request::Shape(short.clone())).await;
    assert!(matches!(reply, Reply::Refused(Refusal::Malformed { .. })), "{reply:?}");
    // A grant that is shaped without rates, rates without such a grant, and no rates at all.
    let mut world = World::in_state(State::Idle).await;
    for setup in [
        Setup { rates: None, ..shaped_setup() },
        Setup { rates: Some(rates(1)), ..setup() },
        Setup { rates: Some(short), ..shaped_setup() },
    ] {
        let reply = world.ask(&Request::Setup(setup)).await;
        assert!(matches!(reply, Reply::Refused(Refusal::Malformed { .. })), "{reply:?}");
    }
    assert_eq!(world.seen().builds, 0);
    assert_eq!(world.seen().shaped.len(), 0);
}

#[tokio::test]
async fn who_waits_for_rates_when_the_end_comes_is_answered() {
    let mut world = World::in_state(State::Running).await;
    let waiting = world.send(&Request::Shape(rates(2))).await;
    asked(&world, 1).await;
    let shutdown = world.send(&Request::Shutdown).await;
    assert!(matches!(world.reply(waiting).await, Reply::Refused(Refusal::WrongState { .. })));
    assert_eq!(world.reply(shutdown).await, Reply::Done);
}
