//! The task with a batch system that does and says what the test wants. The clock stands still
//! while anything is to be done.

use super::*;
use crate::batch::names::member;
use crate::batch::stand_ins::{alice, job};
use crate::pilot::Round;

#[derive(Default)]
struct Fake {
    state: Mutex<State>,
    look: tokio::sync::Notify,
    /// What hangs takes one each to go on.
    go_on: Option<Semaphore>,
}

#[derive(Default)]
struct State {
    /// What it does not answer.
    down: BTreeSet<Question>,
    has_pilots: bool,
    closed: Option<Text>,
    said: Vec<String>,
}

impl Fake {
    fn hanging() -> Arc<Self> {
        Arc::new(Self { go_on: Some(Semaphore::new(0)), ..Self::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn answers(&self, question: Question) -> Result<(), BatchError> {
        let down = self.state().down.contains(&question);
        if down { Err(BatchError::unavailable(format!("{question:?} is down"))) } else { Ok(()) }
    }

    /// What was asked of it since the last time.
    async fn said(&self) -> Vec<String> {
        everything_else().await;
        std::mem::take(&mut self.state().said)
    }

    async fn hang(&self, what: String) {
        self.state().said.push(what);
        if let Some(go_on) = &self.go_on {
            go_on.acquire().await.unwrap().forget();
        }
    }

    fn let_go(&self, count: usize) {
        self.go_on.as_ref().unwrap().add_permits(count);
    }
}

/// With a clock that stands still this is over when nothing else can be done.
async fn everything_else() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

impl Batch for Fake {
    async fn capabilities(&self) -> Result<Capabilities, BatchError> {
        self.answers(Question::Capabilities)?;
        Ok(Capabilities {
            places_on_named_nodes: false,
            reserves_ahead: true,
            enforces_limits: false,
            lead: Duration::ZERO,
            nodes_max: None,
            walltime_max: None,
            closed: self.state().closed.clone(),
        })
    }

    async fn submit(&self, job: &BatchJob) -> Result<(), BatchError> {
        self.state().said.push(format!("submit {}", job.pilots[0].0.pilot.reservation));
        self.state().has_pilots = true;
        Ok(())
    }

    async fn status(&self) -> Result<Option<Vec<(PilotId, Standing)>>, BatchError> {
        if !self.state().has_pilots {
            return Ok(None);
        }
        self.answers(Question::Status)?;
        Ok(Some(vec![(member((ReservationId(1), Round(1)), 0), Standing::Running { node: None })]))
    }

    async fn changed(&self) {
        self.look.notified().await;
    }

    async fn cancel(&self, pilots: &[PilotId]) -> Result<(), BatchError> {
        self.state().said.push(format!("cancel {}", pilots[0].reservation));
        Ok(())
    }

    async fn reserve(&self, ahead: &Ahead) -> Result<(), BatchError> {
        self.hang(format!("reserve {}", ahead.reservation)).await;
        Ok(())
    }

    async fn unreserve(&self, reservation: ReservationId) -> Result<(), BatchError> {
        self.state().said.push(format!("unreserve {reservation}"));
        Err(BatchError::unavailable("its last job is still ending"))
    }

    async fn sweep(&self, node: &NodeName, _account: &Account) -> Result<(), BatchError> {
        self.hang(format!("sweep {node}")).await;
        Ok(())
    }
}

struct Site {
    fake: Arc<Fake>,
    commands: mpsc::UnboundedSender<Command>,
    events: mpsc::Receiver<Event>,
}

impl Site {
    fn new(fake: Arc<Fake>) -> Self {
        let (commands, taken) = mpsc::unbounded_channel();
        let (said, events) = mpsc::channel(64);
        tokio::spawn(run(fake.clone(), taken, said));
        Self { fake, commands, events }
    }

    fn say(&self, command: Command) {
        self.commands.send(command).unwrap();
    }

    /// What was told since the last time of the system as a whole.
    async fn told(&mut self) -> Vec<String> {
        everything_else().await;
        let mut told = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Batch(News::Answers(Ok(()))) => told.push("answers".to_owned()),
                Event::Batch(News::Answers(Err(why))) => told.push(why.to_string()),
                Event::Batch(News::Capabilities(of)) => told.push(format!("closed: {:?}", of.closed)),
                _ => {}
            }
        }
        told
    }

    async fn look(&mut self) -> Vec<String> {
        self.fake.look.notify_one();
        self.told().await
    }
}

fn submit(reservation: u64) -> Command {
    Command::Submit(job((ReservationId(reservation), Round(1)), 1))
}

fn reserve(reservation: u64, begin_in_s: u32) -> Command {
    let reservation = ReservationId(reservation);
    Command::Reserve(Ahead { reservation, account: alice(), nodes: 1, begin_in_s, lasts_s: 60 })
}

#[tokio::test(start_paused = true)]
async fn what_the_queue_admits_says_nothing_of_how_its_pilots_stand() {
    let mut site = Site::new(Arc::default());
    assert_eq!(site.told().await, ["closed: None"]);
    site.say(submit(1));
    assert_eq!(site.fake.said().await, ["submit r1"]);
    site.fake.state().down.insert(Question::Status);
    assert_eq!(site.look().await, ["Status is down"]);
    site.fake.state().closed = Some("shut".into());
    for _ in 0..3 {
        site.say(Command::Probe);
        tokio::time::sleep(RETRY_INTERVAL).await;
        assert!(site.look().await.is_empty(), "it is asked for both and answers one");
    }
    site.fake.state().down.clear();
    assert_eq!(site.look().await, ["answers"]);
    tokio::time::sleep(RETRY_INTERVAL).await;
    assert_eq!(site.told().await, ["closed: Some(Text(\"shut\"))"]);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_asked_nobody_is_no_answer() {
    let mut site = Site::new(Arc::default());
    assert_eq!(site.told().await, ["closed: None"]);
    site.fake.state().down.insert(Question::Capabilities);
    tokio::time::sleep(CAPABILITIES_INTERVAL).await;
    assert_eq!(site.told().await, ["Capabilities is down"]);
    assert!(site.look().await.is_empty());
    site.fake.state().down.clear();
    assert!(site.look().await.is_empty());
    tokio::time::sleep(RETRY_INTERVAL).await;
    assert_eq!(site.told().await, ["answers"]);
    // And the other way round: when there is nobody left to ask for, the other answer tells.
    site.say(submit(1));
    assert_eq!(site.fake.said().await, ["submit r1"]);
    site.fake.state().down.insert(Question::Status);
    assert_eq!(site.look().await, ["Status is down"]);
    site.fake.state().has_pilots = false;
    assert!(site.look().await.is_empty());
    tokio::time::sleep(CAPABILITIES_INTERVAL).await;
    assert_eq!(site.told().await, ["answers"]);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_submitted_for_nodes_kept_ahead_waits_for_them() {
    let site = Site::new(Fake::hanging());
    for command in [submit(1), reserve(3, 900), reserve(2, 600), reserve(4, 300)] {
        site.say(command);
    }
    assert_eq!(site.fake.said().await, ["submit r1", "reserve r4"], "what begins soonest comes first");
    site.say(Command::Cancel { pilot: member((ReservationId(1), Round(1)), 0) });
    site.say(submit(5));
    assert_eq!(site.fake.said().await, ["cancel r1", "submit r5"], "nobody else waits");
    site.say(submit(4));
    assert!(site.fake.said().await.is_empty());
    site.fake.let_go(1);
    assert_eq!(site.fake.said().await, ["reserve r2", "submit r4"]);
    // It waits for a while and not for ever, and the latest wish counts.
    site.say(submit(3));
    site.say(reserve(3, 400));
    site.say(Command::Unreserve { reservation: ReservationId(2) });
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(site.fake.said().await, ["submit r3"]);
    site.fake.let_go(2);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let said = site.fake.said().await;
    assert_eq!((said[0].as_str(), &said[1..]), ("reserve r3", &["unreserve r2"; 6].map(String::from)[..]));
}

#[tokio::test(start_paused = true)]
async fn sweeps_take_turns_and_one_asked_for_twice_is_done_once() {
    let mut site = Site::new(Fake::hanging());
    let pilot = |number| member((ReservationId(1), Round(1)), number);
    for number in (0..SWEEPS as u32 + 2).chain(0..4) {
        let node = format!("n{number}").parse().unwrap();
        site.say(Command::Sweep { pilot: pilot(number), node, account: alice() });
    }
    assert_eq!(site.fake.said().await.len(), SWEEPS);
    site.fake.let_go(1);
    assert_eq!(site.fake.said().await, [format!("sweep n{SWEEPS}")]);
    site.fake.let_go(SWEEPS + 1);
    assert_eq!(site.fake.said().await.len(), 1);
    let mut swept = Vec::new();
    while let Ok(event) = site.events.try_recv() {
        if let Event::Swept { pilot, outcome: Ok(()) } = event {
            swept.push(pilot.member);
        }
    }
    swept.sort_unstable();
    assert_eq!(swept, (0..SWEEPS as u32 + 2).collect::<Vec<_>>(), "each is answered once");
    site.say(Command::Sweep { pilot: pilot(0), node: "n0".parse().unwrap(), account: alice() });
    assert_eq!(site.fake.said().await, ["sweep n0"], "and may be asked for again then");
}
