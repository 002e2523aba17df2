//! A node for one test: private mount and network namespaces with an installed setuid
//! node-manager, a policy, an account and an interface. The test itself plays the agent:
//! the installed `node-agent` is this very program, which hands its descriptors over.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ed25519_compact::{KeyPair, Seed};
use grant::{Driver, Grant, Rates, SiteName, UserName};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use node_manager::channel;
use node_manager::init::record::{self, ExitStatus, Found, Full, Whom};
use node_manager::operation::{Notice, RECORD_BYTES_MAX, Request, Welcome};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with, sockopt,
};

pub const UID: u32 = 23456;
pub const LIB: &str = "/opt/gridpilot";
pub const POLICY: &str = "/etc/gridpilot/node.policy";
pub const HOME: &str = "/opt/home/localname";
pub const SOCKET: &str = "/opt/gridpilot/agent.sock";

pub struct World {
    listener: OwnedFd,
    key: KeyPair,
    pub links_before: BTreeSet<String>,
}

fn none() -> Option<&'static str> {
    None
}

impl World {
    pub fn new() -> World {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("these tests need root");
        mount(none(), "/", none(), MsFlags::MS_REC | MsFlags::MS_PRIVATE, none()).unwrap();
        mount(Some("tmpfs"), "/opt", Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
        for directory in ["/opt/upper", "/opt/work", "/opt/share", LIB, "/opt/home", HOME] {
            fs::create_dir(directory).unwrap();
        }
        let options = "lowerdir=/etc,upperdir=/opt/upper,workdir=/opt/work";
        mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(options)).unwrap();
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        fs::write("/etc/passwd", format!("{passwd}localname:x:{UID}:{UID}::{HOME}:/bin/bash\n")).unwrap();
        chown(HOME, Some(UID), Some(UID)).unwrap();
        chown("/opt/share", Some(UID), Some(UID)).unwrap();
        install(env!("CARGO_BIN_EXE_node-manager"), "node-manager", 0o4755);
        install("/proc/self/exe", "node-agent", 0o755);
        let key = KeyPair::from_seed(Seed::new([9; 32]));
        let _ = fs::create_dir("/etc/gridpilot");
        fs::set_permissions("/etc/gridpilot", fs::Permissions::from_mode(0o755)).unwrap();
        for arguments in [
            &["link", "set", "lo", "up"][..],
            &["link", "add", "node0", "type", "veth", "peer", "name", "far0"],
            &["addr", "add", "10.71.0.11/16", "dev", "node0"],
            &["link", "set", "node0", "up"],
            &["link", "set", "far0", "up"],
        ] {
            assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
        }
        let listener = stream();
        bind(&listener, &SocketAddrUnix::new(SOCKET).unwrap()).unwrap();
        listen(&listener, 8).unwrap();
        fs::set_permissions(SOCKET, fs::Permissions::from_mode(0o777)).unwrap();
        let world = World { listener, key, links_before: links() };
        world.policy("");
        world
    }

    /// Writes the policy, with more lines at its end.
    pub fn policy(&self, more: &str) {
        let hex: String = self.key.pk.iter().map(|b| format!("{b:02x}")).collect();
        let text = format!(
            "site = a\ngrant_key = {hex}\ncrm_pin = {}\ninterface = node0\ndriver = macvlan\ndriver = veth\n\
             range = 10.71.128.0/17\nshare = /opt/share rw\n{more}\n",
            "07".repeat(32)
        );
        fs::write(POLICY, text).unwrap();
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o644)).unwrap();
    }

    pub fn sign(&self, grant: &Grant) -> Request {
        let signature = *self.key.sk.sign(grant.signed_message(), None);
        Request::Build { grant: grant.encode(), signature }
    }

    pub fn sign_rates(&self, rates: &Rates) -> Request {
        sign_rates(&self.key, rates)
    }

    /// The same with the key of somebody else.
    pub fn sign_rates_as(seed: [u8; 32], rates: &Rates) -> Request {
        sign_rates(&KeyPair::from_seed(Seed::new(seed)), rates)
    }

    /// Starts a pilot as the user and takes the agent's place in it.
    pub fn pilot(&self) -> Pilot {
        self.pilot_through(&format!("{LIB}/node-manager")).expect("the node-manager started")
    }

    /// The same with some other file in the node-manager's place; its complaint if it ends.
    pub fn pilot_through(&self, file: &str) -> Result<Pilot, String> {
        self.pilot_as(file, UID)
    }

    pub fn pilot_as(&self, file: &str, uid: u32) -> Result<Pilot, String> {
        self.try_pilot(file, uid, "plainly")
    }

    /// A pilot whose Launcher starts it in some special manner.
    pub fn pilot_in(&self, manner: &str) -> Pilot {
        self.try_pilot(&format!("{LIB}/node-manager"), UID, manner).expect("the node-manager started")
    }

    pub fn try_pilot(&self, file: &str, uid: u32, manner: &str) -> Result<Pilot, String> {
        let mut launcher = Command::new("/proc/self/exe")
            .args(["--launcher", file, manner])
            .uid(uid)
            .gid(uid)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut fds = [nix::poll::PollFd::new(self.listener.as_fd(), nix::poll::PollFlags::POLLIN)];
        loop {
            if nix::poll::poll(&mut fds, 20u16).unwrap() > 0 {
                break;
            }
            if launcher.try_wait().unwrap().is_some() {
                let mut complaint = String::new();
                launcher.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
                return Err(complaint);
            }
        }
        let connection = accept(&self.listener).unwrap();
        let agent = sockopt::socket_peercred(&connection).unwrap().pid.as_raw_nonzero().get();
        let datagram = channel::receive(&connection, 16).unwrap().unwrap();
        let [operations, mut invocation] = <[OwnedFd; 2]>::try_from(datagram.descriptors).unwrap().map(Some);
        let mut text = String::new();
        fs::File::from(invocation.take().unwrap()).read_to_string(&mut text).unwrap();
        let operations = operations.unwrap();
        let Notice::Welcome(welcome) = notice(&operations) else { panic!("no welcome") };
        let monitor = parent_of(agent);
        Ok(Pilot { launcher, monitor, agent, operations, welcome, invocation: text })
    }
}

