//! One stream between its handles and its worker: bytes that wait for the other side, and how far
//! each direction is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};

use crate::quic::DATA_URGENCY;

/// Bytes that a handle may have waiting for the worker before it waits itself. One piece may go
/// beyond that: it is in the caller's memory anyway.
pub(crate) const SEND_AHEAD_BYTES: usize = 256 << 10;

/// Pieces of less are put together: each costs a slot, and the worker a call of the transport.
const SMALL_BYTES: usize = 16 << 10;

/// The sending half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SendPhase {
    /// Next: any other.
    Open,
    /// No more is written. Next: Delivered, Resetting, Stopped, Lost.
    Finishing,
    /// The peer has everything and has said so.
    Delivered,
    /// What was not sent is given up, with this code.
    Reset(u64),
    /// The peer wants no more, with this code.
    Stopped(u64),
    /// With the connection.
    Lost,
}

/// The receiving half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReceivePhase {
    /// Next: any other.
    Open,
    /// The peer's last byte is here.
    Ended,
    /// The peer gave up, with this code.
    Reset(u64),
    /// We want no more, with this code.
    Stopped(u64),
    /// With the connection.
    Lost,
}

#[derive(Debug)]
struct Outward {
    pieces: VecDeque<Bytes>,
    /// Small ones, behind all others.
    tail: BytesMut,
    queued_bytes: usize,
    /// What is here is to leave, and not to wait for more.
    is_flushed: bool,
    phase: SendPhase,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Inward {
    pieces: VecDeque<Bytes>,
    /// Small ones, behind all others: a byte each, they would hold many times what they are.
    tail: BytesMut,
    kept_bytes: usize,
    phase: ReceivePhase,
    /// The worker waits until less than half of this is kept.
    held_above_bytes: Option<usize>,
    /// There is room again, or no more is wanted: the worker is to read.
    is_read_wanted: bool,
    waker: Option<Waker>,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) id: u64,
    /// It stands in the list of those that the worker is to look at.
    pub(super) is_asked: AtomicBool,
    /// The peer opened it before the handshake was complete.
    pub(crate) is_early: bool,
    /// Which streams go first where all cannot.
    urgency: AtomicU8,
    outward: Mutex<Outward>,
    inward: Mutex<Inward>,
}

/// What the worker takes of a stream to send.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum ToSend {
    Piece {
        bytes: Bytes,
        is_last: bool,
    },
    /// Everything was taken, and no more comes.
    End,
    /// Nothing is there now.
    Nothing,
}

impl Pipe {
    pub(super) fn new(id: u64, is_early: bool) -> Pipe {
        Pipe {
            id,
            is_early,
            is_asked: AtomicBool::new(false),
            urgency: AtomicU8::new(DATA_URGENCY),
            outward: Mutex::new(Outward {
                pieces: VecDeque::new(),
                tail: BytesMut::new(),
                queued_bytes: 0,
                is_flushed: false,
                phase: SendPhase::Open,
                waker: None,
            }),
            inward: Mutex::new(Inward {
                pieces: VecDeque::new(),
                tail: BytesMut::new(),
                kept_bytes: 0,
                phase: ReceivePhase::Open,
                held_above_bytes: None,
                is_read_wanted: false,
                waker: None,
            }),
        }
    }

    fn outward(&self) -> MutexGuard<'_, Outward> {
        // Every critical section leaves it whole.
        self.outward.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inward(&self) -> MutexGuard<'_, Inward> {
        self.inward.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker is to look at it. False: it was to before.
    pub(super) fn ask(&self) -> bool {
        !self.is_asked.swap(true, Ordering::AcqRel)
    }
}

/// The handle's side of sending.
impl Pipe {
    pub(crate) fn send_phase(&self) -> SendPhase {
        self.outward().phase
    }

    /// Leaves bytes for the worker when there is room; `take` is told how much. Ready with another
    /// phase than Open: nothing more is taken.
    pub(crate) fn poll_write(
        &self,
        context: &mut Context<'_>,
        take: impl FnOnce(usize) -> ToWrite,
    ) -> Poll<Result<usize, SendPhase>> {
        let mut outward = self.outward();
        if outward.phase != SendPhase::Open {
            return Poll::Ready(Err(outward.phase));
        }
        if outward.queued_bytes >= SEND_AHEAD_BYTES {
            keep(&mut outward.waker, context);
            return Poll::Pending;
        }
        let written = take(SEND_AHEAD_BYTES - outward.queued_bytes);
        Poll::Ready(Ok(outward.push(written)))
    }

    /// What was written is to leave. False: nothing new was, since this was last said.
    pub(crate) fn flush(&self) -> bool {
        !std::mem::replace(&mut self.outward().is_flushed, true)
    }

