//! The disks that are compared: the simulator's, and the real one by each way there is to it.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use landro_sys::{Backend, Completion, Driver, DriverConfig, FileOp, Pool, run};

use crate::disk::marks::head;
use crate::disk::names::{TemporaryName, Use, c_string};
use crate::disk::{Base, Disk, ServedRoot, Side, Space};
use crate::ids::{Name, OpId};
use crate::proto::sim::Rng;
use crate::proto::sim::disk::{Body, Disk as Imaginary, Ino};
use crate::proto::sim::ops::Handles;
use crate::proto::sim::tree::{TreeShape, random_tree};
use crate::proto::{DiskDone, DiskError, DiskOp, Kind};

/// Where a disk file system can be expected: a `/tmp` may be in memory.
const PLACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target");

const SHAPE: TreeShape = TreeShape {
    max_entries: 30,
    max_large: 1,
};

/// The simulator's.
pub struct Imagined {
    pub disk: Imaginary,
    pub handles: Handles,
    rng: Rng,
    last_op: u64,
}

impl Imagined {
    pub fn new(rng: &mut Rng) -> Imagined {
        let mut disk = Imaginary::new();
        random_tree(&mut disk, Imaginary::ROOT, SHAPE, rng);
        // What says that it is empty is on proc, not where this is built.
        disk.unsized_files.clear();
        Imagined {
            disk,
            handles: Handles::default(),
            rng: Rng::new(rng.next()),
            last_op: 0,
        }
    }

    pub fn run(&mut self, cmd: DiskOp) -> Result<DiskDone, DiskError> {
        self.last_op += 1;
        let op = OpId(self.last_op);
        self.handles.start(op, cmd);
        let (done, result) = self.handles.complete(0, &mut self.disk, &mut self.rng);
        assert_eq!(done, op);
        result
    }
}

/// A directory of this host, and what works on it.
pub struct Real {
    root: tempfile::TempDir,
    way: DiskWay,
}

enum DiskWay {
    /// A daemon's session, without a ring or with one.
    Served {
        disk: Disk,
        space: Rc<Space>,
        driver: Option<Box<Driver>>,
    },
    /// A copy within this host: its paths are the user's own.
    Local(Side),
}

impl Real {
    pub fn in_place() -> Real {
        let pool = Pool::new(16).unwrap();
        Real::served(&pool, None)
    }

    /// None where this kernel gives no ring.
    pub fn by_ring() -> Option<Real> {
        let pool = Pool::new(16).unwrap();
        let config = DriverConfig {
            recv_buffers: 2,
            ..DriverConfig::default()
        };
        let driver = Driver::new(Backend::IoUring, &config, &pool).ok()?;
        Some(Real::served(&pool, Some(Box::new(driver))))
    }

    pub fn at_once() -> Real {
        Real {
            root: place(),
            way: DiskWay::Local(Side::new().unwrap()),
        }
    }

