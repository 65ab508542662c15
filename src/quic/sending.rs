//! Packets built back to back in one buffer, as many as the path, its pace and the key allow.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use landro_sys::gso::Run;

use super::conn::Conn;
use super::gso::Cut;
use super::note::Note;
use super::path::PathSnapshot;
use super::reason::{INTERNAL_ERROR, KEY_SPENT};
use super::route::CLIENT_CID_BYTES;

/// Packets of the key's limit that are kept for closing.
const PACKETS_TO_CLOSE: u64 = 8;

/// A question's packet: a short header with a client's connection id, the frame, the tag.
const MIN_QUESTION_BYTES: usize = 1 + 4 + CLIENT_CID_BYTES + (3 + 9) + 16;

/// How often a peer that dials is asked to replace a lane.
const ASK_TO_REPLACE: Duration = Duration::from_secs(10);

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
        if let Some(asked) = self.ask_address(now, out, runs) {
            return Some(asked);
        }
        let (to, allowed_bytes) = self.whereabouts.destination();
        let mut cut = Cut::new(self.sending.pace.max_segments());
        let mut filled: Option<Filled> = None;
        for _ in 0..max_packets {
            let at = filled.map_or(0, |filled| filled.bytes);
            let room = self.sending.size.room_bytes(now, &self.quiche);
            if out.len() - at < room {
                break;
            }
            if allowed_bytes < at + room {
                return filled;
            }
            let space = &mut out[at..at + room];
            let packet = match (self.release_time(now), filled) {
                (Some(_), _) => None,
                (None, Some(_)) => self.next_packet(space),
                (None, None) => self.first_packet(now, space),
            };
            let Some(len) = packet else {
                self.ran_dry(now, room);
                return filled.map(|filled| Filled {
                    more: false,
                    ..filled
                });
            };
            let batch = filled.get_or_insert(Filled {
                to,
                from: self.local,
                bytes: 0,
                packets: 0,
                more: true,
            });
            // A probe may be refused by the kernel: alone.
            let is_probe = self.sending.size.sent(len);
            cut.push(runs, at, len, is_probe);
            batch.bytes += len;
            batch.packets += 1;
            self.count_sent(now, to, len);
        }
        filled
    }

    fn count_sent(&mut self, now: Instant, to: SocketAddr, bytes: usize) {
        self.sending.packets += 1;
        self.sending.unsent.sent(bytes);
        self.sending.pace.sent(now, bytes);
        self.whereabouts.sent(to, bytes);
    }

    /// Asks whether the peer is where its packets come from now, in one small packet that goes
    /// there and nowhere else.
    fn ask_address(&mut self, now: Instant, out: &mut [u8], runs: &mut Vec<Run>) -> Option<Filled> {
        let ask = self
            .whereabouts
            .ask(now)
            .filter(|_| self.is_established() && !self.is_of_application())?;
        if ask.most_bytes < MIN_QUESTION_BYTES {
            return None;
        }
        self.note(&Note::WhereAreYou(ask.secret));
        let notes_before = self.snapshot().sent_notes;
        let packet = self.next_packet(&mut out[..ask.most_bytes]);
        let has_left = self.snapshot().sent_notes > notes_before;
        // In any other packet it would go where it proves nothing.
        self.quiche.act().dgram_purge_outgoing(|_| true);
        let bytes = packet?;
        let to = if has_left {
            self.whereabouts.asked(now);
            ask.to
        } else {
            self.whereabouts.destination().0
        };
        runs.push(Run::single(0..bytes));
        self.count_sent(now, to, bytes);
        Some(Filled {
            to,
            from: self.local,
            bytes,
            packets: 1,
            more: true,
        })
    }

    /// Tells the parts of the sending half what the path has done meanwhile. Once per batch, not
    /// per packet: quiche copies all of the path's numbers.
    fn look_at_path(&mut self, now: Instant) {
        let path: PathSnapshot = self.snapshot();
        self.sending.unsent.lost(path.lost_stream_bytes);
        self.look_for_black_hole(now, &path);
        self.sending.size.hold_probes(&path);
        if self.sending.pace.is_looking() {
            let acked_bytes = || self.quiche.stats().acked_bytes;
            let peer = self.whereabouts.known().ip();
            let is_on_link = || (self.sending.is_on_link)(peer);
            self.sending
                .pace
                .observe(now, &path, acked_bytes, is_on_link);
        }
    }

    fn look_for_black_hole(&mut self, now: Instant, path: &PathSnapshot) {
        let size = &mut self.sending.size;
        size.end_search(&mut self.quiche);
        if size.is_too_large(now, path, || self.quiche.stats().acked_bytes) {
            tracing::debug!(?path, "packets this large do not arrive any more");
            size.shrink(now, &mut self.quiche);
        }
        let is_due = |at: Instant| at + ASK_TO_REPLACE <= now;
        if self.is_server()
            && self.is_established()
            && self.sending.size.is_to_search_anew(now)
            && self.replacing.asked_at.is_none_or(is_due)
        {
            self.replacing.asked_at = Some(now);
            self.note(&Note::ReplaceMe);
        }
    }

    /// The first packet of a batch. Where there is none, a stream may be stuck.
    fn first_packet(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
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
        if self.is_of_application() {
            // What of its streams is news was taken when the packets came.
            let streams = self.sending.outgoing.undelivered();
            let capacity = |stream| self.quiche.act().stream_capacity(stream).unwrap_or(0);
            return streams.map(capacity).max().unwrap_or(0);
        }
        let control = self.sending.outgoing.control();
        control.map_or(0, |stream| {
            self.quiche.act().stream_capacity(stream).unwrap_or(0)
        })
    }

    fn next_packet(&mut self, out: &mut [u8]) -> Option<usize> {
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
            Ok((bytes, _)) => Some(bytes),
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
    fn unstick(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        if self.stuck_check().is_none_or(|at| at > now) {
            return None;
        }
        let suspects = self.sending.outgoing.suspects(&mut self.quiche);
        for (before, suspect) in suspects.iter().enumerate() {
            let stream = suspect.stream;
            self.sending.outgoing.put_last(&mut self.quiche, stream);
            if let Some(packet) = self.next_packet(out) {
                tracing::debug!(
                    stream,
                    "a stream with nothing to send was in the way of the others"
                );
                let before = &suspects[..before];
                self.sending.outgoing.unstuck(&mut self.quiche, before);
                return Some(packet);
            }
        }
        // Whatever the count says: there is nothing, and what waits to be written must not wait for
        // it.
        self.sending.unsent.ended();
        let outgoing = &mut self.sending.outgoing;
        outgoing.none_stuck(now, &mut self.quiche, &suspects);
        None
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
