//! The bytes of every message never drift: `golden/*.txt` pins them, one line for each variant.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::hello::Hello;
use crate::samples::{self, Sample};

/// Set to `append`, adds lines for samples that have none. No setting changes a line.
const APPEND: &str = "GRIDPILOT_GOLDEN";

const HEADER: &str = "\
# Bytes of one sample of every variant on the wire: name, hexadecimal.
# A line is never changed and never removed, for a peer out there speaks it; new variants append.
# GRIDPILOT_GOLDEN=append cargo test -p protocol golden    adds the lines that are missing.
";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2) && text.is_ascii(), "{text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Compares the samples with the file's lines, in both directions.
fn compare(file: &str, samples: &[(String, Vec<u8>)]) -> BTreeMap<String, Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
    let mut text = fs::read_to_string(&path).unwrap_or_default();
    let lines = |text: &str| -> BTreeMap<String, Vec<u8>> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let mut pinned = BTreeMap::new();
        for (name, bytes) in lines.map(|line| line.split_once(' ').expect("name and bytes")) {
            assert!(pinned.insert(name.to_owned(), unhex(bytes)).is_none(), "{name} stands twice in {file}");
        }
        pinned
    };
    let mut pinned = lines(&text);
    if std::env::var(APPEND).is_ok_and(|value| value == "append") {
        if text.is_empty() {
            text.push_str(HEADER);
        }
        for (name, bytes) in samples.iter().filter(|(name, _)| !pinned.contains_key(name)) {
            let _ = writeln!(text, "{name} {}", hex(bytes));
        }
        fs::write(&path, &text).unwrap();
        pinned = lines(&text);
    }
    for (name, bytes) in samples {
        let line = pinned.get(name).unwrap_or_else(|| panic!("{name} has no line in golden/{file}"));
        assert_eq!(hex(bytes), hex(line), "the bytes of {name} changed: peers that are out there break");
    }
    assert_eq!(pinned.len(), samples.len(), "golden/{file} has lines without a sample");
    pinned
}

fn check(file: &str, samples: &[Sample]) {
    let bytes: Vec<_> = samples.iter().map(|s| (s.name.clone(), s.bytes.clone())).collect();
    let pinned = compare(file, &bytes);
    for sample in samples {
        let line = &pinned[&sample.name];
        assert_eq!(&(sample.recode)(line).unwrap(), line, "{} does not come back", sample.name);
    }
}

#[test]
fn golden_bytes_of_a_login_never_drift() {
    check("login_v3.txt", &samples::login());
}

#[test]
fn golden_bytes_of_the_client_conversation_never_drift() {
    check("client_v3.txt", &samples::client());
}

#[test]
fn golden_bytes_of_the_site_conversation_never_drift() {
    check("site_v3.txt", &samples::site());
}

#[test]
fn golden_bytes_of_the_node_conversation_never_drift() {
    check("node_v3.txt", &samples::node());
}

#[test]
fn golden_bytes_of_an_invocation_never_drift() {
    check("invocation_v1.txt", &samples::invocation());
}

#[test]
fn golden_bytes_of_a_greeting_never_drift() {
    let greetings = samples::hello();
    let bytes: Vec<_> =
        greetings.iter().map(|(name, hello)| ((*name).to_owned(), hello.encode().to_vec())).collect();
    let pinned = compare("hello_v1.txt", &bytes);
    for (name, hello) in greetings {
        assert_eq!(Hello::decode(&pinned[name]).unwrap(), hello);
    }
}
