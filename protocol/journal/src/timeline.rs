//! The grid's clock: time since the Unix epoch that goes on by elapsed time.
//!
//! ```text
//!   first start        the wall clock
//!   running            + CLOCK_BOOTTIME, which counts suspended time and knows no jumps
//!   restart, same boot + what has elapsed since what was saved, whatever the wall clock says
//!   after a reboot     the wall clock, but never behind what was saved
//! ```
//!
//! Reservations end by it, so a wall clock that is set, forward or back, ends none early and keeps
//! none alive. The price: after such a setting the two differ until the next boot; see
//! [`Timeline::ahead_of_wall_s`].

use std::fs;
use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";
/// Of [`Saved::to_bytes`].
const SAVED_BYTES: usize = 16 + 12 + 12;

/// What a machine's clocks show at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reading {
    /// Another one after every boot.
    pub boot_id: [u8; 16],
    /// Since the boot, suspended time included.
    pub boottime: Duration,
    /// Since the Unix epoch, as somebody has set it.
    pub wall: Duration,
}

impl Reading {
    /// Reads this machine's clocks.
    pub fn take() -> io::Result<Reading> {
        let text = fs::read_to_string(BOOT_ID_FILE)?;
        let boot_id = parse_boot_id(&text).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{BOOT_ID_FILE} holds {text:?}"))
        })?;
        Ok(Reading { boot_id, boottime: boottime(), wall: read(ClockId::Realtime) })
    }
}

/// Elapsed time since the boot, for [`Timeline::now`].
pub fn boottime() -> Duration {
    read(ClockId::Boottime)
}

/// A wall clock before 1970 counts as 1970.
fn read(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// `65f3b4a2-...`, a UUID in the usual form.
fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    let mut id = [0; 16];
    if digits.len() != 2 * id.len() || !digits.is_ascii() {
        return None;
    }
    for (byte, at) in id.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(id)
}

/// A point of a timeline, as it is stored. Any point of a boot continues the same line; the later
/// the point, the less a clock that was set back during a reboot can repeat.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Saved {
    pub boot_id: [u8; 16],
    pub boottime: Duration,
    pub time: Duration,
}

impl Saved {
    pub fn to_bytes(&self) -> [u8; SAVED_BYTES] {
        let mut bytes = [0; SAVED_BYTES];
        bytes[..16].copy_from_slice(&self.boot_id);
        for (place, at) in [(16, self.boottime), (28, self.time)] {
            bytes[place..place + 8].copy_from_slice(&at.as_secs().to_le_bytes());
            bytes[place + 8..place + 12].copy_from_slice(&at.subsec_nanos().to_le_bytes());
        }
        bytes
    }

    /// `None` if these are not the bytes of a point.
    pub fn from_bytes(bytes: &[u8]) -> Option<Saved> {
        let bytes: &[u8; SAVED_BYTES] = bytes.try_into().ok()?;
        let at = |place: usize| {
            let secs = u64::from_le_bytes(bytes[place..place + 8].try_into().ok()?);
            let nanos = u32::from_le_bytes(bytes[place + 8..place + 12].try_into().ok()?);
            (nanos < 1_000_000_000).then(|| Duration::new(secs, nanos))
        };
        Some(Saved { boot_id: bytes[..16].try_into().ok()?, boottime: at(16)?, time: at(28)? })
    }
}

/// The line of one boot: a point, and one second for every second of the boot clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeline {
    start: Saved,
}

impl Timeline {
    /// Goes on from what was saved, if anything was.
    pub fn resume(saved: Option<&Saved>, boot_id: [u8; 16], boottime: Duration, wall: Duration) -> Timeline {
        let time = match saved {
            // A boot clock behind its own past is another clock: a machine restored from an image.
            Some(saved) if saved.boot_id == boot_id && saved.boottime <= boottime => {
                saved.time.saturating_add(boottime - saved.boottime)
            }
            Some(saved) => saved.time.max(wall),
            None => wall,
        };
        Timeline { start: Saved { boot_id, boottime, time } }
    }

    /// The same, from a reading of the clocks.
    pub fn resume_at(saved: Option<&Saved>, reading: &Reading) -> Timeline {
        Timeline::resume(saved, reading.boot_id, reading.boottime, reading.wall)
    }

    /// Time since the Unix epoch when the boot clock shows `boottime`. Never less for more.
    pub fn now(&self, boottime: Duration) -> Duration {
        self.start.time.saturating_add(boottime.saturating_sub(self.start.boottime))
    }

    /// The point to store when the boot clock shows `boottime`.
    pub fn save(&self, boottime: Duration) -> Saved {
        let boottime = boottime.max(self.start.boottime);
        Saved { boot_id: self.start.boot_id, boottime, time: self.now(boottime) }
    }

    /// By how many seconds this clock is ahead of the wall clock (behind, if negative): what to
    /// tell an administrator who has set the clock.
    pub fn ahead_of_wall_s(&self, boottime: Duration, wall: Duration) -> i64 {
        let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        whole(self.now(boottime)).saturating_sub(whole(wall))
    }
}
