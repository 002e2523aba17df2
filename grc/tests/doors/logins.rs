//! Users over the network as they are meant: the real `gridpilot`, every type of key, agents and
//! files; what they see of each other; how they are put out.

use std::path::Path;
use std::process::{Command, Output};

use grc::config::Connections;
use protocol::client::{Reply, Request, Selector};
use protocol::ids::JobId;
use protocol::job::JobState;
use protocol::login::ToStranger;
use protocol::refusal::Refusal;

use crate::clients::submit;
use crate::keys::{Agent, Keys, Stranger, line, user};
use crate::peers::*;

/// `gridpilot` of somebody with this home, away from the threads that serve it.
async fn gridpilot(home: &Path, agent: Option<&Agent>, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gridpilot"));
    command.args(words).env_clear().env("HOME", home).env("GRIDPILOT_OUTPUT_MODE", "quiet");
    if let Some(agent) = agent {
        command.env("SSH_AUTH_SOCK", &agent.socket);
    }
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const TYPES: [(&str, &[&str]); 5] = [
    ("ed25519", &["-t", "ed25519"]),
    ("p256", &["-t", "ecdsa", "-b", "256"]),
    ("p384", &["-t", "ecdsa", "-b", "384"]),
    ("rsa", &["-t", "rsa", "-b", "2048"]),
    ("rsa4", &["-t", "rsa", "-b", "4096"]),
];

#[tokio::test]
async fn every_type_of_key_logs_in_by_an_agent_and_by_its_file_where_files_can() {
    let keys = Keys::new();
    let files: Vec<_> = TYPES.iter().map(|(name, words)| keys.make(name, words)).collect();
    let users: String = files.iter().enumerate().map(|(n, file)| line(&format!("u{n}"), file)).collect();
    let grc = Grc::start_with(&users, |_| ()).await;
    let (address, pin) = (grc.users_address.unwrap().to_string(), grc.pin.to_string());
    let login = ["login", address.as_str(), "--pin", pin.as_str()];
    for (n, file) in files.iter().enumerate() {
        let (home, agent) = (tempfile::tempdir().unwrap(), Agent::start(&keys));
        agent.add(file);
        let user = format!("u{n}");
        let words = [&login[..], &["--user", &user]].concat();
        let done = gridpilot(home.path(), Some(&agent), &words).await;
        assert!(done.status.success(), "{}: {}", TYPES[n].0, said(&done));
        let sites = gridpilot(home.path(), Some(&agent), &["sites"]).await;
        assert!(sites.status.success() && !sites.stdout.is_empty(), "{}", said(&sites));
        drop(agent);
        let home = tempfile::tempdir().unwrap();
        let words = [&words[..], &["--key", file.to_str().unwrap()]].concat();
        let done = gridpilot(home.path(), None, &words).await;
        if TYPES[n].0.starts_with("rsa") {
            assert_eq!(done.status.code(), Some(120));
            assert!(said(&done).contains("ssh-add") && said(&done).lines().count() <= 3, "{}", said(&done));
        } else {
            assert!(done.status.success(), "{}: {}", TYPES[n].0, said(&done));
            assert!(gridpilot(home.path(), None, &["sites"]).await.status.success());
        }
    }
    grc.stop().await;
}

#[tokio::test]
async fn what_keeps_somebody_out_is_said_in_few_lines() {
    let keys = Keys::new();
    let (good, other) = (keys.make("good", &["-t", "ed25519"]), keys.make("other", &["-t", "ed25519"]));
    let locked = keys.make("locked", &["-t", "ed25519", "-N", "secret"]);
    let grc = Grc::start_with(&(line("ada", &good) + &line("ada", &locked)), |_| ()).await;
    let (address, pin) = (grc.users_address.unwrap().to_string(), grc.pin.to_string());
    let home = tempfile::tempdir().unwrap();
    let key = |path: &Path| path.to_str().unwrap().to_owned();
    let wrong_pin = "00".repeat(32);
    let login = |pin: &str, more: &[&str]| {
        let words = [&["login", address.as_str(), "--pin", pin, "--user"], more].concat();
        words.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    for (words, code, expected) in [
        (login(&wrong_pin, &["ada", "--key", &key(&good)]), 120, "is not the one whose pin you gave"),
        (login(&pin, &["ada", "--key", &key(&other)]), 120, "does not let in ada with the key SHA256:"),
        (login(&pin, &["bob", "--key", &key(&good)]), 120, "does not let in bob with the key SHA256:"),
        (login(&pin, &["ada", "--key", &key(&locked)]), 120, "has a passphrase; let your agent have it"),
        (login(&pin, &["ada"]), 120, "there is no ssh key to use"),
        (login(&pin, &["ada", "--key", "/nowhere"]), 120, "/nowhere: No such file"),
        (login("beef", &["ada"]), 2, "64 hexadecimal digits"),
        (vec!["--grc".into(), address.clone(), "sites".into()], 2, "the pin of the GRC at"),
    ] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let done = gridpilot(home.path(), None, &words).await;
        assert_eq!(done.status.code(), Some(code), "{words:?}: {}", said(&done));
        assert!(said(&done).contains(expected) && said(&done).lines().count() <= 3, "{}", said(&done));
    }
    assert!(!home.path().join(".config").exists(), "nothing is written down that did not work");
    // With a wrong pin nothing is said, in one line; a key that others can read is not used.
    let done = gridpilot(home.path(), None, &["login", &address, "--pin", &wrong_pin]).await;
    assert_eq!(said(&done).lines().count(), 1, "{}", said(&done));
    std::fs::set_permissions(&good, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let words = login(&pin, &["ada", "--key", &key(&good)]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = gridpilot(home.path(), None, &words).await;
    assert!(said(&done).contains("can be read by others"), "{}", said(&done));
    grc.stop().await;
}

/// Over the wire, as in the owner's own tests: another's things do not exist.
#[tokio::test]
async fn two_users_see_nothing_of_each_other_and_an_operator_sees_both() {
    let keys = Keys::new();
    let (ada, bob, eve) = (keys.ed25519("ada"), keys.ed25519("bob"), keys.ed25519("eve"));
    let users = line("ada", &ada.path) + &line("bob", &bob.path) + &line("eve", &eve.path);
    let grc = Grc::start_with(&users, |config| {
        config.limits.operators.insert("eve".parse().unwrap());
    })
    .await;
    let (_site, _) = grc.joined("a", "10.1.0.0/24").await;
    let (mut ada, mut bob) = (user(&grc, "ada", &ada).await, user(&grc, "bob", &bob).await);
    let mut eve = user(&grc, "eve", &eve).await;
    let Reply::Submitted { job, reservation } = ada.ask(submit(1)).await else { panic!() };
    let (j, r) = (Selector::Id(job), Selector::Id(reservation));
    let requests = [
        Request::ShowJob(j),
        Request::WaitJob(j),
        Request::ExplainJob(j),
        Request::Log { job: j, stream: protocol::job::Stream::Stdout, offset: 0, follow: false },
        Request::Cancel(j),
        Request::ShowReservation(r),
        Request::WaitReservation(r),
        Request::ExplainReservation(r),
        Request::Usage(r),
        Request::Release(r),
    ];
    for request in &requests {
        let Reply::Refused(refusal) = bob.ask(request.clone()).await else { panic!("{request:?}") };
        assert!(refusal.is_not_found(), "{request:?}: {refusal}");
    }
    // What is not there is refused in the same words.
    let Reply::Refused(nobodys) = bob.ask(Request::ShowJob(Selector::Id(JobId(99)))).await else { panic!() };
    let Reply::Refused(adas) = bob.ask(Request::ShowJob(j)).await else { panic!() };
    assert_eq!(nobodys.to_string().replace("j99", "j1"), adas.to_string());
    assert_eq!(bob.ask(Request::Jobs).await, Reply::Jobs(vec![]));
    assert_eq!(bob.ask(Request::Reservations).await, Reply::Reservations(vec![]));
    assert!(matches!(ada.ask(Request::Jobs).await, Reply::Jobs(jobs) if jobs.len() == 1));
    let Reply::Jobs(jobs) = eve.ask(Request::Jobs).await else { panic!() };
    assert_eq!((jobs.len(), jobs[0].user.as_str()), (1, "ada"));
    assert_eq!(eve.ask(Request::Cancel(j)).await, Reply::Done);
    let Reply::Job(view) = ada.ask(Request::WaitJob(j)).await else { panic!() };
    let JobState::Failed(failure) = view.state else { panic!("{:?}", view.state) };
    assert!(failure.cause.as_str().contains("operator eve"), "{failure}");
    grc.stop().await;
}

#[tokio::test]
async fn who_is_taken_out_of_the_users_file_is_out_at_once_and_others_stay() {
    let keys = Keys::new();
    let (ada, bob) = (keys.ed25519("ada"), keys.ed25519("bob"));
    let both = line("ada", &ada.path) + &line("bob", &bob.path);
    let grc = Grc::start_with(&both, |_| ()).await;
    let (mut first, mut second) = (user(&grc, "ada", &ada).await, user(&grc, "bob", &bob).await);
    let half_way = Stranger::at(&grc).await;
    std::fs::write(&grc.config.remote.as_ref().unwrap().users_file, line("bob", &bob.path)).unwrap();
    let ended = tokio::time::timeout(PATIENCE, first.inbox.next()).await.expect("put out");
    assert!(ended.is_err(), "{ended:?}");
    assert!(matches!(second.ask(Request::Sites).await, Reply::Sites(_)));
    for mut stranger in [half_way, Stranger::at(&grc).await] {
        let refused = stranger.log_in(&grc, "ada", &ada).await;
        let expected = Refusal::LoginRefused { user: "ada".parse().unwrap() };
        assert_eq!(refused, ToStranger::Refused(expected));
    }
    user(&grc, "bob", &bob).await;
    grc.stop().await;
}

#[tokio::test]
async fn a_users_file_with_a_mistake_lets_nobody_in_anew_and_puts_out_who_is_not_in_it() {
    let keys = Keys::new();
    let (ada, bob, eve) = (keys.ed25519("ada"), keys.ed25519("bob"), keys.ed25519("eve"));
    let lines = [&ada, &bob, &eve].map(|file| line("u", &file.path));
    let grc = Grc::start_with(&lines[..2].concat(), |_| ()).await;
    let (mut first, mut second) = (user(&grc, "u", &ada).await, user(&grc, "u", &bob).await);
    let path = grc.config.remote.as_ref().unwrap().users_file.clone();
    std::fs::write(&path, format!("{}from=\"10.0.0.1\" nonsense\n{}", lines[0], lines[2])).unwrap();
    assert!(tokio::time::timeout(PATIENCE, second.inbox.next()).await.expect("put out").is_err());
    assert!(matches!(first.ask(Request::Sites).await, Reply::Sites(_)));
    let refused = Stranger::at(&grc).await.log_in(&grc, "u", &eve).await;
    assert!(matches!(refused, ToStranger::Refused(Refusal::LoginRefused { .. })), "{refused:?}");
    user(&grc, "u", &ada).await;
    // A file that anybody could have written says nothing of anybody.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    assert!(tokio::time::timeout(PATIENCE, first.inbox.next()).await.expect("put out").is_err());
    grc.assert_serves().await;
    grc.stop().await;
}

#[tokio::test]
async fn connections_and_open_requests_of_one_user_are_limited_by_name_at_both_doors() {
    let keys = Keys::new();
    let (ada, bob) = (keys.ed25519("ada"), keys.ed25519("bob"));
    let users = line("u", &ada.path) + &line("bob", &bob.path);
    let grc =
        Grc::start_with(&users, |config| config.connections = Connections { per_user: 2, requests: 3 }).await;
    let (_site, _) = grc.joined("a", "10.1.0.0/24").await;
    // The account of these tests is the grid user u.
    let mut local = grc.client().await;
    local.ask(submit(1)).await;
    let mut remote = user(&grc, "u", &ada).await;
    let limited = |what: &str, limit| Refusal::OverUserLimit { what: what.into(), asked: limit + 1, limit };
    let refused = Stranger::at(&grc).await.log_in(&grc, "u", &ada).await;
    let connections = limited("connections at once would be yours", 2);
    assert_eq!(refused, ToStranger::Refused(connections.clone()));
    let mut third = grc.client().await;
    assert_eq!(third.ask(Request::Sites).await, Reply::Refused(connections));
    user(&grc, "bob", &bob).await;
    let waits: Vec<u64> = (0..3).map(|_| remote.post(Request::WaitJob(Selector::Last))).collect();
    let refused = remote.ask(Request::Jobs).await;
    assert_eq!(refused, Reply::Refused(limited("open requests would be yours", 3)));
    assert_eq!(local.ask(Request::Jobs).await, refused, "over all of his connections");
    assert_eq!(waits.len(), 3);
    drop(remote);
    // With the connection its requests are gone; when that is noticed is not ours to say.
    while !matches!(local.ask(Request::Jobs).await, Reply::Jobs(_)) {
        tokio::task::yield_now().await;
    }
    grc.stop().await;
}

#[tokio::test]
async fn a_grc_does_not_begin_with_a_users_file_that_it_cannot_believe() {
    let keys = Keys::new();
    let ada = keys.make("ada", &["-t", "ed25519"]);
    let p521 = keys.make("p521", &["-t", "ecdsa", "-b", "521"]);
    let file = keys.directory.path().join("users");
    for (text, expected) in [
        (line("ada", &ada) + "bob\n", "users:2: a line is a grid user"),
        (line("Ada", &ada), "users:1: \"Ada\" is not a user name"),
        (line("ada", &ada) + &line("bob", &ada), "users:2: this key stands in line 1 already"),
        (line("ada", &p521), "users:1: \"ecdsa-sha2-nistp521\" is no type of key that is taken here"),
        (line("no-pty ada", &ada), "users:1: \"ada\" is no type of key"),
        (line("", &ada), "options are not understood"),
        (line("ada", &ada).replace("AAAA", "AAAB"), "users:1: it is no ssh-ed25519 key"),
        ("ada ssh-ed25519 \u{1b}[2J\n".into(), "users:1: it has a control character in it"),
    ] {
        std::fs::write(&file, &text).unwrap();
        let error = grc::login::follow::UsersFile::open(file.clone()).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains(char::is_control), "{text:?}: {error}");
    }
    std::fs::write(&file, line("ada", &ada)).unwrap();
    assert_eq!(grc::login::follow::UsersFile::open(file.clone()).unwrap().users().borrow().len(), 1);
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o664)).unwrap();
    let error = grc::login::follow::UsersFile::open(file).unwrap_err().to_string();
    assert!(error.contains("not writable by group"), "{error}");
}
