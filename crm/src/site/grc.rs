//! What the GRC asks.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{Epoch, JobId, MemberNumber, ReservationId};
use protocol::job::{Command, Target};
use protocol::names::Text;
use protocol::node::Request;
use protocol::refusal::{Failure, Refusal, Step};
use protocol::reservation::Progress;
use protocol::site::{FromSite, Part, ToSite};

use super::part::{Held, Phase};
use super::{Account, Action, Asked, Site};
use crate::addresses::CarveError;
use crate::pilot::{self, Pilot, PilotId, State};
use crate::roster::Roster;

impl Site {
    pub(super) fn on_grc(&mut self, message: ToSite) {
        match message {
            // The edge deals with both; a hold comes as an event of its own, with its account.
            ToSite::Welcome | ToSite::Refused(_) | ToSite::Hold { .. } => {}
            ToSite::Commit { reservation, epoch } => self.commit(reservation, epoch),
            ToSite::Release { reservation, epoch } => self.give_back(reservation, epoch),
            ToSite::End { reservation, epoch } => {
                if self.holds(reservation, epoch) {
                    self.end(reservation);
                } else {
                    self.fence(reservation, epoch);
                    self.tell(FromSite::Ended { reservation, epoch, dirty: Vec::new() });
                }
            }
            ToSite::Join { reservation, epoch, ring } => self.join(reservation, epoch, ring),
            ToSite::Exec { reservation, epoch, job, target, command } => {
                self.exec(reservation, epoch, job, target, &command);
            }
            ToSite::Signal { reservation, epoch, job, signal } => {
                for pilot in self.running(reservation, epoch, job) {
                    let request = Request::Signal { job, signal };
                    self.actions.push(Action::Ask { pilot, asked: Asked::Signal(job), request });
                }
            }
            ToSite::OutputSaved { reservation, epoch, job, member, stream, upto } => {
                let pilot = PilotId { reservation, epoch, member };
                if self.running(reservation, epoch, job).contains(&pilot) {
                    let request = Request::OutputSaved { job, stream, upto };
                    self.actions.push(Action::Pass { pilot, request });
                }
            }
        }
    }

    fn holds(&self, reservation: ReservationId, epoch: Epoch) -> bool {
        self.parts.get(&reservation).is_some_and(|held| held.epoch == epoch)
    }

    pub(super) fn hold(
        &mut self,
        reservation: ReservationId,
        epoch: Epoch,
        part: Part,
        account: Result<Account, Refusal>,
    ) {
        let answer = match self.admit(reservation, epoch, part, account) {
            Ok(()) => FromSite::Held { reservation, epoch },
            Err(refusal) => FromSite::HoldRefused { reservation, epoch, refusal },
        };
        self.tell(answer);
    }

    fn admit(
        &mut self,
        reservation: ReservationId,
        epoch: Epoch,
        part: Part,
        account: Result<Account, Refusal>,
    ) -> Result<(), Refusal> {
        let wrong = |state: &str| Refusal::WrongState { what: "a hold".into(), state: state.into() };
        if let Some(held) = self.parts.get(&reservation) {
            return match held.epoch.cmp(&epoch) {
                std::cmp::Ordering::Equal if held.part == part && held.phase < Phase::Ending => Ok(()),
                std::cmp::Ordering::Less => {
                    // A newer incarnation begins only when nothing of the older one is left.
                    self.end(reservation);
                    Err(wrong("an older incarnation of the reservation is still ending here"))
                }
                _ => Err(wrong("the reservation is known here, and not like this")),
            };
        }
        if self.fences.get(&reservation).is_some_and(|fence| epoch <= *fence) {
            return Err(wrong("this incarnation of the reservation is over here"));
        }
        if self.closing || !self.connected {
            return Err(wrong("the site is closing"));
        }
        let site = &self.settings.name;
        if part.members == 0 {
            return Err(Refusal::ZeroNodes);
        }
        if self.settings.catalog.find(&part.environment).is_err() {
            let (site, environment) = (site.clone(), part.environment);
            return Err(Refusal::UnknownEnvironment { site, environment });
        }
        let account = account?;
        if account.uid == 0 {
            let what = format!("user {} is mapped to {}, whose uid is 0", part.user, account.name).into();
            return Err(Refusal::AgainstPolicy { site: site.clone(), what });
        }
        let nodes = self.nodes.take(site, part.members, &part.limits)?;
        let id = |member| PilotId { reservation, epoch, member };
        let ids: Vec<PilotId> = (0..part.members).map(id).collect();
        let addresses = match self.addresses.take(&part.addresses, &ids) {
            Ok(addresses) => addresses,
            Err(error) => {
                for (node, id) in nodes.iter().zip(&ids) {
                    self.nodes.release(node, *id);
                }
                let site = site.clone();
                return Err(match error {
                    CarveError::Outside(block) => {
                        Refusal::RangeNotAllowed { site, range: block.to_string().into() }
                    }
                    CarveError::TooFew(_) => Refusal::AddressesExhausted { site, asked: part.members },
                });
            }
        };
        let pilots = ids.into_iter().zip(nodes).zip(addresses);
        let pilots = pilots.map(|((id, node), address)| Pilot::new(id, node, address)).collect();
        let held = Held {
            epoch,
            part,
            account,
            roster: Roster::new(pilots),
            phase: Phase::Held,
            committed_at: None,
            failed: false,
            told: Progress::default(),
            head: None,
            jobs: BTreeMap::new(),
        };
        self.parts.insert(reservation, held);
        self.offer_changed = true;
        Ok(())
    }

