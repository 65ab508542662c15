//! Chunks of programs over many streams: two engines over loopback, both backends, disks, losses,
//! and who is slow, gives up or fails.

#[path = "parallel/hostile.rs"]
mod hostile;
#[path = "streams/lossy.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod lossy;
#[path = "parallel/narrow.rs"]
mod narrow;
#[path = "parallel/pair.rs"]
mod pair;
#[path = "parallel/sides.rs"]
mod sides;
#[path = "parallel/turns.rs"]
mod turns;

use std::fs::{self, File};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::{or, zip};
use landro::engine::BackendChoice;
use landro::{
    ChunkData, ChunkFailure, ChunkOutcome, ChunkProvider, ChunkResult, ChunkSink, NeededChunk,
    ParallelReceiver, ParallelReceiverConfig, ParallelTransferConfig, ParallelTransferError,
    ParallelTransferManager,
};
use lossy::lossy;
use narrow::narrow;
use pair::{BACKENDS, Pair, after, made_up, pair, pair_by, soon};
use sides::{IntoFile, Kept, MadeUp, Ranges, Same, Tracked};

const MIB: usize = 1 << 20;

/// Waits until all buffers came back: the peer's last acknowledgement may be on its way.
async fn come_back(in_use_bytes: impl Fn() -> usize) {
    while in_use_bytes() > 0 {
        after(Duration::from_millis(10)).await;
    }
}

fn chunk(id: u64, size_bytes: usize) -> NeededChunk {
    let size_bytes = size_bytes as u64;
    NeededChunk { id, size_bytes }
}

fn manager(pair: &Pair, config: ParallelTransferConfig) -> ParallelTransferManager {
    ParallelTransferManager::new(pair.here.clone(), config)
}

fn receiver(pair: &Pair, max_buffer_size: usize) -> ParallelReceiver {
    let config = ParallelReceiverConfig {
        max_buffer_size,
        ..Default::default()
    };
    ParallelReceiver::new(pair.there.clone(), config)
}

/// Sends and receives; both sides say the same.
async fn transfer<P: ChunkProvider, S: ChunkSink>(
    (manager, receiver): (&ParallelTransferManager, &ParallelReceiver),
    chunks: &[NeededChunk],
    (provider, sink): (P, &S),
) -> Vec<ChunkResult> {
    let sends = manager.transfer_chunks(chunks.iter().copied(), provider);
    let (sent, received) = zip(sends, receiver.receive(sink)).await;
    let (sent, received) = (sent.unwrap(), received.unwrap());
    assert_eq!(sent.len(), chunks.len());
    let named = sent.iter().map(|result| result.chunk);
    assert!(named.eq(chunks.iter().copied()));
    // Words of errors are cut off on the way, and are the same here.
    assert_eq!(sent, received);
    sent
}

#[test]
fn a_file_arrives_on_a_disk() {
    const BYTES: usize = 64 * MIB + 12_345;
    for backend in BACKENDS {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, made_up(BYTES, 1)).unwrap();
        let pair = pair(backend);
        let config = ParallelTransferConfig {
            bandwidth_window: Duration::from_millis(50),
            ..Default::default()
        };
        let (manager, receiver) = (manager(&pair, config), receiver(&pair, 32 * MIB));
        // Of a size that is no multiple of anything.
        const EACH: usize = MIB + 700_001;
        let chunks: Vec<_> = (0..BYTES)
            .step_by(EACH)
            .map(|at| chunk(at as u64, EACH.min(BYTES - at)))
            .collect();
        let provider = Ranges(Arc::new(File::open(&from).unwrap()));
        let sink = IntoFile(File::create(&to).unwrap());
        let done = soon(transfer((&manager, &receiver), &chunks, (provider, &sink)));
        assert!(done.iter().all(ChunkResult::is_delivered), "{done:?}");
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(receiver.most_buffered_bytes() <= 32 * MIB);
        assert!(manager.most_buffered_bytes() <= 128 * MIB);
        // No buffer was taken without a permit, and all came back.
        let (here, there) = (
            manager.most_buffered_bytes(),
            receiver.most_buffered_bytes(),
        );
        assert!((MIB..=here).contains(&manager.buffers().high_water_bytes));
        assert!((MIB..=there).contains(&receiver.buffers().high_water_bytes));
        soon(come_back(|| manager.buffers().in_use_bytes));
        assert_eq!(receiver.buffers().in_use_bytes, 0);
    }
}

