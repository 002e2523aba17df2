//! `grc serve`: the wiring. One task owns the [`Coordinator`], feeds it what the doors bring and
//! performs its actions in order; nothing it does waits for a peer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use protocol::client::{Notice, Reply};
use protocol::connection::Outbox;
use protocol::frame::Kind;
use protocol::identity::Identity;
use protocol::names::UserName;
use protocol::refusal::Refusal;
use protocol::site::ToSite;
use protocol::tls;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::commands::Commands;
use crate::config::Config;
use crate::coordinator::{Action, ClientId, ConnectionId, Coordinator, Event, Settings};
use crate::durable::{self, Durable, Opened};
use crate::login::follow::UsersFile;
use crate::output::Store;
use crate::pins::Pins;
use crate::seats::Seats;
use crate::{remote, server, sites};

/// Requests of one client that are not answered yet.
const OPEN_REQUESTS_MAX: usize = 64;
/// Actions that may wait for the disk; nothing new is taken in meanwhile.
const WAITING_ACTIONS_MAX: usize = 16 * 1024;
/// Longest sleep of the owner: after it the clock is read again.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Events that may wait for the owner; the doors stop reading meanwhile.
const INPUTS_MAX: usize = 1024;

/// The sending side of a connection and the way to end it.
#[derive(Debug)]
pub struct Peer {
    pub outbox: Outbox,
    pub close: CancellationToken,
}

/// What the doors bring.
#[derive(Debug)]
pub enum Input {
    ClientOpened {
        client: ClientId,
        user: UserName,
        peer: Peer,
    },
    ClientClosed {
        client: ClientId,
    },
    SiteOpened {
        connection: ConnectionId,
        peer: Peer,
    },
    SiteClosed {
        connection: ConnectionId,
    },
    /// A log request was answered where the log is.
    LogRead {
        client: ClientId,
    },
    Event(Box<Event>),
}

/// A GRC whose sockets are open.
#[derive(Debug)]
pub struct Server {
    /// Where sites dial, with the port that was really taken.
    pub address: SocketAddr,
    /// Where users of other machines dial, if they may.
    pub users_address: Option<SocketAddr>,
    driver: Driver,
    inputs: mpsc::Receiver<Input>,
    doors: Vec<tokio::task::JoinHandle<()>>,
    stop: CancellationToken,
}

impl Server {
    /// Reads the state directory and opens both doors. Cancelling `stop` ends everything.
    ///
    /// A store on a full disk is waited for, a second at a time.
    pub async fn start(config: Config, stop: CancellationToken) -> anyhow::Result<Self> {
        let identity = Identity::load(&config.state)
            .with_context(|| format!("{} holds no identity; run `grc init` once", config.state.display()))?;
        let acceptor = tls::acceptor(&identity)?;
        let pins = Arc::new(Pins::load(&config.state, config.supernets.keys())?);
        // The store comes first: it is what a second GRC on the same state is refused by.
        let Opened { durable, reports, past, boot_id } =
            durable::open(&config.state, identity.pin(), &stop).await?;
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {} for sites", config.listen))?;
        let remote = match &config.remote {
            None => None,
            Some(remote) => {
                let file = UsersFile::open(remote.users_file.clone())?;
                let listener = TcpListener::bind(remote.listen)
                    .await
                    .with_context(|| format!("cannot listen on {} for users", remote.listen))?;
                Some((listener, file))
            }
        };
        let clients = server::bind(&config.socket)?;
        let address = listener.local_addr().context("the sites' socket has no address")?;
        let settings = Settings {
            supernets: config.supernets,
            deadlines: config.deadlines,
            links: config.links,
            uplinks: config.uplinks,
            limits: config.limits,
        };
        let (coordinator, first) = Coordinator::restore(settings, past);
        let known = first.iter().filter_map(|action| match action {
            Action::ExpectOutput { job, .. } => Some(*job),
            _ => None,
        });
        let known = known.collect();
        let store = Arc::new(Store::new(&config.state, config.output_bytes_max, boot_id, &known));
        let (left_over, files) = (store.left_over(&known), store.clone());
        tokio::task::spawn_blocking(move || left_over.into_iter().for_each(|job| files.remove_files(job)));
        let (owner, inputs) = mpsc::channel(INPUTS_MAX);
        let door = server::Door {
            accounts: Arc::new(config.users),
            seats: Seats::new(config.connections.per_user),
            next: Arc::default(),
            owner: owner.clone(),
            stop: stop.clone(),
        };
        let mut doors = Vec::new();
        let mut users_address = None;
        if let Some((listener, file)) = remote {
            users_address = Some(listener.local_addr().context("the users' socket has no address")?);
            let users = file.users();
            let door = remote::Door {
                acceptor: acceptor.clone(),
                pin: identity.pin(),
                users,
                said: Arc::default(),
                door: door.clone(),
            };
            doors.push(tokio::spawn(file.follow(stop.clone())));
            doors.push(tokio::spawn(remote::listen(listener, door)));
        }
        doors.push(tokio::spawn(server::listen(clients, config.socket, door)));
        let door = sites::Door {
            acceptor,
            pins,
            store: store.clone(),
            said: Arc::default(),
            owner: owner.clone(),
            stop: stop.clone(),
        };
        doors.push(tokio::spawn(sites::listen(listener, door)));
        let mut driver = Driver {
            coordinator,
            durable,
            reports,
            store,
            owner,
            clients: BTreeMap::new(),
            sites: BTreeMap::new(),
            requests_max: config.connections.requests,
            open_requests: BTreeMap::new(),
        };
        driver.take_actions(first)?;
        Ok(Self { address, users_address, driver, inputs, doors, stop })
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// What must be durable could not be written: memory must not get ahead of the disk.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let result = self.driver.run(&mut self.inputs, &self.stop).await;
        self.stop.cancel();
        for door in self.doors {
            let _ = door.await;
        }
        result
    }
}

