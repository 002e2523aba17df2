//! Rates between sites: `100Mbit` for every pair, `a-b=100Mbit,a-c=1Gbit` pair by pair, or a file
//! of pairs.
//!
//! ```toml
//! [[pair]]
//! between = ["a", "b"]
//! rate = "100Mbit"
//! ```

use std::path::Path;

use protocol::limits::PAIRS_MAX;
use protocol::names::SiteName;
use protocol::reservation::{Bandwidth, PairRate};
use serde::Deserialize;

use super::client::reason;
use super::errors::CliError;
use crate::rates;

/// One rate for every pair, one for each pair that is named, or `none`. Rates that are too low or
/// too high are for the GRC to refuse.
pub fn bandwidth(text: &str) -> Result<Bandwidth, String> {
    if text == "none" {
        return Ok(Bandwidth::Unasked);
    }
    if !text.contains('=') {
        return rate(text).map(Bandwidth::Between);
    }
    let mut pairs = Vec::new();
    for part in text.split(',') {
        let bad =
            || format!("{part:?} is not A-B=RATE; write a-b=100Mbit,a-c=1Gbit, or 100Mbit for every pair");
        let (sites, of) = part.split_once('=').ok_or_else(bad)?;
        let (a, b) = sites.split_once('-').ok_or_else(bad)?;
        let site = |name: &str| name.trim().parse::<SiteName>().map_err(|error| error.to_string());
        pairs.push(PairRate { a: site(a)?, b: site(b)?, rate_kbit: rate(of.trim())? });
    }
    checked(pairs)
}

fn rate(text: &str) -> Result<u32, String> {
    u32::try_from(rates::parse(text)?).map_err(|_| format!("{text} is more than any network has"))
}

/// Pairs that contradict each other are noticed here, where it can still be said which.
fn checked(pairs: Vec<PairRate>) -> Result<Bandwidth, String> {
    if pairs.len() > PAIRS_MAX {
        return Err(format!("{} pairs are too many, {PAIRS_MAX} may have a rate", pairs.len()));
    }
    let mut seen = std::collections::BTreeSet::new();
    for PairRate { a, b, .. } in &pairs {
        if a == b {
            return Err(format!("{a}-{b} is no pair: traffic within a site is not shaped"));
        }
        if !seen.insert((a.min(b), a.max(b))) {
            return Err(format!("there are two rates between {a} and {b}"));
        }
    }
    Ok(Bandwidth::Pairs(pairs))
}

/// `[[pair]]` as it stands in a file.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairEntry {
    between: [SiteName; 2],
    rate: toml::Spanned<String>,
}

/// What the pairs of a file ask.
///
/// # Errors
/// What is wrong, and at which byte of the file.
pub fn of_pairs(entries: Vec<PairEntry>) -> Result<Bandwidth, (usize, String)> {
    let first = entries.first().map_or(0, |entry| entry.rate.span().start);
    let mut pairs = Vec::new();
    for PairEntry { between: [a, b], rate: of } in entries {
        let rate_kbit = rate(of.get_ref()).map_err(|what| (of.span().start, what))?;
        pairs.push(PairRate { a, b, rate_kbit });
    }
    checked(pairs).map_err(|what| (first, what))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PairsFile {
    pair: Vec<PairEntry>,
}

/// Reads a file of pairs.
///
/// # Errors
/// `Usage`, naming the file and the line.
pub fn read(path: &Path) -> Result<Bandwidth, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CliError::Usage(format!("cannot read the file of pairs {}: {}", path.display(), reason(&error)))
    })?;
    parse(&text).map_err(|(at, what)| {
        let line = 1 + text[..at.min(text.len())].matches('\n').count();
        CliError::Usage(format!("{}, line {line}: {what}", path.display()))
    })
}

fn parse(text: &str) -> Result<Bandwidth, (usize, String)> {
    let file: PairsFile = toml::from_str(text).map_err(|error| {
        let what = error.message().lines().collect::<Vec<_>>().join(" ");
        (error.span().map_or(0, |span| span.start), what)
    })?;
    of_pairs(file.pair)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(a: &str, b: &str, rate_kbit: u32) -> PairRate {
        PairRate { a: a.parse().unwrap(), b: b.parse().unwrap(), rate_kbit }
    }

    #[test]
    fn one_rate_is_for_every_pair_and_pairs_have_their_own() {
        assert_eq!(bandwidth("100Mbit"), Ok(Bandwidth::Between(100_000)));
        assert_eq!(bandwidth("none"), Ok(Bandwidth::Unasked));
        // How little is too little is for the GRC to say.
        assert_eq!(bandwidth("0Mbit"), Ok(Bandwidth::Between(0)));
        assert_eq!(
            bandwidth("a-b=100Mbit, c-a=1Gbit"),
            Ok(Bandwidth::Pairs(vec![pair("a", "b", 100_000), pair("c", "a", 1_000_000)]))
        );
    }

    #[test]
    fn a_file_of_pairs_says_the_same() {
        let text = "[[pair]]\nbetween = [\"a\", \"b\"]\nrate = \"100Mbit\"\n\
                    [[pair]]\nbetween = [\"c\", \"a\"]\nrate = \"1Gbit\"\n";
        assert_eq!(parse(text), Ok(bandwidth("a-b=100Mbit,c-a=1Gbit").unwrap()));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_and_in_a_file_with_its_place() {
        for (text, words) in [
            ("a-b", "is not a rate"),
            ("a=1Mbit", "is not A-B=RATE"),
            ("a-b=1Mbit,", "is not A-B=RATE"),
            ("a-b=", "is not a rate"),
            ("A-b=1Mbit", "is not a site name"),
            ("a-a=1Mbit", "no pair"),
            ("a-b=1Mbit,b-a=2Mbit", "two rates between b and a"),
            ("5Tbit", "more than any network has"),
        ] {
            let error = bandwidth(text).unwrap_err();
            assert!(error.contains(words) && error.lines().count() == 1, "{text}: {error}");
        }
        let good = "[[pair]]\nbetween = [\"a\", \"b\"]\nrate = \"1Mbit\"\n";
        for (from, to, line, words) in [
            ("rate", "rat", 3, "unknown field `rat`"),
            ("1Mbit", "1MB", 3, "is not a rate"),
            ("\"b\"", "\"B\"", 2, "is not a site name"),
            ("\"b\"", "\"a\"", 3, "no pair"),
            ("[[pair]]", "[[pairs]]", 1, "unknown field `pairs`"),
        ] {
            let (at, what) = parse(&good.replacen(from, to, 1)).unwrap_err();
            assert_eq!(1 + good[..at].matches('\n').count(), line, "{what}");
            assert!(what.contains(words), "{what}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gets_rates_or_one_line(text in "[a-c=,0-9Mbit-]{0,30}|.{0,30}") {
            if let Err(error) = bandwidth(&text) {
                prop_assert_eq!(error.lines().count(), 1, "{}", error);
            }
        }

        #[test]
        fn what_is_read_contradicts_itself_in_nothing(text in "([abc]-[abc]=[1-9]{1,4}Mbit,){0,3}[abc]-[abc]=[1-9]Mbit") {
            if let Ok(read) = bandwidth(&text) {
                prop_assert!(read.check().is_ok());
            }
        }
    }
}
