//! Files that are further names of others: each is sent as a file of its own, which is said once.

use std::collections::HashMap;

use bytes::Bytes;

use crate::proto::Meta;

/// Files with names yet to come that are remembered. A file whose names were all seen is forgotten.
const FILES_MAX: usize = 16_384;

/// One of them in its table.
const FILE_BYTES: u64 = 50;

#[derive(Debug, Default)]
pub(super) struct HardLinks {
    /// Names yet to come, by device and inode.
    awaited: HashMap<(u64, u64), u32>,
    further: u64,
    first: Bytes,
    /// There were more files than can be remembered.
    is_crowded: bool,
}

impl HardLinks {
    /// A regular file is announced.
    pub(super) fn note(&mut self, meta: &Meta, path: impl FnOnce() -> Bytes) {
        let Some(inode) = meta.kept_inode().filter(|_| meta.links > 1) else {
            return;
        };
        let key = (meta.device, inode);
        if let Some(names) = self.awaited.get_mut(&key) {
            self.further += 1;
            if self.further == 1 {
                self.first = path();
            }
            *names = names.saturating_sub(1);
            if *names == 0 {
                self.awaited.remove(&key);
            }
        } else if self.awaited.len() < FILES_MAX {
            self.awaited.insert(key, meta.links - 1);
        } else {
            self.is_crowded = true;
        }
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.awaited.len() as u64 * FILE_BYTES
    }

    /// The first of them, and what is said of all.
    pub(super) fn summary(&self) -> Option<(Bytes, String)> {
        let least = match self.is_crowded {
            true => "at least ",
            false => "",
        };
        let text = match self.further {
            0 => return None,
            1 => format!(
                "{least}1 file is a hard link of another: each arrives as a file of its own"
            ),
            many => format!(
                "{least}{many} files are hard links of others: each arrives as a file of its own"
            ),
        };
        Some((self.first.clone(), text))
    }
}
