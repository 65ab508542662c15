//! What sender, receiver and listing share: the output queue, the control message buffer, the
//! operation table.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use slab::Slab;

use crate::ids::{MoverId, OpId, StreamKey, WorkerId};
use crate::proto::clear::ClearSecret;
use crate::proto::query::QueryAnswer;
use crate::proto::wire::{self, LaneAccount, Message};
use crate::proto::{CopyStep, DiskOp, EntryPlace, Event, Outcome, Output, PIECE_BYTES, Payload};
use crate::proto::{MoverOrder, MoverReport};

/// Control bytes are handed over in pieces of about this size when they do not wait for a lull
/// before.
const CONTROL_PIECE_BYTES: usize = PIECE_BYTES;

/// Progress is told when this much passed, or after [`REPORT_EVERY`]: thousands of events per
/// second would only be redrawn.
const REPORT_BYTES: u64 = 4 << 20;
pub const REPORT_EVERY: Duration = Duration::from_millis(50);

/// The outputs of one session, in order.
#[derive(Debug, Default)]
pub struct Ports {
    queue: VecDeque<Output>,
    control: BytesMut,
    /// Disk operations wanted so far, without those that only yield.
    disk_wanted: u64,
    /// Something for the peer was put into the queue.
    has_spoken: bool,
    moved: RecordsMoved,
    /// The slot that messages are about, and the one that the peer takes them for.
    about: Option<u8>,
    told_about: u8,
}

/// Records of data streams (small files, and chunks of large ones) that were moved whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordsMoved {
    pub sent: u64,
    pub received: u64,
}

impl Ports {
    pub fn pop(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }

    /// Appends a control message. It leaves with others, when the queue is next empty or enough
    /// came together.
    pub fn message(&mut self, message: &Message) {
        if let Some(slot) = self.about
            && slot != self.told_about
        {
            self.told_about = slot;
            wire::encode(&Message::About { slot }, &mut self.control);
        }
        wire::encode(message, &mut self.control);
        if self.control.len() >= CONTROL_PIECE_BYTES {
            self.flush();
        }
    }

    /// Messages from now on are about this slot of a session of queries; None: about none.
    pub fn about(&mut self, slot: Option<u8>) {
        self.about = slot;
    }

    /// Hands over the control bytes held back.
    pub fn flush(&mut self) {
        if !self.control.is_empty() {
            self.has_spoken = true;
            self.queue
                .push_back(Output::Control(self.control.split().freeze()));
        }
    }

    /// `records`: how many end with these bytes; `fin`: the stream does.
    pub fn data(&mut self, stream: StreamKey, payload: Payload, records: u32, fin: bool) {
        self.has_spoken = true;
        self.moved.sent += u64::from(records);
        self.queue.push_back(Output::Data {
            stream,
            payload,
            records,
            fin,
        });
    }

    /// A record of the peer is here to its end.
    pub fn received_record(&mut self) {
        self.moved.received += 1;
    }

    pub fn records_moved(&self) -> RecordsMoved {
        self.moved
    }

    pub fn stays(&mut self, stream: StreamKey) {
        self.queue.push_back(Output::Stays(stream));
    }

    pub fn retired(&mut self, mover: MoverId) {
        self.queue.push_back(Output::Retired(mover));
    }

    pub fn adds_lanes(&mut self, sends: bool, clear: Option<ClearSecret>) {
        self.queue.push_back(Output::AddsLanes { sends, clear });
    }

    pub fn altered(&mut self) {
        self.queue.push_back(Output::Altered);
    }

    /// For the part of the session on another worker.
    pub fn mail_outpost(&mut self, worker: WorkerId, order: MoverOrder) {
        self.queue
            .push_back(Output::ToOutpost(worker, Box::new(order)));
    }

    /// For the session's own worker.
    pub fn mail_home(&mut self, report: MoverReport) {
        self.queue.push_back(Output::ToHome(Box::new(report)));
    }

    pub fn lane_over(&mut self, lane: u32) {
        self.queue.push_back(Output::LaneOver(lane));
    }

    pub fn lane_account(&mut self, account: LaneAccount) {
        self.queue.push_back(Output::LaneAccount(account));
    }

    pub fn disk_wanted(&self) -> u64 {
        self.disk_wanted
    }

    /// Whether something was said to the peer since this was last asked.
    pub fn take_spoken(&mut self) -> bool {
        std::mem::take(&mut self.has_spoken)
    }

