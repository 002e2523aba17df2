//! Logins that take long: agents that ask their owner, and a GRC that does not wait for ever.

use protocol::names::Text;
use tokio::net::UnixListener;

use super::*;
use crate::login::wire::put_string;

fn key(number: u8) -> Key {
    let mut bytes = Vec::new();
    put_string(&mut bytes, b"ssh-ed25519");
    put_string(&mut bytes, &[number; 32]);
    Key::from_bytes(&bytes).unwrap()
}

/// Keys of an agent that takes every question and answers none.
async fn silent_agent(keys: u8) -> (tempfile::TempDir, UnixListener, Signers) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent");
    let listener = UnixListener::bind(&socket).unwrap();
    let agent = Some(Agent::connect(&socket).await.unwrap());
    let list = (0..keys).map(|number| Signer::Agent(key(number))).collect();
    (directory, listener, Signers { agent, list, unusable: Vec::new() })
}

/// Both ends of a connection that is greeted and challenged.
async fn greeted() -> (Connection<Line>, Connection<Line>) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (ours, theirs): (Line, Line) = (Box::new(ours), Box::new(theirs));
    let (client, grc) =
        tokio::join!(greet(ours, Role::Client, &[Role::Grc]), greet(theirs, Role::Grc, &[Role::Client]));
    (client.unwrap(), grc.unwrap())
}

fn remote() -> Remote {
    Remote {
        address: "grc:1".to_owned(),
        pin: Pin([7; 32]),
        user: "ada".parse().unwrap(),
        key: None,
        public_key: None,
    }
}

fn too_late() -> Refusal {
    let state: Text = "it took long".into();
    Refusal::WrongState { what: "this login".into(), state }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_signs_with_none_of_many_keys_takes_less_time_than_the_grc_waits() {
    let (_directory, _listener, signers) = silent_agent(5).await;
    let (mut client, _grc) = greeted().await;
    let begun = Instant::now();
    let error = log_in(&mut client, &remote(), signers, b"data").await.unwrap_err();
    assert!(begun.elapsed() < LOGIN_TIME, "{:?}", begun.elapsed());
    let CliError::NotLetIn { tried, unusable, .. } = error else { panic!("{error:?}") };
    assert_eq!((tried.len(), unusable), (0, vec!["the ssh agent did not answer within 40 s".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn who_is_sent_away_while_the_agent_asks_its_owner_hears_why_at_once() {
    let (_directory, _listener, signers) = silent_agent(1).await;
    let (mut client, grc) = greeted().await;
    grc.outbox.post(Kind::Notice, 0, &ToStranger::Refused(too_late())).unwrap();
    drop(grc);
    let begun = Instant::now();
    let error = log_in(&mut client, &remote(), signers, b"data").await.unwrap_err();
    assert!(begun.elapsed() < SIGNING_TIME);
    assert!(error.sentence().contains(&too_late().to_string()), "{}", error.sentence());
    assert_eq!((error.kind(), error.sentence().lines().count()), ("unreachable", 2));
}

#[tokio::test(start_paused = true)]
async fn who_is_sent_away_while_he_shows_a_key_hears_why() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent");
    let listener = UnixListener::bind(&socket).unwrap();
    let agent = Some(Agent::connect(&socket).await.unwrap());
    let signers = Signers { agent, list: vec![Signer::Agent(key(1))], unusable: Vec::new() };
    let (mut client, mut grc) = greeted().await;
    let answers = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut asked, _) = listener.accept().await.unwrap();
        let length = asked.read_u32().await.unwrap() as usize;
        asked.read_exact(&mut vec![0; length]).await.unwrap();
        let mut signature = vec![14];
        put_string(&mut signature, b"signature");
        let mut answer = Vec::new();
        put_string(&mut answer, &signature);
        asked.write_all(&answer).await.unwrap();
        let login = grc.inbox.next().await.unwrap();
        connection::read::<FromStranger>(&login).unwrap();
        grc.outbox.post(Kind::Notice, 0, &ToStranger::Refused(too_late())).unwrap();
        drop(grc);
    };
    let remote = remote();
    let (error, ()) = tokio::join!(log_in(&mut client, &remote, signers, b"data"), answers);
    assert_eq!(error.unwrap_err().kind(), "unreachable");
}
