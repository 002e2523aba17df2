//! A profile against an array with one number per second.

use capacity::{Demand, Profile, Use, Window, earliest, extra};
use proptest::prelude::*;

/// The oracle: what is used in each second.
struct Seconds(Vec<u64>);

impl Seconds {
    fn of(window: Window) -> std::ops::Range<usize> {
        window.start() as usize..window.end() as usize
    }

    fn add(&mut self, window: Window, amount: u64) {
        self.0[Self::of(window)].iter_mut().for_each(|used| *used += amount);
    }

    fn sub(&mut self, window: Window, amount: u64) {
        self.0[Self::of(window)].iter_mut().for_each(|used| *used -= amount);
    }

    fn max(&self, window: Window) -> u64 {
        self.0[Self::of(window)].iter().copied().max().unwrap_or(0)
    }

    fn last_over(&self, window: Window, limit: u64) -> Option<u64> {
        let last = Self::of(window).rev().find(|&second| self.0[second] > limit)?;
        let end = (last..self.0.len()).find(|&second| self.0[second] <= limit);
        Some(end.unwrap_or(self.0.len()) as u64)
    }

    fn fits(&self, window: Window, amount: u64, capacity: u64) -> bool {
        self.0[Self::of(window)].iter().all(|used| used + amount <= capacity)
    }

    fn points(&self) -> Vec<(u64, u64)> {
        let before = [0].into_iter().chain(self.0.iter().copied());
        let changes = before.zip(self.0.iter().copied()).enumerate().filter(|(_, (a, b))| a != b);
        changes.map(|(second, (_, used))| (second as u64, used)).collect()
    }
}

fn window(start: u64, length: u64) -> Window {
    Window::lasting(start, length).unwrap()
}

/// Windows within `horizon` seconds, the last of which stays unused.
fn windows(horizon: u64, longest: u64) -> impl Strategy<Value = Window> {
    (0..horizon - 1, 1..=longest)
        .prop_map(move |(start, length)| Window::new(start, (start + length).min(horizon - 1)).unwrap())
}

fn agree(profile: &Profile, oracle: &Seconds) -> Result<(), TestCaseError> {
    prop_assert_eq!(profile.points(), oracle.points());
    prop_assert_eq!(profile.is_empty(), oracle.0.iter().all(|used| *used == 0));
    Ok(())
}

fn ask_all(profile: &Profile, oracle: &Seconds, windows: &[(Window, u64)]) -> Result<(), TestCaseError> {
    for &(window, limit) in windows {
        prop_assert_eq!(profile.at(window.start()), oracle.0[window.start() as usize]);
        prop_assert_eq!(profile.max(window), oracle.max(window), "max over {}", window);
        prop_assert_eq!(
            profile.last_over(window, limit),
            oracle.last_over(window, limit),
            "{} above {}",
            window,
            limit
        );
    }
    Ok(())
}

