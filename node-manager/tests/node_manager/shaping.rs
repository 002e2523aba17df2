//! A shaped sandbox sends as fast as the site signed, and no faster. Rates are bounds that hold
//! whatever the machine is busy with: bytes against the time that they took, never a time alone.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use grant::{CLASSES_MAX, Destination, Driver, Grant, Rates};
use node_manager::channel;
use node_manager::net::link::{INSIDE_NAME, Link};
use node_manager::net::netlink::{Batch, Netlink, link_header};
use node_manager::net::shape::Shape;
use node_manager::operation::{EndReason, Notice, RECORD_BYTES_MAX, Request, Step};
use rustix::io::Errno;

use crate::world::{Inside, Pilot, World, nothing_left};

/// One packet that the device cuts, with its headers: what may be under way when time is taken.
const SLACK_BYTES: u64 = 70_000;
/// Nothing here takes so long unless it does not work.
const PATIENCE: Duration = Duration::from_secs(60);

/// 10.72.0.0/16 in class 0 and 10.73.0.0/24 in class 3; the node has an address in each.
fn rates(pilot: &Pilot, serial: u32, first_kbit: u32, second_kbit: u32) -> Rates {
    let mut rates_kbit = [0; CLASSES_MAX];
    (rates_kbit[0], rates_kbit[3]) = (first_kbit, second_kbit);
    let to = |network: [u8; 4], prefix_len, class| Destination { network: network.into(), prefix_len, class };
    let destinations = vec![to([10, 72, 0, 0], 16, 0), to([10, 73, 0, 0], 24, 3)];
    Rates { nonce: pilot.welcome.nonce, serial, lifetime_s: 60, rates_kbit, destinations }
}

fn world() -> World {
    let world = World::new();
    for address in ["10.72.0.11/16", "10.73.0.11/24"] {
        let added = Command::new("ip").args(["addr", "add", address, "dev", "node0"]).status().unwrap();
        assert!(added.success());
    }
    world
}

fn shaped(world: &World, driver: Driver) -> (Pilot, Inside) {
    let pilot = world.pilot();
    let inside = pilot.build(world, &Grant { driver, shaped: true, ..pilot.grant() });
    (pilot, inside)
}

/// Asks for the rates; the socket for the counters.
fn shape(world: &World, pilot: &Pilot, rates: &Rates) -> OwnedFd {
    pilot.ask(&world.sign_rates(rates));
    let datagram = channel::receive(&pilot.operations, RECORD_BYTES_MAX).unwrap().unwrap();
    assert_eq!(Notice::decode(&datagram.bytes), Ok(Notice::Shaped));
    let [counters] = <[OwnedFd; 1]>::try_from(datagram.descriptors).unwrap();
    counters
}

/// A program of the node's, with root's rights, in the sandbox's network.
fn in_network(inside: &Inside, program: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", inside.init)).args(program);
    command
}

