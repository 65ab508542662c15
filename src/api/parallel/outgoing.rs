//! One transfer as its sender runs it: places that each fill a stream with chunks, and the control
//! stream that says what became of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use event_listener::Event;

use super::acknowledged::AcknowledgedBytes;
use super::alarm::StallAlarm;
use super::chunks::{ChunkOutcome, ChunkProvider, ChunkResult, NeededChunk, WordsLeft};
use super::crew::{Crew, both};
use super::errors::ParallelTransferError;
use super::framing::{
    self, ControlMessage, ControlMessages, record_head, segment_head, stream_head,
};
use super::pieces::{ChunkPieces, Readers, charge_of};
use super::progress::{ProgressBoard, TransferProgress};
use super::schedule::{ChunkSchedule, Claim};
use crate::api::connection::Connection;
use crate::api::errors::WriteError;
use crate::api::permits::MemoryGate;
use crate::api::stream::{RecvStream, SendStream};
use crate::engine;
use crate::proto::parallel::ParallelTransferConfig;

/// What one read of the control stream brings at most.
const CONTROL_READ_BYTES: usize = 16 << 10;

/// Bytes that are handed to a stream, and acknowledged, at a time: so fine are progress and the
/// goodput that paces the streams. On a path of 1 MB/s, it is some 15 times a second.
const SLICE_BYTES: usize = 64 << 10;

/// So often the goodput is reckoned anew where nothing is acknowledged.
const GOODPUT_STEP: Duration = Duration::from_millis(100);

/// What a transfer is made of.
pub(super) struct OutgoingParts<'a, P> {
    pub connection: &'a Connection,
    pub config: &'a ParallelTransferConfig,
    pub chunks: &'a [NeededChunk],
    pub provider: &'a P,
    pub gate: &'a Arc<MemoryGate>,
    pub readers: Readers<'a>,
    pub board: &'a ProgressBoard,
    pub alarm: StallAlarm,
}

/// A transfer that runs.
pub(super) struct OutgoingTransfer<'a, P> {
    parts: OutgoingParts<'a, P>,
    acknowledged: AcknowledgedBytes,
    /// The number of the control stream.
    control: u64,
    state: Mutex<OutgoingState>,
    /// The number of streams has changed, or all chunks are with somebody.
    changed: Event,
}

struct OutgoingState {
    schedule: ChunkSchedule,
    outcomes: Vec<Option<ChunkOutcome>>,
    /// How each chunk ended on its stream.
    ends: Vec<SentEnd>,
    open_outcomes: usize,
    words: WordsLeft,
    is_granted: bool,
    /// What each place waits for, with one chunk and with the next.
    waits: Vec<[PlaceWaits; 2]>,
    /// What was acknowledged when this was last looked at.
    acknowledged_bytes: u64,
    total_bytes: u64,
    /// The goodput as it was last reckoned, and when.
    goodput_bytes_per_second: u64,
    reckoned_at: Instant,
}

/// The two things that a place does at a time.
const PREPARES: usize = 0;
const WRITES: usize = 1;

/// What the peer can know of a chunk's end.
#[derive(Clone, Copy)]
enum SentEnd {
    /// Next: Digest, GivenUp.
    None,
    Digest,
    GivenUp,
}

impl SentEnd {
    /// Why the peer cannot have come to this outcome, if it cannot.
    fn contradicts(self, outcome: &ChunkOutcome) -> Option<&'static str> {
        match (self, outcome) {
            (SentEnd::None, _) => Some("before it had all of it"),
            (SentEnd::GivenUp, ChunkOutcome::Missing(_)) => None,
            (SentEnd::GivenUp, _) => Some("as if it had not been given up"),
            (SentEnd::Digest, ChunkOutcome::Missing(_)) => Some("as if it had been given up"),
            (SentEnd::Digest, _) => None,
        }
    }
}

#[derive(Clone, Copy)]
enum PlaceWaits {
    Nothing,
    Memory(usize),
    Provider(usize),
    /// For a disk.
    Read(usize),
    /// For a stream, or for the one before to be acknowledged.
    Stream,
    /// For room in the transport.
    Room(usize),
}

/// What a place has to do next.
enum Prepared<'a> {
    /// A chunk, or why there is none.
    Chunk(usize, Box<Result<ChunkPieces<'a>, String>>),
    Rest,
    Over,
}

/// The streams of a place.
#[derive(Default)]
struct PlaceStreams {
    open: Option<SendStream>,
    /// Finished, and perhaps not acknowledged. There is no more than one: the receiver has memory
    /// for so many.
    ending: Option<SendStream>,
}

impl PlaceStreams {
    fn finish(&mut self) -> Result<(), WriteError> {
        let Some(mut stream) = self.open.take() else {
            return Ok(());
        };
        stream.finish()?;
        self.ending = Some(stream);
        Ok(())
    }
}

