//! One round: all endings of a bed at once, in a grid that stands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::scene::{SITE, Scene, Snapshot, ask, tag};
use super::{Bed, Ending, GONE_TIME};
use crate::batch::{self, Job, Queue};
use crate::netns::site_name;
use crate::process::{run, wait_until};
use crate::residue::{Residue, machine_ground};
use crate::world::Grid;

/// Between two looks at everything: one look is a walk over all processes and two commands.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a job may take to be over for its user and its batch system after nothing is left: a
/// lease may have to end.
const OVER_TIME: Duration = Duration::from_secs(30);

/// How long a node may be kept from taking jobs until it is swept: one whose daemon was dead cannot
/// be asked earlier.
const SWEPT_TIME: Duration = Duration::from_secs(30);

/// What came of one ending.
#[derive(Clone, Debug)]
pub struct Report {
    pub ending: Ending,
    /// The blow did not end it, and need not; it was cancelled then.
    pub ran_on: bool,
    /// From the blow until nothing was left.
    pub clean_after: Option<Duration>,
    /// What was left when that should have been, by name.
    pub left: Vec<String>,
    /// What the user is shown.
    pub shown: String,
    /// Promises other than "nothing is left" that were not kept.
    pub broken: Vec<String>,
}

/// What came of a round.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub reports: Vec<Report>,
    /// What is wrong with the grid afterwards, and cannot be said to be of one ending.
    pub after: Vec<String>,
}

/// A struck scene that is watched.
struct Watched<'a> {
    scene: &'a Scene,
    bed: Bed,
    /// When the blow fell or, of what the batch system does itself, was asked for.
    asked: Instant,
    struck: Option<Instant>,
    ran_on: bool,
    clean_after: Option<Duration>,
    left: Option<Vec<String>>,
    broken: Vec<String>,
    shown: Option<String>,
    queue_has_it: bool,
    /// Its nodes' daemons are dead and were not started again.
    without_daemons: bool,
}

/// Everything that is asked once for all scenes.
struct Look {
    snapshot: Snapshot,
    jobs: Value,
    reservations: Value,
    queue: Vec<Job>,
}

/// Tries each ending once. The grid must be of this bed and stand idle.
///
/// # Errors
/// The grid did not come so far as to be struck, or cannot be asked any more.
pub fn round(grid: &mut Grid, bed: Bed, endings: &[Ending]) -> Result<Outcome> {
    let mut residue = Residue::before(grid)?;
    let queue = batch::queue(bed.system());
    let scenes = set(grid, queue, endings)?;
    residue.observe(grid);
    let mut watched = Vec::new();
    for scene in &scenes {
        scene.strike(grid, bed).with_context(|| format!("{}: {}", scene.job, scene.ending))?;
        watched.push(Watched::new(scene, bed));
    }
    let limit = GONE_TIME * 2 + OVER_TIME + endings.iter().map(|e| e.patience(bed)).max().unwrap_or_default();
    let end = Instant::now() + limit;
    while watched.iter().any(|one| !one.is_settled()) && Instant::now() < end {
        std::thread::sleep(LOOK_EVERY);
        let look = Look::take(grid, queue)?;
        for one in watched.iter_mut().filter(|one| !one.is_settled()) {
            one.look(grid, &look)?;
        }
        for node in watched.iter_mut().flat_map(Watched::daemons_wanted) {
            queue.context("no batch system has this daemon")?.start_node(grid, node)?;
        }
    }
    let reports: Vec<Report> = watched.into_iter().map(Watched::report).collect();
    // Of the last jobs, too, the kernel must have taken everything back before another round begins.
    let checks = [residue.expect_none(grid), take_a_job_everywhere(grid), residue.expect_none(grid)];
    let after = checks.into_iter().filter_map(|check| Some(format!("{:#}", check.err()?))).collect();
    Ok(Outcome { reports, after })
}

