//! A full file system lacks blocks or inodes; the errno (ENOSPC) is the same, the remedy is not.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use landro_sys::{FileDone, FileOp};

use super::{DiskError, DiskOp, Files};
use crate::ids::DirId;
use crate::proto::errno::ENOSPC;

/// The directory in which an operation makes something, which takes an inode.
pub(super) fn makes_in(cmd: &DiskOp) -> Option<DirId> {
    match *cmd {
        DiskOp::MakeDir { parent: dir, .. }
        | DiskOp::PutSmall { dir, .. }
        | DiskOp::PutSymlink { dir, .. }
        | DiskOp::OpenPart { dir, .. } => Some(dir),
        _ => None,
    }
}

/// What is lacking where something could not be made in a directory of the session.
pub(super) async fn lacking(files: &Files, dir: DirId, error: DiskError) -> DiskError {
    match files.dir(dir).await {
        Ok(dir) => lacking_beside(files, &dir, error).await,
        Err(_) => error,
    }
}

/// The same for an open directory.
pub(super) async fn lacking_beside(
    files: &Files,
    dir: &Arc<OwnedFd>,
    error: DiskError,
) -> DiskError {
    if error.errno != ENOSPC {
        return error;
    }
    let asked = FileOp::StatFs { file: dir.clone() };
    match files.call("fstatfs", asked).await {
        Ok(FileDone::FileSystem(found)) if found.has_inodes => error,
        Ok(FileDone::FileSystem(found)) if found.free_bytes == 0 => DiskError::NOTHING_LEFT,
        Ok(FileDone::FileSystem(_)) => DiskError::NO_INODES,
        _ => error,
    }
}
