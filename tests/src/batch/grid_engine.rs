//! Grid Engine of one site: sge_qmaster on the head, sge_execd on each node, without a service
//! manager and without the cell that the packages make.
//!
//! Every site has a root, a cell and a spool directory of its own. What real machines do not share is
//! kept apart, too: the group ids by which an execd knows the processes of its jobs, and the
//! directory for temporary ones of jobs, which has the job's number for a name.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::unistd::User;

use super::{Job, LIMIT_S, Queue, READY_TIME, Systems, counted, directory, find, first_missing, give_names};
use crate::netns::site_name;
use crate::process::{run, wait_until};
use crate::site::nodes_of;
use crate::state::State;
use crate::world::Grid;

/// Programs, with their packages.
const PROGRAMS: [(&str, &str); 8] = [
    ("sge_qmaster", "gridengine-master"),
    ("spoolinit", "gridengine-master"),
    ("sge_execd", "gridengine-exec"),
    ("sge_shepherd", "gridengine-exec"),
    ("qsub", "gridengine-client"),
    ("qstat", "gridengine-client"),
    ("qdel", "gridengine-client"),
    ("qconf", "gridengine-client"),
];
/// Made by the packages: who owns the daemons' files.
const ADMINISTRATOR: &str = "sgeadmin";
/// What the packages have for a new cell.
const SHARE: &str = "/usr/share/gridengine";
const LIBRARY: &str = "/usr/lib/gridengine";
const QMASTER_PORT: u16 = 6444;
const EXECD_PORT: u16 = 6445;
/// Of the queue and of the parallel environment.
const QUEUE: &str = "grid.q";
const ENVIRONMENT: &str = "gridpilot";
/// From the warning to SIGKILL.
const NOTIFY_S: u32 = 4;
/// So long a node may be silent until it is unreachable.
pub const NODE_SILENT_S: u32 = 20;
/// Group ids of one node, far above those that people have.
const GROUPS: u32 = 100;
const FIRST_GROUP: u32 = 2_000_000;

/// Grid Engine, 8.1 as Debian has it.
#[derive(Debug)]
pub struct GridEngine;

impl Queue for GridEngine {
    fn missing(&self, _systems: &Systems) -> Option<String> {
        let account = || match User::from_name(ADMINISTRATOR) {
            Ok(Some(_)) => None,
            _ => Some(format!("account {ADMINISTRATOR} (package gridengine-common)")),
        };
        first_missing(&PROGRAMS).or_else(account)
    }

    fn start(&self, grid: &mut Grid, site: u32) -> Result<()> {
        let name = site_name(site);
        let root = directory(&grid.state, site);
        let head = format!("{name}0");
        let nodes: Vec<String> = nodes_of(&grid.state, site).map(|node| node.name.clone()).collect();
        make_cell(&root, &head)?;
        // Names are asked for both ways, and no machine has a name server.
        for machine in nodes.iter().chain([&head]) {
            give_names(&grid.state, site, machine)?;
        }
        let init = [&format!("{SHARE}/scripts/init_cluster"), &root.display().to_string(), "default"];
        let spool = root.join("spool/spooldb").display().to_string();
        run(self.administrator(&grid.state, site, &init)?.args([spool.as_str(), ADMINISTRATOR]))
            .context("the cell cannot be made")?;
        grid.start_daemon(&format!("qmaster-{name}"), &head, &daemon(&root, "sge_qmaster")?)?;
        let mut said = Ok(String::new());
        let up = wait_until(READY_TIME, || {
            said = self.administrator(&grid.state, site, &["qconf", "-sh"]).and_then(|mut ask| run(&mut ask));
            said.is_ok()
        });
        ensure!(up, "sge_qmaster of site {name} does not answer: {said:?}; see log/qmaster-{name}.log");
        self.configure(&grid.state, site, &root, &nodes)?;
        for node in &nodes {
            self.start_node(grid, node)?;
        }
        let mut said = String::new();
        let ready = wait_until(READY_TIME, || {
            let asked = self.command(&grid.state, site, &["qstat", "-f", "-q", QUEUE]);
            said = asked.and_then(|mut qstat| run(&mut qstat)).unwrap_or_else(|error| format!("{error:#}"));
            open(&said) == nodes.len()
        });
        let limit = READY_TIME.as_secs();
        ensure!(ready, "not all nodes of site {name} take jobs of Grid Engine after {limit} s: {said}");
        Ok(())
    }

