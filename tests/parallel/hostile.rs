//! Peers that do by hand, over plain streams, what no right one does.

use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::{or, zip};
use landro::engine::BackendChoice;
use landro::{
    ChunkOutcome, ChunkResult, Connection, NeededChunk, ParallelReceiver, ParallelReceiverConfig,
    ParallelTransferConfig, ParallelTransferError, ParallelTransferManager, RecvStream, SendStream,
};

use crate::pair::{Pair, after, pair, soon};
use crate::sides::{Kept, MadeUp};

const TIMEOUT: Duration = Duration::from_millis(500);

fn announcement(streams: u16, chunks: &[(u64, u32)]) -> Vec<u8> {
    let mut said = b"LDCK\x01".to_vec();
    said.extend_from_slice(&streams.to_be_bytes());
    said.extend_from_slice(&(chunks.len() as u32).to_be_bytes());
    for (id, size) in chunks {
        said.extend_from_slice(&id.to_be_bytes());
        said.extend_from_slice(&size.to_be_bytes());
    }
    said
}

fn head(control: u64) -> Vec<u8> {
    [&[1][..], &control.to_be_bytes()].concat()
}

/// A chunk as it is said to be, in one segment, with the digest of something.
fn record(index: u32, size: u32, data: &[u8], digested: &[u8]) -> Vec<u8> {
    let mut said = [index.to_be_bytes(), size.to_be_bytes()].concat();
    if !data.is_empty() || size == 0 {
        said.extend_from_slice(&(data.len() as u32).to_be_bytes());
        said.extend_from_slice(data);
    }
    said.extend_from_slice(blake3::hash(digested).as_bytes());
    said
}

struct HostileSender {
    connection: Connection,
    say: SendStream,
    hear: RecvStream,
}

impl HostileSender {
    async fn begin(connection: &Connection, announced: &[u8]) -> HostileSender {
        let (mut say, hear) = connection.open_bi().await.unwrap();
        say.write_all(announced).await.unwrap();
        HostileSender {
            connection: connection.clone(),
            say,
            hear,
        }
    }

    /// A stream of this transfer, that ends or not.
    async fn stream(&self, said: &[u8], ends: bool) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(&head(self.say.id())).await.unwrap();
        // It may have been stopped meanwhile.
        let _ = stream.write_all(said).await;
        if ends {
            let _ = stream.finish();
        }
        stream
    }
}

fn receiver(pair: &Pair) -> ParallelReceiver {
    let config = ParallelReceiverConfig {
        max_chunks: 100,
        max_buffer_size: 1 << 20,
        max_concurrent_streams: 2,
    };
    ParallelReceiver::new(pair.there.clone(), config).with_progress_timeout(TIMEOUT)
}

/// What the receiver says of a sender that announces so, and then sends these streams. The sink has
/// seen no more than `seen` chunks. The sender hears of it.
fn received(
    announced: &[u8],
    streams: &[(Vec<u8>, bool)],
    seen: usize,
) -> Result<Vec<ChunkResult>, ParallelTransferError> {
    let pair = pair(BackendChoice::Auto);
    let sink = Kept::default();
    let receiver = receiver(&pair);
    let (done, told) = soon(zip(receiver.receive(&sink), async {
        let mut sender = HostileSender::begin(&pair.here, announced).await;
        let mut kept = Vec::new();
        for (said, ends) in streams {
            kept.push(sender.stream(said, *ends).await);
        }
        let told = sender.hear.read_to_end(100_000).await;
        sender.say.reset(3);
        told
    }));
    assert!(sink.chunks.lock().unwrap().len() <= seen);
    if let Err(error) = &done {
        let told = String::from_utf8_lossy(&told.unwrap()).into_owned();
        assert!(
            told.contains(&error.to_string()),
            "{error} was told as {told}"
        );
    }
    done
}

fn is_breach(announced: &[u8], streams: &[(Vec<u8>, bool)], seen: usize, words: &str) {
    match received(announced, streams, seen) {
        Err(ParallelTransferError::Breach(said)) => assert!(said.contains(words), "{said}"),
        other => panic!("{words}: {other:?}"),
    }
}

#[test]
fn a_sender_that_breaks_the_rules_is_refused() {
    let one = announcement(2, &[(7, 4)]);
    let good = record(0, 4, b"data", b"data");
    let longer = record(0, 4, b"data and more", b"data");
    is_breach(&one, &[(longer, true)], 0, "longer than was said");
    let other_size = record(0, 5, b"data!", b"data!");
    is_breach(&one, &[(other_size, true)], 0, "arrives with 5");
    let unknown = record(1, 4, b"data", b"data");
    is_breach(&one, &[(unknown, true)], 0, "chunk 1 was not announced");
    let two = announcement(2, &[(7, 4), (8, 4)]);
    let twice = [good.clone(), good.clone()].concat();
    is_breach(&two, &[(twice, true)], 1, "comes twice");
    let cut = good[..11].to_vec();
    is_breach(&one, &[(cut, true)], 0, "ends in the middle of a chunk");
    is_breach(&one, &[(vec![0xaa; 100], true)], 0, "was not announced");
    let empty = [&[0; 4][..], &4_u32.to_be_bytes(), &[0; 4]].concat();
    is_breach(&one, &[(empty, true)], 0, "no bytes");
}

