//! Runs the batch system's own commands: as the account whose pilots they are for, with nothing of
//! our environment, no shell, a deadline and a bounded answer.
//!
//! A CRM that root started becomes the account by `setpriv` before the command is executed: user,
//! group and the account's other groups. One of an ordinary user runs everything as that user.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use protocol::names::NodeName;

use crate::site::Account;
use crate::standing::BatchError;

/// How long a command may take. Slurm's own give up after 9 s when their daemon is down.
pub const COMMAND_TIME: Duration = Duration::from_secs(20);
/// An answer that is longer is none.
const OUT_BYTES_MAX: u64 = 64 << 20;
const ERR_BYTES_MAX: u64 = 64 << 10;
/// Behind the batch system's own directory.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
/// Becomes an account, and has no other use here.
const SETPRIV: &str = "setpriv";

/// Why a command gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("cannot start {program}: {source}")]
    Start { program: String, source: io::Error },
    /// It was ended; what it asked for may have been done.
    #[error("{program} gave no answer within {} s", .after.as_secs())]
    Late { program: String, after: Duration },
    #[error("{program} gave an answer of more than {OUT_BYTES_MAX} bytes")]
    TooLong { program: String },
    #[error("{program} cannot be listened to: {source}")]
    Lost { program: String, source: io::Error },
}

impl CommandError {
    /// As an error of something that was only asked, or that may be asked again at will.
    pub fn of_question(self) -> BatchError {
        BatchError::unavailable(self.to_string())
    }

    /// As an error of something that must not be done twice.
    pub fn of_submission(self) -> BatchError {
        match self {
            Self::Start { .. } => BatchError::unavailable(self.to_string()),
            _ => BatchError::unknown(self.to_string()),
        }
    }
}

/// What a command said. Bytes that are no text are replaced.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Answer {
    /// What it complained of, in one line: its last words.
    pub fn complaint(&self) -> String {
        let mut lines = self.err.lines().rev().chain(self.out.lines().rev()).map(str::trim);
        let last = lines.find(|line| !line.is_empty()).map(str::to_owned);
        last.unwrap_or_else(|| format!("{}, without a word", self.status))
    }
}

/// What is used of an account's entry (`passwd(5)`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, uid, gid, _, home, _] = fields[..] else { return None };
        Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.to_owned() })
    }
}

/// One batch system's commands.
#[derive(Clone, Debug)]
pub struct Commands {
    directory: PathBuf,
    environment: Vec<(String, OsString)>,
    is_root: bool,
}

impl Commands {
    /// Commands of this directory, with these variables besides `PATH`.
    pub fn new(directory: &Path, environment: Vec<(String, OsString)>) -> Self {
        Self { directory: directory.to_owned(), environment, is_root: nix::unistd::geteuid().is_root() }
    }

    /// As a CRM of an ordinary user has them: every account is its own.
    #[cfg(test)]
    pub fn of_nobody_else(directory: &Path) -> Self {
        Self { is_root: false, ..Self::new(directory, Vec::new()) }
    }

