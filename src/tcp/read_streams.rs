//! Streams of the peer: what arrived and was not read, how much more may come, what is owed for it.
//!
//! Bytes stay where they were decrypted until the caller reads them or the receive buffer is wanted
//! for more; only then, or where they are few, are they copied to where they are kept.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::fault::Fault;
use super::frame::TcpFrame;
use super::{CONTROL_STREAM, INITIAL_CONTROL_BYTES, MAX_STREAMS};

/// Fewer bytes than these in a frame are kept at once: a place in the receive buffer is described
/// by 40 bytes, and there would be one for each.
const FEW_BYTES: usize = 1 << 10;

/// Kept bytes are in pieces of about this size, so that those that were read are given back.
const PIECE_BYTES: usize = 16 << 10;

/// A window is granted anew when this part of it was read: few frames, and the sender never waits.
const WINDOW_PARTS: u64 = 4;

/// The control stream's window once the peer is known, a few of its longest messages (64 KiB), but
/// never more than the part of the connection's own.
const CONTROL_WINDOW_BYTES: u64 = 256 << 10;

/// Unread bytes of a stream, in order.
enum Unread {
    /// Still in the receive buffer.
    InBuffer(Range<usize>),
    Kept {
        bytes: Vec<u8>,
        at: usize,
    },
}

/// One stream of the peer's.
struct ReadStream {
    unread: VecDeque<Unread>,
    arrived_bytes: u64,
    read_bytes: u64,
    /// What the peer was told that it may send in all.
    limit: u64,
    window_bytes: u64,
    has_ended: bool,
    is_named: bool,
    is_credit_owed: bool,
}

impl ReadStream {
    fn new(limit: u64, window_bytes: u64) -> ReadStream {
        ReadStream {
            unread: VecDeque::new(),
            arrived_bytes: 0,
            read_bytes: 0,
            limit,
            window_bytes,
            has_ended: false,
            is_named: false,
            is_credit_owed: false,
        }
    }
}

/// All streams of the peer's.
pub(super) struct ReadStreams {
    open: BTreeMap<u64, ReadStream>,
    /// The stream that the peer opens next.
    next: u64,
    window_bytes: u64,
    stream_window_bytes: u64,
    /// Of all data streams together.
    arrived_bytes: u64,
    read_bytes: u64,
    limit: u64,
    readable: VecDeque<u64>,
    /// Streams that were read to their ends, of which the peer was not told. They count as open.
    read_out: VecDeque<u64>,
    /// Streams that have `is_credit_owed`.
    owed: VecDeque<u64>,
    is_grant_owed: bool,
    in_buffer: usize,
    kept_capacity: usize,
    unread_bytes: u64,
}

impl ReadStreams {
    /// A server's peer opens the streams of clients.
    pub fn new(is_server: bool, window_bytes: u64, stream_window_bytes: u64) -> ReadStreams {
        let stream_window_bytes = stream_window_bytes.min(window_bytes);
        let part = window_bytes / WINDOW_PARTS;
        let control_window = CONTROL_WINDOW_BYTES.min(part).max(INITIAL_CONTROL_BYTES);
        let mut control = ReadStream::new(INITIAL_CONTROL_BYTES, control_window);
        let is_more = control_window > INITIAL_CONTROL_BYTES;
        control.is_credit_owed = is_more;
        ReadStreams {
            open: BTreeMap::from([(CONTROL_STREAM, control)]),
            next: 2 + u64::from(!is_server),
            window_bytes,
            stream_window_bytes,
            arrived_bytes: 0,
            read_bytes: 0,
            limit: 0,
            readable: VecDeque::new(),
            read_out: VecDeque::new(),
            owed: is_more.then_some(CONTROL_STREAM).into_iter().collect(),
            is_grant_owed: true,
            in_buffer: 0,
            kept_capacity: 0,
            unread_bytes: 0,
        }
    }

