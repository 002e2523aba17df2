fn main() {
    use node_manager::{
        account::Account,
        channel,
        init::record,
        net::link::Link,
        sandbox::{Plan, Sandbox, cgroup::Limits},
    };
    use std::time::Instant;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let run =
        |args: &[&str]| assert!(std::process::Command::new("ip").args(args).status().unwrap().success());
    run(&["link", "add", "node0", "type", "veth", "peer", "name", "far0"]);
    run(&["link", "set", "node0", "up"]);
    run(&["link", "set", "far0", "up"]);
    let parent = nix::net::if_::if_nametoindex("node0").unwrap();
    let account = Account {
        name: "x".into(),
        uid: 12345,
        gid: 12345,
        groups: vec![12345],
        home: "/tmp/nmhome".into(),
        shell: "/bin/bash".into(),
    };
    std::fs::create_dir_all("/tmp/nmhome").unwrap();
    std::os::unix::fs::chown("/tmp/nmhome", Some(12345), Some(12345)).unwrap();
    let plan = |i: u32, driver| Plan {
        host_name: format!("a-{i}"),
        tag: format!("a-1-1-{i}-{}", std::process::id()),
        user: grant::UserName::new("grid").unwrap(),
        account: account.clone(),
        shares: vec![],
        link: Link {
            driver,
            parent,
            outside_name: format!("gp{i}"),
            address: std::net::Ipv4Addr::from(0x0a478000 + i),
            prefix_len: 16,
            gateway: None,
            mtu: 1500,
        },
        limits: Limits::default(),
        upper_bytes: 1 << 30,
        upper_inodes: 100000,
    };
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (s, agent) = Sandbox::build(&plan(
        1,
        if args.first().map(|s| s.as_str()) == Some("veth") {
            grant::Driver::Veth
        } else {
            grant::Driver::Macvlan
        },
    ))
    .unwrap_or_else(|f| panic!("{f}"));
    let script = args.get(1).cloned().unwrap_or("id; ip a; ip r; mount; cat /proc/self/status | grep -E 'Cap|NoNew|Secc'; ls -la / /dev ~/.ssh /etc/gridpilot /home; cat /etc/hosts; head -2 /etc/passwd; ps aux; hostname; unshare -U true; touch /usr/x && ls -l /usr/x; cat /proc/self/cgroup; exit 7".into());
    let cmd = record::Command {
        cwd: vec![b"/home/grid".to_vec()],
        argv: vec![b"sh".to_vec(), b"-c".to_vec(), script.into_bytes()],
        env: vec![b"PATH=/usr/sbin:/sbin:/usr/bin:/bin".to_vec(), b"HOME=/home/grid".to_vec()],
    };
    use std::os::fd::AsFd;
    let mf = rustix::fs::memfd_create("c", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&mf, &cmd.encode()).unwrap();
    let out = std::io::stdout();
    let err = std::io::stderr();
    channel::send(
        &agent,
        &record::Request::Spawn { id: 1 }.encode(),
        &[mf.as_fd(), out.as_fd(), err.as_fd()],
    )
    .unwrap();
    for _ in 0..2 {
        println!("{:?}", record::Notice::decode(&channel::receive(&agent, 64).unwrap().unwrap().bytes));
    }
    println!("{:?}", s.tear_down());
    for _ in 0..3 {
        let t = Instant::now();
        let n = 200;
        let mut each = vec![];
        for i in 2..2 + n {
            let t = Instant::now();
            let (s, _a) = Sandbox::build(&plan(i, grant::Driver::Macvlan)).unwrap();
            let b = t.elapsed();
            s.tear_down().unwrap();
            each.push((b, t.elapsed()));
        }
        each.sort();
        println!("{n} in a row {:?} min {:?} median {:?}", t.elapsed(), each[0], each[each.len() / 2]);
        let t = Instant::now();
        let mut v = vec![];
        for i in 1000..1000 + 300 {
            v.push(Sandbox::build(&plan(i, grant::Driver::Macvlan)).unwrap());
        }
        let up = t.elapsed();
        let t = Instant::now();
        for (s, _) in v {
            s.tear_down().unwrap();
        }
        println!("300 at once up {up:?}, down {:?}", t.elapsed());
    }
    let mut times = vec![];
    for _ in 0..100 {
        let t = Instant::now();
        std::process::Command::new("/bin/true").status().unwrap();
        times.push(t.elapsed());
    }
    times.sort();
    println!("bare {:?} {:?}", times[0], times[50]);
}
