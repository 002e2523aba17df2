//! Random histories: whatever users, sites, lines and restarts do, no address is held twice (checked
//! after every step by the grid), nobody is answered twice or differently, what is granted is held
//! by every site, and in the end nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use grc::coordinator::LiveGrant;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use protocol::client::{Reply, Request, Selector};
use protocol::ids::{JobId, RequestId, ReservationId};
use protocol::job::{ExitStatus, JobState, Target};
use protocol::refusal::{Failure, Refusal, Step};
use protocol::reservation::{Ask, Bandwidth, Change, Placement, ReservationState, Start};
use protocol::site::{FromSite, ToSite};

use crate::fake::*;
use crate::grid::*;

#[derive(Clone, Debug)]
enum Doing {
    Submit { a: u32, b: u32, all: bool },
    Reserve { a: u32, b: u32, in_s: u64, duration_s: u32, rate_kbit: u32 },
    Anywhere(u32),
    SubmitIn(u64),
    Modify { id: u64, duration_s: u32, rate_kbit: u32 },
    Again(usize),
    Release(u64),
    Cancel(u64),
    Exit,
    Broken { b: bool, id: u64 },
    Lose(bool),
    Connect,
    Silence(bool, u8),
    Speak(bool),
    Refuse(bool),
    Deaf(bool, u32),
    Dumb(bool, u32),
    Echo(bool, bool),
    Restart,
    Die(usize),
    Pass(u64),
}

fn doing() -> impl Strategy<Value = Doing> {
    let ids = 1u64..12;
    prop_oneof![
        4 => (0u32..4, 0u32..4, any::<bool>()).prop_map(|(a, b, all)| Doing::Submit { a, b, all }),
        4 => (0u32..4, 0u32..4, 0u64..200, 20u32..400, 0u32..150_000).prop_map(
            |(a, b, in_s, duration_s, rate_kbit)| {
                let in_s = in_s.saturating_sub(60);
                Doing::Reserve { a, b, in_s, duration_s, rate_kbit: rate_kbit.saturating_sub(30_000) }
            }
        ),
        2 => (1u32..7).prop_map(Doing::Anywhere),
        2 => ids.clone().prop_map(Doing::SubmitIn),
        3 => (ids.clone(), 30u32..600, 64u32..200_000)
            .prop_map(|(id, duration_s, rate_kbit)| Doing::Modify { id, duration_s, rate_kbit }),
        2 => (0usize..20).prop_map(Doing::Again),
        2 => ids.clone().prop_map(Doing::Release),
        2 => ids.clone().prop_map(Doing::Cancel),
        3 => Just(Doing::Exit),
        1 => (any::<bool>(), ids).prop_map(|(b, id)| Doing::Broken { b, id }),
        1 => any::<bool>().prop_map(Doing::Lose),
        2 => Just(Doing::Connect),
        1 => (any::<bool>(), 0u8..5).prop_map(|(b, what)| Doing::Silence(b, what)),
        2 => any::<bool>().prop_map(Doing::Speak),
        1 => any::<bool>().prop_map(Doing::Refuse),
        1 => (any::<bool>(), 1u32..4).prop_map(|(b, n)| Doing::Deaf(b, n)),
        1 => (any::<bool>(), 1u32..4).prop_map(|(b, n)| Doing::Dumb(b, n)),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(b, on)| Doing::Echo(b, on)),
        1 => Just(Doing::Restart),
        2 => (0usize..30).prop_map(Doing::Die),
        4 => (1u64..100).prop_map(Doing::Pass),
    ]
}

fn name(b: bool) -> &'static str {
    if b { "b" } else { "a" }
}

fn nodes(a: u32, b: u32) -> Vec<(&'static str, u32)> {
    [("a", a), ("b", b)].into_iter().filter(|(_, n)| *n > 0).collect()
}

/// A grid with clients that remember what they asked and what they were told.
struct History {
    grid: Grid,
    asked: Vec<Request>,
    /// Open requests: which of `asked`.
    open: BTreeMap<u64, usize>,
    told: BTreeMap<usize, Reply>,
}

impl History {
    fn new() -> Self {
        Self { grid: Grid::new(), asked: vec![], open: BTreeMap::new(), told: BTreeMap::new() }
    }

    fn fresh(&self) -> RequestId {
        RequestId((self.asked.len() as u128 + 1).to_le_bytes())
    }

    fn ask(&mut self, request: Request) {
        self.asked.push(request);
        self.ask_again(self.asked.len() - 1);
    }

    fn ask_again(&mut self, which: usize) {
        let Some(request) = self.asked.get(which).cloned() else { return };
        let correlation = self.grid.post("u", request);
        self.open.insert(correlation, which);
        self.listen();
    }

