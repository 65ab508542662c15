//! Frames of both directions over a given byte stream: streams, credit, PINGs and the close.

use std::ops::Range;

use super::CONTROL_STREAM;
use super::fault::Fault;
use super::frame::{MAX_HEAD_BYTES, TcpFrame};
use super::read_streams::ReadStreams;
use super::write_streams::{Aside, Beside, WriteStreams};

/// A PING of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asking {
    Nothing,
    /// To be sent.
    Wanted,
    /// Sent, and not answered. No second one leaves before the answer.
    Sent,
}

/// Everything above the records of one connection.
pub(super) struct Channel {
    pub reads: ReadStreams,
    pub writes: WriteStreams,
    /// The beginning of a frame whose rest is in a record to come.
    head: Vec<u8>,
    /// The DATA frame under way.
    data: Option<DataFrame>,
    asking: Asking,
    is_pong_owed: bool,
    close: Closing,
}

/// A DATA frame whose bytes are still coming.
struct DataFrame {
    stream: u64,
    missing_bytes: usize,
    ends: bool,
}

/// Our CLOSE.
enum Closing {
    No,
    Wanted { code: u64, reason: Vec<u8> },
    Sent,
}

/// The peer's CLOSE.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct PeerClose {
    pub code: u64,
    pub reason: Vec<u8>,
}

impl Channel {
    pub fn new(is_server: bool, window_bytes: u64, stream_window_bytes: u64) -> Channel {
        Channel {
            reads: ReadStreams::new(is_server, window_bytes, stream_window_bytes),
            writes: WriteStreams::new(is_server),
            head: Vec::new(),
            data: None,
            asking: Asking::Nothing,
            is_pong_owed: false,
            close: Closing::No,
        }
    }

    /// Takes bytes as they came, `at` in the receive buffer. Nothing behind a CLOSE counts.
    pub fn take(
        &mut self,
        buffer: &[u8],
        mut at: Range<usize>,
    ) -> Result<Option<PeerClose>, Fault> {
        while !at.is_empty() {
            if let Some(data) = &mut self.data {
                let bytes = data.missing_bytes.min(at.len());
                let here = at.start..at.start + bytes;
                at.start += bytes;
                data.missing_bytes -= bytes;
                self.reads.arrived(data.stream, buffer, here);
                self.end_data();
                continue;
            }
            let Some(frame) = self.next_frame(buffer, &mut at)? else {
                return Ok(None);
            };
            if let Some(close) = self.act(frame)? {
                return Ok(Some(close));
            }
        }
        Ok(None)
    }

    /// The next frame's head; `None`: its rest is to come.
    fn next_frame(
        &mut self,
        buffer: &[u8],
        at: &mut Range<usize>,
    ) -> Result<Option<TcpFrame>, Fault> {
        let before = self.head.len();
        if before == 0 {
            if let Some((frame, bytes)) = TcpFrame::parse(&buffer[at.clone()])? {
                at.start += bytes;
                return Ok(Some(frame));
            }
            self.head.extend_from_slice(&buffer[at.clone()]);
            at.start = at.end;
            return Ok(None);
        }
        let more = at.len().min(MAX_HEAD_BYTES - before);
        self.head
            .extend_from_slice(&buffer[at.start..at.start + more]);
        let parsed = TcpFrame::parse(&self.head)?;
        at.start += more;
        let Some((frame, bytes)) = parsed else {
            return Ok(None);
        };
        at.start -= self.head.len() - bytes;
        self.head = Vec::new();
        Ok(Some(frame))
    }

