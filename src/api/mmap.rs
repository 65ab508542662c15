//! Parts of a file as bytes: taken out of a map by the kernel, so that a file that shrinks is an
//! error and no SIGBUS.
#![deny(missing_docs)]

#[cfg(test)]
mod tests;

use std::fs::{File, FileType, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use landro_sys::file::flags;
use landro_sys::mmap::MappedFile;

use super::buffers::{BufferPool, BufferPoolError};

/// How often a part is read again that changed meanwhile. Whoever writes to a file all the time is
/// given no more turns than that.
const MAX_READS: usize = 8;

/// What the slices of a reader with a pool of its own hold together: four of the largest.
const OWN_POOL_BYTES: usize = 4 * BufferPool::LARGEST_BYTES;

/// Why a file, or a part of it, cannot be had.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum MmapError {
    /// The file cannot be opened.
    #[error("cannot open {}: {source}{}", path.display(), open_hint(source))]
    Open {
        /// The file.
        path: PathBuf,
        /// What open(2) said.
        source: io::Error,
    },
    /// What has that name has no bytes at offsets.
    #[error("{} is {kind}: only a regular file can be read in parts", path.display())]
    NotAFile {
        /// What was opened.
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// The part is not within the file as it was when it was opened.
    #[error(
        "{size} bytes at {offset} are not within {}, which had {len} bytes when it was opened; has \
         it grown since? A new reader sees that",
        path.display()
    )]
    OutOfBounds {
        /// The file.
        path: PathBuf,
        /// Where the part begins.
        offset: u64,
        /// How long it is.
        size: usize,
        /// How long the file was.
        len: u64,
    },
    /// The file was cut off after it was opened, and the part is not there any more.
    #[error(
        "{} shrank from {was} to {is} bytes while it was read; somebody writes to it: open it anew \
         when they are done",
        path.display()
    )]
    Shrank {
        /// The file.
        path: PathBuf,
        /// Its length when it was opened.
        was: u64,
        /// Its length now.
        is: u64,
    },
    /// The file changed each time that the part was read.
    #[error(
        "{} changes all the time (read {MAX_READS} times); somebody writes to it: read it when they \
         are done",
        path.display()
    )]
    Changing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error(
        "cannot read {}: {source}; does the kernel's log (dmesg) tell of its disk?",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system call said.
        source: io::Error,
    },
    /// There is no buffer for the part.
    #[error("no room for a part of {}: {source}", path.display())]
    Buffer {
        /// The file.
        path: PathBuf,
        /// What the pool said.
        source: BufferPoolError,
    },
}

fn open_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; is the path right, and is what it lies on mounted?",
        io::ErrorKind::PermissionDenied => {
            "; may this user read it, and search each directory above it?"
        }
        // O_NONBLOCK does not wait for the holder of a lease (F_SETLEASE).
        io::ErrorKind::WouldBlock => "; another program (a file server?) has a lease on it",
        _ => "",
    }
}

/// A regular file of which parts are read as [`Bytes`], from any thread.
///
/// The file is mapped, and the kernel copies what is asked for out of the map, by
/// process_vm_readv(2). The program itself never touches the map: behind the end of a file that was
/// cut off that would be a SIGBUS, which kills it. Such a part is an error here, and no signal
/// handler is installed. Where the kernel forbids the call or has no map of such a file, the same
/// bytes are read by pread(2).
///
/// A part is given out only if length, mtime and ctime of the file were the same before and after
/// it was read; otherwise it is read again, a few times. Before Linux 6.13 those times are of the
/// last tick of the clock (up to 10 ms): a file that was cut off and written anew within one tick
/// may look as if nothing happened, and read as zeros there.
///
/// Parts lie in buffers of a [`BufferPool`], which is what makes them cheap. **The map makes
/// nothing faster:** out of the page cache, pread(2) into such buffers takes as long for 4 MiB, a
/// little less for 64 KiB, and less than half for 4 KiB (figures and command in
/// `docs/adr/0046-what-a-mapping-is-for.md`).
///
/// Calls wait for the disk, or the network of a network file system, as long as that takes: an
/// async program makes them on a thread for that.
///
/// ```
/// use landro::{MmapError, MmapFileReader};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("file");
/// std::fs::write(&path, b"some bytes of a file")?;
/// let reader = MmapFileReader::new(&path)?;
/// assert_eq!(reader.len(), 20);
/// let data = reader.get_slice(5, 5)?;
/// assert_eq!(data, &b"bytes"[..]);
///
/// assert!(matches!(reader.get_slice(15, 6), Err(MmapError::OutOfBounds { .. })));
/// std::fs::File::options().write(true).open(&path)?.set_len(8)?;
/// assert!(matches!(reader.get_slice(5, 5), Err(MmapError::Shrank { is: 8, .. })));
/// assert_eq!(data, &b"bytes"[..]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MmapFileReader {
    path: PathBuf,
    file: MappedFile,
    len: u64,
    buffers: BufferPool,
}

