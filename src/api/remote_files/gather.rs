//! What a daemon tells of files without copying them: the rows of a directory, or bytes of a file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};

use super::RemoteRange;
use crate::api::transfer::TransferError;
use crate::proto::query::{Query, QueryAnswer};
use crate::proto::{Kind, Meta, Mtime};

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

/// What came of a question so far.
#[derive(Debug)]
pub(super) enum Gathered {
    Rows {
        rows: Vec<ListedEntry>,
        names_bytes: usize,
    },
    Range {
        from: u64,
        /// Size and time.
        file: Option<(u64, SystemTime)>,
        bytes: BytesMut,
    },
}

/// All of it.
#[derive(Debug)]
pub(super) enum FoundAnswer {
    Rows(Vec<ListedEntry>),
    Range(RemoteRange),
}

impl Gathered {
    pub(super) fn new(query: &Query) -> Gathered {
        match query {
            Query::List { .. } => Gathered::Rows {
                rows: Vec::new(),
                names_bytes: 0,
            },
            Query::Read { range, .. } => Gathered::Range {
                from: range.start,
                file: None,
                bytes: BytesMut::new(),
            },
        }
    }

    /// # Errors
    /// It is more than is kept, and nothing more is to come.
    pub(super) fn take(&mut self, answer: QueryAnswer) -> Result<(), TransferError> {
        match (self, answer) {
            (Gathered::Rows { rows, names_bytes }, QueryAnswer::Row { name, meta, link }) => {
                if rows.len() >= ROWS_MAX || *names_bytes >= NAMES_BYTES_MAX {
                    let text = format!(
                        "a listing of more than {ROWS_MAX} names, or {NAMES_BYTES_MAX} bytes of them, is not kept"
                    );
                    return Err(TransferError::Failed(text));
                }
                *names_bytes += name.len() + link.as_ref().map_or(0, Bytes::len);
                rows.push(ListedEntry::new(name, &meta, link));
            }
            (Gathered::Range { file, .. }, QueryAnswer::File { size_bytes, mtime }) => {
                *file = Some((size_bytes, time(mtime)));
            }
            (Gathered::Range { bytes, .. }, QueryAnswer::Bytes(more)) => {
                bytes.extend_from_slice(&more)
            }
            _ => return Err(wrong_kind()),
        }
        Ok(())
    }

    /// What was asked for, once all of it is here.
    pub(super) fn found(&mut self) -> Result<FoundAnswer, TransferError> {
        match self {
            Gathered::Rows { rows, .. } => Ok(FoundAnswer::Rows(std::mem::take(rows))),
            Gathered::Range {
                from,
                file: Some((file_bytes, modified)),
                bytes,
            } => {
                let (from, file_bytes) = (*from, *file_bytes);
                if from > file_bytes {
                    let text = format!(
                        "the file has {file_bytes} bytes, and was asked for those from {from} on"
                    );
                    return Err(TransferError::NotFound(text));
                }
                Ok(FoundAnswer::Range(RemoteRange {
                    bytes: std::mem::take(bytes).freeze(),
                    file_bytes,
                    modified: *modified,
                }))
            }
            Gathered::Range { file: None, .. } => Err(wrong_kind()),
        }
    }
}

/// An answer to another question than was asked, which the session below does not let through.
pub(super) fn wrong_kind() -> TransferError {
    let text = "the answer is to another question than was asked; this is a bug in landro";
    TransferError::Failed(text.to_owned())
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
