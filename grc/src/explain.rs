//! Why something waits or failed, in words: `gridpilot explain`.

use protocol::client::Explanation;
use protocol::job::JobState;
use protocol::limits::REASONS_MAX;
use protocol::names::Text;
use protocol::refusal::Failure;

use crate::job::{Job, Stage};
use crate::reservation::{PartStage, PartState, Phase, Reservation};
use crate::view::Wall;

pub fn reservation(reservation: &Reservation, wall: Wall) -> Explanation {
    let mut reasons: Vec<Text> = reservation.failure.iter().map(cause).collect();
    let mut hints: Vec<Text> = reservation.failure.iter().map(|f| f.hint.clone()).collect();
    let id = reservation.id;
    let (summary, stage) = match reservation.phase {
        Phase::Waiting => {
            reasons.extend(reservation.waits_for.iter().map(|refusal| refusal.to_string().into()));
            if reservation.waits_for.is_none() {
                reasons.push("it was accepted just now".into());
            }
            hints.push("it is tried again whenever a site frees nodes or comes back".into());
            hints.push(format!("`gridpilot release {id}` gives up").into());
            ("waits for free nodes", None)
        }
        Phase::Holding => {
            ("is being granted: the sites are asked to hold their share", Some(PartStage::Held))
        }
        Phase::Starting => ("is starting: pilots come in and sandboxes are built", Some(PartStage::Ready)),
        Phase::Joining => {
            ("is joining: the keys go to all members and services start", Some(PartStage::Joined))
        }
        Phase::Ready => ("is ready", None),
        Phase::Ending => ("is ending: the sites tear down", Some(PartStage::Ended)),
        Phase::Over if reservation.failure.is_some() => ("failed", None),
        Phase::Over => ("has ended", None),
    };
    if let Some(stage) = stage {
        let behind = reservation.parts.iter().filter(|part| part.stage < stage);
        reasons.extend(behind.map(|part| waits_for(part, reservation.phase)));
    }
    reasons.extend(reservation.dirty.iter().cloned());
    reasons.truncate(REASONS_MAX);
    hints.retain(|hint| !hint.as_str().is_empty());
    Explanation {
        summary: format!("reservation {id} {summary}").into(),
        reasons,
        deadline_s: reservation
            .deadline
            .or(reservation.ends.filter(|_| reservation.phase == Phase::Ready))
            .map(|at| wall.at(at)),
        hints,
    }
}

fn cause(failure: &Failure) -> Text {
    let mut line = failure.step.to_string();
    if let Some(site) = &failure.site {
        line.push_str(&format!(", site {site}"));
    }
    if let Some(node) = &failure.node {
        line.push_str(&format!(", node {node}"));
    }
    format!("{line}: {}", failure.cause).into()
}

fn waits_for(part: &PartState, phase: Phase) -> Text {
    let (site, wanted, progress) = (&part.site, part.members, part.progress);
    match phase {
        Phase::Starting => format!(
            "site {site}: of {wanted} pilots {} are with the batch system, {} are in, {} sandboxes stand",
            progress.submitted.min(wanted),
            progress.arrived.min(wanted),
            progress.built.min(wanted)
        ),
        Phase::Joining => {
            format!("site {site}: {} of {wanted} members have joined", progress.joined.min(wanted))
        }
        Phase::Ending => format!("site {site} has not confirmed yet that everything is gone"),
        _ => format!("site {site} has not answered yet"),
    }
    .into()
}

/// `within` is the job's reservation, unless it was forgotten.
pub fn job(job: &Job, within: Option<&Reservation>, wall: Wall) -> Explanation {
    let id = job.id;
    let explained = |summary: String, reasons, hints| Explanation {
        summary: summary.into(),
        reasons,
        deadline_s: None,
        hints,
    };
    match (&job.state, within) {
        (JobState::Waiting, Some(within)) => {
            let mut explanation = reservation(within, wall);
            let reason = explanation.summary;
            explanation.summary = format!("job {id} waits for its reservation").into();
            explanation.reasons.insert(0, reason);
            explanation.reasons.truncate(REASONS_MAX);
            explanation.hints.push(format!("`gridpilot cancel {id}` gives up").into());
            explanation
        }
        (JobState::Waiting, None) => explained(format!("job {id} waits"), vec![], vec![]),
        (JobState::Running, within) => {
            let members: usize = job.running.values().map(Vec::len).sum();
            let mut explanation = explained(
                format!("job {id} runs on {members} member(s)"),
                vec![],
                vec![format!("`gridpilot log -f {id}` shows its output").into()],
            );
            if job.stage == Stage::Stopping {
                explanation.summary = format!("job {id} is being stopped on {members} member(s)").into();
            }
            explanation.deadline_s = within.and_then(|within| within.ends).map(|at| wall.at(at));
            explanation
        }
        (JobState::Done(status), _) => {
            explained(format!("job {id} ended by itself with code {}", status.code()), vec![], vec![])
        }
        (JobState::Failed(failure), _) => {
            let hints = Some(failure.hint.clone()).filter(|hint| !hint.as_str().is_empty());
            explained(format!("job {id} failed"), vec![cause(failure)], hints.into_iter().collect())
        }
        (JobState::Cancelled, _) => explained(format!("job {id} was cancelled"), vec![], vec![]),
    }
}
