//! `submit` and `reserve`: options and file become one order; with `--wait` it is watched.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use protocol::client::{NewJob, Reply, Request, Selector};
use protocol::ids::{JobId, ReservationId};
use protocol::job::{Command, Target};
use protocol::names::{AbsolutePath, EnvironmentName};
use protocol::refusal::Refusal;
use protocol::reservation::{Ask, Bandwidth, Limits, Placement, Start};

use super::args::{OutputMode, Rates, ReserveArgs, Shape, SubmitArgs, WindowArgs};
use super::errors::CliError;
use super::file::{self, JobFile};
use super::order::{new_id, order};
use super::watch::{self, Interrupt};
use super::when;
use super::window::Window;
use super::{Session, bandwidth, each, json, out, show, table};

const DURATION_DEFAULT_S: u32 = 3600;
/// Jobs beside each other with `--each`.
const AT_ONCE_DEFAULT: u8 = 16;

/// Takes nodes, now unless something else is said; prints the reservation's id when it is granted
/// or queued, or with `--wait` how it came out.
pub async fn reserve(session: &mut Session, args: ReserveArgs) -> Result<u8, CliError> {
    let file = args.file.as_deref().map(file::read).transpose()?.unwrap_or_default();
    if !file.command.is_empty() || file.reservation.is_some() {
        return Err(CliError::Usage(
            "this file holds `command` or `in`, which a reservation does not have; it is one for `gridpilot submit`"
                .to_owned(),
        ));
    }
    let ask = ask(args.shape.or(&file), Start::Within { wait_s: 0 })?;
    let start = ask.start;
    let mut interrupt = Interrupt::listen()?;
    let request = Request::Reserve { id: new_id(), ask };
    let reply = order(session, &mut interrupt, &request).await?;
    let Reply::Reserved(id) = reply else { return Err(CliError::unexpected(&reply)) };
    if args.wait {
        return watch::reservation(session, &mut interrupt, id).await;
    }
    match session.mode {
        OutputMode::Json => json::print(&json::IdJson::from(id))?,
        OutputMode::Quiet => out::print(format!("{id}\n").as_bytes())?,
        OutputMode::Cli => {
            let how = if start == Start::Open { "accepted" } else { "granted" };
            out::print(format!("{id} {how}; `gridpilot wait {id}` returns when it is ready\n").as_bytes())?;
            tell_window(session, id, start).await?;
        }
    }
    Ok(0)
}

/// For people: when a granted window begins and ends, unless that is plain from what they typed.
async fn tell_window(session: &mut Session, id: ReservationId, start: Start) -> Result<(), CliError> {
    if matches!(start, Start::Open | Start::Within { wait_s: 0 }) {
        return Ok(());
    }
    let view = show::reservation_view(session, Selector::Id(id)).await?;
    let (begins, ends) = (table::moment(view.starts_s), table::moment(view.ends_s));
    out::print(format!("{id} from {begins} to {ends}\n").as_bytes())
}

/// Runs a command; prints its id at once, or with `--wait` passes its output on.
pub async fn submit(session: &mut Session, args: SubmitArgs) -> Result<u8, CliError> {
    let file = args.file.as_deref().map(file::read).transpose()?.unwrap_or_default();
    let reservation = args.reservation.or(file.reservation);
    let shape = args.shape.or(&file);
    let job = NewJob {
        target: if args.all || file.all { Target::All } else { Target::Head },
        label: shape.name.clone(),
        grace_s: args.grace.or(file.grace),
        command: command(args.command, args.cwd, args.set, file)?,
    };
    let mut interrupt = Interrupt::listen()?;
    let request = match reservation {
        None => Request::Submit { id: new_id(), ask: ask(shape, Start::Open)?, job },
        Some(selector) => {
            refuse_shape(&shape)?;
            let reservation = show::reservation_id(session, selector).await?;
            if let Some(file) = &args.each {
                let (lines, at_once) = (each::lines(file)?, args.at_once.unwrap_or(AT_ONCE_DEFAULT));
                return each::run(session, &mut interrupt, reservation, job, lines, at_once.into()).await;
            }
            Request::SubmitIn { id: new_id(), reservation, job }
        }
    };
    let start = match &request {
        Request::Submit { ask, .. } => ask.start,
        _ => Start::Open,
    };
    let reply = order(session, &mut interrupt, &request).await?;
    let Reply::Submitted { job, reservation } = reply else { return Err(CliError::unexpected(&reply)) };
    if args.wait {
        return watch::submitted(session, &mut interrupt, job, reservation).await;
    }
    tell(session.mode, job, reservation)?;
    if session.mode == OutputMode::Cli {
        tell_window(session, reservation, start).await?;
    }
    Ok(0)
}