/// Brings all jobs to where they run, each on its own nodes.
fn set(grid: &Grid, queue: Option<&dyn Queue>, endings: &[Ending]) -> Result<Vec<Scene>> {
    let mut before = BTreeMap::new();
    for node in grid.state.nodes() {
        before.insert(node.name.clone(), machine_ground(node)?);
    }
    let submit = |ending: &Ending| Scene::submit(grid, queue, *ending);
    let mut scenes = endings.iter().map(submit).collect::<Result<Vec<_>>>()?;
    for scene in &mut scenes {
        scene.wait_until_it_runs(grid, &before)?;
    }
    let nodes: Vec<&String> = scenes.iter().flat_map(|scene| &scene.nodes).collect();
    let apart: BTreeSet<_> = nodes.iter().collect();
    ensure!(apart.len() == nodes.len(), "two jobs share a node, so what is left cannot be told: {nodes:?}");
    let listed = queue.map(|queue| queue.jobs(&grid.state, SITE)).transpose()?.unwrap_or_default();
    let snapshot = Snapshot::take(grid);
    for scene in &mut scenes {
        let tag = tag(&scene.reservation);
        let job = listed.iter().find(|job| job.name.starts_with(&tag));
        ensure!(queue.is_none() || job.is_some(), "no batch job is called {tag}...: {listed:?}");
        scene.batch_job = job.map(|job| job.id.clone());
        scene.observe(&snapshot, queue)?;
    }
    Ok(scenes)
}

/// After whatever happened every node is as good as before.
fn take_a_job_everywhere(grid: &Grid) -> Result<()> {
    let (site, count) = (site_name(SITE), grid.state.plan.nodes);
    let nodes = format!("{site}={count}");
    let words = ["submit", "--wait", "--all", "--nodes", &nodes, "--", "true"];
    let mut refused = None;
    wait_until(SWEPT_TIME, || {
        let ran = grid.gridpilot_as_user().and_then(|mut gridpilot| run(gridpilot.args(words)));
        refused = ran.err();
        refused.is_none()
    });
    if let Some(error) = refused {
        return Err(error.context("not every node takes a job afterwards"));
    }
    let idle =
        wait_until(OVER_TIME, || grid.pilot_processes().is_empty() && grid.batch_processes().is_empty());
    ensure!(idle, "pilots stay after the last job");
    Ok(())
}

impl Look {
    fn take(grid: &Grid, queue: Option<&dyn Queue>) -> Result<Self> {
        Ok(Self {
            snapshot: Snapshot::take(grid),
            jobs: ask(grid, &["jobs"])?,
            reservations: ask(grid, &["reservations"])?,
            queue: queue.map(|queue| queue.jobs(&grid.state, SITE)).transpose()?.unwrap_or_default(),
        })
    }

    /// The entry with an id, of a list that may be wrapped.
    fn entry<'a>(list: &'a Value, id: &str) -> Option<&'a Value> {
        let entries = list.as_array().or_else(|| list.as_object()?.values().find_map(Value::as_array))?;
        entries.iter().find(|entry| entry["id"] == id)
    }
}

impl<'a> Watched<'a> {
    fn new(scene: &'a Scene, bed: Bed) -> Self {
        let asked = Instant::now();
        let struck = scene.ending.patience(bed).is_zero().then_some(asked);
        Self {
            scene,
            bed,
            asked,
            struck,
            ran_on: false,
            clean_after: None,
            left: None,
            broken: Vec::new(),
            shown: None,
            queue_has_it: true,
            without_daemons: scene.ending == Ending::NodeDaemon,
        }
    }

