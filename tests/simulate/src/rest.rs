//! The end of a history: everybody gives back, everything comes to rest, and everything is free
//! again.

use protocol::client::Reply;

use crate::agenda::S;
use crate::check::saved;
use crate::clients::Client;
use crate::scenario::{Asked, Want, When, Wish};
use crate::world::{Happening, World};

/// From the last fault until users give back what they still wait for.
const GIVE_BACK: u64 = 60 * S;

impl World {
    /// Looks at everything from time to time.
    pub fn look(&mut self) {
        let now = self.agenda.now();
        self.check_books();
        for site in 0..self.sites.len() {
            self.check_parts(site);
        }
        self.check_all_or_nothing();
        if now > S + self.scenario.calm_at + GIVE_BACK {
            if !std::mem::replace(&mut self.given_back, true) {
                self.give_back();
            }
            if self.is_at_rest() {
                match self.tried_by {
                    None => self.try_everything(),
                    Some(_) => self.over = true,
                }
            }
        }
        self.agenda.after(5 * S, Happening::Look);
    }

    fn ask_anew(&mut self, wish: Wish, user: usize) -> usize {
        let client = self.clients.all.len();
        let asked = Asked { at: self.agenda.now(), user, wish, hang_up: None, left_out: false };
        self.clients.all.push(Client { asked, request: None, open: None, answer: None, done: false });
        self.agenda.after(0, Happening::Asks { client });
        client
    }

    /// What waits for its turn is released; what has a window goes with it.
    fn give_back(&mut self) {
        for number in 0..self.clients.all.len() {
            let client = &self.clients.all[number];
            let open = match &client.asked.wish {
                Wish::Reserve(want) | Wish::Submit { want, .. } => want.when == When::Open,
                _ => false,
            };
            let made = matches!(client.answer, Some(Reply::Reserved(_) | Reply::Submitted { .. }));
            let user = client.asked.user;
            if open && made {
                self.ask_anew(Wish::Release { of: number }, user);
            }
        }
    }

    /// At the end everything can be had again: all nodes of all sites in one reservation.
    fn try_everything(&mut self) {
        let nodes = self.sites.iter().map(|place| place.spec.nodes).collect();
        let when = When::Within(120);
        let want = Want { nodes, anywhere: 0, when, duration_s: 1, rate_kbit: 0 };
        self.tried_by = Some(self.ask_anew(Wish::Reserve(want), 0));
    }

    fn is_at_rest(&self) -> bool {
        self.what_is_left().is_empty()
    }

    /// What is not over yet, for people; empty when everything is.
    pub fn what_is_left(&self) -> String {
        let mut left = Vec::new();
        for (number, client) in self.clients.all.iter().enumerate().filter(|(_, client)| !client.done) {
            left.push(format!("request {number} {:?} has no answer", client.asked.wish));
        }
        match &self.grc.owner {
            None => left.push("the GRC is down".to_owned()),
            Some(owner) => {
                for saved in saved(self) {
                    if !matches!(saved.standing, grc::record::Standing::Over { .. }) {
                        left.push(format!("{} is {:?} at the GRC", saved.id, saved.standing));
                    }
                }
                if let Some(taken) = owner.taken().first() {
                    left.push(format!("the GRC's book has {taken:?}"));
                }
                if owner.owed() > 0 {
                    left.push(format!("the GRC waits for {} ends", owner.owed()));
                }
            }
        }
        for place in &self.sites {
            let name = &place.name;
            match &place.host.owner {
                None => left.push(format!("the CRM of {name} is down")),
                Some(owner) if !owner.is_idle() || owner.holdings() != (0, 0) => {
                    left.push(format!("{name} has {:?}", owner.bookings().next()));
                }
                Some(owner) if !owner.gives_all() => {
                    left.push(format!("{name} does not give all that it has"))
                }
                Some(_) => {}
            }
            if let Some(process) = place.field.alive().next() {
                left.push(format!("pilot {} is alive at {name}", process.pilot));
            }
        }
        if let Some(pilot) = self.truth.a_sandbox() {
            left.push(format!("{} sandboxes stand, {pilot} is one", self.truth.sandboxes()));
        }
        left.join("; ")
    }
}
