//! One promise each.

use super::*;

/// One site with these layers and a range that is never short.
fn one_site(layers: &[u32]) -> Book {
    let mut book = Book::default();
    book.set_capacity(&site("a"), layers);
    book.set_addresses(&site("a"), &[net("10.0.0.0/16")], &[]);
    book
}

/// Takes the plan of the request, and returns it.
fn take(book: &mut Book, id: u64, request: &Request) -> Plan {
    let plan = book.plan(request, &no_links()).unwrap();
    book.take(id, &plan).unwrap();
    plan
}

#[test]
fn a_part_stands_in_one_layer_and_in_the_highest_that_has_room() {
    let mut book = one_site(&[6, 3]);
    let (candidates, rates) = (all_of(&["a"]), Rates::None);
    let layer_of = |book: &mut Book, id, members| {
        let placement = placed(&[("a", members)]);
        take(book, id, &request(&placement, &candidates, &rates)).parts[0].layer
    };
    assert_eq!(layer_of(&mut book, 1, 2), 1);
    assert_eq!(layer_of(&mut book, 2, 5), 0);
    // There are two places left, but no two in one layer: its members would share a node.
    let placement = placed(&[("a", 2)]);
    let answer = blocked(book.plan(&request(&placement, &candidates, &rates), &no_links()));
    assert_eq!(answer.resource, Resource::Nodes { site: site("a") });
    assert_eq!((answer.asked, answer.have), (2, 1));
    assert_eq!(answer.starts, [10, 20, 30]);
    assert_eq!(layer_of(&mut book, 3, 1), 1);
    assert_eq!(layer_of(&mut book, 4, 1), 0);
}

#[test]
fn what_there_is_never_enough_of_has_no_start() {
    let book = one_site(&[4, 4]);
    let (candidates, rates) = (all_of(&["a"]), Rates::None);
    let placement = placed(&[("a", 5)]);
    let answer = blocked(book.plan(&request(&placement, &candidates, &rates), &no_links()));
    assert_eq!((answer.have, answer.starts), (4, Vec::new()));
    let placement = Placement::Anywhere(5);
    let answer = blocked(book.plan(&request(&placement, &candidates, &rates), &no_links()));
    assert_eq!((answer.have, answer.starts), (4, Vec::new()));
    let elsewhere = placed(&[("b", 1)]);
    let answer = blocked(book.plan(&request(&elsewhere, &candidates, &rates), &no_links()));
    assert_eq!((answer.resource, answer.have), (Resource::Nodes { site: site("b") }, 0));
    let none = book.plan(&request(&placement, &[], &rates), &no_links());
    assert_eq!(none, Err(NoPlan::NoSites));
}

#[test]
fn a_site_that_shrinks_keeps_what_is_booked_and_plans_nothing_more() {
    let mut book = one_site(&[4]);
    let (candidates, rates) = (all_of(&["a"]), Rates::None);
    let (three, one) = (placed(&[("a", 3)]), placed(&[("a", 1)]));
    take(&mut book, 1, &request(&three, &candidates, &rates));
    book.set_capacity(&site("a"), &[2]);
    let answer = blocked(book.plan(&request(&one, &candidates, &rates), &no_links()));
    assert_eq!((answer.have, &answer.starts[..1]), (0, &[10][..]));
    book.set_capacity(&site("a"), &[]);
    assert!(blocked(book.plan(&request(&one, &candidates, &rates), &no_links())).starts.is_empty());
    book.set_capacity(&site("a"), &[4]);
    take(&mut book, 2, &request(&one, &candidates, &rates));
}

#[test]
fn addresses_are_prepared_before_the_window_but_not_before_now() {
    let mut book = one_site(&[4]);
    let (candidates, rates, placement) = (all_of(&["a"]), Rates::None, placed(&[("a", 1)]));
    let base = request(&placement, &candidates, &rates);
    let at = |now, start| Request { now, earliest: start, latest: start, ..base.clone() };
    let addresses = |book: &mut Book, id, request: &Request| take(book, id, request).addresses;
    assert_eq!(addresses(&mut book, 1, &at(50, 50)), Window::new(50, 61).unwrap());
    assert_eq!(addresses(&mut book, 2, &at(50, 51)), Window::new(50, 62).unwrap());
    assert_eq!(addresses(&mut book, 3, &at(50, 90)), Window::new(88, 101).unwrap());
}

#[test]
fn an_address_is_not_used_again_while_a_fresh_one_is_left() {
    let mut book = one_site(&[9]);
    book.set_addresses(&site("a"), &[net("10.0.0.0/29")], &[]);
    let (candidates, rates, placement) = (all_of(&["a"]), Rates::None, placed(&[("a", 1)]));
    let mut order = Vec::new();
    for id in 0..13 {
        let plan = take(&mut book, id, &request(&placement, &candidates, &rates));
        order.push(plan.parts[0].blocks[0].first.octets()[3]);
        book.end(id);
        book.confirm(id, &site("a"));
    }
    assert_eq!(order, [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 1]);
    let six = placed(&[("a", 6)]);
    take(&mut book, 99, &request(&six, &candidates, &rates));
}

