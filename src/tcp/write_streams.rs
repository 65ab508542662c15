//! Our streams: what waits to be sealed, and how much the peer lets us send.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::fault::Fault;
use super::frame::{DATA_HEAD_BYTES, MAX_DATA_BYTES, TcpFrame};
use super::{CONTROL_STREAM, INITIAL_CONTROL_BYTES, MAX_STREAMS, UnknownStream};

/// Data that was taken and not sealed: one batch of records, little enough to be warm in cache when
/// it is sealed.
pub(super) const MAX_UNSENT_BYTES: usize = 256 << 10;

/// The same of the control stream, which data must not keep out: its longest message.
const MAX_UNSENT_CONTROL_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamEnd {
    NotYet,
    /// To be sent with the last byte.
    Asked,
    Sent,
}

/// Bytes that wait to be sealed.
struct Queued {
    bytes: Bytes,
    /// Of a file: their digest follows among what is none.
    is_bulk: bool,
}

/// So many bytes of a stream, the head of whose frame is written.
#[derive(Clone, Copy)]
pub(super) struct Bulk {
    stream: u64,
    pub bytes: usize,
}

/// One stream of ours.
struct WriteStream {
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    /// Sent or queued.
    taken_bytes: u64,
    limit: u64,
    end: StreamEnd,
}

impl WriteStream {
    fn new(limit: u64) -> WriteStream {
        WriteStream {
            queue: VecDeque::new(),
            queued_bytes: 0,
            taken_bytes: 0,
            limit,
            end: StreamEnd::NotYet,
        }
    }

    fn has_something(&self) -> bool {
        self.queued_bytes > 0 || self.end == StreamEnd::Asked
    }

    /// So many bytes are next that are bulk, or that are none.
    fn next_run(&self) -> (usize, bool) {
        let is_bulk = self.queue.front().is_some_and(|queued| queued.is_bulk);
        let run = self.queue.iter();
        let run = run.take_while(|queued| queued.is_bulk == is_bulk);
        (run.map(|queued| queued.bytes.len()).sum(), is_bulk)
    }

    /// Moves so many bytes from the queue to the end of `out`. Gives how many of them count as data
    /// that is not sent.
    fn take(&mut self, stream: u64, out: &mut Vec<u8>, bytes: usize) -> usize {
        let mut missing = bytes;
        while missing > 0
            && let Some(front) = self.queue.front_mut()
        {
            let part = front.bytes.split_to(front.bytes.len().min(missing));
            out.extend_from_slice(&part);
            missing -= part.len();
            if front.bytes.is_empty() {
                self.queue.pop_front();
            }
        }
        self.queued_bytes -= bytes;
        match stream {
            CONTROL_STREAM => 0,
            _ => bytes,
        }
    }
}

/// All streams of ours, sent in the order of opening, the control stream before all.
pub(super) struct WriteStreams {
    open: BTreeMap<u64, WriteStream>,
    next: u64,
    /// What a new stream may carry, and all data streams together: nothing until the peer says so.
    stream_bytes: u64,
    limit: u64,
    /// Of data streams, sent or queued.
    taken_bytes: u64,
    /// Of data streams.
    unsent_bytes: usize,
}

impl WriteStreams {
    pub fn new(is_server: bool) -> WriteStreams {
        let control = WriteStream::new(INITIAL_CONTROL_BYTES);
        WriteStreams {
            open: BTreeMap::from([(CONTROL_STREAM, control)]),
            next: 2 + u64::from(is_server),
            stream_bytes: 0,
            limit: 0,
            taken_bytes: 0,
            unsent_bytes: 0,
        }
    }

    pub fn open_uni(&mut self) -> Option<u64> {
        let control = self.open.contains_key(&CONTROL_STREAM);
        if self.open.len() - usize::from(control) >= MAX_STREAMS || self.limit == 0 {
            return None;
        }
        let stream = self.next;
        self.next += 4;
        let limit = self.stream_bytes;
        self.open.insert(stream, WriteStream::new(limit));
        Some(stream)
    }

