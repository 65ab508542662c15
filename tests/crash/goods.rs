//! What is copied: a tree with something of everything, older versions of its files, and which of
//! them came to be.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::tree::{self, Record, Rng};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A tree of about `big_bytes` and 6 MB: one file of many chunks, some of one or a few, many small
/// ones.
pub fn build(root: &Path, big_bytes: u64, rng: &mut Rng) {
    let dirs = ["", "a", "a/b", "a/b/c", "z", "empty"];
    for dir in dirs {
        fs::create_dir(root.join(dir)).unwrap();
    }
    let mut sizes = vec![
        big_bytes,
        3 * MIB + rng.below(MIB),
        MIB,
        64 * KIB + 1,
        64 * KIB,
        0,
        1,
    ];
    sizes.extend((0..4).map(|_| 64 * KIB + rng.below(MIB - 64 * KIB)));
    sizes.extend((0..50).map(|_| {
        let below = 1 << (4 + rng.below(13));
        rng.below(below)
    }));
    for (number, size_bytes) in sizes.into_iter().enumerate() {
        // "empty" stays it.
        let path = root
            .join(dirs[rng.below(5) as usize])
            .join(format!("f{number}"));
        tree::write_file(&path, size_bytes, rng);
        tree::dress(&path, &tree::FILE_MODES, rng);
    }
    for number in 0..8 {
        let path = root
            .join(dirs[rng.below(5) as usize])
            .join(format!("l{number}"));
        symlink(format!("f{}", rng.below(10)), path).unwrap();
    }
    tree::dress_directories(root, rng);
}

/// Older versions of three in four files and symlinks of `new`: other bytes or targets, half of
/// them of the same size.
pub fn build_older(root: &Path, new: &Path, rng: &mut Rng) {
    for (path, record) in tree::records(new) {
        let at = root.join(&path);
        match record.kind {
            'd' => fs::create_dir(root.join(path)).unwrap(),
            _ if rng.below(4) == 0 => {}
            'f' => {
                let size_bytes = match rng.below(2) {
                    0 => record.size_bytes,
                    _ => record.size_bytes / 2 + rng.below(100_000),
                };
                tree::write_file(&at, size_bytes, rng);
                // No file of `new` has this time: what has size and time of another is the other to
                // `cp`.
                tree::set_mtime(&at, UNIX_EPOCH + Duration::new(1_800_000_000, 7));
            }
            _ => symlink(format!("g{}", rng.below(10)), &at).unwrap(),
        }
    }
}

/// What stands under the name of a file or symlink.
pub enum Found {
    New,
    Old,
    Nothing,
    /// And how so.
    Wrong(String),
}

/// Looks at every file and symlink of `new` below `arrived`. `old`: the tree that stood there
/// before.
pub fn look(new: &Path, old: Option<&Path>, arrived: &Path) -> Vec<(PathBuf, Found)> {
    let records = tree::records(new)
        .into_iter()
        .filter(|(_, record)| record.kind != 'd');
    let look_at = |(path, record): (PathBuf, Record)| {
        let before = old
            .map(|old| old.join(&path))
            .filter(|old| old.symlink_metadata().is_ok());
        let found = look_at_one(
            &new.join(&path),
            &record,
            before.as_deref(),
            &arrived.join(&path),
        );
        (path, found)
    };
    records.map(look_at).collect()
}

fn look_at_one(new: &Path, record: &Record, old: Option<&Path>, there: &Path) -> Found {
    let Ok(meta) = there.symlink_metadata() else {
        return if old.is_some() {
            Found::Wrong("the old one is gone".into())
        } else {
            Found::Nothing
        };
    };
    if record.kind == 'l' {
        let target = fs::read_link(there).ok();
        return match target {
            Some(target) if target == fs::read_link(new).unwrap() => Found::New,
            Some(target) if old.is_some_and(|old| fs::read_link(old).unwrap() == target) => {
                Found::Old
            }
            other => Found::Wrong(format!("a symlink to {other:?}")),
        };
    }
    if !meta.is_file() {
        return Found::Wrong("not a file".into());
    }
    // Read once: a daemon whose client was killed may still put the new one in place.
    let (bytes, modified) = read(there);
    if bytes == fs::read(new).unwrap() {
        return Found::New;
    }
    if old.is_some_and(|old| bytes == fs::read(old).unwrap()) {
        return Found::Old;
    }
    let zeros = bytes.iter().filter(|&&byte| byte == 0).count();
    let kept = modified == new.symlink_metadata().unwrap().modified().unwrap();
    Found::Wrong(format!(
        "{} bytes of {}, {zeros} of them zeros, {}",
        bytes.len(),
        record.size_bytes,
        if kept {
            "with the time of the source"
        } else {
            "with another time"
        },
    ))
}

fn read(path: &Path) -> (Vec<u8>, SystemTime) {
    let mut file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (bytes, file.metadata().unwrap().modified().unwrap())
}
