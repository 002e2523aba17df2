//! Windows, rates and changes: what is asked, what is refused here, how a no is told.

use std::time::{SystemTime, UNIX_EPOCH};

use protocol::client::{Reply, Request, Selector};
use protocol::ids::ReservationId;
use protocol::refusal::{Refusal, Resource};
use protocol::reservation::{Ask, Bandwidth, Change, PairRate, Placement, ReservationState, Start};
use serde_json::json;

use crate::fake::{Act, Grc, Outcome, honest, reservation};

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// What one run asks for.
fn asked(args: &[&str]) -> Ask {
    let grc = Grc::new(honest);
    let outcome = grc.run(args);
    assert_eq!(outcome.code, Some(0), "{args:?} {outcome:?}");
    let ask = match &grc.requests()[..] {
        [Request::Reserve { ask, .. } | Request::Submit { ask, .. }, ..] => ask.clone(),
        other => panic!("{args:?} {other:?}"),
    };
    grc.close();
    ask
}

fn pairs(rate_kbit: u32) -> Bandwidth {
    Bandwidth::Pairs(vec![PairRate { a: "a".parse().unwrap(), b: "b".parse().unwrap(), rate_kbit }])
}

#[test]
fn submit_queues_and_reserve_answers_now_unless_a_start_is_said() {
    let now = Start::Within { wait_s: 0 };
    let at = Start::Between { earliest_s: 4_000_000_000, latest_s: 4_000_000_000 };
    for (words, submit, reserve) in [
        (&[][..], Start::Open, now),
        (&["--queue"], Start::Open, Start::Open),
        (&["--start", "now"], now, now),
        (&["--within", "10m"], Start::Within { wait_s: 600 }, Start::Within { wait_s: 600 }),
        (&["--latest", "+10m"], Start::Within { wait_s: 600 }, Start::Within { wait_s: 600 }),
        (&["--start", "2096-10-02T07:06:40Z"], at, at),
        (&["--start", "2096-10-02T16:06:40+09:00"], at, at),
    ] {
        assert_eq!(asked(&[&["submit"], words, &["--", "true"]].concat()).start, submit, "{words:?}");
        assert_eq!(asked(&[&["reserve"], words].concat()).start, reserve, "{words:?}");
    }
}

#[test]
fn a_start_from_now_is_a_time_from_now() {
    let before = now_s();
    let ask = asked(&["reserve", "--start", "+1h", "--within", "5m", "--time", "30m"]);
    let after = now_s() + 1; // A part of a second counts as one.
    let Start::Between { earliest_s, latest_s } = ask.start else { panic!("{ask:?}") };
    assert!((before + 3600..=after + 3600).contains(&earliest_s), "{before} {earliest_s} {after}");
    assert_eq!((latest_s - earliest_s, ask.duration_s), (300, 1800));
}

#[test]
fn a_start_that_was_chosen_is_told() {
    for (args, told) in [
        (&["reserve", "--within", "1h"][..], "r2 granted; `gridpilot wait r2` returns when it is ready\n"),
        (&["submit", "--start", "+1h", "--", "true"], "j3 submitted in r2\n"),
    ] {
        let grc = Grc::new(honest);
        let outcome = grc.run(args);
        let window = "r2 from 2027-01-15 08:00 to 2027-01-15 09:00\n";
        assert_eq!((outcome.code, outcome.text()), (Some(0), &*format!("{told}{window}")), "{outcome:?}");
        let quiet = grc.run(&[&["--output-mode", "quiet"], args].concat());
        assert_eq!(quiet.text().lines().count(), 1, "{quiet:?}");
        grc.close();
    }
}

#[test]
fn an_end_gives_the_length() {
    let ask = asked(&["reserve", "--start", "2096-10-02T07:06:40Z", "--end", "2096-10-02T07:06:45Z"]);
    assert_eq!(ask.duration_s, 5);
    let ask = asked(&["reserve", "--start", "+1h", "--end", "+90m"]);
    assert_eq!(ask.duration_s, 1800);
}

#[test]
fn rates_are_for_every_pair_or_pair_by_pair_or_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let table = "[[pair]]\nbetween = [\"a\", \"b\"]\nrate = \"1Gbit\"\n";
    let (listed, job) = (write("pairs.toml", table), write("job.toml", table));
    let by_name = write("by-name.toml", &format!("bandwidth-file = {listed:?}\n"));
    for (words, wanted) in [
        (&[][..], Bandwidth::Unasked),
        (&["--bandwidth", "100Mbit"], Bandwidth::Between(100_000)),
        (&["--bandwidth", "a-b=1.5Mbit"], pairs(1500)),
        (&["--bandwidth-file", &listed], pairs(1_000_000)),
        (&[&job], pairs(1_000_000)),
        (&[&by_name], pairs(1_000_000)),
        (&[&job, "--bandwidth", "2Mbit"], Bandwidth::Between(2000)),
        (&[&job, "--bandwidth", "none"], Bandwidth::Unasked),
    ] {
        assert_eq!(asked(&[&["reserve"], words].concat()).bandwidth, wanted, "{words:?}");
    }
}

