//! Local copies against the file system: what lands where, what is skipped, what is left behind.

use std::cell::Cell;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::*;
use crate::proto::session::TransferOptions;
use crate::proto::{EntryErrorCode, EntryResult, SessionErrorCode, Totals};

struct Run {
    outcome: Outcome,
    events: Vec<Event>,
}

impl Run {
    fn totals(&self) -> Totals {
        match &self.outcome {
            Outcome::Complete(totals) => *totals,
            other => panic!("{other:?}"),
        }
    }

    fn failure(&self) -> (EntryErrorCode, String) {
        let failed = self.events.iter().find_map(|event| match event {
            Event::Entry {
                result: EntryResult::Failed(error),
                path,
                ..
            } => Some((
                error.code,
                format!("{}: {}", String::from_utf8_lossy(path), error.text),
            )),
            _ => None,
        });
        failed.expect("an entry that failed")
    }
}

fn copy_with(sources: &[&Path], target: &str, force: bool, stop: &dyn Fn() -> bool) -> Run {
    let job = Transfer {
        direction: Direction::Push,
        sources: sources
            .iter()
            .map(|path| Bytes::from(path.as_os_str().as_bytes().to_vec()))
            .collect(),
        target: Bytes::from(target.trim_end_matches('/').to_owned()),
        options: TransferOptions {
            must_be_dir: sources.len() > 1 || target.ends_with('/'),
            force,
            fsync: true,
            ..TransferOptions::default()
        },
    };
    let mut events = Vec::new();
    let outcome = copy_locally(&job, &|_: &[u8]| stop(), &mut |event| events.push(event)).unwrap();
    Run { outcome, events }
}

fn run(sources: &[&Path], target: &Path) -> Run {
    copy_with(sources, target.to_str().unwrap(), false, &|| false)
}

/// Root may do everything, so what is forbidden cannot be tested as root.
fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Whether this process has a file open.
fn is_open(path: &Path) -> bool {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .any(|open| open == path)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

#[test]
fn a_tree_arrives_whole_and_is_skipped_the_second_time() {
    let root = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().join("from"), root.path().join("to"));
    fs::create_dir_all(from.join("a/empty")).unwrap();
    fs::create_dir(&to).unwrap();
    write(&from.join("a/f"), "hello");
    write(&from.join("zero"), "");
    symlink("a/f", from.join("link")).unwrap();
    symlink("nowhere", from.join("dangling")).unwrap();
    fs::set_permissions(from.join("a/f"), Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(from.join("a"), Permissions::from_mode(0o550)).unwrap();

    let first = run(&[&from], &to).totals();
    assert_eq!(
        (first.files, first.directories, first.symlinks, first.bytes),
        (2, 3, 2, 5)
    );
    assert_eq!((first.skipped, first.errors, first.sent_bytes), (0, 0, 5));
    let copied = to.join("from");
    assert_eq!(
        names(&copied),
        ["a", "dangling", "link", "zero"],
        "no temporary file is left"
    );
    assert_eq!(fs::read(copied.join("a/f")).unwrap(), b"hello");
    assert_eq!(
        fs::read_link(copied.join("link")).unwrap(),
        Path::new("a/f")
    );
    let meta = fs::metadata(copied.join("a/f")).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()),
        (0o640, 1_000_000_000, 123_456_789)
    );
    let (one, two) = (
        fs::metadata(from.join("a")).unwrap(),
        fs::metadata(copied.join("a")).unwrap(),
    );
    assert_eq!(
        (one.mode(), one.mtime_nsec()),
        (two.mode(), two.mtime_nsec())
    );

    let second = run(&[&from], &to).totals();
    assert_eq!(
        (
            second.files,
            second.skipped,
            second.sent_bytes,
            second.errors
        ),
        (0, 4, 0, 0)
    );
    let forced = copy_with(
        &[&from.join("zero")],
        copied.to_str().unwrap(),
        true,
        &|| false,
    )
    .totals();
    assert_eq!((forced.files, forced.skipped), (1, 0));
    fs::set_permissions(from.join("a"), Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(copied.join("a"), Permissions::from_mode(0o750)).unwrap();
}

