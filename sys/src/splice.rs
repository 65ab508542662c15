//! Copies between two local files without the data passing through user space, where the file
//! systems can.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::file::next_data;

/// One copy_file_range or sendfile call moves at most 2 GiB less a page; smaller steps keep a
/// signal's delay short.
const STEP_BYTES: usize = 64 << 20;

/// Buffer of the last resort.
const BUFFER_BYTES: usize = 256 * 1024;

/// Why a copy failed, and at which of its files.
#[derive(Debug)]
pub struct CopyFault {
    /// It was the file that is read, not the one that is written.
    pub at_source: bool,
    /// What the system call said.
    pub error: io::Error,
}

impl CopyFault {
    fn at_source(errno: Errno) -> CopyFault {
        CopyFault {
            at_source: true,
            error: errno.into(),
        }
    }

    fn at_target(errno: Errno) -> CopyFault {
        CopyFault {
            at_source: false,
            error: errno.into(),
        }
    }
}

/// Copies up to `len` bytes from `from`'s position to `to`'s and moves both on, so that a big file
/// can be copied in steps (of a multiple of the block size, lest the reflink is lost): as a reflink
/// (FICLONERANGE, which shares the blocks) where possible, else by copy_file_range, else sendfile,
/// else read and write. `lacks_sharing` is set where the file system of both shares no blocks, and
/// then that is not tried: a caller who keeps it is spared three calls a file.
///
/// Returns the number of bytes copied, fewer than `len` only when `from` ends before, or when it is
/// a pipe opened with O_NONBLOCK that has no more now.
///
/// # Errors
/// What the system calls say; `to` may then hold a part, and the positions are undefined.
pub fn copy_local(
    from: impl AsFd,
    to: impl AsFd,
    lacks_sharing: &Cell<bool>,
    len: u64,
) -> Result<u64, CopyFault> {
    let (from, to) = (from.as_fd(), to.as_fd());
    if !lacks_sharing.get() {
        let shared = reflink(from, to, lacks_sharing, len).map_err(CopyFault::at_target)?;
        if shared > 0 {
            return Ok(shared);
        }
    }
    let mut copied = 0;
    for step in [by_range, by_sendfile] {
        match pump(len, &mut copied, |want| step(from, to, want)) {
            // These are of a file that grows.
            Err(errno @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)) => {
                return Err(CopyFault::at_target(errno));
            }
            // Not for this pair of file systems or this kind of file; or one of the two failed, and
            // only a read and a write for itself tells which. The next way goes on where this one
            // stopped.
            Err(_) => {}
            // Only reading tells where a file ends. Files in /proc and the like claim to be empty
            // to copy_file_range, and sendfile takes a short answer of FUSE for the end of the
            // file, where FOPEN_DIRECT_IO says that it is none.
            Ok(()) if copied < len => {}
            Ok(()) => return Ok(copied),
        }
    }
    let at_source = Cell::new(true);
    match pump(len, &mut copied, |want| by_hand(from, to, &at_source, want)) {
        Err(Errno::EAGAIN) if copied > 0 => Ok(copied),
        Err(errno) if at_source.get() => Err(CopyFault::at_source(errno)),
        Err(errno) => Err(CopyFault::at_target(errno)),
        Ok(()) => Ok(copied),
    }
}

