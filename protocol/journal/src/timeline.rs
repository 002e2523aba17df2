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
    /// Goes on from what was saved, if anything was. Store a point of the new line before anything
    /// is decided by it: a boot that has saved none begins anew with the next start.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOOT: [u8; 16] = [1; 16];

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn times() -> impl Strategy<Value = Duration> {
        (0u64..1 << 33, 0u32..1_000_000_000).prop_map(|(s, ns)| Duration::new(s, ns))
    }

    /// What happens to a daemon and its machine, in order; the wall clock is set to anything.
    #[derive(Clone, Debug)]
    enum Event {
        Elapse(Duration),
        Set(Duration),
        Save,
        Restart,
        Reboot,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            times().prop_map(|time| Event::Elapse(time / 1_000)),
            times().prop_map(Event::Set),
            Just(Event::Save),
            Just(Event::Restart),
            Just(Event::Reboot),
        ];
        prop::collection::vec(event, 0..40)
    }

    proptest! {
        #[test]
        fn within_a_boot_exactly_the_elapsed_time_goes_by(wall in times(), events in events()) {
            let (mut boottime, mut wall_now, mut saved) = (s(100), wall, None);
            let mut line = Timeline::resume(None, BOOT, boottime, wall);
            saved = saved.or(Some(line.save(boottime)));
            let mut expected = wall;
            for event in events {
                match event {
                    Event::Elapse(time) => {
                        boottime += time;
                        wall_now += time;
                        expected += time;
                    }
                    Event::Set(wall) => wall_now = wall,
                    Event::Save => saved = Some(line.save(boottime)),
                    Event::Restart | Event::Reboot => {
                        line = Timeline::resume(saved.as_ref(), BOOT, boottime, wall_now);
                    }
                }
                prop_assert_eq!(line.now(boottime), expected);
            }
        }

        #[test]
        fn it_never_goes_back_behind_what_was_saved(wall in times(), events in events()) {
            let (mut boot, mut boottime, mut wall_now) = (BOOT, s(5), wall);
            let mut line = Timeline::resume(None, boot, boottime, wall);
            let mut saved = line.save(boottime);
            let mut last = line.now(boottime);
            for event in events {
                match event {
                    Event::Elapse(time) => {
                        boottime += time;
                        wall_now += time;
                    }
                    Event::Set(wall) => wall_now = wall,
                    Event::Save => saved = line.save(boottime),
                    Event::Restart => line = Timeline::resume(Some(&saved), boot, boottime, wall_now),
                    Event::Reboot => {
                        boot[0] = boot[0].wrapping_add(1);
                        boottime = s(1);
                        line = Timeline::resume(Some(&saved), boot, boottime, wall_now);
                        // Another boot has another line: what was not saved is unknown to it.
                        last = saved.time;
                        prop_assert_eq!(line.now(boottime), wall_now.max(saved.time));
                        saved = line.save(boottime);
                    }
                }
                let now = line.now(boottime);
                prop_assert!(now >= last && now >= saved.time, "{:?} after {:?}", now, last);
                last = now;
            }
        }

        #[test]
        fn a_saved_point_comes_back_from_its_bytes(id: [u8; 16], boottime in times(), time in times()) {
            let saved = Saved { boot_id: id, boottime, time };
            prop_assert_eq!(Saved::from_bytes(&saved.to_bytes()), Some(saved));
        }

        #[test]
        fn any_bytes_are_a_point_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            if let Some(saved) = Saved::from_bytes(&bytes) {
                prop_assert_eq!(&saved.to_bytes()[..], &bytes[..]);
                // The farthest times do not overflow.
                let line = Timeline::resume(Some(&saved), saved.boot_id, Duration::MAX, s(0));
                prop_assert!(line.now(Duration::MAX) >= saved.time);
            }
        }
    }

    #[test]
    fn a_boot_clock_behind_its_own_past_is_another_boot() {
        let saved = Saved { boot_id: BOOT, boottime: s(1_000), time: s(50_000) };
        let line = Timeline::resume(Some(&saved), BOOT, s(10), s(60_000));
        assert_eq!(line.now(s(11)), s(60_001));
    }

    #[test]
    fn a_reading_before_the_first_does_not_go_back() {
        let line = Timeline::resume(None, BOOT, s(10), s(500));
        assert_eq!((line.now(s(9)), line.save(s(9)).time), (s(500), s(500)));
    }

    #[test]
    fn an_administrator_is_told_how_far_the_clocks_are_apart() {
        let line = Timeline::resume(None, BOOT, s(10), s(5_000));
        assert_eq!(line.ahead_of_wall_s(s(20), s(5_010)), 0);
        assert_eq!(line.ahead_of_wall_s(s(20), s(1_410)), 3_600);
        assert_eq!(line.ahead_of_wall_s(s(20), s(8_610)), -3_600);
    }

    #[test]
    fn a_boot_id_is_thirty_two_digits() {
        let id = parse_boot_id("65f3b4a2-0102-0304-0506-0708090a0b0c\n");
        assert_eq!(id, Some([0x65, 0xf3, 0xb4, 0xa2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]));
        for wrong in
            ["", "65f3", "65f3b4a2-0102-0304-0506-0708090a0b0g", "é5f3b4a2-0102-0304-0506-0708090a0b0"]
        {
            assert_eq!(parse_boot_id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn this_machines_clocks_can_be_read() {
        let (first, second) = (Reading::take().unwrap(), Reading::take().unwrap());
        assert_eq!(first.boot_id, second.boot_id);
        assert!(second.boottime >= first.boottime && first.boottime > Duration::ZERO);
        assert_ne!(first.boot_id, [0; 16]);
    }
}
