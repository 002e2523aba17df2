//! Parsers of what people type; each error is one sentence that says what would do.

use protocol::client::Selector;
use protocol::ids::{JobId, ReservationId};
use protocol::names::{EnvironmentName, Label, SiteName, VariableName};
use protocol::reservation::Placement;

pub use crate::wording::show_duration;

/// A job or a reservation, by id or as the newest of both.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Thing {
    Job(JobId),
    Reservation(ReservationId),
    Last,
}

/// `a=2,b=2`, or `4` for four anywhere. Counts of zero are for the GRC to refuse.
pub fn placement(text: &str) -> Result<Placement, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(Placement::Anywhere(count(text)?));
    }
    let mut parts = Vec::new();
    for part in text.split(',') {
        let Some((site, nodes)) = part.split_once('=') else {
            return Err(format!("{part:?} is not SITE=N; write a=2,b=2, or 4 for four anywhere"));
        };
        let site: SiteName = site.trim().parse().map_err(|error| format!("{error}"))?;
        parts.push((site, count(nodes.trim())?));
    }
    Ok(Placement::Sites(parts))
}

fn count(text: &str) -> Result<u32, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} is not a number of nodes"));
    }
    text.parse().map_err(|_| format!("{text} nodes are more than can be counted"))
}

const DURATION_RULE: &str = "write 1h30m, 90s, 2d or HH:MM:SS";

/// Seconds from `1h30m`, `2d`, `90s` (each unit once, the largest first) or `HH:MM:SS`.
pub fn duration(text: &str) -> Result<u32, String> {
    let bad = || format!("{text:?} is not a duration; {DURATION_RULE}");
    let too_long = || format!("{text} is longer than can be counted");
    let seconds =
        if text.contains(':') { clock(text).ok_or_else(bad)? } else { units(text).ok_or_else(bad)? };
    u32::try_from(seconds).map_err(|_| too_long())
}

/// `HH:MM:SS`; two fields could be hours and minutes or minutes and seconds, so they are refused.
fn clock(text: &str) -> Option<u64> {
    let fields: Vec<u64> = text.split(':').map(number).collect::<Option<_>>()?;
    match fields[..] {
        [hours, minutes @ 0..60, seconds @ 0..60] => {
            hours.checked_mul(3600)?.checked_add(minutes * 60 + seconds)
        }
        _ => None,
    }
}

fn units(text: &str) -> Option<u64> {
    let mut seconds = 0u64;
    let mut unit_before = u64::MAX;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let unit = match rest[end..].chars().next()? {
            'd' => 86_400,
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        if unit >= unit_before {
            return None;
        }
        unit_before = unit;
        seconds = seconds.checked_add(number(&rest[..end])?.checked_mul(unit)?)?;
        rest = &rest[end + 1..];
    }
    Some(seconds)
}

fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Bytes from `500M`, `2GiB` (both powers of 1024, as batch systems read them), `2GB` (of 1000)
/// or a plain number.
pub fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size; write 500M, 2GiB (1024) or 2GB (1000)");
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if end == 0 {
        return Err(bad());
    }
    let unit = text[end..].to_ascii_lowercase();
    let power = match unit.trim_start().chars().next() {
        None | Some('b') => 0,
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some(_) => return Err(bad()),
    };
    let base: u64 = match (power, unit.trim_start().get(1..).unwrap_or_default()) {
        (0, "") | (1.., "" | "ib") => 1024,
        (1.., "b") => 1000,
        _ => return Err(bad()),
    };
    let bytes = number(&text[..end])
        .and_then(|digits| digits.checked_mul(base.pow(power)))
        .ok_or_else(|| format!("{text} is more than can be counted"))?;
    if bytes == 0 {
        return Err("a size of 0 asks for nothing; leave the option out for no limit".to_owned());
    }
    Ok(bytes)
}

