//! What Slurm says, in people's words, and what follows from an error of its commands. Pure.

use std::time::Duration;

use protocol::names::Text;

use crate::batch::commands::Answer;
use crate::batch::{Admits, ending};
use crate::standing::BatchError;

/// Parts of messages after which nothing is known: the controller may have done it.
const UNKNOWN: [&str; 4] =
    ["timed out", "Zero Bytes were transmitted", "Connection reset", "Unexpected message received"];
/// Parts of messages after which it has done nothing, and may do it later.
const UNAVAILABLE: [&str; 16] = [
    "Unable to contact slurm controller",
    "unable to establish controller machine",
    "standby mode",
    "temporarily unable",
    "temporarily unavailable",
    "inactive or drain",
    "Could not establish a configuration source",
    "configuration source",
    "Connection refused",
    "Communication connection failure",
    "munge",
    "Munge",
    "authentication credential",
    "Protocol authentication error",
    "Transport endpoint is not connected",
    "setpriv:",
];

/// What a failed command means for what it asked.
pub fn error(answer: &Answer) -> BatchError {
    let complaint = answer.complaint();
    let says = |parts: &[&str]| parts.iter().any(|part| complaint.contains(part));
    let text: Text = complaint.trim_start_matches("sbatch: error: ").into();
    if let Some(limit) = submit_limit(&answer.err) {
        let why = format!("it has as many batch jobs there as it may have (Slurm: {limit})");
        return BatchError::account_full(why);
    }
    match () {
        () if says(&UNKNOWN) => BatchError::Unknown(text),
        () if says(&UNAVAILABLE) => BatchError::Unavailable(text),
        () => BatchError::Refused(text),
    }
}

/// The limit on how many batch jobs there are at once that `sbatch` names before its last words,
/// which are the same for limits that no waiting helps against: `QOSMaxSubmitJobPerUserLimit`,
/// `AssocMaxSubmitJobLimit`, `AssocGrpSubmitJobsLimit` and the like. All are of an association or a
/// QOS, which other accounts need not share: those find out by themselves.
fn submit_limit(said: &str) -> Option<&str> {
    let words = said.split(|c: char| !c.is_ascii_alphanumeric());
    let is_limit = |word: &&str| {
        (word.starts_with("QOS") || word.starts_with("Assoc"))
            && word.contains("SubmitJob")
            && word.ends_with("Limit")
    };
    words.into_iter().find(is_limit)
}

/// Why a batch job waits; `None` when Slurm gives no reason yet.
pub fn waits(reason: &str) -> Option<Text> {
    let words = match reason {
        "" => return None,
        "Priority" => "batch jobs of higher priority come first",
        "Resources" => "it waits for free nodes",
        "BeginTime" => "its window is not near yet",
        "Dependency" => "it depends on another batch job",
        "Licenses" => "it waits for a license",
        "PartitionDown" => "the partition is down",
        "PartitionInactive" => "the partition is inactive",
        "PartitionNodeLimit" | "PartitionConfig" => "it asks for more than the partition allows",
        "PartitionTimeLimit" => "it asks for more time than the partition allows",
        "ReqNodeNotAvail" => "nodes that it asks for are not available",
        "Reservation" => "it waits for its advance reservation",
        "ReservationDeleted" => "its advance reservation was deleted",
        "NodeDown" => "a node that it needs is down",
        "BadConstraints" => "no node can ever fulfil its constraints",
        "JobHeldUser" => "it is held by its user",
        "JobHeldAdmin" => "it is held by the administrator",
        "JobLaunchFailure" | "launch_failed_requeued_held" => "it could not be launched on its nodes",
        "InvalidAccount" => "its account is invalid",
        "InvalidQOS" => "its QOS is invalid",
        other => return Some(describe(other)),
    };
    Some(format!("{words} (Slurm: {reason})").into())
}

