//! Makes a history that breaks a rule smaller: leaves out requests, faults and tempers as long as
//! the same rule stays broken. The rest of the draws shift with that, which does not matter: what
//! is looked for is any short history with the same end.

use crate::scenario::{Scenario, Temper};

/// The smaller scenario; `breaks` says whether a candidate still breaks the rule.
pub fn shrink(mut scenario: Scenario, mut breaks: impl FnMut(&Scenario) -> bool) -> Scenario {
    loop {
        let before = size(&scenario);
        halves(&mut scenario, &mut breaks, |s| s.faults.len(), |s, from, to| drop(s.faults.drain(from..to)));
        halves(
            &mut scenario,
            &mut breaks,
            |s| s.asked.len(),
            |s, from, to| s.asked[from..to].iter_mut().for_each(|asked| asked.left_out = true),
        );
        for calmer in TEMPERS {
            attempt(&mut scenario, &mut breaks, |s| calmer(&mut s.temper));
        }
        attempt(&mut scenario, &mut breaks, |s| s.traffic = false);
        for number in 0..scenario.asked.len() {
            attempt(&mut scenario, &mut breaks, |s| s.asked[number].hang_up = None);
        }
        if size(&scenario) == before {
            return scenario;
        }
    }
}

const TEMPERS: [fn(&mut Temper); 20] = [
    |t| t.drop = 0,
    |t| t.twice = 0,
    |t| t.out_of_order = 0,
    |t| t.delay = 5_000,
    |t| t.batch_late = 0,
    |t| t.batch_never = 0,
    |t| t.batch_refuses = 0,
    |t| t.submit_answer_lost = 0,
    |t| t.pilot_twice = 0,
    |t| t.gone_twice = 0,
    |t| t.gone_early = 0,
    |t| t.cancel_ignored = 0,
    |t| t.agent_slow = 0,
    |t| t.agent_fails = 0,
    |t| t.agent_dies = 0,
    |t| t.agent_silent = 0,
    |t| t.sweep_fails = 0,
    |t| t.queue_shut = 0,
    |t| t.queue_refuses = 0,
    |t| t.queue_unsure = 0,
];

/// Leaves out pieces of a list: half of it first, then ever smaller ones.
fn halves(
    scenario: &mut Scenario,
    breaks: &mut impl FnMut(&Scenario) -> bool,
    length: impl Fn(&Scenario) -> usize,
    leave_out: impl Fn(&mut Scenario, usize, usize),
) {
    let mut piece = length(scenario).div_ceil(2);
    while piece > 0 {
        let mut from = 0;
        while from < length(scenario) {
            let (before, to) = (length(scenario), (from + piece).min(length(scenario)));
            attempt(scenario, breaks, |s| leave_out(s, from, to));
            // What was taken out made room for what comes behind it.
            from += if length(scenario) == before { piece } else { 0 };
        }
        piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
    }
}

fn attempt(
    scenario: &mut Scenario,
    breaks: &mut impl FnMut(&Scenario) -> bool,
    change: impl Fn(&mut Scenario),
) {
    let mut candidate = scenario.clone();
    change(&mut candidate);
    if size(&candidate) != size(scenario) && breaks(&candidate) {
        *scenario = candidate;
    }
}

/// What is still in it; equal sizes mean that nothing changed.
fn size(scenario: &Scenario) -> (usize, usize, String) {
    let asked = scenario.asked.iter().filter(|asked| !asked.left_out);
    let hanging = asked.clone().filter(|asked| asked.hang_up.is_some()).count();
    let rest = format!("{:?} {hanging} {}", scenario.temper, scenario.traffic);
    (scenario.faults.len(), asked.count(), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matters_stays() {
        let scenario = (0..100).map(Scenario::new).find(|s| s.faults.len() > 4 && s.asked.len() > 4).unwrap();
        let (fault, asked) = (scenario.faults[3].clone(), scenario.asked[2].at);
        let small = shrink(scenario, |s| {
            s.faults.contains(&fault) && s.asked.iter().any(|one| one.at == asked && !one.left_out)
        });
        assert_eq!(small.faults, [fault]);
        assert_eq!(small.asked.iter().filter(|one| !one.left_out).count(), 1);
        assert_eq!(small.temper.drop, 0);
    }
}
