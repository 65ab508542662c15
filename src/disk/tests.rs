//! The disk layer against what other local users may have put in its way, with every call made in
//! place.

mod away;
mod driven;
mod replaced;
mod short;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use std::ffi::CString;

use super::names::{TemporaryName, Use};
use super::*;
use crate::ids::{DirId, FileId, Name};
use crate::proto::{Attributes, DirMode, Mtime};

const TARGET: DirId = DirId(0);
const FILE: FileId = FileId(1);
const BIG_BYTES: u64 = 3 << 20;

struct Bench {
    disk: Disk,
    space: Rc<Space>,
}

/// Makes a directory the target of a session.
fn resolve(target: &Path) -> DiskOp {
    DiskOp::ResolveTarget {
        path: Bytes::from(target.as_os_str().as_encoded_bytes().to_vec()),
        must_be_dir: true,
        no_target_dir: false,
        copy: None,
        dir: TARGET,
        fsync: false,
    }
}

impl Bench {
    fn new(target: &Path, pool_buffers: usize) -> Bench {
        let disk = Disk::new(Pool::new(pool_buffers).unwrap(), None, None);
        disk.share_among(1);
        let mut bench = Bench {
            disk,
            space: Rc::new(Space::at_once(Base::Local)),
        };
        bench.done(resolve(target)).unwrap();
        bench
    }

    fn volume(&self) -> Rc<durable::Volume> {
        self.space.footing(TARGET).unwrap().volume
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
        assert!(
            matches!(
                opened,
                DiskDone::Part {
                    resumable: true,
                    ..
                }
            ),
            "{opened:?}"
        );
        self.done(DiskOp::StartPart {
            file: FILE,
            size_bytes: BIG_BYTES,
            sparse: None,
            journal: Bytes::from_static(b"journal"),
        })
        .unwrap();
        self.done(DiskOp::CommitPart {
            file: FILE,
            attributes: attributes(mode, Mtime::default()),
            replaces: false,
        })
        .unwrap();
    }
}

fn attributes(mode: u32, mtime: Mtime) -> Attributes {
    Attributes {
        mode: Some(mode),
        mtime: Some(mtime),
        fsync: false,
    }
}

fn name() -> Name {
    Name::new(Bytes::from_static(b"big")).unwrap()
}

fn open_part() -> DiskOp {
    DiskOp::OpenPart {
        dir: TARGET,
        name: name(),
        file: FILE,
        resumable: true,
        is_plain: false,
    }
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
        .done(DiskOp::PutSmall {
            dir: TARGET,
            name: small,
            data,
            attributes: attributes(0o6755, mtime),
            replaces: false,
        })
        .unwrap();
    bench.receive_big(0o6711);
    bench
        .done(DiskOp::SetDir {
            dir: TARGET,
            mode: DirMode::New(0o7755),
            mtime: Some(mtime),
            ends_copy: None,
            fsync: false,
        })
        .unwrap();
    let mode = |path: &str| fs::metadata(root.path().join(path)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("small"), mode("big"), mode(".")),
        (0o755, 0o711, 0o3755)
    );
}

fn temporary(purpose: Use) -> CString {
    TemporaryName::of(name().as_bytes(), purpose, 0).to_c()
}

