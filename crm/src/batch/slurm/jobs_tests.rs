use protocol::ids::ReservationId;

use super::*;
use crate::pilot::Round;

const OF: Group = (ReservationId(1), Round(1));
const S: Duration = Duration::from_secs(1);

fn account() -> Account {
    Account { name: "alice".parse().unwrap(), uid: 1001, gid: 1001 }
}

fn note(members: u32) -> Note {
    Note { account: account(), members: (0..members).collect(), id: None }
}

fn row(id: u64, state: State) -> Row {
    let nodes = if state == State::Pending { "" } else { "n[1-2]" };
    Row {
        id,
        user: "alice".into(),
        name: String::new(),
        state,
        reason: "Resources".into(),
        start: Some(1060),
        nodes: nodes.into(),
        exit: Some(69),
    }
}

fn step(number: u32) -> (PilotId, Step) {
    (member(OF, number), Step { job: 7, id: format!("7.{number}"), name: String::new() })
}

/// Two pilots of batch job 7.
struct World {
    jobs: Jobs,
    now: Instant,
}

impl World {
    fn new(members: u32, id: Option<u64>) -> Self {
        let now = Instant::now();
        let mut jobs = Jobs::default();
        jobs.submitted(OF, Job::new(note(members), now));
        id.into_iter().for_each(|id| jobs.accepted(OF, id));
        Self { jobs, now }
    }

    fn rows(&mut self, rows: &[Row]) -> Seen {
        let rows: Vec<(Group, &Row)> = rows.iter().map(|row| (OF, row)).collect();
        self.jobs.see_rows(&rows, self.now, 1000)
    }

    fn steps(&mut self, numbers: &[u32]) -> Seen {
        let steps: Vec<_> = numbers.iter().map(|number| step(*number)).collect();
        self.jobs.see_steps(&steps, self.now)
    }

    fn cancel(&mut self, numbers: &[u32], steps: &[u32]) -> Vec<Order> {
        let pilots: Vec<_> = numbers.iter().map(|number| member(OF, *number)).collect();
        let steps: Vec<_> = steps.iter().map(|number| step(*number)).collect();
        assert_eq!(self.jobs.cancel(&pilots, self.now), !steps.is_empty());
        self.jobs.cancels(&pilots, &steps, self.now)
    }
}

fn words(seen: &Seen) -> Vec<String> {
    let word = |standing: &Standing| match standing {
        Standing::Queued { expected, .. } => format!("queued {:?}", expected.map(|time| time.as_secs())),
        Standing::Running { node } => format!("on {}", node.as_ref().map_or("?", |node| node.as_str())),
        Standing::Gone(why) => format!("gone: {why}"),
    };
    seen.standings.iter().map(|(pilot, standing)| format!("{} {}", pilot.member, word(standing))).collect()
}

fn cancel_job(id: &str) -> Order {
    Order::CancelJob { account: account(), id: id.into() }
}

#[test]
fn pilots_wait_run_on_their_nodes_and_end_with_their_job() {
    let mut world = World::new(2, Some(7));
    assert_eq!(words(&world.rows(&[])), ["0 queued None", "1 queued None"]);
    let waits = world.rows(&[row(7, State::Pending)]);
    assert_eq!(words(&waits), ["0 queued Some(60)", "1 queued Some(60)"]);
    assert_eq!(words(&world.rows(&[row(7, State::Running)])), ["0 on n1", "1 on n2"]);
    assert!(world.jobs.has_siblings());
    let over = world.rows(&[row(7, State::Over("FAILED".into()))]);
    assert!(words(&over)[1].contains("could not start a NodeManager"), "{:?}", words(&over));
    assert_eq!((over.over, over.standings.len(), world.jobs.is_empty()), (vec![OF], 2, true));
}

#[test]
fn a_job_that_vanishes_is_over_but_not_before_it_could_appear() {
    let mut world = World::new(1, Some(7));
    world.now += APPEAR_TIME - S;
    assert_eq!(words(&world.rows(&[])), ["0 queued None"]);
    world.now += S;
    assert_eq!(words(&world.rows(&[])), ["0 gone: Slurm does not know its batch job 7 any more"]);
    let mut world = World::new(1, Some(7));
    world.rows(&[row(7, State::Running)]);
    assert!(words(&world.rows(&[]))[0].starts_with("0 gone"));
}

#[test]
fn a_submission_without_an_answer_is_found_by_its_name_and_once_only() {
    let mut world = World::new(2, None);
    assert_eq!(words(&world.rows(&[])), [""; 0]);
    let twice = world.rows(&[row(9, State::Pending), row(7, State::Pending)]);
    assert_eq!(twice.orders, [cancel_job("9")]);
    assert_eq!(words(&twice).len(), 2);
    // The second stays unwanted whatever becomes of the first.
    let over = world.rows(&[row(9, State::Running), row(7, State::Over("CANCELLED".into()))]);
    assert_eq!((over.orders, over.over), (vec![cancel_job("9")], vec![OF]));
    let mut never = World::new(2, None);
    never.now += TURN_UP_TIME;
    let seen = never.rows(&[]);
    assert_eq!((words(&seen).len(), seen.over), (0, vec![OF]));
}

