//! What a start, its latest, an end and a length mean together. Pure: the present is an argument.

use protocol::reservation::Start;

use super::errors::CliError;
use super::values::show_duration;
use super::when::Moment;

/// A start that lies further back than this was meant otherwise; the GRC judges what is nearer by
/// its own clock.
const SURELY_PAST_S: u64 = 60;

/// What was said of a window, by options or a file.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Window {
    pub start: Option<Moment>,
    pub latest: Option<Moment>,
    /// Seconds after `start`.
    pub within_s: Option<u32>,
    pub end: Option<Moment>,
    pub time_s: Option<u32>,
    /// Wait until it can be had.
    pub queue: bool,
}

impl Window {
    /// Start and length as they are asked. `unsaid` is when to start if nothing is said of it.
    ///
    /// # Errors
    /// `Usage` when it cannot be meant, with the present as it is here.
    pub fn ask(&self, unsaid: Start, time_default_s: u32, now_s: u64) -> Result<(Start, u32), CliError> {
        let start = self.start(unsaid, now_s)?;
        let Some(end) = self.end else { return Ok((start, self.time_s.unwrap_or(time_default_s))) };
        if self.time_s.is_some() {
            return usage("`end` and `time` say the same thing twice; leave one of them out");
        }
        let begins_s = match start {
            Start::Within { wait_s: 0 } => now_s,
            Start::Between { earliest_s, latest_s } if earliest_s == latest_s => earliest_s,
            _ => {
                return usage(
                    "`end` gives the length only with one start; say `start` (like now) without `latest` or `within`, \
                     or say `time` instead",
                );
            }
        };
        let end_s = end.at(now_s);
        match end_s.checked_sub(begins_s).and_then(|length_s| u32::try_from(length_s).ok()) {
            None | Some(0) if end_s <= begins_s => usage("the end lies before the start, or at it"),
            None => usage("the end lies further away than can be counted"),
            Some(length_s) => Ok((start, length_s)),
        }
    }

    fn start(&self, unsaid: Start, now_s: u64) -> Result<Start, CliError> {
        let said = self.start.is_some() || self.latest.is_some() || self.within_s.is_some();
        if self.queue && said {
            return usage(
                "`queue` waits for as long as it takes; it cannot go with `start`, `latest` or `within`",
            );
        }
        if self.queue {
            return Ok(Start::Open);
        }
        if !said {
            return Ok(unsaid);
        }
        let start = self.start.unwrap_or(Moment::Now);
        let begins_s = start.at(now_s);
        if let Moment::At(_) = start
            && begins_s.saturating_add(SURELY_PAST_S) < now_s
        {
            let ago = show_duration(now_s - begins_s);
            return usage(&format!("the start lies {ago} in the past; write now, +1h or a time to come"));
        }
        let latest_s = match (self.latest, self.within_s) {
            (Some(_), Some(_)) => {
                return usage("`latest` and `within` say the same thing twice; leave one of them out");
            }
            (Some(latest), None) => latest.at(now_s),
            (None, Some(within_s)) => begins_s.saturating_add(within_s.into()),
            (None, None) => begins_s,
        };
        let Some(wait_s) = latest_s.checked_sub(begins_s) else {
            return usage("the latest start lies before the earliest");
        };
        Ok(match (start, u32::try_from(wait_s)) {
            // Said as a span, so that no clock but the GRC's is asked.
            (Moment::Now, Ok(wait_s)) => Start::Within { wait_s },
            _ => Start::Between { earliest_s: begins_s, latest_s },
        })
    }
}