#[test]
fn parts_at_sites_with_the_same_range_are_disjoint_and_the_narrower_chooses_first() {
    let mut book = Book::default();
    for (name, range) in [("a", "10.0.0.0/28"), ("b", "10.0.0.0/29")] {
        book.set_capacity(&site(name), &[20]);
        book.set_addresses(&site(name), &[net(range)], &[]);
    }
    let (candidates, rates) = (all_of(&["a", "b"]), Rates::None);
    // All six of b, and the rest of a: its own first six would leave none.
    let placement = placed(&[("a", 7), ("b", 6)]);
    let plan = take(&mut book, 1, &request(&placement, &candidates, &rates));
    let all: std::collections::BTreeSet<_> =
        plan.parts.iter().flat_map(|part| addresses_in(&part.blocks)).collect();
    assert_eq!(all.len(), 13);
    // One more has to wait until the first come back, a lead later.
    let one = placed(&[("b", 1)]);
    let answer = blocked(book.plan(&request(&one, &candidates, &rates), &no_links()));
    assert_eq!(answer.resource, Resource::Addresses { site: site("b") });
    assert_eq!((answer.asked, answer.have, &answer.starts[..1]), (1, 0, &[13][..]));
    assert_eq!(book.neighbours(1, plan.parts[1].blocks[0]).0, None);
    let above = book.neighbours(1, plan.parts[1].blocks[0]).1.unwrap();
    assert!(addresses_in(&plan.parts[0].blocks).contains(&above), "{above}");
}

#[test]
fn addresses_come_back_only_when_the_site_confirms() {
    let mut book = one_site(&[9]);
    book.set_addresses(&site("a"), &[net("10.0.0.0/30")], &[]);
    let (candidates, rates, two) = (all_of(&["a"]), Rates::None, placed(&[("a", 2)]));
    let plan = take(&mut book, 1, &request(&two, &candidates, &rates));
    book.confirm(1, &site("a"));
    assert_eq!(book.taken_at(5).count(), 2, "it is not over");
    book.end(1);
    let answer = blocked(book.plan(&request(&two, &candidates, &rates), &no_links()));
    assert_eq!(answer.resource, Resource::Addresses { site: site("a") });
    assert_eq!(book.unconfirmed(1), [&site("a")]);
    assert_eq!(book.take(2, &plan), Err(NotTaken::AddressTaken), "an old plan");
    book.confirm(1, &site("a"));
    assert!(book.is_empty());
    book.take(2, &plan).unwrap();
}

#[test]
fn machines_of_any_site_are_nobodys_address_and_a_site_keeps_only_its_own_from_others() {
    let mut book = Book::default();
    for name in ["a", "b"] {
        book.set_capacity(&site(name), &[9]);
    }
    let machines = ["10.0.0.1".parse().unwrap(), "10.9.0.1".parse().unwrap()];
    book.set_addresses(&site("a"), &[net("10.0.0.0/29")], &machines);
    book.set_addresses(&site("b"), &[net("10.0.0.0/29"), net("10.9.0.0/30")], &[]);
    assert_eq!((book.addresses_of(&site("a")), book.addresses_of(&site("b"))), (5, 7));
    let (candidates, rates, placement) = (all_of(&["b"]), Rates::None, placed(&[("b", 7)]));
    let plan = take(&mut book, 1, &request(&placement, &candidates, &rates));
    let all = addresses_in(&plan.parts[0].blocks);
    assert!(!all.contains(&machines[0]) && all.contains(&machines[1]));
}

