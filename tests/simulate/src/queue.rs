//! The batch queue of a site: shut for a while, refusing, or not saying whether it took something.

use crm::pilot::PilotId;
use crm::site::News as Said;
use crm::standing::{BatchError, Capabilities, Standing};

use crate::agenda::{MS, S};
use crate::field::{Around, Field, News};

fn capabilities(closed: bool) -> Capabilities {
    Capabilities {
        places_on_named_nodes: true,
        reserves_ahead: false,
        enforces_limits: false,
        lead: std::time::Duration::ZERO,
        nodes_max: None,
        walltime_max: None,
        closed: closed.then(|| "the queue is shut".into()),
    }
}

/// What the batch system says to this life of a CRM of a pilot that it does not have.
pub fn not_there(life: u32, pilot: PilotId) -> News {
    News::Batch(life, Said::NotThere { pilots: vec![pilot] })
}

impl Field {
    /// Asked how it is: it answers, but for when it does not.
    pub fn probe(&mut self, around: &mut Around) {
        if self.random.chance(around.temper.queue_unsure) {
            return;
        }
        let closed = around.at < self.shut_until && around.temper.queue_shut > 0;
        let after = self.random.between(5, 2_000) * MS;
        around.follows.push((after, News::Batch(self.crm, Said::Capabilities(capabilities(closed)))));
    }

    /// What becomes of a submission: `None`, it is taken as usual; `Some(true)`, it is taken and
    /// nobody says so; `Some(false)`, it is not.
    pub(crate) fn queue_takes(&mut self, around: &mut Around, pilot: PilotId) -> Option<bool> {
        let temper = around.temper;
        let soon = self.random.between(5, 500) * MS;
        let says = |error| Said::NotSubmitted { pilots: vec![pilot], error };
        let life = self.crm;
        if self.random.chance(temper.queue_shut) {
            self.shut_until = around.at + self.random.between(1, 30) * S;
        }
        if around.at < self.shut_until && temper.queue_shut > 0 {
            let error = BatchError::unavailable("the queue takes nothing now");
            around.follows.push((soon, News::Batch(life, says(error))));
            return Some(false);
        }
        if self.random.chance(temper.queue_refuses) {
            let error = match self.random.chance(300) {
                true => BatchError::account_full("only 2 jobs are allowed per user"),
                false => BatchError::refused("the account has no such right"),
            };
            around.follows.push((soon, News::Batch(life, says(error))));
            return Some(false);
        }
        if self.random.chance(temper.queue_unsure) {
            let error = BatchError::unknown("no answer in 20 s");
            around.follows.push((soon, News::Batch(life, says(error))));
            let there = self.random.chance(500);
            let later = soon + self.random.between(100, 8_000) * MS;
            if there {
                let standing = Standing::Queued { why: Some("Priority".into()), expected: None };
                around.follows.push((later, News::Batch(life, Said::Stands { pilot, standing })));
            } else {
                around.follows.push((later, not_there(life, pilot)));
            }
            return Some(there);
        }
        None
    }
}
