//! A whole grid: up, and down without a trace.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::account::{Account, MADE_NAME};
use crate::netns::{self, site_name};
use crate::node::{self, Hold, Machine, Role};
use crate::process::{self, Identity, end_all, run, spawn_daemon, wait_until};
use crate::state::{Daemon, Driver, MARKER, Plan, State};
use crate::tight::Tight;
use crate::{batch, install, links, shared, site};

/// By when every site must be connected.
pub const CONNECT_TIME: Duration = Duration::from_secs(20);
/// How long a daemon may take to end on SIGTERM. A CRM first ends its pilots.
const END_TIME: Duration = Duration::from_secs(20);
/// How long pilots may outlive their CRM.
const PILOTS_GONE_TIME: Duration = Duration::from_secs(15);
/// How long helpers of a daemon may outlive it.
const STRANGERS_GONE_TIME: Duration = Duration::from_secs(5);
/// Programs of the system that the world is made with, and the packages that hold them.
const TOOLS: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
    ("useradd", "passwd"),
    ("ssh-keygen", "openssh-client"),
];

/// A grid that stands, or is being made.
#[derive(Debug)]
pub struct Grid {
    pub state: State,
    /// Processes started by this very process: it must wait for them, else they stay zombies.
    children: Vec<Child>,
}

impl Grid {
    /// Makes a grid and waits until all its sites are connected. `programs` is the directory with
    /// the built programs; `say` is told each step. When it fails, what was made is taken down
    /// again and the error holds the last lines of the logs.
    pub fn up(plan: Plan, programs: &Path, say: &mut dyn FnMut(&str)) -> Result<Self> {
        Self::up_for(MADE_NAME, plan, programs, say)
    }

    /// The same with jobs of another account, which is made and removed if it is not there.
    pub fn up_for(account: &str, plan: Plan, programs: &Path, say: &mut dyn FnMut(&str)) -> Result<Self> {
        Self::begin(plan, |grid| {
            grid.make_world(account, programs, say)?;
            grid.make_daemons(say)
        })
    }

    /// Only the machines and their cables, with the programs installed and none running.
    pub fn machines(plan: Plan, programs: &Path) -> Result<Self> {
        Self::begin(plan, |grid| grid.make_world(MADE_NAME, programs, &mut |_| ()))
    }

    fn begin(plan: Plan, make: impl FnOnce(&mut Self) -> Result<()>) -> Result<Self> {
        check_machine()?;
        plan.check()?;
        install::check_parents(&plan.directory)?;
        let missing = plan.batch.missing(plan.sites);
        ensure!(missing.is_empty(), "--batch {} needs {}", plan.batch, missing.join(" and "));
        let shown = plan.directory.display().to_string();
        let taken = plan.directory.exists() && fs::read_dir(&plan.directory)?.next().is_some();
        ensure!(
            !taken,
            "{shown} is not empty: a grid may stand there; take it down with local-grid down --dir {shown}"
        );
        fs::create_dir_all(&plan.directory).with_context(|| format!("cannot make {shown}"))?;
        let mut grid = Self { state: State::new(plan), children: Vec::new() };
        match make(&mut grid) {
            Ok(()) => Ok(grid),
            Err(error) => {
                let logs = grid.log_tails();
                let undone = grid.down(&mut |_| ());
                let undone = undone.err().map_or(String::new(), |e| format!("\nand taking it down: {e:#}"));
                Err(error.context(format!("the grid did not come up{undone}{logs}")))
            }
        }
    }

    /// The grid that another process made in `directory`.
    pub fn load(directory: &Path) -> Result<Self> {
        Ok(Self { state: State::load(directory)?, children: Vec::new() })
    }

    fn make_world(&mut self, account: &str, programs: &Path, say: &mut dyn FnMut(&str)) -> Result<()> {
        self.state.save()?;
        let directory = self.state.plan.directory.clone();
        for name in ["", "etc", "log", "run", "state"] {
            let made = directory.join(name);
            fs::create_dir_all(&made)?;
            fs::set_permissions(&made, fs::Permissions::from_mode(0o755))?;
        }
        if let Some(kib) = self.state.plan.state_kib {
            Tight::mount(&directory.join("state"), kib)?;
        }
        install::install(programs, &directory)?;
        self.state.account = Some(shared::enter(&directory, account)?);
        self.state.save()?;
        let Plan { sites, nodes, .. } = self.state.plan;
        say(&format!("machines: {sites} sites, each a router, a head and {nodes} nodes"));
        self.make_machines(programs)?;
        self.wire()
    }

