//! Everything that must be refused, and that nothing is left of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use grant::Grant;
use node_manager::operation::{EndReason, Notice, Request, Step};

use crate::world::{self, HOME, LIB, POLICY, UID, World, nothing_left};

pub fn grants_are_checked_before_anything_is_built() {
    let world = World::new();
    let used = world.pilot();
    let stale = used.grant();
    drop(used);
    for (what, wrong) in [
        ("flipped bit", None),
        ("replayed nonce", Some(stale)),
        ("foreign uid", Some(Grant { uid: UID + 1, ..world.pilot().grant() })),
        ("address outside", Some(Grant { address: [10, 71, 1, 1].into(), ..world.pilot().grant() })),
        ("over the ceiling", Some(Grant { upper_bytes: 1 << 40, ..world.pilot().grant() })),
    ] {
        let mut pilot = world.pilot();
        let request = match wrong {
            None => {
                let Request::Build { mut grant, signature } = world.sign(&pilot.grant()) else { panic!() };
                grant[30] ^= 1;
                Request::Build { grant, signature }
            }
            Some(grant) if what == "replayed nonce" => world.sign(&grant),
            Some(grant) => world.sign(&Grant { nonce: pilot.welcome.nonce, ..grant }),
        };
        pilot.ask(&request);
        let Notice::Failed { step, errno: 0, detail } = pilot.answer() else { panic!("{what}") };
        assert!(matches!(step, Step::CheckGrant | Step::CheckPolicy), "{what}: {step:?} {detail}");
        pilot.launcher_end();
        assert_eq!(pilot.exit_code(), Some(0), "{what}");
        nothing_left(&world, &[pilot.monitor, pilot.agent], &Default::default());
    }
}

pub fn a_second_build_ends_everything() {
    let world = World::new();
    let mut pilot = world.pilot();
    let inside = pilot.build(&world, &pilot.grant());
    pilot.ask(&world.sign(&pilot.grant()));
    assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::AgentBroke });
    assert_eq!(pilot.exit_code(), Some(0));
    nothing_left(&world, &[pilot.monitor, pilot.agent, inside.init], &inside.namespaces);
}

pub fn garbage_ends_everything() {
    let world = World::new();
    for garbage in [&[0xff; 40][..], &[1], &[2, 0], &[7; 512], &[7; 60000]] {
        let mut pilot = world.pilot();
        let inside = pilot.build(&world, &pilot.grant());
        node_manager::channel::send(&pilot.operations, garbage, &[]).unwrap();
        assert_eq!(pilot.answer(), Notice::Ended { reason: EndReason::AgentBroke });
        assert_eq!(pilot.exit_code(), Some(0));
        nothing_left(&world, &[pilot.monitor, pilot.agent, inside.init], &inside.namespaces);
    }
}

pub fn hand_started_and_misinstalled_programs_refuse() {
    let world = World::new();
    let program = format!("{LIB}/node-manager");
    let as_user = |wrapper: &[&str], file: &str| -> String {
        let mut words: Vec<&str> = vec!["setpriv", "--reuid=23456", "--regid=23456", "--clear-groups"];
        words.extend(wrapper);
        words.push(file);
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{wrapper:?} {file}");
        String::from_utf8(output.stderr).unwrap()
    };
    let first_line = |text: String| text.lines().last().unwrap_or_default().to_owned();
    assert_eq!(first_line(as_user(&[], &program)), "node-manager: not started by a pilot's Launcher");
    assert!(as_user(&["--no-new-privs"], &program).contains("no_new_privs"));
    assert!(
        as_user(&["unshare", "-Ur"], &program).contains("setuid is ineffective")
            || as_user(&["unshare", "-Ur"], &program).contains("user namespace")
    );
    // By root's hand: whoever makes a pid namespace of his own needs a user namespace for it.
    let words = ["-p", "-f", "setpriv", "--reuid=23456", "--regid=23456", "--clear-groups", &program];
    let output = Command::new("unshare").args(words).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("inside a pid namespace"));
    let copy = "/opt/share/node-manager";
    fs::copy(&program, copy).unwrap();
    fs::set_permissions(copy, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(as_user(&[], copy).contains("setuid is ineffective"));
    // A setuid copy in somebody's directory is not the installed one.
    fs::set_permissions(copy, fs::Permissions::from_mode(0o4755)).unwrap();
    assert!(as_user(&[], copy).contains("must be root's"));
    let by_root = Command::new(&program).output().unwrap();
    assert!(String::from_utf8(by_root.stderr).unwrap().contains("started by root"));
    let complaint = world.pilot_as(&program, 500).err().unwrap();
    assert!(complaint.contains("uid_min"), "{complaint}");
    // Nobody to listen, and no file that may grow: still an answer, not a crash.
    let deaf = format!(
        "exec >/dev/full 2>&1; {program} --version; echo $? >&3; {program} -x; echo $? >&3; \
                        ulimit -f 0; {program} 2>>/opt/share/err; echo $? >&3"
    );
    let words =
        ["--reuid=23456", "--regid=23456", "--clear-groups", "sh", "-c", &format!("exec 3>&1; {deaf}")];
    let output = Command::new("setpriv").args(words).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "0\n2\n1\n");
    let usage = Command::new(&program).arg("--config").output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

pub fn a_policy_that_others_can_write_is_refused() {
    let world = World::new();
    let program = format!("{LIB}/node-manager");
    let refused = |reason: &str| {
        let complaint = world.pilot_through(&program).err().expect("refused");
        assert!(complaint.contains(reason), "{complaint}");
    };
    for mode in [0o666, 0o664, 0o646] {
        fs::set_permissions(POLICY, fs::Permissions::from_mode(mode)).unwrap();
        refused("not writable by group or others");
    }
    world.policy("colour = red");
    refused("line 9: unknown key colour");
    world.policy("");
    fs::set_permissions("/etc/gridpilot", fs::Permissions::from_mode(0o777)).unwrap();
    refused("/etc/gridpilot must be root's");
    fs::set_permissions("/etc/gridpilot", fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(POLICY, "/etc/gridpilot/other").unwrap();
    std::os::unix::fs::symlink("/etc/gridpilot/other", POLICY).unwrap();
    refused("must be root's");
    fs::remove_file(POLICY).unwrap();
    refused("No such file");
}

pub fn a_failed_build_names_its_step_and_leaves_nothing() {
    let world = World::new();
    for (path, expected) in
        [(HOME, Step::OpenHome), ("/opt/share", Step::OpenShare), ("node0", Step::CreateLink)]
    {
        let mut pilot = world.pilot();
        if expected == Step::CreateLink {
            assert!(Command::new("ip").args(["link", "del", path]).status().unwrap().success());
        } else {
            fs::rename(path, "/opt/away").unwrap();
        }
        pilot.ask(&world.sign(&pilot.grant()));
        let Notice::Failed { step, errno, detail } = pilot.answer() else { panic!("{expected:?}") };
        assert_eq!(step, expected, "{detail}");
        assert_ne!(errno, 0);
        if expected != Step::CreateLink {
            fs::rename("/opt/away", path).unwrap();
        }
        pilot.launcher_end();
        assert_eq!(pilot.exit_code(), Some(0));
        assert!(!world::running(pilot.monitor) && !world::running(pilot.agent));
    }
}