/// Copies as [`copy_local`] does, but of a file with holes, which stay holes: at most `len` bytes
/// of data, and the holes on the way to them and behind them, at most `most` bytes in all. `to` is
/// empty where the holes come to be, and as long as its position afterwards.
///
/// Returns the number of bytes that the positions moved on: fewer than both `len` and `most` only
/// when `from` ends before.
///
/// # Errors
/// As of [`copy_local`].
pub fn copy_sparse(
    from: impl AsFd,
    to: impl AsFd,
    lacks_sharing: &Cell<bool>,
    (len, most): (u64, u64),
) -> Result<u64, CopyFault> {
    let (from, to) = (from.as_fd(), to.as_fd());
    let (mut passed, mut data_left) = (0, len);
    while passed < most {
        let at = lseek(from, 0, Whence::SeekCur).map_err(CopyFault::at_source)? as u64;
        let data = next_data(from, at).map_err(|error| CopyFault {
            at_source: true,
            error: error.into(),
        })?;
        let start = match &data {
            Some(range) => range.start,
            None => {
                let stat = nix::sys::stat::fstat(from).map_err(CopyFault::at_source)?;
                (stat.st_size as u64).max(at)
            }
        };
        let gap = (start - at).min(most - passed);
        lseek(from, (at + gap) as i64, Whence::SeekSet).map_err(CopyFault::at_source)?;
        lseek(to, gap as i64, Whence::SeekCur).map_err(CopyFault::at_target)?;
        passed += gap;
        let Some(range) = data else { break };
        let want = (range.end - range.start).min(data_left).min(most - passed);
        if want == 0 {
            break;
        }
        let copied = copy_local(from, to, lacks_sharing, want)?;
        passed += copied;
        data_left -= copied;
        if copied < want {
            break;
        }
    }
    end_at_position(to).map_err(CopyFault::at_target)?;
    Ok(passed)
}

/// Makes a file as long as its position says that it is, if it is shorter.
fn end_at_position(file: BorrowedFd<'_>) -> nix::Result<()> {
    let end = lseek(file, 0, Whence::SeekCur)?;
    if nix::sys::stat::fstat(file)?.st_size < end {
        nix::unistd::ftruncate(file, end)?;
    }
    Ok(())
}

/// Number of bytes shared: all, or none where the file systems cannot, or where `from` ends before.
fn reflink(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    lacks_sharing: &Cell<bool>,
    len: u64,
) -> nix::Result<u64> {
    // To FICLONERANGE no bytes are all up to the end.
    if len == 0 {
        return Ok(0);
    }
    let position = |file| lseek(file, 0, Whence::SeekCur);
    let (Ok(from_at), Ok(to_at)) = (position(from), position(to)) else {
        return Ok(0);
    };
    let range = libc::file_clone_range {
        src_fd: from.as_raw_fd().into(),
        src_offset: from_at as u64,
        src_length: len,
        dest_offset: to_at as u64,
    };
    // SAFETY: FICLONERANGE takes the struct it is given, alive during the call, and two open
    // descriptors.
    let result = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONERANGE, &raw const range) };
    match Errno::result(result) {
        Ok(_) => {}
        // Of two files of one file system, for EXDEV is told before.
        Err(Errno::EOPNOTSUPP) => {
            lacks_sharing.set(true);
            return Ok(0);
        }
        // Whatever the reason (another file system, an odd length, a source that became shorter, a
        // full disk), copying finds out better.
        Err(_) => return Ok(0),
    }
    lseek(from, from_at + len as i64, Whence::SeekSet)?;
    lseek(to, to_at + len as i64, Whence::SeekSet)?;
    Ok(len)
}