#[test]
fn chunks_of_all_sizes_arrive_one_transfer_after_the_other() {
    let sizes = [
        0,
        1,
        4096,
        65_536,
        65_537,
        MIB,
        MIB + 1,
        3 * MIB + 5,
        16 * MIB,
    ];
    for backend in BACKENDS {
        let pair = pair(backend);
        let config = ParallelTransferConfig {
            adaptive_parallelism: false,
            ..Default::default()
        };
        let (manager, receiver) = (manager(&pair, config), receiver(&pair, 128 * MIB));
        for round in 0..3 {
            let ids = (0..).map(|id| id + round * 1000);
            let chunks: Vec<_> = ids.zip(sizes).map(|(id, size)| chunk(id, size)).collect();
            let sink = Kept::default();
            let both = (MadeUp::default(), &sink);
            let done = soon(transfer((&manager, &receiver), &chunks, both));
            assert!(done.iter().all(ChunkResult::is_delivered), "{done:?}");
            sink.check(&chunks);
        }
        let none = soon(manager.transfer_chunks([], MadeUp::default()));
        assert_eq!(none.unwrap(), []);
    }
}

/// More streams than may be open, each of a few chunks.
#[test]
fn many_small_chunks_arrive() {
    let pair = pair(BackendChoice::Auto);
    let config = ParallelTransferConfig {
        chunks_per_stream: 2,
        adaptive_parallelism: false,
        ..Default::default()
    };
    let (manager, receiver) = (manager(&pair, config), receiver(&pair, 16 * MIB));
    let chunks: Vec<_> = (0..5000).map(|id| chunk(id, (id % 300) as usize)).collect();
    let sink = Kept::default();
    let both = (MadeUp::default(), &sink);
    let done = soon(transfer((&manager, &receiver), &chunks, both));
    assert!(done.iter().all(ChunkResult::is_delivered));
    sink.check(&chunks);
}

#[test]
fn chunks_arrive_where_packets_are_lost() {
    for (backend, seed) in BACKENDS.into_iter().zip([3, 4]) {
        let pair = pair_by(backend, |at| lossy(at, 5, seed));
        let config = ParallelTransferConfig {
            chunks_per_stream: 3,
            bandwidth_window: Duration::from_millis(100),
            ..Default::default()
        };
        let (manager, receiver) = (manager(&pair, config), receiver(&pair, 16 * MIB));
        let chunks: Vec<_> = (0..80).map(|id| chunk(id, 100_000)).collect();
        let sink = Kept::default();
        let both = (MadeUp::default(), &sink);
        let done = soon(transfer((&manager, &receiver), &chunks, both));
        assert!(done.iter().all(ChunkResult::is_delivered), "seed {seed}");
        sink.check(&chunks);
    }
}

/// A sink that is slow, and a provider that is: little memory on both sides, and all arrives.
#[test]
fn who_is_slow_is_waited_for_in_little_memory() {
    let pair = pair(BackendChoice::Auto);
    let config = ParallelTransferConfig {
        max_buffer_size: 3 * MIB,
        adaptive_parallelism: false,
        ..Default::default()
    };
    let (manager, receiver) = (manager(&pair, config), receiver(&pair, 4 * MIB));
    let chunks: Vec<_> = (0..40).map(|id| chunk(id, 1_000_000)).collect();
    for (gives, writes) in [(0, 20), (20, 0)] {
        let provider = MadeUp {
            takes: Duration::from_millis(gives),
            ..Default::default()
        };
        let sink = Kept {
            takes: Duration::from_millis(writes),
            ..Default::default()
        };
        let done = soon(transfer((&manager, &receiver), &chunks, (provider, &sink)));
        assert!(done.iter().all(ChunkResult::is_delivered));
        sink.check(&chunks);
    }
    let (here, there) = (
        manager.most_buffered_bytes(),
        receiver.most_buffered_bytes(),
    );
    assert!((MIB..=3 * MIB).contains(&here), "{here}");
    assert!((MIB..=4 * MIB).contains(&there), "{there}");
}

