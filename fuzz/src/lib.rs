//! What the targets of whole sessions share: a session whose peer and disk say what the fuzzer's
//! bytes say.
//!
//! The disk is imagined; its answers are of the right kind and otherwise up to the bytes. A session
//! must not panic, must stay within its bounds, and must end when its control stream does.

mod disk;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use landro::ids::{EntryId, MoverId, OpId, StreamKey};
pub use landro::proto::PIECE_BYTES;
use landro::proto::clear::ClearLanes;
use landro::proto::parallel::ParallelTransferConfig;
use landro::proto::session::{Limits, PATIENCE, Session};
use landro::proto::wire::{
    Decoder, Entry, Hello, Item, Message, RecordHead, RecordStatus, VERSION, Verdict, WireRequest,
    encode, encode_record_tail,
};
use landro::proto::{CancelReason, Carriage, DiskOp, Input, Kind, Mtime, Outcome, Output};

/// Small, so that a fuzzer reaches what happens when it is full.
const ENTRY_WINDOW: u32 = 16;

const WRITE_BEHIND_BYTES: usize = 256 * 1024;

const READ_AHEAD_BYTES: usize = 1 << 20;

/// A session that is over closes what it holds: in fewer disk operations than this.
const MAX_CLOSING_OPS: usize = 100_000;

/// A time to count from; none passes but what a script says.
#[allow(clippy::disallowed_methods, reason = "an epoch to count from")]
pub fn epoch() -> Instant {
    Instant::now()
}

pub fn limits() -> Limits {
    Limits {
        entry_window: ENTRY_WINDOW,
        write_behind_bytes: WRITE_BEHIND_BYTES,
        read_ahead_bytes: READ_AHEAD_BYTES,
        read_ahead_in_place_bytes: READ_AHEAD_BYTES / 2,
        read_ahead_all_bytes: 2 * READ_AHEAD_BYTES,
        carriage: Carriage::Bytes,
        host_key: None,
        parallel: ParallelTransferConfig::default(),
        lookups: 8,
        patience: Some(PATIENCE),
        adds_lanes: false,
        keeps_digests: true,
        asks_addresses: false,
        addresses: std::sync::Arc::default(),
        clear: ClearLanes::Off,
    }
}

/// The fuzzer's bytes, read from the front; behind the last come zeros.
pub struct Script<'a>(pub &'a [u8]);

impl Script<'_> {
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    pub fn take(&mut self, len: usize) -> Bytes {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        Bytes::copy_from_slice(taken)
    }

    /// At most 255 bytes, their count before them.
    pub fn short(&mut self) -> Bytes {
        let len = usize::from(self.byte());
        self.take(len)
    }

    pub fn entry(&mut self) -> EntryId {
        EntryId(u32::from(self.byte()))
    }
}

/// A session under test and all that surrounds it.
pub struct World<'a> {
    pub script: Script<'a>,
    pub session: Session,
    pub outcome: Option<Outcome>,
    now: Instant,
    /// Disk operations not answered yet.
    pending: VecDeque<(OpId, DiskOp)>,
    /// Stream bytes the session emitted that the transport has not taken.
    untaken_bytes: u64,
    takes_data: bool,
    /// What the session says must be messages that its peer understands.
    said: Decoder,
    /// Announced to the session.
    entries: u32,
}