    fn make_daemons(&mut self, say: &mut dyn FnMut(&str)) -> Result<()> {
        let account = self.account()?.clone();
        let sites = self.state.plan.sites;
        site::write_configs(&self.state, &account)?;
        say("daemons: grc, and a crm at each site");
        self.start_grc()?;
        for number in 0..sites {
            let system = self.state.plan.batch.of(number);
            if let Some(queue) = batch::queue(system) {
                let limit = batch::READY_TIME.as_secs();
                say(&format!("{} of site {}, for up to {limit} s", system.name(), site_name(number)));
                queue.start(self, number)?;
                if self.state.plan.batch.counted {
                    batch::counted::make(&self.state, number)?;
                }
            }
        }
        for number in 0..sites {
            self.join_site(number)?;
            self.start_crm(number)?;
        }
        let limit = CONNECT_TIME.as_secs();
        say(&format!("waiting up to {limit} s for all sites to connect"));
        self.wait_connected()?;
        self.state.complete = true;
        self.state.save()
    }

    /// The account whose jobs run here.
    pub fn account(&self) -> Result<&Account> {
        self.state.account.as_ref().context("this grid never came so far as to have an account")
    }

    fn make_machines(&mut self, programs: &Path) -> Result<()> {
        let program = programs.join("local-grid");
        let Plan { sites, nodes, driver, .. } = self.state.plan;
        let plain = |name: String| Hold { name, forward: false, proxy: false, etc: None };
        let mut wanted =
            vec![(Role::Core, None, plain("core".into())), (Role::Grc, None, plain("grc".into()))];
        for number in 0..sites {
            let name = site_name(number);
            let router = Hold { forward: true, ..plain(format!("router-{name}")) };
            wanted.push((Role::Router, Some(number), router));
            wanted.push((Role::Head, Some(number), plain(format!("{name}0"))));
            for node in 1..=nodes {
                let hold = plain(format!("{name}{node}"));
                let etc = self.state.path(&format!("etc/{}", hold.name));
                fs::create_dir_all(&etc)?;
                fs::set_permissions(&etc, fs::Permissions::from_mode(0o755))?;
                let hold = Hold { proxy: driver == Driver::Veth, etc: Some(etc), ..hold };
                wanted.push((Role::Node, Some(number), hold));
            }
        }
        let marker = self.state.plan.directory.display().to_string();
        let mut started = Vec::new();
        for (role, of_site, hold) in wanted {
            let log = self.state.path(&format!("log/machine-{}.log", hold.name));
            let one = node::start(&program, &hold, role, of_site, (MARKER, &marker), &log)?;
            self.state.machines.push(one.machine.clone());
            self.state.save()?;
            started.push(one);
        }
        // All together: each holder has its own work to do.
        let results: Vec<_> = started.iter_mut().map(node::Started::wait).collect();
        self.children.extend(started.into_iter().map(|one| one.child));
        results.into_iter().collect()
    }

    fn wire(&self) -> Result<()> {
        let pid = |name: &str| self.state.machine(name).map(|machine| machine.holder.pid);
        let sites = self.state.plan.sites;
        let routers: Vec<i32> =
            (0..sites).map(|number| pid(&format!("router-{}", site_name(number)))).collect::<Result<_>>()?;
        let core = pid("core")?;
        let mut wirings = netns::core(core, pid("grc")?, &routers);
        let mut nodes = Vec::new();
        for number in 0..sites {
            let machines: Vec<i32> = (0..=self.state.plan.nodes)
                .map(|node| pid(&format!("{}{node}", site_name(number))))
                .collect::<Result<_>>()?;
            let router = routers[number as usize];
            nodes.extend_from_slice(&machines[1..]);
            wirings.extend(netns::site(number, router, &machines));
            wirings.push(netns::uplink(number, router, sites));
        }
        wirings.extend(links::wirings(&self.state.plan.links, core, &routers, &nodes));
        wirings.iter().try_for_each(netns::Wiring::apply)?;
        if self.state.plan.driver == Driver::Veth {
            for node in self.state.nodes() {
                // Else every answer for a sandbox waits for up to 0.8 s, at random.
                let path = "/proc/sys/net/ipv4/neigh/eth0/proxy_delay";
                netns::inside(node.holder.pid, || fs::write(path, "0"))?
                    .with_context(|| format!("cannot write {path}"))?;
            }
        }
        Ok(())
    }