/// Thousandths of a processor from `2` or `1.5`.
pub fn cpus(text: &str) -> Result<u32, String> {
    let bad = || format!("{text:?} is not a number of processors; write 2 or 1.5");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.len() > 3 {
        return Err(format!("{text:?} has more than three digits behind the point"));
    }
    let whole = number(whole).ok_or_else(bad)?;
    let thousandths = number(&format!("{fraction:0<3}")).filter(|_| !fraction.is_empty()).ok_or_else(bad)?;
    let milli = whole.checked_mul(1000).and_then(|milli| milli.checked_add(thousandths));
    match milli.and_then(|milli| u32::try_from(milli).ok()) {
        Some(0) => Err("0 processors ask for nothing; leave the option out for no limit".to_owned()),
        Some(milli) => Ok(milli),
        None => Err(format!("{text} processors are more than can be counted")),
    }
}

/// Processes at once: a whole number, at least one.
pub fn processes(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("write a number from 1, like 512".to_owned()),
        Ok(processes) => Ok(processes),
    }
}

/// Between SIGTERM and SIGKILL: a duration of at most an hour; 0 kills at once.
pub fn grace(text: &str) -> Result<u16, String> {
    if matches!(text, "0" | "0s") {
        return Ok(0);
    }
    let seconds = duration(text)?;
    u16::try_from(seconds).ok().filter(|seconds| *seconds <= 3600).ok_or_else(|| "at most 1h".to_owned())
}

/// `NAME=VALUE`; the value may be empty and may hold further `=`.
pub fn variable(text: &str) -> Result<(VariableName, String), String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(format!("{text:?} has no value; write NAME=VALUE (the value may be empty)"));
    };
    Ok((name.parse::<VariableName>().map_err(|error| error.to_string())?, value.to_owned()))
}

pub fn environment(text: &str) -> Result<EnvironmentName, String> {
    text.parse::<EnvironmentName>().map_err(|error| error.to_string())
}

pub fn label(text: &str) -> Result<Label, String> {
    text.parse::<Label>().map_err(|error| error.to_string())
}

/// `j34`, `r12` or `last`.
pub fn thing(text: &str) -> Result<Thing, String> {
    if text == "last" {
        return Ok(Thing::Last);
    }
    if let Ok(id) = text.parse() {
        return Ok(Thing::Job(id));
    }
    match text.parse() {
        Ok(id) => Ok(Thing::Reservation(id)),
        Err(_) => Err(format!("{text:?} is no id; write j34 for a job, r12 for a reservation, or last")),
    }
}

/// `j34` or `last`.
pub fn job(text: &str) -> Result<Selector<JobId>, String> {
    match thing(text)? {
        Thing::Job(id) => Ok(Selector::Id(id)),
        Thing::Last => Ok(Selector::Last),
        Thing::Reservation(id) => Err(format!(
            "{id} is a reservation; a job is meant here, like j34 (`gridpilot release {id}` ends it)"
        )),
    }
}

