//! RUN: sshd inside the sandbox, started and then proven from inside: the barrier is worth
//! nothing unless an ssh client gets the expected host key on port 22 of the member's address.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use node_manager::init::record::{Command, FileId, SpawnStage};
use protocol::keys::PublicKey;
use protocol::refusal::{Failure, Step};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout_at};

use crate::command::output_pipe;
use crate::init::{Init, InitError};
use crate::keys::Keys;
use crate::render;

/// By when sshd must answer; below the CRM's own patience, so that the better reason is told.
const RUN_TIME: Duration = Duration::from_secs(25);
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// More than `ssh-keyscan` ever prints for one key.
const SCAN_BYTES_MAX: u64 = 16 * 1024;
/// Commands of our own are numbered from here; jobs of users never get so far.
pub const OWN_COMMANDS: u64 = 1 << 63;

/// What the services of one sandbox follow from.
#[derive(Clone, Copy, Debug)]
pub struct Services<'a> {
    pub keys: &'a Keys,
    pub address: Ipv4Addr,
    /// Content of the sshd's configuration.
    pub sshd_config: &'a str,
}

impl Services<'_> {
    /// Starts them and waits until sshd answers with this sandbox's own key. Repeatable.
    /// `first_id` and the numbers above it must not have been used for a command.
    pub async fn start(&self, init: &Init, first_id: u64) -> Result<(), Failure> {
        let failed = |what: &str, error: InitError| {
            let hint = "the sandbox's writable part may be full, or port 22 taken inside";
            Failure::new(Step::Run, format!("cannot {what}: {error}"), hint)
        };
        init.put(FileId::HostKey, self.keys.host.private())
            .await
            .map_err(|e| failed("write the host key", e))?;
        init.put(FileId::SshdConfig, self.sshd_config.as_bytes())
            .await
            .map_err(|e| failed("write sshd's configuration", e))?;
        init.listen().await.map_err(|e| failed("listen for ssh", e))?;
        self.prove(init, first_id).await
    }

    async fn prove(&self, init: &Init, first_id: u64) -> Result<(), Failure> {
        let deadline = Instant::now() + RUN_TIME;
        let mut reason = "no answer".to_owned();
        for id in first_id.. {
            let Ok(scanned) = timeout_at(deadline, scan(init, id, self.address)).await else { break };
            match scanned {
                Ok(Scan { stdout, stderr }) => match verdict(&stdout, self.keys.host.public()) {
                    Verdict::Expected => return Ok(()),
                    Verdict::Foreign => {
                        return Err(Failure::new(
                            Step::Run,
                            format!("{} answers ssh with a foreign host key", self.address),
                            "another machine uses this address: compare the site's ranges with its network",
                        ));
                    }
                    Verdict::Silent => {
                        reason = last_line(&stderr).unwrap_or(reason);
                    }
                },
                Err(InitError::Spawn { stage: SpawnStage::Exec, .. }) => {
                    return Err(Failure::new(
                        Step::Run,
                        "ssh-keyscan is not there inside the sandbox",
                        "install the ssh client and server on the node (openssh-client, openssh-server)",
                    ));
                }
                Err(error @ (InitError::Gone | InitError::Silent)) => {
                    return Err(Failure::new(Step::Run, error.to_string(), ""));
                }
                Err(error) => reason = error.to_string(),
            }
            if Instant::now() + RETRY_INTERVAL >= deadline {
                break;
            }
            sleep(RETRY_INTERVAL).await;
        }
        Err(Failure::new(
            Step::Run,
            format!("sshd did not answer within {} s: {reason}", RUN_TIME.as_secs()),
            "is /usr/sbin/sshd installed on the node?",
        ))
    }
}

#[derive(Debug)]
struct Scan {
    stdout: String,
    stderr: String,
}

/// Asks for the host key as any ssh client would, from inside: a macvlan cannot be reached from
/// its own node.
async fn scan(init: &Init, id: u64, address: Ipv4Addr) -> Result<Scan, InitError> {
    let address = address.to_string();
    let argv = ["ssh-keyscan", "-T", "5", "-t", "ed25519", &address];
    let command = Command {
        cwd: vec![b"/".to_vec()],
        argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/usr/local/bin:/usr/bin:/bin".to_vec(), b"LANG=C".to_vec()],
    };
    let (mut stdout, stdout_end) = output_pipe().map_err(InitError::System)?;
    let (mut stderr, stderr_end) = output_pipe().map_err(InitError::System)?;
    let exited = init.spawn(id, &command, stdout_end, stderr_end).await?;
    let (out, err) = tokio::join!(all(&mut stdout), all(&mut stderr));
    let scan = Scan { stdout: out.map_err(InitError::System)?, stderr: err.map_err(InitError::System)? };
    match exited.await {
        Ok(_) => Ok(scan),
        Err(_) => Err(InitError::Gone),
    }
}

async fn all(pipe: &mut (impl AsyncReadExt + Unpin)) -> io::Result<String> {
    let mut bytes = Vec::new();
    pipe.take(SCAN_BYTES_MAX).read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[derive(Debug, Eq, PartialEq)]
enum Verdict {
    Expected,
    Foreign,
    Silent,
}

/// What a scan says: lines of `address algorithm base64`.
fn verdict(stdout: &str, expected: PublicKey) -> Verdict {
    let expected = render::ssh::public_key(expected);
    let keys: Vec<&str> = stdout
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .map(|(_, key)| key.trim_end())
        .collect();
    match keys.as_slice() {
        [] => Verdict::Silent,
        keys if keys.iter().all(|key| *key == expected) => Verdict::Expected,
        _ => Verdict::Foreign,
    }
}

fn last_line(text: &str) -> Option<String> {
    text.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_key_is_an_answer() {
        let key = PublicKey([5; 32]);
        let own = format!("10.71.128.1 {}\n", render::ssh::public_key(key));
        let other = format!("10.71.128.1 {}\n", render::ssh::public_key(PublicKey([6; 32])));
        assert_eq!(verdict(&own, key), Verdict::Expected);
        assert_eq!(verdict(&other, key), Verdict::Foreign);
        assert_eq!(verdict(&format!("{own}{other}"), key), Verdict::Foreign);
        assert_eq!(verdict("", key), Verdict::Silent);
        assert_eq!(verdict("# 10.71.128.1:22 SSH-2.0-OpenSSH\n", key), Verdict::Silent);
    }
}
