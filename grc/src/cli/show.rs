//! The verbs that ask once and print: sites, jobs, reservations, show, explain, cancel, release.

use protocol::client::{Reply, Request, Selector};
use protocol::ids::{JobId, ReservationId};
use protocol::job::JobView;
use protocol::refusal::Refusal;
use protocol::reservation::ReservationView;

use super::args::OutputMode;
use super::errors::CliError;
use super::values::Thing;
use super::{Session, json, out, table};

/// What an id turned out to be.
#[derive(Debug)]
pub enum Found {
    Job(JobView),
    Reservation(ReservationView),
}

/// The thing as it stands now. `last` is the newest of both kinds; a job that came with its
/// own reservation is the newer of the two.
pub async fn find(session: &mut Session, thing: Thing) -> Result<Found, CliError> {
    match thing {
        Thing::Job(id) => Ok(Found::Job(job_view(session, Selector::Id(id)).await?)),
        Thing::Reservation(id) => Ok(Found::Reservation(reservation_view(session, Selector::Id(id)).await?)),
        Thing::Last => {
            let job = present(job_view(session, Selector::Last).await)?;
            let reservation = present(reservation_view(session, Selector::Last).await)?;
            match (job, reservation) {
                (None, None) => Err(CliError::Refused(Refusal::NothingYet)),
                (Some(job), None) => Ok(Found::Job(job)),
                (None, Some(view)) => Ok(Found::Reservation(view)),
                (Some(job), Some(view)) => {
                    let newer = (job.submitted_s, job.reservation) >= (view.made_s, view.id);
                    Ok(if newer { Found::Job(job) } else { Found::Reservation(view) })
                }
            }
        }
    }
}

