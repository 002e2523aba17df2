//! Parts whose site did not confirm its end in time. The reservation is over for its user; what the
//! part has stays taken until the site confirms, or until the longest window that the site may know
//! and a quarantine are over, within which it has ended it by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ids::ReservationId;
use protocol::names::SiteName;
use protocol::planted::{Bug, planted};
use protocol::site::ToSite;

use super::event::Due;
use super::resend::{RESEND_FIRST, RESEND_LAST};
use super::{Action, Coordinator, Record};
use crate::record::{Key, SavedOwed, Value};
use crate::reservation::{Pause, Share, Window};

/// After a window's end its sandboxes are gone within this, whatever happens: sites and nodes count
/// for themselves.
const END_MARGIN: Duration = Duration::from_secs(10);

/// What is owed of one reservation, by site.
#[derive(Debug, Default)]
pub(super) struct Owed {
    parts: BTreeMap<SiteName, (Share, Window)>,
    pause: Option<Pause>,
}

impl Owed {
    pub fn shares(&self) -> impl Iterator<Item = &Share> {
        self.parts.values().map(|(share, _)| share)
    }
}

impl Coordinator {
    /// From a window's end until its addresses come back though nobody confirmed.
    pub(super) fn tail(quarantine: Duration) -> Duration {
        END_MARGIN + quarantine
    }

    /// Remembers that a site has not confirmed; it is asked again.
    pub(super) fn owe(&mut self, id: ReservationId, share: Share, window: Window) {
        let saved = SavedOwed { reservation: id, share: share.clone(), window };
        self.record(Value::Owed(Box::new(saved)));
        self.keep_owed(id, share, window);
        self.set_owed_timer(id, RESEND_FIRST);
    }

    pub(super) fn keep_owed(&mut self, id: ReservationId, share: Share, window: Window) {
        self.owed.entry(id).or_default().parts.insert(share.site.clone(), (share, window));
    }

    pub(super) fn set_owed_timer(&mut self, id: ReservationId, length: Duration) {
        let Some(owed) = self.owed.get_mut(&id) else { return };
        let until = self.now + length;
        owed.pause = Some(Pause { until, length });
        self.set_timer(until, Due::Owed(id));
    }

    /// A site confirms; true if it was waited for.
    pub(super) fn settle_owed(&mut self, id: ReservationId, site: &SiteName) -> bool {
        let Some(owed) = self.owed.get_mut(&id) else { return false };
        if owed.parts.remove(site).is_none() {
            return false;
        }
        if let Some(pause) = owed.pause.filter(|_| owed.parts.is_empty()) {
            self.timers.remove(&(pause.until, Due::Owed(id)));
            self.owed.remove(&id);
        }
        self.out.push(Action::Record(Record::Forget(Key::Owed(id, site.clone()))));
        self.room.give_back(id, site);
        self.replan = true;
        true
    }

    pub(super) fn owed_due(&mut self, id: ReservationId) {
        let tail = Self::tail(self.settings.deadlines.quarantine);
        let Some(owed) = self.owed.get(&id) else { return };
        let Some(pause) = owed.pause.filter(|pause| pause.until <= self.now) else { return };
        for (site, (_, window)) in owed.parts.clone() {
            if window.until + tail <= self.now {
                self.settle_owed(id, &site);
            } else if !planted(Bug::EndNotRepeated) {
                self.send(&site, ToSite::End { reservation: id });
            }
        }
        self.set_owed_timer(id, (pause.length * 2).min(RESEND_LAST));
    }

    /// A site is back: it hears what it still owes.
    pub(super) fn ask_owed(&mut self, site: &SiteName) {
        let owed = self.owed.iter().filter(|(_, owed)| owed.parts.contains_key(site));
        for id in owed.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.send(site, ToSite::End { reservation: id });
        }
    }
}
