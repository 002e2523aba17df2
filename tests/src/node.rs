//! A machine of the world: a process that holds its own network, UTS and mount namespace and
//! does nothing else. No namespace has a name in the file system: it lives as long as its
//! holder, so that nothing can be forgotten under `/run/netns`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::process::Identity;

/// Where the node manager looks for its policy.
pub const POLICY_DIRECTORY: &str = "/etc/gridpilot";

/// What a machine is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Role {
    Core,
    Grc,
    Router,
    Head,
    Node,
}

/// A machine that stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub name: String,
    pub role: Role,
    pub site: Option<u32>,
    pub holder: Identity,
}

impl Machine {
    /// Command words that lead into this machine, as root.
    pub fn enter(&self) -> Vec<String> {
        let mut words = vec!["nsenter".to_owned(), format!("--target={}", self.holder.pid)];
        words.extend(["--net", "--uts", "--mount", "--"].map(String::from));
        words
    }
}

/// How a machine shall be made; the words of `local-grid hold`.
#[derive(Clone, Debug, clap::Args)]
pub struct Hold {
    /// Host name.
    #[arg(long)]
    pub name: String,
    /// Pass packets on: a router.
    #[arg(long)]
    pub forward: bool,
    /// Answer for addresses behind this machine: a node with routed sandboxes.
    #[arg(long)]
    pub proxy: bool,
    /// Directory that stands at the place of the node policy in this machine.
    #[arg(long)]
    pub etc: Option<PathBuf>,
}

/// The body of `local-grid hold`: makes the machine, says `ready`, then waits for its end.
pub fn hold(args: &Hold) -> Result<()> {
    let new = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNS;
    unshare(new).context("cannot make namespaces")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot cut the mount tree off")?;
    nix::unistd::sethostname(&args.name).context("cannot set the host name")?;
    // Before the first link: afterwards it would already have sent router solicitations.
    for scope in ["all", "default"] {
        // A kernel without IPv6 has none to switch off.
        let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
        if Path::new(&path).exists() {
            write_sysctl(&path, "1")?;
        }
    }
    if args.forward || args.proxy {
        write_sysctl("/proc/sys/net/ipv4/ip_forward", "1")?;
    }
    if args.proxy {
        write_sysctl("/proc/sys/net/ipv4/conf/all/proxy_arp", "1")?;
    }
    if let Some(etc) = &args.etc {
        mount(Some(etc), POLICY_DIRECTORY, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("cannot bind {} to {POLICY_DIRECTORY}", etc.display()))?;
    }
    println!("ready");
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}

fn write_sysctl(path: &str, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("cannot write {path}"))
}

/// A holder that was started and has not yet said `ready`.
#[derive(Debug)]
pub struct Started {
    pub machine: Machine,
    pub child: Child,
}

/// Starts a holder; several may be started before the first is waited for.
pub fn start(
    program: &Path,
    hold: &Hold,
    role: Role,
    site: Option<u32>,
    marker: (&str, &str),
    log: &Path,
) -> Result<Started> {
    let log = fs::File::options().create(true).append(true).open(log)?;
    let mut command = Command::new("setsid");
    command.arg(program).args(["hold", "--name", &hold.name]);
    if hold.forward {
        command.arg("--forward");
    }
    if hold.proxy {
        command.arg("--proxy");
    }
    if let Some(etc) = &hold.etc {
        command.arg("--etc").arg(etc);
    }
    let child = command
        .env(marker.0, marker.1)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let pid = i32::try_from(child.id())?;
    let holder = Identity::of(pid).context("the holder is gone at once")?;
    Ok(Started { machine: Machine { name: hold.name.clone(), role, site, holder }, child })
}

impl Started {
    /// Waits until the machine stands.
    pub fn wait(&mut self) -> Result<()> {
        let name = &self.machine.name;
        let out = self.child.stdout.take().context("waited for twice")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        ensure!(line == "ready\n", "machine {name} did not come up; see the log directory");
        if Identity::of(self.machine.holder.pid) != Some(self.machine.holder) {
            bail!("machine {name} is gone again");
        }
        Ok(())
    }
}
