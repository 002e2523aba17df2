//! The GRC in its world: what its driver would do with what the owner wants.

use grc::coordinator::{Action, ConnectionId, Coordinator, Event};
use protocol::client::{Reply, Request};
use protocol::refusal::Refusal;
use protocol::site::{FromSite, ToSite};

use crate::agenda::{MS, Micros, S};
use crate::clients::Made;
use crate::host::{Next, Woken};
use crate::network::End;
use crate::outputs::Doorway;
use crate::promises::Sent;
use crate::scenario::{Fault, Who, Wish};
use crate::world::{Happening, Message, World};

impl World {
    pub fn start_grc(&mut self) {
        let now = self.agenda.now();
        self.grc.clocks.resume(now);
        let started = self.restore_grc();
        self.grc.start(started);
        let (life, records) = (self.grc.life, self.grc.disk.records().len());
        self.say("grc", || format!("starts, life {life}, {records} records"));
        let shown = self.grc.now(now);
        // The driver's first step brings the owner to the present.
        if self.grc.owner.as_ref().and_then(Coordinator::next_wake).is_some_and(|wake| wake <= shown) {
            self.grc.feed(now, Event::Tick);
        }
        self.run_grc();
    }

    /// Every connection of a dead GRC is gone.
    pub fn grc_died(&mut self) {
        for site in 0..self.sites.len() {
            let link = &mut self.sites[site].link;
            link.at_grc.clear();
            if let Some(connection) = link.at_site {
                let after = link.notice_time();
                self.agenda.after(after, Happening::Notices { site, end: End::Site, connection });
            }
        }
        for client in self.clients.cut_off() {
            let pause = self.random.between(100, 2_000) * MS;
            self.agenda.after(pause, Happening::Asks { client });
        }
    }

    pub fn wake_grc(&mut self) {
        let now = self.agenda.now();
        match self.grc.woken(now) {
            Woken::Due => {
                self.tell_grc(Event::Tick);
                if self.grc.spins() {
                    self.history.broken(now, "rest", || "the GRC wants tick after tick".into());
                }
            }
            Woken::Early => self.run_grc(),
            Woken::Void => {}
        }
    }

    pub fn tell_grc(&mut self, event: Event) {
        let now = self.agenda.now();
        self.grc.feed(now, event);
        self.run_grc();
    }

    pub fn grc_hears(&mut self, site: usize, connection: u64, message: FromSite) {
        let now = self.agenda.now();
        if let Err(refusal) = message.check() {
            self.history.broken(now, "well-formed", || format!("{message:?}: {refusal}"));
        }
        let name = self.sites[site].name.clone();
        self.say("grc", || format!("<- {name} {message:?}"));
        let message = match self.files.hears(site, connection, message) {
            Doorway::Owner(message) => message,
            Doorway::Answer(message) => return self.sends_to(site, connection, message),
            Doorway::Nothing => return,
        };
        if let FromSite::Exited { job, member, .. } = &message {
            let (taken, printed) =
                (self.files.taken(*job, site, *member), self.truth.printed.get(&(*job, site, *member)));
            if printed.is_some_and(|printed| *printed != taken) {
                let what = || {
                    format!("{job} ended at member {member} of {name}, {taken} of {printed:?} bytes are kept")
                };
                self.history.broken(now, "output-whole", what);
            }
        }
        self.tell_grc(Event::FromSite { site: name, connection: ConnectionId(connection), message });
    }

    pub fn site_gone(&mut self, site: usize, connection: u64) {
        let site = self.sites[site].name.clone();
        self.tell_grc(Event::SiteGone { site, connection: ConnectionId(connection), why: "gone".into() });
    }

    /// Performs what may be performed now.
    pub fn run_grc(&mut self) {
        loop {
            match self.grc.next_action() {
                Next::Action(action) => self.perform_grc(action),
                Next::Nothing => break,
                Next::Crash => {
                    let down = self.down_time(Who::Grc);
                    return self.dies(Who::Grc, "it is killed between two actions", down);
                }
            }
        }
        if self.grc.is_up() && self.grc.disk.begin() {
            let time = self.random.between(self.grc.commit / 2, self.grc.commit * 2);
            self.agenda.after(time, Happening::Synced { who: Who::Grc, life: self.grc.life });
        }
        self.rewake(Who::Grc);
        if std::mem::take(&mut self.books_changed) {
            self.check_books();
        }
    }