impl<'a, P: ChunkProvider> OutgoingTransfer<'a, P> {
    pub fn new(parts: OutgoingParts<'a, P>, control: u64) -> OutgoingTransfer<'a, P> {
        let (config, chunks, now) = (parts.config, parts.chunks.len(), engine::now());
        let state = OutgoingState {
            schedule: ChunkSchedule::new(now, config, chunks),
            outcomes: vec![None; chunks],
            ends: vec![SentEnd::None; chunks],
            open_outcomes: chunks,
            words: WordsLeft::new(),
            is_granted: false,
            waits: vec![[PlaceWaits::Nothing; 2]; config.max_concurrent_streams],
            acknowledged_bytes: 0,
            total_bytes: parts.chunks.iter().map(|chunk| chunk.size_bytes).sum(),
            goodput_bytes_per_second: 0,
            reckoned_at: now,
        };
        OutgoingTransfer {
            parts,
            acknowledged: AcknowledgedBytes::default(),
            control,
            state: Mutex::new(state),
            changed: Event::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, OutgoingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends everything, and gives what became of it.
    pub async fn run(
        &self,
        mut say: SendStream,
        hear: RecvStream,
    ) -> Result<Vec<ChunkResult>, ParallelTransferError> {
        let mut crew = Crew::new();
        for place in 0..self.parts.config.max_concurrent_streams {
            crew.add(self.carry(place));
        }
        crew.add(self.stalls());
        crew.add(async {
            // The crew looks when all have had their turn.
            loop {
                self.acknowledged.more().await;
            }
        });
        crew.add(async {
            self.parts.board.cancelled().await;
            Err(ParallelTransferError::Cancelled)
        });
        let speaks = async {
            let announced =
                framing::announcement(self.parts.config.max_concurrent_streams, self.parts.chunks);
            let said = say.write_bytes(announced).await;
            // What the peer says of it tells more than that it wants no more.
            if let Err(WriteError::Lost(lost)) = said {
                return Err(lost.into());
            }
            self.hear(hear).await?;
            let mut end = bytes::BytesMut::new();
            ControlMessage::End.write(&mut end);
            let ended = say.write_bytes(end.freeze()).await;
            // Whether the peer hears that all is well changes nothing here.
            let _ = ended.and_then(|()| say.finish());
            Ok(())
        };
        crew.work(speaks, || self.look(engine::now())).await?;
        self.look(engine::now());
        let outcomes = std::mem::take(&mut self.state().outcomes);
        let chunks = self.parts.chunks.iter().copied();
        let results = chunks.zip(outcomes).filter_map(|(chunk, outcome)| {
            let outcome = outcome?;
            Some(ChunkResult { chunk, outcome })
        });
        Ok(results.collect())
    }

    /// Fails when nothing has moved for too long.
    async fn stalls(&self) -> Result<(), ParallelTransferError> {
        loop {
            self.parts.alarm.rings().await;
            // What was acknowledged has moved, though nobody has looked since.
            self.look(engine::now());
            if self.parts.alarm.has_rung() {
                let (after, waits_for) = (self.parts.alarm.timeout(), self.waits_for());
                return Err(ParallelTransferError::Stalled { after, waits_for });
            }
        }
    }

    /// Reads what became of the chunks, to the end.
    async fn hear(&self, mut hear: RecvStream) -> Result<(), ParallelTransferError> {
        let mut messages = ControlMessages::default();
        let mut is_over = false;
        loop {
            let read = hear.read_bytes(CONTROL_READ_BYTES).await;
            let Some(bytes) = read.map_err(ParallelTransferError::of_read)? else {
                break;
            };
            messages.push(&bytes);
            while let Some(message) = messages.next()? {
                if is_over {
                    let what = "it says more behind the end".to_owned();
                    return Err(ParallelTransferError::Breach(what));
                }
                is_over = self.take_in(message)?;
                // Bytes that are no whole message are no progress: they may drip.
                self.parts.alarm.moved(engine::now());
            }
        }
        match is_over {
            true => Ok(()),
            false => Err(ParallelTransferError::Breach(
                "its words end in the middle".to_owned(),
            )),
        }
    }

    /// True: it was the last.
    fn take_in(&self, message: ControlMessage) -> Result<bool, ParallelTransferError> {
        let mut state = self.state();
        let breach = |what: String| Err(ParallelTransferError::Breach(what));
        match message {
            ControlMessage::Outcome { index, outcome } => {
                let at = index as usize;
                let Some(end) = state.ends.get(at).copied() else {
                    return breach(format!("it names chunk {index}, which there is not"));
                };
                if let Some(how) = end.contradicts(&outcome) {
                    return breach(format!("it says what became of chunk {index} {how}"));
                }
                let outcome = state.words.keep(outcome);
                if state.outcomes[at].replace(outcome).is_some() {
                    return breach(format!("it says twice what became of chunk {index}"));
                }
                state.open_outcomes -= 1;
                Ok(false)
            }
            ControlMessage::Refused(why) => Err(ParallelTransferError::Refused(why)),
            ControlMessage::Streams(streams) if streams == 0 || state.is_granted => {
                breach("it says how many streams there are twice, or none".to_owned())
            }
            ControlMessage::Streams(streams) => {
                state.is_granted = true;
                state.schedule.granted(usize::from(streams));
                drop(state);
                self.changed.notify(usize::MAX);
                Ok(false)
            }
            ControlMessage::End if state.open_outcomes > 0 => {
                let open = state.open_outcomes;
                breach(format!("it ends, and {open} chunks have no outcome"))
            }
            ControlMessage::End => Ok(true),
        }
    }

    /// What has changed since this was last called: who paces the streams, and who watches, is
    /// told.
    fn look(&self, now: Instant) {
        let mut state = self.state();
        let acknowledged_bytes = self.acknowledged.bytes();
        let before = std::mem::replace(&mut state.acknowledged_bytes, acknowledged_bytes);
        let news = acknowledged_bytes - before;
        if news > 0 {
            self.parts.alarm.moved(now);
            if state.schedule.acknowledged(now, news) {
                self.changed.notify(usize::MAX);
            }
        }
        // With the time alone it is another number at each look: who watches is not woken for that.
        if news > 0 || now.saturating_duration_since(state.reckoned_at) >= GOODPUT_STEP {
            state.goodput_bytes_per_second = state.schedule.goodput_bytes_per_second(now);
            state.reckoned_at = now;
        }
        let progress = TransferProgress {
            chunks: state.outcomes.len(),
            finished_chunks: state.outcomes.len() - state.open_outcomes,
            total_bytes: state.total_bytes,
            acknowledged_bytes,
            streams: state.schedule.streams(),
            buffered_bytes: self.parts.gate.in_use_bytes(),
            bytes_per_second: state.goodput_bytes_per_second,
        };
        drop(state);
        self.parts.board.update(progress);
    }

    fn waits(&self, place: usize, what: usize, waits: PlaceWaits) {
        self.state().waits[place][what] = waits;
    }

    /// A chunk is about to end so: before the peer can know.
    fn ends(&self, index: usize, end: SentEnd) {
        self.state().ends[index] = end;
    }

    /// In words: what is closest to the program first.
    fn waits_for(&self) -> String {
        let state = self.state();
        let waits = || state.waits.iter().flatten();
        let name = |index: usize| self.parts.chunks[index];
        for waits in waits() {
            match waits {
                PlaceWaits::Provider(index) => {
                    return format!("the provider, to give {}", name(*index));
                }
                PlaceWaits::Read(index) => {
                    return format!("a file to be read, of {}", name(*index));
                }
                PlaceWaits::Nothing
                | PlaceWaits::Memory(_)
                | PlaceWaits::Stream
                | PlaceWaits::Room(_) => {}
            }
        }
        for waits in waits() {
            match waits {
                PlaceWaits::Room(index) => {
                    return format!("the peer, to read {}", name(*index));
                }
                PlaceWaits::Stream => return "the peer, to let in another stream".to_owned(),
                PlaceWaits::Memory(index) => {
                    let used = self.parts.gate.in_use_bytes();
                    let name = name(*index);
                    return format!("the peer: {used} bytes are not acknowledged, before {name}");
                }
                PlaceWaits::Nothing | PlaceWaits::Provider(_) | PlaceWaits::Read(_) => {}
            }
        }
        let open = state.open_outcomes;
        format!("the peer, to say what became of {open} chunks; is its sink stuck?")
    }
}

/// A place.
impl<'a, P: ChunkProvider> OutgoingTransfer<'a, P> {
    /// Fills streams with chunks until there are none. A stream that the peer stopped ends the
    /// place: why, the control stream says.
    async fn carry(&self, place: usize) -> Result<(), ParallelTransferError> {
        match self.carry_chunks(place).await {
            Err(ParallelTransferError::PeerGaveUp { .. }) => Ok(()),
            other => other,
        }
    }

    async fn carry_chunks(&self, place: usize) -> Result<(), ParallelTransferError> {
        let mut streams = PlaceStreams::default();
        let mut next = self.prepare(place).await?;
        loop {
            next = match next {
                Prepared::Chunk(index, pieces) => {
                    let writes = self.write(place, &mut streams, (index, pieces));
                    both(writes, self.prepare(place)).await?.1
                }
                Prepared::Rest => {
                    self.state().schedule.stream_ends(place);
                    streams.finish().map_err(ParallelTransferError::of_write)?;
                    self.rest(place).await;
                    self.prepare(place).await?
                }
                Prepared::Over => {
                    return streams.finish().map_err(ParallelTransferError::of_write);
                }
            };
        }
    }

    /// Waits until there is something for the place to do, or nothing for anybody.
    async fn rest(&self, place: usize) {
        loop {
            let changed = self.changed.listen();
            if self.state().schedule.has_work_for(place) {
                return;
            }
            changed.await;
        }
    }

    fn claim(&self, place: usize) -> Claim {
        let mut state = self.state();
        let claim = state.schedule.claim(place);
        if state.schedule.is_over() {
            drop(state);
            self.changed.notify(usize::MAX);
        }
        claim
    }

    /// The next chunk of a place: memory first, then the provider is asked.
    async fn prepare(&self, place: usize) -> Result<Prepared<'a>, ParallelTransferError> {
        let index = match self.claim(place) {
            Claim::Chunk(index) => index,
            Claim::Rest => return Ok(Prepared::Rest),
            Claim::Over => return Ok(Prepared::Over),
        };
        let chunk = self.parts.chunks[index];
        self.waits(place, PREPARES, PlaceWaits::Memory(index));
        let permit = self.parts.gate.take(charge_of(chunk.size_bytes)).await;
        self.waits(place, PREPARES, PlaceWaits::Provider(index));
        let found = self.parts.provider.provide(chunk).await;
        self.parts.alarm.moved(engine::now());
        self.waits(place, PREPARES, PlaceWaits::Nothing);
        let found = found.map_err(|failure| failure.to_string());
        let begin = |data| ChunkPieces::begin(self.parts.readers, chunk, data, permit);
        Ok(Prepared::Chunk(index, Box::new(found.and_then(begin))))
    }

    /// A chunk goes onto the stream of its place.
    async fn write(
        &self,
        place: usize,
        streams: &mut PlaceStreams,
        (index, pieces): (usize, Box<Result<ChunkPieces<'a>, String>>),
    ) -> Result<(), ParallelTransferError> {
        self.waits(place, WRITES, PlaceWaits::Stream);
        let written = async {
            self.open(streams).await?;
            let Some(stream) = &mut streams.open else {
                return Ok(());
            };
            let size_bytes = self.parts.chunks[index].size_bytes;
            let head = record_head(index as u32, size_bytes);
            stream.write_all(&head).await?;
            let why = match *pieces {
                Ok(pieces) => self.write_pieces(place, stream, (index, pieces)).await?,
                Err(why) => Some(why),
            };
            if let Some(why) = why {
                self.ends(index, SentEnd::GivenUp);
                stream.write_bytes(framing::given_up(&why)).await?;
            }
            if self.state().schedule.chunk_ends(place, size_bytes) {
                streams.finish()?;
            }
            Ok(())
        };
        let written = written.await;
        self.waits(place, WRITES, PlaceWaits::Nothing);
        written.map_err(ParallelTransferError::of_write)
    }

    /// Sees to it that the place has an open stream.
    async fn open(&self, streams: &mut PlaceStreams) -> Result<(), WriteError> {
        if streams.open.is_some() {
            return Ok(());
        }
        if let Some(mut ending) = streams.ending.take() {
            ending.delivered().await?;
        }
        let mut stream = self.parts.connection.open_uni().await?;
        stream.write_all(&stream_head(self.control)).await?;
        streams.open = Some(stream);
        Ok(())
    }

    /// The segments and the digest of a chunk; or why it cannot be had.
    async fn write_pieces(
        &self,
        place: usize,
        stream: &mut SendStream,
        (index, mut pieces): (usize, ChunkPieces<'a>),
    ) -> Result<Option<String>, WriteError> {
        if self.parts.chunks[index].size_bytes == 0 {
            stream.write_all(&segment_head(0)).await?;
        }
        loop {
            self.waits(place, WRITES, PlaceWaits::Read(index));
            let mut piece = match pieces.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(why) => return Ok(Some(why)),
            };
            self.waits(place, WRITES, PlaceWaits::Room(index));
            stream.write_all(&segment_head(piece.len())).await?;
            while !piece.is_empty() {
                let slice = piece.split_to(piece.len().min(SLICE_BYTES));
                stream.write_bytes(self.acknowledged.count(slice)).await?;
            }
        }
        self.waits(place, WRITES, PlaceWaits::Room(index));
        match pieces.digest() {
            Some(digest) => {
                self.ends(index, SentEnd::Digest);
                stream.write_all(&digest).await.map(|()| None)
            }
            None => Ok(Some("its digest is not known".to_owned())),
        }
    }
}
