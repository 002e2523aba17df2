//! The agent's side of the socket to the sandbox's init, which does everything that happens
//! inside, as the user: writing files, listening for ssh, starting and signalling commands.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use node_manager::init::record::{
    COMMAND_BYTES_MAX, Command, ExitStatus, FILE_BYTES_MAX, FileId, Found, Full, Notice, RECORD_BYTES_MAX,
    Request, SpawnStage, Whom,
};
use rustix::fs::MemfdFlags;
use tokio::sync::oneshot;

use crate::seqpacket::SeqPacket;

/// Why init did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("the sandbox's first process is gone")]
    Gone,
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

/// What is owed to those who asked.
#[derive(Debug, Default)]
struct Owed {
    gone: bool,
    /// `Done`, `Failed` and `Found` carry no id: they answer in the order of the requests.
    answers: VecDeque<oneshot::Sender<Result<Found, InitError>>>,
    spawns: HashMap<u64, oneshot::Sender<Result<(), InitError>>>,
    exits: HashMap<u64, oneshot::Sender<(ExitStatus, Full)>>,
}

#[derive(Debug)]
struct Shared {
    socket: SeqPacket,
    owed: Mutex<Owed>,
    /// Held from the entry in `owed` to the end of the send, so that both keep one order.
    turn: tokio::sync::Mutex<()>,
}

impl Shared {
    fn owed(&self) -> MutexGuard<'_, Owed> {
        // Nothing panics while it is held, and the state would be whole even then.
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sandbox's init, as the agent sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Init {
    shared: Arc<Shared>,
}

impl Init {
    /// Takes the socket over. The second value resolves when init is gone.
    pub fn new(socket: OwnedFd) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let shared = Arc::new(Shared {
            socket: SeqPacket::new(socket)?,
            owed: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        });
        let (gone, when_gone) = oneshot::channel();
        let reader = shared.clone();
        tokio::spawn(async move {
            while let Some(notice) = next(&reader.socket).await {
                settle(&mut reader.owed(), notice);
            }
            // Whoever waits learns it by its dropped sender.
            *reader.owed() = Owed { gone: true, ..Owed::default() };
            let _ = gone.send(());
        });
        Ok((Self { shared }, when_gone))
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
        let (spawned, answer) = oneshot::channel();
        let (exited, exit) = oneshot::channel();
        {
            let _turn = self.shared.turn.lock().await;
            {
                let mut owed = self.shared.owed();
                if owed.gone {
                    return Err(InitError::Gone);
                }
                owed.spawns.insert(id, spawned);
                owed.exits.insert(id, exited);
            }
            let descriptors = [content.as_fd(), stdout.as_fd(), stderr.as_fd()];
            self.send(&Request::Spawn { id }, &descriptors).await?;
        }
        answer.await.map_err(|_| InitError::Gone)??;
        Ok(exit)
    }

    async fn ask(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<Found, InitError> {
        let (sender, answer) = oneshot::channel();
        {
            let _turn = self.shared.turn.lock().await;
            {
                let mut owed = self.shared.owed();
                if owed.gone {
                    return Err(InitError::Gone);
                }
                owed.answers.push_back(sender);
            }
            self.send(&request, descriptors).await?;
        }
        answer.await.map_err(|_| InitError::Gone)?
    }

    async fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), InitError> {
        // A send that fails leaves an entry in `owed`; but it only fails when init is gone, and
        // then the reader settles everything.
        self.shared.socket.send(&request.encode(), descriptors).await.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => InitError::Gone,
            _ => InitError::System(error),
        })
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