/// Of words that contradict each other, those of the file go.
#[test]
fn what_is_typed_of_a_window_goes_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("job.toml");
    std::fs::write(&path, "time = \"2h\"\nstart = \"+1h\"\nwithin = \"5m\"\n").unwrap();
    let path = path.to_str().unwrap();
    let ask = asked(&["reserve", path, "--start", "now"]);
    assert_eq!((ask.start, ask.duration_s), (Start::Within { wait_s: 300 }, 7200));
    let ask = asked(&["reserve", path, "--queue"]);
    assert_eq!((ask.start, ask.duration_s), (Start::Open, 7200));
    let ask = asked(&["reserve", path, "--start", "now", "--latest", "+0s", "--end", "2050-01-01T00:00Z"]);
    assert_eq!(ask.start, Start::Within { wait_s: 0 });
    assert!(ask.duration_s > 7200);
    std::fs::write(path, "queue = true\n").unwrap();
    assert_eq!(asked(&["reserve", path]).start, Start::Open);
    assert_eq!(asked(&["reserve", path, "--within", "1m"]).start, Start::Within { wait_s: 60 });
}

#[test]
fn windows_and_rates_that_cannot_be_meant_are_usage_and_nothing_is_asked() {
    let grc = Grc::new(honest);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    std::fs::write(&file, "queue = true\nstart = \"now\"\n").unwrap();
    let twice = dir.path().join("twice.toml");
    std::fs::write(&twice, "bandwidth = \"1Mbit\"\nbandwidth-file = \"x\"\n").unwrap();
    let (file, twice) = (file.to_str().unwrap(), twice.to_str().unwrap());
    for (args, words) in [
        (&["reserve", "--start", "2020-01-01T00:00Z"][..], "in the past"),
        (&["reserve", "--start", "2050-01-02T00:00Z", "--end", "2050-01-01T00:00Z"], "before the start"),
        (&["reserve", "--start", "+1h", "--end", "+1h"], "before the start"),
        (&["reserve", "--start", "+1h", "--latest", "+30m"], "before the earliest"),
        (&["reserve", "--end", "+1h", "--time", "1h"], "cannot be used with"),
        (&["reserve", "--latest", "+1h", "--within", "1h"], "cannot be used with"),
        (&["reserve", "--queue", "--start", "now"], "cannot be used with"),
        (&["submit", "--end", "+1h", "--", "true"], "only with one start"),
        (&["reserve", "--start", "2050-03-27T02:30"], "does not exist here"),
        (&["reserve", "--start", "10:00"], "is not a time"),
        (&["reserve", "--bandwidth", "100MB"], "is not a rate"),
        (&["reserve", "--bandwidth", "a-a=1Mbit"], "no pair"),
        (&["reserve", "--bandwidth", "1Mbit", "--bandwidth-file", "x"], "cannot be used with"),
        (&["reserve", "--bandwidth-file", "/no/such"], "cannot read the file of pairs"),
        (&["reserve", file], "cannot go with"),
        (&["reserve", twice], "leave all but one out"),
        (&["submit", "--in", "r2", "--bandwidth", "1Mbit", "--", "true"], "`bandwidth` cannot go with `in`"),
        (&["submit", "--in", "r2", "--start", "now", "--", "true"], "`start` cannot go with `in`"),
        (&["modify", "r2"], "nothing is to be changed"),
        (&["modify", "r2", "--time", "1h", "--extend", "1h"], "cannot be used with"),
        (&["modify", "j3", "--time", "1h"], "is a job"),
    ] {
        let zone = "CET-1CEST,M3.5.0,M10.5.0/3";
        let outcome = Outcome::of(grc.gridpilot(args).env("TZ", zone).output().unwrap());
        assert_eq!((outcome.code, outcome.text()), (Some(2), ""), "{args:?} {outcome:?}");
        assert!(outcome.stderr.contains(words), "{args:?} {outcome:?}");
        assert!(outcome.stderr.lines().count() <= 3, "{args:?} {outcome:?}");
    }
    assert_eq!(grc.requests(), []);
    grc.close();
}

