//! `crm serve` over real TLS on loopback, between a GRC and agents that the test plays.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crm::config::Config;
use crm::grc_client::{self, Grc, GrcError};
use crm::state::State;
use grant::Grant;
use protocol::codec;
use protocol::connection::{Connection, ConnectionError, greet, read};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::identity::{Identity, Pin};
use protocol::ids::{Epoch, JobId, ReservationId, Version};
use protocol::job::{Command, ExitStatus, Hits, Stream, Target};
use protocol::keys::{KeyRing, Member, MemberKeys, PublicKey};
use protocol::names::EnvironmentName;
use protocol::node::{Arrive, First, Invocation, Notice, Reply, Request, Token};
use protocol::refusal::Refusal;
use protocol::reservation::{AddressBlock, Limits};
use protocol::site::{FromSite, Part, Remaining, ToSite};
use protocol::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsStream;

type Peer = Connection<TlsStream<TcpStream>>;

const R: ReservationId = ReservationId(5);
const E: Epoch = Epoch(1);
const V: Version = Version(3);
const WINDOW: Remaining = Remaining { starts_in_ms: 0, ends_in_ms: 600_000 };
const J: JobId = JobId(8);

/// A site whose pilots only write down their invocation, and the GRC that it dialled.
struct Grid {
    dir: tempfile::TempDir,
    crm_pin: Pin,
    grc: Peer,
    listener: TcpListener,
    identity: Identity,
    config: Config,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Grid {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn config(dir: &Path, grc: std::net::SocketAddr) -> Config {
    let dir = dir.display();
    let text = format!(
        r#"
site = "a"
state = "{dir}/state"
grc = "{grc}"
listen = "127.0.0.1:0"
launcher = "{dir}/launcher"
mapfile = "{dir}/map"
ranges = ["10.71.128.0/24"]
prefix_len = 16
[times]
pilots_s = 6
lease_s = 5
[batch]
system = "embedded"
[[batch.node]]
name = "a1"
start = ["env"]
"#
    );
    let path = format!("{dir}/crm.toml");
    fs::write(&path, text).unwrap();
    Config::load(Path::new(&path)).unwrap()
}

async fn accept(listener: &TcpListener, identity: &Identity) -> (Peer, Pin) {
    let (stream, _) = listener.accept().await.unwrap();
    let (stream, pin) = tls::accept(&tls::acceptor(identity).unwrap(), stream).await.unwrap();
    (greet(stream, Role::Grc, &[Role::Crm]).await.unwrap(), pin)
}

fn serve(config: &Config) -> tokio::task::JoinHandle<()> {
    let config = config.clone();
    tokio::spawn(async move { crm::serve::serve(&config).await.unwrap() })
}

impl Grid {
    async fn up() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let launcher = dir.path().join("launcher");
        let body = "#!/bin/sh
            d=$(dirname $0)
            echo $$ > $d/pid
            cat > $d/invocation.part
            mv $d/invocation.part $d/invocation
            exec sleep 60\n";
        fs::write(&launcher, body).unwrap();
        fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)).unwrap();
        let sweep = dir.path().join("node-manager");
        fs::write(&sweep, "#!/bin/sh\nexit 0\n").unwrap();
        fs::set_permissions(&sweep, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("map"), "\"alice\" nobody\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = config(dir.path(), listener.local_addr().unwrap());
        let identity = Identity::generate("grc").unwrap();
        let state = State::open(&config.state, "a").unwrap();
        state.set_grc_pin(identity.pin()).unwrap();
        let serving = serve(&config);
        let (grc, crm_pin) = accept(&listener, &identity).await;
        assert_eq!(crm_pin, state.identity.pin());
        let mut grid = Self { dir, crm_pin, grc, listener, identity, config, serving };
        assert!(matches!(grid.hear().await, FromSite::Publish { offer, .. } if offer.nodes_free == 1));
        grid.tell(ToSite::Welcome);
        grid
    }

