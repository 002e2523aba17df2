//! The exchange: what every site reports of its members, checked and merged once into the one
//! key ring that goes back to all of them.
//!
//! A site can register keys only for members, nodes and addresses of its own part. What it says of
//! anything else is not skipped but ends the reservation: a site that lies once is not asked twice.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use protocol::codec;
use protocol::ids::MemberNumber;
use protocol::keys::{KeyRing, Member, PublicKey};
use protocol::names::{HostName, NodeName, SiteName, UserName};
use protocol::reservation::AddressBlock;
use protocol::site::ReadyMember;
use sha2::{Digest, Sha256};

/// What is wrong with a site's report.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ExchangeError {
    #[error("reports {given} members, its part has {wanted}")]
    Count { given: usize, wanted: u32 },
    #[error("reports member {0}, which its part does not have")]
    ForeignMember(MemberNumber),
    #[error("reports member {0} twice")]
    MemberTwice(MemberNumber),
    #[error("reports address {0}, which was not given to it")]
    ForeignAddress(Ipv4Addr),
    #[error("reports address {0} twice")]
    AddressTwice(Ipv4Addr),
    #[error("reports node {0} twice")]
    NodeTwice(NodeName),
    #[error("reports the same key for two members or two uses: {0}")]
    KeyTwice(HostName),
    #[error("changes the keys of its members")]
    Changed,
}

/// Checks one site's report against its part and puts it in the order of the members' numbers.
pub fn check(
    members: u32,
    carve: &[AddressBlock],
    mut report: Vec<ReadyMember>,
) -> Result<Vec<ReadyMember>, ExchangeError> {
    if report.len() != members as usize {
        return Err(ExchangeError::Count { given: report.len(), wanted: members });
    }
    report.sort_by_key(|member| member.number);
    let mut addresses = BTreeSet::new();
    let mut nodes = BTreeSet::new();
    for (index, member) in report.iter().enumerate() {
        if member.number >= members {
            return Err(ExchangeError::ForeignMember(member.number));
        }
        // Sorted and of the right length: a gap can only come with a number twice.
        if index > 0 && report[index - 1].number == member.number {
            return Err(ExchangeError::MemberTwice(member.number));
        }
        if !carve.iter().any(|block| holds(*block, member.address)) {
            return Err(ExchangeError::ForeignAddress(member.address));
        }
        if !addresses.insert(member.address) {
            return Err(ExchangeError::AddressTwice(member.address));
        }
        if !nodes.insert(&member.node) {
            return Err(ExchangeError::NodeTwice(member.node.clone()));
        }
    }
    Ok(report)
}

/// What tells one checked report from another: members, nodes, addresses and keys.
pub fn digest(report: &[ReadyMember]) -> [u8; 32] {
    // Only what holds too much cannot be encoded, and a report came out of a frame.
    Sha256::digest(codec::encode(&report).unwrap_or_default()).into()
}

fn holds(block: AddressBlock, address: Ipv4Addr) -> bool {
    u32::from(address).checked_sub(u32::from(block.first)).is_some_and(|offset| offset < block.count)
}

/// One ring out of all sites' checked reports, in the order of the parts; the first member is the
/// head.
///
/// # Errors
/// The site that brought a key which another member (or the same, for another use) has already: a
/// copied host key would let one member stand for another.
pub fn merge(
    user: &UserName,
    slots: u32,
    parts: &[(&SiteName, &[ReadyMember])],
) -> Result<KeyRing, (SiteName, ExchangeError)> {
    let mut keys: BTreeSet<PublicKey> = BTreeSet::new();
    let mut members = Vec::with_capacity(parts.iter().map(|(_, report)| report.len()).sum());
    for (site, report) in parts {
        for member in *report {
            let host = HostName { site: (*site).clone(), number: member.number };
            if !keys.insert(member.keys.host) || !keys.insert(member.keys.user) {
                return Err(((*site).clone(), ExchangeError::KeyTwice(host)));
            }
            members.push(Member { host, address: member.address, slots, keys: member.keys });
        }
    }
    Ok(KeyRing { user: user.clone(), members })
}

