//! Users: the whole way of a job through the sockets, logs, and clients that misbehave.

use std::io::{Read, Write};
use std::path::Path;

use bytes::Bytes;
use protocol::client::{NewJob, Notice, Reply, Request, Selector};
use protocol::ids::{Epoch, JobId, RequestId, ReservationId, Version};
use protocol::job::{Command, ExitStatus, Hits, JobState, Stream, Target};
use protocol::keys::{MemberKeys, PublicKey};
use protocol::names::EnvironmentName;
use protocol::refusal::Refusal;
use protocol::reservation::{Ask, Bandwidth, Limits, Placement, Start};
use protocol::site::{FromSite, ReadyMember, ToSite};

use crate::peers::*;

pub fn submit(id: u8) -> Request {
    let ask = Ask {
        placement: Placement::Sites(vec![(name("a"), 1)]),
        slots: 1,
        limits: Limits::default(),
        start: Start::Open,
        duration_s: 600,
        bandwidth: Bandwidth::Unasked,
        environment: EnvironmentName::host(),
        label: None,
    };
    let command = Command {
        argv: vec![b"true".to_vec()],
        variables: vec![],
        directories: vec![],
        directory_required: false,
    };
    Request::Submit {
        id: RequestId([id; 16]),
        ask,
        job: NewJob { command, target: Target::Head, label: None, grace_s: None },
    }
}

/// Plays the site up to the start of the command; what the messages of the job must carry.
async fn to_exec(site: &mut Site, key: u8) -> (ReservationId, Epoch, JobId) {
    let ToSite::Hold { reservation, version, part } = site.hear().await else { panic!() };
    site.say(FromSite::Held { reservation, version });
    assert!(matches!(site.hear().await, ToSite::Commit { .. }));
    site.say(FromSite::Committed { reservation, version });
    let epoch = Epoch::FIRST;
    let keys = MemberKeys { host: PublicKey([key; 32]), user: PublicKey([key + 1; 32]) };
    let address = part.addresses[0].first;
    let members = vec![ReadyMember { number: 0, node: "a1".parse().unwrap(), address, keys }];
    site.say(FromSite::SiteReady { reservation, epoch, round: 1, members });
    let ToSite::Join { ring, .. } = site.hear().await else { panic!() };
    assert_eq!((ring.user.as_str(), ring.members.len()), ("u", 1));
    site.say(FromSite::Joined { reservation, epoch });
    let ToSite::Exec { job, .. } = site.hear().await else { panic!() };
    (reservation, epoch, job)
}

fn output(
    (reservation, epoch, job): (ReservationId, Epoch, JobId),
    offset: u64,
    bytes: &'static [u8],
) -> FromSite {
    let bytes = Bytes::from_static(bytes);
    FromSite::Output { reservation, epoch, job, member: 0, stream: Stream::Stdout, offset, bytes }
}

#[tokio::test]
async fn a_job_goes_all_the_way_and_its_output_is_followed_and_kept() {
    let grc = Grc::start().await;
    let (mut site, _) = grc.joined("a", "10.1.0.0/24").await;
    let mut client = grc.client().await;
    let Reply::Submitted { job, .. } = client.ask(submit(1)).await else { panic!() };
    let mut follower = grc.client().await;
    let log = |follow| Request::Log { job: Selector::Last, stream: Stream::Stdout, offset: 0, follow };
    let followed = follower.post(log(true));
    let waited = client.post(Request::WaitJob(Selector::Id(job)));
    let key = to_exec(&mut site, 1).await;
    site.say(output(key, 0, b"one "));
    let ToSite::OutputSaved { upto: 4, .. } = site.hear().await else { panic!() };
    site.say(output(key, 0, b"one two"));
    let ToSite::OutputSaved { upto: 7, .. } = site.hear().await else { panic!() };
    let (reservation, epoch, _) = key;
    site.say(FromSite::Exited {
        reservation,
        epoch,
        job,
        member: 0,
        status: ExitStatus::Code(3),
        hits: Hits::default(),
    });
    let Reply::Job(view) = client.answer(waited).await else { panic!() };
    assert_eq!((view.state, view.stdout_bytes), (JobState::Done(ExitStatus::Code(3)), 7));
    assert_eq!(follower.answer(followed).await, Reply::LogEnd { offset: 7 });
    let text = |client: &Client| -> Vec<u8> {
        let bytes = |notice: &Notice| match notice {
            Notice::Output { bytes, .. } => bytes.to_vec(),
            _ => vec![],
        };
        client.notices.iter().flat_map(bytes).collect()
    };
    assert_eq!(text(&follower), b"one two");
    let mut later = grc.client().await;
    assert_eq!(later.ask(log(false)).await, Reply::LogEnd { offset: 7 });
    assert_eq!(text(&later), b"one two");
    assert_eq!(std::fs::read(grc.output("j1").join("stdout")).unwrap(), b"one two");
    assert_eq!(site.hear().await, ToSite::End { reservation });
    assert_eq!(site.hear().await, ToSite::ExitSaved { reservation, epoch, job, member: 0 });
    grc.stop().await;
}

