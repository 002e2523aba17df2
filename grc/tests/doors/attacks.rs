//! The users' port under attack: signatures that belong somewhere else, and bytes that belong
//! nowhere.

use std::io::{Read, Write};
use std::process::Command;

use grc::login::key::{Key, signed_data};
use grc::login::wire::put_string;
use grc::strangers::STRANGERS_PER_ADDRESS_MAX;
use protocol::client::{Reply, Request};
use protocol::connection::{self, ConnectionError};
use protocol::frame::Kind;
use protocol::hello::Role;
use protocol::identity::Identity;
use protocol::limits::LOGIN_BYTES_MAX;
use protocol::login::{ATTEMPTS_MAX, FromStranger, LOGIN_TIME, ToStranger};
use protocol::refusal::Refusal;
use protocol::tls;
use ssh_key::{HashAlg, SshSig};

use crate::keys::{Keys, Stranger, line, user};
use crate::peers::*;

fn refused(answer: ToStranger) -> bool {
    matches!(answer, ToStranger::Refused(Refusal::LoginRefused { .. }))
}

/// Somebody in between has the victim dial him (as a GRC that the victim trusts as well), dials the
/// real one, passes the real challenge on and brings the victim's signature back.
#[tokio::test]
async fn a_signature_relayed_over_another_tls_session_lets_nobody_in() {
    let keys = Keys::new();
    let ada = keys.ed25519("ada");
    let grc = Grc::start_with(&line("ada", &ada.path), |_| ()).await;
    let mut relay = Stranger::at(&grc).await;
    // The victim's side: it signs for its own session, whatever challenge it is given there.
    let mut victim = Stranger::at(&grc).await;
    let own = victim.challenge;
    victim.challenge = relay.challenge;
    let data = signed_data(&victim.message(&grc, "ada")).unwrap();
    let signature = ada.sign(&data).unwrap();
    assert!(refused(relay.show("ada", ada.key.as_bytes(), signature.clone()).await.unwrap()));
    // Nor in its own session: there another challenge was given.
    assert!(refused(victim.show("ada", ada.key.as_bytes(), signature).await.unwrap()));
    victim.challenge = own;
    assert_eq!(victim.log_in(&grc, "ada", &ada).await, ToStranger::Welcome);
    grc.stop().await;
}

