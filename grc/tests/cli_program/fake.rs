//! A GRC that answers by a script: what it says to each request is a function of the request and
//! of the number of the connection (1, 2, ...).

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use protocol::client::{Explanation, Notice, Reply, Request, SiteView};
use protocol::connection::{greet, read};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::ids::{Epoch, JobId, ReservationId, Version};
use protocol::job::{ExitStatus, Hits, JobState, JobView, Stream, Target};
use protocol::names::{EnvironmentName, HostName};
use protocol::reservation::{
    AddressBlock, BlockProof, MemberView, PairView, PartView, Progress, ReservationState, ReservationView,
    UsagePoint,
};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, oneshot};

/// One thing that the scripted GRC does. Without a `Reply` the request stays open.
pub enum Act {
    Notice(Notice),
    Reply(Reply),
    /// Say what was said so far, then close this connection.
    Disconnect,
    /// Close it and listen no more.
    Vanish,
}

type Script = dyn Fn(u32, &Request) -> Vec<Act> + Send + Sync;

/// A GRC in a directory of its own.
pub struct Grc {
    dir: TempDir,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Grc {
    pub fn new(script: impl Fn(u32, &Request) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::at(tempfile::tempdir().unwrap(), script)
    }

    fn at(dir: TempDir, script: impl Fn(u32, &Request) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("grc.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let shared = Shared { script: Arc::new(script), requests: requests.clone(), vanish: Arc::default() };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let vanish = shared.vanish.clone();
                let listening = async {
                    tokio::select! {
                        () = serve(UnixListener::from_std(listener).unwrap(), shared) => {}
                        () = vanish.notified() => {}
                    }
                    // The socket is closed now; connections in progress go on until the test ends.
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = listening => {}
                    _ = stopped => {}
                }
            });
        });
        Self { dir, requests, stop, thread }
    }

    /// A GRC that gives one and the same answer to everything.
    pub fn answering(reply: Reply) -> Self {
        Self::new(move |_, _| vec![Act::Reply(reply.clone())])
    }

    /// Dies without a word; the next one listens at the same place. What was asked of the first.
    pub fn restart(
        self,
        script: impl Fn(u32, &Request) -> Vec<Act> + Send + Sync + 'static,
    ) -> (Vec<Request>, Self) {
        let _ = self.stop.send(());
        self.thread.join().unwrap();
        std::fs::remove_file(self.dir.path().join("grc.sock")).unwrap();
        let requests = self.requests.lock().unwrap().clone();
        (requests, Self::at(self.dir, script))
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("grc.sock")
    }

    /// The program, pointed here, with nothing of the caller's settings.
    pub fn gridpilot(&self, args: &[&str]) -> Command {
        let mut command = gridpilot(args);
        command.env("GRIDPILOT_GRC", self.socket());
        command
    }

    pub fn run(&self, args: &[&str]) -> Outcome {
        Outcome::of(self.gridpilot(args).output().unwrap())
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Ends it and sees that the client left nothing beside the socket.
    pub fn close(self) {
        let _ = self.stop.send(());
        self.thread.join().unwrap();
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert!(entry.file_type().unwrap().is_socket(), "left behind: {:?}", entry.path());
        }
        self.dir.close().unwrap();
    }
}

/// The program without a GRC.
pub fn gridpilot(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gridpilot"));
    command.args(args).env_clear().env("TZ", "UTC").stdin(Stdio::null());
    command
}

#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

#[derive(Clone)]
struct Shared {
    script: Arc<Script>,
    requests: Arc<Mutex<Vec<Request>>>,
    vanish: Arc<Notify>,
}

async fn serve(listener: UnixListener, shared: Shared) {
    for number in 1.. {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(converse(stream, number, shared.clone()));
    }
}

async fn converse(stream: UnixStream, number: u32, shared: Shared) {
    let Ok(mut connection) = greet(stream, Role::Grc, &[Role::Client]).await else { return };
    while let Ok(frame) = connection.inbox.next().await {
        let request: Request = read(&frame).unwrap();
        shared.requests.lock().unwrap().push(request.clone());
        for act in (shared.script)(number, &request) {
            let posted = match act {
                Act::Notice(notice) => connection.outbox.post(Kind::Notice, frame.correlation, &notice),
                Act::Reply(reply) => connection.outbox.post(Kind::Reply, frame.correlation, &reply),
                Act::Disconnect => return,
                Act::Vanish => {
                    shared.vanish.notify_one();
                    return;
                }
            };
            if posted.is_err() {
                return;
            }
        }
    }
}

