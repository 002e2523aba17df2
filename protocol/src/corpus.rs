//! The fuzz target's seed corpus, and the target itself run over it as an ordinary test.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use bytes::BytesMut;

use crate::frame::{self, Frame, Kind};
use crate::fuzzing;
use crate::samples;

/// Set to `append`, adds the files of samples that have none. No setting changes a file.
const APPEND: &str = "GRIDPILOT_CORPUS";
/// Larger seeds slow a fuzzer down and teach it nothing.
const SEED_BYTES_MAX: usize = 1024;
/// Mutations of every file, in one run of the tests.
const MUTATIONS: usize = 400;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/connection")
}

fn committed() -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(directory()).expect("the corpus is there");
    files
        .map(|file| {
            let path = file.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
        })
        .collect()
}

/// Every message in its frame, the greetings, and one whole conversation of several frames.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let framed = |cutting: u8, frames: &[Frame]| {
        let mut bytes = BytesMut::from(&[cutting][..]);
        frames.iter().for_each(|frame| frame::put(frame, &mut bytes).unwrap());
        bytes.to_vec()
    };
    let frame = |kind, body: &[u8]| Frame { kind, correlation: 7, body: body.to_vec().into() };
    let mut seeds = Vec::new();
    let greetings: Vec<_> = samples::hello()
        .into_iter()
        .map(|(name, hello)| (name.to_owned(), frame(Kind::Hello, &hello.encode())))
        .collect();
    let conversations = [
        ("login", samples::login()),
        ("client", samples::client()),
        ("site", samples::site()),
        ("node", samples::node()),
        ("pilot", samples::invocation()),
    ];
    for (conversation, samples) in conversations {
        // An invocation has no frame; in one it reaches its decoder.
        let whole = samples.iter().filter(|s| s.kind.is_some() || conversation == "pilot");
        for sample in whole {
            let frame = frame(sample.kind.unwrap_or(Kind::Request), &sample.bytes);
            seeds.push((format!("{conversation}-{}", sample.name), framed(5, &[frame])));
        }
    }
    let some = |name: &str, from: Vec<samples::Sample>| {
        let sample = from.into_iter().find(|s| s.name == name).unwrap();
        frame(sample.kind.unwrap(), &sample.bytes)
    };
    let stream = [
        greetings[3].1.clone(),
        some("First.Arrive", samples::node()),
        some("Request.GetKeys", samples::node()),
        some("Reply.Keys", samples::node()),
    ];
    seeds.push(("stream".to_owned(), framed(0, &stream)));
    seeds.extend(greetings.into_iter().map(|(name, frame)| (name, framed(1, &[frame]))));
    seeds
}

#[test]
fn every_message_is_a_seed_of_the_fuzz_target() {
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
    for (name, bytes) in committed() {
        assert!(bytes.len() < SEED_BYTES_MAX, "{name} has {} bytes", bytes.len());
    }
}

/// xorshift: the same mutations in every run, so that a failure comes back.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }
}

/// One small change, of the kinds that break decoders.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let at = dice.below(bytes.len());
    match dice.below(7) {
        _ if bytes.is_empty() => bytes.extend_from_slice(other),
        0 => bytes[at] ^= 1 << dice.below(8),
        1 => bytes[at] = dice.below(256) as u8,
        // 251 to 253 announce a number of 2, 4 and 8 bytes.
        2 => bytes[at] = [0, 1, 127, 128, 250, 251, 252, 253, 254, 255][dice.below(10)],
        3 => bytes.truncate(at),
        4 => bytes.insert(at, dice.below(256) as u8),
        5 => drop(bytes.drain(at..(at + dice.below(9)).min(bytes.len()))),
        _ => {
            let from = dice.below(other.len());
            let upto = (from + dice.below(33)).min(other.len());
            let tail = bytes.split_off(at);
            bytes.extend_from_slice(&other[from..upto]);
            bytes.extend_from_slice(&tail);
        }
    }
}

#[test]
fn the_fuzz_target_holds_over_its_corpus_and_seeded_mutations() {
    let corpus: Vec<_> = committed().into_iter().collect();
    for (_, bytes) in &corpus {
        fuzzing::connection(bytes);
    }
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for (name, bytes) in &corpus {
        for round in 0..MUTATIONS {
            let mut mutated = bytes.clone();
            for _ in 0..=dice.below(4) {
                let other = &corpus[dice.below(corpus.len())].1;
                mutate(&mut mutated, other, &mut dice);
            }
            if std::panic::catch_unwind(|| fuzzing::connection(&mutated)).is_err() {
                panic!("mutation {round} of {name}: {mutated:02x?}");
            }
        }
    }
}
