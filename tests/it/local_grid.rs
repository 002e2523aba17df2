//! `local-grid` as one types it.

use std::process::Command;

use gridpilot_tests::process::marked;
use gridpilot_tests::state::MARKER;

use crate::common::{Outcome, finish, fresh_directory};

const NOBODY: &str = "65534";

fn local_grid(words: &[&str]) -> Outcome {
    finish(Command::new(env!("CARGO_BIN_EXE_local-grid")).args(words))
}

#[test]
fn up_env_down_is_all_one_needs_and_may_be_repeated() {
    let directory = fresh_directory();
    let dir = directory.display().to_string();
    let up = local_grid(&["up", "--dir", &dir, "--sites", "1", "--nodes", "1"]);
    assert_eq!(up.code, 0, "{up:?}");
    let again = local_grid(&["up", "--dir", &dir]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.err.contains("local-grid down"), "{again:?}");
    let script = format!(
        "eval \"$({} env --dir {dir})\" && gridpilot sites && gridpilot submit --wait -- hostname",
        env!("CARGO_BIN_EXE_local-grid")
    );
    let typed = finish(Command::new("sh").args(["-c", &script]));
    let down = local_grid(&["down", "--dir", &dir]);
    assert_eq!(typed.code, 0, "{typed:?}");
    assert!(typed.out.ends_with("a-0\n"), "{typed:?}");
    assert_eq!(down.code, 0, "{down:?}");
    assert!(!directory.exists());
    assert!(marked(MARKER, &dir).is_empty());
    let nothing = local_grid(&["down", "--dir", &dir]);
    assert_eq!(nothing.code, 0, "{nothing:?}");
    assert_eq!(local_grid(&["env", "--dir", &dir]).code, 1);
}

/// What `make demo` shows: both families of MPI over both sites, and a clean end.
#[test]
fn the_demo_runs_both_rings_over_both_sites_and_goes_down() {
    let directory = fresh_directory();
    let demo = local_grid(&["demo", "--dir", &directory.display().to_string()]);
    assert_eq!(demo.code, 0, "{demo:?}");
    assert_eq!(demo.out.matches("the token came round over 4 ranks and brought 6: right").count(), 2);
    for host in ["a-0", "a-1", "b-0", "b-1"] {
        assert_eq!(demo.out.matches(&format!(" on {host}: sum 10")).count(), 2, "{demo:?}");
    }
    assert!(!directory.exists());
}

/// Somebody's directory is never mistaken for a grid's.
#[test]
fn down_leaves_a_directory_alone_that_holds_no_grid() {
    let directory = fresh_directory();
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("precious"), "").unwrap();
    let down = local_grid(&["down", "--dir", &directory.display().to_string()]);
    assert_eq!(down.code, 1, "{down:?}");
    assert!(directory.join("precious").exists());
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_directory_from_which_setuid_would_be_refused_is_refused_at_once() {
    let up = local_grid(&["up", "--dir", "/tmp/gridpilot-grid"]);
    assert_eq!(up.code, 1, "{up:?}");
    assert!(up.err.contains("/tmp") && up.err.trim_end().lines().count() == 1, "{up:?}");
}

#[test]
fn without_root_there_is_one_line_that_says_so() {
    // The programs may stand where only root gets to, so a copy is asked.
    let copy = tempfile::tempdir_in("/tmp").unwrap();
    let as_nobody = |program: &str, words: &[&str]| {
        let mut command = Command::new("setpriv");
        let drop = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()];
        finish(command.args(drop).args(["--", program]).args(words).current_dir("/"))
    };
    std::os::unix::fs::chown(copy.path(), Some(65534), Some(65534)).unwrap();
    let program = copy.path().join("local-grid");
    std::fs::copy(env!("CARGO_BIN_EXE_local-grid"), &program).unwrap();
    let up = as_nobody(&program.display().to_string(), &["up"]);
    assert_eq!(up.code, 1, "{up:?}");
    assert!(up.err.contains("root") && up.err.trim_end().lines().count() == 1, "{up:?}");

    let script = copy.path().join("needs.sh");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/needs.sh"), &script).unwrap();
    let needs = as_nobody("sh", &[&script.display().to_string()]);
    assert_eq!(needs.code, 1, "{needs:?}");
    assert!(needs.err.contains("root") && needs.err.trim_end().lines().count() == 1, "{needs:?}");
}
