use super::*;

const GOOD: &str = r#"
site = "a"
state = "/var/lib/crm"
grc = "10.99.0.1:7400"
listen = "10.71.0.10:7401"
launcher = "/usr/local/lib/gridpilot/launcher"
ranges = ["10.71.128.0/17"]
prefix_len = 16
gateway = "10.71.0.1"
[batch]
system = "embedded"
[[batch.node]]
name = "a1"
slots = 4
memory = "2GiB"
start = ["ssh", "a1"]
"#;

fn refusal(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    Config::parse(Path::new("crm.toml"), &GOOD.replacen(from, to, 1)).unwrap_err().to_string()
}

#[test]
fn the_example_is_accepted_with_its_defaults() {
    let config = Config::parse(Path::new("crm.toml"), GOOD).unwrap();
    assert_eq!(config.batch.node[0].memory, 2 << 30);
    assert_eq!(config.batch.node[0].members, 4);
    assert_eq!((config.mtu, config.driver), (1500, grant::Driver::Macvlan));
    assert_eq!(config.settings().times, Times::default());
    assert!(config.settings().reserved.contains(&[10, 71, 0, 10].into()));
}

#[test]
fn what_the_file_says_wrongly_is_refused_with_its_line() {
    for (from, to, line, word) in [
        ("prefix_len", "prefix_length", 8, "prefix_length"),
        ("slots = 4", "slot = 4", 14, "slot"),
        ("site = \"a\"", "site = \"A\"", 2, "site name"),
        ("\"2GiB\"", "\"2GB\"", 15, "size"),
        ("10.71.128.0/17", "10.71.128.0/77", 7, ""),
        ("\"embedded\"", "\"lsf\"", 11, "embedded"),
        ("[batch]", "driver = \"move\"\n[batch]", 10, "macvlan"),
    ] {
        let error = refusal(from, to);
        assert!(error.starts_with(&format!("crm.toml:{line}: ")), "{to}: {error}");
        assert!(error.contains(word) && !error.contains('\n'), "{to}: {error}");
    }
}

#[test]
fn what_does_not_fit_together_is_refused_by_name() {
    for (from, to, word) in [
        ("10.71.0.1\"", "10.72.0.1\"", "gateway"),
        ("10.71.128.0/17", "10.71.128.1/17", "host bits"),
        ("10.71.128.0/17", "10.0.0.0/8", "wider"),
        ("prefix_len = 16", "prefix_len = 0", "prefix_len"),
        ("10.71.0.10:7401", "0.0.0.0:7401", "listen"),
        ("[batch]", "early_s = 5\n[batch]", "early_s is for queues"),
        ("[\"ssh\", \"a1\"]", "[]", "start"),
        ("slots = 4", "members = 0", "members"),
        ("\"/var/lib/crm\"", "\"crm\"", "state"),
        ("[batch]", "shares = [\"/a rx\"]\n[batch]", "share"),
        ("[batch]", "interface = \"eth0\\nuid_min = 0\"\n[batch]", "interface"),
    ] {
        let error = refusal(from, to);
        assert!(error.contains(word), "{to}: {error}");
    }
}

#[test]
fn sizes_are_read_exactly() {
    assert_eq!(size("4096"), Some(4096));
    assert_eq!(size("3MiB"), Some(3 << 20));
    for bad in ["", "GiB", "-1GiB", "1.5GiB", "1 GiB", "99999999999GiB", "2gib"] {
        assert_eq!(size(bad), None, "{bad}");
    }
}

/// The example with a queue in the place of its own nodes.
fn queue(batch: &str) -> Result<Config, String> {
    let head = &GOOD[..GOOD.find("[batch]").unwrap()];
    Config::parse(Path::new("crm.toml"), &format!("{head}{batch}")).map_err(|e| e.to_string())
}

#[test]
fn a_queue_has_equal_places_and_more_patience() {
    let config = queue("[batch]\nsystem = \"slurm\"\nnodes = 3\nnode_memory = \"2GiB\"\n").unwrap();
    let places = config.nodes();
    let names: Vec<&str> = places.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["place-0", "place-1", "place-2"]);
    assert!(places.iter().all(|node| (node.memory_bytes, node.members_max) == (2 << 30, 1)));
    let settings = config.settings();
    assert!(settings.anonymous && settings.batch_system.as_str() == "slurm");
    assert_eq!((settings.times.pilots.as_secs(), settings.times.lease.as_secs()), (600, 10));
    let times = "[batch]\nsystem = \"pbs\"\nnodes = 1\n[times]\npilots_s = 90\nlease_s = 30\n";
    let times = queue(times).unwrap().settings().times;
    assert_eq!((times.pilots.as_secs(), times.lease.as_secs()), (90, 30));
}

#[test]
fn what_means_nothing_to_a_batch_system_is_refused_by_name() {
    for (system, line, word) in [
        ("slurm", "", "nodes is missing"),
        ("slurm", "nodes = 0", "nodes is 0"),
        ("slurm", "nodes = 2\nqueue = \"long\"", "queue"),
        ("slurm", "nodes = 2\npartition = \"--uid=0\"", "no name"),
        ("slurm", "nodes = 2\nconfig = \"slurm.conf\"", "absolute"),
        ("slurm", "nodes = 2\nextra = [\"\"]", "extra"),
        ("slurm", "nodes = 2\npoll_s = 0", "poll_s"),
        ("slurm", "nodes = 2\ncell = \"default\"", "cell"),
        ("grid-engine", "nodes = 2\npartition = \"p\"", "partition"),
        ("pbs", "nodes = 2\nroot = \"/var/lib/gridengine\"", "root"),
        ("embedded", "nodes = 2", "nodes"),
        ("slurm", "nodes = 2\n[times]\nlease_s = 4", "lease_s"),
        ("slurm", "nodes = 2\n[[batch.node]]\nname = \"a1\"\nstart = [\"ssh\"]", "node"),
    ] {
        let error = queue(&format!("[batch]\nsystem = \"{system}\"\n{line}\n")).unwrap_err();
        assert!(error.contains(word) && !error.contains('\n'), "{system} {line}: {error}");
    }
}
