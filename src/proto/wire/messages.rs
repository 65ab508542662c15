//! The control messages: what each says, in field order; the CDDL in `docs/protocol.md` mirrors
//! this file.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

use super::{MAX_TEXT_BYTES, cbor};
use crate::ids::EntryId;
use crate::proto::clear::ClearSecret;
use crate::proto::place::TargetPlace;
use crate::proto::query::Query;
use crate::proto::{CancelReason, EntryError, Kind, Meta, Mtime, ObjectId, SessionError};

/// A control message. The numbers are the wire's; they are never reused.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Message {
    /// Client to server, first.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Server to client, first: the session is accepted.
    #[n(1)]
    Welcome(#[n(0)] Welcome),
    /// Sender to receiver: at most [`super::MAX_ITEMS`].
    #[n(2)]
    Entries(#[cbor(n(0), with = "cbor::items")] Vec<Item>),
    /// Sender to receiver: the walk is over; `entries` were announced in all.
    #[n(3)]
    ManifestEnd {
        #[n(0)]
        entries: u64,
    },
    /// Sender to receiver: the digest of a file sent as more than one chunk.
    #[n(4)]
    Root {
        #[n(0)]
        entry: EntryId,
        #[cbor(n(1), with = "minicbor::bytes")]
        digest: [u8; 32],
        /// It grew while it was read: this is what it held as it was announced.
        #[cbor(n(2), default)]
        has_grown: bool,
        /// So many `Again` of this entry were heard before.
        #[cbor(n(3), default)]
        agains: u32,
    },
    /// Sender to receiver: the source of this entry failed; nothing more comes of it.
    #[n(5)]
    Abort {
        #[n(0)]
        entry: EntryId,
        #[n(1)]
        error: EntryError,
    },
    /// Sender to receiver: something that never became an entry failed. Counts as an error.
    #[n(6)]
    SourceError {
        #[cbor(n(0), with = "cbor::path")]
        path: Bytes,
        #[n(1)]
        error: EntryError,
    },
    /// Sender to receiver: something was left out that is not an error (a special file).
    #[n(7)]
    SourceWarning {
        #[cbor(n(0), with = "cbor::path")]
        path: Bytes,
        #[cbor(n(1), with = "cbor::text")]
        text: String,
    },
    /// Receiver to sender: at most [`super::MAX_ITEMS`].
    #[n(8)]
    Verdicts(#[cbor(n(0), with = "cbor::verdicts")] Vec<Verdict>),
    /// Receiver to sender: every entry is resolved.
    #[n(9)]
    Finished {},
    /// Server to client: at most [`super::MAX_ITEMS`].
    #[n(10)]
    Listing(#[cbor(n(0), with = "cbor::rows")] Vec<ListItem>),
    /// Server to client: all rows, or parts of a file, were sent.
    #[n(11)]
    ListEnd {},
    /// Either way: fatal for the session.
    #[n(12)]
    Error(#[n(0)] SessionError),
    /// Either way: stop; the receiver keeps what can be resumed.
    #[n(13)]
    Cancel {
        #[cbor(n(0), default)]
        reason: CancelReason,
    },
    /// Client to server: a `Listing`, or `FilePart`, was taken; the server keeps only a few under
    /// way.
    #[n(14)]
    ListAck {},
    /// Benchmark, whoever sends: the time is over; so many bytes of filler, or to be echoed, were
    /// sent.
    #[n(15)]
    BenchEnd {
        #[n(0)]
        bytes: u64,
    },
    /// Sender to receiver: an unsized file was read to its end. The digest is over those of its
    /// stretches.
    #[n(19)]
    End {
        #[n(0)]
        entry: EntryId,
        #[cbor(n(1), with = "cbor::size")]
        size_bytes: u64,
        #[cbor(n(2), with = "minicbor::bytes")]
        digest: [u8; 32],
    },
    /// Benchmark, client to server: at most [`super::MAX_ECHO_BYTES`] to be sent back.
    #[n(16)]
    Echo {
        #[cbor(n(0), with = "cbor::echo")]
        payload: Bytes,
    },
    /// Benchmark, server to client: the payload of an `Echo`.
    #[n(17)]
    EchoReply {
        #[cbor(n(0), with = "cbor::echo")]
        payload: Bytes,
    },
    /// A sending server to a client that asked for it, at most once and before the manifest's end:
    /// so many files and bytes of them there are in all, about.
    #[n(20)]
    Counted {
        #[n(0)]
        files: u64,
        #[n(1)]
        bytes: u64,
    },
    /// Receiver to sender: something could not be had at the destination that is not an error
    /// (modes, times). A few of a session, before `Finished`.
    #[n(18)]
    DestinationWarning {
        #[cbor(n(0), with = "cbor::path")]
        path: Bytes,
        #[cbor(n(1), with = "cbor::text")]
        text: String,
    },
    /// Either way, while nothing else is said: so many disk operations of this side ended so far.
    #[n(21)]
    Working {
        #[n(0)]
        finished: u64,
    },
    /// Sender to receiver: so many chunks of a file with holes, from this one on, are zeros; no
    /// records of them come.
    #[n(22)]
    Holes {
        #[n(0)]
        entry: EntryId,
        #[n(1)]
        first: u32,
        #[n(2)]
        count: u32,
    },
    /// Sender to receiver: this added lane is no more. Asks for its account.
    #[n(23)]
    LaneOver {
        #[n(0)]
        lane: u32,
        /// It was in the clear, and what came on it is not what the receiver sent.
        #[cbor(n(1), default)]
        altered: bool,
    },
    /// Receiver to sender, once of each added lane: what of it was taken.
    #[n(24)]
    LaneAccount(#[n(0)] LaneAccount),
    /// Receiver to sender: a chunk came with a value that the sender remembered
    /// ([`super::RecordStatus::Kept`]), and is another. It is to be hashed and sent again, and then
    /// the digest of a file of several chunks is to be said again.
    #[n(25)]
    Again {
        #[n(0)]
        entry: EntryId,
        #[n(1)]
        chunk: u32,
    },
    /// Server to client, first of what it reads: how much the file has, and when that changed.
    #[n(26)]
    FileSize {
        #[cbor(n(0), with = "cbor::size")]
        size_bytes: u64,
        #[n(1)]
        mtime: Mtime,
    },
    /// Server to client: the next bytes of the chunks that were asked for, at most
    /// [`super::MAX_PART_BYTES`].
    #[n(27)]
    FilePart {
        #[cbor(n(0), with = "cbor::part")]
        data: Bytes,
    },
    /// Server to client: the chaining value of the chunk whose bytes came.
    #[n(28)]
    ChunkValue {
        #[cbor(n(0), with = "minicbor::bytes")]
        value: [u8; 32],
    },
    /// Client to server: a query, in a slot where none is under way.
    #[n(29)]
    Query {
        #[n(0)]
        slot: u8,
        #[n(1)]
        query: WireQuery,
    },
    /// Either way: whose answer the next messages of this side are, or acknowledge. Slot 0 before
    /// the first of these.
    #[n(30)]
    About {
        #[n(0)]
        slot: u8,
    },
    /// Server to client: why a query has no answer, or no more of it. Ends it.
    #[n(31)]
    Unanswered(#[n(0)] SessionError),
    /// Client to server: the answer in this slot is not wanted any more, if it has not ended. The
    /// server ends it.
    #[n(32)]
    Forget {
        #[n(0)]
        slot: u8,
    },
}

/// What is asked in a session of queries.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum WireQuery {
    /// As [`WireRequest::List`].
    #[n(0)]
    List {
        #[cbor(n(0), with = "cbor::path")]
        path: Bytes,
    },
    /// The server reads these bytes of a file, as far as it has them.
    #[n(1)]
    Read {
        #[cbor(n(0), with = "cbor::path")]
        path: Bytes,
        #[n(1)]
        from: u64,
        /// The first byte that is not wanted.
        #[n(2)]
        to: u64,
        /// Where a symlink is at the path, what it leads to is read.
        #[n(3)]
        follow_named: bool,
    },
}

impl From<Query> for WireQuery {
    fn from(query: Query) -> WireQuery {
        match query {
            Query::List { path } => WireQuery::List { path },
            Query::Read {
                path,
                range,
                follow_named,
            } => WireQuery::Read {
                path,
                from: range.start,
                to: range.end,
                follow_named,
            },
        }
    }
}

impl From<WireQuery> for Query {
    fn from(query: WireQuery) -> Query {
        match query {
            WireQuery::List { path } => Query::List { path },
            WireQuery::Read {
                path,
                from,
                to,
                follow_named,
            } => Query::Read {
                path,
                range: from..to,
                follow_named,
            },
        }
    }
}

/// What a receiver took of a lane that was added. What it did not take is to be moved again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LaneAccount {
    #[n(0)]
    pub lane: u32,
    /// Of this and all younger streams, the parts say what was taken; all older ones were read to
    /// their ends.
    #[n(1)]
    pub below: u32,
    /// At most [`super::MAX_ITEMS`], of counted up streams. Of those in between nothing was taken.
    #[cbor(n(2), with = "cbor::lane_parts")]
    pub parts: Vec<LanePart>,
    /// Another account of the same lane follows, with parts of younger streams.
    #[cbor(n(3), default)]
    pub more: bool,
    /// It was in the clear, and what came on it is not what the sender sent.
    #[cbor(n(4), default)]
    pub altered: bool,
}

/// What was taken of a data stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LanePart {
    #[n(0)]
    pub stream: u32,
    /// So many whole records; None: it was read to its end.
    #[n(1)]
    pub records: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Hello {
    #[n(0)]
    pub version: u16,
    #[n(1)]
    pub request: WireRequest,
    /// How many entries a sending server may have unresolved at this client; meaningless for a
    /// push.
    #[n(2)]
    pub entry_window: u32,
    /// Asks a sending server to keep below this many bits per second.
    #[n(3)]
    pub bwlimit_bps: Option<u64>,
    /// Asks a sending server to use at most this many data streams at a time.
    #[n(4)]
    pub streams: Option<u8>,
    /// Asks a sending server for a [`Message::Counted`].
    #[cbor(n(5), default)]
    pub counts: bool,
    /// After so many seconds in which nothing is got on with the client gives up.
    #[n(6)]
    pub patience_s: Option<u32>,
    /// The client knows lanes that are added.
    #[cbor(n(7), default)]
    pub adds_lanes: bool,
    /// The client has several interfaces, and asks for the server's addresses.
    #[cbor(n(8), default)]
    pub asks_addresses: bool,
    /// The client takes chunks whose values a sending server remembers.
    #[cbor(n(9), default)]
    pub takes_kept: bool,
    /// The client wants lanes in the clear.
    #[cbor(n(10), default)]
    pub clear: bool,
}

impl Hello {
    /// How long the client waits for anything to be got on with.
    pub fn patience(&self) -> Option<Duration> {
        let seconds = self.patience_s?;
        Some(Duration::from_secs(seconds.max(1).into()))
    }
}

/// What the client wants of the server.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum WireRequest {
    /// The client sends into `target`.
    #[n(0)]
    Push {
        #[cbor(n(0), with = "cbor::path")]
        target: Bytes,
        /// `target` is a directory to put the sources into, whatever is there now.
        #[n(1)]
        must_be_dir: bool,
        /// Send files whose size and mtime match, too.
        #[n(2)]
        force: bool,
        /// Reach the disk before success is reported.
        #[n(3)]
        fsync: bool,
        /// Exactly one source follows: it may take `target`'s last component as its name.
        #[n(4)]
        single: bool,
        /// Symlinks to directories inside the served root are taken for directories, if they were
        /// made on its host.
        #[cbor(n(5), default)]
        keep_dirlinks: bool,
        /// No modes are set.
        #[cbor(n(6), default)]
        no_perms: bool,
        /// No times are set.
        #[cbor(n(7), default)]
        no_times: bool,
        /// Directories that are there get the modes of their sources, too.
        #[cbor(n(8), default)]
        dir_modes: bool,
        /// The one source takes `target` as its name, even if a directory stands there.
        #[cbor(n(9), default)]
        no_target_dir: bool,
        /// Which copy this is: a directory that an earlier run of it made under `target` is gone on
        /// with.
        #[n(10)]
        copy: Option<ByteArray<16>>,
    },
    /// The server sends these, each with everything below it.
    #[n(1)]
    Pull {
        #[cbor(n(0), with = "cbor::sources")]
        sources: Vec<Bytes>,
        /// A source that is a symlink is what it leads to.
        #[cbor(n(1), default)]
        follow_named: bool,
        /// A file that grows while it is read fails.
        #[cbor(n(2), default)]
        no_growing: bool,
        /// Where they are to land.
        #[n(3)]
        place: Option<WirePlace>,
    },
    /// The server describes this path: a directory's content, or the one thing it is.
    #[n(2)]
    List {
        #[cbor(n(0), with = "cbor::path")]
        path: Bytes,
        /// The unfinished files there and below, instead.
        #[cbor(n(1), default)]
        partial: bool,
    },
    /// No files: filler or echoes for so long, at most [`crate::proto::bench::MAX_BENCH`].
    #[n(3)]
    Bench {
        #[n(0)]
        mode: BenchMode,
        #[n(1)]
        milliseconds: u64,
    },
    /// The server answers queries.
    #[n(5)]
    Queries {},
}

/// What a benchmark measures, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchMode {
    Send,
    Receive,
    Echo,
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Welcome {
    #[n(0)]
    pub version: u16,
    /// How many entries a sending client may have unresolved; meaningless for a pull.
    #[n(1)]
    pub entry_window: u32,
    /// A push: the sources land inside the target, not in its place. Meaningless for others.
    #[cbor(n(2), default)]
    pub inside: bool,
    /// Where the sources of a push are to land.
    #[n(3)]
    pub place: Option<WirePlace>,
    /// The server takes lanes that are added, and the client said that it knows them.
    #[cbor(n(4), default)]
    pub adds_lanes: bool,
    /// Where it can be reached, too, if the client asked: at most [`super::MAX_ADDRESSES`].
    #[cbor(n(5), with = "cbor::addresses", default)]
    pub addresses: Vec<IpAddr>,
    /// What lets lanes in the clear in, if the client wants them and may have them.
    #[n(6)]
    pub clear: Option<ClearSecret>,
}

/// Where a receiver's target is; understood on the same host only.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct WirePlace {
    /// Which host, and which run of its kernel.
    #[n(0)]
    pub host: ByteArray<16>,
    /// The target's directory and those it lies in, at most [`crate::proto::place::MAX_ABOVE`].
    #[cbor(n(1), with = "cbor::above")]
    pub above: Vec<u64>,
}

impl From<TargetPlace> for WirePlace {
    fn from(place: TargetPlace) -> WirePlace {
        WirePlace {
            host: place.host.into(),
            above: place.above,
        }
    }
}

impl From<WirePlace> for TargetPlace {
    fn from(place: WirePlace) -> TargetPlace {
        TargetPlace {
            host: place.host.into(),
            above: place.above,
        }
    }
}

/// A step of the manifest.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Item {
    #[n(0)]
    Entry(#[n(0)] Entry),
    /// No more children of this directory will be announced.
    #[n(1)]
    EndDirectory {
        #[n(0)]
        id: EntryId,
    },
}

/// A file, directory or symlink to come.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Entry {
    /// Consecutive from 1.
    #[n(0)]
    pub id: EntryId,
    /// The directory it lies in, announced before; 0 is the target.
    #[n(1)]
    pub parent: EntryId,
    /// At most 255 bytes, unchecked beyond that: `Name::new` has the last word. Empty only for the
    /// served root itself, whose content goes straight into the target.
    #[cbor(n(2), with = "cbor::name")]
    pub name: Bytes,
    #[n(3)]
    pub kind: Kind,
    #[cbor(n(4), with = "cbor::mode")]
    pub mode: u32,
    #[n(5)]
    pub mtime: Mtime,
    #[cbor(n(6), with = "cbor::size")]
    pub size_bytes: u64,
    /// Tells a replaced source from the one a journal knows.
    #[n(7)]
    pub source_tag: u64,
    /// A symlink's target, at most 4095 bytes.
    #[cbor(n(8), with = "cbor::link", has_nil)]
    pub link: Option<Bytes>,
    /// Only where both are on one host ([`WirePlace`]): which object the source is. Not of a file
    /// whose number may be made up, or another could be taken for it.
    #[n(9)]
    pub object: Option<ObjectId>,
    /// Of a file with holes: about how many bytes of it are data.
    #[n(10)]
    pub allocated_bytes: Option<u64>,
    /// Of a file: `size_bytes` says nothing, for it is read to its end, which `Root` tells.
    #[cbor(n(11), default)]
    pub is_unsized: bool,
}

/// What the receiver decided about an entry.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Verdict {
    #[n(0)]
    pub entry: EntryId,
    #[n(1)]
    pub kind: VerdictKind,
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum VerdictKind {
    /// Send what is missing of it: all, or all but what `Have`s named before.
    #[n(0)]
    Send {},
    /// A run of chunks the receiver kept from an earlier session, with their chaining values (32
    /// bytes each, 1 to [`super::MAX_VALUES`] of them). Any number of these precede the `Send` of a
    /// resumed file.
    #[n(1)]
    Have {
        #[n(0)]
        first: u32,
        #[cbor(n(1), with = "cbor::values")]
        values: Bytes,
    },
    /// Size and mtime match already. Final.
    #[n(2)]
    Skipped {},
    /// In place under its final name. Final.
    #[n(3)]
    Done {
        #[n(0)]
        resumed_bytes: u64,
    },
    /// Final.
    #[n(4)]
    Failed {
        #[n(0)]
        error: EntryError,
    },
}

/// One row of a listing.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct ListItem {
    /// The name in the listed directory, or the listed path's own last component.
    #[cbor(n(0), with = "cbor::path")]
    pub name: Bytes,
    #[n(1)]
    pub meta: Meta,
    #[cbor(n(2), with = "cbor::link", has_nil)]
    pub link: Option<Bytes>,
}

impl Item {
    /// An upper bound of its encoded length, to fill batches by ([`super::MAX_BATCH_BYTES`]).
    pub fn encoded_bound(&self) -> usize {
        match self {
            Item::Entry(entry) => 99 + entry.name.len() + entry.link.as_ref().map_or(0, Bytes::len),
            Item::EndDirectory { .. } => 12,
        }
    }
}

impl Verdict {
    /// An upper bound of its encoded length, to fill batches by ([`super::MAX_BATCH_BYTES`]).
    pub fn encoded_bound(&self) -> usize {
        32 + match &self.kind {
            VerdictKind::Have { values, .. } => values.len(),
            VerdictKind::Failed { error } => [&error.text, &error.call, &error.advice]
                .map(|text| text.len().min(MAX_TEXT_BYTES) + 3)
                .iter()
                .sum(),
            VerdictKind::Send {} | VerdictKind::Skipped {} | VerdictKind::Done { .. } => 0,
        }
    }
}

impl ListItem {
    /// An upper bound of its encoded length, to fill batches by ([`super::MAX_BATCH_BYTES`]).
    pub fn encoded_bound(&self) -> usize {
        64 + self.name.len() + self.link.as_ref().map_or(0, Bytes::len)
    }
}
