//! A file in chunks over many streams, between two engines of one process: `parallel_chunks FROM
//! TO`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::{block_on, zip};
use landro::{
    ChunkData, ChunkFailure, ChunkProvider, ChunkResult, ChunkSink, Engine, NeededChunk,
    ParallelReceiver, ParallelReceiverConfig, ParallelTransferConfig, ParallelTransferManager,
    PeerTrust,
};

const PROTOCOL: &str = "example-chunks/1";
const CHUNK_BYTES: u64 = 1 << 20;

/// Chunks of a file; the id of each is its offset.
struct Source(Arc<File>);

impl ChunkProvider for Source {
    async fn provide(&self, chunk: NeededChunk) -> Result<ChunkData, ChunkFailure> {
        Ok(ChunkData::FileRange {
            file: Arc::clone(&self.0),
            offset: chunk.id,
        })
    }
}

/// Writes them where they were. Under an async runtime one would do that on a thread for it.
struct Target(File);

impl ChunkSink for Target {
    async fn write(&self, chunk: NeededChunk, data: Bytes) -> Result<(), ChunkFailure> {
        Ok(self.0.write_all_at(&data, chunk.id)?)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = &arguments[..] else {
        return Err("usage: parallel_chunks FROM TO".into());
    };
    let (source, target) = (File::open(from)?, File::create(to)?);
    let size_bytes = source.metadata()?.len();
    let server = Engine::builder()
        .protocol(PROTOCOL)
        .listen("127.0.0.1:0".parse()?)
        .accept(PeerTrust::Decide(Arc::new(|_| true)))
        .start()?;
    let listener = server.listener();
    let address = listener.addresses()[0].to_string();
    let receives = thread::spawn(move || {
        block_on(async {
            let connection = listener.accept().await.ok_or("nobody came")?;
            let receiver = ParallelReceiver::new(connection, ParallelReceiverConfig::default());
            let received = receiver.receive(&Target(target)).await;
            received.map_err(|error| error.to_string())
        })
    });
    let client = Engine::builder().protocol(PROTOCOL).start()?;
    let trust = PeerTrust::Pinned(server.fingerprint());
    let chunks = block_on(async {
        let connection = client.connect(&address, trust).await?;
        let config = ParallelTransferConfig {
            bandwidth_window: Duration::from_millis(200),
            ..Default::default()
        };
        let manager = ParallelTransferManager::new(connection, config);
        // An empty file is a chunk, too: of no bytes.
        let needed = (0..size_bytes.max(1))
            .step_by(CHUNK_BYTES as usize)
            .map(|offset| NeededChunk {
                id: offset,
                size_bytes: CHUNK_BYTES.min(size_bytes - offset),
            });
        let mut progress = manager.progress();
        let watches = async {
            let mut streams = 0;
            while let Some(now) = progress.next().await {
                streams = streams.max(now.streams);
            }
            streams
        };
        let provider = Source(Arc::new(source));
        let (chunks, streams) = zip(manager.transfer_chunks(needed, provider), watches).await;
        println!("streams at a time: {streams}");
        Ok::<_, Box<dyn std::error::Error>>(chunks?)
    })?;
    let received = receives.join().map_err(|_| "the receiver failed")??;
    let delivered = received.iter().filter(|chunk| chunk.is_delivered());
    println!("received: {} of {}", delivered.count(), chunks.len());
    match chunks.iter().all(ChunkResult::is_delivered) {
        true => Ok(()),
        false => Err(format!("not all arrived: {chunks:?}").into()),
    }
}
