//! Trees of files from a seed, and their comparison down to the nanosecond.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::is_root;

pub fn mkfifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success(), "{}", path.display());
}

/// SplitMix64: a whole state in one number, so a printed seed repeats everything.
pub struct Rng(pub u64);

impl Rng {
    /// From `LANDRO_TEST_SEED` if set, else from the clock; the seed is printed, and cargo shows it
    /// on failure.
    pub fn new(what: &str) -> Rng {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let seed = match std::env::var("LANDRO_TEST_SEED") {
            Ok(typed) => typed.parse().expect("LANDRO_TEST_SEED is a decimal number"),
            Err(_) => since_epoch.as_nanos() as u64,
        };
        println!("{what}: LANDRO_TEST_SEED={seed}");
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `below` - 1.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Around every boundary of the protocol: packed or not, one chunk or more, several streams.
pub const BOUNDARY_SIZES: [u64; 18] = [
    0,
    1,
    4095,
    4096,
    64 * KIB - 1,
    64 * KIB,
    64 * KIB + 1,
    128 * KIB,
    MIB - 1,
    MIB,
    MIB + 1,
    2 * MIB - 1,
    2 * MIB,
    2 * MIB + 1,
    4 * MIB,
    5 * MIB + 12_345,
    8 * MIB,
    11 * MIB + 1,
];

/// Names that are legal and that careless programs stumble over.
pub fn odd_names() -> Vec<OsString> {
    let mut names: Vec<Vec<u8>> = [
        &b" "[..],
        b"-rf",
        b"...",
        b"..a",
        b"a\nb",
        b"tab\there",
        b"\x1b[31mred\x1b[0m",
        b"\x1b]0;title\x07",
        b"\xff\xfe\xfd",
        b"\xc3(",
        b"caf\xc3\xa9",
        b"cafe\xcc\x81",
        "\u{202e}gpj.exe".as_bytes(),
        b"%2e%2e",
        b"100%",
        b"a?b#c",
        b"a:b",
        b"C:\\con",
        b"*",
        b"'quote\"s'",
        b"$(reboot)",
        b".hidden",
        b"~",
        b"#x#",
    ]
    .iter()
    .map(|name| name.to_vec())
    .collect();
    names.push((1..=255).filter(|&b| b != b'/').take(254).collect());
    names.push(vec![b'n'; 255]);
    names.push(vec![0xf0; 255]);
    names.into_iter().map(OsString::from_vec).collect()
}

/// A file of random content.
pub fn write_file(path: &Path, size_bytes: u64, rng: &mut Rng) {
    let mut file = File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // One random MiB, marked with its position: fast to make, and no two chunks are equal.
    let mut block = rng.bytes(size_bytes.min(MIB) as usize);
    let (mut at, mut mark) = (0, 0u64);
    while at < size_bytes {
        let len = (size_bytes - at).min(block.len() as u64) as usize;
        if len >= 8 {
            block[..8].copy_from_slice(&mark.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
        file.write_all(&block[..len]).unwrap();
        at += len as u64;
        mark += 1;
    }
}

/// Mode and mtime by chance: odd nanoseconds, before 1970, in a century.
pub fn dress(path: &Path, modes: &[u32], rng: &mut Rng) {
    let time = match rng.below(10) {
        0 => UNIX_EPOCH - Duration::new(rng.below(500_000_000), rng.below(1_000_000_000) as u32),
        1 => UNIX_EPOCH + Duration::new(4_102_444_800 + rng.below(1000), 1),
        2 => UNIX_EPOCH,
        _ => UNIX_EPOCH + Duration::new(rng.below(1_700_000_000), rng.below(1_000_000_000) as u32),
    };
    set_mtime(path, time);
    fs::set_permissions(path, Permissions::from_mode(*rng.pick(modes))).unwrap();
}

pub fn set_mtime(path: &Path, time: SystemTime) {
    File::open(path).unwrap().set_modified(time).unwrap();
}

pub const FILE_MODES: [u32; 8] = [0o644, 0o600, 0o755, 0o700, 0o664, 0o444, 0o400, 0o711];

/// Modes of directories: what root alone can still write into and remove is for root.
fn directory_modes() -> &'static [u32] {
    if is_root() {
        &[0o755, 0o700, 0o750, 0o1777, 0o2755, 0o555, 0o500]
    } else {
        &[0o755, 0o700, 0o750, 0o1777]
    }
}

/// A tree with something of everything: odd names, empty files and directories, symlinks (dangling,
/// absolute, to directories), nesting, every boundary size once.
pub fn build(root: &Path, rng: &mut Rng) {
    fs::create_dir(root).unwrap();
    let sizes = root.join("sizes");
    fs::create_dir(&sizes).unwrap();
    for size in BOUNDARY_SIZES {
        let file = sizes.join(format!("{size}"));
        write_file(&file, size, rng);
        dress(&file, &FILE_MODES, rng);
    }
    let odd = root.join("odd");
    fs::create_dir(&odd).unwrap();
    for (number, name) in odd_names().iter().enumerate() {
        let path = odd.join(name);
        match number % 3 {
            0 => write_file(&path, rng.below(3000), rng),
            1 => fs::create_dir(&path).unwrap(),
            _ => symlink(name, &path).unwrap(),
        }
    }
    let links = root.join("links");
    fs::create_dir(&links).unwrap();
    for (name, target) in [
        ("dangling", "nowhere/at all"),
        ("absolute", "/etc/passwd"),
        ("directory", "../sizes"),
        ("up", "../../../../.."),
        ("loop", "loop"),
    ] {
        symlink(target, links.join(name)).unwrap();
    }
    symlink(OsStr::from_bytes(&[b'x'; 4000]), links.join("long")).unwrap();
    let mut deep = root.join("deep");
    for level in 0..20 {
        fs::create_dir(&deep).unwrap();
        write_file(&deep.join("file"), rng.below(200), rng);
        deep.push(format!("level {level}"));
    }
    fs::create_dir(root.join("empty")).unwrap();
    random_part(&root.join("random"), 3, rng);
    dress_directories(root, rng);
}

fn random_part(dir: &Path, depth: u32, rng: &mut Rng) {
    fs::create_dir(dir).unwrap();
    for number in 0..rng.below(12) {
        let path = dir.join(format!("{number:x}-{}", rng.below(1000)));
        match rng.below(8) {
            0 | 1 if depth > 0 => random_part(&path, depth - 1, rng),
            2 => symlink(format!("../{}", rng.below(99)), &path).unwrap(),
            3 => write_file(&path, rng.below(3 * MIB), rng),
            _ => {
                let below = 1 << rng.below(17);
                write_file(&path, rng.below(below), rng);
                dress(&path, &FILE_MODES, rng);
            }
        }
    }
}

/// Children first: making them changed their parent's mtime.
pub fn dress_directories(dir: &Path, rng: &mut Rng) {
    for entry in sorted(dir) {
        if entry.symlink_metadata().unwrap().is_dir() {
            dress_directories(&entry, rng);
        }
    }
    dress(dir, directory_modes(), rng);
}

fn sorted(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

/// What a transfer must keep of one thing.
#[derive(PartialEq, Eq, Debug, Clone)]
pub struct Record {
    pub kind: char,
    pub mode: u32,
    pub mtime: (i64, i64),
    pub size_bytes: u64,
    pub link: Option<OsString>,
}

/// Everything in and below `root`, itself included, under paths relative to it.
pub fn records(root: &Path) -> BTreeMap<PathBuf, Record> {
    let mut all = BTreeMap::new();
    let mut to_do = vec![PathBuf::new()];
    while let Some(relative) = to_do.pop() {
        let path = root.join(&relative);
        let path = if relative.as_os_str().is_empty() {
            root
        } else {
            &path
        };
        let meta = fs::symlink_metadata(path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let kind = match meta.file_type() {
            t if t.is_dir() => 'd',
            t if t.is_file() => 'f',
            t if t.is_symlink() => 'l',
            _ => '?',
        };
        if kind == 'd' {
            to_do.extend(
                sorted(path)
                    .iter()
                    .map(|child| relative.join(child.file_name().unwrap())),
            );
        }
        let record = Record {
            kind,
            mode: meta.mode() & 0o7777,
            mtime: (meta.mtime(), meta.mtime_nsec()),
            size_bytes: if kind == 'f' { meta.size() } else { 0 },
            link: (kind == 'l').then(|| fs::read_link(path).unwrap().into_os_string()),
        };
        all.insert(relative, record);
    }
    all
}

/// What distinguishes the one tree from the other: names, kinds, modes, mtimes, targets, content.
pub fn differences(one: &Path, other: &Path) -> Vec<String> {
    let (left, right) = (records(one), records(other));
    let mut differences = Vec::new();
    for (path, record) in &left {
        match right.get(path) {
            None => differences.push(format!("{path:?} is missing")),
            Some(there) if there != record => {
                differences.push(format!("{path:?}: {record:?} became {there:?}"))
            }
            Some(_) if record.kind == 'f' && !same_content(&one.join(path), &other.join(path)) => {
                differences.push(format!("{path:?}: content differs"));
            }
            Some(_) => {}
        }
    }
    differences.extend(
        right
            .keys()
            .filter(|path| !left.contains_key(*path))
            .map(|path| format!("{path:?} is extra")),
    );
    differences
}

/// Panics with the differences unless both are the same.
pub fn assert_same(one: &Path, other: &Path) {
    let differences = differences(one, other);
    assert!(
        differences.is_empty(),
        "{} and {} differ in {} entries:\n{}",
        one.display(),
        other.display(),
        differences.len(),
        differences[..differences.len().min(20)].join("\n")
    );
}

pub fn same_content(one: &Path, other: &Path) -> bool {
    // `root.join("")` ends in a slash, which a file's path must not.
    let open = |path: &Path| {
        let path = path.components().collect::<PathBuf>();
        File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let (mut one, mut other) = (open(one), open(other));
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let (a, b) = (
            read_full(&mut one, &mut left),
            read_full(&mut other, &mut right),
        );
        if left[..a] != right[..b] {
            return false;
        }
        if a == 0 {
            return true;
        }
    }
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]).unwrap() {
            0 => break,
            read => filled += read,
        }
    }
    filled
}

/// Temporary and journal files below a directory.
pub fn leftovers(root: &Path) -> Vec<PathBuf> {
    let is_ours = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.as_bytes().starts_with(b".landro-"))
    };
    records(root).into_keys().filter(is_ours).collect()
}

