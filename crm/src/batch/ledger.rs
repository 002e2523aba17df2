//! Batch jobs of a system that knows jobs and nothing of the pilots in them: which of ours it has,
//! by notes that outlive the CRM, and what was seen of each.
//!
//! A job is looked for by name and account. It is gone when it was there, or must have been, and is
//! in the list no more; its pilots are cancelled by deleting it, once all of them are to go.
//!
//! ```text
//!          in the list no more            why is known               said
//! Listed ----------------------> Examined ------------> Known(why) ------> forgotten
//! ```
//! To examine one takes commands that may hang, so it is done beside all else. Until then its
//! pilots stand as they did.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use protocol::ids::MemberNumber;
use protocol::names::Text;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::names::{Group, group, member};
use super::notes::{Note, Notes};
use super::{BatchError, Standing};
use crate::pilot::PilotId;
use crate::site::Account;

/// How long a submission without an answer may still turn up in the list.
const TURN_UP_TIME: Duration = Duration::from_secs(60);
/// Jobs whose end is looked into at once.
const EXAMINERS: usize = 16;

/// What became of a batch job.
#[derive(Clone, Debug, Eq, PartialEq)]
enum End {
    Examined,
    Known(Text),
}

/// A batch job that was handed over, or may have been.
#[derive(Clone, Debug)]
pub struct Job {
    pub note: Note,
    /// When it was handed over, or taken up after a restart.
    since: Instant,
    running_since: Option<Instant>,
    limit: Option<Duration>,
    cancelled: BTreeSet<MemberNumber>,
    /// Somebody else was ending it before we did, or it had ended.
    deleted: bool,
    ended: bool,
    /// It is gone.
    end: Option<End>,
    /// Why it waits, as far as the system was asked.
    pub why: Option<Text>,
}

/// What was seen of a batch job that is gone.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// We asked for its end, and nobody before us.
    pub cancelled: bool,
    /// It ran.
    pub ran: bool,
    /// It was seen being deleted, not by us.
    pub deleted: bool,
    /// How long it was seen running, and how long it may.
    pub ran_for: Duration,
    pub limit: Option<Duration>,
}

/// One of the jobs in the system's list that bear our names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Found {
    pub group: Group,
    pub id: String,
    /// The local account that it runs as.
    pub owner: String,
    pub running: bool,
    /// Somebody, or its limit, is ending it.
    pub deleted: bool,
}

impl Job {
    fn new(note: Note, limit: Option<Duration>) -> Self {
        Self {
            note,
            since: Instant::now(),
            running_since: None,
            limit,
            cancelled: BTreeSet::new(),
            deleted: false,
            ended: false,
            end: None,
            why: None,
        }
    }

    fn is_cancelled(&self) -> bool {
        self.note.members.iter().all(|member| self.cancelled.contains(member))
    }

    /// Its submission had no answer, and it never turned up: as if it had not been submitted.
    pub fn was_never_there(&self) -> bool {
        self.note.id.is_none()
    }

    pub fn seen(&self) -> Seen {
        Seen {
            cancelled: self.is_cancelled() && !self.deleted && !self.ended,
            ran: self.running_since.is_some(),
            deleted: self.deleted,
            ran_for: self.running_since.map_or(Duration::ZERO, |since| since.elapsed()),
            limit: self.limit,
        }
    }

    /// How all its pilots stand now that it is gone.
    fn standing(&self) -> Standing {
        match &self.end {
            Some(End::Known(why)) => Standing::Gone(why.clone()),
            _ if self.running_since.is_some() => Standing::Running { node: None },
            _ => Standing::Queued { why: self.why.clone(), expected: None },
        }
    }
}

#[derive(Debug, Default)]
struct Jobs {
    all: BTreeMap<Group, Job>,
    /// What is in the queue was looked at since the start.
    looked: bool,
}

/// All of them.
#[derive(Debug)]
pub struct Ledger {
    notes: Notes,
    poll: Duration,
    jobs: Mutex<Jobs>,
    wake: Notify,
    /// The end of a job is known.
    known: Notify,
    /// So many are examined at once.
    examiners: Semaphore,
}