fn sign_rates(key: &KeyPair, rates: &Rates) -> Request {
    let record = rates.encode().unwrap();
    let signature = *key.sk.sign(Rates::signed_message(&record), None);
    Request::Shape { rates: record, signature }
}

pub fn stream() -> OwnedFd {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn install(from: &str, name: &str, mode: u32) {
    let to = format!("{LIB}/{name}");
    fs::copy(from, &to).unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(mode)).unwrap();
}

/// A running pilot whose agent is the test.
pub struct Pilot {
    pub launcher: Child,
    pub monitor: i32,
    pub agent: i32,
    pub operations: OwnedFd,
    pub welcome: Welcome,
    pub invocation: String,
}

impl Pilot {
    pub fn grant(&self) -> Grant {
        Grant {
            nonce: self.welcome.nonce,
            site: SiteName::new("a").unwrap(),
            reservation: 12,
            epoch: 1,
            member: 0,
            uid: UID,
            user: UserName::new("grid").unwrap(),
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

    pub fn ask(&self, request: &Request) {
        channel::send(&self.operations, &request.encode(), &[]).unwrap();
    }

    pub fn answer(&self) -> Notice {
        notice(&self.operations)
    }

    pub fn build(&self, world: &World, grant: &Grant) -> Inside {
        self.ask(&world.sign(grant));
        let datagram = channel::receive(&self.operations, RECORD_BYTES_MAX).unwrap().unwrap();
        let notice = Notice::decode(&datagram.bytes).unwrap();
        assert_eq!(notice, Notice::Built);
        let init = child_of(self.monitor, self.agent);
        let namespaces = namespaces_of(init);
        Inside { socket: datagram.descriptors.into_iter().next().unwrap(), init, namespaces, next: 0 }
    }

    /// Waits for the launcher, whose exit code is the node-manager's.
    pub fn exit_code(&mut self) -> Option<i32> {
        // Not `wait`: it closes the Launcher's input first, which would end the pilot.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.launcher.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the pilot does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn launcher_end(&mut self) {
        self.launcher_say(b"e");
    }

    pub fn launcher_say(&mut self, word: &[u8]) {
        self.launcher.stdin.as_mut().unwrap().write_all(word).unwrap();
    }
}

/// The agent's side of init.
pub struct Inside {
    pub socket: OwnedFd,
    pub init: i32,
    pub namespaces: BTreeSet<String>,
    next: u64,
}

pub struct Output {
    pub status: ExitStatus,
    pub full: Full,
    pub text: String,
}

impl Inside {
    pub fn answer(&self) -> record::Notice {
        let datagram = channel::receive(&self.socket, record::RECORD_BYTES_MAX).unwrap().unwrap();
        record::Notice::decode(&datagram.bytes).unwrap()
    }

    pub fn put(&self, file: record::FileId, content: &[u8]) -> record::Notice {
        let fd = memfd(content);
        channel::send(&self.socket, &record::Request::PutFile { file }.encode(), &[fd.as_fd()]).unwrap();
        self.answer()
    }

    /// Starts a command; its two outputs end up in one pipe.
    pub fn spawn(&mut self, command: &record::Command) -> (u64, OwnedFd) {
        self.next += 1;
        let (read, write) = nix::unistd::pipe().unwrap();
        let blob = memfd(&command.encode());
        let request = record::Request::Spawn { id: self.next }.encode();
        channel::send(&self.socket, &request, &[blob.as_fd(), write.as_fd(), write.as_fd()]).unwrap();
        (self.next, read)
    }

    pub fn run(&mut self, program: &[&str]) -> Output {
        let (id, output) = self.spawn(&command(program));
        assert!(matches!(self.answer(), record::Notice::Spawned { .. }));
        let mut text = Vec::new();
        fs::File::from(output).read_to_end(&mut text).unwrap();
        let record::Notice::Exited { id: exited, status, full } = self.answer() else { panic!("no exit") };
        assert_eq!(exited, id);
        Output { status, full, text: String::from_utf8_lossy(&text).into_owned() }
    }

    /// A command that runs on; what it printed first has come.
    pub fn start(&mut self, script: &str) -> u64 {
        let (id, output) = self.spawn(&command(&["bash", "-c", script]));
        assert!(matches!(self.answer(), record::Notice::Spawned { .. }));
        let mut up = [0; 3];
        fs::File::from(output).read_exact(&mut up).unwrap();
        assert_eq!(&up, b"up\n");
        id
    }

    /// Sends a signal; what was there before it acted. Ends that come in between are skipped.
    pub fn signal(&self, id: u64, signal: u8, whom: Whom) -> Found {
        let request = record::Request::Signal { id, signal, whom };
        channel::send(&self.socket, &request.encode(), &[]).unwrap();
        loop {
            match self.answer() {
                record::Notice::Found(found) => return found,
                record::Notice::Exited { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits until nothing is left of a command, or of everything, sending this signal meanwhile.
    pub fn until_gone(&self, id: u64, signal: u8, whom: Whom) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let found = self.signal(id, signal, whom);
            if found.processes == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "{found:?} of command {id}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn shell(&mut self, script: &str) -> Output {
        self.run(&["sh", "-c", script])
    }
}

pub fn command(program: &[&str]) -> record::Command {
    let texts = |list: &[&str]| list.iter().map(|text| text.as_bytes().to_vec()).collect();
    record::Command {
        cwd: texts(&["/home/grid"]),
        argv: texts(program),
        env: texts(&["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/home/grid"]),
    }
}

fn memfd(content: &[u8]) -> OwnedFd {
    let fd = rustix::fs::memfd_create("content", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = fs::File::from(fd);
    file.write_all(content).unwrap();
    file.into()
}

pub fn notice(socket: &OwnedFd) -> Notice {
    Notice::decode(&channel::receive(socket, RECORD_BYTES_MAX).unwrap().expect("the monitor is there").bytes)
        .unwrap()
}

fn stat_parent(pid: &str) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

pub fn parent_of(pid: i32) -> i32 {
    stat_parent(&pid.to_string()).expect("it lives")
}

fn processes() -> Vec<String> {
    let names =
        fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.bytes().all(|b| b.is_ascii_digit())).collect()
}

pub fn child_of(parent: i32, but: i32) -> i32 {
    let child = |pid: &String| stat_parent(pid) == Some(parent) && *pid != but.to_string();
    processes().into_iter().find(child).expect("an init").parse().unwrap()
}

/// Names of the namespaces that a process does not share with us.
pub fn namespaces_of(pid: i32) -> BTreeSet<String> {
    let of = |pid: &str| -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/ns")) else {
            return BTreeSet::new();
        };
        entries
            .flatten()
            .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()))
            .collect()
    };
    &of(&pid.to_string()) - &of("self")
}

pub fn links() -> BTreeSet<String> {
    fs::read_to_string("/proc/net/dev")
        .unwrap()
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split(':').next()?.trim().to_owned()))
        .collect()
}

