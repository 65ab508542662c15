//! Copies between local paths where others may write, where mounts lead in circles, and where the
//! copy is killed.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::fuse::{Faults, Fuse};
use common::tree::{self, Record, Rng, assert_no_leftovers, assert_same, mkfifo};
use common::{Output, Running, Side, command, landro};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Suffixes of temporary names: the first was that of local copies when they had file operations of
/// their own.
const SUFFIXES: [&str; 4] = ["tmp", "part", "journal", "new"];

/// Somebody who is not us.
const NOBODY: u32 = 65_534;

/// A directory in memory, and one on the file system the build is on.
fn places() -> [TempDir; 2] {
    ["/dev/shm", env!("CARGO_TARGET_TMPDIR")].map(|place| tempfile::tempdir_in(place).unwrap())
}

fn cp<S: AsRef<OsStr>>(args: &[S]) -> Output {
    let args = ["cp", "--json"]
        .map(OsStr::new)
        .into_iter()
        .chain(args.iter().map(AsRef::as_ref));
    landro(&Side::new(), args)
}

/// What the copy must not touch: everything in a directory, and what is in its files.
fn state(dir: &Path) -> Vec<(PathBuf, Record, u64, Option<Vec<u8>>)> {
    let all = tree::records(dir).into_iter().map(|(path, record)| {
        let whole = dir.join(&path);
        let content = (record.kind == 'f').then(|| fs::read(&whole).unwrap());
        let links = if record.kind == 'd' {
            0
        } else {
            fs::symlink_metadata(&whole).unwrap().nlink()
        };
        (path, record, links, content)
    });
    all.collect()
}

/// What somebody puts under a temporary name.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Planted {
    Symlink,
    Dangling,
    HardLink,
    Fifo,
    Directory,
    /// Of another user, who holds it open.
    File,
}

use Planted::{Dangling, Directory, Fifo, HardLink, Symlink};

/// `outside/dangling` is not there. Gives what the other user holds.
fn plant(what: Planted, at: &Path, outside: &Path) -> Option<File> {
    match what {
        Symlink => symlink(outside.join("precious"), at).unwrap(),
        Dangling => symlink(outside.join("dangling"), at).unwrap(),
        HardLink => fs::hard_link(outside.join("precious"), at).unwrap(),
        Fifo => mkfifo(at),
        Directory => fs::create_dir(at).unwrap(),
        Planted::File => {
            let theirs = File::create(at).unwrap();
            let status = Command::new("chmod").arg("666").arg(at).status().unwrap();
            assert!(status.success());
            // Only root may give files away; the file of anybody else is at least held open here.
            let _ = std::os::unix::fs::chown(at, Some(NOBODY), None);
            return Some(theirs);
        }
    }
    None
}

/// One copy of `source` (of `size_bytes`) to where each temporary name of it is taken.
fn copy_among(what: Planted, size_bytes: u64, replaced: bool, dir: &Path, rng: &mut Rng) {
    let (source, to, outside) = (dir.join("victim"), dir.join("to"), dir.join("outside"));
    for made in [&to, &outside] {
        let _ = fs::remove_dir_all(made);
        fs::create_dir(made).unwrap();
    }
    tree::write_file(&source, size_bytes, rng);
    fs::write(outside.join("precious"), "precious").unwrap();
    if replaced {
        fs::write(to.join("victim"), "old").unwrap();
    }
    let digest = blake3::hash(b"victim").to_hex();
    let mut held = Vec::new();
    for suffix in SUFFIXES {
        held.extend(plant(
            what,
            &to.join(format!(".landro-{}.{suffix}", &digest[..16])),
            &outside,
        ));
    }
    let before = state(&outside);
    cp(&[&source, &to]).expect(0);
    let copied = fs::symlink_metadata(to.join("victim")).unwrap();
    assert!(copied.is_file() && copied.nlink() == 1, "{what:?}");
    assert_eq!(copied.uid(), fs::metadata("/proc/self").unwrap().uid());
    for mut theirs in held {
        theirs.rewind().unwrap();
        theirs.write_all(b"changed later").unwrap();
    }
    assert!(
        tree::same_content(&source, &to.join("victim")),
        "{what:?}, {size_bytes} bytes"
    );
    for suffix in SUFFIXES {
        let planted = to.join(format!(".landro-{}.{suffix}", &digest[..16]));
        assert!(
            fs::symlink_metadata(planted).is_ok(),
            "{what:?}: .{suffix} is gone"
        );
    }
    let untouched = |state: Vec<(PathBuf, Record, u64, Option<Vec<u8>>)>| {
        state
            .into_iter()
            .map(|(path, record, _, content)| (path, record, content))
            .collect::<Vec<_>>()
    };
    assert_eq!(untouched(state(&outside)), untouched(before), "{what:?}");
}

