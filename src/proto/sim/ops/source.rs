//! The sender's operations on an imagined disk.

use super::*;

impl Handles {
    pub(super) fn resolve_source(
        &mut self,
        disk: &Disk,
        path: &[u8],
        dir: DirId,
    ) -> Result<DiskDone, DiskError> {
        let (parent, name) = split(path);
        let parent = open_directory(disk, parent)?;
        if name.is_empty() {
            self.dirs.insert(dir, parent);
            return Ok(DiskDone::Source {
                name: None,
                meta: Box::new(disk.meta(parent)),
                link: None,
                in_place: disk.in_place,
            });
        }
        let name = name_of(name)?;
        let Some(ino) = disk.child(parent, name.as_bytes()) else {
            return fail("statx", ENOENT);
        };
        self.dirs.insert(dir, parent);
        Ok(DiskDone::Source {
            name: Some(name),
            meta: Box::new(disk.meta(ino)),
            link: link_of(disk, ino),
            in_place: disk.in_place,
        })
    }

    pub(super) fn open_dir(
        &mut self,
        disk: &Disk,
        parent: Ino,
        name: Option<Name>,
        dir: DirId,
        rng: &mut Rng,
    ) -> Result<DiskDone, DiskError> {
        let ino = match &name {
            None => parent,
            Some(name) if disk.faults.unreadable.contains(name.as_bytes()) => {
                return fail("openat2", EACCES);
            }
            Some(name) => match disk.child(parent, name.as_bytes()) {
                Some(ino) => ino,
                None => return fail("openat2", ENOENT),
            },
        };
        let Some(children) = disk.children(ino) else {
            return match disk.node(ino).body {
                Body::Symlink(_) => fail("openat2", ELOOP),
                Body::File(_) | Body::Special | Body::Directory(_) => fail("openat2", ENOTDIR),
            };
        };
        let mut names: Vec<_> = children.keys().cloned().collect();
        rng.shuffle(&mut names);
        self.dirs.insert(dir, ino);
        self.listings.insert(dir, names.into());
        Ok(DiskDone::Done)
    }

    pub(super) fn list(
        &mut self,
        disk: &Disk,
        ino: Ino,
        id: DirId,
        max_entries: usize,
        rng: &mut Rng,
    ) -> Result<DiskDone, DiskError> {
        let names = self
            .listings
            .get_mut(&id)
            .expect("only an opened directory is listed");
        let take = names.len().min(1 + rng.below(max_entries.min(LIST_MAX)));
        let look = |name: Vec<u8>| {
            let found = match disk.child(ino, &name) {
                Some(child) => Ok((disk.meta(child), link_of(disk, child))),
                None => fail("statx", ENOENT),
            };
            Listed {
                name: name.into(),
                found,
            }
        };
        let entries = names.drain(..take).map(look).collect();
        Ok(DiskDone::Listed {
            entries,
            end: names.is_empty() && rng.chance(50) || take == 0,
        })
    }

    pub(super) fn map(
        &self,
        disk: &Disk,
        file: usize,
        offset: u64,
        rng: &mut Rng,
    ) -> Result<DiskDone, DiskError> {
        assert!(offset.is_multiple_of(BLOCK_BYTES), "looks at {offset}");
        let OpenFile::Source { ino, broken, .. } = &self.open[file] else {
            panic!("Map of a partial file")
        };
        if *broken {
            return fail("lseek", EIO);
        }
        let Body::File(data) = &disk.node(*ino).body else {
            return Ok(DiskDone::Mapped(DataMap::new([], u64::MAX)));
        };
        let most_ranges = rng.pick(&[1, 2, MAP_RANGES]);
        Ok(DiskDone::Mapped(data_map(data, offset, most_ranges)))
    }

    pub(super) fn close_read(&mut self, file: FileId) -> DiskDone {
        self.files.remove(&file);
        DiskDone::Done
    }

    pub(super) fn run_for_kept(
        &self,
        disk: &Disk,
        file: usize,
        cmd: DiskOp,
        rng: &mut Rng,
    ) -> DiskDone {
        match cmd {
            DiskOp::Recall { size_bytes, .. } => self.recall(disk, file, size_bytes, rng),
            DiskOp::Remember { stamp, values, .. } => {
                self.remember(disk, file, &stamp, values.as_deref())
            }
            other => unreachable!("{other:?} is about nothing that is remembered"),
        }
    }

    /// What is remembered of a file may be anything.
    fn recall(&self, disk: &Disk, file: usize, size_bytes: u64, rng: &mut Rng) -> DiskDone {
        let OpenFile::Source { ino, .. } = &self.open[file] else {
            panic!("Recall of a partial file")
        };
        let meta = disk.meta(*ino);
        let Body::File(data) = &disk.node(*ino).body else {
            return DiskDone::Recalled(None);
        };
        if meta.size_bytes != size_bytes || rng.chance(10) {
            return DiskDone::Recalled(None);
        }
        let stamp = FileStamp {
            device: meta.device,
            inode: meta.inode,
            size_bytes,
            mtime: meta.mtime,
            ctime: meta.mtime,
        };
        let is_wrong = rng.chance(30);
        let mut values = values_of(data);
        values
            .iter_mut()
            .filter(|_| is_wrong && rng.chance(40))
            .for_each(|value| value[0] ^= 1);
        let values = rng.chance(70).then(|| values.into());
        DiskDone::Recalled(Some(Box::new(Recalled { stamp, values })))
    }

