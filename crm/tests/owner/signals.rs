//! Signals for a job: they reach every member, and a member where something does not die is ended.

use crm::site::{Action, Asked, Event};
use protocol::job::Target;
use protocol::node::{Reply, Request, State};
use protocol::refusal::{Failure, Step};
use protocol::site::{FromSite, ToSite};

use crate::said::*;
use crate::world::{E, J, R, World, back, exec, hold, lost, part};

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

fn kill() -> Event {
    Event::Grc(ToSite::Signal { reservation: R, epoch: E, job: J, signal: 9 })
}

fn nothing_runs(message: &FromSite) -> bool {
    matches!(message, FromSite::NothingRuns { reservation: R, epoch: E, job: J })
}

#[test]
fn a_job_that_was_stopped_before_its_command_came_is_never_started() {
    let mut world = joined(2);
    world.say(kill());
    assert_eq!(world.heard(nothing_runs), 1);
    world.say(exec(Target::All));
    assert_eq!(world.started, [], "it came too late");
    world.say(kill());
    assert_eq!(world.heard(nothing_runs), 2, "and the answer is the same");
}

#[test]
fn that_nothing_of_a_job_runs_is_said_when_all_ends_are_saved_and_not_before() {
    let mut world = joined(2);
    world.say(exec(Target::All));
    world.say(kill());
    world.run_commands();
    world.say(kill());
    assert_eq!(world.heard(nothing_runs), 0, "how it ended is told first");
    for member in 0..2 {
        assert_eq!(world.heard(nothing_runs), 0);
        world.say(Event::Grc(ToSite::ExitSaved { reservation: R, epoch: E, job: J, member }));
        world.say(kill());
    }
    assert_eq!(world.heard(nothing_runs), 1);
}

/// It is not known to a CRM that was started anew, but to agents.
#[test]
fn a_signal_reaches_what_a_crm_of_before_has_started_and_its_end_is_told() {
    let mut world = joined(2);
    world.say(exec(Target::Head));
    world.restart();
    world.say(Event::GrcConnected);
    world.passed.clear();
    world.say(kill());
    assert_eq!(world.heard(nothing_runs), 0);
    assert!(world.passed.contains(&(pilot(0), Request::Resend { job: J })), "{:?}", world.passed);
    world.run_commands();
    let exited = |message: &FromSite| matches!(message, FromSite::Exited { job: J, member: 0, .. });
    assert_eq!(world.heard(exited), 1);
}

#[test]
fn a_member_that_is_away_is_signalled_when_it_is_back() {
    let mut world = joined(2);
    world.say(exec(Target::All));
    world.say(lost(pilot(1)));
    world.say(kill());
    let now = world.now;
    let actions = world.site.step(now, back(pilot(1), State::Running, None));
    let signalled = |action: &Action| {
        matches!(action, Action::Ask { pilot: one, request: Request::Signal { job: J, signal: 9 }, .. }
            if *one == pilot(1))
    };
    assert!(actions.iter().any(signalled), "{actions:?}");
}