/// Repeats `step` until `len` bytes are there or it says 0.
fn pump(len: u64, copied: &mut u64, step: impl Fn(usize) -> nix::Result<usize>) -> nix::Result<()> {
    while *copied < len {
        let want = usize::try_from(len - *copied)
            .unwrap_or(STEP_BYTES)
            .min(STEP_BYTES);
        match step(want) {
            Ok(0) => break,
            Ok(bytes) => *copied += bytes as u64,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn by_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, want: usize) -> nix::Result<usize> {
    nix::fcntl::copy_file_range(from, None, to, None, want)
}

fn by_sendfile(from: BorrowedFd<'_>, to: BorrowedFd<'_>, want: usize) -> nix::Result<usize> {
    nix::sys::sendfile::sendfile(to, from, None, want)
}

/// `at_source`: whether it is the read that was called last.
fn by_hand(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    at_source: &Cell<bool>,
    want: usize,
) -> nix::Result<usize> {
    let mut buffer = vec![0; want.min(BUFFER_BYTES)];
    at_source.set(true);
    let bytes = nix::unistd::read(from, &mut buffer)?;
    at_source.set(false);
    let mut rest = &buffer[..bytes];
    while !rest.is_empty() {
        match nix::unistd::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn file_of(dir: &std::path::Path, name: &str, data: &[u8]) -> File {
        let path = dir.join(name);
        File::create(&path).unwrap().write_all(data).unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn copies_between_and_within_file_systems() {
        let data: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7) as u8).collect();
        let (disk, memory) = (
            tempfile::tempdir().unwrap(),
            tempfile::tempdir_in("/dev/shm").unwrap(),
        );
        for (from_dir, to_dir) in [
            (&disk, &disk),
            (&disk, &memory),
            (&memory, &disk),
            (&memory, &memory),
        ] {
            let lacks = Cell::default();
            for len in [0, 1, 1_000_000, data.len(), data.len() + 5] {
                let from = file_of(from_dir.path(), "from", &data);
                let to = file_of(to_dir.path(), "to", b"");
                let copied = copy_local(&from, &to, &lacks, len as u64).unwrap();
                assert_eq!(copied, len.min(data.len()) as u64);
                assert!(
                    std::fs::read(to_dir.path().join("to")).unwrap() == data[..copied as usize]
                );
                // The next steps go on where this one stopped.
                while copy_local(&from, &to, &lacks, 1 << 20).unwrap() > 0 {}
                assert!(std::fs::read(to_dir.path().join("to")).unwrap() == data);
            }
            let is_tmpfs = std::ptr::eq(from_dir, &memory) && std::ptr::eq(to_dir, &memory);
            assert!(
                lacks.get() || !is_tmpfs,
                "tmpfs shares nothing, and is asked once"
            );
            let is_one = std::ptr::eq(from_dir, to_dir);
            assert!(
                is_one || !lacks.get(),
                "two file systems say nothing of one"
            );
        }
    }

    /// Where the file has data.
    fn data_of(file: &File) -> Vec<std::ops::Range<u64>> {
        let (mut all, mut from) = (Vec::new(), 0);
        while let Some(range) = next_data(file, from).unwrap() {
            from = range.end;
            all.push(range);
        }
        all
    }

    #[test]
    fn holes_stay_holes() {
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for dir in [disk, memory] {
            let lacks = Cell::default();
            let from = file_of(dir.path(), "from", b"");
            from.set_len(80 << 20).unwrap();
            for at in [0, 3 << 20, 70 << 20] {
                from.write_all_at(&[7; 4096], at).unwrap();
            }
            let to = file_of(dir.path(), "to", b"");
            let mut steps = 0;
            let mut passed = 0;
            while passed < 80 << 20 {
                passed += copy_sparse(&from, &to, &lacks, (6000, (80 << 20) - passed)).unwrap();
                steps += 1;
            }
            // Two blocks and a part, what remains, and no step for the holes.
            assert_eq!((passed, steps), (80 << 20, 3), "{dir:?}");
            assert_eq!(data_of(&to), data_of(&from));
            assert_eq!(to.metadata().unwrap().len(), 80 << 20);
            assert!(
                std::fs::read(dir.path().join("to")).unwrap()
                    == std::fs::read(dir.path().join("from")).unwrap()
            );
            // A source that is shorter than it is said to be ends before.
            let to = file_of(dir.path(), "to", b"");
            lseek(&from, 71 << 20, Whence::SeekSet).unwrap();
            lseek(&to, 71 << 20, Whence::SeekSet).unwrap();
            assert_eq!(
                copy_sparse(&from, &to, &lacks, (1 << 30, 1 << 30)).unwrap(),
                9 << 20
            );
        }
    }

    #[test]
    fn copies_files_that_claim_to_be_empty() {
        let dir = tempfile::tempdir().unwrap();
        let to = file_of(dir.path(), "to", b"");
        let status = File::open("/proc/self/status").unwrap();
        let copied = copy_local(status, &to, &Cell::default(), 1 << 20).unwrap();
        assert!(copied > 100);
        assert_eq!(
            std::fs::metadata(dir.path().join("to")).unwrap().len(),
            copied
        );
    }
}
