//! Kept digests (`serve --digest-cache`): what was hashed once is not hashed again, and what is
//! remembered wrongly, or cannot be, costs nothing but that.

mod common;

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use common::tree::{Rng, assert_same, write_file};
use common::{Output, World};

on_both_backends!(
    a_tree_is_hashed_once,
    a_file_that_changed_is_hashed_anew,
    a_wrong_value_costs_one_more_chunk,
    many_wrong_values_do_not_fail_a_pull,
    what_is_young_is_not_remembered,
    without_a_store_there_is_memory,
    what_was_cut_off_is_not_remembered,
    what_is_remembered_goes_from_the_page_cache,
    a_wrong_value_is_no_fault_of_the_wire,
    a_file_that_shrinks_on_its_way_fails,
);

const MIB: u64 = 1 << 20;

/// Sizes of large files: one chunk, a few, a whole number, and many; and how many chunks that is.
const SIZES: [u64; 4] = [100_000, 2 * MIB + 5, 4 * MIB, 20 * MIB + 1];
const CHUNKS: u64 = 1 + 3 + 4 + 21;

/// Bulk without TLS, and control over it.
const CLEAR: &str = "clear";

/// For so long a file is young.
const YOUNG: Duration = Duration::from_secs(3);

/// Longer than the 3 s for which a file is not believed to be what its times say, and the second
/// that the clock is asked in.
const SETTLED: Duration = Duration::from_millis(4_500);

/// A header, and the head of a record.
const MAGIC_BYTES: usize = 16;
const HEAD_BYTES: usize = 52;

/// On a disk, with a store beside what is served.
struct Kept {
    world: World,
    store: PathBuf,
    pulls: u32,
    _stores: TempDir,
}

impl Kept {
    fn new(backend: &'static str, prepare: impl FnOnce(&PathBuf)) -> Kept {
        let on_disk = || tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let stores = on_disk();
        let store = stores.path().join("kept");
        prepare(&store);
        let args = ["--allow-clear", "--digest-cache", store.to_str().unwrap()];
        let world = World::within(backend, &args, on_disk());
        Kept {
            world,
            store,
            pulls: 0,
            _stores: stores,
        }
    }

    /// Serves files of all sizes, that are old enough.
    fn with_tree(backend: &'static str) -> Kept {
        let kept = Kept::new(backend, |_| ());
        let root = kept.world.root("tree");
        fs::create_dir(&root).unwrap();
        for (number, size) in SIZES.into_iter().enumerate() {
            write_file(&root.join(number.to_string()), size, &mut Rng::new("kept"));
        }
        fs::write(root.join("small"), "a small file").unwrap();
        thread::sleep(SETTLED);
        kept
    }

    /// Pulls a path to a fresh place, and compares.
    fn pull(&mut self, path: &str, kinds: &str) -> Output {
        self.pulls += 1;
        let to = self.world.here(&format!("copy {}", self.pulls));
        let from = self.world.url(path);
        let mut words = vec!["--lane-kinds", kinds, &from, to.to_str().unwrap()];
        if kinds == CLEAR {
            words.splice(..2, ["--clear", "--lane-kinds", "tls"]);
        }
        let output = self.world.cp(&words).expect(0);
        assert_same(&self.world.root(path), &to);
        output
    }

    /// Lets the client go in the clear.
    fn admit_clear(&mut self) {
        let line = format!("{} rw,clear\n", self.world.client.id());
        fs::write(self.world.server.path().join("authorized_peers"), line).unwrap();
        common::signal(self.world.daemon.pid(), "HUP");
    }

    /// A file that is remembered, and a client that may have it in the clear.
    fn with_file(backend: &'static str, bytes: u64) -> Kept {
        let mut kept = Kept::new(backend, |_| ());
        kept.admit_clear();
        write_file(&kept.world.root("file"), bytes, &mut Rng::new("piped"));
        thread::sleep(SETTLED);
        assert_eq!(kept.kept_chunks("file", "quic"), 0);
        kept
    }

