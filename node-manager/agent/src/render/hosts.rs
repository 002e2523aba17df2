//! Lists of members: `/etc/hosts` and the hostfiles in every dialect.

use std::fmt::Write;

use protocol::keys::{KeyRing, Member};

fn lines(ring: &KeyRing, mut line: impl FnMut(&mut String, &Member)) -> String {
    let mut text = String::with_capacity(ring.members.len() * 32);
    for member in &ring.members {
        line(&mut text, member);
        text.push('\n');
    }
    text
}

/// `/etc/hosts`: every member by the address that its sshd listens on. The own name stands for
/// the own address, not for a loopback one, because programs hand it to other members.
pub fn hosts(ring: &KeyRing) -> String {
    let members = lines(ring, |text, member| {
        let _ = write!(text, "{} {}", member.address, member.host);
    });
    format!("127.0.0.1 localhost\n{members}")
}

/// Open MPI, DeepSpeed: `host slots=N`.
pub fn hostfile(ring: &KeyRing) -> String {
    lines(ring, |text, member| {
        let _ = write!(text, "{} slots={}", member.host, member.slots);
    })
}

/// MPICH (Hydra), Intel MPI: `host:N`.
pub fn machinefile(ring: &KeyRing) -> String {
    lines(ring, |text, member| {
        let _ = write!(text, "{}:{}", member.host, member.slots);
    })
}

/// One name a line, the head first.
pub fn nodes(ring: &KeyRing) -> String {
    lines(ring, |text, member| {
        let _ = write!(text, "{}", member.host);
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::render::samples::{any_ring, two_sites};

    #[test]
    fn each_dialect_is_as_its_readers_document_it() {
        let ring = two_sites();
        assert_eq!(hostfile(&ring), "a-0 slots=2\nb-0 slots=2\n");
        assert_eq!(machinefile(&ring), "a-0:2\nb-0:2\n");
        assert_eq!(nodes(&ring), "a-0\nb-0\n");
        assert_eq!(hosts(&ring), "127.0.0.1 localhost\n10.71.128.1 a-0\n10.72.128.1 b-0\n");
    }

    proptest! {
        #[test]
        fn every_list_has_one_line_per_member_and_plain_words_only(ring in any_ring()) {
            let count = ring.members.len();
            for (text, lines) in
                [(hostfile(&ring), count), (machinefile(&ring), count), (nodes(&ring), count), (hosts(&ring), count + 1)]
            {
                prop_assert_eq!(text.lines().count(), lines);
                prop_assert!(text.ends_with('\n'));
                prop_assert!(text.bytes().all(|b| b == b'\n' || b == b' ' || b.is_ascii_graphic()));
                prop_assert!(!text.contains('#'));
            }
            for (line, member) in nodes(&ring).lines().zip(&ring.members) {
                prop_assert_eq!(line, member.host.to_string());
            }
        }
    }
}
