//! What a look at the queue costs: one command, however many pilots there are. With stand-ins for
//! the commands, which note that they were called.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use protocol::ids::ReservationId;

use super::grid_engine::GridEngine;
use super::names::{Group, job_name, member, pilot_name};
use super::notes::{Note, Notes};
use super::pbs::Pbs;
use super::slurm::Slurm;
use super::{Batch, Standing};
use crate::config::Config;
use crate::pilot::Round;
use crate::site::Account;

/// Batch jobs, and pilots of each.
const LOADS: [(u64, u32); 5] = [(1, 1), (1, 8), (8, 1), (8, 8), (100, 1)];
/// More than it takes to find out what the commands can do.
const FIRST_LOOKS: u32 = 3;
const LOOKS: usize = 6;

/// A system's list of these jobs, all of them running: what its command says when called with words
/// that match the pattern.
type Lists = Vec<(&'static str, String)>;

fn groups(jobs: u64) -> impl Iterator<Item = Group> {
    (1..=jobs).map(|number| (ReservationId(number), Round(1)))
}

fn slurm((jobs, pilots): (u64, u32)) -> Lists {
    let site = "a".parse().unwrap();
    let (mut lines, mut steps) = (String::new(), String::new());
    for group in groups(jobs) {
        let id = group.0.0;
        writeln!(lines, "{id}|alice|RUNNING|None|1795216105|n[1-{pilots}]|{}", job_name(&site, group))
            .unwrap();
        for number in 0..pilots {
            writeln!(steps, "{id}.{number}|alice|{}", pilot_name(&site, member(group, number))).unwrap();
        }
    }
    vec![("*--steps*", steps), ("*--states=all*", lines)]
}

fn grid_engine((jobs, pilots): (u64, u32)) -> Lists {
    let site = "a".parse().unwrap();
    let mut list = "<?xml version='1.0'?><job_info><queue_info>".to_owned();
    for group in groups(jobs) {
        for number in 0..pilots {
            let (id, name, master) =
                (group.0.0, job_name(&site, group), ["MASTER", "SLAVE"][usize::from(number > 0)]);
            write!(
                list,
                "<job_list state=\"running\"><JB_job_number>{id}</JB_job_number><JB_name>{name}</JB_name>\
                 <JB_owner>alice</JB_owner><state>r</state><queue_name>all.q@n{number}</queue_name>\
                 <master>{master}</master><slots>1</slots></job_list>"
            )
            .unwrap();
        }
    }
    vec![("*", list + "</queue_info><job_info></job_info></job_info>")]
}

fn pbs((jobs, pilots): (u64, u32)) -> Lists {
    let site = "a".parse().unwrap();
    let mut list = String::new();
    for group in groups(jobs) {
        let hosts: Vec<String> = (0..pilots).map(|number| format!("n{number}/0")).collect();
        write!(
            list,
            "Job Id: {}.head\n    Job_Name = gp\n    Job_Owner = alice@head\n    job_state = R\n    \
             exec_host = {}\n    Variable_List = GRIDPILOT_BATCH_JOB={}\n\n",
            group.0.0,
            hosts.join("+"),
            job_name(&site, group)
        )
        .unwrap();
    }
    vec![("--version", "Version: 6.1.3\n".into()), ("*", list)]
}

fn stand_in(dir: &Path, program: &str, lists: &Lists) {
    let mut script = format!("#!/bin/sh\ncd '{}'\necho \"$*\" >>called\ncase \"$*\" in\n", dir.display());
    // Of a Slurm without JSON, which prints what its format begins with before every line.
    script += "*--json*) echo 'unrecognized option' >&2; exit 1;;\n";
    for (number, (pattern, list)) in lists.iter().enumerate() {
        fs::write(dir.join(format!("list-{number}")), list).unwrap();
        let print = if program == "squeue" { "sed \"s/^/${format%%\\%*}/\"" } else { "cat" };
        writeln!(script, "{pattern}) for format; do :; done; {print} list-{number};;").unwrap();
    }
    let path = dir.join("bin").join(program);
    // Aside and renamed: a program that is open for writing cannot be started.
    fs::write(path.with_extension("new"), script + "esac\n").unwrap();
    fs::set_permissions(path.with_extension("new"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

/// A CRM that finds so many batch jobs when it starts; says of all pilots how they stand, with one
/// call each time.
async fn expect_one_call<B: Batch>(
    (program, system): (&str, &str),
    lists: fn((u64, u32)) -> Lists,
    start: fn(&Config) -> anyhow::Result<B>,
) {
    for load @ (jobs, pilots) in LOADS {
        let dir = tempfile::tempdir().unwrap();
        let here = |name: &str| dir.path().join(name);
        for below in ["bin", "state"] {
            fs::create_dir(here(below)).unwrap();
        }
        let text = format!(
            "site = \"a\"\nstate = {:?}\ngrc = \"10.0.0.1:7400\"\nlisten = \"10.0.0.2:7401\"\n\
             launcher = \"/usr/lib/gridpilot/launcher\"\nranges = [\"10.71.128.0/17\"]\nprefix_len = 16\n\
             [batch]\nsystem = \"{system}\"\nnodes = 4\ncommands = {:?}\n",
            here("state"),
            here("bin"),
        );
        fs::write(here("crm.toml"), text).unwrap();
        stand_in(dir.path(), program, &lists(load));
        let notes = Notes::open(here("state/batch-jobs")).unwrap();
        for group in groups(jobs) {
            let account = Account { name: "alice".parse().unwrap(), uid: 1001, gid: 1001 };
            let id = format!("{}{}", group.0.0, if system == "pbs" { ".head" } else { "" });
            let note = Note { account, members: (0..pilots).collect(), id: Some(id) };
            notes.put(group, &note).unwrap();
        }
        let batch = start(&Config::load(&here("crm.toml")).unwrap()).unwrap();
        let called = || fs::read_to_string(here("called")).unwrap().lines().count();
        for _ in 0..FIRST_LOOKS {
            let standings = batch.status().await.unwrap().unwrap();
            let runs = |standing: &Standing| matches!(standing, Standing::Running { .. });
            assert!(standings.iter().all(|(_, standing)| runs(standing)), "{system}: {standings:?}");
            assert_eq!(standings.len() as u64, jobs * u64::from(pilots), "{system}, {load:?}");
        }
        let before = called();
        for _ in 0..LOOKS {
            batch.status().await.unwrap();
        }
        assert_eq!(called() - before, LOOKS, "{system}, {jobs} batch jobs of {pilots} pilots");
    }
}

#[tokio::test]
async fn a_look_is_one_squeue_however_many_pilots_there_are() {
    expect_one_call(("squeue", "slurm"), slurm, Slurm::new).await;
}

#[tokio::test]
async fn a_look_is_one_qstat_of_grid_engine_however_many_pilots_there_are() {
    expect_one_call(("qstat", "grid-engine"), grid_engine, GridEngine::new).await;
}

#[tokio::test]
async fn a_look_is_one_qstat_of_pbs_however_many_pilots_there_are() {
    expect_one_call(("qstat", "pbs"), pbs, Pbs::new).await;
}
