//! What a user is promised of a grid in which nothing goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use nix::sys::signal::Signal;

use gridpilot_tests::demo::FAMILIES;
use gridpilot_tests::process::{Identity, wait_until};
use gridpilot_tests::state::Driver;

use crate::common::{TestGrid, finish_child, plan};

/// Hosts of a ring's output with the number of ranks on each; the whole must have been right.
pub fn ring_hosts(output: &str) -> BTreeMap<String, usize> {
    assert!(output.contains("right\n"), "{output}");
    let mut hosts = BTreeMap::new();
    for line in output.lines().filter(|line| line.starts_with("rank ")) {
        let host = line.split(" on ").nth(1).and_then(|rest| rest.split(':').next()).unwrap();
        *hosts.entry(host.to_owned()).or_insert(0) += 1;
    }
    hosts
}

pub fn each(hosts: &[&str], count: usize) -> BTreeMap<String, usize> {
    hosts.iter().map(|host| ((*host).to_owned(), count)).collect()
}

pub const FOUR: [&str; 4] = ["a-0", "a-1", "b-0", "b-1"];

/// The whole point: not one option of MPI's own is given.
#[test]
fn unmodified_mpi_programs_of_both_families_run_over_two_sites() {
    run_both_rings(TestGrid::two_by_two());
}

/// Both families' ring over both sites, and nothing left.
pub fn run_both_rings(mut world: TestGrid) {
    let account = world.account();
    let place = world.workplace();
    for family in FAMILIES {
        let ring = place.compile_ring(&account, family).unwrap().display().to_string();
        let mpirun = format!("mpirun.{family}");
        let outcome = world.submit("a=2,b=2", &[&mpirun, &ring]);
        assert_eq!(outcome.code, 0, "{family}: {outcome:?}{}", world.logs());
        assert_eq!(ring_hosts(&outcome.out), each(&FOUR, 1), "{family}");
    }
    world.observe();
    world.expect_nothing_left();
}

#[test]
fn several_ranks_run_on_each_member_when_slots_are_asked() {
    let world = TestGrid::two_by_two();
    let account = world.account();
    let place = world.workplace();
    for family in FAMILIES {
        let ring = place.compile_ring(&account, family).unwrap().display().to_string();
        let mpirun = format!("mpirun.{family}");
        let outcome =
            world.type_in(&["submit", "--wait", "--nodes", "a=2,b=2", "--slots", "2", "--", &mpirun, &ring]);
        assert_eq!(outcome.code, 0, "{family}: {outcome:?}{}", world.logs());
        assert_eq!(ring_hosts(&outcome.out), each(&FOUR, 2), "{family}");
    }
    world.expect_nothing_left();
}

/// With radix 2 the daemons on other members start the next ones: members ssh onward.
#[test]
fn members_start_members_when_the_tree_is_narrow() {
    let world = TestGrid::up(plan(2, 3));
    let account = world.account();
    let place = world.workplace();
    let ring = place.compile_ring(&account, "openmpi").unwrap().display().to_string();
    let outcome = world.type_in(&[
        "submit",
        "--wait",
        "--nodes",
        "a=3,b=3",
        "--set",
        "OMPI_MCA_routed_radix=2",
        "--set",
        "OMPI_MCA_plm_rsh_num_concurrent=2",
        "--",
        "mpirun.openmpi",
        &ring,
    ]);
    assert_eq!(outcome.code, 0, "{outcome:?}{}", world.logs());
    assert_eq!(ring_hosts(&outcome.out).len(), 6);

    // A rank has the environment of its daemon, and that says from where it was logged in to.
    let script = "echo $GRIDPILOT_MEMBER $MASTER_ADDR ${SSH_CONNECTION%% *}";
    let words = ["submit", "--wait", "--nodes", "a=3,b=3", "--set", "OMPI_MCA_routed_radix=2", "--"];
    let outcome = world.type_in(&[&words[..], &["mpirun.openmpi", "sh", "-c", script]].concat());
    assert_eq!(outcome.code, 0, "{outcome:?}{}", world.logs());
    let started: Vec<Vec<&str>> = outcome.out.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(started.len(), 6, "{outcome:?}");
    let onward = started.iter().filter(|words| words.len() == 3 && words[2] != words[1]).count();
    assert!(onward >= 3, "only {onward} members were started by another than the head: {outcome:?}");
}

