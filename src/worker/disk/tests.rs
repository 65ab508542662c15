//! The disk layer against what other local users may have put in its way, with every call made in place.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::proto::Mtime;
use crate::units::{DirId, FileId, Name};

const TARGET: DirId = DirId(0);
const FILE: FileId = FileId(1);
const BIG_BYTES: u64 = 3 << 20;

struct Bench {
    disk: Disk,
    space: Rc<Space>,
}

impl Bench {
    fn new(target: &Path, slab_buffers: usize) -> Bench {
        let disk = Disk::new(Slab::new(slab_buffers).unwrap(), None);
        disk.share_among(1);
        let mut bench = Bench { disk, space: Rc::new(Space::new(Base::Local, true)) };
        let path = Bytes::from(target.as_os_str().as_encoded_bytes().to_vec());
        bench.done(DiskOp::ResolveTarget { path, must_be_dir: true, dir: TARGET }).unwrap();
        bench
    }

    fn start(&mut self, cmd: DiskOp) -> Option<Result<DiskDone, DiskError>> {
        self.disk.start(0, 0, &self.space.clone(), OpId(0), cmd);
        self.finished()
    }

    fn finished(&mut self) -> Option<Result<DiskDone, DiskError>> {
        let mut finished = Vec::new();
        self.disk.take_finished(&mut finished);
        finished.pop().map(|finished| finished.result)
    }

    fn done(&mut self, cmd: DiskOp) -> Result<DiskDone, DiskError> {
        self.start(cmd).expect("every call is made in place")
    }

    /// Receives a file of `BIG_BYTES` without data, as the state machine would.
    fn receive_big(&mut self, mode: u32) {
        let opened = self.done(open_part()).unwrap();
        assert!(matches!(opened, DiskDone::Part { resumable: true, .. }), "{opened:?}");
        self.done(DiskOp::StartPart {
            file: FILE,
            size_bytes: BIG_BYTES,
            journal: Bytes::from_static(b"journal"),
        })
        .unwrap();
        self.done(DiskOp::CommitPart { file: FILE, mode, mtime: Mtime::default(), fsync: false }).unwrap();
    }
}

fn name() -> Name {
    Name::new(Bytes::from_static(b"big")).unwrap()
}

fn open_part() -> DiskOp {
    DiskOp::OpenPart { dir: TARGET, name: name(), file: FILE, resumable: true }
}

fn path_of(root: &Path, name: std::ffi::CString) -> std::path::PathBuf {
    root.join(name.to_str().unwrap())
}

#[test]
fn programs_do_not_become_ours() {
    let root = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(root.path(), 16);
    let small = Name::new(Bytes::from_static(b"small")).unwrap();
    let (data, mtime) = (vec![Bytes::from_static(b"#!")], Mtime::default());
    bench
        .done(DiskOp::PutSmall { dir: TARGET, name: small, data, mode: 0o6755, mtime, fsync: false })
        .unwrap();
    bench.receive_big(0o6711);
    bench.done(DiskOp::SetDir { dir: TARGET, mode: 0o7755, mtime, fsync: false }).unwrap();
    let mode = |path: &str| fs::metadata(root.path().join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("small"), mode("big"), mode(".")), (0o755, 0o711, 0o3755));
}

#[test]
fn planted_links_are_removed_and_what_they_name_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let victim = root.path().join("victim");
    let content = b"precious".to_vec();
    for hard in [true, false] {
        fs::write(&victim, &content).unwrap();
        for planted in [names::part(&name()), names::journal(&name())] {
            let planted = path_of(root.path(), planted);
            match hard {
                true => fs::hard_link(&victim, planted).unwrap(),
                false => symlink(&victim, planted).unwrap(),
            }
        }
        Bench::new(root.path(), 16).receive_big(0o600);
        assert_eq!(fs::read(&victim).unwrap(), content, "hard: {hard}");
        let published = fs::symlink_metadata(root.path().join("big")).unwrap();
        assert!(published.is_file() && published.nlink() == 1);
        assert_ne!(published.ino(), fs::metadata(&victim).unwrap().ino());
        let left = fs::read_dir(root.path()).unwrap().count();
        assert_eq!(left, 2, "the victim and the file, no temporary one");
        fs::remove_file(root.path().join("big")).unwrap();
    }
}

