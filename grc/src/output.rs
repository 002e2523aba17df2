//! What jobs print: one append-only file per job and stream, written as it comes from the sites
//! and read by whoever asks for the log.
//!
//! Only the sites where a job runs may send output of it, each for its own members. Offsets are
//! checked per member: what came before is dropped, a gap ends the site's connection. With several
//! members the chunks stand in the order in which they came.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use protocol::client::{Notice, Reply};
use protocol::connection::Outbox;
use protocol::frame::Kind;
use protocol::ids::{JobId, MemberNumber};
use protocol::job::{JobView, Stream};
use protocol::limits::OUTPUT_CHUNK_BYTES_MAX;
use protocol::names::SiteName;
use protocol::refusal::{Failure, Step};
use tokio::sync::watch;

/// Why output was not kept.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OutputError {
    #[error("output of {job} from a site or member that does not run it")]
    Unexpected { job: JobId },
    #[error("output of {job} from member {member} goes on at {given}, expected at {expected}")]
    Gap { job: JobId, member: MemberNumber, expected: u64, given: u64 },
    #[error("an output chunk of {0} bytes")]
    TooLong(usize),
}

/// The output of all jobs that are known.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// What is kept of one stream of one job.
    stream_bytes_max: u64,
    jobs: Mutex<BTreeMap<JobId, Arc<Output>>>,
}

#[derive(Debug)]
struct Output {
    state: Mutex<State>,
    /// Grows with every change.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    sources: BTreeMap<SiteName, u32>,
    /// Up to where each member's stream was taken.
    taken: BTreeMap<(SiteName, MemberNumber, Stream), u64>,
    /// Bytes on file.
    stdout: u64,
    stderr: u64,
    over: bool,
    /// Output was lost here: shown at the end of the log.
    damage: Option<String>,
}

impl State {
    fn length(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn file_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

impl Store {
    /// Keeps everything below `state/jobs`.
    pub fn new(state: &Path, stream_bytes_max: u64) -> Self {
        Self { directory: state.join("jobs"), stream_bytes_max, jobs: Mutex::default() }
    }

    fn job(&self, job: JobId) -> Option<Arc<Output>> {
        locked(&self.jobs).get(&job).cloned()
    }

    fn path(&self, job: JobId, stream: Stream) -> PathBuf {
        self.directory.join(job.to_string()).join(file_name(stream))
    }

    /// The job exists, and these sites run so many members of it. Repeatable.
    pub fn expect(&self, job: JobId, sources: Vec<(SiteName, u32)>) {
        let fresh = || Arc::new(Output { state: Mutex::default(), news: watch::Sender::new(0) });
        let output = locked(&self.jobs).entry(job).or_insert_with(fresh).clone();
        locked(&output.state).sources.extend(sources);
    }

    /// Nothing more comes; who follows reaches the end.
    pub fn close(&self, job: JobId) {
        let Some(output) = self.job(job) else { return };
        let mut state = locked(&output.state);
        state.over = true;
        // Only needed to check what still comes.
        state.sources.clear();
        state.taken.clear();
        drop(state);
        output.news.send_modify(|news| *news += 1);
    }

    /// Takes the job's files away. Blocks.
    pub fn forget(&self, job: JobId) {
        locked(&self.jobs).remove(&job);
        let _ = fs::remove_dir_all(self.directory.join(job.to_string()));
    }

    /// Fills in how much there is.
    pub fn measure(&self, view: &mut JobView) {
        if let Some(output) = self.job(view.id) {
            let state = locked(&output.state);
            (view.stdout_bytes, view.stderr_bytes) = (state.stdout, state.stderr);
        }
    }

    /// Appends what is new of a chunk; up to where the member's stream is now taken, which is to
    /// be told to the site. A full disk does not stop the job: the loss is told with the log.
    pub fn append(
        &self,
        site: &SiteName,
        job: JobId,
        member: MemberNumber,
        stream: Stream,
        offset: u64,
        bytes: &[u8],
    ) -> Result<u64, OutputError> {
        if bytes.len() > OUTPUT_CHUNK_BYTES_MAX {
            return Err(OutputError::TooLong(bytes.len()));
        }
        let output = self.job(job).ok_or(OutputError::Unexpected { job })?;
        let mut state = locked(&output.state);
        if state.sources.get(site).is_none_or(|members| member >= *members) {
            return Err(OutputError::Unexpected { job });
        }
        let taken = state.taken.entry((site.clone(), member, stream)).or_default();
        let expected = *taken;
        if offset > expected {
            return Err(OutputError::Gap { job, member, expected, given: offset });
        }
        let known = (expected - offset).min(bytes.len() as u64);
        let fresh = &bytes[known as usize..];
        *taken += fresh.len() as u64;
        let upto = *taken;
        if fresh.is_empty() {
            return Ok(upto);
        }
        let room = self.stream_bytes_max - (*state.length(stream)).min(self.stream_bytes_max);
        let kept = &fresh[..fresh.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        if kept.len() < fresh.len() {
            let damage = format!("only the first {} bytes are kept", self.stream_bytes_max);
            state.damage.get_or_insert(damage);
        }
        if !kept.is_empty() {
            match self.write(job, stream, kept) {
                Ok(()) => *state.length(stream) += kept.len() as u64,
                Err(error) => {
                    tracing::error!(%job, %error, "cannot keep output");
                    state.damage.get_or_insert(format!("some of it could not be kept: {error}"));
                }
            }
        }
        drop(state);
        output.news.send_modify(|news| *news += 1);
        Ok(upto)
    }

    /// Opened anew for each chunk: with thousands of jobs there are not thousands of open files.
    fn write(&self, job: JobId, stream: Stream, bytes: &[u8]) -> std::io::Result<()> {
        let path = self.path(job, stream);
        let open = || OpenOptions::new().append(true).create(true).open(&path);
        let mut file = match open() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().unwrap_or(&self.directory))?;
                open()?
            }
            opened => opened?,
        };
        let before = file.metadata()?.len();
        file.write_all(bytes).inspect_err(|_| {
            // Half a chunk would shift everything behind it.
            let _ = file.set_len(before);
        })
    }

