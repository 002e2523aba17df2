//! What people see: plain columns, no frames, so that a terminal and `awk` both like them.
//! Names come from other users and machines and are escaped here whatever their types promise.

use std::io::IsTerminal;

use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use protocol::client::{Explanation, SiteView};
use protocol::job::{ExitStatus, JobState, JobView, Target};
use protocol::reservation::{PairView, QueueView, ReservationState, ReservationView, UsagePoint};

use super::hits;
use super::json::job_state;
use super::values::show_duration;
use crate::rates;

/// No byte of this moves a terminal's cursor, changes its colours or turns the text around.
pub fn safe(text: impl ToString) -> String {
    let mut out = String::new();
    for c in text.to_string().chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Width of the terminal at this end; `None` for files and pipes, whose lines are not broken.
pub fn width(end: &(impl IsTerminal + std::os::fd::AsFd)) -> Option<u16> {
    if !end.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(end).ok().map(|size| size.ws_col).filter(|columns| *columns > 0)
}

/// A moment on this machine's clock face; the date only when it is another day.
pub fn moment(seconds: u64) -> String {
    let local = |time: Timestamp| time.to_zoned(TimeZone::system());
    let Some(time) = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok()).map(local)
    else {
        return "?".to_owned();
    };
    let form = if time.date() == local(Timestamp::now()).date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
    time.strftime(form).to_string()
}

fn moment_or_dash(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), moment)
}

fn text_or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn list<T: ToString>(values: &[T]) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    values.iter().map(safe_ref).collect::<Vec<_>>().join(" ")
}

fn safe_ref<T: ToString>(value: &T) -> String {
    safe(value.to_string())
}

fn render(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    match width(&std::io::stdout()) {
        Some(columns) => {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    table.set_header(header.iter().copied());
    table.add_rows(rows);
    table.lines().map(|line| format!("{}\n", line.trim_end().trim_start_matches(' '))).collect()
}

pub fn sites(sites: &[SiteView]) -> String {
    let rows = sites.iter().map(|site| {
        vec![
            safe(&site.name),
            if site.connected { "up" } else { "down" }.to_owned(),
            text_or_dash(safe(&site.batch_system)),
            format!("{}/{}", site.nodes_free, site.nodes_usable),
            list(&site.ranges),
            list(&site.environments),
            moment_or_dash(site.last_seen_s),
        ]
    });
    let header = ["SITE", "STATE", "BATCH", "FREE/NODES", "RANGES", "ENVIRONMENTS", "LAST SEEN"];
    let mut text = render(&header, rows.collect());
    for site in sites {
        for problem in &site.problems {
            text.push_str(&format!("site {}: {}\n", safe(&site.name), safe(problem)));
        }
    }
    text
}

pub fn jobs(jobs: &[JobView]) -> String {
    let rows = jobs.iter().map(|job| {
        vec![
            job.id.to_string(),
            state_with_code(&job.state),
            job.reservation.to_string(),
            job.label.as_ref().map_or_else(|| "-".to_owned(), safe_ref),
            moment(job.submitted_s),
            ran_for(job),
            safe(&job.command),
        ]
    });
    let header = ["JOB", "STATE", "IN", "NAME", "SUBMITTED", "RAN", "COMMAND"];
    of_users(&header, rows.collect(), jobs.iter().map(|job| &job.user))
}

pub fn reservations(reservations: &[ReservationView]) -> String {
    let rows = reservations.iter().map(|view| {
        let [starts, ends] = window(view);
        vec![
            view.id.to_string(),
            view.state.to_string(),
            placement(view),
            view.slots.to_string(),
            view.label.as_ref().map_or_else(|| "-".to_owned(), safe_ref),
            moment(view.made_s),
            starts,
            ends,
        ]
    });
    let header = ["RESERVATION", "STATE", "NODES", "SLOTS", "NAME", "MADE", "STARTS", "ENDS"];
    of_users(&header, rows.collect(), reservations.iter().map(|view| &view.user))
}

/// A table that says whose each row is, if it is not all one user's.
fn of_users<'a>(
    header: &[&str],
    mut rows: Vec<Vec<String>>,
    users: impl Iterator<Item = &'a protocol::names::Text>,
) -> String {
    let users: Vec<_> = users.collect();
    let mut header = header.to_vec();
    if users.windows(2).any(|two| two[0] != two[1]) {
        header.insert(1, "USER");
        rows.iter_mut().zip(users).for_each(|(row, user)| row.insert(1, safe(user)));
    }
    render(&header, rows)
}

/// Start and end; of one that waits nobody can say them for sure.
fn window(view: &ReservationView) -> [String; 2] {
    match view.state {
        ReservationState::Waiting | ReservationState::Holding => ["-", "-"].map(str::to_owned),
        _ => [view.starts_s, view.ends_s].map(moment),
    }
}

fn rate_or_dash(kbit: Option<u32>) -> String {
    kbit.map_or_else(|| "-".to_owned(), rate)
}

fn rate(kbit: u32) -> String {
    rates::show(kbit.into())
}

pub fn usage(points: &[UsagePoint]) -> String {
    let rows = points.iter().map(|point| {
        vec![
            moment(point.at_s),
            safe(&point.from),
            safe(&point.to),
            rate(point.granted_kbit),
            rate(point.used_kbit),
        ]
    });
    render(&["AT", "FROM", "TO", "GRANTED", "USED"], rows.collect())
}

fn placement(view: &ReservationView) -> String {
    let parts: Vec<_> =
        view.parts.iter().map(|part| format!("{}={}", safe(&part.site), part.nodes)).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(",") }
}

