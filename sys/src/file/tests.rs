//! File operations by plain system calls, where the property test does not reach.

use std::ffi::CString;
use std::fs;
use std::sync::Arc;

use super::flags::*;
use super::*;

fn open(path: &std::path::Path, how: OpenHow) -> io::Result<Arc<OwnedFd>> {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    match run(FileOp::Open {
        dir: None,
        path,
        how,
        waits: false,
    })? {
        FileDone::Opened(file) => Ok(Arc::new(file)),
        other => panic!("{other:?}"),
    }
}

fn directory(path: &std::path::Path) -> Arc<OwnedFd> {
    open(
        path,
        OpenHow {
            flags: O_RDONLY | O_DIRECTORY,
            mode: 0,
            resolve: 0,
        },
    )
    .unwrap()
}

#[test]
fn beneath_means_beneath() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("in")).unwrap();
    fs::write(dir.path().join("in/file"), b"x").unwrap();
    std::os::unix::fs::symlink("in/file", dir.path().join("good")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("bad")).unwrap();
    let root = directory(dir.path());
    let resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    // A mode without O_CREAT is dropped, not refused.
    let how = OpenHow {
        flags: O_RDONLY,
        mode: 0o644,
        resolve,
    };
    let try_open = |path: &str| {
        let path = CString::new(path).unwrap();
        run(FileOp::Open {
            dir: Some(Arc::clone(&root)),
            path,
            how,
            waits: false,
        })
        .map(drop)
        .map_err(|e| e.raw_os_error())
    };
    assert_eq!(try_open("in/../in/file"), Ok(()));
    assert_eq!(try_open("good"), Ok(()));
    for outside in ["../x", "bad", "/etc/passwd", "in/../../x"] {
        assert_eq!(try_open(outside), Err(Some(libc::EXDEV)), "{outside}");
    }
}

#[test]
fn listing_in_batches_gives_every_name_once() {
    for parent in ["/tmp", "/dev/shm"] {
        let dir = tempfile::tempdir_in(parent).unwrap();
        for i in 0..500 {
            fs::write(dir.path().join(format!("{i}-{}", "n".repeat(i % 200))), b"").unwrap();
        }
        fs::create_dir(dir.path().join("sub")).unwrap();
        std::os::unix::fs::symlink("x", dir.path().join("link")).unwrap();
        let root = directory(dir.path());
        for max in [0, 1, 100, 100_000] {
            let (mut names, mut cursor, mut kinds) = (Vec::new(), Some(0), Vec::new());
            while let Some(at) = cursor {
                let op = FileOp::List {
                    file: Arc::clone(&root),
                    cursor: at,
                    max,
                };
                let FileDone::Listed { entries, next } = run(op).unwrap() else {
                    panic!()
                };
                assert!(entries.len() <= max.max(117), "{} of {max}", entries.len());
                kinds.extend(
                    entries
                        .iter()
                        .filter(|e| e.kind != FileKind::File)
                        .map(|e| e.kind),
                );
                names.extend(entries.into_iter().map(|entry| entry.name));
                cursor = next;
            }
            names.sort();
            names.dedup();
            assert_eq!((names.len(), kinds.len()), (502, 2));
            assert!(kinds.contains(&FileKind::Dir) && kinds.contains(&FileKind::Symlink));
        }
        // A cursor remembered from before still points to the same place.
        let batch = |cursor| {
            run(FileOp::List {
                file: Arc::clone(&root),
                cursor,
                max: 20,
            })
            .unwrap()
        };
        let FileDone::Listed {
            next: Some(second), ..
        } = batch(0)
        else {
            panic!()
        };
        let FileDone::Listed { entries: once, .. } = batch(second) else {
            panic!()
        };
        batch(0);
        let FileDone::Listed { entries: again, .. } = batch(second) else {
            panic!()
        };
        assert_eq!(once, again);
    }
}

