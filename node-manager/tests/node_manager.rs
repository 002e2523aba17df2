//! The installed setuid program from outside, with the test in the agent's place.
//! Needs root, `ip` (iproute2) and nothing else.

mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode};

use grant::{Driver, Grant};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node_manager::init::record::{self, ExitStatus, FileId, SpawnStage};
use node_manager::operation::{EndReason, Notice, Request, State, Step};
use world::{HOME, LIB, POLICY, UID, World, command, nothing_left};

macro_rules! tests {
    ($($name:ident)*) => {
        const TESTS: &[(&str, fn())] = &[$((stringify!($name), $name),)*];
    };
}

tests! {
    a_sandbox_shows_what_it_should_and_nothing_else
    what_is_written_to_system_directories_stays_inside
    home_and_shares_are_the_nodes_and_ssh_is_private
    ranks_read_each_others_memory
    files_appear_whole_at_their_places
    commands_start_once_and_report_how_they_ended
    signals_reach_a_command_or_its_session
    a_routed_sandbox_reaches_its_node
    limits_are_kept
    grants_are_checked_before_anything_is_built
    a_second_build_ends_everything
    garbage_ends_everything
    hand_started_and_misinstalled_programs_refuse
    a_policy_that_others_can_write_is_refused
    an_orderly_end_leaves_nothing
    killing_any_process_leaves_nothing
    the_end_of_the_lifetime_is_the_end
    a_dead_sandbox_is_reported
    a_failed_build_names_its_step_and_leaves_nothing
    the_sweep_removes_what_a_killed_monitor_left
}

