//! What one would try by hand.

use super::*;

#[test]
fn one_of_two_has_nearly_all_within_three_samples_and_shares_again_when_asked() {
    let mut world = World::all_set_up(2, &[50_000]);
    for _ in 0..3 {
        world.second(&[u32::MAX, 0], 956);
    }
    assert!(world.installed(0)[0] >= 48_000, "{:?}", world.installed(0));
    for _ in 0..3 {
        world.second(&[u32::MAX, u32::MAX], 956);
    }
    assert_eq!(world.installed(0), [25_000, 25_000]);
    let before = world.messages;
    for _ in 0..20 {
        world.second(&[u32::MAX, u32::MAX], 956);
    }
    assert_eq!(world.messages, before, "nothing to do, nothing said");
}

#[test]
fn who_needs_a_tenth_more_or_less_keeps_his_share() {
    let mut world = World::all_set_up(2, &[100_000]);
    let appetites = [27_000, 30_000, 33_000, 29_000, 27_000, 27_000];
    let mut seconds = appetites.iter().cycle();
    for _ in 0..10 {
        world.second(&[u32::MAX, *seconds.next().unwrap()], 1000);
    }
    let settled = (world.messages, world.installed(0));
    assert!(settled.1[0] > 48_000, "{settled:?}");
    for _ in 0..20 {
        world.second(&[u32::MAX, *seconds.next().unwrap()], 1000);
    }
    assert_eq!((world.messages, world.installed(0)), settled);
}

#[test]
fn growth_waits_for_the_shrink_that_pays_for_it() {
    let mut world = World::all_set_up(2, &[50_000]);
    for at in [1000, 2000] {
        world.shares.sample(world.now, 0, 0, at, 25_000 * at / 8);
        world.shares.sample(world.now, 1, 0, at, 0);
    }
    let shrink = world.shares.plan(world.now);
    assert_eq!(shrink, [Order { member: 1, serial: 2, rates_kbit: vec![1562] }]);
    // However long it takes and however often it is told anew, nobody grows.
    for retry in 0..3 {
        world.now += ORDER_TIME;
        let at = 8000 + 6000 * u64::from(retry);
        world.shares.sample(world.now, 0, 0, at, 25_000 * at / 8);
        world.shares.sample(world.now, 1, 0, at, 0);
        let again = world.shares.plan(world.now);
        assert_eq!(again.len(), 1, "{again:?}");
        assert_eq!((again[0].member, again[0].serial), (1, 3 + retry));
        world.shares.confirmed(1, 2);
    }
    assert_eq!(world.shares.held_kbit(0), 50_000);
    world.shares.confirmed(1, 5);
    world.now += ROUND;
    let grow = world.shares.plan(world.now);
    assert_eq!(grow, [Order { member: 0, serial: 2, rates_kbit: vec![48_438] }]);
}

#[test]
fn a_dead_members_share_is_used_when_it_is_confirmed_gone_and_not_before() {
    let mut world = World::all_set_up(3, &[30_000]);
    for _ in 0..5 {
        world.second(&[u32::MAX, 0, u32::MAX], 1000);
    }
    assert_eq!(world.installed(0), [14_687, 625, 14_688]);
    world.nodes[2].dead = true;
    world.shares.lost(2);
    for _ in 0..5 {
        world.second(&[u32::MAX, u32::MAX, 0], 1000);
    }
    assert_eq!(world.installed(0), [7656, 7656, 14_688], "the living share what is left");
    world.shares.gone(2);
    world.nodes[2].gone = true;
    for _ in 0..3 {
        world.second(&[u32::MAX, u32::MAX, 0], 1000);
    }
    assert_eq!(world.installed(0)[..2], [15_000, 15_000]);
}

/// Each of many lacks too little to be worth a message, and one has what they lack.
#[test]
fn one_that_has_too_much_gives_it_up_though_nobody_lacks_much() {
    let mut world = World::all_set_up(200, &[200_000]);
    for (member, node) in world.nodes.iter_mut().enumerate() {
        node.installed = vec![if member == 7 { 2000 } else { 994 }];
        world.shares.members[member].bound_kbit = node.installed.clone();
    }
    for _ in 0..5 {
        world.second(&[u32::MAX; 200], 1000);
    }
    let shares = world.installed(0);
    assert_eq!((shares[7], shares[8]), (1000, 994));
    assert!(world.messages <= 10, "{} messages", world.messages);
}