    /// Starts a program of the grid in a machine and notes it down.
    pub fn start_daemon(&mut self, name: &str, machine: &str, words: &[String]) -> Result<Identity> {
        let mut command = self.state.machine(machine)?.enter();
        command.extend_from_slice(words);
        let marker = self.state.plan.directory.display().to_string();
        let log = self.state.path(&format!("log/{name}.log"));
        let child = spawn_daemon(&command, (MARKER, &marker), &log)?;
        let identity = Identity::of(i32::try_from(child.id())?).context("it is gone at once")?;
        self.children.push(child);
        self.state.daemons.retain(|daemon| daemon.name != name);
        self.state.daemons.push(Daemon { name: name.to_owned(), identity });
        self.state.save()?;
        Ok(identity)
    }

    fn words(&self, program: &str, rest: &[&str], config: &Path) -> Vec<String> {
        let mut words = vec![self.state.path(&format!("lib/{program}")).display().to_string()];
        words.extend(rest.iter().copied().map(String::from));
        words.extend(["--config".to_owned(), config.display().to_string()]);
        words
    }

    fn start_grc(&mut self) -> Result<()> {
        let config = self.state.path("etc/grc.toml");
        let init = self.words("grc", &["init"], &config);
        run(Command::new(&init[0]).args(&init[1..])).context("grc init")?;
        self.restart_grc()
    }

