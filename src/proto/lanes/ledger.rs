//! What each side knows of the data streams of a lane, to tell what was lost with it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use crate::ids::StreamKey;
use crate::proto::wire::{LaneAccount, LanePart, WireError};

/// Data streams on an added lane after which another takes over: 128 GiB, at 4 MiB each. What is
/// kept of them is below a megabyte.
pub(super) const STREAMS_WORN: u32 = 1 << 15;

/// None begins beyond.
const STREAMS_MAX: usize = 2 * STREAMS_WORN as usize;

/// No stream begins while one so many before it has not ended: a receiver keeps which have ended
/// behind one that has not.
const STREAMS_AHEAD: usize = 4096;

/// A receiver sees streams in another order than that in which they end: by as many as a lane takes
/// at a time, at most.
const STREAMS_AHEAD_SEEN: u64 = 2 * STREAMS_AHEAD as u64;

/// Streams that a session has not taken apart yet when it is told of their ends: no more than a
/// lane over TCP has at a time.
const LATELY_MAX: usize = 64;

/// What an account of a lane would say, and what it would be held against.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Counted among those that are added, or among those that carry control.
    pub number: u32,
    pub ours: OwnStreams,
    pub theirs: StreamsRead,
}

impl Ledger {
    pub fn new(number: u32) -> Ledger {
        Ledger {
            number,
            ours: OwnStreams::default(),
            theirs: StreamsRead::default(),
        }
    }

    /// More would not be kept of a lane that carries control.
    pub fn is_full(&self) -> bool {
        self.ours.all.len() > STREAMS_MAX || self.theirs.ahead.len() > STREAMS_AHEAD
    }
}

/// What an added lane has beside what all lanes have.
#[derive(Debug)]
pub(super) struct AddedLane {
    pub ledger: Ledger,
    pub since: Instant,
    /// Anybody on the wire may read it.
    pub is_clear: bool,
    /// The transport says that another lane is to take over.
    pub is_worn: bool,
    /// Sender: what the lane's mover was told.
    pub told: MoverTold,
    /// And that the lane carries what stays in the kernel.
    pub told_pipes: bool,
}

/// What the mover of an added lane was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MoverTold {
    /// There is none. Next: Pulls.
    Nothing,
    /// Whether to take orders. Next: itself, Retires.
    Pulls(bool),
    /// To take none any more.
    Retires,
}

impl AddedLane {
    pub fn new(number: u32, since: Instant, is_clear: bool) -> AddedLane {
        AddedLane {
            is_clear,
            told_pipes: false,
            ledger: Ledger::new(number),
            since,
            is_worn: false,
            told: MoverTold::Nothing,
        }
    }
}

/// Our data streams on a lane, by number.
#[derive(Debug, Default)]
pub struct OwnStreams {
    all: Vec<OwnStream>,
    /// All below have ended.
    ended_below: usize,
}

#[derive(Debug)]
struct OwnStream {
    key: StreamKey,
    /// Given to be sent; final when the stream has ended or is lost.
    records: u32,
    has_ended: bool,
}

impl OwnStreams {
    pub(super) fn has_room(&self) -> bool {
        self.all.len() < STREAMS_MAX && self.all.len() < self.ended_below + STREAMS_AHEAD
    }

    /// Heap bytes, about.
    pub fn held_bytes(&self) -> u64 {
        (self.all.capacity() * size_of::<OwnStream>()) as u64
    }

    /// The next one begins.
    pub(super) fn begin(&mut self, key: StreamKey) {
        self.all.push(OwnStream {
            key,
            records: 0,
            has_ended: false,
        });
    }

    /// A stream has ended, or does not go on.
    pub(super) fn close(&mut self, key: StreamKey, records: u32, has_ended: bool) {
        // Those that have not ended are young.
        let found = self.all.iter_mut().rev().find(|stream| stream.key == key);
        if let Some(stream) = found {
            (stream.records, stream.has_ended) = (records, has_ended);
        }
        let ended = self.all[self.ended_below..].iter();
        self.ended_below += ended.take_while(|stream| stream.has_ended).count();
    }

    /// What the peer did not take: streams, with the number of records that it did take.
    ///
    /// # Errors
    /// When it says of something that it took it, and that was not sent.
    pub(super) fn missing(
        &self,
        account: &LaneAccount,
    ) -> Result<Vec<(StreamKey, u32)>, WireError> {
        let LaneAccount { below, parts, .. } = account;
        let below = *below as usize;
        if below > self.ended_below {
            return Err(WireError::LaneAccount("of a stream that did not end"));
        }
        let mut parts = parts.iter().peekable();
        let mut missing = Vec::new();
        for (number, stream) in self.all.iter().enumerate().skip(below) {
            let is_here = |part: &&LanePart| part.stream as usize == number;
            match parts.next_if(is_here).map(|part| part.records) {
                None => missing.push((stream.key, 0)),
                Some(None) if stream.has_ended => {}
                Some(None) => return Err(WireError::LaneAccount("of a stream that did not end")),
                Some(Some(records)) if records <= stream.records => {
                    missing.push((stream.key, records));
                }
                Some(Some(_)) => return Err(WireError::LaneAccount("of what was never sent")),
            }
        }
        match parts.next() {
            None => Ok(missing),
            Some(_) => Err(WireError::LaneAccount("of no stream, or out of order")),
        }
    }
}

/// Data streams of the peer on a lane that were read to their ends.
#[derive(Debug, Default)]
pub(super) struct StreamsRead {
    pub below: u32,
    /// Beyond.
    pub ahead: BTreeSet<u32>,
    /// Of a lane in the clear, the last.
    pub lately: VecDeque<(u32, StreamKey)>,
}

impl StreamsRead {
    /// # Errors
    /// When no peer that keeps to the protocol begins that one.
    pub fn may_begin(&self, stream: u64) -> Result<(), WireError> {
        let below = u64::from(self.below);
        let is_near = stream >= below && stream < below + STREAMS_AHEAD_SEEN;
        let is_new = !self.ahead.contains(&(stream as u32));
        match is_near && is_new {
            true => Ok(()),
            false => Err(WireError::Record("a data stream far ahead of another")),
        }
    }

    pub fn end(&mut self, stream: u32, key: StreamKey) {
        if key.came_in_the_clear() {
            self.lately.truncate(LATELY_MAX - 1);
            self.lately.push_front((stream, key));
        }
        self.ahead.insert(stream);
        while self.ahead.remove(&self.below) {
            self.below += 1;
        }
    }
}
