//! Against a model of the nodes: what they have installed, what is on its way to them, and what
//! their members would like to send.

mod cases;

use std::collections::VecDeque;

use proptest::prelude::*;

use super::fill::floor;
use super::*;

const MS: Duration = Duration::from_millis(1);

/// A node: a model that knows nothing of what the shares believe.
#[derive(Clone, Debug, Default)]
struct Node {
    serial: u32,
    installed: Vec<u32>,
    on_its_way: VecDeque<Order>,
    answers: VecDeque<(u32, bool)>,
    dead: bool,
    gone: bool,
    sent_bytes: Vec<u64>,
}

impl Node {
    /// The most that may be in force until everything on its way has arrived.
    fn worst(&self, class: usize) -> u64 {
        let coming = self.on_its_way.iter().filter(|order| order.serial > self.serial);
        let rates = coming.map(|order| order.rates_kbit[class]).chain(self.installed.get(class).copied());
        if self.gone { 0 } else { rates.max().unwrap_or(0).into() }
    }

    /// Takes in the next order; `how` 0 fails at once, 1 fails half done, else it goes well.
    fn take_in(&mut self, how: u8) {
        let Some(order) = self.on_its_way.pop_front() else { return };
        if self.dead || order.serial <= self.serial {
            return;
        }
        match how {
            0 => {}
            1 if !self.installed.is_empty() => self.installed[0] = order.rates_kbit[0],
            _ => self.installed = order.rates_kbit,
        }
        self.serial = order.serial;
        self.answers.push_back((order.serial, how > 1));
    }
}

struct World {
    shares: Shares,
    nodes: Vec<Node>,
    now: Duration,
    messages: usize,
}

impl World {
    fn new(members: u32, grants: &[u32]) -> Self {
        let node = Node { sent_bytes: vec![0; grants.len()], ..Node::default() };
        Self {
            shares: Shares::new(members, grants).unwrap(),
            nodes: vec![node; members as usize],
            now: Duration::from_secs(1),
            messages: 0,
        }
    }

    fn set_up(&mut self, member: usize) {
        if let Some(order) = self.shares.setup(member as u32)
            && !self.nodes[member].dead
        {
            self.nodes[member].on_its_way.push_back(order);
        }
    }

    fn all_set_up(members: u32, grants: &[u32]) -> Self {
        let mut world = Self::new(members, grants);
        for member in 0..members as usize {
            world.set_up(member);
        }
        world.deliver_all();
        world
    }

    fn plan(&mut self) {
        for order in self.shares.plan(self.now) {
            self.messages += 1;
            self.nodes[order.member as usize].on_its_way.push_back(order);
        }
    }

    fn answer(&mut self, member: usize) {
        if let Some((serial, good)) = self.nodes[member].answers.pop_front() {
            match good {
                true => self.shares.confirmed(member as u32, serial),
                false => self.shares.failed(self.now, member as u32, serial),
            }
        }
    }

    fn deliver_all(&mut self) {
        for member in 0..self.nodes.len() {
            while !self.nodes[member].on_its_way.is_empty() {
                self.nodes[member].take_in(2);
            }
            while !self.nodes[member].answers.is_empty() {
                self.answer(member);
            }
        }
    }

    fn worst(&self, class: usize) -> u64 {
        self.nodes.iter().map(|node| node.worst(class)).sum()
    }

    /// One second in ten steps: everybody sends what he would like to and may (per mille of what
    /// is let through is seen), tells it at a moment of its own, and answers within 100 ms.
    fn second(&mut self, appetites: &[u32], seen: u64) {
        for step in 0..10 {
            self.now += 100 * MS;
            for (member, &appetite) in appetites.iter().enumerate() {
                let node = &mut self.nodes[member];
                for class in 0..node.installed.len() {
                    let rate = u64::from(appetite.min(node.installed[class])) * seen / 1000;
                    node.sent_bytes[class] += rate * 100 / 8;
                    if member % 10 == step {
                        let at = self.now.as_millis() as u64;
                        self.shares.sample(self.now, member as u32, class, at, node.sent_bytes[class]);
                    }
                }
            }
            self.plan();
            self.deliver_all();
        }
    }

    fn installed(&self, class: usize) -> Vec<u32> {
        self.nodes.iter().map(|node| node.installed[class]).collect()
    }
}

