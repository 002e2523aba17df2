//! How often a CRM asks a real batch system how its pilots stand: once per look, however many they
//! are and however they are spread over batch jobs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::idle::{release, reserve};
use super::usage::{Usage, of_children};
use super::{row, table};
use crate::batch::{System, Systems, counted};
use crate::install;
use crate::netns::site_name;
use crate::state::Plan;
use crate::world::Grid;

/// After reservations are ready: what their start has set going comes to rest.
const REST_TIME: Duration = Duration::from_secs(3);
const SYSTEMS: [System; 2] = [System::Slurm, System::GridEngine];

/// Until now, of one site.
#[derive(Clone, Copy)]
struct Asked {
    looks: usize,
    calls: usize,
    crm: Duration,
    commands: Duration,
}

impl Asked {
    fn now(grid: &Grid, site: u32) -> Result<Self> {
        let crm = grid.state.daemon(&format!("crm-{}", site_name(site)))?.identity;
        Ok(Self {
            looks: counted::looks(&grid.state, site)?.len(),
            calls: counted::called(&grid.state, site)?.len(),
            crm: Usage::of(&[crm])?.cpu,
            commands: of_children(crm)?,
        })
    }
}

/// A row for each site: so many pilots, in reservations of so many.
fn level(grid: &Grid, pilots: u32, of_one: u32, window: Duration) -> Result<Vec<Vec<String>>> {
    let reservations = reserve(grid, pilots, of_one)?;
    std::thread::sleep(REST_TIME);
    let sites = 0..grid.state.plan.sites;
    let read = || sites.clone().map(|site| Asked::now(grid, site)).collect::<Result<Vec<_>>>();
    let (begin, before) = (Instant::now(), read()?);
    std::thread::sleep(window);
    let (after, length) = (read()?, begin.elapsed());
    release(grid, &reservations)?;
    let a_minute = |amount: f64| format!("{:.0}", amount * 60.0 / length.as_secs_f64());
    let count = |after: usize, before: usize| a_minute((after - before) as f64);
    let ms = |after: Duration, before: Duration| a_minute(after.saturating_sub(before).as_secs_f64() * 1e3);
    let of_site = |(site, (after, before)): (u32, (&Asked, &Asked))| {
        let system = grid.state.plan.batch.of(site).name();
        vec![
            format!("{system}, {} x {of_one}", reservations.len()),
            count(after.looks, before.looks),
            count(after.calls - after.looks, before.calls - before.looks),
            ms(after.crm, before.crm),
            ms(after.commands, before.commands),
        ]
    };
    Ok(sites.clone().zip(after.iter().zip(&before)).map(of_site).collect())
}

/// Measures and prints, in a grid below `directory` with a site for each system that is here.
pub fn run(directory: &Path, nodes: u32, window: Duration) -> Result<String> {
    let lacks = |system: System| Systems::all(system).missing(1);
    let (here, missing): (Vec<System>, Vec<System>) =
        SYSTEMS.into_iter().partition(|system| lacks(*system).is_empty());
    let mut rows = vec![row([
        "batch jobs x pilots, per minute",
        "looks (squeue, qstat)",
        "other calls",
        "CPU ms of the CRM",
        "CPU ms of the commands",
    ])];
    for system in missing {
        let text =
            format!("{}: not measured, this machine has not {}", system.name(), lacks(system).join(", "));
        rows.push(vec![text]);
    }
    if !here.is_empty() {
        let by_site = here.iter().zip(0..).map(|(system, site)| (site_name(site), *system)).collect();
        let batch = Systems { counted: true, by_site, ..Systems::default() };
        let plan = Plan { sites: here.len() as u32, nodes, batch, ..Plan::new(directory.to_owned()) };
        let mut grid = Grid::up(plan, &install::programs()?, &mut |_| ())?;
        let measured = [(1, 1), (nodes, nodes), (nodes, 1)].map(|(pilots, of_one)| {
            level(&grid, pilots, of_one, window).with_context(|| format!("{pilots} pilots of batch systems"))
        });
        grid.down(&mut |_| ())?;
        let mut measured = measured.into_iter().collect::<Result<Vec<_>>>()?.concat();
        // Those of one system together, in the order in which they were taken.
        measured.sort_by_key(|row| here.iter().position(|system| row[0].starts_with(system.name())));
        rows.extend(measured);
    }
    Ok(table(&rows))
}
