//! Key rings for tests.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use protocol::keys::{KeyRing, Member, MemberKeys, PublicKey};
use protocol::names::HostName;

fn member(site: &str, number: u32, address: [u8; 4], byte: u8) -> Member {
    Member {
        host: HostName { site: site.parse().unwrap(), number },
        address: Ipv4Addr::from(address),
        slots: 2,
        keys: MemberKeys { host: PublicKey([byte; 32]), user: PublicKey([byte + 1; 32]) },
    }
}

/// One member at each of two sites.
pub fn two_sites() -> KeyRing {
    let members = vec![member("a", 0, [10, 71, 128, 1], 1), member("b", 0, [10, 72, 128, 1], 3)];
    KeyRing { user: "grid".parse().unwrap(), members }
}

/// Whatever passes the checks of the protocol's types.
pub fn any_ring() -> impl Strategy<Value = KeyRing> {
    let member = (
        "[a-z][a-z0-9]{0,11}",
        any::<u32>(),
        any::<[u8; 4]>(),
        any::<u32>(),
        any::<[u8; 32]>(),
        any::<[u8; 32]>(),
    )
        .prop_map(|(site, number, address, slots, host, user)| Member {
            host: HostName { site: site.parse().unwrap(), number },
            address: Ipv4Addr::from(address),
            slots,
            keys: MemberKeys { host: PublicKey(host), user: PublicKey(user) },
        });
    ("[a-z_][a-z0-9_-]{0,31}", proptest::collection::vec(member, 1..20))
        .prop_map(|(user, members)| KeyRing { user: user.parse().unwrap(), members })
}
