//! Providers and sinks of the tests.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use landro::{ChunkData, ChunkFailure, ChunkProvider, ChunkSink, NeededChunk};

use crate::pair::{after, made_up};

/// Gives what `made_up` makes of a chunk's id.
#[derive(Default)]
pub struct MadeUp {
    /// How many were asked for.
    pub asked: AtomicUsize,
    /// How long each takes.
    pub takes: Duration,
}

impl ChunkProvider for MadeUp {
    async fn provide(&self, chunk: NeededChunk) -> Result<ChunkData, ChunkFailure> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if !self.takes.is_zero() {
            after(self.takes).await;
        }
        let bytes = made_up(chunk.size_bytes as usize, chunk.id);
        Ok(ChunkData::Bytes(Bytes::from(bytes)))
    }
}

/// Counts the memory of what it has made up until that is dropped.
#[derive(Default)]
pub struct Tracked {
    now: Arc<AtomicUsize>,
    pub most: AtomicUsize,
}

struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len(), Ordering::Relaxed);
    }
}

impl ChunkProvider for Tracked {
    async fn provide(&self, chunk: NeededChunk) -> Result<ChunkData, ChunkFailure> {
        let bytes = made_up(chunk.size_bytes as usize, chunk.id);
        let now = self.now.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        self.most.fetch_max(now, Ordering::Relaxed);
        let counted = Counted(bytes, Arc::clone(&self.now));
        Ok(ChunkData::Bytes(Bytes::from_owner(counted)))
    }
}

/// Gives the same bytes for each chunk, at no cost.
pub struct Same(pub Bytes);

impl ChunkProvider for Same {
    async fn provide(&self, chunk: NeededChunk) -> Result<ChunkData, ChunkFailure> {
        Ok(ChunkData::Bytes(self.0.slice(..chunk.size_bytes as usize)))
    }
}

/// Gives ranges of a file; an id is an offset.
pub struct Ranges(pub Arc<File>);

impl ChunkProvider for Ranges {
    async fn provide(&self, chunk: NeededChunk) -> Result<ChunkData, ChunkFailure> {
        Ok(ChunkData::FileRange {
            file: Arc::clone(&self.0),
            offset: chunk.id,
        })
    }
}

/// Writes to a file; an id is an offset.
pub struct IntoFile(pub File);

impl ChunkSink for IntoFile {
    async fn write(&self, chunk: NeededChunk, data: Bytes) -> Result<(), ChunkFailure> {
        Ok(self.0.write_all_at(&data, chunk.id)?)
    }
}

/// Keeps digests of what came, and how often.
#[derive(Default)]
pub struct Kept {
    pub chunks: Mutex<HashMap<u64, (Vec<u8>, usize)>>,
    pub takes: Duration,
}

impl ChunkSink for Kept {
    async fn write(&self, chunk: NeededChunk, data: Bytes) -> Result<(), ChunkFailure> {
        if !self.takes.is_zero() {
            after(self.takes).await;
        }
        let mut chunks = self.chunks.lock().unwrap();
        let (bytes, times) = chunks.entry(chunk.id).or_default();
        *bytes = data.to_vec();
        *times += 1;
        Ok(())
    }
}

impl Kept {
    /// Each came once, and as it was made up.
    pub fn check(&self, chunks: &[NeededChunk]) {
        let kept = self.chunks.lock().unwrap();
        assert_eq!(kept.len(), chunks.len());
        for chunk in chunks {
            let (bytes, times) = &kept[&chunk.id];
            assert_eq!(*times, 1, "{chunk}");
            let expected = made_up(chunk.size_bytes as usize, chunk.id);
            assert!(*bytes == expected, "{chunk} is another");
        }
    }
}
