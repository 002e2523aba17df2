//! Real reserve calls while the GRC and the CRMs are killed at random: what was granted must be
//! there afterwards, everywhere, and nothing else.
//!
//! ```text
//! clients: Reserve, Modify, Release, each with an id of its own, repeated until it is answered
//! killer:  kill -9 of the GRC or a CRM, started again after a moment, so many times
//! ledger:  what each client was told  ==  what `show`, the GRC's store and every CRM's store say
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use protocol::client::{Reply, Request, Selector};
use protocol::connection::{Connection, greet, read};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::ids::{RequestId, ReservationId};
use protocol::refusal::Refusal;
use protocol::reservation::{Ask, Bandwidth, Change, Placement, ReservationState, ReservationView, Start};
use tokio::net::UnixStream;

use crate::netns::site_name;
use crate::process::{run, wait_until};
use crate::tight::Tight;
use crate::world::Grid;

/// How long one call may be repeated before the storm is called a failure.
const CALL_TIME: Duration = Duration::from_secs(120);
/// How long one answer may take on one connection; far above every deadline of a hold.
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// How long everything may take to come to rest after the last kill.
const REST_TIME: Duration = Duration::from_secs(60);
/// Between two looks at what sites hold.
const SETTLE_TIME: Duration = Duration::from_secs(3);
/// How long the filesystem stays full, and after how many kills it is filled again.
const FULL_TIME: Duration = Duration::from_secs(3);
const FULL_EVERY: u32 = 40;
/// Windows begin so far ahead that none begins during the storm.
const AHEAD_S: u64 = 3600;

/// How hard it blows.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    pub calls: u32,
    pub clients: u32,
    pub kills: u32,
    pub seed: u64,
    /// The state lies on a filesystem of so many KiB, which is filled and enlarged meanwhile.
    pub tight_kib: Option<u32>,
}

/// What came of it. All but the first three are failures.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub granted: u32,
    pub refused: u32,
    pub kills: u32,
    /// Times that the state's filesystem was full.
    pub full: u32,
    /// Calls that were sent more than once because no answer came.
    pub repeated: u32,
    pub lost: Vec<String>,
    pub contradictions: Vec<String>,
    pub orphans: Vec<String>,
}

impl Outcome {
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.contradictions.is_empty() && self.orphans.is_empty()
    }
}

/// splitmix64: the same storm for the same seed, as far as the machine's own timing lets it.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// One client: asks again on a new connection, with the same id, until there is an answer.
struct Caller {
    socket: PathBuf,
    live: Option<Connection<UnixStream>>,
    correlation: u64,
    repeated: u32,
}

impl Caller {
    fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), live: None, correlation: 0, repeated: 0 }
    }

    async fn ask(&mut self, request: &Request) -> Result<Reply> {
        let end = Instant::now() + CALL_TIME;
        let mut first = true;
        while Instant::now() < end {
            if !std::mem::take(&mut first) {
                self.repeated += 1;
            }
            match tokio::time::timeout(ANSWER_TIME, self.try_once(request)).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(_)) | Err(_) => {
                    self.live = None;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        bail!("no answer to {request:?} within {} s", CALL_TIME.as_secs())
    }

    async fn try_once(&mut self, request: &Request) -> Result<Reply> {
        if self.live.is_none() {
            let stream = UnixStream::connect(&self.socket).await?;
            self.live = Some(greet(stream, Role::Client, &[Role::Grc]).await?);
        }
        let live = self.live.as_mut().context("just connected")?;
        self.correlation += 1;
        live.outbox.post(Kind::Request, self.correlation, request)?;
        loop {
            let frame = live.inbox.next().await?;
            if frame.kind == Kind::Reply && frame.correlation == self.correlation {
                return Ok(read(&frame)?);
            }
        }
    }
}

/// What one client was told, by reservation.
#[derive(Clone, Debug, Default)]
struct Ledger {
    /// With the duration that it was told last.
    granted: BTreeMap<ReservationId, u32>,
    released: BTreeSet<ReservationId>,
    refused: u32,
    contradictions: Vec<String>,
}

fn request_id(dice: &mut Dice) -> RequestId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&dice.next().to_le_bytes());
    id[8..].copy_from_slice(&dice.next().to_le_bytes());
    RequestId(id)
}

