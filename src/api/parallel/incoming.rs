//! One transfer as its receiver runs it: seats that each read a stream, a chunk at a time, and the
//! control stream that says what became of them.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::BytesMut;
use event_listener::Event;

use super::alarm::StallAlarm;
use super::chunks::{ChunkOutcome, ChunkResult, ChunkSink, NeededChunk, WordsLeft};
use super::crew::{Crew, turn_of_others, unless};
use super::errors::ParallelTransferError;
use super::framing::{ControlMessage, ControlMessages, DataEvent, DataStreamParser};
use crate::api::buffers::{BufferPool, PooledBuffer};
use crate::api::connection::Connection;
use crate::api::errors::ReadError;
use crate::api::permits::{MemoryGate, Permit};
use crate::api::stream::{RecvStream, SendStream};
use crate::engine;
use crate::proto::integrity::Digest;

/// What one read brings at most.
const READ_BYTES: usize = 64 << 10;

/// Outcomes that wait to be said to a sender that does not hear them, in bytes; then no chunk is
/// begun.
const TO_SAY_MAX_BYTES: usize = 64 << 10;

/// Code of a stream that belongs to a transfer before this one.
const STALE: u64 = 1;

/// Memory that an arriving chunk takes: what a pooled buffer of it is.
pub(super) fn charge_of_arriving(size_bytes: u64) -> usize {
    (size_bytes as usize)
        .next_power_of_two()
        .max(BufferPool::SMALLEST_BYTES)
}

/// What a transfer is made of.
pub(super) struct IncomingParts<'a, S> {
    pub connection: &'a Connection,
    pub sink: &'a S,
    pub chunks: Vec<NeededChunk>,
    /// How many the sender may use.
    pub streams: usize,
    pub gate: &'a Arc<MemoryGate>,
    pub buffers: &'a BufferPool,
    pub alarm: StallAlarm,
    /// The number of the control stream.
    pub control: u64,
}

/// A transfer that runs.
pub(super) struct IncomingTransfer<'a, S> {
    parts: IncomingParts<'a, S>,
    state: Mutex<IncomingState>,
    /// A chunk has an outcome, or outcomes were said.
    changed: Event,
}

struct IncomingState {
    chunks: Vec<ChunkState>,
    open_chunks: usize,
    /// Outcomes that the sender does not know.
    to_say: BytesMut,
    words: WordsLeft,
    waits: Vec<SeatWaits>,
}

#[derive(Clone)]
enum ChunkState {
    /// Next: Arriving.
    Awaited,
    /// Next: Over.
    Arriving,
    Over(ChunkOutcome),
}

#[derive(Clone, Copy)]
enum SeatWaits {
    Stream,
    /// Until the sender hears what became of the chunks before.
    Hearing,
    Memory(usize),
    Data(usize),
    Sink(usize),
}

/// A chunk of which some is here.
struct ChunkInHand {
    index: usize,
    content: ArrivingContent,
}

enum ArrivingContent {
    Kept(Box<KeptContent>),
    /// The sink does not want it, and says why.
    Unwanted(String),
}

struct KeptContent {
    buffer: PooledBuffer,
    filled: usize,
    hasher: blake3::Hasher,
    permit: Permit,
}

