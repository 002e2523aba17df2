//! Why something waits or failed, in words: `gridpilot explain`. Times are told as spans from now,
//! for the clock face of the reader is not known here.

#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use protocol::client::Explanation;
use protocol::job::JobState;
use protocol::limits::REASONS_MAX;
use protocol::names::{SiteName, Text};
use protocol::refusal::{Failure, Refusal};

use crate::job::{Job, Stage};
use crate::reservation::{Attempt, PartStage, PartState, Phase, Reservation, Why};
use crate::view::Wall;
use crate::wording::{self, show_duration};

/// A site of the reservation that is not connected now.
#[derive(Clone, Debug)]
pub struct Away {
    pub site: SiteName,
    /// `None` is not since the GRC started.
    pub since: Option<Duration>,
    pub why: Option<Text>,
}

pub fn reservation(reservation: &Reservation, wall: Wall, away: &[Away]) -> Explanation {
    let mut reasons: Vec<Text> =
        reservation.failure.iter().map(|failure| cause(failure).as_str().into()).collect();
    let mut hints: Vec<Text> = reservation.failure.iter().map(|f| f.hint.clone()).collect();
    let (id, now) = (reservation.id, wall.now);
    let (summary, stage) = match reservation.phase {
        Phase::Waiting => {
            waits(reservation, now, &mut reasons);
            hints.push("it is tried again whenever something frees or a site comes back".into());
            hints.push(format!("`gridpilot release {id}` gives up").into());
            ("waits until it can be had", None)
        }
        Phase::Holding => ("is being granted: sites and links are asked to hold their share", None),
        Phase::Booked => ("is booked: its window has not begun", None),
        Phase::Starting => ("is starting: pilots come in and sandboxes are built", Some(PartStage::Ready)),
        Phase::Joining => {
            ("is joining: the keys go to all members and services start", Some(PartStage::Joined))
        }
        Phase::Ready => ("is ready", None),
        Phase::Ending => ("is ending: the sites tear down", Some(PartStage::Ended)),
        Phase::Over if reservation.failure.is_some() => ("failed", None),
        Phase::Over => ("has ended", None),
    };
    reasons.extend(window(reservation, now));
    reasons.extend(reservation.attempt.iter().flat_map(|attempt| asked(attempt, reservation)));
    reasons.extend(broken(reservation, now));
    if let Some(stage) = stage {
        let behind = reservation.parts.iter().filter(|part| part.stage < stage);
        reasons.extend(behind.map(|part| waits_for(part, reservation.phase, now)));
    }
    if reservation.phase == Phase::Starting {
        reasons.extend(reservation.parts.iter().filter_map(|part| held(part, now)));
    }
    if reservation.phase != Phase::Over {
        reasons.extend(away.iter().map(|away| is_away(away, now)));
    }
    reasons.extend(reservation.remarks.iter().cloned());
    reasons.truncate(REASONS_MAX);
    hints.retain(|hint| !hint.as_str().is_empty());
    // A state without a deadline of its own is left when the window begins or ends.
    let left = reservation.window().and_then(|window| match reservation.phase {
        Phase::Booked => Some(window.start),
        Phase::Ready => Some(window.end),
        _ => None,
    });
    Explanation {
        summary: format!("reservation {id} {summary}").into(),
        reasons,
        deadline_s: reservation.deadline.or(left).map(|at| wall.at(at)),
        hints,
    }
}

/// What it waits for, and when it could begin.
fn waits(reservation: &Reservation, now: Duration, reasons: &mut Vec<Text>) {
    let mut next_s = reservation.expected.map(|at| left_s(at, now));
    match &reservation.waits_for {
        None => reasons.push("it was accepted just now".into()),
        Some((Why::Refused(Refusal::NoRoom { resource, asked, have, in_s }), found)) => {
            reasons.push(wording::no_room(resource, *asked, *have).into());
            // The spans count from when they were found.
            let from_then = in_s.first().map(|wait_s| left_s(*found + Duration::from_secs(*wait_s), now));
            next_s = next_s.or(from_then);
        }
        Some((why, _)) => reasons.push(why.to_string().into()),
    }
    reasons.push(match next_s {
        Some(0) => "it can begin as soon as it is tried again".into(),
        Some(next_s) => format!("it can begin in {} at the earliest", show_duration(next_s)).into(),
        None => "when it can begin is not known yet".into(),
    });
    if reservation.not_before > now {
        let pause = in_span(reservation.not_before, now);
        reasons.push(format!("it is tried again in {pause}").into());
    }
}

/// What is granted, while that is not the plain present.
fn window(reservation: &Reservation, now: Duration) -> Option<Text> {
    let grant = reservation.grant.as_ref().filter(|_| reservation.phase.is_granted())?;
    let window = grant.window;
    if window.start <= now {
        return None;
    }
    let mut text = format!(
        "it begins in {} and lasts {}",
        in_span(window.start, now),
        in_span(window.end, window.start),
    );
    if window.near() > now {
        text.push_str(&format!("; its pilots come in {}", in_span(window.near(), now)));
    }
    Some(text.into())
}

/// Who has not answered a question that is open: the first grant, or a change.
fn asked(attempt: &Attempt, reservation: &Reservation) -> Vec<Text> {
    let mut reasons: Vec<Text> = Vec::new();
    if let Some(grant) = &reservation.grant {
        let (new, old) = (attempt.version.0, grant.version.0);
        reasons
            .push(format!("a change to version {new} is being asked; version {old} holds until then").into());
    }
    let before = reasons.len();
    let silent = attempt.all.unanswered();
    reasons.extend(silent.map(|site| format!("site {site} has not answered the hold yet").into()));
    if reasons.len() == before {
        reasons.push("all sites hold their share; the links have not answered yet".into());
    }
    reasons
}

