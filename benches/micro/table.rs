//! The specification's table: what it takes to move so many bytes over a warm connection, by one
//! stream, by chunks on sixteen, and from a file without a copy.

use std::fmt::Write as _;
use std::fs::File;
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::{block_on, zip};
use landro::engine::now;
use landro::{
    ChunkData, ChunkFailure, ChunkProvider, ChunkResult, ChunkSink, Connection, Engine, Listener,
    NeededChunk, ParallelReceiver, ParallelReceiverConfig, ParallelTransferConfig,
    ParallelTransferManager, PeerTrust, RecvStream, SendStream, ZeroCopyStreamWriter,
};
use tempfile::TempDir;

use super::{MIB, noise};

const PROTOCOL: &str = "table-bench/1";

/// What is written, or read from the file, at once.
const PIECE_BYTES: usize = 256 << 10;
const STREAMS: usize = 16;
/// A chunk is a sixteenth of all, but no less than this.
const CHUNK_BYTES_MIN: usize = 64 << 10;

/// Of each size, before rounds count: windows, path and memory are warm then.
const WARM_UP_ROUNDS: usize = 3;

/// A size, how often it is moved in each of the ways, and what the specification has for them, in
/// milliseconds.
type Row = (&'static str, usize, usize, [f64; 3]);

const ROWS: [Row; 5] = [
    ("1 KB", 1_000, 400, [0.3, 0.4, 0.2]),
    ("100 KB", 100_000, 200, [1.2, 0.8, 0.6]),
    ("1 MB", 1_000_000, 100, [9.0, 4.0, 3.0]),
    ("10 MB", 10_000_000, 30, [85.0, 35.0, 28.0]),
    ("100 MB", 100_000_000, 10, [850.0, 280.0, 220.0]),
];

/// Two engines of a worker each in this process, and on each side a thread that polls, as programs
/// have it.
struct Pair {
    /// They end with their last handle.
    _engines: [Engine; 2],
    streams: Connection,
    manager: ParallelTransferManager,
}

impl Pair {
    fn start() -> Pair {
        let there = Engine::builder()
            .protocol(PROTOCOL)
            .listen((Ipv4Addr::LOCALHOST, 0).into())
            .accept(PeerTrust::Decide(Arc::new(|_| true)))
            .start()
            .expect("an engine");
        let here = Engine::builder().protocol(PROTOCOL).start();
        let here = here.expect("an engine");
        let (streams, accepted) = connect(&here, &there);
        thread::spawn(move || block_on(answer_streams(&accepted)));
        // A receiver takes all streams of its connection.
        let (chunks, accepted) = connect(&here, &there);
        thread::spawn(move || block_on(receive_chunks(accepted)));
        let config = ParallelTransferConfig {
            max_concurrent_streams: STREAMS,
            adaptive_parallelism: false,
            ..ParallelTransferConfig::default()
        };
        Pair {
            _engines: [here, there],
            streams,
            manager: ParallelTransferManager::new(chunks, config),
        }
    }

    /// One stream carries the bytes; the receiver has read all and says so.
    async fn single(&self, data: &Bytes) {
        let (mut send, receive) = self.streams.open_bi().await.expect("a stream");
        for piece in (0..data.len()).step_by(PIECE_BYTES) {
            let piece = data.slice(piece..data.len().min(piece + PIECE_BYTES));
            send.write_bytes(piece).await.expect("a piece");
        }
        await_answer(send, receive, data.len()).await;
    }

    /// The same from a file in memory.
    async fn zero_copy(&self, writer: &ZeroCopyStreamWriter, file: &File, bytes: usize) {
        let (mut send, receive) = self.streams.open_bi().await.expect("a stream");
        let sent = writer.sendfile_to_stream(&mut send, file, 0, bytes as u64);
        sent.await.expect("the file");
        await_answer(send, receive, bytes).await;
    }

    /// Chunks with digests on sixteen streams; the receiver's sink has had each.
    async fn parallel(&self, data: &Bytes) {
        let chunk_bytes = (data.len() / STREAMS).clamp(CHUNK_BYTES_MIN, MIB);
        let chunks = (0..data.len())
            .step_by(chunk_bytes)
            .map(|offset| NeededChunk {
                id: offset as u64,
                size_bytes: chunk_bytes.min(data.len() - offset) as u64,
            });
        let sent = self.manager.transfer_chunks(chunks, InMemory(data.clone()));
        let chunks = sent.await.expect("a transfer");
        assert!(chunks.iter().all(ChunkResult::is_delivered));
    }
}

fn connect(here: &Engine, there: &Engine) -> (Connection, Connection) {
    let listener: Listener = there.listener();
    let to = listener.addresses()[0].to_string();
    let trust = PeerTrust::Pinned(there.fingerprint());
    let (ours, theirs) = block_on(zip(here.connect(&to, trust), listener.accept()));
    (ours.expect("a connection"), theirs.expect("the same"))
}

async fn await_answer(mut send: SendStream, mut receive: RecvStream, bytes: usize) {
    send.finish().expect("its end");
    let answer = receive.read_to_end(8).await.expect("an answer");
    assert_eq!(answer[..], (bytes as u64).to_be_bytes(), "not all arrived");
}

/// Reads each stream to its end, and answers how much that was.
async fn answer_streams(connection: &Connection) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let mut bytes = 0;
        while let Ok(Some(piece)) = receive.read_bytes(usize::MAX).await {
            bytes += piece.len() as u64;
        }
        send.write_all(&bytes.to_be_bytes())
            .await
            .expect("an answer");
        send.finish().expect("its end");
    }
}