#[derive(Clone, Debug)]
enum Move {
    Pass(u64),
    SetUp(usize),
    TakeIn(usize, u8),
    Answer(usize),
    LoseAnswer(usize),
    /// Use of all that it may, per mille, told when it was.
    Use {
        member: usize,
        class: usize,
        part: u64,
    },
    /// Whatever else a node may say.
    Sample {
        member: usize,
        class: usize,
        at_ms: u64,
        bytes: u64,
    },
    Lose(usize),
    Gone(usize),
    Grant {
        class: usize,
        kbit: u32,
    },
}

fn a_move(members: usize, classes: usize) -> impl Strategy<Value = Move> {
    let member = 0..members;
    prop_oneof![
        6 => prop_oneof![Just(0), Just(200), 0u64..7000].prop_map(Move::Pass),
        2 => member.clone().prop_map(Move::SetUp),
        8 => (member.clone(), 0u8..12).prop_map(|(m, how)| Move::TakeIn(m, how)),
        8 => member.clone().prop_map(Move::Answer),
        1 => member.clone().prop_map(Move::LoseAnswer),
        12 => (member.clone(), 0..classes, prop_oneof![3 => Just(1000), 1 => 0u64..1000])
            .prop_map(|(member, class, part)| Move::Use { member, class, part }),
        1 => (member.clone(), 0..classes, 0u64..60_000, 0u64..30_000_000)
            .prop_map(|(member, class, at_ms, bytes)| Move::Sample { member, class, at_ms, bytes }),
        1 => member.clone().prop_map(Move::Lose),
        1 => member.prop_map(Move::Gone),
        1 => (0..classes, prop_oneof![1u32..200, 1000u32..400_000])
            .prop_map(|(class, kbit)| Move::Grant { class, kbit }),
    ]
}

