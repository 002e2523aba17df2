//! The two forms of ssh's binary language that logins need (RFC 4251, 5): strings, and numbers as
//! strings.

/// Appends a string: its length in four bytes, then itself. Nothing here is near 4 GiB.
pub fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Takes a string off the front; `None` if it is not all there.
pub fn take_string<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (string, rest) = rest.split_at_checked(length)?;
    *from = rest;
    Some(string)
}

/// Takes a number that is not negative, as exactly `N` bytes; `None` if it has more, or is written
/// in another way than the one that is right.
pub fn take_number<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let written = take_string(from)?;
    let digits = match written {
        [0, first, ..] if first & 0x80 != 0 => &written[1..],
        [0, ..] => return None,
        [first, ..] if first & 0x80 != 0 => return None,
        _ => written,
    };
    let mut number = [0; N];
    number[N.checked_sub(digits.len())?..].copy_from_slice(digits);
    Some(number)
}

/// Appends a number that is not negative, in the one way that is right.
pub fn put_number(out: &mut Vec<u8>, digits: &[u8]) {
    let from = digits.iter().position(|digit| *digit != 0).unwrap_or(digits.len());
    let mut written = Vec::with_capacity(digits.len() + 1);
    if digits.get(from).is_some_and(|first| first & 0x80 != 0) {
        written.push(0);
    }
    written.extend_from_slice(&digits[from..]);
    put_string(out, &written);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        #[test]
        fn strings_and_numbers_come_back_and_cut_ones_do_not(
            strings in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..5),
            number in any::<[u8; 8]>(),
        ) {
            let mut out = Vec::new();
            strings.iter().for_each(|string| put_string(&mut out, string));
            put_number(&mut out, &number);
            let mut from = out.as_slice();
            for string in &strings {
                prop_assert_eq!(take_string(&mut from), Some(string.as_slice()));
            }
            let mut cut = &from[..from.len() - 1];
            prop_assert_eq!(take_number::<8>(&mut cut), None);
            prop_assert_eq!(take_number::<8>(&mut from), Some(number));
            prop_assert!(from.is_empty());
        }

        /// Two ways to write one number would be two signatures where there is one.
        #[test]
        fn what_is_taken_as_a_number_is_written_in_the_one_way(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut string = Vec::new();
            put_string(&mut string, &bytes);
            if let Some(number) = take_number::<10>(&mut string.as_slice()) {
                let mut again = Vec::new();
                put_number(&mut again, &number);
                prop_assert_eq!(again, string);
            }
        }
    }
}