    /// Runs a command, `stdin` being its standard input; `account` = as whom, `None` = as the CRM
    /// itself. An exit code of its own is an answer, too. Commands are looked for in the batch
    /// system's directory first, then among those of the operating system.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn run(
        &self,
        account: Option<&Account>,
        program: &str,
        arguments: &[String],
        stdin: &[u8],
    ) -> Result<Answer, CommandError> {
        self.execute(account, program, arguments, stdin, COMMAND_TIME).await
    }

    /// The same within another time.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub async fn execute(
        &self,
        account: Option<&Account>,
        program: &str,
        arguments: &[String],
        stdin: &[u8],
        time: Duration,
    ) -> Result<Answer, CommandError> {
        let mut command = self.command(account, program, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Out of our terminal's reach, and not left behind when nobody waits any more.
        command.process_group(0).kill_on_drop(true);
        let program = program.rsplit('/').next().unwrap_or(program).to_owned();
        // To start it takes as long as its file takes to be read, from a network perhaps. One that
        // starts when nobody waits any more is dropped, and ends by that.
        let start = tokio::task::spawn_blocking(move || command.spawn());
        let talk = async {
            let child = match start.await {
                Ok(Ok(child)) => child,
                Ok(Err(source)) => return Err(CommandError::Start { program: program.clone(), source }),
                Err(error) => {
                    return Err(CommandError::Lost { program: program.clone(), source: error.into() });
                }
            };
            converse(child, stdin).await.map_err(|source| match source.kind() {
                io::ErrorKind::FileTooLarge => CommandError::TooLong { program: program.clone() },
                _ => CommandError::Lost { program: program.clone(), source },
            })
        };
        match tokio::time::timeout(time, talk).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CommandError::Late { program: program.clone(), after: time }),
        }
    }

    /// A time from now as `qsub -a` reads it: a local one, which only the system's own program should
    /// write.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn local_time(&self, in_s: u32) -> Result<String, BatchError> {
        let words = [format!("--date=+{in_s} seconds"), "+%Y%m%d%H%M.%S".to_owned()];
        let answer = self.run(None, "date", &words, b"").await.map_err(|error| error.of_question())?;
        let failed = || BatchError::unavailable(format!("date wrote no time: {}", answer.complaint()));
        answer.status.success().then(|| answer.out.trim().to_owned()).ok_or_else(failed)
    }

    /// The operating system's entry of an account, by its name or its number: the answer may come
    /// from a directory service. `None` if it has none, or does not say.
    pub async fn account_entry(&self, key: &str) -> Option<Entry> {
        let answer = self.run(None, "getent", &["passwd".to_owned(), key.to_owned()], b"").await.ok()?;
        Entry::parse(answer.out.lines().next()?)
    }

    fn command(&self, account: Option<&Account>, program: &str, arguments: &[String]) -> Command {
        let mut command = match account.filter(|_| self.is_root) {
            Some(account) => {
                let mut command = Command::new(SETPRIV);
                command.arg(format!("--reuid={}", account.uid)).arg(format!("--regid={}", account.gid));
                command.args(["--init-groups", "--inh-caps=-all", "--", program]);
                command
            }
            None => Command::new(program),
        };
        let mut path = self.directory.clone().into_os_string();
        path.push(":");
        path.push(PATH);
        command.args(arguments).env_clear().env("PATH", path).current_dir("/");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Words of a configuration with `{node}`, `{user}`, `{uid}` and `{gid}` replaced.
pub fn filled(words: &[String], node: &NodeName, account: &Account) -> Vec<String> {
    let fill = |word: &String| {
        word.replace("{node}", node.as_str())
            .replace("{user}", account.name.as_str())
            .replace("{uid}", &account.uid.to_string())
            .replace("{gid}", &account.gid.to_string())
    };
    words.iter().map(fill).collect()
}

/// All three streams at once: whichever fills up cannot hold the others up.
async fn converse(mut child: Child, stdin: &[u8]) -> io::Result<Answer> {
    let (to, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut to) = to {
            // One that does not want to hear it all says why by its end.
            let _ = to.write_all(stdin).await;
        }
    };
    let ((), out, err) = tokio::join!(write, read(out, OUT_BYTES_MAX), read(err, ERR_BYTES_MAX));
    let (out, err) = (out?, err?);
    if out.len() as u64 > OUT_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Answer { status: child.wait().await?, out: text(out), err: text(err) })
}

