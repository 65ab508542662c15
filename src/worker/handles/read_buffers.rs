//! Buffers that reads fill and handles are given: one that comes back is filled again, the last
//! first, for it is still in cache.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// What one read brings at most.
pub(super) const READ_BYTES: usize = 64 << 10;

/// Buffers of a worker that are kept for the next reads: one stream alone has four with its handle.
const IDLE_MAX: usize = 16;

/// Those of one worker, for all of its connections.
#[derive(Default)]
pub(crate) struct ReadBuffers {
    /// What the next read fills; empty if it was handed on.
    current: Vec<u8>,
    idle: Arc<Idle>,
}

#[derive(Default)]
struct Idle(Mutex<Vec<Vec<u8>>>);

impl Idle {
    fn buffers(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // A push or a pop leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadBuffers {
    /// What the next read fills; of what it holds nothing is known.
    pub(super) fn next(&mut self) -> &mut [u8] {
        if self.current.is_empty() {
            let idle = self.idle.buffers().pop();
            self.current = idle.unwrap_or_else(|| vec![0; READ_BYTES]);
        }
        &mut self.current
    }

    /// The first bytes of it, whose memory comes back when the last of them is dropped, on whatever
    /// thread.
    pub(super) fn hand_on(&mut self, bytes: usize) -> Bytes {
        Bytes::from_owner(LentBuffer {
            memory: std::mem::take(&mut self.current),
            bytes,
            home: Arc::clone(&self.idle),
        })
    }
}

struct LentBuffer {
    memory: Vec<u8>,
    bytes: usize,
    home: Arc<Idle>,
}

impl AsRef<[u8]> for LentBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.bytes]
    }
}

impl Drop for LentBuffer {
    fn drop(&mut self) {
        let mut idle = self.home.buffers();
        if idle.len() < IDLE_MAX {
            idle.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_with_the_last_of_its_bytes() {
        let mut buffers = ReadBuffers::default();
        buffers.next()[..3].copy_from_slice(b"abc");
        let memory = buffers.next().as_ptr();
        let mut bytes = buffers.hand_on(3);
        let begin = bytes.split_to(1);
        assert_ne!(buffers.next().as_ptr(), memory, "it is somebody's");
        assert_eq!((&begin[..], &bytes[..]), (&b"a"[..], &b"bc"[..]));
        drop(begin);
        assert!(buffers.idle.buffers().is_empty());
        drop(bytes);
        buffers.hand_on(1);
        // What came last is filled first.
        assert_eq!(buffers.idle.buffers().len(), 2);
        assert_ne!(buffers.next().as_ptr(), memory);
        let other = buffers.hand_on(READ_BYTES);
        assert_eq!(buffers.next().as_ptr(), memory);
        assert_eq!(
            (buffers.next().len(), other.len()),
            (READ_BYTES, READ_BYTES)
        );
    }

    #[test]
    fn no_more_are_kept_than_may_be() {
        let mut buffers = ReadBuffers::default();
        let filled = |_| {
            buffers.next();
            buffers.hand_on(1)
        };
        let all: Vec<Bytes> = (0..2 * IDLE_MAX).map(filled).collect();
        drop(all);
        assert_eq!(buffers.idle.buffers().len(), IDLE_MAX);
        // Whoever keeps some for longer than the worker lives frees them.
        buffers.next();
        let kept = buffers.hand_on(2);
        drop(buffers);
        assert_eq!(kept.len(), 2);
    }
}
