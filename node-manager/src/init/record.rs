//! Records between the agent and the sandbox's init, over the socket that came with
//! [`Notice::Built`](crate::operation::Notice::Built) (`SOCK_SEQPACKET`: one record is one
//! datagram, descriptors ride on it).
//!
//! ```text
//! agent                                          init (pid 1 of the sandbox, uid = user)
//!   | PutFile (+1 fd: the content)           --> |   Done | Failed    repeatable
//!   | Listen                                 --> |   Done | Failed    repeatable
//!   | Spawn (+3 fds: command, stdout, stderr) --> |   Spawned | SpawnFailed
//!   | Signal                                 --> |   Found            repeatable
//!   | <-- Exited                                 |   unasked, once for every Spawned
//! ```
//!
//! `Done`, `Failed` and `Found` answer PutFile, Listen and Signal in the order of the requests;
//! what concerns a command carries its id and may come in between. An id is used once:
//! a second Spawn of it is answered `SpawnFailed` with stage `Repeated` and starts nothing.
//! When the agent's end is closed, the commands run on; the monitor decides what ends.
//!
//! Nothing here needs privilege: init has none. Layout as in [`crate::operation`].

use crate::operation::{Fields, Malformed, pick};

/// No record between agent and init is longer than this.
pub const RECORD_BYTES_MAX: usize = 64;
/// Longest content of a file, in bytes.
pub const FILE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest encoded [`Command`], in bytes.
pub const COMMAND_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Agent to init.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// Write a file whole. The descriptor is read to its end (a memfd from its start, or
    /// a pipe whose writer is already done); the file appears by rename, so a repeat
    /// replaces it whole. More than [`FILE_BYTES_MAX`] fails with `EFBIG`.
    PutFile { file: FileId },
    /// Listen on port 22 of the sandbox's address and serve ssh logins there.
    /// Repeating it changes nothing.
    Listen,
    /// Start a command: descriptors are, in order, the encoded [`Command`] (as for
    /// PutFile), its standard output and its standard error; standard input is `/dev/null`.
    Spawn { id: u64 },
    /// Send a signal to processes inside; answered by `Found`, with what was there before it
    /// acted. Signal 0 only looks. SIGTERM wakes what is stopped; SIGKILL stops everything first,
    /// so that nothing is born while it is ended. `id` means nothing for [`Whom::Everything`].
    Signal { id: u64, signal: u8, whom: Whom },
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whom {
    /// Every process of a command, also what it left behind, also one that left its session;
    /// and what came to this member by its ssh, if it runs on another.
    Command,
    /// Everything inside but init.
    Everything,
}

/// How full the sandbox's writable part was while a command ran: the size of what was full, else 0.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Full {
    pub bytes: u64,
    pub files: u64,
}

/// Init to agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    Done,
    Failed {
        errno: i32,
    },
    /// The program was executed; `pid` is the one inside the sandbox.
    Spawned {
        id: u64,
        pid: u32,
    },
    /// Nothing was started.
    SpawnFailed {
        id: u64,
        stage: SpawnStage,
        errno: i32,
    },
    /// The command ended; its output may still be held open by what it left behind.
    Exited {
        id: u64,
        status: ExitStatus,
        full: Full,
    },
    /// Answers Signal: how many processes there were, and one of them with its state.
    Found(Found),
}

/// Processes that are not dead.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Found {
    pub processes: u32,
    /// One of them, as it is numbered inside; 0 if there is none.
    pub pid: u32,
    /// The kernel's letter for its state.
    pub state: u8,
}

/// Where a Spawn failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SpawnStage {
    /// The command could not be read or is malformed, or descriptors are missing.
    Command,
    /// None of the working directories could be entered; errno is the last one's.
    Cwd,
    /// No process could be made.
    Fork,
    /// The program: `ENOENT` is a shell's 127, anything else its 126.
    Exec,
    /// The id was used before.
    Repeated,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExitStatus {
    Code(u8),
    Signal(u8),
}

macro_rules! files {
    ($($name:ident => $place:ident $file:literal $mode:literal,)*) => {
        /// The files that the agent may write; each has one place and one mode.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum FileId { $($name,)* }

        impl FileId {
            /// Every file.
            pub const ALL: &[FileId] = &[$(FileId::$name,)*];

            /// Directory, name and mode.
            pub fn place(self) -> (Directory, &'static str, u32) {
                match self { $(FileId::$name => (Directory::$place, $file, $mode),)* }
            }
        }
    };
}

