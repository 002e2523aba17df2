//! Random histories of the owner: anything in any order, repeated, with silence in between. What
//! must hold whatever happened: ended means given back, and nothing is said that cannot be.

use std::time::Duration;

use crm::pilot::{PilotId, Round};
use crm::site::{Asked, Event};
use proptest::prelude::*;
use protocol::ids::{Epoch, ReservationId, Version};
use protocol::job::{ExitStatus, Hits, Target};
use protocol::node::{Notice, Reply, State};
use protocol::refusal::{Failure, Refusal, Step};
use protocol::site::{FromSite, Part, Remaining, ToSite};

use crate::world::{J, R, World, arrived, commit, exec_in, hold_of, keys, lost, part, ring};

const KINDS: usize = 32;

fn event(kind: usize, member: u32, n: u32, world: &World) -> Option<Event> {
    let (epoch, version) = (Epoch(1 + n % 3), Version(1 + n % 3));
    let pilot = PilotId { reservation: R, round: Round(epoch.0), member };
    let answered = |asked, reply| Event::Answered { pilot, asked, reply };
    let noticed = |notice| Event::Noticed { pilot, notice };
    let failed = || Reply::Failed(Failure::new(Step::Setup, "no memory", ""));
    let window =
        Remaining { starts_in_ms: u64::from(n % 4) * 7000, ends_in_ms: 60_000 + u64::from(n) * 1000 };
    Some(match kind {
        0 | 1 => hold_of(R, version, Part { window, ..part(1 + n % 2) }),
        2 | 3 => commit(version, window),
        // Only an awaited pilot is let in; the driver asks first.
        4..=6 if world.site.expects(pilot, 1001).is_ok() => arrived(pilot, [1; 16]),
        4..=6 => return None,
        7 | 8 => answered(Asked::Setup, Reply::Done),
        9 | 10 => answered(Asked::GetKeys, Reply::Keys(keys(member))),
        11 => Event::Grc(ToSite::Join { reservation: R, epoch, ring: ring(&world.told)? }),
        12 => answered(Asked::SetKeys, Reply::Done),
        13 => answered(Asked::Run, Reply::Done),
        14 => answered(Asked::Setup, failed()),
        15 => answered(Asked::Run, Reply::Refused(Refusal::ZeroNodes)),
        16 => noticed(Notice::StateChanged { state: State::TearingDown, cause: None }),
        17 if world.arrived.contains(&pilot) => noticed(Notice::Gone { dirty: None, cause: None }),
        18 if world.arrived.contains(&pilot) => {
            noticed(Notice::Gone { dirty: Some("a mount".into()), cause: None })
        }
        19 => lost(pilot),
        20 => Event::BatchGone { pilot, reason: "exit code 1".into() },
        21 => Event::Swept { pilot, outcome: if member == 0 { Ok(()) } else { Err("busy".into()) } },
        22 => exec_in(epoch, J, Target::All),
        23 => noticed(Notice::Exited { job: J, status: ExitStatus::Code(0), hits: Hits::default() }),
        24 => Event::Grc(ToSite::ExitSaved { reservation: R, epoch, job: J, member }),
        25 => Event::GrcLost,
        26 => Event::GrcConnected,
        27 | 28 => Event::Grc(ToSite::Start { reservation: R, epoch, window }),
        29 => Event::Grc(ToSite::Release { reservation: R, version }),
        30 if n == 0 => Event::Grc(ToSite::End { reservation: R }),
        _ => Event::Tick,
    })
}

fn count(told: &[FromSite], want: impl Fn(&FromSite) -> bool) -> usize {
    told.iter().filter(|message| want(message)).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Beside what is asserted here, the world sees to it that no pilot is submitted twice, that no
    /// command is started twice, and that nobody is given what somebody alive has.
    #[test]
    fn whatever_happened_an_end_gives_everything_back(
        history in prop::collection::vec((0..KINDS + 1, 0u32..2, 0u32..12, 0u64..3, any::<bool>()), 0..60)
    ) {
        let mut world = World::new(2);
        world.mute = true;
        for (kind, member, n, seconds, twice) in history {
            world.now += Duration::from_secs(seconds * seconds * seconds);
            if kind == KINDS {
                world.restart();
                world.say(Event::GrcConnected);
                continue;
            }
            let Some(event) = event(kind, member, n, &world) else { continue };
            if let Event::BatchGone { pilot, .. } = event {
                // Said of pilots only that there are, and once: cancelling it has no echo.
                if !world.alive.remove(&pilot) {
                    continue;
                }
            }
            if let Event::Noticed { pilot, notice: Notice::Gone { dirty: None, .. } } = event {
                // The monitor has confirmed it, if it ever was there.
                world.arrived.contains(&pilot).then(|| world.alive.remove(&pilot));
            }
            if let Event::Arrived { pilot, .. } = event {
                world.arrived.insert(pilot);
            }
            let again = twice.then(|| event.clone()).filter(|e| !matches!(e, Event::Arrived { .. }));
            world.say(event);
            again.into_iter().for_each(|event| world.say(event));
            let (places, addresses) = world.site.holdings();
            prop_assert_eq!(places as usize, addresses);
            world.check();
        }
        world.mute = false;
        world.say(Event::GrcConnected);
        world.say(Event::Grc(ToSite::End { reservation: R }));
        world.pass(Duration::from_secs(200));
        prop_assert!(world.site.is_idle());
        prop_assert!(world.records.is_empty() && world.alive.is_empty());
        prop_assert_eq!(world.site.holdings(), (0, 0));
        prop_assert_eq!(world.offer().nodes_free, 2);
        prop_assert!(world.offer().unusable.is_empty() && world.offer().reserved.is_empty());
        // The site is as good as new.
        world.told.clear();
        world.say(hold_of(ReservationId(2), Version(1), part(2)));
        prop_assert_eq!(count(&world.told, |m| matches!(m, FromSite::Held { .. })), 1);
    }
}
