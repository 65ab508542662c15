//! Which stream carries the next chunk, how many streams there are, and what they bring: without
//! I/O and without a clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::proto::parallel::{ParallelTransferConfig, Parallelism, StreamLimits, StreamLoad};

/// What a place for a stream does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Claim {
    /// It carries this chunk.
    Chunk(usize),
    /// More streams than are in use now bring no more: it ends its stream, and waits.
    Rest,
    /// All chunks are with somebody.
    Over,
}

/// The schedule of one transfer. Places *pull* chunks as they have room: what is fast carries more,
/// without anybody dividing the work beforehand.
#[derive(Debug)]
pub(super) struct ChunkSchedule {
    parallelism: Parallelism,
    limits: StreamLimits,
    loads: Vec<StreamLoad>,
    /// What the receiver has memory for; none before it has said so.
    granted: usize,
    next: usize,
    chunks: usize,
    goodput: GoodputWindow,
}

impl ChunkSchedule {
    pub fn new(now: Instant, config: &ParallelTransferConfig, chunks: usize) -> ChunkSchedule {
        ChunkSchedule {
            parallelism: Parallelism::new(now, config),
            limits: StreamLimits::new(config),
            loads: vec![StreamLoad::default(); config.max_concurrent_streams.max(1)],
            granted: 0,
            next: 0,
            chunks,
            goodput: GoodputWindow::new(now, config.bandwidth_window),
        }
    }

    /// What the place is to do.
    pub fn claim(&mut self, place: usize) -> Claim {
        if self.is_over() {
            return Claim::Over;
        }
        if place >= self.streams() {
            return Claim::Rest;
        }
        self.next += 1;
        Claim::Chunk(self.next - 1)
    }

    /// Whether a claim of the place gives something else than a rest.
    pub fn has_work_for(&self, place: usize) -> bool {
        self.is_over() || place < self.streams()
    }

    /// Whether all chunks are with somebody.
    pub fn is_over(&self) -> bool {
        self.next >= self.chunks
    }

    /// A chunk ends on the stream of a place. True: the stream is to end with it.
    pub fn chunk_ends(&mut self, place: usize, bytes: u64) -> bool {
        let is_full = self.loads[place].record_ends(bytes, self.limits);
        if is_full {
            self.stream_ends(place);
        }
        is_full
    }

    /// The next chunk of a place begins a stream.
    pub fn stream_ends(&mut self, place: usize) {
        self.loads[place] = StreamLoad::default();
    }

    /// The peer has acknowledged so many bytes more. True: how many streams there are to be has
    /// changed.
    pub fn acknowledged(&mut self, now: Instant, bytes: u64) -> bool {
        let before = self.streams();
        self.goodput.add(now, bytes);
        self.parallelism.on_sent(now, bytes);
        self.streams() != before
    }

    /// The receiver has memory for so many streams.
    pub fn granted(&mut self, streams: usize) {
        self.granted = streams;
    }

    /// Streams to be in use now.
    pub fn streams(&self) -> usize {
        self.parallelism.target().min(self.granted)
    }

    pub fn goodput_bytes_per_second(&mut self, now: Instant) -> u64 {
        self.goodput.bytes_per_second(now)
    }
}

/// Parts that a window slides by.
const PARTS: u32 = 16;

/// Bytes of the time that has just passed: what a window slides over, in parts of it.
#[derive(Debug)]
struct GoodputWindow {
    part: Duration,
    began: Instant,
    /// When a part began and what it brought; the newest last.
    parts: VecDeque<(Instant, u64)>,
}

impl GoodputWindow {
    fn new(now: Instant, window: Duration) -> GoodputWindow {
        GoodputWindow {
            part: (window / PARTS).max(Duration::from_millis(1)),
            began: now,
            parts: VecDeque::new(),
        }
    }

    fn add(&mut self, now: Instant, bytes: u64) {
        match self.parts.back_mut() {
            Some((began, sum)) if now.saturating_duration_since(*began) < self.part => {
                *sum += bytes;
            }
            Some(_) | None => self.parts.push_back((now, bytes)),
        }
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        let window = self.part * PARTS;
        while let Some((began, _)) = self.parts.front()
            && now.saturating_duration_since(*began) >= window
        {
            self.parts.pop_front();
        }
    }

