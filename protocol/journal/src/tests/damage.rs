//! What was not written by this store, or was changed since, is refused and left as it is.

use std::sync::Arc;

use super::media::{Dice, Ram, empty_store, open, some_writes};
use crate::{Record, StoreError};

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

/// `true` if it was refused.
fn refused_or_whole(medium: &Arc<Ram>, before: &[u8], records: &[Record], what: &str) -> bool {
    match open(medium) {
        Ok((_, found)) => {
            assert!(found == records, "{what}: other records");
            false
        }
        Err(StoreError::Damaged { .. } | StoreError::Record { .. } | StoreError::Foreign { .. }) => {
            assert!(medium.bytes() == before, "{what}: refused, but changed");
            true
        }
        Err(other) => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_flipped_bit_is_found_or_does_no_harm() {
    let (bytes, records) = used_store(7);
    let mut dice = Dice::new(8);
    let (mut flips, mut refused) = (0, 0);
    let header = (0..320).flat_map(|offset| (0..8).map(move |bit| (offset, bit)));
    let pages: Vec<_> = (320..bytes.len())
        .filter(|at| bytes[*at] != 0 && at % 61 == 0)
        .map(|at| (at, dice.below(8)))
        .collect();
    for (offset, bit) in header.chain(pages) {
        let mut flipped = bytes.clone();
        flipped[offset] ^= 1 << bit;
        let what = format!("bit {bit} of byte {offset}");
        refused += usize::from(refused_or_whole(&Ram::new(flipped.clone()), &flipped, &records, &what));
        flips += 1;
    }
    println!("{refused} of {flips} refused");
    assert!(refused > flips / 10, "{refused} of {flips}: were the pages in use hit at all?");
}
