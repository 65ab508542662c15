//! How large a packet may be, and when larger ones are tried (path MTU discovery, by quiche).

use std::time::{Duration, Instant};

use super::black_hole::BlackHole;
use super::held::Held;
use super::path::PathSnapshot;
use crate::config::{MIN_UDP_PAYLOAD_BYTES, PACING_MIN_RTT, QuicConfig};

/// How long after its packets had to become smaller a lane is to be replaced by a fresh one, which
/// looks for larger ones again: what took the path's MTU away often gives it back. RFC 8899 §5.1.1
/// waits 10 minutes where nothing had been larger before; those lanes are left alone.
const SEARCH_ANEW: Duration = Duration::from_secs(60);

/// While a search is on that knows no better, what it found before a black hole is tried so often.
const TRY_LARGE: Duration = Duration::from_secs(1);

/// The sizes of a connection's packets.
pub(super) struct PacketSize {
    /// The handshake is confirmed, as far as we can tell: path MTU probes may be built.
    confirmed: bool,
    /// What the path has proven to carry.
    known_bytes: usize,
    /// Largest packet this connection builds, probes included.
    ceiling_bytes: usize,
    mtu_discovery: bool,
    probes_sent: u64,
    /// No further probes yet, see [`PacketSize::hold_probes`].
    probes_held: bool,
    black_hole: BlackHole,
    /// When large packets were last found not to pass any more.
    fell_at: Option<Instant>,
    /// They are not offered to quiche, which believes in them still, until then.
    small_until: Option<Instant>,
}

impl PacketSize {
    pub fn new(quic: &QuicConfig, ceiling_bytes: usize) -> PacketSize {
        PacketSize {
            confirmed: false,
            known_bytes: if quic.mtu_discovery {
                MIN_UDP_PAYLOAD_BYTES
            } else {
                ceiling_bytes
            },
            ceiling_bytes,
            mtu_discovery: quic.mtu_discovery,
            probes_sent: 0,
            probes_held: false,
            black_hole: BlackHole::default(),
            fell_at: None,
            small_until: None,
        }
    }

    pub fn confirm_handshake(&mut self) {
        self.confirmed = true;
    }

    /// The path carries packets of this size.
    pub fn prove(&mut self, bytes: usize) {
        self.known_bytes = bytes.max(MIN_UDP_PAYLOAD_BYTES);
        if bytes > MIN_UDP_PAYLOAD_BYTES {
            self.small_until = None;
            self.black_hole.prove();
        }
    }

    /// Once per batch. True: large packets do not pass any more, see [`PacketSize::shrink`].
    pub fn is_too_large(
        &mut self,
        now: Instant,
        path: &PathSnapshot,
        acked_bytes: impl FnOnce() -> u64,
    ) -> bool {
        let large_bytes = self.known_bytes;
        large_bytes > MIN_UDP_PAYLOAD_BYTES
            && self
                .black_hole
                .is_found(now, path, large_bytes, acked_bytes)
    }

    /// A search that went on when packets had to become smaller has ended, and found what it knew.
    pub fn end_search(&mut self, quiche: &mut Held) {
        if self.small_until.is_some() && quiche.pmtu().is_some() {
            self.small_until = None;
            quiche.act().revalidate_pmtu();
        }
    }

    /// Whether packets are larger than this.
    pub fn exceeds(&self, bytes: usize) -> bool {
        self.known_bytes > bytes.max(MIN_UDP_PAYLOAD_BYTES)
    }

    /// Packets are small from now on, and larger ones are looked for again. What is in flight is
    /// repeated in small ones.
    pub fn shrink(&mut self, now: Instant, quiche: &mut Held) {
        self.known_bytes = MIN_UDP_PAYLOAD_BYTES;
        self.fell_at = Some(now);
        match quiche.pmtu() {
            // From here on quiche builds small packets, and probes what it knew, then less.
            Some(_) => quiche.act().revalidate_pmtu(),
            // It has nothing to doubt while its search goes on.
            None => self.small_until = Some(now + TRY_LARGE),
        }
    }

    /// The path may carry larger packets again, which only a fresh connection looks for: quiche
    /// never searches upwards a second time.
    pub fn is_to_search_anew(&self, now: Instant) -> bool {
        let is_small = self.known_bytes < self.ceiling_bytes;
        is_small && self.fell_at.is_some_and(|at| at + SEARCH_ANEW <= now)
    }

    /// quiche takes a connection that sends a probe for one that has no data to send, and BBR2 does
    /// not end its start upon what such a connection achieves: with a probe in each round trip, a
    /// dozen sizes and three probes of each, BBR2 went on overrunning the bottleneck for a second
    /// (4 % lost instead of 0.2 at 100 Mbit/s, 20 ms, 1,420 bytes). So after the first probe, which
    /// mostly is the only one, the others wait until the start is over. Not on a LAN, where they
    /// take milliseconds.
    pub fn hold_probes(&mut self, path: &PathSnapshot) {
        let is_lan = path.min_rtt.is_none_or(|rtt| rtt < PACING_MIN_RTT);
        self.probes_held = self.probes_sent > 0 && !path.left_startup && !is_lan;
    }

    /// Counts a packet that was built. True: it is a probe, larger than the path is proven to
    /// carry, which the kernel may refuse.
    pub fn sent(&mut self, bytes: usize) -> bool {
        let is_probe = bytes > self.known_bytes;
        if is_probe && let Some(until) = &mut self.small_until {
            *until += TRY_LARGE;
        }
        self.probes_sent += u64::from(is_probe);
        is_probe
    }

    /// Space to offer quiche for one packet: less, and it would cut a packet short; the handshake
    /// is kept to what every path carries even where packets are coalesced.
    pub fn room_bytes(&self, now: Instant, quiche: &Held) -> usize {
        if !self.confirmed || self.small_until.is_some_and(|until| until > now) {
            MIN_UDP_PAYLOAD_BYTES
        } else if self.probes_held {
            self.known_bytes
        } else if self.mtu_discovery && quiche.pmtu().is_none() {
            self.ceiling_bytes
        } else {
            quiche.max_send_udp_payload_size()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_first_probes_wait_for_the_start_to_end_but_on_a_lan() {
        let mut size = PacketSize::new(&QuicConfig::auto(), 1472);
        let long = PathSnapshot {
            min_rtt: Some(PACING_MIN_RTT),
            ..PathSnapshot::default()
        };
        let held = |size: &mut PacketSize, path: &PathSnapshot| {
            size.hold_probes(path);
            size.probes_held
        };
        assert!(!held(&mut size, &long), "the first is sent at once");
        assert!(size.sent(1472), "a probe");
        assert!(held(&mut size, &long));
        assert!(!held(
            &mut size,
            &PathSnapshot {
                left_startup: true,
                ..long
            }
        ));
        let lan = PathSnapshot {
            min_rtt: Some(PACING_MIN_RTT / 2),
            ..long
        };
        assert!(!held(&mut size, &lan));
    }
}
