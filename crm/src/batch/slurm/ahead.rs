//! Slurm's own advance reservations, as `scontrol create reservation` takes them. Pure.

use protocol::ids::ReservationId;
use protocol::names::SiteName;

use crate::site::Ahead;

/// A batch job must end before the advance reservation does, by its limit: that has a margin and
/// whole minutes, and it is submitted a little late.
const MARGIN_MIN: u32 = 4;

/// `gridpilot-SITE-r12`, whatever round is submitted to it.
pub fn name(site: &SiteName, reservation: ReservationId) -> String {
    format!("gridpilot-{site}-{reservation}")
}

/// The terms behind `create reservation` or `update`.
pub fn terms(site: &SiteName, partition: Option<&str>, ahead: &Ahead) -> Vec<String> {
    let minutes = ahead.lasts_s.div_ceil(60).saturating_add(MARGIN_MIN);
    let mut terms = vec![
        format!("ReservationName={}", name(site, ahead.reservation)),
        format!("StartTime=now+{}", ahead.begin_in_s),
        format!("Duration={minutes}"),
        format!("NodeCnt={}", ahead.nodes),
        format!("Users={}", ahead.account.name),
    ];
    terms.extend(partition.map(|partition| format!("PartitionName={partition}")));
    terms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::Account;

    #[test]
    fn an_advance_reservation_outlasts_the_jobs_in_it() {
        let account = Account { name: "alice".parse().unwrap(), uid: 1001, gid: 1001 };
        let ahead = Ahead { reservation: ReservationId(12), account, nodes: 3, begin_in_s: 90, lasts_s: 601 };
        let words = terms(&"a".parse().unwrap(), Some("p"), &ahead).join(" ");
        let expected = "ReservationName=gridpilot-a-r12 StartTime=now+90 Duration=15 NodeCnt=3 Users=alice \
                        PartitionName=p";
        assert_eq!(words, expected);
    }
}
