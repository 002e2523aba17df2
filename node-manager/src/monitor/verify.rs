//! From a grant to a plan: nothing is built that the site did not sign for this very
//! start of this monitor, and that the node policy does not allow.

use std::process;

use ed25519_compact::{PublicKey, Signature};
use grant::{GRANT_LEN, Grant, RATES_LEN, Rates};
use rustix::process::{Resource, Rlimit};

use super::policy::Policy;
use crate::account::Account;
use crate::failure::{At, Failure};
use crate::net::link::Link;
use crate::operation::Step::{self, CheckGrant, CheckPolicy, CheckRates, CreateLink};
use crate::sandbox::Plan;
use crate::sandbox::cgroup::Limit;

/// Files in the writable part when the grant does not say: one for each 4 KiB.
const BYTES_PER_INODE: u64 = 4096;
/// What a sandbox gets that asked for nothing in particular, if the policy has that much: 1 GiB to
/// write, and room for a few hundred ranks with helper threads.
const UPPER_BYTES_DEFAULT: u64 = 1 << 30;
const PIDS_DEFAULT: u64 = 4096;

/// What this start of the monitor is bound to.
pub struct Expected {
    pub nonce: [u8; 16],
    /// Real uid of the caller.
    pub uid: u32,
    /// The limits he was under.
    pub limits: Vec<(Resource, Rlimit)>,
    /// Of the rates that were installed last.
    pub serial: u32,
}

/// The signature first: what nobody signed is not even decoded.
pub fn verify(
    record: &[u8; GRANT_LEN],
    signature: &[u8; 64],
    policy: &Policy,
    expected: &Expected,
) -> Result<Grant, Failure> {
    let refuse = |reason: std::fmt::Arguments<'_>| Failure::rule(CheckGrant, reason);
    check_signature(CheckGrant, &grant::signed_message(record), signature, policy)?;
    let grant = Grant::decode(record).map_err(|error| refuse(format_args!("{error}")))?;
    if grant.nonce != expected.nonce {
        return Err(refuse(format_args!("it was made for another start")));
    }
    let (asked, here) = (grant.uid, expected.uid);
    if asked != here {
        return Err(refuse(format_args!("it is for uid {asked}, the pilot was started by uid {here}")));
    }
    if grant.site != policy.site {
        return Err(refuse(format_args!("it is of site {}, this is {}", grant.site, policy.site)));
    }
    allowed(&grant, policy)?;
    Ok(grant)
}

/// Rates for this start of this monitor, newer than those that hold.
pub fn newer_rates(
    record: &[u8; RATES_LEN],
    signature: &[u8; 64],
    policy: &Policy,
    expected: &Expected,
) -> Result<Rates, Failure> {
    check_signature(CheckRates, &Rates::signed_message(record), signature, policy)?;
    let rates = Rates::decode(record).map_err(|error| Failure::rule(CheckRates, error))?;
    if rates.nonce != expected.nonce || rates.serial <= expected.serial {
        return Err(Failure::rule(CheckRates, "they were made for another start, or are older than these"));
    }
    let (sum, max) = (rates.rates_kbit.iter().map(|&rate| u64::from(rate)).sum::<u64>(), policy.rate_max);
    if max != 0 && sum > max {
        return Err(Failure::rule(CheckPolicy, format_args!("rates of {sum} kbit/s are over its {max}")));
    }
    Ok(rates)
}

fn check_signature(step: Step, message: &[u8], signature: &[u8; 64], policy: &Policy) -> Result<(), Failure> {
    let checked = PublicKey::new(policy.grant_key).verify(message, &Signature::new(*signature));
    checked.map_err(|_| Failure::rule(step, "the signature is not the CRM's"))
}

fn allowed(grant: &Grant, policy: &Policy) -> Result<(), Failure> {
    let refuse = |what: std::fmt::Arguments<'_>| Err(Failure::rule(CheckPolicy, what));
    if !policy.drivers.contains(&grant.driver) {
        return refuse(format_args!("driver {} is not allowed on this node", grant.driver.name()));
    }
    if !policy.ranges.iter().any(|range| range.holds(grant.address)) {
        return refuse(format_args!("address {} is in none of the node's ranges", grant.address));
    }
    for (name, asked, max, unlimited) in [
        ("upper_bytes", grant.upper_bytes, policy.upper_max, false),
        ("upper_inodes", grant.upper_inodes, policy.upper_max / BYTES_PER_INODE, false),
        ("memory_bytes", grant.memory_bytes, policy.memory_max, policy.memory_max == 0),
        ("pids", u64::from(grant.pids), policy.pids_max, policy.pids_max == 0),
        ("lease_s", grant.lease_s.into(), policy.lease_max, false),
    ] {
        if asked > max && !unlimited {
            return refuse(format_args!("{name} {asked} is over the node's {max}"));
        }
    }
    Ok(())
}

