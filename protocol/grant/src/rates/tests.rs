//! Layout, rules and refusals of rates.

use super::*;

fn to(network: [u8; 4], prefix_len: u8, class: u8) -> Destination {
    Destination { network: network.into(), prefix_len, class }
}

fn sample() -> Rates {
    let mut rates_kbit = [0; CLASSES_MAX];
    (rates_kbit[0], rates_kbit[7]) = (50_000, RATE_KBIT_MAX);
    let destinations =
        vec![to([10, 72, 0, 0], 16, 0), to([10, 73, 128, 4], 30, 7), to([10, 73, 128, 9], 32, 7)];
    Rates { nonce: *b"0123456789abcdef", serial: 3, lifetime_s: 3600, rates_kbit, destinations }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn wire_form_never_drifts() {
    let record = sample().encode().unwrap();
    assert_eq!(
        hex(&record[..78]),
        concat!(
            "01000000",
            "00000003",
            "30313233343536373839616263646566",
            "00000e10",
            "0000c350",
            "000000000000000000000000000000000000000000000000",
            "05f5e100",
            "0a4800001000",
            "0a4980041e07",
            "0a4980092007",
        )
    );
    assert_eq!(record[78..], [0; RATES_LEN - 78]);
    assert_eq!(RATES_LEN, 348);
    assert_eq!(&Rates::signed_message(&record)[..RATES_CONTEXT.len()], b"gridpilot rates v1\0");
}

#[test]
fn what_is_encoded_comes_back() {
    assert_eq!(Rates::decode(&sample().encode().unwrap()), Ok(sample()));
    let most = (0..DESTINATIONS_MAX as u8).map(|n| to([10, n, 0, 0], 16, 0)).collect();
    for destinations in [Vec::new(), vec![to([255, 255, 255, 255], 32, 7)], most] {
        let rates = Rates { destinations, ..sample() };
        assert_eq!(Rates::decode(&rates.encode().unwrap()), Ok(rates));
    }
}

/// Flip every bit: either it is refused or it is other rates with exactly these bytes.
#[test]
fn no_two_records_mean_the_same_rates() {
    let record = sample().encode().unwrap();
    for bit in 0..RATES_LEN * 8 {
        let mut changed = record;
        changed[bit / 8] ^= 1 << (bit % 8);
        if let Ok(rates) = Rates::decode(&changed) {
            assert_ne!(rates, sample(), "bit {bit}");
            assert_eq!(rates.encode(), Some(changed), "bit {bit}");
        }
    }
}

#[test]
fn rates_that_could_be_read_in_two_ways_are_refused() {
    assert_eq!(Rates { serial: 0, ..sample() }.check(), Err(RatesError::NoSerial));
    assert_eq!(Rates { lifetime_s: 0, ..sample() }.check(), Err(RatesError::NoLifetime));
    let mut rates_kbit = sample().rates_kbit;
    rates_kbit[3] = RATE_KBIT_MAX + 1;
    assert_eq!(Rates { rates_kbit, ..sample() }.check(), Err(RatesError::BadRate(RATE_KBIT_MAX + 1)));
    let too_many = vec![to([10, 0, 0, 0], 16, 0); DESTINATIONS_MAX + 1];
    let too_many = Rates { destinations: too_many, ..sample() };
    assert_eq!(too_many.check(), Err(RatesError::TooManyDestinations));
    assert_eq!(too_many.encode(), None);
    let first = to([10, 72, 0, 0], 16, 0);
    for bad in [
        // Inside the first, the first again, before it, around it.
        to([10, 72, 3, 0], 24, 0),
        first,
        to([10, 71, 0, 0], 16, 0),
        to([10, 64, 0, 0], 10, 0),
        // Host bits, lengths that no prefix has.
        to([10, 73, 0, 1], 24, 0),
        to([0, 0, 0, 0], 7, 0),
        to([10, 73, 0, 0], 33, 0),
        to([10, 73, 0, 0], 255, 0),
        // Classes without a rate.
        to([10, 73, 0, 0], 16, 1),
        to([10, 73, 0, 0], 16, 8),
    ] {
        let rates = Rates { destinations: vec![first, bad], ..sample() };
        assert_eq!(rates.check(), Err(RatesError::BadDestination(bad)));
        assert_eq!(rates.encode(), None);
    }
    let last = to([255, 255, 255, 255], 32, 0);
    let twice = Rates { destinations: vec![last, last], ..sample() };
    assert_eq!(twice.check(), Err(RatesError::BadDestination(last)));
}
