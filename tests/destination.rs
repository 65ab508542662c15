//! What a destination did is read back, never assumed: file systems that tell errors late, refuse
//! attributes, keep times coarsely or not at all, or take two names for one.

mod common;
#[path = "destination/read_only.rs"]
mod read_only;

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::fuse::{Faults, Fuse, Names};
use common::tree::{Rng, assert_no_leftovers, assert_same, mkfifo};
use common::{Daemon, Output, Running, Side, World, command, is_root};
use read_only::read_only_directories_take_what_is_new;
use tempfile::TempDir;

on_both_backends!(
    errors_told_at_close_are_told,
    what_is_not_stored_is_missed,
    times_reach_servers_that_want_both,
    what_is_taken_in_short_pieces_is_whole,
    refused_attributes_are_one_warning_each,
    what_one_file_system_lacks_another_has,
    coarse_times_are_known_again,
    times_out_of_range_are_warned_of,
    a_second_spelling_is_an_error,
    existing_directories_keep_their_modes,
    read_only_directories_take_what_is_new,
    no_perms_and_no_times_set_none,
    devices_and_pipes_are_written_into,
    block_devices_are_written_into_and_run_full,
    named_symlinks_are_not_replaced,
);

const EIO: i32 = 5;
const EPERM: i32 = 1;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;
const EOPNOTSUPP: i32 = 95;

/// A way to copy: the source directory `src` lands in `dst`, which are both below a directory on
/// disk; `dst` may be a file system of its own.
struct Way<'a> {
    name: &'static str,
    world: &'a World,
    source: PathBuf,
    target: PathBuf,
}

impl Way<'_> {
    /// Copies `src` into `dst` with these options.
    fn copy(&self, options: &[&str]) -> Output {
        let (from, to): (String, String) = match self.name {
            "push" => (text(&self.source), self.world.url("dst/")),
            "pull" => (self.world.url("src"), text(&self.target) + "/"),
            _ => (text(&self.source), text(&self.target) + "/"),
        };
        let paths = [from.as_str(), to.as_str()];
        self.world.cp(&[options, &paths[..]].concat())
    }
}

/// A directory on the disk the project is built on.
fn disk_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// One session may write to several file systems; what one has not is nothing that another has not.
fn what_one_file_system_lacks_another_has(backend: &'static str) {
    let (world, aside) = (World::within(backend, &[], disk_dir()), disk_dir());
    // Without extended attributes and unnamed files.
    let Some(fuse) = Fuse::mount(aside.path(), Faults::default()) else {
        return;
    };
    fs::create_dir_all(world.root("dst/a")).unwrap();
    let _bound = Bound::over(fuse.path(), &world.root("dst/a"));
    fill(&world.here("a"));
    // More than are begun at a time, or none would be begun behind the first of the others.
    fs::create_dir(world.here("b")).unwrap();
    for number in 0..300 {
        let file = fs::File::create(world.here(&format!("b/{number}"))).unwrap();
        file.set_len(2 << 20).unwrap();
    }
    let url = world.url("dst/").into();
    world.cp(&[world.here("a"), world.here("b"), url]).expect(0);
    for dir in ["a", "b"] {
        let target = world.root("dst").join(dir);
        assert_same(&world.here(dir), &target);
        assert_no_leftovers(&target);
    }
}

/// Has `test` see every way there is to copy onto a file system that does something wrong.
fn each_way(backend: &'static str, faults: &Faults, test: impl Fn(&Way<'_>)) {
    for name in ["push", "pull", "local"] {
        let (place, aside) = (disk_dir(), disk_dir());
        let Some(fuse) = Fuse::mount(aside.path(), faults.clone()) else {
            return;
        };
        println!("{name}");
        way(backend, name, place, Some(&fuse), &test);
    }
}

/// The same without a file system of its own.
fn each_way_on_disk(backend: &'static str, test: impl Fn(&Way<'_>)) {
    for name in ["push", "pull", "local"] {
        println!("{name}");
        way(backend, name, disk_dir(), None, &test);
    }
}

