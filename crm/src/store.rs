//! The journal of the site in its state directory: records in and out, and the site's timeline.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use journal::{Kind, Reading, Report, Saved, Store, StoreError, Timeline, Write, Writer};
use protocol::names::SiteName;
use tokio::sync::mpsc;

use crate::durable::Batch;
use crate::record::{Key, Record, Value};

/// Where the site's timeline stood when something was last written.
const TIMELINE_TABLE: u8 = 0;
/// Between two attempts to open a store whose disk is full.
const RETRY_TIME: Duration = Duration::from_secs(1);

fn path(state: &Path) -> PathBuf {
    state.join("site.store")
}

fn key(key: Key) -> Result<journal::Key> {
    let (table, id) = key.table_and_id();
    journal::Key::new(table, &id).context("a key of the journal is too long")
}

fn timeline_key() -> journal::Key {
    journal::Key::of(TIMELINE_TABLE, 0)
}

/// The open journal.
#[derive(Debug)]
pub struct Kept {
    writer: Writer,
    timeline: Timeline,
}

/// The journal, what it holds, and how it reports.
#[derive(Debug)]
pub struct Opened {
    pub kept: Kept,
    pub records: Vec<Record>,
    pub reports: mpsc::UnboundedReceiver<Report>,
}

/// Opens the site's journal, made if there is none. A full disk is waited for, which is said once.
///
/// # Errors
/// A journal that is damaged, foreign or in use.
pub async fn open(state: &Path, site: &SiteName) -> Result<Opened> {
    let path = path(state);
    let mut said = false;
    let (store, records, timeline) = loop {
        match try_open(&path, site) {
            Err(StoreError::Full { path }) => {
                if !std::mem::replace(&mut said, true) {
                    let path = path.display();
                    eprintln!("crm: site {site}: no space left for {path}; it goes on when there is room");
                }
                tokio::time::sleep(RETRY_TIME).await;
            }
            opened => break opened?,
        }
    };
    let mut kept = Vec::with_capacity(records.len());
    for (key, bytes) in records {
        let value = Value::decode(&bytes).with_context(|| unreadable(&path, &key))?;
        match Key::from_table_and_id(key.table(), key.id()) {
            Some(key) if value.belongs_under(key) => kept.push(Record::Put(key, value)),
            _ => bail!("{}", unreadable(&path, &key)),
        }
    }
    let (report, reports) = mpsc::unbounded_channel();
    let writer = Writer::start(store, move |said| {
        let _ = report.send(said);
    })?;
    Ok(Opened { kept: Kept { writer, timeline }, records: kept, reports })
}

type Raw = (Store, Vec<journal::Record>, Timeline);

/// Also writes something, so that a store that cannot be written is not taken for one that can.
fn try_open(path: &Path, site: &SiteName) -> Result<Raw, StoreError> {
    let (mut store, mut records) = Store::open(path, Kind::Crm, site.as_str())?;
    let mut saved = None;
    let timeline_key = timeline_key();
    records.retain(|(key, bytes)| {
        let is_timeline = *key == timeline_key;
        if is_timeline {
            saved = Saved::from_bytes(bytes);
        }
        !is_timeline
    });
    let reading = Reading::take().map_err(|source| {
        let path = "/proc/sys/kernel/random/boot_id".into();
        StoreError::Io { doing: "read", path, source }
    })?;
    let timeline = Timeline::resume_at(saved.as_ref(), &reading);
    let ahead_s = timeline.ahead_of_wall_s(reading.boottime, reading.wall);
    if ahead_s.abs() > 1 {
        tracing::warn!("the site's time is {ahead_s} s ahead of this machine's clock, which was set");
    }
    let value = timeline.save(reading.boottime).to_bytes().to_vec();
    store.commit(&[Write::Put { key: timeline_key, value }])?;
    Ok((store, records, timeline))
}

fn unreadable(path: &Path, key: &journal::Key) -> String {
    format!("{} holds a record ({key}) that this version cannot read", path.display())
}

impl Kept {
    /// The time on the site's timeline.
    pub fn now(&self) -> Duration {
        self.timeline.now(journal::boottime())
    }

    /// Hands a batch over; it is reported durable, or the journal has failed.
    ///
    /// # Errors
    /// A record that cannot be written at all.
    pub fn submit(&self, batch: Batch) -> Result<()> {
        let mut writes = Vec::with_capacity(batch.records.len() + 1);
        for record in batch.records {
            writes.push(match record {
                Record::Put(of, value) => Write::Put { key: key(of)?, value: value.encode()? },
                Record::Forget(of) => Write::Delete { key: key(of)? },
            });
        }
        // Beside them, so that no time of a record is ever ahead of the timeline after a reboot.
        let now = self.timeline.save(journal::boottime());
        writes.push(Write::Put { key: timeline_key(), value: now.to_bytes().to_vec() });
        self.writer.submit(writes, batch.ticket);
        Ok(())
    }
}

/// Writes the journal to standard output, a line of JSON for each record.
///
/// # Errors
/// It cannot be read, or is in use.
pub fn export(state: &Path) -> Result<()> {
    let decode = |key: &journal::Key, bytes: &[u8]| {
        if *key == timeline_key() {
            let saved = Saved::from_bytes(bytes)?;
            return Some(serde_json::json!({ "timeline_s": saved.time.as_secs_f64() }));
        }
        let of = Key::from_table_and_id(key.table(), key.id())?;
        let value = Value::decode(bytes).ok().filter(|value| value.belongs_under(of))?;
        Some(serde_json::json!({ "key": of, "value": value }))
    };
    let mut out = std::io::stdout().lock();
    journal::export(&path(state), Kind::Crm, decode, &mut out)?;
    out.flush()?;
    Ok(())
}
