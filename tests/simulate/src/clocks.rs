//! The clocks of one machine, and the real timeline of the daemon on it.

use std::time::Duration;

use journal::{Saved, Timeline};
use protocol::planted::{Bug, planted};

use crate::agenda::{Micros, S};

/// What a boot clock shows when the machine is switched on.
const BOOTING: Micros = 10 * S;

#[derive(Debug)]
pub struct Clocks {
    /// What the wall clock would show at true time 0 if nobody had set it.
    base: Micros,
    /// By how much it was set wrong.
    wrong: i64,
    boots: u8,
    booted_at: Micros,
    /// Durable, written at each start.
    saved: Option<Saved>,
    timeline: Timeline,
}

impl Clocks {
    pub fn new(base: Micros) -> Self {
        let timeline = Timeline::resume(None, [1; 16], Duration::ZERO, Duration::from_micros(base));
        Self { base, wrong: 0, boots: 1, booted_at: 0, saved: None, timeline }
    }

    fn boottime(&self, at: Micros) -> Duration {
        Duration::from_micros(BOOTING + at - self.booted_at)
    }

    fn wall(&self, at: Micros) -> Duration {
        Duration::from_micros((self.base + at).saturating_add_signed(self.wrong))
    }

    /// A process starts.
    pub fn resume(&mut self, at: Micros) {
        let boottime = self.boottime(at);
        let boot_id = [self.boots; 16];
        self.timeline = Timeline::resume(self.saved.as_ref(), boot_id, boottime, self.wall(at));
        self.saved = Some(self.timeline.save(boottime));
    }

    /// What the daemon takes for the time.
    pub fn now(&self, at: Micros) -> Duration {
        match planted(Bug::WallClock) {
            true => self.wall(at),
            false => self.timeline.now(self.boottime(at)),
        }
    }

    /// When it will take it to be this late, seen from `at`.
    pub fn when(&self, at: Micros, shown: Duration) -> Micros {
        // Owners count in nanoseconds: a wake never comes before its time.
        at + shown.saturating_sub(self.now(at)).as_nanos().div_ceil(1_000) as Micros
    }

    /// Somebody sets the wall clock. Not between a boot and the start of the daemon: then it would
    /// have nothing to go by.
    pub fn set_wall(&mut self, by: i64) {
        if self.saved.is_none_or(|saved| saved.boot_id == [self.boots; 16]) {
            self.wrong += by;
        }
    }

    /// The machine boots anew and sets its wall clock right, but for a little.
    pub fn reboot(&mut self, at: Micros, off_by: i64) {
        self.wrong = off_by;
        self.boots += 1;
        self.booted_at = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_does_not_notice_that_the_wall_clock_is_set() {
        let mut clocks = Clocks::new(1_000 * S);
        clocks.resume(0);
        clocks.set_wall(-500 * S as i64);
        assert_eq!(clocks.now(7 * S), Duration::from_secs(1_007));
        clocks.resume(8 * S);
        assert_eq!(clocks.now(9 * S), Duration::from_secs(1_009));
        assert_eq!(clocks.when(9 * S, Duration::from_secs(1_010)), 10 * S);
        clocks.reboot(20 * S, 5);
        clocks.resume(21 * S);
        assert_eq!(clocks.now(22 * S), Duration::from_micros(1_022 * S + 5));
    }
}
