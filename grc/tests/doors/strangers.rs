//! The sites' port: who is let in as what.

use std::io::{Read, Write};

use grc::strangers::STRANGERS_PER_ADDRESS_MAX;
use protocol::client::{Reply, Request};
use protocol::connection;
use protocol::hello::Role;
use protocol::identity::Identity;
use protocol::refusal::Refusal;
use protocol::site::{FromSite, ToSite};
use protocol::tls;

use crate::peers::*;

fn refusal(mut heard: Vec<ToSite>) -> Refusal {
    assert_eq!(heard.len(), 1, "{heard:?}");
    match heard.remove(0) {
        ToSite::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_ticket_is_burnt_by_its_first_use_and_a_wrong_one_changes_nothing() {
    let grc = Grc::start().await;
    let secret = grc.secret("a");
    let mut first = grc.site(&Identity::generate("crm").unwrap()).await;
    first.say(FromSite::Register { site: name("a"), secret: [0; 32] });
    assert!(matches!(refusal(first.hear_all().await), Refusal::BadTicket { .. }));
    let identity = Identity::generate("crm").unwrap();
    let mut site = grc.site(&identity).await;
    site.say(FromSite::Register { site: name("a"), secret });
    assert_eq!(site.hear().await, ToSite::Welcome);
    let mut thief = grc.site(&Identity::generate("thief").unwrap()).await;
    thief.say(FromSite::Register { site: name("a"), secret });
    assert!(matches!(refusal(thief.hear_all().await), Refusal::BadTicket { .. }));
    // The certificate is known from now on, over new connections too.
    let mut again = grc.site(&identity).await;
    again.say(publish("a", "10.1.0.0/24"));
    assert_eq!(again.hear().await, ToSite::Welcome);
    grc.stop().await;
}

#[tokio::test]
async fn an_unknown_certificate_and_another_sites_name_are_refused() {
    let grc = Grc::start().await;
    let mut stranger = grc.site(&Identity::generate("crm").unwrap()).await;
    stranger.say(publish("a", "10.1.0.0/24"));
    assert_eq!(refusal(stranger.hear_all().await), Refusal::UnknownPeer { who: "site a".into() });
    let (mut site, identity) = grc.joined("a", "10.1.0.0/24").await;
    let mut impostor = grc.site(&identity).await;
    impostor.say(publish("b", "10.2.0.0/24"));
    assert_eq!(refusal(impostor.hear_all().await), Refusal::UnknownPeer { who: "site b".into() });
    let mut hasty = grc.site(&identity).await;
    hasty.say(FromSite::Joined {
        reservation: protocol::ids::ReservationId(1),
        epoch: protocol::ids::Epoch(1),
    });
    assert!(matches!(refusal(hasty.hear_all().await), Refusal::Malformed { .. }));
    site.say(publish("a", "10.1.0.0/25"));
    assert_eq!(site.hear().await, ToSite::Welcome, "the real one stays");
    grc.stop().await;
}

#[tokio::test]
async fn a_range_that_a_site_may_not_publish_disconnects_it_and_is_shown() {
    let grc = Grc::start().await;
    let (mut site, _) = grc.joined("a", "10.1.0.0/24").await;
    site.say(publish("a", "10.2.0.0/24"));
    let expected = Refusal::RangeNotAllowed { site: name("a"), range: "10.2.0.0/24".into() };
    assert_eq!(refusal(site.hear_all().await), expected);
    let Reply::Sites(views) = grc.client().await.ask(Request::Sites).await else { panic!() };
    assert!(!views[0].connected);
    assert_eq!(views[0].problems, [expected.to_string().into()]);
    grc.stop().await;
}

#[tokio::test]
async fn strangers_send_short_messages_or_none() {
    let grc = Grc::start().await;
    let mut stranger = grc.site(&Identity::generate("crm").unwrap()).await;
    let FromSite::Publish { site, mut offer } = publish("a", "10.1.0.0/24") else { panic!() };
    offer.reserved = vec!["10.1.0.9".parse().unwrap(); 4000];
    stranger.say(FromSite::Publish { site, offer });
    assert_eq!(stranger.hear_all().await, [], "closed before the message was taken");
    grc.assert_serves().await;
    grc.stop().await;
}

#[tokio::test]
async fn garbage_a_missing_handshake_a_wrong_pin_and_a_wrong_role_change_nothing() {
    let grc = Grc::start().await;
    let (address, identity) = (grc.address, Identity::generate("x").unwrap());
    let garbage = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    tokio::time::timeout(std::time::Duration::from_secs(20), garbage).await.expect("closed").unwrap();
    let _silent = std::net::TcpStream::connect(address).unwrap();
    let wrong = tls::connector(&identity, identity.pin()).unwrap();
    assert!(tls::dial(&wrong, address).await.is_err(), "it shows no certificate but its own");
    let connector = tls::connector(&identity, grc.pin).unwrap();
    let stream = tls::dial(&connector, address).await.unwrap();
    let greeted = connection::greet(stream, Role::Agent, &[Role::Grc]).await;
    if let Ok(mut greeted) = greeted {
        assert!(greeted.inbox.next().await.is_err(), "an agent has no business here");
    }
    grc.assert_serves().await;
    grc.stop().await;
}

/// Whoever sits on the sites' port, from the sites' own address even, keeps no site out.
#[tokio::test]
async fn a_crowd_of_silent_strangers_keeps_no_site_out_and_who_goes_for_it_hears_why() {
    let grc = Grc::start().await;
    let mut first = grc.site(&Identity::generate("crm").unwrap()).await;
    let mut crowd = Vec::new();
    for _ in 0..2 * STRANGERS_PER_ADDRESS_MAX {
        crowd.push(tokio::net::TcpStream::connect(grc.address).await.unwrap());
    }
    let why = refusal(first.hear_all().await).to_string();
    assert!(why.contains("too many others came after it"), "{why}");
    let (mut site, _) = grc.joined("a", "10.1.0.0/24").await;
    site.say(publish("a", "10.1.0.0/25"));
    assert_eq!(site.hear().await, ToSite::Welcome);
    drop(crowd);
    grc.stop().await;
}