/// `r12` or `last`.
pub fn reservation(text: &str) -> Result<Selector<ReservationId>, String> {
    match thing(text)? {
        Thing::Reservation(id) => Ok(Selector::Id(id)),
        Thing::Last => Ok(Selector::Last),
        Thing::Job(id) => Err(format!(
            "{id} is a job; a reservation is meant here, like r12 (`gridpilot cancel {id}` stops it)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_batch_users_write_them() {
        for (text, seconds) in [
            ("1h30m", 5400),
            ("90s", 90),
            ("2d", 172_800),
            ("1d2h3m4s", 93_784),
            ("01:30:00", 5400),
            ("100:00:01", 360_001),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn durations_that_could_mean_two_things_are_refused() {
        for text in
            ["", "90", "1:30", "30m1h", "1h1h", "1x", "h", "1:60:00", "1:00:60", "-1s", "1.5h", "1h ", "９s"]
        {
            assert!(duration(text).is_err(), "{text:?}");
        }
        assert!(duration("99999999999999999999d").is_err());
        assert!(duration("49711d").unwrap_err().contains("longer"));
    }

    #[test]
    fn sizes_know_both_families_of_units() {
        for (text, bytes) in [
            ("2GiB", 2 << 30),
            ("2G", 2 << 30),
            ("500M", 500 << 20),
            ("500m", 500 << 20),
            ("1k", 1024),
            ("2GB", 2_000_000_000),
            ("10MB", 10_000_000),
            ("1TiB", 1 << 40),
            ("4096", 4096),
            ("4096B", 4096),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "0", "0G", "-1", "1.5G", "2X", "2GiBs", "2bb", "99999999T", "2iB"] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn nodes_are_per_site_or_anywhere() {
        let site = |name: &str| name.parse::<SiteName>().unwrap();
        assert_eq!(placement("4"), Ok(Placement::Anywhere(4)));
        assert_eq!(placement("b=2,a=1"), Ok(Placement::Sites(vec![(site("b"), 2), (site("a"), 1)])));
        assert_eq!(placement("a=0"), Ok(Placement::Sites(vec![(site("a"), 0)])));
        for text in
            ["", "a", "a=", "=2", "a=x", "a=2,", "A=2", "a=-1", "-1", "a=4294967296", "4294967296", "a=2;b=2"]
        {
            assert!(placement(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn processors_come_in_thousandths() {
        for (text, milli) in [("2", 2000), ("1.5", 1500), ("0.001", 1), ("0.25", 250)] {
            assert_eq!(cpus(text), Ok(milli), "{text}");
        }
        for text in ["", ".", "0", "0.0", "1.", ".5", "1.5555", "-1", "a", "9999999999"] {
            assert!(cpus(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn variables_split_at_the_first_equals_sign() {
        let (name, value) = variable("A=b=c").unwrap();
        assert_eq!((name.as_str(), value.as_str()), ("A", "b=c"));
        assert_eq!(variable("A=").unwrap().1, "");
        for text in ["A", "=x", "1A=x", "A B=x"] {
            assert!(variable(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn ids_of_the_wrong_kind_say_what_was_meant() {
        assert_eq!(thing("j34"), Ok(Thing::Job(JobId(34))));
        assert_eq!(thing("r12"), Ok(Thing::Reservation(ReservationId(12))));
        assert_eq!(thing("last"), Ok(Thing::Last));
        assert!(job("r12").unwrap_err().contains("gridpilot release r12"));
        assert!(reservation("j3").unwrap_err().contains("gridpilot cancel j3"));
        for text in ["", "j", "34", "x1", "j-1", "J1", "Last"] {
            assert!(thing(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_as_a_duration_is_read_back(seconds: u32) {
            prop_assert_eq!(duration(&show_duration(seconds.into())), Ok(seconds));
        }

        #[test]
        fn clock_form_and_unit_form_agree(h in 0u32..9999, m in 0u32..60, s in 0u32..60) {
            prop_assert_eq!(duration(&format!("{h:02}:{m:02}:{s:02}")), duration(&format!("{h}h{m}m{s}s")));
        }

        #[test]
        fn a_size_of_bytes_is_itself(bytes in 1u64..) {
            prop_assert_eq!(size(&bytes.to_string()), Ok(bytes));
        }

        #[test]
        fn a_list_of_nodes_keeps_order_and_numbers(parts in prop::collection::vec(("[a-z][a-z0-9]{0,11}", any::<u32>()), 1..6)) {
            let text = parts.iter().map(|(s, n)| format!("{s}={n}")).collect::<Vec<_>>().join(",");
            let Placement::Sites(read) = placement(&text).unwrap() else { panic!("{text}") };
            let read: Vec<_> = read.iter().map(|(s, n)| (s.as_str().to_owned(), *n)).collect();
            prop_assert_eq!(read, parts);
        }

        #[test]
        fn any_text_gets_a_value_or_one_line(text in ".{0,40}") {
            for error in [
                placement(&text).err(), duration(&text).err(), size(&text).err(), cpus(&text).err(),
                variable(&text).err(), thing(&text).err(), label(&text).err(), environment(&text).err(),
            ].into_iter().flatten() {
                prop_assert!(error.lines().count() <= 1, "{}", error);
            }
        }
    }
}