#[test]
fn mpi_runs_over_routed_sandboxes_too() {
    let mut plan = plan(2, 2);
    plan.driver = Driver::Veth;
    let world = TestGrid::up(plan);
    let account = world.account();
    let place = world.workplace();
    let ring = place.compile_ring(&account, "openmpi").unwrap().display().to_string();
    let outcome = world.submit("a=2,b=2", &["mpirun.openmpi", &ring]);
    assert_eq!(outcome.code, 0, "{outcome:?}{}", world.logs());
    assert_eq!(ring_hosts(&outcome.out), each(&FOUR, 1));
    world.expect_nothing_left();
}

/// 12 of 12 by name and 12 of 12 by address, with no prompt and no unchecked key.
#[test]
fn ssh_works_between_every_pair_of_members() {
    let mut world = TestGrid::two_by_two();
    let place = world.workplace();
    let reservation = world.reserve("a=2,b=2");
    let addresses = world.addresses(&reservation);
    let names: Vec<&str> = addresses.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, FOUR);
    let pairs: String = addresses.iter().map(|(name, address)| format!("{name}={address} ")).collect();
    // Every member reports into a file of its own in the shared home.
    let script = format!(
        r#"for pair in {pairs}; do
            name=${{pair%=*}}; address=${{pair#*=}}
            [ "$name" = "$(hostname)" ] && continue
            for target in "$name" "$address"; do
                answer=$(ssh -o StrictHostKeyChecking=yes -o BatchMode=yes "$target" hostname 2>&1)
                echo "$target $name $answer" >>"{}/$(hostname)"
            done
        done"#,
        place.path.display()
    );
    let outcome = world.on_all(&reservation, &script);
    assert_eq!(outcome.code, 0, "{outcome:?}{}", world.logs());
    let (mut by_name, mut by_address, mut wrong) = (0, 0, Vec::new());
    for from in FOUR {
        let report = std::fs::read_to_string(place.path.join(from)).unwrap();
        for line in report.lines() {
            let words: Vec<&str> = line.splitn(3, ' ').collect();
            match words[..] {
                [target, name, answer] if name == answer && target == name => by_name += 1,
                [_, name, answer] if name == answer => by_address += 1,
                _ => wrong.push(format!("{from}: {line}")),
            }
        }
    }
    assert_eq!((by_name, by_address), (12, 12), "{wrong:?}");
    world.release(&reservation);
    world.expect_nothing_left();
}

#[test]
fn a_member_with_a_wrong_host_key_is_refused() {
    let mut world = TestGrid::two_by_two();
    let reservation = world.reserve("a=1,b=1");
    let outcome = world.on_head(
        &reservation,
        r#"ssh b-0 true || { echo "not even before"; exit 1; }
        ssh b-0 'ssh-keygen -q -t ed25519 -N "" -f /tmp/other && cp /tmp/other /etc/gridpilot/ssh_host_ed25519_key' || exit 2
        ssh b-0 true; echo "after: $?""#,
    );
    assert_eq!(outcome.code, 0, "{outcome:?}{}", world.logs());
    assert!(outcome.out.contains("after: 255"), "{outcome:?}");
    assert!(outcome.err.contains("verification failed"), "{outcome:?}");
    world.release(&reservation);
    world.expect_nothing_left();
}

/// Other sandboxes of the same nodes at the same time: nothing of theirs can be had.
#[test]
fn two_reservations_on_the_same_nodes_know_nothing_of_each_other() {
    let mut world = TestGrid::two_by_two();
    let first = world.reserve("a=2,b=2");
    let second = world.reserve("a=2,b=2");
    let (ours, theirs) = (world.addresses(&first), world.addresses(&second));
    let set = |list: &[(String, String)]| -> BTreeSet<String> {
        list.iter().map(|(_, address)| address.clone()).collect()
    };
    assert_eq!(set(&ours).len() + set(&theirs).len(), 8);
    assert!(set(&ours).is_disjoint(&set(&theirs)), "{ours:?} {theirs:?}");

    world.on_all(&first, "echo secret >/tmp/of-first; (setsid sleep 4321 >/dev/null 2>&1 &)").ok();
    let stranger = &ours[1].1;
    let seen = world.on_head(
        &second,
        &format!(
            r#"cat /proc/[0-9]*/comm | grep -cx sleep
            ls /tmp
            grep -c . ~/.ssh/known_hosts
            ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectionAttempts=1 {stranger} true
            echo "ssh: $?""#
        ),
    );
    assert!(seen.out.starts_with("0\n"), "a process of the other reservation is seen: {seen:?}");
    assert!(!seen.out.contains("of-first"), "a file of the other reservation is seen: {seen:?}");
    assert!(seen.out.contains("ssh: 255"), "the other reservation let us in: {seen:?}");
    assert!(!seen.err.contains("refused"), "the other one was there to refuse us: {seen:?}");
    let keys = |id: &str| world.on_head(id, "cat ~/.ssh/id_ed25519.pub ~/.ssh/known_hosts").ok();
    let of = |text: String| -> BTreeSet<String> {
        text.split_whitespace().filter(|word| word.starts_with("AAAA")).map(String::from).collect()
    };
    assert!(of(keys(&first)).is_disjoint(&of(keys(&second))));
    world.release(&first);
    let still = world.on_head(&second, "ssh b-1 hostname");
    assert_eq!(still.out.trim(), "b-1", "the end of one touches the other: {still:?}");
    world.release(&second);
    world.expect_nothing_left();
}

#[test]
fn the_jobs_own_exit_code_comes_out_of_submit_and_of_wait() {
    let mut world = TestGrid::two_by_two();
    let reservation = world.reserve("a=1");
    for (script, code) in
        [("exit 0", 0), ("exit 1", 1), ("exit 42", 42), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]
    {
        let outcome = world.on_head(&reservation, script);
        assert_eq!(outcome.code, code, "{script}: {outcome:?}");
        let again = world.type_in(&["wait", "last"]);
        assert_eq!(again.code, code, "wait after {script}: {again:?}");
    }
    let missing = world.type_in(&["submit", "--wait", "--in", &reservation, "--", "/no/such/program"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    let data = world.type_in(&["submit", "--wait", "--in", &reservation, "--", "/etc/passwd"]);
    assert_eq!(data.code, 126, "{data:?}");
    world.release(&reservation);
    world.expect_nothing_left();
}

#[test]
fn output_arrives_whole_in_order_and_apart() {
    let mut world = TestGrid::two_by_two();
    let reservation = world.reserve("b=1");
    let outcome = world.on_head(&reservation, "seq 1 200000; echo on stderr >&2");
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(outcome.out.len(), expected.len());
    assert!(outcome.out == expected, "the output is not the one that was written");
    assert!(outcome.err.contains("on stderr"), "{}", outcome.err);
    let log = world.type_in(&["log", "last"]).ok();
    assert!(log == expected, "the log is not what was written");
    assert_eq!(world.type_in(&["log", "--stderr", "last"]).ok(), "on stderr\n");
    world.release(&reservation);
}

#[test]
fn ctrl_c_leaves_the_job_running_and_says_how_to_come_back() {
    let world = TestGrid::two_by_two();
    let child = world
        .command(&["submit", "--wait", "--nodes", "a=1", "--", "sh", "-c", "echo begun; sleep 3; exit 7"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let identity = Identity::of(i32::try_from(child.id()).unwrap()).unwrap();
    assert!(wait_until(std::time::Duration::from_secs(60), || {
        let jobs = world.type_in(&["--output-mode", "json", "show", "last"]);
        jobs.code == 0 && jobs.out.contains("\"running\"")
    }));
    assert!(identity.signal(Signal::SIGINT));
    let outcome = finish_child(child);
    assert_eq!(outcome.code, 130, "{outcome:?}");
    assert!(outcome.err.contains("gridpilot wait j"), "{outcome:?}");
    let waited = world.type_in(&["wait", "last"]);
    assert_eq!(waited.code, 7, "{waited:?}");
    world.expect_nothing_left();
}

#[test]
fn the_next_reservation_waits_for_room_and_then_runs() {
    let mut world = TestGrid::up(plan(1, 1));
    let standing: Vec<String> = (0..4).map(|_| world.reserve("a=1")).collect();
    let outcome = world.type_in(&["--output-mode", "quiet", "submit", "--nodes", "a=1", "--", "true"]).ok();
    let job = outcome.trim();
    assert_eq!(world.ask(&["show", job])["state"], "waiting");
    world.release(&standing[0]);
    assert_eq!(world.type_in(&["wait", job]).code, 0);
    for reservation in &standing[1..] {
        world.release(reservation);
    }
    world.expect_nothing_left();
}
