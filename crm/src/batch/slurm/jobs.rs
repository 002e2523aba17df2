//! The batch jobs that Slurm has of ours, and what follows from each look at its queue. No I/O: the
//! time and what `squeue` said are arguments.
//!
//! ```text
//!             number, or a row            row: has nodes            row: over
//! Submitted ------------------> Queued ---------------> Running ----------------> (told, forgotten)
//!     | never turns up             \________________________\__ no row any more ______^
//!     v
//! (forgotten)
//! ```
//! A pilot ends with its batch job, or alone: when its step was seen and is not any more, or when
//! it was cancelled while the others wait on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::ids::MemberNumber;
use protocol::limits::NODES_PER_SITE_MAX;
use protocol::names::{NodeName, Text};
use tokio::time::Instant;

use super::queue::{Row, State, Step, hosts};
use super::words;
use crate::batch::names::{Group, group, member};
use crate::batch::notes::Note;
use crate::pilot::PilotId;
use crate::site::Account;
use crate::standing::Standing;

/// How long a job whose number is known may not be in the queue yet.
const APPEAR_TIME: Duration = Duration::from_secs(15);
/// How long a job whose submission had no answer may still turn up.
const TURN_UP_TIME: Duration = Duration::from_secs(600);
/// How long a step may take to begin in a job that runs.
const STEP_TIME: Duration = Duration::from_secs(60);
/// From the polite end of a step to the other: more than a Launcher waits for its NodeManager.
const KILL_AFTER: Duration = Duration::from_secs(12);
/// Between two cancels of a job that does not go.
const CANCEL_AGAIN: Duration = Duration::from_secs(10);

/// What must be done at Slurm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Order {
    /// The whole job: Slurm itself ends it politely, then by force.
    CancelJob { account: Account, id: String },
    /// SIGTERM for one step.
    SignalStep { account: Account, id: String },
    /// SIGKILL for one step, which is what a cancelled step gets.
    KillStep { account: Account, id: String },
}

/// What follows from a look.
#[derive(Debug, Default)]
pub struct Seen {
    /// Every pilot that is there, and those that are gone since the last look.
    pub standings: Vec<(PilotId, Standing)>,
    /// Jobs of which nothing is left to be told.
    pub over: Vec<Group>,
    pub orders: Vec<Order>,
}

/// One batch job.
#[derive(Debug)]
pub struct Job {
    account: Account,
    id: Option<u64>,
    submitted_at: Instant,
    /// It was in the queue at least once.
    seen: bool,
    /// Since when it has nodes.
    running: Option<Instant>,
    /// Why it waits and for how long; what is told of pilots without nodes.
    queued: Standing,
    nodes: Vec<NodeName>,
    cancelled_at: Option<Instant>,
    /// In the order of its nodes.
    pilots: Vec<Pilot>,
}

#[derive(Debug)]
struct Pilot {
    number: MemberNumber,
    cancelled: Option<Instant>,
    signalled: bool,
    step_seen: bool,
    gone: Option<Gone>,
}

#[derive(Debug)]
enum Gone {
    /// Its step is not there any more. If the whole job is ending, that says better why.
    Suspected(Text),
    ToTell(Text),
    Told,
}

impl Job {
    pub fn new(note: Note, now: Instant) -> Self {
        let pilot =
            |number| Pilot { number, cancelled: None, signalled: false, step_seen: false, gone: None };
        Self {
            account: note.account,
            id: note.id.and_then(|id| id.parse().ok()),
            submitted_at: now,
            seen: false,
            running: None,
            queued: Standing::Queued { why: None, expected: None },
            nodes: Vec::new(),
            cancelled_at: None,
            pilots: note.members.into_iter().map(pilot).collect(),
        }
    }

    /// One that a CRM before has submitted: it is in the queue, or it is over.
    pub fn of_before(note: Note, now: Instant) -> Self {
        Self { seen: true, ..Self::new(note, now) }
    }

    fn is_unwanted(&self) -> bool {
        self.pilots.iter().all(|pilot| pilot.cancelled.is_some() || pilot.gone.is_some())
    }

    fn cancel_job(&mut self, now: Instant) -> Option<Order> {
        let id = self.id?.to_string();
        self.cancelled_at = Some(now);
        Some(Order::CancelJob { account: self.account.clone(), id })
    }

    /// Orders the end of a job that nobody wants, again if it does not go.
    fn cancel_unwanted(&mut self, now: Instant) -> Option<Order> {
        let is_due = self.cancelled_at.is_none_or(|at| at + CANCEL_AGAIN <= now);
        if self.is_unwanted() && is_due { self.cancel_job(now) } else { None }
    }

