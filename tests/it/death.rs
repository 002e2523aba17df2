//! The promise to every batch system and every administrator: kill us whenever you like. After
//! kill -9 of any program of a pilot, at any point of its life, nothing of it is left on the node
//! within ten seconds, the user is told which site and node it was, and the node takes the next
//! job.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use gridpilot_tests::process::{Identity, wait_until};
use gridpilot_tests::world::Grid;
use nix::sys::signal::Signal;

use crate::common::{TestGrid, finish_child};

/// How long a moment may take to come.
const MOMENT_TIME: Duration = Duration::from_secs(60);

/// Who is killed, at site a.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Victim {
    Launcher,
    Monitor,
    Agent,
    Crm,
}

/// When: the states of a NodeManager, as far as one can see them from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Moment {
    /// The process has just come to be: idle, or building.
    Arriving,
    /// The sandbox stands and waits for the other site, which is kept from getting ready.
    Ready,
    /// The key ring is out, services start.
    Joining,
    /// A command runs.
    Running,
    /// The release was sent.
    TearingDown,
}

const MOMENTS: [Moment; 5] =
    [Moment::Arriving, Moment::Ready, Moment::Joining, Moment::Running, Moment::TearingDown];

/// A program of a pilot at a site, outside its sandbox, and the node that it is on. There must
/// be one pilot at the site.
pub fn at_site(grid: &Grid, site: &str, program: &str) -> Option<(String, Identity)> {
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let nodes: Vec<_> = grid.state.nodes().filter(|node| node.name.starts_with(site)).collect();
    let mut found: Vec<(Identity, String)> = grid
        .pilot_processes()
        .iter()
        .map(|stat| stat.identity)
        .filter(|identity| {
            std::fs::read_link(format!("/proc/{}/exe", identity.pid))
                .is_ok_and(|path| path.file_name() == Path::new(program).file_name())
        })
        .filter_map(|identity| {
            let of = namespace(identity.pid)?;
            let node = nodes.iter().find(|node| namespace(node.holder.pid).as_ref() == Some(&of))?;
            Some((identity, node.name.clone()))
        })
        .collect();
    // The monitor's own children are younger than it.
    found.sort_by_key(|(identity, _)| (identity.start, identity.pid));
    found.into_iter().next().map(|(identity, node)| (node, identity))
}

fn victim(grid: &Grid, victim: Victim) -> Option<(String, Identity)> {
    match victim {
        Victim::Launcher => at_site(grid, "a", "launcher"),
        Victim::Monitor => at_site(grid, "a", "node-manager"),
        Victim::Agent => at_site(grid, "a", "node-agent"),
        Victim::Crm => Some(("a0".into(), grid.state.daemon("crm-a").ok()?.identity)),
    }
}

fn wait_for<T>(what: &str, world: &TestGrid, mut find: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    wait_until(MOMENT_TIME, || {
        found = find();
        found.is_some()
    });
    found.unwrap_or_else(|| panic!("{what} never came{}", world.logs()))
}

/// A job is shown as running from when its EXEC is sent; its command runs when it says so.
fn wait_until_it_runs(world: &TestGrid, job: &str) {
    wait_for("the command", world, || world.type_in(&["log", job]).out.contains("up").then_some(()));
}

/// A job at both sites, killed at one moment: its reservation ends with it.
struct Scene {
    reservation: String,
    id: String,
    /// Waits for the job.
    job: Option<Child>,
    /// Stopped, so that the other site does not get ready.
    held_back: Option<Identity>,
}

impl Scene {
    /// Brings a fresh job to the moment.
    fn set(world: &mut TestGrid, who: Victim, moment: Moment) -> Self {
        let script = "echo up; setsid sleep 4321 & sleep 4322";
        let words = ["--output-mode", "json", "submit", "--nodes", "a=1,b=1", "--", "sh", "-c", script];
        let made = world.type_in(&words).json();
        let (job, reservation) = (made["job"].as_str().unwrap(), made["reservation"].as_str().unwrap());
        let waiting = world
            .command(&["wait", job])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut scene = Self {
            reservation: reservation.to_owned(),
            id: job.to_owned(),
            job: Some(waiting.unwrap()),
            held_back: None,
        };
        match moment {
            Moment::Arriving => {
                // The CRM is there all the time: its moment is that of the first pilot.
                let of = if who == Victim::Crm { Victim::Launcher } else { who };
                wait_for("the pilot", world, || victim(&world.grid, of));
            }
            Moment::Ready => {
                let (_, agent) =
                    wait_for("the other agent", world, || at_site(&world.grid, "b", "node-agent"));
                agent.signal(Signal::SIGSTOP);
                scene.held_back = Some(agent);
                wait_for("the sandbox", world, || {
                    let view = world.ask(&["show", &scene.reservation]);
                    (view["parts"][0]["built"].as_u64() == Some(1)).then_some(())
                });
            }
            Moment::Joining => world.wait_for_state(&scene.reservation, &["joining", "ready"]),
            Moment::Running => wait_until_it_runs(world, job),
            Moment::TearingDown => {
                wait_until_it_runs(world, job);
                world.observe();
                world.type_in(&["release", &scene.reservation]).ok();
            }
        }
        world.observe();
        scene
    }
}

