//! The simulated wire: two control streams in order, data streams in order each but not among each
//! other.
//!
//! Bytes go emitted → taken by the transport (within a window) → delivered, in pieces of any size.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::Rng;
use crate::ids::StreamKey;
use crate::proto::PIECE_BYTES;

/// One control direction.
#[derive(Debug, Default)]
pub struct Pipe {
    queue: VecDeque<Bytes>,
    /// Nothing follows what is queued.
    pub closed: bool,
    /// The reader was told so.
    pub close_delivered: bool,
    /// The reader is gone: what is written disappears.
    cut: bool,
}

#[derive(Debug, Default)]
struct Stream {
    emitted: VecDeque<Bytes>,
    taken: VecDeque<Bytes>,
    fin_emitted: bool,
    fin_taken: bool,
}

#[derive(Debug)]
pub struct Wire {
    /// By the side that writes.
    pub control: [Pipe; 2],
    streams: BTreeMap<StreamKey, Stream>,
    next_key: u32,
    window_bytes: usize,
    taken_bytes: usize,
    /// The window filled up: it opens again when half of it is free, as QUIC's do. Otherwise two
    /// bytes delivered would let two bytes in, for ever.
    is_full: bool,
    /// Emitted and not taken.
    pub untaken_bytes: usize,
    pub most_streams_open: usize,
    /// The connection is lost: what is written disappears.
    gone: bool,
}

impl Wire {
    pub fn new(window_bytes: usize) -> Wire {
        Wire {
            control: [Pipe::default(), Pipe::default()],
            streams: BTreeMap::new(),
            next_key: 0,
            window_bytes,
            taken_bytes: 0,
            is_full: false,
            untaken_bytes: 0,
            most_streams_open: 0,
            gone: false,
        }
    }

    pub fn emit_data(&mut self, key: StreamKey, data: Bytes, fin: bool) {
        if self.gone {
            return;
        }
        if !self.streams.contains_key(&key) {
            assert_eq!(
                key.0,
                u64::from(self.next_key),
                "stream keys count up from 0 and are not used again"
            );
            self.next_key += 1;
        }
        let stream = self.streams.entry(key).or_default();
        assert!(!stream.fin_emitted, "data after the end of {key:?}");
        self.untaken_bytes += data.len();
        if !data.is_empty() {
            stream.emitted.push_back(data);
        }
        stream.fin_emitted = fin;
        let open = self
            .streams
            .values()
            .filter(|stream| !stream.fin_emitted)
            .count();
        self.most_streams_open = self.most_streams_open.max(open);
    }

    fn takeable(&self) -> impl Iterator<Item = StreamKey> {
        let room = !self.is_full;
        let can = move |stream: &Stream| match stream.emitted.is_empty() {
            true => stream.fin_emitted && !stream.fin_taken,
            false => room,
        };
        self.streams
            .iter()
            .filter(move |(_, stream)| can(stream))
            .map(|(key, _)| *key)
    }

    pub fn can_take(&self) -> bool {
        self.takeable().next().is_some()
    }

    /// The transport takes some bytes of one stream; gives how many.
    pub fn take(&mut self, rng: &mut Rng) -> usize {
        let keys: Vec<_> = self.takeable().collect();
        let key = rng.pick(&keys);
        let room = self.window_bytes - self.taken_bytes;
        let Some(stream) = self.streams.get_mut(&key) else {
            return 0;
        };
        let mut taken = 0;
        for _ in 0..=rng.below(4) {
            let Some(front) = stream.emitted.front_mut() else {
                break;
            };
            let most = front.len().min(room - taken);
            let len = if rng.chance(60) {
                most
            } else {
                most.min(1 + rng.below(most))
            };
            if len == 0 {
                break;
            }
            stream.taken.push_back(front.split_to(len));
            taken += len;
            if front.is_empty() {
                stream.emitted.pop_front();
            }
        }
        stream.fin_taken = stream.emitted.is_empty() && stream.fin_emitted;
        self.taken_bytes += taken;
        self.is_full = self.taken_bytes >= self.window_bytes;
        self.untaken_bytes -= taken;
        taken
    }

    pub fn can_deliver(&self) -> bool {
        self.streams.values().any(Stream::deliverable)
    }

    /// The next piece of one stream, with its end if that comes along.
    pub fn deliver(&mut self, rng: &mut Rng) -> Option<(StreamKey, Bytes, bool)> {
        let keys: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, s)| s.deliverable())
            .map(|(key, _)| *key)
            .collect();
        let key = rng.pick(&keys);
        let stream = self.streams.get_mut(&key)?;
        let mut piece = Bytes::new();
        if let Some(front) = stream.taken.front_mut() {
            let most = front.len().min(PIECE_BYTES);
            let len = if rng.chance(70) {
                most
            } else {
                1 + rng.below(most)
            };
            piece = front.split_to(len);
            if front.is_empty() {
                stream.taken.pop_front();
            }
        }
        self.taken_bytes -= piece.len();
        self.is_full &= self.taken_bytes > self.window_bytes / 2;
        // The end comes with the last bytes or alone, as it does from a real transport.
        let fin =
            stream.taken.is_empty() && stream.fin_taken && (piece.is_empty() || rng.chance(50));
        if fin {
            self.streams.remove(&key);
        }
        Some((key, piece, fin))
    }

    /// Streams begun and not delivered to the end, which the reader of a lost connection sees
    /// reset.
    pub fn reset_all(&mut self) -> Vec<StreamKey> {
        self.taken_bytes = 0;
        self.untaken_bytes = 0;
        self.gone = true;
        std::mem::take(&mut self.streams).into_keys().collect()
    }
}

impl Stream {
    fn deliverable(&self) -> bool {
        !self.taken.is_empty() || self.fin_taken
    }
}

impl Pipe {
    pub fn emit(&mut self, bytes: Bytes) {
        assert!(self.cut || !self.closed, "control bytes after the end");
        if !bytes.is_empty() && !self.cut {
            self.queue.push_back(bytes);
        }
    }

    pub fn has_bytes(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Written and not delivered yet.
    pub fn waiting_bytes(&self) -> usize {
        self.queue.iter().map(Bytes::len).sum()
    }

    /// The next piece, cut anywhere.
    pub fn deliver(&mut self, rng: &mut Rng) -> Bytes {
        let Some(front) = self.queue.front_mut() else {
            return Bytes::new();
        };
        let len = if rng.chance(80) {
            front.len()
        } else {
            1 + rng.below(front.len())
        };
        let piece = front.split_to(len);
        if front.is_empty() {
            self.queue.pop_front();
        }
        piece
    }

    /// The connection is gone: what was queued never arrives.
    pub fn cut(&mut self) {
        self.queue.clear();
        self.closed = true;
        self.cut = true;
    }
}
