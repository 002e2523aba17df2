//! The site's batch queue as a whole: what it would refuse, whether it takes anything now, and when
//! it is asked again.
//!
//! ```text
//!          a submission is turned back, the queue is shut, nobody answers
//!   Open ------------------------------------------------------------> Paused <---- it does not --.
//!    ^                                                                   | probe time             |
//!    '------------------- it takes submissions (again) --------------- asked ---------------------'
//! ```
//! Pure: time is an argument. While it is paused nothing is submitted and nothing new is held; what
//! was granted waits, and what waits in the queue stays there.

use std::time::Duration;

use protocol::names::Text;

/// Before a paused queue is asked again; doubled with every time in vain.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
const PAUSE_LAST: Duration = Duration::from_secs(60);

/// What the batch system says of the queue.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct QueueState {
    /// Why it starts nothing now, whatever is submitted.
    pub closed: Option<Text>,
    /// Most nodes that one batch job may have.
    pub nodes_max: Option<u32>,
    /// Longest that one batch job may last.
    pub walltime_max: Option<Duration>,
}

/// Why nothing is submitted now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pause {
    pub why: Text,
    pub since: Duration,
    /// When it is asked again.
    pub probe_at: Duration,
}

/// The queue, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    state: QueueState,
    pause: Option<Pause>,
    /// How often in a row it was in vain.
    probes: u32,
}

fn pause_length(probes: u32) -> Duration {
    (PAUSE_FIRST * 2u32.saturating_pow(probes.min(16))).min(PAUSE_LAST)
}

impl Queue {
    pub fn state(&self) -> &QueueState {
        &self.state
    }

    pub fn pause(&self) -> Option<&Pause> {
        self.pause.as_ref()
    }

    /// For people: why nothing begins, and what is done about it.
    pub fn paused_as(&self) -> Option<Text> {
        let pause = self.pause.as_ref()?;
        let every = pause_length(self.probes).as_secs();
        Some(format!("{}; it is asked again every {every} s", pause.why).into())
    }

    /// When [`Self::probe`] is due.
    pub fn next_probe(&self) -> Option<Duration> {
        Some(self.pause.as_ref()?.probe_at)
    }

    /// A submission was turned back, or the batch system does not answer: nothing more is submitted
    /// until it says otherwise.
    pub fn turned_back(&mut self, now: Duration, why: Text) {
        self.stop(now, why);
    }

    /// A pilot arrived: whatever was wrong is over.
    pub fn works(&mut self) {
        self.probes = 0;
    }

    fn stop(&mut self, now: Duration, why: Text) {
        match &mut self.pause {
            Some(pause) => pause.why = why,
            None => {
                let probe_at = now + pause_length(self.probes);
                self.pause = Some(Pause { why, since: now, probe_at });
            }
        }
    }

    /// The time has come to ask; whether anything is to be asked. If no answer comes it is asked
    /// again.
    pub fn probe(&mut self, now: Duration) -> bool {
        let Some(pause) = self.pause.as_mut().filter(|pause| pause.probe_at <= now) else { return false };
        self.probes += 1;
        pause.probe_at = now + pause_length(self.probes);
        true
    }

    /// Whether the batch system answers at all, and else why not. Returns whether submissions may
    /// begin again.
    pub fn answers(&mut self, now: Duration, said: Result<(), Text>) -> bool {
        let state = self.state.clone();
        self.heard(now, said.map(|()| state))
    }

    /// What the batch system said of the queue, asked or unasked, or why it said nothing. Returns
    /// whether submissions may begin again.
    pub fn heard(&mut self, now: Duration, said: Result<QueueState, Text>) -> bool {
        let state = match said {
            Ok(state) => state,
            Err(why) => {
                self.stop(now, why);
                return false;
            }
        };
        self.state = state;
        match (&self.state.closed, &self.pause) {
            (Some(why), _) => {
                let why = why.clone();
                self.stop(now, why);
                false
            }
            (None, Some(_)) => {
                self.pause = None;
                true
            }
            (None, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn closed(why: &str) -> Result<QueueState, Text> {
        Ok(QueueState { closed: Some(why.into()), ..QueueState::default() })
    }

    #[test]
    fn a_queue_that_is_shut_is_asked_less_and_less_often_and_resumes_by_its_own_word() {
        let mut queue = Queue::default();
        assert!(!queue.heard(s(0), Ok(QueueState::default())));
        assert!(!queue.heard(s(1), closed("partition main is DOWN")));
        let mut asked = Vec::new();
        for _ in 0..9 {
            let at = queue.next_probe().unwrap();
            assert!(!queue.probe(at - s(1)), "not before its time");
            assert!(queue.probe(at));
            assert!(!queue.heard(at, closed("partition main is DOWN")));
            asked.push(at.as_secs());
        }
        let gaps: Vec<u64> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps, [10, 20, 40, 60, 60, 60, 60, 60]);
        assert!(queue.paused_as().unwrap().as_str().starts_with("partition main is DOWN; it is asked again"));
        assert!(queue.heard(s(99_999), Ok(QueueState::default())), "also unasked");
        assert_eq!((queue.pause(), queue.next_probe()), (None, None));
    }

    #[test]
    fn who_does_not_answer_is_asked_again() {
        let mut queue = Queue::default();
        queue.turned_back(s(0), "slurmctld does not answer".into());
        assert!(queue.probe(s(5)));
        assert!(!queue.probe(s(5)), "once");
        assert!(queue.probe(s(15)), "no answer came");
        assert!(!queue.heard(s(16), Err("slurmctld does not answer".into())));
        assert!(queue.pause().is_some());
    }
}