    fn end(&mut self, why: &Text) {
        let untold = |pilot: &&mut Pilot| matches!(pilot.gone, None | Some(Gone::Suspected(_)));
        for pilot in self.pilots.iter_mut().filter(untold) {
            pilot.gone = Some(Gone::ToTell(why.clone()));
        }
    }

    /// The job goes on without those whose steps ended.
    fn believe_steps(&mut self) {
        for pilot in &mut self.pilots {
            if let Some(Gone::Suspected(why)) = &pilot.gone {
                pilot.gone = Some(Gone::ToTell(why.clone()));
            }
        }
    }

    /// How each of its pilots stands; one that is gone is told of once.
    fn tell(&mut self, of: Group, standings: &mut Vec<(PilotId, Standing)>) {
        for (place, pilot) in self.pilots.iter_mut().enumerate() {
            let standing = match (&pilot.gone, self.running) {
                (Some(Gone::Told), _) => continue,
                (Some(Gone::ToTell(why)), _) => Standing::Gone(why.clone()),
                (_, Some(_)) => Standing::Running { node: self.nodes.get(place).cloned() },
                (_, None) => self.queued.clone(),
            };
            if matches!(standing, Standing::Gone(_)) {
                pilot.gone = Some(Gone::Told);
            }
            standings.push((member(of, pilot.number), standing));
        }
    }

    /// What the queue says of it. True when it is over.
    fn see(&mut self, rows: &[&Row], now: Instant, epoch_s: u64, orders: &mut Vec<Order>) -> bool {
        let live = |row: &&&Row| !matches!(row.state, State::Over(_));
        if self.id.is_none() {
            // The first that was made, if it was submitted more than once.
            let found = rows.iter().filter(live).map(|row| row.id).min();
            self.id = found.or(rows.iter().map(|row| row.id).max());
        }
        for row in rows.iter().filter(live).filter(|row| Some(row.id) != self.id) {
            orders.push(Order::CancelJob { account: self.account.clone(), id: row.id.to_string() });
        }
        let Some(row) = rows.iter().find(|row| Some(row.id) == self.id) else {
            return match self.id {
                Some(_) if !self.seen && now < self.submitted_at + APPEAR_TIME => false,
                Some(id) => {
                    self.end(&format!("Slurm does not know its batch job {id} any more").into());
                    true
                }
                None => self.submitted_at + TURN_UP_TIME <= now,
            };
        };
        self.seen = true;
        match &row.state {
            State::Over(word) => {
                self.end(&words::over(row.id, word, row.exit));
                return true;
            }
            State::Pending => {
                let expected = row.start.and_then(|at| at.checked_sub(epoch_s)).map(Duration::from_secs);
                self.queued = Standing::Queued { why: words::waits(&row.reason), expected };
                self.running = None;
            }
            State::Running | State::Ending => {
                if row.state == State::Running {
                    self.believe_steps();
                }
                self.running.get_or_insert(now);
                // One that has no nodes yet has none to tell.
                let nodes = hosts(&row.nodes, NODES_PER_SITE_MAX).unwrap_or_default();
                self.nodes = nodes.iter().filter_map(|node| node.parse().ok()).collect();
                if self.nodes.len() != self.pilots.len() {
                    self.nodes.clear();
                }
            }
        }
        orders.extend(self.cancel_unwanted(now));
        false
    }

