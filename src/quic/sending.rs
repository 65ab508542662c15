//! Packets built back to back in one buffer, as many as the path, its pace and the key allow.

use std::net::SocketAddr;
use std::time::Instant;

use landro_sys::gso::Run;

use super::conn::Conn;
use super::gso::Cut;
use super::path::PathSnapshot;
use super::reason::{INTERNAL_ERROR, KEY_SPENT};

/// Packets of the key's limit that are kept for closing.
const PACKETS_TO_CLOSE: u64 = 8;

/// What [`Conn::fill`] put into the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Filled {
    pub to: SocketAddr,
    pub from: SocketAddr,
    pub bytes: usize,
    pub packets: usize,
    /// The buffer or the budget ended before the packets did: fill again.
    pub more: bool,
}

impl Conn {
    /// Builds packets into `out` until there is nothing to send, at most `max_packets`, `out` (64
    /// KiB) is full, the path changes or pacing says wait (then [`Conn::release_time`] is one more
    /// deadline). `runs` is overwritten. One call is one acknowledgement: call it once per batch of
    /// received packets, and always before sleeping. `None`: nothing to send.
    pub fn fill(
        &mut self,
        now: Instant,
        out: &mut [u8],
        max_packets: usize,
        runs: &mut Vec<Run>,
    ) -> Option<Filled> {
        runs.clear();
        self.look_at_path(now);
        let mut cut = Cut::new(self.sending.pace.max_segments());
        let mut filled: Option<Filled> = None;
        for _ in 0..max_packets {
            let at = filled.map_or(0, |filled| filled.bytes);
            let room = self.packet_room();
            if out.len() - at < room {
                break;
            }
            let space = &mut out[at..at + room];
            let packet = match (self.release_time(now), filled) {
                (Some(_), _) => None,
                (None, Some(_)) => self.next_packet(space),
                (None, None) => self.first_packet(now, space),
            };
            let Some((len, info)) = packet else {
                self.ran_dry(now, room);
                return filled.map(|filled| Filled {
                    more: false,
                    ..filled
                });
            };
            let batch = filled.get_or_insert(Filled {
                to: info.to,
                from: info.from,
                bytes: 0,
                packets: 0,
                more: true,
            });
            if (batch.to, batch.from) != (info.to, info.from) {
                self.sending.deferred = Some((out[at..at + len].to_vec(), info));
                break;
            }
            // A probe may be refused by the kernel: alone.
            let is_probe = self.sending.size.sent(len);
            cut.push(runs, at, len, is_probe);
            batch.bytes += len;
            batch.packets += 1;
            self.sending.packets += 1;
            self.sending.unsent.sent(len);
            self.sending.pace.sent(now, len);
        }
        filled
    }

    /// Tells the parts of the sending half what the path has done meanwhile. Once per batch, not
    /// per packet: asking quiche walks all paths.
    fn look_at_path(&mut self, now: Instant) {
        let path: PathSnapshot = self.snapshot();
        self.sending.unsent.lost(path.lost_stream_bytes);
        self.sending.size.hold_probes(&path);
        if self.sending.pace.is_wanted() {
            let acked_bytes = || self.quiche.stats().acked_bytes;
            let is_on_link = || {
                let active = self.quiche.path_stats().find(|path| path.active);
                active.is_some_and(|path| (self.sending.is_on_link)(path.peer_addr.ip()))
            };
            self.sending
                .pace
                .observe(now, &path, acked_bytes, is_on_link);
        }
    }

    /// The first packet of a batch. Where there is none, a stream may be stuck.
    fn first_packet(&mut self, now: Instant, out: &mut [u8]) -> Option<(usize, quiche::SendInfo)> {
        let first = self.next_packet(out);
        self.sending.outgoing.expect_stuck(now, &self.quiche);
        let first = first.or_else(|| self.unstick(now, out));
        if first.is_some() {
            self.sending.outgoing.sent(now);
        }
        first
    }

    /// quiche had no further packet, or pacing holds it back.
    fn ran_dry(&mut self, now: Instant, packet_bytes: usize) {
        if self.release_time(now).is_none() {
            let capacity_bytes = self.open_capacity();
            self.sending.unsent.ran_dry(capacity_bytes, packet_bytes);
        }
    }

    /// What quiche would take now, as far as the control stream can tell: asking for a stream that
    /// the peer stopped would use up that news.
    fn open_capacity(&mut self) -> usize {
        let control = self.sending.outgoing.control();
        control.map_or(0, |stream| {
            self.quiche.act().stream_capacity(stream).unwrap_or(0)
        })
    }

    fn next_packet(&mut self, out: &mut [u8]) -> Option<(usize, quiche::SendInfo)> {
        if let Some((packet, info)) = self.sending.deferred.take() {
            out[..packet.len()].copy_from_slice(&packet);
            return Some((packet.len(), info));
        }
        // Handshake keys seal a few of them, which only makes it earlier.
        let left = self
            .sending
            .key_packet_limit
            .saturating_sub(self.sending.packets);
        if left == 0 {
            return None;
        }
        if left <= PACKETS_TO_CLOSE && !self.is_closing() {
            self.give_up(
                KEY_SPENT,
                "its key has sealed as many packets as it may, and no lane replaced it",
            );
        }
        let sent = self.quiche.act().send(out);
        self.advance();
        match sent {
            Ok(sent) => Some(sent),
            Err(quiche::Error::Done) => None,
            Err(error) => {
                // Nothing more will come of this connection but the reason, with the next call.
                self.fail(error);
                let _ = self.quiche.act().close(false, INTERNAL_ERROR, b"");
                None
            }
        }
    }

    /// When [`Conn::fill`] is to be called although nothing happened.
    pub fn stuck_check(&self) -> Option<Instant> {
        self.sending
            .outgoing
            .check_at()
            .filter(|_| self.is_established())
    }

    /// Puts one stream after the other behind all others, until there is a packet.
    fn unstick(&mut self, now: Instant, out: &mut [u8]) -> Option<(usize, quiche::SendInfo)> {
        if self.stuck_check().is_none_or(|at| at > now) {
            return None;
        }
        self.sending.outgoing.forget_delivered(&mut self.quiche);
        for stream in self.sending.outgoing.undelivered() {
            self.sending.outgoing.put_last(&mut self.quiche, stream);
            if let Some(packet) = self.next_packet(out) {
                tracing::debug!(
                    stream,
                    "a stream with nothing to send was in the way of the others"
                );
                self.sending.outgoing.unstuck();
                return Some(packet);
            }
        }
        // Whatever the count says: there is nothing, and what waits to be written must not wait for
        // it.
        self.sending.unsent.ended();
        self.sending.outgoing.none_stuck(now, &self.quiche);
        None
    }

    /// Space to offer quiche for one packet.
    fn packet_room(&self) -> usize {
        let deferred = self
            .sending
            .deferred
            .as_ref()
            .map_or(0, |(packet, _)| packet.len());
        self.sending.size.room_bytes(&self.quiche).max(deferred)
    }

    /// When the next packet may leave, if pacing says not yet.
    pub fn release_time(&self, now: Instant) -> Option<Instant> {
        if !self.is_established() {
            return None;
        }
        self.sending
            .pace
            .release_time(now, || self.quiche.get_next_release_time()?.time(now))
    }
}
