//! Bad input, from users, administrators, users who try to be administrators, and strangers on
//! the network: refused with a reason, and nothing changed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gridpilot_tests::netns::{self, GRC_ADDRESS, machine_address};
use gridpilot_tests::process::end_all;
use gridpilot_tests::site::{CRM_PORT, GRC_PORT, crm_config_path};

use crate::common::{Outcome, TestGrid, finish, plan};

/// Exit code of a refusal.
const REFUSED: i32 = 120;
/// Exit code of a command line that makes no sense.
const USAGE: i32 = 2;

fn assert_refused(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.code, code, "{outcome:?}");
    let lines = outcome.err.trim_end().lines().count();
    assert!((1..=3).contains(&lines) || code == USAGE, "{lines} lines: {outcome:?}");
    for word in words {
        assert!(outcome.err.contains(word), "{word} is not in {outcome:?}");
    }
}

#[test]
fn requests_that_cannot_be_met_are_refused_and_nothing_is_made() {
    let world = TestGrid::two_by_two();
    let submit = |nodes: &str| world.submit(nodes, &["true"]);
    assert_refused(&submit("z=1"), REFUSED, &["no site is called z"]);
    assert_refused(&submit("a=3"), REFUSED, &["site a", "2", "3"]);
    assert_refused(&submit("5"), REFUSED, &["4", "5"]);
    for zero in ["a=0", "0", "a=1,b=0"] {
        let outcome = submit(zero);
        assert!([USAGE, REFUSED].contains(&outcome.code), "{outcome:?}");
        assert!(outcome.err.contains("at least one node") || outcome.err.contains('0'), "{outcome:?}");
    }
    assert_refused(&world.type_in(&["submit", "--wait", "--"]), REFUSED, &["empty", "--"]);
    let empty = world.submit("a=1", &[""]);
    assert!([USAGE, REFUSED].contains(&empty.code), "{empty:?}");
    assert!(empty.err.contains("empty"), "{empty:?}");
    let environment = world.type_in(&["submit", "--wait", "--env", "no-such", "--", "true"]);
    assert_eq!(environment.code, REFUSED, "{environment:?}");
    assert_eq!(world.type_in(&["show", "j999"]).code, 121);
    assert_eq!(world.type_in(&["release", "r999"]).code, 121);
    assert!(world.grid.pilot_processes().is_empty());
    assert_eq!(world.ask(&["jobs"]).to_string().matches("\"id\"").count(), 0, "a refused job is kept");
    world.expect_nothing_left();
}

#[test]
fn a_grc_that_is_not_there_is_named_with_its_socket() {
    let world = TestGrid::machines(plan(1, 1));
    let mut command = Command::new(world.grid.state.path("bin/gridpilot"));
    let outcome = finish(command.args(["--reconnect", "1s", "sites"]).env("GRIDPILOT_GRC", "/run/no.sock"));
    assert_refused(&outcome, 122, &["/run/no.sock"]);
}

#[test]
fn a_config_with_an_unknown_key_is_refused_by_file_and_line() {
    let world = TestGrid::two_by_two();
    for (program, config) in [("grc", "etc/grc.toml"), ("crm", "etc/crm-a.toml")] {
        let good = world.grid.state.path(config);
        let bad = world.grid.state.path("etc/bad.toml");
        let text = std::fs::read_to_string(&good).unwrap();
        std::fs::write(&bad, format!("colour = \"blue\"\n{text}")).unwrap();
        let check = |file: &Path| {
            let mut command = Command::new(world.grid.state.path(&format!("lib/{program}")));
            finish(command.arg("serve").arg("--config").arg(file).arg("--check-config"))
        };
        let accepted = check(&good);
        assert_eq!(accepted.code, 0, "{program}: {accepted:?}");
        let refused = check(&bad);
        assert_ne!(refused.code, 0, "{program}");
        assert!(refused.err.contains("colour"), "{program}: {refused:?}");
        assert!(refused.err.contains("bad.toml"), "{program}: {refused:?}");
        assert!(refused.err.contains('1'), "{program} names the line: {refused:?}");
    }
}

#[test]
fn a_policy_that_others_may_write_is_refused_and_the_node_is_named() {
    let world = TestGrid::up(plan(1, 1));
    let policy = world.grid.state.path("etc/a1/node.policy");
    let mode = |mode| std::fs::set_permissions(&policy, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o666);
    let outcome = world.submit("a=1", &["true"]);
    assert_eq!(outcome.code, 123, "{outcome:?}{}", world.logs());
    assert!(outcome.err.contains("a1"), "{outcome:?}");
    assert!(outcome.err.contains("node.policy") || outcome.err.contains("policy"), "{outcome:?}");
    mode(0o644);
    assert_eq!(world.submit("a=1", &["true"]).code, 0);
    world.expect_nothing_left();
}