#[test]
fn what_is_planted_at_temporary_names_is_not_opened() {
    let mut rng = Rng::new("planted");
    for place in places() {
        for what in [Symlink, Dangling, HardLink, Fifo, Directory, Planted::File] {
            for size_bytes in [11, 3 * MIB] {
                for replaced in [false, true] {
                    copy_among(what, size_bytes, replaced, place.path(), &mut rng);
                }
            }
        }
    }
}

#[test]
fn symlinks_are_made_beside_what_is_planted() {
    for place in places() {
        for what in [Symlink, Dangling, HardLink, Fifo, Directory, Planted::File] {
            let dir = tempfile::tempdir_in(place.path()).unwrap();
            let (source, to, outside) = (
                dir.path().join("link"),
                dir.path().join("to"),
                dir.path().join("outside"),
            );
            fs::create_dir(&to).unwrap();
            fs::create_dir(&outside).unwrap();
            fs::write(outside.join("precious"), "precious").unwrap();
            symlink("somewhere", &source).unwrap();
            let digest = blake3::hash(b"link").to_hex();
            let planted = to.join(format!(".landro-{}.new", &digest[..16]));
            let _held = plant(what, &planted, &outside);
            cp(&[Path::new("-P"), &source, &to]).expect(0);
            let made = fs::read_link(to.join("link")).unwrap();
            assert_eq!(made, Path::new("somewhere"));
            assert!(fs::symlink_metadata(&planted).is_ok(), "{what:?} is gone");
            assert_eq!(fs::read_dir(&to).unwrap().count(), 2, "{what:?}");
            assert_eq!(fs::read(outside.join("precious")).unwrap(), b"precious");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        }
    }
}

#[test]
fn a_tree_arrives_as_it_is_and_a_rerun_skips_it() {
    let mut rng = Rng::new("local tree");
    for place in places() {
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        tree::build(&from, &mut rng);
        // Deeper than directories are held open.
        let mut deep = from.join("deep");
        for _ in 0..150 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "content").unwrap();
        let files = tree::count_files(&from);
        let output = cp(&[&from, &to]).expect(0);
        assert_eq!((output.number("files"), output.number("bytes")), files);
        assert_same(&from, &to);
        assert_no_leftovers(&to);
        // What lands inside would inherit setgid, as new directories do.
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
        let from = from.join("");
        let again = cp(&[OsStr::new("--fsync"), from.as_os_str(), to.as_os_str()]).expect(0);
        assert_eq!(
            again.number("files"),
            files.0,
            "it landed inside, under its own name"
        );
        let output = cp(&[&from, &to]).expect(0);
        assert_eq!(
            (output.number("files"), output.number("symlinks")),
            (0, 0),
            "{}",
            output.stderr
        );
        assert_same(&from, &to.join("from"));
    }
}

/// A tree to copy and its destination, where `tree/sub` is a symlink to a directory that is not
/// below it.
fn with_dirlink(dir: &Path, link: &Path) {
    let (from, to, outside) = (dir.join("tree"), dir.join("to"), dir.join("outside"));
    for made in [&from.join("sub"), &to.join("tree"), &outside] {
        fs::create_dir_all(made).unwrap();
    }
    fs::write(from.join("sub/file"), "content").unwrap();
    fs::write(from.join("beside"), "content").unwrap();
    fs::write(outside.join("precious"), "precious").unwrap();
    fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(link, to.join("tree/sub")).unwrap();
}

