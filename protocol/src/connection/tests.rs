//! Greetings and queues against peers that are right, wrong, slow or silent.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::client::Request;
use crate::limits::SMALL_BODY_BYTES;
use crate::refusal::Refusal;

const PIPE_BYTES: usize = 64 * 1024;

async fn pair() -> (Connection<DuplexStream>, Connection<DuplexStream>) {
    let (a, b) = duplex(PIPE_BYTES);
    let (grc, crm) =
        tokio::join!(greet(a, Role::Grc, &[Role::Crm]), greet(b, Role::Crm, &[Role::Grc, Role::Client]));
    (grc.unwrap(), crm.unwrap())
}

fn frame(kind: Kind, body: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    frame::put(&Frame { kind, correlation: 0, body: body.to_vec().into() }, &mut bytes).unwrap();
    bytes
}

/// What a GRC says of a peer that sends these bytes and goes on listening.
async fn refused(bytes: &[u8]) -> ConnectionError {
    let (ours, mut peer) = duplex(PIPE_BYTES);
    peer.write_all(bytes).await.unwrap();
    greet(ours, Role::Grc, &[Role::Crm]).await.unwrap_err()
}

#[tokio::test]
async fn both_sides_learn_the_others_role_and_one_version() {
    let (grc, crm) = pair().await;
    assert_eq!((grc.peer.role, crm.peer.role), (Role::Crm, Role::Grc));
    assert_eq!((grc.version, crm.version), (3, 3));
}

#[tokio::test]
async fn a_peer_of_another_role_is_turned_away() {
    let hello = frame(Kind::Hello, &Hello::ours(Role::Agent).encode());
    let error = refused(&hello).await;
    assert!(matches!(error, ConnectionError::WrongRole(Role::Agent)), "{error}");
}

#[tokio::test]
async fn a_peer_of_another_version_is_told_both() {
    let newer = Hello { version_min: 4, version_max: 5, ..Hello::ours(Role::Crm) };
    let error = refused(&frame(Kind::Hello, &newer.encode())).await.to_string();
    assert!(error.contains("3..3") && error.contains("4..5") && error.lines().count() == 1, "{error}");
}

