//! The files that go with a batch job whose system can hand no secret over: its invocations on the way
//! to the nodes, and the words of its Launchers on the way back.
//!
//! They stand in a directory of the account's own that head and nodes share. Everything is done as
//! the account: what it finds in its own directory cannot lead anybody else astray.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::BatchError;
use super::commands::Commands;
use crate::site::Account;

/// Of the account's own, shared by head and nodes.
const DEFAULT_DIRECTORY: &str = "{home}/.gridpilot";
/// Of what Launchers said, the end.
const WORDS_BYTES: &str = "2048";
/// How long the end of a pilot waits for them.
const WORDS_TIME: Duration = Duration::from_secs(10);

/// The files of one batch job.
#[derive(Clone, Debug)]
pub struct Files {
    directory: PathBuf,
    pub invocations: PathBuf,
    pub words: PathBuf,
}

impl Files {
    /// `directory` is the site's pattern, `name` that of the batch job.
    ///
    /// # Errors
    /// The account has no home, and the pattern wants it.
    pub async fn new(
        directory: Option<&str>,
        name: &str,
        account: &Account,
        commands: &Commands,
    ) -> Result<Self, BatchError> {
        let mut directory = directory.unwrap_or(DEFAULT_DIRECTORY).replace("{user}", account.name.as_str());
        if directory.contains("{home}") {
            let entry = commands.account_entry(&account.uid.to_string()).await;
            let none = || BatchError::refused(format!("account {} has no home here", account.name));
            let home = entry.map(|entry| entry.home).filter(|home| home.starts_with('/')).ok_or_else(none)?;
            directory = directory.replace("{home}", &home);
        }
        let directory = PathBuf::from(directory);
        Ok(Self {
            invocations: directory.join(format!("{name}.invocations")),
            words: directory.join(format!("{name}.words")),
            directory,
        })
    }

    /// Writes the secrets, for the account alone. What stands there is replaced.
    pub async fn write(
        &self,
        commands: &Commands,
        account: &Account,
        secrets: &str,
    ) -> Result<(), BatchError> {
        let file = shown(&self.invocations);
        let make = ["-d".to_owned(), "-m".to_owned(), "700".to_owned(), shown(&self.directory)];
        // Nobody else may read it before anything is in it. Its standard input is not the account's
        // to open by a name.
        let put = ["-m".to_owned(), "600".to_owned(), "/dev/null".to_owned(), file.clone()];
        let fill = [format!("of={file}"), "conv=notrunc".to_owned(), "status=none".to_owned()];
        let steps: [(&str, &[String], &str); 3] =
            [("install", &make, ""), ("install", &put, ""), ("dd", &fill, secrets)];
        for (program, words, input) in steps {
            let answer = commands.run(Some(account), program, words, input.as_bytes()).await;
            let answer = answer.map_err(|error| error.of_question())?;
            if !answer.status.success() {
                let what = format!("its invocations cannot be left with account {}", account.name);
                return Err(BatchError::refused(format!("{what}: {}", answer.complaint())));
            }
        }
        Ok(())
    }

    /// The last line of what a job's Launchers said, else of what those said who could not start one;
    /// then its files go.
    pub async fn take_words(&self, commands: &Commands, account: &Account) -> Option<String> {
        let words = ["-c".to_owned(), WORDS_BYTES.to_owned(), shown(&self.words)];
        let said = commands.run(Some(account), "tail", &words, b"").await;
        self.remove(commands, account).await;
        let said = said.ok().filter(|answer| answer.status.success())?.out;
        let lines = said.lines().rev().map(str::trim).filter(|line| !line.is_empty() && !is_log(line));
        let lines: Vec<&str> = lines.collect();
        let of_launcher = lines.iter().find_map(|line| line.strip_prefix("gridpilot launcher: "));
        of_launcher.or(lines.first().copied()).map(str::to_owned)
    }

    /// Repeatable. What cannot be removed stays: it holds nothing that is of use any more.
    pub async fn remove(&self, commands: &Commands, account: &Account) {
        let files = ["-f".to_owned(), shown(&self.invocations), shown(&self.words)];
        let directory = ["--ignore-fail-on-non-empty".to_owned(), shown(&self.directory)];
        for (program, words) in [("rm", &files[..]), ("rmdir", &directory)] {
            if let Err(error) = commands.run(Some(account), program, words, b"").await {
                tracing::warn!("files of account {} stay: {error}", account.name);
            }
        }
    }
}

/// [`Files::take_words`] of files that may stand on a server that does not answer: then there are
/// none after a while, and the files stay.
pub async fn last_words(
    files: impl Future<Output = Result<Files, BatchError>>,
    commands: &Commands,
    account: &Account,
) -> Option<String> {
    let taken = async { files.await.ok()?.take_words(commands, account).await };
    tokio::time::timeout(WORDS_TIME, taken).await.ok()?
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The node manager's notes for the system log, which come here when there is none.
fn is_log(line: &str) -> bool {
    line.starts_with("gridpilot node-manager[")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn own_account() -> Account {
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        Account { name: "tester".parse().unwrap(), uid, gid }
    }

    fn commands() -> Commands {
        Commands::new(Path::new("/usr/bin"), Vec::new())
    }

    async fn files(dir: &tempfile::TempDir) -> Files {
        let pattern = dir.path().join("of-{user}").display().to_string();
        Files::new(Some(&pattern), "gridpilot-a-r1.1", &own_account(), &commands()).await.unwrap()
    }

    #[tokio::test]
    async fn without_a_pattern_files_stand_below_the_accounts_home() {
        let root = Account { name: "root".parse().unwrap(), uid: 0, gid: 0 };
        let files = Files::new(None, "gridpilot-a-r1.1", &root, &commands()).await.unwrap();
        assert_eq!(files.words, Path::new("/root/.gridpilot/gridpilot-a-r1.1.words"));
        let nobody = Account { name: "none".parse().unwrap(), uid: 4_000_000_000, gid: 1 };
        let error = Files::new(None, "gridpilot-a-r1.1", &nobody, &commands()).await.unwrap_err();
        assert_eq!(error, BatchError::refused("account none has no home here"));
    }

    #[tokio::test]
    async fn secrets_are_the_accounts_alone_and_nothing_of_a_job_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (files, account) = (files(&dir).await, own_account());
        let commands = commands();
        files.write(&commands, &account, "older and longer").await.unwrap();
        files.write(&commands, &account, "secret\n").await.unwrap();
        assert_eq!(fs::read_to_string(&files.invocations).unwrap(), "secret\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&files.invocations), mode(&files.directory)), (0o600, 0o700));
        for (said, words) in [
            ("gridpilot launcher: started\ngridpilot launcher: ended\nqrsh_starter: gone\n\n", Some("ended")),
            ("qrsh: no such host\n\n", Some("qrsh: no such host")),
            ("gridpilot node-manager[7]: built\n", None),
        ] {
            files.write(&commands, &account, "secret\n").await.unwrap();
            fs::write(&files.words, said).unwrap();
            assert_eq!(files.take_words(&commands, &account).await.as_deref(), words);
            assert!(!files.directory.exists());
        }
        assert_eq!(files.take_words(&commands, &account).await, None);
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_made_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("of-tester"), "").unwrap();
        let commands = commands();
        let error = files(&dir).await.write(&commands, &own_account(), "secret").await.unwrap_err();
        assert!(matches!(&error, BatchError::Refused(why) if why.as_str().contains("tester")), "{error}");
    }
}
