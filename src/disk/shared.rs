//! Files that a session has open on one worker and works with on others: one descriptor, held by
//! all of them.
//!
//! A descriptor goes from one worker to another as an `Arc`. Who opened the file closes it, once
//! the others have let go: `Disk` keeps those whose close(2) may wait until nobody else has them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::mounts::Ground;
use super::space::{OpenFile, Part};
use super::{DiskError, Space};
use crate::ids::FileId;

/// An open file on its way to another worker.
pub struct SharedFile {
    open: SharedOpen,
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
        let ground = self.ground.get().unwrap_or(Ground::UNKNOWN);
        Ok(SharedFile { open, ground })
    }

    /// Takes a file from another worker, under the number that it has there. It may come again.
    pub fn adopt(&self, file: FileId, shared: SharedFile) {
        let known = self.ground.get().unwrap_or(shared.ground);
        self.ground.set(Some(known.and(shared.ground)));
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
};
