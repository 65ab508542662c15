//! Workers that have much to wait for: the disk, a bandwidth limit, a mount that never answers.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::tree::{self, Rng, assert_same};
use common::{Daemon, Running, Side, World, command, is_root};

on_both_backends!(
    a_bandwidth_limit_over_many_small_files_on_a_disk,
    a_mount_that_never_answers,
    a_root_that_is_mounted_and_taken_away,
);

/// More than a session has operations under way at a time (64).
const MANY_FILES: usize = 300;

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

/// What a service manager is told.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Manager(socket)
    }

    /// None: nothing in time.
    fn hear(&self) -> Option<String> {
        let mut said = [0; 64];
        loop {
            match self.0.recv(&mut said) {
                Ok(bytes) => return Some(String::from_utf8_lossy(&said[..bytes]).into_owned()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

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
