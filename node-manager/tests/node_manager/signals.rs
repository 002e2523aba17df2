//! Whom init finds when a command is to end, and how full the disk was.

use grant::Grant;
use node_manager::channel;
use node_manager::init::record::{ExitStatus, Full, Notice, Request, Whom};

use crate::world::{World, command};

const SIGTERM: u8 = 15;
const SIGKILL: u8 = 9;

/// Ways to get away from whoever wants to end one; each prints `up` when it has.
const AWAY: &[&str] = &[
    // Another session, by forking twice, without the command's environment.
    "(env -i setsid sleep 1000 &); echo up",
    // Deaf, and its parent too.
    "trap '' TERM INT HUP; (trap '' TERM; setsid sleep 1000 &); echo up; while :; do sleep 0.1; done",
    // Stopped, and a stopped parent.
    "sleep 1000 & kill -STOP $!; echo up; kill -STOP $$",
    // A parent of zombies.
    "exec perl -e '$SIG{TERM} = q(IGNORE); for (1..50) { fork or exit } syswrite STDOUT, qq(up\n); sleep 1000'",
    // A group and a session for each child.
    "for i in $(seq 20); do setsid -f sleep 1000; done; echo up",
    // Threw away what it is known by, and its parents.
    "ulimit -x 0; (setsid sleep 1000 &); echo up",
];

pub fn a_signal_finds_every_process_of_a_command_and_no_other() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    let bystander = inside.start("setsid sleep 1000 & echo up; wait");
    for script in AWAY {
        let id = inside.start(script);
        let found = inside.signal(id, 0, Whom::Command);
        assert!(found.processes >= 1 && found.pid > 1, "{found:?}: {script}");
        inside.signal(id, SIGTERM, Whom::Command);
        inside.until_gone(id, SIGKILL, Whom::Command);
        assert!(inside.signal(bystander, 0, Whom::Command).processes >= 2, "{script}");
    }
    inside.until_gone(bystander, SIGKILL, Whom::Command);
    assert_eq!(inside.shell("sleep 0.1; pgrep -c 'sleep|perl'").text, "0\n");
    assert_eq!(inside.signal(77, SIGKILL, Whom::Command).processes, 0, "one that never was");
}

pub fn sigterm_wakes_what_is_stopped() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    let id = inside.start("sleep 1000 & kill -STOP $!; echo up; kill -STOP $$");
    inside.signal(id, SIGTERM, Whom::Command);
    inside.until_gone(id, 0, Whom::Command);
}

pub fn who_is_just_starting_is_nobody_elses() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    let ended = inside.start("echo up");
    for _ in 0..100 {
        // Both wait for init when it looks: it forks, and answers the signal at once.
        let (id, _output) = inside.spawn(&command(&["true"]));
        let request = Request::Signal { id: ended, signal: SIGKILL, whom: Whom::Command };
        channel::send(&inside.socket, &request.encode(), &[]).unwrap();
        let mut status = None;
        while status.is_none() {
            match inside.answer() {
                Notice::Exited { id: exited, status: how, .. } if exited == id => status = Some(how),
                Notice::Exited { .. } | Notice::Found(_) | Notice::Spawned { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(status, Some(ExitStatus::Code(0)), "command {id}");
    }
}

pub fn a_fork_bomb_is_ended_whole() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &Grant { pids: 300, ..pilot.grant() });
    let bystander = inside.start("echo up; sleep 1000");
    let bomb = inside.start("echo up; bomb() { bomb | bomb & }; bomb; while :; do bomb; done 2>/dev/null");
    while inside.signal(bomb, 0, Whom::Command).processes < 250 {}
    inside.until_gone(bomb, SIGKILL, Whom::Command);
    assert!(inside.signal(bystander, 0, Whom::Command).processes > 0);
    assert_eq!(inside.shell("exit 3").status, ExitStatus::Code(3), "there is room for processes again");
}

pub fn everything_inside_can_be_asked_to_end() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    for _ in 0..3 {
        inside.start("setsid sleep 1000 & echo up; wait");
    }
    assert!(inside.signal(0, SIGTERM, Whom::Everything).processes >= 6);
    inside.until_gone(0, 0, Whom::Everything);
    assert_eq!(inside.shell("exit 3").status, ExitStatus::Code(3), "init goes on");
}

pub fn memory_that_runs_out_ends_a_command_before_init() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    let text = inside.shell("echo $(cat /proc/1/oom_score_adj) $(cat /proc/self/oom_score_adj)").text;
    let values: Vec<i32> = text.split_whitespace().map(|value| value.parse().unwrap()).collect();
    assert!(values[1] == (values[0] + 100).min(1000), "{text}");
}

pub fn a_full_disk_is_told_with_its_size() {
    const BYTES: u64 = 8 << 20;
    const FILES: u64 = 2000;
    let world = World::new();
    let pilot = world.pilot();
    let grant = Grant { upper_bytes: BYTES, upper_inodes: FILES, ..pilot.grant() };
    let mut inside = pilot.build(&world, &grant);
    assert_eq!(inside.shell("echo small > /tmp/x").full, Full::default());
    let bytes = Full { bytes: BYTES, files: 0 };
    let full = inside.shell("cat /dev/zero > /tmp/fill 2>/dev/null; echo $?; exit 5");
    assert_eq!((full.status, full.text.as_str(), full.full), (ExitStatus::Code(5), "1\n", bytes));
    assert_eq!(inside.shell("rm /tmp/fill").full, Full::default(), "there is room again at its end");
    // It cleans up behind itself: seen while it was full.
    let tidy = inside.shell("cat /dev/zero > /dev/shm/fill 2>/dev/null; sleep 3; rm /dev/shm/fill");
    assert_eq!(tidy.full, bytes);
    let many = inside.shell("mkdir /var/many; cd /var/many; touch $(seq 3000) 2>/dev/null; echo $?");
    assert_eq!((many.text.as_str(), many.full), ("1\n", Full { bytes: 0, files: FILES }));
    assert_eq!(inside.shell("rm -r /var/many").full, Full::default());
}