#[test]
fn an_announcement_is_not_believed() {
    let chunks = |result: Result<_, ParallelTransferError>| match result {
        Err(ParallelTransferError::Chunks(why)) => why,
        other => panic!("{other:?}"),
    };
    // Memory is not taken for what is announced.
    let many = [&b"LDCK\x01\0\x02"[..], &u32::MAX.to_be_bytes()].concat();
    assert!(chunks(received(&many, &[], 0)).contains("4294967295 are announced"));
    let large = announcement(2, &[(1, u32::MAX)]);
    assert!(chunks(received(&large, &[], 0)).contains("too large"));
    let large = announcement(2, &[(1, 600_000)]);
    assert!(chunks(received(&large, &[], 0)).contains("has to hold two"));
    is_breach(
        b"GET / HTTP/1.1\r\n\r\n",
        &[],
        0,
        "does not speak of chunks",
    );
    is_breach(b"LDCK\x02\0\0\0\0\0\0", &[], 0, "version 2");
    let twice = announcement(2, &[(1, 1), (1, 2)]);
    is_breach(&twice, &[], 0, "id 1 is there twice");
    is_breach(&announcement(2, &[]), &[], 0, "does not say which chunks");
    let more = [&announcement(2, &[(1, 1)])[..], b"x"].concat();
    is_breach(&more, &[], 0, "does not say which chunks");
}

#[test]
fn a_wrong_digest_is_an_outcome_and_the_sink_does_not_see_the_chunk() {
    let announced = announcement(2, &[(7, 4), (8, 4)]);
    let both = [
        record(0, 4, b"data", b"other"),
        record(1, 4, b"good", b"good"),
    ];
    let done = received(&announced, &[(both.concat(), true)], 1).unwrap();
    let outcomes: Vec<_> = done.into_iter().map(|result| result.outcome).collect();
    assert_eq!(outcomes, [ChunkOutcome::Corrupt, ChunkOutcome::Delivered]);
}

#[test]
fn a_sender_that_stands_still_is_not_waited_for() {
    let stalled = |announced: &[u8], streams: &[(Vec<u8>, bool)], words: &str| match received(
        announced, streams, 0,
    ) {
        Err(ParallelTransferError::Stalled { waits_for, .. }) => {
            assert!(waits_for.contains(words), "{waits_for}");
        }
        other => panic!("{words}: {other:?}"),
    };
    let one = announcement(2, &[(7, 4)]);
    stalled(&one[..5], &[], "to say which chunks come");
    stalled(&one[..15], &[], "to say which chunks come");
    stalled(&one, &[], "the peer, to send 1 chunks");
    stalled(&one, &[(Vec::new(), false)], "the peer, to send 1 chunks");
    stalled(&one, &[(Vec::new(), true)], "the peer, to send 1 chunks");
    let begun = record(0, 4, b"data", b"data")[..14].to_vec();
    stalled(&one, &[(begun, false)], "the rest of chunk 7 of 4 bytes");
}