#[cfg(test)]
mod tests {
    use protocol::keys::MemberKeys;

    use super::*;

    const CARVE: [AddressBlock; 2] = [
        AddressBlock { first: Ipv4Addr::new(10, 1, 0, 1), count: 2 },
        AddressBlock { first: Ipv4Addr::new(10, 1, 0, 9), count: 1 },
    ];

    fn member(number: u32, address: u8, key: u8) -> ReadyMember {
        ReadyMember {
            number,
            node: format!("n{number}").parse().unwrap(),
            address: Ipv4Addr::new(10, 1, 0, address),
            keys: MemberKeys { host: PublicKey([key; 32]), user: PublicKey([key + 100; 32]) },
        }
    }

    fn good() -> Vec<ReadyMember> {
        vec![member(0, 1, 1), member(1, 2, 2), member(2, 9, 3)]
    }

    #[test]
    fn a_site_registers_only_its_own_members_nodes_and_addresses() {
        assert_eq!(check(3, &CARVE, good()), Ok(good()));
        let with = |index: usize, changed: ReadyMember| {
            let mut report = good();
            report[index] = changed;
            check(3, &CARVE, report).unwrap_err()
        };
        let outside = Ipv4Addr::new(10, 1, 0, 3);
        assert_eq!(with(1, member(1, 3, 2)), ExchangeError::ForeignAddress(outside));
        assert_eq!(with(1, member(1, 0, 2)), ExchangeError::ForeignAddress(Ipv4Addr::new(10, 1, 0, 0)));
        assert_eq!(with(2, member(3, 9, 3)), ExchangeError::ForeignMember(3));
        assert_eq!(with(2, member(1, 9, 3)), ExchangeError::MemberTwice(1));
        assert_eq!(with(2, member(2, 1, 3)), ExchangeError::AddressTwice(Ipv4Addr::new(10, 1, 0, 1)));
        let node = ReadyMember { node: "n0".parse().unwrap(), ..member(2, 9, 3) };
        assert_eq!(with(2, node), ExchangeError::NodeTwice("n0".parse().unwrap()));
        for count in [0, 2, 4] {
            let error = check(count, &CARVE, good()).unwrap_err();
            assert_eq!(error, ExchangeError::Count { given: 3, wanted: count });
        }
    }

    #[test]
    fn the_head_comes_first_and_every_site_keeps_its_order() {
        let (b, a): (SiteName, SiteName) = ("b".parse().unwrap(), "a".parse().unwrap());
        let mut shuffled = good();
        shuffled.reverse();
        let first = check(3, &CARVE, shuffled).unwrap();
        let second = [ReadyMember { address: Ipv4Addr::new(10, 2, 0, 1), ..member(0, 1, 50) }];
        let user = "u".parse().unwrap();
        let ring = merge(&user, 2, &[(&b, &first), (&a, &second)]).unwrap();
        let hosts: Vec<String> = ring.members.iter().map(|m| m.host.to_string()).collect();
        assert_eq!(hosts, ["b-0", "b-1", "b-2", "a-0"]);
        assert!(ring.members.iter().all(|m| m.slots == 2));
    }

    #[test]
    fn a_key_belongs_to_one_member_and_one_use() {
        let (a, b): (SiteName, SiteName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let user = "u".parse().unwrap();
        let copied = [member(0, 1, 2)];
        let (site, error) = merge(&user, 1, &[(&a, &good()), (&b, &copied)]).unwrap_err();
        assert_eq!((site.as_str(), error), ("b", ExchangeError::KeyTwice("b-0".into_host())));
        let mut both = member(0, 1, 7);
        both.keys.user = both.keys.host;
        assert!(merge(&user, 1, &[(&a, &[both])]).is_err());
    }

    trait IntoHost {
        fn into_host(self) -> HostName;
    }
    impl IntoHost for &str {
        fn into_host(self) -> HostName {
            let (site, number) = self.split_once('-').unwrap();
            HostName { site: site.parse().unwrap(), number: number.parse().unwrap() }
        }
    }
}
