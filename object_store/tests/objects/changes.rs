//! Objects that change: tags and times tell, and nobody reads a mixture.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{Error, GetOptions, ObjectStore, ObjectStoreExt, Result};

use crate::common::Served;

const LARGE_BYTES: usize = 40 << 20;

#[test]
fn a_put_tells_the_tag_that_a_head_tells() {
    let served = Served::new();
    let location = Path::from("d/object");
    let mut tags = Vec::new();
    for number in 0..20 {
        // Of one size, and some of them within a tick of the clock.
        let put = block_on(served.store.put(&location, format!("{number:02}").into())).unwrap();
        let head = block_on(served.store.head(&location)).unwrap();
        assert_eq!(put.e_tag, head.e_tag);
        let modified = fs::metadata(served.file(&location)).unwrap().modified();
        let told: std::time::SystemTime = head.last_modified.into();
        assert_eq!(told, modified.unwrap());
        tags.push(head.e_tag.unwrap());
    }
    tags.sort_unstable();
    tags.dedup();
    assert_eq!(tags.len(), 20);
}

#[test]
fn a_nanosecond_is_another_version() {
    let served = Served::new();
    let location = Path::from("object");
    served.write("object", b"one");
    let before = block_on(served.store.head(&location)).unwrap();
    let file = File::options()
        .write(true)
        .open(served.file(&location))
        .unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"two", 0).unwrap();
    file.set_modified(modified + Duration::from_nanos(1))
        .unwrap();
    let asked = |options: GetOptions| {
        let got = async {
            served
                .store
                .get_opts(&location, options)
                .await?
                .bytes()
                .await
        };
        block_on(got)
    };
    let old = asked(GetOptions::new().with_if_match(before.e_tag.clone()));
    assert!(matches!(old, Err(Error::Precondition { .. })), "{old:?}");
    let new = asked(GetOptions::new().with_if_none_match(before.e_tag));
    assert_eq!(new.unwrap(), "two");
    let since = GetOptions::new().with_if_modified_since(Some(before.last_modified));
    assert_eq!(asked(since).unwrap(), "two");
    let unmodified = GetOptions::new().with_if_unmodified_since(Some(before.last_modified));
    assert!(matches!(asked(unmodified), Err(Error::Precondition { .. })));
}

/// What comes of a stream, and how it ends.
fn drained(mut stream: BoxStream<'static, Result<Bytes>>) -> (Vec<u8>, Result<()>) {
    let (mut taken, mut result) = (Vec::new(), Ok(()));
    while let Some(piece) = block_on(stream.next()) {
        assert!(result.is_ok(), "something came behind an error");
        match piece {
            Ok(bytes) => taken.extend_from_slice(&bytes),
            Err(error) => result = Err(error),
        }
    }
    (taken, result)
}

/// The error of a stream that has given its first piece when this is done to the file.
fn changed_midway(change: impl FnOnce(&Served, &Path)) -> Error {
    let served = Served::new();
    let location = Path::from("object");
    served.write("object", &vec![1; LARGE_BYTES]);
    let mut stream = block_on(served.store.get(&location)).unwrap().into_stream();
    let first = block_on(stream.next()).unwrap().unwrap();
    assert!(!first.is_empty() && first.len() < LARGE_BYTES);
    change(&served, &location);
    let (rest, result) = drained(stream);
    assert!(
        first.iter().chain(&rest).all(|&byte| byte == 1),
        "of another version"
    );
    assert!(first.len() + rest.len() < LARGE_BYTES);
    result.unwrap_err()
}

#[test]
fn an_object_that_changes_midway_is_an_error() {
    let replaced = changed_midway(|served, location| {
        let new = served.root().join("new");
        fs::write(&new, vec![2; LARGE_BYTES]).unwrap();
        fs::rename(new, served.file(location)).unwrap();
    });
    assert!(
        matches!(replaced, Error::Precondition { .. }),
        "{replaced:?}"
    );
    let text = replaced.to_string();
    assert!(
        text.contains("somebody changed it while it was read"),
        "{text}"
    );
    let put = changed_midway(|served, location| {
        let new = vec![2; LARGE_BYTES].into();
        block_on(served.store.put(location, new)).unwrap();
    });
    assert!(matches!(put, Error::Precondition { .. }), "{put:?}");
    let written = changed_midway(|served, location| {
        let file = File::options()
            .write(true)
            .open(served.file(location))
            .unwrap();
        file.write_all_at(&[2; 100], LARGE_BYTES as u64 - 100)
            .unwrap();
    });
    assert!(matches!(written, Error::Precondition { .. }), "{written:?}");
    let cut_off = changed_midway(|served, location| {
        let file = File::options()
            .write(true)
            .open(served.file(location))
            .unwrap();
        file.set_len(100).unwrap();
    });
    assert!(matches!(cut_off, Error::Precondition { .. }), "{cut_off:?}");
    let grown = changed_midway(|served, location| {
        let file = File::options()
            .append(true)
            .open(served.file(location))
            .unwrap();
        file.set_len(LARGE_BYTES as u64 * 2).unwrap();
    });
    assert!(matches!(grown, Error::Precondition { .. }), "{grown:?}");
    let removed = changed_midway(|served, location| {
        fs::remove_file(served.file(location)).unwrap();
    });
    assert!(matches!(removed, Error::NotFound { .. }), "{removed:?}");
    let directory = changed_midway(|served, location| {
        fs::remove_file(served.file(location)).unwrap();
        fs::create_dir(served.file(location)).unwrap();
    });
    assert!(matches!(directory, Error::NotFound { .. }), "{directory:?}");
}

/// Whether a read gave all of one version. Each is full of one byte.
fn is_whole(read: Result<Vec<Bytes>>, bytes: usize) -> bool {
    match read {
        Ok(pieces) => {
            let all = pieces.concat();
            assert_eq!(all.len(), bytes);
            assert!(
                all.iter().all(|byte| *byte == all[0]),
                "two versions in one read"
            );
            true
        }
        Err(Error::Precondition { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn who_reads_beside_writers_reads_one_version() {
    const BYTES: usize = 6 << 20;
    let served = Served::new();
    let location = Path::from("object");
    served.write("object", &vec![0; BYTES]);
    let is_over = AtomicBool::new(false);
    let whole = thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1..=u8::MAX {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let new = served.root().join("new");
                fs::write(&new, vec![version; BYTES]).unwrap();
                fs::rename(new, served.file(&location)).unwrap();
                thread::sleep(Duration::from_millis(20));
            }
        });
        let mut whole = 0;
        for _ in 0..20 {
            let got = block_on(async { served.store.get(&location).await?.bytes().await });
            whole += u32::from(is_whole(got.map(|bytes| vec![bytes]), BYTES));
            let ranges = [0..10, 3 << 20..(3 << 20) + 10];
            let got = block_on(served.store.get_ranges(&location, &ranges));
            whole += u32::from(is_whole(got, 20));
        }
        is_over.store(true, Ordering::Relaxed);
        whole
    });
    // When nobody writes, all are.
    let got = block_on(async { served.store.get(&location).await?.bytes().await });
    assert!(
        is_whole(got.map(|bytes| vec![bytes]), BYTES),
        "{whole} before"
    );
}
