//! Random histories of the owner: anything in any order, repeated, with silence in between. What
//! must hold whatever happened: ended means given back, and nothing is said that cannot be.

mod common;

use std::time::Duration;

use common::{E, J, R, World, account, exec, hold, keys, part, ring};
use crm::pilot::PilotId;
use crm::site::{Asked, Event};
use proptest::prelude::*;
use protocol::ids::Epoch;
use protocol::job::{ExitStatus, Target};
use protocol::node::{Notice, Reply, State};
use protocol::refusal::{Failure, Refusal, Step};
use protocol::site::{FromSite, ToSite};

const KINDS: usize = 27;

fn event(kind: usize, member: u32, world: &World) -> Option<Event> {
    let pilot = PilotId { reservation: R, epoch: E, member };
    let answered = |asked, reply| Event::Answered { pilot, asked, reply };
    let noticed = |notice| Event::Noticed { pilot, notice };
    let failed = || Reply::Failed(Failure::new(Step::Setup, "no memory", ""));
    Some(match kind {
        0 | 1 => hold(part(2)),
        2 | 3 => Event::Grc(ToSite::Commit { reservation: R, epoch: E }),
        // Only an awaited pilot is let in; the driver asks first.
        4..=6 if world.site.expects(pilot, 1001).is_ok() => Event::Arrived { pilot, nonce: [1; 16] },
        4..=6 => return None,
        7 | 8 => answered(Asked::Setup, Reply::Done),
        9 | 10 => answered(Asked::GetKeys, Reply::Keys(keys(member))),
        11 => Event::Grc(ToSite::Join { reservation: R, epoch: E, ring: ring(&world.told)? }),
        12 => answered(Asked::SetKeys, Reply::Done),
        13 => answered(Asked::Run, Reply::Done),
        14 => answered(Asked::Setup, failed()),
        15 => answered(Asked::Run, Reply::Refused(Refusal::ZeroNodes)),
        16 => noticed(Notice::StateChanged { state: State::TearingDown, cause: None }),
        17 => noticed(Notice::Gone { dirty: None, cause: None }),
        18 => noticed(Notice::Gone { dirty: Some("a mount".into()), cause: None }),
        19 => Event::AgentLost { pilot, cause: "reset".into() },
        20 => Event::BatchGone { pilot, reason: "exit code 1".into() },
        21 => Event::Swept { pilot, outcome: if member == 0 { Ok(()) } else { Err("busy".into()) } },
        22 => exec(Target::All),
        23 => noticed(Notice::Exited { job: J, status: ExitStatus::Code(0) }),
        24 => Event::Grc(ToSite::End { reservation: R, epoch: E }),
        25 => Event::GrcLost,
        _ => Event::GrcConnected,
    })
}

fn count(told: &[FromSite], want: impl Fn(&FromSite) -> bool) -> usize {
    told.iter().filter(|message| want(message)).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_an_end_gives_everything_back(
        history in prop::collection::vec((0..KINDS, 0u32..2, 0u64..3, any::<bool>()), 0..60)
    ) {
        let mut world = World::new(2);
        world.mute = true;
        for (kind, member, seconds, twice) in history {
            world.now += Duration::from_secs(seconds * seconds * seconds);
            let Some(event) = event(kind, member, &world) else { continue };
            if let Event::BatchGone { pilot, .. } = event {
                // Said of pilots only that there are, and once: cancelling it has no echo.
                if !world.alive.remove(&pilot) {
                    continue;
                }
            }
            let again = twice.then(|| event.clone()).filter(|e| !matches!(e, Event::Arrived { .. }));
            world.say(event);
            again.into_iter().for_each(|event| world.say(event));
            let (places, addresses) = world.site.holdings();
            prop_assert_eq!(places as usize, addresses);
            prop_assert!(places <= 2);
        }
        let told = &world.told;
        let ready = count(told, |m| matches!(m, FromSite::SiteReady { .. }));
        let joined = count(told, |m| matches!(m, FromSite::Joined { .. }));
        let exited = count(told, |m| matches!(m, FromSite::Exited { .. }));
        prop_assert!(ready <= 1 && joined <= ready && exited <= 2, "{} {} {}", ready, joined, exited);
        for pilot in 0..2 {
            let submitted = world.submitted.iter().filter(|p| p.member == pilot && p.epoch == E).count();
            prop_assert!(submitted <= 1, "pilot {} was submitted {} times", pilot, submitted);
        }

        world.mute = false;
        world.say(Event::GrcConnected);
        world.say(Event::Grc(ToSite::End { reservation: R, epoch: E }));
        world.wait(|w| w.site.is_idle());
        prop_assert!(world.site.is_idle());
        prop_assert_eq!(world.site.holdings(), (0, 0));
        world.wait(|w| w.offer().nodes_free == 2);
        prop_assert!(world.offer().unusable.is_empty() && world.offer().reserved.is_empty());
        // The site is as good as new.
        world.told.clear();
        world.say(Event::Hold { reservation: R, epoch: Epoch(2), part: part(2), account: Ok(account()) });
        prop_assert_eq!(count(&world.told, |m| matches!(m, FromSite::Held { .. })), 1);
    }
}
