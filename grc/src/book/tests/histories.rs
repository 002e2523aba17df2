//! Random histories of plans, grants, changes and ends, against brute force.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Layers; site d has none that takes two.
const LAYERS: [&[u32]; 4] = [&[5, 3], &[4, 4, 1], &[6], &[2]];
/// Ranges of a and b overlap, and so do those of b and c.
const RANGES: [&str; 4] = ["10.0.0.0/25", "10.0.0.64/25", "10.0.0.96/26", "10.1.0.0/26"];
const LINKS: [(usize, usize, u64); 5] = [(0, 1, 10), (0, 2, 8), (0, 3, 6), (1, 2, 9), (1, 3, 5)];
const UPLINKS: [(usize, u64); 3] = [(0, 12), (1, 11), (2, 11)];

fn grid() -> (Book, StaticLinks) {
    let mut book = Book::default();
    for (name, (layers, range)) in NAMES.iter().zip(LAYERS.iter().zip(RANGES)) {
        book.set_capacity(&site(name), layers);
        // Not enough to be in the way: the first address of its range is a machine's.
        let machine = net(range).hosts().next().unwrap();
        book.set_addresses(&site(name), &[net(range)], &[machine]);
    }
    let links = LINKS.map(|(a, b, kbit)| (site(NAMES[a]), site(NAMES[b]), kbit));
    let uplinks = UPLINKS.map(|(at, kbit)| (site(NAMES[at]), kbit));
    (book, StaticLinks::new(links, uplinks, std::time::Duration::from_secs(60)).unwrap())
}

fn number(site: &SiteName) -> usize {
    NAMES.iter().position(|name| *name == site.as_str()).unwrap()
}

/// What was granted and not given back, with a change that is held.
#[derive(Default)]
struct Oracle {
    granted: BTreeMap<u64, (Plan, Option<Plan>)>,
    /// Over: the rates are back, places and addresses not.
    unconfirmed: BTreeMap<u64, Plan>,
}

/// What is used in each second: by site and layer, by link, by uplink.
struct Sums {
    places: [[[u64; SECONDS as usize]; 3]; NAMES.len()],
    links: [[u64; SECONDS as usize]; LINKS.len()],
    uplinks: [[u64; SECONDS as usize]; UPLINKS.len()],
}

impl Default for Sums {
    fn default() -> Self {
        let second = [0; SECONDS as usize];
        Self {
            places: [[second; 3]; NAMES.len()],
            links: [second; LINKS.len()],
            uplinks: [second; UPLINKS.len()],
        }
    }
}

fn touches(pair: &Pair, at: usize) -> bool {
    pair.a.as_str() == NAMES[at] || pair.b.as_str() == NAMES[at]
}

impl Sums {
    fn add(&mut self, pair: &Pair, second: u64) {
        let rate = u64::from(pair.rate_kbit);
        for (sum, (a, b, _)) in self.links.iter_mut().zip(LINKS) {
            sum[second as usize] += if touches(pair, a) && touches(pair, b) { rate } else { 0 };
        }
        for (sum, (at, _)) in self.uplinks.iter_mut().zip(UPLINKS) {
            sum[second as usize] += if touches(pair, at) { rate } else { 0 };
        }
    }

    /// The most members that a site can take in one layer for all of the window.
    fn free(&self, at: usize, window: Window) -> u64 {
        let seconds = window.start() as usize..window.end() as usize;
        let free = LAYERS[at].iter().zip(&self.places[at]).map(|(capacity, used)| {
            u64::from(*capacity).saturating_sub(used[seconds.clone()].iter().copied().max().unwrap_or(0))
        });
        free.max().unwrap_or(0)
    }

    /// Whether these rates fit beside all others in each second of the window.
    fn rates_fit(&self, pairs: &[Pair], window: Window) -> bool {
        let mut own = Self::default();
        pairs.iter().for_each(|pair| own.add(pair, 0));
        let known = |pair: &Pair| LINKS.iter().any(|(a, b, _)| touches(pair, *a) && touches(pair, *b));
        let seconds = window.start() as usize..window.end() as usize;
        let fits = |used: &[u64], own: &[u64], capacity| {
            used[seconds.clone()].iter().all(|u| u + own[0] <= capacity)
        };
        pairs.iter().all(known)
            && (0..LINKS.len()).all(|n| fits(&self.links[n], &own.links[n], LINKS[n].2))
            && (0..UPLINKS.len()).all(|n| fits(&self.uplinks[n], &own.uplinks[n], UPLINKS[n].1))
    }