/// Up to one byte more than the maximum; with the pipe closed, the writer of more ends.
async fn read(from: Option<impl AsyncRead + Unpin>, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(max + 1).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> Commands {
        let environment = vec![("SLURM_CONF".into(), "/etc/x.conf".into())];
        Commands { is_root: false, ..Commands::new(Path::new("/usr/bin"), environment) }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[tokio::test]
    async fn a_command_has_its_input_its_variables_and_nothing_of_ours() {
        let answer = commands().run(None, "env", &[], b"").await.unwrap();
        assert_eq!(answer.out, format!("PATH=/usr/bin:{PATH}\nSLURM_CONF=/etc/x.conf\n"));
        let answer = commands().run(None, "cat", &[], b"\xffsecret").await.unwrap();
        assert_eq!((answer.out.as_str(), answer.status.success()), ("\u{fffd}secret", true));
        let answer = commands().run(None, "pwd", &[], &[7; 1 << 20]).await.unwrap();
        assert_eq!(answer.out, "/\n");
    }

    #[tokio::test]
    async fn words_of_a_command_are_no_shells() {
        let answer = commands().run(None, "echo", &words(&["$(id)", ";", "a b"]), b"").await.unwrap();
        assert_eq!(answer.out, "$(id) ; a b\n");
    }

    #[tokio::test]
    async fn no_answer_is_told_apart_from_a_bad_one() {
        let failed = commands().run(None, "false", &[], b"").await.unwrap();
        assert!(!failed.status.success() && failed.complaint().contains("exit status: 1"));
        let missing = commands().run(None, "no-such-command", &[], b"").await.unwrap_err();
        assert!(matches!(missing.of_submission(), BatchError::Unavailable(_)));
        let time = Duration::from_millis(50);
        let late = commands().execute(None, "sleep", &words(&["1000"]), b"", time).await.unwrap_err();
        assert!(late.to_string().starts_with("sleep gave no answer"), "{late}");
        assert!(matches!(late.of_submission(), BatchError::Unknown(_)));
        let long = commands().run(None, "yes", &[], b"").await.unwrap_err();
        assert!(matches!(long, CommandError::TooLong { .. }), "{long}");
    }

    #[tokio::test]
    async fn an_entry_of_an_account_is_found_by_name_and_number() {
        let root = Some(Entry { uid: 0, gid: 0, home: "/root".into() });
        for (key, entry) in [("root", &root), ("0", &root), ("no-such-account", &None)] {
            assert_eq!(commands().account_entry(key).await, *entry, "{key}");
        }
        assert_eq!(Entry::parse("a:x:1:2:A, B::/bin/sh").map(|entry| entry.home).as_deref(), Some(""));
        assert_eq!(Entry::parse("a:x:1:2"), None);
    }

    #[tokio::test]
    async fn a_time_is_written_or_refused() {
        let now = commands().local_time(0).await.unwrap();
        assert!(now.len() == 15 && now.as_bytes()[12] == b'.', "{now}");
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/bin/false", dir.path().join("date")).unwrap();
        let failing = Commands { directory: dir.path().to_owned(), ..commands() };
        assert!(matches!(failing.local_time(0).await, Err(BatchError::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_batch_systems_own_directory_comes_before_the_systems() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("date");
        std::fs::write(&own, "#!/bin/sh\necho own\n").unwrap();
        std::fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let commands = Commands::of_nobody_else(dir.path());
        assert_eq!(commands.run(None, "date", &[], b"").await.unwrap().out, "own\n");
        assert_eq!(commands.run(None, "echo", &words(&["x"]), b"").await.unwrap().out, "x\n");
    }

    #[test]
    fn root_becomes_the_account_before_anything_is_executed() {
        let root = Commands { is_root: true, ..commands() };
        let account = Account { name: "alice".parse().unwrap(), uid: 1001, gid: 1002 };
        let command = root.command(Some(&account), "/usr/bin/sbatch", &words(&["--parsable"]));
        let command = command.as_std();
        let arguments: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        assert_eq!(command.get_program(), "setpriv");
        let expected =
            "--reuid=1001 --regid=1002 --init-groups --inh-caps=-all -- /usr/bin/sbatch --parsable";
        assert_eq!(arguments.join(" "), expected);
        assert_eq!(root.command(None, "/usr/bin/squeue", &[]).as_std().get_program(), "/usr/bin/squeue");
    }
}
