//! The cables between the sites of a local grid, and the program that measures them.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};

use gridpilot_tests::links::Links;
use gridpilot_tests::rate::Rate;
use gridpilot_tests::state::{Driver, Plan};
use serde_json::Value;

use crate::common::{TestGrid, finish, finish_child, plan};

const PORT: &str = "7900";
const SECONDS: &str = "2";

/// `gridpilot-flow` in a machine.
fn flow(world: &TestGrid, machine: &str, words: &[&str]) -> Command {
    let state = &world.grid.state;
    let enter = state.machine(machine).unwrap().enter();
    let mut command = Command::new(&enter[0]);
    command.args(&enter[1..]).arg(state.path("programs/gridpilot-flow")).args(words);
    command
}

fn serving(world: &TestGrid, machine: &str) -> Child {
    let mut server = flow(world, machine, &["serve", "--port", PORT, "--seconds", SECONDS]);
    server.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What the receiver said: a line for each second, and the last.
fn lines(server: Child) -> (Vec<Value>, Value) {
    let said = finish_child(server).ok();
    let mut lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let total = lines.pop().unwrap();
    (lines, total)
}

/// Bytes of frames, headers and all.
fn frames(total: &Value) -> f64 {
    let bytes = |key: &str| total[key].as_u64().unwrap() as f64;
    bytes("tcp_bytes") * 1514.0 / 1448.0 + bytes("udp_bytes") * 1514.0 / 1472.0
}

#[test]
fn a_shaped_cable_carries_no_more_than_it_is_said_to_whoever_floods_it() {
    let rate = Rate { kbit: 20_000 };
    let links = Links { link: Some(rate), shaped: true, ..Links::default() };
    let world = TestGrid::machines(Plan { links, ..plan(2, 1) });
    let to = gridpilot_tests::netns::machine_address(1, 1);
    let common = ["send", "--to", &to, "--port", PORT, "--seconds", SECONDS];
    for how in [
        ["--udp", "80Mbit"].as_slice(),
        &["--congestion", "cubic", "--streams", "4"],
        &["--congestion", "bbr"],
    ] {
        let server = serving(&world, "b1");
        finish(&mut flow(&world, "a1", &[&common, how].concat())).ok();
        let (seconds, total) = lines(server);
        let sum = |key: &str| seconds.iter().map(|line| line[key].as_u64().unwrap()).sum::<u64>();
        // What had gathered in queues, and in the receiver before it first looked at the clock.
        let passed = sum("passed_ms") as f64 / 1e3 + 0.5;
        let allowed = f64::from(rate.kbit) * 125.0 * passed + 128e3;
        let got = frames(&total);
        assert!(got > 0.0 && got <= allowed, "{how:?}: {got} bytes, {allowed} are allowed: {total}");
        for key in ["tcp_bytes", "udp_bytes"] {
            assert_eq!(sum(key), total[key].as_u64().unwrap(), "{key}");
        }
    }
}

#[test]
fn traffic_inside_a_site_and_to_the_grc_is_in_no_class_of_a_cable() {
    let links =
        Links { link: Some(Rate { kbit: 1000 }), uplink: Some(Rate { kbit: 2000 }), ..Links::default() };
    let world = TestGrid::machines(Plan { links: Links { shaped: true, ..links }, ..plan(2, 2) });
    for (from, to, address) in [
        ("a1", "a2", gridpilot_tests::netns::machine_address(0, 2)),
        ("a0", "grc", gridpilot_tests::netns::GRC_ADDRESS.to_owned()),
    ] {
        let server = serving(&world, to);
        let words = ["send", "--to", &address, "--port", PORT, "--seconds", SECONDS, "--congestion", "cubic"];
        finish(&mut flow(&world, from, &words)).ok();
        assert!(frames(&lines(server).1) > 0.0, "{from} to {to}");
    }
    for (machine, device) in [("core", "r-a"), ("core", "r-b"), ("router-a", "core0"), ("router-b", "core0")]
    {
        let mut show = Command::new("nsenter");
        let holder = world.grid.state.machine(machine).unwrap().holder.pid;
        show.args([format!("--target={holder}"), "--net".into()]);
        let said = finish(show.args(["--", "tc", "-s", "class", "show", "dev", device])).ok();
        let (classes, idle) = (said.matches("class htb").count(), said.matches("Sent 0 bytes").count());
        assert!(classes >= 2 && classes == idle, "{machine} {device}: {said}");
    }
}

#[test]
fn a_link_that_nobody_could_make_is_refused_before_anything_is_made() {
    let links = Links { shaped: true, link: None, ..Links::default() };
    let plan = Plan { links, ..plan(2, 1) };
    let directory = plan.directory.clone();
    let programs = gridpilot_tests::install::programs().unwrap();
    let error = gridpilot_tests::world::Grid::machines(plan, &programs).unwrap_err();
    assert!(error.to_string().contains("--link"), "{error:#}");
    assert!(!directory.exists());
}

/// Both sites publish one and the same private range, and a job runs over both of them.
#[test]
fn sites_with_the_same_range_never_have_the_same_address_and_reach_each_other() {
    for driver in [Driver::Macvlan, Driver::Veth] {
        let links = Links { same_ranges: true, ..Links::default() };
        let mut world = TestGrid::up(Plan { links, driver, ..plan(2, 2) });
        let sites = world.ask(&["sites"]).to_string();
        assert_eq!(sites.matches("10.71.128.0/17").count(), 2, "{sites}");
        let reservation = world.reserve("a=2,b=2");
        let addresses = world.addresses(&reservation);
        let distinct: BTreeSet<_> = addresses.iter().map(|(_, address)| address).collect();
        assert_eq!(distinct.len(), 4, "{addresses:?}");
        assert!(distinct.iter().all(|address| address.starts_with("10.71.")), "{addresses:?}");
        let each = "for from in a-0 a-1 b-0 b-1; do for to in a-0 a-1 b-0 b-1; do ssh $from ssh $to hostname; done; done";
        let met = world.on_head(&reservation, each).ok();
        assert_eq!(met, "a-0\na-1\nb-0\nb-1\n".repeat(4), "{driver:?}");
        let flow = world.grid.state.path("programs/gridpilot-flow").display().to_string();
        let through = world.on_head(
            &reservation,
            &format!(
                "ssh b-1 {flow} serve --port {PORT} --seconds 1 & \
                 {flow} send --to b-1 --port {PORT} --seconds 1 --congestion reno >/dev/null; wait"
            ),
        );
        let total: Value = serde_json::from_str(through.ok().lines().last().unwrap()).unwrap();
        assert!(total["tcp_bytes"].as_u64().unwrap() > 0, "{total}");
        world.release(&reservation);
        world.observe();
    }
}
