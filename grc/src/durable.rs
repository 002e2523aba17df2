//! Between the owner and what it wants done: what must be durable is handed to the journal, and
//! everything behind it waits, in order, until it is.
//!
//! ```text
//! step --> [Record] [Record] [Send] [Answer] --> journal (its own thread, one fsync for many)
//!                              |       |             |
//!                              `-------+-- wait -----+--> performed
//! ```
//! Many steps may be taken while a write is under way: their records go into the next one. A write
//! that fails ends the process, for memory must not get ahead of the disk.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use journal::{Key, Kind, Reading, Report, Saved, Store, StoreError, Timeline, Writer};
use protocol::identity::Pin;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::coordinator::{Action, Record};
use crate::record::Value;

/// The store's file in the state directory.
pub const FILE: &str = "store";
/// Pause before a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// Under which the clock is kept; the tables below are of records.
fn clock_key() -> Key {
    Key::of(255, 0)
}

/// Actions in their order, and how far the disk is behind them.
#[derive(Debug)]
pub struct Durable {
    writer: Writer,
    timeline: Timeline,
    /// With the ticket that must be durable first.
    waiting: VecDeque<(u64, Action)>,
    submitted: u64,
    durable: u64,
}

/// An open store and what was in it.
pub struct Opened {
    pub durable: Durable,
    /// The journal's word comes here; hand it to [`Durable::reported`].
    pub reports: mpsc::UnboundedReceiver<Report>,
    pub past: Vec<Record>,
    /// The machine was started anew since the store was written last.
    pub rebooted: bool,
}

/// Opens the store, or makes it, and reads what is in it. Tried again while the disk is full.
pub async fn open(state: &Path, grid: Pin, stop: &CancellationToken) -> anyhow::Result<Opened> {
    let path = state.join(FILE);
    let mut told = false;
    let (store, past, timeline, rebooted) = loop {
        match begin(&path, grid) {
            Ok(begun) => break begun,
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Full { .. })) => {
                if !std::mem::replace(&mut told, true) {
                    eprintln!("grc: {error}; until then it is tried again every second");
                }
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => bail!("stopped while the disk was full"),
            () = tokio::time::sleep(FULL_PAUSE) => {}
        }
    };
    let (sender, reports) = mpsc::unbounded_channel();
    let writer = Writer::start(store, move |report| drop(sender.send(report)))?;
    let durable = Durable { writer, timeline, waiting: VecDeque::new(), submitted: 0, durable: 0 };
    Ok(Opened { durable, reports, past, rebooted })
}

/// Prints the store as lines of JSON, one for each record; how many there were. Only while no GRC
/// serves on it.
pub fn export(state: &Path, out: &mut dyn std::io::Write) -> Result<u64, StoreError> {
    let decode = |key: &Key, bytes: &[u8]| match Saved::from_bytes(bytes).filter(|_| *key == clock_key()) {
        Some(clock) => Some(serde_json::json!({
            "clock": { "time_s": clock.time.as_secs(), "boottime_s": clock.boottime.as_secs() }
        })),
        None => Value::decode(bytes).ok().and_then(|value| serde_json::to_value(value).ok()),
    };
    journal::export(&state.join(FILE), Kind::Grc, decode, out)
}

/// One attempt: what was written, and a clock that goes on from it, durably.
fn begin(path: &Path, grid: Pin) -> anyhow::Result<(Store, Vec<Record>, Timeline, bool)> {
    let (mut store, past) = Store::open(path, Kind::Grc, &grid.to_string())?;
    let mut records = Vec::with_capacity(past.len());
    let mut saved = None;
    for (key, bytes) in past {
        if key == clock_key() {
            saved = Some(Saved::from_bytes(&bytes).with_context(|| damaged(path, key))?);
        } else {
            records.push(Record::Put(Value::decode(&bytes).with_context(|| damaged(path, key))?));
        }
    }
    let reading = Reading::take().context("cannot read the clock")?;
    let timeline = Timeline::resume_at(saved.as_ref(), &reading);
    let value = timeline.save(reading.boottime).to_bytes().to_vec();
    store.commit(&[journal::Write::Put { key: clock_key(), value }])?;
    let rebooted = saved.is_some_and(|saved| saved.boot_id != reading.boot_id);
    Ok((store, records, timeline, rebooted))
}

fn damaged(path: &Path, key: Key) -> String {
    format!("{} holds a record {key} that this program cannot read", path.display())
}

impl Durable {
    /// The grid's time: elapsed time, whatever is done to the wall clock.
    pub fn now(&self) -> Duration {
        self.timeline.now(journal::boottime())
    }

    /// How many actions wait for the disk.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the actions of one step, in their order.
    pub fn take(&mut self, actions: Vec<Action>) -> anyhow::Result<()> {
        let mut writes = Vec::new();
        for action in actions {
            match action {
                Action::Record(record) => writes.push(record.encode().context("a record cannot be written")?),
                other => {
                    let ticket = self.submitted + u64::from(!writes.is_empty());
                    self.waiting.push_back((ticket, other));
                }
            }
        }
        if !writes.is_empty() {
            let point = self.timeline.save(journal::boottime());
            writes.push(journal::Write::Put { key: clock_key(), value: point.to_bytes().to_vec() });
            self.submitted += 1;
            self.writer.submit(writes, self.submitted);
        }
        Ok(())
    }

    /// The next action that waits for nothing any more.
    pub fn next_action(&mut self) -> Option<Action> {
        let (ticket, _) = self.waiting.front()?;
        if *ticket > self.durable {
            return None;
        }
        self.waiting.pop_front().map(|(_, action)| action)
    }

    /// Takes the journal's word.
    ///
    /// # Errors
    /// It could not write: nothing that waits may ever be done.
    pub fn reported(&mut self, report: Option<Report>) -> anyhow::Result<()> {
        match report {
            Some(Report::Durable(ticket)) => {
                self.durable = self.durable.max(ticket);
                Ok(())
            }
            Some(Report::Failed(error)) => Err(anyhow!(error).context(
                "what was decided cannot be made durable, so nothing more is answered; \
                 started again with room it goes on by itself",
            )),
            None => bail!("the journal's thread is gone; start again"),
        }
    }
}