    /// How the next bytes of an incoming stream are best handed over, if that changed.
    pub fn piece(&mut self, stream: StreamKey, bytes: Option<usize>) {
        self.queue.push_back(Output::Piece { stream, bytes });
    }

    pub fn takes_data(&mut self, takes: bool) {
        self.queue.push_back(Output::TakesData(takes));
    }

    pub fn answers_max(&mut self, bytes: Option<usize>) {
        self.queue.push_back(Output::AnswersMax(bytes));
    }

    /// Steps follow the control messages that were given before them.
    pub fn copy(&mut self, step: CopyStep) {
        self.flush();
        self.queue.push_back(Output::Copy(step));
    }

    /// Ends a data stream behind its last record.
    pub fn end_data(&mut self, stream: StreamKey) {
        self.data(stream, Payload::Bytes(Bytes::new()), 0, true);
    }

    pub fn event(&mut self, event: Event) {
        self.queue.push_back(Output::Event(event));
    }

    /// Something came of the query in this slot.
    pub fn answer(&mut self, slot: u8, answer: QueryAnswer) {
        self.event(Event::Answer { slot, answer });
    }

    pub fn finished(&mut self, outcome: Outcome) {
        self.flush();
        self.queue.push_back(Output::Finished(outcome));
    }
}

/// Whether and how far a role stops.
#[derive(Debug, PartialEq, Eq)]
pub enum Stopping {
    No,
    /// Nothing new is started; operations in flight are waited for.
    Draining,
    /// What was open is being closed.
    Closing,
}

/// Who of a session started a disk operation: each knows its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpOwner {
    Plan,
    /// Or an answer to a query.
    Mover(MoverId),
}

impl OpOwner {
    /// Whose operation this is.
    pub fn of(op: OpId) -> OpOwner {
        match (op.0 >> 32) as u32 & MOVER_BIT {
            0 => OpOwner::Plan,
            _ => OpOwner::Mover(MoverId((op.0 >> 16 & MOVER_KEY_BITS) as u32)),
        }
    }
}

/// The disk operations in flight and what each was for.
#[derive(Debug)]
pub struct Ops<T> {
    owner: OpOwner,
    slots: Slab<(u32, T)>,
    serial: u32,
}

impl<T> Ops<T> {
    pub fn of(owner: OpOwner) -> Ops<T> {
        Ops {
            owner,
            slots: Slab::new(),
            serial: 0,
        }
    }

    /// Starts `cmd`, remembering `what` it is for.
    pub fn start(&mut self, ports: &mut Ports, what: T, cmd: DiskOp) {
        let serial = self.serial.wrapping_add(1) & !MOVER_BIT;
        let key = self.slots.insert((serial, what));
        self.serial = serial;
        debug_assert!(
            key as u64 <= key_bits(self.owner),
            "more operations than any window"
        );
        let op = OpId(u64::from(serial) << 32 | owner_bits(self.owner) | key as u64);
        ports.disk_wanted += u64::from(!matches!(cmd, DiskOp::Yield));
        ports.queue.push_back(Output::Disk { op, cmd });
    }

    /// What an operation was for; `None` for one that is not in flight.
    pub fn finish(&mut self, op: OpId) -> Option<T> {
        let serial = (op.0 >> 32) as u32 & !MOVER_BIT;
        let key_bits = key_bits(self.owner);
        let key = (op.0 & key_bits) as usize;
        let is_ours = op.0 & OWNER_BITS & !key_bits == owner_bits(self.owner);
        match self.slots.get(key).filter(|_| is_ours) {
            Some((known, _)) if *known == serial => Some(self.slots.remove(key).1),
            _ => None,
        }
    }

    pub fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// What the operation was for that is in flight longest.
    pub fn oldest(&self) -> Option<&T> {
        let oldest = self.slots.iter().min_by_key(|(_, (serial, _))| *serial);
        oldest.map(|(_, (_, what))| what)
    }

    /// Whether something of this kind is in flight.
    pub fn any(&self, is_it: impl Fn(&T) -> bool) -> bool {
        self.slots.iter().any(|(_, (_, what))| is_it(what))
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().map(|(_, (_, what))| what)
    }
}

