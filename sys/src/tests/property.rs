//! One random sequence of file operations and datagrams, run through both backends and through std.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Step {
    /// The driver sends `count` segments and a tail to std.
    Out {
        v6: bool,
        segment: u16,
        count: u16,
        tail: u16,
    },
    /// std sends datagrams of these sizes to the driver.
    In {
        v6: bool,
        sizes: Vec<u16>,
    },
    /// The driver sends to itself: GSO meets GRO.
    Through {
        v6: bool,
        segment: u16,
        count: u16,
        tail: u16,
    },
    Write {
        name: usize,
        offset: u64,
        len: usize,
        from_pool: bool,
    },
    Read {
        name: usize,
        offset: u64,
        len: usize,
    },
    Truncate {
        name: usize,
        len: u64,
    },
    Reserve {
        name: usize,
        len: u64,
    },
    Punch {
        name: usize,
        offset: u64,
        len: u64,
    },
    Rename {
        from: usize,
        to: usize,
    },
    RenameNew {
        from: usize,
        to: usize,
    },
    Link {
        from: usize,
        to: usize,
    },
    Symlink {
        target: usize,
        name: usize,
    },
    Readlink {
        name: usize,
    },
    Mkdir {
        name: usize,
        mode: u32,
    },
    Unlink {
        name: usize,
        is_dir: bool,
    },
    Stat {
        name: usize,
        follow: bool,
    },
    Meta {
        name: usize,
        mode: u32,
        mtime: (i64, u32),
    },
    Sync {
        name: usize,
    },
    List,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = || 0..NAMES.len();
    let burst = || {
        (
            any::<bool>(),
            prop_oneof![1u16..=1472, Just(1472), Just(1200)],
            1u16..=44,
            0u16..1472,
        )
    };
    let cut =
        |(v6, segment, count, tail): (bool, u16, u16, u16)| (v6, segment, count, tail % segment);
    let step = prop_oneof![
        4 => burst().prop_map(cut)
            .prop_map(|(v6, segment, count, tail)| Step::Out { v6, segment, count, tail }),
        3 => (any::<bool>(), proptest::collection::vec(1u16..=9_000, 1..20))
            .prop_map(|(v6, sizes)| Step::In { v6, sizes }),
        4 => burst().prop_map(cut)
            .prop_map(|(v6, segment, count, tail)| Step::Through { v6, segment, count, tail }),
        6 => (name(), 0u64..200_000, 0usize..=65_536, any::<bool>())
            .prop_map(|(name, offset, len, from_pool)| {
                Step::Write { name, offset, len, from_pool }
            }),
        6 => (name(), 0u64..200_000, 0usize..=70_000)
            .prop_map(|(name, offset, len)| Step::Read { name, offset, len }),
        2 => (name(), 0u64..200_000).prop_map(|(name, len)| Step::Truncate { name, len }),
        1 => (name(), 0u64..200_000).prop_map(|(name, len)| Step::Reserve { name, len }),
        1 => (name(), 0u64..200_000, 0u64..200_000)
            .prop_map(|(name, offset, len)| Step::Punch { name, offset, len }),
        2 => (name(), name()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => (name(), name()).prop_map(|(from, to)| Step::RenameNew { from, to }),
        2 => (name(), name()).prop_map(|(from, to)| Step::Link { from, to }),
        2 => (name(), name()).prop_map(|(target, name)| Step::Symlink { target, name }),
        1 => name().prop_map(|name| Step::Readlink { name }),
        2 => (name(), Just(0o750)).prop_map(|(name, mode)| Step::Mkdir { name, mode }),
        2 => (name(), any::<bool>()).prop_map(|(name, is_dir)| Step::Unlink { name, is_dir }),
        3 => (name(), any::<bool>()).prop_map(|(name, follow)| Step::Stat { name, follow }),
        1 => (name(), 0o400u32..=0o777, (-1_000_000_000i64..4_000_000_000, 0u32..1_000_000_000))
            .prop_map(|(name, mode, mtime)| Step::Meta { name, mode, mtime }),
        1 => name().prop_map(|name| Step::Sync { name }),
        1 => Just(Step::List),
    ];
    proptest::collection::vec(step, 1..40)
}

/// What a step gave, in a form both sides can produce: text, or the errno.
type Outcome = Result<String, Option<i32>>;