    /// Whether these parts can begin then.
    fn fits(&self, parts: &[(usize, u32)], rates: &Rates, window: Window) -> bool {
        let names: Vec<SiteName> = parts.iter().map(|(at, _)| site(NAMES[*at])).collect();
        parts.iter().all(|(at, members)| self.free(*at, window) >= u64::from(*members))
            && self.rates_fit(&rates.among(&names.iter().collect::<Vec<_>>()), window)
    }

    /// The fewest sites that could take so many members then.
    fn fewest(&self, members: u32, rates: &Rates, window: Window) -> Option<usize> {
        let free: Vec<u64> = (0..NAMES.len()).map(|at| self.free(at, window)).collect();
        let fitting = (1u32..1 << NAMES.len()).filter(|set| {
            let chosen: Vec<usize> = (0..NAMES.len()).filter(|at| set >> at & 1 == 1).collect();
            let sum: u64 = chosen.iter().map(|at| free[*at]).sum();
            let all_used = chosen.iter().all(|at| free[*at] > 0) && chosen.len() <= members as usize;
            let ones: Vec<(usize, u32)> = chosen.iter().map(|at| (*at, 1)).collect();
            all_used && sum >= u64::from(members) && self.fits(&ones, rates, window)
        });
        fitting.map(|set| set.count_ones() as usize).min()
    }
}

