//! What the test program is when it is not the test: the agent that hands its descriptors
//! over, and the Launcher.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
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
        launcher(&arguments[1]);
    }
}

/// 3 is the tether, 4 the invocation: the lowest free numbers, in this order.
fn launcher(file: &str) -> ! {
    let (theirs, ours) = channel::pair().unwrap();
    let high = rustix::io::fcntl_dupfd_cloexec(&ours, 10).unwrap();
    drop(ours);
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    fs::File::from(write).write_all(b"the invocation").unwrap();
    for fd in [&theirs, &read] {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    }
    let mut child = Command::new(file).stdin(Stdio::null()).spawn().unwrap();
    drop((theirs, read));
    std::thread::spawn(move || {
        let mut byte = [0];
        while std::io::stdin().read_exact(&mut byte).is_ok() {
            let _ = channel::send(&high, b"end", &[]);
        }
        // The test is over, or waits for us: from here on the tether alone decides.
        drop(high);
    });
    std::process::exit(child.wait().unwrap().code().unwrap_or(128));
}