#[test]
fn what_others_planted_at_temporary_names_stays() {
    let root = tempfile::tempdir().unwrap();
    let victim = root.path().join("victim");
    let content = b"precious".to_vec();
    for hard in [true, false] {
        fs::write(&victim, &content).unwrap();
        for purpose in [Use::Part, Use::Journal] {
            let planted = temporary(purpose);
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
        assert_eq!(left, 4, "the victim, what was planted and the file");
        for left in fs::read_dir(root.path()).unwrap() {
            fs::remove_file(left.unwrap().path()).unwrap();
        }
    }
}

#[test]
fn planted_things_are_not_opened_where_every_file_needs_a_name() {
    let root = tempfile::tempdir().unwrap();
    let victim = root.path().join("victim");
    let part = path_of(root.path(), temporary(Use::Part));
    let plants: [&dyn Fn(); 3] = [
        &|| fs::hard_link(&victim, &part).unwrap(),
        &|| symlink(&victim, &part).unwrap(),
        &|| {
            assert!(
                std::process::Command::new("mkfifo")
                    .arg(&part)
                    .status()
                    .unwrap()
                    .success()
            )
        },
    ];
    for plant in plants {
        fs::write(&victim, b"precious").unwrap();
        plant();
        let mut bench = Bench::new(root.path(), 16);
        bench.volume().lacks.tmpfile.set(true);
        bench
            .done(DiskOp::OpenPart {
                dir: TARGET,
                name: name(),
                file: FILE,
                resumable: false,
                is_plain: false,
            })
            .unwrap();
        bench
            .done(DiskOp::StartPart {
                file: FILE,
                size_bytes: 0,
                sparse: None,
                journal: Bytes::new(),
            })
            .unwrap();
        let mtime = Mtime::default();
        bench
            .done(DiskOp::CommitPart {
                file: FILE,
                attributes: attributes(0o600, mtime),
                replaces: false,
            })
            .unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        let published = fs::symlink_metadata(root.path().join("big")).unwrap();
        assert!(published.is_file() && published.nlink() == 1 && published.len() == 0);
        fs::remove_file(root.path().join("big")).unwrap();
        assert_eq!(
            fs::read_dir(root.path()).unwrap().count(),
            2,
            "the victim and what was planted"
        );
        fs::remove_file(&part).unwrap();
    }
}

#[test]
fn a_partial_file_of_another_user_stays() {
    let root = tempfile::tempdir().unwrap();
    let part = path_of(root.path(), temporary(Use::Part));
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
    assert_eq!(fs::read(&part).unwrap(), b"theirs");
}

#[test]
fn ours_is_found_again() {
    let root = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(root.path(), 16);
    bench.done(open_part()).unwrap();
    let journal = Bytes::from(vec![7; 200_000]);
    bench
        .done(DiskOp::StartPart {
            file: FILE,
            size_bytes: BIG_BYTES,
            sparse: None,
            journal: journal.clone(),
        })
        .unwrap();
    bench
        .done(DiskOp::ClosePart {
            file: FILE,
            keep: true,
        })
        .unwrap();
    // A journal longer than the pool's free buffers is read with one of them.
    let mut bench = Bench::new(root.path(), 3);
    match bench.done(open_part()).unwrap() {
        DiskDone::Part {
            journal: found,
            resumable: true,
            ..
        } => assert_eq!(found, journal),
        other => panic!("{other:?}"),
    }
    bench
        .done(DiskOp::ClosePart {
            file: FILE,
            keep: false,
        })
        .unwrap();
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn reads_leave_buffers_for_what_is_received() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("big"), vec![1; BIG_BYTES as usize]).unwrap();
    let pool_buffers = 16;
    let mut bench = Bench::new(root.path(), pool_buffers);
    // One session among few could pin most of the pool; the last eighth is not for that.
    bench.disk.shared.share_buffers.set(usize::MAX);
    bench
        .done(DiskOp::OpenRead {
            dir: TARGET,
            name: name(),
            file: FILE,
        })
        .unwrap();
    let read = || DiskOp::Read {
        file: FILE,
        offset: 0,
        len_bytes: Pool::BUFFER_BYTES,
    };
    let mut held = Vec::new();
    let starved = loop {
        match bench.start(read()) {
            Some(Ok(DiskDone::Read { data })) => held.push(data),
            Some(other) => panic!("{other:?}"),
            None => break held.len(),
        }
    };
    assert_eq!(starved, pool_buffers - pool_buffers / RESERVED_PART);
    assert!(
        bench.disk.shared.pool.take().is_some(),
        "a receiver still finds one"
    );
    held.pop();
    bench.disk.feed_starved();
    assert!(
        bench.finished().is_some(),
        "what was acknowledged goes to who waits"
    );
}