/// What became of the incarnations before this one.
fn broken(reservation: &Reservation, now: Duration) -> Vec<Text> {
    let troubles = &reservation.troubles;
    let Some(last) = troubles.last.as_ref().filter(|_| reservation.phase.is_granted()) else {
        return Vec::new();
    };
    let mut reasons: Vec<Text> = vec![format!("its sandboxes were lost: {}", cause(last)).into()];
    let (epoch, count) = (reservation.epoch.0, troubles.count);
    reasons.push(match troubles.next_try {
        Some(at) => format!("they are begun anew in {}; {count} failed in a row", in_span(at, now)).into(),
        None => format!("they are begun anew, as epoch {epoch}; {count} failed in a row").into(),
    });
    reasons
}

fn is_away(Away { site, since, why }: &Away, now: Duration) -> Text {
    match since {
        Some(since) => {
            let span = show_duration(now.saturating_sub(*since).as_secs());
            let why = why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            format!("site {site} has been away for {span}{why}; what it holds stays held").into()
        }
        None => format!("site {site} has not connected since the GRC started").into(),
    }
}

/// Whole seconds until then, a part of one counts.
fn left_s(at: Duration, now: Duration) -> u64 {
    let left = at.saturating_sub(now);
    left.as_secs() + u64::from(left.subsec_nanos() > 0)
}

fn in_span(at: Duration, now: Duration) -> String {
    show_duration(left_s(at, now))
}

fn cause(failure: &Failure) -> String {
    let mut line = failure.step.to_string();
    if let Some(site) = &failure.site {
        line.push_str(&format!(", site {site}"));
    }
    if let Some(node) = &failure.node {
        line.push_str(&format!(", node {node}"));
    }
    format!("{line}: {}", failure.cause)
}

/// Pilots that came and wait for those of others, and until when.
fn held(part: &PartState, now: Duration) -> Option<Text> {
    let until = part.waiting.as_ref()?.held_until?;
    let (site, span) = (&part.site, in_span(until, now));
    Some(
        format!("site {site} holds the pilots that came for {span} more; then it begins them again later")
            .into(),
    )
}

/// What the queue says of the pilots that have not come.
fn queue_says(part: &PartState, now: Duration) -> String {
    let mut text = String::new();
    if let Some(waiting) = part.waiting.as_ref().filter(|waiting| waiting.pilots > 0) {
        text.push_str(&format!("; {} wait", waiting.pilots));
        if !part.queue.as_str().is_empty() {
            text.push_str(&format!(" in its queue ({})", part.queue));
        }
        if !waiting.why.as_str().is_empty() {
            text.push_str(&format!(": {}", waiting.why));
        }
        if let Some(expected) = waiting.expected.filter(|at| *at > now) {
            text.push_str(&format!(", expected to start in {}", in_span(expected, now)));
        }
        if let Some(until) = waiting.until {
            text.push_str(&format!(", given up in {}", in_span(until, now)));
        }
    }
    if let Some(again) = part.again {
        text.push_str("; they came before the others and were released, ");
        match again > now {
            true => text.push_str(&format!("and begin again in {}", in_span(again, now))),
            false => text.push_str("and begin again now"),
        }
    }
    text
}

fn waits_for(part: &PartState, phase: Phase, now: Duration) -> Text {
    let (site, wanted, progress) = (&part.site, part.members, part.progress);
    match phase {
        Phase::Starting => format!(
            "site {site}: of {wanted} pilots {} are with the batch system, {} are in, {} sandboxes stand{}",
            progress.submitted.min(wanted),
            progress.arrived.min(wanted),
            progress.built.min(wanted),
            queue_says(part, now)
        ),
        Phase::Joining => {
            format!("site {site}: {} of {wanted} members have joined", progress.joined.min(wanted))
        }
        _ => format!("site {site} has not confirmed yet that everything is gone"),
    }
    .into()
}

/// `within` is the job's reservation, unless it was forgotten; `away` is of that.
pub fn job(job: &Job, within: Option<&Reservation>, wall: Wall, away: &[Away]) -> Explanation {
    let id = job.id;
    let explained = |summary: String, reasons, hints| Explanation {
        summary: summary.into(),
        reasons,
        deadline_s: None,
        hints,
    };
    match (&job.state, within) {
        (JobState::Waiting, Some(within)) => {
            let mut explanation = reservation(within, wall, away);
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
                away.iter().map(|away| is_away(away, wall.now)).collect(),
                vec![format!("`gridpilot log -f {id}` shows its output").into()],
            );
            if job.stage == Stage::Stopping {
                explanation.summary = format!("job {id} is being stopped on {members} member(s)").into();
            }
            let window = within.and_then(Reservation::window);
            explanation.deadline_s = window.map(|window| wall.at(window.end));
            explanation
        }
        (JobState::Done(status), _) => {
            explained(format!("job {id} ended by itself with code {}", status.code()), vec![], vec![])
        }
        (JobState::Failed(failure), _) => {
            let hints = Some(failure.hint.clone()).filter(|hint| !hint.as_str().is_empty());
            explained(format!("job {id} failed"), vec![cause(failure).into()], hints.into_iter().collect())
        }
        (JobState::Cancelled, _) => explained(format!("job {id} was cancelled"), vec![], vec![]),
    }
}