/// What a verified grant means on this node.
pub fn plan(grant: &Grant, policy: &Policy, expected: &Expected) -> Result<Plan, Failure> {
    let account = Account::of(grant.uid)?;
    let parent = nix::net::if_::if_nametoindex(policy.interface.as_str())
        .at(CreateLink, format_args!("interface {} of the node policy", policy.interface))?;
    // What the grant or the administrator asks must be kept; what nobody asked for, where the node can.
    let or = |asked: u64, default: u64| if asked == 0 { default } else { asked };
    let least = |default: u64, ceiling: u64| if ceiling == 0 { default } else { default.min(ceiling) };
    let upper_bytes = or(grant.upper_bytes, least(UPPER_BYTES_DEFAULT, policy.upper_max));
    let pid = process::id();
    Ok(Plan {
        host_name: grant.host_name(),
        tag: format!("{}-{}-{}-{}-{pid}", grant.site, grant.reservation, grant.epoch, grant.member),
        user: grant.user,
        account,
        shares: policy.shares.clone(),
        callers_limits: expected.limits.clone(),
        link: Link {
            driver: grant.driver,
            parent,
            outside_name: super::sweep::link_name(pid),
            address: grant.address,
            prefix_len: grant.prefix_len,
            gateway: grant.gateway,
            mtu: grant.mtu,
            closed: grant.shaped,
        },
        limits: [
            Limit { controller: "memory", value: or(grant.memory_bytes, policy.memory_max), required: true },
            Limit {
                controller: "pids",
                value: or(grant.pids.into(), least(PIDS_DEFAULT, policy.pids_max)),
                required: grant.pids != 0,
            },
            Limit { controller: "cpu", value: grant.cpus_milli.into(), required: true },
        ],
        upper_bytes,
        upper_inodes: or(grant.upper_inodes, (upper_bytes / BYTES_PER_INODE).max(1024)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::policy::Range;
    use super::*;
    use ed25519_compact::{KeyPair, Seed};
    use grant::{Driver, SiteName, UserName};
    use std::net::Ipv4Addr;

    fn key() -> KeyPair {
        KeyPair::from_seed(Seed::new([5; 32]))
    }

    fn policy() -> Policy {
        Policy {
            site: SiteName::new("a").unwrap(),
            grant_key: *key().pk,
            crm_pin: [0; 32],
            interface: "eth0".into(),
            drivers: vec![Driver::Macvlan],
            ranges: vec![Range::parse("10.71.128.0/17").unwrap()],
            shares: vec![],
            uid_min: 1000,
            upper_max: 1 << 30,
            memory_max: 1 << 31,
            pids_max: 100,
            rate_max: 1000,
            lease_max: 60,
        }
    }

    fn sample() -> Grant {
        Grant {
            nonce: [1; 16],
            site: SiteName::new("a").unwrap(),
            reservation: 1,
            epoch: 1,
            member: 0,
            uid: 1001,
            user: UserName::new("grid").unwrap(),
            address: Ipv4Addr::new(10, 71, 128, 1),
            prefix_len: 16,
            gateway: None,
            mtu: 1500,
            driver: Driver::Macvlan,
            shaped: false,
            lifetime_s: 60,
            lease_s: 10,
            memory_bytes: 0,
            pids: 0,
            cpus_milli: 0,
            upper_bytes: 0,
            upper_inodes: 0,
        }
    }

    fn judge(grant: &Grant) -> Result<Grant, Failure> {
        let record = grant.encode();
        let signature = key().sk.sign(grant::signed_message(&record), None);
        verify(&record, &signature, &policy(), &expected())
    }

    #[test]
    fn what_the_site_signed_is_accepted() {
        assert_eq!(judge(&sample()), Ok(sample()));
    }

    fn expected() -> Expected {
        Expected { nonce: [1; 16], uid: 1001, limits: vec![], serial: 0 }
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let record = sample().encode();
        let signature: [u8; 64] = *key().sk.sign(grant::signed_message(&record), None);
        let expected = expected();
        for bit in 0..GRANT_LEN * 8 {
            let mut changed = record;
            changed[bit / 8] ^= 1 << (bit % 8);
            let failure = verify(&changed, &signature, &policy(), &expected).unwrap_err();
            assert_eq!(failure.step, CheckGrant, "bit {bit}");
        }
        for bit in 0..64 * 8 {
            let mut changed = signature;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&record, &changed, &policy(), &expected).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_is_signed_for_another_start_user_or_site_is_refused() {
        for (grant, reason) in [
            (Grant { nonce: [2; 16], ..sample() }, "another start"),
            (Grant { uid: 1002, ..sample() }, "uid 1002"),
            (Grant { site: SiteName::new("b").unwrap(), ..sample() }, "site b"),
        ] {
            let failure = judge(&grant).unwrap_err();
            assert_eq!(failure.step, CheckGrant);
            assert!(failure.detail.contains(reason), "{failure}");
        }
    }

    fn rates(serial: u32) -> Rates {
        Rates { nonce: [1; 16], serial, lifetime_s: 60, rates_kbit: [100; 8], destinations: vec![] }
    }

    fn judge_rates(rates: &Rates, expected: &Expected) -> Result<Rates, Failure> {
        let record = rates.encode().unwrap();
        let signature = key().sk.sign(Rates::signed_message(&record), None);
        newer_rates(&record, &signature, &policy(), expected)
    }

    #[test]
    fn rates_must_be_newer_than_those_that_hold() {
        for (installed, serial, accepted) in [
            (0, 1, true),
            (5, 5, false),
            (5, 4, false),
            (5, 6, true),
            (5, u32::MAX, true),
            (u32::MAX, 1, false),
        ] {
            let judged = judge_rates(&rates(serial), &Expected { serial: installed, ..expected() });
            assert_eq!(judged.is_ok(), accepted, "{serial} after {installed}: {judged:?}");
        }
    }

    #[test]
    fn rates_that_are_not_for_here_are_refused() {
        let expected = expected();
        let foreign = judge_rates(&Rates { nonce: [2; 16], ..rates(9) }, &expected).unwrap_err();
        assert_eq!(foreign.step, CheckRates);
        let mut too_much = rates(9);
        too_much.rates_kbit[7] = 301;
        let failure = judge_rates(&too_much, &expected).unwrap_err();
        assert_eq!(failure.step, CheckPolicy);
        assert!(failure.detail.contains("1001 kbit/s"), "{failure}");
        let record = rates(9).encode().unwrap();
        let signature: [u8; 64] = *key().sk.sign(Rates::signed_message(&record), None);
        for bit in 0..RATES_LEN * 8 {
            let mut changed = record;
            changed[bit / 8] ^= 1 << (bit % 8);
            let failure = newer_rates(&changed, &signature, &policy(), &expected).unwrap_err();
            assert_eq!(failure.step, CheckRates, "bit {bit}");
        }
        // Neither is a grant's signature one of rates, nor the other way round.
        let bare: [u8; 64] = *key().sk.sign(record, None);
        assert!(newer_rates(&record, &bare, &policy(), &expected).is_err());
        assert_eq!(judge_rates(&rates(1), &expected), Ok(rates(1)));
    }

    #[test]
    fn what_the_node_does_not_allow_is_refused() {
        for (grant, reason) in [
            (Grant { address: Ipv4Addr::new(10, 71, 1, 1), ..sample() }, "10.71.1.1"),
            (Grant { driver: Driver::Veth, ..sample() }, "veth"),
            (Grant { upper_bytes: (1 << 30) + 1, ..sample() }, "upper_bytes"),
            (Grant { upper_inodes: 1 << 30, ..sample() }, "upper_inodes"),
            (Grant { memory_bytes: 1 << 32, ..sample() }, "memory_bytes"),
            (Grant { pids: 101, ..sample() }, "pids"),
        ] {
            let failure = judge(&grant).unwrap_err();
            assert_eq!(failure.step, CheckPolicy);
            assert!(failure.detail.contains(reason), "{failure}");
        }
    }
}
