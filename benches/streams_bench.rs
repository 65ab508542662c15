//! Streams of an embedding program between two engines of one process, over loopback: requests that
//! are answered, one stream that is as fast as it can be, and streams that are opened and ended; in
//! between the first two by the engine without handles.
//!
//! `cargo bench --bench streams_bench [-- ROUNDS]` prints the median and the spread of so many
//! rounds (5).

mod direct;
mod ends;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use direct::Direct;
use futures_lite::future::{block_on, zip};
use hdrhistogram::Histogram;
use landro::{Connection, Engine, PeerTrust};

/// The allocator of the binary: another one would be another engine.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROTOCOL: &str = "streams-bench/1";
const REQUESTS: u32 = 5_000;
const REQUEST_BYTES: usize = 1024;
const BULK_BYTES: u64 = 1 << 30;
const BULK_PIECE_BYTES: usize = 256 << 10;
const STREAMS: u32 = 20_000;

fn main() {
    let rounds = std::env::args().filter_map(|word| word.parse().ok()).next();
    let rounds: usize = rounds.unwrap_or(5);
    let there = Engine::builder().protocol(PROTOCOL);
    let there = there.listen((Ipv4Addr::LOCALHOST, 0).into());
    let anyone = PeerTrust::Decide(Arc::new(|_| true));
    let there = there.accept(anyone).start().expect("an engine");
    let here = Engine::builder().protocol(PROTOCOL).start();
    let here = here.expect("an engine");
    let listener = there.listener();
    let to = listener.addresses()[0].to_string();
    let trust = PeerTrust::Pinned(there.fingerprint());
    let (ours, theirs) = block_on(zip(here.connect(&to, trust), listener.accept()));
    let (ours, theirs) = (ours.expect("a connection"), theirs.expect("the same"));
    // Each on a thread of its own, as programs are.
    thread::spawn(move || block_on(serve(theirs)));
    let without = Direct::start();
    let mut found: [Vec<f64>; 7] = Default::default();
    for round in 0..=rounds {
        let (p50, p99) = block_on(requests(&ours));
        let (direct_p50, direct_p99) = without.requests(REQUEST_BYTES);
        let bulk = block_on(bulk(&ours));
        let direct_bulk = without.bulk();
        let streams = block_on(streams(&ours));
        // The first touches the memory.
        if round > 0 {
            let latencies = [p50, p99, direct_p50, direct_p99].map(micros);
            let rates = [bulk, direct_bulk, streams];
            let all = latencies.into_iter().chain(rates);
            found
                .iter_mut()
                .zip(all)
                .for_each(|(found, now)| found.push(now));
        }
    }
    let names = [
        "request and answer of 1 KiB on one stream, p50 us",
        "the same, p99 us",
        "without handles, p50 us",
        "without handles, p99 us",
        "one stream, 1 GiB, MB/s",
        "without handles, MB/s",
        "streams of 8 bytes, opened and read to the end, per second",
    ];
    for (name, mut found) in names.into_iter().zip(found) {
        found.sort_by(f64::total_cmp);
        let (least, most) = (found[0], found[found.len() - 1]);
        println!(
            "{name}: {:.1} ({least:.1}-{most:.1})",
            found[found.len() / 2]
        );
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Answers each request of a stream that goes both ways with as much; reads the others.
async fn serve(connection: Connection) {
    let echo = connection.clone();
    thread::spawn(move || {
        block_on(async {
            while let Ok((mut send, mut receive)) = echo.accept_bi().await {
                while let Ok(Some(bytes)) = receive.read_bytes(usize::MAX).await {
                    send.write_bytes(bytes).await.expect("an answer");
                }
                let _ = send.finish();
            }
        });
    });
    while let Ok(mut receive) = connection.accept_uni().await {
        while let Ok(Some(_)) = receive.read_bytes(usize::MAX).await {}
    }
}

async fn requests(connection: &Connection) -> (Duration, Duration) {
    let mut taken = Histogram::<u64>::new(3).expect("a histogram");
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    let mut answer = [0; REQUEST_BYTES];
    for _ in 0..REQUESTS {
        let begun = landro::engine::now();
        send.write_all(&answer).await.expect("a request");
        let mut read = 0;
        while read < REQUEST_BYTES {
            let bytes = receive.read(&mut answer[read..]).await.expect("an answer");
            read += bytes.expect("more of it");
        }
        let nanos = begun.elapsed().as_nanos() as u64;
        taken.record(nanos).expect("it grows with what it is told");
    }
    let at = |quantile| Duration::from_nanos(taken.value_at_quantile(quantile));
    (at(0.5), at(0.99))
}

async fn bulk(connection: &Connection) -> f64 {
    let piece = Bytes::from(vec![7; BULK_PIECE_BYTES]);
    let begun = landro::engine::now();
    let mut send = connection.open_uni().await.expect("a stream");
    for _ in 0..BULK_BYTES / BULK_PIECE_BYTES as u64 {
        send.write_bytes(piece.clone()).await.expect("a piece");
    }
    send.finish().expect("its end");
    send.delivered().await.expect("all of it");
    BULK_BYTES as f64 / 1e6 / begun.elapsed().as_secs_f64()
}

async fn streams(connection: &Connection) -> f64 {
    let begun = landro::engine::now();
    for number in 0..STREAMS {
        let mut send = connection.open_uni().await.expect("a stream");
        let bytes = u64::from(number).to_be_bytes();
        send.write_all(&bytes).await.expect("its bytes");
        send.finish().expect("its end");
    }
    f64::from(STREAMS) / begun.elapsed().as_secs_f64()
}
