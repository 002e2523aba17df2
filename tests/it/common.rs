//! A grid for one test: down again when the test is over, however it ended.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use gridpilot_tests::install;
use gridpilot_tests::state::{Driver, Plan};
use gridpilot_tests::world::Grid;

/// A directory that no other test and no other run uses.
pub fn fresh_directory() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("/var/lib/gridpilot-test-{}-{number}", std::process::id()))
}

/// The plan of a grid in a directory of its own.
pub fn plan(sites: u32, nodes: u32) -> Plan {
    Plan { directory: fresh_directory(), sites, nodes, driver: Driver::default() }
}

/// A grid that is taken down when it goes out of scope.
pub struct TestGrid {
    pub grid: Grid,
}

impl TestGrid {
    pub fn up(plan: Plan) -> Self {
        let programs = install::programs().expect("where the programs stand");
        let grid = Grid::up(plan, &programs, &mut |_| ());
        Self { grid: grid.unwrap_or_else(|error| panic!("{error:#}")) }
    }

    pub fn machines(plan: Plan) -> Self {
        let programs = install::programs().expect("where the programs stand");
        let grid = Grid::machines(plan, &programs);
        Self { grid: grid.unwrap_or_else(|error| panic!("{error:#}")) }
    }
}

impl Drop for TestGrid {
    fn drop(&mut self) {
        let killed = self.grid.down(&mut |_| ());
        if std::thread::panicking() {
            return;
        }
        let killed = killed.unwrap_or_else(|error| panic!("taking the grid down: {error:#}"));
        assert!(killed.is_empty(), "had to be killed: {killed:?}");
    }
}