    /// What the daemon says that it did not see of what it sent last.
    fn piped_bytes(&self) -> u64 {
        let log = self.world.daemon.log();
        let said = log.rsplit("piped_bytes=").next().unwrap();
        said.split(' ').next().unwrap().parse().unwrap()
    }

    fn kept_chunks(&mut self, path: &str, kinds: &str) -> u64 {
        self.pull(path, kinds).number("kept_chunks")
    }

    /// Has the daemon end, changes its store, and starts it again.
    fn tamper(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        self.end_daemon();
        let path = self.store.join("digests");
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        self.world.restart();
    }

    fn end_daemon(&mut self) {
        common::signal(self.world.daemon.pid(), "TERM");
        self.world.daemon.wait_for_end();
    }
}

/// Changes values of each record, with the checksum that belongs to them.
fn forge(bytes: &mut [u8], is_forged: impl Fn(usize) -> bool) {
    let mut at = MAGIC_BYTES;
    while at < bytes.len() {
        let count = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let end = at + HEAD_BYTES + count * 32;
        for value in (0..count).filter(|value| is_forged(*value)) {
            bytes[at + HEAD_BYTES + value * 32] ^= 1;
        }
        let mut hasher = blake3::Hasher::new_derive_key("landro 2026 record of kept digests");
        hasher.update(&bytes[at..end]);
        bytes[end..end + 32].copy_from_slice(hasher.finalize().as_bytes());
        at = end + 32;
    }
}

fn a_tree_is_hashed_once(backend: &'static str) {
    let mut kept = Kept::with_tree(backend);
    assert_eq!(kept.kept_chunks("tree", "quic"), 0);
    for kinds in ["quic", "tls", "quic,tls"] {
        assert_eq!(kept.kept_chunks("tree", kinds), CHUNKS, "{kinds}");
    }
    kept.world
        .daemon
        .wait_for_log(&format!("kept_chunks={CHUNKS} "));
    // kill -9 takes nothing that was written.
    kept.world.restart();
    assert_eq!(kept.kept_chunks("tree", "tls"), CHUNKS);
    kept.end_daemon();
    kept.world.restart();
    assert_eq!(kept.kept_chunks("tree", "quic"), CHUNKS);
    // A pull of what is there already, and of a part.
    assert_eq!(kept.kept_chunks("tree/3", "quic"), 21);
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&kept.store), mode(&kept.store.join("digests"))),
        (0o700, 0o600)
    );
}

fn a_file_that_changed_is_hashed_anew(backend: &'static str) {
    let mut kept = Kept::with_tree(backend);
    assert_eq!(kept.kept_chunks("tree", "tls"), 0);
    // In place, of the same size, and with its time put back.
    let path = kept.world.root("tree/3");
    let file = File::options().write(true).open(&path).unwrap();
    let before = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"something else", 5 * MIB).unwrap();
    file.set_times(FileTimes::new().set_modified(before))
        .unwrap();
    // Replaced by another of its size and time.
    let path = kept.world.root("tree/2");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    fs::remove_file(&path).unwrap();
    write_file(&path, SIZES[2], &mut Rng::new("another"));
    let file = File::options().write(true).open(&path).unwrap();
    file.set_times(FileTimes::new().set_modified(before))
        .unwrap();
    drop(file);
    thread::sleep(SETTLED);
    assert_eq!(kept.kept_chunks("tree", "quic"), 1 + 3);
    assert_eq!(kept.kept_chunks("tree", "quic"), CHUNKS);
}

fn a_wrong_value_costs_one_more_chunk(backend: &'static str) {
    for (path, chunks) in [("tree/0", 1), ("tree/3", 21)] {
        let mut kept = Kept::with_tree(backend);
        assert_eq!(kept.kept_chunks(path, "quic"), 0);
        for kinds in ["quic", "tls"] {
            kept.tamper(|bytes| forge(bytes, |value| value == 0));
            let output = kept.pull(path, kinds);
            assert!(output.number("kept_chunks") < chunks, "{output:?}");
            assert_eq!(output.number("errors"), 0);
            kept.world.daemon.wait_for_log("a kept digest was wrong");
            // It was forgotten, and is remembered rightly.
            assert_eq!(kept.kept_chunks(path, kinds), 0);
            assert_eq!(kept.kept_chunks(path, kinds), chunks);
        }
    }
}