fn usage<T>(text: &str) -> Result<T, CliError> {
    Err(CliError::Usage(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;

    fn ask(window: Window) -> Result<(Start, u32), String> {
        window.ask(Start::Open, 3600, NOW).map_err(|error| error.sentence())
    }

    #[test]
    fn every_way_to_say_a_window_means_one_thing() {
        use Moment::{At, In, Now};
        let none = Window::default();
        for (window, wanted) in [
            (none, (Start::Open, 3600)),
            (Window { queue: true, time_s: Some(60), ..none }, (Start::Open, 60)),
            (Window { start: Some(Now), ..none }, (Start::Within { wait_s: 0 }, 3600)),
            (Window { latest: Some(In(600)), ..none }, (Start::Within { wait_s: 600 }, 3600)),
            (Window { within_s: Some(600), ..none }, (Start::Within { wait_s: 600 }, 3600)),
            (Window { latest: Some(At(NOW + 5)), ..none }, (Start::Within { wait_s: 5 }, 3600)),
            (
                Window { start: Some(In(60)), ..none },
                (Start::Between { earliest_s: NOW + 60, latest_s: NOW + 60 }, 3600),
            ),
            (
                Window { start: Some(At(NOW + 60)), within_s: Some(30), ..none },
                (Start::Between { earliest_s: NOW + 60, latest_s: NOW + 90 }, 3600),
            ),
            (
                Window { start: Some(At(NOW + 60)), latest: Some(At(NOW + 70)), ..none },
                (Start::Between { earliest_s: NOW + 60, latest_s: NOW + 70 }, 3600),
            ),
            (
                Window { start: Some(At(NOW + 60)), end: Some(At(NOW + 100)), ..none },
                (Start::Between { earliest_s: NOW + 60, latest_s: NOW + 60 }, 40),
            ),
            (
                Window { start: Some(Now), end: Some(At(NOW + 100)), ..none },
                (Start::Within { wait_s: 0 }, 100),
            ),
            // Not surely past: the GRC says.
            (
                Window { start: Some(At(NOW - 60)), ..none },
                (Start::Between { earliest_s: NOW - 60, latest_s: NOW - 60 }, 3600),
            ),
        ] {
            assert_eq!(ask(window), Ok(wanted), "{window:?}");
        }
    }

    #[test]
    fn windows_that_cannot_be_meant_are_refused_in_one_line() {
        use Moment::{At, In, Now};
        let none = Window::default();
        for (window, words) in [
            (Window { start: Some(At(NOW - 61)), ..none }, "in the past"),
            (Window { start: Some(Now), end: Some(Now), ..none }, "before the start"),
            (Window { start: Some(In(60)), end: Some(In(30)), ..none }, "before the start"),
            (Window { start: Some(In(60)), end: Some(In(90)), time_s: Some(30), ..none }, "twice"),
            (Window { end: Some(In(90)), ..none }, "only with one start"),
            (Window { queue: true, end: Some(In(90)), ..none }, "only with one start"),
            (
                Window { start: Some(Now), within_s: Some(9), end: Some(In(90)), ..none },
                "only with one start",
            ),
            (Window { queue: true, start: Some(Now), ..none }, "cannot go with"),
            (Window { queue: true, within_s: Some(1), ..none }, "cannot go with"),
            (Window { latest: Some(In(1)), within_s: Some(1), ..none }, "twice"),
            (Window { start: Some(In(60)), latest: Some(In(30)), ..none }, "before the earliest"),
            (Window { start: Some(Now), end: Some(At(u64::MAX)), ..none }, "further away"),
        ] {
            let error = ask(window).unwrap_err();
            assert!(error.contains(words) && error.lines().count() == 1, "{window:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_window_is_one_that_the_protocol_takes_or_a_usage_error(
            start in moments(), latest in moments(), within_s in prop::option::of(any::<u32>()),
            end in moments(), time_s in prop::option::of(any::<u32>()), queue: bool,
        ) {
            let window = Window { start, latest, within_s, end, time_s, queue };
            if let Ok((Start::Between { earliest_s, latest_s }, _)) = ask(window) {
                prop_assert!(earliest_s <= latest_s);
            }
        }
    }

    fn moments() -> impl Strategy<Value = Option<Moment>> {
        prop::option::of(prop_oneof![
            Just(Moment::Now),
            any::<u32>().prop_map(Moment::In),
            any::<u64>().prop_map(Moment::At),
            (NOW - 100..NOW + 100).prop_map(Moment::At),
        ])
    }
}