    fn see_steps(&mut self, steps: &BTreeMap<MemberNumber, &Step>, now: Instant, orders: &mut Vec<Order>) {
        let Some(since) = self.running else { return };
        // When none is left the job is over, and its own end says more.
        if !self.pilots.iter().any(|pilot| pilot.gone.is_none() && steps.contains_key(&pilot.number)) {
            return;
        }
        let account = &self.account;
        for pilot in self.pilots.iter_mut().filter(|pilot| pilot.gone.is_none()) {
            match (steps.get(&pilot.number), pilot.cancelled) {
                (Some(step), cancelled) => {
                    pilot.step_seen = true;
                    let (account, id) = (account.clone(), step.id.clone());
                    match cancelled {
                        Some(_) if !pilot.signalled => {
                            pilot.signalled = true;
                            orders.push(Order::SignalStep { account, id });
                        }
                        Some(at) if at + KILL_AFTER <= now => orders.push(Order::KillStep { account, id }),
                        _ => {}
                    }
                }
                // What was cancelled before it began has no token to begin with.
                (None, Some(_)) => pilot.gone = Some(Gone::Suspected("it was cancelled".into())),
                (None, None) if pilot.step_seen => {
                    pilot.gone = Some(Gone::Suspected("its step of the batch job ended".into()));
                }
                (None, None) if since + STEP_TIME <= now => {
                    pilot.gone = Some(Gone::Suspected("its step of the batch job did not begin".into()));
                }
                (None, None) => {}
            }
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Jobs(BTreeMap<Group, Job>);

impl Jobs {
    pub fn new(jobs: BTreeMap<Group, Job>) -> Self {
        Self(jobs)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose jobs there are, as uids: names may be longer than a queue prints.
    pub fn users(&self) -> Vec<String> {
        let uids: BTreeSet<u32> = self.0.values().map(|job| job.account.uid).collect();
        uids.into_iter().map(|uid| uid.to_string()).collect()
    }

    /// Whether a pilot may end while others of its job go on.
    pub fn has_siblings(&self) -> bool {
        let live = |job: &Job| job.pilots.iter().filter(|pilot| pilot.gone.is_none()).count();
        self.0.values().any(|job| job.running.is_some() && live(job) > 1)
    }

    pub fn submitted(&mut self, group: Group, job: Job) {
        self.0.insert(group, job);
    }

    pub fn accepted(&mut self, group: Group, id: u64) {
        if let Some(job) = self.0.get_mut(&group) {
            job.id = Some(id);
        }
    }

    pub fn forget(&mut self, group: Group) {
        self.0.remove(&group);
    }

    /// `rows` are all that bear our names, with what the names mean. Of another user's nothing is
    /// believed.
    pub fn see_rows(&mut self, rows: &[(Group, &Row)], now: Instant, epoch_s: u64) -> Seen {
        let mut seen = Seen::default();
        for (group, job) in &mut self.0 {
            let own = rows.iter().filter(|(of, row)| of == group && row.user == job.account.name.as_str());
            let own: Vec<&Row> = own.map(|(_, row)| *row).collect();
            if job.see(&own, now, epoch_s, &mut seen.orders) {
                seen.over.push(*group);
            }
        }
        self.tell(seen)
    }

    /// `steps` are all that bear our names.
    pub fn see_steps(&mut self, steps: &[(PilotId, Step)], now: Instant) -> Seen {
        let mut seen = Seen::default();
        for (of, job) in &mut self.0 {
            let own = steps.iter().filter(|(pilot, step)| group(*pilot) == *of && Some(step.job) == job.id);
            let own = own.map(|(pilot, step)| (pilot.member, step)).collect();
            if job.pilots.len() > 1 {
                job.see_steps(&own, now, &mut seen.orders);
            }
        }
        self.tell(seen)
    }

    fn tell(&mut self, mut seen: Seen) -> Seen {
        for (group, job) in &mut self.0 {
            // Of a job whose submission had no answer nothing is known until it turns up.
            if job.id.is_some() {
                job.tell(*group, &mut seen.standings);
            }
        }
        seen.over.iter().for_each(|group| drop(self.0.remove(group)));
        seen
    }

    /// Notes that these pilots shall end; true when that needs to know the steps.
    pub fn cancel(&mut self, pilots: &[PilotId], now: Instant) -> bool {
        for pilot in pilots {
            if let Some(pilot) = self.pilot_mut(*pilot) {
                pilot.cancelled.get_or_insert(now);
            }
        }
        let alone = |job: &Job| job.running.is_some() && !job.is_unwanted();
        pilots.iter().filter_map(|pilot| self.0.get(&group(*pilot))).any(alone)
    }

    /// What is to be done for that.
    pub fn cancels(&mut self, pilots: &[PilotId], steps: &[(PilotId, Step)], now: Instant) -> Vec<Order> {
        let mut orders = Vec::new();
        let groups: BTreeSet<Group> = pilots.iter().map(|pilot| group(*pilot)).collect();
        for of in groups {
            let Some(job) = self.0.get_mut(&of) else { continue };
            if job.is_unwanted() {
                orders.extend(job.cancel_job(now));
                continue;
            }
            let (id, is_running, account) = (job.id, job.running.is_some(), job.account.clone());
            for one in job.pilots.iter_mut().filter(|one| one.cancelled.is_some() && one.gone.is_none()) {
                let pilot = member(of, one.number);
                if !is_running {
                    // Its token is void: when the job begins it ends at once.
                    one.gone = Some(Gone::ToTell("it was cancelled while it waited".into()));
                } else if !one.signalled
                    && let Some((_, step)) =
                        steps.iter().find(|(of, step)| *of == pilot && Some(step.job) == id)
                {
                    one.signalled = true;
                    orders.push(Order::SignalStep { account: account.clone(), id: step.id.clone() });
                }
            }
        }
        orders
    }

    fn pilot_mut(&mut self, id: PilotId) -> Option<&mut Pilot> {
        self.0.get_mut(&group(id))?.pilots.iter_mut().find(|pilot| pilot.number == id.member)
    }
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
