//! The one-time ticket that `grc ticket SITE` prints: `gpt1.<site>.<GRC's pin>.<secret>`.

use std::str::FromStr;

use protocol::identity::{Pin, hex32};
use protocol::names::SiteName;

/// Why a text is not a ticket.
#[derive(Debug, thiserror::Error)]
#[error("this is not a ticket: {0}; `grc ticket SITE` prints one")]
pub struct BadTicket(&'static str);

/// What a ticket says.
pub struct Ticket {
    pub site: SiteName,
    pub grc: Pin,
    pub secret: [u8; 32],
}

impl FromStr for Ticket {
    type Err = BadTicket;
    fn from_str(text: &str) -> Result<Self, BadTicket> {
        let mut words = text.trim().split('.');
        let mut next = || words.next().unwrap_or("");
        if next() != "gpt1" {
            return Err(BadTicket("it does not begin with gpt1"));
        }
        let site = next().parse().map_err(|_| BadTicket("its site is no site name"))?;
        let grc = hex32(next()).map(Pin).ok_or(BadTicket("its pin is not 64 hexadecimal digits"))?;
        let secret = hex32(next()).ok_or(BadTicket("its secret is not 64 hexadecimal digits"))?;
        match words.next() {
            None => Ok(Self { site, grc, secret }),
            Some(_) => Err(BadTicket("something follows its end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_whole_or_not_at_all() {
        let (pin, secret) = ("ab".repeat(32), "01".repeat(32));
        let ticket: Ticket = format!("gpt1.a.{pin}.{secret}\n").parse().unwrap();
        assert_eq!((ticket.site.as_str(), ticket.grc, ticket.secret), ("a", Pin([0xab; 32]), [1; 32]));
        for bad in [
            String::new(),
            format!("gpt2.a.{pin}.{secret}"),
            format!("gpt1.A.{pin}.{secret}"),
            format!("gpt1.a.{pin}"),
            format!("gpt1.a.{pin}.{secret}0"),
            format!("gpt1.a.{pin}.{secret}.x"),
        ] {
            assert!(bad.parse::<Ticket>().is_err(), "{bad}");
        }
    }
}