    fn start_node(&self, grid: &mut Grid, node: &str) -> Result<()> {
        let site = grid.state.machine(node)?.site.context("not a machine of a site")?;
        let root = directory(&grid.state, site);
        grid.start_daemon(&self.node_daemon(node), node, &daemon(&root, "sge_execd")?)?;
        Ok(())
    }

    fn node_daemon(&self, node: &str) -> String {
        format!("execd-{node}")
    }

    fn crm_table(&self, state: &State, site: u32) -> String {
        format!(
            "[batch]\nsystem = \"grid-engine\"\nnodes = {}\nroot = {:?}\ncell = \"default\"\n\
             qmaster_port = {QMASTER_PORT}\nexecd_port = {EXECD_PORT}\ncommands = {:?}\n\
             queue = \"{QUEUE}\"\nparallel_environment = \"{ENVIRONMENT}\"\ninvocations = {:?}\n",
            state.plan.nodes,
            directory(state, site).display().to_string(),
            counted::commands(state, site),
            // Not in the home, which the account has in every grid on this machine.
            directory(state, site).join("shared/{user}").display().to_string(),
        )
    }

    fn command(&self, state: &State, site: u32, words: &[&str]) -> Result<Command> {
        self.on_head(state, site, &[], words)
    }

    fn jobs(&self, state: &State, site: u32) -> Result<Vec<Job>> {
        let listed = run(&mut self.command(state, site, &["qstat", "-xml", "-u", "*"])?)?;
        ensure!(listed.trim_end().ends_with("</job_info>"), "qstat: {listed}");
        let job = |entry: &str| {
            let text = |name: &str| {
                let (_, rest) = entry.split_once(&format!("<{name}>"))?;
                rest.split_once('<').map(|(text, _)| text.to_owned())
            };
            let state = text("state")?;
            let running = state.contains('r') && !state.contains('d');
            Some(Job { id: text("JB_job_number")?, name: text("JB_name")?, running })
        };
        Ok(listed.split("<job_list").skip(1).filter_map(job).collect())
    }

    fn cancel(&self, state: &State, site: u32, job: &str) -> Result<()> {
        // As root, who is no manager of the cell: a user's own command.
        run(&mut self.administrator(state, site, &["qdel", job])?).map(drop)
    }

    fn submit_limited(
        &self,
        state: &State,
        site: u32,
        submit: &mut dyn FnMut() -> Result<String>,
    ) -> Result<()> {
        let manage = |words: &[&str]| run(&mut self.administrator(state, site, words)?).map(drop);
        // The limit is fixed when a batch job is started: it must not be before it has it.
        manage(&["qmod", "-d", QUEUE])?;
        let limited = submit().and_then(|tag| {
            let mut found = None;
            wait_until(READY_TIME, || {
                let jobs = self.jobs(state, site).unwrap_or_default();
                found = jobs.into_iter().find(|job| job.name.starts_with(&tag));
                found.is_some()
            });
            let job = found.with_context(|| format!("no batch job {tag} is in the queue"))?;
            manage(&["qalter", "-l", &format!("h_rt={LIMIT_S}"), &job.id])
        });
        manage(&["qmod", "-e", QUEUE])?;
        limited
    }

    fn supervisor(&self) -> &'static str {
        "sge_shepherd"
    }
}

impl GridEngine {
    fn on_head(&self, state: &State, site: u32, front: &[&str], words: &[&str]) -> Result<Command> {
        let enter = state.machine(&format!("{}0", site_name(site)))?.enter();
        let program = match words[0] {
            path if path.starts_with('/') => PathBuf::from(path),
            name => find(name).with_context(|| format!("no program is called {name}"))?,
        };
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).args(front).arg(program).args(&words[1..]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(variables(&directory(state, site))).current_dir("/");
        Ok(command)
    }

