//! One job over sites whose batch systems have nothing in common.

use crate::common::{TestGrid, plan, plan_with};
use crate::grid::run_both_rings;

/// By one `gridpilot submit --wait` each.
#[test]
fn unmodified_mpi_programs_run_over_a_slurm_site_and_a_grid_engine_site() {
    if let Some(plan) = plan_with("a=slurm,b=grid-engine".parse().unwrap(), plan(2, 2)) {
        run_both_rings(TestGrid::up(plan));
    }
}
