//! Pilots under Grid Engine.

use gridpilot_tests::batch::{System, Systems};

use crate::common::{TestGrid, plan, plan_with};
use crate::grid::run_both_rings;

#[test]
fn unmodified_mpi_programs_run_over_two_grid_engine_sites() {
    if let Some(plan) = plan_with(Systems::all(System::GridEngine), plan(2, 2)) {
        run_both_rings(TestGrid::up(plan));
    }
}