#[test]
fn planted_things_are_not_opened_where_every_file_needs_a_name() {
    let root = tempfile::tempdir().unwrap();
    let victim = root.path().join("victim");
    let part = path_of(root.path(), names::part(&name()));
    let plants: [&dyn Fn(); 3] =
        [&|| fs::hard_link(&victim, &part).unwrap(), &|| symlink(&victim, &part).unwrap(), &|| {
            assert!(std::process::Command::new("mkfifo").arg(&part).status().unwrap().success())
        }];
    for plant in plants {
        fs::write(&victim, b"precious").unwrap();
        plant();
        let mut bench = Bench::new(root.path(), 16);
        bench.space.no_tmpfile.set(true);
        bench.done(DiskOp::OpenPart { dir: TARGET, name: name(), file: FILE, resumable: false }).unwrap();
        bench.done(DiskOp::StartPart { file: FILE, size_bytes: 0, journal: Bytes::new() }).unwrap();
        let mtime = Mtime::default();
        bench.done(DiskOp::CommitPart { file: FILE, mode: 0o600, mtime, fsync: false }).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        let published = fs::symlink_metadata(root.path().join("big")).unwrap();
        assert!(published.is_file() && published.nlink() == 1 && published.len() == 0);
        fs::remove_file(root.path().join("big")).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "the victim, no temporary file");
    }
}

#[test]
fn a_partial_file_of_another_user_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let part = path_of(root.path(), names::part(&name()));
    fs::write(&part, b"theirs").unwrap();
    if std::os::unix::fs::chown(&part, Some(65_534), None).is_err() {
        return; // Only root may give files away.
    }
    fs::set_permissions(root.path(), Permissions::from_mode(0o1777)).unwrap();
    // Held open, so that its inode number is not used again.
    let planted = fs::File::open(&part).unwrap();
    let theirs = planted.metadata().unwrap().ino();
    Bench::new(root.path(), 16).receive_big(0o600);
    let published = fs::metadata(root.path().join("big")).unwrap();
    assert!(published.uid() != 65_534 && published.ino() != theirs);
}

#[test]
fn ours_is_found_again() {
    let root = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(root.path(), 16);
    bench.done(open_part()).unwrap();
    let journal = Bytes::from(vec![7; 200_000]);
    bench.done(DiskOp::StartPart { file: FILE, size_bytes: BIG_BYTES, journal: journal.clone() }).unwrap();
    bench.done(DiskOp::ClosePart { file: FILE, keep: true }).unwrap();
    // A journal longer than the slab's free buffers is read with one of them.
    let mut bench = Bench::new(root.path(), 3);
    match bench.done(open_part()).unwrap() {
        DiskDone::Part { journal: found, resumable: true, .. } => assert_eq!(found, journal),
        other => panic!("{other:?}"),
    }
    bench.done(DiskOp::ClosePart { file: FILE, keep: false }).unwrap();
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn reads_leave_buffers_for_what_is_received() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("big"), vec![1; BIG_BYTES as usize]).unwrap();
    let slab_buffers = 16;
    let mut bench = Bench::new(root.path(), slab_buffers);
    // One session among few could pin most of the slab; the last eighth is not for that.
    bench.disk.shared.share_buffers.set(usize::MAX);
    bench.done(DiskOp::OpenRead { dir: TARGET, name: name(), file: FILE }).unwrap();
    let read = || DiskOp::Read { file: FILE, offset: 0, len_bytes: Slab::BUFFER_BYTES };
    let mut held = Vec::new();
    let starved = loop {
        match bench.start(read()) {
            Some(Ok(DiskDone::Read { data })) => held.push(data),
            Some(other) => panic!("{other:?}"),
            None => break held.len(),
        }
    };
    assert_eq!(starved, slab_buffers - slab_buffers / RESERVED_PART);
    assert!(bench.disk.shared.slab.take().is_some(), "a receiver still finds one");
    held.pop();
    bench.disk.feed_starved();
    assert!(bench.finished().is_some(), "what was acknowledged goes to who waits");
}
