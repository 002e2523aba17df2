//! Pilots whose agent is us: the installed `node-agent` is a program that hands its descriptors
//! over to whoever listens on the socket that the invocation names. So the monitor is the real
//! one, and what it is asked is ours to choose.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use grant::{Driver, Grant, SiteName, UserName};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use node_manager::channel;
use node_manager::init::record::{self, ExitStatus};
use node_manager::operation::{Notice, RECORD_BYTES_MAX, Request, Welcome, inherited};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, connect, listen, socket_with,
    sockopt,
};

use super::bed::{LIB, site_key};
use crate::bench::bed::memory_file;
use crate::process;

/// Directory of the sockets on which agents are waited for.
pub const SOCKETS: &str = "/opt/sockets";
/// Nothing that a monitor does takes longer.
const PATIENCE: Duration = Duration::from_secs(40);
/// The user's name inside.
pub const USER: &str = "grid";

/// The body of the installed agent: hands its descriptors over and waits for its end. Returns at
/// once in a program that was not started as an agent.
pub fn agent_role() -> Result<()> {
    let name = std::env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name() != Some("node-agent".as_ref()) {
        return Ok(());
    }
    let (operations, invocation) = inherited()?;
    let mut path = String::new();
    File::from(invocation.try_clone()?).read_to_string(&mut path)?;
    let to = stream()?;
    connect(&to, &SocketAddrUnix::new(path.as_str())?)?;
    channel::send(&to, b"here", &[operations.as_fd()])?;
    // Until whoever took them is gone.
    let _ = channel::receive(&to, 16);
    std::process::exit(0)
}

fn stream() -> Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// How a pilot is started.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// By the installed Launcher, as this uid; else by ourselves, in its place.
    pub launcher_of: Option<u32>,
    /// Words in front of the Launcher's, such as those of a tracer.
    pub before: Vec<String>,
    /// Shell text that runs first in the process that becomes the node manager (our own Launcher).
    pub via: String,
    /// The file that is executed, if it is not the installed one.
    pub file: Option<String>,
}

/// Why no agent arrived.
#[derive(Debug)]
pub struct Refused {
    pub code: Option<i32>,
    pub said: String,
}

/// A pilot: its Launcher (or who plays it), monitor and agent.
pub struct Pilot {
    pub launcher: Child,
    /// Our end of the tether, when we play the Launcher.
    pub tether: Option<OwnedFd>,
    pub monitor: i32,
    pub agent: i32,
    pub operations: OwnedFd,
    pub welcome: Welcome,
    /// The agent ends when this is closed.
    pub leash: OwnedFd,
}

impl Pilot {
    /// Starts one; what it says instead if it ends before its agent arrives.
    pub fn start(manner: &Manner) -> Result<std::result::Result<Pilot, Refused>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = format!("{SOCKETS}/{}-{number}", std::process::id());
        let listener = stream()?;
        bind(&listener, &SocketAddrUnix::new(path.as_str())?)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        listen(&listener, 1)?;
        let (launcher, tether) = match manner.launcher_of {
            Some(uid) => (real_launcher(uid, &manner.before, &path)?, None),
            None => {
                let (child, tether) = played_launcher(manner, &path)?;
                (child, Some(tether))
            }
        };
        let arrived = wait_for_agent(&listener, launcher, tether);
        let _ = fs::remove_file(&path);
        arrived
    }

    pub fn ask(&self, request: &Request) -> Result<()> {
        channel::send(&self.operations, &request.encode(), &[]).context("the monitor does not listen")
    }

    /// The next word of the monitor, with the descriptor that may come with it.
    pub fn answer(&self) -> Result<(Notice, Option<OwnedFd>)> {
        let mut fds = [PollFd::new(self.operations.as_fd(), PollFlags::POLLIN)];
        ensure!(poll(&mut fds, PollTimeout::try_from(PATIENCE)?)? > 0, "the monitor says nothing");
        let receive = || channel::receive(&self.operations, RECORD_BYTES_MAX);
        // A socket that was closed with something unread says so first, and then the last words.
        let datagram = match receive()? {
            None => receive()?,
            some => some,
        };
        let datagram = datagram.context("the monitor is gone")?;
        let notice = Notice::decode(&datagram.bytes).map_err(|error| anyhow!("{error:?}"))?;
        Ok((notice, datagram.descriptors.into_iter().next()))
    }

    /// Asks for the sandbox of a grant; anything but `Built` is given back.
    pub fn build(&self, grant: &Grant) -> Result<std::result::Result<Inside, Notice>> {
        self.ask(&sign(grant))?;
        self.built()
    }

    /// Takes the answer to a request that was sent.
    pub fn built(&self) -> Result<std::result::Result<Inside, Notice>> {
        match self.answer()? {
            (Notice::Built, Some(socket)) => {
                let init = child_of(self.monitor, self.agent).context("no first process")?;
                Ok(Ok(Inside { socket, init, next: 1 }))
            }
            (other, _) => Ok(Err(other)),
        }
    }

    /// A grant that this node and this start of the monitor accept.
    pub fn grant(&self) -> Grant {
        plain_grant(&self.welcome)
    }

    /// Waits for the end of whoever started the node manager; its exit code as a shell says it.
    pub fn exit_code(&mut self) -> Result<i32> {
        wait_for(&mut self.launcher)
    }
}

