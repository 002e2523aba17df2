//! The fuzz target's seeds, and the target itself run over them as an ordinary test.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::fuzzing::{KEYS, login};
use super::key::Key;
use super::wire::put_string;

/// Set to `append`, adds the files of seeds that have none. No setting changes a file.
const APPEND: &str = "GRIDPILOT_CORPUS";
/// Mutations of every file, in one run of the tests.
const MUTATIONS: u64 = 300;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/login")
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let file: String =
        KEYS.iter().enumerate().map(|(n, words)| format!("u{n} {words} a comment\n")).collect();
    seeds.push(("users".to_owned(), format!("\0# those who may come in\n\n{file}").into_bytes()));
    let odd = format!("\0ada {}\r\nbob {}\nfrom=\"x\" {}\nada\n", KEYS[0], KEYS[0], KEYS[0]);
    seeds.push(("users-odd".to_owned(), odd.into_bytes()));
    for words in KEYS {
        let (kind, base64) = words.split_once(' ').expect("two words");
        let key = Key::from_words(kind, base64).expect("a key");
        seeds.push((format!("key-{kind}"), [&[1], key.as_bytes()].concat()));
        let (name, length) = match kind {
            "ssh-rsa" => ("rsa-sha2-512", 256),
            kind => (kind, 64),
        };
        let mut made = Vec::new();
        if kind.starts_with("ecdsa") {
            (0..2).for_each(|n| put_string(&mut made, &[n + 1; 32]));
        } else {
            made.extend(vec![7; length]);
        }
        let mut signature = vec![2];
        put_string(&mut signature, name.as_bytes());
        put_string(&mut signature, &made);
        seeds.push((format!("signature-{kind}"), signature));
    }
    seeds
}

#[test]
fn every_form_is_a_seed_and_the_target_holds_over_seeds_and_their_mutations() {
    let append = std::env::var(APPEND).is_ok_and(|value| value == "append");
    if append {
        fs::create_dir_all(directory()).unwrap();
    }
    for (name, bytes) in seeds() {
        let path = directory().join(&name);
        if append && !path.exists() {
            fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(fs::read(&path).ok().as_ref(), Some(&bytes), "{}", path.display());
    }
    let committed: BTreeMap<PathBuf, Vec<u8>> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    // xorshift: the same mutations in every run.
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % bound.max(1)
    };
    for (path, bytes) in &committed {
        login(bytes);
        for round in 0..MUTATIONS {
            let mut mutated = bytes.clone();
            for _ in 0..=below(4) {
                let at = below(mutated.len());
                match below(5) {
                    _ if mutated.is_empty() => mutated.push(0),
                    0 => mutated[at] ^= 1 << below(8),
                    1 => mutated[at] = below(256) as u8,
                    2 => mutated.truncate(at),
                    3 => mutated.insert(at, b" \t\n\0\r#="[below(7)]),
                    _ => {
                        let end = (at + below(9)).min(mutated.len());
                        drop(mutated.drain(at..end));
                    }
                }
            }
            if std::panic::catch_unwind(|| login(&mutated)).is_err() {
                panic!("mutation {round} of {}: {mutated:02x?}", path.display());
            }
        }
    }
}