#[test]
fn where_sources_land() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    write(&at("f"), "1");
    write(&at("g"), "2");
    run(&[&at("f")], &at("new"));
    assert_eq!(fs::read(at("new")).unwrap(), b"1");
    run(&[&at("f"), &at("g")], &at("dir"));
    assert_eq!(names(&at("dir")), ["f", "g"]);
    copy_with(
        &[&at("f")],
        &format!("{}/", at("made").display()),
        false,
        &|| false,
    );
    assert_eq!(names(&at("made")), ["f"]);
    run(&[&at("dir")], &at("renamed"));
    assert_eq!(names(&at("renamed")), ["f", "g"]);
}

#[test]
fn destinations_that_cannot_be() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    write(&at("f"), "1");
    let refused = |run: Run| match run.outcome {
        Outcome::CalledOff(error) => (error.code, error.text),
        other => panic!("{other:?}"),
    };
    for target in [at("no/such"), at("no/such/")] {
        let (code, text) = refused(run(&[&at("f")], &target));
        assert_eq!(code, SessionErrorCode::NotFound);
        assert!(text.contains("parent"), "{text}");
    }
    assert_eq!(
        refused(run(&[&at("f"), &at("f")], &at("f"))).0,
        SessionErrorCode::NotFound
    );
    let (_, text) = refused(run(&[&at("f")], &at(".landro-mine")));
    assert!(text.contains("reserved"), "{text}");

    fs::create_dir_all(at("to/f")).unwrap();
    let over = run(&[&at("f")], &at("to"));
    assert_eq!(over.failure().0, EntryErrorCode::Destination);
    fs::create_dir(at("d")).unwrap();
    let over = run(&[&at("d")], &at("f"));
    assert_eq!(
        (over.totals().errors, over.failure().0),
        (1, EntryErrorCode::Destination)
    );
    assert_eq!(fs::read(at("f")).unwrap(), b"1");
}

#[test]
fn one_failure_does_not_stop_the_rest() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    write(&at("f"), "1");
    let result = run(&[&at("gone"), &at("f")], &at("to"));
    assert_eq!((result.totals().files, result.totals().errors), (1, 1));
    let (code, text) = result.failure();
    assert_eq!(code, EntryErrorCode::Source);
    assert!(text.ends_with("/gone: no such file or directory"), "{text}");
    if !is_root() {
        fs::set_permissions(at("f"), Permissions::from_mode(0o000)).unwrap();
        assert_eq!(
            run(&[&at("f")], &at("x")).failure().0,
            EntryErrorCode::Source
        );
    }
}

#[test]
fn a_directory_is_not_copied_into_itself() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir_all(at("d/sub")).unwrap();
    assert_eq!(
        run(&[&at("d")], &at("d/sub")).failure().0,
        EntryErrorCode::Name
    );
    assert_eq!(
        run(&[&at("d")], &at("d/new")).failure().0,
        EntryErrorCode::Name
    );
    assert_eq!(
        run(&[&at("d")], root.path()).failure().0,
        EntryErrorCode::Name,
        "onto itself"
    );
    symlink(at("d/sub"), at("link")).unwrap();
    assert_eq!(
        run(&[&at("d")], &at("link")).failure().0,
        EntryErrorCode::Name,
        "through a symlink"
    );
    assert!(names(&at("d/sub")).is_empty(), "nothing was begun");
}

#[test]
fn a_file_is_not_copied_onto_itself() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    write(&at("f"), "1");
    fs::hard_link(at("f"), at("g")).unwrap();
    for target in ["f", "g"] {
        let again = copy_with(&[&at("f")], at(target).to_str().unwrap(), true, &|| false);
        assert_eq!(
            (
                again.totals().skipped,
                fs::metadata(at("f")).unwrap().nlink()
            ),
            (1, 2),
            "{target}"
        );
    }
}

#[test]
fn special_files_are_skipped_with_a_warning() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    fs::create_dir(&from).unwrap();
    write(&from.join(".landro-0123456789abcdef.part"), "unfinished");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(from.join("fifo"))
            .status()
            .unwrap()
            .success()
    );
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    let result = run(&[&from], &root.path().join("to"));
    assert_eq!(
        (result.totals().errors, result.totals().directories),
        (0, 1)
    );
    let warned = |name: &[u8]| {
        result
            .events
            .iter()
            .any(|event| matches!(event, Event::Warning { path, .. } if path[..] == *name))
    };
    assert!(warned(b"from/socket") && warned(b"from/fifo"));
    assert!(warned(b"from/.landro-0123456789abcdef.part"));
    assert!(names(&root.path().join("to")).is_empty());
}

