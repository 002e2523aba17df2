//! Power is lost at any moment: what was not synced is there, or not, or half.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::media::{Dice, Op, Ram, apply, empty_store, open, some_writes};
use crate::{Key, Record, StoreError, Write};

type Model = BTreeMap<Key, Vec<u8>>;

/// Seeds of `any_crash_keeps_every_commit_whole`; `JOURNAL_SEEDS` asks for others, `7..8` or more.
const SEEDS: std::ops::Range<u64> = 0..6;
const CRASHES_PER_HISTORY: usize = 12;

fn change(model: &Model, writes: &[Write]) -> Model {
    let mut model = model.clone();
    for write in writes {
        match write {
            Write::Put { key, value } => drop(model.insert(*key, value.clone())),
            Write::Delete { key } => drop(model.remove(key)),
        }
    }
    model
}

fn as_model(records: Vec<Record>) -> Model {
    records.into_iter().collect()
}

/// The medium after a crash behind the first `done` operations: what was synced, and of the rest
/// any subset, in order, with a write cut off at a sector now and then.
fn after_crash(start: &[u8], ops: &[Op], done: usize, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = start.to_vec();
    let synced = ops[..done].iter().rposition(|op| matches!(op, Op::Sync)).map_or(0, |at| at + 1);
    ops[..synced].iter().for_each(|op| apply(&mut bytes, op));
    let fate = dice.below(4);
    for op in &ops[synced..done] {
        match (fate, op) {
            (0, _) => {}
            (1, _) => apply(&mut bytes, op),
            (_, Op::Write { offset, data }) if dice.below(4) == 0 => {
                let kept = data[..dice.below(data.len() / 512 + 1) * 512].to_vec();
                apply(&mut bytes, &Op::Write { offset: *offset, data: kept });
            }
            _ if dice.below(2) == 0 => apply(&mut bytes, op),
            _ => {}
        }
    }
    bytes
}

/// A history of commits on `start`, and what the records were after each of them.
fn history(start: Vec<u8>, model: Model, dice: &mut Dice) -> (Arc<Ram>, Vec<Model>) {
    let medium = Ram::new(start);
    let (mut store, records) = open(&medium).unwrap();
    assert_eq!(as_model(records), model);
    let keys = [4, 60, 2_000][dice.below(3)];
    let mut models = vec![model];
    for _ in 0..1 + dice.below(40) {
        let writes: Vec<Write> = (0..1 + dice.below(30)).flat_map(|_| some_writes(dice, keys)).collect();
        store.commit(&writes).unwrap();
        medium.told();
        models.push(change(models.last().unwrap(), &writes));
    }
    (medium, models)
}

#[test]
fn any_crash_keeps_every_commit_whole() {
    let seeds = match std::env::var("JOURNAL_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("JOURNAL_SEEDS=from..to");
            from.parse().unwrap()..to.parse().unwrap()
        }
        Err(_) => SEEDS,
    };
    let empty = empty_store();
    for seed in seeds {
        let mut dice = Dice::new(seed);
        let (mut start, mut model) = (empty.clone(), Model::new());
        // Each history goes on from what the crash of the one before has left.
        for life in 0..3 {
            let (medium, models) = history(start.clone(), model, &mut dice);
            let ops = medium.ops();
            let mut last = None;
            for crash in 0..CRASHES_PER_HISTORY {
                let done = dice.below(ops.len() + 1);
                let told = ops[..done].iter().filter(|op| matches!(op, Op::Told)).count();
                let bytes = after_crash(&start, &ops, done, &mut dice);
                let at = format!("seed {seed}, life {life}, crash {crash} behind operation {done}");
                let (_, records) = open(&Ram::new(bytes.clone())).unwrap_or_else(|e| panic!("{at}: {e}"));
                let found = as_model(records);
                // What was told, or the commit that was on its way, and nothing between.
                let allowed = &models[told..models.len().min(told + 2)];
                assert!(allowed.contains(&found), "{at}: neither {told} commits nor one more");
                last = Some((bytes, found));
            }
            (start, model) = last.expect("a crash");
        }
    }
}

#[test]
fn a_crash_of_the_recovery_loses_nothing() {
    for seed in 0..4 {
        let mut dice = Dice::new(1_000 + seed);
        let (medium, models) = history(empty_store(), Model::new(), &mut dice);
        let ops = medium.ops();
        let done = dice.below(ops.len() + 1);
        let told = ops[..done].iter().filter(|op| matches!(op, Op::Told)).count();
        let mut bytes = after_crash(&empty_store(), &ops, done, &mut dice);
        let first = as_model(open(&Ram::new(bytes.clone())).unwrap().1);
        assert!(models[told..models.len().min(told + 2)].contains(&first), "seed {seed}");
        for attempt in 0..10 {
            let medium = Ram::new(bytes.clone());
            drop(open(&medium).unwrap());
            let ops = medium.ops();
            let done = dice.below(ops.len() + 1);
            bytes = after_crash(&bytes, &ops, done, &mut dice);
            let again = as_model(open(&Ram::new(bytes.clone())).unwrap().1);
            assert_eq!(again, first, "seed {seed}, attempt {attempt}: a recovery forgot what another kept");
        }
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Every operation of a history is refused once, and all behind it.
#[test]
fn a_failed_write_ends_the_store_and_takes_nothing_back() {
    let mut dice = Dice::new(77);
    let batches: Vec<Vec<Write>> =
        (0..4).map(|_| (0..20).flat_map(|_| some_writes(&mut dice, 50)).collect()).collect();
    let mut failures = 0;
    for errno in [EIO, ENOSPC] {
        for ops in 0.. {
            let medium = Ram::new(empty_store());
            medium.fail_after(ops, errno);
            let mut models = vec![Model::new()];
            let (mut told, mut failure) = (0, None);
            match open(&medium) {
                Err(error) => failure = Some(error),
                Ok((mut store, _)) => {
                    for batch in &batches {
                        models.push(change(models.last().unwrap(), batch));
                        match store.commit(batch) {
                            Ok(()) if failure.is_none() => told += 1,
                            Ok(()) => panic!("operation {ops}: told after a failure"),
                            Err(StoreError::Ended { .. }) if failure.is_some() => {}
                            Err(error) if failure.is_none() => failure = Some(error),
                            Err(error) => panic!("operation {ops}: {error} after a failure"),
                        }
                    }
                }
            }
            let Some(failure) = failure else { break };
            failures += 1;
            match failure {
                StoreError::Full { .. } => assert_eq!(errno, ENOSPC),
                StoreError::Io { source, .. } => assert_eq!(source.raw_os_error(), Some(errno)),
                other => panic!("operation {ops}: {other:?}"),
            }
            let found = as_model(open(&Ram::new(medium.bytes())).unwrap().1);
            assert!(models[told..models.len().min(told + 2)].contains(&found), "operation {ops}");
        }
    }
    assert!(failures > 100, "only {failures} operations");
}