/// The topmost bit of a serial says whether it is a mover's, and bits below the serial which one's:
/// of a mover that is gone nothing is in flight 65,536 movers later.
const MOVER_BIT: u32 = 1 << 31;
const MOVER_KEY_BITS: u64 = 0xffff;
const OWNER_BITS: u64 = (MOVER_BIT as u64) << 32 | MOVER_KEY_BITS << 16;

fn owner_bits(owner: OpOwner) -> u64 {
    match owner {
        OpOwner::Plan => 0,
        OpOwner::Mover(MoverId(mover)) => {
            u64::from(MOVER_BIT) << 32 | (u64::from(mover) & MOVER_KEY_BITS) << 16
        }
    }
}

/// The part of an operation's number that is its place in the table.
fn key_bits(owner: OpOwner) -> u64 {
    match owner {
        OpOwner::Plan => u64::from(u32::MAX),
        OpOwner::Mover(_) => MOVER_KEY_BITS,
    }
}

/// How what was copied of a file differs from what it holds, or said that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OddSize {
    /// It grew while it was read: what it held as it was announced.
    Grown,
    /// Its file system said more than there was to be read.
    Short,
}

impl OddSize {
    pub fn of(has_grown: bool, bytes: u64, announced_bytes: u64) -> Option<OddSize> {
        match has_grown {
            true => Some(OddSize::Grown),
            false => (bytes < announced_bytes).then_some(OddSize::Short),
        }
    }
}

/// Files of odd sizes, of which the client's side tells once.
#[derive(Debug, Default)]
pub struct OddSizes {
    grown: OddFiles,
    short: OddFiles,
}

#[derive(Debug, Default)]
struct OddFiles {
    files: u64,
    first: Bytes,
}

impl OddSizes {
    pub fn note(&mut self, odd: OddSize, path: impl FnOnce() -> Bytes) {
        let noted = match odd {
            OddSize::Grown => &mut self.grown,
            OddSize::Short => &mut self.short,
        };
        noted.files += 1;
        if noted.files == 1 {
            noted.first = path();
        }
    }

    pub fn tell(&self, ports: &mut Ports) {
        let grown = (
            "grew while it was read; what it held at first was copied",
            "grew while they were read; what each held at first was copied",
        );
        let short = (
            "holds less than its size says; all that could be read was copied",
            "hold less than their sizes say; all that could be read was copied",
        );
        for (noted, (of_one, of_several)) in [(&self.grown, grown), (&self.short, short)] {
            let text = match noted.files {
                0 => continue,
                1 => of_one.into(),
                2 => format!("this and 1 more file {of_several}"),
                files => format!("this and {} more files {of_several}", files - 1),
            };
            let path = noted.first.clone();
            let place = EntryPlace::Source;
            ports.event(Event::Warning { path, place, text });
        }
    }
}

/// How much was announced so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    pub files: u64,
    pub bytes: u64,
    pub complete: bool,
}

/// Tells how far a transfer is, not more often than people can see.
#[derive(Debug)]
pub struct ProgressTeller {
    progress_at: Instant,
    progress_bytes: u64,
    announced_at: Instant,
    announced: Announced,
}

impl ProgressTeller {
    pub fn new(now: Instant) -> ProgressTeller {
        ProgressTeller {
            progress_at: now,
            progress_bytes: 0,
            announced_at: now,
            announced: Announced::default(),
        }
    }

    /// `bytes` passed so far, all in all; what is new of them is told. `last`: nothing follows, so
    /// tell even a little.
    pub fn progress(&mut self, now: Instant, ports: &mut Ports, bytes: u64, last: bool) {
        let more = bytes.saturating_sub(self.progress_bytes);
        let due =
            more >= REPORT_BYTES || now.saturating_duration_since(self.progress_at) >= REPORT_EVERY;
        if more > 0 && (due || last) {
            (self.progress_at, self.progress_bytes) = (now, bytes);
            ports.event(Event::Progress { bytes: more });
        }
    }

    /// The manifest so far. `last`: nothing follows; unsized files add to it until then.
    pub fn announced(&mut self, now: Instant, ports: &mut Ports, announced: Announced, last: bool) {
        let Announced {
            files,
            bytes,
            complete,
        } = announced;
        let is_end = complete && (last || !self.announced.complete);
        let due = is_end || now.saturating_duration_since(self.announced_at) >= REPORT_EVERY;
        if due && self.announced != announced {
            (self.announced_at, self.announced) = (now, announced);
            ports.event(Event::Announced {
                files,
                bytes,
                complete,
            });
        }
    }
}
