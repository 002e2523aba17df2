//! The names by which batch jobs and pilots are found again in a queue: after a submission whose
//! answer was lost, and after a restart of the CRM.

use protocol::ids::ReservationId;
use protocol::names::SiteName;

use crate::pilot::{PilotId, Round};

/// What is submitted together: one round of one reservation at this site.
pub type Group = (ReservationId, Round);

/// The group that a pilot belongs to.
pub fn group(pilot: PilotId) -> Group {
    (pilot.reservation, pilot.round)
}

/// The pilot of a group.
pub fn member((reservation, round): Group, member: u32) -> PilotId {
    PilotId { reservation, round, member }
}

/// `gridpilot-SITE-r12.3`: the batch job of a group.
pub fn job_name(site: &SiteName, (reservation, round): Group) -> String {
    format!("gridpilot-{site}-{reservation}.{}", round.0)
}

/// `gridpilot-SITE-r12.3-0`: one pilot within its batch job.
pub fn pilot_name(site: &SiteName, pilot: PilotId) -> String {
    format!("{}-{}", job_name(site, group(pilot)), pilot.member)
}

/// Whose job this is; `None` for what is not ours, or not this site's. Exactly what
/// [`job_name`] makes is understood.
pub fn parse_job(site: &SiteName, name: &str) -> Option<Group> {
    let rest = name.strip_prefix("gridpilot-")?.strip_prefix(site.as_str())?.strip_prefix('-')?;
    let (reservation, round) = rest.split_once('.')?;
    let group = (reservation.parse().ok()?, Round(round.parse().ok()?));
    (job_name(site, group) == name).then_some(group)
}

/// Whose step or task this is, like [`parse_job`].
pub fn parse_pilot(site: &SiteName, name: &str) -> Option<PilotId> {
    let (job, number) = name.rsplit_once('-')?;
    let pilot = member(parse_job(site, job)?, number.parse().ok()?);
    (pilot_name(site, pilot) == name).then_some(pilot)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn site(name: &str) -> SiteName {
        name.parse().unwrap()
    }

    proptest! {
        #[test]
        fn a_name_is_understood_by_its_own_site_only(r in 1u64.., round: u32, number: u32) {
            let pilot = PilotId { reservation: ReservationId(r), round: Round(round), member: number };
            for own in ["a", "ar1", "b2"] {
                let (job, name) = (job_name(&site(own), group(pilot)), pilot_name(&site(own), pilot));
                for other in ["a", "ar1", "b2"] {
                    let is_own = own == other;
                    prop_assert_eq!(parse_job(&site(other), &job), is_own.then_some(group(pilot)));
                    prop_assert_eq!(parse_pilot(&site(other), &name), is_own.then_some(pilot));
                }
            }
        }

        #[test]
        fn other_names_mean_nothing(name in "(gridpilot-a-)?[r0-9.+-]{0,12}") {
            if let Some(group) = parse_job(&site("a"), &name) {
                prop_assert_eq!(job_name(&site("a"), group), name);
            }
        }
    }
}
