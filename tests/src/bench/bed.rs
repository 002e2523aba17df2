//! Where sandboxes are measured: a node of their own, in a network namespace made here, and a
//! home for their user. Sandboxes are built through the node manager's own library, as its
//! monitor does; the measuring process has one thread, as the monitor has.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use grant::Driver;
use nix::sched::{CloneFlags, unshare};
use node_manager::account::Account;
use node_manager::channel;
use node_manager::init::record::{self, ExitStatus, Notice, Request};
use node_manager::net::link::Link;
use node_manager::sandbox::{self, Plan, Sandbox, cgroup::Limit};

/// Nobody's: the sandboxes' user needs no account on the machine.
const UID: u32 = 63_777;
/// The user's name inside.
const USER: &str = "grid";
/// The node's interface.
pub const NODE_LINK: &str = "node0";
/// Prefix of every network made here: 10.70.0.0/16.
pub const PREFIX_LEN: u8 = 16;

/// The directory and the home in it; removed when dropped by the process that made it.
pub struct Bed {
    directory: PathBuf,
    made: bool,
}

impl Bed {
    pub fn make() -> Result<Bed> {
        ensure!(nix::unistd::geteuid().is_root(), "this makes namespaces: run it as root");
        let directory = PathBuf::from(format!("/var/lib/gridpilot-bench-{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let bed = Bed { directory, made: true };
        fs::set_permissions(&bed.directory, fs::Permissions::from_mode(0o755))?;
        fs::create_dir(bed.home())?;
        chown(bed.home(), Some(UID), Some(UID))?;
        Ok(bed)
    }

    /// The bed that another process made.
    pub fn at(directory: &Path) -> Bed {
        Bed { directory: directory.to_owned(), made: false }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn home(&self) -> PathBuf {
        self.directory.join("home")
    }

    /// Copies this very program to the home, where it can be started inside.
    pub fn carry_program(&self) -> Result<()> {
        fs::copy(std::env::current_exe()?, self.home().join("bench"))?;
        Ok(())
    }

    /// A sandbox with this address on the node of the calling process.
    pub fn plan(&self, driver: Driver, address: Ipv4Addr) -> Result<Plan> {
        let [.., third, fourth] = address.octets();
        let tag = format!("bench-{third}-{fourth}-0-{}", std::process::id());
        Ok(Plan {
            host_name: format!("a-{}", u32::from(third) * 256 + u32::from(fourth)),
            user: grant::UserName::new(USER).map_err(|error| anyhow::anyhow!("{error:?}"))?,
            account: Account {
                name: USER.into(),
                uid: UID,
                gid: UID,
                groups: vec![UID],
                home: self.home(),
                shell: "/bin/sh".into(),
            },
            shares: vec![],
            link: Link {
                driver,
                parent: nix::net::if_::if_nametoindex(NODE_LINK)?,
                outside_name: format!("gp{third}-{fourth}"),
                address,
                prefix_len: PREFIX_LEN,
                gateway: None,
                mtu: 1500,
                closed: false,
            },
            limits: ["memory", "pids", "cpu"].map(|controller| Limit {
                controller,
                value: 0,
                required: false,
            }),
            callers_limits: vec![],
            tag,
            upper_bytes: 1 << 30,
            upper_inodes: 100_000,
        })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Moves the process into a network namespace of its own, which ends with it.
pub fn own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace (needs root)")
}

/// Runs lines of `ip -batch` in the namespace of the calling process.
pub fn ip(lines: &[String]) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip (package iproute2)")?;
    child.stdin.take().context("no stdin")?.write_all((lines.join("\n") + "\n").as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(())
}

/// Writes a switch of the calling process's network namespace.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    if path.exists() {
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A sandbox and the agent's end of its init's socket.
pub struct Built {
    pub sandbox: Sandbox,
    pub init: OwnedFd,
}

impl Built {
    pub fn build(plan: &Plan) -> Result<Built> {
        let mut sandbox = sandbox::start(plan).map_err(|failure| anyhow::anyhow!("{failure}"))?;
        let init = sandbox.outcome().map_err(|failure| anyhow::anyhow!("{failure}"))?;
        Ok(Built { sandbox, init })
    }

    /// Process id of its init on the node.
    pub fn pid(&self) -> Result<i32> {
        let fd = self.sandbox.pidfd().as_raw_fd();
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pid:")).context("no pid in fdinfo")?;
        Ok(line.trim().parse()?)
    }

    /// Starts a command inside as the user and waits for its end, which must be a good one.
    pub fn run(&self, id: u64, argv: &[&str], stdout: impl AsFd) -> Result<()> {
        self.start(id, argv, stdout)?;
        self.finish(id)
    }

    /// Starts a command inside; returns when the program was executed.
    pub fn start(&self, id: u64, argv: &[&str], stdout: impl AsFd) -> Result<()> {
        let command = record::Command {
            cwd: vec![b"/".to_vec()],
            argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
            env: vec![b"PATH=/usr/bin:/bin".to_vec()],
        };
        let blob = memory_file(&command.encode())?;
        let fds = [blob.as_fd(), stdout.as_fd(), stdout.as_fd()];
        channel::send(&self.init, &Request::Spawn { id }.encode(), &fds)?;
        match self.next()? {
            Notice::Spawned { .. } => Ok(()),
            other => bail!("{argv:?} was answered {other:?}"),
        }
    }

    /// Waits for the good end of a command.
    pub fn finish(&self, id: u64) -> Result<()> {
        match self.next()? {
            Notice::Exited { id: ended, status: ExitStatus::Code(0), .. } if ended == id => Ok(()),
            other => bail!("command {id} ended as {other:?}"),
        }
    }

    pub fn next(&self) -> Result<Notice> {
        let datagram = channel::receive(&self.init, record::RECORD_BYTES_MAX)?.context("init is gone")?;
        Notice::decode(&datagram.bytes).map_err(|error| anyhow::anyhow!("{error:?}"))
    }

    pub fn tear_down(self) -> Result<()> {
        self.sandbox.tear_down().0.map_err(anyhow::Error::msg)
    }
}

/// Content in a descriptor, as init wants it.
pub fn memory_file(content: &[u8]) -> Result<fs::File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = fs::File::from(rustix::fs::memfd_create("content", flags)?);
    file.write_all(content)?;
    Ok(file)
}