/// Reads of a session get buffers in the order they were started, or one could hold what is of no
/// use before what it waits for.
#[test]
fn whoever_waits_for_a_buffer_longest_has_it_first() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("big"), vec![1; BIG_BYTES as usize]).unwrap();
    let mut bench = Bench::new(root.path(), 16);
    bench.disk.shared.share_buffers.set(2);
    bench
        .done(DiskOp::OpenRead {
            dir: TARGET,
            name: name(),
            file: FILE,
        })
        .unwrap();
    let mut started = 0;
    let mut read = |bench: &mut Bench| {
        started += 1;
        let read = DiskOp::Read {
            file: FILE,
            offset: 0,
            len_bytes: Pool::BUFFER_BYTES,
        };
        bench
            .disk
            .start(0, 0, &bench.space.clone(), OpId(started), read);
    };
    let finished = |bench: &mut Bench| {
        let mut finished = Vec::new();
        bench.disk.take_finished(&mut finished);
        let ids: Vec<u64> = finished.iter().map(|finished| finished.op.0).collect();
        (ids, finished)
    };
    (0..4).for_each(|_| read(&mut bench));
    let (ids, mut held) = finished(&mut bench);
    assert_eq!(ids, [1, 2]);
    // One is free again, and the fifth comes before anybody is told.
    held.pop();
    read(&mut bench);
    assert!(finished(&mut bench).0.is_empty());
    bench.disk.feed_starved();
    let (ids, third) = finished(&mut bench);
    assert_eq!(ids, [3]);
    drop((held, third));
    bench.disk.feed_starved();
    let (ids, _held) = finished(&mut bench);
    assert_eq!(ids, [4, 5]);
}

fn make_dir(parent: DirId, name: &'static str, number: u32, keep_dirlinks: bool) -> DiskOp {
    let name = Name::new(Bytes::from_static(name.as_bytes())).unwrap();
    DiskOp::MakeDir {
        parent,
        name,
        dir: DirId(number),
        keep_dirlinks,
        copy: None,
        is_plain: false,
        fsync: false,
    }
}

fn put_link(name: &'static str, target: &'static str, mtime: Mtime) -> DiskOp {
    let name = Name::new(Bytes::from_static(name.as_bytes())).unwrap();
    DiskOp::PutSymlink {
        dir: TARGET,
        name,
        target: Bytes::from_static(target.as_bytes()),
        attributes: attributes(0, mtime),
        replaces: false,
    }
}

#[test]
fn links_are_no_directories_unless_they_are_ours() {
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(root.path(), 16);
    symlink(outside.path(), root.path().join("ours")).unwrap();
    bench
        .done(put_link(
            "received",
            outside.path().to_str().unwrap().to_owned().leak(),
            Mtime::default(),
        ))
        .unwrap();
    let failed = |done: Result<DiskDone, DiskError>| done.unwrap_err();
    for (number, name) in [(1, "ours"), (2, "received")] {
        assert_eq!(
            failed(bench.done(make_dir(TARGET, name, number, false))).errno,
            40,
            "{name}"
        );
    }
    assert_eq!(
        failed(bench.done(make_dir(TARGET, "received", 3, true))),
        DiskError::RECEIVED_LINK
    );
    bench.done(make_dir(TARGET, "ours", 4, true)).unwrap();
    // What is made in it is found again there, whatever becomes of the link.
    fs::rename(root.path().join("received"), root.path().join("ours")).unwrap();
    bench.done(make_dir(DirId(4), "below", 5, true)).unwrap();
    assert!(outside.path().join("below").is_dir());
}