fn main() -> ExitCode {
    world::other_roles();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, name] = &arguments[..]
        && role == "--run"
    {
        TESTS.iter().find(|(test, _)| test == name).expect("a test").1();
        return ExitCode::SUCCESS;
    }
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    let chosen = TESTS.iter().filter(|(name, _)| wanted.is_none_or(|wanted| name.contains(wanted.as_str())));
    let mut failed = Vec::new();
    for (name, _) in chosen {
        let passed = Command::new("/proc/self/exe")
            .args(["--run", name])
            .status()
            .is_ok_and(|status| status.success());
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    println!("failed: {failed:?}");
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn a_sandbox_shows_what_it_should_and_nothing_else() {
    let world = World::new();
    let pilot = world.pilot();
    assert_eq!(pilot.invocation, "the invocation");
    assert_eq!((pilot.welcome.uid, pilot.welcome.crm_pin), (UID, [7; 32]));
    let mut inside = pilot.build(&world, &pilot.grant());
    for (question, answer) in [
        ("ls /sys/class/net | xargs", "eth0 lo"),
        ("ip -o -4 addr show eth0 | awk '{print $4}'", "10.71.128.7/16"),
        ("cat /sys/class/net/eth0/address", "02:47:0a:47:80:07"),
        ("ip -o -6 addr | wc -l", "0"),
        ("hostname; cat /etc/hostname", "a-0\na-0"),
        ("cat /etc/hosts", "127.0.0.1 localhost\n10.71.128.7 a-0"),
        ("id -u; id -un; echo ~grid; pwd", "23456\ngrid\n/home/grid\n/home/grid"),
        ("ps -e -o user= | sort -u", "grid"),
        ("grep -hE '^Cap' /proc/self/status /proc/1/status | awk '{print $2}' | sort -u", "0000000000000000"),
        ("grep -hE '^(NoNewPrivs|Seccomp):' /proc/self/status | awk '{print $2}' | xargs", "1 2"),
        ("cat /proc/sys/net/ipv6/conf/all/disable_ipv6", "1"),
        ("ls /run /tmp /dev/shm | xargs", "/dev/shm: /run: /tmp:"),
        ("cat /dev/null; test -w /dev/null && test -c /dev/urandom && echo well", "well"),
        ("ls -d /sys/fs/cgroup/* 2>/dev/null | wc -l", "0"),
        ("readlink /proc/self/fd/* | grep -vE 'pipe|/dev/null|/proc' | wc -l", "0"),
        ("ls -l /proc/1/fd 2>&1 | grep -c denied", "1"),
        ("env | cut -d= -f1 | sort | xargs", "HOME PATH PWD"),
        ("umask; awk '{print $5 == $6}' /proc/self/stat", "0022\n1"),
        ("awk '/SigIgn|SigBlk/ {print $2}' /proc/self/status | sort -u", "0000000000000000"),
        ("unshare -U true 2>&1 | grep -c permitted", "1"),
        ("unshare -m true 2>&1 | grep -c permitted", "1"),
        ("mount -t tmpfs none /mnt 2>&1 | grep -ciE 'permi|superuser'", "1"),
        ("ip link set eth0 address 02:00:00:00:00:01 2>&1 | grep -c permitted", "1"),
        ("echo 1 2>/dev/null > /proc/sys/kernel/core_pattern || echo refused", "refused"),
        ("kill -9 1; kill -TERM 1; sleep 0.1; hostname", "a-0"),
        (
            "perl -e 'open F, \"<\", \"/dev/null\"; printf \"%s\\n\", ioctl(F, 0x5412, \"x\") ? 1 : $!{EPERM} ? \"refused\" : $!'",
            "refused",
        ),
        ("perl -e 'printf \"%s\\n\", syscall(425, 1, 0) >= 0 ? 1 : $!{EPERM} ? \"refused\" : $!'", "refused"),
        (
            "perl -MSocket -e 'printf \"%s\\n\", socket(S, 40, SOCK_STREAM, 0) ? 1 : $!{EAFNOSUPPORT} ? \"refused\" : $!'",
            "refused",
        ),
    ] {
        let output = inside.shell(question);
        assert_eq!(output.text.trim_end(), answer, "{question}");
    }
}

fn what_is_written_to_system_directories_stays_inside() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    let places = ["/etc", "/usr", "/usr/local", "/opt", "/var", "/srv", "", "/tmp", "/run", "/dev/shm"];
    for place in places {
        let output = inside.shell(&format!("echo inside > {place}/gp-written && cat {place}/gp-written"));
        assert_eq!(output.text, "inside\n", "{place}");
        assert!(!fs::exists(format!("{place}/gp-written")).unwrap(), "{place}");
    }
    // The cap of the writable part is the sandbox's own.
    let output = inside.shell("dd if=/dev/zero of=/var/big bs=1M count=100 2>&1 | grep -c 'No space'");
    assert_eq!(output.text, "1\n");
    assert_eq!(
        inside.shell("rm /var/big; rm -f /etc/fstab; ls /etc/fstab 2>&1 | grep -c 'No such'").text,
        "1\n"
    );
    assert_eq!(
        inside
            .shell("cp /bin/true /usr/t; chmod 4755 /usr/t; chmod 4755 /opt/share/t 2>&1; stat -f -c %T /usr")
            .status,
        ExitStatus::Code(0)
    );
}

fn home_and_shares_are_the_nodes_and_ssh_is_private() {
    let world = World::new();
    let mode = |path: String| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    let script = format!(
        "echo a > ~/a; echo b > {HOME}/b; echo c > /opt/share/c; echo key > ~/.ssh/id; cat {HOME}/.ssh/id; stat -c '%a %U' ~/.ssh"
    );
    assert_eq!(inside.shell(&script).text, "key\n700 grid\n");
    assert_eq!(fs::read_to_string(format!("{HOME}/a")).unwrap(), "a\n");
    assert_eq!(fs::read_to_string(format!("{HOME}/b")).unwrap(), "b\n");
    assert_eq!(fs::read_to_string("/opt/share/c").unwrap(), "c\n");
    assert_eq!(fs::read_dir(format!("{HOME}/.ssh")).unwrap().count(), 0);
    assert_eq!(mode(format!("{HOME}/.ssh")), 0o700);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("{HOME}/.ssh")).unwrap()), UID);
    drop(inside);

    // A user who turns ~/.ssh into a link gets a refusal, not a mount somewhere else.
    fs::remove_dir(format!("{HOME}/.ssh")).unwrap();
    std::os::unix::fs::symlink("/etc", format!("{HOME}/.ssh")).unwrap();
    let pilot = world.pilot();
    pilot.ask(&world.sign(&pilot.grant()));
    let Notice::Failed { step, errno, .. } = pilot.answer() else { panic!() };
    assert_eq!((step, errno), (Step::MountSsh, 40));
}

