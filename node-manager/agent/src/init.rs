//! The agent's side of the socket to the sandbox's init, which does everything that happens
//! inside, as the user: writing files, listening for ssh, starting and signalling commands.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_manager::init::record::{
    COMMAND_BYTES_MAX, Command, ExitStatus, FILE_BYTES_MAX, FileId, Found, Full, Notice, RECORD_BYTES_MAX,
    Request, SpawnStage, Whom,
};
use rustix::fs::MemfdFlags;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::seqpacket::SeqPacket;

/// How long init may take to answer. It waits for nothing but the processors of a busy node; but a
/// user can stop it, for it runs as that user.
pub const ANSWER_TIME: Duration = Duration::from_secs(20);

/// Why init did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("the sandbox's first process is gone")]
    Gone,
    /// Nothing is known of what was asked of it: it may do it still.
    #[error("the sandbox's first process does not answer within {} s: was it stopped?", ANSWER_TIME.as_secs())]
    Silent,
    #[error("{0}")]
    System(io::Error),
    /// No process was started; `errno` says why.
    #[error("{}", io::Error::from_raw_os_error(*errno))]
    Spawn { stage: SpawnStage, errno: i32 },
    #[error("{what} is longer than {max} bytes")]
    TooLong { what: &'static str, max: usize },
}

/// A command that runs inside; resolves when it ended, or fails when init is gone.
pub type Exited = oneshot::Receiver<(ExitStatus, Full)>;

/// Why init is of no more use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Over {
    Gone,
    Silent,
}

impl From<Over> for InitError {
    fn from(over: Over) -> Self {
        match over {
            Over::Gone => Self::Gone,
            Over::Silent => Self::Silent,
        }
    }
}

/// What is owed to those who asked.
#[derive(Debug, Default)]
struct Owed {
    over: Option<Over>,
    /// `Done`, `Failed` and `Found` carry no id: they answer in the order of the requests.
    answers: VecDeque<oneshot::Sender<Result<Found, InitError>>>,
    spawns: HashMap<u64, oneshot::Sender<Result<(), InitError>>>,
    exits: HashMap<u64, oneshot::Sender<(ExitStatus, Full)>>,
}

#[derive(Debug)]
struct Shared {
    socket: SeqPacket,
    owed: Mutex<Owed>,
    /// It did not answer in time.
    silent: Notify,
}

impl Shared {
    fn owed(&self) -> MutexGuard<'_, Owed> {
        // Nothing panics while it is held, and the state would be whole even then.
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why there is no answer.
    fn over(&self) -> InitError {
        self.owed().over.unwrap_or(Over::Gone).into()
    }

    /// Sends a request once there is room, and notes at once what is owed for it: answers come in
    /// the order of the requests. Cancel-safe: both are done, or neither.
    async fn send(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
        mut note: impl FnMut(&mut Owed),
    ) -> Result<(), InitError> {
        let attempt = |send: &dyn Fn() -> io::Result<()>| {
            let mut owed = self.owed();
            if owed.over.is_some() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            send().inspect(|()| note(&mut owed))
        };
        self.socket.send_as(&request.encode(), descriptors, attempt).await.map_err(|error| {
            match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => self.over(),
                _ => InitError::System(error),
            }
        })
    }

    /// Waits for what init does at once.
    ///
    /// # Errors
    /// `Silent` when it does not: then whatever else it owes is given up with it.
    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, InitError>>) -> Result<T, InitError> {
        let mut asked = pin!(asked);
        // In halves: where all of a pilot was stopped and goes on, that counts as one at most.
        for _ in 0..2 {
            if let Ok(outcome) = timeout(ANSWER_TIME / 2, &mut asked).await {
                return outcome;
            }
        }
        self.silent.notify_one();
        Err(InitError::Silent)
    }
}

/// The sandbox's init, as the agent sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Init {
    shared: Arc<Shared>,
}

impl Init {
    /// Takes the socket over. The second value resolves when init is of no more use.
    pub fn new(socket: OwnedFd) -> io::Result<(Self, oneshot::Receiver<Over>)> {
        let shared = Arc::new(Shared {
            socket: SeqPacket::new(socket)?,
            owed: Mutex::default(),
            silent: Notify::new(),
        });
        let (end, when_over) = oneshot::channel();
        let reader = shared.clone();
        tokio::spawn(async move {
            let over = loop {
                tokio::select! {
                    notice = next(&reader.socket) => match notice {
                        Some(notice) => settle(&mut reader.owed(), notice),
                        None => break Over::Gone,
                    },
                    () = reader.silent.notified() => break Over::Silent,
                }
            };
            // Whoever waits learns it by its dropped sender.
            *reader.owed() = Owed { over: Some(over), ..Owed::default() };
            let _ = end.send(over);
        });
        Ok((Self { shared }, when_over))
    }

