//! Workers that have much to wait for: the disk, a bandwidth limit, a mount that never answers.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::fuse::{Call, Faults, Fuse};
use common::manager::Manager;
use common::tree::{self, Rng, assert_same};
use common::{Daemon, Running, Side, World, command, is_root};

on_both_backends!(
    a_bandwidth_limit_over_many_small_files_on_a_disk,
    a_mount_that_never_answers,
    a_mount_that_hangs_in_a_read_or_a_write,
    a_root_that_is_mounted_and_taken_away,
);

/// More than a session has operations under way at a time (64).
const MANY_FILES: usize = 300;

/// A daemon that is told to end does within 12 s, and what a busy machine takes.
const SHUTDOWN_AT_MOST: Duration = Duration::from_secs(20);

/// One that is where the build is, whatever file system that is.
fn a_directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A directory whose files are on a disk: on tmpfs operations are done in place, and nothing waits.
fn on_disk() -> Option<tempfile::TempDir> {
    for place in [env!("CARGO_TARGET_TMPDIR"), "/var/tmp"] {
        let kind = Command::new("stat")
            .args(["-f", "-c", "%T", place])
            .output()
            .unwrap()
            .stdout;
        let kind = String::from_utf8_lossy(&kind);
        if Path::new(place).is_dir() && !["tmpfs", "ramfs"].contains(&kind.trim()) {
            return Some(tempfile::tempdir_in(place).unwrap());
        }
    }
    common::skipped("no file system here is on a disk");
    None
}

fn a_bandwidth_limit_over_many_small_files_on_a_disk(backend: &'static str) {
    let Some(dir) = on_disk() else { return };
    let world = World::within(backend, &["--workers", "1"], dir);
    let mut rng = Rng::new("many small files under a limit");
    let source = world.here("many");
    fs::create_dir(&source).unwrap();
    for number in 0..MANY_FILES {
        tree::write_file(
            &source.join(format!("{number}")),
            rng.below(6_000),
            &mut rng,
        );
    }
    world
        .cp(&[
            "--bwlimit".as_ref(),
            "20M".as_ref(),
            source.as_os_str(),
            world.url("").as_ref(),
        ])
        .expect(0);
    assert_same(&source, &world.root("many"));
    let back = world.here("back");
    world
        .cp(&[
            "--bwlimit".as_ref(),
            "20M".as_ref(),
            world.url("many").as_ref(),
            back.as_os_str(),
        ])
        .expect(0);
    assert_same(&source, &back);
    assert_eq!(world.daemon.stop().code, Some(0), "it hears SIGTERM");
}

/// A FUSE mount whose file system does not even answer the kernel's greeting.
struct HungMount {
    place: PathBuf,
    holder: Child,
}

impl HungMount {
    fn new(place: PathBuf) -> HungMount {
        let script = "exec 9<>/dev/fuse && mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0 hung \"$1\" \
                      && echo mounted && exec sleep 600";
        let mut holder = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&place)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        assert_eq!(said.trim(), "mounted");
        HungMount { place, holder }
    }
}

impl Drop for HungMount {
    fn drop(&mut self) {
        // Closes the last descriptor of /dev/fuse: whoever waits gets ENOTCONN.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

/// Datagrams that a Unix socket keeps (net.unix.max_dgram_qlen, and one).
const NOTES_WAITING_MAX: usize = 11;

/// A call on such a mount returns when it pleases. It holds a thread for it, and nobody else: other
/// clients are served, its own session ends when nothing was got on with for so long, and the
/// daemon ends when it is told to.
fn a_mount_that_never_answers(backend: &'static str) {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        common::skipped("needs root and /dev/fuse");
        return;
    }
    let (client, server, dir) = (Side::new(), Side::new(), a_directory());
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("hung")).unwrap();
    fs::write(root.join("fine"), "fine").unwrap();
    let manager = Manager::at(&dir.path().join("notify"));
    let socket = format!("NOTIFY_SOCKET={}", dir.path().join("notify").display());
    let prefix = ["env", &socket, "WATCHDOG_USEC=400000"];
    let id = client.id();
    // The daemon's patience is the shorter one: on a busy machine, too, it is the first to speak.
    let args = ["--backend", backend, "--workers", "1", "--timeout", "6"];
    let args = [&args[..], &["--allow", &id]].concat();
    let daemon = Daemon::start_with(&server, &prefix, &root, &args);
    assert_eq!(manager.hear().as_deref(), Some("READY=1"));

