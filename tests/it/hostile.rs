//! Strangers who speak the protocol: right frames, right TLS, wrong business.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gridpilot_tests::netns::{self, GRC_ADDRESS, machine_address, site_name};
use gridpilot_tests::process::end_all;
use gridpilot_tests::site::{CRM_PORT, GRC_PORT, crm_config_path};
use protocol::codec;
use protocol::connection::{self, Connection, read};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::identity::{Identity, Pin};
use protocol::node::{Arrive, First, Invocation, Reply, Token};
use protocol::refusal::Refusal;
use protocol::site::{FromSite, Offer, ToSite};
use protocol::tls;

use crate::common::{TestGrid, plan};
use crate::death::at_site;

/// No answer takes longer.
const ANSWER_TIME: Duration = Duration::from_secs(30);

type Talk = Connection<tokio_rustls::TlsStream<tokio::net::TcpStream>>;

/// Speaks to a port from inside a machine, as somebody whom nobody knows.
fn talk<T: Send>(
    world: &TestGrid,
    machine: &str,
    address: &str,
    pin: Pin,
    role: Role,
    say: impl AsyncFnOnce(Talk) -> Result<T> + Send,
) -> Result<T> {
    let pid = world.grid.state.machine(machine)?.holder.pid;
    let address: SocketAddr = address.parse()?;
    netns::inside(pid, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let stranger = Identity::generate("stranger")?;
            let connector = tls::connector(&stranger, pin)?;
            let stream = tls::dial(&connector, address).await?;
            let welcome = [Role::Grc, Role::Crm, Role::Client, Role::Agent];
            let greeted = connection::greet(stream, role, &welcome).await?;
            tokio::time::timeout(ANSWER_TIME, say(greeted)).await.context("no answer")?
        })
    })?
}

/// The pin that a site's own node policy names.
fn pin_of(world: &TestGrid, site: u32) -> Pin {
    let policy = format!("etc/{}1/node.policy", site_name(site));
    let policy = std::fs::read_to_string(world.grid.state.path(&policy)).unwrap();
    let line = policy.lines().find_map(|line| line.strip_prefix("crm_pin = ")).unwrap();
    line.trim().parse().unwrap()
}

fn crm_pin(world: &TestGrid) -> Pin {
    pin_of(world, 0)
}

fn grc_pin(world: &TestGrid) -> Pin {
    Identity::load(&world.grid.state.path("state/grc")).unwrap().pin()
}

fn crm_port() -> String {
    format!("{}:{CRM_PORT}", machine_address(0, 0))
}

fn grc_port() -> String {
    format!("{GRC_ADDRESS}:{GRC_PORT}")
}

/// Arrives at a site's CRM as a pilot with this token.
fn arrive(world: &TestGrid, site: u32, token: Token) -> Result<Reply> {
    let node = format!("{}1", site_name(site));
    let port = format!("{}:{CRM_PORT}", machine_address(site, 0));
    talk(world, &node, &port, pin_of(world, site), Role::Agent, async |mut peer: Talk| {
        let arrive = First::Arrive(Arrive {
            token,
            nonce: [7; 16],
            node: node.parse()?,
            uid: 1000,
            boot_id: [0; 16],
            version: "stranger".into(),
        });
        peer.outbox.post(Kind::Request, 1, &arrive)?;
        Ok(read(&peer.inbox.next().await?)?)
    })
}

/// Sends one message as a site and returns the answer.
fn as_site(world: &TestGrid, message: FromSite) -> Result<ToSite> {
    talk(world, "a0", &grc_port(), grc_pin(world), Role::Crm, async move |mut peer: Talk| {
        peer.outbox.post(Kind::Notice, 0, &message)?;
        Ok(read(&peer.inbox.next().await?)?)
    })
}

/// Refused in words, or hung up on: both are fine, being let in is not.
fn assert_turned_away<T: std::fmt::Debug>(answer: &Result<T>, is_refusal: impl Fn(&T) -> bool) {
    if let Ok(answer) = answer {
        assert!(is_refusal(answer), "{answer:?}");
    }
}

#[test]
fn a_pilot_with_a_made_up_used_or_foreign_token_is_turned_away() {
    let mut world = TestGrid::up(plan(2, 1));
    let place = world.workplace();
    // What a pilot is started with is kept aside, as a dishonest user could for his own pilots.
    let launcher = world.grid.state.path("lib/launcher").display().to_string();
    let spy = world.grid.state.path("lib/spying-launcher");
    let kept = place.path.join("invocation").display().to_string();
    std::fs::write(&spy, format!("#!/bin/sh\numask 077\ncat >{kept}\nexec {launcher} \"$@\" <{kept}\n"))
        .unwrap();
    std::fs::set_permissions(&spy, std::fs::Permissions::from_mode(0o755)).unwrap();
    edit_and_restart_crm(&mut world, &launcher, &spy);
    let reservation = world.reserve("a=1");
    let bytes = std::fs::read(Path::new(&kept)).unwrap();
    let invocation: Invocation = codec::decode(&bytes).unwrap();
    let refused = |reply: &Reply| matches!(reply, Reply::Refused(Refusal::BadToken { .. }));
    for token in [invocation.token, Token([0; 32]), Token([0xff; 32])] {
        assert_turned_away(&arrive(&world, 0, token), refused);
    }
    assert_turned_away(&arrive(&world, 1, invocation.token), refused);
    assert_eq!(world.on_head(&reservation, "hostname").out, "a-0\n", "the rightful pilot goes on");
    world.release(&reservation);
    assert_turned_away(&arrive(&world, 0, invocation.token), refused);
    drop(place);
    world.expect_nothing_left();
}

