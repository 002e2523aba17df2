//! Chunks in, files out, over restarts and power cuts.

use super::*;

fn store(stream_bytes_max: u64) -> (tempfile::TempDir, Store) {
    let state = tempfile::tempdir().unwrap();
    let store = start(state.path(), stream_bytes_max, 1, &[]);
    store.expect(JobId(1), vec![("a".parse().unwrap(), 2)]);
    (state, store)
}

/// A start of the GRC in this boot of the machine, which finds these jobs.
fn start(state: &Path, stream_bytes_max: u64, boot: u8, known: &[u64]) -> Store {
    let store = Store::new(state, stream_bytes_max, [boot; 16], &known.iter().copied().map(JobId).collect());
    for job in known {
        store.expect(JobId(*job), vec![("a".parse().unwrap(), 2)]);
    }
    store
}

fn damage(store: &Store, job: u64) -> Option<String> {
    locked(&store.job(JobId(job)).unwrap().state).offsets.damage.clone()
}

fn on_file(store: &Store, stream: Stream) -> Vec<u8> {
    fs::read(store.path(JobId(1), stream)).unwrap_or_default()
}

#[test]
fn what_comes_twice_is_kept_once_and_gaps_are_refused() {
    let (_state, store) = store(100);
    let a: SiteName = "a".parse().unwrap();
    let put = |offset, bytes: &[u8]| store.append(&a, JobId(1), 0, Stream::Stdout, offset, bytes);
    assert_eq!(put(0, b"abc"), Ok(3));
    assert_eq!(put(0, b"abc"), Ok(3));
    assert_eq!(put(1, b"bcde"), Ok(5));
    assert_eq!(put(6, b"x"), Err(OutputError::Gap { job: JobId(1), member: 0, expected: 5, given: 6 }));
    assert_eq!(
        put(u64::MAX, b"x").unwrap_err(),
        OutputError::Gap { job: JobId(1), member: 0, expected: 5, given: u64::MAX }
    );
    assert_eq!(store.append(&a, JobId(1), 1, Stream::Stdout, 0, b"+"), Ok(1), "each member counts by itself");
    assert_eq!(on_file(&store, Stream::Stdout), b"abcde+");
    assert_eq!(on_file(&store, Stream::Stderr), b"");
}

/// Whatever was acknowledged is there after a restart, and nothing twice.
#[test]
fn a_restart_goes_on_where_it_stopped_member_by_member() {
    let (state, store) = store(8);
    let a: SiteName = "a".parse().unwrap();
    let put = |store: &Store, member, offset, bytes: &[u8]| {
        store.append(&a, JobId(1), member, Stream::Stdout, offset, bytes)
    };
    assert_eq!(put(&store, 0, 0, b"abc"), Ok(3));
    assert_eq!(put(&store, 1, 0, b"xy"), Ok(2));
    // Killed between the bytes and their line, and in the middle of a line.
    let append = |path: PathBuf, bytes: &[u8]| {
        OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
    };
    append(store.path(JobId(1), Stream::Stdout), b"lost");
    append(store.job_directory(JobId(1)).join(offsets::FILE), b"a 0 stdout 99");
    let again = start(state.path(), 8, 1, &[1]);
    assert_eq!(put(&again, 0, 3, b"d"), Ok(4));
    assert_eq!(put(&again, 1, 0, b"xyz"), Ok(3), "it is sent again from where it was acknowledged");
    assert_eq!(
        put(&again, 1, 9, b"?"),
        Err(OutputError::Gap { job: JobId(1), member: 1, expected: 3, given: 9 })
    );
    assert_eq!(on_file(&again, Stream::Stdout), b"abcxydz");
    assert_eq!(put(&again, 0, 4, b"efgh"), Ok(8), "taken beyond the limit");
    let third = start(state.path(), 8, 1, &[1]);
    assert_eq!(put(&third, 0, 8, b"i"), Ok(9));
    assert_eq!(damage(&third, 1).as_deref(), Some("only the first 8 bytes are kept"));
}

/// Killed between the first bytes and the first line: there are bytes, and no file that speaks of them.
#[test]
fn bytes_that_were_never_acknowledged_are_not_kept_beside_those_that_come_again() {
    let (state, store) = store(100);
    let a: SiteName = "a".parse().unwrap();
    store.write(JobId(1), Stream::Stdout, b"abc").unwrap();
    let again = start(state.path(), 100, 1, &[1]);
    assert_eq!(again.append(&a, JobId(1), 0, Stream::Stdout, 0, b"abc"), Ok(3));
    assert_eq!(again.append(&a, JobId(1), 0, Stream::Stdout, 3, b"def"), Ok(6));
    assert_eq!(on_file(&again, Stream::Stdout), b"abcdef");
}

/// What a power cut may leave of a job's files: everything, half, nothing.
const CUTS: [&[&str]; 4] = [&[], &["offsets"], &["stdout"], &["offsets", "stdout"]];

