//! What a client asks about files in one session, several things at a time, and what it hears of
//! each.

use std::ops::Range;

use bytes::Bytes;

use super::{Meta, Mtime, SessionError};

/// Queries of a session that are under way at a time; each has a slot of its own.
pub const QUERIES_MAX: usize = 8;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// What is at a path: a directory's content, or the one thing it is.
    List { path: Bytes },
    /// These bytes of a file, as far as it has them.
    Read {
        path: Bytes,
        range: Range<u64>,
        /// A path that ends at a symlink is what that leads to; else it is no file.
        follow_named: bool,
    },
}

impl Query {
    pub fn path(&self) -> &Bytes {
        match self {
            Query::List { path } | Query::Read { path, .. } => path,
        }
    }
}

/// What a client has its session do. A slot is below [`QUERIES_MAX`], and taken from its query to
/// [`QueryAnswer::Free`]. That of a query that had no answer in time is taken to the session's end,
/// which comes by itself once there is no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryRequest {
    Query {
        slot: u8,
        query: Query,
    },
    /// Nobody waits for the answer any more.
    Forget {
        slot: u8,
    },
    /// The session ends.
    NoMore,
}

/// What comes of a query, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryAnswer {
    /// One row of a listing.
    Row {
        name: Bytes,
        meta: Box<Meta>,
        link: Option<Bytes>,
    },
    /// The file that is read, as the server opened it.
    File { size_bytes: u64, mtime: Mtime },
    /// The next bytes of it, which are what the server's chunk was.
    Bytes(Bytes),
    /// That was all, or all there will be.
    End(Result<(), SessionError>),
    /// The slot may be used again.
    Free,
}
