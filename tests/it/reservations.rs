//! Reservations that hold, on a real grid: windows, rates, refusals with a reason, and sites that
//! do not answer while one is made.

use std::process::Child;
use std::time::{Duration, Instant};

use gridpilot_tests::netns;
use gridpilot_tests::process::{Identity, wait_until};
use gridpilot_tests::site::crm_config_path;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::{Outcome, TestGrid, finish_child};
use crate::death::at_site;

/// Exit code of a refusal, of a grid that failed, and of a command line that makes no sense.
const REFUSED: i32 = 120;
const FAILED: i32 = 123;
const USAGE: i32 = 2;

fn reserve(world: &TestGrid, words: &[&str]) -> Outcome {
    world.type_in(&[&["--output-mode", "quiet", "reserve"], words].concat())
}

fn granted(world: &TestGrid, words: &[&str]) -> String {
    reserve(world, words).ok().trim().to_owned()
}

/// Refused in at most three lines that hold these words, and nothing is there that was not.
fn refused(world: &TestGrid, words: &[&str], expected: &[&str]) -> Outcome {
    let before = world.ask(&["reservations"]).to_string().matches("\"id\"").count();
    let outcome = reserve(world, words);
    assert!([REFUSED, USAGE].contains(&outcome.code), "{words:?}: {outcome:?}");
    assert!(outcome.code == USAGE || outcome.err.trim_end().lines().count() <= 3, "{outcome:?}");
    for word in expected {
        assert!(outcome.err.contains(word), "{words:?}: {word} is not in {outcome:?}");
    }
    let after = world.ask(&["reservations"]).to_string().matches("\"id\"").count();
    assert_eq!(before, after, "{words:?} left something");
    outcome
}

#[test]
fn a_link_is_never_promised_twice_and_the_refusal_says_when_it_is_free() {
    let world = TestGrid::two_by_two();
    let window = ["--nodes", "a=1,b=1", "--start", "+1h", "--time", "30m"];
    let with = |rate: &'static str| [&window[..], &["--bandwidth", rate]].concat();
    let first = granted(&world, &with("150Mbit"));
    let second = granted(&world, &with("50Mbit"));
    refused(&world, &with("1Mbit"), &["a-b", "1Mbit"]);
    let later = [
        "--nodes",
        "a=1,b=1",
        "--start",
        "+1h",
        "--latest",
        "+3h",
        "--time",
        "30m",
        "--bandwidth",
        "100Mbit",
    ];
    let third = granted(&world, &later);
    let view = |id: &str| world.ask(&["show", id]);
    let starts = |id: &str| view(id)["starts"].clone();
    assert_ne!(starts(&first), starts(&third), "the third waits for the first two");
    assert_eq!(view(&first)["state"], "booked");
    // An hour from now is some seconds later than it was: the third would be in the way.
    world.release(&third);
    world.release(&first);
    let fourth = granted(&world, &with("150Mbit"));
    for id in [second, fourth] {
        world.release(&id);
    }
    world.expect_nothing_left();
}

#[test]
fn what_no_grid_could_do_is_refused_and_changes_nothing() {
    let world = TestGrid::two_by_two();
    let base = ["--nodes", "a=1,b=1"];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    refused(&world, &with(&["--start", "+1h", "--end", "+30m"]), &[]);
    refused(&world, &with(&["--start", "2020-01-01T00:00:00Z", "--time", "1h"]), &["past"]);
    refused(&world, &with(&["--start", "2999-01-01T00:00:00Z", "--time", "1h"]), &[]);
    refused(&world, &with(&["--time", "0s"]), &[]);
    refused(&world, &with(&["--bandwidth", "0"]), &[]);
    refused(&world, &with(&["--bandwidth", "0Mbit"]), &[]);
    refused(&world, &with(&["--bandwidth", "900000Gbit"]), &[]);
    refused(&world, &with(&["--bandwidth", "-5Mbit"]), &[]);
    refused(&world, &with(&["--bandwidth", "201Mbit"]), &["a-b", "200"]);
    refused(&world, &with(&["--bandwidth", "a-z=1Mbit"]), &["z"]);
    refused(&world, &["--nodes", "1000000"], &[]);
    refused(&world, &["--nodes", "a=1000000"], &[]);
    refused(&world, &["--nodes", "a=4294967296"], &[]);
    refused(&world, &["--nodes", "a=1,b=1,c=1"], &["c"]);
    assert!(world.grid.pilot_processes().is_empty());
    world.expect_nothing_left();
}