fn state_with_code(state: &JobState) -> String {
    match state {
        JobState::Done(ExitStatus::Code(code)) => format!("done ({code})"),
        JobState::Done(ExitStatus::Signal(signal)) => format!("done (signal {signal})"),
        other => job_state(other).to_owned(),
    }
}

/// A size in the largest binary unit that shows it exactly.
pub fn bytes(size: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = if size == 0 { 0 } else { (size.trailing_zeros() / 10).min(6) };
    format!("{}{}", size >> (10 * power), units[power as usize])
}

fn ran_for(job: &JobView) -> String {
    match (job.started_s, job.ended_s) {
        (Some(start), Some(end)) => show_duration(end.saturating_sub(start)),
        (Some(start), None) => format!("since {}", moment(start)),
        (None, _) => "-".to_owned(),
    }
}

fn fields(rows: Vec<(&str, String)>) -> String {
    rows.into_iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect()
}

pub fn job(job: &JobView) -> String {
    let mut rows = vec![("job", job.id.to_string())];
    rows.extend(job.label.as_ref().map(|label| ("name", safe(label))));
    rows.extend([
        ("state", state_with_code(&job.state)),
        ("command", safe(&job.command)),
        (
            "runs on",
            match job.target {
                Target::Head => job.head.as_ref().map_or_else(|| "the head member".to_owned(), safe_ref),
                Target::All => "every member".to_owned(),
            },
        ),
        ("reservation", job.reservation.to_string()),
        ("user", safe(&job.user)),
        ("submitted", moment(job.submitted_s)),
        ("started", moment_or_dash(job.started_s)),
        ("ended", moment_or_dash(job.ended_s)),
        ("output", format!("{} bytes, {} on standard error", job.stdout_bytes, job.stderr_bytes)),
    ]);
    rows.extend(hits::lines(&job.hits).into_iter().map(|line| ("limit hit", line)));
    if let JobState::Failed(failure) = &job.state {
        rows.push(("failure", lines_of(failure)));
    }
    fields(rows)
}

fn lines_of(failure: &protocol::refusal::Failure) -> String {
    failure.to_string().lines().map(safe).collect::<Vec<_>>().join("\n           ")
}