fn describe(reason: &str) -> Text {
    match () {
        () if reason.starts_with("QOS") => {
            format!("the limit of its QOS is reached (Slurm: {reason})").into()
        }
        () if reason.starts_with("Assoc") || reason.starts_with("Max") => {
            format!("the limit of its account is reached (Slurm: {reason})").into()
        }
        () => format!("Slurm says {reason}").into(),
    }
}

/// Why a batch job is over.
pub fn over(job: u64, state: &str, exit: Option<i32>) -> Text {
    let what = match state {
        "CANCELLED" => "it was cancelled".into(),
        "TIMEOUT" => "its time limit was reached".into(),
        "NODE_FAIL" => "a node of it failed".into(),
        "PREEMPTED" => "it was preempted by another batch job".into(),
        "BOOT_FAIL" => "a node of it did not boot".into(),
        "DEADLINE" => "its deadline passed while it waited".into(),
        "OUT_OF_MEMORY" => "it used more memory than Slurm gave it".into(),
        "COMPLETED" | "FAILED" => match exit {
            Some(code) => ending::words(code),
            None if state == "FAILED" => "it failed".into(),
            None => "it ended".into(),
        },
        other => format!("Slurm says {other}"),
    };
    format!("{what} (Slurm batch job {job})").into()
}

/// Reads `scontrol --oneliner show partition`: the partition of that name, else the default one.
/// `None` when it is not there.
pub fn partition(text: &str, name: Option<&str>) -> Option<Admits> {
    let lines = text.lines().map(|line| line.split_whitespace().filter_map(|word| word.split_once('=')));
    for fields in lines {
        let fields: Vec<(&str, &str)> = fields.collect();
        let get = |key: &str| fields.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
        let Some(own) = get("PartitionName") else { continue };
        let is_it = name.map_or(get("Default") == Some("YES"), |name| name == own);
        if !is_it {
            continue;
        }
        let state = get("State").unwrap_or("UP");
        let closed = (state != "UP").then(|| format!("Slurm's partition {own} is {state}").into());
        return Some(Admits {
            nodes_max: get("MaxNodes").and_then(|max| max.parse().ok()),
            walltime_max: get("MaxTime").and_then(walltime),
            closed,
        });
    }
    None
}

