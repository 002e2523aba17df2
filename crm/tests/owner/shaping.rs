//! Rates of a part's members: with SETUP, in place, and never more than the grant.

use std::collections::BTreeMap;
use std::time::Duration;

use crm::pilot::PilotId;
use crm::site::{Asked, Event};
use grant::Rates;
use protocol::ids::{ReservationId, Version};
use protocol::node::{ClassUse, Notice, Reply};
use protocol::refusal::Failure;
use protocol::reservation::AddressBlock;
use protocol::site::{FromSite, Part, Peer, Remaining};

use crate::said::*;
use crate::world::{HOUR, R, V, World, commit, hold, hold_of, part};

fn peer(site: &str, rate_kbit: u32, net: u8) -> Peer {
    let addresses = vec![AddressBlock { first: [10, net, 0, 8].into(), count: 8 }];
    Peer { site: site.parse().unwrap(), rate_kbit, addresses }
}

fn with_peers(members: u32, peers: Vec<Peer>) -> Part {
    Part { peers, ..part(members) }
}

fn joined_with(members: u32, peers: Vec<Peer>) -> World {
    let mut world = World::new(members);
    world.say(hold(with_peers(members, peers)));
    world.say(commit(V, HOUR));
    let join = join(&world).unwrap();
    world.say(join);
    assert_eq!(world.heard(is_joined), 1);
    world
}

fn change(world: &mut World, version: u32, part: Part) {
    let version = Version(version);
    let window = part.window;
    world.say(hold_of(R, version, part));
    world.say(commit(version, window));
    assert!(world.told.contains(&FromSite::Committed { reservation: R, version }));
}

/// Nodes that carry out what they are told when `work` says so, and count what they send.
#[derive(Default)]
struct NodesAtWork {
    installed: BTreeMap<PilotId, Rates>,
    seen: usize,
    sent: BTreeMap<(PilotId, u8), u64>,
}

impl NodesAtWork {
    /// Carries out everything outstanding; the sum may at no moment exceed the grant of a class.
    fn work(&mut self, world: &mut World, grants_kbit: &[u32]) {
        while let Some((pilot, rates)) = world.shaped.get(self.seen).cloned() {
            self.seen += 1;
            let (first, serial) = (rates.serial == 1, rates.serial);
            let before = self.installed.insert(pilot, rates);
            assert!(before.is_none_or(|before| before.serial < serial), "an older order after a newer");
            for (class, &grant) in grants_kbit.iter().enumerate() {
                let sum: u32 = self.installed.values().map(|rates| rates.rates_kbit[class]).sum();
                assert!(sum <= grant, "{sum} of {grant} kbit/s in class {class}");
            }
            // The first ones are confirmed by the answer to SETUP.
            if !first {
                world.say(Event::Answered { pilot, asked: Asked::Shape(serial), reply: Reply::Done });
            }
        }
    }

    /// One second, in which these members send as much as they may in class 0.
    fn second(&mut self, world: &mut World, senders: &[u32]) {
        world.pass(Duration::from_secs(1));
        let installed = self.installed.clone();
        for (pilot, rates) in &installed {
            let sent = self.sent.entry((*pilot, 0)).or_insert(0);
            if senders.contains(&pilot.member) {
                *sent += u64::from(rates.rates_kbit[0]) * 1000 / 8;
            }
            let used = ClassUse { class: 0, sent_bytes: *sent, dropped: 0, backlog_bytes: 0 };
            let at_ms = world.now.as_millis() as u64;
            world.say(Event::Noticed { pilot: *pilot, notice: Notice::Used { at_ms, classes: vec![used] } });
        }
    }

    fn rate(&self, member: u32) -> u32 {
        self.installed.iter().find(|(id, _)| id.member == member).map_or(0, |(_, rates)| rates.rates_kbit[0])
    }
}

#[test]
fn a_part_with_peers_gets_its_rates_with_setup() {
    let world = joined_with(2, vec![peer("b", 1000, 2), peer("c", 600, 3)]);
    assert_eq!(world.shaped.len(), 2);
    for (_, rates) in &world.shaped {
        assert_eq!(rates.rates_kbit[..3], [500, 300, 0]);
        assert_eq!((rates.nonce, rates.serial, rates.destinations.len()), ([1; 16], 1, 2));
    }
    let world = joined_with(2, vec![]);
    assert_eq!(world.shaped.len(), 0);
}

