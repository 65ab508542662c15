//! Objects that are to be put, laid out in files without names: what is sent is a file, and is read
//! again where a connection is lost.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::memfd::{MFdFlags, memfd_create};
use object_store::PutPayload;

use crate::errors::StagingError;
use crate::version::FileVersion;

/// Up to this, an object that is put in one piece, and so is in memory already, is laid out in
/// memory, too. With as many requests as there are at once, that is 64 MiB.
const IN_MEMORY_MAX_BYTES: usize = 8 << 20;

/// A file without a name, gone with the process at the latest.
#[derive(Debug)]
pub(crate) struct Staged(File);

impl Staged {
    /// For an object of so many bytes.
    pub(crate) fn for_bytes(bytes: usize, directory: &FilePath) -> Result<Staged, StagingError> {
        match bytes <= IN_MEMORY_MAX_BYTES {
            true => Staged::in_memory(),
            false => Staged::in_directory(directory),
        }
    }

    fn in_memory() -> Result<Staged, StagingError> {
        let made = memfd_create("landro-object", MFdFlags::MFD_CLOEXEC);
        let made = made.map_err(|errno| StagingError::Memory(errno.into()))?;
        Ok(Staged(File::from(made)))
    }

    pub(crate) fn in_directory(directory: &FilePath) -> Result<Staged, StagingError> {
        let made = tempfile::tempfile_in(directory);
        made.map(Staged).map_err(|source| StagingError::Create {
            directory: directory.to_owned(),
            source,
        })
    }

    pub(crate) fn write(&self, data: &PutPayload, mut offset: u64) -> Result<(), StagingError> {
        for piece in data {
            let written = self.0.write_all_at(piece, offset);
            written.map_err(StagingError::Write)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// What it is from now on: its time is no other's of this process.
    pub(crate) fn stamp(&self) -> Result<FileVersion, StagingError> {
        let stamped = || -> io::Result<FileVersion> {
            let modified = next_time();
            self.0.set_modified(modified)?;
            let bytes = self.0.metadata()?.len();
            Ok(FileVersion { bytes, modified })
        };
        stamped().map_err(StagingError::Write)
    }

    /// How the engine opens it, in this process, as long as this is not dropped.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// Now, or a little later: a file's time tells its content from another of the same size, and the
/// clock may stand still between two, or be set back.
fn next_time() -> SystemTime {
    static LAST_NS: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ns = now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(0));
    let next = |last: u64| now_ns.max(last.saturating_add(1));
    let last = LAST_NS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
        Some(next(last))
    });
    let (Ok(last) | Err(last)) = last;
    UNIX_EPOCH + Duration::from_nanos(next(last))
}

/// A directory that has nothing but directories, one in the other: those of a path.
#[derive(Debug)]
pub(crate) struct StagedDirectories(tempfile::TempDir);

impl StagedDirectories {
    pub(crate) fn new(path: &FilePath, staging: &FilePath) -> Result<Self, StagingError> {
        let made = || -> io::Result<tempfile::TempDir> {
            let above = tempfile::tempdir_in(staging)?;
            std::fs::create_dir_all(above.path().join(path))?;
            Ok(above)
        };
        let made = made().map_err(|source| StagingError::Create {
            directory: staging.to_owned(),
            source,
        });
        Ok(StagedDirectories(made?))
    }

    /// What it has, for the engine: not the directory itself.
    pub(crate) fn content(&self) -> PathBuf {
        self.0.path().join(".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_times_are_the_same() {
        let times: Vec<_> = (0..10_000).map(|_| next_time()).collect();
        assert!(times.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn bytes_are_where_they_were_put() {
        let directory = tempfile::tempdir().unwrap();
        for staged in [
            Staged::for_bytes(10, directory.path()).unwrap(),
            Staged::for_bytes(IN_MEMORY_MAX_BYTES + 1, directory.path()).unwrap(),
        ] {
            let data = PutPayload::from_iter(["cd", "", "ef"].map(bytes::Bytes::from));
            staged.write(&data, 2).unwrap();
            staged.write(&PutPayload::from_static(b"ab"), 0).unwrap();
            let version = staged.stamp().unwrap();
            let path = staged.path();
            assert_eq!(std::fs::read(&path).unwrap(), b"abcdef");
            let meta = std::fs::metadata(&path).unwrap();
            let found = (meta.len(), meta.modified().unwrap());
            assert_eq!(found, (version.bytes, version.modified));
            assert_ne!(staged.stamp().unwrap(), version);
        }
        // None of them has a name.
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }
}