/// What a provider has made is free before another permit is given: chunks of several pieces, too.
#[test]
fn a_provider_makes_no_more_than_the_permits_say() {
    let pair = pair(BackendChoice::Auto);
    let config = ParallelTransferConfig {
        max_buffer_size: 10 * MIB,
        adaptive_parallelism: false,
        ..Default::default()
    };
    let (manager, receiver) = (manager(&pair, config), receiver(&pair, 128 * MIB));
    let chunks: Vec<_> = (0..20).map(|id| chunk(id, 3 * MIB)).collect();
    let (provider, sink) = (Arc::new(Tracked::default()), Kept::default());
    let both = (Arc::clone(&provider), &sink);
    let done = soon(is_send(transfer((&manager, &receiver), &chunks, both)));
    assert!(done.iter().all(ChunkResult::is_delivered));
    sink.check(&chunks);
    let most = provider.most.load(Ordering::Relaxed);
    assert!((3 * MIB..=9 * MIB).contains(&most), "{most}");
}

/// Runtimes move futures between threads.
fn is_send<T: Send>(future: T) -> T {
    future
}

/// A peer that reads nothing: the provider is asked for no more than there are permits for, and the
/// wait ends.
#[test]
fn a_peer_that_reads_nothing_costs_no_more_than_the_permits() {
    let pair = pair(BackendChoice::Auto);
    let config = ParallelTransferConfig {
        max_buffer_size: 40 * MIB,
        adaptive_parallelism: false,
        ..Default::default()
    };
    let manager = manager(&pair, config).with_progress_timeout(Duration::from_millis(700));
    let provider = Arc::new(MadeUp::default());
    let chunks: Vec<_> = (0..200).map(|id| chunk(id, MIB)).collect();
    let (failed, _kept) = soon(zip(
        manager.transfer_chunks(chunks, Arc::clone(&provider)),
        async {
            // 16 streams, it says, and then nothing more.
            let (mut say, hear) = pair.there.accept_bi().await.unwrap();
            say.write_all(&[3, 0, 16]).await.unwrap();
            (say, hear)
        },
    ));
    let words = failed.unwrap_err().to_string();
    assert!(words.contains("nothing moved for 0.7 s"), "{words}");
    assert!(words.contains("the peer"), "{words}");
    // What the windows of the transport take is acknowledged; the rest has permits.
    let asked = provider.asked.load(Ordering::Relaxed);
    assert!((3..150).contains(&asked), "{asked}");
    assert!(manager.most_buffered_bytes() <= 40 * MIB);
}

struct Failing {
    short: Arc<File>,
}

impl ChunkProvider for Failing {
    async fn provide(&self, chunk: NeededChunk) -> Result<ChunkData, ChunkFailure> {
        match chunk.id % 4 {
            0 => Err(format!("there is no chunk {}", chunk.id).into()),
            1 => Ok(ChunkData::Bytes(Bytes::from_static(b"too little"))),
            2 => Ok(ChunkData::FileRange {
                file: Arc::clone(&self.short),
                offset: 0,
            }),
            _ => MadeUp::default().provide(chunk).await,
        }
    }
}

/// A sink that wants some before they arrive, and others when it has seen them.
#[derive(Default)]
struct Choosing(Kept);

impl ChunkSink for Choosing {
    fn accept(&self, chunk: NeededChunk) -> Result<(), ChunkFailure> {
        match chunk.id % 8 {
            3 => Err("not wanted".into()),
            _ => Ok(()),
        }
    }

    async fn write(&self, chunk: NeededChunk, data: Bytes) -> Result<(), ChunkFailure> {
        match chunk.id % 16 {
            7 => Err("the disk is full".into()),
            _ => self.0.write(chunk, data).await,
        }
    }
}

