//! What a user may try with a pilot of his own, as its Launcher and from the node.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;
use std::time::Duration;

use grant::{Driver, Grant};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node_manager::channel;
use node_manager::init::record;
use node_manager::operation::{EndReason, Notice, Request};

use crate::world::{LIB, UID, World, command, nothing_left};

/// A directory of the node seems to have that mode; nothing of the real one is touched.
fn overlaid(path: &str, mode: u32) {
    for part in ["upper", "work"] {
        fs::create_dir_all(format!("/opt/hidden{path}/{part}")).unwrap();
    }
    let options = format!("lowerdir={path},upperdir=/opt/hidden{path}/upper,workdir=/opt/hidden{path}/work");
    mount(Some("overlay"), path, Some("overlay"), MsFlags::empty(), Some(&*options)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn directories_closed_to_the_user_are_not_opened_by_the_sandbox() {
    let world = World::new();
    overlaid("/srv", 0o700);
    overlaid("/home", 0o711);
    // Neither is a share behind one a reason to open it, or to fail.
    fs::create_dir_all("/opt/closed/share").unwrap();
    fs::set_permissions("/opt/closed", fs::Permissions::from_mode(0o700)).unwrap();
    world.policy("share = /opt/closed/share rw");
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    assert_eq!(inside.shell("stat -c %u /srv /usr /home").text, format!("0\n{UID}\n0\n"));
    assert_eq!(inside.shell("grep -c closed /proc/self/mountinfo").text, "0\n");
    assert_eq!(inside.shell("ls /home 2>/dev/null || ls -d ~").text, "/home/grid\n");
    fs::set_permissions("/home", fs::Permissions::from_mode(0o750)).unwrap();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &Grant { address: [10, 71, 128, 8].into(), ..pilot.grant() });
    // It may be listed: there is nothing of the node's in it.
    assert_eq!(inside.shell("ls -A /home").text, "grid\n");
}

/// A batch system may keep a pilot in bounds by these.
pub fn the_limits_of_the_caller_hold_inside() {
    let world = World::new();
    let pilot = world.pilot_in("limits");
    let mut inside = pilot.build(&world, &pilot.grant());
    assert_eq!(inside.shell("ulimit -S -v; ulimit -n; ulimit -c").text, "9000000\n300\n0\n");
}

/// Not these: by them init tells whose a process is. Where the hard one cannot be raised (root here
/// may have lost that right itself), the pilot is refused instead of failing at every command.
pub fn a_low_limit_on_file_locks_is_raised_or_named() {
    let world = World::new();
    match world.try_pilot(&format!("{LIB}/node-manager"), UID, "few locks") {
        Ok(pilot) => {
            let mut inside = pilot.build(&world, &pilot.grant());
            assert_eq!(inside.shell("echo up").text, "up\n");
        }
        Err(complaint) => assert!(complaint.contains("the limit on file locks is too low"), "{complaint}"),
    }
}

/// A terminal stops and kills whatever is in its session, root's or not.
pub fn a_process_group_leader_is_refused() {
    let world = World::new();
    let complaint = world.try_pilot(&format!("{LIB}/node-manager"), UID, "leader").err().expect("refused");
    assert!(complaint.contains("leader of a process group"), "{complaint}");
}

pub fn an_alarm_set_before_the_start_does_not_ring() {
    let world = World::new();
    let pilot = world.pilot_in("alarm");
    let _inside = pilot.build(&world, &pilot.grant());
    std::thread::sleep(Duration::from_millis(1500));
    // One that was ended meanwhile would have said so before.
    pilot.ask(&Request::TearDown);
    assert_eq!(pilot.answer(), Notice::Gone);
}

pub fn a_standard_error_that_nobody_reads_holds_nothing_up() {
    let world = World::new();
    let mut pilot = world.pilot_in("silent");
    pilot.ask(&world.sign(&Grant { uid: UID + 1, ..pilot.grant() }));
    assert!(matches!(pilot.answer(), Notice::Failed { .. }));
    pilot.launcher_end();
    assert_eq!(pilot.exit_code(), Some(0));
}

/// Closing the last descriptor of a lingering connection waits for its peer.
pub fn descriptors_that_cannot_be_closed_do_not_hold_the_monitor() {
    let world = World::new();
    let mut pilot = world.pilot();
    let inside = pilot.build(&world, &pilot.grant());
    pilot.launcher_say(b"l");
    assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::LauncherAsked });
    nothing_left(&world, &[inside.init], &inside.namespaces);

    let pilot = world.pilot();
    let inside = pilot.build(&world, &pilot.grant());
    let (held, _peer) = crate::roles::lingering();
    channel::send(&pilot.operations, &Request::Heard.encode(), &[held.as_fd()]).unwrap();
    drop(held);
    assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::AgentBroke });
    nothing_left(&world, &[inside.init, pilot.agent], &inside.namespaces);
}

