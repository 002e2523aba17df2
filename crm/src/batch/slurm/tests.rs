//! The adapter with stand-ins for the commands of Slurm; what a real one says is in the tests of a
//! whole grid.

use super::*;
use crate::batch::stand_ins::{Bed, alice, job};
use crate::pilot::Round;

const GROUP: Group = (ReservationId(12), Round(1));

/// Commands of a Slurm that has taken one batch job.
fn bed() -> Bed {
    let bed = Bed::new();
    bed.put("sbatch", "cat >/dev/null; cat $D/sbatch.err >&2; echo 7; [ ! -s $D/sbatch.err ]");
    bed.write("sbatch.err", "");
    bed.put("scancel", "echo \"$@\" >>$D/scancel.words");
    bed.put("scontrol", "cat $D/partitions");
    bed.write("partitions", "PartitionName=grid Default=YES MaxNodes=2 MaxTime=02:00:00 State=UP\n");
    bed
}

fn slurm(bed: &Bed, more: &str) -> Slurm {
    let config = bed.config(&format!("system = \"slurm\"\n{more}"));
    Slurm { commands: bed.commands(), ..Slurm::new(&config).unwrap() }
}

#[tokio::test]
async fn a_queue_whose_json_is_too_long_is_asked_for_lines_from_then_on() {
    let bed = bed();
    bed.put(
        "squeue",
        "case $1 in --json) echo json >>$D/asked; head -c 70000000 /dev/zero;;\n\
         *) echo \"${5%%|*}|7|alice|PENDING|Resources|N/A||gridpilot-a-r12.1\";; esac",
    );
    let slurm = slurm(&bed, "");
    slurm.submit(&job(GROUP, 1)).await.unwrap();
    for _ in 0..2 {
        let standings = slurm.status().await.unwrap().unwrap_or_default();
        assert!(matches!(standings[..], [(_, Standing::Queued { .. })]), "{standings:?}");
        slurm.capabilities().await.unwrap();
    }
    assert_eq!(bed.read("asked"), "json\n");
}

#[test]
fn a_node_is_swept_by_the_sites_own_words_or_by_a_small_job_of_the_account() {
    let bed = bed();
    let (node, account) = ("n1".parse().unwrap(), alice());
    let own = slurm(&bed, "sweep = [\"ssh\", \"{node}\", \"sweep {user} {uid} {gid}\"]\n");
    let (user, program, words) = own.sweep_command(&node, &account);
    let said = format!("sweep alice {} {}", account.uid, account.gid);
    assert_eq!((user, program.as_str(), words), (None, "ssh", vec!["n1".to_owned(), said]));
    let slurm = slurm(&bed, "partition = \"grid\"\n");
    let (user, program, words) = slurm.sweep_command(&node, &account);
    assert!(user == Some(&account) && program.ends_with("srun"));
    let words = words.join(" ");
    assert!(words.contains("--nodelist=n1") && words.contains("--partition=grid"), "{words}");
    assert!(words.ends_with("/lib/node-manager sweep"), "{words}");
}

#[tokio::test]
async fn a_partition_that_is_not_there_is_a_closed_queue_and_nobody_is_asked_for_no_jobs() {
    let bed = bed();
    let slurm = slurm(&bed, "partition = \"gone\"\n");
    let closed = slurm.capabilities().await.unwrap().closed;
    assert_eq!(closed.unwrap().as_str(), "Slurm has no partition gone");
    assert_eq!(slurm.status().await, Ok(None));
    bed.put("scontrol", "echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1");
    assert!(matches!(slurm.capabilities().await, Err(BatchError::Unavailable(_))));
}