fn outcome<T>(result: io::Result<T>, text: impl FnOnce(T) -> String) -> Outcome {
    result.map(text).map_err(|error| error.raw_os_error())
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| ((i + seed).wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect()
}

struct Subject {
    driver: Driver,
    pool: Pool,
    root: Arc<OwnedFd>,
    sockets: [(SocketId, SocketAddr); 2],
    echo: [(SocketId, SocketAddr); 2],
    peers: [(std::net::UdpSocket, SocketAddr); 2],
}

impl Subject {
    fn new(backend: Backend, dir: &Path) -> Subject {
        let (pool, mut driver) = pool_and_driver(backend);
        let root = Arc::new(fs::File::open(dir).unwrap().into());
        let sockets = ["127.0.0.1:0", "[::1]:0"].map(|address| add(&mut driver, address));
        let echo = ["127.0.0.1:0", "[::1]:0"].map(|address| add(&mut driver, address));
        let peers = ["127.0.0.1:0", "[::1]:0"].map(std_socket);
        Subject {
            driver,
            pool,
            root,
            sockets,
            echo,
            peers,
        }
    }

    fn dir(&self) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&self.root))
    }

    fn run(&mut self, op: FileOp) -> io::Result<FileDone> {
        file(&mut self.driver, op)
    }

    fn open(&mut self, name: usize, flags: i32) -> io::Result<Arc<OwnedFd>> {
        let how = OpenHow {
            flags,
            mode: 0o644,
            resolve: 0,
        };
        match self.run(FileOp::Open {
            dir: self.dir(),
            path: path_of(name),
            how,
            waits: false,
        })? {
            FileDone::Opened(file) => Ok(Arc::new(file)),
            other => panic!("{other:?}"),
        }
    }

    fn done(&mut self, op: FileOp) -> Outcome {
        outcome(self.run(op), |done| match done {
            FileDone::Done => String::new(),
            other => panic!("{other:?}"),
        })
    }

    fn file_step(&mut self, step: &Step) -> Outcome {
        match *step {
            Step::Write {
                name,
                offset,
                len,
                from_pool,
            } => self.write(name, offset, len, from_pool),
            Step::Read { name, offset, len } => self.read(name, offset, len),
            Step::Truncate { name, len } => {
                self.of_open(name, libc::O_RDWR, |file| FileOp::Truncate { file, len })
            }
            Step::Reserve { name, len } => self.of_open(name, libc::O_RDWR, |file| {
                FileOp::Reserve { file, len: len + 1 }
            }),
            Step::Punch { name, offset, len } => {
                let len = len + 1;
                self.of_open(name, libc::O_RDWR, |file| FileOp::Punch {
                    file,
                    offset,
                    len,
                })
            }
            Step::Sync { name } => self.sync(name),
            Step::Meta { name, mode, mtime } => self.of_open(name, libc::O_RDONLY, |file| {
                let (mode, mtime) = (Some(mode), Some(mtime));
                FileOp::SetMeta { file, mode, mtime }
            }),
            Step::Rename { from, to } => self.rename(from, to, 0),
            Step::RenameNew { from, to } => self.rename(from, to, libc::RENAME_NOREPLACE),
            Step::Link { from, to } => {
                let (to_dir, to) = (self.dir(), path_of(to));
                self.of_open(from, libc::O_PATH | libc::O_NOFOLLOW, |file| FileOp::Link {
                    file,
                    to_dir,
                    to,
                })
            }
            Step::Symlink { target, name } => {
                let (target, dir, path) = (path_of(target), self.dir(), path_of(name));
                self.done(FileOp::Symlink { target, dir, path })
            }
            Step::Readlink { name } => self.readlink(name),
            Step::Mkdir { name, mode } => {
                let (dir, path) = (self.dir(), path_of(name));
                self.done(FileOp::Mkdir { dir, path, mode })
            }
            Step::Unlink { name, is_dir } => {
                let (dir, path) = (self.dir(), path_of(name));
                self.done(FileOp::Unlink { dir, path, is_dir })
            }
            Step::Stat { name, follow } => self.stat(name, follow),
            Step::List => self.list(),
            Step::Out { .. } | Step::In { .. } | Step::Through { .. } => unreachable!(),
        }
    }

    /// An operation on a file that has to be opened first.
    fn of_open(
        &mut self,
        name: usize,
        flags: i32,
        op: impl FnOnce(Arc<OwnedFd>) -> FileOp,
    ) -> Outcome {
        match self.open(name, flags) {
            Ok(file) => self.done(op(file)),
            Err(error) => Err(error.raw_os_error()),
        }
    }

    fn write(&mut self, name: usize, offset: u64, len: usize, from_pool: bool) -> Outcome {
        let file = self.open(name, libc::O_RDWR | libc::O_CREAT);
        let data = pattern(len, len);
        let data = if from_pool {
            self.in_pool(&data)
        } else {
            Bytes::from(data)
        };
        let written = file.and_then(|file| self.write_all(&file, offset, data));
        outcome(written, |()| String::new())
    }

    fn read(&mut self, name: usize, offset: u64, len: usize) -> Outcome {
        let result = self.open(name, libc::O_RDONLY).and_then(|file| {
            let buffer = self.pool.take().unwrap();
            self.run(FileOp::Read {
                file,
                offset,
                buffer,
                len,
                waits: false,
            })
        });
        outcome(result, |done| match done {
            FileDone::Read { mut buffer, bytes } => {
                buffer.advance(bytes);
                format!("{:?}", blob(&buffer.split()))
            }
            other => panic!("{other:?}"),
        })
    }

    fn sync(&mut self, name: usize) -> Outcome {
        let file = match self.open(name, libc::O_RDONLY) {
            Ok(file) => file,
            Err(error) => return Err(error.raw_os_error()),
        };
        let sync = |data_only| FileOp::Fsync {
            file: file.clone(),
            data_only,
        };
        let range = |wait| FileOp::SyncRange {
            file: file.clone(),
            range: (0, 0),
            wait,
        };
        let ops = [range(false), range(true), sync(true), sync(false)];
        ops.into_iter().map(|op| self.done(op)).collect()
    }

    fn readlink(&mut self, name: usize) -> Outcome {
        let (dir, path) = (self.dir(), path_of(name));
        outcome(self.run(FileOp::Readlink { dir, path }), |done| {
            let FileDone::Link(target) = done else {
                panic!("{done:?}")
            };
            String::from_utf8(target).unwrap()
        })
    }

    fn stat(&mut self, name: usize, follow: bool) -> Outcome {
        let (dir, path) = (self.dir(), path_of(name));
        let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
        outcome(self.run(FileOp::Statx { dir, path, flags }), |done| {
            let FileDone::Stat(stat) = done else {
                panic!("{done:?}")
            };
            format!(
                "{:?} {:o} {} {}",
                stat.kind, stat.mode, stat.size, stat.nlink
            )
        })
    }

    fn list(&mut self) -> Outcome {
        let listed = self.run(FileOp::List {
            file: Arc::clone(&self.root),
            cursor: 0,
            max: 1_000,
        });
        outcome(listed, |done| {
            let FileDone::Listed { entries, .. } = done else {
                panic!("{done:?}")
            };
            let mut names: Vec<_> = entries
                .into_iter()
                .map(|entry| String::from_utf8(entry.name).unwrap())
                .collect();
            names.sort();
            format!("{names:?}")
        })
    }

    fn rename(&mut self, from: usize, to: usize, flags: u32) -> Outcome {
        let (from_dir, to_dir) = (self.dir(), self.dir());
        self.done(FileOp::Rename {
            from_dir,
            from: path_of(from),
            to_dir,
            to: path_of(to),
            flags,
        })
    }

    /// The bytes as a piece out of the middle of a pool buffer where they fit, as received chunks
    /// are.
    fn in_pool(&mut self, data: &[u8]) -> Bytes {
        let mut buffer = self.pool.take().unwrap();
        let skip = (buffer.spare_len() - data.len()).min(33);
        buffer.advance(skip);
        buffer.split();
        buffer.spare_mut()[..data.len()].copy_from_slice(data);
        buffer.advance(data.len());
        buffer.split()
    }

    fn write_all(
        &mut self,
        file: &Arc<OwnedFd>,
        mut offset: u64,
        mut data: Bytes,
    ) -> io::Result<()> {
        while !data.is_empty() {
            let op = FileOp::Write {
                file: Arc::clone(file),
                offset,
                data: data.clone(),
            };
            let FileDone::Written(bytes) = self.run(op)? else {
                panic!()
            };
            assert!(bytes > 0);
            offset += bytes as u64;
            data = data.slice(bytes..);
        }
        Ok(())
    }

    fn net_step(&mut self, step: &Step) {
        match step {
            Step::Out {
                v6,
                segment,
                count,
                tail,
            } => {
                let expected = datagrams(*segment, *count, *tail);
                let side = usize::from(*v6);
                self.send_burst(
                    self.sockets[side].0,
                    self.peers[side].1,
                    &expected,
                    *segment,
                );
                let Completion::Sent { result, .. } = next(&mut self.driver) else {
                    panic!()
                };
                assert_eq!(result.unwrap(), expected.concat().len());
                let mut buffer = vec![0; 70_000];
                for datagram in expected {
                    let (len, from) = self.peers[side].0.recv_from(&mut buffer).unwrap();
                    assert!(buffer[..len] == datagram && from == self.sockets[side].1);
                }
            }
            Step::In { v6, sizes } => {
                let (peer, to) = (
                    &self.peers[usize::from(*v6)].0,
                    self.sockets[usize::from(*v6)].1,
                );
                let sent: Vec<Vec<u8>> = sizes
                    .iter()
                    .map(|&size| pattern(size.into(), size.into()))
                    .collect();
                for datagram in &sent {
                    peer.send_to(datagram, to).unwrap();
                }
                assert!(receive(&mut self.driver, sent.len()) == sent);
            }
            Step::Through {
                v6,
                segment,
                count,
                tail,
            } => {
                let expected = datagrams(*segment, *count, *tail);
                let side = usize::from(*v6);
                self.send_burst(self.sockets[side].0, self.echo[side].1, &expected, *segment);
                assert!(receive(&mut self.driver, expected.len()) == expected);
                while self.driver.in_flight() > 0 {
                    self.driver.submit_and_wait(None).unwrap();
                }
                while self.driver.next_completion().is_some() {}
            }
            _ => unreachable!(),
        }
    }

    /// Queues the datagrams as one run.
    fn send_burst(
        &mut self,
        socket: SocketId,
        to: SocketAddr,
        datagrams: &[Vec<u8>],
        segment: u16,
    ) {
        let payload = datagrams.concat();
        let mut buffer = SendBuffer::new();
        buffer[..payload.len()].copy_from_slice(&payload);
        let runs = vec![Run {
            range: 0..payload.len(),
            segment_bytes: (datagrams.len() > 1).then_some(segment),
        }];
        let from = Some(to.ip());
        self.driver.send(
            5,
            SendRun {
                socket,
                buffer,
                runs,
                to,
                from,
            },
        );
    }
}

