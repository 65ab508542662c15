//! Local copies against the file system: what lands where, what is skipped, what is left behind.

use std::cell::Cell;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use super::*;

struct Run {
    outcome: Result<Outcome, LocalError>,
    events: Vec<Event>,
}

impl Run {
    fn totals(&self) -> Totals {
        match &self.outcome {
            Ok(Outcome::Complete(totals)) => *totals,
            other => panic!("{other:?}"),
        }
    }

    fn failure(&self) -> (EntryErrorCode, String) {
        let failed = self.events.iter().find_map(|event| match event {
            Event::Entry { result: EntryResult::Failed(error), path, .. } => {
                Some((error.code, format!("{}: {}", escape::name(path), error.text)))
            }
            _ => None,
        });
        failed.expect("an entry that failed")
    }
}

fn copy_with(sources: &[&Path], target: &str, force: bool, stop: &dyn Fn() -> bool) -> Run {
    let sources: Vec<Vec<u8>> = sources.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect();
    let job = Job { sources: &sources, target: target.as_bytes(), force, fsync: true };
    let mut events = Vec::new();
    let outcome = copy(&job, stop, &mut |event| events.push(event));
    Run { outcome, events }
}

fn run(sources: &[&Path], target: &Path) -> Run {
    copy_with(sources, target.to_str().unwrap(), false, &|| false)
}

/// Root may do everything, so what is forbidden cannot be tested as root.
fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
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
    assert_eq!((first.files, first.directories, first.symlinks, first.bytes), (2, 3, 2, 5));
    assert_eq!((first.skipped, first.errors, first.sent_bytes), (0, 0, 5));
    let copied = to.join("from");
    assert_eq!(names(&copied), ["a", "dangling", "link", "zero"], "no temporary file is left");
    assert_eq!(fs::read(copied.join("a/f")).unwrap(), b"hello");
    assert_eq!(fs::read_link(copied.join("link")).unwrap(), Path::new("a/f"));
    let meta = fs::metadata(copied.join("a/f")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()), (0o640, 1_000_000_000, 123_456_789));
    let (one, two) = (fs::metadata(from.join("a")).unwrap(), fs::metadata(copied.join("a")).unwrap());
    assert_eq!((one.mode(), one.mtime_nsec()), (two.mode(), two.mtime_nsec()));

    let second = run(&[&from], &to).totals();
    assert_eq!((second.files, second.skipped, second.sent_bytes, second.errors), (0, 4, 0, 0));
    let forced = copy_with(&[&from.join("zero")], copied.to_str().unwrap(), true, &|| false).totals();
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
    copy_with(&[&at("f")], &format!("{}/", at("made").display()), false, &|| false);
    assert_eq!(names(&at("made")), ["f"]);
    run(&[&at("dir/.")], &at("made"));
    assert_eq!(names(&at("made")), ["dir", "f"]);
    run(&[&at("dir")], &at("renamed"));
    assert_eq!(names(&at("renamed")), ["f", "g"]);
}

#[test]
fn destinations_that_cannot_be() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    write(&at("f"), "1");
    assert!(matches!(run(&[&at("f")], &at("no/such")).outcome, Err(LocalError::NoParent(_))));
    let slash = format!("{}/", at("no/such").display());
    assert!(matches!(copy_with(&[&at("f")], &slash, false, &|| false).outcome, Err(LocalError::NoParent(_))));
    let file = run(&[&at("f"), &at("f")], &at("f"));
    assert!(matches!(file.outcome, Err(LocalError::NotADirectory(_))));

    fs::create_dir_all(at("to/f")).unwrap();
    let over = run(&[&at("f")], &at("to"));
    assert_eq!(over.failure().0, EntryErrorCode::Destination);
    fs::create_dir(at("d")).unwrap();
    let over = run(&[&at("d")], &at("f"));
    assert_eq!((over.totals().errors, over.failure().0), (1, EntryErrorCode::Destination));
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
    assert!(text.starts_with("gone: source:"), "{text}");
    if !is_root() {
        fs::set_permissions(at("f"), Permissions::from_mode(0o000)).unwrap();
        assert_eq!(run(&[&at("f")], &at("x")).failure().0, EntryErrorCode::Permission);
    }
}

#[test]
fn a_directory_is_not_copied_into_itself() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir_all(at("d/sub")).unwrap();
    assert_eq!(run(&[&at("d")], &at("d/sub")).failure().0, EntryErrorCode::Name);
    assert_eq!(run(&[&at("d")], &at("d/new")).failure().0, EntryErrorCode::Name);
    assert_eq!(run(&[&at("d")], root.path()).failure().0, EntryErrorCode::Name, "onto itself");
    write(&at("f"), "1");
    assert_eq!(copy_with(&[&at("f")], at("f").to_str().unwrap(), true, &|| false).totals().skipped, 1);
}

#[test]
fn special_files_are_skipped_with_a_warning() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    fs::create_dir(&from).unwrap();
    write(&from.join(".landro-0123456789abcdef.part"), "unfinished");
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    let result = run(&[&from], &root.path().join("to"));
    assert_eq!((result.totals().errors, result.totals().directories), (0, 1));
    let warned = |name: &[u8]| {
        result.events.iter().any(|event| matches!(event, Event::Warning { path, .. } if path[..] == *name))
    };
    assert!(warned(b"to/socket") && warned(b"to/.landro-0123456789abcdef.part"));
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
    assert!(matches!(stopped.outcome, Ok(Outcome::Cancelled(totals)) if totals.files < 10));
    assert!(names(&to).iter().all(|name| !name.starts_with('.')));
    let again = run(&[&from], root.path().join("x").parent().unwrap());
    assert!(again.outcome.is_ok());
}

#[test]
fn a_leftover_of_kill_9_is_taken_over() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    write(&at("f"), "new");
    fs::create_dir(at("to")).unwrap();
    fs::write(temporary_path(&at("to/f")), "a longer leftover").unwrap();
    assert_eq!(run(&[&at("f")], &at("to")).totals().files, 1);
    assert_eq!((names(&at("to")), fs::read(at("to/f")).unwrap()), (vec!["f".to_string()], b"new".to_vec()));
}

#[test]
fn somebody_else_is_copying_there() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    write(&at("f"), "new");
    let other = File::create(temporary_path(&at("to"))).unwrap();
    other.lock().unwrap();
    assert!(run(&[&at("f")], &at("to")).failure().1.contains("another landro"));
}
