//! What jobs print: one append-only file per job and stream, written as it comes from the sites
//! and read by whoever asks for the log.
//!
//! Only the sites where a job runs may send output of it, each for its own members. Offsets are
//! checked per member: what came before is dropped, and what leaves a gap is not taken, for it was
//! lost with a connection and is sent again. With several members the chunks stand in the order in
//! which they came. A restart goes on where [`offsets`] say that it stopped; after a power cut, of
//! which [`boot`] tells, each stream that ran through it may leave one gap, which is told with the log.

mod boot;
mod offsets;

use std::collections::{BTreeMap, BTreeSet};
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

use boot::Boot;
use offsets::Offsets;

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
    boot: Boot,
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
    /// Up to where each member's stream was taken, what is on file, what was lost.
    offsets: Offsets,
    over: bool,
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
    /// Keeps everything below `state/jobs`. `known` are the jobs that earlier starts have left,
    /// `boot_id` says whether the machine was started anew since: then what was acknowledged of their
    /// output may be gone.
    pub fn new(state: &Path, stream_bytes_max: u64, boot_id: [u8; 16], known: &BTreeSet<JobId>) -> Self {
        let directory = state.join("jobs");
        let boot = Boot::begin(&directory, boot_id, known);
        Self { directory, stream_bytes_max, boot, jobs: Mutex::default() }
    }

    fn job(&self, job: JobId) -> Option<Arc<Output>> {
        locked(&self.jobs).get(&job).cloned()
    }

    fn path(&self, job: JobId, stream: Stream) -> PathBuf {
        self.job_directory(job).join(file_name(stream))
    }

    fn job_directory(&self, job: JobId) -> PathBuf {
        self.directory.join(job.to_string())
    }

    /// The job exists, and these sites run so many members of it. Repeatable.
    pub fn expect(&self, job: JobId, sources: Vec<(SiteName, u32)>) {
        let known = locked(&self.jobs).entry(job).or_insert_with(|| self.load(job)).clone();
        locked(&known.state).sources.extend(sources);
    }

    /// A job as an earlier start left it, or one that is new.
    fn load(&self, job: JobId) -> Arc<Output> {
        let (directory, boot) = (self.job_directory(job), &self.boot.id);
        let offsets = Offsets::load(&directory, boot, self.boot.is_after(job)).unwrap_or_else(|error| {
            tracing::error!(%job, %error, "cannot read what there is of its output");
            Offsets::unreadable(&directory, boot, &error)
        });
        let state = Mutex::new(State { offsets, ..State::default() });
        Arc::new(Output { state, news: watch::Sender::new(0) })
    }

    /// Nothing more comes; who follows reaches the end.
    pub fn close(&self, job: JobId) {
        let Some(output) = self.job(job) else { return };
        let mut state = locked(&output.state);
        state.over = true;
        // Only needed to check what still comes.
        state.sources.clear();
        state.offsets.taken.clear();
        state.offsets.doubt = None;
        drop(state);
        output.news.send_modify(|news| *news += 1);
    }

    /// Nothing is known of the job any more; whether there may be files of it, to be taken away by
    /// [`Self::remove_files`]. Most short commands print nothing and have none.
    pub fn forget(&self, job: JobId) -> bool {
        let known = locked(&self.jobs).remove(&job);
        known.is_none_or(|output| {
            let offsets = &locked(&output.state).offsets;
            offsets.stdout + offsets.stderr > 0 || offsets.damage.is_some()
        })
    }

    /// Takes the files of a job away that is forgotten. Blocks.
    pub fn remove_files(&self, job: JobId) {
        let _ = fs::remove_dir_all(self.job_directory(job));
    }

    /// Jobs of which there are files and which an earlier start has forgotten: it was killed before
    /// [`Self::remove_files`]. To be asked before there are new jobs.
    pub fn left_over(&self, known: &BTreeSet<JobId>) -> Vec<JobId> {
        let Ok(found) = fs::read_dir(&self.directory) else { return Vec::new() };
        let names = found.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).filter(|job| !known.contains(job)).collect()
    }

    /// Fills in how much there is.
    pub fn measure(&self, view: &mut JobView) {
        if let Some(output) = self.job(view.id) {
            let offsets = &locked(&output.state).offsets;
            (view.stdout_bytes, view.stderr_bytes) = (offsets.stdout, offsets.stderr);
        }
    }

    /// Appends what is new of a chunk; up to where the member's stream is now taken, which is to
    /// be told to the site. A full disk does not stop the job: the loss is told with the log. Nothing is
    /// kept of a job that is over, but taken all the same: a member that cannot get rid of its output
    /// would never say that its command has ended.
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
        if state.over {
            return Ok(offset.saturating_add(bytes.len() as u64));
        }
        if state.sources.get(site).is_none_or(|members| member >= *members) {
            return Err(OutputError::Unexpected { job });
        }
        let source = (site.clone(), member, stream);
        let offsets = &mut state.offsets;
        let doubtful = offsets.hear(&source);
        let expected = offsets.taken.get(&source).copied().unwrap_or(0);
        let mut damaged = false;
        if offset > expected {
            if !doubtful {
                return Err(OutputError::Gap { job, member, expected, given: offset });
            }
            damaged = true;
            offsets.damage.get_or_insert_with(|| "some of it was lost with the machine's power".into());
        }
        let known = expected.saturating_sub(offset).min(bytes.len() as u64);
        let fresh = &bytes[known as usize..];
        let upto = offset.max(expected) + fresh.len() as u64;
        offsets.taken.insert(source.clone(), upto);
        if fresh.is_empty() {
            return Ok(upto);
        }
        let room = self.stream_bytes_max - (*offsets.length(stream)).min(self.stream_bytes_max);
        let kept = &fresh[..fresh.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        if kept.len() < fresh.len() && offsets.damage.is_none() {
            offsets.damage = Some(format!("only the first {} bytes are kept", self.stream_bytes_max));
            damaged = true;
        }
        if !kept.is_empty() {
            match self.write(job, stream, kept) {
                Ok(()) => *offsets.length(stream) += kept.len() as u64,
                Err(error) => {
                    tracing::error!(%job, %error, "cannot keep output");
                    offsets.damage.get_or_insert(format!("some of it could not be kept: {error}"));
                    damaged = true;
                }
            }
        }
        if let Err(error) = offsets.note(&self.job_directory(job), &source, damaged) {
            tracing::error!(%job, %error, "cannot note how far its output was taken");
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
                let over = state.over;
                (*state.offsets.length(stream), over, state.offsets.damage.clone())
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
mod tests;
