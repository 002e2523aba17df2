//! Signals for a job: they reach every member, and a member where something does not die is ended.

use crm::site::{Action, Asked, Event};
use protocol::job::Target;
use protocol::node::{Reply, Request};
use protocol::refusal::{Failure, Step};
use protocol::site::{FromSite, ToSite};

use crate::said::*;
use crate::world::{E, J, R, World, exec, hold, part};

#[test]
fn a_signal_reaches_members_that_do_not_run_the_job_and_one_that_cannot_kill_is_ended_by_name() {
    let mut world = World::new(2);
    world.say(hold(part(2)));
    world.say(COMMIT);
    world.wait(|w| w.heard(is_ready) > 0);
    let join = join(&world).unwrap();
    world.say(join);
    world.wait(|w| w.heard(is_joined) > 0);
    world.say(exec(Target::Head));
    let signal = Event::Grc(ToSite::Signal { reservation: R, epoch: E, job: J, signal: 9 });
    let now = world.now;
    let asked: Vec<_> = world
        .site
        .step(now, signal)
        .into_iter()
        .filter_map(|action| match action {
            Action::Ask { pilot, asked, request: Request::Signal { job: J, signal: 9 } } => {
                Some((pilot, asked))
            }
            _ => None,
        })
        .collect();
    assert_eq!(asked.iter().map(|(pilot, _)| pilot.member).collect::<Vec<_>>(), [0, 1]);
    // Both answers come; only the second changes anything.
    let (pilot, _) = asked[1];
    world.say(Event::Answered { pilot: asked[0].0, asked: Asked::Signal(J), reply: Reply::Done });
    assert_eq!(world.heard(is_failed), 0);
    let failure = Failure::new(Step::Running, "1 processes of j1 did not die of SIGKILL within 8 s", "");
    world.say(Event::Answered { pilot, asked: Asked::Signal(J), reply: Reply::Failed(failure) });
    let told = world.told.iter().rev().find_map(|message| match message {
        FromSite::Failed { failure, .. } => Some(failure.to_string()),
        _ => None,
    });
    let told = told.expect("the GRC hears of it");
    assert!(told.contains("site a, node") && told.contains("did not die of SIGKILL"), "{told}");
}