#[test]
fn the_node_manager_refuses_whoever_starts_it_by_hand() {
    let world = TestGrid::up(plan(1, 1));
    let place = world.workplace();
    let account = world.account();
    let installed = world.grid.state.path("lib/node-manager").display().to_string();
    let copied = place.path.join("node-manager").display().to_string();
    std::fs::copy(&installed, &copied).unwrap();
    std::fs::set_permissions(&copied, std::fs::Permissions::from_mode(0o755)).unwrap();
    let enter = world.grid.state.machine("a1").unwrap().enter();
    let as_user = |prefix: &[&str], program: &str| {
        let mut command = Command::new(&enter[0]);
        command
            .args(&enter[1..])
            .args(["setpriv", &format!("--reuid={}", account.uid), &format!("--regid={}", account.gid)])
            .args(["--init-groups", "--inh-caps=-all"])
            .args(prefix)
            .args(["--", program]);
        finish(&mut command)
    };
    for (what, outcome) in [
        ("by hand", as_user(&[], &installed)),
        ("under no_new_privs", as_user(&["--no-new-privs"], &installed)),
        ("as a copy", as_user(&[], &copied)),
    ] {
        assert!(outcome.code != 0 && outcome.code < 128, "{what}: {outcome:?}");
        assert_eq!(outcome.err.trim_end().lines().count(), 1, "{what}: {outcome:?}");
    }
    let launcher = world.grid.state.path("lib/launcher").display().to_string();
    let no_invocation = as_user(&[], &launcher);
    assert_ne!(no_invocation.code, 0, "{no_invocation:?}");
    world.expect_nothing_left();
}

/// Bytes that are no conversation; the last ones announce a frame of 4 GiB.
fn nonsense() -> Vec<Vec<u8>> {
    let mut oversized = vec![0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0];
    oversized.extend([0; 8]);
    vec![b"GET / HTTP/1.0\r\n\r\n".to_vec(), vec![0; 64], vec![0xff; 4096], oversized]
}

/// The peer must end the connection by itself.
fn must_be_closed(mut stream: impl Read, what: &str) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => (),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => (),
        Err(error) => panic!("{what}: not closed: {error}"),
    }
}

#[test]
fn garbage_and_oversized_frames_close_the_connection_and_nothing_else() {
    let world = TestGrid::up(plan(1, 1));
    let limit = Some(Duration::from_secs(30));
    let ports = [
        ("grc", format!("{GRC_ADDRESS}:{GRC_PORT}")),
        ("a0", format!("{}:{CRM_PORT}", machine_address(0, 0))),
    ];
    for bytes in nonsense() {
        for (machine, address) in &ports {
            let pid = world.grid.state.machine(machine).unwrap().holder.pid;
            let address: SocketAddr = address.parse().unwrap();
            let mut stream = netns::inside(pid, || TcpStream::connect(address).unwrap()).unwrap();
            stream.set_read_timeout(limit).unwrap();
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            must_be_closed(stream, machine);
        }
        let mut stream = UnixStream::connect(world.grid.state.socket()).unwrap();
        stream.set_read_timeout(limit).unwrap();
        let _ = stream.write_all(&bytes);
        must_be_closed(stream, "the socket");
    }
    for daemon in &world.grid.state.daemons {
        assert!(daemon.identity.alive(), "{} died of it{}", daemon.name, world.logs());
    }
    assert_eq!(world.submit("a=1", &["true"]).code, 0);
    world.expect_nothing_left();
}

fn restart_crm(world: &mut TestGrid, site: u32, name: &str, edit: impl Fn(String) -> String) {
    let config = crm_config_path(&world.grid.state, site);
    let text = std::fs::read_to_string(&config).unwrap();
    let changed = edit(text.clone());
    assert_ne!(changed, text);
    std::fs::write(&config, changed).unwrap();
    let crm = world.grid.state.daemon(name).unwrap().identity;
    assert!(end_all(&[crm], Duration::from_secs(20)).is_empty(), "{name} did not end on SIGTERM");
    world.grid.start_crm(site).unwrap();
}

#[test]
fn a_site_that_publishes_a_range_of_another_is_kept_out_by_name() {
    let mut world = TestGrid::two_by_two();
    restart_crm(&mut world, 1, "crm-b", |text| {
        text.replace("10.72.128.0/17", "10.71.128.0/17").replace("\"10.72.0.1\"", "\"10.71.0.1\"")
    });
    let refused = gridpilot_tests::process::wait_until(Duration::from_secs(20), || {
        let sites = world.ask(&["sites"]).to_string();
        sites.contains("10.71.128.0/17") && sites.contains("outside")
    });
    assert!(refused, "{}{}", world.ask(&["sites"]), world.logs());
    let outcome = world.submit("b=1", &["true"]);
    assert_refused(&outcome, REFUSED, &["site b"]);
    assert_eq!(world.submit("a=1", &["true"]).code, 0, "the other site goes on");
}

#[test]
fn a_ticket_works_once() {
    let world = TestGrid::machines(plan(1, 1));
    drop(world);
    let mut world = TestGrid::up(plan(1, 1));
    let grc_config = world.grid.state.path("etc/grc.toml");
    let mut ticket = Command::new(world.grid.state.path("lib/grc"));
    let ticket = finish(ticket.arg("ticket").arg("--config").arg(&grc_config).arg("a")).ok();
    let join = |world: &TestGrid, state: &str| {
        let config = world.grid.state.path("etc/crm-again.toml");
        let text = std::fs::read_to_string(crm_config_path(&world.grid.state, 0)).unwrap();
        std::fs::write(&config, text.replace("state/crm-a", state)).unwrap();
        let enter = world.grid.state.machine("a0").unwrap().enter();
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).arg(world.grid.state.path("lib/crm"));
        finish(command.arg("join").arg("--config").arg(&config).args(["--ticket", ticket.trim()]))
    };
    let crm = world.grid.state.daemon("crm-a").unwrap().identity;
    end_all(&[crm], Duration::from_secs(20));
    let first = join(&world, "state/crm-first");
    assert_eq!(first.code, 0, "{first:?}{}", world.logs());
    let second = join(&world, "state/crm-second");
    assert_ne!(second.code, 0, "{second:?}");
    assert!(second.err.contains("ticket"), "{second:?}");
    world.observe();
}