    /// The nodes whose daemons shall be started again now, once: what their death ended is over, and
    /// the batch system wants them for the rest.
    fn daemons_wanted(&mut self) -> &'a [String] {
        let wanted = self.without_daemons && (self.clean_after.is_some() || self.left.is_some());
        self.without_daemons &= !wanted;
        if wanted { &self.scene.nodes } else { &[] }
    }

    /// Nothing more is to be learnt.
    fn is_settled(&self) -> bool {
        self.clean_after.is_some() && self.shown.is_some() && !self.queue_has_it
    }

    fn look(&mut self, grid: &Grid, look: &Look) -> Result<()> {
        let scene = self.scene;
        let job = look.queue.iter().find(|job| Some(&job.id) == scene.batch_job.as_ref());
        self.queue_has_it = job.is_some();
        let state = |list: &Value, id: &str| {
            Look::entry(list, id).and_then(|entry| entry["state"].as_str().map(String::from))
        };
        let job_state = state(&look.jobs, &scene.job).unwrap_or_default();
        let is_over = matches!(job_state.as_str(), "done" | "failed" | "cancelled");
        let state = state(&look.reservations, &scene.reservation).unwrap_or_else(|| "ended".into());
        let is_over = is_over && matches!(state.as_str(), "ended" | "failed");
        if self.struck.is_none() && (is_over || job.is_none_or(|job| !job.running)) {
            self.struck = Some(Instant::now());
        }
        if self.clean_after.is_none() {
            let left = scene.left(grid, &look.snapshot)?;
            match self.struck {
                Some(struck) if left.is_empty() => self.clean_after = Some(struck.elapsed()),
                Some(struck) if struck.elapsed() > GONE_TIME => self.is_late(grid, left, is_over)?,
                None if self.asked.elapsed() > scene.ending.patience(self.bed) => {
                    self.is_late(grid, left, is_over)?
                }
                _ => {}
            }
        }
        if is_over && self.shown.is_none() {
            self.shown = Some(self.shown(grid, &job_state)?);
        }
        Ok(())
    }

    /// The time is over and something is left. What may run on is cancelled now, once.
    fn is_late(&mut self, grid: &Grid, left: Vec<String>, is_over: bool) -> Result<()> {
        if !self.ran_on && !is_over {
            self.ran_on = true;
            if self.scene.ending.is_deadly(self.bed) {
                self.broken.push("it did not end".into());
            }
            run(grid.gridpilot_as_user()?.args(["cancel", &self.scene.job]))?;
            self.struck = Some(Instant::now());
        } else if self.left.is_none() {
            self.left = Some(left);
        }
        Ok(())
    }

    /// What the user reads of the end, and whether it says what it must.
    fn shown(&mut self, grid: &Grid, job_state: &str) -> Result<String> {
        let scene = self.scene;
        let view = ask(grid, &["show", &scene.job])?;
        let failure = &view["failure"];
        let text = |key: &str| failure[key].as_str().unwrap_or_default().to_owned();
        if scene.ending.is_wanted() || self.ran_on {
            if job_state != "cancelled" {
                self.broken.push(format!("it was cancelled and is shown as {job_state}: {failure}"));
            }
            return Ok(job_state.to_owned());
        }
        let (site, node, cause) = (text("site"), text("node"), text("cause"));
        if job_state != "failed" || site != site_name(SITE) || !scene.nodes.contains(&node) {
            self.broken.push(format!("on {:?}, and is shown as {job_state}: {failure}", scene.nodes));
        } else if !scene.ending.is_explained_by(self.bed, &cause) {
            self.broken.push(format!("the user does not read why: {cause}"));
        }
        Ok(cause)
    }

    fn report(mut self) -> Report {
        if self.shown.is_none() {
            self.broken.push("it was never over for its user".into());
        }
        if self.queue_has_it && self.scene.batch_job.is_some() {
            self.broken.push("its batch job stayed in the queue".into());
        }
        if self.clean_after.is_none() && self.left.is_none() {
            self.left = Some(vec!["something, until the end".into()]);
        }
        Report {
            ending: self.scene.ending,
            ran_on: self.ran_on,
            clean_after: self.clean_after,
            left: self.left.unwrap_or_default(),
            shown: self.shown.unwrap_or_default(),
            broken: self.broken,
        }
    }
}
