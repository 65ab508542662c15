//! landro: a Linux-specialised engine that moves files and streams of bytes between hosts over QUIC
//! on io_uring, as Rust programs use it, under any async runtime or none.
//!
//! [`Engine`] runs workers of its own; its handles ([`Connection`], [`SendStream`], [`RecvStream`])
//! leave bytes for them and take bytes from them. Futures of this crate need no runtime: whoever
//! polls them is woken by a worker. The crate reads no environment variable and no home directory,
//! and installs no allocator, no signal handler and no logger: it logs by `tracing`.
//!
//! ```no_run
//! # use std::{fs::File, path::Path, time::Duration};
//! # use landro::*;
//! # async fn example(
//! #     id: Identity, fingerprint: Fingerprint, path: &Path, file: File,
//! #     chunks_needed: Vec<NeededChunk>, chunk_provider: impl ChunkProvider,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! # let (offset, size, chunk_size) = (0, 1 << 20, 256 << 10);
//! let config = QuicConfig::lan_optimized()            // or wan_optimized(), auto()
//!     .congestion_control("bbr")
//!     .stream_receive_window(32 * 1024 * 1024)
//!     .receive_window(512 * 1024 * 1024);
//! let engine = Engine::builder().quic(config).workers(2).identity(id).start()?;
//! let connection = engine.connect("host:4433", PeerTrust::Pinned(fingerprint)).await?;
//!
//! let mut stream = connection.open_uni().await?;
//! let writer = ZeroCopyStreamWriter::new(chunk_size);
//! writer.sendfile_to_stream(&mut stream, &file, offset, size).await?;
//!
//! let manager = ParallelTransferManager::new(connection, ParallelTransferConfig {
//!     max_concurrent_streams: 16,
//!     chunks_per_stream: 8,
//!     bytes_per_stream_target: 4 * 1024 * 1024,
//!     adaptive_parallelism: true,
//!     bandwidth_window: Duration::from_secs(1),
//!     max_buffer_size: 128 * 1024 * 1024,
//! });
//! let chunks = manager.transfer_chunks(chunks_needed, chunk_provider).await?;
//!
//! let reader = MmapFileReader::new(path)?;
//! let data = reader.get_slice(offset, size as usize);
//! # Ok(()) }
//! ```
//!
//! # Features
//! - `command` (on): what the `landro` binary consists of. A program that embeds the engine does
//!   without (`default-features = false`), and is spared the crates of a command line.
//! - `mimalloc` (on): the allocator of that binary.
//! - `tokio`: streams have tokio's `AsyncRead` and `AsyncWrite`, too.
//! - `internals`, `fuzzing`: the layers below, for this repository's own tests. They promise
//!   nothing.
//!
//! # Layers
//! From the top: `cli` and `daemon` are what people run, `api` is what programs use; `engine`
//! starts the workers of a process; `worker` is one thread with one ring, where kernel, QUIC and
//! transfer meet; `proto` is the transfer protocol without I/O; `quic` and `tcp` are the
//! transports; `landro_sys` is the kernel. `docs/architecture.md` draws it.
#![forbid(unsafe_code)]
// The layers below are documented for who works on them, and public for tests alone.
#![cfg_attr(not(feature = "internals"), deny(missing_docs))]
// What the command alone uses is not dead: it has it in the build that is linted.
#![cfg_attr(not(feature = "command"), allow(dead_code, unused_imports))]

mod api;
#[cfg(feature = "internals")]
pub mod budget;
#[cfg(not(feature = "internals"))]
mod budget;
mod carrier;
#[cfg(feature = "command")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "internals")]
pub mod config;
#[cfg(not(feature = "internals"))]
mod config;
#[cfg(feature = "command")]
mod daemon;
mod disk;
#[cfg(feature = "internals")]
pub mod engine;
#[cfg(not(feature = "internals"))]
mod engine;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod identity;
#[cfg(feature = "internals")]
pub mod ids;
#[cfg(not(feature = "internals"))]
mod ids;
#[cfg(feature = "internals")]
pub mod metrics;
#[cfg(not(feature = "internals"))]
mod metrics;
#[cfg(feature = "internals")]
pub mod proto;
#[cfg(not(feature = "internals"))]
mod proto;
#[cfg(feature = "internals")]
pub mod quic;
#[cfg(not(feature = "internals"))]
mod quic;
#[cfg(feature = "command")]
mod signals;
#[cfg(feature = "internals")]
pub mod tcp;
#[cfg(not(feature = "internals"))]
mod tcp;
mod worker;

pub use api::*;

/// Tests weigh connections as the binary does.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: landro_sys::weigh::Weighed<std::alloc::System> =
    landro_sys::weigh::Weighed(std::alloc::System);
