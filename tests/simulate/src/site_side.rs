//! The CRM in its world: what its driver, its batch system and its nodes would do with what the
//! owner wants.

use std::net::Ipv4Addr;

use crm::pilot::PilotId;
use crm::site::{Account, Action, Asked, Event};
use grant::Rates;
use protocol::refusal::Refusal;
use protocol::site::{FromSite, Peer, ToSite};

use crate::agenda::{MS, Micros, S};
use crate::field::{Allowed, Around, ClassRate, Field, News};
use crate::host::{Next, Woken};
use crate::network::End;
use crate::returns::{Expected, pin};
use crate::scenario::Who;
use crate::world::{Happening, Message, World};

impl World {
    pub fn start_site(&mut self, site: usize) {
        let now = self.agenda.now();
        self.sites[site].host.clocks.resume(now);
        let started = self.restore_site(site);
        self.check_kept(site, &started.1);
        let place = &mut self.sites[site];
        place.host.start(started);
        place.field.crm = place.host.life;
        let (name, life) = (place.name.clone(), place.host.life);
        let records = place.host.disk.records().len();
        self.say(&name, || format!("its CRM starts, life {life}, {records} records"));
        let after = self.random.between(50, 900) * MS;
        self.agenda.after(after, Happening::Dial { site, life });
        self.tell_site(site, Event::Tick);
    }

    pub fn site_died(&mut self, site: usize) {
        let link = &mut self.sites[site].link;
        link.at_site = None;
        for connection in link.at_grc.clone() {
            let after = link.notice_time();
            self.agenda.after(after, Happening::Notices { site, end: End::Grc, connection });
        }
        self.around(site, |field, around| field.crm_died(around));
    }

    pub fn wake_site(&mut self, site: usize) {
        let now = self.agenda.now();
        match self.sites[site].host.woken(now) {
            Woken::Due => {
                self.tell_site(site, Event::Tick);
                if self.sites[site].host.spins() {
                    let what = || format!("the CRM of site {site} wants tick after tick");
                    self.history.broken(now, "rest", what);
                }
            }
            Woken::Early => self.run_site(site),
            Woken::Void => {}
        }
    }

    pub fn tell_site(&mut self, site: usize, event: Event) {
        let now = self.agenda.now();
        self.sites[site].host.feed(now, event);
        self.run_site(site);
    }

    pub fn site_hears(&mut self, site: usize, message: ToSite) {
        let name = self.sites[site].name.clone();
        self.say(&name, || format!("<- grc {message:?}"));
        let event = match message {
            ToSite::Hold { reservation, version, part } => {
                let account = account(&part.user);
                Event::Hold { reservation, version, part, account }
            }
            other => Event::Grc(other),
        };
        self.tell_site(site, event);
    }

    pub fn run_site(&mut self, site: usize) {
        loop {
            match self.sites[site].host.next_action() {
                Next::Action(action) => self.perform_site(site, action),
                Next::Nothing => break,
                Next::Crash => {
                    let who = Who::Site(site);
                    let down = self.down_time(who);
                    return self.dies(who, "it is killed between two actions", down);
                }
            }
        }
        let host = &mut self.sites[site].host;
        if host.is_up() && host.disk.begin() {
            let time = self.random.between(host.commit / 2, host.commit * 2);
            self.agenda.after(time, Happening::Synced { who: Who::Site(site), life: host.life });
        }
        self.rewake(Who::Site(site));
        if std::mem::take(&mut self.parts_changed[site]) {
            self.check_parts(site);
        }
    }

