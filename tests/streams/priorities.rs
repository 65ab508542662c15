//! Which streams go first where not all can.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_lite::future::{block_on, zip};
use landro::RecvStream;
use landro::engine::BackendChoice;

use super::lossy::slow;
use super::{BACKENDS, MIB, Pair, made_up, pair_by, soon};

const BULK_STREAMS: usize = 3;
const BULK_BYTES: usize = 6 * MIB;
const URGENT_BYTES: usize = 2 * MIB;
/// The fourth that a client opens in one direction (RFC 9000 §2.1).
const URGENT_ID: u64 = 4 * BULK_STREAMS as u64 + 2;
const RATE_BYTES_PER_SECOND: u64 = 12 << 20;

/// Reads a stream to its end, and counts.
async fn count(mut receive: RecvStream, counted: &AtomicUsize) {
    while let Some(bytes) = receive.read_bytes(usize::MAX).await.unwrap() {
        counted.fetch_add(bytes.len(), Ordering::Relaxed);
    }
}

/// How many bytes of streams that began before are read from when the first byte of an urgent one
/// is read to when its last is.
fn overtaken(backend: BackendChoice, urgency: u8) -> usize {
    let pair: Pair = pair_by(backend, |at| slow(at, RATE_BYTES_PER_SECOND));
    let bulk = Arc::new(AtomicUsize::new(0));
    let (here, there) = (pair.here.clone(), pair.there.clone());
    let sends = std::thread::spawn(move || {
        block_on(async {
            let mut streams = Vec::new();
            for _ in 0..BULK_STREAMS {
                let mut send = here.open_uni().await.unwrap();
                send.write_bytes(made_up(BULK_BYTES, 1).into())
                    .await
                    .unwrap();
                send.finish().unwrap();
                streams.push(send);
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
            let mut urgent = here.open_uni().await.unwrap();
            urgent.set_priority(urgency);
            urgent
                .write_bytes(made_up(URGENT_BYTES, 2).into())
                .await
                .unwrap();
            urgent.finish().unwrap();
            urgent.delivered().await.unwrap();
            for mut send in streams {
                send.delivered().await.unwrap();
            }
        });
    });
    let overtaken = soon(async {
        let mut reads = Vec::new();
        let mut urgent = None;
        // Streams come in the order in which something of them does.
        for _ in 0..=BULK_STREAMS {
            let (receive, bulk) = (there.accept_uni().await.unwrap(), bulk.clone());
            match receive.id() == URGENT_ID {
                true => urgent = Some(receive),
                false => reads.push(std::thread::spawn(move || block_on(count(receive, &bulk)))),
            }
            if urgent.is_some() {
                break;
            }
        }
        let late = there.clone();
        let missing = BULK_STREAMS - reads.len();
        let late_bulk = bulk.clone();
        reads.push(std::thread::spawn(move || {
            block_on(async {
                for _ in 0..missing {
                    count(late.accept_uni().await.unwrap(), &late_bulk).await;
                }
            });
        }));
        let mut urgent = urgent.unwrap();
        let first = urgent.read_bytes(usize::MAX).await.unwrap().unwrap();
        let before = bulk.load(Ordering::Relaxed);
        assert!(before < BULK_STREAMS * BULK_BYTES / 2, "{before}");
        let rest = urgent.read_to_end(usize::MAX).await.unwrap();
        let overtaken = bulk.load(Ordering::Relaxed) - before;
        assert_eq!(first.len() + rest.len(), URGENT_BYTES);
        for read in reads {
            read.join().unwrap();
        }
        overtaken
    });
    sends.join().unwrap();
    assert_eq!(bulk.load(Ordering::Relaxed), BULK_STREAMS * BULK_BYTES);
    overtaken
}

#[test]
fn an_urgent_stream_ends_before_those_that_began_earlier() {
    for backend in BACKENDS {
        let bytes = overtaken(backend, 0);
        // What was on its way, or read late.
        assert!(bytes < URGENT_BYTES, "{bytes}");
    }
    // Of one urgency all go on.
    let bytes = overtaken(BackendChoice::Auto, 3);
    assert!(bytes > 2 * URGENT_BYTES, "{bytes}");
}

#[test]
#[should_panic(expected = "an urgency is 0 to 7")]
fn an_urgency_is_one_of_eight() {
    let pair = super::pair(BackendChoice::Auto);
    let (opened, _) = soon(zip(pair.here.open_uni(), async {}));
    opened.unwrap().set_priority(8);
}
