//! Bytes of one transfer that the peer's transport has acknowledged: counted as the transport drops
//! them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use event_listener::Event;

/// The count of one transfer. Another transfer has another, so that what is dropped late is not
/// counted as its own.
#[derive(Default)]
pub(super) struct AcknowledgedBytes(Arc<AcknowledgedCount>);

#[derive(Default)]
struct AcknowledgedCount {
    bytes: AtomicU64,
    changed: Event,
}

impl AcknowledgedBytes {
    /// Bytes that count when their last clone and slice is dropped. What is handed to a stream at
    /// once is counted, and nothing else: what is dropped before was never sent.
    pub fn count(&self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(CountedBytes {
            bytes,
            count: Arc::clone(&self.0),
        })
    }

    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Acquire)
    }

    /// Resolves when there are more.
    pub async fn more(&self) {
        self.0.changed.listen().await;
    }
}

struct CountedBytes {
    bytes: Bytes,
    count: Arc<AcknowledgedCount>,
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        let bytes = self.bytes.len() as u64;
        self.count.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.count.changed.notify(usize::MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn bytes_count_when_their_last_slice_is_dropped() {
        let acknowledged = AcknowledgedBytes::default();
        let mut more = pin!(acknowledged.more());
        let mut context = Context::from_waker(Waker::noop());
        assert!(more.as_mut().poll(&mut context).is_pending());
        let part = acknowledged.count(Bytes::from_static(b"thirty"));
        let slice = part.slice(1..2);
        drop(part);
        assert_eq!(acknowledged.bytes(), 0, "a slice is left");
        assert!(more.as_mut().poll(&mut context).is_pending());
        drop(slice);
        assert_eq!(acknowledged.bytes(), 6);
        assert!(more.as_mut().poll(&mut context).is_ready());
        assert_eq!(AcknowledgedBytes::default().bytes(), 0);
    }
}