files! {
    Hostfile => Gridpilot "hostfile" 0o644,
    Machinefile => Gridpilot "machinefile" 0o644,
    Nodes => Gridpilot "nodes" 0o644,
    Hosts => Gridpilot "hosts" 0o644,
    Environment => Gridpilot "environment" 0o644,
    HostKey => Gridpilot "ssh_host_ed25519_key" 0o600,
    SshdConfig => Gridpilot "sshd_config" 0o600,
    UserKey => Ssh "id_ed25519" 0o600,
    UserKeyPublic => Ssh "id_ed25519.pub" 0o644,
    KnownHosts => Ssh "known_hosts" 0o644,
    AuthorizedKeys => Ssh "authorized_keys" 0o600,
    SshConfig => Ssh "config" 0o600,
}

/// Where a [`FileId`] lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Directory {
    /// `/etc/gridpilot`
    Gridpilot,
    /// `~/.ssh` of the sandbox
    Ssh,
}

/// What Spawn starts, as its own session, with umask 022 and every signal at its default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Command {
    /// Working directories: the first that can be entered wins. Not empty.
    pub cwd: Vec<Vec<u8>>,
    /// The program and its arguments, passed on verbatim. Not empty. A program without
    /// a slash is looked for along the `PATH` of `env`; no shell is involved.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, `NAME=value` each.
    pub env: Vec<Vec<u8>>,
}

impl Command {
    /// Three counts (big endian, 4 bytes), then every string with a zero byte behind it.
    /// Strings must not hold zero bytes: [`Command::decode`] would refuse the result.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for list in [&self.cwd, &self.argv, &self.env] {
            out.extend_from_slice(&(list.len() as u32).to_be_bytes());
        }
        for text in [&self.cwd, &self.argv, &self.env].into_iter().flatten() {
            out.extend_from_slice(text);
            out.push(0);
        }
        out
    }

    /// Reads the content of the descriptor; at most [`COMMAND_BYTES_MAX`] bytes.
    pub fn decode(content: &[u8]) -> Result<Command, Malformed> {
        if content.len() > COMMAND_BYTES_MAX {
            return Err(Malformed);
        }
        let mut fields = Fields(content);
        let mut counts = [0; 3];
        for count in &mut counts {
            *count = u32::from_be_bytes(fields.array()?) as usize;
        }
        let mut lists = [Vec::new(), Vec::new(), Vec::new()];
        for (list, count) in lists.iter_mut().zip(counts) {
            for _ in 0..count {
                let length = fields.0.iter().position(|&b| b == 0).ok_or(Malformed)?;
                list.push(fields.bytes(length)?.to_vec());
                fields.byte()?;
            }
        }
        let [cwd, argv, env] = lists;
        if cwd.is_empty() || argv.is_empty() {
            return Err(Malformed);
        }
        fields.end(Command { cwd, argv, env })
    }
}

impl Request {
    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Request::PutFile { file } => vec![1, *file as u8],
            Request::Listen => vec![2],
            Request::Spawn { id } => [&[3][..], &id.to_be_bytes()].concat(),
            Request::Signal { id, signal, whom } => {
                [&[4][..], &id.to_be_bytes(), &[*signal, *whom as u8]].concat()
            }
        }
    }

    /// Reads a datagram.
    pub fn decode(datagram: &[u8]) -> Result<Request, Malformed> {
        let mut fields = Fields(datagram);
        let request = match fields.byte()? {
            1 => Request::PutFile { file: pick(FileId::ALL, fields.byte()?)? },
            2 => Request::Listen,
            3 => Request::Spawn { id: u64::from_be_bytes(fields.array()?) },
            4 => Request::Signal {
                id: u64::from_be_bytes(fields.array()?),
                signal: fields.byte()?,
                whom: pick(&[Whom::Command, Whom::Everything], fields.byte()?)?,
            },
            _ => return Err(Malformed),
        };
        fields.end(request)
    }
}