    /// Answers a log request: notices from `offset` on, then one reply. Waits for a reader that is
    /// slow and ends with one that is gone.
    pub async fn read(
        &self,
        outbox: &Outbox,
        correlation: u64,
        job: JobId,
        stream: Stream,
        offset: u64,
        follow: bool,
    ) {
        let mut offset = offset;
        let reply = loop {
            let Some(output) = self.job(job) else { break Reply::LogEnd { offset } };
            let mut news = output.news.subscribe();
            let (length, over, damage) = {
                let mut state = locked(&output.state);
                (*state.length(stream), state.over, state.damage.clone())
            };
            if offset < length {
                let bytes = match self.read_chunk(job, stream, offset, length) {
                    Ok(bytes) if !bytes.is_empty() => bytes,
                    Ok(_) => break unreadable("the file is shorter than it was".into()),
                    Err(error) => break unreadable(error.to_string()),
                };
                let next = offset + bytes.len() as u64;
                let notice = Notice::Output { stream, offset, bytes };
                if outbox.post_wait(Kind::Notice, correlation, &notice).await.is_err() {
                    return;
                }
                offset = next;
            } else if over || !follow {
                break match damage {
                    Some(damage) => unreadable(damage),
                    None => Reply::LogEnd { offset: length },
                };
            } else {
                drop(output);
                tokio::select! {
                    changed = news.changed() => if changed.is_err() { break Reply::LogEnd { offset } },
                    () = outbox.closed() => return,
                }
            }
        };
        let _ = outbox.post_wait(Kind::Reply, correlation, &reply).await;
    }

    fn read_chunk(&self, job: JobId, stream: Stream, offset: u64, length: u64) -> std::io::Result<Bytes> {
        let file = File::open(self.path(job, stream))?;
        let wanted = (length - offset).min(OUTPUT_CHUNK_BYTES_MAX as u64);
        let mut buffer = vec![0; wanted as usize];
        let got = file.read_at(&mut buffer, offset)?;
        buffer.truncate(got);
        Ok(buffer.into())
    }
}

fn unreadable(cause: String) -> Reply {
    Reply::Failed(Failure::new(Step::Running, format!("the output is not complete: {cause}"), ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(stream_bytes_max: u64) -> (tempfile::TempDir, Store) {
        let state = tempfile::tempdir().unwrap();
        let store = Store::new(state.path(), stream_bytes_max);
        store.expect(JobId(1), vec![("a".parse().unwrap(), 2)]);
        (state, store)
    }

    fn on_file(store: &Store, stream: Stream) -> Vec<u8> {
        fs::read(store.path(JobId(1), stream)).unwrap_or_default()
    }

    #[test]
    fn what_comes_twice_is_kept_once_and_gaps_are_refused() {
        let (_state, store) = store(100);
        let a: SiteName = "a".parse().unwrap();
        let put = |offset, bytes: &[u8]| store.append(&a, JobId(1), 0, Stream::Stdout, offset, bytes);
        assert_eq!(put(0, b"abc"), Ok(3));
        assert_eq!(put(0, b"abc"), Ok(3));
        assert_eq!(put(1, b"bcde"), Ok(5));
        assert_eq!(put(6, b"x"), Err(OutputError::Gap { job: JobId(1), member: 0, expected: 5, given: 6 }));
        assert_eq!(
            put(u64::MAX, b"x").unwrap_err(),
            OutputError::Gap { job: JobId(1), member: 0, expected: 5, given: u64::MAX }
        );
        assert_eq!(
            store.append(&a, JobId(1), 1, Stream::Stdout, 0, b"+"),
            Ok(1),
            "each member counts by itself"
        );
        assert_eq!(on_file(&store, Stream::Stdout), b"abcde+");
        assert_eq!(on_file(&store, Stream::Stderr), b"");
    }

    #[test]
    fn only_members_that_run_the_job_write_to_its_log() {
        let (_state, store) = store(100);
        let (a, b): (SiteName, SiteName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let put = |site, job, member| store.append(site, job, member, Stream::Stdout, 0, b"x");
        let unexpected = |job| Err(OutputError::Unexpected { job });
        assert_eq!(put(&b, JobId(1), 0), unexpected(JobId(1)));
        assert_eq!(put(&a, JobId(1), 2), unexpected(JobId(1)));
        assert_eq!(put(&a, JobId(2), 0), unexpected(JobId(2)));
        store.close(JobId(1));
        assert_eq!(put(&a, JobId(1), 0), unexpected(JobId(1)), "after its end nobody does");
        let long = vec![0; OUTPUT_CHUNK_BYTES_MAX + 1];
        let result = store.append(&a, JobId(1), 0, Stream::Stdout, 0, &long);
        assert_eq!(result, Err(OutputError::TooLong(long.len())));
    }

    #[test]
    fn beyond_the_limit_output_is_taken_but_not_kept() {
        let (_state, store) = store(4);
        let a: SiteName = "a".parse().unwrap();
        assert_eq!(store.append(&a, JobId(1), 0, Stream::Stderr, 0, b"abcdef"), Ok(6));
        assert_eq!(store.append(&a, JobId(1), 0, Stream::Stderr, 6, b"g"), Ok(7));
        assert_eq!(on_file(&store, Stream::Stderr), b"abcd");
        store.forget(JobId(1));
        assert!(!store.directory.join("j1").exists());
    }
}