    /// Whoever asked the same heard the same.
    fn listen(&mut self) {
        for (correlation, which) in std::mem::take(&mut self.open) {
            match self.grid.answers.remove(&correlation) {
                Some(reply) => {
                    let before = self.told.insert(which, reply.clone());
                    assert!(
                        before.is_none_or(|before| before == reply),
                        "{:?} contradicted",
                        self.asked[which]
                    );
                }
                None => drop(self.open.insert(correlation, which)),
            }
        }
        while self.grid.dead {
            self.open.clear();
            self.grid.restart();
            self.connect_all();
        }
    }

    fn connect_all(&mut self) {
        for name in ["a", "b"] {
            if self.grid.sites[&site(name)].connection.is_none() {
                self.grid.connect(name);
            }
        }
    }

    fn perform(&mut self, doing: Doing) {
        let id = self.fresh();
        match doing {
            Doing::Submit { a, b, all } => {
                let target = if all { Target::All } else { Target::Head };
                self.ask(Request::Submit { id, ask: ask(&nodes(a, b)), job: job(target) });
            }
            Doing::Reserve { a, b, in_s, duration_s, rate_kbit } => {
                let start_s = self.grid.now.as_secs() + in_s;
                let start = Start::Between { earliest_s: start_s, latest_s: start_s + 100 };
                let bandwidth = match rate_kbit {
                    0 => Bandwidth::Unasked,
                    rate_kbit => Bandwidth::Between(rate_kbit.max(64)),
                };
                let ask = Ask { start, duration_s, bandwidth, ..ask(&nodes(a, b)) };
                self.ask(Request::Reserve { id, ask });
            }
            Doing::Anywhere(count) => {
                let ask = Ask { placement: Placement::Anywhere(count), ..ask(&[]) };
                self.ask(Request::Reserve { id, ask });
            }
            Doing::SubmitIn(reservation) => {
                let reservation = ReservationId(reservation);
                self.ask(Request::SubmitIn { id, reservation, job: job(Target::All) });
            }
            Doing::Modify { id: reservation, duration_s, rate_kbit } => {
                let bandwidth = Some(Bandwidth::Between(rate_kbit)).filter(|_| rate_kbit < 100_000);
                let change = Change { duration_s: Some(duration_s), bandwidth, placement: None };
                self.ask(Request::Modify { id, reservation: ReservationId(reservation), change });
            }
            Doing::Again(which) => self.ask_again(which),
            Doing::Release(id) => {
                self.grid.request("u", Request::Release(Selector::Id(ReservationId(id))));
            }
            Doing::Cancel(id) => {
                self.grid.request("u", Request::Cancel(Selector::Id(JobId(id))));
            }
            Doing::Exit => exit_all(&mut self.grid),
            Doing::Broken { b, id } => self.break_incarnation(b, ReservationId(id)),
            Doing::Lose(b) => self.grid.lose(name(b)),
            Doing::Connect => self.connect_all(),
            Doing::Silence(b, what) => {
                let all = [Mute::Hold, Mute::Commit, Mute::Start, Mute::Join, Mute::End];
                self.site(b).mute.insert(all[usize::from(what)]);
            }
            Doing::Speak(b) => self.site(b).mute.clear(),
            Doing::Refuse(b) => {
                let refusal = Refusal::NodesBusy { site: site(name(b)), asked: 1, have: 0 };
                self.site(b).refuse = Some(refusal);
            }
            Doing::Deaf(b, n) => self.site(b).deaf = n,
            Doing::Dumb(b, n) => self.site(b).dumb = n,
            Doing::Echo(b, on) => self.site(b).echo = on,
            Doing::Restart => self.grid.dead = true,
            Doing::Die(after) => self.grid.dies_after = Some(after),
            Doing::Pass(seconds) => {
                self.grid.pass(Duration::from_secs(seconds));
                self.sites_ask();
            }
        }
        self.listen();
    }

    /// A site that holds and hears nothing asks.
    fn sites_ask(&mut self) {
        for name in ["a", "b"] {
            let fake = &self.grid.sites[&site(name)];
            let held = fake.kept.iter().filter_map(|(id, kept)| Some((*id, kept.held.as_ref()?.0)));
            for (reservation, version) in held.collect::<Vec<_>>() {
                if !self.grid.dead && self.grid.sites[&site(name)].connection.is_some() {
                    self.grid.say(name, FromSite::Asks { reservation, version });
                }
            }
        }
        self.listen();
    }

    fn site(&mut self, b: bool) -> &mut Fake {
        self.grid.sites.get_mut(&site(name(b))).unwrap()
    }