    pub fn send(
        &mut self,
        stream: u64,
        (mut data, is_bulk): (Bytes, bool),
        fin: bool,
    ) -> Result<Option<Bytes>, UnknownStream> {
        let open = self.open.get_mut(&stream).ok_or(UnknownStream)?;
        if open.end != StreamEnd::NotYet {
            return Err(UnknownStream);
        }
        let credit = open.limit - open.taken_bytes;
        let room = if stream == CONTROL_STREAM {
            credit.min(MAX_UNSENT_CONTROL_BYTES.saturating_sub(open.queued_bytes) as u64)
        } else {
            let unsent = MAX_UNSENT_BYTES.saturating_sub(self.unsent_bytes) as u64;
            credit.min(self.limit - self.taken_bytes).min(unsent)
        };
        let bytes = data.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let taken = data.split_to(bytes);
        if !taken.is_empty() {
            open.taken_bytes += bytes as u64;
            open.queued_bytes += bytes;
            open.queue.push_back(Queued {
                bytes: taken,
                is_bulk,
            });
            if stream != CONTROL_STREAM {
                self.taken_bytes += bytes as u64;
                self.unsent_bytes += bytes;
            }
        }
        if !data.is_empty() {
            return Ok(Some(data));
        }
        if fin {
            open.end = StreamEnd::Asked;
        }
        Ok(None)
    }

    pub fn grant(&mut self, limit: u64, stream_bytes: u64) -> Result<(), Fault> {
        if limit <= self.limit || stream_bytes == 0 {
            return Err(Fault::Frames("credit that grants nothing"));
        }
        if self.limit > 0 && stream_bytes != self.stream_bytes {
            return Err(Fault::Frames("a stream's first credit was changed"));
        }
        (self.limit, self.stream_bytes) = (limit, stream_bytes);
        Ok(())
    }

    pub fn credit(&mut self, stream: u64, limit: u64) -> Result<(), Fault> {
        let Some(open) = self.open.get_mut(&stream) else {
            return Err(Fault::Frames("credit for no stream of ours"));
        };
        if limit <= open.limit {
            return Err(Fault::Frames("credit that grants nothing"));
        }
        open.limit = limit;
        Ok(())
    }

    pub fn read_out(&mut self, stream: u64) -> Result<(), Fault> {
        match self.open.get(&stream) {
            Some(open) if open.end == StreamEnd::Sent => {
                self.open.remove(&stream);
                Ok(())
            }
            Some(_) | None => Err(Fault::Frames("a stream was read before its end")),
        }
    }

    pub fn is_open(&self, stream: u64) -> bool {
        self.open.contains_key(&stream)
    }

    pub fn unsent_bytes(&self) -> usize {
        let control = self.open.get(&CONTROL_STREAM);
        self.unsent_bytes + control.map_or(0, |control| control.queued_bytes)
    }

    pub fn has_something(&self) -> bool {
        self.open.values().any(WriteStream::has_something)
    }

    /// Writes DATA frames into at most `room` bytes.
    pub fn fill(&mut self, out: &mut Vec<u8>, room: usize) {
        let end = out.len() + room;
        for (&stream, open) in &mut self.open {
            while open.has_something() {
                let room = (end - out.len()).saturating_sub(DATA_HEAD_BYTES);
                if room == 0 {
                    return;
                }
                let bytes = open.queued_bytes.min(room).min(MAX_DATA_BYTES);
                let ends = open.end == StreamEnd::Asked && bytes == open.queued_bytes;
                TcpFrame::Data {
                    stream,
                    bytes,
                    ends,
                }
                .write(out);
                self.unsent_bytes -= open.take(stream, out, bytes);
                if ends {
                    open.end = StreamEnd::Sent;
                }
            }
        }
    }

    /// Writes DATA frames up to one of bulk, and of that the head alone. With its bytes it is at
    /// most `room` bytes.
    pub fn fill_beside_bulk(&mut self, out: &mut Vec<u8>, room: usize) -> Option<Bulk> {
        let end = out.len() + room;
        for (&stream, open) in &mut self.open {
            while open.has_something() {
                let room = (end - out.len()).saturating_sub(DATA_HEAD_BYTES);
                if room == 0 {
                    return None;
                }
                let (run, is_bulk) = open.next_run();
                let bytes = run.min(room).min(MAX_DATA_BYTES);
                let ends = open.end == StreamEnd::Asked && bytes == open.queued_bytes;
                TcpFrame::Data {
                    stream,
                    bytes,
                    ends,
                }
                .write(out);
                if ends {
                    open.end = StreamEnd::Sent;
                }
                if is_bulk {
                    return Some(Bulk { stream, bytes });
                }
                self.unsent_bytes -= open.take(stream, out, bytes);
            }
        }
        None
    }

    /// Moves bulk behind its record.
    pub fn take_bulk(&mut self, bulk: Bulk, out: &mut Vec<u8>) {
        if let Some(open) = self.open.get_mut(&bulk.stream) {
            self.unsent_bytes -= open.take(bulk.stream, out, bulk.bytes);
        }
    }
}
