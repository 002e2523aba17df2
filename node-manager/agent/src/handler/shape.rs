//! Rates on their way to the monitor, which answers in the order in which it is asked, and the
//! counters on their way back.

use std::os::fd::OwnedFd;
use std::time::Duration;

use node_manager::operation::Step as BuildStep;
use protocol::limits::UNANSWERED_MAX;
use protocol::node::{Reply, SignedRates, State};
use protocol::refusal::{Refusal, Step};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

use super::Handler;
use super::requests::{crowded, wrong_state};
use crate::lifecycle::{self, Event};
use crate::meter::{self, Counters};
use crate::setup::{CheckedRates, build_failure};
use crate::voice::Asker;
use crate::work::Done;

/// How long an address may stay taken by the sandbox that had it before.
const ADDRESS_TIME: Duration = Duration::from_secs(8);
const ADDRESS_RETRY: Duration = Duration::from_millis(20);

impl Handler {
    /// A request for new rates. It does not wait behind those that follow on one another: what is
    /// up goes on meanwhile.
    pub(super) async fn begin_shape(&mut self, asker: Asker, signed: SignedRates) {
        let rates = lifecycle::step(self.state, Event::RatesReceived)
            .map_err(|wrong| wrong_state("SHAPE", wrong))
            .and_then(|_| CheckedRates::new(&signed));
        match rates {
            Ok(_) if self.shaping.len() >= UNANSWERED_MAX => {
                self.reply(asker, &Reply::Refused(crowded("SHAPE", UNANSWERED_MAX)));
            }
            Ok(rates) => {
                self.shaping.push_back((asker, signed));
                self.pass_rates(rates).await;
            }
            Err(refusal) => self.reply(asker, &Reply::Refused(refusal)),
        }
    }

    /// The sandbox stands; if it is to be shaped, it has no network yet.
    pub(super) async fn open_network(&mut self) {
        match self.setup.as_ref().and_then(|setup| setup.rates) {
            Some(rates) => {
                self.address_by.get_or_insert_with(|| Instant::now() + ADDRESS_TIME);
                self.pass_rates(rates).await;
            }
            None => self.finish(Event::SandboxBuilt, &Reply::Done).await,
        }
    }

    async fn pass_rates(&mut self, rates: CheckedRates) {
        if let Err(error) = self.monitor.shape(rates.record, rates.signature).await {
            // The socket says the same to the reader, which ends it.
            tracing::warn!("cannot ask the monitor to shape: {error}");
        }
    }

    pub(super) async fn on_shaped(&mut self, counters: OwnedFd) {
        if self.meter.is_none() && self.state < State::TearingDown {
            match Counters::new(counters) {
                Ok(counters) => {
                    let report = meter::report(counters, self.voice.clone(), self.born);
                    self.meter = Some(self.tasks.spawn(report));
                }
                // The rates hold all the same.
                Err(error) => tracing::warn!("the sandbox's counters cannot be read: {error}"),
            }
        }
        match self.state {
            State::Building => {
                self.rates = self.setup.as_ref().and_then(|setup| setup.setup.rates.clone());
                self.finish(Event::SandboxBuilt, &Reply::Done).await;
            }
            _ => self.answer_shape(&Reply::Done),
        }
    }

    /// The monitor's `Failed`: of a build, or of the rates that came with it or later.
    pub(super) async fn on_failed(&mut self, step: BuildStep, errno: i32, detail: &str) {
        let failure = build_failure(step, errno, detail);
        let taken = [Errno::BUSY, Errno::ADDRINUSE].iter().any(|busy| busy.raw_os_error() == errno);
        match self.state {
            State::Building if taken && self.address_by.is_some_and(|by| Instant::now() < by) => {
                let results = self.results.clone();
                self.tasks.spawn(async move {
                    sleep(ADDRESS_RETRY).await;
                    let _ = results.send(Done::ShapeAgain);
                });
            }
            State::Building => self.setup_failed(failure).await,
            _ => {
                let failure = self.placed(protocol::refusal::Failure { step: Step::Running, ..failure });
                self.answer_shape(&Reply::Failed(failure));
            }
        }
    }

    fn answer_shape(&mut self, reply: &Reply) {
        if let Some((asker, rates)) = self.shaping.pop_front() {
            if *reply == Reply::Done {
                self.rates = Some(rates);
            }
            self.reply(asker, reply);
        }
    }

    /// Whoever waits for rates to hold is told that they never will; and nothing keeps the
    /// sandbox's network any more.
    pub(super) fn stop_shaping(&mut self) {
        if let Some(meter) = self.meter.take() {
            meter.abort();
        }
        while !self.shaping.is_empty() {
            let refusal = Refusal::WrongState { what: "SHAPE".into(), state: "going down".into() };
            self.answer_shape(&Reply::Refused(refusal));
        }
    }
}
