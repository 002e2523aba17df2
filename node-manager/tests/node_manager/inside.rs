//! What a process inside sees.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use grant::{Driver, Grant};
use node_manager::init::record::{self, ExitStatus};
use node_manager::operation::{Notice, Request, Step};

use crate::world::{self, HOME, UID, World, command, nothing_left};

pub fn a_sandbox_shows_what_it_should_and_nothing_else() {
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
            "perl -e 'open F, \"<\", \"/dev/null\"; printf \"%s\\n\", ioctl(F, 0x5412, $c = \"x\") ? 1 : $!{EPERM} ? \"refused\" : $!'",
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

pub fn what_is_written_to_system_directories_stays_inside() {
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

pub fn home_and_shares_are_the_nodes_and_ssh_is_private() {
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
pub fn ranks_read_each_others_memory() {
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

pub fn a_routed_sandbox_reaches_its_node() {
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

pub fn limits_are_kept() {
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
