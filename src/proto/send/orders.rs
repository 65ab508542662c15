//! What passes between the plan of a sender and a mover: orders, commands, reports.
//!
//! Each mover pulls orders when it has room; a command is told all of them, and is about orders
//! that one of them has; each order ends in reports. All of them are small and own what they hold,
//! so that they travel to movers on other workers as well: on the plan's own they are handed over
//! by calls.

use crate::ids::{ChunkIndex, DirId, EntryId, FileId, MoverId, Name, StreamKey};
use crate::proto::errors::{source_changed, source_grew};
use crate::proto::extents::DataMap;
use crate::proto::integrity::Digest;
use crate::proto::ports::OddSize;
use crate::proto::zeros::ZeroChunks;
use crate::proto::{EntryError, Kind, Meta, Mtime};

/// What was announced of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub size_bytes: u64,
    pub mtime: Mtime,
    /// Where its file system keeps that.
    pub inode: Option<u64>,
}

/// What became of a file since it was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    Still,
    /// It is longer: a log, an image in use. What it held as it was announced is there as long as
    /// nobody writes there, too, which nothing tells.
    Grown,
    Changed,
}

impl Drift {
    /// Whether the file grew.
    ///
    /// # Errors
    /// When it is not what was announced any more, or grew and was not to.
    pub fn judge(self, no_growing: bool) -> Result<bool, EntryError> {
        match self {
            Drift::Still => Ok(false),
            Drift::Grown if no_growing => Err(source_grew()),
            Drift::Grown => Ok(true),
            Drift::Changed => Err(source_changed()),
        }
    }
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
            inode: meta.kept_inode(),
        }
    }

    pub fn drift(&self, meta: &Meta) -> Drift {
        let is_another = match (self.inode, meta.kept_inode()) {
            (Some(announced), Some(now)) => announced != now,
            (None, _) | (_, None) => false,
        };
        if meta.kind != Kind::File || is_another {
            Drift::Changed
        } else if meta.size_bytes > self.size_bytes {
            Drift::Grown
        } else if (meta.size_bytes, meta.mtime) == (self.size_bytes, self.mtime) {
            Drift::Still
        } else {
            Drift::Changed
        }
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
    /// One that became longer meanwhile fails.
    pub no_growing: bool,
}

impl WholeOrder {
    /// It is to be ordered again.
    pub fn unread(self) -> WholeEnd {
        WholeEnd {
            entry: self.entry,
            held: self.held,
            result: None,
        }
    }
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
    /// Its value, if that is remembered: it is not hashed then.
    pub kept: Option<Digest>,
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

/// Read this unsized file to its end, and emit its stretches. Ends with [`SendReport::Ended`]
/// unless it fails or is cancelled, and with [`SendReport::Over`].
#[derive(Clone, Copy, Debug)]
pub struct StretchOrder {
    pub file: usize,
    pub id: FileId,
    pub entry: EntryId,
}

/// Where a record is, whole or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordAt {
    pub stream: StreamKey,
    /// How many records come before it on its stream.
    pub ordinal: u32,
    /// File data of it that was emitted.
    pub data_bytes: u64,
}

/// A small file whose record is emitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmittedWhole {
    /// Fewer than were announced where a file system does not keep sizes.
    pub bytes: u64,
    pub odd_size: Option<OddSize>,
    /// None: it was forgotten.
    pub at: Option<RecordAt>,
}

/// What becomes of orders under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendCommand {
    /// The source is still what was announced: the record of its only chunk may end.
    Vouch { file: usize, has_grown: bool },
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
        result: Result<EmittedWhole, EntryError>,
    },
    /// A small file was not read before its lane was lost: it is to be ordered again.
    Unread { entry: EntryId, held: usize },
    /// The data of a file's only chunk is emitted. Its record waits for `Vouch` or `Cancel`.
    Held { file: usize },
    /// A chunk's record is emitted, or the chunk is a hole, with this chaining value. `Over`
    /// follows.
    Chunk {
        file: usize,
        chunk: ChunkIndex,
        value: Digest,
        /// It was ordered with this value, and not hashed.
        is_kept: bool,
        /// So much of it stayed in the kernel.
        piped_bytes: u64,
        /// None of a hole.
        at: Option<RecordAt>,
    },
    /// A chunk whose record was not begun is to be ordered again, of another mover. `Over` follows.
    GivenBack { file: usize, chunk: ChunkIndex },
    /// A chunk's record was begun on a stream that is no more. `Over` follows.
    Torn {
        file: usize,
        chunk: ChunkIndex,
        at: RecordAt,
    },
    /// A stretch of an unsized file of this length is emitted.
    Stretch { bytes: u64 },
    /// An unsized file was read to its end. `Over` follows.
    Ended {
        file: usize,
        size_bytes: u64,
        digest: Digest,
    },
    /// A read failed. What the mover has of the file ends as after `Cancel`.
    Failed { file: usize, error: EntryError },
    /// An order of this file is over: nothing of it is in flight.
    Over { file: usize },
}

/// What became of a small file's order: [`SendReport::Whole`], or without a result
/// [`SendReport::Unread`].
#[derive(Debug)]
pub struct WholeEnd {
    pub entry: EntryId,
    pub held: usize,
    pub result: Option<Result<EmittedWhole, EntryError>>,
}

impl WholeEnd {
    pub fn into_report(self) -> SendReport {
        let (entry, held) = (self.entry, self.held);
        match self.result {
            Some(result) => SendReport::Whole {
                entry,
                held,
                result,
            },
            None => SendReport::Unread { entry, held },
        }
    }
}

impl SendReport {
    /// The end of a small file's order, if that is what it tells of.
    ///
    /// # Errors
    /// The report itself, if it tells of something else.
    pub fn into_whole_end(self) -> Result<WholeEnd, SendReport> {
        let (entry, held, result) = match self {
            SendReport::Whole {
                entry,
                held,
                result,
            } => (entry, held, Some(result)),
            SendReport::Unread { entry, held } => (entry, held, None),
            other => return Err(other),
        };
        Ok(WholeEnd {
            entry,
            held,
            result,
        })
    }
}

/// What the plan's worker tells movers on another one.
#[derive(Debug)]
pub enum AwaySendOrder {
    /// For the mover that asked. The file's descriptor goes along.
    Chunk { mover: MoverId, order: ChunkOrder },
    /// For the mover that asked. Their directories go along.
    Wholes {
        mover: MoverId,
        orders: Vec<WholeOrder>,
    },
    /// For whoever has such an order.
    Command(SendCommand),
}

/// What movers on another worker tell that of the plan.
#[derive(Debug)]
pub enum AwaySendReport {
    /// A lane there may carry data.
    Begun { mover: MoverId },
    /// It has room for so many orders more.
    Wants { mover: MoverId, orders: u32 },
    /// `lets_go`: the worker has no order of this file any more.
    Report {
        mover: MoverId,
        report: SendReport,
        lets_go: Option<FileId>,
    },
    /// Small files are read, or are not. `lets_go`: the worker has no order in these directories
    /// any more.
    Wholes {
        mover: MoverId,
        ends: Vec<WholeEnd>,
        lets_go: Vec<DirId>,
    },
    /// A lane took so many bytes more; `is_idle`: that is all that its mover was given; `waits`: it
    /// was offered more than it took. The transports of that worker took `sent_bytes` of files, all
    /// in all.
    Moved {
        mover: MoverId,
        taken_bytes: u64,
        is_idle: bool,
        waits: bool,
        sent_bytes: u64,
    },
    /// A mover is over, with all its orders.
    Ended { mover: MoverId },
}