    /// The CRM dies, and another one is started.
    async fn restart(&mut self) {
        self.serving.abort();
        while !self.serving.is_finished() {
            tokio::task::yield_now().await;
        }
        self.serving = serve(&self.config);
        self.grc = accept(&self.listener, &self.identity).await.0;
        assert!(matches!(self.hear().await, FromSite::Publish { .. }));
        self.tell(ToSite::Welcome);
    }

    fn tell(&self, message: ToSite) {
        self.grc.outbox.post(Kind::Notice, 0, &message).unwrap();
    }

    /// The next message that says more than that the site lives.
    async fn hear(&mut self) -> FromSite {
        loop {
            let frame = self.grc.inbox.next().await.unwrap();
            assert_eq!(frame.kind, Kind::Notice);
            let message: FromSite = read(&frame).unwrap();
            message.check().unwrap();
            if message != FromSite::Beat {
                return message;
            }
        }
    }

    /// The next message that is neither an offer nor progress.
    async fn hear_news(&mut self) -> FromSite {
        loop {
            match self.hear().await {
                FromSite::Publish { .. } | FromSite::Progress { .. } | FromSite::Waits { .. } => {}
                news => return news,
            }
        }
    }

    /// Holds and commits one member; the invocation of its pilot.
    async fn start(&mut self) -> Invocation {
        let part = Part {
            user: "alice".parse().unwrap(),
            members: 1,
            slots: 2,
            limits: Limits::default(),
            window: WINDOW,
            layer: 0,
            environment: EnvironmentName::host(),
            addresses: vec![AddressBlock { first: [10, 71, 128, 9].into(), count: 1 }],
            peers: vec![],
        };
        self.tell(ToSite::Hold { reservation: R, version: V, part });
        assert_eq!(self.hear_news().await, FromSite::Held { reservation: R, version: V });
        self.tell(ToSite::Commit { reservation: R, version: V, window: WINDOW });
        assert_eq!(self.hear_news().await, FromSite::Committed { reservation: R, version: V });
        self.invocation().await
    }

