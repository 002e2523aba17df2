//! One reservation from hold to end, and what goes wrong on its way.

use std::time::Duration;

use crm::pilot::Round;
use crm::site::Event;
use protocol::ids::{Epoch, ReservationId, Version};
use protocol::job::{ExitStatus, Hits, Stream, Target};
use protocol::node::{ENDED_BY_BATCH_SYSTEM, Notice, Request, State};
use protocol::refusal::{Failure, Refusal, Step};
use protocol::reservation::AddressBlock;
use protocol::site::{FromSite, ToSite};

use crate::said::*;
use crate::world::{
    E, Fault, J, R, V, World, arrived, exec, exec_in, hold, hold_of, lost, part, ring, start,
};

/// Hold to End as a GRC would drive it; stops driving when the part fails.
fn whole_life(world: &mut World, members: u32) {
    world.say(hold(part(members)));
    world.say(COMMIT);
    world.wait(|w| w.heard(is_ready) + w.heard(is_failed) > 0);
    if let Some(join) = join(world) {
        world.say(join);
        world.wait(|w| w.heard(is_joined) + w.heard(is_failed) > 0);
    }
    world.say(END);
    world.wait(|w| w.site.is_idle());
}

#[test]
fn a_part_goes_from_hold_to_end_and_gives_everything_back() {
    let mut world = World::new(3);
    whole_life(&mut world, 3);
    assert_eq!((world.heard(is_ready), world.heard(is_joined), world.heard(is_ended)), (1, 1, 1));
    assert_eq!(world.heard(is_failed), 0);
    assert_eq!(world.site.holdings(), (0, 0));
    assert_eq!((world.offer().nodes_free, world.offer().unusable.len()), (3, 0));
}

#[test]
fn messages_to_the_grc_do_not_grow_with_the_nodes() {
    let count = |members| {
        let mut world = World::new(members);
        whole_life(&mut world, members);
        world.told.len()
    };
    assert_eq!(count(2), count(200));
}

/// The promise: whatever fails, and however, nothing is held in the end, and the user is told
/// once, with step, site and node.
#[test]
fn a_failure_at_any_step_leaves_nothing_held() {
    let mut whole = World::new(2);
    whole_life(&mut whole, 2);
    for fault in [Fault::Silence, Fault::Refusal, Fault::Break, Fault::Death] {
        for at in 0..whole.asked {
            let mut world = World::new(2);
            world.fault = Some((at, fault));
            whole_life(&mut world, 2);
            let what = format!("{fault:?} at action {at}");
            assert_eq!(world.site.holdings(), (0, 0), "{what}");
            assert!(world.site.is_idle(), "{what}");
            assert_eq!(world.heard(is_ended), 1, "{what}");
            assert!(world.alive.is_empty(), "{what}: {:?} live on", world.alive);
            assert!(world.heard(is_failed) <= 1, "{what}");
            if world.heard(is_joined) == 0 {
                let failure = failure(&world);
                assert!(failure.site.is_some() && failure.node.is_some(), "{what}: {failure}");
                assert!(failure.to_string().lines().count() <= 3, "{what}: {failure}");
            }
            world.wait(|w| w.offer().nodes_free == 2);
            assert!(world.offer().unusable.is_empty(), "{what}");
        }
    }
}

#[test]
fn every_message_may_come_twice() {
    let mut world = World::new(2);
    let twice = |world: &mut World, event: Event| {
        world.say(event.clone());
        world.say(event);
    };
    twice(&mut world, hold(part(2)));
    assert_eq!(world.site.holdings(), (0, 0), "nodes are bound late");
    twice(&mut world, COMMIT);
    twice(&mut world, start(E));
    assert_eq!(world.submitted.len(), 2, "a pilot was submitted twice");
    twice(&mut world, arrived(pilot(0), [2; 16]));
    let join = join(&world).unwrap();
    twice(&mut world, join);
    twice(&mut world, exec(Target::All));
    assert_eq!(world.started.len(), 2);
    twice(
        &mut world,
        Event::Noticed {
            pilot: pilot(1),
            notice: Notice::Exited { job: J, status: ExitStatus::Code(3), hits: Hits::default() },
        },
    );
    twice(&mut world, END);
    twice(&mut world, Event::Grc(ToSite::Release { reservation: R, version: V }));
    // Every repeated order is answered by how it stands.
    assert_eq!((world.heard(is_held), world.heard(is_committed)), (2, 2));
    assert_eq!((world.heard(is_ready), world.heard(is_joined)), (3, 2));
    assert_eq!(world.heard(|m| matches!(m, FromSite::Exited { .. })), 2);
    // The second End is about something that is over, and is answered all the same.
    assert_eq!(world.heard(is_ended), 2);
    assert_eq!(world.heard(is_failed), 0);
    assert_eq!(world.site.holdings(), (0, 0));
}

