//! What one member sends to one part, out of samples of a counter.

use std::time::Duration;

/// Two samples nearer than this say little about a rate.
const INTERVAL_MS_MIN: u64 = 200;
/// After so long without a sample nothing is known of a member any more.
const STALE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    /// The counter as it was last told: time on the node's clock, bytes.
    base: Option<(u64, u64)>,
    /// When a rate was last found.
    found: Duration,
    /// The last two rates, newest first, kbit/s.
    recent: [Option<u32>; 2],
    /// Lowest rate that may have held the member back since `base`.
    lowest_kbit: Option<u32>,
    /// It used nearly all that it had.
    wanting: bool,
}

impl Meter {
    /// Notes a rate that may hold the member back from now on.
    pub fn limited_to(&mut self, rate_kbit: u32) {
        self.lowest_kbit = Some(self.lowest_kbit.map_or(rate_kbit, |lowest| lowest.min(rate_kbit)));
    }

    /// Takes a sample; `limit_kbit` is the lowest rate that may be in force now. Repeated samples
    /// change nothing, missing ones make an interval longer, and a counter or a clock that went
    /// back, be it anew or told late, is where the next interval begins.
    pub fn sample(&mut self, now: Duration, at_ms: u64, sent_bytes: u64, limit_kbit: u32) {
        let Some((base_ms, base_bytes)) = self.base else {
            return self.begin_at(at_ms, sent_bytes, limit_kbit);
        };
        if (at_ms, sent_bytes) == (base_ms, base_bytes) {
            return;
        }
        let (Some(passed_ms), Some(sent)) = (at_ms.checked_sub(base_ms), sent_bytes.checked_sub(base_bytes))
        else {
            return self.begin_at(at_ms, sent_bytes, limit_kbit);
        };
        if passed_ms < INTERVAL_MS_MIN {
            return;
        }
        // Bits per millisecond are kbit/s.
        let used = u32::try_from(sent.saturating_mul(8) / passed_ms).unwrap_or(u32::MAX);
        let lowest = self.lowest_kbit.map_or(limit_kbit, |lowest| lowest.min(limit_kbit));
        self.wanting = used > 0 && u64::from(used) * 5 >= u64::from(lowest) * 4;
        self.recent = [Some(used), self.recent[0]];
        self.found = now;
        self.begin_at(at_ms, sent_bytes, limit_kbit);
    }

    fn begin_at(&mut self, at_ms: u64, sent_bytes: u64, limit_kbit: u32) {
        self.base = Some((at_ms, sent_bytes));
        self.lowest_kbit = Some(limit_kbit);
    }

    fn known(&self, now: Duration) -> bool {
        self.recent[0].is_some() && now <= self.found + STALE
    }

    /// Whether it would probably send more if it were let.
    pub fn wanting(&self, now: Duration) -> bool {
        self.wanting && self.known(now)
    }

    /// What it sent in the last interval, kbit/s.
    pub fn used_kbit(&self, now: Duration) -> Option<u32> {
        self.recent[0].filter(|_| self.known(now))
    }

    /// How much of its share it should keep; `None` is all it can get. Who does not want more is
    /// left at 65 % use of the better of two seconds, so that 10 % of noise up and down does not
    /// make it wanting; of whom nothing is known, nothing is taken.
    pub fn demand_kbit(&self, now: Duration, share_kbit: u32) -> Option<u64> {
        let share = u64::from(share_kbit);
        if !self.known(now) {
            return Some(share);
        }
        if self.wanting {
            return None;
        }
        let peak = u64::from(self.recent.iter().flatten().copied().max().unwrap_or(0));
        Some((peak * 20 / 13).min(share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    /// A member with 1000 kbit/s that sends 500 of them, from 10 s to 12 s of its clock.
    fn busy() -> Meter {
        let mut meter = Meter::default();
        for second in 0..=2 {
            meter.sample(NOW, 10_000 + 1000 * second, 62_500 * second, 1000);
        }
        assert_eq!(meter.used_kbit(NOW), Some(500));
        meter
    }

    #[test]
    fn samples_repeated_late_missing_or_begun_anew_never_make_a_wrong_rate() {
        let end = (13_000, 187_500);
        for between in [
            vec![(12_000, 125_000)],            // repeated
            vec![(12_050, 125_001)],            // too soon
            vec![(11_000, 62_500)],             // late
            vec![(10_000, 0), (9_000, 0)],      // very late
            vec![(300, 20), (12_000, 125_000)], // a new clock and counter, and a late one of the old
        ] {
            let mut meter = busy();
            for (at_ms, bytes) in &between {
                meter.sample(NOW, *at_ms, *bytes, 1000);
            }
            meter.sample(NOW, end.0, end.1, 1000);
            let used = meter.used_kbit(NOW).unwrap();
            assert!((375..=500).contains(&used), "{used} after {between:?}");
        }
        let mut meter = busy();
        meter.sample(NOW, 22_000, 125_000 + 625_000, 1000);
        assert_eq!(meter.used_kbit(NOW), Some(500), "over ten seconds without a sample");
        meter.sample(NOW, 500, 10, 1000);
        meter.sample(NOW, 1500, 10 + 25_000, 1000);
        assert_eq!(meter.used_kbit(NOW), Some(200), "after a new sandbox");
        meter.sample(NOW, 2500, u64::MAX, 1000);
        assert_eq!(meter.used_kbit(NOW), Some(u32::MAX));
    }

    #[test]
    fn who_is_compared_with_a_share_that_just_grew_is_still_wanting() {
        let mut meter = busy();
        meter.limited_to(550);
        meter.sample(NOW, 13_000, 187_500, 2000);
        assert!(meter.wanting(NOW));
        meter.sample(NOW, 14_000, 250_000, 2000);
        assert!(!meter.wanting(NOW));
    }

    #[test]
    fn of_a_member_that_fell_silent_nothing_is_known() {
        let meter = busy();
        assert!(meter.used_kbit(NOW + STALE).is_some());
        let later = NOW + STALE + Duration::from_secs(1);
        assert_eq!((meter.used_kbit(later), meter.demand_kbit(later, 1000)), (None, Some(1000)));
    }
}