fn datagrams(segment: u16, count: u16, tail: u16) -> Vec<Vec<u8>> {
    let mut sizes = vec![usize::from(segment); count.into()];
    if tail > 0 && count < 44 {
        sizes.push(tail.into());
    }
    sizes
        .iter()
        .enumerate()
        .map(|(i, &size)| pattern(i * 7, size))
        .collect()
}

fn path_of(name: usize) -> CString {
    CString::new(NAMES[name]).unwrap()
}

fn blob(bytes: &[u8]) -> (usize, u64) {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    (bytes.len(), hash)
}

/// The same step by std on another directory.
fn model(dir: &Path, step: &Step) -> Outcome {
    let path = |name: usize| -> PathBuf { dir.join(NAMES[name]) };
    let reader = |name| fs::File::open(path(name));
    let writer = |name| fs::File::options().read(true).write(true).open(path(name));
    let unit = |result: io::Result<()>| outcome(result, |()| String::new());
    match *step {
        Step::Write {
            name, offset, len, ..
        } => {
            let mut how = fs::File::options();
            how.read(true).write(true).create(true).truncate(false);
            let file = how.mode(0o644).open(path(name));
            unit(file.and_then(|file| file.write_all_at(&pattern(len, len), offset)))
        }
        Step::Read { name, offset, len } => {
            let mut buffer = vec![0; len.min(65_536)];
            let result = reader(name).and_then(|file| file.read_at(&mut buffer, offset));
            outcome(result, |bytes| format!("{:?}", blob(&buffer[..bytes])))
        }
        Step::Truncate { name, len } => unit(writer(name).and_then(|file| file.set_len(len))),
        // Nothing that std would see.
        Step::Reserve { name, .. } => unit(writer(name).map(drop)),
        Step::Punch { name, offset, len } => {
            unit(writer(name).and_then(|file| zero(&file, offset, len + 1)))
        }
        Step::Sync { name } => unit(reader(name).and_then(|file| file.sync_all())),
        Step::Meta { name, mode, mtime } => {
            unit(reader(name).and_then(|file| set_meta(&file, mode, mtime)))
        }
        Step::Rename { from, to } => unit(fs::rename(path(from), path(to))),
        Step::RenameNew { from, to } => unit(rename_new(&path(from), &path(to))),
        Step::Link { from, to } => unit(fs::hard_link(path(from), path(to))),
        Step::Symlink { target, name } => {
            unit(std::os::unix::fs::symlink(NAMES[target], path(name)))
        }
        Step::Readlink { name } => outcome(fs::read_link(path(name)), |target| {
            target.to_str().unwrap().into()
        }),
        Step::Mkdir { name, mode } => unit(
            std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), mode)
                .create(path(name)),
        ),
        Step::Unlink { name, is_dir: true } => unit(fs::remove_dir(path(name))),
        Step::Unlink {
            name,
            is_dir: false,
        } => unit(fs::remove_file(path(name))),
        Step::Stat { name, follow } => model_stat(&path(name), follow),
        Step::List => outcome(fs::read_dir(dir), |entries| {
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            format!("{names:?}")
        }),
        Step::Out { .. } | Step::In { .. } | Step::Through { .. } => unreachable!(),
    }
}