impl Notice {
    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Notice::Done => vec![1],
            Notice::Failed { errno } => [&[2][..], &errno.to_be_bytes()].concat(),
            Notice::Spawned { id, pid } => [&[3][..], &id.to_be_bytes(), &pid.to_be_bytes()].concat(),
            Notice::SpawnFailed { id, stage, errno } => {
                [&[4][..], &id.to_be_bytes(), &[*stage as u8], &errno.to_be_bytes()].concat()
            }
            Notice::Exited { id, status, full } => {
                let (kind, number) = match *status {
                    ExitStatus::Code(code) => (0, code),
                    ExitStatus::Signal(signal) => (1, signal),
                };
                let (bytes, files) = (full.bytes.to_be_bytes(), full.files.to_be_bytes());
                [&[5][..], &id.to_be_bytes(), &[kind, number], &bytes, &files].concat()
            }
            Notice::Found(Found { processes, pid, state }) => {
                [&[6][..], &processes.to_be_bytes(), &pid.to_be_bytes(), &[*state]].concat()
            }
        }
    }

    /// Reads a datagram.
    pub fn decode(datagram: &[u8]) -> Result<Notice, Malformed> {
        use SpawnStage::*;
        let mut fields = Fields(datagram);
        let notice = match fields.byte()? {
            1 => Notice::Done,
            2 => Notice::Failed { errno: i32::from_be_bytes(fields.array()?) },
            3 => Notice::Spawned {
                id: u64::from_be_bytes(fields.array()?),
                pid: u32::from_be_bytes(fields.array()?),
            },
            4 => Notice::SpawnFailed {
                id: u64::from_be_bytes(fields.array()?),
                stage: pick(&[Command, Cwd, Fork, Exec, Repeated], fields.byte()?)?,
                errno: i32::from_be_bytes(fields.array()?),
            },
            5 => {
                let id = u64::from_be_bytes(fields.array()?);
                let status = match fields.array()? {
                    [0, code] => ExitStatus::Code(code),
                    [1, signal] => ExitStatus::Signal(signal),
                    _ => return Err(Malformed),
                };
                let full = Full {
                    bytes: u64::from_be_bytes(fields.array()?),
                    files: u64::from_be_bytes(fields.array()?),
                };
                Notice::Exited { id, status, full }
            }
            6 => Notice::Found(Found {
                processes: u32::from_be_bytes(fields.array()?),
                pid: u32::from_be_bytes(fields.array()?),
                state: fields.byte()?,
            }),
            _ => return Err(Malformed),
        };
        fields.end(notice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_comes_back_and_no_prefix_of_it_does() {
        let mut requests = vec![
            Request::Listen,
            Request::Spawn { id: 1 << 40 },
            Request::Signal { id: 3, signal: 15, whom: Whom::Command },
            Request::Signal { id: 0, signal: 9, whom: Whom::Everything },
        ];
        requests.extend(FileId::ALL.iter().map(|&file| Request::PutFile { file }));
        for request in requests {
            let datagram = request.encode();
            assert!(datagram.len() <= RECORD_BYTES_MAX);
            assert_eq!(Request::decode(&datagram), Ok(request.clone()));
            for cut in 0..datagram.len() {
                assert_eq!(Request::decode(&datagram[..cut]), Err(Malformed), "{request:?} cut at {cut}");
            }
        }
        let mut notices = vec![
            Notice::Done,
            Notice::Failed { errno: 28 },
            Notice::Spawned { id: 4, pid: 17 },
            Notice::Exited { id: 4, status: ExitStatus::Code(42), full: Full::default() },
            Notice::Exited { id: 4, status: ExitStatus::Signal(9), full: Full { bytes: 1 << 30, files: 7 } },
            Notice::Found(Found { processes: 3, pid: 17, state: b'D' }),
        ];
        use SpawnStage::*;
        notices.extend([Command, Cwd, Fork, Exec, Repeated].map(|stage| Notice::SpawnFailed {
            id: 9,
            stage,
            errno: 2,
        }));
        for notice in notices {
            let datagram = notice.encode();
            assert!(datagram.len() <= RECORD_BYTES_MAX);
            assert_eq!(Notice::decode(&datagram), Ok(notice.clone()));
            for cut in 0..datagram.len() {
                assert_eq!(Notice::decode(&datagram[..cut]), Err(Malformed), "{notice:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_command_is_passed_on_byte_for_byte() {
        let command = Command {
            cwd: vec![b"/scratch".to_vec(), b"/".to_vec()],
            argv: vec![b"prog".to_vec(), b"-x\n".to_vec(), b"".to_vec(), vec![0xff, 0xfe]],
            env: vec![b"A=b".to_vec()],
        };
        assert_eq!(Command::decode(&command.encode()), Ok(command.clone()));
        let encoded = command.encode();
        for cut in 0..encoded.len() {
            assert_eq!(Command::decode(&encoded[..cut]), Err(Malformed), "cut at {cut}");
        }
        assert_eq!(Command::decode(&[&encoded[..], &[0]].concat()), Err(Malformed));
        let nothing = Command { argv: vec![], ..command };
        assert_eq!(Command::decode(&nothing.encode()), Err(Malformed));
    }

    /// A count costs nothing until there are bytes for it.
    #[test]
    fn huge_counts_are_refused_without_memory() {
        let mut content = vec![0xff; 12];
        content.push(0);
        assert_eq!(Command::decode(&content), Err(Malformed));
    }
}