/// The reservation of the fake lasts an hour.
#[test]
fn modify_asks_for_the_whole_length() {
    let change = |duration_s| Change { duration_s, ..Change::default() };
    for (words, wanted) in [
        (&["--time", "2h"][..], change(Some(7200))),
        (&["--extend", "30m"], change(Some(5400))),
        (&["--shrink", "30m"], change(Some(1800))),
        (&["--end", "2027-01-15T08:00:15Z"], change(Some(5))),
        (&["--bandwidth", "a-b=1Mbit"], Change { bandwidth: Some(pairs(1000)), ..change(None) }),
        (&["--bandwidth", "none"], Change { bandwidth: Some(Bandwidth::Unasked), ..change(None) }),
        (
            &["--nodes", "4", "--time", "1m"],
            Change { placement: Some(Placement::Anywhere(4)), ..change(Some(60)) },
        ),
    ] {
        let grc = Grc::new(honest);
        let outcome = grc.run(&[&["modify", "r2"], words].concat());
        let told = "r2 changed: version 4 is in force\n";
        assert_eq!((outcome.code, outcome.text()), (Some(0), told), "{words:?} {outcome:?}");
        let Some(Request::Modify { reservation: ReservationId(2), change, .. }) = grc.requests().pop() else {
            panic!("{:?}", grc.requests())
        };
        assert_eq!(change, wanted, "{words:?}");
        grc.close();
    }
    let grc = Grc::new(honest);
    assert_eq!(grc.run(&["modify", "last", "--time", "2h"]).code, Some(0));
    assert_eq!(grc.requests()[0], Request::ShowReservation(Selector::Last));
    for words in [["--shrink", "1h"], ["--shrink", "2h"], ["--end", "2027-01-15T08:00:10Z"]] {
        let outcome = grc.run(&[&["modify", "r2"][..], &words].concat());
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains("gridpilot release r2"), "{outcome:?}");
    }
    let changes = grc.requests().iter().filter(|asked| matches!(asked, Request::Modify { .. })).count();
    assert_eq!(changes, 1);
    grc.close();
}

#[test]
fn a_change_that_is_refused_says_why() {
    let grc = Grc::new(|_, request| {
        vec![Act::Reply(match request {
            Request::Modify { .. } => Reply::Refused(Refusal::BadWindow { why: "it has begun".into() }),
            _ => Reply::Reservation(reservation(ReservationState::Ready, 2)),
        })]
    });
    let outcome = grc.run(&["modify", "r2", "--nodes", "a=3"]);
    assert_eq!((outcome.code, outcome.text()), (Some(120), ""), "{outcome:?}");
    assert!(outcome.stderr.contains("the window cannot be: it has begun"), "{outcome:?}");
    grc.close();
}

fn no_room(in_s: Vec<u64>) -> Refusal {
    let resource = Resource::Link { a: "a".parse().unwrap(), b: "b".parse().unwrap() };
    Refusal::NoRoom { resource, asked: 100_000, have: 50_000, in_s }
}

#[test]
fn no_room_names_what_is_short_and_when_it_could_begin() {
    let grc = Grc::answering(Reply::Refused(no_room(vec![300, 3600, 86_400])));
    let args = ["reserve", "--bandwidth", "100Mbit"];
    let outcome = Outcome::of(grc.gridpilot(&args).env("TZ", "<+09>-9").output().unwrap());
    assert_eq!((outcome.code, outcome.text()), (Some(120), ""), "{outcome:?}");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{outcome:?}");
    assert_eq!(lines[0], "gridpilot: the link a-b has 50Mbit left in that window, 100Mbit are needed");
    assert!(
        lines[1].starts_with("  it can begin at 20") && lines[1].contains("+09:00, in 5m: "),
        "{outcome:?}"
    );
    assert!(lines[2].contains("in 1h or ") && lines[2].ends_with("in 1d"), "{outcome:?}");

    // What is proposed is accepted as it stands.
    let start = lines[1].split([' ', ',']).find(|word| word.starts_with("20")).unwrap();
    assert!(matches!(asked(&["reserve", "--start", start]).start, Start::Between { .. }));

    let outcome = grc.run(&["--output-mode", "json", "reserve"]);
    let error: serde_json::Value = serde_json::from_str(&outcome.stderr).unwrap();
    let room = &error["error"]["room"];
    assert_eq!((&room["resource"], &room["sites"]), (&json!("link"), &json!(["a", "b"])));
    assert_eq!((&room["asked"], &room["have"]), (&json!(100_000), &json!(50_000)));
    assert_eq!(room["starts"].as_array().unwrap().len(), 3);
    grc.close();

    let grc = Grc::answering(Reply::Refused(no_room(vec![])));
    let outcome = grc.run(&["reserve"]);
    assert!(outcome.stderr.contains("no later start is known"), "{outcome:?}");
    grc.close();
}

#[test]
fn a_booked_reservation_shows_when_it_begins() {
    let grc = Grc::new(|_, request| {
        let booked = || reservation(ReservationState::Booked, 0);
        vec![Act::Reply(match request {
            Request::Reservations => {
                Reply::Reservations(vec![booked(), reservation(ReservationState::Waiting, 0)])
            }
            Request::WaitReservation(_) => Reply::Reservation(reservation(ReservationState::Ready, 2)),
            _ => Reply::Reservation(booked()),
        })]
    });
    let listed = grc.run(&["reservations"]);
    for word in ["STARTS", "booked", "2027-01-15 08:00"] {
        assert!(listed.text().contains(word), "{word} in {listed:?}");
    }
    let waiting: Vec<&str> = listed.text().lines().last().unwrap().split_whitespace().collect();
    assert_eq!(waiting[waiting.len() - 2..], ["-", "-"], "nobody knows when: {listed:?}");
    let waited = grc.run(&["wait", "r2"]);
    assert_eq!(waited.code, Some(0), "{waited:?}");
    assert!(waited.stderr.contains("r2 booked from 2027-01-15 08:00 at a"), "{waited:?}");
    grc.close();
}