    /// Ready when the worker has taken everything.
    pub(crate) fn poll_taken(&self, context: &mut Context<'_>) -> Poll<Result<(), SendPhase>> {
        let mut outward = self.outward();
        match outward.phase {
            SendPhase::Open | SendPhase::Finishing if outward.queued_bytes > 0 => {
                keep(&mut outward.waker, context);
                Poll::Pending
            }
            SendPhase::Open | SendPhase::Finishing | SendPhase::Delivered => Poll::Ready(Ok(())),
            over @ (SendPhase::Reset(_) | SendPhase::Stopped(_) | SendPhase::Lost) => {
                Poll::Ready(Err(over))
            }
        }
    }

    /// Ready when the sending half is over, with how.
    pub(crate) fn poll_over(&self, context: &mut Context<'_>) -> Poll<SendPhase> {
        let mut outward = self.outward();
        match outward.phase {
            SendPhase::Open | SendPhase::Finishing => {
                keep(&mut outward.waker, context);
                Poll::Pending
            }
            over => Poll::Ready(over),
        }
    }

    /// No more is written. Gives the phase before.
    pub(crate) fn finish(&self) -> SendPhase {
        let mut outward = self.outward();
        let before = outward.phase;
        if before == SendPhase::Open {
            outward.phase = SendPhase::Finishing;
        }
        before
    }

    pub(crate) fn set_urgency(&self, urgency: u8) {
        self.urgency.store(urgency, Ordering::Relaxed);
    }

    /// Gives up what was not sent, unless all is over. False: it is.
    pub(crate) fn reset(&self, code: u64) -> bool {
        self.end_sending(SendPhase::Reset(code))
    }
}

/// What a handle writes.
pub(crate) enum ToWrite {
    Copied(BytesMut),
    Owned(Bytes),
}

impl Outward {
    fn push(&mut self, written: ToWrite) -> usize {
        self.is_flushed = false;
        let bytes = match written {
            ToWrite::Copied(bytes) if bytes.len() < SMALL_BYTES => {
                let len = bytes.len();
                self.tail.unsplit(bytes);
                if self.tail.len() >= SMALL_BYTES {
                    self.close_tail();
                }
                self.queued_bytes += len;
                return len;
            }
            ToWrite::Copied(bytes) => bytes.freeze(),
            ToWrite::Owned(bytes) => bytes,
        };
        self.close_tail();
        let len = bytes.len();
        self.queued_bytes += len;
        if len > 0 {
            self.pieces.push_back(bytes);
        }
        len
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    /// Gives what is to be dropped and woken with no lock held: both are others' code.
    fn end(&mut self, phase: SendPhase) -> (VecDeque<Bytes>, Option<Waker>) {
        self.phase = phase;
        self.tail = BytesMut::new();
        self.queued_bytes = 0;
        (std::mem::take(&mut self.pieces), self.waker.take())
    }
}

/// The worker's side of sending.
impl Pipe {
    pub(super) fn urgency(&self) -> u8 {
        self.urgency.load(Ordering::Relaxed)
    }

    /// The next piece of at most so many bytes.
    pub(super) fn next_piece(&self, most_bytes: usize) -> ToSend {
        let mut outward = self.outward();
        if outward.pieces.is_empty() {
            outward.close_tail();
        }
        let is_finishing = outward.phase == SendPhase::Finishing;
        let Some(first) = outward.pieces.front_mut() else {
            return match is_finishing {
                true => ToSend::End,
                false => ToSend::Nothing,
            };
        };
        let bytes = first.split_to(first.len().min(most_bytes));
        if !first.has_remaining() {
            outward.pieces.pop_front();
        }
        outward.queued_bytes -= bytes.len();
        let has_room = outward.queued_bytes <= SEND_AHEAD_BYTES / 2;
        let waker = outward.waker.take_if(|_| has_room);
        let is_last = is_finishing && outward.queued_bytes == 0;
        drop(outward);
        wake(waker);
        ToSend::Piece { bytes, is_last }
    }

    /// Whether what was taken last is to leave though nothing follows.
    pub(super) fn is_flushed(&self) -> bool {
        self.outward().is_flushed
    }

    /// Whether nothing waits to be taken.
    pub(super) fn is_empty(&self) -> bool {
        self.outward().queued_bytes == 0
    }

