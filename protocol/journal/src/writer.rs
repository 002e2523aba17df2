//! Group commit: whatever was submitted while the disk was busy becomes one transaction.

use std::fmt;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use crate::{Store, StoreError, Write};

/// Batches are gathered up to this many bytes of values; more wait for the next transaction.
const GROUP_BYTES: usize = 16 * 1024 * 1024;

/// What the writer says, in this order: any number of `Durable`, at most one `Failed`, and after
/// that nothing.
#[derive(Debug)]
pub enum Report {
    /// All batches up to and including this ticket are on disk.
    Durable(u64),
    /// What was not reported durable may or may not be on disk: the process must end, and start
    /// again from what the store holds.
    Failed(StoreError),
}

/// A thread that owns the store. Dropping it waits until all that was submitted is written.
pub struct Writer {
    submit: Option<Sender<Batch>>,
    thread: Option<JoinHandle<Store>>,
}

struct Batch {
    ticket: u64,
    writes: Vec<Write>,
}

impl Writer {
    /// Starts the thread. `report` is called on it and should only pass the report on.
    pub fn start(store: Store, report: impl FnMut(Report) + Send + 'static) -> Result<Writer, StoreError> {
        let (submit, batches) = mpsc::channel();
        let path = store.path().to_owned();
        let thread = thread::Builder::new()
            .name("journal".into())
            .spawn(move || {
                let mut store = store;
                write_all(|writes| store.commit(writes), &batches, report);
                store
            })
            .map_err(|error| StoreError::io("start a thread for", &path, error))?;
        Ok(Writer { submit: Some(submit), thread: Some(thread) })
    }

    /// Hands over changes that shall become durable together, behind all that were submitted
    /// before. Never blocks; nothing bounds what waits but the caller, who knows the last ticket
    /// submitted and the last one reported. Tickets grow. A batch without changes is reported
    /// durable as soon as those before it are. After a failure a batch is dropped.
    pub fn submit(&self, writes: Vec<Write>, ticket: u64) {
        if let Some(submit) = &self.submit {
            // Fails only if the thread is gone: it has reported why.
            let _ = submit.send(Batch { ticket, writes });
        }
    }

    /// Waits until all that was submitted is written, or has failed, and gives the store back.
    /// `None` if the thread panicked.
    pub fn finish(mut self) -> Option<Store> {
        self.submit = None;
        self.thread.take()?.join().ok()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.submit = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

fn write_all(
    mut commit: impl FnMut(&[Write]) -> Result<(), StoreError>,
    batches: &Receiver<Batch>,
    mut report: impl FnMut(Report),
) {
    while let Ok(first) = batches.recv() {
        let mut ticket = first.ticket;
        let mut writes = first.writes;
        let mut bytes = size(&writes);
        while bytes < GROUP_BYTES {
            let Ok(batch) = batches.try_recv() else { break };
            ticket = batch.ticket;
            bytes += size(&batch.writes);
            writes.extend(batch.writes);
        }
        match commit(&writes) {
            Ok(()) => report(Report::Durable(ticket)),
            Err(error) => return report(Report::Failed(error)),
        }
    }
}

fn size(writes: &[Write]) -> usize {
    writes
        .iter()
        .map(|write| match write {
            Write::Put { value, .. } => size_of::<Write>() + value.len(),
            Write::Delete { .. } => size_of::<Write>(),
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{Key, Kind};

    fn put(number: u64) -> Vec<Write> {
        vec![Write::Put { key: Key::of(1, number), value: vec![7; 300] }]
    }

    #[test]
    fn what_waits_becomes_one_transaction_in_the_order_of_its_submission() {
        let (submit, batches) = mpsc::channel();
        for ticket in 1..=100 {
            submit.send(Batch { ticket, writes: put(ticket % 10) }).unwrap();
        }
        drop(submit);
        let mut commits = Vec::new();
        let mut reports = Vec::new();
        let commit = |writes: &[Write]| {
            commits.push(writes.to_vec());
            Ok(())
        };
        write_all(commit, &batches, |report| reports.push(report));
        assert_eq!(commits, [(1..=100).flat_map(|ticket| put(ticket % 10)).collect::<Vec<_>>()]);
        assert!(matches!(reports[..], [Report::Durable(100)]), "{reports:?}");
    }

    #[test]
    fn a_transaction_is_bounded_however_much_waits() {
        let (submit, batches) = mpsc::channel();
        let large = |ticket| Write::Put { key: Key::of(1, ticket), value: vec![0; GROUP_BYTES / 4] };
        (0..10).for_each(|ticket| submit.send(Batch { ticket, writes: vec![large(ticket)] }).unwrap());
        drop(submit);
        let mut sizes = Vec::new();
        let commit = |writes: &[Write]| {
            sizes.push(writes.len());
            Ok(())
        };
        write_all(commit, &batches, |_| ());
        assert_eq!(sizes, [4, 4, 2]);
    }

    #[test]
    fn after_a_failure_nothing_is_written_or_reported() {
        let (submit, batches) = mpsc::channel();
        let large = |ticket| Write::Put { key: Key::of(1, ticket), value: vec![0; GROUP_BYTES] };
        (0..5).for_each(|ticket| submit.send(Batch { ticket, writes: vec![large(ticket)] }).unwrap());
        let mut commits = 0;
        let mut reports = Vec::new();
        let commit = |_: &[Write]| {
            commits += 1;
            match commits {
                3 => Err(StoreError::Full { path: PathBuf::from("grc.store") }),
                _ => Ok(()),
            }
        };
        write_all(commit, &batches, |report| reports.push(report));
        assert_eq!(commits, 3);
        let full = matches!(
            reports[..],
            [Report::Durable(0), Report::Durable(1), Report::Failed(StoreError::Full { .. })]
        );
        assert!(full, "{reports:?}");
    }

    #[test]
    fn what_is_reported_durable_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("crm.store");
        let (store, _) = Store::open(&path, Kind::Crm, "a").unwrap();
        let reported = Arc::new(Mutex::new(Vec::new()));
        let theirs = reported.clone();
        let report = move |report| match report {
            Report::Durable(ticket) => theirs.lock().unwrap().push(ticket),
            Report::Failed(error) => panic!("{error}"),
        };
        let writer = Writer::start(store, report).unwrap();
        (0..2_000).for_each(|number| writer.submit(put(number), number));
        writer.submit(vec![], 2_000);
        drop(writer.finish().unwrap());
        let tickets = reported.lock().unwrap().clone();
        assert!(tickets.is_sorted() && tickets.last() == Some(&2_000), "{tickets:?}");
        let (_, records) = Store::open(&path, Kind::Crm, "a").unwrap();
        assert!(records.iter().map(|(key, _)| *key).eq((0..2_000).map(|number| Key::of(1, number))));
    }
}