/// Zeros where a file has something else, as a hole would be.
fn zero(file: &fs::File, offset: u64, len: u64) -> io::Result<()> {
    let size = file.metadata()?.len();
    let len = size.saturating_sub(offset).min(len);
    file.write_all_at(&vec![0; len as usize], offset)
}

fn set_meta(file: &fs::File, mode: u32, (seconds, nanoseconds): (i64, u32)) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    let since = Duration::from_secs(seconds.unsigned_abs());
    let epoch = std::time::UNIX_EPOCH;
    let whole = if seconds < 0 {
        epoch - since
    } else {
        epoch + since
    };
    file.set_modified(whole + Duration::from_nanos(nanoseconds.into()))
}

fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match (fs::symlink_metadata(from), fs::symlink_metadata(to)) {
        (Ok(_), Ok(_)) => Err(io::Error::from_raw_os_error(libc::EEXIST)),
        _ => fs::rename(from, to),
    }
}

fn model_stat(path: &Path, follow: bool) -> Outcome {
    let result = if follow {
        fs::metadata(path)
    } else {
        fs::symlink_metadata(path)
    };
    outcome(result, |meta| {
        let kind = FileKind::of_mode(meta.mode());
        format!(
            "{kind:?} {:o} {} {}",
            meta.mode(),
            meta.size(),
            meta.nlink()
        )
    })
}