#[test]
fn idle_share_goes_to_who_uses_it_and_no_moment_exceeds_the_grant() {
    let mut world = joined_with(2, vec![peer("b", 100_000, 2)]);
    let mut nodes = NodesAtWork::default();
    let grants = [100_000];
    nodes.work(&mut world, &grants);
    for _ in 0..6 {
        nodes.second(&mut world, &[0]);
        nodes.work(&mut world, &grants);
    }
    assert!(nodes.rate(0) >= 85_000 && nodes.rate(1) > 0, "{} {}", nodes.rate(0), nodes.rate(1));
    for _ in 0..10 {
        nodes.second(&mut world, &[0, 1]);
        nodes.work(&mut world, &grants);
        world.pass(Duration::from_millis(200));
        nodes.work(&mut world, &grants);
    }
    assert!(nodes.rate(0).abs_diff(nodes.rate(1)) <= 10_000, "{} {}", nodes.rate(0), nodes.rate(1));
}

#[test]
fn what_was_used_is_told_once_a_second_by_peer_and_waits_while_the_grc_is_away() {
    let mut world = joined_with(2, vec![peer("b", 80_000, 2)]);
    let mut nodes = NodesAtWork::default();
    nodes.work(&mut world, &[80_000]);
    let flows = |world: &World| -> Vec<(u32, u64)> {
        let told = world.told.iter().filter_map(|message| match message {
            FromSite::Used { over_ms, flows, .. } => {
                assert_eq!((flows.len(), flows[0].to.as_str(), flows[0].granted_kbit), (1, "b", 80_000));
                Some((*over_ms, flows[0].sent_bytes))
            }
            _ => None,
        });
        told.collect()
    };
    for _ in 0..3 {
        nodes.second(&mut world, &[1]);
    }
    world.pass(Duration::from_secs(1));
    let told = flows(&world);
    assert!((2..=4).contains(&told.len()), "{told:?}");
    assert_eq!(told.iter().map(|(_, bytes)| bytes).sum::<u64>(), 3 * 40_000 * 125);
    world.say(Event::GrcLost);
    for _ in 0..5 {
        nodes.second(&mut world, &[1]);
    }
    assert_eq!(flows(&world).len(), told.len());
    world.say(Event::GrcConnected);
    world.pass(Duration::from_secs(1));
    let later = flows(&world);
    assert_eq!(later[told.len()..].iter().map(|(_, bytes)| bytes).sum::<u64>(), 5 * 40_000 * 125);
    assert!(later[told.len()].0 >= 5000);
}

#[test]
fn a_changed_rate_takes_effect_in_place() {
    let mut world = joined_with(2, vec![peer("b", 1000, 2), peer("c", 600, 3)]);
    let mut nodes = NodesAtWork::default();
    nodes.work(&mut world, &[1000, 600]);
    // Down, up, one peer less, another one instead.
    change(&mut world, 2, with_peers(2, vec![peer("b", 400, 2), peer("c", 600, 3)]));
    world.pass(Duration::from_secs(1));
    nodes.work(&mut world, &[1000, 600]);
    let rates = |nodes: &NodesAtWork| -> [u32; 2] {
        std::array::from_fn(|class| nodes.installed.values().map(|rates| rates.rates_kbit[class]).sum())
    };
    assert_eq!(rates(&nodes), [400, 600]);
    change(&mut world, 3, with_peers(2, vec![peer("b", 2000, 2), peer("c", 600, 3)]));
    // Nobody is told of more until he uses what he has.
    for _ in 0..6 {
        nodes.work(&mut world, &[2000, 600]);
        nodes.second(&mut world, &[0, 1]);
    }
    assert!(rates(&nodes)[0] >= 1900, "{:?}", rates(&nodes));
    change(&mut world, 4, with_peers(2, vec![peer("b", 2000, 2)]));
    world.pass(Duration::from_secs(1));
    nodes.work(&mut world, &[2000, 600]);
    assert_eq!(rates(&nodes)[1], 0);
    assert!(nodes.installed.values().all(|rates| rates.destinations.iter().all(|to| to.class == 0)));
    change(&mut world, 5, with_peers(2, vec![peer("d", 900, 4), peer("b", 2000, 2)]));
    world.pass(Duration::from_secs(1));
    nodes.work(&mut world, &[2000, 900]);
    assert!(rates(&nodes)[1] >= 2 * 28, "everybody can begin: {:?}", rates(&nodes));
    let of_d = |rates: &Rates| rates.destinations.iter().filter(|to| to.class == 1).count();
    assert!(nodes.installed.values().all(|rates| of_d(rates) == 1));
    assert_eq!(world.submitted.len(), 2, "nothing was built anew");
}

