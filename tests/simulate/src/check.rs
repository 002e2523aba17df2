//! The rules about grants and books, counted anew from what is durable, never through the owners'
//! own books.

use std::collections::BTreeMap;

use grc::record::{SavedReservation, Standing, Value};
use grc::reservation::{Share, Window};
use protocol::ids::{ReservationId, Version};
use protocol::names::SiteName;
use protocol::reservation::{AddressBlock, PairRate};

use crate::agenda::{MS, Micros, S};
use crate::history::time;
use crate::promises::Decided;
use crate::scenario::Fault;
use crate::world::World;

/// What one reservation takes in one window, and how much longer its addresses are taken.
struct Claim<'a> {
    id: ReservationId,
    window: Window,
    shares: &'a [Share],
    rates: &'a [PairRate],
}

fn overlap(a: &AddressBlock, b: &AddressBlock) -> bool {
    let (first, other) = (u64::from(u32::from(a.first)), u64::from(u32::from(b.first)));
    first < other + u64::from(b.count) && other < first + u64::from(a.count)
}

/// The GRC's records of reservations.
pub fn saved(world: &World) -> Vec<SavedReservation> {
    let reservations = world.grc.disk.records().filter(|(key, _)| key.table() == 1);
    let decoded = reservations.filter_map(|(_, bytes)| Value::decode(bytes).ok());
    decoded
        .filter_map(|value| match value {
            Value::Reservation(saved) => Some(*saved),
            _ => None,
        })
        .collect()
}

/// What is granted, and what is being asked for: an attempt that was given up need not be forgotten
/// on the disk before the next thing happens to its reservation.
fn claims<'a>(saved: &'a [SavedReservation], attempts: &[(ReservationId, Version)]) -> Vec<Claim<'a>> {
    let mut claims = Vec::new();
    for one in saved {
        if let Some(grant) = one.grant.as_ref().filter(|_| one.standing == Standing::Granted) {
            let (window, rates) = (grant.window, grant.rates.as_slice());
            claims.push(Claim { id: one.id, window, shares: &one.shares, rates });
        }
        let open = |version| attempts.contains(&(one.id, version));
        if let Some(attempt) = one.attempt.as_ref().filter(|attempt| open(attempt.version)) {
            // The network is reserved last: until it is, several attempts may want the same of it.
            claims.push(Claim { id: one.id, window: attempt.window, shares: &attempt.shares, rates: &[] });
        }
    }
    claims
}

impl World {
    /// The grant of a reservation as it is durable.
    pub fn decided(&self, id: ReservationId) -> Option<Decided> {
        let Ok(Value::Reservation(saved)) = Value::decode(self.grc.disk.get(&journal::Key::of(1, id.0))?)
        else {
            return None;
        };
        let grant = saved.grant?;
        let now = self.agenda.now();
        let when = |at| self.grc.clocks.when(now, at);
        Some(Decided {
            version: grant.version,
            begins: when(grant.window.start),
            ends: when(grant.window.end),
            own_job: saved.own_job,
        })
    }

    /// No place on a node, no link and no uplink above what there is, at any time; and no address
    /// in two reservations at once.
    pub fn check_books(&mut self) {
        let now = self.agenda.now();
        let saved = saved(self);
        let attempts = self.grc.owner.as_ref().map(grc::coordinator::Coordinator::attempts);
        let attempts: Vec<_> = attempts.into_iter().flatten().map(|(id, version, _)| (id, version)).collect();
        let claims = claims(&saved, &attempts);
        let mut found = self.over_capacity(&claims);
        for (number, one) in claims.iter().enumerate() {
            for other in &claims[..number] {
                let together = one.window.start < other.window.end && other.window.start < one.window.end;
                if one.id == other.id || !together {
                    continue;
                }
                let blocks = |claim: &Claim| -> Vec<AddressBlock> {
                    claim.shares.iter().flat_map(|share| share.carve.iter().copied()).collect()
                };
                let theirs = blocks(other);
                if let Some(block) = blocks(one).iter().find(|ours| theirs.iter().any(|b| overlap(ours, b))) {
                    found =
                        Some(("carve-once", format!("{block} is carved for {} and {}", one.id, other.id)));
                }
            }
        }
        if let Some((rule, what)) = found {
            self.history.broken(now, rule, || what);
        }
    }

