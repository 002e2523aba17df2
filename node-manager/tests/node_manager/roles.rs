//! What the test program is when it is not the test: the agent that hands its descriptors
//! over, and the Launcher.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use node_manager::channel;
use node_manager::operation::inherited;
use rustix::net::{SocketAddrUnix, connect};

use crate::world::{SOCKET, stream};

/// The program in its other roles: the agent that hands over, the Launcher.
pub fn other_roles() {
    let name = std::env::args().next().unwrap_or_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if Path::new(&name).file_name().is_some_and(|name| name == "node-agent") {
        let (operations, invocation) = inherited().unwrap();
        let to = stream();
        connect(&to, &SocketAddrUnix::new(SOCKET).unwrap()).unwrap();
        channel::send(&to, b"here", &[operations.as_fd(), invocation.as_fd()]).unwrap();
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
    if arguments.first().is_some_and(|role| role == "--launcher") {
        launcher(&arguments[1], &arguments[2]);
    }
}

/// 3 is the tether, 4 the invocation: the lowest free numbers, in this order.
/// `manner` is how it starts the node-manager.
fn launcher(file: &str, manner: &str) -> ! {
    let (theirs, ours) = channel::pair().unwrap();
    let high = rustix::io::fcntl_dupfd_cloexec(&ours, 10).unwrap();
    drop(ours);
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    fs::File::from(write).write_all(b"the invocation").unwrap();
    for fd in [&theirs, &read] {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    }
    let through = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).arg(file);
        command
    };
    let mut command = match manner {
        "limits" => through("sh", &["-c", "ulimit -S -v 9000000; ulimit -S -n 300; exec \"$0\""]),
        "few locks" => through("sh", &["-c", "ulimit -x 0; exec \"$0\""]),
        "alarm" => through("perl", &["-e", "alarm 1; exec @ARGV"]),
        _ => Command::new(file),
    };
    if manner == "leader" {
        command.process_group(0);
    }
    if manner == "silent" {
        command.stderr(full_pipe());
    }
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    drop((theirs, read));
    std::thread::spawn(move || {
        let mut byte = [0];
        while std::io::stdin().read_exact(&mut byte).is_ok() {
            let held = (byte == *b"l").then(lingering);
            let descriptors: Vec<_> = held.iter().map(|(held, _)| held.as_fd()).collect();
            let _ = channel::send(&high, b"end", &descriptors);
            std::mem::forget(held.map(|(held, peer)| (drop(held), peer)));
        }
        // The test is over, or waits for us: from here on the tether alone decides.
        drop(high);
    });
    std::process::exit(child.wait().unwrap().code().unwrap_or(128));
}

/// A pipe that takes no more; its reader never reads.
fn full_pipe() -> Stdio {
    let (read, write) = nix::unistd::pipe().unwrap();
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    let mut write = fs::File::from(write);
    while write.write(&[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&write, false).unwrap();
    std::mem::forget(read);
    write.into()
}

/// A connection whose last close waits until its peer has read everything, and the peer.
pub fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut held = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    held.set_nonblocking(true).unwrap();
    while held.write(&[0; 65536]).is_ok() {}
    held.set_nonblocking(false).unwrap();
    rustix::net::sockopt::set_socket_linger(&held, Some(Duration::from_secs(600))).unwrap();
    (held, peer)
}