    /// Writes one of the sandbox's files whole. Repeatable.
    pub async fn put(&self, file: FileId, content: &[u8]) -> Result<(), InitError> {
        let content = memory_file(content, FILE_BYTES_MAX, "a file")?;
        self.ask(Request::PutFile { file }, &[content.as_fd()]).await.map(drop)
    }

    /// Listens on port 22 of the sandbox's address. Repeatable.
    pub async fn listen(&self) -> Result<(), InitError> {
        self.ask(Request::Listen, &[]).await.map(drop)
    }

    /// Signals all processes of a command, or all that are inside; what there was. 0 only looks.
    pub async fn signal(&self, id: u64, signal: u8, whom: Whom) -> Result<Found, InitError> {
        self.ask(Request::Signal { id, signal, whom }, &[]).await
    }

    /// Starts a command. Each id is used once.
    pub async fn spawn(
        &self,
        id: u64,
        command: &Command,
        stdout: OwnedFd,
        stderr: OwnedFd,
    ) -> Result<Exited, InitError> {
        let content = memory_file(&command.encode(), COMMAND_BYTES_MAX, "a command")?;
        let (spawned, mut answer) = oneshot::channel();
        let (exited, exit) = oneshot::channel();
        let mut owed_for_it = Some((spawned, exited));
        let descriptors = [content.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let request = Request::Spawn { id };
        let sent = self.shared.send(&request, &descriptors, |owed| {
            if let Some((spawned, exited)) = owed_for_it.take() {
                owed.spawns.insert(id, spawned);
                owed.exits.insert(id, exited);
            }
        });
        self.shared.in_time(sent).await?;
        // Init has its own of these; a start can take long.
        drop((content, stdout, stderr));
        loop {
            match timeout(ANSWER_TIME, &mut answer).await {
                Ok(started) => return started.map_err(|_| self.shared.over())?.map(|()| exit),
                // The program may stand on a file server that does not answer; init itself does.
                Err(_) => self.signal(id, 0, Whom::Everything).await?,
            };
        }
    }

    async fn ask(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<Found, InitError> {
        let (sender, answer) = oneshot::channel();
        let mut sender = Some(sender);
        self.shared
            .in_time(async {
                self.shared.send(&request, descriptors, |owed| owed.answers.extend(sender.take())).await?;
                answer.await.map_err(|_| self.shared.over())?
            })
            .await
    }
}

/// The next record; `None` when init is gone or does not keep to the protocol, which is the same
/// to us: it is of no more use.
async fn next(socket: &SeqPacket) -> Option<Notice> {
    let datagram = socket.receive(RECORD_BYTES_MAX).await.ok()??;
    Notice::decode(&datagram.bytes).ok()
}

fn settle(owed: &mut Owed, notice: Notice) {
    match notice {
        Notice::Done => {
            owed.answers.pop_front().map(|sender| sender.send(Ok(Found::default())));
        }
        Notice::Found(found) => {
            owed.answers.pop_front().map(|sender| sender.send(Ok(found)));
        }
        Notice::Failed { errno } => {
            let error = InitError::System(io::Error::from_raw_os_error(errno));
            owed.answers.pop_front().map(|sender| sender.send(Err(error)));
        }
        Notice::Spawned { id, .. } => {
            owed.spawns.remove(&id).map(|sender| sender.send(Ok(())));
        }
        Notice::SpawnFailed { id, stage, errno } => {
            owed.exits.remove(&id);
            owed.spawns.remove(&id).map(|sender| sender.send(Err(InitError::Spawn { stage, errno })));
        }
        Notice::Exited { id, status, full } => {
            owed.exits.remove(&id).map(|sender| sender.send((status, full)));
        }
    }
}

/// Content that travels as a descriptor: it is read from the start, and no disk holds it.
fn memory_file(content: &[u8], max: usize, what: &'static str) -> Result<File, InitError> {
    if content.len() > max {
        return Err(InitError::TooLong { what, max });
    }
    let make = || {
        let mut file = File::from(rustix::fs::memfd_create("gridpilot", MemfdFlags::CLOEXEC)?);
        file.write_all(content)?;
        file.rewind()?;
        Ok(file)
    };
    make().map_err(InitError::System)
}
