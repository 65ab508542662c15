//! Random source trees: odd names, every size boundary, empty things, depth.

use std::collections::BTreeMap;

use super::Rng;
use super::disk::{Body, Disk, Ino, Node};
use crate::proto::Mtime;
use crate::proto::chunk::{CHUNK_LOG2_MIN, SMALL_MAX_BYTES};
use crate::proto::extents::BLOCK_BYTES;

/// How large a tree may become.
#[derive(Clone, Copy, Debug)]
pub struct TreeShape {
    pub max_entries: usize,
    /// Files above one chunk.
    pub max_large: usize,
}

const CHUNK: usize = 1 << CHUNK_LOG2_MIN;
const SMALL: usize = SMALL_MAX_BYTES as usize;

/// Fills `dir` with a random tree.
pub fn random_tree(disk: &mut Disk, dir: Ino, shape: TreeShape, rng: &mut Rng) {
    let mut dirs = vec![dir];
    let mut large_left = shape.max_large;
    let entries = 1 + rng.below(shape.max_entries);
    // Some trees are chains, some are bushes, most are in between.
    let deep = rng.pick(&[5, 50, 95]);
    for _ in 0..entries {
        let parent = if rng.chance(deep) {
            dirs[dirs.len() - 1]
        } else {
            rng.pick(&dirs)
        };
        let name = random_name(rng);
        if disk.child(parent, &name).is_some() {
            continue;
        }
        let (mode, mtime) = (random_mode(rng), random_mtime(rng));
        let (mode, body) = match rng.below(100) {
            0..20 if dirs.len() < 60 => (mode | 0o700, Body::Directory(BTreeMap::new())),
            20..28 => {
                let targets = [&b"../x"[..], b"/etc/passwd", b"\xff\n", b"a"];
                (0o777, Body::Symlink(rng.pick(&targets).to_vec()))
            }
            28..30 => (mode, Body::Special),
            _ => {
                let len = random_size(rng, &mut large_left);
                let mut data = rng.bytes(len);
                if len > SMALL && rng.chance(40) {
                    dig_holes(&mut data, rng);
                }
                (mode, Body::File(data))
            }
        };
        let is_directory = matches!(body, Body::Directory(_));
        let is_unsized = matches!(body, Body::File(_)) && rng.chance(6);
        let made = disk.put(parent, &name, Node { mode, mtime, body });
        if is_directory {
            dirs.push(made);
        }
        if is_unsized {
            disk.unsized_files.insert(made);
        }
    }
    // Filling a directory moved its mtime; a source directory has whatever its owner left.
    for dir in dirs {
        disk.node_mut(dir).mtime = random_mtime(rng);
    }
}

/// Zeros in the place of some blocks of a file, or of all.
fn dig_holes(data: &mut [u8], rng: &mut Rng) {
    let block = BLOCK_BYTES as usize;
    let most = rng.pick(&[2, 40, CHUNK / block, usize::MAX / block]);
    for _ in 0..1 + rng.below(6) {
        let from = rng.below(data.len()) / block * block;
        let len = (1 + rng.below(most)).saturating_mul(block);
        let to = data.len().min(from.saturating_add(len));
        data[from..to].fill(0);
    }
    if rng.chance(15) {
        data.fill(0);
    }
}

pub fn random_name(rng: &mut Rng) -> Vec<u8> {
    match rng.below(12) {
        0 => rng
            .pick(&[
                &b"..."[..],
                b" ",
                b"-rf",
                b".hidden",
                b"new\nline",
                b"\x1b[31m",
                b"\xff\xfe",
                b"~",
                b"*",
            ])
            .to_vec(),
        1 => {
            let mut name = vec![b'n'; 255];
            name[..8].copy_from_slice(&rng.next().to_le_bytes().map(|b| b'a' + b % 26));
            name
        }
        2 => {
            let len = 1 + rng.below(40);
            rng.bytes(len)
                .into_iter()
                .map(|b| if b == 0 || b == b'/' { b'_' } else { b })
                .chain([b'.', b'x'])
                .collect()
        }
        _ => format!("{:x}", rng.next() % 0x1_0000).into_bytes(),
    }
}

fn random_mode(rng: &mut Rng) -> u32 {
    rng.pick(&[0o644, 0o600, 0o755, 0o400, 0o4755, 0o1777, 0])
}

fn random_mtime(rng: &mut Rng) -> Mtime {
    let seconds = rng.pick(&[0, -1, 1_700_000_000, 2_000_000_000, -2_000_000_000]);
    Mtime {
        seconds,
        nanoseconds: (rng.next() % 1_000_000_000) as u32,
    }
}

fn random_size(rng: &mut Rng, large_left: &mut usize) -> usize {
    if *large_left > 0 && rng.chance(12) {
        *large_left -= 1;
        let sizes = [
            CHUNK + 1,
            2 * CHUNK - 1,
            2 * CHUNK,
            2 * CHUNK + 1,
            3 * CHUNK + 77_777,
        ];
        return rng.pick(&sizes);
    }
    match rng.below(40) {
        0..3 => 0,
        3 => 1,
        4 => SMALL - 1,
        5 => SMALL,
        6 => SMALL + 1,
        7 if *large_left > 0 => rng.pick(&[CHUNK - 1, CHUNK]),
        8 | 9 => SMALL + rng.below(200_000),
        10 | 11 => rng.below(SMALL),
        _ => rng.below(3000),
    }
}