    /// The head of a DATA frame: whether its bytes may come.
    pub fn begin(&mut self, stream: u64, bytes: usize) -> Result<(), Fault> {
        if stream == self.next {
            let not_told = self.read_out.iter().filter(|&&of| of != CONTROL_STREAM);
            let control = self.open.contains_key(&CONTROL_STREAM);
            let open = self.open.len() - usize::from(control) + not_told.count();
            if open >= MAX_STREAMS {
                return Err(Fault::Frames("too many streams at a time"));
            }
            if self.limit == 0 {
                return Err(Fault::Frames("a stream before there is credit"));
            }
            let window = self.stream_window_bytes;
            self.open.insert(stream, ReadStream::new(window, window));
            self.next += 4;
        }
        let Some(open) = self.open.get_mut(&stream) else {
            return Err(Fault::Frames("data of no open stream"));
        };
        if open.has_ended {
            return Err(Fault::Frames("data behind the end of a stream"));
        }
        open.arrived_bytes += bytes as u64;
        if open.arrived_bytes > open.limit {
            return Err(Fault::Frames("more data than the stream's credit"));
        }
        if stream != CONTROL_STREAM {
            self.arrived_bytes += bytes as u64;
            if self.arrived_bytes > self.limit {
                return Err(Fault::Frames("more data than the connection's credit"));
            }
        }
        Ok(())
    }

    /// Bytes of a frame that has begun, where they are in the receive buffer.
    pub fn arrived(&mut self, stream: u64, buffer: &[u8], at: Range<usize>) {
        let Some(open) = self.open.get_mut(&stream) else {
            return;
        };
        self.unread_bytes += at.len() as u64;
        if at.len() < FEW_BYTES {
            self.kept_capacity += keep(&mut open.unread, &buffer[at]);
        } else {
            self.in_buffer += 1;
            open.unread.push_back(Unread::InBuffer(at));
        }
        name(open, &mut self.readable, stream);
    }

    /// The frame that ends a stream has arrived whole.
    pub fn ended(&mut self, stream: u64) {
        if let Some(open) = self.open.get_mut(&stream) {
            open.has_ended = true;
            name(open, &mut self.readable, stream);
        }
    }

    /// Whether the receive buffer has anything that is wanted.
    pub fn needs_buffer(&self) -> bool {
        self.in_buffer > 0
    }

    /// Copies what is unread out of the receive buffer.
    pub fn vacate(&mut self, buffer: &[u8]) {
        if self.in_buffer == 0 {
            return;
        }
        for open in self.open.values_mut() {
            let is_here = |unread: &Unread| matches!(unread, Unread::InBuffer(_));
            if !open.unread.iter().any(is_here) {
                continue;
            }
            for unread in std::mem::take(&mut open.unread) {
                match unread {
                    Unread::InBuffer(at) => {
                        self.kept_capacity += keep(&mut open.unread, &buffer[at]);
                    }
                    kept @ Unread::Kept { .. } => open.unread.push_back(kept),
                }
            }
        }
        self.in_buffer = 0;
    }

    pub fn readable_next(&mut self) -> Option<u64> {
        let stream = self.readable.pop_front()?;
        if let Some(open) = self.open.get_mut(&stream) {
            open.is_named = false;
        }
        Some(stream)
    }

