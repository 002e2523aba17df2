//! Configurations that can be used, and every mistake with its line.

use super::*;

const GOOD: &str = r#"state = "/var/lib/grc"
listen = "10.99.0.1:7400"
socket = "/run/gridpilot/grc.sock"
[[site]]
name = "a"
supernets = ["10.71.0.0/16"]
[[site]]
name = "b"
supernets = ["10.72.0.0/16", "10.73.0.0/24"]
[users]
root = "grid"
[deadlines]
starting_s = 30
"#;

const LINKS: &str = r#"[[link]]
between = ["b", "a"]
capacity = "200Mbit"
[limits]
reservations_per_user = 5
"#;

fn error(text: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("grc.toml");
    std::fs::write(&path, text).unwrap();
    let error = Config::load(&path).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error.strip_prefix(path.to_str().unwrap()).map(str::to_owned).unwrap_or(error)
}

#[test]
fn a_full_configuration_is_read_as_it_stands() {
    let config = Config::parse(GOOD).unwrap();
    assert_eq!(config.supernets.len(), 2);
    assert_eq!(config.users["root"].as_str(), "grid");
    assert_eq!(config.deadlines.starting, Duration::from_secs(30));
    assert_eq!(config.deadlines.holding, Deadlines::default().holding);
    assert_eq!(config.links, BTreeMap::new());
    assert_eq!(config.limits, Limits::default());
    assert_eq!((config.remote, config.connections), (None, Connections::default()));
}

#[test]
fn links_and_uplinks_are_capacities_between_sites() {
    let text = GOOD.replacen("name = \"b\"", "name = \"b\"\nuplink = \"1Gbit\"", 1) + LINKS;
    let config = Config::parse(&text).unwrap();
    let (a, b): (SiteName, SiteName) = ("a".parse().unwrap(), "b".parse().unwrap());
    assert_eq!(config.links, BTreeMap::from([((a, b.clone()), 200_000)]));
    assert_eq!(config.uplinks, BTreeMap::from([(b, 1_000_000)]));
    assert_eq!(config.limits.reservations, 5);
}

#[test]
fn a_link_that_cannot_be_is_named_with_file_and_line() {
    let first = GOOD.lines().count();
    let wrong = |from: &str, to: &str| {
        let message = error(&format!("{GOOD}{}", LINKS.replacen(from, to, 1)));
        let (line, what) = message[1..].split_once(": ").unwrap();
        (line.parse::<usize>().unwrap() - first, what.to_owned())
    };
    let says = |line: usize, what: &str| (line, what.to_owned());
    assert_eq!(wrong("\"a\"", "\"b\""), says(2, "a link goes from b to another site"));
    assert_eq!(wrong("\"a\"", "\"c\""), says(2, "no [[site]] is called c"));
    assert_eq!(wrong("200Mbit", "63kbit"), says(3, "a capacity is 64kbit at least"));
    assert_eq!(wrong("200Mbit", "0Mbit"), says(3, "a capacity is 64kbit at least"));
    let (line, what) = wrong("200Mbit", "200MB");
    assert!(line == 3 && what.contains("is not a rate"), "{what}");
    assert_eq!(wrong("= 5", "= 0"), says(5, "a user has 1 to 65536 reservations"));
    let (line, what) = wrong("capacity", "capacty");
    assert!(line == 3 && what.starts_with("unknown field `capacty`"), "{what}");
    let twice = "[[link]]\nbetween = [\"a\", \"b\"]\ncapacity = \"1Gbit\"\n[limits]";
    assert_eq!(wrong("[limits]", twice), says(5, "the link between a and b stands here twice"));
    let message = error(&GOOD.replacen("name = \"b\"", "name = \"b\"\nuplink = \"1GB\"", 1));
    assert!(message.starts_with(":9: \"1GB\" is not a rate"), "{message}");
}