#[tokio::test]
async fn output_that_leaves_a_gap_is_not_taken_until_what_is_missing_came() {
    let grc = Grc::start().await;
    let (mut site, _) = grc.joined("a", "10.1.0.0/24").await;
    let mut client = grc.client().await;
    client.ask(submit(1)).await;
    let key = to_exec(&mut site, 1).await;
    site.say(output(key, 5, b"x"));
    site.say(output(key, 0, b"12345"));
    let ToSite::OutputSaved { upto: 5, .. } = site.hear().await else { panic!() };
    site.say(output(key, 5, b"x"));
    let ToSite::OutputSaved { upto: 6, .. } = site.hear().await else { panic!() };
    assert_eq!(std::fs::read(grc.output("j1").join("stdout")).unwrap(), b"12345x");
    grc.stop().await;
}

/// The whole GRC dies while a job runs: nothing at the site notices, and the job ends as if nothing
/// had been.
#[tokio::test]
async fn a_job_runs_through_the_death_of_the_grc_and_its_answer_stays_the_same() {
    let grc = Grc::start().await;
    let (mut site, identity) = grc.joined("a", "10.1.0.0/24").await;
    let mut client = grc.client().await;
    let first = client.ask(submit(1)).await;
    let key = to_exec(&mut site, 1).await;
    site.say(output(key, 0, b"one "));
    let ToSite::OutputSaved { upto: 4, .. } = site.hear().await else { panic!() };
    let grc = grc.restart().await;
    let mut client = grc.client().await;
    assert_eq!(client.ask(submit(1)).await, first, "the same request, the same answer");
    let waited = client.post(Request::WaitJob(Selector::Last));
    let (reservation, epoch, job) = key;
    let mut site = grc.site(&identity).await;
    site.say(publish("a", "10.1.0.0/24"));
    site.say(FromSite::Committed { reservation, version: Version(1) });
    site.say(output(key, 0, b"one two"));
    site.say(FromSite::Exited {
        reservation,
        epoch,
        job,
        member: 0,
        status: ExitStatus::Code(7),
        hits: Hits::default(),
    });
    let Reply::Job(view) = client.answer(waited).await else { panic!() };
    assert_eq!((view.state, view.stdout_bytes), (JobState::Done(ExitStatus::Code(7)), 7));
    let mut heard = Vec::new();
    while heard.last() != Some(&ToSite::ExitSaved { reservation, epoch, job, member: 0 }) {
        heard.push(site.hear().await);
    }
    let again = |message: &&ToSite| matches!(message, ToSite::Exec { job: one, .. } if *one == job);
    assert_eq!(heard.iter().filter(again).count(), 1, "it asks how the job stands: {heard:?}");
    assert!(heard.contains(&ToSite::End { reservation }));
    assert!(!heard.iter().any(|message| matches!(message, ToSite::Hold { .. })), "{heard:?}");
    grc.stop().await;
}

/// The machine's power goes while a job runs, and with it what was kept of the output though it was
/// acknowledged. In the new boot the GRC starts twice before its site is back.
#[tokio::test]
async fn a_job_ends_though_a_power_cut_took_what_was_acknowledged_of_its_output() {
    let grc = Grc::start().await;
    let (mut site, identity) = grc.joined("a", "10.1.0.0/24").await;
    grc.client().await.ask(submit(1)).await;
    let key = to_exec(&mut site, 1).await;
    site.say(output(key, 0, b"one "));
    let ToSite::OutputSaved { upto: 4, .. } = site.hear().await else { panic!() };
    let power_cut = |state: &Path| {
        std::fs::remove_dir_all(state.join("jobs/j1")).unwrap();
        // The next start is in another boot than the one that is noted there.
        std::fs::write(state.join("jobs/boot"), format!("{} j1\n", "0".repeat(32))).unwrap();
    };
    let grc = grc.restart_after(power_cut).await.restart().await;
    let (reservation, epoch, job) = key;
    let site = grc.site(&identity).await;
    site.say(publish("a", "10.1.0.0/24"));
    site.say(FromSite::Committed { reservation, version: Version(1) });
    site.say(output(key, 4, b"two"));
    let status = ExitStatus::Code(0);
    site.say(FromSite::Exited { reservation, epoch, job, member: 0, status, hits: Hits::default() });
    let mut client = grc.client().await;
    let Reply::Job(view) = client.ask(Request::WaitJob(Selector::Id(job))).await else { panic!() };
    assert_eq!((view.state, view.stdout_bytes), (JobState::Done(status), 3));
    let log = Request::Log { job: Selector::Last, stream: Stream::Stdout, offset: 0, follow: false };
    let Reply::Failed(failure) = client.ask(log).await else { panic!() };
    assert!(failure.to_string().contains("lost with the machine's power"), "{failure}");
    grc.stop().await;
}

