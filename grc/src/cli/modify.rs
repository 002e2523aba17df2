//! `modify`: a change of a granted reservation, which holds as a whole or not at all.

use protocol::client::{Reply, Request};
use protocol::reservation::{Change, ReservationView};

use super::args::{ModifyArgs, OutputMode};
use super::errors::CliError;
use super::order::{new_id, order};
use super::watch::Interrupt;
use super::when::{self, Moment};
use super::{Session, json, out, show};

/// What becomes of the length of a window.
#[derive(Clone, Copy, Debug)]
enum Length {
    To(u32),
    Longer(u32),
    Shorter(u32),
    Until(Moment),
}

/// Asks for the change; says the version that is in force then.
pub async fn modify(session: &mut Session, args: ModifyArgs) -> Result<u8, CliError> {
    let ModifyArgs { reservation, time, extend, shrink, end, rates, nodes } = args;
    let bandwidth = rates.read()?;
    let length = time
        .map(Length::To)
        .or(extend.map(Length::Longer))
        .or(shrink.map(Length::Shorter))
        .or(end.map(Length::Until));
    if length.is_none() && bandwidth.is_none() && nodes.is_none() {
        return Err(CliError::Usage(
            "nothing is to be changed; say --time, --extend, --shrink, --end, --bandwidth or --nodes"
                .to_owned(),
        ));
    }
    let mut interrupt = Interrupt::listen()?;
    // The whole length is what is asked for, so that a repeated request asks for the same.
    let (reservation, duration_s) = match length {
        None => (show::reservation_id(session, reservation).await?, None),
        Some(Length::To(duration_s)) => (show::reservation_id(session, reservation).await?, Some(duration_s)),
        Some(length) => {
            let view = show::reservation_view(session, reservation).await?;
            (view.id, Some(whole(&view, length, when::now_s())?))
        }
    };
    let change = Change { duration_s, bandwidth, placement: nodes };
    let request = Request::Modify { id: new_id(), reservation, change };
    let reply = order(session, &mut interrupt, &request).await?;
    let Reply::Modified { reservation: id, version } = reply else {
        return Err(CliError::unexpected(&reply));
    };
    match session.mode {
        OutputMode::Json => json::print(&json::ModifiedJson::new(id, version))?,
        OutputMode::Quiet => out::print(format!("{id}\n").as_bytes())?,
        OutputMode::Cli => {
            out::print(format!("{id} changed: version {} is in force\n", version.0).as_bytes())?;
        }
    }
    Ok(0)
}

/// The whole length that a change comes to.
fn whole(view: &ReservationView, length: Length, now_s: u64) -> Result<u32, CliError> {
    let present = view.ends_s.saturating_sub(view.starts_s);
    let wanted = match length {
        Length::To(duration_s) => Some(duration_s.into()),
        Length::Longer(by) => present.checked_add(by.into()),
        Length::Shorter(by) => present.checked_sub(by.into()),
        Length::Until(end) => end.at(now_s).checked_sub(view.starts_s),
    };
    match wanted.map(u32::try_from) {
        None | Some(Ok(0)) => Err(CliError::Usage(format!(
            "nothing would be left of {}, which begins {} and ends {}; `gridpilot release {}` ends it",
            view.id,
            super::table::moment(view.starts_s),
            super::table::moment(view.ends_s),
            view.id,
        ))),
        Some(Err(_)) => Err(CliError::Usage("that is longer than can be counted".to_owned())),
        Some(Ok(duration_s)) => Ok(duration_s),
    }
}
