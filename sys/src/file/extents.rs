//! FIEMAP: whether the blocks of a file were written, or are only promised (linux/fiemap.h).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;

/// `_IOWR('f', 11, struct fiemap)`.
const FS_IOC_FIEMAP: libc::Ioctl = 0xc020_660b_u32 as libc::Ioctl;

/// Extents asked for per call.
const BATCH: usize = 64;

const FIEMAP_EXTENT_LAST: u32 = 0x1;
/// Where the data is, is not known (yet).
const FIEMAP_EXTENT_UNKNOWN: u32 = 0x2;
/// No blocks yet: the data is in memory alone.
const FIEMAP_EXTENT_DELALLOC: u32 = 0x4;
/// Blocks without data: they read as zeros.
const FIEMAP_EXTENT_UNWRITTEN: u32 = 0x800;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved_64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [Extent; BATCH],
}

/// Whether `0..len` lies in extents whose data was written, without a gap unless it `has_holes`.
/// `EOPNOTSUPP` where the file system does not tell.
pub(super) fn are_written(file: &OwnedFd, len: u64, has_holes: bool) -> io::Result<bool> {
    let mut known = 0;
    while known < len {
        let mut map = Map {
            start: known,
            length: len - known,
            flags: 0,
            mapped_extents: 0,
            extent_count: BATCH as u32,
            reserved: 0,
            extents: [Extent::default(); BATCH],
        };
        // SAFETY: `map` is laid out as struct fiemap with room for `extent_count` extents behind
        // it, which is all that the kernel writes, and outlives the call.
        Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut map) })?;
        let found = &map.extents[..(map.mapped_extents as usize).min(BATCH)];
        let is_last = found
            .last()
            .is_none_or(|last| last.flags & FIEMAP_EXTENT_LAST != 0);
        match written_to(found, known, has_holes) {
            Some(_) if is_last && has_holes => return Ok(true),
            Some(end) if end > known => known = end,
            _ => return Ok(false),
        }
        if is_last {
            break;
        }
    }
    Ok(known >= len)
}

/// Up to where extents cover the file from `from` on; `None` when one of them holds no data, or
/// lies behind a gap that is no hole.
fn written_to(extents: &[Extent], from: u64, has_holes: bool) -> Option<u64> {
    let empty = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_UNWRITTEN;
    extents.iter().try_fold(from, |end, extent| {
        let follows = (extent.logical <= end || has_holes) && extent.flags & empty == 0;
        follows.then_some(end.max(extent.logical.saturating_add(extent.length)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(logical: u64, length: u64, flags: u32) -> Extent {
        Extent {
            logical,
            length,
            flags,
            ..Extent::default()
        }
    }

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(
            (size_of::<Extent>(), std::mem::offset_of!(Map, extents)),
            (56, 32)
        );
    }

    #[test]
    fn gaps_and_promises_are_no_data() {
        let strict = |extents: &[Extent], from| written_to(extents, from, false);
        let lenient = |extents: &[Extent], from| written_to(extents, from, true);
        let whole = [extent(0, 10, 0), extent(10, 5, FIEMAP_EXTENT_LAST)];
        assert_eq!(
            (strict(&whole, 0), lenient(&whole, 0)),
            (Some(15), Some(15))
        );
        let gap = [extent(0, 10, 0), extent(11, 5, 0)];
        assert_eq!((strict(&gap, 0), lenient(&gap, 0)), (None, Some(16)));
        assert_eq!(strict(&[extent(4, 10, 0)], 0), None);
        assert_eq!(strict(&[extent(4, 10, 0)], 6), Some(14));
        for flag in [
            FIEMAP_EXTENT_UNKNOWN,
            FIEMAP_EXTENT_DELALLOC,
            FIEMAP_EXTENT_UNWRITTEN,
        ] {
            let promised = [extent(0, 10, 0), extent(10, 5, flag)];
            assert_eq!((strict(&promised, 0), lenient(&promised, 0)), (None, None));
        }
        assert_eq!(strict(&[], 7), Some(7));
    }
}
