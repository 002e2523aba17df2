//! Runs the attack scripts and says how each came out.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::bed::{Bed, LIB, SECRETS, SHARE, TOOL, policy};
use super::script::{ENTRIES, Place, Script};

/// Exit code of a script that this machine cannot run.
pub const NOT_POSSIBLE: i32 = 77;
const SHORT_TIME: Duration = Duration::from_secs(60);
const FULL_TIME: Duration = Duration::from_secs(3600);
/// Where the scripts stand on the node.
const SCRIPTS: &str = "/opt/tools/attacks";

/// The scripts of this source tree.
pub fn scripts_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("attacks")
}

/// How an attack came out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Answered as specified, no trace, the right lines in the log.
    Refused,
    /// Why this machine cannot show it.
    NotPossible(String),
    /// What got through.
    Fell(String),
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub script: Script,
    pub verdict: Verdict,
    pub took: Duration,
}

impl Outcome {
    /// For the table, and for those who wait for it.
    pub fn row(&self) -> String {
        let place = format!("{:?}", self.script.place).to_lowercase();
        let (word, more) = match &self.verdict {
            Verdict::Refused => ("refused", String::new()),
            Verdict::NotPossible(why) => ("not possible", format!(": {why}")),
            Verdict::Fell(why) => ("FELL", format!(": {why}")),
        };
        let (seconds, entry) = (self.took.as_secs_f64(), self.script.entry);
        format!("A{entry:<3} {place:<6} {seconds:>6.1} s  {word}{more}  ({})\n", self.script.title)
    }
}

/// Runs the scripts that belong on a node, in a node made for them around this process.
pub fn on_node(scripts: &[Script], full: bool, programs: &Path) -> Result<Vec<Outcome>> {
    let bed = Bed::enter(programs, &std::env::current_exe()?)?;
    fs::create_dir(SCRIPTS)?;
    for entry in fs::read_dir(scripts_directory())? {
        let from = entry?.path();
        let to = Path::new(SCRIPTS).join(from.file_name().context("a strange name")?);
        fs::copy(&from, &to)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    fs::set_permissions(SCRIPTS, fs::Permissions::from_mode(0o755))?;
    scripts
        .iter()
        .map(|script| one(&bed, script, full).inspect(|outcome| eprint!("{}", outcome.row())))
        .collect()
}

fn one(bed: &Bed, script: &Script, full: bool) -> Result<Outcome> {
    let begin = Instant::now();
    drop(bed.log.lines()?);
    let work = "/opt/work-dir";
    fs::create_dir(work)?;
    chown(work, Some(bed.accounts.user), Some(bed.accounts.user))?;
    let name = script.path.file_name().context("a strange name")?;
    let time = if full { FULL_TIME } else { SHORT_TIME };
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &time.as_secs().to_string(), "bash"]).arg(Path::new(SCRIPTS).join(name));
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    for (name, value) in [("NM", format!("{LIB}/node-manager")), ("LIB", LIB.into()), ("PILOT", TOOL.into())]
    {
        command.env(name, value);
    }
    for (name, value) in [("SHARE", SHARE), ("SECRETS", SECRETS), ("HOME", "/opt/home/user"), ("WORK", work)]
    {
        command.env(name, value);
    }
    for (name, uid) in ["USER_UID", "OTHER_UID", "AGENT_UID"].into_iter().zip(bed.accounts.all()) {
        command.env(name, uid.to_string());
    }
    command.env("LOOPS", script.turns(full).to_string()).env("FULL", u8::from(full).to_string());
    command.env("ATTACKS", SCRIPTS);
    if script.place == Place::Node {
        command.uid(bed.accounts.user).gid(bed.accounts.user);
    }
    let output = command.current_dir(work).stdin(Stdio::null()).output().context("timeout")?;
    let mut verdict = verdict(output.status.code(), &output.stdout, &output.stderr);
    let left = bed.ground.wait_until_nothing_is_left(bed.accounts);
    if !left.is_empty() {
        verdict = Verdict::Fell(format!("left: {}", left.join("; ")));
        for stat in super::left::ours(bed.accounts) {
            stat.identity.signal(nix::sys::signal::Signal::SIGKILL);
        }
    }
    let lines = bed.log.lines()?;
    if verdict == Verdict::Refused
        && let Err(error) = script.check_log(&lines, full)
    {
        verdict = Verdict::Fell(format!("{error}"));
    }
    fs::remove_dir_all(work)?;
    // What the home needs, the next script makes for itself.
    for entry in fs::read_dir("/opt/home/user")?.flatten() {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }?;
    }
    policy("")?;
    Ok(Outcome { script: script.clone(), verdict, took: begin.elapsed() })
}

/// From how a script ended and what it said last.
pub fn verdict(code: Option<i32>, stdout: &[u8], stderr: &[u8]) -> Verdict {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(stdout), text(stderr));
    let last = |text: &str| text.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned);
    // A panic of ours is a crash, whoever expected it.
    if err.contains("panicked at") {
        return Verdict::Fell(format!("a crash: {err}"));
    }
    match code {
        Some(0) => Verdict::Refused,
        Some(NOT_POSSIBLE) => Verdict::NotPossible(last(&out).or(last(&err)).unwrap_or_default()),
        code => Verdict::Fell(format!("exit {code:?}: {out}{err}")),
    }
}

/// The table, and its sum in one line.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    outcomes.iter().for_each(|one| text.push_str(&one.row()));
    let with = |wanted: fn(&Verdict) -> bool| -> Vec<u32> {
        let mut entries: Vec<u32> =
            outcomes.iter().filter(|one| wanted(&one.verdict)).map(|one| one.script.entry).collect();
        entries.dedup();
        entries
    };
    let fell = with(|verdict| matches!(verdict, Verdict::Fell(_)));
    let not = with(|verdict| matches!(verdict, Verdict::NotPossible(_)));
    let mut tried = with(|_| true);
    tried.sort_unstable();
    tried.dedup();
    let refused = tried.iter().filter(|entry| !fell.contains(entry) && !not.contains(entry)).count();
    let _ = writeln!(
        text,
        "{} of {ENTRIES} entries, {} scripts: {refused} refused, {} not possible on this machine {not:?}, {} fell {fell:?}",
        tried.len(),
        outcomes.len(),
        not.len(),
        fell.len()
    );
    text
}

/// Nothing may have got through.
pub fn check(outcomes: &[Outcome]) -> Result<()> {
    let fell = outcomes.iter().filter(|one| matches!(one.verdict, Verdict::Fell(_))).count();
    ensure!(fell == 0, "{fell} attacks got through");
    Ok(())
}
