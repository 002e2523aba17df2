//! Every way in which a pilot can end.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use grant::{Driver, Grant};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node_manager::operation::{EndReason, Notice, Request};

use crate::world::{self, LIB, World, nothing_left};

const LEASE_S: u32 = 2;

pub fn an_orderly_end_leaves_nothing() {
    let world = World::new();
    for driver in [Driver::Macvlan, Driver::Veth] {
        let mut pilot = world.pilot();
        let inside = pilot.build(&world, &Grant { driver, ..pilot.grant() });
        pilot.launcher_end();
        assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::LauncherAsked });
        kill(Pid::from_raw(pilot.agent), Signal::SIGKILL).unwrap();
        assert_eq!(pilot.exit_code(), Some(0));
        nothing_left(&world, &[pilot.monitor, pilot.agent, inside.init], &inside.namespaces);
    }
}

pub fn killing_any_process_leaves_nothing() {
    let world = World::new();
    for driver in [Driver::Macvlan, Driver::Veth] {
        for victim in ["launcher", "monitor", "agent", "init"] {
            for built in [true, false] {
                let mut pilot = world.pilot();
                let mut pids = vec![pilot.monitor, pilot.agent];
                let mut namespaces = Default::default();
                if built {
                    let mut inside = pilot.build(&world, &Grant { driver, pids: 50, ..pilot.grant() });
                    // Something that ignores everything and has nobody above it.
                    inside.shell(
                        "(setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep 100; done' >/dev/null 2>&1 &)",
                    );
                    pids.push(inside.init);
                    namespaces = inside.namespaces;
                }
                let pid = match victim {
                    "launcher" => pilot.launcher.id() as i32,
                    "monitor" => pilot.monitor,
                    "agent" => pilot.agent,
                    _ if built => pids[2],
                    _ => continue,
                };
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
                if victim == "init" {
                    assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::SandboxDied });
                }
                pilot.exit_code();
                if victim == "monitor" {
                    let swept = Command::new(format!("{LIB}/node-manager")).arg("sweep").status().unwrap();
                    assert!(swept.success());
                }
                nothing_left(&world, &pids, &namespaces);
            }
        }
    }
}

pub fn the_end_of_the_lifetime_is_the_end() {
    let world = World::new();
    let mut pilot = world.pilot();
    let inside = pilot.build(&world, &Grant { lifetime_s: 1, ..pilot.grant() });
    assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::LifetimeOver });
    assert_eq!(pilot.exit_code(), Some(0));
    nothing_left(&world, &[pilot.monitor, pilot.agent, inside.init], &inside.namespaces);
}

/// The agent plays dead; then it and the Launcher stand still, and nobody but the monitor is there to
/// end anything.
pub fn a_monitor_that_hears_nothing_ends_the_sandbox_with_the_lease() {
    let world = World::new();
    for alone in [false, true] {
        let mut pilot = world.pilot();
        let mut inside = pilot.build(&world, &Grant { lease_s: LEASE_S, ..pilot.grant() });
        inside.start("echo up; trap '' TERM HUP INT; while :; do sleep 100; done");
        let both = [pilot.agent, pilot.launcher.id() as i32];
        let signal = |signal| both.iter().for_each(|pid| kill(Pid::from_raw(*pid), signal).unwrap());
        if alone {
            signal(Signal::SIGSTOP);
        }
        // As long as it hears of the CRM, here for longer than a lease, all stands.
        for _ in 0..LEASE_S * 3 {
            pilot.ask(&Request::Heard);
            let mut said = [PollFd::new(pilot.operations.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut said, 500u16).unwrap(), 0, "ended although the CRM was heard of");
        }
        let silent = Instant::now();
        assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::LeaseOver });
        nothing_left(&world, &[pilot.monitor, pilot.agent, inside.init], &inside.namespaces);
        let (who, took) = (if alone { "alone" } else { "with a mute agent" }, silent.elapsed());
        println!("a monitor {who}, lease {LEASE_S} s: nothing left after {:.1} s", took.as_secs_f64());
        if alone {
            // The agent is gone: the Launcher alone.
            kill(Pid::from_raw(both[1]), Signal::SIGCONT).unwrap();
        }
        assert_eq!(pilot.exit_code(), Some(0));
    }
}

