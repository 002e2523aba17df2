//! The node: private mount, network and UTS namespaces with an installation as an administrator
//! would make it, a system log that is listened to, and accounts that exist nowhere else.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ed25519_compact::{KeyPair, Seed};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::left::Ground;
use super::log::Log;
use super::pilot::SOCKETS;
use crate::process::run;

/// Where everything is installed.
pub const LIB: &str = "/opt/gridpilot";
pub const POLICY: &str = "/etc/gridpilot/node.policy";
/// The tool that attack scripts drive pilots with.
pub const TOOL: &str = "/opt/tools/pilot";
/// A directory that the policy shares.
pub const SHARE: &str = "/opt/share";
/// Root only: what an attacker must not reach.
pub const SECRETS: &str = "/opt/secrets";
/// The system log's socket.
const LOG: &str = "/dev/log";

/// The site's key of these tests. Everybody here may sign: what the CRM can do is no attack.
pub fn site_key() -> KeyPair {
    KeyPair::from_seed(Seed::new([9; 32]))
}

/// Accounts of this very run: numbers that nobody else on the machine has.
#[derive(Clone, Copy, Debug)]
pub struct Accounts {
    /// Whose pilots are attacked, or who attacks with a pilot of his own.
    pub user: u32,
    /// Somebody else.
    pub other: u32,
    /// The agents'.
    pub agent: u32,
}

impl Accounts {
    /// Of the run of this process.
    pub fn of(pid: u32) -> Self {
        let first = 300_000 + 4 * pid;
        Self { user: first, other: first + 1, agent: first + 2 }
    }

    pub fn all(self) -> [u32; 3] {
        [self.user, self.other, self.agent]
    }
}

/// The node. It goes with the process: there is nothing to take down but what pilots leave.
pub struct Bed {
    pub accounts: Accounts,
    pub log: Log,
    pub ground: Ground,
}

fn none() -> Option<&'static str> {
    None
}

impl Bed {
    /// Makes the node around the calling process, which must be root and have one thread.
    /// `programs` is the directory with the built programs; `agent` is installed as the agent.
    pub fn enter(programs: &Path, agent: &Path) -> Result<Bed> {
        ensure!(nix::unistd::geteuid().is_root(), "this makes namespaces: run it as root");
        let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
        unshare(own).context("cannot make namespaces")?;
        mount(none(), "/", none(), MsFlags::MS_REC | MsFlags::MS_PRIVATE, none())?;
        nix::unistd::sethostname("a1")?;
        let accounts = Accounts::of(std::process::id());
        directories(accounts)?;
        devices()?;
        let log = Log::listen(Path::new(LOG))?;
        etc(accounts)?;
        for (name, from, mode) in [
            ("node-manager", programs.join("node-manager"), 0o4755),
            ("launcher", programs.join("launcher"), 0o755),
            ("node-agent", agent.to_owned(), 0o755),
        ] {
            install(&from, &Path::new(LIB).join(name), mode)?;
        }
        install(&std::env::current_exe()?, Path::new(TOOL), 0o755)?;
        network()?;
        policy("")?;
        let ground = Ground::now()?;
        Ok(Bed { accounts, log, ground })
    }
}

/// Writes the node policy, with more lines at its end.
pub fn policy(more: &str) -> Result<()> {
    let hex: String = site_key().pk.iter().map(|b| format!("{b:02x}")).collect();
    let text = format!(
        "site = a\ngrant_key = {hex}\ncrm_pin = {}\ninterface = node0\ndriver = macvlan\ndriver = veth\n\
         range = 10.71.128.0/17\nshare = {SHARE} rw\n{more}\n",
        "07".repeat(32)
    );
    fs::write(POLICY, text)?;
    fs::set_permissions(POLICY, fs::Permissions::from_mode(0o644)).context(POLICY)
}

