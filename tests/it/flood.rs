//! One client that asks as fast as it can: every request is answered, in its order, nothing is
//! made of what is refused, and the GRC's memory stays what it was.

use std::time::Duration;

use gridpilot_tests::state::State;
use protocol::client::{Reply, Request};
use protocol::connection::{greet, read};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::ids::RequestId;
use protocol::names::EnvironmentName;
use protocol::reservation::{Ask, Bandwidth, Limits, Placement, Start};
use tokio::net::UnixStream;

use crate::common::{TestGrid, plan};

const REQUESTS: u64 = 100_000;
/// Far above what it takes; a GRC that stands still must not hold the suite.
const PATIENCE: Duration = Duration::from_secs(120);
/// What all of this may cost the GRC in memory: what is remembered of one user is bounded.
const GROWTH_KIB_MAX: u64 = 64 * 1024;

/// The most memory that a process ever had, KiB.
fn peak_kib(state: &State) -> u64 {
    let pid = state.daemon("grc").unwrap().identity.pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// None of them can be had: a window that is over, more nodes than there are, no link.
fn hopeless(number: u64) -> Request {
    let sites = |text: &[(&str, u32)]| {
        Placement::Sites(text.iter().map(|(site, count)| (site.parse().unwrap(), *count)).collect())
    };
    let (placement, start) = match number % 4 {
        0 => (sites(&[("a", 1)]), Start::Between { earliest_s: 1, latest_s: 1 }),
        1 => (Placement::Anywhere(4000), Start::Open),
        2 => (sites(&[("nowhere", 1)]), Start::Within { wait_s: 0 }),
        _ => (sites(&[("a", 1)]), Start::Between { earliest_s: u64::MAX / 2, latest_s: u64::MAX }),
    };
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    let ask = Ask {
        placement,
        slots: 1,
        limits: Limits::default(),
        start,
        duration_s: 60,
        bandwidth: Bandwidth::Unasked,
        environment: EnvironmentName::host(),
        label: None,
    };
    Request::Reserve { id: RequestId(id), ask }
}

async fn ask_and_count(world: &TestGrid) -> u64 {
    let stream = UnixStream::connect(world.grid.state.socket()).await.unwrap();
    let mut connection = greet(stream, Role::Client, &[Role::Grc]).await.unwrap();
    let outbox = connection.outbox.clone();
    let asking = tokio::spawn(async move {
        for number in 1..=REQUESTS {
            outbox.post_wait(Kind::Request, number, &hopeless(number)).await.unwrap();
        }
    });
    let mut last = 0;
    while last < REQUESTS {
        let frame = connection.inbox.next().await.unwrap();
        assert_eq!(
            (frame.kind, frame.correlation),
            (Kind::Reply, last + 1),
            "answers keep the order of requests"
        );
        let reply: Reply = read(&frame).unwrap();
        assert!(matches!(reply, Reply::Refused(_)), "{last}: {reply:?}");
        last = frame.correlation;
    }
    asking.await.unwrap();
    last
}

#[test]
fn a_hundred_thousand_hopeless_requests_are_refused_in_order_and_cost_no_memory() {
    let world = TestGrid::up(plan(1, 1));
    let before = peak_kib(&world.grid.state);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answered = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask_and_count(&world)).await });
    assert_eq!(answered.expect("all are answered in time"), REQUESTS);
    let grown = peak_kib(&world.grid.state).saturating_sub(before);
    assert!(grown <= GROWTH_KIB_MAX, "the GRC grew by {grown} KiB");
    assert_eq!(world.ask(&["reservations"]).to_string().matches("\"id\"").count(), 0);
    // And it still serves.
    assert_eq!(world.submit("a=1", &["true"]).code, 0);
    world.expect_nothing_left();
}