fn tc(inside: &Inside, words: &str) -> String {
    let mut program = vec!["tc"];
    program.extend(words.split(' '));
    let output = in_network(inside, &program).output().unwrap();
    assert!(output.status.success(), "tc {words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Bytes sent and packets dropped by a class so far.
fn counters(inside: &Inside, class: u32) -> (u64, u64) {
    let text = tc(inside, "-s class show dev eth0");
    let mine = text.split("class htb ").find(|part| part.starts_with(&format!("1:{:x} ", 0x10 + class)));
    let words: Vec<&str> = mine.unwrap_or_else(|| panic!("{class} in {text}")).split_whitespace().collect();
    let after = |word: &str| {
        let at = words.iter().position(|one| *one == word).unwrap();
        words[at + 1].trim_end_matches(',').parse().unwrap()
    };
    (after("Sent"), after("(dropped"))
}

/// Sends so many bytes over one connection with the named congestion control, which only root may
/// choose freely.
fn tcp_sender(inside: &Inside, to: &str, congestion_control: &str, bytes: u64) -> Sender {
    let script = "use Socket; my ($to, $cc, $left) = @ARGV; my $block = 'x' x 65536;
        socket(S, PF_INET, SOCK_STREAM, 6) or die; setsockopt(S, 6, 13, $cc) or die \"$cc: $!\";
        connect(S, sockaddr_in(7000, inet_aton($to))) or die \"connect: $!\";
        while ($left > 0) {
            $left -= syswrite(S, $block, $left < 65536 ? $left : 65536) // die \"write: $!\";
        }";
    let mut perl = in_network(inside, &["perl", "-e", script, to, congestion_control, &bytes.to_string()]);
    Sender(perl.stdin(Stdio::null()).spawn().unwrap())
}

/// Not of the sandbox, so it would outlive a test that fails.
struct Sender(Child);

impl Sender {
    fn finish(mut self) {
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn accept(listener: &TcpListener) -> TcpStream {
    let mut fds = [nix::poll::PollFd::new(listener.as_fd(), nix::poll::PollFlags::POLLIN)];
    assert_eq!(nix::poll::poll(&mut fds, PATIENCE.as_millis() as u16), Ok(1), "nobody connects");
    let connection = listener.accept().unwrap().0;
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection
}

/// Reads up to so many bytes, or to the end.
fn take(connection: &mut TcpStream, bytes: u64) -> u64 {
    let mut taken = 0;
    let mut buffer = vec![0; 65536];
    let deadline = Instant::now() + PATIENCE;
    while taken < bytes {
        assert!(Instant::now() < deadline, "it stands nearly still: {taken} bytes");
        match connection.read(&mut buffer).expect("it goes on") {
            0 => break,
            read => taken += read as u64,
        }
    }
    taken
}

fn most(rate_kbit: u32, took: Duration) -> u64 {
    let bytes_per_s = u64::from(rate_kbit) * 125;
    let burst = (bytes_per_s / 1000).max(1600);
    (bytes_per_s as f64 * took.as_secs_f64()) as u64 + burst + SLACK_BYTES
}

pub fn a_shaped_sandbox_has_no_network_before_its_rates() {
    let world = world();
    for driver in [Driver::Veth, Driver::Macvlan] {
        let (mut pilot, mut inside) = shaped(&world, driver);
        let up = "ip -o link show eth0 | grep -c '[<,]UP[,>]'";
        assert_eq!(inside.shell(up).text, "0\n");
        let reach = "exec 2>&1 3<>/dev/udp/10.72.0.11/7000; echo hello >&3";
        let outcome = inside.run(&["bash", "-c", reach]).text;
        assert!(outcome.contains("Network is unreachable"), "{outcome}");
        // The user cannot help himself.
        for try_it in
            ["ip link set eth0 up", "ip route add default dev eth0", "tc qdisc add dev eth0 root pfifo"]
        {
            let outcome = inside.shell(&format!("{try_it} 2>&1 || echo refused")).text;
            assert!(outcome.ends_with("refused\n"), "{try_it}: {outcome}");
        }
        // Neither does it help to offer rates of one's own.
        pilot.ask(&World::sign_rates_as([1; 32], &rates(&pilot, 1, 1000, 1000)));
        assert!(matches!(pilot.answer(), Notice::Failed { step: Step::CheckRates, errno: 0, .. }));
        assert_eq!(inside.shell(up).text, "0\n");
        let counters = shape(&world, &pilot, &rates(&pilot, 1, 1000, 1000));
        assert_eq!(inside.shell(up).text, "1\n");
        for undo in
            ["tc qdisc del dev eth0 root", "tc class del dev eth0 classid 1:10", "ip link set eth0 down"]
        {
            let outcome = inside.shell(&format!("{undo} 2>&1 || echo refused")).text;
            assert!(outcome.ends_with("refused\n"), "{undo}: {outcome}");
        }
        if driver == Driver::Veth {
            let socket = UdpSocket::bind("10.72.0.11:7000").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(inside.run(&["bash", "-c", reach]).text, "");
            assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 6);
        }
        drop(counters);
        pilot.launcher_end();
        assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::LauncherAsked });
        nothing_left(&world, &[inside.init], &inside.namespaces);
    }
}

pub fn nothing_is_sent_faster_than_the_rate_of_its_class() {
    let world = world();
    let (pilot, mut inside) = shaped(&world, Driver::Veth);
    let (first_kbit, second_kbit) = (40_000, 8_000);
    shape(&world, &pilot, &rates(&pilot, 1, first_kbit, second_kbit));
    let listener = TcpListener::bind("0.0.0.0:7000").unwrap();
    for (to, class, rate_kbit) in [("10.72.0.11", 0, first_kbit), ("10.73.0.11", 3, second_kbit)] {
        // About 2 s. Which control it is matters: BBR stands still where the queue is too short.
        let bytes = u64::from(rate_kbit) * 125 * 2;
        for congestion_control in ["cubic", "bbr"] {
            let before = counters(&inside, class).0;
            let start = Instant::now();
            let sender = tcp_sender(&inside, to, congestion_control, bytes);
            let received = take(&mut accept(&listener), u64::MAX);
            let took = start.elapsed();
            assert_eq!(received, bytes);
            assert!(received <= most(rate_kbit, took), "{congestion_control}: {received} in {took:?}");
            let counted = counters(&inside, class).0 - before;
            assert!((bytes..bytes + bytes / 4).contains(&counted), "{counted} of {bytes}");
            sender.finish();
        }
        let socket = UdpSocket::bind((to, 7001)).unwrap();
        let flood = format!(
            "use Socket; my $x = 'x' x 1400; my $sent = 0; my $end = time + 2;
             socket(S, PF_INET, SOCK_DGRAM, 17); connect(S, sockaddr_in(7001, inet_aton('{to}')));
             while (time < $end) {{ for (1..100) {{ $sent += 1400 if send(S, $x, 0) }} }} print $sent"
        );
        let start = Instant::now();
        let offered: u64 = inside.run(&["perl", "-e", &flood]).text.parse().unwrap();
        let (mut received, mut buffer) = (0, [0; 2000]);
        // What still waits in the class's queue leaves within its 10 ms.
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut took = start.elapsed();
        while let Ok(length) = socket.recv(&mut buffer) {
            received += length as u64;
            took = start.elapsed();
        }
        let limit = most(rate_kbit, took);
        assert!(offered > 2 * limit, "{offered} is no flood against {limit}");
        assert!(0 < received && received <= limit, "{received} in {took:?}");
        assert!(counters(&inside, class).1 > 0);
    }
    // What has no class leaves no trace in one, though it is more than both had in all that time.
    let before = [0, 3].map(|class| counters(&inside, class).0);
    let bytes = 200_000_000;
    let sender = tcp_sender(&inside, "10.71.0.11", "cubic", bytes);
    assert_eq!(take(&mut accept(&listener), u64::MAX), bytes);
    sender.finish();
    assert_eq!([0, 3].map(|class| counters(&inside, class).0), before);
}

pub fn rates_change_in_place_and_connections_live_on() {
    let world = world();
    let (pilot, inside) = shaped(&world, Driver::Veth);
    shape(&world, &pilot, &rates(&pilot, 1, 800, 800));
    let listener = TcpListener::bind("10.72.0.11:7000").unwrap();
    let bytes = 20_000_000;
    // At its first rate it would take more than three minutes.
    let sender = tcp_sender(&inside, "10.72.0.11", "bbr", bytes);
    let mut connection = accept(&listener);
    let mut received = take(&mut connection, 100_000);
    let before = counters(&inside, 0);
    let filters = || tc(&inside, "filter show dev eth0").matches("match ").count();
    let queues = || tc(&inside, "qdisc show dev eth0");
    assert_eq!((filters(), queues().matches("bfifo").count()), (2, 2));
    shape(&world, &pilot, &rates(&pilot, 2, 80_000, 800));
    let text = tc(&inside, "class show dev eth0");
    assert!(text.contains("1:10 root leaf 10: prio 0 rate 80Mbit ceil 80Mbit"), "{text}");
    assert!(queues().contains("bfifo 10: parent 1:10 limit 100000b"), "{}", queues());
    received += take(&mut connection, 2_000_000);
    let after = counters(&inside, 0);
    assert!(after.0 > before.0 + 1_000_000 && after.1 >= before.1, "{before:?} {after:?}");
    // The connection moves to another class, and a destination more has one.
    let mut moved = rates(&pilot, 3, 80_000, 80_000);
    moved.destinations[0].class = 3;
    moved.destinations.push(Destination { network: [10, 74, 0, 0].into(), prefix_len: 16, class: 0 });
    for (serial, filters_now) in [(3, 3), (4, 3)] {
        shape(&world, &pilot, &Rates { serial, ..moved.clone() });
        assert_eq!(filters(), filters_now);
    }
    let before = counters(&inside, 3);
    received += take(&mut connection, 2_000_000);
    assert!(counters(&inside, 3).0 > before.0 + 1_000_000, "{before:?}");
    // Nothing has a class any more: its filters are gone, its counters are not.
    shape(&world, &pilot, &Rates { serial: 5, destinations: Vec::new(), ..moved });
    assert_eq!(filters(), 0);
    assert!(counters(&inside, 0).0 >= after.0);
    received += take(&mut connection, u64::MAX);
    assert_eq!(received, bytes);
    sender.finish();
}

pub fn only_newer_rates_of_the_site_for_this_start_are_accepted() {
    let world = world();
    world.policy("rate_max = 1000");
    let earlier = world.pilot();
    let (pilot, inside) = shaped(&world, Driver::Veth);
    shape(&world, &pilot, &rates(&pilot, 7, 500, 300));
    let installed = tc(&inside, "class show dev eth0");
    let Request::Shape { rates: record, signature } = world.sign_rates(&rates(&pilot, 8, 400, 300)) else {
        panic!()
    };
    let mut flipped = record;
    flipped[30] ^= 1;
    let grant_key_misused = {
        let Request::Build { signature, .. } = world.sign(&pilot.grant()) else { panic!() };
        Request::Shape { rates: record, signature }
    };
    for (what, step, request) in [
        ("replayed", Step::CheckRates, world.sign_rates(&rates(&pilot, 7, 500, 300))),
        ("the same serial", Step::CheckRates, world.sign_rates(&rates(&pilot, 7, 400, 300))),
        ("an older one", Step::CheckRates, world.sign_rates(&rates(&pilot, 6, 900, 100))),
        ("another start's", Step::CheckRates, world.sign_rates(&rates(&earlier, 8, 500, 300))),
        ("another key's", Step::CheckRates, World::sign_rates_as([8; 32], &rates(&pilot, 8, 500, 300))),
        ("a flipped bit", Step::CheckRates, Request::Shape { rates: flipped, signature }),
        ("a grant's signature", Step::CheckRates, grant_key_misused),
        ("over the node's ceiling", Step::CheckPolicy, world.sign_rates(&rates(&pilot, 8, 701, 300))),
    ] {
        pilot.ask(&request);
        let Notice::Failed { step: at, errno: 0, detail } = pilot.answer() else { panic!("{what}") };
        assert_eq!(at, step, "{what}: {detail}");
        assert_eq!(tc(&inside, "class show dev eth0"), installed, "{what}");
    }
    pilot.ask(&Request::Shape { rates: record, signature });
    assert_eq!(pilot.answer(), Notice::Shaped, "nothing that was refused has used the serial up");
}

pub fn rates_at_a_wrong_time_end_everything() {
    let world = world();
    let mut pilot = world.pilot();
    pilot.ask(&world.sign_rates(&rates(&pilot, 1, 1000, 1000)));
    assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::AgentBroke });
    assert_eq!(pilot.exit_code(), Some(0));
    let (mut pilot, inside) = shaped(&world, Driver::Macvlan);
    let Request::Shape { rates, signature } = world.sign_rates(&rates(&pilot, 1, 1000, 1000)) else {
        panic!()
    };
    let record = Request::Shape { rates, signature }.encode();
    channel::send(&pilot.operations, &record[..record.len() - 1], &[]).unwrap();
    assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::AgentBroke });
    assert_eq!(pilot.exit_code(), Some(0));
    nothing_left(&world, &[pilot.monitor, pilot.agent, inside.init], &inside.namespaces);
}