proptest! {
    /// Any history of additions and removals, of few seconds, so that much falls on the same one.
    #[test]
    fn a_profile_is_the_same_as_an_array_of_seconds(
        steps in prop::collection::vec((windows(60, 25), 1u64..5, any::<prop::sample::Index>(), 0..3), 1..120),
        questions in prop::collection::vec((windows(60, 60), 0u64..40), 10),
    ) {
        let (mut profile, mut oracle) = (Profile::default(), Seconds(vec![0; 60]));
        let mut held: Vec<(Window, u64)> = Vec::new();
        for (window, amount, which, kind) in steps {
            if kind == 0 && !held.is_empty() {
                let (window, amount) = held.swap_remove(which.index(held.len()));
                profile.sub(window, amount);
                oracle.sub(window, amount);
            } else {
                profile.add(window, amount);
                oracle.add(window, amount);
                held.push((window, amount));
            }
            agree(&profile, &oracle)?;
            ask_all(&profile, &oracle, &questions)?;
        }
        agree(&Profile::of(held.iter().copied()), &oracle)?;
        // Whatever the order, in the end nothing is left, not even a point.
        for (window, amount) in held {
            profile.sub(window, amount);
        }
        prop_assert!(profile.is_empty());
        prop_assert_eq!(profile.points(), []);
    }

    #[test]
    fn the_first_fit_is_the_first_of_all(
        held in prop::collection::vec((windows(80, 20), 1u64..5), 0..60),
        from in 0u64..40, wait in 0u64..60, duration in 1u64..20, amount in 0u64..12, capacity in 0u64..12,
    ) {
        let mut oracle = Seconds(vec![0; 200]);
        held.iter().for_each(|(window, amount)| oracle.add(*window, *amount));
        let profile = Profile::of(held);
        let mut starts = from..=from + wait;
        let expected = starts.find(|&start| oracle.fits(window(start, duration), amount, capacity));
        prop_assert_eq!(profile.first_fit(from, from + wait, duration, amount, capacity), expected);
    }

    #[test]
    fn the_earliest_common_start_is_the_first_of_all_and_a_blocker_blocks(
        held in prop::collection::vec(prop::collection::vec((windows(80, 20), 1u64..4), 0..25), 1..5),
        needs in prop::collection::vec((0u64..8, 4u64..10), 5),
        from in 0u64..40, wait in 0u64..60, duration in 1u64..20,
    ) {
        let profiles: Vec<Profile> = held.iter().map(|held| Profile::of(held.iter().copied())).collect();
        let demands: Vec<Demand> = profiles
            .iter()
            .zip(&needs)
            .map(|(profile, &(amount, capacity))| Demand { profile, amount, capacity })
            .collect();
        let oracles: Vec<Seconds> = held
            .iter()
            .map(|held| {
                let mut oracle = Seconds(vec![0; 200]);
                held.iter().for_each(|(window, amount)| oracle.add(*window, *amount));
                oracle
            })
            .collect();
        let fits = |gate: usize, start| {
            oracles[gate].fits(window(start, duration), needs[gate].0, needs[gate].1)
        };
        let possible = |start: &u64| (0..demands.len()).all(|gate| fits(gate, *start));
        match earliest(&demands, from, from + wait, duration) {
            Ok(start) => prop_assert_eq!(Some(start), (from..=from + wait).find(possible)),
            Err(blocked) => {
                prop_assert_eq!((from..=from + wait).find(possible), None);
                prop_assert!((from..=from + wait).contains(&blocked.at));
                prop_assert!(!fits(blocked.gate, blocked.at));
                let never = (from..180).find(possible);
                prop_assert_eq!(blocked.not_before.is_none(), needs[blocked.gate].0 > needs[blocked.gate].1);
                if let (Some(not_before), Some(first)) = (blocked.not_before, never) {
                    prop_assert!(from + wait < not_before && not_before <= first);
                }
            }
        }
    }

    #[test]
    fn what_is_forgotten_is_gone_and_the_rest_stays_exact(
        held in prop::collection::vec((windows(60, 25), 1u64..5), 1..60),
        cuts in prop::collection::vec(0u64..60, 1..4),
        later in prop::collection::vec((windows(60, 25), 1u64..5), 0..10),
    ) {
        let mut oracle = Seconds(vec![0; 60]);
        let mut profile = Profile::of(held.iter().copied());
        held.iter().for_each(|(window, amount)| oracle.add(*window, *amount));
        let mut furthest = 0;
        for cut in cuts {
            profile.forget_before(cut);
            furthest = furthest.max(cut);
            oracle.0[..furthest as usize].fill(0);
            agree(&profile, &oracle)?;
        }
        for (window, amount) in &later {
            profile.add(*window, *amount);
        }
        for (window, amount) in held.into_iter().chain(later) {
            profile.sub(window, amount);
        }
        prop_assert!(profile.is_empty(), "{:?}", profile.points());
    }

    #[test]
    fn a_change_holds_the_larger_of_both_in_each_second(
        old in prop::option::of((windows(30, 20), 0u64..5)),
        new in prop::option::of((windows(30, 20), 0u64..5)),
    ) {
        let of = |given: Option<(Window, u64)>| given.map(|(window, amount)| Use { window, amount });
        let alone = |given: Option<Use>| {
            let mut seconds = Seconds(vec![0; 30]);
            given.iter().for_each(|given| seconds.add(given.window, given.amount));
            seconds
        };
        let (old, new) = (of(old), of(new));
        let mut profile = Profile::default();
        old.iter().for_each(|old| old.add_to(&mut profile));
        let beside = extra(old, new);
        beside.iter().for_each(|held| held.add_to(&mut profile));
        let larger = alone(old).0.iter().zip(alone(new).0).map(|(a, b)| (*a).max(b)).collect();
        agree(&profile, &Seconds(larger))?;
        beside.iter().for_each(|held| held.take_from(&mut profile));
        agree(&profile, &alone(old))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// So many points that the tree has three levels, and down to none again.
    #[test]
    fn a_deep_profile_is_the_same_as_an_array_of_seconds(
        held in prop::collection::vec((windows(30_000, 900), 1u64..9), 4_000..6_000),
        questions in prop::collection::vec((windows(30_000, 3_000), 0u64..900), 200),
        removal in any::<prop::sample::Index>(),
    ) {
        let mut held = held;
        let (mut profile, mut oracle) = (Profile::default(), Seconds(vec![0; 30_000]));
        for (window, amount) in &held {
            profile.add(*window, *amount);
            oracle.add(*window, *amount);
        }
        agree(&profile, &oracle)?;
        ask_all(&profile, &oracle, &questions)?;
        let mut built = Profile::of(held.iter().copied());
        agree(&built, &oracle)?;
        ask_all(&built, &oracle, &questions)?;
        held.rotate_left(removal.index(4_000));
        for (n, (window, amount)) in held.into_iter().enumerate() {
            profile.sub(window, amount);
            built.sub(window, amount);
            oracle.sub(window, amount);
            if n % 1_000 == 0 {
                agree(&profile, &oracle)?;
                agree(&built, &oracle)?;
                ask_all(&profile, &oracle, &questions)?;
                ask_all(&built, &oracle, &questions)?;
            }
        }
        prop_assert!(profile.is_empty() && built.is_empty());
    }
}

/// Where a set of changes per instant, kept instead of their sum, would count one.
#[test]
fn k_equal_reservations_that_begin_in_the_same_second_count_k_times() {
    let mut profile = Profile::default();
    for k in 1..=100 {
        profile.add(window(1_000, 60), 7);
        assert_eq!(profile.max(window(0, 5_000)), 7 * k);
        assert_eq!(profile.points(), [(1_000, 7 * k), (1_060, 0)]);
    }
}

#[test]
fn reservations_that_touch_leave_no_point_between_them() {
    let mut profile = Profile::default();
    profile.add(window(10, 10), 3);
    profile.add(window(20, 10), 3);
    assert_eq!(profile.points(), [(10, 3), (30, 0)]);
    assert_eq!(profile.max(window(30, 1)), 0, "the end is no longer used");
    assert_eq!(profile.last_over(window(0, 15), 2), Some(30), "the whole stretch, not what is asked of it");
    profile.sub(window(10, 10), 3);
    assert_eq!(profile.points(), [(20, 3), (30, 0)]);
}

#[test]
fn the_end_of_time_and_amounts_beyond_the_capacity_are_no_trap() {
    let mut profile = Profile::default();
    let all = Window::new(0, u64::MAX).unwrap();
    profile.add(all, 5);
    assert_eq!(profile.max(all), 5);
    assert_eq!(profile.last_over(all, 4), Some(u64::MAX));
    assert_eq!(profile.first_fit(0, u64::MAX, 10, 1, 5), None);
    assert_eq!(profile.first_fit(3, u64::MAX, 10, 6, 5), None);
    assert_eq!(profile.first_fit(3, 3, 10, 5, 10), Some(3));
    let demand = Demand { profile: &profile, amount: 6, capacity: 5 };
    let blocked = earliest(&[demand], 0, u64::MAX, 10).unwrap_err();
    assert_eq!((blocked.gate, blocked.not_before), (0, None));
    profile.sub(all, 5);
    assert!(profile.is_empty());
}
