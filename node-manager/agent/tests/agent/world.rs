//! What surrounds an agent: a CRM at the other end of a stream, a monitor, and an init that starts
//! real processes on this machine, as whoever runs the test.

use std::collections::HashMap;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use node_agent::connection::Redial;
use node_agent::handler::{Ending, serve};
use node_agent::monitor::Monitor;
use node_agent::render::ssh::public_key;
use node_agent::seqpacket::{Datagram, SeqPacket};
use node_manager::init::record::{self, ExitStatus, FileId, Found, Full, SpawnStage, Whom};
use node_manager::operation::{self, Welcome};
use protocol::connection::{Connection, greet, read};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::ids::{Epoch, JobId, ReservationId};
use protocol::job::{Command, Hits, Stream};
use protocol::keys::{KeyRing, Member, MemberKeys, PublicKey};
use protocol::names::{AbsolutePath, EnvironmentName, HostName};
use protocol::node::{Arrive, First, Notice, Reply, Request, Setup, State, Token};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What the stand-ins share with the test.
#[derive(Debug, Default)]
pub struct Seen {
    pub files: HashMap<&'static str, Vec<u8>>,
    pub builds: u32,
    /// Rates that the monitor was asked for; a test that plays it answers them.
    pub shaped: Vec<[u8; grant::RATES_LEN]>,
    /// What the monitor says is left when it is asked to tear down.
    pub left_over: Option<String>,
    pub tear_downs: u32,
    /// How often the monitor was told that the CRM lives.
    pub heard: u32,
    pub spawned: Vec<u64>,
    /// What `ssh-keyscan` prints in this world.
    pub scanned: String,
    /// The sandbox's first process was stopped by its user, or whatever it starts waits for ever.
    pub stopped: bool,
    pub starts_hang: bool,
    /// The sandbox's first process; taking it away is its death.
    pub init: Option<AbortOnDrop>,
}

pub struct World {
    pub crm: Connection<DuplexStream>,
    /// The monitor's end, for a test that plays the monitor itself.
    pub monitor: Arc<SeqPacket>,
    pub seen: Arc<Mutex<Seen>>,
    pub agent: JoinHandle<Ending>,
    pub monitor_task: JoinHandle<()>,
    /// Connections for an agent that dials again.
    ways: mpsc::UnboundedSender<Connection<DuplexStream>>,
    /// Notices that came while a reply was awaited.
    notices: Vec<Notice>,
    correlation: u64,
}

pub fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// The agent's way back, once the test opens one.
#[derive(Clone)]
struct Ways(Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Connection<DuplexStream>>>>);

impl Redial for Ways {
    type Stream = DuplexStream;

    async fn dial(self) -> Connection<DuplexStream> {
        match self.0.lock().await.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }
}

/// The CRM's end of a connection, and the agent's.
async fn connection() -> [Connection<DuplexStream>; 2] {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (crm, agent) =
        tokio::join!(greet(near, Role::Crm, &[Role::Agent]), greet(far, Role::Agent, &[Role::Crm]));
    [crm.unwrap(), agent.unwrap()]
}

impl World {
    /// An agent that has arrived. `answers` says whether the monitor builds what it is asked for.
    pub async fn new(answers: bool) -> Self {
        let (ours, theirs) = pair();
        let monitor = Arc::new(SeqPacket::new(ours).unwrap());
        let welcome = Welcome { nonce: [1; 16], crm_pin: [2; 32], uid: users_uid(), node_name: "a1".into() };
        monitor.send(&operation::Notice::Welcome(welcome).encode(), &[]).await.unwrap();
        let (agents_monitor, welcome) = Monitor::meet(theirs).await.unwrap();
        let [crm, agent] = connection().await;
        let arrive = Arrive {
            token: Token([4; 32]),
            nonce: welcome.nonce,
            node: "a1".parse().unwrap(),
            uid: welcome.uid,
            boot_id: [5; 16],
            version: "test".into(),
        };
        let (ways, opened) = mpsc::unbounded_channel();
        let opened = Ways(Arc::new(tokio::sync::Mutex::new(opened)));
        let agent = tokio::spawn(serve(agent, opened, agents_monitor, arrive));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let monitor_task = tokio::spawn(play_monitor(monitor.clone(), seen.clone(), answers));
        Self { crm, monitor, seen, agent, monitor_task, ways, notices: Vec::new(), correlation: 0 }
    }