pub fn a_dead_sandbox_is_reported() {
    let world = World::new();
    let mut pilot = world.pilot();
    let inside = pilot.build(&world, &pilot.grant());
    // The user cannot stop the monitor, and may kill what is his.
    let attempt = |signal: &str, pid: i32| {
        let words = ["--reuid=23456", "--clear-groups", "kill", signal, &pid.to_string()].map(str::to_owned);
        Command::new("setpriv").args(words).output().unwrap().status.success()
    };
    for signal in ["-STOP", "-KILL", "-TERM", "-USR1"] {
        assert!(!attempt(signal, pilot.monitor), "{signal}");
        assert!(!attempt(signal, pilot.agent), "{signal}");
    }
    assert!(attempt("-KILL", inside.init));
    assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::SandboxDied });
    assert_eq!(pilot.exit_code(), Some(0));
    nothing_left(&world, &[pilot.monitor, pilot.agent, inside.init], &inside.namespaces);
}

pub fn the_sweep_removes_what_a_killed_monitor_left() {
    let world = World::new();
    // A pid that is surely nobody's: that of a process which has ended.
    let mut gone = Command::new("true").spawn().unwrap();
    let (dead, alive) = (gone.id(), std::process::id());
    gone.wait().unwrap();
    let cgroup = |pid: u32| format!("/sys/fs/cgroup/pids/gridpilot-a-1-1-0-{pid}");
    for pid in [dead, alive] {
        fs::create_dir(cgroup(pid)).unwrap();
        let name = format!("gridpilot{pid:x}");
        let words = ["link", "add", &name, "type", "veth", "peer", "name", &format!("far{pid:x}")];
        assert!(Command::new("ip").args(words).status().unwrap().success());
    }
    let output = Command::new(format!("{LIB}/node-manager")).arg("sweep").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&cgroup(dead)) && text.contains(&format!("link gridpilot{dead:x}")), "{text}");
    assert!(!fs::exists(cgroup(dead)).unwrap() && fs::exists(cgroup(alive)).unwrap());
    let left = &world::links() - &world.links_before;
    assert!(
        left.contains(&format!("gridpilot{alive:x}")) && !left.contains(&format!("gridpilot{dead:x}")),
        "{left:?}"
    );
    fs::remove_dir(cgroup(alive)).unwrap();
}

/// Only a frozen process is as deaf as one that waits in the kernel for a dead disk.
pub fn a_process_that_cannot_die_is_named_and_a_later_sweep_finds_the_node_clean() {
    let world = World::new();
    let mut pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    inside.start("echo up; exec sleep 1000");
    let freezer = PathBuf::from(format!("/sys/fs/cgroup/freezer/test-{}", std::process::id()));
    fs::create_dir(&freezer).unwrap();
    let victim = world::child_of(inside.init, 0);
    fs::write(freezer.join("cgroup.procs"), victim.to_string()).unwrap();
    let set = |state: &str| {
        fs::write(freezer.join("freezer.state"), state).unwrap();
        while fs::read_to_string(freezer.join("freezer.state")).unwrap().trim() != state {}
    };
    set("FROZEN");
    pilot.ask(&Request::TearDown);
    let Notice::Dirty { what } = pilot.answer() else { panic!("it cannot be clean") };
    assert!(what.contains(&inside.init.to_string()) && what.contains("does not die"), "{what}");
    pilot.launcher_end();
    assert_eq!(pilot.exit_code(), Some(3));
    let sweep = || Command::new(format!("{LIB}/node-manager")).arg("sweep").output().unwrap();
    let dirty = sweep();
    let text = String::from_utf8(dirty.stderr).unwrap();
    assert!(dirty.status.code() == Some(3) && text.contains("cannot be removed: cgroup"), "{text}");
    set("THAWED");
    let clean = sweep();
    assert_eq!(clean.status.code(), Some(0), "{clean:?}");
    nothing_left(&world, &[pilot.monitor, pilot.agent, inside.init], &inside.namespaces);
    fs::remove_dir(&freezer).unwrap();
}
