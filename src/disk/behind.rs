//! What a source is that is not what its name in its directory is.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;

use crate::ids::Name;

/// A source that is not what its name in its directory is.
#[derive(Clone)]
pub struct NamedSource {
    pub name: Name,
    pub behind: Behind,
}

/// What a named source is.
#[derive(Clone)]
pub enum Behind {
    /// The directory that a symlink leads to.
    Directory(Arc<OwnedFd>),
    /// A symlink that leads to a file.
    File { path: Bytes },
    /// A pipe or a device of the user's own, by its name or behind a symlink.
    Stream { path: Bytes },
}

impl NamedSource {
    pub fn is_of(&self, name: &Name) -> bool {
        self.name == *name
    }
}
