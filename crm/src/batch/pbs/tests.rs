//! The adapter with stand-ins for the commands of PBS: shell scripts that keep their "queue" in a
//! directory. They show how the commands are called and what follows from their answers; they are no
//! PBS, and nothing here says that a real one takes those words.

use protocol::ids::ReservationId;

use super::*;
use crate::batch::stand_ins::{Bed, alice, gone, job};
use crate::pilot::Round;

const GROUP: Group = (ReservationId(12), Round(1));

/// A directory of stand-ins.
fn bed() -> Bed {
    let bed = Bed::new();
    says(&bed, "openpbs");
    bed.put("qsub", "echo \"$@\" >$D/qsub.words; cat >$D/qsub.script; cat $D/qsub.err >&2; cat $D/qsub.out");
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

fn says(bed: &Bed, kind: &str) {
    let version = if kind == "openpbs" { "pbs_version = 23.06.06\n" } else { "Version: 6.1.3\nCommit: x\n" };
    bed.write("version", version);
}

fn adapter(bed: &Bed) -> Pbs {
    let invocations = bed.path("of-{user}");
    let config = bed.config(&format!(
        "system = \"pbs\"\ninvocations = {:?}\nqueue = \"workq\"\nextra = [\"-W\", \"x=y\"]\n",
        invocations.display().to_string()
    ));
    Pbs { commands: bed.commands(), ..Pbs::new(&config).unwrap() }
}

/// The recorded list with our job in some state.
fn list(state: &str) -> String {
    let json = include_str!("records/openpbs.json");
    json.replacen("\"job_state\":\"R\"", &format!("\"job_state\":\"{state}\""), 1)
}

#[tokio::test]
async fn a_job_is_handed_over_without_its_secrets_and_found_again() {
    let bed = bed();
    let pbs = adapter(&bed);
    pbs.submit(&job(GROUP, 2)).await.unwrap();
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
    let standings = pbs.status().await.unwrap().unwrap_or_default();
    assert_eq!(standings.len(), 2, "of others nothing is said: {standings:?}");
    assert!(standings.iter().all(|(_, standing)| matches!(standing, Standing::Queued { .. })));
    assert_eq!(bed.read("qstat.words").trim(), "-f -x -F json 101.head");

    bed.write("qstat.out", &list("R"));
    let nodes: Vec<_> =
        pbs.status().await.unwrap().unwrap_or_default().into_iter().map(|(_, standing)| standing).collect();
    let on = |name: &str| Standing::Running { node: Some(name.parse().unwrap()) };
    assert_eq!(nodes, [on("n1"), on("n2")]);

    // Whoever comes after this CRM finds it, too.
    let again = adapter(&bed);
    assert_eq!(again.status().await.unwrap().unwrap_or_default().len(), 2);
    again.cancel(&[member(GROUP, 0)]).await.unwrap();
    assert_eq!(bed.read("qdel.words"), "", "one of two");
    again.cancel(&[member(GROUP, 1)]).await.unwrap();
    assert_eq!(bed.read("qdel.words").trim(), "101.head");

    bed.write("of-alice/gridpilot-a-r12.1.words", "gridpilot launcher: ended on SIGTERM\n");
    bed.write(
        "qstat.out",
        &list("F").replacen("\"job_state\":\"F\"", "\"job_state\":\"F\",\"Exit_status\":271", 1),
    );
    let gone = gone(&pbs).await;
    let Standing::Gone(why) = &gone[0].1 else { panic!("{gone:?}") };
    assert_eq!(
        why.as_str(),
        "its Launcher says: ended on SIGTERM (its batch job was ended by qdel, or by a limit (signal 15))"
    );
    assert!(!bed.path("of-alice").exists(), "nothing of it stays");
    assert!(pbs.status().await.unwrap().unwrap_or_default().is_empty(), "said once");
}

#[tokio::test]
async fn torque_is_spoken_to_in_its_own_words() {
    let bed = bed();
    says(&bed, "torque");
    bed.write("qsub.out", "201.head.site\n");
    let pbs = adapter(&bed);
    pbs.submit(&job(GROUP, 2)).await.unwrap();
    assert!(bed.read("qsub.words").contains("-l nodes=2:ppn=1 -l walltime=00:06:00"));
    bed.write("qstat.out", include_str!("records/torque.txt"));
    assert_eq!(pbs.status().await.unwrap().unwrap_or_default().len(), 2);
    assert_eq!(bed.read("qstat.words").trim(), "-f 201.head.site");
    // It keeps nothing of jobs that ended.
    bed.write("qstat.out", "");
    bed.write("qstat.err", "qstat: Unknown Job Id 201.head.site\n");
    bed.write("qstat.code", "153");
    let gone = gone(&pbs).await;
    assert!(gone.iter().all(|(_, standing)| matches!(standing, Standing::Gone(_))), "{gone:?}");
    assert_eq!(gone.len(), 2);
}

#[tokio::test]
async fn a_server_that_is_away_says_nothing_of_any_job() {
    let bed = bed();
    let pbs = adapter(&bed);
    pbs.submit(&job(GROUP, 2)).await.unwrap();
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
    assert_eq!(pbs.status().await.unwrap().unwrap_or_default().len(), 2);
}

#[tokio::test]
async fn what_was_refused_leaves_nothing_and_what_was_not_answered_may_turn_up() {
    let bed = bed();
    bed.put("qsub", "cat $D/qsub.err >&2; exit 1");
    let pbs = adapter(&bed);
    for (err, is) in [
        ("qsub: Job violates queue and/or server resource limits", "refused"),
        ("qsub: cannot connect to server head (errno=15010)", "unavailable"),
        ("qsub: Maximum number of jobs already in queue workq", "unavailable"),
        ("qsub: would exceed limit on resource ncpus in complex for jobs in 'Q' state", "unavailable"),
        ("qsub: would exceed queue generic's per-user limit of jobs in 'Q' state", "account full"),
        ("qsub: would exceed user alice's limit on resource ncpus in complex", "account full"),
        ("qsub: Maximum number of jobs in 'Q' state for group g already in complex", "account full"),
        ("qsub: submit error (Maximum number of jobs already in queue for user MSG=x)", "account full"),
        ("qsub: End of File", "unknown"),
    ] {
        bed.write("qsub.err", err);
        let kind = match pbs.submit(&job(GROUP, 2)).await.unwrap_err() {
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
    assert_eq!(pbs.status().await.unwrap().unwrap_or_default().len(), 2);
    assert_eq!(bed.read("qstat.words").trim(), "-f -F json");
    pbs.cancel(&[member(GROUP, 0), member(GROUP, 1)]).await.unwrap();
    assert_eq!(bed.read("qdel.words").trim(), "101.head");
}

#[tokio::test]
async fn of_two_jobs_of_one_round_the_younger_goes_and_a_strangers_is_left_alone() {
    let bed = bed();
    let pbs = adapter(&bed);
    pbs.submit(&job(GROUP, 2)).await.unwrap();
    let twice = list("R").replacen("\"102.head\"", "\"99.head\"", 1).replace("r13.2", "r12.1");
    bed.write("qstat.out", &twice);
    assert!(
        pbs.status()
            .await
            .unwrap()
            .unwrap_or_default()
            .iter()
            .all(|(_, s)| matches!(s, Standing::Queued { .. }))
    );
    assert_eq!(bed.read("qdel.words").trim(), "101.head");
    // One that cannot be deleted is no reason to know nothing of the others.
    bed.put("qdel", "echo 'qdel: Unauthorized Request 101.head' >&2; exit 159");
    assert_eq!(pbs.status().await.unwrap().unwrap_or_default().len(), 2);
    bed.write("qdel.words", "");
    bed.write("qstat.out", &list("R").replace("alice@", "mallory@"));
    let gone = gone(&pbs).await;
    assert!(gone.iter().all(|(_, standing)| matches!(standing, Standing::Gone(_))), "{gone:?}");
    assert_eq!(bed.read("qdel.words"), "");
}

#[tokio::test]
async fn a_queue_and_a_sweep_are_asked_for_by_name() {
    let bed = bed();
    let pbs = adapter(&bed);
    bed.write("qstat.out", include_str!("records/queue.txt"));
    let capabilities = pbs.capabilities().await.unwrap();
    assert_eq!((capabilities.nodes_max, bed.read("qstat.words").trim()), (Some(16), "-Q -f workq"));
    let account = alice();
    pbs.sweep(&"n1".parse().unwrap(), &account).await.unwrap();
    let words = bed.read("qsub.words");
    assert!(words.starts_with("-W block=true") && words.contains("-l select=1:ncpus=1:host=n1"), "{words}");
    assert!(bed.read("qsub.script").ends_with("lib/node-manager' sweep\n"));
    bed.put("qsub", "echo 'node-manager: a mount stays' >&2; exit 1");
    let error = pbs.sweep(&"n1".parse().unwrap(), &account).await.unwrap_err().to_string();
    assert_eq!(error, "the sweep of node n1 failed: node-manager: a mount stays");
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_a_closed_one_and_nobody_is_asked_for_no_jobs() {
    let bed = bed();
    let pbs = adapter(&bed);
    assert_eq!(pbs.status().await, Ok(None));
    bed.write("qstat.code", "170");
    bed.write("qstat.err", "qstat: Unknown queue workq\n");
    let closed = pbs.capabilities().await.unwrap().closed;
    assert_eq!(closed.unwrap().as_str(), "qstat: Unknown queue workq");
    bed.write("qstat.err", "qstat: cannot connect to server head (errno=15010)\n");
    assert!(matches!(pbs.capabilities().await, Err(BatchError::Unavailable(_))));
}

#[tokio::test]
async fn nothing_is_submitted_without_the_time_that_it_shall_begin_at() {
    let bed = bed();
    let pbs = adapter(&bed);
    let mut late = job(GROUP, 2);
    late.pilots[0].0.begin_in_s = 60;
    bed.put("date", "echo 'date: no time' >&2; exit 1");
    let error = pbs.submit(&late).await.unwrap_err();
    assert_eq!(error, BatchError::unavailable("date wrote no time: date: no time"));
    assert!(bed.read("qsub.words").is_empty() && !bed.path("of-alice").exists());
    bed.put("date", "echo 202612011000.00");
    pbs.submit(&late).await.unwrap();
    assert!(bed.read("qsub.words").contains("-a 202612011000.00 "), "{}", bed.read("qsub.words"));
}

/// The site submits it again, and must not be told that it ended.
#[tokio::test]
async fn of_a_submission_that_never_turned_up_nothing_is_said_and_nothing_stays() {
    let bed = bed();
    bed.put("qsub", "echo 'qsub: End of File' >&2; exit 1");
    bed.write("qstat.out", r#"{"pbs_server":"head"}"#);
    let batch = adapter(&bed);
    assert!(matches!(batch.submit(&job(GROUP, 1)).await, Err(BatchError::Unknown(_))));
    assert_eq!(batch.status().await, Ok(Some(Vec::new())));
    assert!(bed.path("of-alice").exists(), "it may turn up yet");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
    assert_eq!(batch.status().await, Ok(Some(Vec::new())));
    assert!(!bed.path("of-alice").exists() && batch.ledger.is_idle());
}