fn present<T>(found: Result<T, CliError>) -> Result<Option<T>, CliError> {
    match found {
        Ok(view) => Ok(Some(view)),
        Err(CliError::Refused(Refusal::NothingYet)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A job as it stands now.
pub async fn job_view(session: &mut Session, job: Selector<JobId>) -> Result<JobView, CliError> {
    match session.client.ask(&Request::ShowJob(job)).await? {
        Reply::Job(view) => Ok(view),
        other => Err(CliError::unexpected(&other)),
    }
}

/// A reservation as it stands now.
pub async fn reservation_view(
    session: &mut Session,
    reservation: Selector<ReservationId>,
) -> Result<ReservationView, CliError> {
    match session.client.ask(&Request::ShowReservation(reservation)).await? {
        Reply::Reservation(view) => Ok(view),
        other => Err(CliError::unexpected(&other)),
    }
}

/// One id per line, for quiet mode.
fn ids<T: ToString>(ids: impl Iterator<Item = T>) -> String {
    ids.map(|id| format!("{}\n", id.to_string())).collect()
}

fn print_listing<V, J: serde::Serialize + for<'a> From<&'a V>, I: ToString>(
    mode: OutputMode,
    views: &[V],
    what: &str,
    table: fn(&[V]) -> String,
    id: fn(&V) -> I,
) -> Result<u8, CliError> {
    match mode {
        OutputMode::Json => json::print(&views.iter().map(J::from).collect::<Vec<_>>())?,
        OutputMode::Quiet => out::print(ids(views.iter().map(id)).as_bytes())?,
        OutputMode::Cli if views.is_empty() => out::say(&format!("no {what}")),
        OutputMode::Cli => out::print(table(views).as_bytes())?,
    }
    Ok(0)
}

pub async fn sites(session: &mut Session) -> Result<u8, CliError> {
    match session.client.ask(&Request::Sites).await? {
        Reply::Sites(sites) => {
            print_listing::<_, json::SiteJson, _>(session.mode, &sites, "sites", table::sites, |site| {
                site.name.clone()
            })
        }
        other => Err(CliError::unexpected(&other)),
    }
}

pub async fn jobs(session: &mut Session) -> Result<u8, CliError> {
    match session.client.ask(&Request::Jobs).await? {
        Reply::Jobs(jobs) => {
            print_listing::<_, json::JobJson, _>(session.mode, &jobs, "jobs", table::jobs, |job| job.id)
        }
        other => Err(CliError::unexpected(&other)),
    }
}

pub async fn reservations(session: &mut Session) -> Result<u8, CliError> {
    match session.client.ask(&Request::Reservations).await? {
        Reply::Reservations(views) => print_listing::<_, json::ReservationJson, _>(
            session.mode,
            &views,
            "reservations",
            table::reservations,
            |view| view.id,
        ),
        other => Err(CliError::unexpected(&other)),
    }
}

pub async fn show(session: &mut Session, thing: Thing) -> Result<u8, CliError> {
    match find(session, thing).await? {
        Found::Job(job) => print_job(session.mode, &job)?,
        Found::Reservation(view) => print_reservation(session.mode, &view)?,
    }
    Ok(0)
}

/// The series of what a reservation used of its bandwidth, newest last.
pub async fn usage(session: &mut Session, reservation: Selector<ReservationId>) -> Result<u8, CliError> {
    let id = reservation_id(session, reservation).await?;
    let points = match session.client.ask(&Request::Usage(Selector::Id(id))).await? {
        Reply::Usage(points) => points,
        other => return Err(CliError::unexpected(&other)),
    };
    match session.mode {
        OutputMode::Json => json::print(&points.iter().map(json::UsageJson::from).collect::<Vec<_>>())?,
        OutputMode::Quiet => out::print(format!("{id}\n").as_bytes())?,
        OutputMode::Cli if points.is_empty() => {
            out::say(&format!("no usage of {id} yet: nothing is granted, or it has not begun"));
        }
        OutputMode::Cli => out::print(table::usage(&points).as_bytes())?,
    }
    Ok(0)
}

/// A job in the wanted form.
pub fn print_job(mode: OutputMode, job: &JobView) -> Result<(), CliError> {
    match mode {
        OutputMode::Json => json::print(&json::JobJson::from(job)),
        OutputMode::Quiet => out::print(format!("{}\n", job.id).as_bytes()),
        OutputMode::Cli => out::print(table::job(job).as_bytes()),
    }
}

/// A reservation in the wanted form.
pub fn print_reservation(mode: OutputMode, view: &ReservationView) -> Result<(), CliError> {
    match mode {
        OutputMode::Json => json::print(&json::ReservationJson::from(view)),
        OutputMode::Quiet => out::print(format!("{}\n", view.id).as_bytes()),
        OutputMode::Cli => out::print(table::reservation(view).as_bytes()),
    }
}

pub async fn explain(session: &mut Session, thing: Thing) -> Result<u8, CliError> {
    let (id, request) = match find(session, thing).await? {
        Found::Job(job) => (job.id.to_string(), Request::ExplainJob(Selector::Id(job.id))),
        Found::Reservation(view) => (view.id.to_string(), Request::ExplainReservation(Selector::Id(view.id))),
    };
    let explanation = match session.client.ask(&request).await? {
        Reply::Explained(explanation) => explanation,
        other => return Err(CliError::unexpected(&other)),
    };
    match session.mode {
        OutputMode::Json => json::print(&json::ExplanationJson::new(id, &explanation))?,
        OutputMode::Quiet => out::print(format!("{}\n", table::safe(&explanation.summary)).as_bytes())?,
        OutputMode::Cli => out::print(table::explanation(&id, &explanation).as_bytes())?,
    }
    Ok(0)
}

/// `last` is looked up first, so that what is stopped can be named.
pub async fn cancel(session: &mut Session, job: Selector<JobId>) -> Result<u8, CliError> {
    let id = match job {
        Selector::Id(id) => id,
        Selector::Last => job_view(session, job).await?.id,
    };
    done(session.client.ask(&Request::Cancel(Selector::Id(id))).await?)?;
    match session.mode {
        OutputMode::Json => json::print(&json::IdJson::from(id))?,
        OutputMode::Quiet => out::print(format!("{id}\n").as_bytes())?,
        OutputMode::Cli => out::print(
            format!("{id} was asked to stop; `gridpilot wait {id}` tells how it ended\n").as_bytes(),
        )?,
    }
    Ok(0)
}

pub async fn release(session: &mut Session, reservation: Selector<ReservationId>) -> Result<u8, CliError> {
    let id = reservation_id(session, reservation).await?;
    done(session.client.ask(&Request::Release(Selector::Id(id))).await?)?;
    match session.mode {
        OutputMode::Json => json::print(&json::IdJson::from(id))?,
        OutputMode::Quiet => out::print(format!("{id}\n").as_bytes())?,
        OutputMode::Cli => {
            out::print(
                format!("{id} was released; `gridpilot wait {id}` returns when all of it is gone\n")
                    .as_bytes(),
            )?;
        }
    }
    Ok(0)
}

/// The id behind `last`.
pub async fn reservation_id(
    session: &mut Session,
    reservation: Selector<ReservationId>,
) -> Result<ReservationId, CliError> {
    match reservation {
        Selector::Id(id) => Ok(id),
        Selector::Last => Ok(reservation_view(session, reservation).await?.id),
    }
}

fn done(reply: Reply) -> Result<(), CliError> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(CliError::unexpected(&other)),
    }
}
