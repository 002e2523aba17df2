//! Grid Engine's own advance reservations: `qrsub`, `qrstat` and `qrdel`. Whoever makes one must be in
//! its access list `arusers`; they are made as the account whose pilots will run there.

use protocol::ids::ReservationId;
use protocol::names::SiteName;

use super::GridEngine;
use super::submit::{clock, refusal};
use super::xml::records;
use crate::batch::BatchError;
use crate::site::{Account, Ahead};

/// A batch job must end before its reservation does, by its limit: that has a margin and whole
/// minutes, and it is submitted a little late.
const MARGIN_S: u32 = 4 * 60;

/// One of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Kept {
    pub id: String,
    pub owner: String,
}

/// `gridpilot-SITE-r12`, whatever round is submitted to it.
fn name(site: &SiteName, reservation: ReservationId) -> String {
    format!("gridpilot-{site}-{reservation}")
}

/// Those of a name in the answer of `qrstat -xml`; `None` if it is no such answer.
fn kept(document: &str, name: &str) -> Option<Vec<Kept>> {
    let all = records(document, "qrstat", "ar_summary")?;
    let ours = all.iter().filter(|record| record.get("name") == Some(name));
    let kept = ours.filter_map(|record| {
        Some(Kept { id: record.get("id")?.to_owned(), owner: record.get("owner")?.to_owned() })
    });
    Some(kept.collect())
}

impl GridEngine {
    /// What is kept for a reservation, by whomever.
    async fn kept(&self, reservation: ReservationId) -> Result<Vec<Kept>, BatchError> {
        let listed = self.ask("qrstat", &["-xml", "-u", "*"]).await?;
        let no_list = || BatchError::unavailable("qrstat answered with something else than a list");
        kept(&listed, &name(&self.site, reservation)).ok_or_else(no_list)
    }

    /// The number under which pilots of an account find nodes kept; without one they queue like
    /// everybody's.
    pub(super) async fn place(&self, reservation: ReservationId, account: &Account) -> Option<String> {
        if !self.reserve_ahead {
            return None;
        }
        let kept = self.kept(reservation).await.unwrap_or_default();
        kept.into_iter().find(|kept| kept.owner == account.name.as_str()).map(|kept| kept.id)
    }

    pub(super) async fn keep(&self, ahead: &Ahead) -> Result<(), BatchError> {
        // One that is kept cannot be changed: another takes its place.
        self.keep_no_more(ahead.reservation).await?;
        let mut words = vec!["-N".to_owned(), name(&self.site, ahead.reservation)];
        if ahead.begin_in_s > 0 {
            words.extend(["-a".to_owned(), self.commands.local_time(ahead.begin_in_s).await?]);
        }
        words.extend(["-d".to_owned(), clock(ahead.lasts_s.saturating_add(MARGIN_S))]);
        words.extend(["-pe".to_owned(), self.environment.clone(), ahead.nodes.to_string()]);
        words.extend(self.queue.iter().flat_map(|queue| ["-q".to_owned(), queue.clone()]));
        let answer = self.act(&ahead.account, "qrsub", words).await?;
        if answer.status.success() { Ok(()) } else { Err(refusal(&answer)) }
    }

    /// The account of this name, where the grid can carry the name.
    async fn account_of(&self, name: &str) -> Option<Account> {
        let entry = self.commands.account_entry(name).await?;
        Some(Account { name: name.parse().ok()?, uid: entry.uid, gid: entry.gid })
    }

    pub(super) async fn keep_no_more(&self, reservation: ReservationId) -> Result<(), BatchError> {
        for Kept { id, owner } in self.kept(reservation).await? {
            let Some(account) = self.account_of(&owner).await else { continue };
            let answer = self.act(&account, "qrdel", vec![id]).await?;
            // One of another's is not ours to delete, whatever it is called.
            if !answer.status.success() {
                return Err(refusal(&answer));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_by_its_whole_name() {
        let recorded = include_str!("records/qrstat.xml");
        let name = |r| name(&"a".parse().unwrap(), ReservationId(r));
        let found = Kept { id: "1".into(), owner: "gridpilot-user".into() };
        assert_eq!(kept(recorded, &name(12)), Some(vec![found]));
        assert_eq!(kept(recorded, &name(1)), Some(Vec::new()));
        assert_eq!(kept("error: commlib error", &name(12)), None);
    }
}