#[test]
fn a_symlink_at_the_destination_is_no_directory() {
    for place in places() {
        let absolute = place.path().join("0/outside");
        let links = [
            &absolute,
            Path::new("../../outside"),
            Path::new(".."),
            Path::new("."),
            Path::new("gone"),
        ];
        for (number, link) in links.into_iter().enumerate() {
            let dir = place.path().join(number.to_string());
            with_dirlink(&dir, link);
            let before = (
                state(&dir.join("outside")),
                fs::metadata(dir.join("to")).unwrap().mode(),
            );
            let output = cp(&[dir.join("tree"), dir.join("to")]).expect(3);
            let errors: Vec<_> = output
                .of("error")
                .filter_map(|error| error["path"].as_str())
                .collect();
            assert_eq!(errors, ["tree/sub"], "{link:?}");
            assert!(output.stderr.contains("--keep-dirlinks"), "{output:?}");
            let after = (
                state(&dir.join("outside")),
                fs::metadata(dir.join("to")).unwrap().mode(),
            );
            assert_eq!(after, before, "{link:?}");
            assert_eq!(fs::read_link(dir.join("to/tree/sub")).unwrap(), link);
            let mut landed: Vec<_> = tree::records(&dir.join("to")).into_keys().collect();
            landed.retain(|path| !path.as_os_str().is_empty());
            assert_eq!(
                landed,
                ["tree", "tree/beside", "tree/sub"].map(PathBuf::from),
                "{link:?}"
            );
        }
    }
}

#[test]
fn links_of_the_users_own_are_kept_when_he_says_so() {
    for place in places() {
        let dir = place.path();
        with_dirlink(dir, Path::new("../../outside"));
        cp(&[
            OsStr::new("--keep-dirlinks"),
            dir.join("tree").as_os_str(),
            dir.join("to").as_os_str(),
        ])
        .expect(0);
        assert_eq!(fs::read(dir.join("outside/file")).unwrap(), b"content");
        assert_eq!(fs::read(dir.join("outside/precious")).unwrap(), b"precious");
        assert_eq!(
            fs::metadata(dir.join("outside")).unwrap().mode() & 0o7777,
            0o700,
            "a directory that was there keeps its mode"
        );
        assert_eq!(
            fs::read_link(dir.join("to/tree/sub")).unwrap(),
            Path::new("../../outside")
        );
    }
}

#[test]
fn special_files_are_passed_over_and_not_opened() {
    for place in places() {
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("file"), "content").unwrap();
        mkfifo(&from.join("fifo"));
        let mut specials = vec!["fifo"];
        // A tape that is opened winds back; this one nobody has.
        let mknod = Command::new("mknod")
            .arg(from.join("device"))
            .args(["c", "250", "77"])
            .output()
            .unwrap();
        if mknod.status.success() {
            specials.push("device");
        }
        let output = cp(&[&from, &to]).expect(0);
        let mut warned: Vec<&str> = output
            .of("warning")
            .filter_map(|event| event["path"].as_str())
            .collect();
        warned.sort_unstable();
        specials.sort_unstable();
        let expected = specials.iter().map(|name| format!("from/{name}"));
        assert_eq!(warned, expected.collect::<Vec<_>>());
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }
}

#[test]
fn special_files_are_not_replaced() {
    for place in places() {
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir_all(to.join("from")).unwrap();
        fs::create_dir(&from).unwrap();
        fs::write(from.join("name"), "content").unwrap();
        fs::write(from.join("other"), "content").unwrap();
        let fifo = to.join("from/name");
        mkfifo(&fifo);
        for args in [
            &[from.join("name"), fifo.clone()][..],
            &["--force".into(), from.join("name"), fifo.clone()],
        ] {
            let output = cp(args).expect(1);
            assert!(output.stderr.contains("nobody reads"), "{output:?}");
        }
        cp(&[&from, &to]).expect(3);
        assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
        assert_eq!(fs::read(to.join("from/other")).unwrap(), b"content");
    }
}

