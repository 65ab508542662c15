//! What Rust programs use of landro beside its engine: buffers, and files as bytes.

mod buffers;
mod mmap;

pub use buffers::{
    BufferPool, BufferPoolError, BufferPoolStatistics, MemoryPressure, PooledBuffer,
};
pub use mmap::{MmapError, MmapFileReader};