#[tokio::test]
async fn what_is_no_greeting_is_named_so() {
    let hello = Hello::ours(Role::Crm).encode();
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: grc\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n",
        &frame(Kind::Request, &hello),
        &frame(Kind::Hello, b"GPLX and so on"),
        // Announced too long: refused although the body never comes.
        &frame(Kind::Hello, &[0; HELLO_BYTES_MAX + 1])[..16],
    ] {
        let error = refused(bytes).await;
        assert!(matches!(error, ConnectionError::Hello(HelloError::NotOurs)), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_not_waited_for() {
    let (ours, _peer) = duplex(PIPE_BYTES);
    let error = greet(ours, Role::Grc, &[Role::Crm]).await.unwrap_err();
    assert!(matches!(error, ConnectionError::GreetingTimeout), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_greets_byte_by_byte_gets_no_more_time() {
    let (ours, mut peer) = duplex(PIPE_BYTES);
    let drip = tokio::spawn(async move {
        for byte in frame(Kind::Hello, &Hello::ours(Role::Crm).encode()) {
            peer.write_all(&[byte]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    });
    let error = greet(ours, Role::Grc, &[Role::Crm]).await.unwrap_err();
    assert!(matches!(error, ConnectionError::GreetingTimeout), "{error}");
    drip.abort();
}

#[tokio::test(start_paused = true)]
async fn a_peer_of_which_nothing_comes_is_told_from_one_whose_frame_takes_its_time() {
    const SILENCE: Duration = Duration::from_secs(10);
    let (ours, mut peer) = duplex(PIPE_BYTES);
    peer.write_all(&frame(Kind::Hello, &Hello::ours(Role::Crm).encode())).await.unwrap();
    let mut inbox = greet(ours, Role::Grc, &[Role::Crm]).await.unwrap().inbox;
    let slow = tokio::spawn(async move {
        for byte in frame(Kind::Notice, &codec::encode(&Request::Jobs).unwrap()) {
            tokio::time::sleep(SILENCE - Duration::from_secs(1)).await;
            peer.write_all(&[byte]).await.unwrap();
        }
        peer
    });
    let came = inbox.next_within(SILENCE).await.unwrap();
    assert_eq!(read::<Request>(&came).unwrap(), Request::Jobs);
    let _peer = slow.await.unwrap();
    let error = inbox.next_within(SILENCE).await.unwrap_err();
    assert_eq!(error.to_string(), "nothing was heard of it for 10 s");
}

#[tokio::test]
async fn a_peer_that_hangs_up_instead_of_greeting_is_named_so() {
    let (ours, peer) = duplex(PIPE_BYTES);
    drop(peer);
    let error = greet(ours, Role::Grc, &[Role::Crm]).await.unwrap_err();
    assert!(matches!(error, ConnectionError::Closed | ConnectionError::Io(_)), "{error}");
}

#[tokio::test]
async fn messages_arrive_in_order_and_then_the_end() {
    let (grc, mut crm) = pair().await;
    for correlation in 0..1000 {
        grc.outbox.post(Kind::Request, correlation, &Request::Jobs).unwrap();
    }
    let encoded = Bytes::from(codec::encode(&Request::Sites).unwrap());
    grc.outbox.post_encoded(Kind::Notice, 1000, encoded).unwrap();
    drop(grc.outbox);
    for correlation in 0..1000 {
        let frame = crm.inbox.next().await.unwrap();
        assert_eq!((frame.kind, frame.correlation), (Kind::Request, correlation));
        assert_eq!(read::<Request>(&frame).unwrap(), Request::Jobs);
    }
    assert_eq!(read::<Request>(&crm.inbox.next().await.unwrap()).unwrap(), Request::Sites);
    assert!(matches!(crm.inbox.next().await, Err(ConnectionError::Closed)));
    grc.writer.await.unwrap();
}

/// A site that was stopped in a debugger must not keep anything of ours.
#[tokio::test]
async fn a_peer_that_does_not_read_is_given_up_whole() {
    let (grc, crm) = pair().await;
    let mut inbox = grc.inbox;
    let body = Bytes::from(vec![0; FRAME_BYTES_MAX]);
    let mut posted = 0;
    let error = loop {
        match grc.outbox.post_encoded(Kind::Notice, 0, body.clone()) {
            Ok(()) => posted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ConnectionError::PeerTooSlow), "{error}");
    assert!(posted <= OUTBOX_BYTES_MAX / FRAME_BYTES_MAX + 1, "{posted} frames were queued");
    // Both halves end although the peer never moves, and nothing is queued in vain.
    let reader = tokio::spawn(async move { inbox.next().await });
    assert!(matches!(reader.await.unwrap(), Err(ConnectionError::PeerTooSlow)));
    grc.writer.await.unwrap();
    assert!(grc.outbox.post(Kind::Notice, 0, &Request::Jobs).is_err());
    let mut crm = crm;
    while crm.inbox.next().await.is_ok() {}
}

#[tokio::test]
async fn small_frames_cost_room_too() {
    let (grc, _crm) = pair().await;
    let most = OUTBOX_BYTES_MAX / FRAME_COST_BYTES;
    let posted = (0..=most).take_while(|_| grc.outbox.post(Kind::Notice, 0, &Request::Jobs).is_ok()).count();
    assert!(posted <= most, "{posted} frames were queued");
}

/// One user who does not read his log must not cost him, or others, the news.
#[tokio::test]
async fn a_bulk_sender_waits_and_leaves_room_for_news() {
    let (grc, mut crm) = pair().await;
    let outbox = grc.outbox.clone();
    let chunk = vec![0u8; SMALL_BODY_BYTES];
    let bulk = tokio::spawn(async move {
        for _ in 0..100 {
            outbox.post_wait(Kind::Notice, 7, &chunk).await.unwrap();
        }
    });
    // It goes as far as it can, then waits: what is queued stays bounded.
    while grc.outbox.bulk_room.available_permits() > SMALL_BODY_BYTES + 2 * FRAME_COST_BYTES {
        tokio::task::yield_now().await;
    }
    assert!(!bulk.is_finished());
    assert!(grc.outbox.room.available_permits() > OUTBOX_BYTES_MAX - 2 * OUTBOX_BULK_BYTES_MAX);
    grc.outbox.post(Kind::Reply, 8, &Request::Jobs).unwrap();
    let (mut bulk_frames, mut news) = (0, 0);
    while bulk_frames < 100 {
        match crm.inbox.next().await.unwrap().kind {
            Kind::Notice => bulk_frames += 1,
            _ => news += 1,
        }
    }
    bulk.await.unwrap();
    assert_eq!(news, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_still_queued_at_the_end_is_not_waited_for_without_limit() {
    let (grc, crm) = pair().await;
    grc.outbox.post_encoded(Kind::Notice, 0, vec![0; 4 * PIPE_BYTES].into()).unwrap();
    drop((grc.outbox, grc.inbox));
    // The peer stands still, and yet this ends.
    grc.writer.await.unwrap();
    drop(crm);
}

#[tokio::test]
async fn a_stranger_is_kept_to_short_messages_until_the_caller_lifts_it() {
    let (grc, mut crm) = pair().await;
    let long = vec![0u8; 5000];
    crm.inbox.limit_bodies(4096);
    grc.outbox.post(Kind::Request, 1, &long).unwrap();
    let error = crm.inbox.next().await.unwrap_err();
    assert!(matches!(error, ConnectionError::Frame(FrameError::TooLarge { max: 4096, .. })), "{error}");

    let (grc, mut crm) = pair().await;
    crm.inbox.limit_bodies(4096);
    crm.inbox.limit_bodies(FRAME_BYTES_MAX);
    grc.outbox.post(Kind::Request, 1, &long).unwrap();
    assert_eq!(read::<Vec<u8>>(&crm.inbox.next().await.unwrap()).unwrap(), long);
}

#[tokio::test]
async fn garbage_after_the_greeting_ends_the_connection() {
    for (garbage, what) in [
        (&[0xff; 16][..], "4294967295"),
        (&[0, 0, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "kind 9"),
        (&[0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "reserved"),
    ] {
        let (ours, mut peer) = duplex(PIPE_BYTES);
        peer.write_all(&frame(Kind::Hello, &Hello::ours(Role::Crm).encode())).await.unwrap();
        let mut connection = greet(ours, Role::Grc, &[Role::Crm]).await.unwrap();
        peer.write_all(garbage).await.unwrap();
        let error = connection.inbox.next().await.unwrap_err();
        assert!(matches!(error, ConnectionError::Frame(_)), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

/// The owner's loop drops the future whenever something else happens first.
#[tokio::test]
async fn a_receive_that_was_given_up_loses_nothing() {
    let (ours, mut peer) = duplex(PIPE_BYTES);
    peer.write_all(&frame(Kind::Hello, &Hello::ours(Role::Crm).encode())).await.unwrap();
    let mut connection = greet(ours, Role::Grc, &[Role::Crm]).await.unwrap();
    let bytes = frame(Kind::Request, &codec::encode(&Request::Sites).unwrap());
    for byte in &bytes[..bytes.len() - 1] {
        peer.write_all(&[*byte]).await.unwrap();
        tokio::select! {
            biased;
            frame = connection.inbox.next() => panic!("{frame:?} is not complete"),
            () = tokio::task::yield_now() => {}
        }
    }
    peer.write_all(&bytes[bytes.len() - 1..]).await.unwrap();
    assert_eq!(read::<Request>(&connection.inbox.next().await.unwrap()).unwrap(), Request::Sites);
}

#[tokio::test]
async fn a_message_of_another_conversation_is_an_error_and_not_a_guess() {
    let (grc, mut crm) = pair().await;
    let refusal = Refusal::BadToken { why: "used".into() };
    grc.outbox.post(Kind::Request, 1, &(250u8, &refusal)).unwrap();
    let frame = crm.inbox.next().await.unwrap();
    assert!(matches!(read::<Request>(&frame), Err(ConnectionError::Codec(_))));
}

#[tokio::test]
async fn the_greeting_on_the_wire_is_one_frame_and_nothing_else() {
    let (ours, mut peer) = duplex(PIPE_BYTES);
    peer.write_all(&frame(Kind::Hello, &Hello::ours(Role::Crm).encode())).await.unwrap();
    let connection = greet(ours, Role::Grc, &[Role::Crm]).await.unwrap();
    drop((connection.outbox, connection.inbox));
    connection.writer.await.unwrap();
    let mut sent = Vec::new();
    peer.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent, frame(Kind::Hello, &Hello::ours(Role::Grc).encode()));
}
