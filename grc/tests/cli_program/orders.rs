//! Orders: what `submit` and `reserve` make of options and files, and that each is made once.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use protocol::client::{Request, Selector};
use protocol::ids::ReservationId;
use protocol::job::Target;
use protocol::reservation::{Bandwidth, Limits, Placement, Start};

use crate::fake::{Act, Grc, Outcome, honest};

#[test]
fn submit_carries_every_option_and_the_command_as_bytes() {
    let grc = Grc::new(honest);
    let mut command = grc.gridpilot(&[
        "submit", "--nodes", "b=2,a=1", "--slots", "2", "--time", "01:30:00", "--cpus", "1.5", "--memory",
        "2GiB", "--disk", "500M", "--env", "host", "--cwd", "/tmp", "--set", "A=b=c", "--name", "ring",
        "--all", "--", "prog", "--nodes",
    ]);
    command.arg(OsStr::from_bytes(b"\xff\xfe"));
    let outcome = Outcome::of(command.output().unwrap());
    assert_eq!((outcome.code, outcome.text()), (Some(0), "j3 submitted in r2\n"), "{outcome:?}");
    let [Request::Submit { ask, job, .. }] = &grc.requests()[..] else { panic!("{:?}", grc.requests()) };
    assert_eq!(ask.placement, Placement::Sites(vec![("b".parse().unwrap(), 2), ("a".parse().unwrap(), 1)]));
    assert_eq!((ask.slots, ask.duration_s), (2, 5400));
    assert_eq!(
        ask.limits,
        Limits { cpus_milli: 1500, memory_bytes: 2 << 30, disk_bytes: 500 << 20, pids: 0 }
    );
    assert_eq!(ask.label.as_ref().unwrap().as_str(), "ring");
    assert_eq!(job.label, ask.label);
    assert_eq!(job.target, Target::All);
    assert_eq!(job.command.argv, [b"prog".to_vec(), b"--nodes".to_vec(), b"\xff\xfe".to_vec()]);
    assert_eq!(job.command.variables, [("A".parse().unwrap(), "b=c".to_owned())]);
    assert_eq!(job.command.directories, ["/tmp".parse().unwrap()]);
    assert!(job.command.directory_required);
    grc.close();
}

#[test]
fn without_options_one_node_for_an_hour_starts_in_this_directory_if_it_is_there() {
    let grc = Grc::new(honest);
    let here = tempfile::tempdir().unwrap();
    let outcome = grc.gridpilot(&["submit", "--", "true"]).current_dir(here.path()).output().unwrap();
    assert!(outcome.status.success());
    let [Request::Submit { ask, job, .. }] = &grc.requests()[..] else { panic!("{:?}", grc.requests()) };
    assert_eq!((&ask.placement, ask.slots, ask.duration_s), (&Placement::Anywhere(1), 1, 3600));
    assert_eq!((ask.start, &ask.bandwidth), (Start::Open, &Bandwidth::Unasked), "it queues");
    assert_eq!(ask.limits, Limits::default());
    assert_eq!(ask.environment.as_str(), "host");
    let real = std::fs::canonicalize(here.path()).unwrap();
    assert_eq!(job.command.directories, [real.to_str().unwrap().parse().unwrap()]);
    assert!(!job.command.directory_required);
    assert_eq!(job.target, Target::Head);
    grc.close();
}

#[test]
fn a_file_says_the_same_and_what_is_typed_goes_before_it() {
    let grc = Grc::new(honest);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("job.toml");
    let text =
        "nodes = \"a=2\"\nslots = 2\nset = { A = \"file\", B = \"file\" }\ncommand = [\"./ring\", \"-v\"]\n";
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let outcome = grc.run(&["submit", path, "--slots", "3", "--set", "A=typed"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let [Request::Submit { ask, job, .. }] = &grc.requests()[..] else { panic!("{:?}", grc.requests()) };
    assert_eq!(ask.placement, Placement::Sites(vec![("a".parse().unwrap(), 2)]));
    assert_eq!(ask.slots, 3);
    assert_eq!(job.command.argv, [b"./ring".to_vec(), b"-v".to_vec()]);
    let variables: Vec<_> = job.command.variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(variables, [("B", "file"), ("A", "typed")]);

    std::fs::write(path, "slots = 2\nslot = 3\n").unwrap();
    let outcome = grc.run(&["submit", path]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("job.toml, line 2: unknown field `slot`"), "{outcome:?}");
    assert_eq!(grc.requests().len(), 1, "nothing was asked with a bad file");
    grc.close();
}

#[test]
fn submit_in_a_standing_reservation_takes_no_nodes_of_its_own() {
    let grc = Grc::new(honest);
    let outcome = grc.run(&["submit", "--in", "last", "--", "true"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let requests = grc.requests();
    assert_eq!(requests[0], Request::ShowReservation(Selector::Last));
    assert!(matches!(requests[1], Request::SubmitIn { reservation: ReservationId(2), .. }), "{requests:?}");
    let outcome = grc.run(&["submit", "--in", "r2", "--nodes", "4", "--", "true"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert_eq!(grc.requests().len(), 2);
    grc.close();
}

#[test]
fn every_invocation_is_an_order_of_its_own() {
    let grc = Grc::new(honest);
    for _ in 0..3 {
        assert_eq!(grc.run(&["reserve", "--nodes", "2"]).code, Some(0));
    }
    let mut ids: Vec<_> = grc
        .requests()
        .into_iter()
        .map(|request| match request {
            Request::Reserve { id, .. } => id,
            other => panic!("{other:?}"),
        })
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    grc.close();
}

#[test]
fn an_order_repeated_over_a_new_connection_is_the_same_order() {
    let grc = Grc::new(|connection, request| match connection {
        1 => vec![Act::Disconnect],
        _ => honest(connection, request),
    });
    let outcome = grc.run(&["--output-mode", "quiet", "submit", "--", "true"]);
    assert_eq!((outcome.code, outcome.text()), (Some(0), "j3\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("went away; trying again for 30s"), "{outcome:?}");
    let requests = grc.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0], requests[1]);
    grc.close();
}

#[test]
fn an_empty_command_is_refused_without_asking() {
    let grc = Grc::new(honest);
    for args in [&["submit", "--nodes", "2"][..], &["submit", "--"], &["submit", "--", ""]] {
        let outcome = grc.run(args);
        assert_eq!(outcome.code, Some(120), "{args:?} {outcome:?}");
        assert!(outcome.stderr.contains("the command is empty"), "{outcome:?}");
    }
    assert_eq!(grc.requests(), []);
    grc.close();
}
