//! What a process inside a sandbox sees, and what the host never sees of it.

use std::path::Path;

use gridpilot_tests::site::crm_config_path;

use crate::common::TestGrid;

/// Lines of a report, as (key, value).
fn value<'a>(report: &'a str, key: &str) -> &'a str {
    report
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("no {key} in {report}"))
}

const REPORT: &str = r#"
echo links=$(ls /sys/class/net | tr '\n' ' ')
echo links_by_ip=$(ip -o link | wc -l)
echo ipv4=$(ip -o -4 addr show dev eth0 | wc -l)
echo ipv4_all=$(ip -o -4 addr | grep -v ' lo ' | wc -l)
echo ipv6=$(cat /proc/net/if_inet6 2>/dev/null | wc -l)
echo uids=$(awk '/^Uid:/ {print $2, $3, $4, $5}' /proc/[0-9]*/status 2>/dev/null | tr ' ' '\n' | sort -u | tr '\n' ' ')
echo caps=$(awk '/^Cap/ {print $2}' /proc/[0-9]*/status 2>/dev/null | sort -u | tr '\n' ' ')
echo privs=$(awk '/^NoNewPrivs/ {print $2}' /proc/[0-9]*/status 2>/dev/null | sort -u | tr '\n' ' ')
echo batch=$(env | grep -cE '^(SLURM|PBS|SGE|JOB_ID|PE_)')
echo host=$(hostname)
echo user=$(id -un)
echo home=$HOME
echo pwd=$(pwd)
echo pids=$(ls -d /proc/[0-9]* | wc -l)
echo tmp=$(ls -A /tmp | wc -l)
echo member=$GRIDPILOT_MEMBER of $GRIDPILOT_MEMBERS
echo hostfile=$(tr '\n' ';' <"$GRIDPILOT_HOSTFILE")
echo machinefile=$(tr '\n' ';' <"$GRIDPILOT_MACHINEFILE")
echo nodes=$(tr '\n' ';' <"$GRIDPILOT_NODE_FILE")
echo own=$(getent hosts $(hostname) | cut -d' ' -f1)
echo devices=$(ls /dev | tr '\n' ' ')
echo ssh_login_vars=$(ssh b-0 'echo $GRIDPILOT_HOSTFILE $GRIDPILOT_MEMBER $OMPI_MCA_orte_default_hostfile $HYDRA_HOST_FILE')
"#;

#[test]
fn a_member_sees_one_interface_one_address_and_nobody_with_privileges() {
    let mut world = TestGrid::two_by_two();
    let reservation = world.reserve("a=2,b=2");
    let outcome = world.on_head(&reservation, REPORT);
    assert_eq!(outcome.code, 0, "{outcome:?}{}", world.logs());
    let report = outcome.out.as_str();
    let account = world.account();
    assert_eq!(value(report, "links"), "eth0 lo");
    assert_eq!(value(report, "links_by_ip"), "2");
    assert_eq!(value(report, "ipv4"), "1");
    assert_eq!(value(report, "ipv4_all"), "1");
    assert_eq!(value(report, "ipv6"), "0");
    assert_eq!(value(report, "uids"), account.uid.to_string(), "only the user's processes");
    assert_eq!(value(report, "caps"), "0000000000000000", "of every process, in every set");
    assert_eq!(value(report, "privs"), "1");
    assert_eq!(value(report, "host"), "a-0");
    assert_eq!(value(report, "user"), account.grid_user());
    assert_eq!(value(report, "home"), format!("/home/{}", account.grid_user()));
    assert_eq!(value(report, "tmp"), "0");
    assert_eq!(value(report, "member"), "0 of 4");
    assert_eq!(value(report, "hostfile"), "a-0 slots=1;a-1 slots=1;b-0 slots=1;b-1 slots=1;");
    assert_eq!(value(report, "machinefile"), "a-0:1;a-1:1;b-0:1;b-1:1;");
    assert_eq!(value(report, "nodes"), "a-0;a-1;b-0;b-1;");
    assert_eq!(value(report, "own"), world.addresses(&reservation)[0].1);
    assert!(value(report, "pids").parse::<u32>().unwrap() < 20, "{report}");
    assert_eq!(
        value(report, "ssh_login_vars"),
        "/etc/gridpilot/hostfile 2 /etc/gridpilot/hostfile /etc/gridpilot/machinefile"
    );
    world.release(&reservation);
    world.expect_nothing_left();
}