    /// `None`: no such stream.
    pub fn read(
        &mut self,
        stream: u64,
        buffer: &[u8],
        out: &mut [u8],
    ) -> Option<Option<(usize, bool)>> {
        let open = self.open.get_mut(&stream)?;
        let mut copied = 0;
        while copied < out.len() {
            let Some(front) = open.unread.front_mut() else {
                break;
            };
            let room = &mut out[copied..];
            match front {
                Unread::InBuffer(at) => {
                    let bytes = at.len().min(room.len());
                    room[..bytes].copy_from_slice(&buffer[at.start..at.start + bytes]);
                    at.start += bytes;
                    copied += bytes;
                    if at.start == at.end {
                        self.in_buffer -= 1;
                        open.unread.pop_front();
                    }
                }
                Unread::Kept { bytes: kept, at } => {
                    let bytes = (kept.len() - *at).min(room.len());
                    room[..bytes].copy_from_slice(&kept[*at..*at + bytes]);
                    *at += bytes;
                    copied += bytes;
                    if *at == kept.len() {
                        self.kept_capacity -= kept.capacity();
                        open.unread.pop_front();
                    }
                }
            }
        }
        let is_end = open.has_ended && open.unread.is_empty();
        if copied == 0 && !is_end {
            return Some(None);
        }
        self.was_read(stream, copied as u64, is_end);
        Some(Some((copied, is_end)))
    }

    fn was_read(&mut self, stream: u64, bytes: u64, is_end: bool) {
        self.unread_bytes -= bytes;
        if stream != CONTROL_STREAM {
            self.read_bytes += bytes;
            let behind = self.read_bytes + self.window_bytes - self.limit;
            self.is_grant_owed |= behind >= (self.window_bytes / WINDOW_PARTS).max(1);
        }
        if is_end {
            self.open.remove(&stream);
            self.owed.retain(|&owed| owed != stream);
            self.read_out.push_back(stream);
        } else if let Some(open) = self.open.get_mut(&stream) {
            open.read_bytes += bytes;
            let behind = (open.read_bytes + open.window_bytes).saturating_sub(open.limit);
            let is_due = behind >= (open.window_bytes / WINDOW_PARTS).max(1);
            if is_due && !open.is_credit_owed && !open.has_ended {
                open.is_credit_owed = true;
                self.owed.push_back(stream);
            }
        }
    }

    /// Whether [`ReadStreams::owed_next`] has anything.
    pub fn owes(&self) -> bool {
        self.is_grant_owed || !self.owed.is_empty() || !self.read_out.is_empty()
    }

    /// What the peer is to be told next.
    pub fn owed_next(&mut self) -> Option<TcpFrame> {
        if std::mem::take(&mut self.is_grant_owed) {
            self.limit = self.read_bytes + self.window_bytes;
            return Some(TcpFrame::Grant {
                limit: self.limit,
                stream_bytes: self.stream_window_bytes,
            });
        }
        if let Some(stream) = self.read_out.pop_front() {
            return Some(TcpFrame::ReadOut { stream });
        }
        let stream = self.owed.pop_front()?;
        let open = self.open.get_mut(&stream)?;
        open.is_credit_owed = false;
        open.limit = open.limit.max(open.read_bytes + open.window_bytes);
        Some(TcpFrame::Credit {
            stream,
            limit: open.limit,
        })
    }

    pub fn is_open(&self, stream: u64) -> bool {
        self.open.contains_key(&stream)
    }

    pub fn unread_bytes(&self) -> u64 {
        self.unread_bytes
    }

    /// Heap bytes of unread data, beside those in the receive buffer.
    pub fn kept_bytes(&self) -> usize {
        self.kept_capacity
    }
}

/// Appends a copy; how much more memory is held.
fn keep(unread: &mut VecDeque<Unread>, data: &[u8]) -> usize {
    if let Some(Unread::Kept { bytes, .. }) = unread.back_mut()
        && bytes.len() + data.len() <= PIECE_BYTES
    {
        let before = bytes.capacity();
        bytes.extend_from_slice(data);
        return bytes.capacity() - before;
    }
    let bytes = data.to_vec();
    let held = bytes.capacity();
    if !data.is_empty() {
        unread.push_back(Unread::Kept { bytes, at: 0 });
    }
    held
}

fn name(open: &mut ReadStream, readable: &mut VecDeque<u64>, stream: u64) {
    if !open.is_named {
        open.is_named = true;
        readable.push_back(stream);
    }
}