/// What Open MPI and MPICH do between the ranks of one node.
fn ranks_read_each_others_memory() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    let script = r#"
        perl -e '
            my $secret = "from the other rank";
            pipe(R, W); my $reader = fork() // die;
            if (!$reader) {
                my $buffer = "\0" x length $secret;
                my $here = pack("QQ", unpack("Q", pack("p", $buffer)), length $secret);
                my $there = pack("QQ", unpack("Q", pack("p", $secret)), length $secret);
                my $n = syscall(310, getppid(), unpack("Q", pack("P", $here)), 1, unpack("Q", pack("P", $there)), 1, 0);
                print $n < 0 ? "failed: $!\n" : "$buffer\n"; exit 0;
            }
            waitpid $reader, 0;'
    "#;
    let output = inside.shell(script);
    assert_eq!(output.text, "from the other rank\n");
}

fn files_appear_whole_at_their_places() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    for &file in FileId::ALL {
        let (directory, name, mode) = file.place();
        let directory = match directory {
            record::Directory::Gridpilot => "/etc/gridpilot",
            record::Directory::Ssh => "/home/grid/.ssh",
        };
        for content in ["first\n", "second\n"] {
            assert_eq!(inside.put(file, content.as_bytes()), record::Notice::Done, "{file:?}");
            let output = inside.shell(&format!("cat {directory}/{name}; stat -c %a {directory}/{name}"));
            assert_eq!(output.text, format!("{content}{mode:o}\n"));
        }
        assert_eq!(inside.shell(&format!("ls -A {directory} | grep -c new")).text, "0\n");
    }
    assert_eq!(inside.shell("cat /etc/hosts").text, "second\n");
    let too_long = vec![b'x'; record::FILE_BYTES_MAX + 1];
    assert_eq!(inside.put(FileId::Hosts, &too_long), record::Notice::Failed { errno: libc_efbig() });
    assert_eq!(inside.shell("cat /etc/hosts").text, "second\n");
}

fn libc_efbig() -> i32 {
    nix::errno::Errno::EFBIG as i32
}

fn commands_start_once_and_report_how_they_ended() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    assert_eq!(inside.shell("exit 42").status, ExitStatus::Code(42));
    assert_eq!(inside.shell("kill -SEGV $$").status, ExitStatus::Signal(11));
    let verbatim = inside.run(&["printf", "[%s]", "-x", "a b", "$HOME", "\n;"]);
    assert_eq!(verbatim.text, "[-x][a b][$HOME][\n;]");
    for (program, cwd, stage, errno) in [
        (&["no-such-program"][..], "/", SpawnStage::Exec, 2),
        (&["/etc/passwd"], "/", SpawnStage::Exec, 13),
        (&["true"], "/no/such", SpawnStage::Cwd, 2),
    ] {
        let (id, _) = inside.spawn(&record::Command { cwd: vec![cwd.into()], ..command(program) });
        assert_eq!(inside.answer(), record::Notice::SpawnFailed { id, stage, errno }, "{program:?}");
    }
    let elsewhere =
        record::Command { cwd: vec![b"/no/such".to_vec(), b"/usr".to_vec()], ..command(&["pwd"]) };
    let (_, output) = inside.spawn(&elsewhere);
    assert_eq!(std::io::read_to_string(fs::File::from(output)).unwrap(), "/usr\n");
    assert!(matches!(inside.answer(), record::Notice::Spawned { .. }));
    assert!(matches!(inside.answer(), record::Notice::Exited { status: ExitStatus::Code(0), .. }));
    let request = record::Request::Spawn { id: 1 }.encode();
    node_manager::channel::send(&inside.socket, &request, &[]).unwrap();
    let repeated = record::Notice::SpawnFailed { id: 1, stage: SpawnStage::Repeated, errno: 17 };
    assert_eq!(inside.answer(), repeated);
    // Orphans are reaped.
    inside.shell("for i in 1 2 3 4 5; do (sleep 0.05 &) ; done");
    assert_eq!(inside.shell("sleep 0.3; ps -e -o stat= | grep -c Z").text, "0\n");
}