#[test]
fn a_signal_stops_between_files_and_leaves_no_temporary_file() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    fs::create_dir(&from).unwrap();
    (0..10).for_each(|n| write(&from.join(n.to_string()), "x"));
    let asked = Cell::new(0);
    let stop = || asked.replace(asked.get() + 1) >= 5;
    let to = root.path().join("to");
    let stopped = copy_with(&[&from], to.to_str().unwrap(), false, &stop);
    assert!(matches!(stopped.outcome, Outcome::Cancelled { totals, .. } if totals.files < 10));
    assert!(names(&to).iter().all(|name| !name.starts_with('.')));
    let again = run(&[&from], &to);
    assert_eq!(
        (again.totals().errors, names(&to.join("from")).len()),
        (0, 10)
    );
}

#[test]
fn a_leftover_of_kill_9_goes() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let size_bytes = (1 << 20) + 1;
    fs::write(at("f"), vec![1; size_bytes]).unwrap();
    fs::create_dir(at("to")).unwrap();
    let digest = blake3::hash(b"f").to_hex();
    // A transfer leaves the first two, a crash while one file replaced another the last.
    for suffix in ["part", "journal", "new"] {
        fs::write(
            at("to").join(format!(".landro-{}.{suffix}", &digest[..16])),
            "a leftover",
        )
        .unwrap();
    }
    fs::write(at("to/f"), "old").unwrap();
    assert_eq!(run(&[&at("f")], &at("to")).totals().files, 1);
    assert_eq!(
        (names(&at("to")), fs::metadata(at("to/f")).unwrap().len()),
        (vec!["f".to_string()], size_bytes as u64)
    );
}

#[test]
fn symlinks_are_compared_by_their_target() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir_all(at("to")).unwrap();
    let time = at("time");
    write(&time, "");
    let link = |target: &str| {
        let _ = fs::remove_file(at("link"));
        symlink(target, at("link")).unwrap();
        let touch = std::process::Command::new("touch")
            .arg("-hr")
            .args([&time, &at("link")])
            .status();
        assert!(touch.unwrap().success());
    };
    for (target, skipped) in [("v1", 0), ("v1", 1), ("v2", 0)] {
        link(target);
        assert_eq!(
            run(&[&at("link")], &at("to")).totals().skipped,
            skipped,
            "{target}"
        );
        assert_eq!(fs::read_link(at("to/link")).unwrap(), Path::new(target));
    }
}

#[test]
fn a_source_that_changes_meanwhile_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    write(&at("f"), "before");
    write(&at("to"), "there");
    let changed = Cell::new(false);
    let stop = || {
        if is_open(&at("f")) && !changed.replace(true) {
            fs::write(at("f"), "behind").unwrap();
        }
        false
    };
    let changed = copy_with(&[&at("f")], at("to").to_str().unwrap(), false, &stop);
    let (code, text) = changed.failure();
    assert!(
        code == EntryErrorCode::Source && text.contains("changed while it was read"),
        "{text}"
    );
    assert_eq!(
        (names(root.path()), fs::read(at("to")).unwrap()),
        (vec!["f".into(), "to".into()], b"there".to_vec())
    );
}

#[test]
fn two_copies_to_one_name_both_end() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    write(&at("f"), "outer");
    write(&at("g"), "inner");
    let copied = Cell::new(false);
    let stop = || {
        if is_open(&at("f")) && !copied.replace(true) {
            assert_eq!(run(&[&at("g")], &at("to")).totals().files, 1);
        }
        false
    };
    let outer = copy_with(&[&at("f")], at("to").to_str().unwrap(), false, &stop);
    assert_eq!(
        (outer.totals().files, fs::read(at("to")).unwrap()),
        (1, b"outer".to_vec())
    );
    assert_eq!(names(root.path()), ["f", "g", "to"]);
}
