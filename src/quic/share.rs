//! How much of our memory a connection may take: little before its peer is known, then by its
//! window.

/// Before the peer is known. A handshake takes 18 kB on either side, packets that arrive twice
/// included; there is room for another TLS stack with longer certificates.
pub(super) const HANDSHAKE_HEAP_BYTES: u64 = 64 << 10;

/// Datagrams with long headers that are looked at, 3 to 7 in a handshake, of whose first flight two
/// are. With each side's probe timeouts of 1, 2 and 4 s before the whole handshake is given up, and
/// each datagram sent twice, they are 38.
pub(super) const MAX_HANDSHAKE_DATAGRAMS: u32 = 64;

/// Datagrams of early data (0-RTT) that are looked at beside those. A client of ours sends its 16
/// KiB in 14 full packets, one more for each of 16 writes and 8 ends, each twice where it is lost,
/// and some probes. What comes beyond that is lost like any packet, and sent again when the
/// handshake is complete, with a short header.
pub(super) const MAX_EARLY_DATAGRAMS: u32 = 128;

/// Of a server's connection that carries early data, until its peer is known: streams and what they
/// brought, beside the handshake. 8 streams of requests take 30 kB, and each more about 1.5.
const EARLY_HEAP_BYTES: u64 = HANDSHAKE_HEAP_BYTES + (128 << 10);

/// The bits of a long header's first byte that say that it is early data (RFC 9000 §17.2.3).
const PACKET_TYPE: u8 = 0x30;
const ZERO_RTT: u8 = 0x10;

/// How well a peer is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PeerIs {
    /// Its handshake is not complete.
    Stranger,
    /// The same, and it sends early data, which may be a recording.
    Early,
    /// Its key is proven, or we chose it.
    Known,
}

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
    /// Datagrams with long headers, so far: those of the handshake.
    pub long_headers: u32,
    /// And those of early data.
    early: u32,
}

impl Share {
    pub fn new(window_bytes: u64) -> Share {
        Share {
            window_bytes,
            long_headers: 0,
            early: 0,
        }
    }

    pub fn bytes(&self, peer: PeerIs) -> u64 {
        match peer {
            PeerIs::Known => limit_bytes(self.window_bytes),
            PeerIs::Early => EARLY_HEAP_BYTES,
            PeerIs::Stranger => HANDSHAKE_HEAP_BYTES,
        }
    }

    /// Whether one more datagram whose long header begins with this byte is worth a look.
    pub fn admits_long_header(&mut self, first_byte: u8) -> bool {
        let (count, most) = match first_byte & PACKET_TYPE == ZERO_RTT {
            true => (&mut self.early, MAX_EARLY_DATAGRAMS),
            false => (&mut self.long_headers, MAX_HANDSHAKE_DATAGRAMS),
        };
        *count = count.saturating_add(1);
        *count <= most
    }
}