fn ask(dice: &mut Dice, now_s: u64, client: u32, call: u32) -> Result<Ask> {
    let nodes = 1 + dice.below(2) as u32;
    let earliest_s = now_s + AHEAD_S + dice.below(48) * 1800;
    let sites = vec![("a".parse()?, nodes), ("b".parse()?, nodes)];
    Ok(Ask {
        placement: Placement::Sites(sites),
        slots: 1,
        limits: Default::default(),
        start: Start::Between { earliest_s, latest_s: earliest_s + dice.below(3) * 3600 },
        duration_s: 600 + dice.below(6) as u32 * 600,
        bandwidth: Bandwidth::Between(5_000 + dice.below(20) as u32 * 1000),
        environment: protocol::names::EnvironmentName::host(),
        label: Some(format!("storm {client} {call}").parse()?),
    })
}

/// One client's share of the calls.
async fn call_all(socket: PathBuf, client: u32, calls: u32, seed: u64) -> Result<(Ledger, u32)> {
    let mut dice = Dice(seed ^ (u64::from(client) << 32));
    let mut caller = Caller::new(&socket);
    let mut ledger = Ledger::default();
    for call in 0..calls {
        let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let request =
            Request::Reserve { id: request_id(&mut dice), ask: ask(&mut dice, now_s, client, call)? };
        let told = caller.ask(&request).await?;
        // Every fifth is asked again after its answer: it must be answered alike.
        if dice.below(5) == 0 && matches!(told, Reply::Reserved(_)) {
            let again = caller.ask(&request).await?;
            if again != told {
                ledger.contradictions.push(format!("{request:?}: first {told:?}, then {again:?}"));
            }
        }
        match told {
            Reply::Reserved(id) => {
                let Request::Reserve { ask, .. } = &request else { continue };
                if ledger.granted.insert(id, ask.duration_s).is_some() {
                    ledger.contradictions.push(format!("{id} was given to two requests"));
                }
            }
            Reply::Refused(_) | Reply::Failed(_) => ledger.refused += 1,
            other => ledger.contradictions.push(format!("{request:?} was answered {other:?}")),
        }
        if dice.below(4) == 0
            && let Some((&id, &duration)) = ledger.granted.iter().nth(dice.below(8) as usize)
        {
            change_or_release(&mut caller, &mut dice, &mut ledger, id, duration).await?;
        }
    }
    Ok((ledger, caller.repeated))
}

async fn change_or_release(
    caller: &mut Caller,
    dice: &mut Dice,
    ledger: &mut Ledger,
    id: ReservationId,
    duration: u32,
) -> Result<()> {
    if dice.below(2) == 0 {
        match caller.ask(&Request::Release(Selector::Id(id))).await? {
            Reply::Done => {
                ledger.granted.remove(&id);
                ledger.released.insert(id);
            }
            other => ledger.contradictions.push(format!("release of {id} was answered {other:?}")),
        }
        return Ok(());
    }
    let wanted = duration + 600;
    let change = Change { duration_s: Some(wanted), ..Change::default() };
    let request = Request::Modify { id: request_id(dice), reservation: id, change };
    match caller.ask(&request).await? {
        Reply::Modified { .. } => {
            ledger.granted.insert(id, wanted);
        }
        Reply::Refused(_) | Reply::Failed(_) => {}
        other => ledger.contradictions.push(format!("{request:?} was answered {other:?}")),
    }
    Ok(())
}

/// Starts a daemon again: 0 is the GRC, then the sites.
fn start_again(grid: &mut Grid, which: u32) -> Result<()> {
    match which {
        0 => grid.restart_grc(),
        site => grid.start_crm(site - 1).map(drop),
    }
}

/// Fills the state's filesystem until it is full for everybody, then enlarges it. Daemons that
/// ended rather than go on are started while there is no room, and must go on when there is.
fn fill_up(grid: &mut Grid, kib: u32) -> Result<()> {
    let tight = Tight::at(&grid.state.path("state"));
    tight.fill()?;
    // Long enough for several calls to find it full.
    std::thread::sleep(FULL_TIME);
    for which in 1..=grid.state.plan.sites {
        if !grid.state.daemon(&format!("crm-{}", site_name(which - 1)))?.identity.alive() {
            start_again(grid, which)?;
        }
    }
    tight.enlarge(kib)?;
    if !grid.state.daemon("grc")?.identity.alive() {
        start_again(grid, 0)?;
    }
    for which in 1..=grid.state.plan.sites {
        if !grid.state.daemon(&format!("crm-{}", site_name(which - 1)))?.identity.alive() {
            start_again(grid, which)?;
        }
    }
    Ok(())
}

