#[test]
fn what_was_committed_is_there_after_a_restart() {
    use crate::*;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grc.store");
    let (mut store, records) = Store::open(&path, Kind::Grc, "pin").unwrap();
    assert_eq!(records, []);
    let put = |n| Write::Put { key: Key::of(1, n), value: vec![n as u8; 300] };
    store.commit(&[put(1), put(2)]).unwrap();
    store.commit(&[put(3), Write::Delete { key: Key::of(1, 2) }]).unwrap();
    let busy = Store::open(&path, Kind::Grc, "pin").unwrap_err();
    assert_eq!(
        busy.to_string(),
        format!("{} is in use by process {}; stop that one first", path.display(), std::process::id())
    );
    drop(store);
    let (store, records) = Store::open(&path, Kind::Grc, "pin").unwrap();
    assert_eq!(records, [(Key::of(1, 1), vec![1; 300]), (Key::of(1, 3), vec![3; 300])]);
    drop(store);
    let mut out = vec![];
    export(&path, Kind::Grc, |_, _| None, &mut out).unwrap();
    println!("{} {:?}", String::from_utf8(out).unwrap(), std::fs::metadata(&path).unwrap().len());
}