    fn commit(&mut self, reservation: ReservationId, epoch: Epoch) {
        let now = self.now;
        let Some(held) = self.parts.get_mut(&reservation).filter(|held| held.epoch == epoch) else {
            let hint = "submit again; if it happens again, the site and the GRC disagree: see both logs";
            let failure =
                Failure::new(Step::Commit, "the site does not hold this reservation any more", hint)
                    .at_site(&self.settings.name);
            return self.tell(FromSite::Failed { reservation, epoch, failure });
        };
        if held.phase != Phase::Held {
            return;
        }
        held.phase = Phase::Starting;
        held.committed_at = Some(now);
        for id in held.pilot_ids() {
            self.advance(id, pilot::Event::Committed);
        }
    }

    fn give_back(&mut self, reservation: ReservationId, epoch: Epoch) {
        if self.holds(reservation, epoch) {
            // A hold ends without further ado; a grant would be torn down like at `End`.
            self.end(reservation);
        } else {
            self.fence(reservation, epoch);
        }
    }

    /// The pilots on which a job still runs.
    fn running(&self, reservation: ReservationId, epoch: Epoch, job: JobId) -> Vec<PilotId> {
        let held = self.parts.get(&reservation).filter(|held| held.epoch == epoch);
        let members = held.and_then(|held| held.jobs.get(&job));
        members.into_iter().flatten().map(|&member| PilotId { reservation, epoch, member }).collect()
    }

    fn exec(
        &mut self,
        reservation: ReservationId,
        epoch: Epoch,
        job: JobId,
        target: Target,
        command: &Command,
    ) {
        let site = self.settings.name.clone();
        let Some(held) = self.parts.get_mut(&reservation).filter(|held| held.epoch == epoch) else {
            let cause = "the reservation is not here any more";
            let failure = Failure::new(Step::Exec, cause, "reserve again").at_site(&site);
            return self.tell(FromSite::ExecFailed { reservation, epoch, job, member: 0, failure });
        };
        if held.jobs.contains_key(&job) {
            return;
        }
        let members: Vec<MemberNumber> = match target {
            Target::All => (0..held.roster.len()).collect(),
            Target::Head => match &held.head {
                Some(head) if head.site != site => Vec::new(),
                Some(head) => vec![head.number],
                None => vec![0],
            },
        };
        let mut started = BTreeSet::new();
        let mut refused: Vec<(MemberNumber, Text)> = Vec::new();
        for member in members {
            match held.roster.get(member) {
                Some(pilot) if pilot.state == State::Running && held.phase == Phase::Joined => {
                    started.insert(member);
                }
                Some(pilot) => {
                    refused
                        .push((member, format!("the member on node {} is not running", pilot.node).into()));
                }
                None => refused.push((member, "there is no such member".into())),
            }
        }
        if started.is_empty() && refused.is_empty() {
            refused.push((0, "the head member is at another site".into()));
        }
        held.jobs.insert(job, started.clone());
        for member in started {
            let pilot = PilotId { reservation, epoch, member };
            let request = Request::Exec { job, command: command.clone() };
            self.actions.push(Action::Ask { pilot, asked: Asked::Exec(job), request });
        }
        for (member, cause) in refused {
            let failure =
                Failure::new(Step::Exec, cause, "`gridpilot show` tells how the reservation stands");
            let failure = failure.at_site(&site);
            self.tell(FromSite::ExecFailed { reservation, epoch, job, member, failure });
        }
    }
}
