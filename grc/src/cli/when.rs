//! Moments as people write them. The present and the time zone are arguments of what decides.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use super::values;

/// When something shall be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Moment {
    Now,
    /// So many seconds from now.
    In(u32),
    /// Seconds since the epoch.
    At(u64),
}

impl Moment {
    /// Seconds since the epoch.
    pub fn at(self, now_s: u64) -> u64 {
        match self {
            Self::Now => now_s,
            Self::In(seconds) => now_s.saturating_add(seconds.into()),
            Self::At(at_s) => at_s,
        }
    }
}

/// Seconds since the epoch on this machine's clock, rounded up: a moment that is named is never
/// over already.
pub fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() + u64::from(now.subsec_nanos() > 0)
}

/// `now`, `+1h30m`, `2026-12-01T10:00+09:00`, or the same without an offset on this machine's
/// clock face.
pub fn moment(text: &str) -> Result<Moment, String> {
    moment_in(text, &TimeZone::system())
}

fn moment_in(text: &str, zone: &TimeZone) -> Result<Moment, String> {
    if text == "now" {
        return Ok(Moment::Now);
    }
    if let Some(duration) = text.strip_prefix('+') {
        return values::duration(duration).map(Moment::In);
    }
    let bad = || {
        format!("{text:?} is not a time; write now, +1h30m, 2026-12-01T10:00 or 2026-12-01T10:00:00+09:00")
    };
    let (face, offset) = split(text).ok_or_else(bad)?;
    let face: DateTime = face.parse().map_err(|_| bad())?;
    let time = if offset.is_empty() {
        local(text, face, zone)?
    } else {
        text.parse::<Timestamp>().map_err(|_| bad())?
    };
    u64::try_from(time.as_second()).map(Moment::At).map_err(|_| format!("{text} lies before 1970"))
}

/// The clock face and the offset behind it, if both have the usual shape: the library reads much
/// more than is meant here.
fn split(text: &str) -> Option<(&str, &str)> {
    const FACE: &[u8] = b"0000-00-00T00:00";
    let like = |text: &str, shape: &[u8]| {
        text.len() == shape.len()
            && text.bytes().zip(shape).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                _ => byte == *wanted,
            })
    };
    let minutes = text.get(..FACE.len()).filter(|head| like(head, FACE))?;
    let rest = &text[minutes.len()..];
    // A minute has 60 seconds here: nobody means the 61st.
    let seconds = rest.get(..3).filter(|seconds| like(seconds, b":00") && *seconds < ":60");
    let (face, offset) = text.split_at(minutes.len() + seconds.map_or(0, str::len));
    let known = offset.is_empty() || offset == "Z" || like(offset, b"+00:00") || like(offset, b"-00:00");
    known.then_some((face, offset))
}

/// A clock face without an offset. When the clocks change, some hours do not exist and some exist
/// twice; neither is guessed.
fn local(text: &str, face: DateTime, zone: &TimeZone) -> Result<Timestamp, String> {
    let ambiguous = zone.to_ambiguous_timestamp(face);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => {
            ambiguous.unambiguous().map_err(|_| format!("{text} is out of range"))
        }
        AmbiguousOffset::Gap { before, after } => Err(format!(
            "{text} does not exist here: the clocks skip it; write the offset, like {text}{} or {text}{}",
            show_offset(before),
            show_offset(after)
        )),
        AmbiguousOffset::Fold { before, after } => Err(format!(
            "{text} exists twice here: the clocks are put back then; write the offset, {text}{} or {text}{}",
            show_offset(before),
            show_offset(after)
        )),
    }
}

