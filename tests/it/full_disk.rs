//! A store on a disk of 2 MiB that fills up. The disk is a tmpfs in a mount namespace of one
//! thread: both are gone with the thread.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::thread;

use journal::{Key, Kind, Record, Store, StoreError, Write};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::statvfs;

type Model = BTreeMap<Key, Vec<u8>>;

const SMALL: &str = "size=2m";
const NONE: Option<&str> = None;

/// Runs `body` with an empty disk of 2 MiB at the directory it is given.
fn on_a_small_disk(body: fn(&Path)) {
    let directory = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace (needs root)");
            mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
            mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(SMALL)).unwrap();
            body(directory.path());
            // Busy if anything of the store was left open.
            umount(directory.path()).unwrap();
        });
    });
}

fn enlarge(disk: &Path) {
    mount(NONE, disk, NONE, MsFlags::MS_REMOUNT, Some("size=16m")).unwrap();
}

fn used_bytes(disk: &Path) -> u64 {
    let statistics = statvfs(disk).unwrap();
    (statistics.blocks() - statistics.blocks_free()) * statistics.fragment_size()
}

fn open(disk: &Path) -> (Store, Model) {
    let (store, records) = Store::open(&disk.join("grc.store"), Kind::Grc, "pin").unwrap();
    (store, records.into_iter().collect())
}

fn batch(number: u64) -> Vec<Write> {
    (0..20).map(|n| Write::Put { key: Key::of(1, number * 20 + n), value: vec![number as u8; 300] }).collect()
}

fn put(model: &Model, batch: &[Write]) -> Model {
    let mut model = model.clone();
    for write in batch {
        match write {
            Write::Put { key, value } => drop(model.insert(*key, value.clone())),
            Write::Delete { key } => drop(model.remove(key)),
        }
    }
    model
}

/// Takes every last byte of the disk.
fn fill(disk: &Path) {
    let mut ballast = File::create(disk.join("ballast")).unwrap();
    for piece in [1 << 16, 4096, 1] {
        while ballast.write_all(&vec![1; piece]).is_ok() {}
    }
    assert_eq!(statvfs(disk).unwrap().blocks_free(), 0);
}

#[test]
fn a_store_that_fills_its_disk_ends_and_goes_on_when_there_is_room() {
    on_a_small_disk(|disk| {
        let mut number = 0;
        let mut model = Model::new();
        // Restarts on the full disk find all that was told, and may even go on for a while.
        for start in 0..4 {
            let (mut store, found) = open(disk);
            let last = put(&model, &batch(number));
            assert!(found == model || found == last, "start {start}: a commit was lost or halved");
            model = found;
            let error = loop {
                match store.commit(&batch(number)) {
                    Ok(()) => model = put(&model, &batch(number)),
                    Err(error) => break error,
                }
                number += 1;
            };
            assert!(matches!(error, StoreError::Full { .. }), "start {start}: {error}");
            assert!(error.to_string().starts_with("cannot write state: no space left for "), "{error}");
            let ended = store.commit(&batch(number + 1)).unwrap_err();
            assert!(matches!(ended, StoreError::Ended { .. }), "start {start}: {ended}");
        }
        assert!(model.len() > 1_000, "2 MiB held only {} records of 300 bytes", model.len());
        enlarge(disk);
        let (mut store, found) = open(disk);
        assert!(found == model || found == put(&model, &batch(number)), "lost when there was room again");
        model = found;
        for number in number..number + 100 {
            store.commit(&batch(number)).unwrap();
            model = put(&model, &batch(number));
        }
        drop(store);
        assert!(open(disk).1 == model);
    });
}

/// Others fill the disk, to the last byte.
#[test]
fn a_store_opens_on_a_full_disk_and_goes_on_when_there_is_room() {
    on_a_small_disk(|disk| {
        let (mut store, _) = open(disk);
        store.commit(&batch(0)).unwrap();
        fill(disk);
        let error = (1..100).find_map(|number| store.commit(&batch(number)).err()).expect("a full disk");
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        drop(store);
        let (store, model) = open(disk);
        assert!(put(&Model::new(), &batch(0)).iter().all(|(key, value)| model.get(key) == Some(value)));
        drop(store);
        // Nothing but opening and closing: still the same.
        for _ in 0..3 {
            assert!(open(disk).1 == model);
        }
        fs::remove_file(disk.join("ballast")).unwrap();
        let (mut store, found) = open(disk);
        assert!(found == model);
        store.commit(&batch(200)).unwrap();
        drop(store);
        assert!(open(disk).1 == put(&model, &batch(200)));
    });
}

#[test]
fn a_store_that_finds_no_room_to_begin_leaves_nothing() {
    on_a_small_disk(|disk| {
        fill(disk);
        let refused: Result<(Store, Vec<Record>), _> = Store::open(&disk.join("grc.store"), Kind::Grc, "pin");
        let error = refused.unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        let names: Vec<_> = fs::read_dir(disk).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["ballast"]);
        fs::remove_file(disk.join("ballast")).unwrap();
        open(disk).0.commit(&batch(0)).unwrap();
    });
}

#[test]
fn an_almost_empty_store_takes_little_of_a_small_disk() {
    on_a_small_disk(|disk| {
        let before = used_bytes(disk);
        let (mut store, _) = open(disk);
        store.commit(&batch(0)).unwrap();
        let taken = used_bytes(disk) - before;
        assert!(taken < 200 * 1024, "{taken} bytes");
        // A thousand records, and as many again and again in their place.
        for number in 0..2_000 {
            store.commit(&batch(number % 50)).unwrap();
        }
        let taken = used_bytes(disk) - before;
        assert!(taken < 1_400 * 1024, "{taken} bytes for 300,000 bytes of records");
    });
}