#[test]
fn sources_that_turn_out_to_have_one_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["x/a", "y/a", "to"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::write(at("x/a/file"), "1").unwrap();
    fs::write(at("y/a/file"), "2").unwrap();
    // The URL is nobody's: it is not dialled.
    for to in [at("to").into_os_string(), "landro://127.0.0.1:9/".into()] {
        let output = cp(&[at("x/a/.").into_os_string(), at("y/a").into(), to]).expect(2);
        assert!(
            output.stderr.contains("goes with no other source"),
            "{output:?}"
        );
    }
    assert_eq!(fs::read_dir(at("to")).unwrap().count(), 0);
}

#[test]
fn a_directory_that_may_only_be_entered_is_said_to_be_so() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("closed")).unwrap();
    fs::set_permissions(from.join("closed"), fs::Permissions::from_mode(0o311)).unwrap();
    let args = [OsStr::new("cp"), from.as_os_str(), to.as_os_str()];
    let output = Running::spawn(command(&Side::new(), common::without_override(), args))
        .wait()
        .expect(3);
    assert!(
        output
            .stderr
            .contains("closed: permission denied reading it"),
        "{output:?}"
    );
}

#[test]
fn a_deep_tree_needs_few_descriptors() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    let mut deep = from.clone();
    for level in 0..100 {
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), level.to_string()).unwrap();
        deep.push("d");
    }
    let prefix = ["sh", "-c", "ulimit -n 32 && exec \"$@\"", "sh"];
    let args = [OsStr::new("cp"), from.as_os_str(), to.as_os_str()];
    Running::spawn(command(&Side::new(), &prefix, args))
        .wait()
        .expect(0);
    assert_same(&from, &to);
}

#[test]
fn names_and_texts_are_those_of_a_transfer() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("from/sub")).unwrap();
    fs::write(at("from/sub/file"), "content").unwrap();
    fs::create_dir_all(at("to/from/sub/file")).unwrap();
    let output = cp(&[at("gone"), at("from"), at("to")]).expect(3);
    let mut errors: Vec<(&str, &str)> = output
        .of("error")
        .filter_map(|error| Some((error["path"].as_str()?, error["message"].as_str()?)))
        .collect();
    errors.sort_unstable();
    let gone = at("gone").to_str().unwrap().to_owned();
    assert!(
        matches!(errors[0], (path, text) if path == gone && text == "no such file or directory"),
        "{errors:?}"
    );
    let directory = (
        "from/sub/file",
        "is a directory; move it away, or copy into it",
    );
    assert_eq!(errors[1..], [directory]);
    let copied = output
        .of("file")
        .map(|file| file["path"].as_str().unwrap())
        .collect::<Vec<_>>();
    assert_eq!(
        copied,
        ["from/sub", "from"],
        "children first, under the names they land at"
    );
}

#[test]
fn a_bind_mount_does_not_lead_a_copy_into_itself() {
    let dir = tempfile::tempdir().unwrap();
    copy_into_a_bind_mount(dir.path());
    // A file system whose numbers are not believed to last, and good enough for this.
    if let Some(fuse) = Fuse::mount(dir.path(), Faults::default()) {
        copy_into_a_bind_mount(fuse.path());
    }
}

fn copy_into_a_bind_mount(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::create_dir_all(at("from/a/b")).unwrap();
    fs::create_dir_all(at("from/z")).unwrap();
    fs::write(at("from/a/file"), "content").unwrap();
    fs::write(at("from/z/file"), "content").unwrap();
    fs::create_dir(at("mount")).unwrap();
    let (from, inner, mount) = (at("from"), at("from/a/b"), at("mount"));
    let script = "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"";
    let unshare = if common::is_root() { "-m" } else { "-rm" };
    let prefix = [
        "unshare",
        unshare,
        "sh",
        "-c",
        script,
        inner.to_str().unwrap(),
        mount.to_str().unwrap(),
    ];
    let works = Command::new(prefix[0])
        .args(&prefix[1..])
        .arg("true")
        .status()
        .unwrap();
    if !works.success() {
        common::skipped("no mount namespace can be made here");
        return;
    }
    // from/a/b and mount are one directory by two names, of which none begins with the other.
    for target in [mount.clone(), mount.join("deeper")] {
        let args = [
            OsStr::new("cp"),
            OsStr::new("--json"),
            from.as_os_str(),
            target.as_os_str(),
        ];
        let output = Running::spawn(command(&Side::new(), &prefix, args))
            .wait()
            .expect(3);
        let errors: Vec<_> = output
            .of("error")
            .filter_map(|error| error["path"].as_str())
            .collect();
        assert!(
            matches!(errors[..], [path] if path.ends_with("a/b")),
            "{errors:?}"
        );
        assert!(output.stderr.contains("into itself"), "{output:?}");
    }
    // What lies beside is complete, and there only once; where there are no attributes, with the
    // file that says whose unfinished copy it is.
    for copied in [inner.join("from"), inner.join("deeper")] {
        let found: Vec<_> = tree::records(&copied)
            .into_iter()
            .filter(|(path, r)| r.kind == 'f' && !path.to_string_lossy().starts_with(".landro-"))
            .collect();
        assert_eq!(found.len(), 2, "{found:?}");
    }
}

