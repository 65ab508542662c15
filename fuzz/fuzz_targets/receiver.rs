//! A receiving server fed whatever the bytes say: control messages, stream data, disk results in any order.
//!
//! Each input is a list of actions; the disk is imagined, its answers are of the right kind and otherwise up to
//! the bytes. The session must not panic, must stay within its bounds, and must end when the control stream does.
#![no_main]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use landro::proto::chunks::ParallelTransferConfig;
use landro::proto::integrity::digest_of;
use landro::proto::session::{Grant, Limits, Session};
use landro::proto::wire::{
    Entry, Hello, Item, Message, RecordHead, RecordStatus, VERSION, WireRequest, encode, encode_record_tail,
};
use landro::proto::{DiskDone, DiskError, DiskOp, Input, Kind, Meta, Mtime, Outcome, Output};
use landro::units::{ChunkIndex, EntryId, OpId, StreamKey};
use libfuzzer_sys::fuzz_target;

const WRITE_BEHIND_BYTES: usize = 256 * 1024;

struct Driver<'a> {
    bytes: &'a [u8],
    session: Session,
    now: Instant,
    pending: VecDeque<(OpId, DiskOp)>,
    outcome: Option<Outcome>,
    entries: u32,
}

fuzz_target!(|data: &[u8]| {
    let limits = Limits {
        entry_window: 16,
        write_behind_bytes: WRITE_BEHIND_BYTES,
        read_ahead_bytes: 1 << 20,
        boot_id: [1; 16],
        parallel: ParallelTransferConfig::default(),
        lookups: 8,
    };
    let now = Instant::now();
    let session = Session::server(now, Grant { read: true, write: true }, limits);
    let mut driver =
        Driver { bytes: data, session, now, pending: VecDeque::new(), outcome: None, entries: 0 };
    if driver.byte() & 1 == 0 {
        let request = WireRequest::Push {
            target: Bytes::from_static(b"t"),
            must_be_dir: true,
            force: false,
            fsync: false,
            single: false,
            keep_dirlinks: false,
        };
        let agent = String::new();
        let hello =
            Hello { version: VERSION, agent, request, entry_window: 1, bwlimit_bps: None, streams: None };
        driver.say(&Message::Hello(hello));
    }
    while !driver.bytes.is_empty() && driver.outcome.is_none() {
        driver.step();
    }
    driver.input(Input::ControlClosed);
    let mut left = 100_000;
    while let Some((op, cmd)) = driver.pending.pop_front() {
        driver.input(Input::Disk { op, result: answer(&cmd, 0) });
        left -= 1;
        assert!(left > 0, "disk operations for ever");
    }
    assert!(driver.outcome.is_some(), "does not end");
});