/// Job 3 in reservation 2.
pub fn job(state: JobState) -> JobView {
    let started = !matches!(state, JobState::Waiting);
    let over = state.is_final();
    JobView {
        id: JobId(3),
        reservation: ReservationId(2),
        label: Some("ring".parse().unwrap()),
        user: "grid".into(),
        command: "mpirun ./ring".into(),
        target: Target::Head,
        state,
        submitted_s: 1_800_000_000,
        started_s: started.then_some(1_800_000_002),
        ended_s: over.then_some(1_800_000_065),
        head: Some(HostName { site: "a".parse().unwrap(), number: 0 }),
        stdout_bytes: 12,
        stderr_bytes: 0,
        hits: Hits::default(),
    }
}

/// Reservation 2 with two members at site a, and something granted to site b.
pub fn reservation(state: ReservationState, arrived: u32) -> ReservationView {
    let block = AddressBlock { first: [10, 71, 128, 0].into(), count: 2 };
    ReservationView {
        id: ReservationId(2),
        label: None,
        user: "grid".into(),
        state,
        slots: 1,
        environment: EnvironmentName::host(),
        parts: vec![PartView {
            site: "a".parse().unwrap(),
            nodes: 2,
            addresses: vec![block],
            progress: Progress { wanted: 2, submitted: 2, arrived, built: arrived, joined: 0 },
            members: vec![MemberView {
                host: HostName { site: "a".parse().unwrap(), number: 0 },
                address: [10, 71, 128, 0].into(),
                node: "a1".parse().unwrap(),
            }],
            proof: vec![BlockProof { block, below: None, above: Some([10, 71, 128, 7].into()) }],
            queue: None,
        }],
        made_s: 1_800_000_000,
        version: Version(3),
        epoch: Epoch(1),
        starts_s: 1_800_000_010,
        pairs: vec![PairView {
            a: "a".parse().unwrap(),
            b: "b".parse().unwrap(),
            granted_kbit: 100_000,
            a_to_b_kbit: Some(1500),
            b_to_a_kbit: None,
        }],
        ends_s: 1_800_003_610,
        deadline_s: Some(1_800_000_060),
    }
}

pub fn output(stream: Stream, offset: u64, bytes: &[u8]) -> Act {
    Act::Notice(Notice::Output { stream, offset, bytes: bytes.to_vec().into() })
}

fn site() -> SiteView {
    SiteView {
        name: "a".parse().unwrap(),
        connected: true,
        last_seen_s: Some(1_800_000_000),
        batch_system: "embedded".into(),
        nodes_usable: 2,
        nodes_free: 1,
        ranges: vec!["10.71.128.0/17".into()],
        environments: vec!["host".parse().unwrap()],
        problems: vec!["node a2 is dirty".into()],
    }
}

fn usage() -> UsagePoint {
    UsagePoint {
        at_s: 1_800_000_020,
        from: "a".parse().unwrap(),
        to: "b".parse().unwrap(),
        granted_kbit: 100_000,
        used_kbit: 1500,
    }
}

/// Answers every question that has one answer.
pub fn honest(_: u32, request: &Request) -> Vec<Act> {
    let ready = || reservation(ReservationState::Ready, 2);
    vec![Act::Reply(match request {
        Request::Sites => Reply::Sites(vec![site()]),
        Request::Reserve { .. } => Reply::Reserved(ReservationId(2)),
        Request::Submit { .. } | Request::SubmitIn { .. } => {
            Reply::Submitted { job: JobId(3), reservation: ReservationId(2) }
        }
        Request::Reservations => Reply::Reservations(vec![ready()]),
        Request::Jobs => {
            Reply::Jobs(vec![job(JobState::Done(ExitStatus::Signal(9))), job(JobState::Running)])
        }
        Request::ShowReservation(_) | Request::WaitReservation(_) => Reply::Reservation(ready()),
        Request::ShowJob(_) | Request::WaitJob(_) => Reply::Job(job(JobState::Running)),
        Request::Log { .. } => Reply::LogEnd { offset: 0 },
        Request::Cancel(_) | Request::Release(_) => Reply::Done,
        Request::Modify { .. } => Reply::Modified { reservation: ReservationId(2), version: Version(4) },
        Request::Usage(_) => Reply::Usage(vec![usage()]),
        Request::ExplainJob(_) | Request::ExplainReservation(_) => Reply::Explained(Explanation {
            summary: "waiting for nodes".into(),
            reasons: vec!["site a has 0 free nodes".into()],
            deadline_s: None,
            hints: vec!["release one".into()],
        }),
    })]
}
