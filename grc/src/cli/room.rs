//! Refusals in the words that people type: what cannot be had now, and when it can, on this
//! machine's clock face.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use protocol::refusal::{Refusal, Resource};
use serde::Serialize;

use super::json;
use super::values::show_duration;
use super::when::now_s;
use crate::{rates, wording};

/// The words of a refusal, in one to three lines.
pub fn sentence(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NoRoom { resource, asked, have, in_s } => {
            let starts = starts(in_s, now_s(), &TimeZone::system());
            lines(&wording::no_room(resource, *asked, *have), &starts)
        }
        Refusal::BadRate { asked_kbit, min_kbit, max_kbit } => {
            let [asked, min, max] = [asked_kbit, min_kbit, max_kbit].map(|kbit| rates::show((*kbit).into()));
            format!("a rate is {min} to {max}, {asked} was asked")
        }
        Refusal::BadDuration { asked_s, max_s } => {
            let [asked, max] = [asked_s, max_s].map(|seconds| show_duration((*seconds).into()));
            format!("a reservation lasts 1s to {max}, {asked} was asked")
        }
        other => other.to_string(),
    }
}

fn lines(missing: &str, starts: &[String]) -> String {
    match starts {
        [] => format!("{missing}\n  no later start is known either; ask for less, or see `gridpilot sites`"),
        [first] => format!("{missing}\n  it can begin at {first}: say --start, or --queue to wait"),
        [first, others @ ..] => {
            let others = others.join(" or ");
            format!("{missing}\n  it can begin at {first}: say --start, or --queue to wait\n  or at {others}")
        }
    }
}

/// `2026-12-01T10:00:05+09:00, in 5m`, each as it can be typed.
fn starts(in_s: &[u64], now_s: u64, zone: &TimeZone) -> Vec<String> {
    let show = |wait_s: &u64| {
        let second = i64::try_from(now_s.checked_add(*wait_s)?).ok()?;
        let local = Timestamp::from_second(second).ok()?.to_zoned(zone.clone());
        Some(format!("{}, in {}", local.strftime("%Y-%m-%dT%H:%M:%S%:z"), show_duration(*wait_s)))
    };
    in_s.iter().filter_map(show).collect()
}

/// The same for programs.
#[derive(Debug, Serialize)]
pub struct RoomJson {
    /// `nodes`, `addresses`, `link` or `uplink`.
    resource: &'static str,
    /// One site, or the two ends of a link.
    sites: Vec<String>,
    /// Nodes, addresses or kbit/s.
    asked: u64,
    have: u64,
    /// When it could be had, the earliest first.
    starts: Vec<String>,
}

impl RoomJson {
    /// Of a refusal for want of room.
    pub fn of(refusal: &Refusal) -> Option<Self> {
        let Refusal::NoRoom { resource, asked, have, in_s } = refusal else { return None };
        let (kind, sites) = match resource {
            Resource::Nodes { site } => ("nodes", vec![site.to_string()]),
            Resource::Addresses { site } => ("addresses", vec![site.to_string()]),
            Resource::Link { a, b } => ("link", vec![a.to_string(), b.to_string()]),
            Resource::Uplink { site } => ("uplink", vec![site.to_string()]),
        };
        let now_s = now_s();
        let starts = in_s.iter().filter_map(|wait_s| json::time(now_s.saturating_add(*wait_s))).collect();
        Some(Self { resource: kind, sites, asked: *asked, have: *have, starts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::when::{Moment, moment};

    #[test]
    fn a_start_that_is_proposed_can_be_typed() {
        let zone = TimeZone::posix("<+09>-9").unwrap();
        let starts = starts(&[300, 3600], 1_796_086_800, &zone);
        assert_eq!(starts[0], "2026-12-01T10:05:00+09:00, in 5m");
        let typed = starts[1].split(',').next().unwrap();
        assert_eq!(moment(typed), Ok(Moment::At(1_796_086_800 + 3600)));
    }

    #[test]
    fn no_room_is_told_in_at_most_three_lines_with_readable_amounts() {
        let link = Resource::Link { a: "a".parse().unwrap(), b: "b".parse().unwrap() };
        for count in 0..=3 {
            let refusal = Refusal::NoRoom {
                resource: link.clone(),
                asked: 100_000,
                have: 50_000,
                in_s: (0..count).map(|n| 300 * (n + 1)).collect(),
            };
            let text = sentence(&refusal);
            assert!(
                text.starts_with("the link a-b has 50Mbit left in that window, 100Mbit are needed\n"),
                "{text}"
            );
            assert!(text.lines().count() <= 3, "{text}");
            assert_eq!(text.contains("in 5m:"), count > 0, "{text}");
            assert_eq!(text.contains("in 10m or"), count == 3, "{text}");
        }
    }

    #[test]
    fn amounts_are_told_as_they_are_typed() {
        let rate = Refusal::BadRate { asked_kbit: 1, min_kbit: 64, max_kbit: 100_000_000 };
        assert_eq!(sentence(&rate), "a rate is 64kbit to 100Gbit, 1kbit was asked");
        let length = Refusal::BadDuration { asked_s: 0, max_s: 30 * 86_400 };
        assert_eq!(sentence(&length), "a reservation lasts 1s to 30d, 0s was asked");
    }

    #[test]
    fn a_start_beyond_all_calendars_is_left_out() {
        let refusal = Refusal::NoRoom {
            resource: Resource::Nodes { site: "a".parse().unwrap() },
            asked: 2,
            have: 1,
            in_s: vec![u64::MAX, 60],
        };
        assert!(sentence(&refusal).contains("in 1m"));
        assert_eq!(RoomJson::of(&refusal).unwrap().starts.len(), 1);
    }
}