    /// A command on the head as the cell's administrator.
    fn administrator(&self, state: &State, site: u32, words: &[&str]) -> Result<Command> {
        let group = format!("--regid={ADMINISTRATOR}");
        let user = format!("--reuid={ADMINISTRATOR}");
        self.on_head(state, site, &["setpriv", &user, &group, "--init-groups", "--"], words)
    }

    /// Tells the qmaster of hosts, queue and parallel environment.
    fn configure(&self, state: &State, site: u32, root: &Path, nodes: &[String]) -> Result<()> {
        let conf = root.join("conf");
        let ask = |words: &[&str]| run(&mut self.administrator(state, site, words)?);
        let tell = |option: &str, file: &str, text: &str| -> Result<()> {
            let path = conf.join(file);
            fs::write(&path, text)?;
            ask(&["qconf", option, &path.display().to_string()]).map(drop)
        };
        let spool = root.join("spool/execd").display().to_string();
        let global = changed(
            &ask(&["qconf", "-sconf"])?,
            &[
                ("execd_spool_dir", &spool),
                ("mailer", "/bin/true"),
                ("max_unheard", &clock(NODE_SILENT_S)),
                ("load_report_time", "00:00:05"),
                ("reporting_params", "accounting=true reporting=false flush_time=00:00:01 joblog=false"),
            ],
        );
        tell("-Mconf", "global", &global)?;
        ask(&["qconf", "-as", &format!("{}0", site_name(site))])?;
        ask(&["qconf", "-ah", &nodes.join(",")])?;
        // Who may have nodes kept for a time to come.
        let account = state.account.as_ref().context("the grid has no account yet")?;
        ask(&["qconf", "-au", &account.name, "arusers"])?;
        for node in nodes {
            let first = FIRST_GROUP + u32::try_from(state.machine(node)?.holder.pid)? * GROUPS;
            let last = first + GROUPS - 1;
            tell(
                "-Aconf",
                node,
                &format!("execd_spool_dir {spool}\ngid_range {first}-{last}\nmailer /bin/true\n"),
            )?;
        }
        tell("-Ahgrp", "hosts", &format!("group_name @nodes\nhostlist {}\n", nodes.join(" ")))?;
        let environment = format!(
            "pe_name {ENVIRONMENT}\nslots 9999\nuser_lists NONE\nxuser_lists NONE\nstart_proc_args NONE\n\
             stop_proc_args NONE\nallocation_rule 1\ncontrol_slaves TRUE\njob_is_first_task TRUE\n\
             urgency_slots min\naccounting_summary FALSE\nqsort_args NONE\n"
        );
        tell("-Ap", "environment", &environment)?;
        let temporary = root.join("tmp");
        let mut directories = temporary.display().to_string();
        for node in nodes {
            fs::create_dir_all(temporary.join(node))?;
            directories.push_str(&format!(",[{node}={}]", temporary.join(node).display()));
        }
        let queue = changed(
            &ask(&["qconf", "-sq"])?,
            &[
                ("qname", QUEUE),
                ("hostlist", "@nodes"),
                ("slots", if state.plan.batch.alone { "1" } else { "4" }),
                ("pe_list", ENVIRONMENT),
                ("tmpdir", &directories),
                ("notify", &clock(NOTIFY_S)),
                // A busy machine is no reason to let jobs wait here.
                ("load_thresholds", "NONE"),
            ],
        );
        tell("-Aq", "queue", &queue)?;
        let scheduler = changed(
            &ask(&["qconf", "-ssconf"])?,
            &[
                ("schedule_interval", "0:0:1"),
                ("flush_submit_sec", "1"),
                ("flush_finish_sec", "1"),
                ("schedd_job_info", "true"),
            ],
        );
        tell("-Msconf", "scheduler", &scheduler)
    }
}