fn signals_reach_a_command_or_its_session() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    let send = |inside: &world::Inside, id, signal, whole_session| {
        let request = record::Request::Signal { id, signal, whole_session };
        node_manager::channel::send(&inside.socket, &request.encode(), &[]).unwrap();
        inside.answer()
    };
    let (id, _) = inside.spawn(&command(&["sleep", "1000"]));
    assert!(matches!(inside.answer(), record::Notice::Spawned { .. }));
    assert_eq!(send(&inside, id, 15, false), record::Notice::Done);
    assert_eq!(inside.answer(), record::Notice::Exited { id, status: ExitStatus::Signal(15) });
    assert_eq!(send(&inside, id, 15, false), record::Notice::Failed { errno: 3 });

    let (id, output) = inside.spawn(&command(&["sh", "-c", "sleep 1000 & sleep 1001 & echo up; wait"]));
    assert!(matches!(inside.answer(), record::Notice::Spawned { .. }));
    let mut up = [0; 3];
    std::io::Read::read_exact(&mut fs::File::from(output), &mut up).unwrap();
    assert_eq!(send(&inside, id, 9, true), record::Notice::Done);
    assert_eq!(inside.answer(), record::Notice::Exited { id, status: ExitStatus::Signal(9) });
    assert_eq!(inside.shell("sleep 0.1; pgrep -c sleep").text, "0\n");
}

fn a_routed_sandbox_reaches_its_node() {
    let world = World::new();
    let mut pilot = world.pilot();
    let mut inside = pilot.build(&world, &Grant { driver: Driver::Veth, ..pilot.grant() });
    let listener = std::net::TcpListener::bind("10.71.0.11:7000").unwrap();
    let (_, output) = inside.spawn(&command(&["bash", "-c", "exec 3<>/dev/tcp/10.71.0.11/7000; cat <&3"]));
    let (mut connection, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip().to_string(), "10.71.128.7");
    std::io::Write::write_all(&mut connection, b"hello").unwrap();
    drop(connection);
    assert_eq!(std::io::read_to_string(fs::File::from(output)).unwrap(), "hello");
    assert!(matches!(inside.answer(), record::Notice::Spawned { .. }));
    assert!(matches!(inside.answer(), record::Notice::Exited { .. }));
    assert_eq!(
        inside.shell("ls /sys/class/net | xargs; ip -o -4 addr show eth0 | wc -l").text,
        "eth0 lo\n1\n"
    );
    pilot.ask(&Request::TearDown);
    assert_eq!(pilot.answer(), Notice::Gone);
    assert_eq!(world::links(), world.links_before);
    let _ = pilot.launcher.kill();
}

fn limits_are_kept() {
    let world = World::new();
    let mut pilot = world.pilot();
    let grant = Grant { pids: 30, memory_bytes: 256 << 20, cpus_milli: 500, ..pilot.grant() };
    let mut inside = pilot.build(&world, &grant);
    let tagged = world::tagged_cgroups();
    let tag = format!("gridpilot-a-12-1-0-{}", pilot.monitor);
    assert!(tagged.iter().any(|directory| directory.ends_with(&tag)), "{tagged:?}");
    let output = inside.shell("for i in $(seq 60); do sleep 5 & done 2>&1 | grep -c -i fork");
    assert_ne!(output.text, "0\n");
    let killed = inside.run(&["perl", "-e", "$x = 'x' x (600 << 20); print length $x"]);
    assert_eq!(killed.status, ExitStatus::Signal(9));
    pilot.ask(&Request::TearDown);
    assert_eq!(pilot.answer(), Notice::Gone);
    nothing_left(&world, &[inside.init], &inside.namespaces);
    assert!(!world::tagged_cgroups().iter().any(|directory| directory.ends_with(&tag)));
    let _ = pilot.launcher.kill();
}