fn way(
    backend: &'static str,
    name: &'static str,
    place: TempDir,
    fuse: Option<&Fuse>,
    test: impl Fn(&Way<'_>),
) {
    let world = World::within(backend, &[], place);
    let (source, target) = match name {
        "pull" => (world.root("src"), world.here("dst")),
        "push" => (world.here("src"), world.root("dst")),
        _ => (world.here("src"), world.here("dst")),
    };
    fs::create_dir_all(&source).unwrap();
    fs::create_dir_all(&target).unwrap();
    let _bound = fuse.map(|fuse| Bound::over(fuse.path(), &target));
    test(&Way {
        name,
        world: &world,
        source,
        target,
    });
}

/// A directory that shows another one, until this is dropped.
struct Bound(PathBuf);

impl Bound {
    fn over(what: &Path, at: &Path) -> Bound {
        let bound = Command::new("mount")
            .arg("--bind")
            .args([what, at])
            .status();
        assert!(bound.unwrap().success());
        Bound(at.to_owned())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Small ones, a large one, and one that is resumable.
fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("sub")).unwrap();
    for (name, len) in [("a", 10), ("sub/b", 3000), ("c", 200_000), ("d", 3_000_000)] {
        let path = dir.join(name);
        // No part is like another: what came in the wrong order is seen.
        let words = (0..len as u32).map(|at| b'a' + (at.wrapping_mul(0x9e37_79b1) >> 28) as u8);
        fs::write(&path, words.collect::<Vec<u8>>()).unwrap();
        set_time(&path, 1_600_000_001, 123_456_789);
    }
    symlink("nowhere", dir.join("link")).unwrap();
}

fn set_time(path: &Path, seconds: u64, nanoseconds: u32) {
    let time = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    let file = File::open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
}

#[track_caller]
fn assert_same_data(from: &Path, to: &Path) {
    for name in ["a", "sub/b", "c", "d"] {
        let (one, other) = (fs::read(from.join(name)), fs::read(to.join(name)));
        assert!(one.unwrap() == other.unwrap(), "{name} differs");
    }
    assert_eq!(
        fs::read_link(to.join("link")).unwrap(),
        Path::new("nowhere")
    );
}

fn warnings(output: &Output) -> Vec<String> {
    let text = |event: &serde_json::Value| event["message"].as_str().unwrap().to_owned();
    output.of("warning").map(text).collect()
}

fn errors(output: &Output) -> Vec<String> {
    let field = |event: &serde_json::Value, name: &str| {
        let field = event[name].as_str();
        field.unwrap_or_default().to_owned()
    };
    let text = |event: &_| format!("{}: {}", field(event, "path"), field(event, "message"));
    output.of("error").map(text).collect()
}

fn errors_told_at_close_are_told(backend: &'static str) {
    for (errno, code) in [(ENOSPC, 6), (EDQUOT, 6), (EIO, 3)] {
        let faults = Faults {
            flush: Some(errno),
            drops_data: true,
            ..Faults::default()
        };
        each_way(backend, &faults, |way| {
            fill(&way.source);
            let output = way.copy(&[]).expect(code);
            assert_eq!(output.number("errors"), 4, "{output:?}");
            for name in ["a", "sub/b", "c", "d"] {
                assert!(!way.target.join("src").join(name).exists(), "{name}");
            }
        });
    }
}

/// Nothing says a word, and nothing is there.
fn what_is_not_stored_is_missed(backend: &'static str) {
    let faults = Faults {
        drops_data: true,
        ..Faults::default()
    };
    each_way(backend, &faults, |way| {
        fill(&way.source);
        fs::write(way.source.join("empty"), "").unwrap();
        let output = way.copy(&[]).expect(3);
        assert_eq!(output.number("errors"), 4, "{output:?}");
        let told = errors(&output);
        let missed = told.iter().filter(|text| text.contains("did not store"));
        assert_eq!(missed.count(), 4, "{told:?}");
        for name in ["a", "sub/b", "c", "d"] {
            assert!(!way.target.join("src").join(name).exists(), "{name}");
        }
    });
}

fn times_reach_servers_that_want_both(backend: &'static str) {
    let faults = Faults {
        utimes_need_both: true,
        ..Faults::default()
    };
    each_way(backend, &faults, |way| {
        fill(&way.source);
        let output = way.copy(&["--strict"]).expect(0);
        assert_eq!(warnings(&output), [""; 0]);
        assert_same(&way.source, &way.target.join("src"));
    });
}

/// A server may take less of a write than it is given: what follows goes behind that.
fn what_is_taken_in_short_pieces_is_whole(backend: &'static str) {
    let faults = Faults {
        moves_at_most: Some(30_000),
        ..Faults::default()
    };
    each_way(backend, &faults, |way| {
        fill(&way.source);
        let mut rng = Rng::new("short pieces");
        for len in [50_000, 65_536, 700_000, 3 << 20] {
            fs::write(way.source.join(len.to_string()), rng.bytes(len)).unwrap();
        }
        way.copy(&[]).expect(0);
        assert_same(&way.source, &way.target.join("src"));
    });
}

fn refused_attributes_are_one_warning_each(backend: &'static str) {
    let faults = Faults {
        chmod: Some(EPERM),
        utimes: Some(EOPNOTSUPP),
        ..Faults::default()
    };
    each_way(backend, &faults, |way| {
        fill(&way.source);
        let output = way.copy(&[]).expect(0);
        let told = warnings(&output);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().any(|text| text.contains("mode not set")));
        assert!(
            told.iter()
                .any(|text| text.contains("modification not set"))
        );
        assert_same_data(&way.source, &way.target.join("src"));
        let again = way.copy(&[]).expect(0);
        assert_eq!(again.number("files"), 0, "{again:?}");
        assert_eq!(again.number("skipped"), 5, "{again:?}");
        fs::write(way.source.join("a"), b"1234567890").unwrap();
        let strict = way.copy(&["--strict"]).expect(3);
        assert_eq!(strict.number("files"), 1, "{strict:?}");
        assert_same_data(&way.source, &way.target.join("src"));
    });
}

