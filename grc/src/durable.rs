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
    /// Of this boot of the machine.
    pub boot_id: [u8; 16],
}

/// Opens the store, or makes it, and reads what is in it. Tried again while the disk is full.
pub async fn open(state: &Path, grid: Pin, stop: &CancellationToken) -> anyhow::Result<Opened> {
    let path = state.join(FILE);
    let mut told = false;
    let (store, past, timeline, boot_id) = loop {
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
    Ok(Opened { durable, reports, past, boot_id })
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
fn begin(path: &Path, grid: Pin) -> anyhow::Result<(Store, Vec<Record>, Timeline, [u8; 16])> {
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
    Ok((store, records, timeline, reading.boot_id))
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
            Some(Report::Failed(error)) => {
                Err(anyhow!(error).context("a decision cannot be made durable, so nothing more is answered"))
            }
            None => bail!("the journal's thread is gone; start again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::{JobId, ReservationId};

    use super::*;
    use crate::coordinator::Ids;
    use crate::record::Key as RecordKey;

    async fn opened(state: &Path) -> Opened {
        open(state, Pin([7; 32]), &CancellationToken::new()).await.unwrap()
    }

    fn ids(reservation: u64) -> Action {
        Action::Record(Record::Put(Value::Ids(Ids { reservation, job: 1 })))
    }

    fn effect(number: u64) -> Action {
        Action::CloseOutput { job: JobId(number) }
    }

    fn performed(durable: &mut Durable) -> Vec<u64> {
        let number = |action| if let Action::CloseOutput { job } = action { job.0 } else { u64::MAX };
        std::iter::from_fn(|| durable.next_action()).map(number).collect()
    }

    #[tokio::test]
    async fn what_stands_behind_a_record_waits_for_the_disk_and_everything_keeps_its_order() {
        let state = tempfile::tempdir().unwrap();
        let Opened { mut durable, mut reports, past, .. } = opened(state.path()).await;
        assert_eq!(past, []);
        durable.take(vec![effect(1), ids(5), effect(2), ids(6), effect(3)]).unwrap();
        durable.take(vec![effect(4)]).unwrap();
        assert_eq!(performed(&mut durable), [1], "before the record nothing is waited for");
        assert_eq!(durable.waiting(), 3);
        durable.reported(reports.recv().await).unwrap();
        assert_eq!(performed(&mut durable), [2, 3, 4]);
        durable
            .take(vec![ids(7), Action::Record(Record::Forget(RecordKey::Ids)), ids(8), effect(5)])
            .unwrap();
        durable.take(vec![effect(6), ids(9), effect(7)]).unwrap();
        let mut done = Vec::new();
        while done.len() < 3 {
            durable.reported(reports.recv().await).unwrap();
            done.extend(performed(&mut durable));
        }
        assert_eq!(done, [5, 6, 7]);
        let before = durable.now();
        drop(durable);
        let Opened { durable, past, .. } = opened(state.path()).await;
        assert_eq!(past, [Record::Put(Value::Ids(Ids { reservation: 9, job: 1 }))]);
        assert!(durable.now() >= before, "the clock goes on");
    }

    #[tokio::test]
    async fn after_a_write_that_failed_nothing_is_done_any_more() {
        let state = tempfile::tempdir().unwrap();
        let Opened { mut durable, .. } = opened(state.path()).await;
        durable.take(vec![ids(5), effect(1)]).unwrap();
        let path = state.path().join(FILE);
        let error = durable.reported(Some(Report::Failed(StoreError::Full { path }))).unwrap_err();
        assert!(format!("{error:#}").contains("no space left for"), "{error:#}");
        assert!(performed(&mut durable).is_empty());
        assert!(durable.reported(None).is_err());
    }

    #[tokio::test]
    async fn another_grids_store_and_a_record_that_cannot_be_read_are_refused() {
        let state = tempfile::tempdir().unwrap();
        drop(opened(state.path()).await);
        let other = open(state.path(), Pin([8; 32]), &CancellationToken::new()).await;
        assert!(format!("{:#}", other.err().unwrap()).contains("is the store of"));
        let (mut store, _) =
            Store::open(&state.path().join(FILE), Kind::Grc, &Pin([7; 32]).to_string()).unwrap();
        let key = RecordKey::Reservation(ReservationId(1)).stored();
        store.commit(&[journal::Write::Put { key, value: vec![0xff; 9] }]).unwrap();
        drop(store);
        let error = open(state.path(), Pin([7; 32]), &CancellationToken::new()).await.err().unwrap();
        assert!(format!("{error:#}").contains("that this program cannot read"), "{error:#}");
    }
}
