//! Sources as they are: of unknown size, growing, named through a symlink, pipes, hard links, and
//! on file systems that make their inode numbers up.

mod common;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::fuse::{Faults, Fuse};
use common::tree::{Rng, assert_no_leftovers, assert_same, mkfifo};
use common::{Output, Running, World};
use landro::engine::now;

on_both_backends!(
    what_the_kernel_makes_up_is_read_to_its_end,
    files_of_unknown_size_are_read_to_their_end,
    files_that_hold_less_than_they_say_are_warned_of,
    files_that_come_in_short_pieces_are_whole,
    what_cannot_be_read_is_said_of_the_source,
    pipes_are_read_to_their_end,
    a_silent_pipe_stops_nothing_and_can_be_stopped,
    pipes_are_not_read_in_trees_nor_by_a_daemon,
    a_named_link_is_what_it_leads_to,
    a_growing_file_is_copied_as_it_was,
    hard_links_are_said_once,
    inode_numbers_that_change_are_not_believed,
    a_resume_does_not_hang_on_inode_numbers,
);

const MIB: u64 = 1 << 20;

/// Which way a source goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Push,
    Pull,
    Local,
}

const WAYS: [Way; 3] = [Way::Push, Way::Pull, Way::Local];

impl Way {
    /// Where sources lie.
    fn home(self, world: &World, path: &str) -> PathBuf {
        match self {
            Way::Push | Way::Local => world.here(path),
            Way::Pull => world.root(path),
        }
    }

    /// Copies sources from their home; where they landed.
    fn copy(self, world: &World, options: &[&str], sources: &[&str]) -> (Output, PathBuf) {
        let (args, landed) = self.args(world, options, sources);
        (world.cp(&args), landed)
    }

    fn args(self, world: &World, options: &[&str], sources: &[&str]) -> (Vec<OsString>, PathBuf) {
        let mut args: Vec<OsString> = options.iter().map(OsString::from).collect();
        let target = format!("landed-{self:?}/");
        let landed = match self {
            Way::Push => world.root(&target),
            Way::Pull | Way::Local => world.here(&target),
        };
        fs::create_dir_all(&landed).unwrap();
        for source in sources {
            args.push(match self {
                Way::Push | Way::Local => world.here(source).into(),
                Way::Pull => world.url(source).into(),
            });
        }
        args.push(match self {
            Way::Push => world.url(&target).into(),
            Way::Pull | Way::Local => landed.join("").into(),
        });
        (args, landed)
    }
}

/// Also where one call of the kernel's reads and writes.
fn what_cannot_be_read_is_said_of_the_source(backend: &'static str) {
    for way in WAYS {
        let world = World::new(backend);
        let aside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let faults = Faults {
            read_behind: Some((MIB, 5)),
            ..Faults::default()
        };
        let Some(fuse) = Fuse::mount(aside.path(), faults) else {
            return;
        };
        fs::write(fuse.files().join("bad"), vec![7; 3 * MIB as usize]).unwrap();
        let home = way.home(&world, "disk");
        fs::create_dir(&home).unwrap();
        let mut bind = Command::new("mount");
        let bound = bind.arg("--bind").args([fuse.path(), &home]).status();
        assert!(bound.unwrap().success());
        let (output, landed) = way.copy(&world, &[], &["disk/bad"]);
        let freed = Command::new("umount").arg("-l").arg(&home).status();
        assert!(freed.unwrap().success());
        let output = output.expect(1);
        let error = output.of("error").next().unwrap();
        assert_eq!(error["code"], "source", "{way:?}: {output:?}");
        assert!(!landed.join("bad").exists());
    }
}

fn warnings(output: &Output) -> Vec<&str> {
    let text = |event| {
        let event: &serde_json::Value = event;
        event["message"].as_str()
    };
    output.of("warning").filter_map(text).collect()
}

/// Writes into a FIFO, some at first and the rest after a pause, once somebody reads it.
fn write_later(path: &Path, data: &[u8]) -> JoinHandle<()> {
    let (path, data) = (path.to_owned(), data.to_owned());
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        let mut fifo = File::options().write(true).open(path).unwrap();
        let (first, rest) = data.split_at(data.len() / 3);
        fifo.write_all(first).unwrap();
        thread::sleep(Duration::from_millis(200));
        fifo.write_all(rest).unwrap();
    })
}

