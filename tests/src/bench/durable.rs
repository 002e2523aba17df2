//! The store under load. A decision is what one reservation makes durable before anybody is told:
//! two records of about 300 bytes. So many requests wait at any time; each is answered when its
//! records are on disk, and another takes its place. The disk's own fsync stands beside it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use journal::{Key, Kind, Report, Store, Write, Writer};

use super::{fine_ms, median, row, table};

const RECORD_BYTES: usize = 300;
const WAITING: [u64; 4] = [1, 16, 256, 4096];
const OWNER: &str = "bench";
/// Records of the decisions' beginning and of their end.
const TABLES: [u8; 2] = [1, 2];

fn value(number: u64) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().repeat(RECORD_BYTES / 8);
    bytes.resize(RECORD_BYTES, 0);
    bytes
}

fn decision(number: u64) -> Vec<Write> {
    TABLES.map(|table| Write::Put { key: Key::of(table, number), value: value(number) }).to_vec()
}

/// 256 bytes written in place and made durable, over and over: median and the worst of a hundred.
fn fsync(directory: &Path, samples: usize) -> Result<[Duration; 2]> {
    let file = File::create_new(directory.join("fsync"))?;
    file.write_all_at(&vec![1; 1 << 20], 0)?;
    file.sync_all()?;
    let mut times = Vec::with_capacity(samples);
    for sample in 0..samples {
        let begin = Instant::now();
        file.write_all_at(&[2; 256], (sample as u64 % 256) * 4096)?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    let middle = median(&mut times);
    Ok([middle, times[times.len() * 99 / 100]])
}

struct Load {
    decisions: u64,
    took: Duration,
    /// From submission to the report.
    waits: Vec<Duration>,
    bytes: u64,
}

/// Keeps `waiting` decisions on their way until the time is up.
fn load(path: &Path, waiting: u64, time: Duration) -> Result<Load> {
    let (store, _) = Store::open(path, Kind::Grc, OWNER)?;
    let (tell, reports) = mpsc::channel();
    let writer = Writer::start(store, move |report| drop(tell.send(report)))?;
    let mut begun = Vec::new();
    let mut waits = Vec::new();
    let begin = Instant::now();
    let submit = |begun: &mut Vec<Instant>| {
        let number = begun.len() as u64;
        begun.push(Instant::now());
        writer.submit(decision(number), number);
    };
    (0..waiting).for_each(|_| submit(&mut begun));
    let mut done = 0;
    while begin.elapsed() < time {
        match reports.recv().context("the writer is gone")? {
            Report::Durable(ticket) => {
                let now = Instant::now();
                waits.extend((done..=ticket).map(|number| now - begun[number as usize]));
                (done..=ticket).for_each(|_| submit(&mut begun));
                done = ticket + 1;
            }
            Report::Failed(error) => bail!(error),
        }
    }
    let took = begin.elapsed();
    writer.finish().context("the writer panicked")?;
    Ok(Load { decisions: done, took, waits, bytes: taken(path)? })
}

/// Fills a store with so many records in growing order, then opens it again.
fn open_full(path: &Path, records: u64) -> Result<[Duration; 2]> {
    let (mut store, _) = Store::open(path, Kind::Grc, OWNER)?;
    let begin = Instant::now();
    for first in (0..records).step_by(50_000) {
        let numbers = first..(first + 50_000).min(records);
        let writes: Vec<Write> =
            numbers.map(|number| Write::Put { key: Key::of(1, number), value: value(number) }).collect();
        store.commit(&writes)?;
    }
    let filled = begin.elapsed();
    drop(store);
    let begin = Instant::now();
    let (_store, found) = Store::open(path, Kind::Grc, OWNER)?;
    let opened = begin.elapsed();
    ensure!(found.len() as u64 == records, "{} records came back", found.len());
    Ok([filled, opened])
}

/// The space that the file takes while records come and go, always `live` of them: at the beginning, the most,
/// and at the end.
fn churn(path: &Path, live: u64, changes: u64) -> Result<[u64; 3]> {
    let (mut store, _) = Store::open(path, Kind::Grc, OWNER)?;
    let put = |number| Write::Put { key: Key::of(1, number), value: value(number) };
    store.commit(&(0..live).map(put).collect::<Vec<_>>())?;
    let first = taken(path)?;
    let mut most = first;
    for number in live..live + changes {
        store.commit(&[put(number), Write::Delete { key: Key::of(1, number - live) }])?;
        if number % 100 == 0 {
            most = most.max(taken(path)?);
        }
    }
    Ok([first, most, taken(path)?])
}

/// In the directory, which should be on the disk that a daemon's state is on.
pub fn run(directory: &Path, seconds: f64, records: u64, changes: u64) -> Result<String> {
    let bed = tempfile::Builder::new().prefix("gridpilot-durable-").tempdir_in(directory)?;
    let time = Duration::try_from_secs_f64(seconds)?;
    let [middle, worst] = fsync(bed.path(), 2_000)?;
    let mut rows =
        vec![row(["waiting", "decisions/s", "wait median ms", "wait 99th of 100 ms", "MiB on disk after"])];
    for waiting in WAITING {
        let path = bed.path().join(format!("waiting-{waiting}"));
        let mut load = load(&path, waiting, time)?;
        let rate = load.decisions as f64 / load.took.as_secs_f64();
        let middle = median(&mut load.waits);
        let worst = load.waits[load.waits.len() * 99 / 100];
        let rate = format!("{rate:.0}");
        rows.push(row([&waiting.to_string(), &rate, &fine_ms(middle), &fine_ms(worst), &mib(load.bytes)]));
        fs::remove_file(&path)?;
    }
    let full = bed.path().join("full");
    let [filled, opened] = open_full(&full, records)?;
    let size = taken(&full)?;
    let [first, most, last] = churn(&bed.path().join("churn"), 1_000, changes)?;
    Ok(format!(
        "fsync of this disk (256 bytes in place): median {} ms, 99th of 100 {} ms; a commit is two.\n\n{}\n\
         {records} records of {RECORD_BYTES} bytes: written in {:.1} s, opened and verified in {:.2} s, \
         {} MiB on disk.\n\
         1000 live records, {changes} times one more and one less: {} MiB on disk at first, {} at most, \
         {} at the end.",
        fine_ms(middle),
        fine_ms(worst),
        table(&rows),
        filled.as_secs_f64(),
        opened.as_secs_f64(),
        mib(size),
        mib(first),
        mib(most),
        mib(last),
    ))
}

/// Of the disk; the file may be longer, for it has holes.
fn taken(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
