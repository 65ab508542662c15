//! What passes between the plan of a sender and a mover: orders, commands, reports.
//!
//! A mover pulls orders when it has room; a command is about orders that it has; each order ends in
//! reports. All of them are small and own what they hold, so that they could as well travel to
//! another worker: today a mover is on the plan's, and they are handed over by calls.

use crate::ids::{ChunkIndex, DirId, EntryId, FileId, Name};
use crate::proto::extents::DataMap;
use crate::proto::integrity::Digest;
use crate::proto::zeros::ZeroChunks;
use crate::proto::{EntryError, Kind, Meta, Mtime};

/// What was announced of a file: while this holds it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub size_bytes: u64,
    pub mtime: Mtime,
    pub inode: u64,
}

impl Version {
    pub fn of(meta: &Meta) -> Version {
        Version {
            // Of directories and symlinks file systems say what they like.
            size_bytes: match meta.kind {
                Kind::File => meta.size_bytes,
                Kind::Directory | Kind::Symlink | Kind::Special => 0,
            },
            mtime: meta.mtime,
            inode: meta.inode,
        }
    }

    /// Whether this file is of this version.
    pub fn is_still(&self, meta: &Meta) -> bool {
        meta.kind == Kind::File && Version::of(meta) == *self
    }
}

/// Read this small file, and emit its record if it is still this version. Ends with
/// [`SendReport::Whole`].
#[derive(Debug)]
pub struct WholeOrder {
    pub entry: EntryId,
    /// Where the plan holds the directory open, to be given back with the report.
    pub held: usize,
    pub dir: DirId,
    pub name: Name,
    pub version: Version,
}

/// Read this chunk and emit its record. Ends with [`SendReport::Over`].
#[derive(Debug)]
pub struct ChunkOrder {
    /// The plan's number of the file, the same in commands and reports.
    pub file: usize,
    pub id: FileId,
    pub entry: EntryId,
    pub size_bytes: u64,
    pub chunk: ChunkIndex,
    /// It is the file's only one, and its digest is the file's: the end of its record waits until
    /// the plan vouches for the source.
    pub is_only: bool,
    /// Of a file with holes: where data is, as far as is known.
    pub map: Option<DataMap>,
}

/// Hash these chunks, which are all hole and are said to be by the plan. Ends with
/// [`SendReport::Over`].
#[derive(Debug)]
pub struct HolesOrder {
    pub file: usize,
    pub chunks: ZeroChunks,
}

/// What a mover pulls of large files.
#[derive(Debug)]
pub enum LargeOrder {
    Chunk(ChunkOrder),
    Holes(HolesOrder),
}

/// What becomes of orders under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendCommand {
    /// The source is still what was announced: the record of its only chunk may end.
    Vouch { file: usize },
    /// The file is given up: records begun are filled up, the others never begin.
    Cancel { file: usize },
    /// The small file is given up: nothing of it is to be emitted.
    Forget { entry: EntryId },
    /// Sources are read in place from now on, or are not.
    ReadInPlace(bool),
}

/// What a mover has to say of its orders.
#[derive(Debug)]
pub enum SendReport {
    /// A small file was read, and its record is emitted unless it failed or was forgotten.
    Whole {
        entry: EntryId,
        held: usize,
        result: Result<(), EntryError>,
    },
    /// The data of a file's only chunk is emitted. Its record waits for `Vouch` or `Cancel`.
    Held { file: usize },
    /// A chunk's record is emitted, or the chunk is a hole, with this chaining value. `Over`
    /// follows.
    Chunk {
        file: usize,
        chunk: ChunkIndex,
        value: Digest,
    },
    /// A read failed. What the mover has of the file ends as after `Cancel`.
    Failed { file: usize, error: EntryError },
    /// An order of this file is over: nothing of it is in flight.
    Over { file: usize },
}