fn what_the_kernel_makes_up_is_read_to_its_end(backend: &'static str) {
    let world = World::new(backend);
    let sources = [
        "/proc/version",
        "/proc/filesystems",
        "/sys/kernel/notes",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/proc/sys/net/ipv4",
    ];
    let targets: [(OsString, PathBuf); 2] = [
        (world.url("made-up/").into(), world.root("made-up")),
        (
            world.here("made-up/").join("").into(),
            world.here("made-up"),
        ),
    ];
    for (target, landed) in targets {
        let mut args: Vec<OsString> = sources.iter().map(OsString::from).collect();
        args.push(target);
        // The second time as the first: what says nothing of its size cannot be known to be there.
        for _ in 0..2 {
            let output = world.cp(&args);
            // Some names below /proc/sys may not be read, by nobody.
            assert!(matches!(output.code, Some(0 | 3)), "{output:?}");
            for source in sources.iter().filter(|source| Path::new(source).is_file()) {
                let name = Path::new(source).file_name().unwrap();
                let (expected, got) = (fs::read(source).unwrap(), fs::read(landed.join(name)));
                assert!(!expected.is_empty() && got.unwrap() == expected, "{source}");
            }
            let ttl = fs::read(landed.join("ipv4/ip_default_ttl")).unwrap();
            assert_eq!(ttl, fs::read("/proc/sys/net/ipv4/ip_default_ttl").unwrap());
        }
        assert_no_leftovers(&landed);
    }
}

fn files_of_unknown_size_are_read_to_their_end(backend: &'static str) {
    for way in WAYS {
        let world = World::new(backend);
        let faults = Faults {
            size_unknown: true,
            ..Faults::default()
        };
        let Some((fuse, odd)) = mounted(&world, way, faults) else {
            return;
        };
        let mut rng = Rng::new("unknown sizes");
        let mut bytes = 0;
        for (name, len) in [("empty", 0), ("small", 1000), ("large", 10 * MIB + 77)] {
            fs::write(fuse.files().join(name), rng.bytes(len as usize)).unwrap();
            bytes += len;
        }
        let (output, landed) = way.copy(&world, &[], &[&odd]);
        let output = output.expect(0);
        assert_eq!(output.number("bytes"), bytes, "{way:?}");
        assert_eq!(output.number("files"), 3, "{way:?}");
        for name in ["empty", "small", "large"] {
            let expected = fs::read(fuse.files().join(name)).unwrap();
            let got = fs::read(landed.join("mounted").join(name)).unwrap();
            assert!(got == expected, "{way:?}: {name}: {} bytes", got.len());
        }
        // Changed content of the same time and unknown size is seen, too.
        fs::write(fuse.files().join("small"), b"other").unwrap();
        way.copy(&world, &[], &[&odd]).0.expect(0);
        assert_eq!(fs::read(landed.join("mounted/small")).unwrap(), b"other");
        assert_no_leftovers(&landed);
    }
}

/// As sysfs says 4096 of a file of a few bytes, through a file system that nobody knows.
fn files_that_hold_less_than_they_say_are_warned_of(backend: &'static str) {
    for way in WAYS {
        let world = World::new(backend);
        let faults = Faults {
            size_at_least: 4096,
            ..Faults::default()
        };
        let Some((fuse, odd)) = mounted(&world, way, faults) else {
            return;
        };
        for (name, len) in [("empty", 0), ("small", 5), ("large", 5000)] {
            fs::write(fuse.files().join(name), vec![7; len]).unwrap();
        }
        let (output, landed) = way.copy(&world, &[], &[&odd]);
        let output = output.expect(0);
        for name in ["empty", "small", "large"] {
            let expected = fs::read(fuse.files().join(name)).unwrap();
            let got = fs::read(landed.join("mounted").join(name)).unwrap();
            assert!(got == expected, "{way:?}: {name}: {} bytes", got.len());
        }
        assert_eq!(output.number("bytes"), 5005, "{way:?}");
        let warnings = warnings(&output);
        assert_eq!(warnings.len(), 1, "{way:?}: {output:?}");
        assert!(
            warnings[0].starts_with("this and 1 more file hold less"),
            "{way:?}: {warnings:?}"
        );
        way.copy(&world, &["--strict"], &[&odd]).0.expect(3);
        assert_no_leftovers(&landed);
    }
}