fn no_perms_and_no_times_set_none(backend: &'static str) {
    let faults = Faults {
        chmod: Some(EPERM),
        utimes: Some(EPERM),
        ..Faults::default()
    };
    each_way(backend, &faults, |way| {
        fill(&way.source);
        let options = ["--no-perms", "--no-times", "--strict"];
        let output = way.copy(&options).expect(0);
        assert_eq!(warnings(&output), [""; 0]);
        assert_same_data(&way.source, &way.target.join("src"));
        let again = way.copy(&options).expect(0);
        assert_eq!(again.number("skipped"), 5, "{again:?}");
        let mode = |name: &str| {
            let found = fs::metadata(way.target.join("src").join(name)).unwrap();
            found.mode() & 0o600
        };
        assert_eq!([mode("a"), mode("d"), mode("sub")], [0o600; 3]);
    });
}

fn coarse_times_are_known_again(backend: &'static str) {
    let second = 1_000_000_000;
    let steps = [100, second, 2 * second].map(|mtime_step_ns| Faults {
        mtime_step_ns,
        ..Faults::default()
    });
    let unkept = Faults {
        keeps_no_mtime: true,
        ..Faults::default()
    };
    for (faults, told) in [(&steps[0], 0), (&steps[1], 0), (&steps[2], 0), (&unkept, 1)] {
        each_way(backend, faults, |way| {
            fill(&way.source);
            // 1970, which not every range has; where no time is kept, it says nothing of a range.
            set_time(&way.source.join("c"), 100_000, 0);
            let output = way.copy(&[]).expect(0);
            assert_eq!(warnings(&output).len(), told, "{output:?}");
            let again = way.copy(&[]).expect(0);
            assert_eq!(again.number("files"), 0, "{faults:?}: {again:?}");
            // What is younger is sent, of whatever size.
            fs::write(way.source.join("a"), b"1234567890").unwrap();
            let later = SystemTime::now() + Duration::from_secs(60);
            let file = File::open(way.source.join("a")).unwrap();
            file.set_times(FileTimes::new().set_modified(later))
                .unwrap();
            assert_eq!(way.copy(&[]).expect(0).number("files"), 1);
            assert_same_data(&way.source, &way.target.join("src"));
        });
    }
}

fn times_out_of_range_are_warned_of(backend: &'static str) {
    let faults = Faults {
        mtime_step_ns: 1_000_000_000,
        mtime_range: Some((315_532_800, (1 << 31) - 1)),
        ..Faults::default()
    };
    each_way(backend, &faults, |way| {
        fill(&way.source);
        set_time(&way.source.join("a"), 5_000_000_000, 0);
        set_time(&way.source.join("d"), 6_000_000_000, 5);
        set_time(&way.source.join("c"), 0, 7);
        let output = way.copy(&[]).expect(0);
        let told = warnings(&output);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("outside the range") && told[0].contains("2 more"));
        let again = way.copy(&[]).expect(0);
        assert_eq!(again.number("files"), 0, "{again:?}");
    });
}

fn a_second_spelling_is_an_error(backend: &'static str) {
    for (names, pairs) in [
        (
            Names::CaseFolded,
            [("Readme", "README"), ("Dir", "dir"), ("x", "X")],
        ),
        (
            Names::Normalised,
            [
                ("caf\u{e9}", "cafe\u{301}"),
                ("d\u{e9}", "de\u{301}"),
                ("\u{e9}", "e\u{301}"),
            ],
        ),
        (
            Names::Folded,
            [
                ("stra\u{df}e", "STRASSE"),
                ("d\u{e9}", "DE\u{301}"),
                ("\u{e9}", "e\u{301}"),
            ],
        ),
    ] {
        for no_rename_flags in [false, true] {
            let faults = Faults {
                names,
                no_rename_flags,
                lists_no_inodes: names == Names::Folded,
                ..Faults::default()
            };
            each_way(backend, &faults, |way| two_spellings(way, pairs));
        }
    }
}