/// What another state of a file's bytes is told by.
#[derive(PartialEq, Eq)]
struct Version {
    len: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl From<Metadata> for Version {
    fn from(metadata: Metadata) -> Version {
        Version {
            len: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl MmapFileReader {
    /// Opens and maps a file, with a pool of its own: its slices are 64 MiB together at most, until
    /// some are dropped.
    ///
    /// # Errors
    /// [`MmapError::Open`], and [`MmapError::NotAFile`] of directories, FIFOs and devices, none of
    /// which is waited for.
    pub fn new(path: impl AsRef<Path>) -> Result<MmapFileReader, MmapError> {
        MmapFileReader::with_pool(path, BufferPool::new(OWN_POOL_BYTES))
    }

    /// As [`new`](Self::new), with slices in buffers of a pool that others may have, too.
    ///
    /// # Errors
    /// As `new`.
    pub fn with_pool(
        path: impl AsRef<Path>,
        buffers: BufferPool,
    ) -> Result<MmapFileReader, MmapError> {
        let path = path.as_ref().to_path_buf();
        let open = |source| MmapError::Open {
            path: path.clone(),
            source,
        };
        let mut options = File::options();
        options.read(true);
        // A FIFO without a writer is not waited for, and a terminal does not become ours.
        options.custom_flags(flags::O_NONBLOCK | flags::O_NOCTTY);
        let file = options.open(&path).map_err(open)?;
        let metadata = file.metadata().map_err(open)?;
        if !metadata.is_file() {
            let kind = kind_of(metadata.file_type());
            return Err(MmapError::NotAFile { path, kind });
        }
        let len = metadata.len();
        Ok(MmapFileReader {
            path,
            file: MappedFile::new(file, len),
            len,
            buffers,
        })
    }

    /// Length of the file when it was opened, in bytes: what slices are within.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file had no bytes when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `size` bytes at `offset`, all of them; at most [`BufferPool::LARGEST_BYTES`] at once.
    ///
    /// # Errors
    /// [`MmapError::OutOfBounds`]; [`MmapError::Shrank`] and [`MmapError::Changing`] if somebody
    /// writes to the file; [`MmapError::Buffer`] where the pool has no room; [`MmapError::Read`].
    pub fn get_slice(&self, offset: u64, size: usize) -> Result<Bytes, MmapError> {
        let end = offset.checked_add(size as u64);
        let Some(end) = end.filter(|&end| end <= self.len) else {
            return Err(MmapError::OutOfBounds {
                path: self.path.clone(),
                offset,
                size,
                len: self.len,
            });
        };
        if size == 0 {
            return Ok(Bytes::new());
        }
        let buffer = self.buffers.take(size);
        let mut buffer = buffer.map_err(|source| MmapError::Buffer {
            path: self.path.clone(),
            source,
        })?;
        // Pages of which a part was cut off read as zeros there, and pages that were read may be of
        // two moments: the length and the times tell.
        let mut before = self.version(end)?;
        for _ in 0..MAX_READS {
            let read = self.file.read_at(offset, &mut buffer);
            let read = read.map_err(|source| self.unreadable(source))?;
            let after = self.version(end)?;
            if read == size && before == after {
                return Ok(buffer.freeze());
            }
            before = after;
        }
        let path = self.path.clone();
        Err(MmapError::Changing { path })
    }

    /// The file as it is now, if it has as many bytes as are needed.
    fn version(&self, end: u64) -> Result<Version, MmapError> {
        let metadata = self.file.file().metadata();
        let version = Version::from(metadata.map_err(|source| self.unreadable(source))?);
        if version.len < end {
            return Err(MmapError::Shrank {
                path: self.path.clone(),
                was: self.len,
                is: version.len,
            });
        }
        Ok(version)
    }

    fn unreadable(&self, source: io::Error) -> MmapError {
        MmapError::Read {
            path: self.path.clone(),
            source,
        }
    }
}

fn kind_of(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "a directory"
    } else if file_type.is_fifo() {
        "a FIFO"
    } else if file_type.is_block_device() || file_type.is_char_device() {
        "a device"
    } else {
        "no file on a disk"
    }
}