    let _mount = HungMount::new(root.join("hung"));
    let cp = |timeout: &str, from: &str| {
        let url = daemon.url(from);
        let args = [
            "cp",
            "--peer",
            &daemon.fingerprint,
            "--timeout",
            timeout,
            &url,
        ];
        let args = args
            .map(OsStr::new)
            .into_iter()
            .chain([dir.path().as_os_str()]);
        Running::spawn(command(&client, &[], args))
    };
    // More of them than a ring had threads for files.
    let asking: Vec<Running> = (0..12).map(|_| cp("60", "hung/file")).collect();
    // Its own patience counts over there.
    let tree = cp("3", "");
    cp("60", "fine").wait().expect(0);
    // A worker whose calls do not come back is well: more is said than may have waited to be heard.
    for _ in 0..3 + NOTES_WAITING_MAX {
        assert_eq!(manager.hear().as_deref(), Some("WATCHDOG=1"));
    }
    drop(manager);
    for asking in asking {
        let said = asking.wait().expect(5);
        assert!(
            said.stderr
                .contains("the file system on the server has not answered"),
            "{}",
            said.stderr
        );
        assert!(said.stderr.contains("hung/file"), "{}", said.stderr);
    }
    tree.wait().expect(5);
    cp("60", "fine").wait().expect(0);
    let stopped = daemon.stop();
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
}

/// What is done with one file of a mount that answers about everything else.
struct Stuck {
    name: &'static str,
    call: Call,
    /// Past the page cache, where what reads cannot be killed.
    is_direct: bool,
    is_push: bool,
    fsync: bool,
}

const STUCK: [Stuck; 5] = [
    Stuck {
        name: "read",
        call: Call::Read,
        is_direct: false,
        is_push: false,
        fsync: false,
    },
    Stuck {
        name: "read-direct",
        call: Call::Read,
        is_direct: true,
        is_push: false,
        fsync: false,
    },
    Stuck {
        name: "write",
        call: Call::Write,
        is_direct: false,
        is_push: true,
        fsync: false,
    },
    Stuck {
        name: "flush",
        call: Call::Flush,
        is_direct: false,
        is_push: true,
        fsync: false,
    },
    Stuck {
        name: "fsync",
        call: Call::Fsync,
        is_direct: false,
        is_push: true,
        fsync: true,
    },
];

/// Whether a process does nothing any more, though a thread of it may be within a call that does
/// not return, for which the kernel keeps it.
fn has_exited(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    matches!(state, None | Some('Z' | 'X'))
}

/// One for each of [`STUCK`].
fn stuck_mounts(root: &Path) -> Option<Vec<Fuse>> {
    let mut mounts = Vec::new();
    for stuck in &STUCK {
        let faults = Faults {
            silent_about: Some("stuck/".to_owned()),
            silent_call: Some(stuck.call),
            moves_at_most: stuck.is_direct.then_some(1 << 20),
            ..Faults::default()
        };
        let mount = Fuse::mount(root, faults)?;
        fs::create_dir(mount.files().join("stuck")).unwrap();
        for name in ["stuck/file", "fine"] {
            fs::write(mount.files().join(name), "content").unwrap();
        }
        mounts.push(mount);
    }
    Some(mounts)
}

/// As above, once a file is open: what hangs is the reading of a source, or the writing and closing
/// of a target.
fn a_mount_that_hangs_in_a_read_or_a_write(backend: &'static str) {
    let (client, server, dir) = (Side::new(), Side::new(), a_directory());
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("fine"), "fine").unwrap();
    let Some(mounts) = stuck_mounts(&root) else {
        return;
    };
    let source = dir.path().join("pushed");
    fs::write(&source, "pushed").unwrap();
    let id = client.id();
    let args = ["--backend", backend, "--workers", "1", "--timeout", "6"];
    let args = [&args[..], &["--allow", &id]].concat();
    let daemon = Daemon::start_with(&server, &[], &root, &args);
    let cp = |words: &[&OsStr]| {
        let first = ["cp", "--peer", &daemon.fingerprint].map(OsStr::new);
        let args = first.iter().chain(words);
        Running::spawn(command(&client, &[], args))
    };
    let url = |mount: &Fuse, path: &str| {
        let below = mount.path().strip_prefix(&root).unwrap();
        daemon.url(&format!("{}/{path}", below.display()))
    };
    let asking = STUCK.iter().zip(&mounts).map(|(stuck, mount)| {
        let at = url(
            mount,
            if stuck.is_push {
                "stuck/"
            } else {
                "stuck/file"
            },
        );
        let fsync = stuck.fsync.then_some(OsStr::new("--fsync"));
        let here = dir.path().join(stuck.name);
        let ends = if stuck.is_push {
            [source.as_os_str(), at.as_ref()]
        } else {
            [at.as_ref(), here.as_os_str()]
        };
        cp(&fsync.into_iter().chain(ends).collect::<Vec<_>>())
    });
    let asking: Vec<Running> = asking.collect();
    // Of the same mounts, too.
    for mount in &mounts {
        for path in ["fine", "fine", "fine"] {
            cp(&[url(mount, path).as_ref(), dir.path().join("f").as_ref()])
                .wait()
                .expect(0);
        }
    }
    for (stuck, asking) in STUCK.iter().zip(asking) {
        let said = asking.wait().expect(5).stderr;
        let of = if stuck.is_push { "(pushed)" } else { "(file)" };
        assert!(
            said.contains("the file system on the server has not answered"),
            "{}: {said}",
            stuck.name
        );
        assert!(said.contains(of), "{}: {said}", stuck.name);
    }
    let fine = daemon.url("fine");
    cp(&[fine.as_ref(), dir.path().as_ref()]).wait().expect(0);
    common::signal(daemon.pid(), "TERM");
    let ended = common::within(SHUTDOWN_AT_MOST, || has_exited(daemon.pid()));
    assert!(ended, "the daemon runs on: {}", daemon.log());
    drop(mounts);
    let stopped = daemon.wait();
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
}