/// Also a sandbox that was not to be shaped can be, later: a reservation may change.
pub fn the_counters_can_be_read_and_nothing_be_changed_by_their_socket() {
    let world = world();
    let pilot = world.pilot();
    let inside = pilot.build(&world, &Grant { driver: Driver::Veth, ..pilot.grant() });
    let counters = Netlink::adopt(shape(&world, &pilot, &rates(&pilot, 1, 1000, 1000)));
    let index = counters.index_of(INSIDE_NAME).unwrap().expect("it is the sandbox's");
    assert_eq!(counters.links().unwrap().len(), 2);
    let installed = tc(&inside, "class show dev eth0");
    // We are root here, and still may not: the kernel asks who opened it, too.
    let faster = rates(&pilot, 2, 2_000_000, 2_000_000);
    assert_eq!(Shape::default().apply(&counters, index, &faster), Err(Errno::PERM));
    let header = [[0; 4], index.to_ne_bytes(), [0; 4], [0xff; 4], [0; 4]].concat();
    let down = link_header(index, 0, libc::IFF_UP as u32);
    for (kind, fixed) in
        [(libc::RTM_DELQDISC, &header[..]), (libc::RTM_SETLINK, &down), (libc::RTM_DELLINK, &down)]
    {
        let outcome = counters.run(&Batch::of(kind, 0, fixed, &[]));
        assert_eq!(outcome, Err(Errno::PERM), "{kind}");
    }
    let link = Link {
        driver: Driver::Veth,
        parent: 0,
        outside_name: String::new(),
        address: Ipv4Addr::new(10, 71, 128, 7),
        prefix_len: 16,
        gateway: None,
        mtu: 1500,
        closed: false,
    };
    assert_eq!(link.withdraw(&counters, index), Err(Errno::PERM));
    assert_eq!(tc(&inside, "class show dev eth0"), installed);
}

