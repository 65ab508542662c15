//! A file that is replaced while other sessions replace it, too.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use landro_sys::file::Flock;
use landro_sys::{FileOp, run};

use super::super::marks::MARK;
use super::super::names::{TemporaryName, Use};
use super::super::*;
use super::{Bench, TARGET, attributes, name, path_of};
use crate::proto::Mtime;

/// What another session's file is under on its way, marked as ours are.
fn second_name(root: &Path) -> Arc<OwnedFd> {
    let path = path_of(root, TemporaryName::of(b"big", Use::New, 0).to_c());
    let file = Arc::new(OwnedFd::from(fs::File::create(path).unwrap()));
    let op = FileOp::SetXattr {
        file: file.clone(),
        name: MARK,
        value: b"big".to_vec(),
    };
    run(op).unwrap();
    file
}

fn lock(file: &Arc<OwnedFd>, how: Flock) {
    let file = file.clone();
    run(FileOp::Lock { file, how }).unwrap();
}

#[test]
fn the_second_name_of_a_session_at_work_is_left_to_it() {
    let root = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(root.path(), 16);
    let mut put = |data: &'static [u8]| {
        bench
            .done(DiskOp::PutSmall {
                dir: TARGET,
                name: name(),
                data: vec![Bytes::from_static(data)],
                attributes: attributes(0o600, Mtime::default()),
                replaces: true,
            })
            .unwrap();
        assert_eq!(fs::read(root.path().join("big")).unwrap(), data);
        fs::read_dir(root.path()).unwrap().count()
    };
    assert_eq!(put(b"first"), 1);
    let other = second_name(root.path());
    lock(&other, Flock::Exclusive);
    assert_eq!(put(b"beside another"), 2);
    lock(&other, Flock::Unlock);
    assert_eq!(put(b"behind a crash"), 1);
}
