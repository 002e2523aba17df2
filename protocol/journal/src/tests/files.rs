//! The file: whose it is, who may open it, and that it is never taken for something else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use redb::{Database, TableDefinition};

use super::media::{OWNER, Ram, empty_store, open};
use crate::{Key, Kind, Store, StoreError, Write, export};

struct Bed {
    directory: tempfile::TempDir,
}

impl Bed {
    fn new() -> Bed {
        Bed { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("grc.store")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn open(&self) -> Result<(Store, Vec<crate::Record>), StoreError> {
        Store::open(&self.path(), Kind::Grc, OWNER)
    }
}

fn put(number: u64) -> Write {
    Write::Put { key: Key::of(1, number), value: vec![number as u8; 300] }
}

fn write_private(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let bed = Bed::new();
    let (mut store, records) = bed.open().unwrap();
    assert_eq!(records, []);
    store.commit(&[put(1), put(2)]).unwrap();
    store
        .commit(&[put(3), Write::Delete { key: Key::of(1, 2) }, Write::Delete { key: Key::of(1, 9) }])
        .unwrap();
    store.commit(&[]).unwrap();
    drop(store);
    let expected = [(Key::of(1, 1), vec![1; 300]), (Key::of(1, 3), vec![3; 300])];
    assert_eq!(bed.open().unwrap().1, expected);
    assert_eq!(bed.names(), ["grc.store"]);
    assert_eq!(fs::metadata(bed.path()).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn of_several_changes_to_one_key_the_last_holds() {
    let bed = Bed::new();
    let (mut store, _) = bed.open().unwrap();
    let key = Key::of(1, 1);
    let value = |n| Write::Put { key, value: vec![n] };
    store
        .commit(&[value(1), Write::Delete { key }, value(2), put(5), Write::Delete { key: Key::of(1, 5) }])
        .unwrap();
    drop(store);
    assert_eq!(bed.open().unwrap().1, [(key, vec![2])]);
}

#[test]
fn too_long_a_value_is_refused_and_changes_nothing() {
    let bed = Bed::new();
    let (mut store, _) = bed.open().unwrap();
    let long = Write::Put { key: Key::of(1, 1), value: vec![0; crate::VALUE_BYTES_MAX + 1] };
    assert!(matches!(store.commit(&[put(2), long]), Err(StoreError::TooLong { .. })));
    store.commit(&[Write::Put { key: Key::of(1, 3), value: vec![3; crate::VALUE_BYTES_MAX] }]).unwrap();
    drop(store);
    let records = bed.open().unwrap().1;
    assert_eq!(
        records.iter().map(|(key, value)| (*key, value.len())).collect::<Vec<_>>(),
        [(Key::of(1, 3), crate::VALUE_BYTES_MAX)]
    );
}

#[test]
fn a_second_daemon_is_refused_and_told_who_has_the_store() {
    let bed = Bed::new();
    let (store, _) = bed.open().unwrap();
    let refused = bed.open().unwrap_err().to_string();
    let path = bed.path();
    let expected =
        format!("{} is in use by process {}; stop that one first", path.display(), std::process::id());
    assert_eq!(refused, expected);
    let exported = export(&path, Kind::Grc, |_, _| None, &mut Vec::new()).unwrap_err();
    assert_eq!(exported.to_string(), expected);
    drop(store);
    bed.open().unwrap();
}

#[test]
fn a_start_that_finds_another_one_making_the_store_is_refused() {
    let bed = Bed::new();
    let (_file, new) = crate::file::beside(&bed.path()).unwrap();
    assert!(matches!(bed.open(), Err(StoreError::InUse { .. })));
    assert_eq!(bed.names(), [new.file_name().unwrap().to_str().unwrap()]);
}

#[test]
fn a_start_that_was_cut_short_is_begun_again() {
    let bed = Bed::new();
    let whole = empty_store();
    for len in [0, 1, 320, 4096, whole.len() - 1, whole.len()] {
        write_private(&bed.directory.path().join("grc.store.new"), &whole[..len]);
        let (mut store, records) = bed.open().unwrap();
        assert_eq!(records, []);
        store.commit(&[put(1)]).unwrap();
        drop(store);
        assert_eq!(bed.names(), ["grc.store"]);
        fs::remove_file(bed.path()).unwrap();
    }
}

#[test]
fn a_store_made_meanwhile_is_not_replaced() {
    let bed = Bed::new();
    let (_file, new) = crate::file::beside(&bed.path()).unwrap();
    write_private(&bed.path(), b"somebody's");
    assert!(crate::file::appear(&new, &bed.path()).is_err());
    assert_eq!(fs::read(bed.path()).unwrap(), b"somebody's");
}

/// Everything that is no store of this daemon, and what is said of it.
#[test]
fn what_is_not_our_store_is_refused_in_one_line_and_left_as_it_is() {
    type Make = fn(&Path);
    let cases: [(&str, &str, Make); 10] = [
        ("an empty file", "is damaged (it is 0 bytes long)", |path| write_private(path, b"")),
        ("text", "is no store of gridpilot (it begins otherwise)", |path| {
            write_private(path, "a config file\n".repeat(100).as_bytes());
        }),
        ("another program's database", "is no store of gridpilot (another program's tables)", |path| {
            let database = Database::create(path).unwrap();
            let transaction = database.begin_write().unwrap();
            transaction.open_table(TableDefinition::<u64, u64>::new("theirs")).unwrap();
            transaction.commit().unwrap();
            drop(database);
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }),
        ("a directory", "is not a plain file", |path| fs::create_dir(path).unwrap()),
        ("a link", "is not a plain file", |path| {
            write_private(&path.with_file_name("elsewhere"), &empty_store());
            symlink("elsewhere", path).unwrap();
        }),
        ("a pipe", "is not a plain file", |path| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }),
        ("a file open to the group", "is open to others (mode 640)", |path| {
            write_private(path, &empty_store());
            fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
        }),
        ("a CRM's store", "is the store of a CRM, not of a GRC", |path| {
            drop(Store::open(path, Kind::Crm, OWNER).unwrap());
        }),
        ("another grid's store", r#"is the store of "other", not of "pin""#, |path| {
            drop(Store::open(path, Kind::Grc, "other").unwrap());
        }),
        ("a cut file", "is damaged (", |path| {
            let bytes = empty_store();
            write_private(path, &bytes[..bytes.len() / 8192 * 4096]);
        }),
    ];
    for (what, said, make) in cases {
        let bed = Bed::new();
        make(&bed.path());
        let before = bed.path().is_file().then(|| fs::read(bed.path()).unwrap());
        let error = bed.open().expect_err(what).to_string();
        assert!(error.contains(said) && !error.contains('\n'), "{what}: {error}");
        assert!(error.contains("grc.store"), "{what}: {error}");
        if let Some(before) = before {
            assert!(fs::read(bed.path()).unwrap() == before, "{what} was changed");
        }
    }
}

#[test]
fn a_store_of_another_format_is_refused_with_both_numbers() {
    let medium = Ram::new(empty_store());
    let (core, _) = open(&medium).unwrap();
    core.set_format(7);
    drop(core);
    let error = open(&medium).err().unwrap().to_string();
    assert!(error.contains("has store format 7, this program knows format 1;"), "{error}");
}

#[test]
fn a_record_that_does_not_match_its_checksum_is_named() {
    let medium = Ram::new(empty_store());
    let (mut core, _) = open(&medium).unwrap();
    core.commit(&[put(1), put(2)]).unwrap();
    // The bytes of one record under the key of another: redb is content.
    core.copy_stored(&Key::of(1, 1), &Key::of(1, 2));
    drop(core);
    let before = medium.bytes();
    let error = open(&medium).err().unwrap().to_string();
    assert!(error.contains("grc.store is damaged: record 1/0000000000000002 does not match"), "{error}");
    assert!(medium.bytes() == before);
}

#[test]
fn leaving_a_store_writes_nothing() {
    let medium = Ram::new(empty_store());
    let (mut core, _) = open(&medium).unwrap();
    core.commit(&[put(1)]).unwrap();
    let before = medium.ops().len();
    drop(core);
    assert_eq!(medium.ops().len(), before);
}

#[test]
fn an_export_shows_every_record_and_changes_nothing() {
    let bed = Bed::new();
    let (mut store, _) = bed.open().unwrap();
    store.commit(&[put(1), put(2)]).unwrap();
    drop(store);
    let before = fs::read(bed.path()).unwrap();
    let decode = |key: &Key, value: &[u8]| (key.number() == Some(1)).then(|| value.len().into());
    let mut out = Vec::new();
    assert_eq!(export(&bed.path(), Kind::Grc, decode, &mut out).unwrap(), 2);
    let bytes = "02".repeat(300);
    let expected = format!(
        "{{\"format\":1,\"owner\":\"pin\",\"store\":\"GRC\"}}\n\
         {{\"id\":\"0000000000000001\",\"record\":300,\"table\":1}}\n\
         {{\"bytes\":\"{bytes}\",\"id\":\"0000000000000002\",\"table\":1}}\n"
    );
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    assert!(fs::read(bed.path()).unwrap() == before);
    assert!(matches!(
        export(&bed.path(), Kind::Crm, |_, _| None, &mut Vec::new()),
        Err(StoreError::OtherKind { .. })
    ));
    let absent = bed.directory.path().join("absent");
    assert!(matches!(export(&absent, Kind::Grc, |_, _| None, &mut Vec::new()), Err(StoreError::Io { .. })));
    assert!(!absent.exists());
}

#[test]
fn keys_are_in_the_order_of_table_and_bytes() {
    let ids: [&[u8]; 6] = [b"", b"\0", b"a", b"a\0", b"ab", b"b"];
    let mut keys: Vec<Key> =
        [2, 1].into_iter().flat_map(|table| ids.map(|id| Key::new(table, id).unwrap())).collect();
    keys.sort();
    let told: Vec<(u8, &[u8])> = keys.iter().map(|key| (key.table(), key.id())).collect();
    let mut expected: Vec<(u8, &[u8])> =
        [1, 2].into_iter().flat_map(|table| ids.map(|id| (table, id))).collect();
    expected.sort();
    assert_eq!(told, expected);
    assert_eq!(Key::of(3, 500).number(), Some(500));
    assert!(Key::new(1, &[0; crate::ID_BYTES_MAX]).is_ok());
    let long = Key::new(1, &[0; 300]).unwrap_err();
    assert_eq!(long.to_string(), "a record's id of 300 bytes is longer than 62");
}

#[test]
fn what_was_held_is_written_down_with_the_first_page_last() {
    use super::media::Op;
    use crate::disk::{Disk, Medium};
    use redb::StorageBackend;
    let medium = Ram::new(vec![1; 8192]);
    let disk = Disk::held(medium.clone(), 9, 7).unwrap();
    disk.set_len(16_384).unwrap();
    disk.write(0, &[2; 4]).unwrap();
    disk.write(12_000, &[3; 1_000]).unwrap();
    let mut seen = vec![0; 16_384];
    disk.read(0, &mut seen).unwrap();
    let mut expected = vec![1; 8192];
    expected.resize(16_384, 0);
    expected[..4].fill(2);
    expected[9] = 7;
    expected[12_000..13_000].fill(3);
    assert_eq!(seen, expected);
    assert_eq!((medium.bytes(), medium.ops().len()), (vec![1; 8192], 0));
    disk.release().unwrap();
    assert_eq!(medium.bytes(), expected);
    let order: Vec<Option<u64>> = medium
        .ops()
        .iter()
        .map(|op| match op {
            Op::Write { offset, .. } => Some(*offset),
            _ => None,
        })
        .collect();
    assert_eq!(order, [None, Some(12_288), Some(8_192), None, Some(0), None]);
    assert_eq!(Medium::len(&*medium).unwrap(), 16_384);
}