/// Exit code of a child as a shell says it.
pub fn wait_for(child: &mut Child) -> Result<i32> {
    use std::os::unix::process::ExitStatusExt;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        }
        ensure!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn real_launcher(uid: u32, before: &[String], path: &str) -> Result<Child> {
    let launcher = format!("{LIB}/launcher");
    let words: Vec<&str> = before.iter().map(String::as_str).chain([launcher.as_str()]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(["--invocation", "-"]).env_clear().env("PATH", "/usr/bin:/bin");
    if before.is_empty() {
        command.uid(uid).gid(uid);
    }
    // What its sweep removes is not said to us.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context(launcher)?;
    child.stdin.take().context("no stdin")?.write_all(path.as_bytes())?;
    Ok(child)
}

/// Starts the node manager as a Launcher does, with descriptors 3 and 4. A shell puts them there,
/// after it has done what is asked.
fn played_launcher(manner: &Manner, path: &str) -> Result<(Child, OwnedFd)> {
    let (ours, theirs) = channel::pair()?;
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    File::from(write).write_all(path.as_bytes())?;
    // Away from 3 and 4, and passed on.
    let high = |fd: &OwnedFd| -> Result<OwnedFd> {
        let high = rustix::io::fcntl_dupfd_cloexec(fd, 20)?;
        rustix::io::fcntl_setfd(&high, rustix::io::FdFlags::empty())?;
        Ok(high)
    };
    let (theirs, read) = (high(&theirs)?, high(&read)?);
    let (tether, invocation) = (theirs.as_raw_fd(), read.as_raw_fd());
    let installed = format!("{LIB}/node-manager");
    let file = manner.file.as_deref().unwrap_or(&installed);
    let script =
        format!("exec 3<&{tether} 4<&{invocation} {tether}<&- {invocation}<&-; {}\nexec \"$0\"", manner.via);
    let child = Command::new("bash")
        .args(["-c", &script, file])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("bash")?;
    Ok((child, ours))
}

fn wait_for_agent(
    listener: &OwnedFd,
    mut launcher: Child,
    tether: Option<OwnedFd>,
) -> Result<std::result::Result<Pilot, Refused>> {
    let deadline = Instant::now() + PATIENCE;
    while poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], 5u16)? == 0 {
        if launcher.try_wait()?.is_some() {
            let code = wait_for(&mut launcher)?;
            let mut said = String::new();
            // Somebody may hold the other end: what is there is enough.
            let mut stderr = launcher.stderr.take().context("no stderr")?;
            rustix::io::ioctl_fionbio(&stderr, true)?;
            let _ = stderr.read_to_string(&mut said);
            return Ok(Err(Refused { code: Some(code), said }));
        }
        ensure!(Instant::now() < deadline, "no agent arrives, and nobody says why");
    }
    let connection = accept(listener)?;
    let agent = sockopt::socket_peercred(&connection)?.pid.as_raw_nonzero().get();
    let datagram = channel::receive(&connection, 16)?.context("the agent is gone")?;
    let operations = datagram.descriptors.into_iter().next().context("the agent has no descriptor")?;
    let monitor = process::stat(agent).map(|stat| stat.parent).unwrap_or_default();
    let welcome = channel::receive(&operations, RECORD_BYTES_MAX)?.context("the monitor is gone")?;
    let welcome = match Notice::decode(&welcome.bytes) {
        Ok(Notice::Welcome(welcome)) => welcome,
        other => bail!("not a welcome: {other:?}"),
    };
    Ok(Ok(Pilot { launcher, tether, monitor, agent, operations, welcome, leash: connection }))
}

