//! What a reservation used of its bandwidth: a series of bounded length that grows coarser.

use std::collections::{BTreeMap, VecDeque};

use protocol::names::SiteName;
use protocol::reservation::UsagePoint;

/// Points that are kept of one reservation.
pub const POINTS_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Point {
    at_s: u64,
    flow: u16,
    granted_kbit: u32,
    used_kbit: u32,
}

/// Used rates over time, of every part to every other.
#[derive(Clone, Debug, Default)]
pub struct Series {
    flows: Vec<(SiteName, SiteName)>,
    points: VecDeque<Point>,
    /// Seconds from one point of a flow to its next, at least.
    step_s: u64,
    /// The last measured rate of each flow, and what came since the last point.
    latest: BTreeMap<u16, Latest>,
}

#[derive(Clone, Copy, Debug)]
struct Latest {
    kbit: u32,
    sum: u64,
    count: u64,
    since_s: u64,
}

/// What a rate is when so many bytes were sent in so many milliseconds.
pub fn kbit(sent_bytes: u64, over_ms: u32) -> u32 {
    let kbit = u128::from(sent_bytes) * 8 / u128::from(over_ms.max(1));
    u32::try_from(kbit).unwrap_or(u32::MAX)
}

impl Series {
    /// One measurement.
    pub fn add(&mut self, at_s: u64, from: &SiteName, to: &SiteName, granted_kbit: u32, used_kbit: u32) {
        let known = self.flows.iter().position(|(a, b)| a == from && b == to);
        let index = known.unwrap_or_else(|| {
            self.flows.push((from.clone(), to.clone()));
            self.flows.len() - 1
        });
        // More flows than there can be pairs of sites: somebody lies.
        let Ok(flow) = u16::try_from(index) else { return };
        let fresh = Latest { kbit: 0, sum: 0, count: 0, since_s: at_s };
        let latest = self.latest.entry(flow).or_insert(fresh);
        latest.kbit = used_kbit;
        latest.sum += u64::from(used_kbit);
        latest.count += 1;
        if at_s < latest.since_s + self.step_s {
            return;
        }
        let mean = u32::try_from(latest.sum / latest.count).unwrap_or(u32::MAX);
        (latest.sum, latest.count, latest.since_s) = (0, 0, at_s);
        self.points.push_back(Point { at_s, flow, granted_kbit, used_kbit: mean });
        if self.points.len() > POINTS_MAX {
            self.coarsen();
        }
    }

    /// Two neighbours of one flow become one point.
    fn coarsen(&mut self) {
        self.step_s = (self.step_s * 2).max(2);
        let mut waiting: BTreeMap<u16, Point> = BTreeMap::new();
        let mut points = VecDeque::with_capacity(POINTS_MAX);
        for point in self.points.drain(..) {
            match waiting.remove(&point.flow) {
                None => {
                    waiting.insert(point.flow, point);
                }
                Some(before) => {
                    let sum = u64::from(before.used_kbit) + u64::from(point.used_kbit);
                    points.push_back(Point { used_kbit: (sum / 2) as u32, ..point });
                }
            }
        }
        // The newest of a flow with an odd number stays as it is.
        points.extend(waiting.into_values());
        self.points = points;
        self.points.make_contiguous().sort_by_key(|point| point.at_s);
    }

    /// What was measured last from one part to another.
    pub fn last(&self, from: &SiteName, to: &SiteName) -> Option<u32> {
        let index = self.flows.iter().position(|(a, b)| a == from && b == to)?;
        self.latest.get(&u16::try_from(index).ok()?).map(|latest| latest.kbit)
    }

    /// The whole series, newest points last.
    pub fn points(&self) -> Vec<UsagePoint> {
        let point = |point: &Point| {
            let (from, to) = self.flows[usize::from(point.flow)].clone();
            let Point { at_s, granted_kbit, used_kbit, .. } = *point;
            UsagePoint { at_s, from, to, granted_kbit, used_kbit }
        };
        self.points.iter().map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(text: &str) -> SiteName {
        text.parse().unwrap()
    }

    #[test]
    fn a_long_series_grows_coarser_and_keeps_beginning_end_and_mean() {
        let mut series = Series::default();
        let seconds = 40 * POINTS_MAX as u64;
        for at_s in 0..seconds {
            series.add(at_s, &site("a"), &site("b"), 100, if at_s % 2 == 0 { 40 } else { 60 });
            series.add(at_s, &site("b"), &site("a"), 100, 7);
        }
        let points = series.points();
        assert!((POINTS_MAX / 4..=POINTS_MAX).contains(&points.len()), "{}", points.len());
        assert!(points[0].at_s < 400 && points.last().unwrap().at_s > seconds - 400);
        assert!(points.is_sorted_by_key(|point| point.at_s));
        let to_b: Vec<u64> =
            points.iter().filter(|p| p.to == site("b")).map(|p| p.used_kbit.into()).collect();
        let mean = to_b.iter().sum::<u64>() / to_b.len() as u64;
        assert!((49..=51).contains(&mean), "{mean}");
        assert!(points.iter().filter(|p| p.to == site("a")).all(|p| p.used_kbit == 7));
        assert_eq!(
            (series.last(&site("b"), &site("a")), series.last(&site("a"), &site("c"))),
            (Some(7), None)
        );
    }

    #[test]
    fn a_rate_is_bits_per_millisecond() {
        assert_eq!(kbit(12_500_000, 1000), 100_000);
        assert_eq!(kbit(u64::MAX, 1), u32::MAX);
        assert_eq!(kbit(1000, 0), 8000, "no time is one millisecond");
    }
}
