//! Users and their clients: they ask, lose the connection, and ask again with the same id until
//! they have an answer. What they were answered must never contradict itself.

use std::collections::BTreeMap;

use grc::coordinator::ClientId;
use protocol::client::{NewJob, Reply, Request, Selector};
use protocol::ids::{JobId, RequestId, ReservationId};
use protocol::job::{Command, Target};
use protocol::names::{EnvironmentName, SiteName, UserName};
use protocol::reservation::{Ask, Bandwidth, Change, Limits, Placement, Start};

use crate::agenda::Micros;
use crate::history::History;
use crate::scenario::{Asked, Shown, Want, When, Wish};

#[derive(Debug)]
pub struct Client {
    pub asked: Asked,
    /// Made at the first attempt, the same at every other.
    pub request: Option<Request>,
    /// The connection on which it waits for the answer.
    pub open: Option<(ClientId, u64)>,
    pub answer: Option<Reply>,
    /// Nothing more is asked: it has its answer, or what it is about never came to be.
    pub done: bool,
}

#[derive(Debug)]
pub struct Clients {
    pub all: Vec<Client>,
    sites: Vec<SiteName>,
    users: Vec<UserName>,
    next: u64,
    seed: u64,
    /// Who asked on a connection; connections are never used twice.
    waiting: BTreeMap<(ClientId, u64), usize>,
    answered: BTreeMap<(ClientId, u64), ()>,
}

/// What can be made of a wish now.
pub enum Made {
    Request(Box<Request>),
    /// What it is about has not been answered yet.
    NotYet,
    /// It is about nothing.
    Never,
}

impl Clients {
    pub fn new(asked: Vec<Asked>, sites: Vec<SiteName>, seed: u64) -> Self {
        let client = |asked: Asked| {
            let done = asked.left_out;
            Client { asked, request: None, open: None, answer: None, done }
        };
        Self {
            all: asked.into_iter().map(client).collect(),
            sites,
            users: ["anna", "bob"].into_iter().filter_map(|name| name.parse().ok()).collect(),
            next: 0,
            seed,
            waiting: BTreeMap::new(),
            answered: BTreeMap::new(),
        }
    }

    pub fn user(&self, number: usize) -> UserName {
        self.users[self.all[number].asked.user].clone()
    }