/// A GRC that the victim trusts, another than the one that it is relayed to: even with the same
/// session secrets the signature would name the wrong GRC.
#[tokio::test]
async fn a_signature_for_one_grc_is_none_for_another() {
    let keys = Keys::new();
    let ada = keys.ed25519("ada");
    let users = line("ada", &ada.path);
    let (grc, other) = (Grc::start_with(&users, |_| ()).await, Grc::start_with(&users, |_| ()).await);
    let mut stranger = Stranger::at(&grc).await;
    let data = signed_data(&stranger.message(&other, "ada")).unwrap();
    assert!(refused(stranger.show("ada", ada.key.as_bytes(), ada.sign(&data).unwrap()).await.unwrap()));
    grc.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_signature_is_good_for_one_connection_one_name_one_key_one_namespace() {
    let keys = Keys::new();
    let (ada, bob) = (keys.ed25519("ada"), keys.ed25519("bob"));
    let grc = Grc::start_with(&(line("ada", &ada.path) + &line("bob", &bob.path)), |_| ()).await;
    let mut first = Stranger::at(&grc).await;
    let message = first.message(&grc, "ada");
    let good = ada.sign(&signed_data(&message).unwrap()).unwrap();
    // Another's name, another's key.
    assert!(refused(first.show("bob", ada.key.as_bytes(), good.clone()).await.unwrap()));
    assert!(refused(first.show("ada", bob.key.as_bytes(), good.clone()).await.unwrap()));
    // What the key signs for other purposes: as a file, as git does, and the bare message.
    for namespace in ["file", "git", "gridpilot-login2"] {
        let data = SshSig::signed_data(namespace, HashAlg::Sha512, &message).unwrap();
        assert!(refused(first.show("ada", ada.key.as_bytes(), ada.sign(&data).unwrap()).await.unwrap()));
    }
    assert!(refused(first.show("ada", ada.key.as_bytes(), ada.sign(&message).unwrap()).await.unwrap()));
    first.assert_out().await;
    // Replay: recorded in the clear on one connection, shown on another.
    let mut once = Stranger::at(&grc).await;
    let data = signed_data(&once.message(&grc, "ada")).unwrap();
    let good = ada.sign(&data).unwrap();
    let mut again = Stranger::at(&grc).await;
    assert!(refused(again.show("ada", ada.key.as_bytes(), good.clone()).await.unwrap()));
    assert_eq!(once.show("ada", ada.key.as_bytes(), good.clone()).await.unwrap(), ToStranger::Welcome);
    assert!(refused(again.show("ada", ada.key.as_bytes(), good).await.unwrap()));
    grc.stop().await;
}

/// What we sign is what `ssh-keygen -Y` signs and verifies, so that the format is OpenSSH's and not
/// one that only we understand.
#[tokio::test]
async fn the_signature_is_the_one_that_ssh_keygen_makes() {
    let keys = Keys::new();
    let grc_keys: Vec<_> = [&["-t", "ed25519"][..], &["-t", "ecdsa"], &["-t", "rsa"]]
        .iter()
        .enumerate()
        .map(|(n, words)| keys.make(&format!("k{n}"), words))
        .collect();
    let users: String = grc_keys.iter().map(|file| line("ada", file)).collect();
    let grc = Grc::start_with(&users, |_| ()).await;
    for path in &grc_keys {
        let mut stranger = Stranger::at(&grc).await;
        for (namespace, good) in [("file", false), ("gridpilot-login", true)] {
            let message = keys.directory.path().join("message");
            std::fs::write(&message, stranger.message(&grc, "ada")).unwrap();
            let signature = keys.directory.path().join("message.sig");
            let _ = std::fs::remove_file(&signature);
            let words = ["-q", "-Y", "sign", "-n", namespace, "-f", path.to_str().unwrap()];
            assert!(Command::new("ssh-keygen").args(words).arg(&message).status().unwrap().success());
            let pem = std::fs::read(&signature).unwrap();
            let armoured = SshSig::from_pem(&pem).unwrap();
            let key = ssh_key::PublicKey::new(armoured.public_key().clone(), "").to_bytes().unwrap();
            let (mut made, parts) = (Vec::new(), armoured.signature());
            put_string(&mut made, parts.algorithm().as_str().as_bytes());
            put_string(&mut made, parts.as_bytes());
            let answer = stranger.show("ada", &key, made).await.unwrap();
            assert_eq!(answer == ToStranger::Welcome, good, "{answer:?}");
        }
    }
    grc.stop().await;
}

#[tokio::test]
async fn keys_are_tried_so_often_and_no_more_and_no_answer_says_which_are_known() {
    let keys = Keys::new();
    let (ada, other) = (keys.ed25519("ada"), keys.ed25519("other"));
    let grc = Grc::start_with(&line("ada", &ada.path), |_| ()).await;
    let mut stranger = Stranger::at(&grc).await;
    let answers = [
        // A known user with an unknown key, an unknown user, a known key that signed nothing.
        stranger.log_in(&grc, "ada", &other).await,
        stranger.log_in(&grc, "nobody", &other).await,
        stranger.show("ada", ada.key.as_bytes(), vec![0; 83]).await.unwrap(),
        stranger.show("ada", ada.key.as_bytes(), vec![]).await.unwrap(),
        stranger.show("ada", b"", vec![]).await.unwrap(),
        stranger.show("ada", &[0xff; 1500], vec![0xff; 1500]).await.unwrap(),
    ];
    assert_eq!(answers.len(), ATTEMPTS_MAX);
    let words = |answer: &ToStranger| match answer {
        ToStranger::Refused(refusal) => {
            refusal.to_string().replace("nobody", "ada").replace("anyada", "anybody")
        }
        other => panic!("{other:?}"),
    };
    assert!(answers.iter().all(|answer| words(answer).replace("anyada", "anybody") == words(&answers[0])));
    let seventh = stranger.show("ada", ada.key.as_bytes(), vec![]).await;
    assert!(matches!(seventh, Err(ConnectionError::Closed | ConnectionError::Io(_))), "{seventh:?}");
    grc.stop().await;
}

/// Signatures that are nearly right, of every type of key.
#[tokio::test]
async fn no_bent_signature_is_taken() {
    let keys = Keys::new();
    for words in [&["-t", "ed25519"][..], &["-t", "ecdsa", "-b", "256"], &["-t", "ecdsa", "-b", "384"]] {
        let file = grc::cli::login::file::KeyFile::read(&keys.make(words[words.len() - 1], words)).unwrap();
        let (message, data) = (b"message", signed_data(b"message").unwrap());
        let good = file.sign(&data).unwrap();
        assert!(file.key.signed(message, &good));
        assert!(!file.key.signed(b"massage", &good));
        for at in 0..good.len() {
            for bit in [1, 0x80] {
                let mut bent = good.clone();
                bent[at] ^= bit;
                assert!(!file.key.signed(message, &bent), "byte {at}");
            }
            assert!(!file.key.signed(message, &good[..at]), "cut at {at}");
        }
        assert!(!file.key.signed(message, &[&good[..], &[0]].concat()), "one byte more");
        let key: &Key = &file.key;
        assert_eq!(Key::from_bytes(key.as_bytes()).as_ref(), Ok(key));
        for at in 0..key.as_bytes().len() {
            assert!(Key::from_bytes(&key.as_bytes()[..at]).is_err());
        }
        assert!(Key::from_bytes(&[key.as_bytes(), &[0]].concat()).is_err());
    }
}

/// Requests before the login, notices, other conversations, long bodies: each ends its connection.
#[tokio::test]
async fn nothing_but_a_login_is_taken_from_a_stranger() {
    let keys = Keys::new();
    let ada = keys.ed25519("ada");
    let grc = Grc::start_with(&line("ada", &ada.path), |_| ()).await;
    let mut patient = user(&grc, "ada", &ada).await;
    let login = |length: usize| FromStranger::Login {
        user: "ada".parse().unwrap(),
        key: ada.key.as_bytes().to_vec(),
        signature: vec![0; length],
    };
    let stranger = Stranger::at(&grc).await;
    stranger.line.outbox.post(Kind::Request, 1, &Request::Jobs).unwrap();
    stranger.assert_out().await;
    let stranger = Stranger::at(&grc).await;
    stranger.line.outbox.post(Kind::Notice, 1, &login(83)).unwrap();
    stranger.assert_out().await;
    let stranger = Stranger::at(&grc).await;
    stranger.line.outbox.post(Kind::Request, 1, &login(1537)).unwrap();
    stranger.assert_out().await;
    let stranger = Stranger::at(&grc).await;
    let long = vec![0u8; LOGIN_BYTES_MAX + 1].into();
    stranger.line.outbox.post_encoded(Kind::Request, 1, long).unwrap();
    stranger.assert_out().await;
    // A site or an agent at the users' port, and no certificate of the GRC's where it is not.
    let identity = Identity::generate("x").unwrap();
    for role in [Role::Crm, Role::Agent, Role::Grc] {
        let connector = tls::connector(&identity, grc.pin).unwrap();
        let stream = tls::dial(&connector, grc.users_address.unwrap()).await.unwrap();
        if let Ok(mut greeted) = connection::greet(stream, role, &[Role::Grc]).await {
            assert!(greeted.inbox.next().await.is_err(), "{role:?} was challenged");
        }
    }
    assert!(matches!(patient.ask(Request::Sites).await, Reply::Sites(_)));
    grc.stop().await;
}

#[tokio::test]
async fn garbage_of_every_kind_at_the_users_port_ends_its_connection_only() {
    let keys = Keys::new();
    let ada = keys.ed25519("ada");
    let grc = Grc::start_with(&line("ada", &ada.path), |_| ()).await;
    let address = grc.users_address.unwrap();
    let mut garbage: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        vec![0; 4096],
        vec![0xff; 4096],
        vec![22, 3, 1, 0xff, 0xff],
        vec![],
    ];
    garbage.push([&[22, 3, 1, 0x40, 0x01][..], &vec![1; 0x4001]].concat());
    for bytes in garbage {
        let end = tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            stream.read_to_end(&mut Vec::new())
        });
        tokio::time::timeout(PATIENCE, end).await.expect("closed").unwrap().ok();
    }
    // TLS, but not us behind it.
    let connector = tls::connector(&Identity::generate("x").unwrap(), grc.pin).unwrap();
    for bytes in [&b"GPLT"[..], &[0xff; 2000], b"\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\0GPLT\0"] {
        let mut stream = tls::dial(&connector, address).await.unwrap();
        let talk = async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        tokio::time::timeout(PATIENCE, talk).await.expect("closed");
    }
    user(&grc, "ada", &ada).await;
    grc.stop().await;
}