    /// What the next pilot is given.
    async fn invocation(&self) -> Invocation {
        loop {
            let path = self.dir.path().join("invocation");
            match fs::read(&path) {
                Ok(bytes) => {
                    fs::remove_file(&path).unwrap();
                    return codec::decode(&bytes).unwrap();
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn dial(&self, invocation: &Invocation) -> Peer {
        let identity = Identity::generate("agent").unwrap();
        let connector = tls::connector(&identity, self.crm_pin).unwrap();
        let stream = tls::dial(&connector, invocation.crm).await.unwrap();
        greet(stream, Role::Agent, &[Role::Crm]).await.unwrap()
    }

    /// A new agent arrives with this token, as `nobody` (or another uid).
    async fn arrive(&self, invocation: &Invocation, token: Token, uid: u32) -> (Peer, Reply) {
        let mut agent = self.dial(invocation).await;
        let (nonce, boot_id) = ([4; 16], [0; 16]);
        let node = "a1".parse().unwrap();
        let arrive = First::Arrive(Arrive { token, nonce, node, uid, boot_id, version: "test".into() });
        agent.outbox.post(Kind::Request, 77, &arrive).unwrap();
        let frame = agent.inbox.next().await.unwrap();
        assert_eq!((frame.kind, frame.correlation), (Kind::Reply, 77));
        let reply = read(&frame).unwrap();
        (agent, reply)
    }

    async fn end(&mut self) {
        self.tell(ToSite::End { reservation: R });
        self.is_over().await;
    }

    /// The site says that all is gone, and it is: of the pilot no process is left.
    async fn is_over(&mut self) {
        let ended = self.hear_news().await;
        assert_eq!(ended, FromSite::Ended { reservation: R, dirty: vec![] });
        let pid = fs::read_to_string(self.dir.path().join("pid")).unwrap();
        while Path::new(&format!("/proc/{}", pid.trim())).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn nobody() -> u32 {
    nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw()
}

async fn asked(agent: &mut Peer) -> (u64, Request) {
    loop {
        let frame = agent.inbox.next().await.unwrap();
        match read(&frame).unwrap() {
            Request::Beat => {}
            request => return (frame.correlation, request),
        }
    }
}

fn answer(agent: &Peer, correlation: u64, reply: &Reply) {
    agent.outbox.post(Kind::Reply, correlation, reply).unwrap();
}

#[tokio::test]
async fn one_member_lives_from_hold_to_end() {
    let mut grid = Grid::up().await;
    let invocation = grid.start().await;
    let (mut agent, reply) = grid.arrive(&invocation, invocation.token, nobody()).await;
    assert_eq!(reply, Reply::Done);

    // SETUP and GET_KEYS come back to back, before either is answered.
    let (setup_id, setup) = asked(&mut agent).await;
    let (keys_id, get_keys) = asked(&mut agent).await;
    assert_eq!(get_keys, Request::GetKeys);
    let Request::Setup(setup) = setup else { panic!("{setup:?}") };
    setup.check().unwrap();
    let grant = Grant::decode(&setup.grant.clone().try_into().unwrap()).unwrap();
    assert_eq!((grant.nonce, grant.uid, grant.user.as_str()), ([4; 16], nobody(), "alice"));
    assert_eq!((grant.address, grant.host_name()), (setup.address, "a-0".to_owned()));
    assert!((600..=615).contains(&grant.lifetime_s), "{}", grant.lifetime_s);
    answer(&agent, setup_id, &Reply::Done);
    let keys = MemberKeys { host: PublicKey([1; 32]), user: PublicKey([2; 32]) };
    answer(&agent, keys_id, &Reply::Keys(keys));

    let FromSite::SiteReady { members, .. } = grid.hear_news().await else { panic!("not ready") };
    assert_eq!((members[0].node.as_str(), members[0].keys), ("a1", keys));
    let member = Member { host: setup.host, address: setup.address, slots: 2, keys };
    let ring = KeyRing { user: "alice".parse().unwrap(), members: vec![member] };
    grid.tell(ToSite::Join { reservation: R, epoch: E, ring: ring.clone() });
    let (set_keys_id, set_keys) = asked(&mut agent).await;
    let (run_id, run) = asked(&mut agent).await;
    assert_eq!((set_keys, run), (Request::SetKeys(ring), Request::Run));
    answer(&agent, set_keys_id, &Reply::Done);
    answer(&agent, run_id, &Reply::Done);
    assert_eq!(grid.hear_news().await, FromSite::Joined { reservation: R, epoch: E });

    let command = Command {
        argv: vec![b"true".to_vec()],
        variables: vec![],
        directories: vec![],
        directory_required: false,
    };
    let exec =
        ToSite::Exec { reservation: R, epoch: E, job: J, target: Target::Head, command: command.clone() };
    grid.tell(exec);
    let (exec_id, exec) = asked(&mut agent).await;
    assert_eq!(exec, Request::Exec { job: J, command });
    answer(&agent, exec_id, &Reply::Done);
    let stream = Stream::Stdout;
    for (offset, text) in [(0, "hel"), (3, "lo")] {
        let output = Notice::Output { job: J, stream, offset, bytes: text.into() };
        agent.outbox.post(Kind::Notice, 0, &output).unwrap();
    }
    let exited = Notice::Exited { job: J, status: ExitStatus::Code(42), hits: Hits::default() };
    agent.outbox.post(Kind::Notice, 0, &exited).unwrap();
    let mut heard = Vec::new();
    loop {
        match grid.hear_news().await {
            // Where a stream ended, in front of the end.
            FromSite::Output { bytes, .. } if bytes.is_empty() => {}
            FromSite::Output { offset, bytes, .. } => {
                assert_eq!(offset, heard.len() as u64);
                heard.extend_from_slice(&bytes);
                let upto = heard.len() as u64;
                grid.tell(ToSite::OutputSaved { reservation: R, epoch: E, job: J, member: 0, stream, upto });
            }
            FromSite::Exited { status, .. } => break assert_eq!(status, ExitStatus::Code(42)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, b"hello");

    grid.tell(ToSite::End { reservation: R });
    let shutdown_id = loop {
        match asked(&mut agent).await {
            (id, Request::End { .. }) => break id,
            (0, Request::OutputSaved { .. } | Request::ExitSaved { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    answer(&agent, shutdown_id, &Reply::Done);
    agent.outbox.post(Kind::Notice, 0, &Notice::Gone { dirty: None, cause: None }).unwrap();
    grid.is_over().await;
    assert!(matches!(agent.inbox.next().await, Err(ConnectionError::Closed)), "the CRM says goodbye");
}

#[tokio::test]
async fn the_next_crm_keeps_what_was_granted_and_ends_the_pilots_of_the_one_before() {
    let mut grid = Grid::up().await;
    let first = grid.start().await;
    let pid = fs::read_to_string(grid.dir.path().join("pid")).unwrap();
    grid.restart().await;
    assert_eq!(grid.hear_news().await, FromSite::Committed { reservation: R, version: V });
    let failed = grid.hear_news().await;
    assert!(matches!(&failed, FromSite::Failed { epoch: E, .. }), "{failed:?}");
    let epoch = Epoch(2);
    grid.tell(ToSite::Start { reservation: R, epoch, window: WINDOW });
    let second = grid.invocation().await;
    assert_ne!(pid, fs::read_to_string(grid.dir.path().join("pid")).unwrap());
    assert!(!Path::new(&format!("/proc/{}", pid.trim())).exists(), "the older pilot is there still");
    let (_, reply) = grid.arrive(&second, first.token, nobody()).await;
    assert!(matches!(reply, Reply::Refused(Refusal::BadToken { .. })), "of before: {reply:?}");
    let (agent, reply) = grid.arrive(&second, second.token, nobody()).await;
    assert_eq!(reply, Reply::Done);
    drop(agent);
    assert!(matches!(grid.hear_news().await, FromSite::Failed { epoch: Epoch(2), .. }));
    grid.end().await;
    assert_eq!(fs::read_dir(grid.dir.path().join("state/pilots")).unwrap().count(), 0);
    // Nothing is left in the journal, and a third CRM has nothing to say.
    grid.restart().await;
    grid.tell(ToSite::Commit { reservation: R, version: V, window: WINDOW });
    assert_eq!(grid.hear_news().await, FromSite::Lost { reservation: R, version: V });
}

#[tokio::test]
async fn a_token_that_is_used_foreign_or_for_another_account_is_turned_away() {
    let mut grid = Grid::up().await;
    let invocation = grid.start().await;
    let is_bad_token = |reply: &Reply| matches!(reply, Reply::Refused(Refusal::BadToken { .. }));
    let (mut foreign, reply) = grid.arrive(&invocation, Token([9; 32]), nobody()).await;
    assert!(is_bad_token(&reply), "{reply:?}");
    assert!(foreign.inbox.next().await.is_err(), "a refused agent is disconnected");
    let (agent, reply) = grid.arrive(&invocation, invocation.token, nobody()).await;
    assert_eq!(reply, Reply::Done);
    let (mut second, reply) = grid.arrive(&invocation, invocation.token, nobody()).await;
    assert!(is_bad_token(&reply), "{reply:?}");
    assert!(second.inbox.next().await.is_err());
    drop(agent);
    let failed = grid.hear_news().await;
    assert!(matches!(failed, FromSite::Failed { .. }), "{failed:?}");
    grid.end().await;
}

#[tokio::test]
async fn a_token_in_the_hands_of_another_account_is_void_from_then_on() {
    let mut grid = Grid::up().await;
    let invocation = grid.start().await;
    let (_, reply) = grid.arrive(&invocation, invocation.token, nobody() - 1).await;
    assert!(matches!(reply, Reply::Refused(Refusal::BadToken { .. })), "{reply:?}");
    let (_, reply) = grid.arrive(&invocation, invocation.token, nobody()).await;
    assert!(matches!(reply, Reply::Refused(Refusal::BadToken { .. })), "{reply:?}");
    grid.end().await;
}

#[tokio::test]
async fn garbage_at_the_pilots_port_is_cut_off_and_hurts_nobody() {
    let mut grid = Grid::up().await;
    let invocation = grid.start().await;
    let mut plain = TcpStream::connect(invocation.crm).await.unwrap();
    plain.write_all(&[0x55; 512]).await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;

    // A whole frame that is larger than any stranger may send, and one that is no request.
    let large = grid.dial(&invocation).await;
    large.outbox.post(Kind::Request, 1, &vec![7u8; 1 << 20]).unwrap();
    let notice = grid.dial(&invocation).await;
    notice.outbox.post(Kind::Notice, 0, &Reply::Done).unwrap();
    let nonsense = grid.dial(&invocation).await;
    nonsense.outbox.post(Kind::Request, 1, &vec![255u8; 100]).unwrap();
    for mut peer in [large, notice, nonsense] {
        assert!(peer.inbox.next().await.is_err());
    }
    // Somebody who is no agent.
    let identity = Identity::generate("client").unwrap();
    let connector = tls::connector(&identity, grid.crm_pin).unwrap();
    let stream = tls::dial(&connector, invocation.crm).await.unwrap();
    if let Ok(mut client) = greet(stream, Role::Client, &[Role::Crm]).await {
        assert!(client.inbox.next().await.is_err());
    }

    let (agent, reply) = grid.arrive(&invocation, invocation.token, nobody()).await;
    assert_eq!(reply, Reply::Done);
    drop(agent);
    assert!(matches!(grid.hear_news().await, FromSite::Failed { .. }));
    grid.end().await;
}

#[tokio::test]
async fn a_ticket_is_welcomed_or_refused_with_the_grcs_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let identity = Identity::generate("grc").unwrap();
    let own = Identity::generate("crm").unwrap();
    let grc = |pin| Grc {
        site: "a".parse().unwrap(),
        address: listener.local_addr().unwrap(),
        connector: tls::connector(&own, pin).unwrap(),
        accounts: crm::mapfile::Accounts::default(),
    };
    let refusal = Refusal::BadTicket { why: "it was used".into() };
    for verdict in [ToSite::Welcome, ToSite::Refused(refusal)] {
        let serve = async {
            let (mut crm, pin) = accept(&listener, &identity).await;
            assert_eq!(pin, own.pin());
            let register: FromSite = read(&crm.inbox.next().await.unwrap()).unwrap();
            assert_eq!(register, FromSite::Register { site: "a".parse().unwrap(), secret: [3; 32] });
            crm.outbox.post(Kind::Notice, 0, &verdict).unwrap();
            crm
        };
        let grc = grc(identity.pin());
        let (_crm, registered) = tokio::join!(serve, grc_client::register(&grc, [3; 32]));
        match (&verdict, registered) {
            (ToSite::Welcome, Ok(())) => {}
            (ToSite::Refused(given), Err(GrcError::Refused(told))) => assert_eq!(*given, told),
            (verdict, registered) => panic!("{verdict:?}: {registered:?}"),
        }
    }
    // Another GRC than the ticket's gets nothing.
    let grc = grc(Pin([0; 32]));
    let stranger = async {
        let (stream, _) = listener.accept().await.unwrap();
        tls::accept(&tls::acceptor(&identity).unwrap(), stream).await.err()
    };
    let (_, registered) = tokio::join!(stranger, grc_client::register(&grc, [3; 32]));
    assert!(matches!(registered, Err(GrcError::Tls(_))), "{registered:?}");
}