    pub fn make(&self, number: usize, now_s: u64) -> Made {
        let client = &self.all[number];
        if let Some(request) = &client.request {
            return Made::Request(Box::new(request.clone()));
        }
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.seed.to_le_bytes());
        bytes[8..].copy_from_slice(&(number as u64).to_le_bytes());
        let id = RequestId(bytes);
        let request = match &client.asked.wish {
            Wish::Reserve(want) => Request::Reserve { id, ask: self.ask(want, now_s) },
            Wish::Submit { want, all } => Request::Submit { id, ask: self.ask(want, now_s), job: job(*all) },
            Wish::List => Request::Reservations,
            Wish::Repeat { of } => {
                return match &self.all[*of] {
                    Client { request: Some(request), answer: Some(_), .. } => {
                        Made::Request(Box::new(request.clone()))
                    }
                    Client { done: true, .. } => Made::Never,
                    _ => Made::NotYet,
                };
            }
            Wish::SubmitIn { of, .. }
            | Wish::Modify { of, .. }
            | Wish::Release { of }
            | Wish::Cancel { of }
            | Wish::Show { of, .. } => {
                let (reservation, made_job) = match &self.all[*of] {
                    Client { answer: Some(Reply::Reserved(id)), .. } => (*id, None),
                    Client { answer: Some(Reply::Submitted { reservation, job }), .. } => {
                        (*reservation, Some(*job))
                    }
                    Client { done: true, .. } | Client { answer: Some(_), .. } => return Made::Never,
                    _ => return Made::NotYet,
                };
                match self.about(number, id, reservation, made_job) {
                    Some(request) => request,
                    None => return Made::Never,
                }
            }
        };
        Made::Request(Box::new(request))
    }

    fn about(
        &self,
        number: usize,
        id: RequestId,
        reservation: ReservationId,
        made_job: Option<JobId>,
    ) -> Option<Request> {
        Some(match &self.all[number].asked.wish {
            Wish::SubmitIn { all, .. } => Request::SubmitIn { id, reservation, job: job(*all) },
            Wish::Modify { of, duration_s, rate_kbit, nodes } => {
                let placement = nodes.map(|nodes| Placement::Sites(self.places(*of, nodes)));
                let bandwidth = rate_kbit.map(Bandwidth::Between);
                let change = Change { duration_s: *duration_s, bandwidth, placement };
                Request::Modify { id, reservation, change }
            }
            Wish::Release { .. } => Request::Release(Selector::Id(reservation)),
            Wish::Cancel { .. } => Request::Cancel(Selector::Id(made_job?)),
            Wish::Show { what: Shown::Job, .. } => Request::ShowJob(Selector::Id(made_job?)),
            Wish::Show { what: Shown::Reasons, .. } => Request::ExplainReservation(Selector::Id(reservation)),
            Wish::Show { what: Shown::Usage, .. } => Request::Usage(Selector::Id(reservation)),
            _ => Request::ShowReservation(Selector::Id(reservation)),
        })
    }

    /// The same sites with another number of nodes each.
    fn places(&self, of: usize, nodes: u32) -> Vec<(SiteName, u32)> {
        let want = match &self.all[of].asked.wish {
            Wish::Reserve(want) | Wish::Submit { want, .. } => want,
            _ => return vec![(self.sites[0].clone(), nodes)],
        };
        let there = want.nodes.iter().zip(&self.sites).filter(|(n, _)| **n > 0);
        there.map(|(_, site)| (site.clone(), nodes)).collect()
    }

    fn ask(&self, want: &Want, now_s: u64) -> Ask {
        let there = want.nodes.iter().zip(&self.sites).filter(|(n, _)| **n > 0);
        let placement = match want.anywhere {
            0 => Placement::Sites(there.map(|(n, site)| (site.clone(), *n)).collect()),
            count => Placement::Anywhere(count),
        };
        let start = match want.when {
            When::Open => Start::Open,
            When::Within(wait_s) => Start::Within { wait_s },
            When::Ahead(from, span) => Start::Between {
                earliest_s: now_s + u64::from(from),
                latest_s: now_s + u64::from(from + span),
            },
        };
        let bandwidth =
            if want.rate_kbit == 0 { Bandwidth::Unasked } else { Bandwidth::Between(want.rate_kbit) };
        Ask {
            placement,
            slots: 1,
            limits: Limits::default(),
            start,
            duration_s: want.duration_s,
            bandwidth,
            environment: EnvironmentName::host(),
            label: None,
        }
    }

    /// A connection with one request on it.
    pub fn connect(&mut self, number: usize) -> (ClientId, u64) {
        self.next += 1;
        let open = (ClientId(self.next), 1);
        self.all[number].open = Some(open);
        self.waiting.insert(open, number);
        open
    }

    /// The GRC answers. Returns whose answer it is, if the client is still there to hear it.
    pub fn answered(
        &mut self,
        (at, history): (Micros, &mut History),
        open: (ClientId, u64),
        reply: &Reply,
    ) -> Option<usize> {
        if self.answered.insert(open, ()).is_some() {
            history.broken(at, "answer-once", || format!("{open:?} is answered again: {reply:?}"));
        }
        let number = *self.waiting.get(&open)?;
        let client = &mut self.all[number];
        if client.open != Some(open) {
            return None;
        }
        client.open = None;
        client.done = true;
        client.answer = Some(reply.clone());
        let first = match &client.asked.wish {
            Wish::Repeat { of } => {
                let (of, same) = (*of, matches!(client.request, Some(ref request) if has_id(request)));
                same.then(|| self.all[of].answer.clone()).flatten()
            }
            _ => None,
        };
        if let Some(first) = first.filter(|first| contradict(first, reply)) {
            history.broken(at, "same-answer", || format!("first {first:?}, then {reply:?}"));
        }
        Some(number)
    }

    /// The GRC died, and every connection with it. Returns who must ask again.
    pub fn cut_off(&mut self) -> Vec<usize> {
        let mut lost = Vec::new();
        for (number, client) in self.all.iter_mut().enumerate() {
            if client.open.take().is_some() {
                lost.push(number);
            }
        }
        lost
    }

    pub fn all_done(&self) -> bool {
        self.all.iter().all(|client| client.done)
    }
}

pub fn has_id(request: &Request) -> bool {
    use Request::{Modify, Reserve, Submit, SubmitIn};
    matches!(request, Reserve { .. } | Submit { .. } | SubmitIn { .. } | Modify { .. })
}

/// Two refusals may differ in what they count; everything else is the same or it is wrong.
fn contradict(first: &Reply, then: &Reply) -> bool {
    let no = |reply: &Reply| matches!(reply, Reply::Refused(_) | Reply::Failed(_));
    first != then && !(no(first) && no(then))
}

fn job(all: bool) -> NewJob {
    let command = Command {
        argv: vec![b"./ring".to_vec()],
        variables: Vec::new(),
        directories: Vec::new(),
        directory_required: false,
    };
    NewJob { command, target: if all { Target::All } else { Target::Head }, label: None, grace_s: None }
}
