use proptest::prelude::*;
use protocol::names::EnvironmentName;
use protocol::reservation::Limits;
use protocol::site::Remaining;

use super::*;

fn block(first: [u8; 4], count: u32) -> AddressBlock {
    AddressBlock { first: first.into(), count }
}

fn peer(site: &str, rate_kbit: u32, addresses: Vec<AddressBlock>) -> Peer {
    Peer { site: site.parse().unwrap(), rate_kbit, addresses }
}

fn part(peers: Vec<Peer>) -> Part {
    Part {
        user: "alice".parse().unwrap(),
        members: 2,
        slots: 1,
        limits: Limits::default(),
        window: Remaining { starts_in_ms: 0, ends_in_ms: 1000 },
        layer: 0,
        environment: EnvironmentName::host(),
        addresses: vec![block([10, 1, 0, 8], 2)],
        peers,
    }
}

fn class_of(destinations: &[Destination], address: u32) -> Option<u8> {
    let mut hits = destinations.iter().filter(|one| address & one.mask() == u32::from(one.network));
    let hit = hits.next().map(|one| one.class);
    assert!(hits.next().is_none(), "two classes for one address");
    hit
}

#[test]
fn whoever_has_a_class_keeps_its_number() {
    let b = || peer("b", 1000, vec![block([10, 2, 0, 0], 8)]);
    let c = || peer("c", 2000, vec![block([10, 3, 0, 0], 8)]);
    let d = || peer("d", 3000, vec![block([10, 4, 0, 0], 8)]);
    let first = Classes::new(&part(vec![b(), c()])).unwrap();
    assert_eq!(first.grants_kbit()[..3], [1000, 2000, 0]);
    let second = first.renewed(&part(vec![d(), c()])).unwrap();
    assert_eq!(second.grants_kbit()[..3], [3000, 2000, 0]);
    assert_eq!(second.renewed(&part(vec![c(), b(), d()])).unwrap().grants_kbit()[..3], [3000, 2000, 1000]);
    assert!(first.renewed(&part(vec![])).unwrap().is_empty());
    let rates = Rates { serial: 4, lifetime_s: 9, ..second.rates(&[10, 0]) };
    assert_eq!(rates.rates_kbit[..3], [10, 1, 0]);
    rates.check().unwrap();
}

#[test]
fn peers_that_cannot_be_shaped_are_refused_by_what_is_wrong() {
    let thin = part(vec![peer("b", 1, vec![block([10, 2, 0, 0], 8)])]);
    assert!(matches!(Classes::new(&thin), Err(BadPeers::TooThin { .. })));
    let twice = part(vec![peer("b", 9, vec![]), peer("b", 9, vec![])]);
    assert!(matches!(Classes::new(&twice), Err(BadPeers::Overlap(_))));
    let shared = vec![block([10, 2, 0, 0], 8)];
    let overlap = part(vec![peer("b", 9, shared.clone()), peer("c", 9, shared)]);
    assert!(matches!(Classes::new(&overlap), Err(BadPeers::Overlap(_))));
    let nine = (b'b'..=b'j').map(|n| peer(&char::from(n).to_string(), 9, vec![])).collect();
    assert_eq!(Classes::new(&part(nine)), Err(BadPeers::TooMany));
    // Addresses in turn, so that nothing can be taken together.
    let blocks = |of: u32| (0..40).map(|n| block((0x0a02_0000 + 2 * n + of).to_be_bytes(), 1)).collect();
    let woven = part(vec![peer("b", 9, blocks(0)), peer("c", 9, blocks(1))]);
    assert_eq!(Classes::new(&woven), Err(BadPeers::TooManyPrefixes(80)));
}

proptest! {
    /// Every address of a peer is in its class, every address of another peer or of the own part is
    /// not, and when there are few prefixes nothing else is.
    #[test]
    fn every_address_is_in_the_class_of_its_part(
        starts in prop::collection::btree_map(0u32..4096, (0usize..3, 1u32..40), 1..60)
    ) {
        let base = u32::from(Ipv4Addr::new(10, 2, 0, 0));
        let (mut peers, mut own, mut end) = (vec![vec![]; 2], vec![], 0);
        for (start, (whose, count)) in starts {
            if start < end {
                continue;
            }
            end = start + count;
            let block = AddressBlock { first: (base + start).into(), count };
            match peers.get_mut(whose) {
                Some(peer) => peer.push(block),
                None => own.push(block),
            }
        }
        let [b, c] = [peers[0].clone(), peers[1].clone()];
        let mut part = part(vec![peer("b", 1000, b.clone()), peer("c", 2000, c.clone())]);
        part.addresses = own.clone();
        let Ok(classes) = Classes::new(&part) else { return Ok(()) };
        let destinations = &classes.destinations;
        prop_assert!(destinations.len() <= DESTINATIONS_MAX);
        Rates { serial: 1, lifetime_s: 1, ..classes.rates(&[1, 1]) }.check().unwrap();
        let has = |blocks: &[AddressBlock], address: u32| {
            blocks.iter().any(|block| address.wrapping_sub(block.first.into()) < block.count)
        };
        let exact = {
            let of = |blocks: &[AddressBlock], class| blocks.iter().filter_map(|b| stretch(b, class)).collect();
            let mut all: Vec<Stretch> = of(&b, 0);
            all.extend::<Vec<Stretch>>(of(&c, 1));
            all.sort_unstable();
            prefixes(&all).len() <= DESTINATIONS_MAX
        };
        for address in base..base + 4200 {
            let class = class_of(destinations, address);
            if has(&b, address) {
                prop_assert_eq!(class, Some(0));
            } else if has(&c, address) {
                prop_assert_eq!(class, Some(1));
            } else if exact || has(&own, address) {
                prop_assert_eq!(class, None);
            }
        }
    }
}
