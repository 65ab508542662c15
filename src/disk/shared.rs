//! Files and directories that a session has open on one worker and works with on others: one
//! descriptor, held by all of them.
//!
//! A descriptor goes from one worker to another as an `Arc`. Who opened the file closes it, once
//! the others have let go: `Disk` keeps those whose close(2) may wait until nobody else has them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::behind::NamedSource;
use super::mounts::Ground;
use super::space::{DirPlace, OpenFile, Part};
use super::{DiskError, Space};
use crate::ids::{DirId, FileId};

/// An open file on its way to another worker.
pub struct SharedFile {
    open: SharedOpen,
    ground: Ground,
}

/// A directory of sources on its way to another worker.
pub struct SharedDir {
    place: DirPlace,
    /// None: it is opened where it goes.
    open: Option<Arc<OwnedFd>>,
    /// What a source in it is that is not what its name is.
    named: Option<NamedSource>,
    ground: Ground,
}

enum SharedOpen {
    Source(Arc<OwnedFd>),
    Part(Box<Part>),
}

impl Space {
    /// A file for another worker, which may read or write it, and neither names nor closes it.
    ///
    /// # Errors
    /// EBADF when the session never opened it.
    pub fn share(&self, file: FileId) -> Result<SharedFile, DiskError> {
        let open = match self.file(file)? {
            OpenFile::Source(open) => SharedOpen::Source(open),
            OpenFile::Part(part) => SharedOpen::Part(Box::new(Part {
                journal: None,
                temporary: None,
                sink: None,
                is_awaited: part.is_awaited || self.waits_for_data(part.dir_id),
                ..part
            })),
        };
        let ground = self.ground_shared();
        Ok(SharedFile { open, ground })
    }

    /// A directory for another worker, which may read small files in it.
    ///
    /// # Errors
    /// EBADF when the session never opened it.
    pub fn share_dir(&self, dir: DirId) -> Result<SharedDir, DiskError> {
        let (place, open) = self.dir_at(dir)?;
        Ok(SharedDir {
            place,
            open,
            named: self.named_in(dir),
            ground: self.ground_shared(),
        })
    }

    fn ground_shared(&self) -> Ground {
        self.ground.get().unwrap_or(Ground::UNKNOWN)
    }

    fn learn_ground(&self, shared: Ground) {
        let known = self.ground.get().unwrap_or(shared);
        self.ground.set(Some(known.and(shared)));
    }

    /// Takes a directory from another worker, under the number that it has there. It may come
    /// again.
    pub fn adopt_dir(&self, dir: DirId, shared: SharedDir) {
        self.learn_ground(shared.ground);
        self.add_dir_at(dir, shared.place, shared.open);
        self.add_named(dir, shared.named);
    }

    /// Takes a file from another worker, under the number that it has there. It may come again.
    pub fn adopt(&self, file: FileId, shared: SharedFile) {
        self.learn_ground(shared.ground);
        let open = match shared.open {
            SharedOpen::Source(open) => OpenFile::Source(open),
            SharedOpen::Part(part) => OpenFile::Part(*part),
        };
        self.add_file(file, open);
    }
}

// Descriptors travel between threads.
const _: () = {
    const fn travels<T: Send>() {}
    travels::<SharedFile>();
    travels::<SharedDir>();
};