    fn perform_grc(&mut self, action: Action) {
        let now = self.agenda.now();
        match action {
            Action::Send { site, connection, message } => {
                let Some(number) = self.sites.iter().position(|place| place.name == site) else { return };
                if let Err(refusal) = message.check() {
                    self.history.broken(now, "well-formed", || format!("{message:?}: {refusal}"));
                }
                self.say("grc", || format!("-> {site} {message:?}"));
                let decided = match &message {
                    ToSite::Commit { reservation, .. } | ToSite::End { reservation } => {
                        self.decided(*reservation)
                    }
                    _ => None,
                };
                let about = Sent { site: number, decided };
                self.promises.sent((now, &mut self.history), about, &message);
                self.books_changed |= matches!(message, ToSite::Hold { .. } | ToSite::Commit { .. });
                self.sends_to(number, connection.0, message);
            }
            Action::Disconnect { connection } => {
                for site in 0..self.sites.len() {
                    let link = &mut self.sites[site].link;
                    if link.close(End::Grc, connection.0) {
                        let after = link.notice_time();
                        let connection = connection.0;
                        self.agenda.after(after, Happening::Notices { site, end: End::Site, connection });
                    }
                }
            }
            Action::Answer { client, correlation, reply } => {
                self.promises.answered(now, &reply);
                let open = (client, correlation);
                let heard = self.clients.answered((now, &mut self.history), open, &reply);
                self.say("grc", || format!("answers {client:?} (client {heard:?}) {reply:?}"));
                if let Some(number) = heard {
                    self.heard(number, &reply);
                }
            }
            Action::Report { reservation, what } => {
                self.say("grc", || format!("reports {reservation}: {what}"))
            }
            Action::Record(_)
            | Action::Notify { .. }
            | Action::ExpectOutput { .. }
            | Action::CloseOutput { .. }
            | Action::ForgetOutput { .. }
            | Action::ReadLog { .. } => {}
        }
    }

    fn sends_to(&mut self, site: usize, connection: u64, message: ToSite) {
        if self.sites[site].link.at_grc.contains(&connection) {
            self.post(site, connection, Message::Down(Box::new(message)));
        }
    }

    /// A client asks, for the first time or again.
    pub fn asks(&mut self, client: usize) {
        let now = self.agenda.now();
        let one = &self.clients.all[client];
        if one.done || one.open.is_some() {
            return;
        }
        if !self.grc.is_up() {
            self.agenda.after(S, Happening::Asks { client });
            return;
        }
        let request = match self.clients.make(client, self.grc.now(now).as_secs()) {
            Made::Request(request) => *request,
            Made::NotYet => {
                self.agenda.after(S, Happening::Asks { client });
                return;
            }
            Made::Never => {
                self.clients.all[client].done = true;
                return;
            }
        };
        let again = self.clients.all[client].request.replace(request.clone()).is_some();
        let (id, correlation) = self.clients.connect(client);
        self.say("client", || {
            format!("{client} as {} asks{} {request:?}", id.0, if again { " again" } else { "" })
        });
        if let Some(after) = self.clients.all[client].asked.hang_up.take() {
            self.agenda.after(after, Happening::HangsUp { client, connection: id.0 });
        }
        self.promises.asked(&request);
        let user = self.clients.user(client);
        self.tell_grc(Event::Request { client: id, correlation, user, request });
    }

    pub fn hangs_up(&mut self, client: usize, connection: u64) {
        let one = &mut self.clients.all[client];
        let Some((id, _)) = one.open.filter(|(id, _)| id.0 == connection) else { return };
        one.open = None;
        self.say("client", || format!("{client} loses its connection {connection}"));
        self.agenda.after(500 * MS, Happening::Asks { client });
        self.tell_grc(Event::ClientGone { client: id });
    }

    fn heard(&mut self, number: usize, reply: &Reply) {
        let now = self.agenda.now();
        if let (Wish::Submit { .. }, Reply::Submitted { job, reservation }) =
            (&self.clients.all[number].asked.wish, reply)
        {
            self.promises.own_job(*reservation, *job);
        }
        match reply {
            Reply::Reservation(view) => self.promises.viewed((now, &mut self.history), view),
            Reply::Job(view) => self.promises.viewed_job((now, &mut self.history), view),
            Reply::Refused(Refusal::UnknownReservation { .. } | Refusal::UnknownJob { .. }) => {
                let request = &self.clients.all[number].request;
                self.history.broken(now, "views", || format!("{request:?} is about nothing"));
            }
            Reply::Reservations(views) => {
                for view in views {
                    self.promises.viewed((now, &mut self.history), view);
                }
            }
            _ => {}
        }
        if let Some(Request::Reserve { .. }) = &self.clients.all[number].request
            && self.tried_by == Some(number)
            && !matches!(reply, Reply::Reserved(_))
        {
            self.history.broken(now, "all-back", || format!("at the end not everything is free: {reply:?}"));
        }
    }

    /// What is sent waits for its record, and that perhaps for one before it.
    pub fn slowest_commit(&self) -> Micros {
        let slow = self.scenario.faults.iter().map(|(_, fault)| match fault {
            Fault::DiskSlow { who: Who::Grc, commit, .. } => 4 * *commit,
            _ => 0,
        });
        slow.max().unwrap_or(0)
    }

    /// How long a process that dies of the fault at hand stays down.
    pub fn down_time(&self, who: Who) -> Micros {
        let crash = self.lasting.iter().find_map(|number| match &self.scenario.faults[*number].1 {
            Fault::Crash { who: whom, down, .. } if *whom == who => Some(*down),
            _ => None,
        });
        crash.unwrap_or(S)
    }

    /// Plans the next tick, if it is not planned yet.
    pub fn rewake(&mut self, who: Who) {
        let now = self.agenda.now();
        let (wake, life) = match who {
            Who::Grc => (self.grc.wants_wake(now), self.grc.life),
            Who::Site(site) => {
                let host = &mut self.sites[site].host;
                (host.wants_wake(now), host.life)
            }
        };
        if let Some(at) = wake {
            self.agenda.at(at, Happening::Wake { who, life });
        }
    }
}