fn many_wrong_values_do_not_fail_a_pull(backend: &'static str) {
    let mut kept = Kept::with_tree(backend);
    assert_eq!(kept.kept_chunks("tree", "quic"), 0);
    for kinds in ["quic", "tls"] {
        for forged in [|_: usize| true, |value: usize| value % 3 == 2] {
            kept.tamper(|bytes| forge(bytes, forged));
            let output = kept.pull("tree", kinds);
            assert_eq!((output.number("files"), output.number("errors")), (5, 0));
            kept.pull("tree", kinds);
            assert_eq!(kept.kept_chunks("tree", kinds), CHUNKS);
        }
    }
}

fn what_is_young_is_not_remembered(backend: &'static str) {
    let mut kept = Kept::new(backend, |_| ());
    let path = kept.world.root("file");
    for _ in 0..2 {
        let written = landro::engine::now();
        write_file(&path, 2 * MIB, &mut Rng::new("young"));
        assert_eq!(kept.kept_chunks("file", "quic"), 0);
        let again = kept.kept_chunks("file", "quic");
        // On a busy machine it may have grown old meanwhile.
        assert!(again == 0 || written.elapsed() > YOUNG, "{again}");
    }
    write_file(&path, 2 * MIB, &mut Rng::new("no more"));
    thread::sleep(SETTLED);
    assert_eq!(kept.kept_chunks("file", "quic"), 0);
    assert_eq!(kept.kept_chunks("file", "quic"), 2);
    // A clock that was wrong: nothing says what is newer.
    let file = File::options().write(true).open(&path).unwrap();
    let future = file.metadata().unwrap().modified().unwrap() + Duration::from_secs(100_000);
    file.set_times(FileTimes::new().set_modified(future))
        .unwrap();
    thread::sleep(SETTLED);
    for _ in 0..2 {
        assert_eq!(kept.kept_chunks("file", "quic"), 0);
    }
}

/// Makes what a daemon finds in place of its store.
type Prepare = fn(&PathBuf);

/// Where there can be no store, and where it has no room: the daemon says so and remembers in
/// memory.
fn without_a_store_there_is_memory(backend: &'static str) {
    let mut cases: Vec<(&str, u64, Prepare)> = vec![
        ("File exists", 2, |store| fs::write(store, "x").unwrap()),
        ("left as it is", 2, |store| {
            fs::create_dir(store).unwrap();
            fs::write(store.join("digests"), "garbage\n".repeat(1000)).unwrap();
        }),
        ("others may write", 2, |store| {
            fs::create_dir(store).unwrap();
            fs::set_permissions(store, fs::Permissions::from_mode(0o777)).unwrap();
        }),
    ];
    if common::is_root() {
        // A record of more than the one page that there is.
        cases.push(("No space left", 150, |store| {
            fs::create_dir(store).unwrap();
            mount_full(store);
        }));
    }
    for (said, chunks, prepare) in cases {
        let mut kept = Kept::new(backend, prepare);
        let path = kept.world.root("file");
        write_file(&path, chunks * MIB, &mut Rng::new("no store"));
        thread::sleep(SETTLED);
        assert_eq!(kept.kept_chunks("file", "tls"), 0);
        assert_eq!(kept.kept_chunks("file", "tls"), chunks, "{said}");
        kept.world.daemon.wait_for_log(said);
        if said == "No space left" {
            kept.end_daemon();
            unmount(&kept.store);
        }
    }
}

/// A file system of one page, which a store of a few files does not fit into.
fn mount_full(at: &PathBuf) {
    let status = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4k,mode=700", "none"])
        .arg(at)
        .status();
    assert!(status.unwrap().success());
}

fn unmount(at: &PathBuf) {
    let status = std::process::Command::new("umount")
        .arg("-l")
        .arg(at)
        .status();
    assert!(status.unwrap().success());
}

