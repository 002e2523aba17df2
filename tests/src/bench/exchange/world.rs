//! The simulated world: owners, wires, and the clock.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use crm::grant_key::GrantKey;
use crm::pilot::PilotId;
use crm::site::{self, Asked};
use crm::tokens::Tokens;
use grc::coordinator::{self, ClientId, ConnectionId, Coordinator};
use protocol::client;
use protocol::codec;
use protocol::frame::{self, Frame, Kind};
use protocol::identity::Pin;
use protocol::keys::{MemberKeys, PublicKey};
use protocol::limits::HEADER_BYTES;
use protocol::names::SiteName;
use protocol::node::{self, Arrive, First};
use protocol::site::{FromSite, ToSite};
use serde::Serialize;
use serde::de::DeserializeOwned;

const UID: u32 = 1000;

/// Where the time goes.
#[derive(Clone, Copy, Debug)]
pub enum Share {
    GrcOwner,
    GrcWire,
    CrmOwner,
    CrmWire,
    CrmSeals,
    Agents,
}

pub const SHARES: [(Share, &str); 6] = [
    (Share::GrcOwner, "GRC: owner"),
    (Share::GrcWire, "GRC: codec, frames, checks"),
    (Share::CrmOwner, "CRMs: owners"),
    (Share::CrmWire, "CRMs: codec, frames, checks"),
    (Share::CrmSeals, "CRMs: tokens, signed grants"),
    (Share::Agents, "NodeManagers: codec, frames, checks"),
];

/// Messages and bytes on one kind of line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    pub messages: u64,
    pub bytes: u64,
}

/// A message under way, as bytes.
enum Wire {
    ToSite(usize, Bytes),
    FromSite(usize, Bytes),
    /// Still a body: the same bytes wait for many, and become frames one by one.
    ToAgent(usize, PilotId, Option<Asked>, Bytes),
    Reply(usize, PilotId, Asked, Bytes),
    Arrive(usize, Bytes),
    Notice(usize, PilotId, Bytes),
}

pub struct SimSite {
    pub name: SiteName,
    pub owner: site::Site,
    key: GrantKey,
    tokens: Tokens,
    /// Messages between this site and the GRC: to it, from it.
    pub lines: [Traffic; 2],
    /// Messages between this site and its agents.
    pub inside: Traffic,
}

pub struct World {
    grc: Coordinator,
    pub sites: Vec<SimSite>,
    under_way: VecDeque<Wire>,
    begin: Instant,
    pub shares: [Duration; SHARES.len()],
    /// Of them the NodeManagers', from the very beginning.
    agents: Duration,
    /// Time that each site's CRM took, of all its shares.
    pub crm: Vec<Duration>,
    /// One agent's reading of the key ring.
    pub rings: Vec<Duration>,
    next_key: u64,
    /// What the client was told last.
    pub replies: Vec<client::Reply>,
    pub waited_for: usize,
}

/// A whole frame with this message, then only its bytes count.
fn pack<T: Serialize>(kind: Kind, message: &T) -> Result<Bytes> {
    seal(kind, codec::encode(message)?.into())
}

fn seal(kind: Kind, body: Bytes) -> Result<Bytes> {
    let mut buffer = BytesMut::with_capacity(HEADER_BYTES + body.len());
    frame::put(&Frame { kind, correlation: 1, body }, &mut buffer)?;
    Ok(buffer.freeze())
}

fn unpack<T: DeserializeOwned>(bytes: Bytes) -> Result<T> {
    let mut buffer = BytesMut::from(bytes);
    let frame = frame::take(&mut buffer, usize::MAX)?.context("half a frame")?;
    Ok(codec::decode(&frame.body)?)
}