pub fn assert_no_leftovers(root: &Path) {
    assert_eq!(
        leftovers(root),
        Vec::<PathBuf>::new(),
        "temporary files are left in {}",
        root.display()
    );
}

/// Regular files below a directory, and their bytes.
pub fn count_files(root: &Path) -> (u64, u64) {
    let all = records(root);
    let files = all.values().filter(|record| record.kind == 'f');
    files.fold((0, 0), |(count, bytes), file| {
        (count + 1, bytes + file.size_bytes)
    })
}

/// What a file that is being received is called meanwhile.
pub fn temporary(name: &str, suffix: &str) -> String {
    let digest = blake3::hash(name.as_bytes()).to_hex();
    format!(".landro-{}.{suffix}", &digest[..16])
}

/// A part as a transfer of `name` leaves it, with its mark.
pub fn unfinished(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(temporary(name, "part"));
    fs::write(&path, "unfinished").unwrap();
    mark(&path, name);
    path
}

/// Marks a file as an unfinished one of `name`.
pub fn mark(path: &Path, name: &str) {
    let op = landro_sys::FileOp::SetXattr {
        file: std::sync::Arc::new(fs::File::open(path).unwrap().into()),
        name: c"user.landro.unfinished",
        value: name.into(),
    };
    landro_sys::run(op).unwrap();
}