fn tell(mode: OutputMode, job: JobId, reservation: ReservationId) -> Result<(), CliError> {
    match mode {
        OutputMode::Json => json::print(&json::SubmittedJson::new(job, reservation)),
        OutputMode::Quiet => out::print(format!("{job}\n").as_bytes()),
        OutputMode::Cli => out::print(format!("{job} submitted in {reservation}\n").as_bytes()),
    }
}

/// `unsaid` is when to start if nothing is said of it.
fn ask(shape: Shape, unsaid: Start) -> Result<Ask, CliError> {
    let (start, duration_s) = shape.window.window().ask(unsaid, DURATION_DEFAULT_S, when::now_s())?;
    Ok(Ask {
        placement: shape.nodes.unwrap_or(Placement::Anywhere(1)),
        slots: shape.slots.unwrap_or(1),
        limits: Limits {
            cpus_milli: shape.cpus.unwrap_or(0),
            memory_bytes: shape.memory.unwrap_or(0),
            disk_bytes: shape.disk.unwrap_or(0),
            pids: shape.processes.unwrap_or(0),
        },
        start,
        duration_s,
        bandwidth: shape.rates.read()?.unwrap_or(Bandwidth::Unasked),
        environment: shape.env.unwrap_or_else(EnvironmentName::host),
        label: shape.name,
    })
}

impl Rates {
    /// What is asked, if anything is said.
    ///
    /// # Errors
    /// `Usage` when the file of pairs cannot be used.
    pub fn read(self) -> Result<Option<Bandwidth>, CliError> {
        match self.bandwidth_file {
            Some(file) => bandwidth::read(&file).map(Some),
            None => Ok(self.bandwidth),
        }
    }

    fn is_said(&self) -> bool {
        self.bandwidth.is_some() || self.bandwidth_file.is_some()
    }
}

impl WindowArgs {
    fn window(&self) -> Window {
        let Self { time, start, latest, within, end, queue } = *self;
        Window { start, latest, within_s: within, end, time_s: time, queue }
    }

    /// What was typed, else what the file says; of words that say the same thing what was typed
    /// puts the file's others out.
    fn or(self, file: &JobFile) -> Self {
        let length = self.time.is_some() || self.end.is_some();
        let latest = self.latest.is_some() || self.within.is_some();
        let start = self.start.is_some() || latest;
        Self {
            time: self.time.or(file.time.filter(|_| !length)),
            end: self.end.or(file.end.filter(|_| !length)),
            start: self.start.or(file.start.filter(|_| !self.queue)),
            latest: self.latest.or(file.latest.filter(|_| !latest && !self.queue)),
            within: self.within.or(file.within.filter(|_| !latest && !self.queue)),
            queue: self.queue || (file.queue && !start),
        }
    }
}

impl Shape {
    /// What was typed, else what the file says.
    fn or(self, file: &JobFile) -> Self {
        let from_file =
            || Rates { bandwidth: file.bandwidth.clone(), bandwidth_file: file.bandwidth_file.clone() };
        Self {
            nodes: self.nodes.or_else(|| file.nodes.clone()),
            slots: self.slots.or(file.slots),
            rates: if self.rates.is_said() { self.rates } else { from_file() },
            window: self.window.or(file),
            cpus: self.cpus.or(file.cpus),
            memory: self.memory.or(file.memory),
            disk: self.disk.or(file.disk),
            processes: self.processes.or(file.processes),
            env: self.env.or_else(|| file.env.clone()),
            name: self.name.or_else(|| file.name.clone()),
        }
    }
}

