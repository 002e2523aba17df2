//! The embedded batch system with shell scripts where the Launcher and the NodeManager stand.
//! No root is needed: the start command is `env`, which stays on this machine and account.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use crm::batch::embedded::Embedded;
use crm::batch::{self, Batch, BatchJob, Command};
use crm::config::NodeConfig;
use crm::pilot::{PilotId, Round};
use crm::site::{Account, Event, News, Submit};
use protocol::ids::ReservationId;
use protocol::names::{NodeName, Text};
use protocol::reservation::Limits;
use tokio::sync::mpsc;

fn script(dir: &Path, name: &str, body: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn node() -> NodeName {
    "a1".parse().unwrap()
}

fn account() -> Account {
    Account { name: "alice".parse().unwrap(), uid: 1001, gid: 1002 }
}

fn pilot(member: u32) -> PilotId {
    PilotId { reservation: ReservationId(1), round: Round(1), member }
}

fn submit(member: u32) -> Command {
    let submit = Submit {
        pilot: pilot(member),
        node: node(),
        exclude: Vec::new(),
        account: account(),
        limits: Limits::default(),
        begin_in_s: 0,
        lifetime_s: 60,
    };
    Command::Submit(BatchJob::of(submit, b"secret".to_vec()))
}

/// The next event that is not just how the system and its pilots stand.
async fn heard(events: &mut mpsc::Receiver<Event>) -> Event {
    loop {
        let event = events.recv().await.unwrap();
        match event {
            Event::Batch(News::NotThere { .. }) => return event,
            Event::Batch(_) => {}
            _ => return event,
        }
    }
}

struct Site {
    dir: tempfile::TempDir,
    commands: mpsc::UnboundedSender<Command>,
    events: mpsc::Receiver<Event>,
}

impl Site {
    fn new(launcher: &str, start: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), "launcher", launcher);
        let start = start.iter().map(|word| word.replace("DIR", dir.path().to_str().unwrap())).collect();
        let nodes = [NodeConfig { name: node(), slots: 1, memory: 0, members: 4, start }];
        let embedded = Embedded::new(&nodes, &dir.path().join("launcher"), dir.path()).unwrap();
        let (commands, taken) = mpsc::unbounded_channel();
        let (said, events) = mpsc::channel(16);
        tokio::spawn(batch::run(Arc::new(embedded), taken, said));
        Self { dir, commands, events }
    }

    fn do_it(&self, command: Command) {
        self.commands.send(command).unwrap();
    }

    async fn gone(&mut self) -> (PilotId, Text) {
        match heard(&mut self.events).await {
            Event::BatchGone { pilot, reason } => (pilot, reason),
            other => panic!("{other:?}"),
        }
    }

    async fn swept(&mut self) -> Result<(), Text> {
        let (pilot, node, account) = (pilot(0), node(), account());
        self.do_it(Command::Sweep { pilot, node, account });
        match heard(&mut self.events).await {
            Event::Swept { outcome, .. } => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// What the launcher wrote, once it is there.
    async fn file(&self, name: &str) -> String {
        loop {
            match fs::read_to_string(self.dir.path().join(name)) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    }

    fn leftovers(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let hidden = names.filter(|name| name.starts_with('.'));
        let notes = fs::read_dir(self.dir.path().join("pilots")).unwrap();
        hidden.chain(notes.map(|entry| entry.unwrap().file_name().into_string().unwrap())).collect()
    }
}

#[tokio::test]
async fn a_pilot_gets_its_invocation_by_stdin_and_nothing_of_our_environment() {
    let launcher = r#"
        d=$(dirname "$0")
        { echo "$@"; cat; echo; env | grep -c -v '^\(PATH\|PWD\|SHLVL\|_\|AS\)='; echo "$AS"; } > $d/said.part
        mv $d/said.part $d/said"#;
    let mut site = Site::new(launcher, &["env", "AS={user}:{uid}:{gid}"]);
    site.do_it(submit(0));
    let (gone, reason) = site.gone().await;
    assert_eq!((gone, reason.as_str()), (pilot(0), "exit code 0"));
    let said = site.file("said").await;
    assert_eq!(said.lines().collect::<Vec<_>>(), ["--invocation -", "secret", "0", "alice:1001:1002"]);
    assert_eq!(site.leftovers(), [""; 0]);
}

#[tokio::test]
async fn what_a_failed_pilot_printed_last_is_why_it_ended() {
    let script = "echo first >&2; echo 'the node is full' >&2; echo 'giving up' >&2; echo >&2; exit 3";
    let mut site = Site::new(script, &["env"]);
    site.do_it(submit(0));
    assert_eq!(site.gone().await.1.as_str(), "the node is full; giving up (exit code 3)");
}

#[tokio::test]
async fn a_cancelled_pilot_may_end_in_order_and_others_live_on() {
    let launcher = r#"
        trap 'echo ended in order >&2; exit 0' TERM
        echo up > $(dirname "$0")/up-$$
        while :; do sleep 0.05; done"#;
    let mut site = Site::new(launcher, &["env"]);
    site.do_it(submit(0));
    site.do_it(submit(1));
    // The launcher, the directory of notes, and a file of each of both.
    while fs::read_dir(site.dir.path()).unwrap().count() < 4 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    site.do_it(Command::Cancel { pilot: pilot(1) });
    site.do_it(Command::Cancel { pilot: pilot(1) });
    site.do_it(Command::Cancel { pilot: pilot(9) });
    let not_there = heard(&mut site.events).await;
    assert!(matches!(&not_there, Event::Batch(News::NotThere { pilots }) if *pilots == [pilot(9)]));
    let (gone, reason) = site.gone().await;
    assert_eq!((gone, reason.as_str()), (pilot(1), "ended in order (exit code 0)"));
    site.do_it(Command::Cancel { pilot: pilot(0) });
    assert_eq!(site.gone().await.0, pilot(0));
}

#[tokio::test]
async fn a_pilot_that_was_killed_is_noticed_with_its_signal() {
    let mut site = Site::new("kill -9 $$", &["env"]);
    site.do_it(submit(0));
    assert_eq!(site.gone().await.1.as_str(), "killed by signal 9");
}

#[tokio::test]
async fn a_start_command_that_is_not_there_is_said_by_name() {
    let mut site = Site::new("", &["/no/such/program"]);
    site.do_it(submit(0));
    let (_, reason) = site.gone().await;
    assert!(reason.as_str().contains("/no/such/program"), "{reason}");
    assert_eq!(site.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_sweep_runs_the_launchers_sibling_and_passes_its_complaint_on() {
    let mut site = Site::new("", &["env"]);
    let missing = site.swept().await.unwrap_err();
    assert!(missing.as_str().contains("sweep"), "{missing}");
    script(site.dir.path(), "node-manager", r#"[ "$*" = sweep ] || exit 9"#);
    assert_eq!(site.swept().await, Ok(()));
    script(site.dir.path(), "node-manager", "echo 'cgroup x is busy' >&2; exit 1");
    let left = site.swept().await.unwrap_err();
    assert!(left.as_str().contains("cgroup x is busy"), "{left}");
}

#[tokio::test]
async fn every_pilot_is_told_of_in_one_call_and_a_gone_one_once() {
    let site = Site::new("exec sleep 30", &["env"]);
    let nodes = [NodeConfig { name: node(), slots: 1, memory: 0, members: 4, start: vec!["env".into()] }];
    let embedded = Embedded::new(&nodes, &site.dir.path().join("launcher"), site.dir.path()).unwrap();
    for member in 0..2 {
        let Command::Submit(job) = submit(member) else { unreachable!() };
        embedded.submit(&job).await.unwrap();
    }
    assert_eq!(embedded.status().await.unwrap().unwrap().len(), 2);
    embedded.cancel(&[pilot(0)]).await.unwrap();
    embedded.changed().await;
    let gone = |all: Vec<(PilotId, batch::Standing)>| {
        let is_gone = |standing: &batch::Standing| matches!(standing, batch::Standing::Gone(_));
        all.into_iter().filter(|(_, s)| is_gone(s)).map(|(p, _)| p).collect::<Vec<_>>()
    };
    assert_eq!(gone(embedded.status().await.unwrap().unwrap()), [pilot(0)]);
    assert_eq!(gone(embedded.status().await.unwrap().unwrap()), []);
    embedded.cancel(&[pilot(1)]).await.unwrap();
    embedded.changed().await;
    assert_eq!(gone(embedded.status().await.unwrap().unwrap()), [pilot(1)]);
}

/// A process of ours with this note in the directory of notes, as a CRM before would have left it.
fn left_behind(dir: &Path, member: u32, body: &str, change: impl Fn(&str) -> String) -> std::process::Child {
    let mut child = std::process::Command::new("sh").args(["-c", body]).spawn().unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let start = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let note = format!("{} {start} {boot}", child.id());
    fs::create_dir_all(dir.join("pilots")).unwrap();
    fs::write(dir.join(format!("pilots/r1-1-{member}")), change(&note)).unwrap();
    assert!(child.try_wait().unwrap().is_none());
    child
}

#[tokio::test]
async fn the_pilots_of_a_crm_before_are_ended_and_nothing_else_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    script(dir.path(), "launcher", "");
    let mut own = left_behind(dir.path(), 0, "exec sleep 100", str::to_owned);
    // Another process has the number now; another boot; a note that is not whole.
    let stranger = |note: &str| note.replacen(' ', " 1", 1);
    let mut others = [
        left_behind(dir.path(), 1, "exec sleep 101", stranger),
        left_behind(dir.path(), 2, "exec sleep 102", |note| note.replace('-', "")),
        left_behind(dir.path(), 3, "exec sleep 103", |note| note[..note.len() - 2].to_owned()),
    ];
    let nodes = [NodeConfig { name: node(), slots: 1, memory: 0, members: 4, start: vec!["env".into()] }];
    let embedded = Embedded::new(&nodes, &dir.path().join("launcher"), dir.path()).unwrap();
    let (commands, taken) = mpsc::unbounded_channel();
    let (said, mut events) = mpsc::channel(16);
    tokio::spawn(batch::run(Arc::new(embedded), taken, said));
    // The owner has each of them taken away, and hears of each that it is gone.
    for member in 0..5 {
        commands.send(Command::Cancel { pilot: pilot(member) }).unwrap();
    }
    let reap = tokio::task::spawn_blocking(move || own.wait().unwrap());
    let mut gone = Vec::new();
    while gone.len() < 5 {
        match heard(&mut events).await {
            Event::BatchGone { pilot, .. } => gone.push(pilot.member),
            Event::Batch(News::NotThere { pilots }) => gone.extend(pilots.iter().map(|pilot| pilot.member)),
            other => panic!("{other:?}"),
        }
    }
    gone.sort_unstable();
    assert_eq!(gone, [0, 1, 2, 3, 4]);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&reap.await.unwrap()), Some(15));
    assert_eq!(fs::read_dir(dir.path().join("pilots")).unwrap().count(), 0);
    for other in &mut others {
        assert!(other.try_wait().unwrap().is_none(), "a stranger was signalled");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