/// What a daemon serves is found anew by each session: a file system that was mounted since is
/// served, one that was taken away is missed, and none is held by a daemon that idles.
fn a_root_that_is_mounted_and_taken_away(backend: &'static str) {
    if !is_root() {
        common::skipped("needs root");
        return;
    }
    let (client, server, dir) = (Side::new(), Side::new(), a_directory());
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let id = client.id();
    let args = ["--backend", backend, "--workers", "1", "--allow", &id];
    // As somebody would who is there already.
    let prefix = ["env", "--chdir", root.to_str().unwrap()];
    let daemon = Daemon::start_with(&server, &prefix, Path::new("."), &args);
    let source = dir.path().join("file");
    fs::write(&source, "content").unwrap();
    let push = || {
        let url = daemon.url("");
        let args = ["cp", "--force", "--peer", &daemon.fingerprint].map(OsStr::new);
        let args = args
            .into_iter()
            .chain([source.as_os_str(), OsStr::new(&url)]);
        Running::spawn(command(&client, &[], args)).wait()
    };
    let mount = |args: &[&str]| {
        let done = Command::new(args[0]).args(&args[1..]).arg(&root).status();
        assert!(done.unwrap().success(), "{args:?}");
    };
    let image = dir.path().join("disk");
    fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&image)
        .status();
    assert!(made.unwrap().success());
    push().expect(0);
    assert!(root.join("file").exists());

    mount(&["mount", "-o", "loop", image.to_str().unwrap()]);
    push().expect(0);
    assert!(root.join("file").exists() && root.join("lost+found").exists());
    // As soon as the session is over, though what was marked there is looked at later.
    let is_gone = |_| {
        std::thread::sleep(Duration::from_millis(250));
        let umount = Command::new("umount").arg(&root).output();
        umount.unwrap().status.success()
    };
    assert!((0..10).any(is_gone), "an idle daemon holds the mount");
    fs::remove_file(root.join("file")).unwrap();
    let said = push();
    assert_ne!(said.code, Some(0));
    assert!(
        said.stderr.contains("not mounted there any more"),
        "{}",
        said.stderr
    );
    assert!(!root.join("file").exists(), "written below the mount");

    mount(&["mount", "-o", "loop", image.to_str().unwrap()]);
    push().expect(0);
    assert_eq!(daemon.stop().code, Some(0));
    mount(&["umount"]);
}

/// Within this host, too: the copy ends by itself, and at once when it is told to.
#[test]
fn a_local_copy_from_a_mount_that_never_answers() {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        common::skipped("needs root and /dev/fuse");
        return;
    }
    let (side, dir) = (Side::new(), a_directory());
    fs::create_dir(dir.path().join("hung")).unwrap();
    let _mount = HungMount::new(dir.path().join("hung"));
    let cp = |timeout: &str| {
        let (from, to) = (dir.path().join("hung/file"), dir.path().join("here"));
        let args = ["cp", "--timeout", timeout].map(OsStr::new).into_iter();
        let args = args.chain([from.as_os_str(), to.as_os_str()]);
        Running::spawn(command(&side, &[], args))
    };
    let said = cp("2").wait().expect(5);
    assert!(
        said.stderr
            .contains("the file system has not answered for 2 s"),
        "{}",
        said.stderr
    );
    let asked_to_stop = cp("0");
    std::thread::sleep(Duration::from_millis(500));
    asked_to_stop.signal("INT");
    asked_to_stop.wait().expect(130);
}