/// A peer that guesses when its link will be made: the time differs all the same.
#[test]
fn a_received_link_never_has_the_time_of_its_making() {
    let root = tempfile::tempdir().unwrap();
    symlink("x", root.path().join("link")).unwrap();
    let mut bench = Bench::new(root.path(), 16);
    let made = fs::symlink_metadata(root.path().join("link")).unwrap();
    let mtime = (made.mtime(), made.mtime_nsec() as u32);
    let files = Files {
        shared: bench.disk.shared.clone(),
        space: bench.space.clone(),
    };
    let mut marked = Box::pin(async {
        let dir = files.dir(TARGET).await?;
        dirlinks::mark_received(&files, &dir, &c"link".to_owned()).await
    });
    let done = marked
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(done, Poll::Ready(Ok(())));
    let now = fs::symlink_metadata(root.path().join("link")).unwrap();
    assert_ne!((now.mtime(), now.mtime_nsec() as u32), mtime);
    // One that is unlike already is left as it is.
    let other = Mtime {
        seconds: 1_000,
        nanoseconds: 7,
    };
    bench.done(put_link("other", "x", other)).unwrap();
    let other = fs::symlink_metadata(root.path().join("other")).unwrap();
    assert_eq!((other.mtime(), other.mtime_nsec()), (1_000, 7));
}

/// A descriptor of the top entry: what is renamed or linked in its place while the transfer goes on
/// changes nothing.
#[test]
fn all_that_is_below_the_top_entry_is_found_from_it() {
    let root = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(root.path(), 16);
    bench.done(make_dir(TARGET, "top", 1, false)).unwrap();
    // More than stay open, so that the first must be opened again.
    for number in 2..200 {
        let name: &'static str = number.to_string().leak();
        bench.done(make_dir(DirId(1), name, number, false)).unwrap();
    }
    let moved = root.path().join("moved");
    fs::rename(root.path().join("top"), &moved).unwrap();
    fs::create_dir_all(root.path().join("other/2")).unwrap();
    symlink("other", root.path().join("top")).unwrap();
    bench.done(make_dir(DirId(2), "new", 1000, false)).unwrap();
    assert!(moved.join("2/new").is_dir() && !root.path().join("other/2/new").exists());
    // A link in the place of one of them is an error.
    fs::rename(moved.join("3"), moved.join("away")).unwrap();
    symlink("../other", moved.join("3")).unwrap();
    assert_eq!(
        bench
            .done(make_dir(DirId(3), "new", 1001, true))
            .unwrap_err()
            .errno,
        40
    );
}

/// However many top entries there are: what is received in each is found again in it.
#[test]
fn many_top_entries_are_told_apart() {
    const TOPS: u32 = 200;
    let root = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(root.path(), 16);
    for number in 1..=TOPS {
        bench
            .done(make_dir(TARGET, number.to_string().leak(), number, false))
            .unwrap();
    }
    for number in 1..=TOPS {
        bench
            .done(make_dir(DirId(number), "sub", TOPS + number, false))
            .unwrap();
        bench
            .done(make_dir(
                DirId(TOPS + number),
                "deep",
                2 * TOPS + number,
                false,
            ))
            .unwrap();
    }
    for number in 1..=TOPS {
        bench
            .done(make_dir(
                DirId(TOPS + number),
                "late",
                3 * TOPS + number,
                false,
            ))
            .unwrap();
        let sub = root.path().join(number.to_string()).join("sub");
        assert_eq!(fs::read_dir(sub).unwrap().count(), 2, "{number}");
    }
}

