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
    a_mount_that_never_answers
);

/// More than a session has operations under way at a time (64).
const MANY_FILES: usize = 300;

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
    println!("skipped: no file system here is on a disk");
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

    /// Whether a second passes without a word, what was said before left out.
    fn is_silent(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        while self.hear().is_some() {}
        self.0.set_nonblocking(false).unwrap();
        let second = Duration::from_secs(1);
        self.0.set_read_timeout(Some(second)).unwrap();
        self.hear().is_none()
    }
}

/// A call on such a mount returns when it pleases. The poll backend makes it in place, so its
/// worker is lost: the service manager must hear of that, and the daemon must end when it is told
/// to.
fn a_mount_that_never_answers(backend: &'static str) {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        println!("skipped: needs root and /dev/fuse");
        return;
    }
    let (client, server, dir) = (Side::new(), Side::new(), tempfile::tempdir().unwrap());
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("hung")).unwrap();
    fs::write(root.join("fine"), "fine").unwrap();
    let manager = Manager::at(&dir.path().join("notify"));
    let socket = format!("NOTIFY_SOCKET={}", dir.path().join("notify").display());
    let prefix = ["env", &socket, "WATCHDOG_USEC=400000"];
    let id = client.id();
    let args = ["--backend", backend, "--workers", "1", "--allow", &id];
    let daemon = Daemon::start_with(&server, &prefix, &root, &args);
    assert_eq!(manager.hear().as_deref(), Some("READY=1"));
    // A worker that waits for events without a deadline is well.
    for _ in 0..3 {
        assert_eq!(manager.hear().as_deref(), Some("WATCHDOG=1"));
    }

    let _mount = HungMount::new(root.join("hung"));
    let url = daemon.url("hung/file");
    let args = ["cp", "--peer", &daemon.fingerprint, &url].map(OsStr::new);
    let args = args.into_iter().chain([dir.path().as_os_str()]);
    let asking = Running::spawn(command(&client, &[], args));
    if backend == "poll" {
        daemon.wait_for_log("a worker has not turned for");
        assert!(
            manager.is_silent(),
            "the service manager is told that all is well"
        );
        let stopped = daemon.stop();
        assert_eq!(stopped.code, Some(8), "{}", stopped.stderr);
        assert!(
            stopped.stderr.contains("landro-0 did not stop"),
            "{}",
            stopped.stderr
        );
    } else {
        // Which calls the ring makes in place is its own affair; the daemon ends either way.
        daemon.wait_for_log("1 peer is authorised");
        let stopped = daemon.stop();
        assert!(
            matches!(stopped.code, Some(0 | 8)),
            "{:?}: {}",
            stopped.code,
            stopped.stderr
        );
    }
    drop(asking);
}