/// A server may answer a read with less than there is: what follows is asked for from there on.
fn files_that_come_in_short_pieces_are_whole(backend: &'static str) {
    for way in WAYS {
        let world = World::new(backend);
        let faults = Faults {
            moves_at_most: Some(30_000),
            ..Faults::default()
        };
        let Some((fuse, odd)) = mounted(&world, way, faults) else {
            return;
        };
        let mut rng = Rng::new("short pieces");
        for len in [7, 50_000, 65_536, 700_000, 3 << 20] {
            fs::write(fuse.files().join(len.to_string()), rng.bytes(len)).unwrap();
        }
        let (output, landed) = way.copy(&world, &[], &[&odd]);
        let output = output.expect(0);
        assert_eq!(warnings(&output), [""; 0], "{way:?}");
        assert_same(&fuse.files(), &landed.join("mounted"));
    }
}

fn pipes_are_read_to_their_end(backend: &'static str) {
    let world = World::new(backend);
    let data = Rng::new("pipes").bytes(9_000_000);
    let fifo = world.here("fifo");
    mkfifo(&fifo);
    fs::write(world.here("beside"), "beside").unwrap();
    for way in [Way::Push, Way::Local] {
        let writer = write_later(&fifo, &data);
        let (output, landed) = way.copy(&world, &[], &["fifo", "beside"]);
        assert_eq!(output.expect(0).number("bytes"), data.len() as u64 + 6);
        writer.join().unwrap();
        assert!(fs::read(landed.join("fifo")).unwrap() == data, "{way:?}");
        assert_eq!(fs::read(landed.join("beside")).unwrap(), b"beside");
        // As a shell gives it: a symlink of proc that leads to a pipe.
        fs::write(world.here("long"), &data).unwrap();
        let (args, landed) = way.args(&world, &[], &[]);
        let args: Vec<OsString> = std::iter::once("/dev/stdin".into()).chain(args).collect();
        let long = world.here("long");
        let piped = ["sh", "-c", "cat \"$0\" | \"$@\"", long.to_str().unwrap()];
        Running::spawn(world.cp_command(&piped, &args))
            .wait()
            .expect(0);
        assert!(fs::read(landed.join("stdin")).unwrap() == data, "{way:?}");
        assert_no_leftovers(&landed);
    }
}

fn a_silent_pipe_stops_nothing_and_can_be_stopped(backend: &'static str) {
    let world = World::new(backend);
    mkfifo(&world.here("silent"));
    fs::write(world.here("file"), "content").unwrap();
    // A copy within this host goes on in order; the pipe is the last.
    for way in [Way::Push, Way::Local] {
        let (args, landed) = way.args(&world, &[], &["file", "silent"]);
        let running = world.cp_start(&args);
        let until = now() + Duration::from_secs(60);
        while fs::read(landed.join("file")).unwrap_or_default() != b"content" {
            assert!(now() < until, "{way:?}: {}", running.stderr());
            thread::sleep(Duration::from_millis(20));
        }
        let asked = now();
        running.signal("INT");
        let output = running.wait();
        assert_eq!(output.code, Some(130), "{output:?}");
        assert!(asked.elapsed() < Duration::from_secs(10), "{way:?}");
        assert!(!landed.join("silent").exists());
        assert_no_leftovers(&landed);
    }
}

fn pipes_are_not_read_in_trees_nor_by_a_daemon(backend: &'static str) {
    for way in WAYS {
        let world = World::new(backend);
        let home = way.home(&world, "tree");
        fs::create_dir(&home).unwrap();
        fs::write(home.join("file"), "content").unwrap();
        mkfifo(&home.join("fifo"));
        let (output, landed) = way.copy(&world, &[], &["tree"]);
        let output = output.expect(0);
        assert_eq!(warnings(&output).len(), 1, "{output:?}");
        assert!(!landed.join("tree/fifo").exists());
        symlink("tree/fifo", way.home(&world, "link")).unwrap();
        if let Way::Pull = way {
            for named in ["tree/fifo", "link"] {
                let output = way.copy(&world, &[], &[named, "tree/file"]).0.expect(3);
                let error = output.of("error").next().unwrap();
                assert!(
                    error["message"]
                        .as_str()
                        .unwrap()
                        .contains("a daemon does not read")
                );
            }
        }
    }
}

