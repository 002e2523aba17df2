//! A user on another machine, who comes in by ssh key over the grid's network and runs a job over both
//! sites; and one beside him, of whom he sees nothing.

use std::io::Read;
use std::process::{Command, Stdio};

use gridpilot_tests::users::{self, GUEST};

use crate::common::{Outcome, TestGrid, finish, finish_child};

/// `gridpilot WORDS` of a user at the head of site b, which is across the network from the GRC.
fn far(world: &TestGrid, user: &str, words: &[&str]) -> Command {
    let mut command = users::far_away(&world.grid.state, "b0", user).unwrap();
    command.args(words);
    command
}

fn say(world: &TestGrid, user: &str, words: &[&str]) -> Outcome {
    finish(&mut far(world, user, words))
}

fn login(world: &TestGrid, user: &str, pin: &str) -> Outcome {
    let key = users::key(&world.grid.state, user);
    let words = ["login", &users::address(), "--pin", pin, "--user", user, "--key", key.to_str().unwrap()];
    say(world, user, &words)
}

#[test]
fn a_user_far_away_runs_his_job_over_both_sites_and_sees_nothing_of_another() {
    let mut world = TestGrid::two_by_two();
    let state = world.grid.state.clone();
    let grc = ["pin", "--config", state.path("etc/grc.toml").to_str().unwrap()].map(String::from);
    let pin = finish(Command::new(state.path("lib/grc")).args(grc)).ok().trim().to_owned();
    let refused = login(&world, GUEST, &"0".repeat(64));
    assert_eq!((refused.code, refused.err.lines().count()), (120, 1), "{refused:?}");
    login(&world, GUEST, &pin).ok();
    let words =
        ["submit", "--wait", "--nodes", "a=1,b=1", "--all", "--", "sh", "-c", "echo $(id -un) $(hostname)"];
    let mut lines: Vec<_> = say(&world, GUEST, &words).ok().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["guest a-0", "guest b-0"]);
    world.observe();

    // The account's own user, at the GRC's machine and far away, is somebody else.
    let own = world.account().grid_user().to_owned();
    login(&world, &own, &pin).ok();
    let reservation = world.reserve("a=1");
    for thing in ["j1", "r1"] {
        for verb in ["show", "explain"] {
            assert_eq!(say(&world, &own, &[verb, thing]).code, 121);
            assert_eq!(world.type_in(&[verb, thing]).code, 121);
            assert_eq!(say(&world, GUEST, &[verb, thing]).code, 0);
        }
    }
    assert_eq!(say(&world, &own, &["log", "j1"]).code, 121);
    for words in [["release", &reservation], ["show", &reservation], ["explain", &reservation]] {
        assert_eq!(say(&world, GUEST, &words).code, 121, "{words:?}");
    }
    assert_eq!(say(&world, GUEST, &["submit", "--in", &reservation, "--", "id"]).code, 121);
    let listed = |user: &str, what: &str| say(&world, user, &["--output-mode", "quiet", what]).ok();
    assert_eq!((listed(GUEST, "jobs").as_str(), listed(GUEST, "reservations").as_str()), ("j1\n", "r1\n"));
    assert_eq!(listed(&own, "reservations"), format!("{reservation}\n"), "the same as at the socket");

    // Whose key is taken away is out, though he has something running; it goes on.
    let words = [
        "--reconnect",
        "1s",
        "submit",
        "--wait",
        "--nodes",
        "b=1",
        "--",
        "sh",
        "-c",
        "echo up; exec sleep 1000",
    ];
    let mut running = far(&world, GUEST, &words);
    let mut running =
        running.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 3];
    running.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"up\n");
    let file = users::users_file(&state);
    let left: Vec<_> = std::fs::read_to_string(&file)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with(GUEST))
        .map(String::from)
        .collect();
    std::fs::write(&file, left.join("\n") + "\n").unwrap();
    let out = finish_child(running);
    assert_ne!(out.code, 0, "{out:?}");
    let refused = say(&world, GUEST, &["jobs"]);
    assert_eq!(refused.code, 120, "{refused:?}");
    assert!(refused.err.contains("does not let in guest"), "{refused:?}");
    say(&world, &own, &["jobs"]).ok();
    world.release(&reservation);
}