/// Names are free for everybody: bob calls his job like one of alice's.
#[test]
fn nothing_is_believed_of_another_user() {
    let mut world = World::new(1, Some(7));
    let bobs = Row { user: "bob".into(), ..row(7, State::Running) };
    assert_eq!(words(&world.rows(std::slice::from_ref(&bobs))), ["0 queued None"]);
    let mut world = World::new(1, None);
    let seen = world.rows(&[bobs]);
    assert_eq!((words(&seen).len(), seen.orders.len()), (0, 0));
}

#[test]
fn all_pilots_cancelled_are_the_job_cancelled_and_again_if_it_stays() {
    for state in [State::Pending, State::Running] {
        let mut world = World::new(2, Some(7));
        world.rows(&[row(7, state.clone())]);
        assert_eq!(world.cancel(&[0, 1], &[]), [cancel_job("7")]);
        assert_eq!(world.rows(&[row(7, State::Running)]).orders, []);
        world.now += CANCEL_AGAIN;
        assert_eq!(world.rows(&[row(7, State::Running)]).orders, [cancel_job("7")]);
    }
    // Of one whose number is not known the cancel waits for it.
    let mut late = World::new(2, None);
    assert_eq!(late.cancel(&[0, 1], &[]), []);
    assert_eq!(late.rows(&[row(7, State::Pending)]).orders, [cancel_job("7")]);
}

#[test]
fn one_pilot_cancelled_is_its_step_ended_politely_then_by_force() {
    let mut world = World::new(2, Some(7));
    world.rows(&[row(7, State::Running)]);
    world.steps(&[0, 1]);
    let signal = Order::SignalStep { account: account(), id: "7.1".into() };
    assert_eq!(world.cancel(&[1], &[0, 1]), [signal]);
    assert_eq!(world.steps(&[0, 1]).orders, []);
    world.now += KILL_AFTER;
    let kill = Order::KillStep { account: account(), id: "7.1".into() };
    assert_eq!(world.steps(&[0, 1]).orders, [kill]);
    assert_eq!(words(&world.steps(&[0])), ["0 on n1", "1 on n2"]);
    let seen = world.rows(&[row(7, State::Running)]);
    assert_eq!(words(&seen), ["0 on n1", "1 gone: it was cancelled"]);
    assert_eq!(words(&world.steps(&[0])), ["0 on n1"]);
    // Now the other is the whole job.
    assert_eq!(world.cancel(&[0], &[]), [cancel_job("7")]);
}

#[test]
fn one_pilot_cancelled_in_the_queue_is_gone_and_the_other_waits_on() {
    let mut world = World::new(2, Some(7));
    world.rows(&[row(7, State::Pending)]);
    assert_eq!(world.cancel(&[1], &[]), []);
    let seen = world.rows(&[row(7, State::Pending)]);
    assert_eq!(words(&seen), ["0 queued Some(60)", "1 gone: it was cancelled while it waited"]);
    assert_eq!(words(&world.rows(&[row(7, State::Running)])), ["0 on n1"]);
}

#[test]
fn a_step_that_ends_alone_is_noticed_and_one_that_has_not_begun_is_not() {
    let mut world = World::new(2, Some(7));
    world.rows(&[row(7, State::Running)]);
    assert_eq!(words(&world.steps(&[0])), ["0 on n1", "1 on n2"]);
    world.steps(&[0, 1]);
    world.steps(&[0]);
    let seen = world.rows(&[row(7, State::Running)]);
    assert_eq!(words(&seen), ["0 on n1", "1 gone: its step of the batch job ended"]);
    let mut world = World::new(2, Some(7));
    world.rows(&[row(7, State::Running)]);
    world.now += STEP_TIME;
    world.steps(&[0]);
    let seen = world.rows(&[row(7, State::Running)]);
    assert_eq!(words(&seen)[1], "1 gone: its step of the batch job did not begin");
    // Of a job that is ending its own end says why.
    let mut world = World::new(2, Some(7));
    world.rows(&[row(7, State::Running)]);
    world.steps(&[0, 1]);
    world.steps(&[0]);
    assert_eq!(words(&world.rows(&[row(7, State::Ending)])), ["0 on n1", "1 on n2"]);
    let over = words(&world.rows(&[row(7, State::Over("TIMEOUT".into()))]));
    assert!(over.iter().all(|line| line.contains("its time limit was reached")), "{over:?}");
    // Without any step it is ending, too.
    let mut world = World::new(2, Some(7));
    world.rows(&[row(7, State::Running)]);
    world.steps(&[0, 1]);
    assert_eq!(words(&world.steps(&[])), ["0 on n1", "1 on n2"]);
}

#[test]
fn a_job_of_before_is_known_by_its_note() {
    let now = Instant::now();
    let known = Note { id: Some("7".into()), ..note(2) };
    for (rows, expected) in
        [(vec![row(7, State::Running)], "0 on n1"), (vec![], "0 gone: Slurm does not know")]
    {
        let job = Job::of_before(known.clone(), now);
        let mut world = World { jobs: Jobs::new(BTreeMap::from([(OF, job)])), now };
        assert_eq!(world.jobs.users(), ["1001"]);
        assert!(words(&world.rows(&rows))[0].starts_with(expected));
    }
}
