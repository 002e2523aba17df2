//! How much gets through between two hosts, and how evenly: what `gridpilot-flow` does. The
//! receiver counts, for what a sender hands to its kernel says little about what arrives.
//!
//! The kernel's default congestion control differs from machine to machine, so a sender of TCP
//! always names one.

pub mod send;
pub mod serve;

use serde::Serialize;

/// Bytes of a full Ethernet frame of an MTU of 1500, as a class of a shaper counts them ...
const FRAME_BYTES: f64 = 1514.0;
/// ... and what of it is payload of TCP, with its time stamps, ...
const TCP_PAYLOAD_BYTES: f64 = 1448.0;
/// ... and of UDP.
pub const UDP_PAYLOAD_BYTES: usize = 1472;

/// What arrived in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Arrived {
    /// Payload.
    pub tcp_bytes: u64,
    pub udp_bytes: u64,
}

impl Arrived {
    /// Payload, Mbit/s.
    pub fn mbit(self, seconds: f64) -> f64 {
        thousandths((self.tcp_bytes + self.udp_bytes) as f64 * 8e-6 / seconds)
    }

    /// The same with the headers of full frames: compare this with the rate of a class.
    pub fn class_mbit(self, seconds: f64) -> f64 {
        let tcp = self.tcp_bytes as f64 * FRAME_BYTES / TCP_PAYLOAD_BYTES;
        let udp = self.udp_bytes as f64 * FRAME_BYTES / UDP_PAYLOAD_BYTES as f64;
        thousandths((tcp + udp) * 8e-6 / seconds)
    }
}

/// No digits that mean nothing.
fn thousandths(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The line for one second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Second {
    /// 1 is the one that the first byte began.
    pub second: u32,
    /// Its end, in milliseconds since the epoch: tells several receivers' seconds apart.
    pub ended_unix_ms: u64,
    /// How long it really was; the rates are over this time.
    pub passed_ms: u64,
    #[serde(flatten)]
    pub arrived: Arrived,
    /// Payload.
    pub mbit: f64,
    /// With headers.
    pub class_mbit: f64,
}

/// The last line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Total {
    pub seconds: u32,
    /// Connections of TCP.
    pub streams: u64,
    #[serde(flatten)]
    pub arrived: Arrived,
    pub median_mbit: f64,
    /// Median rate with headers.
    pub median_class_mbit: f64,
}

impl Total {
    fn of(seconds: &[Second], streams: u64) -> Self {
        let arrived = seconds.iter().fold(Arrived::default(), |sum, one| Arrived {
            tcp_bytes: sum.tcp_bytes + one.arrived.tcp_bytes,
            udp_bytes: sum.udp_bytes + one.arrived.udp_bytes,
        });
        Self {
            seconds: seconds.len() as u32,
            streams,
            arrived,
            median_mbit: median(seconds.iter().map(|one| one.mbit)),
            median_class_mbit: median(seconds.iter().map(|one| one.class_mbit)),
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n => thousandths((values[(n - 1) / 2] + values[n / 2]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(tcp_bytes: u64, udp_bytes: u64) -> Second {
        let arrived = Arrived { tcp_bytes, udp_bytes };
        let (mbit, class_mbit) = (arrived.mbit(1.0), arrived.class_mbit(1.0));
        Second { second: 1, ended_unix_ms: 0, passed_ms: 1000, arrived, mbit, class_mbit }
    }

    #[test]
    fn a_class_of_50_mbit_is_seen_as_such_by_both_protocols() {
        let frames = 50e6 / 8.0 / 1514.0;
        let tcp = second((frames * 1448.0) as u64, 0);
        let udp = second(0, (frames * 1472.0) as u64);
        assert!((tcp.mbit - 47.82).abs() < 0.01 && (tcp.class_mbit - 50.0).abs() < 0.002, "{tcp:?}");
        assert!((udp.mbit - 48.61).abs() < 0.01 && (udp.class_mbit - 50.0).abs() < 0.002, "{udp:?}");
    }

    #[test]
    fn the_total_has_the_middle_of_the_seconds_and_the_sum_of_the_bytes() {
        let seconds = [second(125_000, 0), second(875_000, 0), second(250_000, 5)];
        let total = Total::of(&seconds, 2);
        assert_eq!(total.arrived, Arrived { tcp_bytes: 1_250_000, udp_bytes: 5 });
        assert_eq!((total.seconds, total.streams), (3, 2));
        assert!((total.median_mbit - 2.0).abs() < 0.001);
        assert_eq!(median([4.0, 1.0].into_iter()), 2.5);
        assert_eq!(Total::of(&[], 0).median_mbit, 0.0);
    }
}
