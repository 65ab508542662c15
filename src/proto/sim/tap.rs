//! Listens on the wire and holds both sides to the protocol: window, caps, one verdict, no chunk
//! twice.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use crate::ids::{ChunkIndex, EntryId, StreamKey};
use crate::proto::Kind;
use crate::proto::chunk::{chunk_len_bytes, is_resumable};
use crate::proto::wire::{
    Decoder, Entry, Item, Message, Record, RecordHead, RecordParser, RecordStatus, VerdictKind,
};

#[derive(Debug, Default)]
pub struct Tap {
    from_sender: Decoder,
    from_receiver: Decoder,
    to_sender: Decoder,
    /// With the data seen of the current record.
    parsers: HashMap<StreamKey, (RecordParser, u64)>,
    pub announced: BTreeMap<EntryId, Entry>,
    /// Files and symlinks the sender has announced and not been told the end of.
    unresolved: HashSet<EntryId>,
    pub most_unresolved: usize,
    asked: HashSet<EntryId>,
    terminal: HashSet<EntryId>,
    /// What the receiver got of files of several chunks: whole chunks, by entry.
    delivered_parsers: HashMap<StreamKey, (RecordParser, Option<RecordHead>, u64)>,
    delivered: BTreeMap<EntryId, u64>,
    /// A chunk with holes came: what comes now may wait for its zeros to be hashed.
    may_wait: bool,
    /// Where the next stretch of each unsized file begins.
    stretches: HashMap<EntryId, u64>,
    have: HashSet<(EntryId, u32)>,
    sent: HashSet<(EntryId, u32)>,
    /// Delivered with a value that the sender remembers, and with so much data.
    kept: HashMap<(EntryId, u32), u64>,
    /// Of those, how many the receiver asked for again.
    pub asked_again: usize,
    /// File data of those.
    pub again_bytes: u64,
    pub have_bytes: u64,
    /// File data that was put on the wire.
    pub data_bytes: u64,
    /// The same, less records that said their source failed.
    pub valid_bytes: u64,
}

impl Tap {
    pub fn sender_emits(&mut self, bytes: Bytes) {
        self.from_sender.push(bytes);
        while let Some(message) = self
            .from_sender
            .next()
            .expect("the sender speaks the protocol")
        {
            let items = match message {
                Message::Entries(items) => items,
                Message::Holes {
                    entry,
                    first,
                    count,
                } => {
                    self.holes(entry, first..first + count);
                    continue;
                }
                _ => continue,
            };
            for item in items {
                match item {
                    Item::Entry(entry) => self.announce(entry),
                    Item::EndDirectory { id } => {
                        assert_eq!(
                            self.announced.get(&id).map(|entry| entry.kind),
                            Some(Kind::Directory)
                        );
                    }
                }
            }
        }
    }

    /// Chunks that are said to be hole: as if their records were sent.
    fn holes(&mut self, id: EntryId, chunks: std::ops::Range<u32>) {
        let entry = &self.announced[&id];
        assert!(entry.allocated_bytes.is_some(), "{id:?} has no holes");
        assert!(!chunks.is_empty() && self.asked.contains(&id), "{id:?}");
        for chunk in chunks {
            assert!(chunk_len_bytes(entry.size_bytes, ChunkIndex(chunk)) > 0);
            assert!(
                !self.have.contains(&(id, chunk)),
                "chunk {chunk} of {id:?} is there already"
            );
            assert!(
                self.sent.insert((id, chunk)),
                "chunk {chunk} of {id:?} is said twice"
            );
        }
    }

    fn announce(&mut self, entry: Entry) {
        assert_eq!(
            entry.id.0 as usize,
            self.announced.len() + 1,
            "entries count up from 1"
        );
        let parent = self.announced.get(&entry.parent).map(|parent| parent.kind);
        assert!(
            entry.parent.0 == 0 || parent == Some(Kind::Directory),
            "{entry:?} has no parent"
        );
        assert_ne!(entry.kind, Kind::Special, "special files are not sent");
        if entry.kind != Kind::Directory {
            self.unresolved.insert(entry.id);
            self.most_unresolved = self.most_unresolved.max(self.unresolved.len());
        }
        self.announced.insert(entry.id, entry);
    }

    pub fn receiver_emits(&mut self, bytes: Bytes) {
        self.from_receiver.push(bytes);
        while let Some(message) = self
            .from_receiver
            .next()
            .expect("the receiver speaks the protocol")
        {
            let verdicts = match message {
                Message::Verdicts(verdicts) => verdicts,
                Message::Again { entry, chunk } => {
                    let bytes = self.kept.remove(&(entry, chunk));
                    let bytes = bytes
                        .unwrap_or_else(|| panic!("asks again for chunk {chunk} of {entry:?}"));
                    self.valid_bytes -= bytes;
                    self.again_bytes += bytes;
                    self.sent.remove(&(entry, chunk));
                    self.asked_again += 1;
                    continue;
                }
                _ => continue,
            };
            for verdict in verdicts {
                let id = verdict.entry;
                let entry = self
                    .announced
                    .get(&id)
                    .unwrap_or_else(|| panic!("verdict on unannounced {id:?}"));
                assert!(
                    !self.terminal.contains(&id),
                    "a verdict after the last: {verdict:?}"
                );
                match verdict.kind {
                    VerdictKind::Send {} => {
                        assert!(self.asked.insert(id), "{id:?} is asked for twice")
                    }
                    VerdictKind::Have { first, values } => {
                        assert!(!self.asked.contains(&id), "a Have after the Send of {id:?}");
                        for chunk in first..first + values.len() as u32 / 32 {
                            assert!(
                                self.have.insert((id, chunk)),
                                "{chunk} of {id:?} is had twice"
                            );
                            self.have_bytes += chunk_len_bytes(entry.size_bytes, ChunkIndex(chunk));
                        }
                    }
                    VerdictKind::Skipped {}
                    | VerdictKind::Done { .. }
                    | VerdictKind::Failed { .. } => {
                        self.terminal.insert(id);
                    }
                }
            }
        }
    }

