//! Directories of sources that another worker reads in: as at home, nothing but what was asked for.

use super::*;
use crate::proto::errno::{EBADF, ELOOP};

const SOURCE: DirId = DirId(1);
const TREE: DirId = DirId(2);
const BELOW: DirId = DirId(3);

fn named(name: &'static str) -> Name {
    Name::new(Bytes::from_static(name.as_bytes())).unwrap()
}

fn run(disk: &mut Disk, space: &Rc<Space>, cmd: DiskOp) -> Result<DiskDone, DiskError> {
    disk.start(0, 0, space, OpId(0), cmd);
    let mut finished = Vec::new();
    disk.take_finished(&mut finished);
    finished.pop().expect("every call is made in place").result
}

/// What a small file holds, or why it cannot be read.
fn read(disk: &mut Disk, space: &Rc<Space>, name: &'static str) -> Result<Bytes, i32> {
    let cmd = DiskOp::ReadSmall {
        dir: BELOW,
        name: named(name),
        max_bytes: 1024,
    };
    match run(disk, space, cmd) {
        Ok(DiskDone::Small { data, .. }) => Ok(data),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.errno),
    }
}

#[test]
fn a_directory_is_read_in_elsewhere_and_nothing_beside_it() {
    let root = tempfile::tempdir().unwrap();
    let (tree, other) = (root.path().join("tree"), root.path().join("other"));
    let (below, away) = (tree.join("below"), tree.join("away"));
    for dir in [&below, &other] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(below.join("file"), "asked for").unwrap();
    fs::write(other.join("file"), "not asked for").unwrap();
    symlink("../../other/file", below.join("link")).unwrap();
    let mut disk = Disk::new(Pool::new(16).unwrap(), None, None);
    let (home, there) = (
        Rc::new(Space::at_once(Base::Local)),
        Rc::new(Space::at_once(Base::Local)),
    );
    let (path, name, below_name) = (tree.as_os_str().as_encoded_bytes(), "tree", "below");
    for cmd in [
        DiskOp::ResolveSource {
            path: Bytes::copy_from_slice(path),
            follow: false,
            dir: SOURCE,
        },
        DiskOp::OpenDir {
            parent: SOURCE,
            name: Some(named(name)),
            dir: TREE,
        },
        DiskOp::OpenDir {
            parent: TREE,
            name: Some(named(below_name)),
            dir: BELOW,
        },
    ] {
        run(&mut disk, &home, cmd).unwrap();
    }
    let asked_for = Ok(Bytes::from_static(b"asked for"));
    there.adopt_dir(BELOW, home.share_dir(BELOW).unwrap());
    let open = |space: &Space| space.dir_at(BELOW).unwrap().1;
    let both = open(&home).zip(open(&there));
    assert!(both.is_some_and(|(home, there)| Arc::ptr_eq(&home, &there)));
    assert_eq!(read(&mut disk, &there, "file"), asked_for);
    assert_eq!(read(&mut disk, &there, "link"), Err(ELOOP));

    // Home closed it for lack of room: it is opened there, below what was asked for.
    there.forget_dir(BELOW);
    assert_eq!(read(&mut disk, &there, "file"), Err(EBADF));
    home.close_idle_directories();
    assert!(open(&home).is_none());
    there.adopt_dir(BELOW, home.share_dir(BELOW).unwrap());
    fs::rename(&below, &away).unwrap();
    symlink(&other, &below).unwrap();
    assert_eq!(read(&mut disk, &there, "file"), Err(ELOOP));
    fs::remove_file(&below).unwrap();
    fs::rename(&away, &below).unwrap();
    assert_eq!(read(&mut disk, &there, "file"), asked_for);
    // It may come again, and what is open stays open.
    there.adopt_dir(BELOW, home.share_dir(BELOW).unwrap());
    assert!(open(&there).is_some());
}
