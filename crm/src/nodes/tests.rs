use proptest::prelude::*;
use protocol::ids::ReservationId;

use super::*;
use crate::pilot::Round;

fn site() -> SiteName {
    "a".parse().unwrap()
}

fn nodes(members_max: u32) -> Nodes {
    let names = ["a1", "a2", "a10"];
    Nodes::new(names.map(|n| Node::new(n.parse().unwrap(), 1 << 30, members_max)).to_vec())
}

fn charge(layer: u32, members: u32, start: u64, end: u64) -> Charge {
    Charge::new(layer, members, None, Duration::from_secs(start), Duration::from_secs(end))
}

fn pilot(n: u64) -> PilotId {
    PilotId { reservation: ReservationId(n), round: Round(1), member: 0 }
}

fn book(nodes: &mut Nodes, charge: Charge) -> Result<(), Refusal> {
    nodes.book(&site(), &[], &[charge], &Limits::default())
}

#[test]
fn what_cannot_be_booked_is_refused_with_what_there_is_and_changes_nothing() {
    let mut nodes = nodes(2);
    assert_eq!(nodes.layers(), [3, 3]);
    book(&mut nodes, charge(0, 2, 10, 20)).unwrap();
    let refused = book(&mut nodes, charge(0, 2, 5, 11)).unwrap_err();
    assert!(
        matches!(&refused, Refusal::NoRoom { asked: 2, have: 1, in_s, .. } if in_s == &[15]),
        "{refused}"
    );
    let refused = book(&mut nodes, charge(0, 4, 30, 40)).unwrap_err();
    assert!(matches!(refused, Refusal::MoreNodesThanExist { have: 3, asked: 4, .. }));
    let refused = book(&mut nodes, charge(2, 1, 30, 40)).unwrap_err();
    assert!(matches!(refused, Refusal::MoreNodesThanExist { have: 0, .. }));
    let limits = Limits { memory_bytes: 2 << 30, ..Limits::default() };
    let refused = nodes.book(&site(), &[], &[charge(1, 1, 0, 9)], &limits).unwrap_err();
    assert!(matches!(refused, Refusal::AgainstPolicy { .. }), "{refused}");
    // Before and after, and in the layer above, there is room for all.
    for free in [charge(0, 3, 0, 10), charge(0, 3, 20, 30), charge(1, 3, 0, 30), charge(0, 1, 10, 20)] {
        book(&mut nodes, free).unwrap();
    }
}

#[test]
fn the_emptiest_nodes_come_first_in_the_order_of_the_configuration() {
    let mut nodes = nodes(2);
    let limits = Limits::default();
    let choose = |nodes: &Nodes, layer, count| {
        let chosen = nodes.choose(layer, count, &limits);
        chosen.map(|nodes| nodes.iter().map(|n| n.as_str().to_owned()).collect::<Vec<_>>())
    };
    let a1: NodeName = "a1".parse().unwrap();
    nodes.take(&a1, 0, pilot(1));
    assert_eq!(choose(&nodes, 1, 2).unwrap(), ["a2", "a10"]);
    assert_eq!(choose(&nodes, 1, 3).unwrap(), ["a1", "a2", "a10"]);
    assert_eq!(choose(&nodes, 0, 3), Err(2));
    // Of before a restart, another may still be there.
    nodes.take(&a1, 0, pilot(2));
    nodes.release(&a1, pilot(1));
    assert_eq!(choose(&nodes, 0, 3), Err(2));
    nodes.release(&a1, pilot(2));
    nodes.release(&a1, pilot(2));
    assert_eq!((choose(&nodes, 0, 3).unwrap().len(), nodes.taken()), (3, 0));
}

#[test]
fn a_dirty_node_takes_no_pilot_until_its_pilot_is_gone_and_grants_keep_their_charge() {
    let mut nodes = nodes(1);
    let granted = charge(0, 3, 0, 100);
    book(&mut nodes, granted).unwrap();
    let a1: NodeName = "a1".parse().unwrap();
    nodes.take(&a1, 0, pilot(1));
    nodes.soil(&Pilot::new(pilot(1), a1.clone(), 0, [10, 0, 0, 1].into()), "a cgroup".into());
    assert_eq!((nodes.usable(), nodes.layers()), (2, vec![2]));
    assert_eq!(nodes.unusable(), [(a1.clone(), "a cgroup".into())]);
    assert!(nodes.choose(0, 3, &Limits::default()).is_err());
    // A change that needs no more than before is still possible, one that does is not.
    let (shorter, longer) = (charge(0, 3, 0, 90), charge(0, 3, 0, 110));
    let both = |new| Charge::larger_of(granted, new);
    nodes.book(&site(), &[granted], &both(shorter), &Limits::default()).unwrap();
    nodes.book(&site(), &both(shorter), &[granted], &Limits::default()).unwrap();
    nodes.book(&site(), &[granted], &both(longer), &Limits::default()).unwrap_err();
    nodes.release(&a1, pilot(1));
    nodes.book(&site(), &[granted], &both(longer), &Limits::default()).unwrap();
}