/// What the receiver has of a file was not hashed by this daemon: it is neither believed nor kept.
fn what_was_cut_off_is_not_remembered(backend: &'static str) {
    let mut kept = Kept::new(backend, |_| ());
    let path = kept.world.root("file");
    write_file(&path, 40 * MIB, &mut Rng::new("cut off"));
    thread::sleep(SETTLED);
    let to = kept.world.here("cut");
    let words = [
        "--bwlimit",
        "8M",
        &kept.world.url("file"),
        to.to_str().unwrap(),
    ]
    .map(String::from);
    let mut running = kept.world.cp_start(&words);
    let bytes = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        event["bytes"].as_u64().unwrap_or(0)
    };
    // Some of the chunks that came half by then are whole.
    assert!(running.line(|line| bytes(line) > 16 * MIB).is_some());
    running.kill();
    running.wait();
    let resumed = kept.world.cp(&words[2..]).expect(0);
    assert!(resumed.number("resumed_bytes") > 0, "{resumed:?}");
    assert_eq!(resumed.number("kept_chunks"), 0);
    assert_same(&path, &to);
    assert_eq!(kept.kept_chunks("file", "quic"), 0);
    assert_eq!(kept.kept_chunks("file", "quic"), 40);
}

const FILE_CHUNKS: u64 = 64;

/// The daemon sees nothing of what it sends by what it remembers, of a file on a disk, but for what
/// goes before the lane is there.
fn what_is_remembered_goes_from_the_page_cache(backend: &'static str) {
    let mut kept = Kept::with_file(backend, FILE_CHUNKS * MIB + 5);
    for _ in 0..2 {
        assert_eq!(kept.kept_chunks("file", CLEAR), FILE_CHUNKS + 1);
        kept.world.daemon.wait_for_log("piped_bytes=");
        let piped = kept.piped_bytes();
        assert!(piped > FILE_CHUNKS * MIB / 2, "{piped}");
    }
    // One that is sealed here has to be seen.
    assert_eq!(kept.kept_chunks("file", "tls"), FILE_CHUNKS + 1);
    kept.world.daemon.wait_for_log("piped_bytes=0 ");
}

/// The daemon finds that it remembered wrongly, and accuses nobody.
fn a_wrong_value_is_no_fault_of_the_wire(backend: &'static str) {
    let mut kept = Kept::with_file(backend, FILE_CHUNKS * MIB);
    for forged in [|_: usize| true, |value: usize| value % 9 == 8] {
        kept.tamper(|bytes| forge(bytes, forged));
        let output = kept.pull("file", CLEAR);
        assert_eq!(
            (output.number("warnings"), output.number("errors")),
            (0, 0),
            "{output:?}"
        );
        kept.world.daemon.wait_for_log("a kept digest was wrong");
        assert_eq!(kept.kept_chunks("file", CLEAR), 0, "it was forgotten");
        assert_eq!(kept.kept_chunks("file", CLEAR), FILE_CHUNKS);
    }
}

fn a_file_that_shrinks_on_its_way_fails(backend: &'static str) {
    for kinds in [&["--clear", "--lane-kinds", "tls"][..], &[]] {
        let kept = Kept::with_file(backend, FILE_CHUNKS * MIB);
        let to = kept.world.here("shrunk");
        let url = kept.world.url("file");
        let fixed = ["--bwlimit", "16M", &url, to.to_str().unwrap()];
        let running = kept.world.cp_start(&[kinds, &fixed].concat());
        let bytes = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            event["bytes"].as_u64().unwrap_or(0)
        };
        assert!(running.line(|line| bytes(line) > 16 * MIB).is_some());
        let file = File::options().write(true).open(kept.world.root("file"));
        file.unwrap().set_len(40 * MIB).unwrap();
        let output = running.wait();
        assert_eq!(output.number("errors"), 1, "{output:?}");
        assert_eq!(output.number("warnings"), 0, "{output:?}");
        assert!(!to.exists(), "half a file has no name");
    }
}
