//! A directory that temporary files are made in, and what its file system was found not to have.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

/// What a file system was found not to have.
#[derive(Default)]
pub struct Lacks {
    /// O_TMPFILE (NFS, FUSE, FAT): temporary files have names.
    pub tmpfile: Cell<bool>,
    /// Extended attributes: what is ours is told otherwise.
    pub attributes: Cell<bool>,
    /// Blocks of two files: a copy is one.
    pub sharing: Cell<bool>,
}

/// A directory that temporary files are made in.
pub struct TemporaryDir {
    pub fd: Arc<OwnedFd>,
    /// Of its file system, shared by all who make files there.
    pub lacks: Rc<Lacks>,
}