#[test]
fn each_chunk_fails_by_itself() {
    let pair = pair(BackendChoice::Auto);
    let config = ParallelTransferConfig::default();
    let (manager, receiver) = (manager(&pair, config), receiver(&pair, 64 * MIB));
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("short");
    fs::write(&path, vec![7; MIB + 10]).unwrap();
    let provider = Failing {
        short: Arc::new(File::open(&path).unwrap()),
    };
    let chunks: Vec<_> = (0..64).map(|id| chunk(id, 2 * MIB)).collect();
    let sink = Choosing::default();
    let done = soon(transfer((&manager, &receiver), &chunks, (provider, &sink)));
    for result in &done {
        let id = result.chunk.id;
        let words = match &result.outcome {
            ChunkOutcome::Missing(why) | ChunkOutcome::Refused(why) => why.as_str(),
            _ => "",
        };
        let is_missing = matches!(result.outcome, ChunkOutcome::Missing(_));
        let is_refused = matches!(result.outcome, ChunkOutcome::Refused(_));
        match (id % 4, id % 16) {
            (0, _) => assert!(is_missing && words == format!("there is no chunk {id}")),
            (1, _) => assert!(is_missing && words.contains("10 bytes"), "{words}"),
            (2, _) => assert!(is_missing && words.contains("ends at 1048586"), "{words}"),
            (_, 3 | 11) => assert!(is_refused && words == "not wanted", "{id}: {words}"),
            (_, 7) => assert!(is_refused && words == "the disk is full", "{words}"),
            _ => assert!(result.is_delivered(), "{result:?}"),
        }
    }
    assert_eq!(sink.0.chunks.lock().unwrap().len(), 4);
}

/// A chunk of no bytes is no exception.
#[test]
fn each_empty_chunk_fails_by_itself() {
    let pair = pair(BackendChoice::Auto);
    let config = ParallelTransferConfig::default();
    let (manager, receiver) = (manager(&pair, config), receiver(&pair, MIB));
    let provider = Failing {
        short: Arc::new(File::open("/dev/null").unwrap()),
    };
    let chunks: Vec<_> = (0..8).map(|id| chunk(id, 0)).collect();
    let sink = Kept::default();
    let done = soon(transfer((&manager, &receiver), &chunks, (provider, &sink)));
    for result in &done {
        let id = result.chunk.id;
        match (id % 4, &result.outcome) {
            (0, ChunkOutcome::Missing(why)) => assert_eq!(*why, format!("there is no chunk {id}")),
            (1, ChunkOutcome::Missing(why)) => assert!(why.contains("10 bytes"), "{why}"),
            (2 | 3, ChunkOutcome::Delivered) => {}
            _ => panic!("{result:?}"),
        }
    }
    assert_eq!(sink.chunks.lock().unwrap().len(), 4);
}

/// Polls so often, then drops. False: it was over before.
async fn dropped_after<T>(polls: usize, future: impl Future<Output = T>) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending if left == 0 => Poll::Ready(true),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// Whoever drops its future, at whatever await: the other side is told, and the next transfer of
/// the same handles is whole.
#[test]
fn a_transfer_may_be_dropped_at_any_await() {
    for backend in BACKENDS {
        let pair = pair(backend);
        let config = ParallelTransferConfig {
            chunks_per_stream: 2,
            adaptive_parallelism: false,
            ..Default::default()
        };
        let (manager, receiver) = (manager(&pair, config), receiver(&pair, 16 * MIB));
        let chunks: Vec<_> = (0..24).map(|id| chunk(id, 150_000)).collect();
        let give = || manager.transfer_chunks(chunks.iter().copied(), MadeUp::default());
        let (mut drops, mut told) = (0, 0);
        for polls in (0..12).chain((12..120).step_by(9)) {
            let sink = Kept::default();
            let (is_dropped, received) = soon(zip(dropped_after(polls, give()), async {
                // It may not hear of a transfer that was dropped before its first word.
                or(receiver.receive(&sink), async {
                    after(Duration::from_millis(50)).await;
                    Err(ParallelTransferError::Cancelled)
                })
                .await
            }));
            match received {
                Ok(_) | Err(ParallelTransferError::Cancelled) => {}
                Err(ParallelTransferError::PeerGaveUp { code: 0 }) if is_dropped => told += 1,
                Err(other) => panic!("after {polls} polls, dropped {is_dropped}: {other:?}"),
            }
            drops += usize::from(is_dropped);
            // Whoever was not heard of before is served by the next one.
            let sink = Kept::default();
            let receives = async {
                dropped_after(polls, receiver.receive(&sink)).await;
                loop {
                    let _ = receiver.receive(&sink).await;
                }
            };
            let _ = soon(or(give(), receives));
            // Then both go to the end. A transfer of before may be what is received first.
            let gives = async { give().await.unwrap() };
            let receives = async {
                loop {
                    let sink = Kept::default();
                    if receiver.receive(&sink).await.is_ok() {
                        return sink;
                    }
                }
            };
            let (done, sink) = soon(zip(gives, receives));
            assert!(done.iter().all(ChunkResult::is_delivered));
            sink.check(&chunks);
        }
        assert!(drops >= 4 && told >= 2, "{drops} drops, {told} told");
        soon(come_back(|| manager.buffers().in_use_bytes));
        soon(come_back(|| receiver.buffers().in_use_bytes));
    }
}

