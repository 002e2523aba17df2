//! Rates as people write them: `64kbit`, `1.5Mbit`, `10Gbit`, each per second, in units of 1000.

use std::fmt::Write;

const RULE: &str = "write 64kbit, 1.5Mbit or 10Gbit (per second)";
/// kbit of each unit.
const UNITS: [(&str, u64); 4] = [("kbit", 1), ("Mbit", 1_000), ("Gbit", 1_000_000), ("Tbit", 1_000_000_000)];

/// Whole kbit/s. Upper and lower case are the same, `/s` may stand behind; a bare number, bytes and
/// parts of a kbit are refused. Zero is read: whether it makes sense depends on what it is for.
pub fn parse(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a rate; {RULE}");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (amount, unit) = (&text[..end], &text[end..]);
    let unit = unit.strip_suffix("/s").unwrap_or(unit);
    let (_, kbit) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(bad)?;
    let (whole, fraction) = match amount.split_once('.') {
        None => (amount, ""),
        Some((_, "")) => return Err(bad()),
        Some(parts) => parts,
    };
    if whole.is_empty() || fraction.contains('.') {
        return Err(bad());
    }
    let too_high = || format!("{text} is more than can be counted");
    let whole: u64 = whole.parse().map_err(|_| too_high())?;
    let mut rate = whole.checked_mul(*kbit).ok_or_else(too_high)?;
    let mut place = *kbit;
    for digit in fraction.bytes().map(|byte| u64::from(byte - b'0')) {
        if place == 1 && digit != 0 {
            return Err(format!("{text} is not a whole number of kbit"));
        }
        place = (place / 10).max(1);
        rate = rate.checked_add(digit * place).ok_or_else(too_high)?;
    }
    Ok(rate)
}

/// The shortest form that [`parse`] reads back exactly: `1.5Mbit`.
pub fn show(kbit: u64) -> String {
    let (name, size) = UNITS.iter().rev().find(|(_, size)| kbit >= *size).unwrap_or(&UNITS[0]);
    let mut text = (kbit / size).to_string();
    let rest = kbit % size;
    if rest > 0 {
        let digits = size.ilog10() as usize;
        let _ = write!(text, ".{}", format!("{rest:0digits$}").trim_end_matches('0'));
    }
    text + name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_decimal_and_per_second() {
        for (text, kbit) in [
            ("64kbit", 64),
            ("100Mbit", 100_000),
            ("100mbit/s", 100_000),
            ("1.5Mbit", 1500),
            ("0.064Mbit", 64),
            ("10Gbit", 10_000_000),
            ("1.000001Gbit", 1_000_001),
            ("1.50000Mbit", 1500),
            ("1.0kbit", 1),
            ("2Tbit", 2_000_000_000),
            ("0Mbit", 0),
        ] {
            assert_eq!(parse(text), Ok(kbit), "{text}");
        }
    }

    #[test]
    fn what_could_mean_two_things_or_less_than_a_kbit_is_refused() {
        for text in [
            "",
            "100",
            "Mbit",
            ".5Mbit",
            "1.Mbit",
            "1.2.3Mbit",
            "-1Mbit",
            "1 Mbit",
            "100MB",
            "100Mbps",
            "100M",
            "1.5kbit",
            "0.0001Mbit",
            "1e3Mbit",
            "100bit",
            "100MiBit",
            "１Mbit",
            "99999999999999999999kbit",
            "99999999999999Tbit",
            ".Mbit",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse("100MB").unwrap_err().contains("1.5Mbit"));
    }

    proptest! {
        #[test]
        fn what_is_shown_as_a_rate_is_read_back(kbit: u64) {
            prop_assert_eq!(parse(&show(kbit)), Ok(kbit));
        }

        #[test]
        fn small_amounts_are_read_back_too(kbit in 0u64..5_000_000) {
            prop_assert_eq!(parse(&show(kbit)), Ok(kbit));
        }

        #[test]
        fn any_text_gets_a_rate_or_one_line(text in "[0-9.kMGbit/s ]{0,12}|.{0,30}") {
            if let Err(error) = parse(&text) {
                prop_assert_eq!(error.lines().count(), 1, "{}", error);
            }
        }
    }
}