impl<'a, S: ChunkSink> IncomingTransfer<'a, S> {
    pub fn new(parts: IncomingParts<'a, S>) -> IncomingTransfer<'a, S> {
        let chunks = parts.chunks.len();
        let seats = 2 * parts.streams;
        IncomingTransfer {
            parts,
            state: Mutex::new(IncomingState {
                chunks: vec![ChunkState::Awaited; chunks],
                open_chunks: chunks,
                to_say: BytesMut::new(),
                words: WordsLeft::new(),
                waits: vec![SeatWaits::Stream; seats],
            }),
            changed: Event::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, IncomingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives everything, and gives what became of it.
    pub async fn run(
        self,
        say: &mut SendStream,
        hear: &mut RecvStream,
    ) -> Result<Vec<ChunkResult>, ParallelTransferError> {
        let mut crew = Crew::new();
        // One for each stream, and one for that which ends before it: see `framing`.
        for seat in 0..2 * self.parts.streams {
            crew.add(self.sit(seat));
        }
        crew.add(async {
            self.parts.alarm.rings().await;
            let (after, waits_for) = (self.parts.alarm.timeout(), self.waits_for());
            Err(ParallelTransferError::Stalled { after, waits_for })
        });
        let mut hears = pin!(self.hear(hear));
        let mut has_heard = false;
        {
            let mut speaks = pin!(self.speak(say));
            let both = poll_fn(|context| {
                if !has_heard && let Poll::Ready(()) = hears.as_mut().poll(context)? {
                    has_heard = true;
                }
                speaks.as_mut().poll(context)
            });
            crew.work(both, || {}).await?;
        }
        // Everything has an outcome, whatever becomes of the sender now. It ends its direction when
        // it has heard of all: until then the connection is needed.
        if !has_heard {
            let heard = unless(self.parts.alarm.rings(), hears).await;
            drop(heard);
        }
        let states = std::mem::take(&mut self.state().chunks);
        let chunks = self.parts.chunks.iter().copied();
        let results = chunks.zip(states).filter_map(|(chunk, state)| match state {
            ChunkState::Over(outcome) => Some(ChunkResult { chunk, outcome }),
            ChunkState::Awaited | ChunkState::Arriving => None,
        });
        Ok(results.collect())
    }

    /// Says what became of the chunks, to the end.
    async fn speak(&self, say: &mut SendStream) -> Result<(), ParallelTransferError> {
        let mut words = BytesMut::new();
        ControlMessage::Streams(self.parts.streams as u16).write(&mut words);
        loop {
            let changed = self.changed.listen();
            let is_over = {
                let mut state = self.state();
                words.unsplit(state.to_say.split());
                state.open_chunks == 0
            };
            if is_over {
                ControlMessage::End.write(&mut words);
            }
            if !words.is_empty() {
                let said = say.write_bytes(words.split().freeze()).await;
                said.map_err(ParallelTransferError::of_write)?;
                self.changed.notify(usize::MAX);
            }
            if is_over {
                return say.finish().map_err(ParallelTransferError::of_write);
            }
            changed.await;
        }
    }

    /// Hears the sender's end, or that it gives up.
    async fn hear(&self, hear: &mut RecvStream) -> Result<(), ParallelTransferError> {
        let breach = |what: &str| Err(ParallelTransferError::Breach(what.to_owned()));
        let (mut messages, mut has_ended) = (ControlMessages::default(), false);
        loop {
            let read = hear.read_bytes(READ_BYTES).await;
            let Some(bytes) = read.map_err(ParallelTransferError::of_read)? else {
                break;
            };
            messages.push(&bytes);
            while let Some(message) = messages.next()? {
                if has_ended || message != ControlMessage::End {
                    return breach("it says what only a receiver says");
                }
                has_ended = true;
            }
        }
        match has_ended && self.state().open_chunks == 0 {
            true => Ok(()),
            false => breach("its words end before each chunk has an outcome"),
        }
    }

    /// Resolves when each chunk has an outcome: streams that come then belong to another transfer.
    async fn over(&self) {
        loop {
            let changed = self.changed.listen();
            if self.state().open_chunks == 0 {
                return;
            }
            changed.await;
        }
    }

    fn waits(&self, seat: usize, waits: SeatWaits) {
        self.state().waits[seat] = waits;
    }

    fn waits_for(&self) -> String {
        let state = self.state();
        let name = |index: usize| self.parts.chunks[index];
        let sink = state.waits.iter().find_map(|waits| match waits {
            SeatWaits::Sink(index) => Some(format!("the sink, to write {}", name(*index))),
            SeatWaits::Hearing => Some("the peer, to hear what became of chunks".to_owned()),
            SeatWaits::Stream | SeatWaits::Memory(_) | SeatWaits::Data(_) => None,
        });
        let memory = || {
            state.waits.iter().find_map(|waits| match waits {
                SeatWaits::Memory(index) => {
                    let (used, name) = (self.parts.gate.in_use_bytes(), name(*index));
                    Some(format!(
                        "memory: {used} bytes are with the sink or arriving, and {name} needs more"
                    ))
                }
                SeatWaits::Stream
                | SeatWaits::Hearing
                | SeatWaits::Data(_)
                | SeatWaits::Sink(_) => None,
            })
        };
        let data = || {
            state.waits.iter().find_map(|waits| match waits {
                SeatWaits::Data(index) => {
                    Some(format!("the peer, to send the rest of {}", name(*index)))
                }
                SeatWaits::Stream
                | SeatWaits::Hearing
                | SeatWaits::Memory(_)
                | SeatWaits::Sink(_) => None,
            })
        };
        let open = state.open_chunks;
        let found = sink.or_else(memory).or_else(data);
        found.unwrap_or_else(|| format!("the peer, to send {open} chunks"))
    }
}

/// A seat.
impl<S: ChunkSink> IncomingTransfer<'_, S> {
    /// Reads one stream after the other.
    async fn sit(&self, seat: usize) -> Result<(), ParallelTransferError> {
        loop {
            self.waits(seat, SeatWaits::Stream);
            let accepted = unless(self.over(), self.parts.connection.accept_uni()).await;
            let Some(stream) = accepted else {
                return Ok(());
            };
            self.read_stream(seat, stream?).await?;
        }
    }

    async fn read_stream(
        &self,
        seat: usize,
        mut stream: RecvStream,
    ) -> Result<(), ParallelTransferError> {
        let mut parser = DataStreamParser::default();
        let (mut has_begun, mut arriving) = (false, None);
        loop {
            let mut bytes = match stream.read_bytes(READ_BYTES).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                // Of a transfer that was given up before.
                Err(ReadError::Reset(_)) if !has_begun => return Ok(()),
                Err(error) => return Err(ParallelTransferError::of_read(error)),
            };
            while let Some(event) = parser.next(&mut bytes)? {
                match event {
                    DataEvent::Begins { control } if control < self.parts.control => {
                        stream.stop(STALE);
                        return Ok(());
                    }
                    DataEvent::Begins { control } if control > self.parts.control => {
                        let what = "a stream belongs to a transfer that is not there".to_owned();
                        return Err(ParallelTransferError::Breach(what));
                    }
                    DataEvent::Begins { .. } => has_begun = true,
                    event => {
                        self.take_in(seat, &mut arriving, event).await?;
                        // Streams alone are no progress: there can be any number of them.
                        self.parts.alarm.moved(engine::now());
                        // A stream that always has something never waits by itself.
                        if arriving.is_none() {
                            turn_of_others().await;
                        }
                    }
                }
            }
        }
        match parser.may_end() {
            true => Ok(()),
            false => {
                let what = "a stream ends in the middle of a chunk".to_owned();
                Err(ParallelTransferError::Breach(what))
            }
        }
    }

    async fn take_in(
        &self,
        seat: usize,
        arriving: &mut Option<ChunkInHand>,
        event: DataEvent,
    ) -> Result<(), ParallelTransferError> {
        match (event, &mut *arriving) {
            (DataEvent::Chunk { index, size_bytes }, _) => {
                let begun = self.begin(seat, index, size_bytes).await?;
                self.waits(seat, SeatWaits::Data(begun.index));
                *arriving = Some(begun);
            }
            (DataEvent::Data(data), Some(chunk)) => {
                if let ArrivingContent::Kept(kept) = &mut chunk.content {
                    kept.hasher.update(&data);
                    // The parser has counted: there is no more than was announced.
                    kept.buffer[kept.filled..][..data.len()].copy_from_slice(&data);
                    kept.filled += data.len();
                }
            }
            (DataEvent::Digest(digest), Some(_)) => {
                if let Some(chunk) = arriving.take() {
                    self.waits(seat, SeatWaits::Sink(chunk.index));
                    let (index, outcome) = self.finish(chunk, digest).await;
                    self.waits(seat, SeatWaits::Stream);
                    self.outcome(index, outcome);
                }
            }
            (DataEvent::GivenUp(why), Some(chunk)) => {
                self.outcome(chunk.index, ChunkOutcome::Missing(why));
                *arriving = None;
                self.waits(seat, SeatWaits::Stream);
            }
            // The parser gives these behind the head of a chunk only.
            (DataEvent::Data(_) | DataEvent::Digest(_) | DataEvent::GivenUp(_), None)
            | (DataEvent::Begins { .. }, _) => {}
        }
        Ok(())
    }

    /// Waits until the sender has heard enough of what became of its chunks.
    async fn heard(&self, seat: usize) {
        loop {
            let changed = self.changed.listen();
            if self.state().to_say.len() <= TO_SAY_MAX_BYTES {
                return;
            }
            self.waits(seat, SeatWaits::Hearing);
            changed.await;
        }
    }

    /// A chunk begins to arrive.
    async fn begin(
        &self,
        seat: usize,
        index: u32,
        size_bytes: u64,
    ) -> Result<ChunkInHand, ParallelTransferError> {
        let breach = |what: String| Err(ParallelTransferError::Breach(what));
        let index = index as usize;
        let Some(chunk) = self.parts.chunks.get(index).copied() else {
            return breach(format!("chunk {index} was not announced"));
        };
        if size_bytes != chunk.size_bytes {
            return breach(format!("{chunk} arrives with {size_bytes}"));
        }
        match std::mem::replace(&mut self.state().chunks[index], ChunkState::Arriving) {
            ChunkState::Awaited => {}
            ChunkState::Arriving | ChunkState::Over(_) => {
                return breach(format!("{chunk} comes twice"));
            }
        }
        self.heard(seat).await;
        if let Err(why) = self.parts.sink.accept(chunk) {
            let content = ArrivingContent::Unwanted(why.to_string());
            return Ok(ChunkInHand { index, content });
        }
        self.waits(seat, SeatWaits::Memory(index));
        let permit = self.parts.gate.take(charge_of_arriving(size_bytes)).await;
        let content = match self.parts.buffers.take(size_bytes as usize) {
            Ok(buffer) => ArrivingContent::Kept(Box::new(KeptContent {
                buffer,
                filled: 0,
                hasher: blake3::Hasher::new(),
                permit,
            })),
            Err(error) => ArrivingContent::Unwanted(error.to_string()),
        };
        Ok(ChunkInHand { index, content })
    }

    /// All of a chunk is here.
    async fn finish(&self, chunk: ChunkInHand, digest: Digest) -> (usize, ChunkOutcome) {
        let ChunkInHand { index, content } = chunk;
        let kept = match content {
            ArrivingContent::Kept(kept) => kept,
            ArrivingContent::Unwanted(why) => return (index, ChunkOutcome::Refused(why)),
        };
        if kept.hasher.finalize() != digest {
            return (index, ChunkOutcome::Corrupt);
        }
        let data = kept.permit.hold(kept.buffer.freeze());
        let written = self.parts.sink.write(self.parts.chunks[index], data).await;
        let outcome = match written {
            Ok(()) => ChunkOutcome::Delivered,
            Err(why) => ChunkOutcome::Refused(why.to_string()),
        };
        (index, outcome)
    }

    fn outcome(&self, index: usize, outcome: ChunkOutcome) {
        let mut state = self.state();
        let outcome = state.words.keep(outcome);
        let message = ControlMessage::Outcome {
            index: index as u32,
            outcome: outcome.clone(),
        };
        message.write(&mut state.to_say);
        state.chunks[index] = ChunkState::Over(outcome);
        state.open_chunks -= 1;
        drop(state);
        self.changed.notify(usize::MAX);
    }
}