#[test]
fn an_unnamed_file_gets_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = open(
        dir.path(),
        OpenHow {
            flags: O_TMPFILE | O_RDWR,
            mode: 0o640,
            resolve: 0,
        },
    )
    .unwrap();
    let data = Bytes::from_static(b"data");
    assert!(matches!(
        run(FileOp::Write {
            file: Arc::clone(&file),
            offset: 2,
            data
        }),
        Ok(FileDone::Written(4))
    ));
    let root = Some(directory(dir.path()));
    run(FileOp::Link {
        file,
        to_dir: root.clone(),
        to: c"named".into(),
    })
    .unwrap();
    assert_eq!(fs::read(dir.path().join("named")).unwrap(), b"\0\0data");
    let op = FileOp::Statx {
        dir: root,
        path: c"named".into(),
        flags: AT_SYMLINK_NOFOLLOW,
    };
    let FileDone::Stat(stat) = run(op).unwrap() else {
        panic!()
    };
    assert_eq!(
        (stat.kind, stat.size, stat.nlink, stat.mode & 0o7777),
        (FileKind::File, 6, 1, 0o640)
    );
}

#[test]
fn a_lock_is_held_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("lock"), b"").unwrap();
    let how = OpenHow {
        flags: O_RDWR,
        mode: 0,
        resolve: 0,
    };
    let (first, second) = (
        open(&dir.path().join("lock"), how).unwrap(),
        open(&dir.path().join("lock"), how).unwrap(),
    );
    let lock = |file: &Arc<OwnedFd>| {
        matches!(
            run(FileOp::Lock {
                file: Arc::clone(file),
                how: Flock::Exclusive
            }),
            Ok(FileDone::Locked(true))
        )
    };
    assert!(lock(&first) && !lock(&second) && lock(&first));
    drop(first);
    assert!(lock(&second));
}

#[test]
fn memory_file_systems_are_known() {
    let kind = |path: &str| {
        let file = directory(path.as_ref());
        let FileDone::FileSystem(info) = run(FileOp::StatFs { file }).unwrap() else {
            panic!()
        };
        info
    };
    assert!(kind("/dev/shm").is_memory && kind("/dev/shm").free_bytes > 0);
    assert!(!kind("/proc").is_memory);
    assert!(is_in_memory(directory("/dev/shm".as_ref())));
    assert!(!is_in_memory(directory("/proc".as_ref())));
}

#[test]
fn times_of_symlinks_and_files_are_set_to_the_nanosecond() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    let path = CString::new(link.as_os_str().as_encoded_bytes()).unwrap();
    run(FileOp::SetLinkTime {
        dir: None,
        path: path.clone(),
        mtime: (-5, 123_456_789),
    })
    .unwrap();
    let meta = fs::symlink_metadata(&link).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (-5, 123_456_789));
    // UTIME_OMIT and its like are numbers past a second; they must not get through.
    let bad = FileOp::SetLinkTime {
        dir: None,
        path,
        mtime: (0, 1_000_000_000),
    };
    assert_eq!(run(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn ranges_are_copied_between_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("from"), b"0123456789").unwrap();
    fs::write(dir.path().join("to"), b"").unwrap();
    let how = OpenHow {
        flags: O_RDWR,
        mode: 0,
        resolve: 0,
    };
    let (from, to) = (
        open(&dir.path().join("from"), how).unwrap(),
        open(&dir.path().join("to"), how).unwrap(),
    );
    let op = FileOp::CopyRange {
        from,
        from_offset: 3,
        to,
        to_offset: 1,
        len: 4,
    };
    assert!(matches!(run(op), Ok(FileDone::Written(4))));
    assert_eq!(fs::read(dir.path().join("to")).unwrap(), b"\x003456");
}

