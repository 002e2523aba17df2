//! Pilots under Grid Engine.

use gridpilot_tests::batch::{System, Systems};

use crate::common::{TestGrid, plan, plan_with};
use crate::grid::run_both_rings;
use crate::leases::outlive_the_crm_under;

#[test]
fn unmodified_mpi_programs_run_over_two_grid_engine_sites() {
    if let Some(plan) = plan_with(Systems::all(System::GridEngine), plan(2, 2)) {
        run_both_rings(TestGrid::up(plan));
    }
}

#[test]
fn a_command_under_grid_engine_runs_on_while_the_crm_is_killed_and_back() {
    outlive_the_crm_under(System::GridEngine);
}