    /// Breaks the connection, opens another, and returns what the agent says first there.
    pub async fn reconnect(&mut self) -> First {
        let [crm, agent] = connection().await;
        self.crm = crm;
        self.notices.clear();
        self.correlation = 0;
        assert!(self.ways.send(agent).is_ok());
        let frame = self.crm.inbox.next().await.unwrap();
        assert_eq!((frame.kind, frame.correlation), (Kind::Request, 1));
        read(&frame).unwrap()
    }

    /// The answer to that.
    pub fn answer(&mut self, reply: &Reply) {
        self.crm.outbox.post(Kind::Reply, 1, reply).unwrap();
    }

    /// An agent in this state.
    pub async fn in_state(state: State) -> Self {
        let mut world = Self::new(state != State::Building).await;
        if state == State::Idle {
            return world;
        }
        let setup = world.send(&Request::Setup(setup())).await;
        if state == State::Building {
            // Until the agent has asked, no monitor has an answer.
            while world.seen().builds == 0 {
                tokio::task::yield_now().await;
            }
            return world;
        }
        // Without waiting, as the CRM does.
        let keys = world.send(&Request::GetKeys).await;
        assert_eq!(world.reply(setup).await, Reply::Done);
        let Reply::Keys(keys) = world.reply(keys).await else { panic!("no keys") };
        world.seen().scanned = format!("10.71.128.1 {}\n", public_key(keys.host));
        if state == State::Ready {
            return world;
        }
        let joined = world.send(&Request::SetKeys(ring(keys))).await;
        let running = match state {
            State::Running => Some(world.send(&Request::Run).await),
            _ => None,
        };
        assert_eq!(world.reply(joined).await, Reply::Done);
        if let Some(running) = running {
            assert_eq!(world.reply(running).await, Reply::Done);
        }
        world
    }

    pub fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    pub async fn send(&mut self, request: &Request) -> u64 {
        self.correlation += 1;
        self.crm.outbox.post(Kind::Request, self.correlation, request).unwrap();
        self.correlation
    }

    pub async fn ask(&mut self, request: &Request) -> Reply {
        let correlation = self.send(request).await;
        self.reply(correlation).await
    }

    pub async fn reply(&mut self, correlation: u64) -> Reply {
        loop {
            let frame = self.crm.inbox.next().await.unwrap();
            match frame.kind {
                Kind::Reply => {
                    assert_eq!(frame.correlation, correlation, "{:?}", read::<Reply>(&frame));
                    return read(&frame).unwrap();
                }
                _ => self.notices.push(read(&frame).unwrap()),
            }
        }
    }

    /// The next notice of all, but for where streams end.
    pub async fn notice(&mut self) -> Notice {
        loop {
            let notice = self.any_notice().await;
            if !matches!(&notice, Notice::Output { bytes, .. } if bytes.is_empty()) {
                return notice;
            }
        }
    }

    /// The next notice of all.
    pub async fn any_notice(&mut self) -> Notice {
        if self.notices.is_empty() {
            let frame = self.crm.inbox.next().await.unwrap();
            assert_eq!(frame.kind, Kind::Notice);
            return read(&frame).unwrap();
        }
        self.notices.remove(0)
    }