fn a_named_link_is_what_it_leads_to(backend: &'static str) {
    for way in WAYS {
        let world = World::new(backend);
        let home = way.home(&world, "");
        fs::create_dir_all(home.join("deep/tree")).unwrap();
        fs::write(home.join("deep/file"), "content").unwrap();
        fs::write(home.join("deep/large"), vec![7; 3 << 20]).unwrap();
        symlink("../file", home.join("deep/tree/inner")).unwrap();
        for (link, to) in [
            ("to-file", "deep/file"),
            ("to-large", "to-large-too"),
            ("to-large-too", "deep/large"),
            ("to-tree", "deep/tree"),
            ("to-nothing", "not there"),
        ] {
            symlink(to, home.join(link)).unwrap();
        }
        let named = ["to-file", "to-large", "to-tree"];
        let (output, landed) = way.copy(&world, &[], &named);
        output.expect(0);
        assert!(landed.join("to-file").symlink_metadata().unwrap().is_file());
        assert_eq!(fs::read(landed.join("to-file")).unwrap(), b"content");
        assert_eq!(fs::read(landed.join("to-large")).unwrap().len(), 3 << 20);
        assert_same(&home.join("deep/tree"), &landed.join("to-tree"));
        let again = way.copy(&world, &[], &named).0.expect(0);
        assert_eq!(again.number("skipped"), 3, "{way:?}: {again:?}");
        way.copy(&world, &[], &["to-nothing", "to-file"])
            .0
            .expect(3);
        // As they are, if that is asked for.
        fs::remove_dir_all(&landed).unwrap();
        way.copy(&world, &["-P"], &["to-nothing", "to-file", "to-tree"])
            .0
            .expect(0);
        for link in ["to-nothing", "to-file", "to-tree"] {
            let to = fs::read_link(landed.join(link)).unwrap();
            assert_eq!(to, fs::read_link(home.join(link)).unwrap());
        }
    }
    // Never out of what a daemon serves.
    let world = World::new(backend);
    fs::write(world.here("secret"), "secret").unwrap();
    symlink(world.here("secret"), world.root("out")).unwrap();
    symlink("../here/secret", world.root("up")).unwrap();
    for link in ["out", "up"] {
        world.pull(link, world.here("got")).expect(1);
        assert!(!world.here("got").exists());
    }
}

