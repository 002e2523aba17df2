//! Nodes and sites that die, whether anything of it reaches the others or not: who waits for a job
//! there reads which it was, and when all is well again nothing is left.
//! `gridpilot-kills --deaths` says how soon.

use gridpilot_tests::batch::{System, Systems};
use gridpilot_tests::endings::deaths::{self, Death};

use crate::common::{TestGrid, announce, fresh_directory, plan_with};

fn is_named(death: Death) {
    is_named_under(Systems::default(), death);
}

fn is_named_under(batch: Systems, death: Death) {
    let Some(plan) = plan_with(batch.clone(), deaths::plan(batch, fresh_directory())) else { return };
    let mut world = TestGrid::up(plan);
    let told =
        deaths::happen(&mut world.grid, death).unwrap_or_else(|error| panic!("{error:#}{}", world.logs()));
    announce(&format!("{death}: after {:.1} s: {}", told.after.as_secs_f64(), told.line));
}

#[test]
fn a_node_whose_cable_is_pulled_is_named_to_who_waits() {
    is_named(Death::NodeCut);
}

#[test]
fn a_node_that_goes_dark_is_named_to_who_waits() {
    is_named(Death::NodeDark);
}

#[test]
fn a_node_that_goes_dark_under_slurm_is_named_to_who_waits() {
    is_named_under(Systems::all(System::Slurm), Death::NodeDark);
}

#[test]
fn a_node_that_stands_still_is_named_to_who_waits() {
    is_named(Death::NodeFrozen);
}

#[test]
fn a_site_that_is_cut_off_is_named_to_who_waits() {
    is_named(Death::SiteCut);
}

#[test]
fn a_site_that_stands_still_is_named_to_who_waits() {
    is_named(Death::SiteFrozen);
}

#[test]
fn a_site_that_is_killed_is_named_to_who_waits() {
    is_named(Death::SiteKilled);
}