fn two_spellings(way: &Way<'_>, pairs: [(&str, &str); 3]) {
    let [(file, second), (dir, second_dir), (mixed, mixed_dir)] = pairs;
    let at = |name: &str| way.source.join(name);
    for (name, data) in [(file, "one"), (second, "other")] {
        fs::write(at(name), data).unwrap();
    }
    for (name, inside) in [(dir, "p"), (second_dir, "q")] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join(inside), name).unwrap();
    }
    fs::write(at(mixed), "file").unwrap();
    fs::create_dir(at(mixed_dir)).unwrap();
    fs::write(at("plain"), "plain").unwrap();
    let output = way.copy(&[]).expect(3);
    let landed = way.target.join("src");
    let seen = || {
        let mut seen: Vec<(String, Vec<u8>)> = Vec::new();
        for entry in fs::read_dir(&landed).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let data = match path.is_dir() {
                true => fs::read_dir(&path).unwrap().count().to_string().into(),
                false => fs::read(&path).unwrap(),
            };
            seen.push((name, data));
        }
        seen.sort();
        seen
    };
    let first = seen();
    assert_eq!(first.len(), 4, "{first:?}: {output:?}");
    for (name, data) in &first {
        if let Ok(source) = fs::read(at(name)) {
            assert_eq!(*data, source, "{name}");
        }
    }
    // What lies in a directory that fails may be announced by then, or not any more.
    let of_names = |output: &Output| {
        let mut told = errors(output);
        told.retain(|text| text.contains("takes the name"));
        told.sort();
        told
    };
    let told = of_names(&output);
    for (one, other) in pairs {
        let names = |text: &str, path: &str, by: &str| {
            text.starts_with(&format!("src/{path}: ")) && text.contains(&format!("\"{by}\""))
        };
        let names_both = |text: &String| names(text, one, other) || names(text, other, one);
        assert!(told.iter().any(names_both), "{one}: {told:?}");
    }
    for options in [&[][..], &["--force"]] {
        let again = way.copy(options).expect(3);
        assert_eq!(seen(), first, "{again:?}");
        assert_eq!(of_names(&again), told, "{again:?}");
    }
}

fn existing_directories_keep_their_modes(backend: &'static str) {
    each_way_on_disk(backend, |way| {
        fill(&way.source);
        let (sub, landed) = (way.source.join("sub"), way.target.join("src"));
        fs::create_dir(sub.join("deeper")).unwrap();
        let mode_of = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let chmod = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        chmod(&sub, 0o750);
        chmod(&sub.join("deeper"), 0o755);
        fs::create_dir(&landed).unwrap();
        chmod(&landed, 0o2775);
        way.copy(&[]).expect(0);
        assert_eq!(mode_of(&landed), 0o2775);
        // What is made in it is of its group, and hands that down.
        assert_eq!(mode_of(&landed.join("sub")), 0o2750);
        assert_eq!(mode_of(&landed.join("sub/deeper")), 0o2755);
        chmod(&landed.join("sub"), 0o775);
        fs::write(sub.join("new"), b"new").unwrap();
        way.copy(&[]).expect(0);
        assert_eq!(mode_of(&landed.join("sub")), 0o775);
        way.copy(&["-p"]).expect(0);
        assert_eq!(mode_of(&landed.join("sub")), 0o750);
        assert_eq!(mode_of(&landed), mode_of(&way.source));
        // An earlier session's that was never finished is.
        chmod(&landed.join("sub"), 0o1700);
        way.copy(&[]).expect(0);
        assert_eq!(mode_of(&landed.join("sub")), 0o750);
    });
}

/// What `source` is called on the side that sends, and `target` on the one that receives.
fn ends(way: &Way<'_>, source: &str, target: &Path) -> [String; 2] {
    let target = match way.name {
        "push" => way.world.url(target.file_name().unwrap().to_str().unwrap()),
        _ => text(target),
    };
    let source = match way.name {
        "pull" => way.world.url(&format!("src/{source}")),
        _ => text(&way.source.join(source)),
    };
    [source, target]
}

fn beside_target(way: &Way<'_>, name: &str) -> PathBuf {
    way.target.parent().unwrap().join(name)
}