    fn over_capacity(&self, claims: &[Claim]) -> Option<(&'static str, String)> {
        let spec = |name: &SiteName| self.sites.iter().find(|place| place.name == *name).map(|p| &p.spec);
        // Usage changes where a window begins.
        for at in claims.iter().map(|claim| claim.window.start) {
            let mut places: BTreeMap<(&SiteName, u32), BTreeMap<ReservationId, u64>> = BTreeMap::new();
            let mut links: BTreeMap<(&SiteName, &SiteName), BTreeMap<ReservationId, u64>> = BTreeMap::new();
            let mut uplinks: BTreeMap<&SiteName, BTreeMap<ReservationId, u64>> = BTreeMap::new();
            for claim in claims.iter().filter(|one| one.window.start <= at && at < one.window.end) {
                for share in claim.shares {
                    let mine = places.entry((&share.site, share.layer)).or_default();
                    // Of a grant and a change of it, the larger counts.
                    let mine = mine.entry(claim.id).or_default();
                    *mine = (*mine).max(share.members.into());
                }
                let mut sums: BTreeMap<&SiteName, u64> = BTreeMap::new();
                for PairRate { a, b, rate_kbit } in claim.rates {
                    let mine = links.entry((a.min(b), a.max(b))).or_default().entry(claim.id).or_default();
                    *mine = (*mine).max(u64::from(*rate_kbit));
                    *sums.entry(a).or_default() += u64::from(*rate_kbit);
                    *sums.entry(b).or_default() += u64::from(*rate_kbit);
                }
                for (site, sum) in sums {
                    let mine = uplinks.entry(site).or_default().entry(claim.id).or_default();
                    *mine = (*mine).max(sum);
                }
            }
            for ((site, layer), used) in places {
                let used: u64 = used.into_values().sum();
                let have =
                    spec(site).map_or(0, |s| if layer < s.members_max { u64::from(s.nodes) } else { 0 });
                if used > have {
                    return Some((
                        "node-places",
                        format!("{used} of {have} places of {site}, layer {layer}"),
                    ));
                }
            }
            for ((a, b), used) in links {
                let (used, have) = (used.into_values().sum::<u64>(), self.scenario.link_kbit);
                if used > have {
                    return Some(("link-capacity", format!("{used} of {have} kbit/s between {a} and {b}")));
                }
            }
            for (site, used) in uplinks {
                let used: u64 = used.into_values().sum();
                let have = spec(site).and_then(|s| s.uplink_kbit).unwrap_or(u64::MAX);
                if used > have {
                    return Some((
                        "uplink-capacity",
                        format!("{used} of {have} kbit/s at the uplink of {site}"),
                    ));
                }
            }
        }
        None
    }

    /// What times of one window may differ by at a site, for what the messages took.
    pub fn blur(&self) -> std::time::Duration {
        let temper = &self.scenario.temper;
        let late = if temper.out_of_order > 0 { 2 * S } else { 0 };
        let paused = self.scenario.faults.iter().map(|(_, fault)| match fault {
            Fault::Pause { time, .. } => *time,
            // What was sent into it comes after it.
            Fault::Cut { time, .. } => *time + 3 * S,
            _ => 0,
        });
        let late = late + paused.max().unwrap_or(0);
        std::time::Duration::from_micros(temper.delay + late + self.slowest_commit() + 2_500 * MS)
    }

    /// What a site has voted for and granted is never more than it has.
    pub fn check_parts(&mut self, site: usize) {
        let now = self.agenda.now();
        let blur = self.blur();
        let place = &self.sites[site];
        let Some(owner) = &place.host.owner else { return };
        let mut claims = Vec::new();
        for (id, held, grant) in owner.bookings() {
            for terms in [held, grant].into_iter().flatten() {
                claims.push((id, terms.start + blur, terms.end, terms.part.layer, terms.part.members));
            }
        }
        let mut found = None;
        for &(_, at, _, layer, _) in &claims {
            let mut used: BTreeMap<ReservationId, u32> = BTreeMap::new();
            let then = claims.iter().filter(|one| one.1 <= at && at < one.2 && one.3 == layer);
            for (id, _, _, _, members) in then {
                let mine = used.entry(*id).or_default();
                *mine = (*mine).max(*members);
            }
            let used: u32 = used.into_values().sum();
            let have = if layer < place.spec.members_max { place.spec.nodes } else { 0 };
            if used > have {
                let name = &place.name;
                found = Some(format!("site {name} has voted for {used} of {have} places of layer {layer}"));
            }
        }
        if let Some(what) = found {
            self.history.broken(now, "node-places", || what);
        }
    }

    /// All or nothing: long enough after the answer, and after the last fault, every site has what
    /// was granted, and nothing else.
    pub fn check_all_or_nothing(&mut self) {
        let now = self.agenda.now();
        let troubled = self.scenario.faults.first().is_some_and(|(at, _)| S + at < now);
        let temper = &self.scenario.temper;
        let lossy = temper.drop > 0 && now < S + self.scenario.calm_at + 45 * S;
        let patience: Micros = if troubled || temper.drop > 0 { 45 * S } else { 12 * S };
        if !self.lasting.is_empty() || lossy || now < self.calm_since + patience {
            return;
        }
        let mut found = None;
        for (id, promise) in &self.promises.all {
            let Some(granted) = promise.changed.filter(|at| at + patience < now) else { continue };
            if !self.promises.in_force(*id, now) {
                continue;
            }
            let version = promise.version;
            for (_, site) in promise.parts.keys().filter(|(one, _)| *one == version) {
                let Some(owner) = &self.sites[*site].host.owner else { continue };
                let has = owner.bookings().find(|(one, ..)| one == id).and_then(|(_, _, grant)| grant);
                if has.is_none_or(|terms| terms.version != version) {
                    let name = &self.sites[*site].name;
                    let version = version.0;
                    found = Some(format!(
                        "version {version} of {id}, granted at {}, is not in force at {name}: {has:?}",
                        time(granted)
                    ));
                }
            }
        }
        if let Some(what) = found.or_else(|| self.held_by_nobody(now, patience)) {
            self.history.broken(now, "all-or-nothing", || what);
        }
    }

    /// What a site has although its reservation is over, or never was.
    fn held_by_nobody(&self, now: Micros, patience: Micros) -> Option<String> {
        if !self.grc.is_up() {
            return None;
        }
        let saved = saved(self);
        for place in &self.sites {
            let Some(owner) = &place.host.owner else { continue };
            for (id, held, grant) in owner.bookings() {
                let known = saved.iter().find(|one| one.id == id);
                let lives = known.is_some_and(|one| !matches!(one.standing, Standing::Over { .. }));
                let since = self.promises.all.get(&id).map_or(0, |promise| promise.touched);
                if !lives && since + patience < now {
                    let name = &place.name;
                    return Some(format!("{name} has {held:?} {grant:?} of {id}, which is over"));
                }
            }
        }
        None
    }
}