/// What tells every command and daemon of Grid Engine which cell is meant.
fn variables(root: &Path) -> [(&'static str, String); 4] {
    [
        ("SGE_ROOT", root.display().to_string()),
        ("SGE_CELL", "default".to_owned()),
        ("SGE_QMASTER_PORT", QMASTER_PORT.to_string()),
        ("SGE_EXECD_PORT", EXECD_PORT.to_string()),
    ]
}

/// A daemon that stays in the foreground.
fn daemon(root: &Path, program: &str) -> Result<Vec<String>> {
    let path = find(program).with_context(|| format!("{program} is missing"))?;
    let mut words = vec!["env".to_owned(), "SGE_ND=1".to_owned()];
    words.extend(variables(root).map(|(name, value)| format!("{name}={value}")));
    words.push(path.display().to_string());
    Ok(words)
}

/// The directories of a cell that was never started, as the packages make them.
fn make_cell(root: &Path, head: &str) -> Result<()> {
    let owner = User::from_name(ADMINISTRATOR)?.with_context(|| format!("no account {ADMINISTRATOR}"))?;
    let below = ["", "conf", "default", "default/common", "spool", "spool/spooldb", "spool/execd"];
    let masters = ["spool/qmaster", "spool/qmaster/job_scripts", "bin", "lib", "utilbin"];
    for below in below.into_iter().chain(masters) {
        let made = root.join(below);
        fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
        fs::set_permissions(&made, fs::Permissions::from_mode(0o755))?;
        chown(&made, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
    }
    let shared = root.join("shared");
    fs::create_dir_all(&shared)?;
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777))?;
    symlink(format!("{SHARE}/util"), root.join("util"))?;
    let kind = run(Command::new(format!("{SHARE}/util/arch")).env("SGE_ROOT", root))?;
    for of_kind in ["bin", "lib", "utilbin"] {
        symlink(LIBRARY, root.join(of_kind).join(kind.trim()))?;
    }
    let bootstrap = fs::read_to_string(format!("{SHARE}/default-bootstrap"))?;
    let spool = root.join("spool").display().to_string();
    let common = root.join("default/common");
    let bootstrap = bootstrap.replace("/var/spool/gridengine", &spool);
    for (name, text) in [("bootstrap", bootstrap), ("act_qmaster", format!("{head}\n"))] {
        fs::write(common.join(name), text)?;
        chown(common.join(name), Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
    }
    Ok(())
}

/// A configuration of `qconf -s...` with other values; what it has not yet is added.
fn changed(text: &str, values: &[(&str, &str)]) -> String {
    let key = |line: &str| line.split_ascii_whitespace().next().unwrap_or_default().to_owned();
    // A value may go on in the next line; those that are changed here never do.
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter(|line| values.iter().all(|(changed, _)| key(line) != *changed))
        .map(String::from)
        .collect();
    lines.extend(values.iter().map(|(key, value)| format!("{key} {value}")));
    lines.join("\n") + "\n"
}

/// As Grid Engine writes a time.
fn clock(seconds: u32) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// How many queue instances take jobs, of the lines of `qstat -f`: their load is known, and no letter
/// stands behind it.
fn open(lines: &str) -> usize {
    let is_open = |line: &&str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        line.starts_with(QUEUE) && matches!(fields[..], [_, _, _, load, _] if load.parse::<f32>().is_ok())
    };
    lines.lines().filter(is_open).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_with_a_load_and_without_a_letter_are_open() {
        let lines = "queuename                      qtype resv/used/tot. load_avg arch          states\n\
                     ---------------------------------------------------------------------------------\n\
                     grid.q@a1                      BIP   0/0/4          2.39     lx-amd64      \n\
                     grid.q@a2                      BIP   0/0/4          2.39     lx-amd64      d\n\
                     grid.q@a3                      BIP   0/0/4          -NA-     -NA-          au\n";
        assert_eq!(open(lines), 1);
        assert_eq!(open("error: commlib error: got select error (Connection refused)"), 0);
    }

    #[test]
    fn a_value_is_changed_once_and_the_rest_stays() {
        let text = "#global:\nmailer                       /usr/bin/mail\nxterm   /usr/bin/xterm\n";
        assert_eq!(
            changed(text, &[("mailer", "/bin/true"), ("new", "1 2")]),
            "xterm   /usr/bin/xterm\nmailer /bin/true\nnew 1 2\n"
        );
        assert_eq!(clock(3723), "01:02:03");
    }
}