/// Signed by the site.
pub fn sign(grant: &Grant) -> Request {
    let signature = *site_key().sk.sign(grant.signed_message(), None);
    Request::Build { grant: grant.encode(), signature }
}

fn plain_grant(welcome: &Welcome) -> Grant {
    Grant {
        nonce: welcome.nonce,
        site: SiteName::new("a").expect("a name"),
        reservation: welcome.uid.into(),
        epoch: 1,
        member: 0,
        uid: welcome.uid,
        user: UserName::new(USER).expect("a name"),
        address: Ipv4Addr::new(10, 71, 128, 7),
        prefix_len: 16,
        gateway: None,
        mtu: 1500,
        driver: Driver::Macvlan,
        shaped: false,
        lifetime_s: 600,
        lease_s: 600,
        memory_bytes: 0,
        pids: 0,
        cpus_milli: 0,
        upper_bytes: 64 << 20,
        upper_inodes: 0,
    }
}

fn child_of(parent: i32, but: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid| *pid != but)
}

/// The agent's side of a sandbox's init.
pub struct Inside {
    pub socket: OwnedFd,
    /// Its pid on the node.
    pub init: i32,
    next: u64,
}

impl Inside {
    /// Runs a program inside to its end: how it ended, and its two outputs in one.
    pub fn run(&mut self, argv: &[&str]) -> Result<(ExitStatus, String)> {
        let words: Vec<Vec<u8>> = argv.iter().map(|word| word.as_bytes().to_vec()).collect();
        let (status, output) = self.run_words(&words)?;
        Ok((status, String::from_utf8_lossy(&output).into_owned()))
    }

    /// The same with words that need be no text.
    pub fn run_words(&mut self, argv: &[Vec<u8>]) -> Result<(ExitStatus, Vec<u8>)> {
        self.next += 1;
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let bytes = |list: &[&str]| list.iter().map(|text| text.as_bytes().to_vec()).collect();
        let home = format!("HOME=/home/{USER}");
        let command = record::Command {
            cwd: bytes(&[&format!("/home/{USER}")]),
            argv: argv.to_vec(),
            env: bytes(&["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", &home]),
        };
        let blob = memory_file(&command.encode())?;
        let request = record::Request::Spawn { id: self.next }.encode();
        channel::send(&self.socket, &request, &[blob.as_fd(), write.as_fd(), write.as_fd()])?;
        drop(write);
        let mut output = Vec::new();
        if let record::Notice::SpawnFailed { stage, errno, .. } = self.answer()? {
            bail!("it was not started: {stage:?}, {}", std::io::Error::from_raw_os_error(errno));
        }
        File::from(read).read_to_end(&mut output)?;
        match self.answer()? {
            record::Notice::Exited { status, .. } => Ok((status, output)),
            other => bail!("a command was answered {other:?}"),
        }
    }

    pub fn answer(&self) -> Result<record::Notice> {
        let datagram = channel::receive(&self.socket, record::RECORD_BYTES_MAX)?.context("init is gone")?;
        record::Notice::decode(&datagram.bytes).map_err(|error| anyhow!("{error:?}"))
    }
}