/// Kills and starts again, as often as wanted, spread over the calls. Returns the kills, and how
/// often the filesystem was full.
fn kill_all(grid: &mut Grid, storm: Storm, done: &dyn Fn() -> bool) -> Result<(u32, u32)> {
    let mut dice = Dice(storm.seed ^ 0x006b_696c_6c00);
    let sites = grid.state.plan.sites;
    let (mut kills, mut full) = (0, 0);
    while kills < storm.kills {
        if let Some(kib) = storm.tight_kib
            && kills / FULL_EVERY > full
        {
            full += 1;
            fill_up(grid, kib * (full + 1))?;
        }
        std::thread::sleep(Duration::from_millis(20 + dice.below(250)));
        let victim = dice.below(u64::from(sites) + 1) as u32;
        let name = if victim == 0 { "grc".to_owned() } else { format!("crm-{}", site_name(victim - 1)) };
        let identity = grid.state.daemon(&name)?.identity;
        identity.signal(Signal::SIGKILL);
        ensure!(wait_until(Duration::from_secs(10), || !identity.alive()), "{name} survives kill -9");
        kills += 1;
        std::thread::sleep(Duration::from_millis(dice.below(100)));
        start_again(grid, victim)?;
        if done() && kills >= storm.kills {
            break;
        }
    }
    Ok((kills, full))
}

/// The reservations that a daemon's store holds, as its own export prints them: with what is
/// held or granted.
fn stored(grid: &Grid, program: &str, config: &Path) -> Result<Vec<serde_json::Value>> {
    let mut command = Command::new(grid.state.path(&format!("lib/{program}")));
    command.args(["journal", "export", "--config"]).arg(config);
    let text = run(&mut command)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// Blows, waits for rest, and compares what was told with what is.
pub fn blow(grid: &mut Grid, storm: Storm) -> Result<Outcome> {
    let socket = grid.state.socket();
    let per_client = storm.calls / storm.clients;
    let clients: Vec<_> = (0..storm.clients)
        .map(|client| {
            let socket = socket.clone();
            std::thread::spawn(move || -> Result<(Ledger, u32)> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(call_all(socket, client, per_client, storm.seed))
            })
        })
        .collect();
    let done = || clients.iter().all(std::thread::JoinHandle::is_finished);
    let (kills, full) = kill_all(grid, storm, &done)?;
    let mut outcome = Outcome { kills, full, ..Outcome::default() };
    let mut ledger = Ledger::default();
    for client in clients {
        let (one, repeated) = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        for (id, duration) in one.granted {
            if ledger.granted.insert(id, duration).is_some() {
                outcome.contradictions.push(format!("{id} was given to two clients"));
            }
        }
        ledger.released.extend(one.released);
        outcome.refused += one.refused;
        outcome.repeated += repeated;
        outcome.contradictions.extend(one.contradictions);
    }
    outcome.granted = (ledger.granted.len() + ledger.released.len()) as u32;
    grid.wait_connected()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(compare(grid, &socket, &ledger, &mut outcome))?;
    Ok(outcome)
}

async fn views(caller: &mut Caller) -> Result<BTreeMap<ReservationId, ReservationView>> {
    match caller.ask(&Request::Reservations).await? {
        Reply::Reservations(views) => Ok(views.into_iter().map(|view| (view.id, view)).collect()),
        other => bail!("the listing was answered {other:?}"),
    }
}

fn is_over(view: &ReservationView) -> bool {
    matches!(view.state, ReservationState::Ended | ReservationState::Failed(_))
}

