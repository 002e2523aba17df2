//! Rates as they are typed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bits per second, in thousands: `64kbit`, `1.5Mbit`, `1Gbit`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Rate {
    pub kbit: u32,
}

/// Units with their kbit/s, smallest first.
const UNITS: [(&str, u32); 3] = [("kbit", 1), ("Mbit", 1000), ("Gbit", 1_000_000)];
const KBIT_MAX: f64 = 1e8;

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) =
            text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("{text:?} is no rate; write 64kbit, 100Mbit or 1Gbit"));
        };
        match number.parse::<f64>().map(|number| number * f64::from(*factor)) {
            Ok(kbit) if (1.0..=KBIT_MAX).contains(&kbit) => Ok(Self { kbit: kbit.round() as u32 }),
            _ => Err(format!("{text:?} is not between 1kbit and 100Gbit")),
        }
    }
}

/// In the largest unit of which it is a whole number.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().rev().find(|(_, factor)| self.kbit.is_multiple_of(*factor));
        let (name, factor) = unit.unwrap_or(&UNITS[0]);
        write!(f, "{}{name}", self.kbit / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_typed_and_nothing_else_is() {
        for (text, kbit) in
            [("64kbit", 64), ("1.5Mbit", 1500), ("200Mbit", 200_000), ("100Gbit", 100_000_000)]
        {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate, Rate { kbit });
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        assert_eq!(Rate { kbit: 200_000 }.to_string(), "200Mbit");
        for bad in ["", "100", "Mbit", "-1Mbit", "0kbit", "101Gbit", "1mbit", "1 Mbit", "1e3kbit", "NaNMbit"]
        {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }
}
