//! The program `grc` as an administrator meets it: exit codes, sentences, files and signals.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

struct Place {
    directory: tempfile::TempDir,
    config: PathBuf,
}

impl Place {
    fn new(extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("grc.toml");
        let path = directory.path().display();
        let listen =
            if std::net::TcpListener::bind("127.0.0.1:0").is_ok() { "127.0.0.1:0" } else { "[::1]:0" };
        let text = format!(
            "state = \"{path}/state\"\nlisten = \"{listen}\"\nsocket = \"{path}/run/grc.sock\"\n{extra}\n\
             [[site]]\nname = \"a\"\nsupernets = [\"10.1.0.0/16\"]\n"
        );
        fs::write(&config, text).unwrap();
        Self { directory, config }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_grc"));
        command.args(arguments).arg("--config").arg(&self.config).env_remove("RUST_LOG");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

fn sentence(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!((1..=3).contains(&text.lines().count()), "{text}");
    text
}

#[test]
fn init_makes_a_private_state_once_and_tickets_need_it_and_a_known_site() {
    let place = Place::new("");
    assert!(sentence(&place.run(&["ticket", "a"]), 1).contains("run `grc init` once"));
    let made = place.run(&["init"]);
    assert!(made.status.success());
    let pin = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let state = place.directory.path().join("state");
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o7777, 0o700);
    let key = fs::read(state.join("key.der")).unwrap();
    assert!(sentence(&place.run(&["init"]), 1).contains("not replaced"));
    assert_eq!(fs::read(state.join("key.der")).unwrap(), key);
    let ticket = String::from_utf8(place.run(&["ticket", "a"]).stdout).unwrap();
    assert!(ticket.starts_with(&format!("gpt1.a.{pin}.")), "{ticket}");
    let secret = ticket.trim().rsplit('.').next().unwrap();
    let record = fs::read_to_string(state.join("tickets/a")).unwrap();
    assert!(!record.contains(secret), "only its digest is kept");
    assert!(sentence(&place.run(&["ticket", "b"]), 1).contains("site b is not in the configuration"));
    assert_eq!(place.run(&["ticket", "A b"]).status.code(), Some(2));
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_with_its_line() {
    let place = Place::new("sockte = 1");
    for arguments in [&["--check-config"][..], &["serve"], &["init"]] {
        let text = sentence(&place.run(arguments), 2);
        assert!(text.contains("grc.toml:4: unknown field `sockte`"), "{text}");
    }
    assert!(!place.directory.path().join("state").exists(), "nothing was changed");
    let good = Place::new("");
    assert!(good.run(&["serve", "--check-config"]).status.success());
    assert!(!good.directory.path().join("state").exists());
    let missing = Command::new(env!("CARGO_BIN_EXE_grc")).args(["serve", "--config", "/nowhere"]).output();
    assert!(sentence(&missing.unwrap(), 2).contains("cannot read /nowhere"));
}

#[test]
fn serve_says_that_it_is_ready_and_ends_at_sigterm_with_its_socket() {
    let place = Place::new("");
    assert!(sentence(&place.run(&["serve"]), 1).contains("run `grc init` once"));
    assert!(place.run(&["init"]).status.success());
    let mut child = place.command(&["serve"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.starts_with("grc ready: "), "{line}");
    let socket = place.directory.path().join("run/grc.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o666);
    let second = place.run(&["serve"]);
    assert!(sentence(&second, 1).contains("is in use by process"));
    let busy = place.run(&["journal", "export"]);
    assert!(sentence(&busy, 1).contains("is in use by process"));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    lines.read_to_string(&mut line).unwrap();
    assert!(child.wait().unwrap().success(), "{line}");
    assert!(!socket.exists());
    let exported = place.run(&["journal", "export"]);
    assert!(exported.status.success(), "{exported:?}");
    let lines = String::from_utf8(exported.stdout).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["store"], "GRC");
    assert!(lines[1]["record"]["clock"]["time_s"].as_u64().unwrap() > 1_700_000_000, "{lines:?}");
}
