//! The world without programs: its machines, its cables, its end.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gridpilot_tests::netns::{self, GRC_ADDRESS, machine_address, site_name};
use gridpilot_tests::node::{POLICY_DIRECTORY, Role};
use gridpilot_tests::process::{self, run};
use gridpilot_tests::residue::namespaces_of;
use gridpilot_tests::state::MARKER;
use gridpilot_tests::world::Grid;

use crate::common::{TestGrid, plan};

fn inside(grid: &Grid, machine: &str, words: &[&str]) -> anyhow::Result<String> {
    let enter = grid.state.machine(machine)?.enter();
    run(Command::new(&enter[0]).args(&enter[1..]).args(words))
}

/// Every machine of every site reaches the GRC's machine and every other site's.
#[test]
fn every_machine_reaches_every_other_by_its_one_address() {
    let world = TestGrid::machines(plan(2, 2));
    let grid = &world.grid;
    let targets: Vec<(String, String)> = (0..2)
        .flat_map(|site| (0..=2).map(move |number| (site, number)))
        .map(|(site, number)| (format!("{}{number}", site_name(site)), machine_address(site, number)))
        .chain([("grc".to_owned(), GRC_ADDRESS.to_owned())])
        .collect();
    let pid = |machine: &str| grid.state.machine(machine).unwrap().holder.pid;
    let _listeners: Vec<TcpListener> = targets
        .iter()
        .map(|(machine, _)| {
            netns::inside(pid(machine), || TcpListener::bind("0.0.0.0:7999").unwrap()).unwrap()
        })
        .collect();
    let mut unreachable = Vec::new();
    for (from, _) in &targets {
        for (to, address) in &targets {
            let target = format!("{address}:7999").parse().unwrap();
            let dialled =
                netns::inside(pid(from), || TcpStream::connect_timeout(&target, Duration::from_secs(10)));
            if let Err(error) = dialled.unwrap() {
                unreachable.push(format!("{from} to {to}: {error}"));
            }
        }
    }
    assert!(unreachable.is_empty(), "{unreachable:?}");
}

#[test]
fn a_machine_has_one_interface_one_address_its_own_name_and_its_own_policy() {
    let world = TestGrid::machines(plan(1, 2));
    let grid = &world.grid;
    for machine in grid.state.machines.iter().filter(|m| matches!(m.role, Role::Head | Role::Node)) {
        let name = &machine.name;
        assert_eq!(inside(grid, name, &["hostname"]).unwrap().trim(), name);
        let links = inside(grid, name, &["ip", "-br", "link"]).unwrap();
        let links: BTreeSet<&str> = links.lines().filter_map(|line| line.split(['@', ' ']).next()).collect();
        assert_eq!(links, BTreeSet::from(["eth0", "lo"]), "{name}");
        let addresses = inside(grid, name, &["ip", "-br", "addr", "show", "eth0"]).unwrap();
        assert_eq!(addresses.matches('/').count(), 1, "{name}: {addresses}");
        assert!(!addresses.contains("fe80"), "{name} has IPv6: {addresses}");
    }
    for node in grid.state.nodes() {
        let file = grid.state.path(&format!("etc/{}/node.policy", node.name));
        std::fs::write(&file, &node.name).unwrap();
    }
    for node in grid.state.nodes() {
        let seen = inside(grid, &node.name, &["cat", "/etc/gridpilot/node.policy"]).unwrap();
        assert_eq!(seen, node.name);
    }
}

#[test]
fn nothing_of_the_machines_is_left_after_down() {
    let policy_directory_before = Path::new(POLICY_DIRECTORY).exists();
    let (directory, namespaces) = {
        let world = TestGrid::machines(plan(2, 1));
        let mut namespaces = BTreeSet::new();
        for machine in &world.grid.state.machines {
            namespaces.extend(namespaces_of(machine.holder.pid));
        }
        let host = namespaces_of(std::process::id() as i32);
        let own: BTreeSet<String> = namespaces.difference(&host).cloned().collect();
        assert_eq!(own.len(), 3 * world.grid.state.machines.len(), "net, uts and mount of each");
        (world.grid.state.plan.directory.clone(), own)
    };
    assert!(!directory.exists());
    let marked = process::marked(MARKER, &directory.display().to_string());
    assert!(marked.is_empty(), "{marked:?}");
    for stat in process::all() {
        let kept: Vec<_> = namespaces_of(stat.identity.pid).intersection(&namespaces).cloned().collect();
        assert!(kept.is_empty(), "{} keeps {kept:?}", stat.identity.describe());
    }
    assert_eq!(Path::new(POLICY_DIRECTORY).exists(), policy_directory_before);
}

#[test]
fn two_worlds_beside_each_other_share_nothing_and_go_one_by_one() {
    let first = TestGrid::machines(plan(1, 1));
    let second = TestGrid::machines(plan(1, 1));
    let of = |world: &TestGrid| -> BTreeSet<String> {
        world.grid.state.machines.iter().flat_map(|m| namespaces_of(m.holder.pid)).collect()
    };
    let host = namespaces_of(std::process::id() as i32);
    let shared: Vec<String> = of(&first).intersection(&of(&second)).cloned().collect();
    assert!(shared.iter().all(|namespace| host.contains(namespace)), "{shared:?}");
    drop(first);
    assert!(Path::new(POLICY_DIRECTORY).exists(), "the second still needs it");
    let policy = second.grid.state.path("etc/a1/node.policy");
    std::fs::write(policy, "still here").unwrap();
    let seen = inside(&second.grid, "a1", &["cat", "/etc/gridpilot/node.policy"]).unwrap();
    assert_eq!(seen, "still here");
}

#[test]
fn a_second_grid_in_the_same_directory_is_refused_and_the_first_stays() {
    let first = TestGrid::machines(plan(1, 1));
    let programs = gridpilot_tests::install::programs().unwrap();
    let error = Grid::machines(first.grid.state.plan.clone(), &programs).unwrap_err();
    assert!(format!("{error:#}").contains("not empty"), "{error:#}");
    assert!(first.grid.state.machines.iter().all(|machine| machine.holder.alive()));
}

/// `up` may die at any moment: what stands then is found by its mark and taken down.
#[test]
fn down_finds_machines_that_a_crashed_up_did_not_write_down() {
    let mut world = TestGrid::machines(plan(1, 1));
    let forgotten: Vec<_> = world.grid.state.machines.drain(2..).collect();
    world.grid.state.save().unwrap();
    let directory = world.grid.state.plan.directory.clone();
    gridpilot_tests::world::down(&directory, &mut |_| ()).unwrap();
    assert!(!directory.exists());
    assert!(forgotten.iter().all(|machine| !machine.holder.alive()));
}