/// The ledger against the GRC's views and both kinds of stores, once all is at rest.
async fn compare(grid: &mut Grid, socket: &Path, ledger: &Ledger, outcome: &mut Outcome) -> Result<()> {
    let mut caller = Caller::new(socket);
    let end = Instant::now() + REST_TIME;
    loop {
        let moving = views(&mut caller)
            .await?
            .into_values()
            .any(|view| matches!(view.state, ReservationState::Holding | ReservationState::Ending));
        if !moving || Instant::now() >= end {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (&id, &duration) in &ledger.granted {
        match caller.ask(&Request::ShowReservation(Selector::Id(id))).await? {
            Reply::Reservation(view) if view.state == ReservationState::Booked => {
                if view.ends_s - view.starts_s != u64::from(duration) {
                    let is = view.ends_s - view.starts_s;
                    outcome.contradictions.push(format!("{id} was granted for {duration} s and has {is} s"));
                }
            }
            Reply::Reservation(view) => outcome.lost.push(format!("{id} is {}", view.state)),
            other => outcome.lost.push(format!("{id}: {other:?}")),
        }
    }
    for &id in &ledger.released {
        match caller.ask(&Request::ShowReservation(Selector::Id(id))).await? {
            Reply::Reservation(view) if is_over(&view) => {}
            Reply::Refused(Refusal::UnknownReservation { .. }) => {}
            other => outcome.orphans.push(format!("{id} was released: {other:?}")),
        }
    }
    for (id, view) in views(&mut caller).await? {
        if !is_over(&view) && !ledger.granted.contains_key(&id) {
            outcome.orphans.push(format!("{id} is {} and nobody was told of it", view.state));
        }
    }
    compare_sites(grid, ledger, outcome)?;
    release_all(grid, &mut caller, ledger, outcome).await
}

/// Every site holds exactly what was granted, once it has heard of everything.
fn compare_sites(grid: &mut Grid, ledger: &Ledger, outcome: &mut Outcome) -> Result<()> {
    let wanted: BTreeSet<ReservationId> = ledger.granted.keys().copied().collect();
    for number in 0..grid.state.plan.sites {
        let end = Instant::now() + REST_TIME;
        let found = loop {
            let found = held_at(grid, number)?;
            if found == wanted || Instant::now() >= end {
                break found;
            }
            grid.wait_connected()?;
            std::thread::sleep(SETTLE_TIME);
        };
        let site = site_name(number);
        outcome.lost.extend(wanted.difference(&found).map(|id| format!("site {site} has nothing of {id}")));
        outcome.orphans.extend(found.difference(&wanted).map(|id| format!("site {site} still has {id}")));
    }
    Ok(())
}

/// What one site's store holds of reservations, read while its CRM is down: killed once more, and
/// started again afterwards.
fn held_at(grid: &mut Grid, number: u32) -> Result<BTreeSet<ReservationId>> {
    let name = format!("crm-{}", site_name(number));
    let crm = grid.state.daemon(&name)?.identity;
    crm.signal(Signal::SIGKILL);
    ensure!(wait_until(Duration::from_secs(10), || !crm.alive()), "{name} survives kill -9");
    let config = crate::site::crm_config_path(&grid.state, number);
    let stored = stored(grid, "crm", &config);
    grid.start_crm(number)?;
    let ids = stored?.into_iter().filter_map(|record| {
        let id = record.get("record")?.get("key")?.get("Booking")?.as_u64()?;
        Some(ReservationId(id))
    });
    Ok(ids.collect())
}

/// After everything is released nothing is left anywhere, and the whole grid can be had again.
async fn release_all(
    grid: &mut Grid,
    caller: &mut Caller,
    ledger: &Ledger,
    outcome: &mut Outcome,
) -> Result<()> {
    for &id in ledger.granted.keys() {
        caller.ask(&Request::Release(Selector::Id(id))).await?;
    }
    let none = Ledger::default();
    compare_sites(grid, &none, outcome)?;
    grid.wait_connected()?;
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let nodes = grid.state.plan.nodes;
    let mut whole = ask(&mut Dice(1), now_s, 0, 0)?;
    whole.placement = Placement::Sites(vec![("a".parse()?, nodes), ("b".parse()?, nodes)]);
    whole.start = Start::Between { earliest_s: now_s + AHEAD_S, latest_s: now_s + AHEAD_S };
    whole.duration_s = 48 * 1800 + 3 * 3600;
    whole.bandwidth = Bandwidth::Between(crate::links::LINK_KBIT);
    let request = Request::Reserve { id: RequestId([9; 16]), ask: whole };
    match caller.ask(&request).await? {
        Reply::Reserved(id) => drop(caller.ask(&Request::Release(Selector::Id(id))).await?),
        other => outcome.orphans.push(format!("the whole link is not free afterwards: {other:?}")),
    }
    Ok(())
}