    pub fn delivered_to_sender(&mut self, bytes: Bytes) {
        self.to_sender.push(bytes);
        while let Some(message) = self
            .to_sender
            .next()
            .expect("the receiver speaks the protocol")
        {
            let Message::Verdicts(verdicts) = message else {
                continue;
            };
            for verdict in verdicts {
                match verdict.kind {
                    VerdictKind::Send {} | VerdictKind::Have { .. } => {}
                    VerdictKind::Skipped {}
                    | VerdictKind::Done { .. }
                    | VerdictKind::Failed { .. } => {
                        self.unresolved.remove(&verdict.entry);
                    }
                }
            }
        }
    }

    pub fn sender_emits_data(&mut self, key: StreamKey, mut bytes: Bytes, fin: bool) {
        let mut begins = Vec::new();
        let (parser, seen) = self.parsers.entry(key).or_default();
        while let Some(record) = parser
            .next(&mut bytes)
            .expect("the sender speaks the protocol")
        {
            match record {
                Record::Begin(head) => begins.push(head),
                Record::Data(data) => {
                    self.data_bytes += data.len() as u64;
                    *seen += data.len() as u64;
                }
                Record::Hole(_) => {}
                Record::End { status, .. } => {
                    let seen = std::mem::take(seen);
                    self.valid_bytes += if status != RecordStatus::SourceFailed {
                        seen
                    } else {
                        0
                    };
                }
            }
        }
        assert!(
            !fin || parser.is_between_records(),
            "{key:?} ends within a record"
        );
        begins.into_iter().for_each(|head| self.judge_begin(head));
    }

    /// A record of what was asked for, and for the first time.
    fn judge_begin(&mut self, head: RecordHead) {
        let id = head.entry();
        let entry = self
            .announced
            .get(&id)
            .unwrap_or_else(|| panic!("data of unannounced {id:?}"));
        assert!(
            self.asked.contains(&id),
            "data of {id:?} that nobody asked for"
        );
        let chunk = match head {
            RecordHead::Whole { len_bytes, .. } => {
                assert_eq!(len_bytes, entry.size_bytes, "{id:?} has another size");
                0
            }
            RecordHead::Chunk {
                chunk, len_bytes, ..
            } => {
                assert_eq!(
                    len_bytes,
                    chunk_len_bytes(entry.size_bytes, chunk),
                    "{chunk:?} of {id:?}"
                );
                chunk.0
            }
            RecordHead::Stretch {
                offset, len_bytes, ..
            } => {
                assert!(entry.is_unsized, "a stretch of {id:?}, whose size is known");
                let next = self.stretches.entry(id).or_default();
                assert_eq!(*next, offset, "a stretch of {id:?} out of order");
                *next += len_bytes;
                return;
            }
        };
        assert!(!entry.is_unsized, "{id:?} is of unknown size");
        assert!(
            !self.have.contains(&(id, chunk)),
            "chunk {chunk} of {id:?} is there already"
        );
        assert!(
            self.sent.insert((id, chunk)),
            "chunk {chunk} of {id:?} is sent twice"
        );
    }

    pub fn delivered_to_receiver(&mut self, key: StreamKey, mut bytes: Bytes) {
        let (parser, head, data_bytes) = self.delivered_parsers.entry(key).or_default();
        while let Some(record) = parser
            .next(&mut bytes)
            .expect("the sender speaks the protocol")
        {
            match (record, &head) {
                (Record::Begin(begun), _) => {
                    (*head, *data_bytes) = (Some(begun), 0);
                    self.may_wait |= matches!(
                        begun,
                        RecordHead::Chunk {
                            has_holes: true,
                            ..
                        }
                    );
                }
                (
                    Record::End {
                        status: RecordStatus::Valid,
                        ..
                    },
                    Some(RecordHead::Chunk {
                        entry, len_bytes, ..
                    }),
                ) if !self.may_wait => {
                    *self.delivered.entry(*entry).or_default() += len_bytes;
                }
                (Record::End { status, .. }, Some(RecordHead::Chunk { entry, chunk, .. }))
                    if status.is_kept() =>
                {
                    self.kept.insert((*entry, chunk.0), *data_bytes);
                }
                (Record::Data(data), _) => *data_bytes += data.len() as u64,
                (Record::End { .. } | Record::Hole(_), _) => {}
            }
        }
    }

    /// Resumable files without a verdict yet, with the bytes of whole chunks that arrived for them.
    pub fn unfinished(&self) -> BTreeMap<EntryId, u64> {
        let unfinished = |id: &EntryId| {
            !self.terminal.contains(id) && is_resumable(self.announced[id].size_bytes)
        };
        self.delivered
            .iter()
            .filter(|(id, _)| unfinished(id))
            .map(|(id, bytes)| (*id, *bytes))
            .collect()
    }
}