#[test]
fn attributes_are_set_read_and_removed() {
    // On the disk that the sources are on: tmpfs has user attributes since Linux 6.6 only.
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let (file, name) = (directory(dir.path()), c"user.landro.test");
    let get = || match run(FileOp::GetXattr {
        file: Arc::clone(&file),
        name,
    })
    .unwrap()
    {
        FileDone::Xattr(value) => value,
        other => panic!("{other:?}"),
    };
    let set = |value: &[u8]| {
        run(FileOp::SetXattr {
            file: Arc::clone(&file),
            name,
            value: value.to_vec(),
        })
    };
    assert_eq!(get(), None);
    for value in [&b"one"[..], b"", b"another one"] {
        set(value).unwrap();
        assert_eq!(get().as_deref(), Some(value));
    }
    run(FileOp::RemoveXattr {
        file: Arc::clone(&file),
        name,
    })
    .unwrap();
    assert_eq!(get(), None);
}

#[test]
fn only_what_is_written_counts_as_written() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = dir.path().join("file");
    let file = open(
        &path,
        OpenHow {
            flags: O_RDWR | O_CREAT,
            mode: 0o600,
            resolve: 0,
        },
    )
    .unwrap();
    let is_written = |len, has_holes| match run(FileOp::Extents {
        file: Arc::clone(&file),
        len,
        has_holes,
    }) {
        Ok(FileDone::Allocated(written)) => written,
        other => panic!("{other:?}"),
    };
    let written = |len| is_written(len, false);
    let write = |offset: u64, len: usize| {
        let data = Bytes::from(vec![7; len]);
        run(FileOp::Write {
            file: Arc::clone(&file),
            offset,
            data,
        })
        .unwrap();
    };
    let sync = || {
        run(FileOp::Fsync {
            file: Arc::clone(&file),
            data_only: true,
        })
        .unwrap()
    };
    assert!(written(0));
    write(0, 100_000);
    sync();
    assert!(written(100_000));
    run(FileOp::Reserve {
        file: Arc::clone(&file),
        len: 1 << 20,
    })
    .unwrap();
    run(FileOp::Truncate {
        file: Arc::clone(&file),
        len: 1 << 20,
    })
    .unwrap();
    sync();
    assert!(
        written(98_000) && !written(1 << 20),
        "reserved blocks were taken for written ones"
    );
    write(500_000, 100_000);
    sync();
    assert!(!written(600_000), "a gap was taken for data");
    // Reserved blocks are no hole either.
    assert!(!is_written(600_000, true));
    run(FileOp::Punch {
        file: Arc::clone(&file),
        offset: 65_536,
        len: (1 << 20) - 65_536,
    })
    .unwrap();
    assert!(is_written(1 << 20, true) && !written(1 << 20));
    assert!(is_written(60_000, false));
}

#[test]
fn data_is_found_between_holes() {
    let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    for dir in [disk, memory] {
        let how = OpenHow {
            flags: O_RDWR | O_CREAT,
            mode: 0o600,
            resolve: 0,
        };
        let file = open(&dir.path().join("file"), how).unwrap();
        let find = |from, max| {
            let file = Arc::clone(&file);
            match run(FileOp::FindData { file, from, max }) {
                Ok(FileDone::Data(found)) => (found.ranges, found.known_to),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(find(0, 9), (vec![], u64::MAX));
        run(FileOp::Truncate {
            file: Arc::clone(&file),
            len: 10 << 20,
        })
        .unwrap();
        for offset in [1 << 20, 3 << 20] {
            let (file, data) = (Arc::clone(&file), Bytes::from(vec![7; 4096]));
            run(FileOp::Write { file, offset, data }).unwrap();
        }
        let (first, second) = (1 << 20..(1 << 20) + 4096, 3 << 20..(3 << 20) + 4096);
        assert_eq!(find(0, 1), (vec![first.clone()], first.end));
        assert_eq!(find(0, 9), (vec![first, second.clone()], u64::MAX));
        assert_eq!(find(3 << 20, 9), (vec![second], u64::MAX));
        assert_eq!(find(9 << 20, 9), (vec![], u64::MAX));
        assert_eq!(find(u64::MAX, 9), (vec![], u64::MAX));
    }
}