/// A standing reservation has its nodes and limits already.
fn refuse_shape(shape: &Shape) -> Result<(), CliError> {
    let given = [
        ("nodes", shape.nodes.is_some()),
        ("slots", shape.slots.is_some()),
        ("bandwidth", shape.rates.is_said()),
        ("time", shape.window.time.is_some()),
        ("start", shape.window.start.is_some()),
        ("latest", shape.window.latest.is_some()),
        ("within", shape.window.within.is_some()),
        ("end", shape.window.end.is_some()),
        ("queue", shape.window.queue),
        ("cpus", shape.cpus.is_some()),
        ("memory", shape.memory.is_some()),
        ("disk", shape.disk.is_some()),
        ("processes", shape.processes.is_some()),
        ("env", shape.env.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((word, _)) => Err(CliError::Usage(format!(
            "`{word}` cannot go with `in`: a standing reservation has its nodes and limits already\n  \
             leave it out, or leave `in` out to get nodes of its own"
        ))),
    }
}

fn command(
    typed: Vec<OsString>,
    cwd: Option<PathBuf>,
    set: Vec<(protocol::names::VariableName, String)>,
    file: JobFile,
) -> Result<Command, CliError> {
    let argv: Vec<Vec<u8>> = if typed.is_empty() {
        file.command.into_iter().map(String::into_bytes).collect()
    } else {
        typed.into_iter().map(OsString::into_vec).collect()
    };
    // Later ones win where the command starts, so what was typed stands behind the file's.
    let mut variables = file.set;
    variables.retain(|(name, _)| set.iter().all(|(typed, _)| typed != name));
    variables.extend(set);
    let required = cwd.or(file.cwd);
    let directory_required = required.is_some();
    let directories = match required {
        Some(directory) => vec![absolute(&directory)?],
        None => here(),
    };
    let command = Command { argv, variables, directories, directory_required };
    // An empty command is what one gets by forgetting `--`; say so without asking the GRC.
    match command.check() {
        Err(refusal @ (Refusal::EmptyCommand | Refusal::NulInCommand | Refusal::CommandTooLong { .. })) => {
            Err(CliError::Refused(refusal))
        }
        _ => Ok(command),
    }
}

fn absolute(directory: &Path) -> Result<AbsolutePath, CliError> {
    let bad = |why: String| CliError::Usage(format!("--cwd {}: {why}", directory.display()));
    let whole = std::path::absolute(directory).map_err(|error| bad(error.to_string()))?;
    let text = whole.into_os_string().into_string().map_err(|_| bad("the path is not UTF-8".to_owned()))?;
    AbsolutePath::try_from(text).map_err(|error| bad(error.to_string()))
}

/// This directory as the shell calls it (a home behind a link has the same name at every site),
/// then as the kernel does. None of them has to exist where the command starts.
fn here() -> Vec<AbsolutePath> {
    let kernel = std::env::current_dir().ok();
    let same = |path: &PathBuf| {
        let ours = std::fs::metadata(".").ok();
        let theirs = std::fs::metadata(path).ok();
        path.is_absolute() && ours.zip(theirs).is_some_and(|(a, b)| (a.dev(), a.ino()) == (b.dev(), b.ino()))
    };
    let shell = std::env::var_os("PWD").map(PathBuf::from).filter(same);
    let mut directories: Vec<AbsolutePath> = Vec::new();
    for path in [shell, kernel].into_iter().flatten() {
        let name =
            path.into_os_string().into_string().ok().and_then(|text| AbsolutePath::try_from(text).ok());
        if let Some(name) = name.filter(|name| !directories.contains(name)) {
            directories.push(name);
        }
    }
    directories
}
