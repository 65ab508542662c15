//! How many stream bytes quiche holds and has not sent: it does not tell, so they are counted here.
//!
//! What waits in quiche goes cold in cache, after it was read and hashed and before it is sealed.
//! So the worker keeps little there: it offers as much as is missing to a bound. To offer a fixed
//! amount before each batch of packets would not do, as a batch leaves behind what its headers
//! take: of 300 MB, 8 were waiting in the end.
//!
//! The count is rather too high than too low, since each packet is taken to carry the most overhead
//! it may have. If quiche has nothing to send although its congestion window has room, nothing is
//! left, and the count begins anew at zero.

/// Most that a packet with stream data carries beside it: the short header (1 byte, connection id
/// 5, packet number 4), the tag (16), and the STREAM frame's type, id, offset and length (1, 4, 8,
/// 2).
const OVERHEAD_BYTES: usize = 1 + super::route::SERVER_CID_BYTES + 4 + 16 + 1 + 4 + 8 + 2;

/// Room in the congestion window that quiche may leave unused because no whole packet fits it.
const UNUSED_BYTES: usize = 2 * OVERHEAD_BYTES;

/// Stream bytes in quiche that were not sent, or are to be sent again.
#[derive(Default)]
pub(super) struct Unsent {
    bytes: usize,
    /// quiche's count of stream bytes lost, when it was last looked at.
    lost_bytes: u64,
    /// What was written and sent since the last datagram arrived: with each datagram quiche
    /// computes anew what it takes.
    written_bytes: usize,
    sent_bytes: usize,
}

impl Unsent {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A datagram arrived.
    pub fn received(&mut self) {
        self.written_bytes = 0;
        self.sent_bytes = 0;
    }

    /// Bytes of a stream went into quiche.
    pub fn written(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.written_bytes += bytes;
    }

    /// A packet was built.
    pub fn sent(&mut self, packet_bytes: usize) {
        self.bytes = self
            .bytes
            .saturating_sub(packet_bytes.saturating_sub(OVERHEAD_BYTES));
        self.sent_bytes += packet_bytes;
    }

    /// quiche's count of stream bytes it takes for lost.
    pub fn lost(&mut self, lost_bytes: u64) {
        self.bytes += lost_bytes.saturating_sub(self.lost_bytes) as usize;
        self.lost_bytes = lost_bytes;
    }

    /// quiche had no further packet, and pacing did not hold one back. `capacity_bytes` is what
    /// quiche would take now: if its congestion window has room for a packet, nothing is left to
    /// send.
    pub fn ran_dry(&mut self, capacity_bytes: usize, packet_bytes: usize) {
        let room_bytes = (capacity_bytes + self.written_bytes).saturating_sub(self.sent_bytes);
        if room_bytes >= packet_bytes + UNUSED_BYTES {
            self.ended();
        }
    }

    /// There is nothing to send.
    pub fn ended(&mut self) {
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET_BYTES: usize = 1472;

    #[test]
    fn what_is_written_and_not_sent_is_counted() {
        let mut unsent = Unsent::default();
        unsent.written(100_000);
        unsent.sent(PACKET_BYTES);
        assert_eq!(unsent.bytes(), 100_000 - (PACKET_BYTES - OVERHEAD_BYTES));
        unsent.sent(40);
        assert_eq!(
            unsent.bytes(),
            100_000 - (PACKET_BYTES - OVERHEAD_BYTES),
            "an acknowledgement carries none"
        );
        unsent.lost(5_000);
        unsent.lost(5_000);
        assert_eq!(
            unsent.bytes(),
            105_000 - (PACKET_BYTES - OVERHEAD_BYTES),
            "what is lost is to be sent again, once"
        );
    }

    #[test]
    fn a_full_window_leaves_what_is_unsent() {
        let mut unsent = Unsent::default();
        unsent.received();
        // Room for ten packets, all of it written: their headers have to wait.
        unsent.written(10 * PACKET_BYTES);
        (0..10).for_each(|_| unsent.sent(PACKET_BYTES));
        unsent.ran_dry(0, PACKET_BYTES);
        assert_eq!(unsent.bytes(), 10 * OVERHEAD_BYTES);
    }

    #[test]
    fn an_open_window_says_that_nothing_is_left() {
        let mut unsent = Unsent::default();
        unsent.received();
        unsent.written(5 * PACKET_BYTES);
        (0..5).for_each(|_| unsent.sent(PACKET_BYTES));
        assert!(
            unsent.bytes() > 0,
            "headers were taken for larger than they are"
        );
        unsent.ran_dry(5 * PACKET_BYTES, PACKET_BYTES);
        assert_eq!(unsent.bytes(), 0);
    }
}
