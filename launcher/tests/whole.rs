//! The Launcher as a batch system sees it, with a shell script in the NodeManager's place. Nothing
//! here needs root: what is looked at is how the Launcher starts, waits and ends.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A Launcher installed beside a stand-in; all of it goes with the directory.
struct Installed {
    directory: tempfile::TempDir,
}

impl Installed {
    fn new(node_manager: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let installed = Self { directory };
        // Written by other processes: a test beside this one may fork while a file is open for
        // writing here, and the kernel starts no program that anybody has open so (ETXTBSY).
        let text = format!("#!/bin/bash\ncd {}\n{node_manager}\n", installed.directory.path().display());
        let install = "cp \"$1\" \"$2/launcher\" && printf %s \"$3\" >\"$2/node-manager\" && chmod 0755 \"$2/node-manager\"";
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", install, "install", env!("CARGO_BIN_EXE_launcher")]);
        shell.arg(installed.directory.path()).arg(text);
        assert!(shell.status().unwrap().success());
        installed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self, invocation: &[u8]) -> Child {
        start(Command::new(self.path("launcher")), invocation, Stdio::piped())
    }
}

fn start(mut launcher: Command, invocation: &[u8], stderr: Stdio) -> Child {
    launcher.args(["--invocation", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
    let mut child = launcher.spawn().unwrap();
    child.stdin.take().unwrap().write_all(invocation).unwrap();
    child
}

/// Exit code, and the last line on stderr, which is the Launcher's reason.
fn end(mut child: Child) -> (i32, String) {
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    let code = child.wait().unwrap().code().unwrap();
    (code, stderr.lines().last().unwrap_or_default().to_owned())
}

/// Blocks until the stand-in says that it stands.
fn until_up(child: &mut Child) {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
}

#[test]
fn the_invocation_reaches_the_node_manager_unread_and_on_no_command_line() {
    let installed = Installed::new(
        "cat <&4 >got; cat >stdin; tr '\\0' ' ' </proc/$PPID/cmdline >cmdline; readlink /proc/$$/fd/3 >tether",
    );
    let (code, reason) = end(installed.start(b"secret\0bytes"));
    assert_eq!((code, reason.as_str()), (0, "gridpilot launcher: ended: the NodeManager is done"));
    assert_eq!(fs::read(installed.path("got")).unwrap(), b"secret\0bytes");
    assert_eq!(fs::read(installed.path("stdin")).unwrap(), b"");
    assert!(!fs::read_to_string(installed.path("cmdline")).unwrap().contains("secret"));
    assert!(fs::read_to_string(installed.path("tether")).unwrap().starts_with("socket:"));
}

#[test]
fn every_signal_asks_once_and_the_launcher_stays_until_the_node_manager_is_down() {
    for signal in [Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGINT, Signal::SIGHUP] {
        // Reads one record of the tether, and takes its time before it goes.
        let installed =
            Installed::new("echo up; dd bs=64 count=1 <&3 >asked 2>/dev/null; sleep 0.3; echo done >after");
        let mut child = installed.start(b"x");
        until_up(&mut child);
        let pid = Pid::from_raw(child.id() as i32);
        kill(pid, signal).unwrap();
        kill(pid, signal).unwrap();
        let (code, reason) = end(child);
        assert_eq!(code, 0, "{signal}");
        assert_eq!(reason, format!("gridpilot launcher: ended on {signal}: the NodeManager is down"));
        assert_eq!(fs::read(installed.path("asked")).unwrap(), b"end", "{signal}");
        assert!(installed.path("after").exists(), "{signal}: left before the NodeManager was down");
    }
}

/// The place of its output may be full, or nobody may read it any more.
#[test]
fn a_launcher_that_can_say_nothing_does_all_the_rest() {
    for broken in ["full", "closed", "not read"] {
        let installed = Installed::new(
            "echo up; dd bs=64 count=1 <&3 >asked 2>/dev/null; echo down; echo done >after; exit 3",
        );
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let stderr = match broken {
            "full" => fs::File::options().write(true).open("/dev/full").unwrap().into(),
            _ => Stdio::from(writer.try_clone().unwrap()),
        };
        let mut child = start(Command::new(installed.path("launcher")), b"x", stderr);
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(stdout.next().unwrap(), "up");
        match broken {
            "closed" => drop(reader),
            "not read" => {
                let size = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETPIPE_SZ).unwrap();
                writer.write_all(&vec![b'.'; size as usize]).unwrap();
                drop(writer);
                kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
                assert_eq!(stdout.next().unwrap(), "down", "it must ask for the end before it says so");
                reader.read_to_end(&mut Vec::new()).unwrap();
            }
            _ => {}
        }
        // Harmless for the one that was asked already.
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(70), "{broken}: it ends as it always does");
        assert_eq!(fs::read(installed.path("asked")).unwrap(), b"end", "{broken}");
        assert!(installed.path("after").exists(), "{broken}: left before the NodeManager was down");
    }
}

