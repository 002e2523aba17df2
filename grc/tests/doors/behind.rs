//! The users' door while the owner, who is played here, is behind with its work.

use std::sync::Arc;
use std::time::Duration;

use grc::login::users::Users;
use grc::seats::Seats;
use grc::serve::Input;
use grc::{remote, server};
use protocol::client::{Reply, Request};
use protocol::frame::Kind;
use protocol::identity::Identity;
use protocol::login::ToStranger;
use protocol::tls;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::keys::{Keys, Stranger, line};
use crate::peers::*;

/// Until nobody has anything to do: only then the clock of these tests goes on.
async fn idle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_taken_out_of_the_users_file_hears_no_more_while_his_request_waits_for_the_owner() {
    let keys = Keys::new();
    let ada = keys.ed25519("ada");
    let identity = Identity::generate("grc").unwrap();
    let (users, watched) = watch::channel(Arc::new(Users::parse(line("ada", &ada.path).as_bytes()).0));
    let (owner, mut inputs) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let door = server::Door {
        accounts: Arc::default(),
        seats: Seats::new(4),
        next: Arc::default(),
        owner: owner.clone(),
        stop: stop.clone(),
    };
    let acceptor = tls::acceptor(&identity).unwrap();
    let door = remote::Door { acceptor, pin: identity.pin(), users: watched, said: Arc::default(), door };
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let listening = tokio::spawn(remote::listen(listener, door));

    let mut user = Stranger::dial(address, identity.pin()).await;
    assert_eq!(user.log_in_to(identity.pin(), "ada", &ada).await, ToStranger::Welcome);
    let Some(Input::ClientOpened { client, peer, .. }) = inputs.recv().await else { panic!() };
    owner.send(Input::LogRead { client }).await.unwrap();
    user.line.outbox.post(Kind::Request, 1, &Request::Jobs).unwrap();
    idle().await;
    users.send_replace(Arc::default());
    idle().await;
    let _ = peer.outbox.post(Kind::Reply, 1, &Reply::Jobs(vec![]));
    drop(peer);
    let heard = tokio::time::timeout(PATIENCE, user.line.inbox.next()).await;
    assert!(!matches!(heard, Ok(Ok(_))), "{heard:?}");

    assert!(matches!(inputs.recv().await, Some(Input::LogRead { .. })));
    let next = inputs.recv().await;
    assert!(matches!(next, Some(Input::ClientClosed { .. })), "his request is not asked any more: {next:?}");
    assert!(user.line.inbox.next().await.is_err());
    stop.cancel();
    listening.await.unwrap();
}