#[test]
fn a_transfer_is_cancelled_by_a_method_and_tells_how_far_it_is() {
    let pair = pair(BackendChoice::Auto);
    let config = ParallelTransferConfig {
        max_buffer_size: 8 * MIB,
        ..Default::default()
    };
    let (manager, receiver) = (manager(&pair, config), receiver(&pair, 8 * MIB));
    let chunks: Vec<_> = (0..60_000).map(|id| chunk(id, 400_000)).collect();
    let same = || Same(Bytes::from(vec![1; 400_000]));
    let sink = Discards;
    let mut progress = manager.progress();
    let watches = async {
        let mut seen = 0;
        while let Some(now) = progress.next().await {
            assert!(now.acknowledged_bytes >= seen && now.buffered_bytes <= 8 * MIB);
            assert_eq!((now.chunks, now.total_bytes), (60_000, 24_000_000_000));
            seen = now.acknowledged_bytes;
            if now.finished_chunks > 20 && now.bytes_per_second > 0 {
                manager.cancel();
            }
        }
        seen
    };
    let busy = async {
        let other = manager.transfer_chunks([chunk(1, 1)], same()).await;
        assert!(matches!(other, Err(ParallelTransferError::Busy)));
    };
    let sends = manager.transfer_chunks(chunks, same());
    let ((sent, _), (received, seen)) =
        soon(zip(zip(sends, busy), zip(receiver.receive(&sink), watches)));
    assert!(
        matches!(sent, Err(ParallelTransferError::Cancelled)),
        "{sent:?}"
    );
    let is_told = matches!(received, Err(ParallelTransferError::PeerGaveUp { code: 0 }));
    assert!(is_told, "{received:?}");
    assert!(seen > 20 * 400_000);
    // What was on its way for the one before is nobody's.
    let chunks = [chunk(7, 300_000)];
    let kept = Kept::default();
    soon(transfer(
        (&manager, &receiver),
        &chunks,
        (MadeUp::default(), &kept),
    ));
    kept.check(&chunks);
}

struct Discards;

impl ChunkSink for Discards {
    async fn write(&self, _: NeededChunk, _: Bytes) -> Result<(), ChunkFailure> {
        Ok(())
    }
}

/// One stream fills a narrow path: a second one is tried, brings nothing, and is retired.
#[test]
fn streams_are_added_and_retired() {
    let pair = pair_by(BackendChoice::Auto, |at| narrow(at, 20_000_000));
    let config = ParallelTransferConfig {
        bandwidth_window: Duration::from_millis(150),
        ..Default::default()
    };
    let (manager, receiver) = (manager(&pair, config), receiver(&pair, 64 * MIB));
    let chunks: Vec<_> = (0..500).map(|id| chunk(id, 128 << 10)).collect();
    let mut progress = manager.progress();
    let watches = async {
        let mut seen = vec![1];
        while let Some(now) = progress.next().await {
            // None before the receiver has said how many it lets in.
            if now.streams > 0 && seen.last() != Some(&now.streams) {
                seen.push(now.streams);
            }
        }
        seen
    };
    let same = Same(Bytes::from(made_up(128 << 10, 6)));
    let both = transfer((&manager, &receiver), &chunks, (same, &Discards));
    let (done, seen) = soon(zip(both, watches));
    assert!(done.iter().all(ChunkResult::is_delivered));
    let steps = || seen.windows(2);
    assert!(steps().any(|step| step[1] > step[0]), "{seen:?}");
    assert!(steps().any(|step| step[1] < step[0]), "{seen:?}");
}