impl<'a> World<'a> {
    pub fn new(script: Script<'a>, session: impl FnOnce(Instant) -> Session) -> World<'a> {
        let now = epoch();
        let mut world = World {
            script,
            session: session(now),
            outcome: None,
            now,
            pending: VecDeque::new(),
            untaken_bytes: 0,
            takes_data: true,
            said: Decoder::new(),
            entries: 0,
        };
        world.drain();
        world
    }

    /// Steps until the bytes or the session are at an end; then hangs up and sees the session end.
    ///
    /// # Panics
    /// It does not end.
    pub fn run(mut self, step: impl Fn(&mut World<'a>)) {
        while !self.script.is_over() && self.outcome.is_none() {
            step(&mut self);
        }
        self.input(Input::ControlClosed);
        for _ in 0..MAX_CLOSING_OPS {
            let Some((op, cmd)) = self.pending.pop_front() else {
                break;
            };
            let result = disk::answer(&cmd, &mut self.script);
            self.input(Input::Disk { op, result });
        }
        assert!(self.pending.is_empty(), "disk operations for ever");
        assert!(self.outcome.is_some(), "does not end");
    }

    pub fn input(&mut self, input: Input) {
        if self.outcome.is_none() {
            self.session.handle(self.now, input);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll() {
            assert!(self.outcome.is_none(), "an output after the end");
            match output {
                Output::Disk { op, cmd } => self.pending.push_back((op, cmd)),
                Output::Finished(outcome) => self.outcome = Some(outcome),
                Output::Control(bytes) => {
                    self.said.push(bytes);
                    while self
                        .said
                        .next()
                        .expect("the session speaks the protocol")
                        .is_some()
                    {}
                }
                Output::Data { payload, .. } => self.untaken_bytes += payload.len_bytes(),
                Output::TakesData(takes_data) => self.takes_data = takes_data,
                Output::Copy(_) => panic!("this lane leads to another host"),
                Output::Piece { .. }
                | Output::AnswersMax(_)
                | Output::Stays(_)
                | Output::Retired(_)
                | Output::AddsLanes { .. }
                | Output::LaneOver(_)
                | Output::Altered
                | Output::LaneAccount(_)
                | Output::ToOutpost(..)
                | Output::ToHome(_)
                | Output::Event(_) => {}
            }
        }
        let written_behind: usize = self
            .pending
            .iter()
            .map(|(_, cmd)| disk::writing_bytes(cmd))
            .sum();
        assert!(
            written_behind <= WRITE_BEHIND_BYTES + 2 * PIECE_BYTES,
            "{written_behind} bytes written behind"
        );
        // Heads, digests and ends of records come on top of what is read ahead.
        let reading: usize = self
            .pending
            .iter()
            .map(|(_, cmd)| disk::reading_bytes(cmd))
            .sum();
        let read_ahead = self.untaken_bytes + reading as u64;
        assert!(
            read_ahead <= 2 * READ_AHEAD_BYTES as u64,
            "{read_ahead} bytes read ahead"
        );
    }

    pub fn say(&mut self, message: &Message) {
        let mut bytes = BytesMut::new();
        encode(message, &mut bytes);
        self.input(Input::Control(bytes.freeze()));
    }

    /// `body` as one message, whatever it holds.
    pub fn say_raw(&mut self, body: &[u8]) {
        let mut framed = BytesMut::new();
        framed.put_u32(body.len() as u32);
        framed.put_slice(body);
        self.input(Input::Control(framed.freeze()));
    }

    pub fn hello(&mut self, request: WireRequest, bwlimit_bps: Option<u64>) {
        let streams = None;
        let hello = Hello {
            version: VERSION,
            request,
            entry_window: ENTRY_WINDOW,
            bwlimit_bps,
            streams,
            counts: false,
            patience_s: None,
            adds_lanes: false,
            asks_addresses: false,
            takes_kept: true,
            clear: false,
        };
        self.say(&Message::Hello(hello));
    }

    /// What any peer and any disk may do, whoever sends; `what` is up to the script.
    pub fn anything(&mut self, what: u8) {
        match what % 8 {
            0 => self.complete(),
            1 => {
                let body = self.script.short();
                self.say_raw(&body);
            }
            2 => {
                let (stream, fin) = (
                    StreamKey(u64::from(self.script.byte())),
                    self.script.byte() & 1 == 0,
                );
                let bytes = self.script.short();
                if self.takes_data {
                    self.input(Input::Data { stream, bytes, fin });
                }
            }
            3 => {
                let bytes = (u64::from(self.script.byte()) * 1024).min(self.untaken_bytes);
                self.untaken_bytes -= bytes;
                let mover = MoverId::CONTROL;
                self.input(Input::Sent { mover, bytes });
            }
            4 => {
                let bytes = self.script.short();
                self.input(Input::Control(bytes));
            }
            5 => {
                self.now += Duration::from_millis(1 << (self.script.byte() % 20));
                self.input(Input::Tick);
                let due = self.session.deadline().is_some_and(|at| at <= self.now);
                assert!(
                    !due,
                    "a deadline that a tick does not move: the worker would spin"
                );
            }
            6 => self.input(Input::DataReset),
            _ => self.input(Input::Cancel(CancelReason::User)),
        }
    }

    /// One of the disk operations under way is over. Takes a byte even if there is none, or a
    /// script would not end.
    pub fn complete(&mut self) {
        let at = usize::from(self.script.byte());
        if self.pending.is_empty() {
            return;
        }
        let at = at % self.pending.len();
        if let Some((op, cmd)) = self.pending.remove(at) {
            let result = disk::answer(&cmd, &mut self.script);
            self.input(Input::Disk { op, result });
        }
    }

    /// The peer announces an entry.
    pub fn announce(&mut self) {
        let flags = self.script.byte();
        if flags & 0x80 == 0 {
            self.entries += 1;
        }
        let kind = [Kind::File, Kind::Directory, Kind::Symlink, Kind::File][usize::from(flags & 3)];
        let size_bytes = match kind {
            Kind::File => u64::from(self.script.byte()) << (self.script.byte() % 56),
            Kind::Directory | Kind::Symlink | Kind::Special => 0,
        };
        let entry = Entry {
            id: EntryId(self.entries),
            parent: self.script.entry(),
            name: self.script.take(usize::from(flags >> 2 & 7)),
            kind,
            mode: 0o644,
            mtime: Mtime {
                seconds: 1,
                nanoseconds: 2,
            },
            size_bytes,
            source_tag: 3,
            object: None,
            allocated_bytes: (flags & 0x40 != 0).then_some(size_bytes / 2),
            is_unsized: false,
            link: (kind == Kind::Symlink).then(|| Bytes::from_static(b"to")),
        };
        self.say(&Message::Entries(vec![Item::Entry(entry)]));
    }

    /// A record of honest data on a stream of its own or a shared one.
    pub fn record(&mut self, head: RecordHead, data: &[u8], digest: [u8; 32]) {
        let stream = StreamKey(1000 + u64::from(self.script.byte()));
        let mut bytes = BytesMut::new();
        head.encode(&mut bytes);
        bytes.put_slice(data);
        encode_record_tail(RecordStatus::Valid, &digest, &mut bytes);
        let mut bytes = bytes.freeze();
        while !bytes.is_empty() && self.outcome.is_none() {
            while !self.takes_data && !self.pending.is_empty() {
                self.complete();
            }
            if !self.takes_data {
                return;
            }
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            self.input(Input::Data {
                stream,
                bytes: piece,
                fin: false,
            });
        }
    }

    pub fn judge(&mut self, verdict: Verdict) {
        self.say(&Message::Verdicts(vec![verdict]));
    }
}
