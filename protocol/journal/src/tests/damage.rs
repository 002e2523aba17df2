//! What was not written by this store, or was changed since, is refused and left as it is.

use super::media::{Dice, Op, Ram, apply, empty_store, open, some_writes};
use crate::{Key, Record, StoreError, Write};

/// A store with a history, and its records.
fn used_store(seed: u64) -> (Vec<u8>, Vec<Record>) {
    let medium = Ram::new(empty_store());
    let mut dice = Dice::new(seed);
    let (mut store, _) = open(&medium).unwrap();
    for _ in 0..40 {
        store.commit(&some_writes(&mut dice, 100)).unwrap();
    }
    drop(store);
    let bytes = medium.bytes();
    let records = open(&Ram::new(bytes.clone())).unwrap().1;
    (bytes, records)
}

/// `true` if it was refused. What was not refused must serve like new, for so many pages more.
fn refused_or_whole(bytes: &[u8], records: &[Record], pages: u64, what: &str) -> bool {
    let medium = Ram::new(bytes.to_vec());
    match open(&medium) {
        Ok((mut store, found)) => {
            assert!(found == records, "{what}: other records");
            let more: Vec<Record> = (0..pages).map(|n| (Key::of(9, n), vec![9; 3_900])).collect();
            let put = |(key, value): &Record| Write::Put { key: *key, value: value.clone() };
            store.commit(&more.iter().map(put).collect::<Vec<_>>()).unwrap();
            drop(store);
            let (_, found) = open(&medium).unwrap_or_else(|error| panic!("{what}, later: {error}"));
            assert!(found.iter().eq(records.iter().chain(&more)), "{what}: other records later");
            false
        }
        Err(StoreError::Damaged { .. } | StoreError::Record { .. } | StoreError::Foreign { .. }) => {
            assert!(medium.bytes() == bytes, "{what}: refused, but changed");
            true
        }
        Err(other) => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_flipped_bit_is_found_or_does_no_harm() {
    let (bytes, records) = used_store(7);
    let mut dice = Dice::new(8);
    // Every bit that says what the file looks like; one bit in every byte of the two slots, and
    // in some bytes of the pages that were ever used.
    let form = (0..64).flat_map(|at| (0..8).map(move |bit| (at, bit)));
    let rest = (64..bytes.len()).filter(|at| bytes[*at] != 0 && (*at < 320 || at % 397 == 0));
    let (mut flips, mut refused) = (0, 0);
    for (at, bit) in form.chain(rest.map(|at| (at, dice.below(8)))) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        // More than the file has room for, where its form is concerned.
        let pages = if (12..32).contains(&at) { 300 } else { 2 };
        let what = format!("bit {bit} of byte {at}");
        refused += usize::from(refused_or_whole(&flipped, &records, pages, &what));
        flips += 1;
    }
    assert!(refused > flips / 10, "{refused} of {flips}: were the pages in use hit at all?");
}

/// The commit after which the god byte was not yet written.
#[test]
fn a_flipped_bit_is_found_even_after_a_crash() {
    let (start, _) = used_store(9);
    let medium = Ram::new(start.clone());
    let (mut store, _) = open(&medium).unwrap();
    store.commit(&some_writes(&mut Dice::new(10), 100)).unwrap();
    drop(store);
    let ops = medium.ops();
    let last = ops.iter().rposition(|op| matches!(op, Op::Write { offset: 0, .. })).unwrap();
    let mut bytes = start;
    ops[..last].iter().for_each(|op| apply(&mut bytes, op));
    // Whole, though nobody was told: kept.
    let records = open(&Ram::new(bytes.clone())).unwrap().1;
    assert_eq!(records, open(&medium).unwrap().1);
    let before = open(&Ram::new(used_store(9).0)).unwrap().1;
    assert_ne!(records, before);
    // Damage in that commit leads to the one before; damage elsewhere is found.
    let mut dice = Dice::new(11);
    let pages = (0..bytes.len()).filter(|at| bytes[*at] != 0 && (*at < 320 || at % 397 == 0));
    for at in pages {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << dice.below(8);
        let medium = Ram::new(flipped.clone());
        match open(&medium) {
            Ok((_, found)) => assert!(found == records || found == before, "byte {at}"),
            Err(_) => assert!(medium.bytes() == flipped, "byte {at}: refused, but changed"),
        }
    }
}

#[test]
fn a_file_cut_off_or_grown_is_found_or_does_no_harm() {
    let (bytes, records) = used_store(3);
    let mut refused = 0;
    for len in (0..bytes.len()).step_by(4 * 4096).flat_map(|len| [len, len + 511]) {
        refused += usize::from(refused_or_whole(
            &bytes[..len.min(bytes.len())],
            &records,
            2,
            &format!("cut to {len}"),
        ));
    }
    assert!(refused >= bytes.len() / 4 / 4096, "{refused}: odd lengths alone are half");
    for more in [1, 511, 4095, 4096, 8192, 1 << 20] {
        let mut grown = bytes.clone();
        grown.resize(bytes.len() + more, 0xa5);
        refused_or_whole(&grown, &records, 2, &format!("{more} bytes more"));
    }
}

#[test]
fn random_bytes_are_refused() {
    let mut dice = Dice::new(4);
    let (bytes, _) = used_store(3);
    for len in [1, 9, 319, 320, 4096, 70_000] {
        let random: Vec<u8> = (0..len).map(|_| dice.next() as u8).collect();
        assert!(refused_or_whole(&random, &[], 2, &format!("{len} random bytes")));
        // The same behind a header that looks right.
        let mut dressed = bytes[..bytes.len().min(len)].to_vec();
        dressed.extend(random);
        assert!(refused_or_whole(&dressed, &[], 2, &format!("{len} random bytes behind a header")));
    }
}