fn grants_are_checked_before_anything_is_built() {
    let world = World::new();
    let used = world.pilot();
    let stale = used.grant();
    drop(used);
    for (what, wrong) in [
        ("flipped bit", None),
        ("replayed nonce", Some(stale)),
        ("foreign uid", Some(Grant { uid: UID + 1, ..world.pilot().grant() })),
        ("address outside", Some(Grant { address: [10, 71, 1, 1].into(), ..world.pilot().grant() })),
        ("over the ceiling", Some(Grant { upper_bytes: 1 << 40, ..world.pilot().grant() })),
    ] {
        let mut pilot = world.pilot();
        let request = match wrong {
            None => {
                let Request::Build { mut grant, signature } = world.sign(&pilot.grant()) else { panic!() };
                grant[30] ^= 1;
                Request::Build { grant, signature }
            }
            Some(grant) if what == "replayed nonce" => world.sign(&grant),
            Some(grant) => world.sign(&Grant { nonce: pilot.welcome.nonce, ..grant }),
        };
        pilot.ask(&request);
        let Notice::Failed { step, errno: 0, detail } = pilot.answer() else { panic!("{what}") };
        assert!(matches!(step, Step::CheckGrant | Step::CheckPolicy), "{what}: {step:?} {detail}");
        pilot.launcher_end();
        assert_eq!(pilot.exit_code(), Some(0), "{what}");
        nothing_left(&world, &[pilot.monitor, pilot.agent], &Default::default());
    }
}

fn a_second_build_ends_everything() {
    let world = World::new();
    let mut pilot = world.pilot();
    let inside = pilot.build(&world, &pilot.grant());
    pilot.ask(&Request::Status);
    assert_eq!(pilot.answer(), Notice::State(State::Built));
    pilot.ask(&world.sign(&pilot.grant()));
    assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::AgentBroke });
    assert_eq!(pilot.exit_code(), Some(0));
    nothing_left(&world, &[pilot.monitor, pilot.agent, inside.init], &inside.namespaces);
}

fn garbage_ends_everything() {
    let world = World::new();
    for garbage in [&[0xff; 40][..], &[1], &[2, 0], &[7; 512], &[7; 60000]] {
        let mut pilot = world.pilot();
        let inside = pilot.build(&world, &pilot.grant());
        node_manager::channel::send(&pilot.operations, garbage, &[]).unwrap();
        assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::AgentBroke });
        assert_eq!(pilot.exit_code(), Some(0));
        nothing_left(&world, &[pilot.monitor, pilot.agent, inside.init], &inside.namespaces);
    }
}

fn hand_started_and_misinstalled_programs_refuse() {
    let world = World::new();
    let program = format!("{LIB}/node-manager");
    let as_user = |wrapper: &[&str], file: &str| -> String {
        let mut words: Vec<&str> = vec!["setpriv", "--reuid=23456", "--regid=23456", "--clear-groups"];
        words.extend(wrapper);
        words.push(file);
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{wrapper:?} {file}");
        String::from_utf8(output.stderr).unwrap()
    };
    let first_line = |text: String| text.lines().last().unwrap_or_default().to_owned();
    assert_eq!(first_line(as_user(&[], &program)), "node-manager: not started by a pilot's Launcher");
    assert!(as_user(&["--no-new-privs"], &program).contains("no_new_privs"));
    assert!(
        as_user(&["unshare", "-Ur"], &program).contains("setuid is ineffective")
            || as_user(&["unshare", "-Ur"], &program).contains("user namespace")
    );
    let copy = "/opt/share/node-manager";
    fs::copy(&program, copy).unwrap();
    fs::set_permissions(copy, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(as_user(&[], copy).contains("setuid is ineffective"));
    // A setuid copy in somebody's directory is not the installed one.
    fs::set_permissions(copy, fs::Permissions::from_mode(0o4755)).unwrap();
    assert!(as_user(&[], copy).contains("must be root's"));
    let by_root = Command::new(&program).output().unwrap();
    assert!(String::from_utf8(by_root.stderr).unwrap().contains("started by root"));
    for (uid, reason) in [(500, "uid_min")] {
        let complaint = world.pilot_as(&program, uid).err().unwrap();
        assert!(complaint.contains(reason), "{complaint}");
    }
    let usage = Command::new(&program).arg("--config").output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

fn a_policy_that_others_can_write_is_refused() {
    let world = World::new();
    let program = format!("{LIB}/node-manager");
    let refused = |reason: &str| {
        let complaint = world.pilot_through(&program).err().expect("refused");
        assert!(complaint.contains(reason), "{complaint}");
    };
    for mode in [0o666, 0o664, 0o646] {
        fs::set_permissions(POLICY, fs::Permissions::from_mode(mode)).unwrap();
        refused("not writable by group or others");
    }
    world.policy("colour = red");
    refused("line 9: unknown key colour");
    world.policy("");
    fs::set_permissions("/etc/gridpilot", fs::Permissions::from_mode(0o777)).unwrap();
    refused("/etc/gridpilot must be root's");
    fs::set_permissions("/etc/gridpilot", fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(POLICY, "/etc/gridpilot/other").unwrap();
    std::os::unix::fs::symlink("/etc/gridpilot/other", POLICY).unwrap();
    refused("must be root's");
    fs::remove_file(POLICY).unwrap();
    refused("No such file");
}

fn an_orderly_end_leaves_nothing() {
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

fn killing_any_process_leaves_nothing() {
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
                    inside.shell("(setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep 100; done' &)");
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
                let _ = pilot.launcher.wait();
                if victim == "monitor" {
                    let swept = Command::new(format!("{LIB}/node-manager")).arg("sweep").status().unwrap();
                    assert!(swept.success());
                }
                nothing_left(&world, &pids, &namespaces);
            }
        }
    }
}

fn the_end_of_the_lifetime_is_the_end() {
    let world = World::new();
    let mut pilot = world.pilot();
    let inside = pilot.build(&world, &Grant { lifetime_s: 1, ..pilot.grant() });
    assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::LifetimeOver });
    assert_eq!(pilot.exit_code(), Some(0));
    nothing_left(&world, &[pilot.monitor, pilot.agent, inside.init], &inside.namespaces);
}