/// A client that is connected.
#[derive(Debug)]
struct Client {
    peer: Peer,
    user: UserName,
    /// Its unanswered requests.
    open: usize,
}

#[derive(Debug)]
struct Driver {
    coordinator: Coordinator,
    durable: Durable,
    reports: mpsc::UnboundedReceiver<journal::Report>,
    store: Arc<Store>,
    owner: mpsc::Sender<Input>,
    clients: BTreeMap<ClientId, Client>,
    /// Unanswered requests of each user, and how many one may have.
    open_requests: BTreeMap<UserName, usize>,
    requests_max: usize,
    sites: BTreeMap<ConnectionId, (Peer, Commands)>,
}

impl Driver {
    async fn run(
        &mut self,
        inputs: &mut mpsc::Receiver<Input>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            let now = self.durable.now();
            let wake = self.coordinator.next_wake().map(|at| at.saturating_sub(now));
            // The runtime's clock stands still while the machine sleeps, ours does not.
            let pause = wake.unwrap_or(SLEEP_MAX).min(SLEEP_MAX);
            let backlog = self.durable.waiting() >= WAITING_ACTIONS_MAX;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                report = self.reports.recv() => self.reported(report)?,
                () = tokio::time::sleep(pause), if !backlog => if wake.is_some_and(|wake| wake <= pause) {
                    self.step(Event::Tick)?;
                },
                input = inputs.recv(), if !backlog => match input {
                    Some(input) => self.take(input)?,
                    None => return Ok(()),
                },
            }
        }
    }

    /// What was written lets go what waited for it.
    fn reported(&mut self, report: Option<journal::Report>) -> anyhow::Result<()> {
        self.durable.reported(report)?;
        while let Some(action) = self.durable.next_action() {
            self.perform(action);
        }
        Ok(())
    }

    fn take_actions(&mut self, actions: Vec<Action>) -> anyhow::Result<()> {
        self.durable.take(actions)?;
        while let Some(action) = self.durable.next_action() {
            self.perform(action);
        }
        Ok(())
    }

    fn take(&mut self, input: Input) -> anyhow::Result<()> {
        match input {
            Input::ClientOpened { client, user, peer } => {
                self.clients.insert(client, Client { peer, user, open: 0 });
            }
            Input::ClientClosed { client } => {
                if let Some(gone) = self.clients.remove(&client) {
                    self.settle_requests(&gone.user, gone.open);
                }
                self.step(Event::ClientGone { client })?;
            }
            Input::SiteOpened { connection, peer } => {
                let commands = Commands::to(peer.outbox.clone());
                self.sites.insert(connection, (peer, commands));
            }
            Input::SiteClosed { connection } => {
                self.sites.remove(&connection);
            }
            Input::LogRead { client } => self.answered(client),
            Input::Event(event) => {
                if let Event::Request { client, correlation, .. } = event.as_ref() {
                    let (client, correlation) = (*client, *correlation);
                    if !self.clients.contains_key(&client) {
                        return Ok(());
                    }
                    if let Some(refusal) = self.asks(client) {
                        // Behind the answers that wait for the disk: in the order of requests.
                        let reply = Reply::Refused(refusal);
                        return self.take_actions(vec![Action::Answer { client, correlation, reply }]);
                    }
                }
                self.step(*event)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, event: Event) -> anyhow::Result<()> {
        let now = self.durable.now();
        let actions = self.coordinator.step(now, event);
        self.take_actions(actions)
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Report { reservation, what } => tracing::info!(%reservation, "{what}"),
            // `Durable` keeps these for itself.
            Action::Record(_) => {}
            Action::Send { site, connection, message } => {
                let Some((peer, commands)) = self.sites.get(&connection) else { return };
                let posted = match message {
                    ToSite::Exec { .. } => commands.post(message),
                    message => peer.outbox.post(Kind::Notice, 0, &message),
                };
                if let Err(error) = posted {
                    tracing::warn!(%site, %error, "a site is disconnected");
                    peer.close.cancel();
                }
            }
            Action::Disconnect { connection } => {
                if let Some((peer, _)) = self.sites.remove(&connection) {
                    peer.close.cancel();
                }
            }
            Action::Answer { client, correlation, reply } => self.answer(client, correlation, reply),
            Action::Notify { client, correlation, mut notice } => {
                if let Notice::Job(view) = &mut notice {
                    self.store.measure(view);
                }
                if let Some(Client { peer, .. }) = self.clients.get(&client)
                    && peer.outbox.post(Kind::Notice, correlation, &notice).is_err()
                {
                    peer.close.cancel();
                }
            }
            Action::ExpectOutput { job, sources } => self.store.expect(job, sources),
            Action::CloseOutput { job } => self.store.close(job),
            Action::ForgetOutput { job } => {
                if self.store.forget(job) {
                    let store = self.store.clone();
                    tokio::task::spawn_blocking(move || store.remove_files(job));
                }
            }
            Action::ReadLog { client, correlation, job, stream, offset, follow } => {
                let Some(Client { peer, .. }) = self.clients.get(&client) else { return };
                let (store, outbox, owner) = (self.store.clone(), peer.outbox.clone(), self.owner.clone());
                tokio::spawn(async move {
                    store.read(&outbox, correlation, job, stream, offset, follow).await;
                    drop(outbox);
                    let _ = owner.send(Input::LogRead { client }).await;
                });
            }
        }
    }

    fn answer(&mut self, client: ClientId, correlation: u64, mut reply: Reply) {
        match &mut reply {
            Reply::Job(view) => self.store.measure(view),
            Reply::Jobs(views) => views.iter_mut().for_each(|view| self.store.measure(view)),
            _ => {}
        }
        if let Some(Client { peer, .. }) = self.clients.get(&client)
            && let Err(error) = peer.outbox.post(Kind::Reply, correlation, &reply)
        {
            tracing::info!(%error, "a client is disconnected");
            peer.close.cancel();
        }
        self.answered(client);
    }

    fn answered(&mut self, client: ClientId) {
        let Some(one) = self.clients.get_mut(&client).filter(|one| one.open > 0) else { return };
        one.open -= 1;
        let user = one.user.clone();
        self.settle_requests(&user, 1);
    }

    /// Counts one more request; why it is not taken, if so.
    fn asks(&mut self, client: ClientId) -> Option<Refusal> {
        let one = self.clients.get_mut(&client)?;
        one.open += 1;
        let all = self.open_requests.entry(one.user.clone()).or_default();
        *all += 1;
        if one.open > OPEN_REQUESTS_MAX {
            let what = "open requests on one connection".into();
            return Some(Refusal::TooMany { what, count: OPEN_REQUESTS_MAX as u32 });
        }
        let (asked, limit) = (*all as u64, self.requests_max as u64);
        let what = || "open requests would be yours".into();
        (asked > limit).then(|| Refusal::OverUserLimit { what: what(), asked, limit })
    }

    fn settle_requests(&mut self, user: &UserName, count: usize) {
        let Some(all) = self.open_requests.get_mut(user) else { return };
        *all = all.saturating_sub(count);
        if *all == 0 {
            self.open_requests.remove(user);
        }
    }
}