impl World {
    pub fn new(sites: usize, nodes: usize) -> Result<World> {
        let supernet = |site: usize| format!("10.{}.0.0/16", site + 1);
        let name = |site: usize| format!("s{site}").parse::<SiteName>();
        let mut supernets = std::collections::BTreeMap::new();
        let mut all = Vec::new();
        for site in 0..sites {
            let name = name(site)?;
            supernets.insert(name.clone(), vec![supernet(site).parse()?]);
            let settings = site::Settings {
                name: name.clone(),
                batch_system: "simulated".into(),
                anonymous: false,
                ranges: vec![format!("10.{}.128.0/17", site + 1).parse()?],
                reserved: vec![],
                prefix_len: 16,
                gateway: Some(Ipv4Addr::new(10, site as u8 + 1, 0, 1)),
                mtu: 1500,
                driver: grant::Driver::Macvlan,
                times: crm::pilot::Times::default(),
                lead: Duration::ZERO,
                early: None,
                hold: Duration::from_secs(600),
                word: Duration::from_secs(10),
                queue: "".into(),
                catalog: sandbox_images::Catalog::host_only(),
            };
            let nodes = (0..nodes)
                .map(|node| Ok(crm::nodes::Node::new(format!("s{site}-node{node}").parse()?, 0, 1)))
                .collect::<Result<Vec<_>>>()?;
            all.push(SimSite {
                name,
                owner: site::Site::new(settings, nodes),
                key: GrantKey::ephemeral()?,
                tokens: Tokens::default(),
                lines: Default::default(),
                inside: Traffic::default(),
            });
        }
        let settings = coordinator::Settings {
            supernets,
            deadlines: coordinator::Deadlines::default(),
            limits: coordinator::Limits { reservations: sites.max(1), ..Default::default() },
            links: Default::default(),
            uplinks: Default::default(),
        };
        let mut world = World {
            grc: Coordinator::new(settings),
            crm: vec![Duration::ZERO; sites],
            sites: all,
            under_way: VecDeque::new(),
            begin: Instant::now(),
            shares: Default::default(),
            agents: Duration::ZERO,
            rings: Vec::new(),
            next_key: 0,
            replies: Vec::new(),
            waited_for: 0,
        };
        for site in 0..sites {
            world.tell_site(site, site::Event::GrcConnected)?;
        }
        world.run()?;
        Ok(world)
    }

    /// The clock of the owners. NodeManagers work beside each other, each on a machine of its
    /// own: their time is counted, but deadlines do not run meanwhile.
    fn now(&self) -> Duration {
        self.begin.elapsed().saturating_sub(self.agents)
    }

    /// Adds the time since `begin` to a share, and to the site's own if it is a site's.
    fn charge(&mut self, share: Share, site: Option<usize>, begin: Instant) {
        let time = begin.elapsed();
        self.shares[share as usize] += time;
        if let Share::Agents = share {
            self.agents += time;
        }
        if let Some(site) = site {
            self.crm[site] += time;
        }
    }

    /// Delivers the oldest message, or else lets a time come; `false` when neither is there.
    pub fn turn(&mut self) -> Result<bool> {
        match self.under_way.pop_front() {
            Some(wire) => self.deliver(wire).map(|()| true),
            None => self.tick(),
        }
    }

    /// What an owner wants to do at this time. Nothing here waits for a time to come.
    fn tick(&mut self) -> Result<bool> {
        let due = |wake: Option<Duration>, now: Duration| wake.is_some_and(|at| at <= now);
        let now = self.now();
        let sites: Vec<usize> =
            (0..self.sites.len()).filter(|&n| due(self.sites[n].owner.next_deadline(), now)).collect();
        for &number in &sites {
            self.tell_site(number, site::Event::Tick)?;
        }
        let grc = due(self.grc.next_wake(), now);
        if grc {
            self.tell_grc(coordinator::Event::Tick)?;
        }
        Ok(grc || !self.under_way.is_empty())
    }

    /// Until nothing is under way.
    pub fn run(&mut self) -> Result<()> {
        while self.turn()? {}
        Ok(())
    }