    fn bytes_per_second(&mut self, now: Instant) -> u64 {
        self.forget(now);
        let sum: u64 = self.parts.iter().map(|(_, bytes)| bytes).sum();
        let window = self.part * PARTS;
        let time = window.min(now.saturating_duration_since(self.began).max(self.part));
        (u128::from(sum) * 1_000_000_000 / time.as_nanos().max(1)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ParallelTransferConfig {
        ParallelTransferConfig {
            max_concurrent_streams: 8,
            chunks_per_stream: 3,
            bandwidth_window: Duration::from_millis(160),
            ..Default::default()
        }
    }

    /// Some moment.
    fn epoch() -> Instant {
        crate::engine::now()
    }

    /// Goes through some windows in which each stream brings what `each` says of all of them.
    fn run(
        schedule: &mut ChunkSchedule,
        now: &mut Instant,
        windows: u32,
        each: impl Fn(u64) -> u64,
    ) -> Vec<usize> {
        let mut seen = vec![schedule.streams()];
        for _ in 0..windows * 16 {
            *now += Duration::from_millis(10);
            schedule.acknowledged(*now, each(schedule.streams() as u64) / 100);
            if seen.last() != Some(&schedule.streams()) {
                seen.push(schedule.streams());
            }
        }
        seen
    }

    #[test]
    fn each_chunk_is_claimed_once_and_streams_beyond_the_target_rest() {
        let mut schedule = ChunkSchedule::new(epoch(), &config(), 3);
        schedule.granted(8);
        assert_eq!(schedule.claim(0), Claim::Chunk(0));
        assert_eq!(schedule.claim(1), Claim::Rest);
        assert_eq!(schedule.claim(0), Claim::Chunk(1));
        assert_eq!(schedule.claim(0), Claim::Chunk(2));
        assert_eq!(schedule.claim(0), Claim::Over);
        assert_eq!(schedule.claim(7), Claim::Over);
        let mut fixed = config();
        fixed.adaptive_parallelism = false;
        let mut schedule = ChunkSchedule::new(epoch(), &fixed, 9);
        let told = "the receiver has not said so";
        assert_eq!(schedule.claim(0), Claim::Rest, "{told}");
        schedule.granted(1);
        assert_eq!(schedule.claim(0), Claim::Chunk(0));
        assert_eq!(schedule.claim(1), Claim::Rest);
        schedule.granted(8);
        let claims: Vec<Claim> = (0..8).map(|place| schedule.claim(place)).collect();
        assert_eq!(claims, (1..9).map(Claim::Chunk).collect::<Vec<_>>());
    }

    #[test]
    fn a_stream_ends_after_its_chunks_and_after_its_bytes() {
        let mut schedule = ChunkSchedule::new(epoch(), &config(), 100);
        let ends: Vec<bool> = (0..7).map(|_| schedule.chunk_ends(0, 1)).collect();
        assert_eq!(ends, [false, false, true, false, false, true, false]);
        assert!(schedule.chunk_ends(0, 4 << 20), "the bytes are enough");
        assert!(!schedule.chunk_ends(0, 1));
        schedule.stream_ends(0);
        let ends: Vec<bool> = (0..3).map(|_| schedule.chunk_ends(0, 1)).collect();
        assert_eq!(ends, [false, false, true]);
    }

    #[test]
    fn streams_are_added_while_they_bring_more_and_retired_when_not() {
        let (mut now, config) = (epoch(), config());
        let mut schedule = ChunkSchedule::new(now, &config, 1 << 20);
        schedule.granted(16);
        // Two streams fill the path: four are tried, and two stay.
        let seen = run(&mut schedule, &mut now, 4, |streams| {
            streams.min(2) * 100_000_000
        });
        assert_eq!(seen, [1, 2, 4, 2]);
        // Tried again after a while; now the path has room for all.
        let seen = run(&mut schedule, &mut now, 20, |streams| streams * 100_000_000);
        assert_eq!(seen, [2, 4, 8]);
        for place in 2..8 {
            assert!(matches!(schedule.claim(place), Claim::Chunk(_)));
        }
    }

    #[test]
    fn the_goodput_is_that_of_the_last_window() {
        let (mut now, config) = (epoch(), config());
        let mut schedule = ChunkSchedule::new(now, &config, 1);
        run(&mut schedule, &mut now, 4, |_| 80_000_000);
        let goodput = schedule.goodput_bytes_per_second(now);
        assert!((70_000_000..90_000_000).contains(&goodput), "{goodput}");
        run(&mut schedule, &mut now, 1, |_| 40_000_000);
        let goodput = schedule.goodput_bytes_per_second(now);
        assert!((35_000_000..50_000_000).contains(&goodput), "{goodput}");
        now += Duration::from_secs(1);
        assert_eq!(schedule.goodput_bytes_per_second(now), 0);
    }
}