    /// The sending half is over. False: it was before.
    pub(super) fn end_sending(&self, phase: SendPhase) -> bool {
        let mut outward = self.outward();
        let goes_on = matches!(outward.phase, SendPhase::Open | SendPhase::Finishing);
        let (dropped, waker) = match goes_on {
            true => outward.end(phase),
            false => Default::default(),
        };
        drop(outward);
        drop(dropped);
        wake(waker);
        goes_on
    }
}

/// The handle's side of receiving.
impl Pipe {
    /// Takes at most so many bytes. Ready with none and a phase: no more comes. `ask` is called
    /// where the worker is to be told that there is room, or that this has been read out.
    pub(crate) fn poll_read(
        &self,
        context: &mut Context<'_>,
        most_bytes: usize,
        ask: impl FnOnce(),
    ) -> Poll<Result<Bytes, ReceivePhase>> {
        let (read, is_news) = self.read(context, most_bytes);
        if is_news {
            ask();
        }
        read
    }

    fn read(
        &self,
        context: &mut Context<'_>,
        most_bytes: usize,
    ) -> (Poll<Result<Bytes, ReceivePhase>>, bool) {
        let mut inward = self.inward();
        if let ReceivePhase::Stopped(_) = inward.phase {
            return (Poll::Ready(Err(inward.phase)), false);
        }
        if inward.pieces.is_empty() {
            inward.close_tail();
        }
        let Some(first) = inward.pieces.front_mut() else {
            if inward.phase == ReceivePhase::Open {
                keep(&mut inward.waker, context);
                let waits = inward.held_above_bytes.take().is_some();
                inward.is_read_wanted |= waits;
                return (Poll::Pending, waits);
            }
            return (Poll::Ready(Err(inward.phase)), false);
        };
        let bytes = first.split_to(first.len().min(most_bytes));
        if !first.has_remaining() {
            inward.pieces.pop_front();
        }
        inward.kept_bytes -= bytes.len();
        let kept_bytes = inward.kept_bytes;
        let waits = inward
            .held_above_bytes
            .take_if(|most| kept_bytes < *most / 2)
            .is_some();
        inward.is_read_wanted |= waits;
        let is_read_out = kept_bytes == 0 && inward.phase != ReceivePhase::Open;
        (Poll::Ready(Ok(bytes)), waits || is_read_out)
    }

    /// Wants no more, unless it is over. False: that is no news to the worker.
    pub(crate) fn stop(&self, code: u64) -> bool {
        let mut inward = self.inward();
        let goes_on = inward.phase == ReceivePhase::Open;
        if goes_on {
            inward.phase = ReceivePhase::Stopped(code);
            inward.is_read_wanted = true;
        }
        let is_news = goes_on || inward.kept_bytes > 0;
        inward.pieces.clear();
        inward.tail = BytesMut::new();
        inward.kept_bytes = 0;
        is_news
    }
}

/// The worker's side of receiving.
impl Pipe {
    pub(super) fn receive_phase(&self) -> ReceivePhase {
        self.inward().phase
    }

    /// How much more is to be kept of so much, or if `awaited`, of what a handle waits for now; 0:
    /// the worker waits, and the handle says when there is room.
    pub(super) fn room_bytes(&self, most_bytes: usize, awaited: bool) -> usize {
        let mut inward = self.inward();
        let is_awaited = inward.kept_bytes == 0 && inward.waker.is_some();
        let room_bytes = match awaited && !is_awaited {
            true => 0,
            false => most_bytes.saturating_sub(inward.kept_bytes),
        };
        inward.held_above_bytes = (room_bytes == 0).then_some(most_bytes);
        room_bytes
    }

    /// Whether the worker is to read, since this was last asked.
    pub(super) fn take_read_wish(&self) -> bool {
        std::mem::take(&mut self.inward().is_read_wanted)
    }

    /// Whether nothing is kept.
    pub(super) fn is_read_out(&self) -> bool {
        self.inward().kept_bytes == 0
    }

    /// Leaves what arrived: a buffer, or what little there is of one.
    pub(super) fn arrive(&self, arrived: ReadBytes<'_>) {
        let mut inward = self.inward();
        if inward.phase == ReceivePhase::Open && !arrived.is_empty() {
            match arrived {
                ReadBytes::Little(bytes) => {
                    inward.kept_bytes += bytes.len();
                    inward.tail.extend_from_slice(bytes);
                    if inward.tail.len() >= SMALL_BYTES {
                        inward.close_tail();
                    }
                }
                ReadBytes::Buffer(bytes) => {
                    inward.kept_bytes += bytes.len();
                    inward.close_tail();
                    inward.pieces.push_back(bytes);
                }
            }
            let waker = inward.waker.take();
            drop(inward);
            wake(waker);
        }
    }

