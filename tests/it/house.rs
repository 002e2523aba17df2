//! Rules of the house that no compiler knows: sizes, fences and who may depend on whom.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// No file is longer: what does not fit is two things.
const LINES_MAX: usize = 500;
/// Crates in the setuid program's tree, itself included.
const NODE_MANAGER_CRATES_MAX: usize = 12;
/// Lines of code of the setuid program that run with a right of root's; and of the sandbox's
/// init, the same file, which has none. `decisions/0005` says what is counted, 0008 why so many.
const PRIVILEGED_LINES_MAX: usize = 2_660;
const INIT_LINES_MAX: usize = 820;
/// What a program with root's rights has no use for.
const NODE_MANAGER_NEVER: [&str; 8] =
    ["tokio", "serde", "rustls", "clap", "tracing", "bincode", "protocol", "anyhow"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// All Rust files of the repository, as paths from its root.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    walk(&path, found);
                }
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&root(), &mut paths);
    assert!(paths.len() > 20, "the walk found only {paths:?}");
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(root()).unwrap().to_owned(), text)
        })
        .collect()
}

/// The code of a line, without a comment at its end.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("").trim()
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|one| one == word)
}

#[test]
fn no_file_is_longer_than_500_lines() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn unsafe_stands_below_sys_only() {
    let fence = Path::new("node-manager/src/sys");
    let this = Path::new("tests/it/house.rs");
    for (path, text) in sources().iter().filter(|(path, _)| !path.starts_with(fence) && path != this) {
        for (number, line) in text.lines().enumerate() {
            assert!(!has_word(code(line), "unsafe"), "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn every_crate_but_the_setuid_one_forbids_unsafe() {
    let entry = |path: &Path| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        let bin = path.parent().is_some_and(|parent| parent.ends_with("src/bin"));
        path.parent().is_some_and(|parent| parent.ends_with("src")) && matches!(name, "lib.rs" | "main.rs")
            || bin
    };
    let node_manager = Path::new("node-manager/src");
    for (path, text) in sources().iter().filter(|(path, _)| entry(path)) {
        let wanted = if path.starts_with(node_manager) { "unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
        assert!(text.contains(wanted), "{} lacks {wanted}", path.display());
    }
}

#[test]
fn one_file_knows_the_codec_crate() {
    let crate_path = concat!("bin", "code::");
    let knowing: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|(_, text)| text.lines().any(|line| code(line).contains(crate_path)))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(knowing, [Path::new("protocol/src/codec.rs")]);
}

#[test]
fn nothing_unfinished_is_left_in_the_code() {
    let words = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("FIX", "ME"),
        concat!("#[ign", "ore"),
    ];
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let found = words.iter().find(|word| line.contains(**word));
            assert!(found.is_none(), "{}:{}: {}", path.display(), number + 1, line.trim());
        }
    }
}

/// Crates in the tree of a package, by name; what tests need is not part of it.
fn tree(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--offline",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "-p",
            package,
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|n| !n.is_empty())
        .map(String::from)
        .collect()
}

#[test]
fn the_setuid_program_stays_small() {
    let tree = tree("node-manager");
    assert!(tree.len() <= NODE_MANAGER_CRATES_MAX, "{} crates: {tree:?}", tree.len());
    let forbidden: Vec<_> = NODE_MANAGER_NEVER.iter().filter(|name| tree.contains(**name)).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
}

/// Lines of code but for imports, of which the compiler drops what is not used.
fn lines_of_code(program: &str) -> usize {
    let mut importing = false;
    let mut lines = 0;
    for line in program.lines().map(code).filter(|line| !line.is_empty()) {
        importing |= line.starts_with("use ") || line.starts_with("pub use ");
        lines += usize::from(!importing);
        importing &= !line.ends_with(';');
    }
    lines
}

#[test]
fn little_code_runs_with_the_rights_of_root() {
    let (mut privileged, mut init) = (0, 0);
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with("node-manager/src")) {
        // Tests stand at the end of a file.
        let lines = lines_of_code(text.split("#[cfg(test)]").next().unwrap_or(""));
        *(if path.starts_with("node-manager/src/init") { &mut init } else { &mut privileged }) += lines;
    }
    // The lower bounds: that something was counted at all.
    assert!((500..=PRIVILEGED_LINES_MAX).contains(&privileged), "{privileged} lines with privilege");
    assert!((100..=INIT_LINES_MAX).contains(&init), "{init} lines of init");
}

#[test]
fn the_four_programs_do_not_know_each_other() {
    let programs = ["grc", "crm", "launcher", "node-manager"];
    for program in programs {
        let tree = tree(program);
        let known: Vec<_> =
            programs.iter().filter(|other| **other != program && tree.contains(**other)).collect();
        assert!(known.is_empty(), "{program} depends on {known:?}");
    }
    let agent = tree("node-agent");
    for other in ["grc", "crm", "launcher"] {
        assert!(!agent.contains(other), "the agent depends on {other}");
    }
}

/// The Launcher and the setuid program speak no network protocol of their own.
#[test]
fn the_launcher_has_no_runtime_and_no_tls() {
    let tree = tree("launcher");
    let found: Vec<_> = ["tokio", "rustls", "ring"].into_iter().filter(|name| tree.contains(*name)).collect();
    assert!(found.is_empty(), "{found:?}");
}
