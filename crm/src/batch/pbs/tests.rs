//! The adapter with stand-ins for the commands of PBS: shell scripts that keep their "queue" in a
//! directory. They show how the commands are called and what follows from their answers; they are no
//! PBS, and nothing here says that a real one takes those words.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use protocol::ids::ReservationId;

use super::*;
use crate::pilot::Round;

const GROUP: Group = (ReservationId(12), Round(1));

/// A directory of stand-ins.
struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let bed = Self { dir: tempfile::tempdir().unwrap() };
        for below in ["bin", "state", "lib"] {
            fs::create_dir(bed.path(below)).unwrap();
        }
        bed.says("openpbs");
        bed.put(
            "qsub",
            "echo \"$@\" >$D/qsub.words; cat >$D/qsub.script; cat $D/qsub.err >&2; cat $D/qsub.out",
        );
        bed.put("qdel", "echo \"$@\" >>$D/qdel.words");
        bed.put(
            "qstat",
            "case $1 in --version) cat $D/version;; *) echo \"$@\" >$D/qstat.words; cat $D/qstat.err >&2; \
             cat $D/qstat.out;; esac; exit $(cat $D/qstat.code)",
        );
        for (name, text) in [
            ("qsub.out", "101.head\n"),
            ("qsub.err", ""),
            ("qstat.err", ""),
            ("qstat.out", ""),
            ("qstat.code", "0"),
        ] {
            bed.write(name, text);
        }
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn put(&self, name: &str, body: &str) {
        let text = format!("#!/bin/sh\nD={}\n{body}\n", self.dir.path().display());
        let path = self.path("bin").join(name);
        // Aside and renamed: a program that is open for writing cannot be started.
        fs::write(path.with_extension("new"), text).unwrap();
        fs::set_permissions(path.with_extension("new"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    fn says(&self, kind: &str) {
        let version =
            if kind == "openpbs" { "pbs_version = 23.06.06\n" } else { "Version: 6.1.3\nCommit: x\n" };
        self.write("version", version);
    }

    fn pbs(&self) -> Pbs {
        let here = |name: &str| self.path(name).display().to_string();
        let text = format!(
            "site = \"a\"\nstate = {:?}\ngrc = \"10.0.0.1:7400\"\nlisten = \"10.0.0.2:7401\"\n\
             launcher = {:?}\nranges = [\"10.71.128.0/17\"]\nprefix_len = 16\n[batch]\nsystem = \"pbs\"\n\
             nodes = 4\ncommands = {:?}\ninvocations = {:?}\nqueue = \"workq\"\nextra = [\"-W\", \"x=y\"]\n",
            here("state"),
            here("lib/launcher"),
            here("bin"),
            here("of-{user}"),
        );
        self.write("crm.toml", &text);
        let config = Config::load(&self.path("crm.toml")).unwrap();
        Pbs { commands: Commands::of_nobody_else(Path::new(&here("bin"))), ..Pbs::new(&config).unwrap() }
    }
}

fn job() -> BatchJob {
    let account = Account {
        name: "alice".parse().unwrap(),
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
    };
    let pilot = |number| {
        let submit = Submit {
            pilot: member(GROUP, number),
            node: "place-0".parse().unwrap(),
            exclude: Vec::new(),
            account: account.clone(),
            limits: protocol::reservation::Limits::default(),
            begin_in_s: 0,
            lifetime_s: 300,
            token_s: 300,
        };
        (submit, format!("secret {number}").into_bytes())
    };
    BatchJob { pilots: vec![pilot(0), pilot(1)] }
}

/// The recorded list with our job in some state.
fn list(state: &str) -> String {
    let json = include_str!("records/openpbs.json");
    json.replacen("\"job_state\":\"R\"", &format!("\"job_state\":\"{state}\""), 1)
}

#[tokio::test]
async fn a_job_is_handed_over_without_its_secrets_and_found_again() {
    let bed = Bed::new();
    let pbs = bed.pbs();
    pbs.submit(&job()).await.unwrap();
    let words = bed.read("qsub.words");
    for expected in [
        "-N gp-r12.1 -v GRIDPILOT_BATCH_JOB=gridpilot-a-r12.1 ",
        "-l select=2:ncpus=1 -l place=scatter -l walltime=00:06:00 -q workq -W x=y",
    ] {
        assert!(words.contains(expected), "{words}");
    }
    let script = bed.read("qsub.script");
    assert!(script.contains("pbs_tmrsh") && !script.contains("c2VjcmV0") && !words.contains("c2VjcmV0"));
    assert_eq!(bed.read("of-alice/gridpilot-a-r12.1.invocations").lines().count(), 2);

    bed.write("qstat.out", &list("Q"));
    let standings = pbs.status().await.unwrap();
    assert_eq!(standings.len(), 2, "of others nothing is said: {standings:?}");
    assert!(standings.iter().all(|(_, standing)| matches!(standing, Standing::Queued { .. })));
    assert_eq!(bed.read("qstat.words").trim(), "-f -x -F json 101.head");

    bed.write("qstat.out", &list("R"));
    let nodes: Vec<_> = pbs.status().await.unwrap().into_iter().map(|(_, standing)| standing).collect();
    let on = |name: &str| Standing::Running { node: Some(name.parse().unwrap()) };
    assert_eq!(nodes, [on("n1"), on("n2")]);

    // Whoever comes after this CRM finds it, too.
    let again = bed.pbs();
    assert_eq!(again.status().await.unwrap().len(), 2);
    again.cancel(&[member(GROUP, 0)]).await.unwrap();
    assert_eq!(bed.read("qdel.words"), "", "one of two");
    again.cancel(&[member(GROUP, 1)]).await.unwrap();
    assert_eq!(bed.read("qdel.words").trim(), "101.head");

    bed.write("of-alice/gridpilot-a-r12.1.words", "gridpilot launcher: ended on SIGTERM\n");
    bed.write(
        "qstat.out",
        &list("F").replacen("\"job_state\":\"F\"", "\"job_state\":\"F\",\"Exit_status\":271", 1),
    );
    let gone = pbs.status().await.unwrap();
    let Standing::Gone(why) = &gone[0].1 else { panic!("{gone:?}") };
    assert_eq!(
        why.as_str(),
        "its Launcher says: ended on SIGTERM (its batch job was ended by qdel, or by a limit (signal 15))"
    );
    assert!(!bed.path("of-alice").exists(), "nothing of it stays");
    assert!(pbs.status().await.unwrap().is_empty(), "said once");
}

#[tokio::test]
async fn torque_is_spoken_to_in_its_own_words() {
    let bed = Bed::new();
    bed.says("torque");
    bed.write("qsub.out", "201.head.site\n");
    let pbs = bed.pbs();
    pbs.submit(&job()).await.unwrap();
    assert!(bed.read("qsub.words").contains("-l nodes=2:ppn=1 -l walltime=00:06:00"));
    bed.write("qstat.out", include_str!("records/torque.txt"));
    assert_eq!(pbs.status().await.unwrap().len(), 2);
    assert_eq!(bed.read("qstat.words").trim(), "-f 201.head.site");
    // It keeps nothing of jobs that ended.
    bed.write("qstat.out", "");
    bed.write("qstat.err", "qstat: Unknown Job Id 201.head.site\n");
    bed.write("qstat.code", "153");
    let gone = pbs.status().await.unwrap();
    assert!(gone.iter().all(|(_, standing)| matches!(standing, Standing::Gone(_))), "{gone:?}");
    assert_eq!(gone.len(), 2);
}

#[tokio::test]
async fn a_server_that_is_away_says_nothing_of_any_job() {
    let bed = Bed::new();
    let pbs = bed.pbs();
    pbs.submit(&job()).await.unwrap();
    for (out, err) in
        [("", "Connection refused\nqstat: cannot connect to server head (errno=15010)\n"), ("{", "")]
    {
        bed.write("qstat.out", out);
        bed.write("qstat.err", err);
        bed.write("qstat.code", if err.is_empty() { "0" } else { "255" });
        assert!(matches!(pbs.status().await, Err(BatchError::Unavailable(_))), "{out}{err}");
    }
    bed.write("qstat.err", "");
    bed.write("qstat.code", "0");
    bed.write("qstat.out", &list("R"));
    assert_eq!(pbs.status().await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_was_refused_leaves_nothing_and_what_was_not_answered_may_turn_up() {
    let bed = Bed::new();
    bed.put("qsub", "cat $D/qsub.err >&2; exit 1");
    let pbs = bed.pbs();
    for (err, is) in [
        ("qsub: Job violates queue and/or server resource limits", "refused"),
        ("qsub: cannot connect to server head (errno=15010)", "unavailable"),
        ("qsub: would exceed queue generic's per-user limit of jobs in 'Q' state", "unavailable"),
        ("qsub: End of File", "unknown"),
    ] {
        bed.write("qsub.err", err);
        let kind = match pbs.submit(&job()).await.unwrap_err() {
            BatchError::Refused(_) => "refused",
            BatchError::Unavailable(_) => "unavailable",
            BatchError::AccountFull(_) => "account full",
            BatchError::Unknown(_) => "unknown",
        };
        assert_eq!(kind, is, "{err}");
        assert_eq!(bed.path("of-alice").exists(), is == "unknown", "{err}");
    }
    // Nobody knows its number: all jobs are asked for, and it is found by its variable.
    bed.write("qstat.out", &list("R"));
    assert_eq!(pbs.status().await.unwrap().len(), 2);
    assert_eq!(bed.read("qstat.words").trim(), "-f -F json");
    pbs.cancel(&[member(GROUP, 0), member(GROUP, 1)]).await.unwrap();
    assert_eq!(bed.read("qdel.words").trim(), "101.head");
}

#[tokio::test]
async fn of_two_jobs_of_one_round_the_younger_goes_and_a_strangers_is_left_alone() {
    let bed = Bed::new();
    let pbs = bed.pbs();
    pbs.submit(&job()).await.unwrap();
    let twice = list("R").replacen("\"102.head\"", "\"99.head\"", 1).replace("r13.2", "r12.1");
    bed.write("qstat.out", &twice);
    assert!(pbs.status().await.unwrap().iter().all(|(_, s)| matches!(s, Standing::Queued { .. })));
    assert_eq!(bed.read("qdel.words").trim(), "101.head");
    bed.write("qdel.words", "");
    bed.write("qstat.out", &list("R").replace("alice@", "mallory@"));
    let gone = pbs.status().await.unwrap();
    assert!(gone.iter().all(|(_, standing)| matches!(standing, Standing::Gone(_))), "{gone:?}");
    assert_eq!(bed.read("qdel.words"), "");
}

#[tokio::test]
async fn a_queue_and_a_sweep_are_asked_for_by_name() {
    let bed = Bed::new();
    let pbs = bed.pbs();
    bed.write("qstat.out", include_str!("records/queue.txt"));
    let capabilities = pbs.capabilities().await.unwrap();
    assert_eq!((capabilities.nodes_max, bed.read("qstat.words").trim()), (Some(16), "-Q -f workq"));
    let account = job().pilots[0].0.account.clone();
    pbs.sweep(&"n1".parse().unwrap(), &account).await.unwrap();
    let words = bed.read("qsub.words");
    assert!(words.starts_with("-W block=true") && words.contains("-l select=1:ncpus=1:host=n1"), "{words}");
    assert!(bed.read("qsub.script").ends_with("lib/node-manager' sweep\n"));
    bed.put("qsub", "echo 'node-manager: a mount stays' >&2; exit 1");
    let error = pbs.sweep(&"n1".parse().unwrap(), &account).await.unwrap_err().to_string();
    assert_eq!(error, "the sweep of node n1 failed: node-manager: a mount stays");
}