    /// Starts the GRC on the state that is there; for tests that ended it.
    pub fn restart_grc(&mut self) -> Result<()> {
        let words = self.words("grc", &["serve"], &self.state.path("etc/grc.toml"));
        let identity = self.start_daemon("grc", "grc", &words)?;
        let socket = self.state.socket();
        let up = wait_until(CONNECT_TIME, || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok() || !identity.alive()
        });
        ensure!(up && identity.alive(), "grc serve ended at once or does not listen on its socket");
        Ok(())
    }

    fn join_site(&mut self, number: u32) -> Result<()> {
        let name = site_name(number);
        let mut ticket = self.words("grc", &["ticket"], &self.state.path("etc/grc.toml"));
        ticket.push(name.clone());
        let ticket = run(Command::new(&ticket[0]).args(&ticket[1..])).context("grc ticket")?;
        let config = site::crm_config_path(&self.state, number);
        let mut join = self.state.machine(&format!("{name}0"))?.enter();
        join.extend(self.words("crm", &["join"], &config));
        join.extend(["--ticket".to_owned(), ticket.trim().to_owned()]);
        run(Command::new(&join[0]).args(&join[1..])).context("crm join")?;
        let policy = self.words("crm", &["policy"], &config);
        let policy = run(Command::new(&policy[0]).args(&policy[1..])).context("crm policy")?;
        for node in site::nodes_of(&self.state, number) {
            let path = self.state.path(&format!("etc/{}/node.policy", node.name));
            site::write_public(&path, &policy)?;
        }
        Ok(())
    }

    /// Starts a site's CRM; also for tests that ended it.
    pub fn start_crm(&mut self, number: u32) -> Result<Identity> {
        let name = site_name(number);
        let words = self.words("crm", &["serve"], &site::crm_config_path(&self.state, number));
        self.start_daemon(&format!("crm-{name}"), &format!("{name}0"), &words)
    }

    /// `gridpilot` as root, talking to this grid.
    pub fn gridpilot(&self) -> Command {
        let mut command = Command::new(self.state.path("bin/gridpilot"));
        command.env("GRIDPILOT_GRC", self.state.socket()).current_dir("/");
        command
    }

    /// `gridpilot` as the grid's account, in its home.
    pub fn gridpilot_as_user(&self) -> Result<Command> {
        let program = self.state.path("bin/gridpilot").display().to_string();
        let mut command = self.account()?.command(&program);
        command.env("GRIDPILOT_GRC", self.state.socket());
        Ok(command)
    }

    /// Waits until every site is connected, for at most [`CONNECT_TIME`].
    pub fn wait_connected(&self) -> Result<()> {
        let mut last = String::from("nothing was answered");
        let connected = wait_until(CONNECT_TIME, || match self.connected_sites() {
            Ok(count) => {
                last = format!("{count} of {} sites are connected", self.state.plan.sites);
                count == self.state.plan.sites as usize
            }
            Err(error) => {
                last = format!("{error:#}");
                false
            }
        });
        ensure!(connected, "not all sites connected within {} s: {last}", CONNECT_TIME.as_secs());
        Ok(())
    }

    fn connected_sites(&self) -> Result<usize> {
        let text = run(self.gridpilot().args(["--output-mode", "json", "sites"]))?;
        let sites: serde_json::Value = serde_json::from_str(&text).context("sites as JSON")?;
        let sites =
            sites.as_array().or_else(|| sites.get("sites")?.as_array()).context("no list of sites")?;
        Ok(sites.iter().filter(|site| site["connected"] == true).count())
    }

    /// Pilots, monitors, agents and sandboxes of this grid that live now; its daemons are not
    /// among them.
    pub fn pilot_processes(&self) -> Vec<process::Stat> {
        let daemons: Vec<Identity> = self.state.daemons.iter().map(|daemon| daemon.identity).collect();
        let mut found = process::executing_files_of(&self.state.path("lib"));
        found.retain(|stat| !daemons.contains(&stat.identity));
        found
    }

    /// Takes the grid away, whatever it was doing. Repeatable; returns what had to be killed.
    pub fn down(&mut self, say: &mut dyn FnMut(&str)) -> Result<Vec<String>> {
        let mut killed = Vec::new();
        let directory = self.state.plan.directory.clone();
        say("ending the CRMs, which end their pilots, and then the GRC");
        for stage in [Stage::Crm, Stage::Grc] {
            killed.extend(self.end_daemons(stage));
        }
        wait_until(PILOTS_GONE_TIME, || self.pilot_processes().is_empty());
        for left in self.pilot_processes() {
            killed.push(left.identity.describe());
            left.identity.signal(Signal::SIGKILL);
        }
        // Until here batch systems see to the end of their jobs; a step that still ends needs them.
        wait_until(PILOTS_GONE_TIME, || self.batch_processes().is_empty());
        killed.extend(self.end_daemons(Stage::Batch));
        wait_until(STRANGERS_GONE_TIME, || self.strangers(|_| true).is_empty());
        for left in self.strangers(|_| true) {
            killed.push(left.describe());
            left.signal(Signal::SIGKILL);
        }
        for site in 0..self.state.plan.sites {
            if let Some(queue) = batch::queue(self.state.plan.batch.of(site)) {
                queue.clean(&self.state, site);
            }
        }
        self.sweep();
        let holders: Vec<Identity> = self.state.machines.iter().map(|machine| machine.holder).collect();
        for holder in &holders {
            holder.signal(Signal::SIGKILL);
        }
        wait_until(Duration::from_secs(5), || !holders.iter().any(|holder| holder.alive()));
        // Whatever a crashed `up` had started and not yet written down carries the mark.
        for stray in process::marked(MARKER, &directory.display().to_string()) {
            stray.identity.signal(Signal::SIGKILL);
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
        self.children.clear();
        if self.state.plan.state_kib.is_some() {
            Tight::at(&directory.join("state")).unmount();
        }
        shared::leave(&directory)?;
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", directory.display()))
            }
            _ => Ok(killed),
        }
    }

    /// Ends the daemons of a stage all together and returns those that had to be killed.
    fn end_daemons(&self, stage: Stage) -> Vec<String> {
        let of_stage = self.state.daemons.iter().filter(|daemon| Stage::of(daemon) == stage);
        let group: Vec<Identity> = of_stage.map(|daemon| daemon.identity).collect();
        let shown: Vec<_> = group.iter().map(|one| (*one, one.describe())).collect();
        let stubborn = end_all(&group, END_TIME);
        shown.into_iter().filter(|(one, _)| stubborn.contains(one)).map(|(_, text)| text).collect()
    }

    /// Processes on the nodes that are no daemon and of no pilot: what a batch system starts for a
    /// job. Without a job there is none, but for a moment.
    pub fn batch_processes(&self) -> Vec<Identity> {
        let pilots: Vec<Identity> = self.pilot_processes().iter().map(|stat| stat.identity).collect();
        let mut found = self.strangers(|machine| machine.role == Role::Node);
        found.retain(|one| !pilots.contains(one));
        found
    }

    /// Processes in machines of ours that we did not start ourselves.
    fn strangers(&self, wanted: impl Fn(&Machine) -> bool) -> Vec<Identity> {
        let name = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/uts")).ok();
        let machines: Vec<_> = (self.state.machines.iter().filter(|machine| wanted(machine)))
            .filter_map(|machine| name(machine.holder.pid))
            .collect();
        let mut known: Vec<Identity> = self.state.daemons.iter().map(|daemon| daemon.identity).collect();
        known.extend(self.state.machines.iter().map(|machine| machine.holder));
        let alive = process::all().into_iter().filter(|stat| !stat.zombie).map(|stat| stat.identity);
        alive
            .filter(|one| !known.contains(one) && name(one.pid).is_some_and(|uts| machines.contains(&uts)))
            .collect()
    }

    /// What a node's next start would sweep, swept now: there will be no next start.
    fn sweep(&self) {
        let manager = self.state.path("lib/node-manager").display().to_string();
        for node in self.state.nodes().filter(|node| node.holder.alive()) {
            let enter = node.enter();
            let _ = run(Command::new(&enter[0]).args(&enter[1..]).args([manager.as_str(), "sweep"]));
        }
    }

    /// The last lines of every log, for an error message.
    fn log_tails(&self) -> String {
        let mut text = String::new();
        let Ok(entries) = fs::read_dir(self.state.path("log")) else { return text };
        for entry in entries.flatten() {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.trim_end().lines().collect();
            for line in &lines[lines.len().saturating_sub(5)..] {
                text.push_str(&format!("\n  {}: {line}", entry.file_name().to_string_lossy()));
            }
        }
        text
    }
}

