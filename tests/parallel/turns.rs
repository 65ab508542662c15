//! How often futures are polled, and what wakes them: nobody spins, nobody is passed over, and
//! whoever waits can be told to stop.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::{or, zip};
use landro::engine::BackendChoice;
use landro::{
    ChunkData, ChunkFailure, ChunkProvider, ChunkResult, NeededChunk, ParallelReceiver,
    ParallelReceiverConfig, ParallelTransferConfig, ParallelTransferError, ParallelTransferManager,
};

use crate::narrow::narrow;
use crate::pair::{after, made_up, pair, pair_by, soon};
use crate::sides::{Kept, MadeUp, Same};

/// What comes of a future, and how often it was polled.
async fn polls<T>(future: impl Future<Output = T>) -> (T, usize) {
    let (mut future, mut polls) = (pin!(future), 0);
    let done = poll_fn(|context| {
        polls += 1;
        future.as_mut().poll(context)
    });
    let done = done.await;
    (done, polls)
}

/// Gives the first chunk at once, and takes half a second for each other.
struct FirstAtOnce;

impl ChunkProvider for FirstAtOnce {
    async fn provide(&self, chunk: NeededChunk) -> Result<ChunkData, ChunkFailure> {
        if chunk.id > 0 {
            after(Duration::from_millis(500)).await;
        }
        let bytes = made_up(chunk.size_bytes as usize, chunk.id);
        Ok(ChunkData::Bytes(Bytes::from(bytes)))
    }
}

/// The first window of goodput is not full, and the goodput another number at each moment.
#[test]
fn a_transfer_that_waits_is_not_polled() {
    let pair = pair(BackendChoice::Auto);
    let config = ParallelTransferConfig {
        bandwidth_window: Duration::from_secs(3),
        ..Default::default()
    };
    let manager = ParallelTransferManager::new(pair.here.clone(), config);
    let receiver = ParallelReceiver::new(pair.there.clone(), ParallelReceiverConfig::default());
    let chunks = [0, 1, 2].map(|id| NeededChunk {
        id,
        size_bytes: 1 << 20,
    });
    let sink = Kept::default();
    let ((sent, sender_polls), received) = soon(zip(
        polls(manager.transfer_chunks(chunks, FirstAtOnce)),
        receiver.receive(&sink),
    ));
    assert_eq!(sent.unwrap(), received.unwrap());
    sink.check(&chunks);
    assert!(sender_polls < 2000, "{sender_polls}");
}

/// All chunks are there at once, and none of them makes the sink wait.
#[test]
fn a_receiver_lets_others_have_their_turn() {
    const CHUNKS: usize = 400;
    let pair = pair(BackendChoice::Auto);
    let manager = ParallelTransferManager::new(
        pair.here.clone(),
        ParallelTransferConfig {
            chunks_per_stream: CHUNKS as u32,
            ..Default::default()
        },
    );
    let receiver = ParallelReceiver::new(pair.there.clone(), ParallelReceiverConfig::default());
    let chunks = (0..CHUNKS as u64).map(|id| NeededChunk { id, size_bytes: 1 });
    let same = Same(Bytes::from_static(b"x"));
    let sink = crate::Discards;
    let (sent, (received, receiver_polls)) = soon(zip(
        manager.transfer_chunks(chunks, same),
        polls(receiver.receive(&sink)),
    ));
    assert_eq!(sent.unwrap(), received.unwrap());
    assert!(receiver_polls >= CHUNKS, "{receiver_polls}");
}

/// A path that takes longer for a piece than the progress timeout is.
#[test]
fn bytes_that_flow_slowly_are_progress() {
    let pair = pair_by(BackendChoice::Auto, |at| narrow(at, 150_000));
    let config = ParallelTransferConfig::default();
    let manager = ParallelTransferManager::new(pair.here.clone(), config);
    let manager = manager.with_progress_timeout(Duration::from_secs(4));
    let receiver = ParallelReceiver::new(pair.there.clone(), ParallelReceiverConfig::default());
    let chunks = [0].map(|id| NeededChunk {
        id,
        size_bytes: 1 << 20,
    });
    let sink = Kept::default();
    let (sent, received) = soon(zip(
        manager.transfer_chunks(chunks, MadeUp::default()),
        receiver.receive(&sink),
    ));
    let sent = sent.unwrap();
    assert!(sent.iter().all(ChunkResult::is_delivered));
    assert_eq!(sent, received.unwrap());
}

/// The peer lets in no stream more, so a transfer waits for its first.
#[test]
fn a_transfer_is_cancelled_before_it_has_a_stream() {
    let pair = pair(BackendChoice::Auto);
    let mut kept = Vec::new();
    let opens = async {
        loop {
            kept.push(pair.here.open_bi().await.unwrap());
        }
    };
    soon(or(opens, after(Duration::from_millis(500))));
    let config = ParallelTransferConfig::default();
    let manager = ParallelTransferManager::new(pair.here.clone(), config);
    let chunk = NeededChunk {
        id: 1,
        size_bytes: 10,
    };
    let cancels = async {
        after(Duration::from_millis(50)).await;
        manager.cancel();
    };
    let sends = manager.transfer_chunks([chunk], MadeUp::default());
    let (sent, ()) = soon(zip(sends, cancels));
    assert!(
        matches!(sent, Err(ParallelTransferError::Cancelled)),
        "{} streams are open: {sent:?}",
        kept.len()
    );
}

/// Progress of a transfer that was over before anybody asked ends, whatever came of it.
#[test]
fn progress_ends_though_nobody_has_asked_before() {
    let pair = pair(BackendChoice::Auto);
    let config = ParallelTransferConfig::default();
    let manager = ParallelTransferManager::new(pair.here.clone(), config);
    let mut progress = manager.progress();
    let none = soon(manager.transfer_chunks([], MadeUp::default()));
    assert_eq!(none.unwrap(), []);
    assert_eq!(soon(progress.next()), None);
    let mut progress = manager.progress();
    let twice = [1, 1].map(|id| NeededChunk { id, size_bytes: 1 });
    let wrong = soon(manager.transfer_chunks(twice, MadeUp::default()));
    assert!(matches!(wrong, Err(ParallelTransferError::Chunks(_))));
    assert_eq!(soon(progress.next()), None);
}
