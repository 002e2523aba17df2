//! A grid for one test: down again when the test is over, however it ended, and with nothing of
//! its pilots left before that.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gridpilot_tests::account::Account;
use gridpilot_tests::batch::Systems;
use gridpilot_tests::demo::Workplace;
use gridpilot_tests::install;
use gridpilot_tests::process::{Identity, wait_until};
use gridpilot_tests::residue::Residue;
use gridpilot_tests::state::Plan;
use gridpilot_tests::world::{self, Grid};
use serde_json::Value;

/// No job of a test runs longer; a command that does is a failed test.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Grids of test runs that were killed go first, once.
fn sweep_stale() {
    for entry in std::fs::read_dir("/var/lib").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("gridpilot-test-").and_then(|rest| rest.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid| Identity::of(pid).is_none()) {
            let _ = world::down(&entry.path(), &mut |_| ());
        }
    }
}

/// A directory that no other test and no other run uses.
pub fn fresh_directory() -> PathBuf {
    static SWEPT: std::sync::Once = std::sync::Once::new();
    SWEPT.call_once(sweep_stale);
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("/var/lib/gridpilot-test-{}-{number}", std::process::id()))
}

/// The plan of a grid in a directory of its own.
pub fn plan(sites: u32, nodes: u32) -> Plan {
    Plan { sites, nodes, ..Plan::new(fresh_directory()) }
}

/// Says something that is seen although the test passes: what it could not try, what it counted.
pub fn announce(text: &str) {
    use std::io::Write as _;
    // Not by the macro, whose output of passed tests is thrown away.
    let _ = writeln!(std::io::stderr(), "\n{text}");
}