fn devices_and_pipes_are_written_into(backend: &'static str) {
    each_way_on_disk(backend, |way| {
        fill(&way.source);
        let fifo = beside_target(way, "fifo");
        mkfifo(&fifo);
        for name in ["a", "c", "d"] {
            // It opens the FIFO once the copy does, which needs a reader first.
            let read = fifo.clone();
            let reader = File::options().read(true).write(true).open(&read).unwrap();
            let len = fs::metadata(way.source.join(name)).unwrap().len();
            let reading = std::thread::spawn(move || {
                let mut got = Vec::new();
                std::io::Read::read_to_end(&mut std::io::Read::take(reader, len), &mut got)
                    .unwrap();
                got
            });
            way.world.cp(&ends(way, name, &fifo)).expect(0);
            // No end of a FIFO is seen by who holds both its ends.
            let is_read = common::within(common::COMMAND_TIMEOUT, || reading.is_finished());
            assert!(is_read, "{name} is too short");
            assert!(
                reading.join().unwrap() == fs::read(way.source.join(name)).unwrap(),
                "{name}"
            );
        }
        let kind = fs::symlink_metadata(&fifo).unwrap().file_type();
        assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind));
        // Within a tree it is in the way.
        fs::create_dir(way.target.join("src")).unwrap();
        fs::rename(&fifo, way.target.join("src/a")).unwrap();
        way.copy(&[]).expect(3);
        if way.name != "push" {
            for name in ["a", "d"] {
                way.world
                    .cp(&ends(way, name, Path::new("/dev/null")))
                    .expect(0);
            }
            let kind = fs::metadata("/dev/null").unwrap().file_type();
            assert!(std::os::unix::fs::FileTypeExt::is_char_device(&kind));
            let [source, target] = ends(way, "d", Path::new("/dev/stdout"));
            let peer = &way.world.daemon.fingerprint;
            let args = ["cp", "--backend", backend, "--peer", peer, &source, &target];
            let output = common::landro(&way.world.client, args).expect(0);
            assert!(output.stdout.as_bytes() == fs::read(way.source.join("d")).unwrap());
            // A file that it leads to is the one that the caller has open, and stays that one.
            let out = beside_target(way, "out");
            let inode = File::create(&out).unwrap().metadata().unwrap().ino();
            let into = ["sh", "-c", "exec \"$@\" >\"$0\"", out.to_str().unwrap()];
            let redirected = command(&way.world.client, &into, args);
            Running::spawn(redirected).wait().expect(0);
            assert!(fs::read(&out).unwrap() == fs::read(way.source.join("d")).unwrap());
            assert_eq!(fs::metadata(&out).unwrap().ino(), inode);
        }
    });
}

/// A loop device, until this is dropped.
struct Loop(PathBuf);

impl Loop {
    fn of(file: &Path) -> Option<Loop> {
        let losetup = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output();
        let output = losetup.ok().filter(|output| output.status.success())?;
        Some(Loop(
            String::from_utf8(output.stdout).unwrap().trim().into(),
        ))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

fn block_devices_are_written_into_and_run_full(backend: &'static str) {
    each_way_on_disk(backend, |way| {
        fill(&way.source);
        let image = beside_target(way, "image");
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let Some(device) = Loop::of(&image) else {
            common::skipped("no loop device");
            return;
        };
        // A node is that device wherever it is: what is served has one, too.
        let node = beside_target(way, "device");
        let copied = Command::new("cp")
            .arg("-a")
            .args([&device.0, &node])
            .status();
        assert!(copied.unwrap().success());
        way.world
            .cp(&[&["--fsync".into()][..], &ends(way, "c", &node)].concat())
            .expect(0);
        let written = fs::read(&image).unwrap();
        let source = fs::read(way.source.join("c")).unwrap();
        assert!(written.len() == 1 << 20 && written[..source.len()] == source);
        way.world.cp(&ends(way, "d", &node)).expect(6);
        let kind = fs::symlink_metadata(&node).unwrap().file_type();
        assert!(std::os::unix::fs::FileTypeExt::is_block_device(&kind));
    });
}

fn named_symlinks_are_not_replaced(backend: &'static str) {
    each_way_on_disk(backend, |way| {
        fill(&way.source);
        let link = beside_target(way, "named");
        symlink("real", &link).unwrap();
        fs::write(beside_target(way, "real"), "mine").unwrap();
        let output = way.world.cp(&ends(way, "a", &link));
        assert!(matches!(output.code, Some(1 | 3)), "{output:?}");
        assert!(output.stderr.contains("is a symlink"), "{output:?}");
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("real"));
        assert_eq!(fs::read(&link).unwrap(), b"mine");
    });
}
