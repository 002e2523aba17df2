//! What the agent reports of a sandbox's classes is what the kernel has let through.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::Command;

use grant::{CLASSES_MAX, Destination, Rates};
use nix::sched::{CloneFlags, unshare};
use node_agent::meter::Counters;
use node_manager::net::netlink::Netlink;
use node_manager::net::shape::Shape;
use protocol::node::ClassUse;

/// Ethernet, IP and UDP.
const HEADERS: u64 = 14 + 20 + 8;

fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
}

/// In a network of this thread's own, which goes with it. Needs root.
#[test]
fn every_byte_of_a_class_is_reported_and_no_other() {
    let counted = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
        ip("link add eth0 type veth peer name far0");
        ip("addr add 10.72.0.1/16 dev eth0");
        ip("link set far0 up");
        ip("link set eth0 up");
        for there in ["10.72.0.2", "10.72.9.2", "10.72.128.2"] {
            ip(&format!("neigh add {there} lladdr 02:00:00:00:00:02 dev eth0 nud permanent"));
        }
        let netlink = Netlink::open().unwrap();
        let index = netlink.index_of("eth0").unwrap().unwrap();
        let to = |network: [u8; 4], class| Destination { network: network.into(), prefix_len: 24, class };
        let mut rates_kbit = [0; CLASSES_MAX];
        // One is so slow that its second packet finds no room in the queue; one is not used.
        (rates_kbit[0], rates_kbit[5], rates_kbit[7]) = (100_000_000, 1, 100);
        let destinations = vec![to([10, 72, 0, 0], 0), to([10, 72, 9, 0], 5)];
        let rates = Rates { nonce: [0; 16], serial: 1, lifetime_s: 60, rates_kbit, destinations };
        Shape::default().apply(&netlink, index, &rates).unwrap();

        let mut counters = Counters::new(netlink.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let none = |class| ClassUse { class, sent_bytes: 0, dropped: 0, backlog_bytes: 0 };
        assert_eq!(counters.read().unwrap(), [none(0), none(5), none(7)]);
        let socket = UdpSocket::bind("10.72.0.1:0").unwrap();
        for (there, packets) in [("10.72.0.2:9", 7), ("10.72.128.2:9", 11)] {
            for _ in 0..packets {
                socket.send_to(&[0; 1000], there).unwrap();
            }
        }
        // The burst lets two out; they cost seconds, in which 80 KiB wait and the rest is dropped.
        for _ in 0..100 {
            let _ = socket.send_to(&[0; 1400], "10.72.9.2:9");
        }
        let packet = 1400 + HEADERS;
        let sent = 2 * packet;
        let waiting = 80 * 1024 / packet * packet;
        let dropped = (100 * packet - sent - waiting) / packet;
        let expected = [
            ClassUse { sent_bytes: 7 * (1000 + HEADERS), ..none(0) },
            ClassUse { class: 5, sent_bytes: sent, dropped, backlog_bytes: waiting as u32 },
            none(7),
        ];
        assert_eq!(counters.read().unwrap(), expected);
    };
    std::thread::spawn(counted).join().unwrap();
}