#[test]
fn a_window_begins_and_ends_by_itself_and_gives_everything_back() {
    let mut world = TestGrid::two_by_two();
    let id =
        granted(&world, &["--nodes", "a=1,b=1", "--start", "+6s", "--time", "6s", "--bandwidth", "10Mbit"]);
    let job = world.type_in(&["--output-mode", "quiet", "submit", "--in", &id, "--", "sleep", "60"]).ok();
    world.wait_for_state(&id, &["ready"]);
    world.observe();
    world.wait_for_state(job.trim(), &["running"]);
    let began = world.ask(&["show", &id]);
    assert!(began["version"].as_u64() >= Some(1), "{began}");
    // Nobody releases it: its time is over.
    world.wait_for_state(&id, &["ended"]);
    world.wait_for_state(job.trim(), &["failed"]);
    world.expect_nothing_left();
    assert!(!granted(&world, &["--nodes", "a=2,b=2", "--bandwidth", "200Mbit", "--time", "1m"]).is_empty());
    world.release("last");
    world.expect_nothing_left();
}

#[test]
fn a_grant_is_changed_whole_or_not_at_all() {
    let world = TestGrid::two_by_two();
    let window = ["--nodes", "a=1,b=1", "--start", "+1h", "--time", "30m", "--bandwidth"];
    let first = granted(&world, &[&window[..], &["100Mbit"]].concat());
    let second = granted(&world, &[&window[..], &["100Mbit"]].concat());
    let modify = |words: &[&str]| world.type_in(&[&["modify", &first], words].concat());
    let before = world.ask(&["show", &first]);
    let outcome = modify(&["--bandwidth", "150Mbit"]);
    assert_eq!(outcome.code, REFUSED, "{outcome:?}");
    assert!(outcome.err.contains("a-b"), "{outcome:?}");
    let kept = world.ask(&["show", &first]);
    assert_eq!(
        (&kept["version"], &kept["pairs"]),
        (&before["version"], &before["pairs"]),
        "the old grant stays"
    );
    modify(&["--bandwidth", "50Mbit"]).ok();
    modify(&["--time", "1h"]).ok();
    world.type_in(&["modify", &second, "--bandwidth", "150Mbit"]).ok();
    assert_eq!(modify(&["--bandwidth", "60Mbit"]).code, REFUSED);
    let changed = world.ask(&["show", &first]);
    assert!(changed["version"].as_u64() > before["version"].as_u64());
    world.release(&first);
    world.release(&second);
    world.expect_nothing_left();
}

/// What keeps site b from answering while a reservation is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Trouble {
    Killed,
    /// Its packets vanish; nobody is told.
    BlackHole,
    /// Its CRM stands still for ten seconds.
    Slow,
    /// It refuses: the user has no account there any more.
    Refusing,
}

impl Trouble {
    fn begin(self, world: &mut TestGrid) -> Option<Identity> {
        let crm = world.grid.state.daemon("crm-b").unwrap().identity;
        match self {
            Self::Killed => {
                crm.signal(Signal::SIGKILL);
                wait_until(Duration::from_secs(5), || !crm.alive());
            }
            Self::BlackHole => set_uplink(world, "down"),
            Self::Slow => drop(crm.signal(Signal::SIGSTOP)),
            Self::Refusing => set_mapping(world, false),
        }
        Some(crm)
    }

    fn end(self, world: &mut TestGrid, crm: Option<Identity>) {
        match self {
            Self::Killed => drop(world.grid.start_crm(1).unwrap()),
            Self::BlackHole => set_uplink(world, "up"),
            Self::Slow => drop(crm.map(|crm| crm.signal(Signal::SIGCONT))),
            Self::Refusing => set_mapping(world, true),
        }
        world.grid.wait_connected().unwrap();
    }
}

/// The core's end of the cable to b's router.
fn set_uplink(world: &TestGrid, state: &str) {
    let core = world.grid.state.machine("core").unwrap().holder.pid;
    let lines = vec![format!("link set r-b {state}")];
    let wiring = netns::Wiring { inside: core, tool: netns::Tool::Ip, lines };
    wiring.apply().unwrap();
}

fn set_mapping(world: &TestGrid, there: bool) {
    let config = std::fs::read_to_string(crm_config_path(&world.grid.state, 1)).unwrap();
    let line = config.lines().find(|line| line.starts_with("mapfile")).unwrap();
    let path = line.split('"').nth(1).unwrap();
    let aside = format!("{path}.aside");
    if there {
        std::fs::rename(aside, path).unwrap();
    } else {
        std::fs::rename(path, aside).unwrap();
        std::fs::write(path, "").unwrap();
    }
}

