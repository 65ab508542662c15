//! Where a file has data and where holes: lseek(2) with SEEK_DATA and SEEK_HOLE.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// What [`super::FileOp::FindData`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundData {
    /// Where data is, in order; between the ranges the file reads as zeros.
    pub ranges: Vec<Range<u64>>,
    /// Everything before here is known. `u64::MAX`: all of the file.
    pub known_to: u64,
}

/// Moves the file's position, by which only what is copied or read on goes.
pub(super) fn find_data(file: &OwnedFd, from: u64, max: usize) -> io::Result<FoundData> {
    let mut found = FoundData {
        ranges: Vec::new(),
        known_to: from,
    };
    while found.ranges.len() < max {
        match next_data(file, found.known_to)? {
            Some(range) => {
                found.known_to = range.end;
                found.ranges.push(range);
            }
            None => {
                found.known_to = u64::MAX;
                break;
            }
        }
    }
    Ok(found)
}

/// The next data at or behind `from`; `None` when only a hole follows, or nothing.
pub(crate) fn next_data(
    file: impl std::os::fd::AsFd,
    from: u64,
) -> nix::Result<Option<Range<u64>>> {
    let Ok(at) = i64::try_from(from) else {
        return Ok(None);
    };
    match lseek(&file, at, Whence::SeekData) {
        Ok(start) => {
            let end = lseek(&file, start, Whence::SeekHole)?;
            // A file that became shorter in between ends where it begins.
            Ok((end > start).then_some(start as u64..end as u64))
        }
        // No data up to the end, or that is the end.
        Err(Errno::ENXIO) => Ok(None),
        // A file system without the call, which Linux does not let happen on disks; FUSE has it by
        // choice of the program behind it.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENOTTY) => {
            Ok(Some(from..u64::MAX))
        }
        Err(error) => Err(error),
    }
}