    /// What is to be remembered is right, unless the file changed and nothing tells.
    fn remember(
        &self,
        disk: &Disk,
        file: usize,
        stamp: &FileStamp,
        values: Option<&[Digest]>,
    ) -> DiskDone {
        let OpenFile::Source { ino, .. } = &self.open[file] else {
            panic!("Remember of a partial file")
        };
        if let (Some(values), Body::File(data)) = (values, &disk.node(*ino).body) {
            let meta = disk.meta(*ino);
            let is_unchanged = (meta.size_bytes, meta.mtime) == (stamp.size_bytes, stamp.mtime);
            assert!(
                !is_unchanged || *values == *values_of(data),
                "wrong values are to be remembered"
            );
        }
        DiskDone::Done
    }

    /// As much as a pipe may have: something, and nothing only at the end.
    pub(super) fn read_on(
        &mut self,
        disk: &Disk,
        file: usize,
        len_bytes: usize,
        rng: &mut Rng,
    ) -> Result<DiskDone, DiskError> {
        assert!(len_bytes <= PIECE_BYTES, "a read of {len_bytes} bytes");
        let OpenFile::Source { ino, broken, at } = &mut self.open[file] else {
            panic!("ReadOn of a partial file")
        };
        let Body::File(data) = &disk.node(*ino).body else {
            return fail("read", EISDIR);
        };
        if *broken {
            return fail("read", EIO);
        }
        let from = data.len().min(*at);
        let most = len_bytes.min(data.len() - from);
        let len = match most {
            0 => 0,
            most if rng.chance(50) => most,
            most => 1 + rng.below(most),
        };
        *at = from + len;
        Ok(DiskDone::Read {
            data: Bytes::copy_from_slice(&data[from..from + len]),
        })
    }

    fn read(
        &self,
        disk: &Disk,
        file: usize,
        offset: u64,
        len_bytes: usize,
    ) -> Result<DiskDone, DiskError> {
        assert!(len_bytes <= PIECE_BYTES, "a read of {len_bytes} bytes");
        let OpenFile::Source { ino, broken, .. } = &self.open[file] else {
            panic!("Read of a partial file")
        };
        if *broken && offset > 0 {
            return fail("read", EIO);
        }
        let Body::File(data) = &disk.node(*ino).body else {
            return fail("read", EISDIR);
        };
        let from = data.len().min(offset as usize);
        let to = data.len().min(from + len_bytes);
        Ok(DiskDone::Read {
            data: Bytes::copy_from_slice(&data[from..to]),
        })
    }
}

impl Handles {
    pub(super) fn read_or_pipe(
        &self,
        disk: &Disk,
        file: usize,
        cmd: &DiskOp,
        rng: &mut Rng,
    ) -> Result<DiskDone, DiskError> {
        match *cmd {
            DiskOp::Read {
                offset, len_bytes, ..
            } => self.read(disk, file, offset, len_bytes),
            DiskOp::Pipe {
                offset, len_bytes, ..
            } => Ok(self.pipe(disk, file, (offset, len_bytes), rng)),
            _ => panic!("{cmd:?} reads nothing"),
        }
    }

    /// All of it or nothing, and now and then nothing without a reason.
    fn pipe(
        &self,
        disk: &Disk,
        file: usize,
        (offset, len_bytes): (u64, usize),
        rng: &mut Rng,
    ) -> DiskDone {
        assert!(len_bytes <= PIPED_BYTES, "a pipe of {len_bytes} bytes");
        let (mut data, mut end) = (Vec::new(), false);
        while !end && data.len() < len_bytes {
            let at = offset + data.len() as u64;
            let most = PIECE_BYTES.min(len_bytes - data.len());
            match self.read(disk, file, at, most) {
                Ok(DiskDone::Read { data: more }) => {
                    end = more.is_empty();
                    data.extend(more);
                }
                Ok(_) | Err(_) => end = true,
            }
        }
        let is_had = data.len() == len_bytes && rng.chance(90);
        DiskDone::Piped(is_had.then(|| KernelData::new(Arc::new(Bytes::from(data)))))
    }
}

fn values_of(data: &[u8]) -> Vec<Digest> {
    let size_bytes = data.len() as u64;
    let value = |chunk| {
        let (from, len) = (
            chunk_offset(size_bytes, chunk) as usize,
            chunk_len_bytes(size_bytes, chunk) as usize,
        );
        let mut hasher = ChunkHasher::new(chunk, size_bytes);
        hasher.update(&data[from..from + len]);
        hasher.finish()
    };
    let chunks = 0..chunk_count(size_bytes);
    chunks.map(|chunk| value(ChunkIndex(chunk))).collect()
}

pub(super) fn source_file(disk: &Disk, dir: Ino, name: &Name) -> Result<Ino, DiskError> {
    if disk.faults.unreadable.contains(name.as_bytes()) {
        return fail("openat2", EACCES);
    }
    match disk.child(dir, name.as_bytes()) {
        None => fail("openat2", ENOENT),
        Some(ino) if matches!(disk.node(ino).body, Body::Symlink(_)) => fail("openat2", ELOOP),
        Some(ino) => Ok(ino),
    }
}

pub(super) fn read_small(
    disk: &Disk,
    dir: Ino,
    name: &Name,
    max_bytes: usize,
) -> Result<DiskDone, DiskError> {
    let ino = source_file(disk, dir, name)?;
    let data = match &disk.node(ino).body {
        Body::File(data) => data,
        Body::Special => return fail("read", ESPIPE),
        Body::Directory(_) | Body::Symlink(_) => return fail("read", EISDIR),
    };
    if disk.faults.broken.contains(name.as_bytes()) {
        return fail("read", EIO);
    }
    assert!(
        max_bytes <= PIECE_BYTES,
        "a small read of {max_bytes} bytes"
    );
    let data = Bytes::copy_from_slice(&data[..data.len().min(max_bytes)]);
    Ok(DiskDone::Small {
        data,
        after: disk.meta(ino),
    })
}
