//! What of a connection is in the numbers of the worker that has it, or had it.

use crate::quic::{PathSnapshot, StreamCounts};

/// What was counted; the rest is what is new.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counted {
    pub(crate) path: PathSnapshot,
    pub(crate) streams: StreamCounts,
    /// Among lanes, too.
    pub(crate) is_lane: bool,
}