pub fn an_agent_that_never_stops_asking_lives_no_longer() {
    let world = World::new();
    let mut pilot = world.pilot();
    let inside = pilot.build(&world, &Grant { lifetime_s: 1, ..pilot.grant() });
    // It wakes up with the end of the lifetime and many requests before it.
    let monitor = Pid::from_raw(pilot.monitor);
    kill(monitor, Signal::SIGSTOP).unwrap();
    (0..50).for_each(|_| pilot.ask(&Request::Heard));
    std::thread::sleep(Duration::from_millis(1500));
    kill(monitor, Signal::SIGCONT).unwrap();
    assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::LifetimeOver });
    assert_eq!(pilot.exit_code(), Some(0));
    nothing_left(&world, &[pilot.monitor, pilot.agent, inside.init], &inside.namespaces);
}

pub fn a_namespace_kept_by_somebody_does_not_keep_the_address() {
    let world = World::new();
    for driver in [Driver::Macvlan, Driver::Veth] {
        let pilot = world.pilot();
        let mut inside = pilot.build(&world, &Grant { driver, ..pilot.grant() });
        inside.spawn(&command(&["sleep", "1000"]));
        let record::Notice::Spawned { .. } = inside.answer() else { panic!() };
        let kept = fs::File::open(format!("/proc/{}/ns/net", inside.init)).unwrap();
        pilot.ask(&Request::TearDown);
        assert_eq!(pilot.answer(), Notice::Gone);
        let pilot = world.pilot();
        let mut inside = pilot.build(&world, &Grant { driver, ..pilot.grant() });
        assert_eq!(inside.shell("hostname").text, "a-0\n");
        pilot.ask(&Request::TearDown);
        assert_eq!(pilot.answer(), Notice::Gone);
        drop(kept);
    }
}

pub fn the_sweep_leaves_alone_what_is_not_roots_or_not_ours() {
    let world = World::new();
    let mut gone = Command::new("true").spawn().unwrap();
    let dead = gone.id();
    gone.wait().unwrap();
    let theirs = format!("/sys/fs/cgroup/pids/gridpilot-a-1-1-0-{dead}");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(UID), Some(UID)).unwrap();
    let link = format!("gp{dead:x}");
    assert!(Command::new("ip").args(["link", "add", &link, "type", "veth"]).status().unwrap().success());
    assert!(Command::new(format!("{LIB}/node-manager")).arg("sweep").status().unwrap().success());
    let kept = fs::exists(&theirs).unwrap();
    fs::remove_dir(&theirs).unwrap();
    assert!(kept && (&crate::world::links() - &world.links_before).contains(&link));
}

/// All agents of a node share an account.
pub fn agents_cannot_trace_each_other() {
    let world = World::new();
    let pilot = world.pilot();
    assert_eq!(fs::metadata(format!("/proc/{}/environ", pilot.agent)).unwrap().uid(), 0);
    assert_ne!(fs::metadata(format!("/proc/{}", pilot.launcher.id())).unwrap().uid(), 0);
}

pub fn a_pipe_in_the_place_of_sshds_log_does_not_hold_init() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &Grant { driver: Driver::Veth, ..pilot.grant() });
    assert_eq!(inside.shell("mkfifo /run/sshd.log && echo made").text, "made\n");
    channel::send(&inside.socket, &record::Request::Listen.encode(), &[]).unwrap();
    assert_eq!(inside.answer(), record::Notice::Done);
    let _login = std::net::TcpStream::connect("10.71.128.7:22").unwrap();
    assert_eq!(inside.shell("hostname").text, "a-0\n");
}

/// Whatever dies at whatever moment of a build; the sweep has work only after the monitor.
pub fn a_death_during_a_build_leaves_nothing() {
    let world = World::new();
    for round in 0..45u64 {
        let driver = if round % 2 == 0 { Driver::Macvlan } else { Driver::Veth };
        let mut pilot = world.pilot();
        pilot.ask(&world.sign(&Grant { driver, pids: 50, ..pilot.grant() }));
        std::thread::sleep(Duration::from_micros(round * 200));
        let victim = [pilot.monitor, pilot.agent, pilot.launcher.id() as i32][round as usize % 3];
        kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
        pilot.exit_code();
        if victim == pilot.monitor {
            assert!(Command::new(format!("{LIB}/node-manager")).arg("sweep").status().unwrap().success());
        }
        nothing_left(&world, &[pilot.monitor, pilot.agent], &Default::default());
        assert!(!crate::world::node_managers_remain(), "round {round}");
    }
}
