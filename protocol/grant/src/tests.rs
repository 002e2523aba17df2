//! Layout, names and refusals of the grant.

use super::*;

fn sample() -> Grant {
    Grant {
        nonce: *b"0123456789abcdef",
        site: SiteName::new("a").unwrap(),
        reservation: 12,
        epoch: 3,
        member: 1,
        uid: 1001,
        user: UserName::new("grid_user-1").unwrap(),
        address: Ipv4Addr::new(10, 71, 128, 7),
        prefix_len: 16,
        gateway: Some(Ipv4Addr::new(10, 71, 0, 1)),
        mtu: 1500,
        driver: Driver::Macvlan,
        shaped: true,
        lifetime_s: 3600,
        lease_s: 10,
        memory_bytes: 1 << 31,
        pids: 4096,
        cpus_milli: 2000,
        upper_bytes: 1 << 30,
        upper_inodes: 100_000,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn wire_form_never_drifts() {
    assert_eq!(
        hex(&sample().encode()),
        concat!(
            "03011001",
            "000003e9",
            "30313233343536373839616263646566",
            "000000000000000c",
            "0000000000000003",
            "00000001",
            "00000e10",
            "0a478007",
            "0a470001",
            "05dc0000",
            "00001000",
            "0000000080000000",
            "0000000040000000",
            "00000000000186a0",
            "000007d0",
            "0000000a",
            "610000000000000000000000",
            "677269645f757365722d31000000000000000000000000000000000000000000"
        )
    );
    assert_eq!(&sample().signed_message()[..CONTEXT.len()], b"gridpilot grant v3\0");
}

#[test]
fn what_is_encoded_comes_back() {
    assert_eq!(Grant::decode(&sample().encode()), Ok(sample()));
    let bare = Grant { gateway: None, driver: Driver::Veth, shaped: false, memory_bytes: 0, ..sample() };
    assert_eq!(Grant::decode(&bare.encode()), Ok(bare));
}

/// Flip every bit: either it is refused or it is another grant with exactly these bytes.
#[test]
fn no_two_records_mean_the_same_grant() {
    let record = sample().encode();
    for bit in 0..GRANT_LEN * 8 {
        let mut changed = record;
        changed[bit / 8] ^= 1 << (bit % 8);
        if let Ok(grant) = Grant::decode(&changed) {
            assert_ne!(grant, sample(), "bit {bit}");
            assert_eq!(grant.encode(), changed, "bit {bit}");
        }
    }
}

#[test]
fn addresses_no_host_can_have_are_refused() {
    for (address, prefix_len) in [
        ([0, 0, 0, 0], 16),
        ([127, 0, 0, 1], 16),
        ([10, 71, 255, 255], 16),
        ([10, 71, 0, 0], 16),
        ([224, 0, 0, 5], 16),
        ([255, 255, 255, 255], 16),
        ([169, 254, 1, 1], 16),
        ([10, 71, 0, 5], 0),
        ([10, 71, 0, 5], 32),
        ([10, 71, 0, 1], 16),
    ] {
        let grant = Grant { address: address.into(), prefix_len, ..sample() };
        assert_eq!(grant.check(), Err(GrantError::BadAddress), "{address:?}/{prefix_len}");
    }
    let gateway = Some(Ipv4Addr::new(10, 72, 0, 1));
    assert_eq!(Grant { gateway, ..sample() }.check(), Err(GrantError::BadAddress));
}

#[test]
fn names_follow_their_rule() {
    for bad in ["", "A", "1a", "a-b", "abcdefghijklm", "a\n"] {
        assert_eq!(SiteName::new(bad), Err(GrantError::BadSite), "{bad:?}");
    }
    for bad in ["", "Root", "-x", "a b", "a:b", "a\n", "é", &"a".repeat(33)] {
        assert_eq!(UserName::new(bad), Err(GrantError::BadUser), "{bad:?}");
    }
    assert_eq!(Grant { uid: 0, ..sample() }.check(), Err(GrantError::RootUser));
}