#[test]
fn what_is_over_never_comes_back() {
    let mut world = World::new(2);
    whole_life(&mut world, 1);
    for version in [V, Version(9)] {
        world.say(hold_of(R, version, part(1)));
        assert!(matches!(refusal(&world), Refusal::WrongState { .. }));
    }
    world.told.clear();
    world.say(COMMIT);
    world.say(start(Epoch(2)));
    assert_eq!(world.heard(is_lost), 2);
    world.say(END);
    assert_eq!(world.heard(is_ended), 1);
    assert!(world.site.is_idle() && world.records.is_empty());
}

#[test]
fn a_newer_epoch_waits_until_the_older_one_is_gone() {
    let mut world = joined(1);
    world.fault = Some((world.asked, Fault::Silence)); // SHUTDOWN is not answered
    world.say(start(Epoch(2)));
    world.say(start(Epoch(2)));
    assert_eq!(world.submitted.len(), 1);
    let progress = protocol::reservation::Progress { wanted: 1, ..Default::default() };
    let standing = FromSite::Progress { reservation: R, epoch: Epoch(2), round: 1, progress };
    assert_eq!(world.told.last(), Some(&standing), "of the older one nothing counts");
    world.wait(|w| w.submitted.len() == 2);
    assert_eq!(world.submitted[1].round, Round(2));
    assert!(!world.alive.contains(&pilot(0)));
    assert_eq!(world.site.holdings(), (1, 1));
    // Orders to the older one are passed over.
    world.told.clear();
    let (submitted, started) = (world.submitted.len(), world.started.len());
    world.say(start(E));
    world.say(exec_in(E, J, Target::All));
    let ring = ring(&world.told);
    ring.into_iter().for_each(|ring| world.say(Event::Grc(ToSite::Join { reservation: R, epoch: E, ring })));
    assert_eq!((world.submitted.len(), world.started.len()), (submitted, started));
    assert_eq!(world.told, []);
}

#[test]
fn what_cannot_be_held_is_refused_by_its_reason_and_changes_nothing() {
    type Change = fn(&mut protocol::site::Part);
    type Expect = fn(&Refusal) -> bool;
    let cases: [(Change, Expect); 6] = [
        (|p| p.members = 0, |r| matches!(r, Refusal::ZeroNodes)),
        (
            |p| (p.members, p.addresses[0].count) = (3, 3),
            |r| matches!(r, Refusal::MoreNodesThanExist { asked: 3, have: 2, .. }),
        ),
        (|p| p.environment = "debian".parse().unwrap(), |r| matches!(r, Refusal::UnknownEnvironment { .. })),
        (
            |p| p.addresses = vec![AddressBlock { first: [10, 72, 0, 1].into(), count: 2 }],
            |r| matches!(r, Refusal::RangeNotAllowed { .. }),
        ),
        (|p| p.addresses[0].count = 1, |r| matches!(r, Refusal::AddressesExhausted { .. })),
        (|p| p.addresses.clear(), |r| matches!(r, Refusal::AddressesExhausted { .. })),
    ];
    for (change, expect) in cases {
        let mut world = World::new(2);
        let mut wrong = part(2);
        change(&mut wrong);
        world.say(hold(wrong));
        assert!(expect(refusal(&world)), "{}", refusal(&world));
        assert!(world.site.is_idle() && world.records.is_empty());
    }
    for (account, is_root) in [
        (Err(Refusal::UserNotMapped { site: "a".parse().unwrap(), user: "alice".into() }), false),
        (Ok(crm::site::Account { name: "toor".parse().unwrap(), uid: 0, gid: 0 }), true),
    ] {
        let mut world = World::new(2);
        world.say(Event::Hold { reservation: R, version: V, part: part(1), account });
        match refusal(&world) {
            Refusal::AgainstPolicy { .. } => assert!(is_root),
            Refusal::UserNotMapped { .. } => assert!(!is_root),
            other => panic!("{other}"),
        }
        assert!(world.site.is_idle() && world.records.is_empty());
    }
}

