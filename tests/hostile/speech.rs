//! What a peer says and hears of the protocol, and the messages and entries it says it with.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use landro::ids::{EntryId, SessionId};
use landro::proto::integrity::Digest;
use landro::proto::wire::{
    self, Entry, Hello, Item, Message, Preface, PrefaceKind, RecordHead, RecordStatus, VerdictKind,
    Welcome, WireRequest, streams,
};
use landro::proto::{Kind, Mtime};

use super::{PATIENCE_TURNS, Peer};

impl Peer {
    /// Bytes of the control stream, whatever they are.
    pub fn control(&mut self, bytes: &[u8]) {
        self.send(0, bytes, false);
    }

    pub fn preface(&mut self) {
        let mut id = [0; 16];
        boring::rand::rand_bytes(&mut id).unwrap();
        let preface = Preface {
            kind: PrefaceKind::New,
            session: SessionId(id),
            lane: 0,
        };
        self.control(&preface.encode());
    }

    pub fn message(&mut self, message: &Message) {
        let mut bytes = BytesMut::new();
        wire::encode(message, &mut bytes);
        self.control(&bytes);
    }

    /// Preface and hello.
    pub fn open(&mut self, request: WireRequest) {
        self.preface();
        self.message(&hello(request));
    }

    /// Opens a push and waits for the welcome.
    pub fn push(&mut self, target: &str) {
        self.open(push_request(target));
        match self.next_message() {
            Some(Message::Welcome(_)) => {}
            other => panic!("no welcome: {other:?} {:?}", self.closed()),
        }
    }

    pub fn entries(&mut self, items: Vec<Item>) {
        self.message(&Message::Entries(items));
    }

    /// A new data stream with its first byte.
    pub fn open_data(&mut self) -> u64 {
        let role = u64::from(self.conn.is_server());
        let stream = self.streams * 4 + 2 + role;
        self.streams += 1;
        self.send(stream, &[streams::DATA], false);
        stream
    }

    /// One record on a stream of its own.
    pub fn record(&mut self, head: RecordHead, data: &[u8], digest: Digest) {
        let stream = self.open_data();
        let mut bytes = BytesMut::new();
        head.encode(&mut bytes);
        bytes.extend_from_slice(data);
        wire::encode_record_tail(RecordStatus::Valid, &digest, &mut bytes);
        bytes.extend_from_slice(&streams::END);
        self.send(stream, &bytes, true);
    }

    /// Raw bytes on a unidirectional stream of their own.
    pub fn raw_data(&mut self, bytes: &[u8], fin: bool) {
        let stream = self.streams * 4 + 2;
        self.streams += 1;
        self.send(stream, bytes, fin);
    }

    /// The next control message; None when the connection was closed instead.
    pub fn next_message(&mut self) -> Option<Message> {
        for _ in 0..PATIENCE_TURNS {
            // A sign of work may come between any two messages.
            match self.messages.pop_front() {
                Some(Message::Working { .. }) => continue,
                Some(message) => return Some(message),
                None => {}
            }
            if self.is_closed() {
                return None;
            }
            self.turn();
        }
        panic!("neither a message nor the end");
    }

    /// The next verdict about an entry.
    pub fn verdict(&mut self, entry: u32) -> VerdictKind {
        let mut pending = VecDeque::new();
        loop {
            let Some(message) = self.next_message() else {
                panic!("closed before a verdict about {entry}: {:?}", self.closed())
            };
            let Message::Verdicts(mut verdicts) = message else {
                pending.push_back(message);
                continue;
            };
            if let Some(at) = verdicts
                .iter()
                .position(|verdict| verdict.entry == EntryId(entry))
            {
                let found = verdicts.remove(at).kind;
                pending.push_back(Message::Verdicts(verdicts));
                pending.append(&mut self.messages);
                self.messages = pending;
                return found;
            }
            pending.push_back(Message::Verdicts(verdicts));
        }
    }
}

pub fn hello(request: WireRequest) -> Message {
    Message::Hello(Hello {
        version: 1,
        request,
        entry_window: 1024,
        bwlimit_bps: None,
        streams: None,
        counts: false,
        patience_s: None,
        adds_lanes: false,
        asks_addresses: false,
        takes_kept: false,
        clear: false,
    })
}

pub fn welcome() -> Message {
    Message::Welcome(Welcome {
        version: 1,
        entry_window: 1024,
        inside: false,
        place: None,
        adds_lanes: false,
        addresses: Vec::new(),
        clear: None,
    })
}

pub fn push_request(target: &str) -> WireRequest {
    let target = Bytes::copy_from_slice(target.as_bytes());
    WireRequest::Push {
        target,
        must_be_dir: false,
        force: false,
        fsync: false,
        single: false,
        keep_dirlinks: false,
        no_perms: false,
        no_times: false,
        dir_modes: false,
        no_target_dir: false,
        copy: None,
    }
}

pub fn entry(id: u32, parent: u32, name: &[u8], kind: Kind, size_bytes: u64) -> Item {
    Item::Entry(Entry {
        id: EntryId(id),
        parent: EntryId(parent),
        name: Bytes::copy_from_slice(name),
        kind,
        mode: 0o644,
        mtime: Mtime {
            seconds: 1_000_000,
            nanoseconds: 5,
        },
        size_bytes,
        source_tag: 42,
        is_unsized: false,
        object: None,
        allocated_bytes: None,
        link: None,
    })
}

pub fn file(id: u32, name: &str, size_bytes: u64) -> Item {
    entry(id, 0, name.as_bytes(), Kind::File, size_bytes)
}

/// One that is sent in stretches.
pub fn file_of_unknown_size(id: u32, name: &str) -> Item {
    let Item::Entry(mut made) = file(id, name, 0) else {
        unreachable!()
    };
    made.is_unsized = true;
    Item::Entry(made)
}

/// One of which next to nothing is data.
pub fn file_with_holes(id: u32, name: &str, size_bytes: u64) -> Item {
    let Item::Entry(mut made) = file(id, name, size_bytes) else {
        unreachable!()
    };
    made.allocated_bytes = Some(4096);
    Item::Entry(made)
}

pub fn directory(id: u32, parent: u32, name: &str) -> Item {
    entry(id, parent, name.as_bytes(), Kind::Directory, 0)
}

pub fn end(id: u32) -> Item {
    Item::EndDirectory { id: EntryId(id) }
}

pub fn link(id: u32, parent: u32, name: &str, target: &str) -> Item {
    let Item::Entry(mut made) = entry(id, parent, name.as_bytes(), Kind::Symlink, 0) else {
        unreachable!()
    };
    made.link = Some(Bytes::copy_from_slice(target.as_bytes()));
    Item::Entry(made)
}