    fn deliver(&mut self, wire: Wire) -> Result<()> {
        let begin = Instant::now();
        match wire {
            Wire::ToSite(number, bytes) => {
                let message: ToSite = unpack(bytes)?;
                message.check()?;
                self.charge(Share::CrmWire, Some(number), begin);
                match message {
                    ToSite::Welcome => Ok(()),
                    ToSite::Refused(refusal) => bail!("site {number} is refused: {refusal}"),
                    ToSite::Hold { reservation, version, part } => {
                        let account = site::Account { name: part.user.clone(), uid: UID, gid: UID };
                        self.tell_site(
                            number,
                            site::Event::Hold { reservation, version, part, account: Ok(account) },
                        )
                    }
                    message => self.tell_site(number, site::Event::Grc(message)),
                }
            }
            Wire::FromSite(number, bytes) => {
                let message: FromSite = unpack(bytes)?;
                message.check()?;
                self.charge(Share::GrcWire, None, begin);
                if let FromSite::Failed { failure, .. } = &message {
                    bail!("site {number}: {failure}");
                }
                let site = self.sites[number].name.clone();
                let connection = ConnectionId(number as u64);
                self.tell_grc(coordinator::Event::FromSite { site, connection, message })
            }
            Wire::Arrive(number, bytes) => {
                let First::Arrive(arrive) = unpack(bytes)? else { bail!("nobody returns here") };
                self.charge(Share::CrmWire, Some(number), begin);
                let (begin, now) = (Instant::now(), self.now());
                let pilot = self.sites[number].tokens.redeem(&arrive.token, now)?;
                self.charge(Share::CrmSeals, Some(number), begin);
                self.sites[number].owner.expects(pilot, arrive.uid)?;
                let Arrive { nonce, node, boot_id, .. } = arrive;
                let mut pin = Pin([0; 32]);
                pin.0[..16].copy_from_slice(&u128::from(pilot.member).to_be_bytes());
                pin.0[16..24].copy_from_slice(&pilot.reservation.0.to_be_bytes());
                self.tell_site(number, site::Event::Arrived { pilot, pin, nonce, node, boot_id })
            }
            Wire::Reply(number, pilot, asked, bytes) => {
                let reply = unpack(bytes)?;
                self.charge(Share::CrmWire, Some(number), begin);
                self.tell_site(number, site::Event::Answered { pilot, asked, reply })
            }
            Wire::Notice(number, pilot, bytes) => {
                let notice: node::Notice = unpack(bytes)?;
                notice.check()?;
                self.charge(Share::CrmWire, Some(number), begin);
                self.tell_site(number, site::Event::Noticed { pilot, notice })
            }
            Wire::ToAgent(number, pilot, asked, body) => {
                let bytes = self.inside(number, seal(Kind::Request, body)?);
                self.charge(Share::CrmWire, Some(number), begin);
                let begin = Instant::now();
                let request: node::Request = unpack(bytes)?;
                request.check()?;
                if matches!(request, node::Request::SetKeys(_)) {
                    self.rings.push(begin.elapsed());
                }
                self.answer(number, pilot, asked, &request)?;
                self.charge(Share::Agents, None, begin);
                Ok(())
            }
        }
    }

    /// What a NodeManager says when all goes well.
    fn answer(
        &mut self,
        number: usize,
        pilot: PilotId,
        asked: Option<Asked>,
        request: &node::Request,
    ) -> Result<()> {
        let Some(asked) = asked else { return Ok(()) };
        let reply = match request {
            node::Request::GetKeys => {
                let mut key = || {
                    self.next_key += 1;
                    let mut bytes = [7; 32];
                    bytes[..8].copy_from_slice(&self.next_key.to_be_bytes());
                    PublicKey(bytes)
                };
                node::Reply::Keys(MemberKeys { host: key(), user: key() })
            }
            _ => node::Reply::Done,
        };
        let bytes = self.inside(number, pack(Kind::Reply, &reply)?);
        self.under_way.push_back(Wire::Reply(number, pilot, asked, bytes));
        if matches!(request, node::Request::Shutdown) {
            let gone = node::Notice::Gone { dirty: None, cause: None };
            let bytes = self.inside(number, pack(Kind::Notice, &gone)?);
            self.under_way.push_back(Wire::Notice(number, pilot, bytes));
        }
        Ok(())
    }

    fn inside(&mut self, number: usize, bytes: Bytes) -> Bytes {
        let traffic = &mut self.sites[number].inside;
        traffic.messages += 1;
        traffic.bytes += bytes.len() as u64;
        bytes
    }

    fn line(&mut self, number: usize, from: bool, bytes: &Bytes) {
        let traffic = &mut self.sites[number].lines[usize::from(from)];
        traffic.messages += 1;
        traffic.bytes += bytes.len() as u64;
    }

    fn tell_grc(&mut self, event: coordinator::Event) -> Result<()> {
        let begin = Instant::now();
        let actions = self.grc.step(self.now(), event);
        self.charge(Share::GrcOwner, None, begin);
        for action in actions {
            match action {
                coordinator::Action::Send { connection, message, .. } => {
                    let begin = Instant::now();
                    let bytes = pack(Kind::Notice, &message)?;
                    self.charge(Share::GrcWire, None, begin);
                    let number = connection.0 as usize;
                    self.line(number, false, &bytes);
                    self.under_way.push_back(Wire::ToSite(number, bytes));
                }
                coordinator::Action::Answer { reply, .. } => {
                    if let client::Reply::Refused(refusal) = &reply {
                        bail!("the GRC refuses: {refusal}");
                    }
                    if matches!(reply, client::Reply::Reservation(_)) {
                        self.waited_for += 1;
                    }
                    self.replies.push(reply);
                }
                coordinator::Action::Disconnect { connection } => bail!("site {} is put out", connection.0),
                _ => (),
            }
        }
        Ok(())
    }