/// `UNLIMITED`, `minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours:minutes:seconds`
/// and the shorter forms with days.
fn walltime(text: &str) -> Option<Duration> {
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (days.parse::<u64>().ok()?, rest),
        None => (0, text),
    };
    let numbers: Vec<u64> = rest.split(':').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = match (numbers.as_slice(), text.contains('-')) {
        ([hours], true) => [*hours, 0, 0],
        ([hours, minutes], true) => [*hours, *minutes, 0],
        ([minutes], false) => [0, *minutes, 0],
        ([minutes, seconds], false) => [0, *minutes, *seconds],
        ([hours, minutes, seconds], _) => [*hours, *minutes, *seconds],
        _ => return None,
    };
    let parts = [(days, 86_400), (hours, 3600), (minutes, 60), (seconds, 1)];
    let seconds = parts.into_iter().try_fold(0u64, |sum, (n, unit)| sum.checked_add(n.checked_mul(unit)?))?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use proptest::prelude::*;

    use super::*;

    /// `scontrol --oneliner show partition` of 22.05.8.
    const PARTITIONS: &str = "\
PartitionName=grid AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=2 MaxTime=02:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=b[1-2] PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=8 TotalNodes=2 SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=8,mem=4000M,node=2,billing=8
PartitionName=shut AllowGroups=ALL Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 State=DOWN TotalCPUs=8 TotalNodes=2
";

    #[test]
    fn a_partitions_limits_are_read_and_a_closed_one_is_noticed() {
        let (grid, shut) =
            (partition(PARTITIONS, None).unwrap(), partition(PARTITIONS, Some("shut")).unwrap());
        assert_eq!(grid, partition(PARTITIONS, Some("grid")).unwrap());
        assert_eq!((grid.nodes_max, grid.walltime_max), (Some(2), Some(Duration::from_secs(7200))));
        assert_eq!((grid.closed, shut.nodes_max, shut.walltime_max), (None, None, None));
        assert_eq!(shut.closed.unwrap().as_str(), "Slurm's partition shut is DOWN");
        assert_eq!(partition(PARTITIONS, Some("nope")), None);
    }

    #[test]
    fn walltimes_are_read_in_every_form() {
        for (text, seconds) in [
            ("30", Some(1800)),
            ("1:30", Some(90)),
            ("02:00:00", Some(7200)),
            ("1-0", Some(86_400)),
            ("2-12:30", Some(217_800)),
            ("7-00:00:00", Some(604_800)),
            ("UNLIMITED", None),
            ("", None),
            ("1:2:3:4", None),
            ("99999999999999999999", None),
            ("9999999999999999999-1", None),
        ] {
            assert_eq!(walltime(text), seconds.map(Duration::from_secs), "{text}");
        }
    }

    fn answer(err: &str) -> Answer {
        Answer { status: ExitStatus::default(), out: String::new(), err: err.into() }
    }

    /// As current releases print it: the limit first, then the same line for every limit.
    #[test]
    fn a_limit_on_how_many_jobs_there_are_is_the_accounts_and_passes() {
        let last = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job \
                    submit limit, user's size and/or time limits)\n";
        for limit in ["QOSMaxSubmitJobPerUserLimit", "AssocMaxSubmitJobLimit", "AssocGrpSubmitJobsLimit"] {
            let error = error(&answer(&format!("sbatch: error: {limit}\n{last}")));
            let why = format!("it has as many batch jobs there as it may have (Slurm: {limit})");
            assert_eq!(error, BatchError::account_full(why));
        }
        for said in ["", "sbatch: error: QOSMaxWallDurationPerJobLimit\n", "SubmitJobLimit\n"] {
            let error = error(&answer(&format!("{said}{last}")));
            assert!(matches!(error, BatchError::Refused(_)), "{said}{error}");
        }
    }

    /// Messages of 22.05.8, but for the one about a time-out.
    #[test]
    fn only_what_can_never_work_is_a_refusal() {
        for (complaint, kind) in [
            ("Batch job submission failed: Invalid partition name specified", "refused"),
            ("Batch job submission failed: Requested node configuration is not available", "refused"),
            ("Batch job submission failed: Invalid feature specification", "refused"),
            (
                "Batch job submission failed: Unable to contact slurm controller (connect failure)",
                "unavailable",
            ),
            ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", "unavailable"),
            ("Batch job submission failed: Socket timed out on send/recv operation", "unknown"),
            ("setpriv: initgroups failed: Operation not permitted", "unavailable"),
        ] {
            let error = error(&answer(&format!("sbatch: error: {complaint}\n")));
            let got = match &error {
                BatchError::Refused(_) => "refused",
                BatchError::Unavailable(_) => "unavailable",
                BatchError::AccountFull(_) => "account full",
                BatchError::Unknown(_) => "unknown",
            };
            assert_eq!((got, error.to_string().as_str()), (kind, complaint));
        }
    }

    #[test]
    fn endings_name_what_a_user_can_understand() {
        assert_eq!(over(7, "TIMEOUT", Some(0)).as_str(), "its time limit was reached (Slurm batch job 7)");
        let failed = over(7, "FAILED", Some(69));
        assert!(failed.as_str().contains("could not start a NodeManager"), "{failed}");
        assert!(over(7, "FAILED", None).as_str().starts_with("it failed"));
        assert!(waits("Resources").unwrap().as_str().starts_with("it waits for free nodes"));
        assert!(waits("QOSMaxJobsPerUserLimit").unwrap().as_str().contains("QOS is reached"));
        assert_eq!(waits(""), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "\\PC{0,80}", name in proptest::option::of("[a-z]{1,4}")) {
            let _ = (partition(&text, name.as_deref()), walltime(&text), error(&answer(&text)), waits(&text));
            let _ = partition(&format!("PartitionName=a Default=YES MaxTime={text} MaxNodes={text}"), None);
        }
    }
}
