//! What a source is that is not what its name in its directory is.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;

use super::Space;
use crate::ids::{DirId, Name};

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

impl Space {
    pub fn add_named(&self, dir: DirId, source: Option<NamedSource>) {
        if let Some(source) = source {
            self.named.borrow_mut().insert(dir, source);
        }
    }

    /// What a source is that was resolved to this directory and name, if it is not what the name
    /// is.
    pub fn named(&self, dir: DirId, name: &Name) -> Option<NamedSource> {
        self.named_in(dir).filter(|named| named.is_of(name))
    }

    /// The same, whatever its name is.
    pub fn named_in(&self, dir: DirId) -> Option<NamedSource> {
        self.named.borrow().get(&dir).cloned()
    }
}
