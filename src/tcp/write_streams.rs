//! Our streams: what waits to be sealed, and how much the peer lets us send.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;

use super::fault::Fault;
use super::frame::{
    DATA_HEAD_BYTES, LONG_DATA_HEAD_BYTES, MAX_DATA_BYTES, MAX_LONG_DATA_BYTES, TcpFrame,
};
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

/// What waits to be sent.
pub(super) enum Unsealed {
    Said(Bytes),
    /// Of a file: their digest follows among what is said.
    Bulk(Bytes),
    Piped(PipedBytes),
}

/// So many bytes of a file, which are in a pipe: none of them is seen here.
pub(super) struct PipedBytes {
    pub pipe: Arc<OwnedFd>,
    pub bytes: usize,
}

impl Unsealed {
    pub fn len(&self) -> usize {
        match self {
            Unsealed::Said(bytes) | Unsealed::Bulk(bytes) => bytes.len(),
            Unsealed::Piped(piped) => piped.bytes,
        }
    }

    /// The first bytes of it; the rest stays.
    fn split_to(&mut self, bytes: usize) -> Unsealed {
        match self {
            Unsealed::Said(rest) => Unsealed::Said(rest.split_to(bytes)),
            Unsealed::Bulk(rest) => Unsealed::Bulk(rest.split_to(bytes)),
            Unsealed::Piped(rest) => {
                rest.bytes -= bytes;
                Unsealed::Piped(PipedBytes {
                    pipe: rest.pipe.clone(),
                    bytes,
                })
            }
        }
    }
}

/// What goes behind a record instead of into one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    /// What is in pipes.
    Pipes,
    /// And bulk.
    Bulk,
}

/// So many bytes of a stream that go behind a record, in which the head of their frame is.
#[derive(Clone, Copy)]
pub(super) struct Aside {
    stream: u64,
    pub bytes: usize,
}

/// One stream of ours.
struct WriteStream {
    queue: VecDeque<Unsealed>,
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

    /// So many bytes are next that go into a record, or behind one: of a pipe those of one.
    fn next_run(&self, beside: Beside) -> (usize, bool) {
        let goes_aside = |unsealed: &Unsealed| match unsealed {
            Unsealed::Said(_) => false,
            Unsealed::Bulk(_) => beside == Beside::Bulk,
            Unsealed::Piped(_) => true,
        };
        match self.queue.front() {
            Some(front @ Unsealed::Piped(_)) => (front.len(), true),
            front => {
                let is_aside = front.is_some_and(goes_aside);
                let is_of_run = |unsealed: &&Unsealed| {
                    !matches!(unsealed, Unsealed::Piped(_)) && goes_aside(unsealed) == is_aside
                };
                let run = self.queue.iter().take_while(is_of_run);
                (run.map(Unsealed::len).sum(), is_aside)
            }
        }
    }

    /// Moves so many bytes from the queue to the end of `out`, up to what is in a pipe, which it
    /// gives.
    fn take(&mut self, out: &mut Vec<u8>, bytes: usize) -> Option<PipedBytes> {
        let (mut missing, mut piped) = (bytes, None);
        while missing > 0
            && piped.is_none()
            && let Some(front) = self.queue.front_mut()
        {
            let part = front.split_to(front.len().min(missing));
            missing -= part.len();
            if front.len() == 0 {
                self.queue.pop_front();
            }
            match part {
                Unsealed::Said(part) | Unsealed::Bulk(part) => out.extend_from_slice(&part),
                Unsealed::Piped(part) => piped = Some(part),
            }
        }
        self.queued_bytes -= bytes;
        piped
    }
}

/// How many of them count as data that is not sent.
fn counted(stream: u64, bytes: usize) -> usize {
    match stream {
        CONTROL_STREAM => 0,
        _ => bytes,
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
        mut data: Unsealed,
        fin: bool,
    ) -> Result<Option<Unsealed>, UnknownStream> {
        let open = self.open.get_mut(&stream).ok_or(UnknownStream)?;
        if open.end != StreamEnd::NotYet {
            return Err(UnknownStream);
        }
        let credit = open.limit - open.taken_bytes;
        let room = if stream == CONTROL_STREAM {
            credit.min(MAX_UNSENT_CONTROL_BYTES.saturating_sub(open.queued_bytes) as u64)
        } else {
            let most = match data {
                Unsealed::Said(_) | Unsealed::Bulk(_) => MAX_UNSENT_BYTES,
                // Nobody here has to have it in cache, and each part costs a turn.
                Unsealed::Piped(_) => MAX_LONG_DATA_BYTES,
            };
            let unsent = most.saturating_sub(self.unsent_bytes) as u64;
            credit.min(self.limit - self.taken_bytes).min(unsent)
        };
        let bytes = data.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let taken = data.split_to(bytes);
        if bytes > 0 {
            open.taken_bytes += bytes as u64;
            open.queued_bytes += bytes;
            open.queue.push_back(taken);
            if stream != CONTROL_STREAM {
                self.taken_bytes += bytes as u64;
                self.unsent_bytes += bytes;
            }
        }
        if data.len() > 0 {
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

    /// Writes DATA frames into at most `room` bytes, up to one that goes behind them, and of that
    /// the head alone.
    pub fn fill(&mut self, out: &mut Vec<u8>, room: usize, beside: Beside) -> Option<Aside> {
        let end = out.len() + room;
        for (&stream, open) in &mut self.open {
            while open.has_something() {
                let (run, is_aside) = open.next_run(beside);
                let head_bytes = match is_aside {
                    true => LONG_DATA_HEAD_BYTES,
                    false => DATA_HEAD_BYTES,
                };
                let room = (end - out.len()).saturating_sub(head_bytes);
                if room == 0 {
                    return None;
                }
                let bytes = match is_aside {
                    true => run.min(MAX_LONG_DATA_BYTES),
                    false => run.min(room).min(MAX_DATA_BYTES),
                };
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
                if is_aside {
                    return Some(Aside { stream, bytes });
                }
                open.take(out, bytes);
                self.unsent_bytes -= counted(stream, bytes);
            }
        }
        None
    }

    /// Moves what goes behind a record there. If that is in a pipe, gives it.
    pub fn take_aside(&mut self, aside: Aside, out: &mut Vec<u8>) -> Option<PipedBytes> {
        let open = self.open.get_mut(&aside.stream)?;
        self.unsent_bytes -= counted(aside.stream, aside.bytes);
        open.take(out, aside.bytes)
    }
}