#[test]
fn a_site_that_does_not_answer_is_named_in_time_and_costs_the_others_nothing() {
    let mut world = TestGrid::two_by_two();
    for trouble in [Trouble::Killed, Trouble::BlackHole, Trouble::Slow, Trouble::Refusing] {
        let crm = trouble.begin(&mut world);
        let begun = Instant::now();
        let outcome = reserve(&world, &["--nodes", "a=2,b=1", "--start", "+1h", "--time", "30m"]);
        // Holding takes 5 s at most and is shown; a network that is slow on top must not hide a hang.
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(15), "{trouble:?}: {took:?}");
        assert!([REFUSED, FAILED].contains(&outcome.code), "{trouble:?}: {outcome:?}");
        let named = if trouble == Trouble::Refusing { "no account at site" } else { "site b" };
        assert!(outcome.err.contains(named), "{trouble:?}: {outcome:?}");
        assert!(outcome.err.trim_end().lines().count() <= 4, "{trouble:?}: {outcome:?}");
        if trouble == Trouble::Refusing {
            // One map serves both sites here: nobody could ask site a meanwhile.
            trouble.end(&mut world, crm);
        }
        // The whole of site a for the same time: its share of the failed one is back.
        let mut again = None;
        let back = wait_until(Duration::from_secs(10), || {
            let all = reserve(&world, &["--nodes", "a=2", "--start", "+1h", "--time", "30m"]);
            again = Some(all.out.trim().to_owned()).filter(|_| all.code == 0);
            again.is_some()
        });
        assert!(back, "{trouble:?}: site a did not get its share back{}", world.logs());
        world.release(&again.unwrap());
        if trouble != Trouble::Refusing {
            trouble.end(&mut world, crm);
        }
    }
    let whole = granted(&world, &["--nodes", "a=2,b=2", "--start", "+1h", "--time", "30m"]);
    world.release(&whole);
    world.expect_nothing_left();
}

#[test]
fn grants_and_running_jobs_survive_the_death_of_the_grc() {
    let mut world = TestGrid::two_by_two();
    let later = granted(&world, &["--nodes", "a=1,b=1", "--start", "+1h", "--bandwidth", "20Mbit"]);
    let script = "for n in $(seq 40); do echo $n; sleep 0.1; done; exit 7";
    let job: Child = {
        let words = ["submit", "--wait", "--nodes", "a=1,b=1", "--", "sh", "-c", script];
        use std::process::Stdio;
        let mut command = world.command(&words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let running = || world.ask(&["jobs"]).to_string().contains("\"running\"");
    assert!(wait_until(Duration::from_secs(30), running));
    let grc = world.grid.state.daemon("grc").unwrap().identity;
    grc.signal(Signal::SIGKILL);
    wait_until(Duration::from_secs(5), || !grc.alive());
    world.grid.restart_grc().unwrap();
    let outcome = finish_child(job);
    let expected: String = (1..=40).map(|n| format!("{n}\n")).collect();
    assert_eq!(
        (outcome.code, outcome.out.as_str()),
        (7, expected.as_str()),
        "{}{}",
        outcome.err,
        world.logs()
    );
    let view: Value = world.ask(&["show", &later]);
    assert_eq!(view["state"], "booked", "{view}");
    world.release(&later);
    world.expect_nothing_left();
}

#[test]
fn a_reservation_begins_anew_when_its_sites_crm_was_away_for_longer_than_the_lease() {
    let mut world = TestGrid::two_by_two();
    let id = world.reserve("a=1,b=1");
    let epoch = |world: &TestGrid| world.ask(&["show", &id])["epoch"].as_u64();
    let first = epoch(&world);
    let crm = world.grid.state.daemon("crm-b").unwrap().identity;
    crm.signal(Signal::SIGKILL);
    wait_until(Duration::from_secs(5), || !crm.alive());
    // Its pilots go of themselves when the lease is over.
    let gone = wait_until(Duration::from_secs(60), || at_site(&world.grid, "b", "node-manager").is_none());
    assert!(gone, "the node waits for ever{}", world.logs());
    world.grid.start_crm(1).unwrap();
    let anew = wait_until(Duration::from_secs(60), || epoch(&world) > first);
    assert!(anew, "the reservation keeps its epoch{}", world.logs());
    world.wait_for_state(&id, &["ready"]);
    world.observe();
    let outcome = world.on_all(&id, "hostname");
    assert_eq!(outcome.code, 0, "{outcome:?}{}", world.logs());
    assert!(outcome.out.contains("a-0") && outcome.out.contains("b-0"), "{outcome:?}");
    world.release(&id);
    world.expect_nothing_left();
}