#[test]
fn busy_nodes_are_said_to_be_busy_and_addresses_are_never_shared() {
    let mut world = World::new(3);
    world.say(hold(part(2)));
    world.say(COMMIT);
    let other = |members, first: [u8; 4]| {
        let addresses = vec![AddressBlock { first: first.into(), count: members }];
        hold_of(ReservationId(2), V, protocol::site::Part { addresses, ..part(members) })
    };
    world.say(other(2, [10, 71, 128, 100]));
    let refused = refusal(&world);
    assert!(
        matches!(refused, Refusal::NoRoom { asked: 2, have: 1, in_s, .. } if in_s == &[3600]),
        "{refused}"
    );
    world.say(other(1, [10, 71, 128, 10]));
    assert!(matches!(refusal(&world), Refusal::AddressesExhausted { .. }));
    world.say(other(1, [10, 71, 128, 100]));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.offer().nodes_free, 0);
    world.say(Event::Grc(ToSite::Release { reservation: ReservationId(2), version: V }));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.offer().nodes_free, 1);
}

#[test]
fn a_lost_agent_fails_the_part_by_name_and_its_node_comes_back_after_a_sweep() {
    let mut world = joined(2);
    world.say(lost(pilot(1)));
    world.pass(Duration::from_secs(12));
    assert_eq!(world.heard(is_failed), 0, "it may come back");
    world.pass(Duration::from_secs(1));
    let told = failure(&world);
    assert_eq!((told.step, told.node.as_ref().unwrap().as_str()), (Step::Running, "a2"));
    assert_eq!(world.swept, 1);
    // The other member is kept until the GRC says End.
    assert_eq!(world.site.holdings(), (1, 1));
    world.say(END);
    assert!(world.site.is_idle());
}

#[test]
fn the_agents_own_cause_is_what_the_user_reads() {
    let mut world = joined(2);
    let cause = Failure::new(Step::Running, "the Launcher died", "see the batch system");
    let state = Notice::StateChanged { state: State::TearingDown, cause: Some(cause) };
    world.say(Event::Noticed { pilot: pilot(0), notice: state });
    let told = failure(&world);
    assert_eq!(told.cause.as_str(), "the Launcher died");
    assert_eq!((told.site.as_ref().unwrap().as_str(), told.node.as_ref().unwrap().as_str()), ("a", "a1"));
}

/// Its node knows only that it was told to end.
#[test]
fn why_the_batch_system_ended_a_pilot_is_what_the_user_reads() {
    let ended = |world: &mut World| {
        let cause = Failure::new(Step::Running, ENDED_BY_BATCH_SYSTEM, "see the batch system");
        let state = Notice::StateChanged { state: State::TearingDown, cause: Some(cause) };
        world.mute = true;
        world.say(Event::Noticed { pilot: pilot(1), notice: state });
        let asked = world.asked;
        world.say(Event::Noticed { pilot: pilot(1), notice: Notice::Gone { dirty: None, cause: None } });
        assert_eq!(world.heard(is_failed), 0, "it is not known why yet");
        assert_eq!(world.asked, asked, "a cancel would be taken for the reason");
    };
    let mut world = joined(2);
    ended(&mut world);
    let asked = world.asked;
    world.say(Event::BatchGone { pilot: pilot(1), reason: "its time was over".into() });
    assert_eq!(world.asked, asked + 1, "its token is void from then on");
    let told = failure(&world);
    assert_eq!(told.cause.as_str(), "the batch system ended the pilot: its time was over");
    assert_eq!(told.node.as_ref().unwrap().as_str(), "a2");

    let mut world = joined(2);
    ended(&mut world);
    world.pass(Duration::from_secs(10));
    let cause = format!("{ENDED_BY_BATCH_SYSTEM}; in 10 s it did not say why");
    assert_eq!(failure(&world).cause.as_str(), cause);
}

#[test]
fn a_pilot_that_cannot_be_confirmed_gone_keeps_its_node_and_address() {
    let mut world = joined(1);
    // SHUTDOWN and the cancel after it stay without effect.
    world.fault = Some((world.asked, Fault::Silence));
    world.say(END);
    let cancelled = world.asked;
    world.fault = Some((cancelled, Fault::Silence));
    world.wait(|w| w.heard(is_ended) > 0);
    assert_eq!(world.site.holdings(), (1, 1));
    let dirty = world.told.iter().find_map(|message| match message {
        FromSite::Ended { dirty, .. } => Some(dirty.clone()),
        _ => None,
    });
    assert_eq!(dirty.unwrap()[0].0.as_str(), "a1");
    assert_eq!((world.offer().nodes_usable, world.offer().unusable.len()), (0, 1));
    assert_eq!(world.offer().reserved.len(), 1, "its address is not to be carved");
    // Later the batch system gets rid of it.
    world.wait(|w| w.site.is_idle());
    world.wait(|w| w.offer().nodes_usable == 1);
    assert_eq!(world.site.holdings(), (0, 0));
    assert_eq!(world.heard(is_ended), 1);
}