    fn break_incarnation(&mut self, b: bool, reservation: ReservationId) {
        let fake = &self.grid.sites[&site(name(b))];
        let on = fake.kept.get(&reservation).and_then(|kept| kept.epoch);
        if let (Some(epoch), Some(_)) = (on, fake.connection) {
            let failure = Failure::new(Step::Running, "a pilot was lost", "");
            self.grid.say(name(b), FromSite::Failed { reservation, epoch, failure });
        }
    }

    /// Everything works again, and time passes until whatever was under way is settled.
    fn heal(&mut self) {
        self.grid.dies_after = None;
        for b in [false, true] {
            let fake = self.site(b);
            fake.mute.clear();
            (fake.deaf, fake.dumb, fake.echo, fake.refuse) = (0, 0, false, None);
        }
        self.listen();
        self.connect_all();
        for _ in 0..120 {
            self.grid.pass(Duration::from_secs(1));
            self.listen();
            self.sites_ask();
        }
    }

    /// What the owner says is granted, every site has, in the same version, and nobody has more.
    fn check_all_or_nothing(&self) {
        let grants = self.grid.owner.live_grants();
        let mut held = 0;
        for grant in &grants {
            for share in &grant.shares {
                let kept = self.grid.sites[&share.site].kept.get(&grant.id);
                let (version, part) = kept.and_then(|kept| kept.granted.as_ref()).expect("committed");
                assert_eq!(*version, grant.version, "{grant:?}");
                assert_eq!((&part.addresses, part.members), (&share.carve, share.members));
                held += 1;
            }
        }
        for (n, one) in grants.iter().enumerate() {
            let overlaps = |other: &&LiveGrant| {
                one.window.start < other.window.end && other.window.start < one.window.end
            };
            for other in grants[n + 1..].iter().filter(overlaps) {
                let of = |grant: &LiveGrant| -> BTreeSet<_> {
                    let blocks = grant.shares.iter().flat_map(|share| &share.carve);
                    blocks.flat_map(|block| block.addresses()).collect()
                };
                assert!(of(one).is_disjoint(&of(other)), "{one:?} and {other:?}");
            }
        }
        let parts: usize = self.grid.sites.values().map(|fake| fake.kept.len()).sum();
        assert_eq!(parts, held, "somebody holds what nobody was granted: {:?}", self.grid.sites);
    }
}

/// Every command that ever was started, on every member, says that it ended.
fn exit_all(grid: &mut Grid) {
    for name in ["a", "b"] {
        let fake = &grid.sites[&site(name)];
        let started: Vec<_> = fake
            .sent
            .iter()
            .filter_map(|m| if let ToSite::Exec { job, .. } = m { Some(*job) } else { None })
            .collect();
        for job in started {
            for member in 0..4 {
                if !grid.dead && grid.sites[&site(name)].connection.is_some() {
                    grid.exit(name, job, member, ExitStatus::Code(0));
                }
            }
        }
    }
}

/// What the environment says, else always the same.
fn seed() -> RngSeed {
    let given = std::env::var("PROPTEST_RNG_SEED").ok().and_then(|seed| seed.parse().ok());
    RngSeed::Fixed(given.unwrap_or(20_261_120))
}

proptest! {
    // One seed, so that a run says today what it said yesterday; `PROPTEST_RNG_SEED` tries others, and
    // what they find is kept in `tests/proptest-regressions`.
    #![proptest_config(ProptestConfig { cases: 1000, rng_seed: seed(), ..ProptestConfig::default() })]

    #[test]
    fn no_history_breaks_a_promise_or_leaves_anything(
        doings in prop::collection::vec(doing(), 1..60)
    ) {
        let mut history = History::new();
        for doing in doings {
            history.perform(doing);
        }
        history.heal();
        for which in 0..history.asked.len() {
            history.ask_again(which);
        }
        history.heal();
        prop_assert_eq!(history.told.len(), history.asked.len(), "every request has its answer");
        history.check_all_or_nothing();
        let grid = &mut history.grid;
        let Reply::Reservations(views) = grid.request("u", Request::Reservations) else { panic!() };
        for view in views {
            grid.request("u", Request::Release(Selector::Id(view.id)));
        }
        grid.pass(Duration::from_secs(120));
        grid.assert_nothing_left();
        let Reply::Reservations(views) = grid.request("u", Request::Reservations) else { panic!() };
        for view in views {
            prop_assert!(matches!(view.state, ReservationState::Ended | ReservationState::Failed(_)));
            prop_assert_eq!(view.deadline_s, None);
        }
        let Reply::Jobs(views) = grid.request("u", Request::Jobs) else { panic!() };
        prop_assert!(views.iter().all(|view| JobState::is_final(&view.state)));
        prop_assert_eq!(grid.owner.next_wake(), None, "no timer outlives its reason");
    }
}