    /// The receiving half is over, if it was not before.
    pub(super) fn end_receiving(&self, phase: ReceivePhase) {
        let mut inward = self.inward();
        if inward.phase == ReceivePhase::Open {
            inward.phase = phase;
            let waker = inward.waker.take();
            drop(inward);
            wake(waker);
        }
    }
}

/// What the worker has read.
pub(super) enum ReadBytes<'a> {
    Little(&'a [u8]),
    Buffer(Bytes),
}

impl ReadBytes<'_> {
    fn is_empty(&self) -> bool {
        match self {
            ReadBytes::Little(bytes) => bytes.is_empty(),
            ReadBytes::Buffer(bytes) => bytes.is_empty(),
        }
    }
}

impl Inward {
    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.pieces.push_back(tail.freeze());
        }
    }
}

fn keep(waker: &mut Option<Waker>, context: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(context.waker()),
        None => *waker = Some(context.waker().clone()),
    }
}

/// With no lock held: what a waker does is its executor's to say.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn write(pipe: &Pipe, bytes: &[u8]) -> Poll<Result<usize, SendPhase>> {
        pipe.poll_write(&mut context(), |room| {
            ToWrite::Copied(BytesMut::from(&bytes[..bytes.len().min(room)]))
        })
    }

    #[test]
    fn small_pieces_are_put_together_and_large_ones_left_alone() {
        let pipe = Pipe::new(0, false);
        for byte in 0..100_u8 {
            assert_eq!(write(&pipe, &[byte]), Poll::Ready(Ok(1)));
        }
        let large = Bytes::from(vec![7; SMALL_BYTES]);
        let owned = pipe.poll_write(&mut context(), |_| ToWrite::Owned(large.clone()));
        assert_eq!(owned, Poll::Ready(Ok(SMALL_BYTES)));
        assert_eq!(write(&pipe, b"end"), Poll::Ready(Ok(3)));
        assert_eq!(pipe.finish(), SendPhase::Open);
        let piece = |most| match pipe.next_piece(most) {
            ToSend::Piece { bytes, is_last } => (bytes, is_last),
            other @ (ToSend::End | ToSend::Nothing) => panic!("{other:?}"),
        };
        let (first, is_last) = piece(64);
        assert!(first.len() == 64 && !is_last);
        assert_eq!(piece(usize::MAX).0.len(), 36);
        assert_eq!(
            piece(usize::MAX).0.as_ptr(),
            large.as_ptr(),
            "it was copied"
        );
        assert_eq!(piece(usize::MAX), (Bytes::from_static(b"end"), true));
        assert_eq!(pipe.next_piece(1), ToSend::End);
    }

    #[test]
    fn who_writes_waits_for_room() {
        let pipe = Pipe::new(0, false);
        let bytes = vec![0; SEND_AHEAD_BYTES];
        assert_eq!(write(&pipe, &bytes), Poll::Ready(Ok(SEND_AHEAD_BYTES)));
        assert!(write(&pipe, b"x").is_pending());
        assert!(pipe.poll_taken(&mut context()).is_pending());
        let ToSend::Piece { .. } = pipe.next_piece(SEND_AHEAD_BYTES / 2) else {
            panic!("there was something");
        };
        assert_eq!(write(&pipe, b"x"), Poll::Ready(Ok(1)));
        assert!(pipe.end_sending(SendPhase::Stopped(3)));
        assert!(!pipe.reset(4), "it is over");
        assert_eq!(write(&pipe, b"x"), Poll::Ready(Err(SendPhase::Stopped(3))));
        assert_eq!(pipe.next_piece(1), ToSend::Nothing);
    }

    #[test]
    fn what_arrived_is_read_before_the_end() {
        let pipe = Pipe::new(0, false);
        let read = |most| pipe.read(&mut context(), most);
        let ready =
            |bytes: &'static [u8], is_news| (Poll::Ready(Ok(Bytes::from_static(bytes))), is_news);
        assert_eq!(read(1), (Poll::Pending, false));
        assert_eq!(pipe.room_bytes(9, true), 9, "somebody waits");
        pipe.arrive(ReadBytes::Little(b"a"));
        pipe.arrive(ReadBytes::Little(b"b"));
        pipe.arrive(ReadBytes::Buffer(Bytes::from_static(b"c")));
        assert_eq!(pipe.room_bytes(9, true), 0, "there is something to read");
        assert_eq!(
            (pipe.room_bytes(4, false), pipe.room_bytes(3, false)),
            (1, 0)
        );
        pipe.end_receiving(ReceivePhase::Reset(5));
        pipe.end_receiving(ReceivePhase::Lost);
        assert_eq!(read(1), ready(b"a", false));
        // Less than half of what was held for is left, and then nothing.
        assert_eq!(read(1), ready(b"b", false));
        assert_eq!(read(9), ready(b"c", true));
        assert_eq!(read(1), (Poll::Ready(Err(ReceivePhase::Reset(5))), false));
        assert!(!pipe.stop(6), "it is over");
    }
}