fn history() -> impl Strategy<Value = (usize, Vec<u32>, Vec<Move>)> {
    (1usize..7, 1usize..4).prop_flat_map(|(members, classes)| {
        let grant = prop_oneof![1 => Just(0u32), 9 => (members as u32)..300_000];
        let moves = prop::collection::vec(a_move(members, classes), 0..200);
        (Just(members), prop::collection::vec(grant, classes), moves)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever is lost, late, repeated, refused or half done, and whoever dies.
    #[test]
    fn members_together_never_may_send_more_than_the_grant((members, grants, moves) in history()) {
        let mut world = World::new(members as u32, &grants);
        let mut granted: Vec<u64> = grants.iter().map(|grant| u64::from(*grant)).collect();
        // After a grant is lowered, what is in force only falls until it is below.
        let mut ceiling = granted.clone();
        for one in moves {
            match one.clone() {
                Move::Pass(ms) => {
                    world.now += ms as u32 * MS;
                    world.plan();
                }
                Move::SetUp(member) => world.set_up(member),
                Move::TakeIn(member, how) => {
                    // What makes a member Live is a SETUP that went well.
                    let how = if world.nodes[member].serial == 0 { 2 } else { how };
                    world.nodes[member].take_in(how);
                }
                Move::Answer(member) => world.answer(member),
                Move::LoseAnswer(member) => {
                    world.nodes[member].answers.pop_front();
                }
                Move::Use { member, class, part } => {
                    let node = &mut world.nodes[member];
                    let Some(rate) = node.installed.get(class) else { continue };
                    for _ in 0..2 {
                        let at_ms = world.now.as_millis() as u64;
                        world.shares.sample(world.now, member as u32, class, at_ms, node.sent_bytes[class]);
                        world.now += 250 * MS;
                        node.sent_bytes[class] += u64::from(*rate) * part / 1000 * 250 / 8;
                    }
                }
                Move::Sample { member, class, at_ms, bytes } => {
                    world.shares.sample(world.now, member as u32, class, at_ms, bytes);
                }
                Move::Lose(member) => world.shares.lost(member as u32),
                Move::Gone(member) => {
                    world.nodes[member].dead = true;
                    world.nodes[member].gone = true;
                    world.nodes[member].on_its_way.clear();
                    world.shares.gone(member as u32);
                }
                Move::Grant { class, kbit } => {
                    if world.shares.set_grant(class, kbit).is_ok() {
                        granted[class] = kbit.into();
                    } else {
                        prop_assert!((kbit as usize) < members);
                    }
                }
            }
            for class in 0..granted.len() {
                let held = world.shares.held_kbit(class);
                prop_assert!(world.worst(class) <= held, "{one:?}: more is in force than is known of");
                prop_assert!(held <= granted[class].max(ceiling[class]), "{one:?}: {held} of {granted:?}");
                ceiling[class] = held.max(granted[class]);
                let least = floor(granted[class] as u32, members);
                let settled = world.nodes.iter().all(|node| node.on_its_way.is_empty() && node.answers.is_empty());
                for (member, node) in world.nodes.iter().enumerate() {
                    let first = grants[class] != 0 && granted[class] == u64::from(grants[class]);
                    let live = world.shares.members[member].state == State::Live;
                    if first && live && settled && !node.gone && world.shares.members[member].failures == 0 {
                        prop_assert!(u64::from(world.shares.members[member].bound_kbit[class]) >= least);
                    }
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn who_all_want_have_equal_shares_after_ten_samples(
        members in 2u32..40,
        per_member in 100u32..5000,
        first in prop::collection::vec(0u32..200_000, 40),
        seen in 900u64..=1000,
    ) {
        let grant = members * per_member;
        let mut world = World::all_set_up(members, &[grant]);
        let appetites = &first[..members as usize];
        for _ in 0..6 {
            world.second(appetites, seen);
        }
        for _ in 0..10 {
            world.second(&vec![u32::MAX; members as usize], seen);
        }
        let shares = world.installed(0);
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        prop_assert!(*most as f64 <= 1.1 * f64::from(*least) + 1.0, "{shares:?}");
        prop_assert!(shares.iter().sum::<u32>() * 100 >= grant * 95, "{shares:?}");
    }

    #[test]
    fn one_that_wants_beside_idle_ones_has_85_percent_after_five_samples(
        members in 2u32..40,
        per_member in 1024u32..5000,
        first in prop::collection::vec(0u32..200_000, 40),
        one in 0usize..40,
        seen in 900u64..=1000,
    ) {
        let (grant, one) = (members * per_member, one % members as usize);
        let mut world = World::all_set_up(members, &[grant]);
        for _ in 0..6 {
            world.second(&first[..members as usize], seen);
        }
        let mut appetites = vec![0; members as usize];
        appetites[one] = u32::MAX;
        for _ in 0..5 {
            world.second(&appetites, seen);
        }
        let shares = world.installed(0);
        prop_assert!(u64::from(shares[one]) * 100 >= u64::from(grant) * 85, "{one} of {shares:?}");
        prop_assert!(shares.iter().all(|share| u64::from(*share) >= floor(grant, members as usize)));
    }

    /// Appetites that go up and down by 10 %: who stands just at the edge of wanting more is told
    /// something once in a while, the others never.
    #[test]
    fn noise_moves_little(
        members in 2usize..12,
        appetites in prop::collection::vec(prop_oneof![Just(u32::MAX), 0u32..60_000], 12),
        noise in prop::collection::vec(prop::collection::vec(900u64..=1100, 12), 60),
    ) {
        let mut world = World::all_set_up(members as u32, &[100_000]);
        let mut until_then = 0;
        for (second, now) in noise.iter().enumerate() {
            if second == noise.len() / 2 {
                until_then = world.messages;
            }
            let now: Vec<u32> = appetites[..members]
                .iter()
                .zip(now)
                .map(|(appetite, noise)| (u64::from(*appetite) * noise / 1000).min(u32::MAX.into()) as u32)
                .collect();
            world.second(&now, 960);
        }
        let later = world.messages - until_then;
        prop_assert!(later <= 4 * members, "{later} messages in 30 quiet seconds, {:?}", world.installed(0));
    }
}

/// A member whose SETUP was on its way when the CRM died: its node has what only that CRM knew.
#[test]
fn after_a_restart_nobody_is_told_more_before_all_that_others_may_have_is_known() {
    let (grant, at) = (150_000, |n: u32| ROUND * n);
    let mut shares = Shares::new(2, &[grant]).unwrap();
    (0..2).for_each(|member| shares.forget(member, true));
    shares.back(0, Installed::Rates(&[grant / 2]));
    let lowered = shares.plan(at(1));
    shares.back(1, Installed::UnderWay);
    shares.confirmed(1, 1);
    let first = shares.plan(at(2));
    assert_eq!(first.len(), 1);
    assert!(first[0].rates_kbit[0] + grant / 2 <= grant, "{first:?} beside {lowered:?}");
    shares.confirmed(1, first[0].serial);
    lowered.iter().for_each(|order| shares.confirmed(order.member, order.serial));
    for n in 3..40 {
        assert!(shares.held_kbit(0) <= grant.into());
        for order in shares.plan(at(n)) {
            shares.confirmed(order.member, order.serial);
        }
    }
}