#[test]
fn only_an_awaited_pilot_of_the_right_account_is_let_in() {
    let mut world = World::new(1);
    world.fault = Some((0, Fault::Silence));
    world.say(hold(part(1)));
    assert!(world.site.expects(pilot(0), 1001).is_err(), "it was not submitted yet");
    world.say(COMMIT);
    assert!(world.site.expects(pilot(0), 1002).unwrap_err().to_string().contains("runs as 1002"));
    assert!(world.site.expects(pilot(1), 1001).is_err());
    world.site.expects(pilot(0), 1001).unwrap();
    world.say(arrived(pilot(0), [3; 16]));
    assert!(world.site.expects(pilot(0), 1001).is_err(), "it is there already");
}

#[test]
fn commands_go_to_their_members_and_agents_speak_for_their_own_only() {
    let mut world = joined(2);
    world.say(exec(Target::Head));
    let output = |pilot, text: &'static str| Event::Noticed {
        pilot,
        notice: Notice::Output { job: J, stream: Stream::Stdout, offset: 0, bytes: text.as_bytes().into() },
    };
    world.say(output(pilot(1), "forged"));
    world.say(output(pilot(0), "true"));
    let exited = Notice::Exited { job: J, status: ExitStatus::Code(0), hits: Hits::default() };
    world.say(Event::Noticed { pilot: pilot(1), notice: exited.clone() });
    world.say(Event::Noticed { pilot: pilot(0), notice: exited });
    let saved = ToSite::ExitSaved { reservation: R, epoch: E, job: J, member: 0 };
    world.say(Event::Grc(saved));
    world.say(output(pilot(0), "late"));
    assert!(world.passed.contains(&(pilot(0), Request::ExitSaved { job: J })));
    let relayed: Vec<_> = world
        .told
        .iter()
        .filter_map(|message| match message {
            FromSite::Output { member, bytes, .. } => Some(format!("{member} {}", bytes.escape_ascii())),
            FromSite::Exited { member, .. } => Some(format!("{member} exited")),
            _ => None,
        })
        .collect();
    // In front of the end, where both streams end.
    assert_eq!(relayed, ["0 true", "0 ", "0 ", "0 exited"]);
}

#[test]
fn a_command_for_members_that_do_not_run_is_refused_for_each() {
    let mut world = World::new(2);
    world.say(hold(part(2)));
    world.say(COMMIT);
    world.say(exec(Target::All));
    assert_eq!(world.heard(|m| matches!(m, FromSite::ExecFailed { .. })), 2);
}

#[test]
fn a_ring_that_changes_what_this_site_said_is_not_installed() {
    type Change = fn(&mut protocol::keys::KeyRing);
    let changes: [Change; 4] = [
        |ring| ring.members[1].address = [10, 71, 128, 200].into(),
        |ring| ring.members[0].keys.host.0[0] ^= 1,
        |ring| drop(ring.members.pop()),
        |ring| ring.user = "bob".parse().unwrap(),
    ];
    for change in changes {
        let mut world = World::new(2);
        world.say(hold(part(2)));
        world.say(COMMIT);
        let mut wrong = ring(&world.told).unwrap();
        change(&mut wrong);
        world.say(Event::Grc(ToSite::Join { reservation: R, epoch: E, ring: wrong }));
        assert_eq!(failure(&world).step, Step::SetKeys);
        assert_eq!(world.heard(is_joined), 0);
    }
}

#[test]
fn stopping_ends_all_pilots_keeps_what_was_granted_and_votes_for_nothing_new() {
    let mut world = joined(2);
    world.say(Event::Stop);
    world.wait(|w| w.site.is_quiet());
    assert_eq!((world.heard(is_failed), world.heard(is_ended)), (1, 0));
    assert_eq!(world.site.holdings(), (0, 0));
    world.say(hold_of(ReservationId(9), V, part(1)));
    assert!(matches!(refusal(&world), Refusal::WrongState { .. }));
    world.say(start(Epoch(2)));
    assert_eq!(world.submitted.len(), 2, "nothing begins while the CRM stops");
    // The next one goes on from there.
    world.restart();
    world.say(Event::GrcConnected);
    world.say(start(Epoch(2)));
    assert_eq!(world.submitted.len(), 4);
}