impl Driver<'_> {
    fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((byte, rest)) => {
                self.bytes = rest;
                *byte
            }
            None => 0,
        }
    }

    fn take(&mut self, len: usize) -> Bytes {
        let (taken, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        Bytes::copy_from_slice(taken)
    }

    fn step(&mut self) {
        match self.byte() % 12 {
            0 | 1 => self.complete(),
            2 => {
                let len = usize::from(self.byte());
                let body = self.take(len);
                let mut framed = BytesMut::new();
                framed.put_u32(body.len() as u32);
                framed.put_slice(&body);
                self.input(Input::Control(framed.freeze()));
            }
            3 | 4 => self.announce(),
            5 => {
                let id = EntryId(u32::from(self.byte()));
                self.say(&Message::Entries(vec![Item::EndDirectory { id }]));
            }
            6 => {
                let entry = EntryId(u32::from(self.byte()));
                let data = vec![7; usize::from(self.byte())];
                self.record(RecordHead::Whole { entry, len_bytes: data.len() as u64 }, &data);
            }
            7 => {
                let (entry, chunk) = (EntryId(u32::from(self.byte())), ChunkIndex(u32::from(self.byte())));
                let len_bytes = 1u64 << (self.byte() % 40);
                let data = vec![7; len_bytes.min(2 << 20) as usize];
                self.record(RecordHead::Chunk { entry, chunk, len_bytes }, &data);
            }
            8 => {
                let (stream, fin) = (StreamKey(u32::from(self.byte())), self.byte() & 1 == 0);
                let len = usize::from(self.byte());
                let bytes = self.take(len);
                if self.session.reads_allowed() {
                    self.input(Input::Data { stream, bytes, fin });
                }
            }
            9 => {
                let entry = EntryId(u32::from(self.byte()));
                self.say(&Message::Root { entry, digest: [0; 32] });
            }
            10 => {
                let entries = u64::from(self.byte());
                self.say(&Message::ManifestEnd { entries });
            }
            _ => match self.byte() % 8 {
                0 => self.input(Input::Cancel),
                1 => {
                    let stream = StreamKey(u32::from(self.byte()));
                    self.input(Input::DataReset { stream });
                }
                _ => {
                    let passed_ms = u64::from(self.byte());
                    self.now += Duration::from_millis(passed_ms);
                    self.input(Input::Tick);
                }
            },
        }
    }

    fn announce(&mut self) {
        let flags = self.byte();
        if flags & 0x80 == 0 {
            self.entries += 1;
        }
        let kind = [Kind::File, Kind::Directory, Kind::Symlink, Kind::File][usize::from(flags & 3)];
        let size_bytes = match kind {
            Kind::File => u64::from(self.byte()) << (self.byte() % 32),
            Kind::Directory | Kind::Symlink | Kind::Special => 0,
        };
        let len = usize::from(flags >> 2 & 7);
        let entry = Entry {
            id: EntryId(self.entries),
            parent: EntryId(u32::from(self.byte())),
            name: self.take(len),
            kind,
            mode: 0o644,
            mtime: Mtime { seconds: 1, nanoseconds: 2 },
            size_bytes,
            source_tag: 3,
            link: (kind == Kind::Symlink).then(|| Bytes::from_static(b"to")),
        };
        self.say(&Message::Entries(vec![Item::Entry(entry)]));
    }

    fn record(&mut self, head: RecordHead, data: &[u8]) {
        let stream = StreamKey(1000 + u32::from(self.byte()));
        let mut bytes = BytesMut::new();
        head.encode(&mut bytes);
        bytes.put_slice(data);
        encode_record_tail(RecordStatus::Valid, &digest_of(data), &mut bytes);
        let mut bytes = bytes.freeze();
        while !bytes.is_empty() && self.outcome.is_none() {
            while !self.session.reads_allowed() && !self.pending.is_empty() {
                self.complete();
            }
            if !self.session.reads_allowed() {
                return;
            }
            let piece = bytes.split_to(bytes.len().min(65_536));
            self.input(Input::Data { stream, bytes: piece, fin: false });
        }
    }

    fn complete(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let at = usize::from(self.byte()) % self.pending.len();
        let how = self.byte();
        if let Some((op, cmd)) = self.pending.remove(at) {
            self.input(Input::Disk { op, result: answer(&cmd, how) });
        }
    }

    fn say(&mut self, message: &Message) {
        let mut bytes = BytesMut::new();
        encode(message, &mut bytes);
        self.input(Input::Control(bytes.freeze()));
    }

    fn input(&mut self, input: Input) {
        if self.outcome.is_some() {
            return;
        }
        self.session.handle(self.now, input);
        while let Some(output) = self.session.poll() {
            assert!(self.outcome.is_none(), "an output after the end");
            match output {
                Output::Disk { op, cmd } => self.pending.push_back((op, cmd)),
                Output::Finished(outcome) => self.outcome = Some(outcome),
                Output::Control(_) | Output::Data { .. } | Output::Event(_) => {}
            }
        }
        let writing = |(_, cmd): &(OpId, DiskOp)| match cmd {
            DiskOp::Write { data, .. } => data.len(),
            DiskOp::PutSmall { data, .. } => data.iter().map(Bytes::len).sum(),
            _ => 0,
        };
        let written_behind: usize = self.pending.iter().map(writing).sum();
        assert!(written_behind <= WRITE_BEHIND_BYTES + 2 * 65_536, "{written_behind} bytes written behind");
    }
}

/// An answer of the right kind.
fn answer(cmd: &DiskOp, how: u8) -> Result<DiskDone, DiskError> {
    if how & 7 == 7 {
        let errno = [28, 13, 20, 21, 2, 5][usize::from(how >> 3) % 6];
        return Err(DiskError { call: "imagined", errno });
    }
    Ok(match cmd {
        DiskOp::ResolveTarget { .. } => DiskDone::Target { name: None },
        DiskOp::MakeDir { .. } => DiskDone::Directory { existed: how & 8 != 0 },
        DiskOp::Check { .. } => {
            let kind = if how & 16 == 0 { Kind::File } else { Kind::Directory };
            let mtime = Mtime { seconds: 1, nanoseconds: 2 };
            let meta = Meta { kind, mode: 0, mtime, size_bytes: u64::from(how >> 5), inode: 1 };
            DiskDone::Existing((how & 8 != 0).then_some(meta))
        }
        DiskOp::OpenPart { resumable, .. } => {
            DiskDone::Part { journal: Bytes::new(), size_bytes: 0, resumable: *resumable && how & 8 == 0 }
        }
        DiskOp::ReadPart { len_bytes, .. } => DiskDone::Read { data: vec![0; *len_bytes].into() },
        _ => DiskDone::Done,
    })
}