fn a_dead_sandbox_is_reported() {
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

fn a_failed_build_names_its_step_and_leaves_nothing() {
    let world = World::new();
    let cases: [(&dyn Fn(), &dyn Fn(), Step); 3] = [
        (
            &|| fs::rename(HOME, "/opt/away").unwrap(),
            &|| fs::rename("/opt/away", HOME).unwrap(),
            Step::OpenHome,
        ),
        (
            &|| fs::rename("/opt/share", "/opt/s").unwrap(),
            &|| fs::rename("/opt/s", "/opt/share").unwrap(),
            Step::OpenShare,
        ),
        (&|| world.policy("").clone(), &|| (), Step::CreateLink),
    ];
    for (spoil, mend, expected) in cases {
        let mut pilot = world.pilot();
        spoil();
        if expected == Step::CreateLink {
            assert!(Command::new("ip").args(["link", "del", "node0"]).status().unwrap().success());
        }
        pilot.ask(&world.sign(&pilot.grant()));
        let Notice::Failed { step, errno, detail } = pilot.answer() else { panic!("{expected:?}") };
        assert_eq!(step, expected, "{detail}");
        assert_ne!(errno, 0);
        mend();
        pilot.launcher_end();
        assert_eq!(pilot.exit_code(), Some(0));
        assert!(!world::running(pilot.monitor) && !world::running(pilot.agent));
    }
}

fn the_sweep_removes_what_a_killed_monitor_left() {
    let world = World::new();
    // A pid that is surely nobody's: that of a process which has ended.
    let mut gone = Command::new("true").spawn().unwrap();
    let (dead, alive) = (gone.id(), std::process::id());
    gone.wait().unwrap();
    let cgroup = |pid: u32| format!("/sys/fs/cgroup/pids/gridpilot-a-1-1-0-{pid}");
    for pid in [dead, alive] {
        fs::create_dir(cgroup(pid)).unwrap();
        let name = format!("gp{pid:x}");
        let words = ["link", "add", &name, "type", "veth", "peer", "name", &format!("far{pid:x}")];
        assert!(Command::new("ip").args(words).status().unwrap().success());
    }
    let output = Command::new(format!("{LIB}/node-manager")).arg("sweep").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&cgroup(dead)) && text.contains(&format!("link gp{dead:x}")), "{text}");
    assert!(!fs::exists(cgroup(dead)).unwrap() && fs::exists(cgroup(alive)).unwrap());
    let left = &world::links() - &world.links_before;
    assert!(left.contains(&format!("gp{alive:x}")) && !left.contains(&format!("gp{dead:x}")), "{left:?}");
    fs::remove_dir(cgroup(alive)).unwrap();
}