/// Every stream that ran through it goes on, once, however often the GRC starts in the new boot.
#[test]
fn after_a_power_cut_no_stream_waits_for_what_does_not_come_again() {
    for cut in CUTS {
        for starts_before_word in 1..3 {
            let (state, store) = store(100);
            let a: SiteName = "a".parse().unwrap();
            let put = |store: &Store, member, offset| {
                store.append(&a, JobId(1), member, Stream::Stdout, offset, b"x")
            };
            assert_eq!((put(&store, 0, 0), put(&store, 1, 0)), (Ok(1), Ok(1)));
            drop(store);
            for file in cut {
                fs::remove_file(state.path().join("jobs/j1").join(file)).unwrap();
            }
            let mut now = start(state.path(), 100, 2, &[1]);
            for _ in 1..starts_before_word {
                now = start(state.path(), 100, 2, &[1]);
            }
            // Member 0 of much more than there is any line of; then both start from where they are.
            assert_eq!(put(&now, 0, 50), Ok(51), "{cut:?}");
            let gap =
                |member, expected, given| Err(OutputError::Gap { job: JobId(1), member, expected, given });
            assert_eq!(put(&now, 0, 60), gap(0, 51, 60), "now it was heard of: that comes again");
            now = start(state.path(), 100, 2, &[1]);
            assert_eq!(put(&now, 0, 60), gap(0, 51, 60), "{cut:?}, after one more start");
            assert_eq!(put(&now, 1, 70), Ok(71), "{cut:?}, of member 1 nobody had heard");
            let text = damage(&now, 1).unwrap();
            assert!(text.contains("lost with the machine's power"), "{text}");
        }
    }
}

/// A job that began in this boot never lost anything, though the machine was started anew before it.
#[test]
fn what_began_in_this_boot_is_not_in_doubt() {
    let (state, store) = store(100);
    drop(store);
    let now = start(state.path(), 100, 2, &[1]);
    now.expect(JobId(2), vec![("a".parse().unwrap(), 2)]);
    let a: SiteName = "a".parse().unwrap();
    for store in [&now, &start(state.path(), 100, 2, &[1, 2])] {
        let put = store.append(&a, JobId(2), 0, Stream::Stdout, 5, b"x");
        assert_eq!(put, Err(OutputError::Gap { job: JobId(2), member: 0, expected: 0, given: 5 }));
    }
}

#[test]
fn streams_whose_offsets_cannot_be_read_go_on_and_the_loss_is_told() {
    let (state, store) = store(100);
    let a: SiteName = "a".parse().unwrap();
    let put = |store: &Store, member, offset, bytes: &[u8]| {
        store.append(&a, JobId(1), member, Stream::Stdout, offset, bytes)
    };
    assert_eq!((put(&store, 0, 0, b"abc"), put(&store, 1, 0, b"de")), (Ok(3), Ok(2)));
    let offsets = store.job_directory(JobId(1)).join(offsets::FILE);
    fs::remove_file(&offsets).unwrap();
    fs::create_dir(&offsets).unwrap();
    let again = start(state.path(), 100, 1, &[1]);
    fs::remove_dir(&offsets).unwrap();
    assert_eq!(put(&again, 0, 3, b"f"), Ok(4));
    assert!(damage(&again, 1).unwrap().starts_with("some of it cannot be read"));
    let third = start(state.path(), 100, 1, &[1]);
    assert_eq!(put(&third, 1, 2, b"g"), Ok(3), "of which there is no line any more");
    assert_eq!(on_file(&third, Stream::Stdout), b"abcdefg");
}

#[test]
fn a_stream_of_many_small_pieces_keeps_its_notes_short() {
    let (_state, store) = store(1 << 20);
    let a: SiteName = "a".parse().unwrap();
    for n in 0..30_000 {
        store.append(&a, JobId(1), 0, Stream::Stdout, n, b"x").unwrap();
    }
    let notes = store.job_directory(JobId(1)).join(offsets::FILE);
    assert!(fs::metadata(notes).unwrap().len() < 300 * 1024);
}

#[test]
fn only_members_that_run_the_job_write_to_its_log() {
    let (_state, store) = store(100);
    let (a, b): (SiteName, SiteName) = ("a".parse().unwrap(), "b".parse().unwrap());
    let put = |site, job, member| store.append(site, job, member, Stream::Stdout, 0, b"x");
    let unexpected = |job| Err(OutputError::Unexpected { job });
    assert_eq!(put(&b, JobId(1), 0), unexpected(JobId(1)));
    assert_eq!(put(&a, JobId(1), 2), unexpected(JobId(1)));
    assert_eq!(put(&a, JobId(2), 0), unexpected(JobId(2)));
    store.close(JobId(1));
    for site in [&a, &b] {
        assert_eq!(put(site, JobId(1), 0), Ok(1), "after its end nobody is told to keep it");
    }
    let file = store.path(JobId(1), Stream::Stdout);
    assert!(!file.exists(), "and nobody's is kept");
    let long = vec![0; OUTPUT_CHUNK_BYTES_MAX + 1];
    let result = store.append(&a, JobId(1), 0, Stream::Stdout, 0, &long);
    assert_eq!(result, Err(OutputError::TooLong(long.len())));
}

#[test]
fn beyond_the_limit_output_is_taken_but_not_kept() {
    let (_state, store) = store(4);
    let a: SiteName = "a".parse().unwrap();
    assert_eq!(store.append(&a, JobId(1), 0, Stream::Stderr, 0, b"abcdef"), Ok(6));
    assert_eq!(store.append(&a, JobId(1), 0, Stream::Stderr, 6, b"g"), Ok(7));
    assert_eq!(on_file(&store, Stream::Stderr), b"abcd");
    assert!(store.forget(JobId(1)));
    store.remove_files(JobId(1));
    store.expect(JobId(2), vec![]);
    assert!(!store.forget(JobId(2)), "nothing of it is on file");
    assert!(!store.directory.join("j1").exists());
}