#[test]
fn the_death_of_the_batch_systems_process_above_ends_the_pilot() {
    let installed = Installed::new("echo up; dd bs=64 count=1 <&3 >asked 2>/dev/null; echo down");
    // Two generations up, as with Grid Engine: its shepherd, a shell of the job, the Launcher.
    let place = installed.directory.path().display().to_string();
    let shell = format!("/bin/sh -c '{place}/launcher --invocation - 2>{place}/said; echo $? >{place}/code'");
    let install = "printf %s \"$1\" >\"$2/sge_shepherd\" && chmod 0755 \"$2/sge_shepherd\"";
    let mut shepherd = Command::new("/bin/sh");
    shepherd.args(["-c", install, "install", &format!("#!/bin/sh\n{shell}\nexit 0\n"), &place]);
    assert!(shepherd.status().unwrap().success());
    let shepherd =
        Command::new(installed.path("sge_shepherd")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut shepherd = shepherd.unwrap();
    shepherd.stdin.take().unwrap().write_all(b"x").unwrap();
    until_up(&mut shepherd);
    shepherd.kill().unwrap();
    shepherd.wait().unwrap();
    // Its own children live on, and end now: the last of them closes this.
    let mut rest = String::new();
    shepherd.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "down\n");
    assert_eq!(fs::read(installed.path("asked")).unwrap(), b"end");
    assert_eq!(fs::read_to_string(installed.path("code")).unwrap(), "0\n");
    let said = fs::read_to_string(installed.path("said")).unwrap();
    let reason = "gridpilot launcher: ended on the death of sge_shepherd: the NodeManager is down";
    assert_eq!(said.lines().last(), Some(reason));
}

#[test]
fn a_killed_launcher_closes_the_tether() {
    let installed = Installed::new("echo up; cat <&3; mv launcher closed; echo gone");
    let mut child = installed.start(b"x");
    until_up(&mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rest = String::new();
    child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "gone\n", "the NodeManager has noticed nothing");
}

#[test]
fn a_killed_node_manager_is_swept_up_after_once() {
    let installed = Installed::new("if [ \"$1\" = sweep ]; then echo swept >>sweeps; exit 0; fi; kill -9 $$");
    let (code, reason) = end(installed.start(b"x"));
    assert_eq!(code, 71);
    assert_eq!(reason, "gridpilot launcher: the NodeManager was killed by SIGKILL; the sweep has run");
    assert_eq!(fs::read(installed.path("sweeps")).unwrap(), b"swept\n");
}

/// Whoever started the Launcher may have ignored SIGCHLD, and the kernel then forgets how a child ended.
#[test]
fn the_node_managers_end_is_known_whatever_was_ignored_before() {
    let killed = "if [ \"$1\" = sweep ]; then echo swept >>sweeps; exit 0; fi; kill -9 $$";
    let swept = "the NodeManager was killed by SIGKILL; the sweep has run";
    let refused = "the NodeManager ended with code 3; its reason stands above";
    for (script, expected, words) in
        [(killed, 71, swept), ("exit 3", 70, refused), ("exit 0", 0, "ended: the NodeManager is done")]
    {
        let installed = Installed::new(script);
        let mut deaf = Command::new("/usr/bin/env");
        deaf.arg("--ignore-signal=CHLD").arg(installed.path("launcher"));
        let (code, reason) = end(start(deaf, b"x", Stdio::piped()));
        assert_eq!((code, reason), (expected, format!("gridpilot launcher: {words}")));
        assert_eq!(installed.path("sweeps").exists(), expected == 71);
    }
}

#[test]
fn a_refusal_of_the_node_manager_is_passed_on() {
    let installed = Installed::new("echo 'node-manager: refused' >&2; exit 3");
    let (code, reason) = end(installed.start(b"x"));
    assert_eq!(code, 70);
    assert!(reason.ends_with("the NodeManager ended with code 3; its reason stands above"), "{reason}");
}

#[test]
fn a_missing_node_manager_and_wrong_arguments_are_told_in_one_line() {
    let installed = Installed::new("");
    fs::remove_file(installed.path("node-manager")).unwrap();
    let (code, reason) = end(installed.start(b"x"));
    assert_eq!(code, 69);
    assert!(reason.contains("node-manager") && reason.contains("No such file"), "{reason}");
    for arguments in [&[][..], &["--token", "x"], &["--invocation"]] {
        let output = Command::new(installed.path("launcher")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
    }
    let (code, _) = end(installed.start(b""));
    assert_eq!(code, 65, "an empty invocation");
}

#[test]
fn no_descriptor_of_the_launcher_leaks_into_the_node_manager() {
    let installed = Installed::new("ls /proc/$$/fd >open");
    // What anything started from here inherits, and 255, which is the shell's own for its script.
    let control = installed.path("control");
    fs::write(&control, "ls /proc/$$/fd\n").unwrap();
    let control = Command::new("/bin/bash").arg(control).output().unwrap().stdout;
    let control = String::from_utf8(control).unwrap();
    let mut expected: BTreeSet<&str> = control.lines().collect();
    expected.extend(["3", "4"]);
    end(installed.start(b"x"));
    let open = fs::read_to_string(installed.path("open")).unwrap();
    assert_eq!(open.lines().collect::<BTreeSet<_>>(), expected);
}
