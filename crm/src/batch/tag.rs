//! The name of a batch job whose system knows jobs only, and nothing of the pilots in them.
//!
//! `gridpilot-a-r12.3-0_3.5` is the third round of reservation r12 at site a with members 0 to 3
//! and 5. A CRM that lost the answer to a submission, or was started anew, knows by it which of its
//! pilots the queue has.

use std::fmt;

use protocol::ids::{MemberNumber, ReservationId};
use protocol::names::SiteName;

use super::BatchJob;
use crate::pilot::{PilotId, Round};

/// All names begin so.
const PREFIX: &str = "gridpilot";

/// Which pilots a batch job has.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Tag {
    pub reservation: ReservationId,
    pub round: Round,
    /// Growing and without repetition, never empty.
    members: Vec<MemberNumber>,
}

impl Tag {
    /// `None` of a job without pilots.
    pub fn of(job: &BatchJob) -> Option<Self> {
        let first = job.pilots.first()?.0.pilot;
        let members = job.pilots.iter().map(|(submit, _)| submit.pilot.member).collect();
        Some(Self::new(first.reservation, first.round, members))
    }

    fn new(reservation: ReservationId, round: Round, mut members: Vec<MemberNumber>) -> Self {
        members.sort_unstable();
        members.dedup();
        Self { reservation, round, members }
    }

    pub fn pilots(&self) -> impl ExactSizeIterator<Item = PilotId> + '_ {
        let Self { reservation, round, .. } = *self;
        self.members.iter().map(move |member| PilotId { reservation, round, member: *member })
    }

    /// The name at a site.
    pub fn name(&self, site: &SiteName) -> String {
        format!("{PREFIX}-{site}-{self}")
    }

    /// Reads a name that [`Self::name`] gave a job of this site. Anything else is somebody's job.
    pub fn read(name: &str, site: &SiteName) -> Option<Self> {
        let rest = name.strip_prefix(PREFIX)?.strip_prefix('-')?;
        let rest = rest.strip_prefix(site.as_str())?.strip_prefix('-')?;
        let (of, members) = rest.split_once('-')?;
        let (reservation, round) = of.split_once('.')?;
        let tag = Self::new(reservation.parse().ok()?, Round(number(round)?), read_members(members)?);
        // Only what is written as we write it: no job has two names.
        (tag.to_string() == rest).then_some(tag)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}-", self.reservation, self.round.0)?;
        for (place, run) in self.members.chunk_by(|a, b| a.checked_add(1) == Some(*b)).enumerate() {
            let dot = if place == 0 { "" } else { "." };
            match run {
                [first, .., last] => write!(f, "{dot}{first}_{last}")?,
                run => run.iter().try_for_each(|member| write!(f, "{dot}{member}"))?,
            }
        }
        Ok(())
    }
}

fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn read_members(text: &str) -> Option<Vec<MemberNumber>> {
    let mut members = Vec::new();
    for run in text.split('.') {
        let (first, last) = run.split_once('_').unwrap_or((run, run));
        let (first, last): (MemberNumber, MemberNumber) = (number(first)?, number(last)?);
        // A name comes from outside: it must not make us count to the largest number.
        if last < first || (last - first) as usize >= protocol::limits::NODES_PER_SITE_MAX {
            return None;
        }
        members.extend(first..=last);
        if members.len() > protocol::limits::NODES_PER_SITE_MAX {
            return None;
        }
    }
    Some(members)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn site(name: &str) -> SiteName {
        name.parse().unwrap()
    }

    #[test]
    fn a_name_says_members_in_few_letters() {
        let tag = |members: &[MemberNumber]| Tag::new(ReservationId(12), Round(3), members.to_vec());
        for (members, text) in
            [(&[0][..], "0"), (&[0, 1], "0_1"), (&[0, 1, 2, 3, 5], "0_3.5"), (&[7, 2, 4, 3], "2_4.7")]
        {
            assert_eq!(tag(members).name(&site("a")), format!("gridpilot-a-r12.3-{text}"));
        }
    }

    #[test]
    fn names_of_others_are_nobodys() {
        for name in [
            "gridpilot-b-r12.3-0",
            "gridpilot-ab-r12.3-0",
            "gridpilot-a-r12.3",
            "gridpilot-a-r12.3-",
            "gridpilot-a-r12.3-0_0",
            "gridpilot-a-r12.3-1_0",
            "gridpilot-a-r12.3-0.1",
            "gridpilot-a-r12.3-00",
            "gridpilot-a-r12.3-+1",
            "gridpilot-a-r12.03-1",
            "gridpilot-a-r12.3-0_4294967295",
            "gridpilot-a-12.3-0",
            "xgridpilot-a-r12.3-0",
        ] {
            assert_eq!(Tag::read(name, &site("a")), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_read_as_it_was_written(
            reservation in any::<u64>(), round in any::<u32>(),
            members in proptest::collection::btree_set(0..64_u32, 1..20),
        ) {
            let members: BTreeSet<MemberNumber> = members.into_iter().collect();
            let tag = Tag::new(ReservationId(reservation), Round(round), members.iter().copied().collect());
            prop_assert_eq!(Tag::read(&tag.name(&site("ab")), &site("ab")), Some(tag.clone()));
            prop_assert_eq!(tag.pilots().map(|pilot| pilot.member).collect::<BTreeSet<_>>(), members);
        }

        #[test]
        fn no_name_upsets_the_reader(name in "(gridpilot-a-r)?[0-9r._-]{0,24}") {
            if let Some(tag) = Tag::read(&name, &site("a")) {
                prop_assert_eq!(tag.name(&site("a")), name);
            }
        }
    }
}
