//! The task between driver and batch system, with a system that knows what it is told to know: how
//! long pilots are waited for that may be there.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crm::batch::{self, Batch, BatchError, BatchJob, Capabilities, Command, Standing};
use crm::pilot::{PilotId, Round};
use crm::site::{Account, Event, News, Submit};
use protocol::ids::ReservationId;
use protocol::names::NodeName;
use protocol::reservation::Limits;
use tokio::sync::mpsc;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

type Answer = Result<Vec<(PilotId, Standing)>, BatchError>;

/// Its answers to the next questions; nothing is there once they are used up.
#[derive(Debug, Default)]
struct Fake {
    answers: Mutex<Vec<Answer>>,
}

impl Batch for Fake {
    async fn capabilities(&self) -> Result<Capabilities, BatchError> {
        Ok(Capabilities {
            places_on_named_nodes: false,
            reserves_ahead: false,
            enforces_limits: false,
            lead: Duration::ZERO,
            nodes_max: None,
            walltime_max: None,
            closed: None,
        })
    }

    async fn submit(&self, _: &BatchJob) -> Result<(), BatchError> {
        Err(BatchError::unknown("no answer in 20 s"))
    }

    async fn status(&self) -> Result<Option<Vec<(PilotId, Standing)>>, BatchError> {
        self.answers.lock().unwrap().pop().unwrap_or(Ok(vec![])).map(Some)
    }

    async fn changed(&self) {
        std::future::pending().await
    }

    async fn cancel(&self, _: &[PilotId]) -> Result<(), BatchError> {
        Ok(())
    }

    async fn sweep(&self, _: &NodeName, _: &Account) -> Result<(), BatchError> {
        Ok(())
    }
}

struct Task {
    fake: Arc<Fake>,
    commands: mpsc::UnboundedSender<Command>,
    events: mpsc::Receiver<Event>,
    begun: Instant,
}

fn task() -> Task {
    let fake = Arc::new(Fake::default());
    let (commands, taken) = mpsc::unbounded_channel();
    let (said, events) = mpsc::channel(16);
    tokio::spawn(batch::run(fake.clone(), taken, said));
    Task { fake, commands, events, begun: Instant::now() }
}

impl Task {
    /// What is said of pilots next, and after how long since the start.
    async fn said(&mut self) -> (News, Duration) {
        loop {
            match self.events.recv().await.unwrap() {
                Event::Batch(News::Answers(_) | News::Capabilities(_)) => {}
                Event::Batch(news) => return (news, self.begun.elapsed()),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn pilot(member: u32) -> PilotId {
    PilotId { reservation: ReservationId(3), round: Round(1), member }
}

fn submit() -> Command {
    let submit = Submit {
        pilot: pilot(0),
        node: "place-0".parse().unwrap(),
        exclude: vec![],
        account: Account { name: "alice".parse().unwrap(), uid: 1001, gid: 1001 },
        limits: Limits::default(),
        begin_in_s: 0,
        lifetime_s: 600,
    };
    Command::Submit(BatchJob::of(submit, vec![]))
}

fn not_there(members: &[u32]) -> News {
    News::NotThere { pilots: members.iter().map(|member| pilot(*member)).collect() }
}

/// No look that the system asks for itself is needed: without a job it asks for none.
#[tokio::test(start_paused = true)]
async fn awaited_pilots_of_before_a_restart_may_turn_up_for_a_while_and_others_are_missed_at_once() {
    let mut task = task();
    for (member, awaited) in [(0, true), (1, false), (2, true)] {
        task.commands.send(Command::Watch { pilot: pilot(member), awaited }).unwrap();
    }
    assert_eq!(task.said().await, (not_there(&[1]), Duration::ZERO));
    // Who does not answer then has not said that they are not there.
    task.fake.answers.lock().unwrap().push(Err(BatchError::unavailable("it is down")));
    let (said, after) = task.said().await;
    assert_eq!(said, not_there(&[0, 2]), "a round in one message");
    assert!(after > MINUTE && after < 2 * MINUTE, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_submission_without_an_answer_may_turn_up_for_a_while_but_not_after_its_cancel() {
    for is_cancelled in [false, true] {
        let mut task = task();
        task.commands.send(submit()).unwrap();
        assert!(matches!(task.said().await, (News::NotSubmitted { .. }, _)));
        if is_cancelled {
            task.commands.send(Command::Cancel { pilot: pilot(0) }).unwrap();
        }
        let (said, after) = task.said().await;
        assert_eq!(said, not_there(&[0]));
        let waited = if is_cancelled { after < MINUTE } else { after >= MINUTE };
        assert!(waited, "{is_cancelled}: {after:?}");
    }
}