/// Every tagged cgroup directory of the machine.
pub fn tagged_cgroups() -> BTreeSet<String> {
    let output =
        Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", "gridpilot-*"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Nothing of the pilot is left: no process, none in its namespaces, no link, no cgroup.
pub fn nothing_left(world: &World, pids: &[i32], namespaces: &BTreeSet<String>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let alive: Vec<&i32> = pids.iter().filter(|pid| running(**pid)).collect();
        // The numbers of namespaces are given out again at once, also to others on this
        // machine; a process of ours has our uid, too.
        let ours = |pid: &String| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains(&format!("\nUid:\t{UID}\t"))
                && !namespaces_of(pid.parse().unwrap()).is_disjoint(namespaces)
        };
        let holders: Vec<String> = processes().into_iter().filter(ours).collect();
        let links = &links() - &world.links_before;
        let cgroups: Vec<String> = tagged_cgroups()
            .into_iter()
            .filter(|name| pids.iter().any(|pid| name.ends_with(&format!("-{pid}"))))
            .collect();
        if alive.is_empty() && holders.is_empty() && links.is_empty() && cgroups.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "left: processes {alive:?} {holders:?} links {links:?} cgroups {cgroups:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether anything still runs the installed program after a while, whatever uid it has by then.
pub fn node_managers_remain() -> bool {
    let installed = fs::metadata(format!("{LIB}/node-manager")).unwrap();
    let is_ours = |pid: &String| {
        fs::metadata(format!("/proc/{pid}/exe"))
            .is_ok_and(|exe| (exe.dev(), exe.ino()) == (installed.dev(), installed.ino()))
    };
    remain(is_ours)
}

fn remain(is_ours: impl Fn(&String) -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while processes().iter().any(&is_ours) {
        if Instant::now() > deadline {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// Whether a Launcher of this very program is still there after a while.
pub fn launchers_remain() -> bool {
    let own = fs::read_link("/proc/self/exe").unwrap();
    let is_ours = |pid: &String| {
        *pid != std::process::id().to_string()
            && fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == own)
    };
    remain(is_ours)
}

pub fn running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    !matches!(state, None | Some("Z" | "X"))
}
