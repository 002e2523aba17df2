//! Why a pilot ended that its batch system ended. Its node knows first, that it was told to end, and
//! the batch system knows why: cancelled, over its time. So such a failure waits a moment for that word.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::names::Text;
use protocol::refusal::Failure;

use super::Site;
use crate::pilot::PilotId;

/// How long the batch system may take to say why: more than one look at its queue.
const WORD_TIME: Duration = Duration::from_secs(3);

/// Failures that wait, each with the time until which it does.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    waiting: BTreeMap<PilotId, (Duration, Failure)>,
}

impl Verdicts {
    pub fn next_deadline(&self) -> Option<Duration> {
        self.waiting.values().map(|(at, _)| *at).min()
    }
}

impl Site {
    /// Keeps a failure back for the batch system's word. One that waits already stays.
    pub(super) fn await_word(&mut self, id: PilotId, failure: Failure) {
        let until = self.now + WORD_TIME;
        self.verdicts.waiting.entry(id).or_insert((until, failure));
    }

    /// The word has come.
    pub(super) fn pass_verdict(&mut self, id: PilotId, word: &Text) {
        if let Some((_, mut failure)) = self.verdicts.waiting.remove(&id) {
            failure.cause = format!("{}: {word}", failure.cause).into();
            self.fail_at(id, failure);
        }
    }

    /// Tells those that have waited long enough as they are.
    pub(super) fn pass_old_verdicts(&mut self) {
        let old = |(at, _): &(Duration, Failure)| *at <= self.now;
        let due: Vec<PilotId> =
            self.verdicts.waiting.iter().filter(|(_, verdict)| old(verdict)).map(|(id, _)| *id).collect();
        for id in due {
            if let Some((_, failure)) = self.verdicts.waiting.remove(&id) {
                self.fail_at(id, failure);
            }
        }
    }
}