/// Bytes of an announcement are no progress before it is whole, however often they come.
#[test]
fn an_announcement_that_drips_is_not_waited_for() {
    let pair = pair(BackendChoice::Auto);
    let receiver = receiver(&pair);
    let drips = async {
        let (mut say, _hear) = pair.here.open_bi().await.unwrap();
        for byte in announcement(2, &[(7, 4)]) {
            say.write_all(&[byte]).await.unwrap();
            after(TIMEOUT / 4).await;
        }
        after(10 * TIMEOUT).await;
        panic!("it was waited for");
    };
    let done = soon(or(receiver.receive(&MadeUpSink), drips));
    match done {
        Err(ParallelTransferError::Stalled { waits_for, .. }) => {
            assert!(
                waits_for.contains("to say which chunks come"),
                "{waits_for}"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// Streams without a chunk are no progress, however many they are.
#[test]
fn empty_streams_are_no_progress() {
    let pair = pair(BackendChoice::Auto);
    let receiver = receiver(&pair);
    let begun = landro::engine::now();
    let floods = async {
        let announced = announcement(2, &[(7, 4)]);
        let sender = HostileSender::begin(&pair.here, &announced).await;
        loop {
            sender.stream(&[], true).await;
            after(Duration::from_millis(10)).await;
        }
    };
    let done = soon(or(receiver.receive(&MadeUpSink), floods));
    let is_over = matches!(done, Err(ParallelTransferError::Stalled { .. }));
    assert!(is_over, "{done:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// A sender with far more streams than were agreed, each with the beginning of a chunk as large as
/// may be: no more memory is taken than there is, and right ones are none the worse.
#[test]
fn more_streams_than_agreed_wait() {
    let pair = pair(BackendChoice::Auto);
    let chunks: Vec<(u64, u32)> = (0..100).map(|id| (id, 250_000)).collect();
    let receiver = receiver(&pair);
    let sink = Kept::default();
    let (done, ()) = soon(zip(receiver.receive(&sink), async {
        let announced = announcement(u16::MAX, &chunks);
        let mut sender = HostileSender::begin(&pair.here, &announced).await;
        let mut kept = Vec::new();
        for index in 0..60 {
            let begun = record(index, 250_000, &[0; 250_000], b"")[..100_000].to_vec();
            kept.push(sender.stream(&begun, false).await);
        }
        let _ = sender.hear.read_to_end(100_000).await;
    }));
    assert!(
        matches!(done, Err(ParallelTransferError::Stalled { .. })),
        "{done:?}"
    );
    let most = receiver.most_buffered_bytes();
    assert!(most <= 1 << 20, "{most}");
    let buffers = receiver.buffers();
    assert!((250_000..=most).contains(&buffers.high_water_bytes));
    assert_eq!(buffers.in_use_bytes, 0);
    assert!(sink.chunks.lock().unwrap().is_empty());
    // The same handles are good for a right transfer.
    let config = ParallelTransferConfig::default();
    let manager = ParallelTransferManager::new(pair.here.clone(), config);
    let chunks = [1, 2].map(|id| NeededChunk {
        id,
        size_bytes: 1000,
    });
    let (sent, received) = soon(zip(
        manager.transfer_chunks(chunks, MadeUp::default()),
        receiver.receive(&sink),
    ));
    assert_eq!(sent.unwrap(), received.unwrap());
    sink.check(&chunks);
}

#[test]
fn a_sender_that_gives_up_is_heard() {
    let pair = pair(BackendChoice::Auto);
    let receiver = receiver(&pair);
    let (done, ()) = soon(zip(receiver.receive(&MadeUpSink), async {
        let announced = announcement(2, &[(7, 4)]);
        let mut sender = HostileSender::begin(&pair.here, &announced).await;
        sender.say.reset(17);
    }));
    let is_heard = matches!(done, Err(ParallelTransferError::PeerGaveUp { code: 17 }));
    assert!(is_heard, "{done:?}");
    // Of words behind the announcement there is one only, and not before the end.
    let (done, ()) = soon(zip(receiver.receive(&MadeUpSink), async {
        let announced = [&announcement(2, &[(7, 4)])[..], &[0]].concat();
        // Behind what is read with the announcement.
        let mut sender = HostileSender::begin(&pair.here, &announced[..23]).await;
        after(Duration::from_millis(50)).await;
        sender.say.write_all(&announced[23..]).await.unwrap();
        sender.say.finish().unwrap();
        let _ = sender.hear.read_to_end(1000).await;
    }));
    let words = done.unwrap_err().to_string();
    assert!(words.contains("end before each chunk"), "{words}");
    pair.here.close(5, "");
    let done = soon(receiver.receive(&MadeUpSink));
    assert!(
        matches!(done, Err(ParallelTransferError::Lost(_))),
        "{done:?}"
    );
}

struct MadeUpSink;

impl landro::ChunkSink for MadeUpSink {
    async fn write(&self, _: NeededChunk, _: Bytes) -> Result<(), landro::ChunkFailure> {
        Ok(())
    }
}

/// What the manager says of a receiver that answers so.
async fn sent(pair: &Pair, answer: &[u8], ends: bool) -> ParallelTransferError {
    let config = ParallelTransferConfig::default();
    let manager = ParallelTransferManager::new(pair.here.clone(), config);
    let manager = manager.with_progress_timeout(TIMEOUT);
    let chunks = [3, 4].map(|id| NeededChunk {
        id,
        size_bytes: 100_000,
    });
    let (sent, _kept) = zip(manager.transfer_chunks(chunks, MadeUp::default()), async {
        let (mut say, hear) = pair.there.accept_bi().await.unwrap();
        let _ = say.write_all(answer).await;
        if ends {
            let _ = say.finish();
        }
        (say, hear)
    })
    .await;
    sent.unwrap_err()
}

/// Has every second chunk.
struct EverySecond;

impl landro::ChunkProvider for EverySecond {
    async fn provide(&self, chunk: NeededChunk) -> Result<landro::ChunkData, landro::ChunkFailure> {
        match chunk.id % 2 {
            0 => Err("there is none".into()),
            _ => MadeUp::default().provide(chunk).await,
        }
    }
}

/// What the manager says of a receiver that lets in a stream, reads it to its end, and then answers
/// so. The second chunk was given up.
async fn sent_all(pair: &Pair, answer: &[u8], ends: bool) -> ParallelTransferError {
    let config = ParallelTransferConfig::default();
    let manager = ParallelTransferManager::new(pair.here.clone(), config);
    let manager = manager.with_progress_timeout(TIMEOUT);
    let chunks = [3, 4].map(|id| NeededChunk {
        id,
        size_bytes: 100_000,
    });
    let (sent, _kept) = zip(manager.transfer_chunks(chunks, EverySecond), async {
        let (mut say, hear) = pair.there.accept_bi().await.unwrap();
        say.write_all(&[3, 0, 1]).await.unwrap();
        let mut stream = pair.there.accept_uni().await.unwrap();
        stream.read_to_end(300_000).await.unwrap();
        let _ = say.write_all(answer).await;
        if ends {
            let _ = say.finish();
        }
        (say, hear)
    })
    .await;
    sent.unwrap_err()
}

#[test]
fn a_receiver_that_breaks_the_rules_is_not_believed() {
    let of = |index: u32, number| [&[1][..], &index.to_be_bytes(), &[number, 0, 0]].concat();
    let outcome = |index| of(index, 3 * index as u8);
    let breach = |answer: &[u8], ends, words: &str| {
        let pair = pair(BackendChoice::Auto);
        match soon(sent(&pair, answer, ends)) {
            ParallelTransferError::Breach(said) => assert!(said.contains(words), "{said}"),
            other => panic!("{words}: {other:?}"),
        }
    };
    let breach_of_all = |answer: &[u8], ends, words: &str| {
        let pair = pair(BackendChoice::Auto);
        match soon(sent_all(&pair, answer, ends)) {
            ParallelTransferError::Breach(said) => assert!(said.contains(words), "{said}"),
            other => panic!("{words}: {other:?}"),
        }
    };
    breach(&of(2, 0), false, "names chunk 2");
    breach_of_all(
        &[outcome(1), outcome(1)].concat(),
        false,
        "twice what became",
    );
    for number in 0..4 {
        breach(&of(1, number), false, "chunk 1 before it had all of it");
    }
    for number in 0..3 {
        breach_of_all(&of(1, number), false, "chunk 1 as if it had not been");
    }
    breach_of_all(&of(0, 3), false, "chunk 0 as if it had been given up");
    breach(&[0], true, "2 chunks have no outcome");
    breach_of_all(&outcome(0), true, "end in the middle");
    breach(&[3, 0, 1, 3, 0, 1], false, "twice, or none");
    breach(&[3, 0, 0], false, "twice, or none");
    breach(b"HTTP/1.1 400 Bad Request", false, "no message 72");
    let [first, second] = [outcome(0), outcome(1)];
    let more = [&first[..], &second, &[0, 0]].concat();
    breach_of_all(&more, false, "more behind the end");
    let long = [2, 0xff, 0xff];
    breach(&long, false, "a text has 65535 bytes");
    let pair = pair(BackendChoice::Auto);
    let silent = soon(sent(&pair, &[], false));
    assert!(
        matches!(silent, ParallelTransferError::Stalled { .. }),
        "{silent:?}"
    );
    let refused = soon(sent(&pair, &[2, 0, 2, b'n', b'o'], true));
    assert_eq!(refused.to_string(), "the peer refused the transfer: no");
}

/// A receiver that stops each stream, and one that gives up without a word.
#[test]
fn a_receiver_that_stops_streams_ends_the_transfer() {
    let pair = pair(BackendChoice::Auto);
    let stops = async {
        loop {
            let mut stream = pair.there.accept_uni().await.unwrap();
            stream.stop(9);
        }
    };
    let failed = soon(or(sent(&pair, &[3, 0, 2], false), stops));
    assert!(
        matches!(failed, ParallelTransferError::Stalled { .. }),
        "{failed:?}"
    );
    let config = ParallelTransferConfig::default();
    let manager = ParallelTransferManager::new(pair.here.clone(), config);
    let chunk = NeededChunk {
        id: 1,
        size_bytes: 10,
    };
    let (sent, ()) = soon(zip(
        manager.transfer_chunks([chunk], MadeUp::default()),
        async { drop(pair.there.accept_bi().await.unwrap()) },
    ));
    let is_told = matches!(sent, Err(ParallelTransferError::PeerGaveUp { code: 0 }));
    assert!(is_told, "{sent:?}");
}
