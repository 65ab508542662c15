//! How much of our memory a connection may take: little before its peer is known, then by its
//! window.

/// Before the peer is known. A handshake takes 18 kB on either side, packets that arrive twice
/// included; there is room for another TLS stack with longer certificates.
pub(super) const HANDSHAKE_HEAP_BYTES: u64 = 64 << 10;

/// Datagrams with long headers that are looked at, 3 to 7 in a handshake, of whose first flight two
/// are. With each side's probe timeouts of 1, 2 and 4 s before the whole handshake is given up, and
/// each datagram sent twice, they are 38.
pub(super) const MAX_HANDSHAKE_DATAGRAMS: u32 = 64;

/// What a connection has beside its window: streams, packets not acknowledged, ranges. An idle
/// connection has 24–62 kB; a receiver at 270 Mbit/s over 500 ms (its 16 MiB window) with 5 % loss
/// has 1.1 MB of acknowledgements under way; a sender 0.67 kB for each packet in flight, so that
/// 4,600 packets, 500 Mbit/s at 100 ms, go into three quarters of it.
const BESIDE_WINDOW_BYTES: u64 = 4 << 20;

/// What unread bytes cost: 1.13 times themselves in full packets; in packets of 300 bytes, as a
/// sender makes that has little at a time, 1.48 times, and that a whole window of 16 MiB was filled
/// with such is in the share, too.
const UNREAD_QUARTERS: u64 = 5;

/// The bound of a connection that may be granted so much unread data.
pub(super) fn limit_bytes(window_bytes: u64) -> u64 {
    (window_bytes / 4)
        .saturating_mul(UNREAD_QUARTERS)
        .saturating_add(BESIDE_WINDOW_BYTES)
}

/// What one connection may make us keep.
pub(super) struct Share {
    /// Most unread data its flow control ever lets it have.
    pub window_bytes: u64,
    /// Datagrams with long headers, so far.
    pub long_headers: u32,
}

impl Share {
    pub fn new(window_bytes: u64) -> Share {
        Share {
            window_bytes,
            long_headers: 0,
        }
    }

    pub fn bytes(&self, peer_is_known: bool) -> u64 {
        if peer_is_known {
            limit_bytes(self.window_bytes)
        } else {
            HANDSHAKE_HEAP_BYTES
        }
    }

    /// Whether one more datagram with a long header is worth a look.
    pub fn admits_long_header(&mut self) -> bool {
        self.long_headers += 1;
        self.long_headers <= MAX_HANDSHAKE_DATAGRAMS
    }
}