pub fn reservation(view: &ReservationView) -> String {
    let mut rows = vec![("reservation", view.id.to_string())];
    rows.extend(view.label.as_ref().map(|label| ("name", safe(label))));
    rows.push(("state", view.state.to_string()));
    rows.extend(view.deadline_s.map(|deadline| ("deadline", moment(deadline))));
    let [starts, ends] = window(view);
    rows.extend([
        ("nodes", placement(view)),
        ("slots", view.slots.to_string()),
        ("environment", safe(&view.environment)),
        ("user", safe(&view.user)),
        ("made", moment(view.made_s)),
        ("starts", starts),
        ("ends", ends),
        ("version", format!("{}, epoch {}", view.version.0, view.epoch.0)),
    ]);
    if let ReservationState::Failed(failure) = &view.state {
        rows.push(("failure", lines_of(failure)));
    }
    let mut text = fields(rows);
    for part in &view.parts {
        let p = &part.progress;
        text.push_str(&format!(
            "site {}: {} nodes, addresses {}; pilots in {}, built {}, joined {}\n",
            safe(&part.site),
            part.nodes,
            list(&part.addresses),
            p.arrived,
            p.built,
            p.joined,
        ));
        text.extend(
            part.queue.iter().map(|queue| format!("site {}: {}\n", safe(&part.site), waiting(queue))),
        );
    }
    text.extend(view.pairs.iter().map(pair));
    let members: Vec<Vec<String>> = view
        .parts
        .iter()
        .flat_map(|part| &part.members)
        .map(|member| vec![safe(&member.host), member.address.to_string(), safe(&member.node)])
        .collect();
    if !members.is_empty() {
        text.push_str(&render(&["HOST", "ADDRESS", "NODE"], members));
    }
    text
}

/// What a part's pilots wait for, in which queue, why, and until when.
pub fn waiting(queue: &QueueView) -> String {
    let mut parts = Vec::new();
    let by = |at: Option<u64>| at.map(|at| format!(" until {}", moment(at))).unwrap_or_default();
    if let Some(again) = queue.again_s {
        parts.push(format!("came before the others and was released, begins again {}", moment(again)));
    } else if queue.pilots > 0 {
        let mut text = format!("{} in queue", queue.pilots);
        if !queue.queue.as_str().is_empty() {
            text.push_str(&format!(" ({})", safe(&queue.queue)));
        }
        if !queue.why.as_str().is_empty() {
            text.push_str(&format!(": {}", safe(&queue.why)));
        }
        if let Some(at) = queue.expected_s {
            text.push_str(&format!(", expected {}", moment(at)));
        }
        parts.push(text + &by(queue.until_s));
    }
    if queue.held_until_s.is_some() {
        parts.push(format!("those that came are held{}", by(queue.held_until_s)));
    }
    parts.join("; ")
}

fn pair(pair: &PairView) -> String {
    let (a, b) = (safe(&pair.a), safe(&pair.b));
    format!(
        "{a}-{b}: {} granted each way, used {} from {a} to {b}, {} from {b} to {a}\n",
        rate(pair.granted_kbit),
        rate_or_dash(pair.a_to_b_kbit),
        rate_or_dash(pair.b_to_a_kbit),
    )
}

pub fn explanation(id: &str, explanation: &Explanation) -> String {
    let mut text = format!("{id}: {}\n", safe(&explanation.summary));
    for reason in &explanation.reasons {
        text.push_str(&format!("  - {}\n", safe(reason)));
    }
    if let Some(deadline) = explanation.deadline_s {
        text.push_str(&format!("  this state ends by {}\n", moment(deadline)));
    }
    for hint in &explanation.hints {
        text.push_str(&format!("  try: {}\n", safe(hint)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        for text in ["\u{1b}[31mred", "a\rb", "a\nb", "a\u{202e}b", "\u{9b}2J", "\u{7f}"] {
            let shown = safe(text);
            assert!(shown.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{shown:?}");
        }
        assert_eq!(safe("größe 大"), "größe 大");
    }
}