#[test]
fn among_as_few_sites_those_with_the_environment_are_taken_then_the_tightest() {
    let mut book = Book::default();
    for (name, nodes) in [("a", 8), ("b", 4), ("c", 6)] {
        book.set_capacity(&site(name), &[nodes]);
        book.set_addresses(&site(name), &[net("10.0.0.0/16")], &[]);
    }
    let rates = Rates::None;
    let chosen = |members, warm: &[&str]| {
        let mut candidates = all_of(&["a", "b", "c"]);
        candidates.iter_mut().for_each(|one| one.warm = warm.contains(&one.site.as_str()));
        let placement = Placement::Anywhere(members);
        let plan = book.plan(&request(&placement, &candidates, &rates), &no_links()).unwrap();
        plan.parts.iter().map(|part| format!("{}{}", part.site, part.members)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(chosen(4, &[]), "b4");
    assert_eq!(chosen(4, &["a", "c"]), "c4");
    assert_eq!(chosen(7, &["b", "c"]), "a7", "one site is better than two that have it");
    assert_eq!(chosen(10, &[]), "c6 b4");
    assert_eq!(chosen(10, &["a", "c"]), "a8 c2");
    assert_eq!(chosen(18, &[]), "a8 c6 b4");
}

#[test]
fn of_equal_sites_those_with_bandwidth_to_spare_are_chosen() {
    let mut book = Book::default();
    for name in ["a", "b", "c"] {
        book.set_capacity(&site(name), &[4]);
        book.set_addresses(&site(name), &[net("10.0.0.0/16")], &[]);
    }
    let links = [("a", "b", 10), ("a", "c", 20), ("b", "c", 15)];
    let links = links.map(|(a, b, kbit)| (site(a), site(b), kbit));
    let mut links = StaticLinks::new(links, [], Duration::from_secs(60)).unwrap();
    let (candidates, placement) = (all_of(&["a", "b", "c"]), Placement::Anywhere(8));
    let mut chosen = |id: u64, rate| {
        let rates = Rates::Between(rate);
        let plan = book.plan(&request(&placement, &candidates, &rates), &links)?;
        connect(&mut links, id, 1, &plan);
        Ok(plan.parts.iter().map(|part| part.site.to_string()).collect::<Vec<_>>().join(""))
    };
    assert_eq!(chosen(1, 8), Ok("ac".to_owned()));
    assert_eq!(chosen(2, 8), Ok("bc".to_owned()), "a and c would have 4 left, these have 7");
    assert_eq!(chosen(3, 8), Ok("ac".to_owned()));
    let answer: Result<String, NoPlan> = chosen(4, 16);
    let Err(NoPlan::Blocked(answer)) = answer else { panic!("{answer:?}") };
    assert_eq!((answer.asked, answer.have), (16, 10));
    assert_eq!(answer.resource, Resource::Link { a: site("a"), b: site("b") });
    assert_eq!(&answer.starts[..1], [10], "when the link from a to c is free again");
}

#[test]
fn a_link_that_is_short_is_named_with_the_earliest_start() {
    let mut book = Book::default();
    for name in ["a", "b"] {
        book.set_capacity(&site(name), &[9]);
        book.set_addresses(&site(name), &[net("10.0.0.0/16")], &[]);
    }
    let link = [(site("a"), site("b"), 200_000)];
    let mut links = StaticLinks::new(link, [], Duration::from_secs(60)).unwrap();
    let (candidates, placement) = (all_of(&["a", "b"]), placed(&[("a", 2), ("b", 2)]));
    for (id, rate) in [(1, 150_000), (2, 50_000)] {
        let rates = Rates::Between(rate);
        let plan = book.plan(&request(&placement, &candidates, &rates), &links).unwrap();
        connect(&mut links, id, 1, &plan);
        book.take(id, &plan).unwrap();
    }
    let rates = Rates::Between(1_000);
    let answer = blocked(book.plan(&request(&placement, &candidates, &rates), &links));
    let resource = Resource::Link { a: site("a"), b: site("b") };
    assert_eq!(answer, Blocked { resource, asked: 1_000, have: 0, starts: vec![10, 20, 30] });
    let rates = Rates::Between(200_001);
    assert!(blocked(book.plan(&request(&placement, &candidates, &rates), &links)).starts.is_empty());
    let alone = StaticLinks::new([], [], Duration::from_secs(60)).unwrap();
    let unknown = NoPlan::UnknownLink { a: site("a"), b: site("b") };
    assert_eq!(book.plan(&request(&placement, &candidates, &rates), &alone), Err(unknown));
}

#[test]
fn a_change_that_cannot_be_names_what_is_short_and_leaves_the_grant() {
    let mut book = one_site(&[4, 4]);
    let (candidates, rates) = (all_of(&["a"]), Rates::None);
    let (three, later) = (placed(&[("a", 3)]), placed(&[("a", 2)]));
    let first = take(&mut book, 1, &request(&three, &candidates, &rates));
    let layer = first.parts[0].layer;
    // Another follows in the same layer, and one more that leaves too little in the other.
    let behind = Request { now: 0, earliest: 10, latest: 10, ..request(&later, &candidates, &rates) };
    let mut plan = book.plan(&behind, &no_links()).unwrap();
    plan.parts[0].layer = layer;
    book.take(2, &plan).unwrap();
    let change = |begun| Change { duration: 15, members: &[], pairs: &[], begun, tail: 1 };
    let answer = blocked(book.plan_change(1, &change(true), &no_links()));
    assert_eq!(answer.resource, Resource::Nodes { site: site("a") });
    assert_eq!((answer.asked, answer.have), (3, 2));
    // Before it begins, it may move to the other layer.
    let moved = book.plan_change(1, &change(false), &no_links()).unwrap();
    assert_ne!(moved.parts[0].layer, layer);
    assert_eq!(moved.parts[0].blocks, first.parts[0].blocks, "addresses stay when they can");
    book.hold_change(1, &moved).unwrap();
    book.commit_change(1).unwrap();
    assert_eq!(book.commit_change(1), Err(NotTaken::NotBooked));
    assert_eq!(book.plan_change(3, &change(true), &no_links()), Err(NoPlan::NotBooked));
    assert_eq!(book.hold_change(3, &moved), Err(NotTaken::NotBooked));
}
