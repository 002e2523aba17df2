//! The adapter with stand-ins for the commands of Grid Engine; what a real one says is in the tests
//! of a whole grid.

use protocol::ids::ReservationId;

use super::*;
use crate::batch::stand_ins::{Bed, gone, job};
use crate::pilot::Round;

/// As they stand in the recorded accounting file.
const GROUP: Group = (ReservationId(20), Round(1));
const NUMBER: Number = 21;
const OTHER: Group = (ReservationId(13), Round(1));

/// Commands of a Grid Engine that gives every job the next number and lists what the test says.
fn bed() -> Bed {
    let bed = Bed::new();
    bed.put("qsub", "cat >/dev/null; N=$(cat $D/number); echo $((N + 1)) >$D/number; echo $N");
    bed.put("qstat", "case \"$*\" in *-j*) exit 1;; esac; cat $D/qstat.out");
    bed.put("qdel", "echo \"$@\" >>$D/qdel.words");
    bed.write("number", &format!("{NUMBER}\n"));
    list(&bed, &[]);
    bed
}

fn list(bed: &Bed, jobs: &[(Number, Group)]) {
    let job = |(number, group): &(Number, Group)| {
        format!(
            "<job_list state=\"running\"><JB_job_number>{number}</JB_job_number><JB_name>{}</JB_name>\
             <JB_owner>alice</JB_owner><state>r</state><queue_name>all.q@a1</queue_name>\
             <master>MASTER</master></job_list>",
            job_name(&"a".parse().unwrap(), *group)
        )
    };
    let jobs: String = jobs.iter().map(job).collect();
    bed.write("qstat.out", &format!("<?xml version='1.0'?>\n<job_info>{jobs}</job_info>\n"));
}

fn adapter(bed: &Bed) -> GridEngine {
    let (root, invocations) = (bed.path("root"), bed.path("of-{user}"));
    let config =
        bed.config(&format!("system = \"grid-engine\"\nroot = {root:?}\ninvocations = {invocations:?}\n"));
    GridEngine { commands: bed.commands(), ..GridEngine::new(&config).unwrap() }
}

/// A pipe that nobody writes to stands for a file of a server that does not answer: whoever opens
/// it waits for ever.
fn hang(path: &std::path::Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = std::fs::remove_file(path);
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

#[tokio::test]
async fn an_accounting_file_that_does_not_answer_stops_nothing() {
    let bed = bed();
    let grid_engine = adapter(&bed);
    hang(&grid_engine.accounting);
    grid_engine.submit(&job(GROUP, 1)).await.unwrap();
    grid_engine.submit(&job(OTHER, 1)).await.unwrap();
    list(&bed, &[(NUMBER + 1, OTHER)]);
    let standings = grid_engine.status().await.unwrap().unwrap_or_default();
    let runs = Standing::Running { node: Some("a1".parse().unwrap()) };
    assert_eq!(standings.len(), 2);
    assert_eq!(standings[1], (member(OTHER, 0), runs), "before anything is known of the other");
    let standings = gone(&grid_engine).await;
    let why = Standing::Gone("its batch job was deleted from the queue before it ran".into());
    assert_eq!(standings[0], (member(GROUP, 0), why));
    assert_eq!(standings.len(), 2);
}

#[tokio::test]
async fn the_last_words_of_a_job_are_the_reason_of_its_end() {
    let bed = bed();
    let grid_engine = adapter(&bed);
    std::fs::create_dir_all(grid_engine.accounting.parent().unwrap()).unwrap();
    std::fs::write(&grid_engine.accounting, include_str!("records/accounting")).unwrap();
    grid_engine.submit(&job(GROUP, 2)).await.unwrap();
    list(&bed, &[(NUMBER, GROUP)]);
    assert_eq!(grid_engine.status().await.unwrap().unwrap_or_default().len(), 2);
    bed.write("of-alice/gridpilot-a-r20.1.words", "gridpilot launcher: ended on SIGTERM\n");
    list(&bed, &[]);
    let gone = gone(&grid_engine).await;
    let Standing::Gone(why) = &gone[1].1 else { panic!("{gone:?}") };
    assert_eq!(why.as_str(), "its Launcher says: ended on SIGTERM (it ended with code 3)");
    assert!(!bed.path("of-alice").exists(), "nothing of it stays");
    assert!(grid_engine.status().await.unwrap().unwrap_or_default().is_empty(), "said once");
}

#[tokio::test]
async fn a_parallel_environment_that_is_unfit_or_not_there_is_a_closed_queue() {
    let bed = bed();
    let grid_engine = adapter(&bed);
    bed.write("qstat.out", include_str!("records/qstat-f.xml"));
    bed.write("qconf.out", &include_str!("records/qconf-sp.txt").replace("TRUE", "FALSE"));
    bed.put("qconf", "cat $D/qconf.out");
    let closed = grid_engine.capabilities().await.unwrap().closed.unwrap();
    assert!(closed.as_str().contains("control_slaves FALSE; it must be TRUE"), "{closed}");
    bed.put("qconf", "echo 'parallel environment \"gridpilot\" does not exist'; exit 1");
    let closed = grid_engine.capabilities().await.unwrap().closed.unwrap();
    assert_eq!(closed.as_str(), "parallel environment \"gridpilot\" does not exist");
    bed.put("qconf", "echo 'error: commlib error: got select error (Connection refused)' >&2; exit 1");
    assert!(matches!(grid_engine.capabilities().await, Err(BatchError::Unavailable(_))));
}

/// The site submits it again, and must not be told that it ended.
#[tokio::test]
async fn of_a_submission_that_never_turned_up_nothing_is_said_and_nothing_stays() {
    let bed = bed();
    bed.put("qsub", "echo 'failed receiving gdi request response for mid=1' >&2; exit 1");
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
