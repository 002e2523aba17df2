//! Names, ids and texts: what is accepted is exactly what the rule says, on every way in.

use proptest::prelude::*;
use proptest::test_runner::Config;

use super::arbitrary;
use crate::codec;
use crate::hello::Hello;
use crate::ids::{JobId, ReservationId};
use crate::limits::TEXT_BYTES_MAX;
use crate::names::{AbsolutePath, EnvironmentName, Label, NodeName, SiteName, Text, UserName, VariableName};

/// From the wire nothing gets in that could not be typed.
fn same_on_both_ways<T>(text: &str)
where
    T: std::str::FromStr + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let wire = codec::encode(&text.to_owned()).unwrap();
    assert_eq!(codec::decode::<T>(&wire).ok(), text.parse::<T>().ok(), "{text:?}");
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(500) })]

    #[test]
    fn the_wire_carries_only_names_that_could_be_typed(text in "\\PC{0,70}|[a-z0-9._-]{0,90}|/.{0,9}|.{0,9}") {
        same_on_both_ways::<SiteName>(&text);
        same_on_both_ways::<UserName>(&text);
        same_on_both_ways::<NodeName>(&text);
        same_on_both_ways::<Label>(&text);
        same_on_both_ways::<EnvironmentName>(&text);
        same_on_both_ways::<VariableName>(&text);
        same_on_both_ways::<AbsolutePath>(&text);
    }

    #[test]
    fn no_name_can_leave_its_line_its_word_or_its_directory(text in any::<String>()) {
        let risky = |c: char| c.is_control() || c.is_whitespace() || "/:,;#\"'\\$`*?[]{}()<>|&!=".contains(c);
        for accepted in [
            text.parse::<SiteName>().map(String::from),
            text.parse::<UserName>().map(String::from),
            text.parse::<NodeName>().map(String::from),
            text.parse::<EnvironmentName>().map(String::from),
            text.parse::<VariableName>().map(String::from),
        ].into_iter().flatten() {
            prop_assert!(!accepted.contains(risky) && !accepted.starts_with(['-', '.']), "{accepted:?}");
        }
    }

    #[test]
    fn a_text_is_printable_bounded_and_stays_as_it_is(given in "(?s).{0,1500}") {
        let text = Text::from(given);
        prop_assert!(!text.as_str().contains(char::is_control));
        prop_assert!(text.as_str().len() <= TEXT_BYTES_MAX);
        prop_assert_eq!(Text::from(text.as_str()), text);
    }

    #[test]
    fn ids_are_typed_as_they_are_shown(number in any::<u64>(), word in "[rj]?[-+ 0-9a-z]{0,6}") {
        prop_assert_eq!(ReservationId(number).to_string().parse(), Ok(ReservationId(number)));
        prop_assert_eq!(JobId(number).to_string().parse(), Ok(JobId(number)));
        prop_assert!(JobId(number).to_string().parse::<ReservationId>().is_err());
        if let Ok(id) = word.parse::<ReservationId>() {
            prop_assert!(word[1..].bytes().all(|b| b.is_ascii_digit()), "{:?} was taken for {}", word, id);
        }
    }

    /// Terminals show a failure in three lines at most, whatever a peer wrote into it.
    #[test]
    fn a_failure_prints_in_at_most_three_lines(failure in arbitrary::failure()) {
        prop_assert!(failure.to_string().lines().count() <= 3);
    }

    #[test]
    fn a_refusal_prints_in_one_line(refusal in arbitrary::refusal()) {
        prop_assert_eq!(refusal.to_string().lines().count(), 1);
    }

    #[test]
    fn a_greeting_carries_any_software_name(name in "(?s).{0,300}", versions in any::<(u16, u16)>()) {
        let (version_min, version_max) = (versions.0.min(versions.1), versions.0.max(versions.1));
        let hello = Hello { role: crate::hello::Role::Crm, version_min, version_max, software: name.into() };
        let back = Hello::decode(&hello.encode()).unwrap();
        prop_assert!(hello.software.as_str().starts_with(back.software.as_str()));
        prop_assert!(back.software.as_str().len() >= hello.software.as_str().len().min(250));
        prop_assert_eq!((back.version_min, back.version_max), (version_min, version_max));
    }
}