/// A sink that stands still ends the transfer on both sides, with its name.
#[test]
fn a_stuck_sink_and_a_stuck_provider_are_named() {
    let pair = pair(BackendChoice::Auto);
    let short = Duration::from_millis(400);
    let manager_of = |timeout| {
        let manager = manager(&pair, ParallelTransferConfig::default());
        manager.with_progress_timeout(timeout)
    };
    let long = Duration::from_secs(30);
    let chunks = [chunk(5, 1000)];
    let stuck = Kept {
        takes: Duration::from_secs(40),
        ..Default::default()
    };
    let receiver_of = receiver(&pair, 8 * MIB).with_progress_timeout(short);
    let manager = manager_of(long);
    let (sent, received) = soon(zip(
        manager.transfer_chunks(chunks, MadeUp::default()),
        receiver_of.receive(&stuck),
    ));
    let words = received.unwrap_err().to_string();
    assert!(
        words.contains("the sink, to write chunk 5 of 1000 bytes"),
        "{words}"
    );
    let words = sent.unwrap_err().to_string();
    assert!(
        words.contains("refused") && words.contains("the sink"),
        "{words}"
    );
    let manager = manager_of(short);
    let slow = MadeUp {
        takes: Duration::from_secs(40),
        ..Default::default()
    };
    let (sent, received) = soon(zip(
        manager.transfer_chunks(chunks, slow),
        receiver(&pair, 8 * MIB).receive(&Discards),
    ));
    let words = sent.unwrap_err().to_string();
    assert!(words.contains("the provider, to give chunk 5"), "{words}");
    assert!(matches!(
        received,
        Err(ParallelTransferError::PeerGaveUp { .. })
    ));
}

#[test]
fn impossible_values_are_errors_in_words() {
    let pair = pair(BackendChoice::Auto);
    let config = ParallelTransferConfig::default;
    let try_out = |config, chunks: &[NeededChunk]| {
        let manager = manager(&pair, config);
        let tried = manager.transfer_chunks(chunks.iter().copied(), MadeUp::default());
        soon(tried).unwrap_err().to_string()
    };
    let one = [chunk(1, 1)];
    let mut wrong = config();
    wrong.max_concurrent_streams = 0;
    assert!(try_out(wrong.clone(), &one).contains("max_concurrent_streams is 0"));
    wrong.max_concurrent_streams = 100_000;
    assert!(try_out(wrong, &one).contains("it is 1 to 256"));
    let mut wrong = config();
    wrong.chunks_per_stream = 0;
    assert!(try_out(wrong, &one).contains("chunks_per_stream is 0"));
    let mut wrong = config();
    wrong.bytes_per_stream_target = 0;
    assert!(try_out(wrong, &one).contains("bytes_per_stream_target 0"));
    let mut wrong = config();
    wrong.bandwidth_window = Duration::ZERO;
    assert!(try_out(wrong, &one).contains("bandwidth_window"));
    let mut wrong = config();
    wrong.max_buffer_size = 0;
    assert!(try_out(wrong.clone(), &one).contains("max_buffer_size is 0"));
    wrong.max_buffer_size = usize::MAX;
    assert!(try_out(wrong.clone(), &one).contains("max_buffer_size"));
    wrong.max_buffer_size = MIB;
    assert!(try_out(wrong, &[chunk(1, MIB + 1)]).contains("takes 1052672 bytes"));
    assert!(try_out(config(), &[chunk(1, 17 * MIB)]).contains("larger than"));
    assert!(try_out(config(), &[chunk(1, 1), chunk(1, 2)]).contains("id 1 is there twice"));
    let manager = manager(&pair, config()).with_progress_timeout(Duration::ZERO);
    let tried = soon(manager.transfer_chunks(one, MadeUp::default()));
    assert!(tried.unwrap_err().to_string().contains("progress timeout"));
}
