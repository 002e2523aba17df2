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
            .spawn(move || write_all(store, &batches, report))
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

fn write_all(mut store: Store, batches: &Receiver<Batch>, mut report: impl FnMut(Report)) -> Store {
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
        match store.commit(&writes) {
            Ok(()) => report(Report::Durable(ticket)),
            Err(error) => {
                report(Report::Failed(error));
                break;
            }
        }
    }
    store
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