#[test]
fn the_users_door_operators_and_limits_are_read_as_they_stand() {
    let head = "listen_users = \"10.99.0.1:7402\"\noperators = [\"ada\"]\n";
    let text = format!(
        "{head}{}[limits]\nnodes_per_user = 8\nhorizon_days = 30\nbandwidth_per_user = \"2Gbit\"\n\
         connections_per_user = 4\nrequests_per_user = 9\n",
        GOOD.replacen("name = \"b\"", "name = \"b\"\nusers = [\"ada\", \"bob\"]\nnodes_per_user = 2", 1)
    );
    let config = Config::parse(&text).unwrap();
    let remote = config.remote.unwrap();
    assert_eq!(remote.listen, "10.99.0.1:7402".parse().unwrap());
    assert_eq!(remote.users_file, Path::new("/etc/gridpilot/users"));
    let users = ["ada", "bob"].map(|user| user.parse().unwrap());
    let site = SiteLimits { users: Some(users.clone().into()), nodes: Some(2) };
    let limits = Limits {
        nodes: 8,
        horizon_s: 30 * 86_400,
        rate_kbit: 2_000_000,
        sites: [("b".parse().unwrap(), site)].into(),
        operators: [users[0].clone()].into(),
        ..Limits::default()
    };
    assert_eq!(config.limits, limits);
    assert_eq!(config.connections, Connections { per_user: 4, requests: 9 });
}

#[test]
fn what_cannot_be_of_users_is_named_with_its_line() {
    let first = |line: &str| error(&format!("{line}\n{GOOD}"));
    assert_eq!(
        first("listen_users = \"10.99.0.1:7400\""),
        ":1: listen_users is the sites' address: take another port"
    );
    assert_eq!(first("users_file = \"users\""), ":1: users_file must be an absolute path");
    assert!(first("listen_users = \"grid:7402\"").starts_with(":1: "));
    assert!(first("operators = [\"Ada\"]").starts_with(":1: \"Ada\" is not a user name"));
    let lines = GOOD.lines().count();
    let limit = |line: &str| error(&format!("{GOOD}[limits]\n{line}\n"));
    for (line, what) in [
        ("nodes_per_user = 0", "a user has 1 to 1048576 nodes"),
        ("horizon_days = 367", "a user has 1 to 366 days ahead"),
        ("connections_per_user = 1025", "a user has 1 to 1024 connections"),
        ("requests_per_user = 0", "a user has 1 to 65536 open requests"),
        ("bandwidth_per_user = \"1kbit\"", "a capacity is 64kbit at least"),
    ] {
        assert_eq!(limit(line), format!(":{}: {what}", lines + 2));
    }
    let site = GOOD.replacen("name = \"a\"", "name = \"a\"\nnodes_per_user = 0", 1);
    assert_eq!(error(&site), ":6: a user has 1 to 1048576 nodes at a site");
}

#[test]
fn every_mistake_is_named_with_file_and_line() {
    let swap = |from: &str, to: &str| error(&GOOD.replacen(from, to, 1));
    assert!(swap("root =", "root = \"x\"\n\"root\" =").starts_with(":12: "), "a key twice");
    let unknown = swap("socket =", "sokcet =");
    assert!(unknown.starts_with(":3: unknown field `sokcet`"), "{unknown}");
    assert!(swap("starting_s", "startin_s").starts_with(":13: unknown field"));
    assert_eq!(swap("name = \"b\"", "name = \"a\""), ":8: site a stands here twice");
    assert!(swap("name = \"b\"", "name = \"B\"").starts_with(":8: \"B\" is not a site name"));
    assert!(swap("10.71.0.0/16", "10.71.0.0/33").starts_with(":6: "));
    assert!(swap("[\"10.71.0.0/16\"]", "[]").starts_with(":6: site a may publish nothing"));
    assert_eq!(swap("/var/lib/grc", "lib"), ":1: state must be an absolute path");
    assert_eq!(swap("starting_s = 30", "starting_s = 0"), ":13: a deadline has at least one second");
    assert!(swap("listen =", "#").contains("missing field `listen`"));
}