/// Every name with its kind, mode, content and, where a step set it, mtime.
fn tree(dir: &Path) -> BTreeMap<String, (u32, Option<Vec<u8>>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let one = |entry: fs::DirEntry| {
        let meta = fs::symlink_metadata(entry.path()).unwrap();
        let content = meta.is_file().then(|| fs::read(entry.path()).unwrap());
        (
            entry.file_name().into_string().unwrap(),
            (meta.mode(), content),
        )
    };
    entries.map(one).collect()
}

fn check(backend: Backend, steps: &[Step]) {
    let (ours, model_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut subject = Subject::new(backend, ours.path());
    for (index, step) in steps.iter().enumerate() {
        match step {
            Step::Out { .. } | Step::In { .. } | Step::Through { .. } => subject.net_step(step),
            _ => {
                let (got, expected) = (subject.file_step(step), model(model_dir.path(), step));
                assert_eq!(got, expected, "{backend:?}: step {index} of {steps:?}");
                if let (Step::Meta { name, mtime, .. }, Ok(_)) = (step, &got) {
                    let meta = fs::metadata(ours.path().join(NAMES[*name])).unwrap();
                    assert_eq!((meta.mtime(), meta.mtime_nsec()), (mtime.0, mtime.1.into()));
                }
            }
        }
    }
    assert!(
        tree(ours.path()) == tree(model_dir.path()),
        "{backend:?}: {steps:?}"
    );
    assert_eq!(subject.pool.in_use(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn both_backends_do_what_std_does(steps in steps()) {
        for backend in backends() {
            check(backend, &steps);
        }
    }
}