impl Ledger {
    /// Takes up the notes of a CRM before, in its state directory.
    ///
    /// # Errors
    /// They cannot be read: what is in the queue is not known.
    pub fn open(state: &Path, poll: Duration) -> Result<Self> {
        let directory = state.join("batch-jobs");
        let named = || format!("the notes of batch jobs in {}", directory.display());
        let notes = Notes::open(directory.clone()).with_context(named)?;
        let all = notes.all().with_context(named)?.into_iter();
        let all = all.map(|(group, note)| (group, Job::new(note, None))).collect();
        let jobs = Mutex::new(Jobs { all, looked: false });
        let examiners = Semaphore::new(EXAMINERS);
        Ok(Self { notes, poll, jobs, wake: Notify::new(), known: Notify::new(), examiners })
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // Nothing that holds the lock can panic half way through a change.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a job is handed over: whoever finds it in the queue must know whose it is.
    pub fn note(&self, group: Group, note: Note, limit: Duration) -> Result<(), BatchError> {
        let failed = |e| BatchError::unavailable(format!("its batch job cannot be noted: {e}"));
        self.notes.put(group, &note).map_err(failed)?;
        self.jobs().all.insert(group, Job::new(note, Some(limit)));
        self.wake.notify_one();
        Ok(())
    }

    /// It was handed over under this id.
    pub fn accepted(&self, group: Group, id: String) {
        let mut jobs = self.jobs();
        let Some(job) = jobs.all.get_mut(&group) else { return };
        job.note.id = Some(id);
        // Without its id it would be found by its name, too.
        if let Err(error) = self.notes.put(group, &job.note) {
            tracing::warn!("the id of a batch job cannot be noted: {error}");
        }
    }

    /// It was not handed over, or never turned up.
    pub fn forget(&self, group: Group) {
        self.jobs().all.remove(&group);
        self.notes.remove(group);
    }

    /// Whether a job in the list is ours, and not only called so. One that was gone once stays so.
    pub fn is_ours(&self, group: Group, owner: &str) -> bool {
        let is_its = |job: &Job| job.end.is_none() && job.note.account.name.as_str() == owner;
        self.jobs().all.get(&group).is_some_and(is_its)
    }

    pub fn account(&self, group: Group) -> Option<Account> {
        self.jobs().all.get(&group).map(|job| job.note.account.clone())
    }

    /// The ids of all jobs; `None` as long as that of one is not known.
    pub fn ids(&self) -> Option<Vec<String>> {
        self.jobs().all.values().map(|job| job.note.id.clone()).collect()
    }

    /// Whether there is nothing to ask for.
    pub fn is_idle(&self) -> bool {
        self.jobs().all.is_empty()
    }

    /// Looks something up of a job that is there.
    pub fn of<T>(&self, group: Group, look: impl FnOnce(&Job) -> T) -> Option<T> {
        self.jobs().all.get(&group).map(look)
    }

    pub fn set_why(&self, group: Group, why: Text) {
        if let Some(job) = self.jobs().all.get_mut(&group) {
            job.why = Some(why);
        }
    }

    /// Takes note of what is listed.
    pub fn observe(&self, listed: &[Found]) {
        let mut jobs = self.jobs();
        jobs.looked = true;
        for found in listed {
            let Some(job) = jobs.all.get_mut(&found.group) else { continue };
            job.note.id.get_or_insert_with(|| found.id.clone());
            job.deleted |= found.deleted && !job.is_cancelled();
            if found.running {
                job.running_since.get_or_insert_with(Instant::now);
            }
        }
        let there: BTreeSet<Group> = listed.iter().map(|found| found.group).collect();
        for (group, job) in &mut jobs.all {
            job.ended |= job.note.id.is_some() && !there.contains(group) && !job.is_cancelled();
        }
    }

    /// Takes note of what is listed. Returns what is gone since the last time: [`Self::examine`] it,
    /// or [`Self::forget`] what was never there, of which nothing is said.
    pub fn see(&self, listed: &[Found]) -> Vec<(Group, Job)> {
        self.observe(listed);
        let mut jobs = self.jobs();
        let there: BTreeSet<Group> = listed.iter().map(|found| found.group).collect();
        let is_gone = |(group, job): &(&Group, &mut Job)| {
            let was_there = job.note.id.is_some() || job.since.elapsed() >= TURN_UP_TIME;
            was_there && job.end.is_none() && !there.contains(group)
        };
        let gone = jobs.all.iter_mut().filter(is_gone).map(|(group, job)| {
            job.end = Some(End::Examined);
            (*group, job.clone())
        });
        gone.collect()
    }

    /// Finds out why a job is gone. With too many at once it takes its turn.
    pub async fn examine(&self, group: Group, examination: impl Future<Output = Text>) {
        // Nobody closes it.
        let _turn = self.examiners.acquire().await;
        let why = examination.await;
        if let Some(job) = self.jobs().all.get_mut(&group) {
            job.end = Some(End::Known(why));
        }
        self.known.notify_one();
    }

    /// How the pilots of jobs stand that are gone; they are forgotten when that says why.
    pub fn ended(&self) -> Vec<(PilotId, Standing)> {
        let mut jobs = self.jobs();
        let mut standings = Vec::new();
        jobs.all.retain(|group, job| {
            if job.end.is_some() {
                let standing = job.standing();
                let pilots = job.note.members.iter().map(|number| member(*group, *number));
                standings.extend(pilots.map(|pilot| (pilot, standing.clone())));
            }
            let is_known = matches!(job.end, Some(End::Known(_)));
            if is_known {
                self.notes.remove(*group);
            }
            !is_known
        });
        standings
    }

    /// The jobs that are to be deleted when these pilots are cancelled: all of theirs are, now.
    pub fn cancel(&self, pilots: &[PilotId]) -> BTreeMap<Group, Account> {
        let mut jobs = self.jobs();
        let mut whole = BTreeMap::new();
        for pilot in pilots {
            let Some(job) = jobs.all.get_mut(&group(*pilot)).filter(|job| job.end.is_none()) else {
                continue;
            };
            job.cancelled.insert(pilot.member);
            if job.is_cancelled() {
                whole.insert(group(*pilot), job.note.account.clone());
            }
        }
        whole
    }

    /// Resolves when the queue is worth a look.
    pub async fn changed(&self) {
        loop {
            let wake = self.wake.notified();
            let is_busy = {
                let jobs = self.jobs();
                !jobs.looked || !jobs.all.is_empty()
            };
            if !is_busy {
                wake.await;
                continue;
            }
            return tokio::select! {
                () = tokio::time::sleep(self.poll) => {}
                () = self.known.notified() => {}
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use protocol::ids::ReservationId;

    use super::*;
    use crate::pilot::Round;

    const GROUP: Group = (ReservationId(3), Round(1));

    fn note(id: Option<&str>) -> Note {
        let account = Account { name: "alice".parse().unwrap(), uid: 1001, gid: 1001 };
        Note { account, members: vec![0, 2], id: id.map(String::from) }
    }

    fn found(running: bool) -> Found {
        Found { group: GROUP, id: "7".into(), owner: "alice".into(), running, deleted: false }
    }

    fn open(dir: &tempfile::TempDir) -> Ledger {
        Ledger::open(dir.path(), Duration::from_secs(1)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_submission_without_an_answer_may_turn_up_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(&dir);
        ledger.note(GROUP, note(None), Duration::from_secs(60)).unwrap();
        assert!(ledger.see(&[]).is_empty());
        tokio::time::advance(TURN_UP_TIME / 2).await;
        assert!(ledger.see(&[]).is_empty());
        assert!(ledger.see(&[found(true)]).is_empty());
        tokio::time::advance(TURN_UP_TIME / 2).await;
        let gone = ledger.see(&[]);
        assert_eq!(gone.len(), 1, "it was there");
        assert_eq!(gone[0].1.seen().ran_for, TURN_UP_TIME / 2);
        ledger.forget(GROUP);
        ledger.note(GROUP, note(None), Duration::from_secs(60)).unwrap();
        tokio::time::advance(TURN_UP_TIME).await;
        let gone = ledger.see(&[]);
        assert!(gone[0].1.was_never_there(), "it never came");
    }

    #[tokio::test(start_paused = true)]
    async fn another_crm_takes_the_jobs_up_and_says_once_that_one_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(&dir);
        ledger.note(GROUP, note(None), Duration::from_secs(60)).unwrap();
        ledger.accepted(GROUP, "7".into());
        let again = open(&dir);
        assert!(again.is_ours(GROUP, "alice") && !again.is_ours(GROUP, "mallory"));
        again.changed().await;
        let gone = again.see(&[]);
        assert_eq!(gone[0].1.note, note(Some("7")));
        assert!(again.see(&[]).is_empty() && open(&dir).account(GROUP).is_some(), "not said yet");
        again.examine(GROUP, async { "why".into() }).await;
        assert_eq!(again.ended()[0], (member(GROUP, 0), Standing::Gone("why".into())));
        assert!(again.ended().is_empty() && open(&dir).account(GROUP).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn pilots_stand_as_they_did_until_it_is_known_why_they_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Arc::new(open(&dir));
        ledger.note(GROUP, note(None), Duration::from_secs(60)).unwrap();
        ledger.see(&[found(true)]);
        assert_eq!(ledger.see(&[]).len(), 1);
        let (say, said) = tokio::sync::oneshot::channel();
        let examiner = ledger.clone();
        tokio::spawn(async move { examiner.examine(GROUP, async { said.await.unwrap() }).await });
        ledger.changed().await;
        assert!(ledger.see(&[]).is_empty() && !ledger.is_ours(GROUP, "alice"), "gone is gone");
        assert!(ledger.cancel(&[member(GROUP, 0), member(GROUP, 2)]).is_empty(), "nothing to delete");
        let stands = Standing::Running { node: None };
        assert_eq!(ledger.ended(), [(member(GROUP, 0), stands.clone()), (member(GROUP, 2), stands)]);
        say.send(Text::from("why")).unwrap();
        let before = Instant::now();
        ledger.changed().await;
        assert_eq!(before, Instant::now(), "it is told at once");
        let gone = Standing::Gone("why".into());
        assert_eq!(ledger.ended(), [(member(GROUP, 0), gone.clone()), (member(GROUP, 2), gone)]);
    }

    #[test]
    fn a_job_goes_when_all_of_its_pilots_are_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(&dir);
        ledger.note(GROUP, note(None), Duration::from_secs(60)).unwrap();
        ledger.see(&[found(true)]);
        assert!(ledger.cancel(&[member(GROUP, 0)]).is_empty());
        assert!(ledger.cancel(&[member(GROUP, 1), member((ReservationId(9), Round(1)), 2)]).is_empty());
        assert_eq!(ledger.cancel(&[member(GROUP, 2)]).into_keys().collect::<Vec<_>>(), [GROUP]);
        let gone = ledger.see(&[]);
        assert!(gone[0].1.seen().cancelled && gone[0].1.seen().ran);
    }

    #[test]
    fn whoever_ended_a_job_first_is_named() {
        let pilots = [member(GROUP, 0), member(GROUP, 2)];
        let deleted = Found { deleted: true, ..found(true) };
        // What is seen before we cancel and after it, and whether it is we who ended it.
        for (before, after, ours) in [
            (Some(found(true)), Some(deleted.clone()), true),
            (Some(deleted.clone()), Some(deleted), false),
            (None, None, false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let ledger = open(&dir);
            ledger.note(GROUP, note(None), Duration::from_secs(60)).unwrap();
            ledger.accepted(GROUP, "7".into());
            ledger.observe(&before.into_iter().collect::<Vec<_>>());
            ledger.cancel(&pilots);
            ledger.observe(&after.into_iter().collect::<Vec<_>>());
            let gone = ledger.see(&[]);
            assert_eq!(gone[0].1.seen().cancelled, ours);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_queue_is_left_alone_until_something_is_handed_over() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(&dir);
        ledger.changed().await;
        ledger.see(&[]);
        let idle = tokio::time::timeout(Duration::from_secs(3600), ledger.changed()).await;
        assert!(idle.is_err(), "nobody asks for nothing");
        ledger.note(GROUP, note(None), Duration::from_secs(60)).unwrap();
        ledger.changed().await;
    }
}
