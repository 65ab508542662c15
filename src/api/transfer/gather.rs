//! What a daemon tells of files without copying them: the rows of a directory, or bytes of a file.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};

use super::end::TransferError;
use crate::proto::{Event, Kind, Meta, Mtime};

/// Rows of one listing that are kept here; a daemon may say more than there is.
const ROWS_MAX: usize = 1 << 20;

/// Bytes of their names, and of what symlinks lead to.
const NAMES_BYTES_MAX: usize = 256 << 20;

/// What a daemon has at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedEntry {
    /// Its name, as the kernel over there has it.
    pub name: Bytes,
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file.
    pub bytes: u64,
    /// Permission bits (07777).
    pub mode: u32,
    /// When its content changed last.
    pub modified: SystemTime,
    /// What a symlink leads to.
    pub link: Option<Bytes>,
}

impl ListedEntry {
    fn new(name: Bytes, meta: &Meta, link: Option<Bytes>) -> ListedEntry {
        ListedEntry {
            name,
            kind: meta.kind,
            bytes: meta.size_bytes,
            mode: meta.mode,
            modified: time(meta.mtime),
            link,
        }
    }
}

fn time(mtime: Mtime) -> SystemTime {
    let fraction = Duration::from_nanos(mtime.nanoseconds.into());
    let whole = Duration::from_secs(mtime.seconds.unsigned_abs());
    let seconds = match mtime.seconds {
        0.. => UNIX_EPOCH.checked_add(whole),
        ..0 => UNIX_EPOCH.checked_sub(whole),
    };
    // What no clock can say is as old as can be.
    let time = seconds.and_then(|time| time.checked_add(fraction));
    time.unwrap_or(UNIX_EPOCH)
}

/// What came so far.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    rows: Vec<ListedEntry>,
    names_bytes: usize,
    file_bytes: Option<u64>,
    bytes: BytesMut,
    is_too_much: bool,
}

impl Gathered {
    /// False: nothing more is to come.
    pub(super) fn take(&mut self, event: &Event) -> bool {
        match event {
            Event::Listing { .. }
                if self.rows.len() >= ROWS_MAX || self.names_bytes >= NAMES_BYTES_MAX =>
            {
                self.is_too_much = true;
            }
            Event::Listing { path, meta, link } => {
                self.names_bytes += path.len() + link.as_ref().map_or(0, Bytes::len);
                let row = ListedEntry::new(path.clone(), meta, link.clone());
                self.rows.push(row);
            }
            Event::FileSize { bytes } => self.file_bytes = Some(*bytes),
            Event::FileBytes { bytes } => self.bytes.extend_from_slice(bytes),
            _ => {}
        }
        !self.is_too_much
    }

    pub(super) fn rows(&mut self) -> Result<Vec<ListedEntry>, TransferError> {
        match self.is_too_much {
            true => {
                let text = format!(
                    "a listing of more than {ROWS_MAX} names, or {NAMES_BYTES_MAX} bytes of them, is not kept"
                );
                Err(TransferError::Failed(text))
            }
            false => Ok(std::mem::take(&mut self.rows)),
        }
    }

    /// The bytes of this range.
    pub(super) fn bytes(&mut self, range: &Range<u64>) -> Result<Bytes, TransferError> {
        let file_bytes = self.file_bytes.unwrap_or(0);
        if range.start > file_bytes {
            let text = format!(
                "the file has {file_bytes} bytes, and was asked for those from {} on",
                range.start
            );
            return Err(TransferError::NotFound(text));
        }
        Ok(std::mem::take(&mut self.bytes).freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_all_ages() {
        let at = |seconds, nanoseconds| {
            time(Mtime {
                seconds,
                nanoseconds,
            })
        };
        assert_eq!(at(0, 0), UNIX_EPOCH);
        assert_eq!(at(2, 5), UNIX_EPOCH + Duration::new(2, 5));
        let before = UNIX_EPOCH - Duration::from_secs(2) + Duration::from_nanos(5);
        assert_eq!(at(-2, 5), before);
        assert_eq!(at(i64::MAX, u32::MAX), UNIX_EPOCH);
        assert!(at(i64::MIN, 0) < UNIX_EPOCH);
    }
}
