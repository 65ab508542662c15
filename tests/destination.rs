//! What a destination did is read back, never assumed: file systems that tell errors late, take two
//! names for one, or keep no attributes.

mod common;

use std::fs;

use common::fuse::{Faults, Fuse};

#[test]
fn the_stand_in_is_a_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let Some(fuse) = Fuse::mount(dir.path(), Faults::default()) else {
        return;
    };
    let path = fuse.path().join("file");
    fs::write(&path, b"data").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"data");
    fs::rename(&path, fuse.path().join("other")).unwrap();
    assert_eq!(fs::read(fuse.files().join("other")).unwrap(), b"data");
    fuse.set(|faults| faults.write = Some(28));
    assert!(fs::write(&path, b"data").is_err());
}