fn directories(accounts: Accounts) -> Result<()> {
    mount(Some("tmpfs"), "/opt", Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?;
    for (path, mode, owner) in [
        ("/opt/upper", 0o755, 0),
        ("/opt/work", 0o755, 0),
        ("/opt/home", 0o755, 0),
        ("/opt/tools", 0o755, 0),
        (LIB, 0o755, 0),
        (SECRETS, 0o700, 0),
        (SOCKETS, 0o1777, 0),
        (SHARE, 0o755, accounts.user),
        ("/opt/home/user", 0o755, accounts.user),
        ("/opt/home/other", 0o700, accounts.other),
    ] {
        fs::create_dir(path).with_context(|| path.to_owned())?;
        chown(path, Some(owner), Some(owner))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    fs::write(format!("{SECRETS}/secret"), "of root\n")?;
    fs::set_permissions(format!("{SECRETS}/secret"), fs::Permissions::from_mode(0o600))?;
    fs::write("/opt/home/other/secret", "of somebody else\n")?;
    Ok(())
}

/// A `/dev` of this node's own, so that its log is nobody else's.
fn devices() -> Result<()> {
    let new = "/opt/dev";
    fs::create_dir(new)?;
    mount(Some("tmpfs"), new, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=0755"))?;
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let path = format!("{new}/{name}");
        mknod(path.as_str(), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    for (name, kind, options) in
        [("pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"), ("shm", "tmpfs", "mode=1777")]
    {
        let path = format!("{new}/{name}");
        fs::create_dir(&path)?;
        mount(Some(kind), path.as_str(), Some(kind), MsFlags::MS_NOSUID, Some(options))?;
    }
    for (link, to) in [("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        std::os::unix::fs::symlink(to, format!("{new}/{link}"))?;
    }
    mount(Some(new), "/dev", none(), MsFlags::MS_MOVE, none())?;
    Ok(())
}

/// The machine's `/etc` with accounts that only this node has.
fn etc(accounts: Accounts) -> Result<()> {
    let options = "lowerdir=/etc,upperdir=/opt/upper,workdir=/opt/work";
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(options))?;
    let Accounts { user, other, agent } = accounts;
    let mut lines = fs::read_to_string("/etc/passwd")?;
    lines.push_str(&format!("localname:x:{user}:{user}::/opt/home/user:/bin/bash\n"));
    lines.push_str(&format!("othername:x:{other}:{other}::/opt/home/other:/bin/bash\n"));
    lines.push_str(&format!("gridpilot:x:{agent}:{agent}::/nonexistent:/usr/sbin/nologin\n"));
    fs::write("/etc/passwd", lines)?;
    // So that groups can be told apart from none.
    let group = fs::read_to_string("/etc/group")?;
    fs::write("/etc/group", format!("{group}friends:x:{}:localname\n", agent + 1))?;
    match fs::create_dir("/etc/gridpilot") {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error).context("/etc/gridpilot"),
        _ => {
            fs::set_permissions("/etc/gridpilot", fs::Permissions::from_mode(0o755)).context("/etc/gridpilot")
        }
    }
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("{} is missing: build the workspace first", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).with_context(|| to.display().to_string())
}

fn network() -> Result<()> {
    for words in [
        &["link", "set", "lo", "up"][..],
        &["link", "add", "node0", "type", "veth", "peer", "name", "far0"],
        &["addr", "add", "10.71.0.11/16", "dev", "node0"],
        &["link", "set", "node0", "up"],
        &["link", "set", "far0", "up"],
    ] {
        run(Command::new("ip").args(words))?;
    }
    Ok(())
}

/// Every tagged cgroup directory of the machine.
pub fn tagged_cgroups() -> BTreeSet<String> {
    let words = ["/sys/fs/cgroup", "-maxdepth", "6", "-type", "d", "-name", "gridpilot-*"];
    let found = Command::new("find").args(words).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&found).lines().map(str::to_owned).collect()
}