    /// Runs a command to its end, saving all at once.
    pub async fn run(&mut self, job: JobId, command: Command) -> (String, String, protocol::job::ExitStatus) {
        assert_eq!(self.ask(&Request::Exec { job, command }).await, Reply::Done);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.notice().await {
                Notice::Output { job: of, stream, offset, bytes } => {
                    assert_eq!(of, job);
                    let kept = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
                    assert_eq!(offset, kept.len() as u64, "output out of order");
                    kept.extend_from_slice(&bytes);
                    let upto = kept.len() as u64;
                    self.send(&Request::OutputSaved { job, stream, upto }).await;
                }
                Notice::Exited { job: of, status, .. } => {
                    assert_eq!(of, job);
                    self.send(&Request::ExitSaved { job }).await;
                    let text = |bytes| String::from_utf8(bytes).unwrap();
                    return (text(stdout), text(stderr), status);
                }
                Notice::StateChanged { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Somebody who is not root, if there is such an account; only its shell is looked up.
fn users_uid() -> u32 {
    65534
}

pub fn host() -> HostName {
    HostName { site: "a".parse().unwrap(), number: 0 }
}

pub fn setup() -> Setup {
    let grant = grant::Grant {
        nonce: [1; 16],
        site: grant::SiteName::new("a").unwrap(),
        reservation: 7,
        epoch: 1,
        member: 0,
        uid: users_uid(),
        user: grant::UserName::new("grid").unwrap(),
        address: "10.71.128.1".parse().unwrap(),
        prefix_len: 16,
        gateway: None,
        mtu: 1500,
        driver: grant::Driver::Macvlan,
        shaped: false,
        lifetime_s: 60,
        lease_s: 10,
        memory_bytes: 0,
        pids: 0,
        cpus_milli: 0,
        upper_bytes: 0,
        upper_inodes: 0,
    };
    Setup {
        grant: grant.encode().to_vec(),
        signature: vec![0; 64],
        host: host(),
        address: grant.address,
        reservation: ReservationId(7),
        epoch: Epoch(1),
        environment: EnvironmentName::host(),
        variables: Vec::new(),
        rates: None,
    }
}

pub fn ring(keys: MemberKeys) -> KeyRing {
    let other = MemberKeys { host: PublicKey([8; 32]), user: PublicKey([9; 32]) };
    let member = |site: &str, address: &str, keys| Member {
        host: HostName { site: site.parse().unwrap(), number: 0 },
        address: address.parse().unwrap(),
        slots: 2,
        keys,
    };
    let members = vec![member("a", "10.71.128.1", keys), member("b", "10.72.128.1", other)];
    KeyRing { user: "grid".parse().unwrap(), members }
}

pub fn command(argv: &[&str]) -> Command {
    Command {
        argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
        variables: Vec::new(),
        directories: vec![AbsolutePath::try_from("/".to_owned()).unwrap()],
        directory_required: false,
    }
}

pub fn shell(script: &str) -> Command {
    command(&["/bin/sh", "-c", script])
}

async fn play_monitor(socket: Arc<SeqPacket>, seen: Arc<Mutex<Seen>>, answers: bool) {
    while let Ok(Some(Datagram { bytes, .. })) = socket.receive(operation::RECORD_BYTES_MAX).await {
        let (notice, descriptor) = match operation::Request::decode(&bytes).unwrap() {
            operation::Request::Build { .. } => {
                seen.lock().unwrap().builds += 1;
                if !answers {
                    continue;
                }
                let (ours, theirs) = pair();
                let init = AbortOnDrop(tokio::spawn(play_init(ours, seen.clone())));
                seen.lock().unwrap().init = Some(init);
                (operation::Notice::Built, Some(theirs))
            }
            operation::Request::TearDown => {
                let mut seen = seen.lock().unwrap();
                seen.tear_downs += 1;
                seen.init = None;
                let left = seen.left_over.clone();
                (left.map_or(operation::Notice::Gone, |what| operation::Notice::Dirty { what }), None)
            }
            operation::Request::Shape { rates, .. } => {
                seen.lock().unwrap().shaped.push(rates);
                continue;
            }
            operation::Request::Heard => {
                seen.lock().unwrap().heard += 1;
                continue;
            }
        };
        let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
        if socket.send(&notice.encode(), &descriptors).await.is_err() {
            break;
        }
    }
}

#[derive(Debug)]
pub struct AbortOnDrop(pub JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Processes of a group that are not dead.
fn members_of(group: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let words: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        matches!(words[..], [state, _, its, ..] if !"ZX".contains(state) && its == group.to_string())
    })
    .collect()
}

/// What the played init says of the disk.
pub const FULL: Full = Full { bytes: 4096, files: 0 };

/// What follows from that at every command's end.
pub const HITS: Hits = Hits {
    out_of_memory: 0,
    processes_refused: 0,
    disk_full: true,
    files_full: false,
    memory_bytes: 0,
    pids: 0,
    disk_bytes: 4096,
    files: 0,
};

/// Process groups by the command's id; they die with the init.
#[derive(Default)]
struct Groups(HashMap<u64, i32>);

impl Drop for Groups {
    fn drop(&mut self) {
        for group in self.0.values() {
            let group = nix::unistd::Pid::from_raw(*group);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

async fn play_init(socket: OwnedFd, seen: Arc<Mutex<Seen>>) {
    let socket = Arc::new(SeqPacket::new(socket).unwrap());
    let mut groups = Groups::default();
    let processes = &mut groups.0;
    while let Ok(Some(Datagram { bytes, mut descriptors })) = socket.receive(record::RECORD_BYTES_MAX).await {
        if seen.lock().unwrap().stopped {
            std::future::pending::<()>().await;
        }
        let notice = match record::Request::decode(&bytes).unwrap() {
            record::Request::PutFile { file } => {
                let content = content(descriptors.remove(0));
                seen.lock().unwrap().files.insert(FileId::place(file).1, content);
                record::Notice::Done
            }
            record::Request::Listen => record::Notice::Done,
            record::Request::Signal { id, signal, whom } => {
                let groups: Vec<i32> = match whom {
                    Whom::Command => processes.get(&id).into_iter().copied().collect(),
                    Whom::Everything => processes.values().copied().collect(),
                };
                let members: Vec<i32> = groups.iter().flat_map(|group| members_of(*group)).collect();
                if let Ok(signal) = nix::sys::signal::Signal::try_from(i32::from(signal)) {
                    for pid in &members {
                        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), signal);
                    }
                }
                let pid = members.first().map_or(0, |pid| *pid as u32);
                record::Notice::Found(Found { processes: members.len() as u32, pid, state: b'S' })
            }
            record::Request::Spawn { .. } if seen.lock().unwrap().starts_hang => continue,
            record::Request::Spawn { id } => {
                let scanned = seen.lock().unwrap().scanned.clone();
                seen.lock().unwrap().spawned.push(id);
                match start(descriptors, &scanned) {
                    Ok(mut child) => {
                        let pid = child.id();
                        processes.insert(id, pid as i32);
                        let socket = socket.clone();
                        let wait = tokio::task::spawn_blocking(move || child.wait().unwrap());
                        tokio::spawn(async move {
                            let status = wait.await.unwrap();
                            let status = match (status.code(), status.signal()) {
                                (Some(code), _) => ExitStatus::Code(code as u8),
                                (None, signal) => ExitStatus::Signal(signal.unwrap() as u8),
                            };
                            let _ = socket
                                .send(&record::Notice::Exited { id, status, full: FULL }.encode(), &[])
                                .await;
                        });
                        record::Notice::Spawned { id, pid }
                    }
                    Err((stage, errno)) => record::Notice::SpawnFailed { id, stage, errno },
                }
            }
        };
        socket.send(&notice.encode(), &[]).await.unwrap();
    }
}

fn content(descriptor: OwnedFd) -> Vec<u8> {
    let mut file = std::fs::File::from(descriptor);
    file.rewind().unwrap();
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    content
}

fn start(mut descriptors: Vec<OwnedFd>, scanned: &str) -> Result<std::process::Child, (SpawnStage, i32)> {
    let stderr = descriptors.pop().unwrap();
    let stdout = descriptors.pop().unwrap();
    let mut asked = record::Command::decode(&content(descriptors.pop().unwrap())).unwrap();
    if asked.argv[0] == b"ssh-keyscan" {
        asked.argv = vec![b"/usr/bin/printf".to_vec(), b"%s".to_vec(), scanned.as_bytes().to_vec()];
    }
    let text = |bytes: &[u8]| std::ffi::OsStr::from_bytes(bytes).to_owned();
    let cwd = asked.cwd.iter().map(|path| text(path)).find(|path| Path::new(path).is_dir());
    let cwd = cwd.ok_or((SpawnStage::Cwd, 2))?;
    let environment = asked.env.iter().map(|pair| {
        let at = pair.iter().position(|b| *b == b'=').unwrap();
        (text(&pair[..at]), text(&pair[at + 1..]))
    });
    std::process::Command::new(text(&asked.argv[0]))
        .args(asked.argv[1..].iter().map(|word| text(word)))
        .env_clear()
        .envs(environment)
        .current_dir(cwd)
        .stdin(std::process::Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0)
        .spawn()
        .map_err(|error| (SpawnStage::Exec, error.raw_os_error().unwrap()))
}