/// The GRC was killed after it had forgotten jobs and before their output was taken away.
#[tokio::test]
async fn output_of_jobs_that_nobody_knows_is_taken_away_at_the_next_start_and_nothing_else() {
    let grc = Grc::start().await;
    let (mut site, _) = grc.joined("a", "10.1.0.0/24").await;
    grc.client().await.ask(submit(1)).await;
    let key = to_exec(&mut site, 1).await;
    site.say(output(key, 0, b"one "));
    let ToSite::OutputSaved { upto: 4, .. } = site.hear().await else { panic!() };
    let leave = |state: &Path| {
        for name in ["j2", "j77", "jam"] {
            std::fs::create_dir(state.join("jobs").join(name)).unwrap();
            std::fs::write(state.join("jobs").join(name).join("stdout"), "x").unwrap();
        }
    };
    let grc = grc.restart_after(leave).await;
    let gone = async {
        while ["j2", "j77"].iter().any(|job| grc.output(job).exists()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("taken away");
    assert_eq!(std::fs::read(grc.output("j1").join("stdout")).unwrap(), b"one ");
    assert!(grc.output("jam").join("stdout").exists() && grc.output("boot").exists());
    grc.stop().await;
}

#[tokio::test]
async fn open_requests_of_one_connection_are_bounded() {
    let grc = Grc::start().await;
    let (_site, _) = grc.joined("a", "10.1.0.0/24").await;
    let mut client = grc.client().await;
    client.ask(submit(1)).await;
    let waits: Vec<u64> = (0..65).map(|_| client.post(Request::WaitJob(Selector::Last))).collect();
    let last = client.answer(waits[64]).await;
    assert!(matches!(last, Reply::Refused(Refusal::TooMany { count: 64, .. })), "{last:?}");
    let still = client.ask(Request::Jobs).await;
    assert!(matches!(still, Reply::Refused(Refusal::TooMany { .. })), "{still:?}");
    drop(client);
    grc.assert_serves().await;
    grc.stop().await;
}

/// Asks for listings without ever reading one: the connection is given up, others are served.
#[tokio::test]
async fn a_client_that_does_not_read_hurts_nobody() {
    let grc = Grc::start().await;
    let (_site, _) = grc.joined("a", "10.1.0.0/24").await;
    let mut patient = grc.client().await;
    patient.ask(submit(1)).await;
    let client = grc.client().await;
    let closed = async {
        for correlation in 0.. {
            let request = Request::ExplainJob(Selector::Last);
            let posted = client.outbox.post_wait(protocol::frame::Kind::Request, correlation, &request).await;
            if posted.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), closed).await.expect("given up");
    assert!(matches!(patient.ask(Request::Jobs).await, Reply::Jobs(views) if views.len() == 1));
    grc.stop().await;
}

#[tokio::test]
async fn garbage_oversized_frames_and_wrong_roles_end_their_connection_only() {
    let grc = Grc::start().await;
    let mut patient = grc.client().await;
    let mut oversized = vec![0xff; 4];
    oversized.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let hello = protocol::hello::Hello::ours(protocol::hello::Role::Client).encode();
    let mut greeted = (hello.len() as u32).to_be_bytes().to_vec();
    greeted.extend([0; 12]);
    greeted.extend(&hello);
    let role_at = greeted.len() - hello.len() + 4;
    let mut wrong_role = greeted.clone();
    wrong_role[role_at] = 2;
    let mut undecodable = greeted.clone();
    undecodable.extend([0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xee, 0xee]);
    let after_hello = [greeted, oversized.clone()].concat();
    for bytes in [b"GET / HTTP/1.0\r\n\r\n".to_vec(), oversized, wrong_role, undecodable, after_hello] {
        let path = grc.config.socket.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            // It may be closed before everything was written.
            let _ = stream.write_all(&bytes);
            stream.read_to_end(&mut Vec::new())
        });
        let ended = tokio::time::timeout(std::time::Duration::from_secs(20), read).await;
        assert!(ended.is_ok(), "it was closed, with or without an answer");
        assert!(matches!(patient.ask(Request::Sites).await, Reply::Sites(_)));
    }
    grc.stop().await;
}

#[tokio::test]
async fn a_socket_that_is_served_is_not_taken_over_a_dead_one_is_and_a_file_is_left_alone() {
    let grc = Grc::start().await;
    let second = grc::server::bind(&grc.config.socket).unwrap_err().to_string();
    assert!(second.contains("a GRC serves on"), "{second}");
    grc.assert_serves().await;
    let dead = grc.directory.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    drop(grc::server::bind(&dead).unwrap());
    let file = grc.directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(grc::server::bind(&file).unwrap_err().to_string().contains("is no socket"));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    grc.stop().await;
}