    fn act(&mut self, frame: TcpFrame) -> Result<Option<PeerClose>, Fault> {
        match frame {
            TcpFrame::Data {
                stream,
                bytes,
                ends,
            } => {
                self.reads.begin(stream, bytes)?;
                self.data = Some(DataFrame {
                    stream,
                    missing_bytes: bytes,
                    ends,
                });
                self.end_data();
            }
            TcpFrame::Grant {
                limit,
                stream_bytes,
            } => self.writes.grant(limit, stream_bytes)?,
            TcpFrame::Credit { stream, limit } => self.writes.credit(stream, limit)?,
            TcpFrame::ReadOut { stream } => self.writes.read_out(stream)?,
            TcpFrame::Ping if self.is_pong_owed => {
                return Err(Fault::Frames("a second PING before the first was answered"));
            }
            TcpFrame::Ping => self.is_pong_owed = true,
            TcpFrame::Pong if self.asking != Asking::Sent => {
                return Err(Fault::Frames("an answer to no PING"));
            }
            TcpFrame::Pong => self.asking = Asking::Nothing,
            TcpFrame::Close { code, reason } => return Ok(Some(PeerClose { code, reason })),
        }
        Ok(None)
    }

    /// What is missing of the DATA frame under way, if that may go as bulk: a data stream's.
    pub fn missing_bulk_bytes(&self) -> usize {
        let data = self.data.as_ref();
        let data = data.filter(|data| data.stream != CONTROL_STREAM);
        data.map_or(0, |data| data.missing_bytes)
    }

    fn end_data(&mut self) {
        if let Some(data) = self.data.take_if(|data| data.missing_bytes == 0)
            && data.ends
        {
            self.reads.ended(data.stream);
        }
    }

    /// Asks the peer for a sign of life, unless it was asked and has not answered.
    pub fn ping(&mut self) {
        if self.asking == Asking::Nothing {
            self.asking = Asking::Wanted;
        }
    }

    pub fn close(&mut self, code: u64, reason: &[u8]) {
        if let Closing::No = self.close {
            self.close = Closing::Wanted {
                code,
                reason: reason.to_vec(),
            };
        }
    }

    /// Whether our CLOSE is written: nothing may follow.
    pub fn is_closed(&self) -> bool {
        matches!(self.close, Closing::Sent)
    }

    /// Whether [`Channel::fill`] would write anything.
    pub fn has_something(&self) -> bool {
        match self.close {
            Closing::No => {
                self.is_pong_owed
                    || self.asking == Asking::Wanted
                    || self.reads.owes()
                    || self.writes.has_something()
            }
            Closing::Wanted { .. } => true,
            Closing::Sent => false,
        }
    }

    /// Writes frames into at most `room` bytes: what is urgent, then the close, or data. Of data
    /// that goes beside them it is the head, and nothing behind that: its bytes are to be taken
    /// next.
    pub fn fill(&mut self, out: &mut Vec<u8>, room: usize, beside: Beside) -> Option<Aside> {
        let end = out.len() + room;
        match self.fill_urgent(out, end) {
            true => self.writes.fill(out, end - out.len(), beside),
            false => None,
        }
    }

    /// Writes what goes before data. False: that is all.
    fn fill_urgent(&mut self, out: &mut Vec<u8>, end: usize) -> bool {
        let fits = |out: &Vec<u8>| out.len() + MAX_HEAD_BYTES <= end;
        if self.is_closed() {
            return false;
        }
        if std::mem::take(&mut self.is_pong_owed) {
            TcpFrame::Pong.write(out);
        }
        if self.asking == Asking::Wanted {
            TcpFrame::Ping.write(out);
            self.asking = Asking::Sent;
        }
        while fits(out)
            && let Some(frame) = self.reads.owed_next()
        {
            frame.write(out);
        }
        match std::mem::replace(&mut self.close, Closing::Sent) {
            Closing::No => {
                self.close = Closing::No;
                return true;
            }
            Closing::Wanted { code, reason } if fits(out) => {
                TcpFrame::Close { code, reason }.write(out);
            }
            // What is owed goes before it: that something was read is not to be lost.
            wanted @ Closing::Wanted { .. } => self.close = wanted,
            Closing::Sent => {}
        }
        false
    }

    /// Heap bytes, beside the receive buffer.
    pub fn held_bytes(&self) -> usize {
        self.head.capacity() + self.reads.kept_bytes() + self.writes.unsent_bytes()
    }
}