    fn perform_site(&mut self, site: usize, action: Action) {
        let now = self.agenda.now();
        let name = self.sites[site].name.clone();
        if !matches!(action, Action::Record(_)) {
            self.say(&name, || format!("does {action:?}"));
        }
        match action {
            Action::Record(_) => {}
            Action::Tell(message) => {
                self.parts_changed[site] |=
                    matches!(message, FromSite::Held { .. } | FromSite::Committed { .. });
                self.promises.told((now, &mut self.history), site, &message);
                self.check_epochs(site, &message);
                if let Some(connection) = self.sites[site].link.at_site {
                    self.post(site, connection, Message::Up(Box::new(message)));
                }
            }
            Action::Submit(submit) => self.around(site, |field, around| field.submit(around, &submit)),
            Action::Adopt { pilot, token_s } => {
                self.around(site, |field, around| field.adopt(around, pilot, token_s.is_some()));
            }
            Action::Cancel { pilot } => self.around(site, |field, around| field.cancel(around, pilot)),
            Action::Probe => self.around(site, |field, around| field.probe(around)),
            Action::Sweep { pilot, node, .. } => {
                self.around(site, |field, around| field.sweep(around, pilot, &node));
            }
            // Its batch system keeps nothing ahead.
            Action::Reserve(_) | Action::Unreserve { .. } => {}
            Action::SetUp { pilot, grant, rates, .. } => {
                let kept = rates.as_deref().cloned();
                let classes = rates.map_or_else(Vec::new, |rates| self.classes(site, pilot, &rates));
                let epoch = u32::try_from(grant.epoch).unwrap_or(u32::MAX);
                let lifetime = Micros::from(grant.lifetime_s) * S;
                let allowed = Allowed { epoch, rates: kept, classes, lifetime };
                self.around(site, |field, around| field.set_up(around, pilot, grant.address, allowed));
            }
            Action::Shape { pilot, rates } => {
                let serial = rates.serial;
                let classes = self.classes(site, pilot, &rates);
                let lifetime = Micros::from(rates.lifetime_s) * S;
                let allowed = Allowed { epoch: 0, classes, lifetime, rates: Some(*rates) };
                self.around(site, |field, around| field.shape(around, pilot, serial, allowed));
            }
            Action::Join { pilots, ring } => {
                for pilot in pilots {
                    self.around(site, |field, around| field.join(around, pilot, &ring));
                }
            }
            Action::Ask { pilot, asked, request } => {
                if let Asked::Exec(job) = asked {
                    let late = self.blur().as_micros() as Micros;
                    self.promises.starts((now, &mut self.history), late, pilot.reservation, job);
                }
                self.around(site, |field, around| field.ask(around, pilot, asked, &request));
            }
            Action::Pass { pilot, request } => {
                self.around(site, |field, around| field.pass(around, pilot, &request));
            }
            Action::Dismiss { pilot } => self.around(site, |field, around| field.dismiss(around, pilot)),
        }
    }

    /// What a record of rates means: by its destinations, which peer a class is for, and so what
    /// was granted for it. Of several versions the largest counts, for they follow one another.
    fn classes(&self, site: usize, pilot: PilotId, rates: &Rates) -> Vec<ClassRate> {
        let granted = |class: u8| {
            let mine = rates.destinations.iter().find(|one| one.class == class)?;
            let parts = &self.promises.all.get(&pilot.reservation)?.parts;
            let parts = parts.iter().filter(|((_, at), _)| *at == site).map(|(_, part)| part);
            let leads_to = |peer: &&Peer| {
                let inside = |address: Ipv4Addr| u32::from(address) & mine.mask() == u32::from(mine.network);
                peer.addresses.iter().any(|block| block.addresses().any(inside))
            };
            parts.flat_map(|part| &part.peers).filter(leads_to).map(|peer| u64::from(peer.rate_kbit)).max()
        };
        let used = rates.rates_kbit.iter().enumerate().filter(|(_, rate)| **rate > 0);
        used.map(|(class, rate)| (class as u8, *rate, granted(class as u8).unwrap_or(0))).collect()
    }

    /// Something happens at a site beside its CRM, which may hear of it.
    pub fn field_news(&mut self, site: usize, news: News) {
        let host = &self.sites[site].host;
        let owner = host.owner.as_ref().filter(|_| !host.paused);
        // What the owner would say is asked before the field is borrowed.
        let expected = match (&news, owner) {
            (News::Dials(number, _) | News::Redials(number), Some(owner)) => {
                let process = &self.sites[site].field.processes[*number];
                Some(Expected {
                    arrives: owner.expects(process.pilot, process.uid).is_ok(),
                    returns: owner.returns(&pin(*number), process.uid).is_ok(),
                })
            }
            _ => None,
        };
        let told = self.around(site, |field, around| field.news(around, news, expected));
        for event in told {
            let name = self.sites[site].name.clone();
            self.say(&name, || format!("<- {event:?}"));
            self.tell_site(site, event);
        }
    }

    fn around<T>(&mut self, site: usize, act: impl FnOnce(&mut Field, &mut Around) -> T) -> T {
        let mut follows: Vec<(Micros, News)> = Vec::new();
        let calm = crate::scenario::Temper::default();
        let calmed = self.agenda.now() > S + self.scenario.calm_at;
        let mut around = Around {
            at: self.agenda.now(),
            site,
            temper: if calmed { &calm } else { &self.scenario.temper },
            history: &mut self.history,
            truth: &mut self.truth,
            follows: &mut follows,
        };
        let done = act(&mut self.sites[site].field, &mut around);
        for (after, news) in follows {
            self.agenda.after(after, Happening::Field { site, news });
        }
        done
    }
}

/// The grid-mapfile of every site.
fn account(user: &protocol::names::UserName) -> Result<Account, Refusal> {
    let uid = 1000 + u32::from(user.as_str().as_bytes()[0]);
    Ok(Account { name: user.clone(), uid, gid: uid })
}
