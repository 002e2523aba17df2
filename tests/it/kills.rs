//! Every ending of a pilot under every batch system, once; `gridpilot-kills --rounds N` tries more.

use gridpilot_tests::endings::table::Table;
use gridpilot_tests::endings::{Bed, nodes_for, round};

use crate::common::{TestGrid, announce, plan, plan_with};

fn end_in_every_way(bed: Bed) {
    let endings = bed.endings();
    let Some(plan) = plan_with(bed.systems(), plan(1, nodes_for(&endings))) else { return };
    let mut world = TestGrid::up(plan);
    let mut table = Table::default();
    let outcome = round::round(&mut world.grid, bed, &endings);
    table.add(bed, &outcome.unwrap_or_else(|error| panic!("{error:#}")));
    announce(&table.to_string());
    assert!(table.complaints.is_empty(), "{}", table.complaints.join("\n"));
}

#[test]
fn whatever_ends_an_embedded_pilot_nothing_is_left_and_the_user_reads_why() {
    end_in_every_way(Bed::Embedded);
}

#[test]
fn whatever_ends_a_pilot_under_slurm_nothing_is_left_and_the_user_reads_why() {
    end_in_every_way(Bed::SlurmLinuxproc);
}

#[test]
fn whatever_ends_a_pilot_under_slurm_with_cgroups_nothing_is_left_and_the_user_reads_why() {
    end_in_every_way(Bed::SlurmCgroup);
}

#[test]
fn whatever_ends_a_pilot_under_grid_engine_nothing_is_left_and_the_user_reads_why() {
    end_in_every_way(Bed::GridEngine);
}