/// Appends to files without a pause, until it is dropped.
struct Appender {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Appender {
    fn to(files: Vec<PathBuf>) -> Appender {
        let ends = Arc::new(AtomicBool::new(false));
        let asked = ends.clone();
        let open = |path: &PathBuf| File::options().append(true).open(path).unwrap();
        let mut files: Vec<File> = files.iter().map(open).collect();
        let thread = thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                for file in &mut files {
                    file.write_all(b"one more line\n").unwrap();
                }
            }
        });
        Appender {
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn a_growing_file_is_copied_as_it_was(backend: &'static str) {
    for way in WAYS {
        let world = World::new(backend);
        let home = way.home(&world, "logs");
        fs::create_dir(&home).unwrap();
        let data = Rng::new("growing").bytes(40 << 20);
        let names = ["a", "b"];
        for name in names {
            fs::write(home.join(name), &data).unwrap();
        }
        let appender = Appender::to(names.iter().map(|name| home.join(name)).collect());
        let (output, landed) = way.copy(&world, &[], &["logs"]);
        let output = output.expect(0);
        let warnings = warnings(&output);
        assert_eq!(warnings.len(), 1, "{way:?}: {output:?}");
        assert!(warnings[0].contains("1 more file"), "{way:?}: {warnings:?}");
        for name in names {
            let got = fs::read(landed.join("logs").join(name)).unwrap();
            assert!(
                got.len() >= data.len() && got[..data.len()] == data,
                "{way:?}: {name}"
            );
            let now = fs::read(home.join(name)).unwrap();
            assert!(now.starts_with(&got), "{way:?}: {name}");
        }
        let output = way.copy(&world, &["--no-growing"], &["logs"]).0;
        assert!(matches!(output.code, Some(1 | 3)), "{way:?}: {output:?}");
        let failed = output.of("error").filter(|error| error["path"].is_string());
        assert_eq!(failed.count(), 2, "{way:?}: {output:?}");
        drop(appender);
        // A rerun sees that there is more.
        let output = way.copy(&world, &["--no-growing"], &["logs"]).0.expect(0);
        assert_eq!(output.number("files"), 2, "{way:?}");
        assert_same(&home, &landed.join("logs"));
    }
}

fn hard_links_are_said_once(backend: &'static str) {
    for way in WAYS {
        let world = World::new(backend);
        let home = way.home(&world, "tree");
        fs::create_dir_all(home.join("below")).unwrap();
        fs::write(home.join("one"), "one").unwrap();
        fs::write(home.join("two"), "two").unwrap();
        for name in ["a", "b", "below/c"] {
            fs::hard_link(home.join("one"), home.join(name)).unwrap();
        }
        // Its other name is not copied: nothing is doubled.
        fs::hard_link(home.join("two"), way.home(&world, "outside")).unwrap();
        let (output, landed) = way.copy(&world, &[], &["tree"]);
        let output = output.expect(0);
        let warnings = warnings(&output);
        assert_eq!(warnings.len(), 1, "{way:?}: {output:?}");
        assert!(
            warnings[0].starts_with("3 files are hard links"),
            "{warnings:?}"
        );
        assert_same(&home, &landed.join("tree"));
    }
}

/// A file system that fails on purpose, and the path that its mount has as a source.
fn mounted(world: &World, way: Way, faults: Faults) -> Option<(Fuse, String)> {
    let home = way.home(world, "");
    let fuse = Fuse::mount(&home, faults)?;
    let path = fuse.path().strip_prefix(&home).unwrap();
    let path = path.to_str().unwrap().to_owned();
    Some((fuse, path))
}

fn restless() -> Faults {
    Faults {
        inodes_change: true,
        ..Faults::default()
    }
}

fn inode_numbers_that_change_are_not_believed(backend: &'static str) {
    for way in WAYS {
        let world = World::new(backend);
        let Some((fuse, source)) = mounted(&world, way, restless()) else {
            return;
        };
        let mut rng = Rng::new("restless");
        fs::create_dir(fuse.files().join("below")).unwrap();
        for at in 0..60 {
            let name = format!("{}{at}", ["", "below/"][at % 2]);
            let len = [10, 3000, 70_000, 3 * MIB as usize][at % 4];
            fs::write(fuse.files().join(name), rng.bytes(len)).unwrap();
        }
        let (output, landed) = way.copy(&world, &[], &[&source]);
        output.expect(0);
        assert_same(&fuse.files(), &landed.join("mounted"));
        let again = way.copy(&world, &[], &[&source]).0.expect(0);
        assert_eq!(again.number("skipped"), 60, "{way:?}");
    }
}

fn a_resume_does_not_hang_on_inode_numbers(backend: &'static str) {
    for way in [Way::Push, Way::Pull] {
        let world = World::new(backend);
        let Some((fuse, source)) = mounted(&world, way, restless()) else {
            return;
        };
        let source = format!("{source}/large");
        let data = Rng::new("resume").bytes(24 << 20);
        fs::write(fuse.files().join("large"), &data).unwrap();
        let (args, landed) = way.args(&world, &["--bwlimit", "8M"], &[&source]);
        let mut running = world.cp_start(&args);
        let some = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            event["event"] == "progress" && event["bytes"].as_u64().unwrap() >= 8 * MIB
        };
        assert!(running.line(some).is_some(), "data flows");
        running.kill();
        running.wait();
        let until = now() + Duration::from_secs(60);
        loop {
            let output = way.copy(&world, &[], &[&source]).0;
            // The daemon may still hold what the dead client had open.
            if output.code == Some(0) {
                assert!(output.number("resumed_bytes") > 0, "{way:?}: {output:?}");
                break;
            }
            assert!(now() < until, "{way:?}: {output:?}");
        }
        assert!(fs::read(landed.join("large")).unwrap() == data);
    }
}