/// The one before may take a moment to go; its pilot is not our affair, so one asks again.
pub fn an_address_that_is_not_free_yet_can_be_asked_for_again() {
    let world = world();
    let before = world.pilot();
    let _inside = before.build(&world, &before.grant());
    let (pilot, mut inside) = shaped(&world, Driver::Macvlan);
    let wanted = rates(&pilot, 1, 1000, 1000);
    pilot.ask(&world.sign_rates(&wanted));
    let not_free = |errno| [libc::EBUSY, libc::EADDRINUSE].contains(&errno);
    let Notice::Failed { step: Step::Shape, errno, .. } = pilot.answer() else { panic!() };
    assert!(not_free(errno), "{errno}");
    before.ask(&Request::TearDown);
    assert_eq!(before.answer(), Notice::Gone);
    let deadline = Instant::now() + PATIENCE;
    loop {
        pilot.ask(&world.sign_rates(&wanted));
        match pilot.answer() {
            Notice::Shaped => break,
            Notice::Failed { step: Step::Shape, errno, .. } if not_free(errno) => {
                assert!(Instant::now() < deadline)
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(inside.shell("ip -o link show eth0 | grep -c '[<,]UP[,>]'").text, "1\n");
}

/// Who reads the counters keeps the namespace, but neither its address nor its link on the node.
pub fn a_counters_socket_that_is_kept_does_not_keep_the_sandbox() {
    let world = world();
    for driver in [Driver::Veth, Driver::Macvlan] {
        let (mut pilot, inside) = shaped(&world, driver);
        let kept = shape(&world, &pilot, &rates(&pilot, 1, 1000, 1000));
        pilot.launcher_end();
        assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::LauncherAsked });
        nothing_left(&world, &[inside.init], &inside.namespaces);
        let (pilot, mut inside) = shaped(&world, driver);
        shape(&world, &pilot, &rates(&pilot, 1, 1000, 1000));
        assert_eq!(inside.shell("hostname").text, "a-0\n");
        pilot.ask(&Request::TearDown);
        assert_eq!(pilot.answer(), Notice::Gone);
        drop(kept);
    }
}

pub fn rates_that_name_nobody_move_the_end_of_the_lifetime_only() {
    let world = World::new();
    let pilot = world.pilot();
    let inside = pilot.build(&world, &Grant { lifetime_s: 3600, ..pilot.grant() });
    let none = |serial, lifetime_s| Rates {
        rates_kbit: [0; CLASSES_MAX],
        destinations: Vec::new(),
        lifetime_s,
        ..rates(&pilot, serial, 0, 0)
    };
    shape(&world, &pilot, &none(1, 7200));
    let queue = tc(&inside, "qdisc show dev eth0");
    assert!(!queue.contains("htb"), "{queue}");
    shape(&world, &pilot, &none(2, 1));
    assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::LifetimeOver });
    nothing_left(&world, &[pilot.monitor, pilot.agent, inside.init], &inside.namespaces);
}