#[test]
fn sandboxes_built_without_rates_get_their_first_ones_in_place() {
    let mut world = joined_with(2, vec![]);
    change(&mut world, 2, with_peers(2, vec![peer("b", 1000, 2)]));
    assert_eq!(world.shaped.len(), 2);
    for (pilot, rates) in world.shaped.clone() {
        assert_eq!((rates.rates_kbit[0], rates.serial), (500, 1));
        world.say(Event::Answered { pilot, asked: Asked::Shape(1), reply: Reply::Done });
    }
    assert_eq!(world.heard(is_failed), 0);
    // A node that does not install them cannot keep the grant.
    let mut world = joined_with(2, vec![]);
    change(&mut world, 2, with_peers(2, vec![peer("b", 1000, 2)]));
    let failed = Reply::Failed(Failure::new(protocol::refusal::Step::Running, "no memory", ""));
    world.say(Event::Answered { pilot: pilot(1), asked: Asked::Shape(1), reply: failed });
    assert_eq!(failure(&world).node.as_ref().unwrap().as_str(), "a2");
}

#[test]
fn nodes_are_told_when_the_window_is_changed() {
    for peers in [vec![], vec![peer("b", 1000, 2)]] {
        let mut world = joined_with(2, peers.clone());
        let before = world.shaped.len();
        let longer = Remaining { starts_in_ms: 0, ends_in_ms: 2 * HOUR.ends_in_ms };
        world.say(hold_of(R, Version(2), Part { window: longer, ..with_peers(2, peers.clone()) }));
        assert_eq!(world.shaped.len(), before, "only held");
        world.say(commit(Version(2), longer));
        assert_eq!(world.shaped.len(), before + 2);
        for (pilot, rates) in world.shaped.split_off(before) {
            assert_eq!(rates.lifetime_s, 7215);
            assert_eq!(rates.destinations.len(), peers.len(), "the rates are the same");
            world.say(Event::Answered { pilot, asked: Asked::Shape(rates.serial), reply: Reply::Done });
        }
        // Repeated, it changes nothing; rates go on from there.
        world.say(commit(Version(2), longer));
        assert_eq!(world.shaped.len(), before);
        change(&mut world, 3, Part { window: longer, ..with_peers(2, vec![peer("b", 500, 2)]) });
        world.pass(Duration::from_secs(1));
        let told = &world.shaped[before..];
        assert_eq!(told.len(), 2);
        assert!(told.iter().all(|(_, rates)| rates.serial > 1 && rates.rates_kbit[0] == 250), "{told:?}");
        assert_eq!(world.heard(is_failed), 0);
    }
}

#[test]
fn a_node_that_never_installs_its_rates_is_given_up() {
    let mut world = joined_with(2, vec![peer("b", 1000, 2)]);
    change(&mut world, 2, with_peers(2, vec![peer("b", 500, 2)]));
    world.pass(Duration::from_secs(60));
    assert_eq!(world.heard(is_failed), 1);
    assert!(failure(&world).to_string().contains("rates"), "{}", failure(&world));
}

#[test]
fn peers_that_no_node_can_be_told_are_refused_at_the_hold() {
    let woven =
        |of: u32| (0..30).map(move |n| AddressBlock { first: (0x0a02_0000 + 2 * n + of).into(), count: 1 });
    let peers = vec![
        Peer { addresses: woven(0).collect(), ..peer("b", 1000, 2) },
        Peer { addresses: woven(1).collect(), ..peer("c", 1000, 3) },
    ];
    let mut world = World::new(2);
    world.say(hold_of(ReservationId(3), V, with_peers(2, peers)));
    let refused = refusal(&world).to_string();
    assert!(refused.contains("60 ranges of addresses, at most 48"), "{refused}");
    world.say(hold_of(ReservationId(4), V, with_peers(2, vec![peer("b", 1, 2)])));
    assert!(refusal(&world).to_string().contains("less than 1 kbit/s"), "{}", refusal(&world));
    assert!(world.site.is_idle());
}
