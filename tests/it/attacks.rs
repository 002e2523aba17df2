//! The attack list, the matrix of failing system calls and the soak, in short runs; the programs
//! themselves do the long ones.

use std::process::Command;

/// Runs one of the programs beside the tests; it must end well.
fn passes(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{out}\n{err}");
    println!("{out}");
    out
}

#[test]
fn every_attack_of_the_list_is_refused_and_leaves_one_line_and_nothing_else() {
    let table = passes(env!("CARGO_BIN_EXE_gridpilot-attacks"), &[]);
    assert!(table.contains("60 of 60 entries"), "{table}");
    // No NFS server is run for A57; what else cannot be tried must be known.
    assert!(table.contains("1 not possible on this machine [57], 0 fell []"), "{table}");
}

#[test]
fn a_build_that_fails_at_any_system_call_leaves_nothing_and_says_where() {
    passes(env!("CARGO_BIN_EXE_gridpilot-inject"), &["--every", "41"]);
}

#[test]
fn two_hundred_sandboxes_with_every_kind_of_end_leave_nothing() {
    passes(env!("CARGO_BIN_EXE_gridpilot-soak"), &["--count", "200"]);
}
