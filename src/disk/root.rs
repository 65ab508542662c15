//! The directory a daemon serves: found anew for each session by its path, so that what is mounted
//! there later is served, and what was taken away is missed.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::mounts::{Mounts, is_in};

/// A daemon's root. Nothing of it is open between sessions: it can be unmounted.
pub struct ServedRoot {
    /// Absolute.
    pub(super) path: PathBuf,
    /// The mount points that directories were found on, by where these are: one that was deeper
    /// before is not mounted any more, and what is there now is what it hid.
    points: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
}

/// What a session sees of a root.
#[derive(Clone)]
pub struct ServedPart {
    pub(super) root: Arc<ServedRoot>,
    /// The directory in it that the peer is confined to, if it is.
    pub(super) below: Option<Vec<u8>>,
}

impl ServedRoot {
    /// A relative path is one from the working directory of now.
    pub fn new(path: &Path) -> Arc<ServedRoot> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let root = ServedRoot {
            path,
            points: Mutex::default(),
        };
        if let Ok(found) = root.path.canonicalize() {
            root.is_where_it_was(b"", found.as_os_str().as_bytes());
        }
        Arc::new(root)
    }

    pub fn part(self: &Arc<Self>, below: Option<Vec<u8>>) -> ServedPart {
        ServedPart {
            root: self.clone(),
            below,
        }
    }

    /// Whether a directory, which is at `found`, is on a file system mounted there or deeper than
    /// before.
    pub(super) fn is_where_it_was(&self, below: &[u8], found: &[u8]) -> bool {
        let Ok(mounts) = Mounts::of_this_process() else {
            return true;
        };
        let now = mounts.point_of(found).unwrap_or_default();
        let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        match points.get_mut(below) {
            // Only where it lies above: the path may lead elsewhere by now.
            Some(before) if before.len() > now.len() && is_in(before, now) => !is_in(found, before),
            Some(before) => {
                *before = now.to_vec();
                true
            }
            None => {
                points.insert(below.to_vec(), now.to_vec());
                true
            }
        }
    }
}
