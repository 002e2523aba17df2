//! Dividing a grant: max-min fairness by water-filling.

/// Divides `pool` so that nobody gets more than he demands and nobody gets less than somebody who
/// got more than him, unless he demands no more. What is left when all demands are met, or less
/// than one for each, is given to nobody.
pub(super) fn fill(pool: u64, demands: &[u64]) -> Vec<u64> {
    let mut order: Vec<usize> = (0..demands.len()).collect();
    order.sort_by_key(|&i| demands[i]);
    let mut given = vec![0; demands.len()];
    let mut left = pool;
    for (done, &i) in order.iter().enumerate() {
        let level = left / (demands.len() - done) as u64;
        // The level only rises from here, so who demands more than it gets exactly it.
        given[i] = demands[i].min(level);
        left -= given[i];
    }
    given
}

/// What a member is never held below: enough to begin with and to be seen wanting more.
pub(super) fn floor(grant_kbit: u32, members: usize) -> u64 {
    let (grant, members) = (u64::from(grant_kbit), members.max(1) as u64);
    (grant / (super::FLOOR_PART * members)).max(super::FLOOR_KBIT).min(grant / members)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One unit after the other, always to whoever has least and still demands.
    fn one_by_one(pool: u64, demands: &[u64]) -> Vec<u64> {
        let mut given = vec![0; demands.len()];
        for _ in 0..pool {
            let open = (0..demands.len()).filter(|&i| given[i] < demands[i]);
            let Some(least) = open.min_by_key(|&i| given[i]) else { break };
            given[least] += 1;
        }
        given
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_one_unit_other_than_by_dividing_unit_by_unit(
            pool in 0u64..300,
            demands in prop::collection::vec(prop_oneof![0u64..100, Just(u64::MAX)], 0..12),
        ) {
            let (fast, slow) = (fill(pool, &demands), one_by_one(pool, &demands));
            prop_assert!(fast.iter().sum::<u64>() <= pool);
            prop_assert!(fast.iter().sum::<u64>() + demands.len() as u64 >= slow.iter().sum());
            for i in 0..demands.len() {
                prop_assert!(fast[i] <= demands[i]);
                prop_assert!(fast[i].abs_diff(slow[i]) <= 1, "{fast:?} {slow:?}");
            }
        }

        #[test]
        fn floors_of_all_members_fit_into_the_grant(grant in 1u32..=100_000_000, members in 1usize..=4096) {
            prop_assert!(floor(grant, members) * members as u64 <= u64::from(grant));
        }
    }
}