/// In which order daemons end: a CRM ends its pilots by its batch system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Crm,
    Grc,
    Batch,
}

impl Stage {
    fn of(daemon: &Daemon) -> Self {
        match daemon.name.as_str() {
            "grc" => Self::Grc,
            name if name.starts_with("crm-") => Self::Crm,
            _ => Self::Batch,
        }
    }
}

/// Takes down whatever stands in `directory`, or is left of it. Nothing there is fine.
pub fn down(directory: &Path, say: &mut dyn FnMut(&str)) -> Result<Vec<String>> {
    check_machine()?;
    if !directory.exists() {
        say("nothing stands there");
        shared::leave(directory)?;
        return Ok(Vec::new());
    }
    if !State::file(directory).exists() {
        let mut entries = fs::read_dir(directory)?;
        ensure!(entries.next().is_none(), "{} holds no grid; it is left alone", directory.display());
        fs::remove_dir(directory)?;
        shared::leave(directory)?;
        return Ok(Vec::new());
    }
    let mut grid = Grid::load(directory)?;
    ensure!(
        grid.state.plan.directory == directory,
        "the grid in {} was made as {}; take it down by that name",
        directory.display(),
        grid.state.plan.directory.display()
    );
    grid.down(say)
}

/// Root and tools: without them nothing is begun.
pub fn check_machine() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a local grid needs root, for it makes namespaces; run it with sudo");
    }
    for (tool, package) in TOOLS {
        let found = std::env::split_paths("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .any(|directory| directory.join(tool).exists());
        ensure!(found, "{tool} is missing; install package {package}");
    }
    Ok(())
}