fn show_offset(offset: Offset) -> String {
    let seconds = offset.seconds();
    let sign = if seconds < 0 { '-' } else { '+' };
    let minutes = seconds.unsigned_abs() / 60;
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Clocks go forward on the last Sunday of March at 2:00, back on that of October at 3:00.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn at(text: &str) -> Result<Moment, String> {
        moment_in(text, &berlin())
    }

    fn second(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_second() as u64
    }

    #[test]
    fn a_moment_is_now_a_span_or_a_time_with_or_without_offset() {
        assert_eq!(at("now"), Ok(Moment::Now));
        assert_eq!(at("+1h30m"), Ok(Moment::In(5400)));
        for (text, wanted) in [
            ("2026-12-01T10:00+09:00", "2026-12-01T01:00:00Z"),
            ("2026-12-01T10:00:30Z", "2026-12-01T10:00:30Z"),
            ("2026-12-01T10:00-00:30", "2026-12-01T10:30:00Z"),
            ("2026-12-01T10:00", "2026-12-01T09:00:00Z"),
            ("2026-07-01T10:00:05", "2026-07-01T08:00:05Z"),
            // With its offset an hour that exists twice is one hour.
            ("2026-10-25T02:30+02:00", "2026-10-25T00:30:00Z"),
            ("2026-10-25T02:30+01:00", "2026-10-25T01:30:00Z"),
        ] {
            assert_eq!(at(text), Ok(Moment::At(second(wanted))), "{text}");
        }
    }

    #[test]
    fn hours_that_the_clocks_skip_or_repeat_are_refused_with_what_to_write() {
        let gap = at("2026-03-29T02:30").unwrap_err();
        assert!(gap.contains("does not exist") && gap.contains("2026-03-29T02:30+01:00"), "{gap}");
        let fold = at("2026-10-25T02:30").unwrap_err();
        assert!(fold.contains("exists twice") && fold.contains("2026-10-25T02:30+02:00"), "{fold}");
        assert_eq!(at("2026-03-29T03:00"), Ok(Moment::At(second("2026-03-29T01:00:00Z"))));
    }

    /// What an error proposes must be accepted.
    #[test]
    fn the_offsets_that_are_proposed_can_be_typed() {
        for text in ["2026-03-29T02:30", "2026-10-25T02:30"] {
            let error = at(text).unwrap_err();
            let proposed: Vec<&str> = error
                .split([' ', ','])
                .filter(|word| word.len() > text.len() && word.starts_with(text))
                .collect();
            assert_eq!(proposed.len(), 2, "{error}");
            for word in proposed {
                assert!(at(word).is_ok(), "{word} of {error}");
            }
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "+",
            "tomorrow",
            "10:00",
            "2026-12-01",
            "2026-12-01 10:00",
            "2026-12-01T10",
            "2026-12-01T10:00:60",
            "2026-12-01T10:00:00.5Z",
            "2026-02-30T10:00",
            "2026-12-01T24:00",
            "2026-12-01T10:00+9",
            "2026-12-01T10:00[Asia/Tokyo]",
            "2026-12-01T10:00+99:00",
            "1969-12-31T10:00Z",
            "-1h",
            "now ",
            "２026-12-01T10:00",
        ] {
            assert!(at(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_time_is_read_back_in_every_zone(second in 0i64..4_000_000_000, zone in 0usize..4) {
            let zone = [
                TimeZone::UTC,
                berlin(),
                TimeZone::posix("<+0545>-5:45").unwrap(),
                TimeZone::posix("NST3:30NDT,M3.2.0,M11.1.0").unwrap(),
            ][zone].clone();
            let local = Timestamp::from_second(second).unwrap().to_zoned(zone.clone());
            let typed = local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
            prop_assert_eq!(moment_in(&typed, &zone), Ok(Moment::At(second as u64)));
            // Without the offset it is either the same or not clear.
            let face = local.strftime("%Y-%m-%dT%H:%M:%S").to_string();
            match moment_in(&face, &zone) {
                Ok(moment) => prop_assert_eq!(moment, Moment::At(second as u64)),
                Err(error) => prop_assert!(error.contains("exists twice"), "{}", error),
            }
        }

        #[test]
        fn any_text_gets_a_moment_or_one_line(text in "[0-9T:+Z-]{0,25}|.{0,30}") {
            if let Err(error) = at(&text) {
                prop_assert_eq!(error.lines().count(), 1, "{}", error);
            }
        }
    }
}