#[test]
fn a_killed_copy_leaves_nothing_wrong_and_a_rerun_finishes() {
    let mut rng = Rng::new("killed copies");
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    for number in 0..200 {
        tree::write_file(
            &from.join(format!("small {number}")),
            rng.below(20_000),
            &mut rng,
        );
    }
    for number in 0..4 {
        tree::write_file(
            &from.join(format!("big {number}")),
            24 * MIB + rng.below(MIB),
            &mut rng,
        );
    }
    let spawn = || {
        let args = [
            OsStr::new("cp"),
            OsStr::new("--force"),
            from.as_os_str(),
            to.as_os_str(),
        ];
        Running::spawn(command(&Side::new(), &[], args))
    };
    for round in 0..12 {
        fs::create_dir_all(&to).unwrap();
        let mut copy = spawn();
        thread::sleep(Duration::from_micros(rng.below(60_000)));
        match round % 3 {
            0 => copy.signal("INT"),
            1 => copy.signal("TERM"),
            _ => copy.kill(),
        }
        let output = copy.wait();
        assert!(
            matches!(
                (output.code, output.signal),
                (Some(0 | 130 | 143), _) | (_, Some(2 | 9 | 15))
            ),
            "{output:?}"
        );
        // Each file is the old one, the new one, or not there: a rerun by size and time finishes.
        for (path, record) in tree::records(&to)
            .into_iter()
            .filter(|(_, record)| record.kind == 'f')
        {
            if !path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b".landro-"))
            {
                assert!(
                    tree::same_content(&dir.path().join(&path), &to.join(&path)),
                    "{path:?}: {record:?}"
                );
            }
        }
        cp(&["--force".as_ref(), from.as_os_str(), to.as_os_str()]).expect(0);
        assert_same(&from, &to.join("from"));
        assert_no_leftovers(&to);
        if rng.below(2) == 0 {
            fs::remove_dir_all(&to).unwrap();
        }
    }
}

/// As over the network: so many bytes a second, of large files and of small ones, and a signal is
/// noticed while the copy waits.
#[test]
fn a_bandwidth_limit_is_kept() {
    for place in places() {
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("large"), vec![1; 2 * MIB as usize]).unwrap();
        for number in 0..64 {
            fs::write(from.join(format!("small-{number}")), vec![2; 16 << 10]).unwrap();
        }
        // 3 MiB, of which a tenth of a second's worth goes at once and as much is not waited for.
        let options = ["--bwlimit", "2M"].map(OsStr::new);
        let output = cp(&[&options[..], &[from.as_os_str(), to.as_os_str()]].concat()).expect(0);
        let seconds = output.summary()["seconds"].as_f64().unwrap();
        assert!(seconds > 1.25, "{seconds}");
        assert_eq!(output.number("sent_bytes"), 3 * MIB);
        assert_same(&from, &to);
        let slow = ["cp", "--json", "--bwlimit", "10K"].map(OsStr::new);
        let other = place.path().join("other");
        let args = [&slow[..], &[from.as_os_str(), other.as_os_str()]].concat();
        let running = Running::spawn(command(&Side::new(), &[], args));
        assert!(running.line(|line| line.contains("\"progress\"")).is_some());
        running.signal("INT");
        running.wait().expect(130);
        assert_no_leftovers(place.path());
    }
}