fn edit_and_restart_crm(world: &mut TestGrid, launcher: &str, spy: &Path) {
    let config = crm_config_path(&world.grid.state, 0);
    let text = std::fs::read_to_string(&config).unwrap();
    let from = format!("launcher = {launcher:?}");
    let to = format!("launcher = {:?}", spy.display().to_string());
    let changed = text.replace(&from, &to);
    assert_ne!(changed, text);
    std::fs::write(&config, changed).unwrap();
    let crm = world.grid.state.daemon("crm-a").unwrap().identity;
    end_all(&[crm], Duration::from_secs(20));
    world.grid.start_crm(0).unwrap();
    world.grid.wait_connected().unwrap();
    let residue = gridpilot_tests::residue::Residue::before(&world.grid);
    world.residue = Some(residue.unwrap());
}

#[test]
fn a_stranger_cannot_speak_as_a_site() {
    let world = TestGrid::up(plan(1, 1));
    let refused = |answer: &ToSite| matches!(answer, ToSite::Refused(_));
    let offer = Offer {
        batch_system: "strange".into(),
        ranges: vec!["10.71.128.0/17".parse().unwrap()],
        reserved: vec![],
        nodes_usable: 100,
        nodes_free: 100,
        layers: vec![100],
        lead_s: 0,
        unusable: vec![],
        environments: vec![],
        queue: "".into(),
        pilots_s: 60,
        nodes_max: None,
        lasts_s_max: None,
        paused: None,
    };
    let publish = as_site(&world, FromSite::Publish { site: "a".parse().unwrap(), offer });
    assert_turned_away(&publish, refused);
    let register = as_site(&world, FromSite::Register { site: "a".parse().unwrap(), secret: [9; 32] });
    assert_turned_away(&register, refused);
    let sites = world.ask(&["sites"]).to_string();
    assert!(sites.contains("\"nodes_usable\":1"), "{sites}");
    assert_eq!(world.submit("a=1", &["true"]).code, 0);
    world.expect_nothing_left();
}

#[test]
fn who_has_no_business_at_a_port_is_hung_up_on() {
    let world = TestGrid::up(plan(1, 1));
    for (machine, port, pin, role) in [
        ("a0", crm_port(), crm_pin(&world), Role::Client),
        ("a0", crm_port(), crm_pin(&world), Role::Crm),
        ("a0", grc_port(), grc_pin(&world), Role::Agent),
        ("a0", grc_port(), grc_pin(&world), Role::Client),
    ] {
        let answer = talk(&world, machine, &port, pin, role, async |mut peer: Talk| {
            let frame = peer.inbox.next().await?;
            bail!("answered {frame:?}") as Result<()>
        });
        let text = format!("{:#}", answer.unwrap_err());
        assert!(!text.contains("answered") && !text.contains("no answer"), "{port} {role:?}: {text}");
    }
    let wrong_pin = talk(&world, "a0", &crm_port(), grc_pin(&world), Role::Agent, async |_: Talk| Ok(()));
    assert!(wrong_pin.is_err(), "another server than the pinned one was accepted");
    assert_eq!(world.submit("a=1", &["true"]).code, 0);
    world.expect_nothing_left();
}

/// Greeted and let in so far, and then nonsense: this connection ends, nothing else does.
#[test]
fn nonsense_behind_a_proper_greeting_ends_that_connection_only() {
    let world = TestGrid::up(plan(1, 1));
    let ports = [(crm_port(), crm_pin(&world), Role::Agent), (grc_port(), grc_pin(&world), Role::Crm)];
    for (port, pin, role) in ports {
        for kind in [Kind::Request, Kind::Reply, Kind::Notice, Kind::Hello] {
            let answer = talk(&world, "a0", &port, pin, role, async move |mut peer: Talk| {
                peer.outbox.post(kind, 3, &vec![0xffu8; 5000])?;
                while peer.inbox.next().await.is_ok() {}
                bail!("hung up") as Result<()>
            });
            let text = format!("{:#}", answer.unwrap_err());
            assert!(!text.contains("no answer"), "{port} {kind:?}: the connection stays open");
        }
    }
    for daemon in &world.grid.state.daemons {
        assert!(daemon.identity.alive(), "{} died of it{}", daemon.name, world.logs());
    }
    assert_eq!(world.submit("a=1", &["true"]).code, 0);
    world.expect_nothing_left();
}

/// The agents of a node share an account, which other services may share: keys and the monitor's
/// socket are in its memory.
#[test]
fn a_running_agent_is_out_of_reach_of_others_of_its_account() {
    let mut world = TestGrid::up(plan(2, 1));
    let reservation = world.reserve("a=1");
    let (_, agent) = at_site(&world.grid, "a", "node-agent").unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid)).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next()).unwrap();
    assert_ne!(uid, "0");
    let as_it = |script: &str| {
        let identity = [format!("--reuid={uid}"), "--regid=65534".into(), "--clear-groups".into()];
        let words = ["--inh-caps=-all", "--bounding-set=-all", "sh", "-c", script];
        let output = Command::new("setpriv").args(identity).args(words).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    assert!(as_it("cat /proc/self/environ").0, "the question itself can be answered");
    for file in ["environ", "mem", "maps", "fd/3"] {
        let read = as_it(&format!("head -c1 /proc/{}/{file}", agent.pid));
        assert!(!read.0 && read.1.contains("denied"), "{file}: {read:?}");
    }
    let traced = as_it(&format!("timeout 5 strace -p {}", agent.pid));
    assert!(traced.1.contains("not permitted"), "{traced:?}");
    world.release(&reservation);
    world.expect_nothing_left();
}
