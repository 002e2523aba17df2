//! One round: what every member should have, and what to tell whom for it.

use std::time::Duration;

use super::fill::{fill, floor};
use super::{ORDER_TIME, Order, Outstanding, Shares, State, TOLERANCE};

/// A member's place in one class, in a round. Kbit/s throughout.
#[derive(Clone, Copy, Debug)]
struct Place {
    member: usize,
    wanting: bool,
    /// What it will have when all it was told is done.
    share: u64,
    target: u64,
    /// It can be told something now.
    free_to_change: bool,
}

impl Place {
    fn lacks(&self) -> u64 {
        self.target.saturating_sub(self.share)
    }

    fn surplus(&self) -> u64 {
        self.share.saturating_sub(self.target)
    }
}

/// The rates that members shall have next, as far as that changes.
type Next = Vec<Option<Vec<u32>>>;

impl Shares {
    /// What is to be told the nodes now, in this order. Nothing if the last round was less than
    /// [`super::ROUND`] ago; see [`Self::next_deadline`]. Every order awaits
    /// [`Self::confirmed`] or [`Self::failed`]; none of them may be left out.
    pub fn plan(&mut self, now: Duration) -> Vec<Order> {
        if now < self.next_round || self.next_deadline().is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.next_round = now + super::ROUND;
        self.changed = false;
        for one in &mut self.members {
            if one.order.as_ref().is_some_and(|order| now >= order.sent + ORDER_TIME) {
                one.give_up_order();
            }
        }
        let mut next: Next = vec![None; self.members.len()];
        for class in 0..self.grants_kbit.len() {
            self.plan_class(now, class, &mut next);
        }
        let count = self.members.len();
        for (one, next) in self.members.iter().zip(&mut next) {
            if one.unknown && one.can_change(now) {
                *next = Some(self.grants_kbit.iter().map(|grant| floor(*grant, count) as u32).collect());
            }
        }
        // Who is uncertain is told again what he may have, even if that does not change.
        for (one, next) in self.members.iter().zip(&mut next) {
            if one.uncertain && one.can_change(now) {
                next.get_or_insert_with(|| one.bound_kbit.clone());
            }
        }
        let mut orders: Vec<(bool, Order)> = Vec::new();
        for (member, rates_kbit) in (0u32..).zip(next) {
            let Some(rates_kbit) = rates_kbit else { continue };
            let one = &mut self.members[member as usize];
            let grows = rates_kbit.iter().zip(&one.bound_kbit).any(|(new, old)| new > old);
            one.serial += 1;
            for (meter, rate) in one.meters.iter_mut().zip(&rates_kbit) {
                meter.limited_to(*rate);
            }
            one.order = Some(Outstanding { rates_kbit: rates_kbit.clone(), sent: now });
            orders.push((grows, Order { member, serial: one.serial, rates_kbit }));
        }
        // What only shrinks goes first: others wait for it.
        orders.sort_by_key(|(grows, order)| (*grows, order.member));
        orders.into_iter().map(|(_, order)| order).collect()
    }

    fn plan_class(&mut self, now: Duration, class: usize, next: &mut Next) {
        let grant = u64::from(self.grants_kbit[class]);
        let floor = floor(self.grants_kbit[class], self.members.len());
        let places = self.places(now, class, floor);
        let below = |place: &Place| (place.wanting && place.lacks() > 0) || place.share < floor;
        let off = |difference: u64, place: &Place| difference * TOLERANCE > place.target;
        let short = places.iter().any(|place| below(place) && off(place.lacks(), place));
        let any_below = places.iter().any(below);
        let too_much = |place: &Place| any_below && place.wanting && off(place.surplus(), place);
        let unfair = places.iter().any(too_much);

        // Once something is to be done, it is done for all that are off by 1 %.
        let grows = |place: &Place| {
            (short || unfair) && below(place) && (place.lacks() * 100 >= place.target || place.share < floor)
        };
        let needed: u64 = places.iter().filter(|place| grows(place)).map(Place::lacks).sum();
        let told: u64 = places.iter().map(|place| place.share).sum();
        let mut missing = (told + self.stuck(class) + needed).saturating_sub(grant);
        let mut givers: Vec<&Place> =
            places.iter().filter(|place| place.free_to_change && place.surplus() > 0).collect();
        givers.sort_by_key(|place| (std::cmp::Reverse(place.surplus()), place.member));
        for place in givers {
            if missing > 0 || too_much(place) {
                self.change(class, place, place.target, next);
                missing = missing.saturating_sub(place.surplus());
            }
        }

        let mut free = grant.saturating_sub(self.held_kbit(class));
        let mut takers: Vec<&Place> =
            places.iter().filter(|place| place.free_to_change && grows(place)).collect();
        takers.sort_by_key(|place| (place.share, place.member));
        for place in takers {
            let more = place.lacks().min(free);
            let worth_it = more == place.lacks() || more * TOLERANCE >= place.share;
            if more > 0 && worth_it {
                self.change(class, place, place.share + more, next);
                free -= more;
            }
        }
    }

    /// Everybody who takes part, with what he should have.
    fn places(&self, now: Duration, class: usize, floor: u64) -> Vec<Place> {
        let there = || self.members.iter().enumerate().filter(|(_, one)| one.takes_part());
        let equal = u64::from(self.grants_kbit[class]) / self.members.len().max(1) as u64;
        let demands: Vec<u64> = there()
            .map(|(_, one)| match one.share(class) {
                // The class came into use just now.
                0 => equal,
                share => one.meters[class].demand_kbit(now, share).map_or(u64::MAX, |asks| asks.max(floor)),
            })
            .collect();
        let pool = u64::from(self.grants_kbit[class]).saturating_sub(self.stuck(class));
        there()
            .zip(fill(pool, &demands))
            .map(|((member, one), target)| Place {
                member,
                wanting: one.meters[class].wanting(now),
                share: one.share(class).into(),
                // Lost members may hold more than a lowered grant leaves the others.
                target: target.max(floor),
                free_to_change: one.can_change(now),
            })
            .collect()
    }

    /// What lost members hold: nobody can use it or take it away.
    fn stuck(&self, class: usize) -> u64 {
        let lost = self.members.iter().filter(|one| one.state == State::Lost);
        lost.map(|one| u64::from(one.held(class))).sum()
    }

    fn change(&mut self, class: usize, place: &Place, rate: u64, next: &mut Next) {
        let rate = u32::try_from(rate).unwrap_or(u32::MAX);
        let one = &mut self.members[place.member];
        if one.state == State::Reserved {
            one.bound_kbit[class] = rate;
        } else {
            next[place.member].get_or_insert_with(|| one.bound_kbit.clone())[class] = rate;
        }
    }
}
