//! Limits that are hit are named, and only the job that hit them suffers; a job that is cancelled
//! leaves nothing in a standing reservation, whatever it did to stay.

use gridpilot_tests::process::wait_until;
use serde_json::Value;

use crate::common::{Outcome, TestGrid, plan};

/// One site of two nodes and a reservation of both, with small limits.
fn small() -> (TestGrid, String) {
    let mut world = TestGrid::up(plan(1, 2));
    let limits = ["--memory", "256MiB", "--processes", "150", "--disk", "32MiB"];
    let words = ["--output-mode", "quiet", "reserve", "--wait", "--nodes", "a=2"];
    let id = world.type_in(&[&words[..], &limits].concat()).ok().trim().to_owned();
    world.observe();
    (world, id)
}

/// What is said of the newest job's limits: one line each, and the same for programs.
fn hits(world: &TestGrid) -> (String, Value) {
    (world.type_in(&["show", "last"]).out, world.ask(&["show", "last"])["limits_hit"].clone())
}

#[test]
fn every_limit_is_named_with_its_size_and_a_neighbour_does_not_notice() {
    let (world, r) = small();
    let neighbour = world.ask(&["submit", "--in", &r, "--", "sleep", "1000"]);
    let neighbour = neighbour["job"].as_str().unwrap().to_owned();
    // Each with what its output or end must be, and the line that names the limit.
    let bombs: [(&str, &str, &str, &str); 4] = [
        (
            "memory",
            "perl -e '$x = q(x) x (900 << 20); print length $x'",
            "out of memory: ",
            "limit 256MiB per member; ask for more with --memory",
        ),
        (
            "processes",
            "perl -e 'for (1..400) { my $p = fork; last unless defined $p; sleep 60, exit unless $p; push @p, $p } \
              kill 9, @p; 1 while wait > 0; exit 1'",
            "too many processes: ",
            "limit 150 per member; ask for more with --processes",
        ),
        (
            "disk",
            "cat /dev/zero > /tmp/fill; rm -f /var/x",
            "disk full: ",
            "limit 32MiB per member; ask for more with --disk",
        ),
        (
            "files",
            "mkdir /tmp/many && cd /tmp/many && seq 100000 | xargs touch",
            "disk full: too many files, limit ",
            "per member; ask for more with --disk",
        ),
    ];
    for (limit, script, what, size) in bombs {
        let outcome: Outcome = world.type_in(&["submit", "--wait", "--in", &r, "--", "bash", "-c", script]);
        let line = outcome.err.lines().find(|line| line.contains(what)).unwrap_or_default().to_owned();
        assert!(line.contains(size), "{limit}: {outcome:?}");
        let (shown, json) = hits(&world);
        assert!(shown.contains(what) && shown.contains(size), "{limit}: {shown}");
        assert!(json.as_array().unwrap().iter().any(|hit| hit["limit"] == limit), "{json}");
        let logged = world.type_in(&["log", "last"]);
        assert!(logged.err.contains(what), "{limit}: {logged:?}");
        world.on_head(&r, "rm -rf /tmp/fill /tmp/many").ok();
    }
    assert_eq!(world.state_of(&neighbour), "running");
    assert_eq!(hits_of_a_quiet_job(&world, &r), serde_json::json!([]));
    world.release(&r);
    world.expect_nothing_left();
}

fn hits_of_a_quiet_job(world: &TestGrid, reservation: &str) -> Value {
    world.on_head(reservation, "true").ok();
    hits(world).1
}

/// On the head and, by ssh, on the other member: deaf, in sessions of their own, stopped, forked
/// twice, and more of them all the time.
const STAYER: &str = "
    trap '' TERM HUP INT
    (setsid sleep 7001 &); setsid -f sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'
    sleep 7002 & kill -STOP $!
    ssh $(sed -n 2p $GRIDPILOT_NODE_FILE) 'setsid -f sleep 7003; trap \"\" TERM; sleep 7004' &
    until ssh $(sed -n 2p $GRIDPILOT_NODE_FILE) pgrep -x sleep >/dev/null; do sleep 0.1; done
    echo up; while :; do sleep 0.1; done";

#[test]
fn a_cancelled_job_leaves_nothing_behind_on_any_member() {
    let (world, r) = small();
    let stays = world.ask(&["submit", "--in", &r, "--", "sleep", "6000"])["job"].as_str().unwrap().to_owned();
    let words = ["submit", "--grace", "1s", "--in", &r, "--", "bash", "-c", STAYER];
    let job = world.ask(&words)["job"].as_str().unwrap().to_owned();
    let mut out = String::new();
    let up = wait_until(std::time::Duration::from_secs(60), || {
        out = world.type_in(&["log", &job]).out;
        out.contains("up")
    });
    assert!(up, "{out}{}", world.logs());
    world.type_in(&["cancel", &job]).ok();
    world.wait_for_state(&job, &["cancelled"]);
    let left = "ps -e -o args= | grep -E 'sleep (700|0[.]1)' | grep -v grep; true";
    let reached = wait_until(std::time::Duration::from_secs(10), || {
        out = world.on_all(&r, left).ok();
        out.is_empty()
    });
    assert!(reached, "left: {out}");
    assert_eq!(world.state_of(&stays), "running", "another job goes on");
    world.release(&r);
    world.expect_nothing_left();
}

#[test]
fn the_end_of_a_reservation_lets_its_commands_end_by_themselves() {
    let (world, r) = small();
    let work = world.workplace();
    let note = work.path.join("note").display().to_string();
    let script = format!("trap 'echo saved > {note}; exit 0' TERM; echo up; while :; do sleep 0.1; done");
    let job =
        world.ask(&["submit", "--in", &r, "--", "bash", "-c", &script])["job"].as_str().unwrap().to_owned();
    let up = || world.type_in(&["log", &job]).out.contains("up");
    assert!(wait_until(std::time::Duration::from_secs(60), up), "{}", world.logs());
    world.release(&r);
    assert_eq!(std::fs::read_to_string(&note).unwrap_or_default(), "saved\n");
    world.expect_nothing_left();
}