/// What the user is shown of a failure: the site, and the node unless the whole site was lost.
fn check_named(shown: &str, node: &str, who: Victim, moment: Moment) {
    let named = shown.contains("site a") && (shown.contains(node) || who == Victim::Crm);
    assert!(named, "{who:?} on {node} killed while {moment:?} is shown as: {shown}");
}

fn kill_in_every_state(who: Victim) {
    let mut world = TestGrid::two_by_two();
    for moment in MOMENTS {
        world.expect_nothing_left();
        let mut scene = Scene::set(&mut world, who, moment);
        let mut node = String::new();
        if let Some((on, target)) = victim(&world.grid, who) {
            target.signal(Signal::SIGKILL);
            node = on;
        } else {
            // Only a teardown may have been quicker than we are.
            assert_eq!(moment, Moment::TearingDown, "{who:?} is not there");
        }
        if let Some(agent) = scene.held_back.take() {
            agent.signal(Signal::SIGCONT);
        }
        world.wait_for_state(&scene.reservation, &["failed", "ended"]);
        if moment != Moment::TearingDown {
            let view = world.ask(&["show", &scene.reservation]);
            assert_eq!(view["state"], "failed", "{who:?} killed while {moment:?}: {view}");
            assert_eq!(view["failure"]["site"], "a", "{who:?} killed while {moment:?}: {view}");
            let explained = world.type_in(&["explain", &scene.reservation]).ok();
            check_named(&explained, &node, who, moment);
        }
        if let Some(job) = scene.job.take() {
            let outcome = finish_child(job);
            if moment != Moment::TearingDown {
                assert_eq!(outcome.code, 123, "{who:?} killed while {moment:?}: {outcome:?}");
                check_named(&outcome.err, &node, who, moment);
            }
        }
        world.expect_nothing_left();
        let next = world.submit("a=2", &["sh", "-c", "hostname; ssh a-1 hostname"]);
        assert_eq!(next.out, "a-0\na-1\n", "after {who:?} killed while {moment:?}: {next:?}{}", world.logs());
    }
    world.expect_nothing_left();
}

#[test]
fn kill_9_of_the_launcher_in_any_state_leaves_nothing() {
    kill_in_every_state(Victim::Launcher);
}

#[test]
fn kill_9_of_the_monitor_in_any_state_leaves_nothing() {
    kill_in_every_state(Victim::Monitor);
}

#[test]
fn kill_9_of_the_agent_in_any_state_leaves_nothing() {
    kill_in_every_state(Victim::Agent);
}

/// One that is back within the lease takes up what it had: the command runs on, or begins to. Only a
/// pilot that was being started when the CRM died may be lost, and by name.
#[test]
fn kill_9_of_the_crm_in_any_state_ends_nothing() {
    let mut world = TestGrid::two_by_two();
    for moment in MOMENTS {
        world.expect_nothing_left();
        let mut scene = Scene::set(&mut world, Victim::Crm, moment);
        let crm = world.grid.state.daemon("crm-a").unwrap().identity;
        assert!(crm.signal(Signal::SIGKILL));
        if let Some(agent) = scene.held_back.take() {
            agent.signal(Signal::SIGCONT);
        }
        wait_until(Duration::from_secs(5), || !crm.alive());
        world.grid.start_crm(0).unwrap();
        world.grid.wait_connected().unwrap();
        let mut lost = false;
        if moment != Moment::TearingDown {
            wait_for("the command or its end", &world, || {
                lost = world.state_of(&scene.id) == "failed";
                let up = || world.type_in(&["log", &scene.id]).out.contains("up");
                (lost || up()).then_some(())
            });
            assert!(!lost || moment == Moment::Arriving, "lost while {moment:?}{}", world.logs());
            world.type_in(&["release", &scene.reservation]).ok();
        }
        world.wait_for_state(&scene.reservation, &["failed", "ended"]);
        if lost {
            check_named(&world.type_in(&["explain", &scene.reservation]).ok(), "a0", Victim::Crm, moment);
        }
        scene.job.take().map(finish_child);
        world.expect_nothing_left();
        let next = world.submit("a=2", &["sh", "-c", "hostname; ssh a-1 hostname"]);
        assert_eq!(next.out, "a-0\na-1\n", "after the CRM while {moment:?}: {next:?}{}", world.logs());
    }
    world.expect_nothing_left();
}