/// The plan with real batch systems at its sites; `None`, and said aloud, where this machine has
/// them not.
pub fn plan_with(batch: Systems, plan: Plan) -> Option<Plan> {
    let missing = batch.missing(plan.sites);
    if missing.is_empty() {
        return Some(Plan { batch, ..plan });
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    announce(&format!("NOT TRIED: {test}: this machine has not {}", missing.join(", ")));
    None
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// As a shell says it.
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Outcome {
    /// Standard output of a command that must have succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// The one JSON document of a command that must have succeeded.
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// Runs a command to its end, with nothing on its stdin.
pub fn finish(command: &mut Command) -> Outcome {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    finish_child(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

/// Waits for a started command whose outputs are pipes.
pub fn finish_child(child: Child) -> Outcome {
    use std::os::unix::process::ExitStatusExt;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (done, waited) = std::sync::mpsc::channel::<()>();
    // A command that hangs must not hang the suite.
    let guard = std::thread::spawn(move || {
        if waited.recv_timeout(PATIENCE).is_err() {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    let _ = done.send(());
    guard.join().unwrap();
    Outcome {
        code: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A grid that is taken down when it goes out of scope.
pub struct TestGrid {
    pub grid: Grid,
    pub residue: Option<Residue>,
}

impl TestGrid {
    pub fn up(plan: Plan) -> Self {
        let programs = install::programs().expect("where the programs stand");
        // An account of its own: what others do with theirs meanwhile is not ours.
        let account = format!("gridpilot-t{}", std::process::id());
        let grid = Grid::up_for(&account, plan, &programs, &mut |_| ());
        let grid = grid.unwrap_or_else(|error| panic!("{error:#}"));
        let residue = Some(Residue::before(&grid).unwrap());
        Self { grid, residue }
    }

    /// Two sites of two nodes: the picture of every promise.
    pub fn two_by_two() -> Self {
        Self::up(plan(2, 2))
    }

    pub fn machines(plan: Plan) -> Self {
        let programs = install::programs().expect("where the programs stand");
        let grid = Grid::machines(plan, &programs);
        Self { grid: grid.unwrap_or_else(|error| panic!("{error:#}")), residue: None }
    }

    pub fn account(&self) -> Account {
        self.grid.account().unwrap().clone()
    }

    /// A directory in the account's home, gone after the test.
    pub fn workplace(&self) -> Workplace {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        Workplace::new(&self.account(), &name).unwrap()
    }

    /// `gridpilot WORDS` as the account, not yet started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.grid.gridpilot_as_user().unwrap();
        command.args(words);
        command
    }

    /// `gridpilot WORDS` as the account.
    pub fn type_in(&self, words: &[&str]) -> Outcome {
        finish(&mut self.command(words))
    }

    /// `gridpilot --output-mode json WORDS`, which must succeed.
    pub fn ask(&self, words: &[&str]) -> Value {
        finish(self.command(&["--output-mode", "json"]).args(words)).json()
    }

    /// A job in a reservation of its own, waited for.
    pub fn submit(&self, nodes: &str, command: &[&str]) -> Outcome {
        let mut words = vec!["submit", "--wait", "--nodes", nodes, "--"];
        words.extend(command);
        self.type_in(&words)
    }

    /// A reservation that is ready; its id.
    pub fn reserve(&mut self, nodes: &str) -> String {
        let id = self.type_in(&["--output-mode", "quiet", "reserve", "--wait", "--nodes", nodes]).ok();
        self.observe();
        id.trim().to_owned()
    }

    /// A shell script on the head member of a reservation.
    pub fn on_head(&self, reservation: &str, script: &str) -> Outcome {
        self.type_in(&["submit", "--wait", "--in", reservation, "--", "sh", "-c", script])
    }

    /// A shell script on every member of a reservation.
    pub fn on_all(&self, reservation: &str, script: &str) -> Outcome {
        self.type_in(&["submit", "--wait", "--all", "--in", reservation, "--", "sh", "-c", script])
    }

    /// Notes what pilots have now, for the count at the end.
    pub fn observe(&mut self) -> usize {
        let residue = self.residue.as_mut().expect("only a grid with programs has pilots");
        residue.observe(&self.grid)
    }

    /// Nothing of any pilot is left, or the test fails.
    pub fn expect_nothing_left(&self) {
        let residue = self.residue.as_ref().expect("only a grid with programs has pilots");
        if let Err(error) = residue.expect_none(&self.grid) {
            panic!("{error:#}{}", self.logs());
        }
    }

    /// The state of a reservation, in one word.
    pub fn state_of(&self, reservation: &str) -> String {
        self.ask(&["show", reservation])["state"].as_str().unwrap_or("").to_owned()
    }

    /// Waits until a reservation or a job is in one of these states; fails naming the last one.
    pub fn wait_for_state(&self, id: &str, wanted: &[&str]) {
        let mut last = String::new();
        let reached = wait_until(PATIENCE, || {
            last = self.state_of(id);
            wanted.contains(&last.as_str())
        });
        assert!(reached, "{id} is {last}, not {wanted:?}{}", self.logs());
    }

    /// Releases and waits until it is over.
    pub fn release(&self, reservation: &str) {
        self.type_in(&["release", reservation]).ok();
        self.wait_for_state(reservation, &["ended", "failed"]);
    }

    /// The addresses of a ready reservation by host name.
    pub fn addresses(&self, reservation: &str) -> Vec<(String, String)> {
        let view = self.ask(&["show", reservation]);
        let parts = view["parts"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        parts
            .iter()
            .flat_map(|part| part["members"].as_array().cloned().unwrap_or_default())
            .map(|member| (text(&member["host"]), text(&member["address"])))
            .collect()
    }

    /// The last lines of all logs, for the message of a failed test.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.grid.state.path("log")).into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(12)..] {
                let _ = write!(text, "\n{}: {line}", entry.file_name().to_string_lossy());
            }
        }
        text
    }
}

impl Drop for TestGrid {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
            let _ = self.grid.down(&mut |_| ());
            return;
        }
        let killed = self.grid.down(&mut |_| ());
        let killed = killed.unwrap_or_else(|error| panic!("taking the grid down: {error:#}"));
        assert!(killed.is_empty(), "had to be killed: {killed:?}");
    }
}