#[test]
fn a_window_is_rounded_inwards_and_never_to_nothing() {
    let ms = Duration::from_millis;
    let of = |start, end| Charge::new(0, 1, None, ms(start), ms(end)).window;
    let window = |start, end| Window::new(start, end).unwrap();
    assert_eq!(of(1_000, 3_000), window(1, 3));
    assert_eq!(of(1_001, 3_999), window(2, 3));
    assert_eq!(of(1_500, 1_600), window(2, 3));
    let early = Charge::new(0, 1, Some(ms(900)), ms(5_500), ms(9_000));
    assert_eq!(early.window, window(0, 9));
    assert_eq!(Charge::before(0, 1, ms(5_100), ms(5_900)).unwrap().window, window(5, 6));
    assert!(Charge::before(0, 1, ms(6_000), ms(5_900)).is_none());
}

/// Seconds of the brute-force book.
const SECONDS: u64 = 40;

fn per_second(charges: &[Charge], layer: u32) -> Vec<u32> {
    let at = |second: u64| {
        let of_layer = charges.iter().filter(|c| c.layer == layer && c.window.contains(second));
        of_layer.map(|c| c.members).sum()
    };
    (0..SECONDS).map(at).collect()
}

proptest! {
    /// Against the plainest oracle: an array of seconds.
    #[test]
    fn a_change_is_charged_with_the_larger_of_both_at_any_time(
        old in (1u32..5, 0u64..30, 1u64..10), new in (1u32..5, 0u64..30, 1u64..10), layers in 0u32..4
    ) {
        let make = |(members, start, length): (u32, u64, u64), layer| charge(layer, members, start, start + length);
        let (old, new) = (make(old, layers & 1), make(new, layers >> 1));
        let both = Charge::larger_of(old, new);
        for layer in 0..2 {
            let (alone, other) = (per_second(&[old], layer), per_second(&[new], layer));
            let larger: Vec<u32> = alone.iter().zip(&other).map(|(a, b)| *a.max(b)).collect();
            prop_assert_eq!(per_second(&both, layer), larger);
        }
    }

    /// Parts come and go in the order of time, each on whatever nodes are free when it begins: who
    /// was admitted by number always finds its distinct nodes.
    #[test]
    fn who_is_admitted_by_number_finds_distinct_free_nodes_when_it_begins(
        rooms in prop::collection::vec(1u32..4, 1..6),
        parts in prop::collection::vec((0u32..3, 1u32..5, 0u64..30, 1u64..10), 1..40)
    ) {
        let list = rooms.iter().enumerate().map(|(n, room)| Node::new(format!("a{n}").parse().unwrap(), 0, *room));
        let mut nodes = Nodes::new(list.collect());
        let mut admitted: Vec<(u64, Charge)> = Vec::new();
        for (n, (layer, members, start, length)) in (1u64..).zip(parts) {
            let charge = charge(layer, members, start, start + length);
            let size = rooms.iter().filter(|room| **room > layer).count() as u32;
            let charges: Vec<Charge> = admitted.iter().map(|(_, charge)| *charge).collect();
            let used = per_second(&charges, layer);
            let fits = (start..start + length).all(|s| used[s as usize] + members <= size);
            let booked = book(&mut nodes, charge);
            prop_assert_eq!(booked.is_ok(), fits);
            if let Err(Refusal::NoRoom { in_s, .. }) = &booked {
                // The first later start at which it would be admitted.
                let fits = |from: u64| {
                    let (from, to) = (start + from, start + from + length);
                    (from..to).all(|s| used.get(s as usize).copied().unwrap_or(0) + members <= size)
                };
                let first = (1..).find(|later| fits(*later));
                prop_assert_eq!(in_s.first().copied(), first);
            }
            if booked.is_ok() {
                admitted.push((n, charge));
            }
        }
        let mut placed: Vec<(u64, Vec<NodeName>)> = Vec::new();
        for second in 0..SECONDS {
            for (n, _) in admitted.iter().filter(|(_, charge)| charge.window.end() == second) {
                let at = placed.iter().position(|(m, _)| m == n).unwrap();
                placed.remove(at).1.iter().for_each(|node| nodes.release(node, pilot(*n)));
            }
            for (n, charge) in admitted.iter().filter(|(_, charge)| charge.window.start() == second) {
                let chosen = nodes.choose(charge.layer, charge.members, &Limits::default());
                prop_assert!(chosen.is_ok(), "part {} finds {:?} nodes free", n, chosen);
                let chosen = chosen.unwrap();
                chosen.iter().for_each(|node| nodes.take(node, charge.layer, pilot(*n)));
                placed.push((*n, chosen));
            }
            let most = nodes.list.iter().all(|node| node.taken.len() as u32 <= node.members_max);
            prop_assert!(most);
        }
        admitted.iter().for_each(|(_, charge)| nodes.give_back(&[*charge]));
        prop_assert!(nodes.booked.iter().all(Profile::is_empty));
    }
}