/// Many who connect and say nothing: those who came first go, and a user comes in all the same, from
/// the same address as well.
#[tokio::test]
async fn a_crowd_of_silent_strangers_keeps_no_user_out() {
    let keys = Keys::new();
    let ada = keys.ed25519("ada");
    let grc = Grc::start_with(&line("ada", &ada.path), |_| ()).await;
    let address = grc.users_address.unwrap();
    // From one address there are never so many that the others' places are gone.
    let mut crowd = Vec::new();
    for _ in 0..2 * STRANGERS_PER_ADDRESS_MAX {
        crowd.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let mut closed = 0;
    for stream in &mut crowd[..STRANGERS_PER_ADDRESS_MAX] {
        use tokio::io::AsyncReadExt;
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("closed");
        closed += usize::from(matches!(read, Ok(0) | Err(_)));
    }
    assert_eq!(closed, STRANGERS_PER_ADDRESS_MAX);
    user(&grc, "ada", &ada).await;
    drop(crowd);
    grc.assert_serves().await;
    grc.stop().await;
}

#[tokio::test]
async fn who_has_to_make_room_or_runs_out_of_time_hears_why() {
    let grc = Grc::start().await;
    let mut first = Stranger::at(&grc).await;
    let mut crowd = Vec::new();
    for _ in 0..STRANGERS_PER_ADDRESS_MAX {
        crowd.push(tokio::net::TcpStream::connect(grc.users_address.unwrap()).await.unwrap());
    }
    let why = |heard: ToStranger| match heard {
        ToStranger::Refused(refusal @ Refusal::WrongState { .. }) => refusal.to_string(),
        other => panic!("{other:?}"),
    };
    let crowded = why(first.hear().await.unwrap());
    assert!(crowded.contains("too many others came after it"), "{crowded}");
    first.assert_out().await;
    drop(crowd);
    let mut slow = Stranger::at(&grc).await;
    tokio::time::pause();
    let frame = slow.line.inbox.next().await.unwrap();
    let late = why(connection::read(&frame).unwrap());
    assert!(late.contains("longer than the GRC waits"), "{late}");
    slow.assert_out().await;
    grc.stop().await;
}

/// The clock is tokio's, which goes on when nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_sent_away_at_every_step_of_a_login() {
    use tokio::io::AsyncReadExt;
    let grc = Grc::start().await;
    let mut silent = tokio::net::TcpStream::connect(grc.users_address.unwrap()).await.unwrap();
    assert!(matches!(silent.read(&mut [0; 64]).await, Ok(0) | Err(_)), "no handshake");
    let begun = tokio::time::Instant::now();
    let mut challenged = Stranger::at(&grc).await;
    challenged.line.inbox.next().await.expect("why");
    let ended = challenged.line.inbox.next().await;
    assert!(ended.is_err(), "challenged, and no login: {ended:?}");
    assert!(begun.elapsed() <= 2 * LOGIN_TIME);
    grc.stop().await;
}
