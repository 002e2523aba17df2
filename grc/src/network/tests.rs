//! Static links against an array with one number per second and line.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SITES: [&str; 4] = ["a", "b", "c", "d"];
/// All pairs but c-d, which have no link.
const LINKS: [(usize, usize, u64); 5] = [(0, 1, 10), (0, 2, 8), (0, 3, 6), (1, 2, 9), (1, 3, 5)];
/// d has an uplink without an end.
const UPLINKS: [(usize, u64); 3] = [(0, 12), (1, 14), (2, 11)];
const HORIZON: usize = 40;
const HOLD_TIME: Duration = Duration::from_secs(5);

fn site(n: usize) -> SiteName {
    SITES[n].parse().unwrap()
}

fn links() -> StaticLinks {
    let links = LINKS.map(|(a, b, kbit)| (site(b), site(a), kbit));
    StaticLinks::new(links, UPLINKS.map(|(n, kbit)| (site(n), kbit)), HOLD_TIME).unwrap()
}

fn criteria(start: u64, length: u64, pairs: &[(usize, usize, u32)]) -> Criteria {
    let pair = |&(a, b, rate_kbit): &(usize, usize, u32)| Pair { a: site(a), b: site(b), rate_kbit };
    Criteria { window: Window::lasting(start, length).unwrap(), pairs: pairs.iter().map(pair).collect() }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The last answer to an operation at this second.
fn ask(links: &mut StaticLinks, now: u64, connection: u64, operation: Operation) -> Answer {
    let mut confirmations = links.request(at(now), Connection(connection), operation);
    let last = confirmations.pop().unwrap();
    assert_eq!(last.connection, Connection(connection));
    last.answer
}

fn reserve(version: u32, criteria: &Criteria) -> Operation {
    Operation::Reserve { version: Version(version), criteria: criteria.clone() }
}

/// The oracle keeps what was accepted and adds up second by second.
#[derive(Clone, Default)]
struct Oracle {
    granted: BTreeMap<u64, (u32, Criteria)>,
    held: BTreeMap<u64, (u32, Criteria, u64)>,
}

impl Oracle {
    /// What one connection's criteria take of a line in a second.
    fn takes(criteria: Option<&Criteria>, line: &Resource, second: u64) -> u64 {
        let inside = criteria.filter(|criteria| criteria.window.contains(second));
        let uses = |pair: &&Pair| match line {
            Resource::Link { a, b } => (&pair.a, &pair.b) == (a, b) || (&pair.b, &pair.a) == (a, b),
            Resource::Uplink { site } => pair.a == *site || pair.b == *site,
            Resource::Nodes { .. } | Resource::Addresses { .. } => false,
        };
        inside.map_or(0, |criteria| criteria.pairs.iter().filter(uses).map(|p| u64::from(p.rate_kbit)).sum())
    }

    fn used(&self, line: &Resource, second: u64) -> u64 {
        let mut of_each: BTreeMap<u64, u64> = BTreeMap::new();
        let granted = self.granted.iter().map(|(id, (_, criteria))| (id, criteria));
        for (id, criteria) in granted.chain(self.held.iter().map(|(id, (_, criteria, _))| (id, criteria))) {
            let larger = of_each.entry(*id).or_default();
            *larger = (*larger).max(Self::takes(Some(criteria), line, second));
        }
        of_each.values().sum()
    }

    fn expire(&mut self, now: u64) {
        self.held.retain(|_, (_, _, until)| *until > now);
    }
}

fn check(links: &StaticLinks, oracle: &Oracle) -> Result<(), TestCaseError> {
    for (line, capacity, used) in links.lines() {
        for second in 0..HORIZON as u64 + 20 {
            let expected = oracle.used(line, second);
            prop_assert_eq!(used.at(second), expected, "{:?} in second {}", line, second);
            prop_assert!(expected <= capacity, "{:?} above capacity in second {}", line, second);
        }
    }
    Ok(())
}

fn any_criteria() -> impl Strategy<Value = Criteria> {
    let pairs = prop::collection::btree_map(0..LINKS.len(), 1u32..7, 1..4);
    (0..HORIZON as u64, 1u64..15, pairs, any::<bool>()).prop_map(|(start, length, pairs, turned)| {
        let pair = |(link, rate): (usize, u32)| {
            let (a, b, _) = LINKS[link];
            if turned { (b, a, rate) } else { (a, b, rate) }
        };
        criteria(start, length, &pairs.into_iter().map(pair).collect::<Vec<_>>())
    })
}

proptest! {
    /// Whatever is asked in whatever order: no line above its capacity in any second, what fits
    /// is never refused, a change holds the larger of both, and what ends leaves nothing.
    #[test]
    fn no_history_uses_more_than_there_is_or_loses_any(
        steps in prop::collection::vec((0u8..9, 0u64..4, 0u32..6, any_criteria(), 0u64..3), 1..80),
    ) {
        let (mut links, mut oracle, mut now) = (links(), Oracle::default(), 0);
        let mut newest: BTreeMap<u64, u32> = BTreeMap::new();
        for (kind, id, version, criteria, passes) in steps {
            now += passes;
            oracle.expire(now);
            // What has nothing is forgotten, with the versions that it had.
            newest.retain(|id, _| oracle.granted.contains_key(id) || oracle.held.contains_key(id));
            let granted = oracle.granted.get(&id).map(|(version, _)| *version);
            let held = oracle.held.get(&id).map(|(version, _, _)| *version);
            match kind {
                0..=3 => {
                    let last = newest.get(&id).copied();
                    let version = last.map_or(version, |last| last + version % 3);
                    let answer = ask(&mut links, now, id, reserve(version, &criteria));
                    let known = Version(version);
                    if last.is_some_and(|last| version <= last) {
                        let same = held == Some(version) && oracle.held[&id].1 == criteria;
                        let same_grant = granted == Some(version) && oracle.granted[&id].1 == criteria;
                        let refused = Refused::Stale { newest: Version(last.unwrap()) };
                        let expected = if same { Answer::Held { version: known } }
                            else if same_grant { Answer::Committed { version: known } }
                            else { Answer::Refused { version: known, refused } };
                        prop_assert_eq!(answer, expected);
                    } else {
                        oracle.held.remove(&id);
                        let mut with = oracle.clone();
                        with.held.insert(id, (version, criteria.clone(), now + HOLD_TIME.as_secs()));
                        let fits = links.lines().all(|(line, capacity, _)| {
                            (0..HORIZON as u64 + 20).all(|second| with.used(line, second) <= capacity)
                        });
                        if fits {
                            prop_assert_eq!(answer, Answer::Held { version: known });
                            oracle = with;
                        } else {
                            let no_room = matches!(
                                &answer,
                                Answer::Refused { refused: Refused::NoRoom { asked_kbit, have_kbit, .. }, .. }
                                    if have_kbit < asked_kbit
                            );
                            prop_assert!(no_room, "{:?}", answer);
                        }
                        newest.insert(id, version);
                    }
                }
                4 | 5 => {
                    let version = held.filter(|_| kind == 4).unwrap_or(version);
                    let answer = ask(&mut links, now, id, Operation::Commit { version: Version(version) });
                    let known = Version(version);
                    if granted == Some(version) || held == Some(version) {
                        prop_assert_eq!(answer, Answer::Committed { version: known });
                        if granted != Some(version) {
                            let (version, criteria, _) = oracle.held.remove(&id).unwrap();
                            oracle.granted.insert(id, (version, criteria));
                        }
                    } else {
                        let refused = Refused::NotHeld;
                        prop_assert_eq!(answer, Answer::CommitRefused { version: known, refused });
                    }
                }
                6 => {
                    let version = held.unwrap_or(version);
                    let answer = ask(&mut links, now, id, Operation::Abort { version: Version(version) });
                    prop_assert_eq!(answer, Answer::Aborted { version: Version(version) });
                    oracle.held.remove(&id);
                }
                7 => {
                    prop_assert_eq!(ask(&mut links, now, id, Operation::Terminate), Answer::Terminated);
                    oracle.held.remove(&id);
                    oracle.granted.remove(&id);
                }
                _ => {
                    // A restart: holds are lost, grants are told again, in any order and twice.
                    links = self::links();
                    oracle.held.clear();
                    newest = oracle.granted.iter().map(|(id, (version, _))| (*id, *version)).collect();
                    let grants = || oracle.granted.iter().map(|(id, (version, criteria))| {
                        (Connection(*id), Version(*version), criteria.clone())
                    });
                    if version.is_multiple_of(2) {
                        links.restore_all(grants());
                    }
                    grants().for_each(|(id, version, criteria)| links.restore(id, version, criteria));
                }
            }
            check(&links, &oracle)?;
        }
        for id in 0..4 {
            ask(&mut links, now, id, Operation::Terminate);
        }
        prop_assert!(links.lines().all(|(_, _, used)| used.is_empty()));
        prop_assert_eq!(links.next_wake(), None);
    }
}

#[test]
fn an_uplink_is_charged_with_the_sum_of_its_pairs() {
    let mut links = links();
    // Each link has room for 5, the uplink of a, 12, not for three of them.
    let three = criteria(10, 5, &[(0, 1, 5), (0, 2, 5), (3, 0, 5)]);
    let expected = Refused::NoRoom {
        resource: Resource::Uplink { site: site(0) },
        asked_kbit: 15,
        have_kbit: 12,
        free_from: None,
    };
    assert_eq!(links.blocked(Connection(1), &three), Some(expected.clone()));
    let answer = ask(&mut links, 0, 1, reserve(1, &three));
    assert_eq!(answer, Answer::Refused { version: Version(1), refused: expected });
    assert!(links.lines().all(|(_, _, used)| used.is_empty()), "refused, and yet charged");
    assert!(matches!(
        ask(&mut links, 0, 1, reserve(2, &criteria(10, 5, &[(0, 1, 5), (0, 2, 5)]))),
        Answer::Held { .. }
    ));
}

#[test]
fn a_refusal_names_the_line_what_is_left_and_from_when_it_is_free() {
    let mut links = links();
    ask(&mut links, 0, 1, reserve(1, &criteria(10, 20, &[(0, 1, 7)])));
    ask(&mut links, 0, 1, Operation::Commit { version: Version(1) });
    let refused = links.blocked(Connection(2), &criteria(5, 10, &[(1, 0, 4)]));
    let resource = Resource::Link { a: site(0), b: site(1) };
    assert_eq!(
        refused,
        Some(Refused::NoRoom {
            resource: resource.clone(),
            asked_kbit: 4,
            have_kbit: 3,
            free_from: Some(30)
        })
    );
    // For a change, what is granted counts as its own.
    let refused = links.blocked(Connection(1), &criteria(10, 25, &[(0, 1, 11)]));
    let expected = Refused::NoRoom { resource, asked_kbit: 11, have_kbit: 10, free_from: None };
    assert_eq!(refused, Some(expected));
    assert_eq!(links.blocked(Connection(1), &criteria(10, 25, &[(0, 1, 10)])), None);
    let unknown = Refused::UnknownLink { a: site(2), b: site(3) };
    assert_eq!(links.blocked(Connection(2), &criteria(0, 1, &[(3, 2, 1)])), Some(unknown.clone()));
    assert_eq!(links.needs(&criteria(0, 1, &[(3, 2, 1)]).pairs).unwrap_err(), unknown);
}

#[test]
fn a_hold_that_is_not_committed_in_time_is_told_and_gone() {
    let mut links = links();
    let one = criteria(10, 20, &[(0, 1, 7)]);
    ask(&mut links, 0, 1, reserve(1, &one));
    assert_eq!(links.next_wake(), Some(HOLD_TIME));
    assert_eq!(links.tick(at(4)), []);
    let timed_out =
        Confirmation { connection: Connection(1), answer: Answer::TimedOut { version: Version(1) } };
    let refused = Answer::CommitRefused { version: Version(1), refused: Refused::NotHeld };
    let late = Confirmation { connection: Connection(1), answer: refused };
    // Not even at the very instant, and though nobody has looked before.
    assert_eq!(
        links.request(at(5), Connection(1), Operation::Commit { version: Version(1) }),
        [timed_out, late]
    );
    assert_eq!(links.tick(at(9)), []);
    assert!(links.lines().all(|(_, _, used)| used.is_empty()));
}

#[test]
fn a_change_that_times_out_leaves_the_grant() {
    let mut links = links();
    let (one, more) = (criteria(10, 20, &[(0, 1, 3)]), criteria(10, 25, &[(0, 1, 7)]));
    ask(&mut links, 0, 1, reserve(1, &one));
    ask(&mut links, 0, 1, Operation::Commit { version: Version(1) });
    assert_eq!(ask(&mut links, 1, 1, reserve(2, &more)), Answer::Held { version: Version(2) });
    let Answer::Summary(summary) = ask(&mut links, 1, 1, Operation::Query) else { panic!() };
    assert_eq!((summary.granted, summary.held), (Some((Version(1), one.clone())), Some((Version(2), more))));
    assert_eq!(links.tick(at(6)).len(), 1);
    let Answer::Summary(summary) = ask(&mut links, 6, 1, Operation::Query) else { panic!() };
    assert_eq!((summary.granted, summary.held), (Some((Version(1), one)), None));
}

#[test]
fn reserved_is_not_provisioned_and_provisioned_is_active_in_the_window_only() {
    let mut links = links();
    assert_eq!(ask(&mut links, 0, 1, Operation::Provision), Answer::NotGranted);
    ask(&mut links, 0, 1, reserve(1, &criteria(10, 20, &[(0, 1, 3)])));
    assert_eq!(ask(&mut links, 0, 1, Operation::Provision), Answer::NotGranted, "held is not granted");
    ask(&mut links, 0, 1, Operation::Commit { version: Version(1) });
    let active = |links: &mut StaticLinks, now| match ask(links, now, 1, Operation::Query) {
        Answer::Summary(summary) => summary.active,
        other => panic!("{other:?}"),
    };
    assert!(!active(&mut links, 15));
    assert_eq!(ask(&mut links, 0, 1, Operation::Provision), Answer::Provisioned);
    assert_eq!([9, 10, 29, 30].map(|now| active(&mut links, now)), [false, true, true, false]);
    assert_eq!(ask(&mut links, 15, 1, Operation::Release), Answer::Released);
    assert!(!active(&mut links, 15));
}

#[test]
fn links_that_contradict_themselves_are_refused_by_name() {
    let new = |links: &[(usize, usize)], uplinks: &[usize]| {
        let links: Vec<_> = links.iter().map(|&(a, b)| (site(a), site(b), 1)).collect();
        let uplinks: Vec<_> = uplinks.iter().map(|&n| (site(n), 1)).collect();
        StaticLinks::new(links, uplinks, HOLD_TIME).unwrap_err().to_string()
    };
    assert_eq!(new(&[(0, 0)], &[]), "the link a-a leads from a site to itself");
    assert_eq!(new(&[(0, 1), (1, 0)], &[]), "the link a-b is named twice");
    assert_eq!(new(&[], &[2, 2]), "the uplink of c is named twice");
}