    fn tell_site(&mut self, number: usize, event: site::Event) -> Result<()> {
        let begin = Instant::now();
        let now = self.now();
        let actions = self.sites[number].owner.step(now, event);
        self.charge(Share::CrmOwner, Some(number), begin);
        for action in actions {
            let begin = Instant::now();
            match action {
                site::Action::Tell(message) => {
                    let bytes = pack(Kind::Notice, &message)?;
                    self.charge(Share::CrmWire, Some(number), begin);
                    self.line(number, true, &bytes);
                    self.under_way.push_back(Wire::FromSite(number, bytes));
                }
                site::Action::Submit(submit) => {
                    let mut random = [0; 32];
                    self.next_key += 1;
                    random[..8].copy_from_slice(&self.next_key.to_be_bytes());
                    let expires = now + Duration::from_secs(submit.lifetime_s.into());
                    let token = self.sites[number].tokens.issue(random, submit.pilot, now, expires);
                    self.charge(Share::CrmSeals, Some(number), begin);
                    let arrive = First::Arrive(Arrive {
                        token,
                        nonce: [9; 16],
                        node: submit.node,
                        uid: UID,
                        boot_id: [3; 16],
                        version: "0.1.0".into(),
                    });
                    let begin = Instant::now();
                    let bytes = self.inside(number, pack(Kind::Request, &arrive)?);
                    self.charge(Share::Agents, None, begin);
                    self.under_way.push_back(Wire::Arrive(number, bytes));
                }
                site::Action::SetUp { pilot, grant, rates, environment } => {
                    let site = &self.sites[number];
                    let setup = site.key.setup(&site.name, &grant, rates.as_deref(), environment);
                    self.charge(Share::CrmSeals, Some(number), begin);
                    self.ask(number, pilot, Asked::Setup, &node::Request::Setup(setup))?;
                    self.ask(number, pilot, Asked::GetKeys, &node::Request::GetKeys)?;
                }
                site::Action::Join { pilots, ring } => {
                    // Encoded once, as the driver does.
                    let ring: Bytes = codec::encode(&node::Request::SetKeys(ring))?.into();
                    let run: Bytes = codec::encode(&node::Request::Run)?.into();
                    self.charge(Share::CrmWire, Some(number), begin);
                    for pilot in pilots {
                        for (asked, body) in [(Asked::SetKeys, &ring), (Asked::Run, &run)] {
                            self.under_way.push_back(Wire::ToAgent(number, pilot, Some(asked), body.clone()));
                        }
                    }
                }
                site::Action::Ask { pilot, asked, request } => self.ask(number, pilot, asked, &request)?,
                site::Action::Pass { pilot, request } => {
                    let body = codec::encode(&request)?.into();
                    self.charge(Share::CrmWire, Some(number), begin);
                    self.under_way.push_back(Wire::ToAgent(number, pilot, None, body));
                }
                site::Action::Dismiss { .. } => (),
                site::Action::Reserve(_) | site::Action::Unreserve { .. } => (),
                // Void its token; the batch system takes it away, and says so.
                site::Action::Adopt { .. } => bail!("nothing is restored here"),
                site::Action::Cancel { pilot } => {
                    self.sites[number].tokens.revoke(pilot);
                    self.charge(Share::CrmSeals, Some(number), begin);
                    let reason = "ended".into();
                    self.tell_site(number, site::Event::BatchGone { pilot, reason })?;
                }
                // Durability is measured by itself.
                site::Action::Record(_) => (),
                site::Action::Shape { pilot, .. } => bail!("pilot {pilot} is shaped, and nothing was asked"),
                site::Action::Sweep { pilot, .. } => bail!("after pilot {pilot} is swept"),
                site::Action::Probe => bail!("a queue of site {number} is asked how it is"),
            }
        }
        Ok(())
    }

    fn ask(&mut self, number: usize, pilot: PilotId, asked: Asked, request: &node::Request) -> Result<()> {
        let begin = Instant::now();
        let body = codec::encode(request)?.into();
        self.charge(Share::CrmWire, Some(number), begin);
        self.under_way.push_back(Wire::ToAgent(number, pilot, Some(asked), body));
        Ok(())
    }

    pub fn request(&mut self, request: client::Request) -> Result<()> {
        let user = "grid".parse()?;
        self.tell_grc(coordinator::Event::Request { client: ClientId(1), correlation: 1, user, request })
    }
}