/// A sender does not follow a symlink that took a directory's place, at any depth, after it was
/// looked at.
#[test]
fn a_source_swapped_for_a_link_is_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let secret = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("top/sub/deep")).unwrap();
    fs::create_dir_all(secret.path().join("sub/deep")).unwrap();
    let mut bench = Bench::new(root.path(), 16);
    let path = root
        .path()
        .join("top")
        .into_os_string()
        .into_encoded_bytes()
        .into();
    bench
        .done(DiskOp::ResolveSource {
            path,
            dir: DirId(1),
            follow: false,
        })
        .unwrap();
    let open = |parent, name: &'static str, number| {
        let name = Some(Name::new(Bytes::from_static(name.as_bytes())).unwrap());
        DiskOp::OpenDir {
            parent: DirId(parent),
            name,
            dir: DirId(number),
        }
    };
    bench.done(open(1, "top", 2)).unwrap();
    for (number, swapped) in [(10, "top/sub"), (20, "top")] {
        let place = root.path().join(swapped);
        fs::rename(&place, root.path().join("away")).unwrap();
        symlink(
            secret
                .path()
                .join(swapped.strip_prefix("top/").unwrap_or("")),
            &place,
        )
        .unwrap();
        let error = match swapped {
            "top" => bench.done(open(1, "top", number)).unwrap_err(),
            _ => bench.done(open(2, "sub", number)).unwrap_err(),
        };
        assert_eq!(error.errno, 40, "{swapped}");
        fs::remove_file(&place).unwrap();
        fs::rename(root.path().join("away"), &place).unwrap();
    }
}

/// Whoever may write there can occupy every name that follows from a file's.
#[test]
fn occupied_names_are_in_nobodys_way() {
    let root = tempfile::tempdir().unwrap();
    let mut planted = Vec::new();
    for turn in 0..names::TURNS {
        for purpose in [Use::Part, Use::New] {
            let path = TemporaryName::of(b"big", purpose, turn).to_c();
            planted.push(path_of(root.path(), path));
        }
    }
    for path in &planted {
        fs::write(path, "precious").unwrap();
    }
    let at = root.path().join("big");
    for no_tmpfile in [false, true] {
        let mut bench = Bench::new(root.path(), 16);
        bench.volume().lacks.tmpfile.set(no_tmpfile);
        let attributes = attributes(0o600, Mtime::default());
        for data in ["new", "replaced"] {
            let replaces = data == "replaced";
            bench
                .done(DiskOp::PutSmall {
                    dir: TARGET,
                    name: name(),
                    data: vec![Bytes::from_static(data.as_bytes())],
                    attributes,
                    replaces,
                })
                .unwrap();
            assert_eq!(fs::read(&at).unwrap(), data.as_bytes());
        }
        bench
            .done(DiskOp::PutSymlink {
                dir: TARGET,
                name: name(),
                target: Bytes::from_static(b"nowhere"),
                attributes,
                replaces: true,
            })
            .unwrap();
        assert_eq!(fs::read_link(&at).unwrap(), Path::new("nowhere"));
        fs::remove_file(&at).unwrap();
        let made = bench.done(DiskOp::MakeDir {
            parent: TARGET,
            name: name(),
            dir: DirId(1),
            keep_dirlinks: false,
            is_plain: false,
            copy: Some(crate::ids::CopyId([7; 16])),
            fsync: false,
        });
        assert!(made.is_ok() && at.is_dir(), "{made:?}");
        fs::remove_dir_all(&at).unwrap();
    }
    for path in &planted {
        assert_eq!(fs::read(path).unwrap(), b"precious");
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), planted.len());
}

#[test]
fn operations_get_on_until_the_last_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), 4);
    bench.space = Rc::new(Space::new(Base::Local));
    let resolve = resolve(dir.path());
    assert!(bench.start(resolve).is_none(), "it waits for the driver");
    let mut has_moved = Vec::new();
    while let Some((token, op)) = bench.disk.next_operation() {
        bench.disk.complete(token, landro_sys::run(op));
        let is_under_way = bench.disk.in_flight() > 0;
        has_moved.push((is_under_way, bench.space.take_moved()));
    }
    assert!(bench.finished().is_some_and(|result| result.is_ok()));
    assert!(has_moved.len() > 1, "{has_moved:?}");
    assert!(has_moved.iter().all(|(is, has)| is == has), "{has_moved:?}");
}