    fn served(pool: &Pool, driver: Option<Box<Driver>>) -> Real {
        let root = place();
        let disk = Disk::new(pool.clone(), None, None);
        disk.share_among(1);
        let base = Base::Served(ServedRoot::new(root.path()).part(None));
        let space = match driver {
            Some(_) => Space::new(base),
            None => Space::at_once(base),
        };
        let space = Rc::new(space);
        Real {
            root,
            way: DiskWay::Served {
                disk,
                space,
                driver,
            },
        }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn run(&mut self, cmd: DiskOp) -> Result<DiskDone, DiskError> {
        match &mut self.way {
            DiskWay::Local(side) => side.run(below(self.root.path(), cmd)),
            DiskWay::Served {
                disk,
                space,
                driver,
            } => {
                disk.start(0, 0, space, OpId(0), cmd);
                let mut finished = Vec::new();
                loop {
                    disk.take_finished(&mut finished);
                    if let Some(finished) = finished.pop() {
                        return finished.result;
                    }
                    let driver = driver.as_mut().expect("every call is made in place");
                    while let Some((token, op)) = disk.next_operation() {
                        driver.file(token, op);
                    }
                    driver
                        .submit_and_wait(Some(Duration::from_secs(1)))
                        .unwrap();
                    while let Some(completion) = driver.next_completion() {
                        if let Completion::File { token, result } = completion {
                            disk.complete(token, result);
                        }
                    }
                }
            }
        }
    }

    /// Makes what the imagined disk has.
    pub fn fill(&mut self, disk: &Imaginary) {
        let mut made = Vec::new();
        disk.visit(Imaginary::ROOT, &mut |path, ino| {
            made.push((path.to_vec(), ino));
        });
        for (path, ino) in &made {
            let at = path_below(self.root(), path);
            match &disk.node(*ino).body {
                Body::File(data) => fs::write(&at, data).unwrap(),
                Body::Directory(_) => fs::create_dir(&at).unwrap(),
                Body::Symlink(target) => symlink(path_of(target), &at).unwrap(),
                Body::Special => {
                    let mut mkfifo = std::process::Command::new("mkfifo");
                    assert!(mkfifo.arg(&at).status().unwrap().success());
                }
            }
            set(&at, disk, *ino);
        }
        set(self.root(), disk, Imaginary::ROOT);
    }

    /// A session that closed what it opened has nothing open.
    pub fn check_closed(&self) {
        if let DiskWay::Served { space, .. } = &self.way {
            assert!(!space.has_directories(), "a directory stayed open");
            assert!(!space.holds_parts(), "a partial file stayed open");
        }
    }

    /// Both have the same names, contents, and partial files.
    pub fn compare(&self, disk: &Imaginary) {
        let mut parts = BTreeMap::new();
        self.compare_dir(disk, Imaginary::ROOT, b"", &mut parts);
        for ((dir, name), imagined) in &disk.parts {
            let name = Name::new(Bytes::from(name.clone())).unwrap();
            let head = head(name.as_bytes());
            for (purpose, head, data) in [
                (Use::Part, &[][..], &imagined.data),
                (Use::Journal, &head[..], &imagined.journal),
            ] {
                let of = TemporaryName::of(name.as_bytes(), purpose, 0).to_c();
                let found = parts.remove(&(*dir, of.as_bytes().to_vec()));
                assert!(
                    found == Some([head, &data[..]].concat()),
                    "{of:?} differs or is not there"
                );
            }
        }
        assert!(parts.is_empty(), "left behind: {:?}", parts.keys());
    }

    fn compare_dir(
        &self,
        disk: &Imaginary,
        dir: Ino,
        path: &[u8],
        parts: &mut BTreeMap<(Ino, Vec<u8>), Vec<u8>>,
    ) {
        let mut names = Vec::new();
        for entry in fs::read_dir(path_below(self.root(), path)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_encoded_bytes();
            if name.starts_with(b".landro-") {
                parts.insert((dir, name), fs::read(entry.path()).unwrap());
            } else {
                names.push(name);
            }
        }
        names.sort();
        let imagined: Vec<Vec<u8>> = disk.children(dir).unwrap().keys().cloned().collect();
        assert_eq!(imagined, names, "names in {}", path.escape_ascii());
        for name in names {
            let ino = disk.child(dir, &name).unwrap();
            let below = [path, b"/", &name[..]].concat();
            self.compare_entry(disk, ino, &below);
            if disk.children(ino).is_some() {
                self.compare_dir(disk, ino, &below, parts);
            }
        }
    }

    fn compare_entry(&self, disk: &Imaginary, ino: Ino, path: &[u8]) {
        let (at, text) = (path_below(self.root(), path), path.escape_ascii());
        let (node, meta, kind) = (
            disk.node(ino),
            fs::symlink_metadata(&at).unwrap(),
            disk.meta(ino).kind,
        );
        let mtime = (node.mtime.seconds, i64::from(node.mtime.nanoseconds));
        match &node.body {
            Body::File(data) => assert!(*data == fs::read(&at).unwrap(), "{text} differs"),
            Body::Directory(_) => assert!(meta.is_dir(), "{text}"),
            Body::Symlink(target) => {
                assert_eq!(path_of(target), fs::read_link(&at).unwrap(), "{text}");
            }
            Body::Special => assert!(!meta.is_file() && !meta.is_dir() && !meta.is_symlink()),
        }
        if kind != Kind::Special {
            assert_eq!(node.mode, meta.mode() & 0o7777, "mode of {text}");
        }
        if let Kind::File | Kind::Symlink = kind {
            assert_eq!(mtime, (meta.mtime(), meta.mtime_nsec()), "time of {text}");
        }
    }
}

fn place() -> tempfile::TempDir {
    fs::create_dir_all(PLACE).unwrap();
    tempfile::tempdir_in(PLACE).unwrap()
}

pub fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

pub fn path_below(root: &Path, path: &[u8]) -> PathBuf {
    let start = path.iter().take_while(|&&byte| byte == b'/').count();
    root.join(path_of(&path[start..]))
}

/// The same operation with a path of the user's own.
fn below(root: &Path, cmd: DiskOp) -> DiskOp {
    let full = |path: &Bytes| {
        let slash = [root.as_os_str().as_encoded_bytes(), b"/", path].concat();
        // The root itself has no name there, either.
        let whole = match path.iter().all(|&byte| byte == b'/') {
            true => [&slash[..], b"."].concat(),
            false => slash,
        };
        Bytes::from(whole)
    };
    match cmd {
        DiskOp::ResolveTarget {
            path,
            must_be_dir,
            no_target_dir,
            copy,
            dir,
            fsync,
        } => DiskOp::ResolveTarget {
            path: full(&path),
            must_be_dir,
            no_target_dir,
            copy,
            dir,
            fsync,
        },
        DiskOp::ResolveSource { path, follow, dir } => DiskOp::ResolveSource {
            path: full(&path),
            follow,
            dir,
        },
        other => other,
    }
}

/// Gives what stands at a path the mode and mtime of an imagined node.
pub fn set(at: &Path, disk: &Imaginary, ino: Ino) {
    let node = disk.node(ino);
    let mtime = (node.mtime.seconds, node.mtime.nanoseconds);
    if let Body::File(_) | Body::Directory(_) = node.body {
        fs::set_permissions(at, Permissions::from_mode(node.mode)).unwrap();
    }
    if let Body::File(_) | Body::Symlink(_) = node.body {
        run(FileOp::SetLinkTime {
            dir: None,
            path: c_string(at.as_os_str().as_encoded_bytes()).unwrap(),
            mtime,
        })
        .unwrap();
    }
}