/// What was granted is durable and what runs is at the sites: neither needs the GRC to live on.
#[test]
fn kill_9_of_the_grc_ends_nothing() {
    let mut world = TestGrid::two_by_two();
    let reservation = world.reserve("a=2,b=2");
    let before = world.addresses(&reservation);
    let grc = world.grid.state.daemon("grc").unwrap().identity;
    assert!(grc.signal(Signal::SIGKILL));
    wait_until(Duration::from_secs(5), || !grc.alive());
    world.grid.restart_grc().unwrap();
    world.grid.wait_connected().unwrap();
    world.wait_for_state(&reservation, &["ready"]);
    assert_eq!(world.addresses(&reservation), before, "the same sandboxes");
    let next = world.on_head(&reservation, "ssh b-1 hostname");
    assert_eq!(next.out, "b-1\n", "{next:?}{}", world.logs());
    world.release(&reservation);
    world.expect_nothing_left();
}

/// A batch system ends a pilot with SIGTERM: the job fails by name, nothing is left.
#[test]
fn a_pilot_ended_by_the_batch_system_goes_in_order() {
    let mut world = TestGrid::two_by_two();
    let words =
        ["--output-mode", "json", "submit", "--nodes", "a=1,b=1", "--", "sh", "-c", "echo up; sleep 4323"];
    let made = world.type_in(&words).json();
    wait_until_it_runs(&world, made["job"].as_str().unwrap());
    world.observe();
    let (node, launcher) = at_site(&world.grid, "a", "launcher").unwrap();
    assert!(launcher.signal(Signal::SIGTERM));
    let reservation = made["reservation"].as_str().unwrap();
    world.wait_for_state(reservation, &["failed"]);
    let view = world.ask(&["show", reservation]);
    assert_eq!(view["failure"]["site"], "a", "{view}");
    assert_eq!(view["failure"]["node"], node, "{view}");
    world.expect_nothing_left();
}

/// A reservation without a command of its own is a promise of nodes: it begins anew.
#[test]
fn a_reservation_that_lost_a_pilot_says_so_and_begins_anew() {
    let mut world = TestGrid::two_by_two();
    let reservation = world.reserve("a=1,b=1");
    let (node, launcher) = at_site(&world.grid, "a", "launcher").unwrap();
    assert!(launcher.signal(Signal::SIGKILL));
    wait_for("the reason", &world, || {
        let explained = world.type_in(&["explain", &reservation]).ok();
        (explained.contains("site a") && explained.contains(&node)).then_some(())
    });
    wait_for("the next epoch", &world, || {
        let view = world.ask(&["show", &reservation]);
        (view["epoch"].as_u64() >= Some(2) && view["state"] == "ready").then_some(())
    });
    world.observe();
    assert_eq!(world.on_head(&reservation, "ssh b-0 hostname").out, "b-0\n", "{}", world.logs());
    world.release(&reservation);
    world.expect_nothing_left();
}

/// The user may stop any process of his own real uid; nothing of ours has it but the Launcher.
#[test]
fn a_stopped_launcher_stops_nothing_else() {
    let mut world = TestGrid::two_by_two();
    let reservation = world.reserve("a=1");
    let (_, launcher) = at_site(&world.grid, "a", "launcher").unwrap();
    launcher.signal(Signal::SIGSTOP);
    assert_eq!(world.on_head(&reservation, "hostname").out, "a-0\n");
    world.type_in(&["release", &reservation]).ok();
    wait_until(Duration::from_secs(2), || false);
    launcher.signal(Signal::SIGCONT);
    world.wait_for_state(&reservation, &["ended", "failed"]);
    world.expect_nothing_left();
}