async fn receive_chunks(connection: Connection) {
    let receiver = ParallelReceiver::new(connection, ParallelReceiverConfig::default());
    while receiver.receive(&Nowhere).await.is_ok() {}
}

struct InMemory(Bytes);

impl ChunkProvider for InMemory {
    async fn provide(&self, chunk: NeededChunk) -> Result<ChunkData, ChunkFailure> {
        let begin = chunk.id as usize;
        let end = begin + chunk.size_bytes as usize;
        Ok(ChunkData::Bytes(self.0.slice(begin..end)))
    }
}

struct Nowhere;

impl ChunkSink for Nowhere {
    async fn write(&self, _: NeededChunk, _: Bytes) -> Result<(), ChunkFailure> {
        Ok(())
    }
}

fn timed(work: impl Future<Output = ()>) -> Duration {
    let begun = now();
    block_on(work);
    begun.elapsed()
}

/// Measures all cells and prints them. `dir`: in memory, where there is such a place.
pub fn print(dir: &TempDir) {
    let pair = Pair::start();
    let writer = ZeroCopyStreamWriter::new(PIECE_BYTES);
    println!("\n| size | single stream | parallel {STREAMS} | zero-copy |\n|---|---|---|---|");
    for (name, bytes, rounds, specified_ms) in ROWS {
        let data = Bytes::from(noise(bytes));
        let path = dir.path().join("table");
        std::fs::write(&path, &data).expect("a source");
        let file = File::open(&path).expect("the source");
        let mut cells: [Vec<Duration>; 3] = Default::default();
        for round in 0..WARM_UP_ROUNDS + rounds {
            let taken = [
                timed(pair.single(&data)),
                timed(pair.parallel(&data)),
                timed(pair.zero_copy(&writer, &file, bytes)),
            ];
            if round >= WARM_UP_ROUNDS {
                cells
                    .iter_mut()
                    .zip(taken)
                    .for_each(|(cell, it)| cell.push(it));
            }
        }
        let mut line = format!("| {name} |");
        for (mut cell, specified_ms) in cells.into_iter().zip(specified_ms) {
            cell.sort();
            let ms = |tenth: usize| cell[(cell.len() - 1) * tenth / 10].as_secs_f64() * 1e3;
            let (low, median, high) = (ms(1), ms(5), ms(9));
            let times = specified_ms / median;
            write!(line, " {median:.3} ms ({low:.3}–{high:.3}), {times:.1} × |")
                .expect("a String takes all");
        }
        println!("{line}");
    }
    println!(
        "Medians of {} rounds (10th to 90th percentile), and how many times better that is than \
         the specification's figure.",
        ROWS.map(|row| row.2.to_string()).join(", ")
    );
}
