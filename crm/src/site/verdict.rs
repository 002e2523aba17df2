//! Why a pilot ended that its batch system ended. Its node knows first, that it was told to end, and
//! the batch system knows why: cancelled, over its time. So such a failure waits a moment for that word.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::names::Text;
use protocol::refusal::Failure;

use super::{Action, Site};
use crate::pilot::PilotId;

/// A failure that waits.
#[derive(Debug)]
struct Verdict {
    until: Duration,
    failure: Failure,
    /// The batch system is to be asked to take the pilot away when the word is there.
    cancel: bool,
}

/// Failures that wait.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    waiting: BTreeMap<PilotId, Verdict>,
}

impl Verdicts {
    pub fn next_deadline(&self) -> Option<Duration> {
        self.waiting.values().map(|verdict| verdict.until).min()
    }

    /// Keeps a cancel back with the failure, if there is one: after it, the batch system would only
    /// say that it was asked to.
    pub fn keep_cancel(&mut self, id: PilotId) -> bool {
        self.waiting.get_mut(&id).map(|verdict| verdict.cancel = true).is_some()
    }
}

impl Site {
    /// Keeps a failure back for the batch system's word. One that waits already stays.
    pub(super) fn await_word(&mut self, id: PilotId, failure: Failure) {
        let until = self.now + self.settings.word;
        self.verdicts.waiting.entry(id).or_insert(Verdict { until, failure, cancel: false });
    }

    /// The word has come.
    pub(super) fn pass_verdict(&mut self, id: PilotId, word: &Text) {
        if let Some(Verdict { mut failure, cancel, .. }) = self.verdicts.waiting.remove(&id) {
            if cancel {
                // It is gone; its token is to go, too.
                self.actions.push(Action::Cancel { pilot: id });
            }
            failure.cause = format!("{}: {word}", failure.cause).into();
            self.fail_at(id, failure);
        }
    }

    /// Tells those that have waited long enough as they are.
    pub(super) fn pass_old_verdicts(&mut self) {
        let waiting = self.verdicts.waiting.iter();
        let due: Vec<PilotId> =
            waiting.filter(|(_, verdict)| verdict.until <= self.now).map(|(id, _)| *id).collect();
        for id in due {
            if let Some(Verdict { mut failure, cancel, .. }) = self.verdicts.waiting.remove(&id) {
                if cancel {
                    self.actions.push(Action::Cancel { pilot: id });
                }
                let waited = self.settings.word.as_secs();
                failure.cause = format!("{}; in {waited} s it did not say why", failure.cause).into();
                self.fail_at(id, failure);
            }
        }
    }
}