impl Oracle {
    /// Everything added up, second by second. Of a change and its grant the larger counts.
    fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        let members = |plan: Option<&Plan>, at: usize, layer: u32, second| {
            let inside = plan.filter(|plan| plan.window.contains(second));
            let parts = inside.map_or(&[][..], |plan| &plan.parts);
            let own = parts.iter().filter(|part| number(&part.site) == at && part.layer == layer);
            own.map(|part| u64::from(part.members)).sum::<u64>()
        };
        let over = self.unconfirmed.values().map(|plan| (plan, &None));
        let granted = self.granted.values().map(|(plan, held)| (plan, held));
        let all: Vec<_> = granted.map(|both| (both, true)).chain(over.map(|both| (both, false))).collect();
        for second in 0..SECONDS {
            for &((plan, held), rates) in &all {
                let both =
                    plan.window.contains(second) || held.as_ref().is_some_and(|h| h.window.contains(second));
                for (at, layers) in LAYERS.iter().enumerate().filter(|_| both) {
                    for layer in 0..layers.len() as u32 {
                        let old = members(Some(plan), at, layer, second);
                        let larger = old.max(members(held.as_ref(), at, layer, second));
                        sums.places[at][layer as usize][second as usize] += larger;
                    }
                }
                for pair in plan.pairs.iter().filter(|_| rates && plan.window.contains(second)) {
                    sums.add(pair, second);
                }
            }
        }
        sums
    }

    fn check(&self, book: &Book, links: &StaticLinks) -> Result<(), TestCaseError> {
        let sums = self.sums();
        for (name, layer, capacity, profile) in book.layers() {
            let used = sums.places[number(name)][layer];
            for second in 0..SECONDS {
                prop_assert_eq!(profile.at(second), used[second as usize], "{} {} {}", name, layer, second);
                prop_assert!(used[second as usize] <= u64::from(capacity));
            }
        }
        for (resource, capacity, used) in links.lines() {
            prop_assert!(used.max(Window::MAX) <= capacity, "{:?} is above its capacity", resource);
        }
        for second in 0..SECONDS {
            let mut taken = BTreeSet::new();
            for plan in self.granted.values().map(|(plan, _)| plan).chain(self.unconfirmed.values()) {
                for part in plan.parts.iter().filter(|_| plan.addresses.contains(second)) {
                    for address in addresses_in(&part.blocks) {
                        prop_assert!(taken.insert(address), "{} is held twice in second {}", address, second);
                        let range = net(RANGES[number(&part.site)]);
                        prop_assert!(range.hosts().skip(1).any(|host| host == address), "{}", address);
                    }
                }
            }
            let booked = book.taken_at(second);
            prop_assert!(taken.iter().all(|address| booked.contains(*address)), "lost in second {}", second);
            if self.granted.values().all(|(_, held)| held.is_none()) {
                prop_assert_eq!(booked.count(), taken.len() as u64, "left over in second {}", second);
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Reserve { placement: Placement, rates: Rates, earliest: u64, wait: u64, duration: u64 },
    Change { which: prop::sample::Index, duration: u64, members: u32, rate: u32, begun: bool, commit: bool },
    End { which: prop::sample::Index },
    Confirm { which: prop::sample::Index },
}

fn rates() -> impl Strategy<Value = Rates> {
    let pair = |(link, rate_kbit): (usize, u32)| Pair {
        a: site(NAMES[LINKS[link].1]),
        b: site(NAMES[LINKS[link].0]),
        rate_kbit,
    };
    let pairs = prop::collection::btree_map(0..LINKS.len(), 1u32..6, 1..3);
    prop_oneof![
        2 => Just(Rates::None),
        3 => (1u32..6).prop_map(Rates::Between),
        1 => pairs.prop_map(move |pairs| Rates::Pairs(pairs.into_iter().map(pair).collect())),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let named = prop::collection::btree_map(0..NAMES.len(), 1u32..5, 1..4)
        .prop_map(|parts| placed(&parts.into_iter().map(|(at, n)| (NAMES[at], n)).collect::<Vec<_>>()));
    let placement = prop_oneof![2 => named, 1 => (1u32..14).prop_map(Placement::Anywhere)];
    let window = (0u64..30, prop_oneof![Just(0u64), 0u64..30], 1u64..12);
    let which = any::<prop::sample::Index>;
    prop_oneof![
        6 => (placement, rates(), window).prop_map(|(placement, rates, (earliest, wait, duration))| {
            Step::Reserve { placement, rates, earliest, wait, duration }
        }),
        2 => (which(), 1u64..20, 1u32..6, 0u32..8, any::<bool>(), any::<bool>()).prop_map(
            |(which, duration, members, rate, begun, commit)| {
                Step::Change { which, duration, members, rate, begun, commit }
            }
        ),
        1 => which().prop_map(|which| Step::End { which }),
        1 => which().prop_map(|which| Step::Confirm { which }),
    ]
}

fn window(start: u64, duration: u64) -> Window {
    Window::lasting(start, duration).unwrap()
}

/// Starts at which brute force finds room, the earliest first.
fn possible(sums: &Sums, request: &Request) -> impl Iterator<Item = u64> {
    let fits = |start: &u64| {
        let window = window(*start, request.duration);
        match request.placement {
            Placement::Anywhere(members) => sums.fewest(*members, request.rates, window).is_some(),
            Placement::Sites(named) => {
                let parts: Vec<_> = named.iter().map(|(name, members)| (number(name), *members)).collect();
                sums.fits(&parts, request.rates, window)
            }
        }
    };
    (request.earliest..SECONDS - request.duration).filter(fits)
}

fn check_answer(sums: &Sums, request: &Request, answer: &Result<Plan, NoPlan>) -> Result<(), TestCaseError> {
    let first = possible(sums, request).next();
    match answer {
        Err(NoPlan::UnknownLink { a, b }) => {
            prop_assert_eq!((a.as_str(), b.as_str()), ("c", "d"));
            prop_assert!(first.is_none() || matches!(request.placement, Placement::Anywhere(_)));
        }
        Err(NoPlan::Blocked(blocked)) => {
            prop_assert!(blocked.have < blocked.asked, "{:?}", blocked);
            prop_assert!(blocked.starts.is_sorted_by(|a, b| a + request.duration <= *b));
            let starts: Vec<u64> = possible(sums, request).collect();
            prop_assert!(blocked.starts.iter().all(|start| starts.contains(start)), "{:?}", blocked);
            let none_earlier = starts.iter().all(|start| *start > request.latest);
            match request.placement {
                Placement::Sites(_) => {
                    prop_assert!(none_earlier, "there was room at {:?}: {:?}", starts, blocked);
                    prop_assert_eq!(blocked.starts.first(), starts.first());
                }
                Placement::Anywhere(_) => {
                    prop_assert!(!starts.contains(&request.earliest), "{:?}", blocked);
                    // After everything has ended there is room for all that there ever is.
                    prop_assert_eq!(blocked.starts.is_empty(), starts.is_empty());
                }
            }
        }
        Err(other) => prop_assert!(false, "{:?}", other),
        Ok(plan) => {
            let start = plan.window.start();
            prop_assert_eq!(plan.window.seconds(), request.duration);
            prop_assert!((request.earliest..=request.latest).contains(&start));
            match request.placement {
                Placement::Sites(named) => {
                    prop_assert_eq!(Some(start), first);
                    let parts: Vec<_> =
                        plan.parts.iter().map(|part| (part.site.clone(), part.members)).collect();
                    prop_assert_eq!(&parts, named);
                }
                Placement::Anywhere(members) => {
                    prop_assert_eq!(plan.parts.iter().map(|part| part.members).sum::<u32>(), *members);
                    let fewest = sums.fewest(*members, request.rates, plan.window);
                    prop_assert_eq!(Some(plan.parts.len()), fewest);
                    if first == Some(request.earliest) {
                        prop_assert_eq!(start, request.earliest);
                    }
                    let alone = (request.earliest..SECONDS - request.duration).find(|start| {
                        let window = window(*start, request.duration);
                        (0..NAMES.len()).any(|at| sums.free(at, window) >= u64::from(*members))
                    });
                    prop_assert!(alone.is_none_or(|alone| start <= alone));
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_fits_is_the_earliest_and_leaves_nothing_when_it_is_over(
        steps in prop::collection::vec(steps(), 1..30),
    ) {
        let (mut book, mut links) = grid();
        let candidates = all_of(&NAMES);
        let mut oracle = Oracle::default();
        let mut versions: BTreeMap<u64, u32> = BTreeMap::new();
        for (id, step) in steps.into_iter().enumerate() {
            let id = id as u64;
            let pick = |which: prop::sample::Index, ids: Vec<u64>| (!ids.is_empty()).then(|| *which.get(&ids));
            match step {
                Step::Reserve { placement, rates, earliest, wait, duration } => {
                    let request = Request {
                        earliest,
                        latest: earliest + wait,
                        duration,
                        ..request(&placement, &candidates, &rates)
                    };
                    let answer = book.plan(&request, &links);
                    check_answer(&oracle.sums(), &request, &answer)?;
                    if let Ok(plan) = answer {
                        connect(&mut links, id, 1, &plan);
                        book.take(id, &plan).unwrap();
                        prop_assert_eq!(book.take(id, &plan), Err(NotTaken::AlreadyBooked));
                        oracle.granted.insert(id, (plan, None));
                        versions.insert(id, 1);
                    }
                }
                Step::Change { which, duration, members, rate, begun, commit } => {
                    let Some(id) = pick(which, oracle.granted.keys().copied().collect()) else { continue };
                    let old = oracle.granted[&id].0.clone();
                    let first = &old.parts[0];
                    let members = [(first.site.clone(), if begun { first.members } else { members })];
                    let pairs: Vec<Pair> = old.pairs.iter().map(|pair| {
                        Pair { rate_kbit: rate.max(1), ..pair.clone() }
                    }).collect();
                    let change = Change { duration, members: &members, pairs: &pairs, begun, tail: 1 };
                    let Ok(plan) = book.plan_change(id, &change, &links) else { continue };
                    prop_assert_eq!(plan.window, window(old.window.start(), duration));
                    for (before, after) in old.parts.iter().zip(&plan.parts) {
                        prop_assert!(after.blocks.starts_with(&before.blocks));
                        prop_assert!(!begun || before.layer == after.layer);
                    }
                    book.hold_change(id, &plan).unwrap();
                    oracle.granted.get_mut(&id).unwrap().1 = Some(plan.clone());
                    oracle.check(&book, &links)?;
                    if commit {
                        let version = versions[&id] + 1;
                        versions.insert(id, version);
                        connect(&mut links, id, version, &plan);
                        book.commit_change(id).unwrap();
                        oracle.granted.insert(id, (plan, None));
                    } else {
                        book.abort_change(id);
                        oracle.granted.get_mut(&id).unwrap().1 = None;
                    }
                }
                Step::End { which } => {
                    let Some(id) = pick(which, oracle.granted.keys().copied().collect()) else { continue };
                    let (plan, _) = oracle.granted.remove(&id).unwrap();
                    book.end(id);
                    book.end(id);
                    links.request(Duration::ZERO, Connection(id), Operation::Terminate);
                    prop_assert_eq!(book.unconfirmed(id).len(), plan.parts.len());
                    oracle.unconfirmed.insert(id, plan);
                }
                Step::Confirm { which } => {
                    let Some(id) = pick(which, oracle.unconfirmed.keys().copied().collect()) else { continue };
                    let plan = oracle.unconfirmed.remove(&id).unwrap();
                    for part in plan.parts.iter().chain(&plan.parts) {
                        book.confirm(id, &part.site);
                    }
                    prop_assert!(!book.knows(id));
                }
            }
            oracle.check(&book, &links)?;
        }
        // A restart, one by one and all at once, comes to the same book.
        oracle.unconfirmed.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| {
            let plan = oracle.unconfirmed.remove(&id).unwrap();
            plan.parts.iter().for_each(|part| book.confirm(id, &part.site));
        });
        let (mut single, mut bulk) = (grid().0, grid().0);
        for (id, (plan, _)) in &oracle.granted {
            single.restore(*id, plan, None).unwrap();
            single.restore(*id, plan, None).unwrap();
        }
        bulk.restore_all(oracle.granted.iter().map(|(id, (plan, _))| (*id, plan.clone())));
        oracle.check(&single, &links)?;
        oracle.check(&bulk, &links)?;
        for id in oracle.granted.keys() {
            for book in [&mut book, &mut single, &mut bulk] {
                book.end(*id);
                oracle.granted[id].0.parts.iter().for_each(|part| book.confirm(*id, &part.site));
            }
        }
        prop_assert!(book.is_empty() && single.is_empty() && bulk.is_empty());
    }
}