#[test]
fn no_variable_of_a_batch_system_comes_through() {
    let mut world = TestGrid::two_by_two();
    let config = crm_config_path(&world.grid.state, 0);
    let text = std::fs::read_to_string(&config).unwrap();
    let given = r#""--mount", "--", "env", "SLURM_JOB_ID=7", "SLURM_NODELIST=x", "PBS_JOBID=7", "PBS_NODEFILE=/x", "SGE_ROOT=/x", "JOB_ID=7", "PE_HOSTFILE=/x","#;
    let changed = text.replace(r#""--mount", "--","#, given);
    assert_ne!(changed, text);
    std::fs::write(&config, changed).unwrap();
    let crm = world.grid.state.daemon("crm-a").unwrap().identity;
    gridpilot_tests::process::end_all(&[crm], std::time::Duration::from_secs(20));
    world.grid.start_crm(0).unwrap();
    world.grid.wait_connected().unwrap();
    let reservation = world.reserve("a=1,b=1");
    let script = "env; ssh a-0 env; cat /etc/gridpilot/environment 2>/dev/null";
    let seen = world.on_head(&reservation, script).ok();
    let leaked: Vec<&str> = seen
        .lines()
        .filter(|line| ["SLURM", "PBS", "SGE", "JOB_ID", "PE_"].iter().any(|name| line.starts_with(name)))
        .collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    assert!(seen.contains("GRIDPILOT_RESERVATION="), "{seen}");
    world.release(&reservation);
}

#[test]
fn what_is_written_to_the_system_stays_inside_and_home_is_shared() {
    let mut world = TestGrid::two_by_two();
    let place = world.workplace();
    let reservation = world.reserve("a=2");
    let script = format!(
        r#"set -e
        for directory in /etc /usr /usr/local /opt /var /srv /tmp /run /dev/shm; do
            echo inside >$directory/gridpilot-was-here
            cat $directory/gridpilot-was-here
        done
        echo shared >{}/shared"#,
        place.path.display()
    );
    let outcome = world.on_head(&reservation, &script);
    assert_eq!(outcome.code, 0, "{outcome:?}{}", world.logs());
    assert_eq!(outcome.out, "inside\n".repeat(9));
    for directory in ["/etc", "/usr", "/usr/local", "/opt", "/var", "/srv", "/tmp", "/run", "/dev/shm"] {
        let path = Path::new(directory).join("gridpilot-was-here");
        assert!(!path.exists(), "{} reached the host", path.display());
        let node = world.grid.state.nodes().next().unwrap().holder.pid;
        let seen_by_node = format!("/proc/{node}/root{}", path.display());
        assert!(!Path::new(&seen_by_node).exists(), "{seen_by_node} reached the node");
    }
    assert_eq!(std::fs::read_to_string(place.path.join("shared")).unwrap(), "shared\n");
    let elsewhere = world.on_head(&reservation, "ssh a-1 ls /etc/gridpilot-was-here");
    assert_ne!(elsewhere.code, 0, "a file of one member is on another: {elsewhere:?}");
    world.release(&reservation);
    world.expect_nothing_left();
}

#[test]
fn the_hosts_own_ssh_directory_is_neither_seen_nor_touched() {
    let mut world = TestGrid::two_by_two();
    let account = world.account();
    let directory = account.home.join(".ssh");
    let had_one = directory.exists();
    if !had_one {
        std::fs::create_dir(&directory).unwrap();
        std::os::unix::fs::chown(&directory, Some(account.uid), Some(account.gid)).unwrap();
    }
    let mark = directory.join("gridpilot-mark");
    std::fs::write(&mark, "of the host").unwrap();
    let names = || {
        let mut names: Vec<_> =
            std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let reservation = world.reserve("a=1,b=1");
    let seen = world.on_head(
        &reservation,
        "ls -A ~/.ssh; stat -c '%a %U' ~/.ssh; echo inside >~/.ssh/gridpilot-inside; ssh b-0 ls -A .ssh",
    );
    let during = names();
    world.release(&reservation);
    let after = names();
    std::fs::remove_file(&mark).unwrap();
    if !had_one {
        std::fs::remove_dir(&directory).unwrap();
    }
    assert_eq!(seen.code, 0, "{seen:?}");
    assert!(!seen.out.contains("gridpilot-mark"), "{seen:?}");
    assert!(seen.out.contains(&format!("700 {}", account.grid_user())), "{seen:?}");
    assert_eq!(before, during);
    assert_eq!(before, after);
}

#[test]
fn limits_of_a_member_are_kept() {
    let mut world = TestGrid::two_by_two();
    let id = world
        .type_in(&["--output-mode", "quiet", "reserve", "--wait", "--nodes", "a=1", "--disk", "32MiB"])
        .ok();
    world.observe();
    let reservation = id.trim();
    let outcome = world.on_head(reservation, "dd if=/dev/zero of=/var/big bs=1M count=64 2>&1");
    assert_ne!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.out.contains("No space left"), "{outcome:?}");
    world.release(reservation);
    world.expect_nothing_left();
}