#[test]
fn a_growth_that_failed_is_told_again_for_nobody_knows_what_the_node_has() {
    let mut world = World::all_set_up(1, &[50_000]);
    world.shares.set_grant(0, 1_000_000).unwrap();
    let grow = world.shares.plan(world.now);
    assert_eq!(grow[0].rates_kbit, [62_500], "it was not seen wanting, but the floor has risen");
    world.shares.failed(world.now, 0, grow[0].serial);
    assert_eq!(world.shares.held_kbit(0), 62_500);
    world.now += ROUND;
    assert_eq!(world.shares.plan(world.now), [], "the node is left alone for a while");
    world.now += RETRY_TIME;
    let again = world.shares.plan(world.now);
    assert_eq!((again[0].serial, &again[0].rates_kbit), (grow[0].serial + 1, &vec![62_500]));
}

#[test]
fn a_changed_grant_is_in_force_as_soon_as_the_nodes_say_so() {
    let mut world = World::all_set_up(2, &[50_000, 8000]);
    for _ in 0..3 {
        world.second(&[u32::MAX, u32::MAX], 1000);
    }
    world.shares.set_grant(0, 20_000).unwrap();
    assert!(!world.shares.is_within_grants());
    world.now += ROUND;
    let orders = world.shares.plan(world.now);
    let rates: Vec<_> = orders.iter().map(|order| order.rates_kbit.clone()).collect();
    assert_eq!(rates, [[10_000, 4000], [10_000, 4000]]);
    world.shares.confirmed(0, orders[0].serial);
    assert_eq!(world.shares.held_kbit(0), 35_000);
    world.shares.confirmed(1, orders[1].serial);
    assert!(world.shares.is_within_grants());
    for (node, order) in world.nodes.iter_mut().zip(orders) {
        (node.serial, node.installed) = (order.serial, order.rates_kbit);
    }
    world.shares.set_grant(0, 60_000).unwrap();
    for _ in 0..2 {
        world.second(&[u32::MAX, u32::MAX], 1000);
    }
    assert_eq!(world.installed(0), [30_000, 30_000]);
    assert_eq!(world.installed(1), [4000, 4000]);
    let thin = TooThin { grant_kbit: 1, members: 2 };
    assert_eq!(world.shares.set_grant(0, 1), Err(thin));
    assert_eq!(Shares::new(2, &[100, 1]).unwrap_err(), thin);
}

#[test]
fn what_is_not_set_up_yet_changes_without_a_word_and_a_class_may_come_later() {
    let mut shares = Shares::new(2, &[50_000, 0]).unwrap();
    shares.set_grant(0, 20_000).unwrap();
    shares.set_grant(1, 6000).unwrap();
    assert_eq!(shares.plan(Duration::ZERO), []);
    assert_eq!(shares.setup(0).unwrap().rates_kbit, [10_000, 3000]);
    assert_eq!(shares.setup(0), shares.setup(0), "repeatable until it is confirmed");
    shares.confirmed(0, 1);
    assert_eq!(shares.setup(0), None);
}

#[test]
fn who_never_does_as_told_is_named_and_holds_what_it_may_have() {
    let mut world = World::all_set_up(2, &[50_000]);
    world.shares.set_grant(0, 10_000).unwrap();
    for _ in 0..FAILURES_MAX {
        assert_eq!(world.shares.hopeless().count(), 0);
        world.now += RETRY_TIME;
        for order in world.shares.plan(world.now) {
            match order.member {
                0 => world.shares.confirmed(0, order.serial),
                _ => world.shares.failed(world.now, 1, order.serial),
            }
        }
    }
    assert_eq!(world.shares.hopeless().collect::<Vec<_>>(), [1]);
    assert_eq!(world.shares.held_kbit(0), 30_000);
    assert!(world.shares.next_deadline().is_some(), "and it is tried again");
}
