//! Packets built back to back in one buffer, cut into runs the kernel segments (UDP GSO).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use landro_sys::gso::{MAX_RUN_BYTES, Run};

use super::pace::Pace;
use super::unsent::Unsent;
use super::{Conn, DATA_URGENCY, KEY_SPENT, PathSnapshot, Phase};
use crate::config::{MIN_UDP_PAYLOAD_BYTES, PACING_MIN_RTT, QuicConfig};

/// Silence after which streams that are not delivered are looked at for one that blocks the others;
/// doubled each time there was none, up to [`STUCK_CHECK_MAX`]. It begins anew with what is written
/// or sent again, not with keep-alives: an idle connection would be woken eight times for each.
const STUCK_CHECK: Duration = Duration::from_millis(20);
const STUCK_CHECK_MAX: Duration = Duration::from_secs(5);

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

/// The sending half's bookkeeping.
pub(super) struct Sending {
    pub(super) packets_sent: u64,
    /// See [`QuicConfig::key_packet_limit`].
    key_packet_limit: u64,
    /// The handshake is confirmed, as far as we can tell: path MTU probes may be built.
    pub(super) confirmed: bool,
    /// What the path has proven to carry.
    pub(super) known_payload_bytes: usize,
    /// Largest packet this connection builds, probes included.
    ceiling_bytes: usize,
    mtu_discovery: bool,
    probes_sent: u64,
    /// No further path MTU probes yet, see [`Sending::hold_probes`].
    probes_held: bool,
    pace: Pace,
    pub(super) unsent: Unsent,
    is_on_link: fn(IpAddr) -> bool,
    /// Streams we send in, not known to be delivered.
    pub(super) streams: Vec<u64>,
    /// When to look for a stuck stream, and how long after the last look that is. None: nothing was
    /// sent yet.
    check_at: Option<Instant>,
    check_after: Duration,
    /// Something was written since the last look, and how many frames quiche had to send again
    /// until then.
    pub(super) wrote: bool,
    sent_again: usize,
    /// Urgency of the stream that was last put behind all others.
    last_urgency: u8,
    /// A packet built for another destination than its predecessors in the buffer.
    deferred: Option<(Vec<u8>, quiche::SendInfo)>,
}

impl Sending {
    pub(super) fn new(
        quic: &QuicConfig,
        ceiling_bytes: usize,
        is_on_link: fn(IpAddr) -> bool,
    ) -> Sending {
        Sending {
            packets_sent: 0,
            key_packet_limit: quic.key_packet_limit,
            confirmed: false,
            known_payload_bytes: if quic.mtu_discovery {
                MIN_UDP_PAYLOAD_BYTES
            } else {
                ceiling_bytes
            },
            ceiling_bytes,
            mtu_discovery: quic.mtu_discovery,
            probes_sent: 0,
            probes_held: false,
            pace: Pace::new(quic.pacing),
            unsent: Unsent::default(),
            is_on_link,
            streams: Vec::new(),
            check_at: None,
            check_after: STUCK_CHECK,
            wrote: false,
            sent_again: 0,
            last_urgency: DATA_URGENCY,
            deferred: None,
        }
    }

    /// quiche takes a connection that sends a probe for one that has no data to send, and BBR2 does
    /// not end its start upon what such a connection achieves: with a probe in each round trip, a
    /// dozen sizes and three probes of each, it went on overrunning the bottleneck for a second (4
    /// % lost instead of 0.2 at 100 Mbit/s, 20 ms, 1,420 bytes). So after the first probe, which
    /// mostly is the only one, the others wait until the start is over. Not on a LAN, where they
    /// take milliseconds.
    fn hold_probes(&mut self, path: &PathSnapshot) {
        let is_lan = path.min_rtt.is_none_or(|rtt| rtt < PACING_MIN_RTT);
        self.probes_held = self.probes_sent > 0 && !path.left_startup && !is_lan;
    }
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
        // Once per batch, not per packet: asking quiche walks all paths.
        let path = self.snapshot();
        self.sending.unsent.lost(path.lost_stream_bytes);
        self.sending.hold_probes(&path);
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
        let mut cut = Cut::new(self.sending.pace.max_segments());
        let mut filled: Option<Filled> = None;
        for _ in 0..max_packets {
            let at = filled.map_or(0, |filled| filled.bytes);
            let room = self.packet_room();
            if out.len() - at < room {
                break;
            }
            let packet = match (self.release_time(now), filled) {
                (Some(_), _) => None,
                (None, Some(_)) => self.next_packet(&mut out[at..at + room]),
                (None, None) => {
                    let first = self.next_packet(&mut out[..room]);
                    self.expect_stuck(now);
                    let first = first.or_else(|| self.unstick(now, &mut out[..room]));
                    if first.is_some() {
                        self.sending.check_at = Some(now + self.sending.check_after);
                    }
                    first
                }
            };
            let Some((len, info)) = packet else {
                if self.release_time(now).is_none() {
                    let capacity_bytes = self.open_capacity();
                    self.sending.unsent.ran_dry(capacity_bytes, room);
                }
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
            // A probe larger than the path is proven to carry may be refused by the kernel: alone.
            let is_probe = len > self.sending.known_payload_bytes;
            self.sending.probes_sent += u64::from(is_probe);
            cut.push(runs, at, len, is_probe);
            batch.bytes += len;
            batch.packets += 1;
            self.sending.packets_sent += 1;
            self.sending.unsent.sent(len);
            self.sending.pace.sent(now, len);
        }
        filled
    }

    /// What quiche would take now, as far as the control stream can tell: asking for a stream that
    /// the peer stopped would use up that news.
    fn open_capacity(&mut self) -> usize {
        let control = self.sending.streams.iter().find(|stream| *stream & 2 == 0);
        control.map_or(0, |stream| {
            self.quiche.act().stream_capacity(*stream).unwrap_or(0)
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
            .saturating_sub(self.sending.packets_sent);
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
                let _ = self.quiche.act().close(false, 0x1, b"");
                None
            }
        }
    }

    /// When [`Conn::fill`] is to be called although nothing happened.
    pub fn stuck_check(&self) -> Option<Instant> {
        self.sending
            .check_at
            .filter(|_| self.is_established() && !self.sending.streams.is_empty())
    }

    /// Looks soon again once there is something that can get stuck.
    fn expect_stuck(&mut self, now: Instant) {
        // While it looks often anyway there is nothing to ask quiche for.
        if self.sending.check_after == STUCK_CHECK {
            return;
        }
        if self.sending.wrote || self.quiche.stats().retrans != self.sending.sent_again {
            self.sending.check_after = STUCK_CHECK;
            self.sending.check_at = Some(now + STUCK_CHECK);
        }
    }

    /// quiche sends nothing while the first stream in its order has nothing to emit, and one is
    /// left there when what it was to send again is acknowledged after all (a loss that was none:
    /// the peer was busy). Puts one after the other behind all others, until there is a packet.
    fn unstick(&mut self, now: Instant, out: &mut [u8]) -> Option<(usize, quiche::SendInfo)> {
        if self.stuck_check().is_none_or(|at| at > now) {
            return None;
        }
        self.forget_delivered();
        for stream in self.sending.streams.clone() {
            self.sending.last_urgency = self
                .sending
                .last_urgency
                .checked_add(1)
                .unwrap_or(DATA_URGENCY + 1);
            let _ = self
                .quiche
                .act()
                .stream_priority(stream, self.sending.last_urgency, false);
            if let Some(packet) = self.next_packet(out) {
                tracing::debug!(
                    stream,
                    "a stream with nothing to send was in the way of the others"
                );
                self.sending.check_after = STUCK_CHECK;
                return Some(packet);
            }
        }
        // Whatever the count says: there is nothing, and what waits to be written must not wait for
        // it.
        self.sending.unsent.ended();
        self.sending.wrote = false;
        self.sending.sent_again = self.quiche.stats().retrans;
        self.sending.check_at = Some(now + self.sending.check_after);
        self.sending.check_after = (self.sending.check_after * 2).min(STUCK_CHECK_MAX);
        None
    }

    pub(super) fn forget_delivered(&mut self) {
        let quiche = &mut self.quiche;
        self.sending
            .streams
            .retain(|stream| quiche.act().stream_capacity(*stream).is_ok());
    }

    /// Space to offer quiche for one packet: less, and it would cut a packet short; the handshake
    /// is kept to what every path carries even where packets are coalesced.
    fn packet_room(&self) -> usize {
        let room = if !self.sending.confirmed {
            MIN_UDP_PAYLOAD_BYTES
        } else if self.sending.probes_held {
            self.sending.known_payload_bytes
        } else if self.sending.mtu_discovery && self.quiche.pmtu().is_none() {
            self.sending.ceiling_bytes
        } else {
            self.quiche.max_send_udp_payload_size()
        };
        let deferred = self
            .sending
            .deferred
            .as_ref()
            .map_or(0, |(packet, _)| packet.len());
        room.max(deferred)
    }

    /// When the next packet may leave, if pacing says not yet: BBR2 only, and only where `pace.rs`
    /// says so.
    pub fn release_time(&self, now: Instant) -> Option<Instant> {
        if self.phase != Phase::Established || self.is_closing() {
            return None;
        }
        self.sending
            .pace
            .release_time(now, || self.quiche.get_next_release_time()?.time(now))
    }
}

/// Cuts packets into runs as they come.
struct Cut {
    max_segments: usize,
    segment_bytes: usize,
    segments: usize,
    /// The last packet was shorter, or stands alone: nothing may follow it in its message.
    ended: bool,
}

impl Cut {
    fn new(max_segments: usize) -> Cut {
        Cut {
            max_segments,
            segment_bytes: 0,
            segments: 0,
            ended: false,
        }
    }

    fn push(&mut self, runs: &mut Vec<Run>, at: usize, len: usize, alone: bool) {
        let fits = |run: &Run| {
            !self.ended
                && !alone
                && len <= self.segment_bytes
                && self.segments < self.max_segments
                && run.range.len() + len <= MAX_RUN_BYTES
        };
        match runs.last_mut() {
            Some(run) if fits(run) => {
                run.range.end += len;
                run.segment_bytes = Some(self.segment_bytes as u16);
                self.segments += 1;
                self.ended = len < self.segment_bytes;
            }
            Some(_) | None => {
                runs.push(Run::single(at..at + len));
                *self = Cut {
                    segment_bytes: len,
                    segments: 1,
                    ended: alone,
                    ..*self
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use landro_sys::gso::MAX_SEGMENTS;

    use super::*;

    fn cut(lens: &[usize]) -> Vec<Run> {
        let (mut cut, mut runs, mut at) = (Cut::new(MAX_SEGMENTS), Vec::new(), 0);
        for len in lens {
            cut.push(&mut runs, at, *len, false);
            at += len;
        }
        runs
    }

    /// What the kernel makes of a run.
    fn segments(runs: &[Run]) -> Vec<usize> {
        let mut lens = Vec::new();
        for run in runs {
            let mut left = run.range.len();
            let segment = run.segment_bytes.map_or(left, usize::from);
            while left > 0 {
                lens.push(left.min(segment));
                left -= left.min(segment);
            }
        }
        lens
    }

    #[test]
    fn equal_packets_and_one_shorter_are_one_run() {
        assert_eq!(
            cut(&[1472, 1472, 1472]),
            [Run {
                range: 0..4416,
                segment_bytes: Some(1472)
            }]
        );
        assert_eq!(
            cut(&[1472, 1472, 99]),
            [Run {
                range: 0..3043,
                segment_bytes: Some(1472)
            }]
        );
        assert_eq!(
            cut(&[40]),
            [Run {
                range: 0..40,
                segment_bytes: None
            }]
        );
    }

    #[test]
    fn a_longer_packet_and_what_follows_a_shorter_one_start_runs() {
        let runs = cut(&[1200, 1472, 1472, 40, 40, 41]);
        let ranges = [0..1200, 1200..4184, 4184..4224, 4224..4265];
        assert_eq!(
            runs.iter().map(|run| run.range.clone()).collect::<Vec<_>>(),
            ranges
        );
        let segment_bytes = [None, Some(1472), None, None];
        assert_eq!(
            runs.iter().map(|run| run.segment_bytes).collect::<Vec<_>>(),
            segment_bytes
        );
        assert_eq!(segments(&runs), [1200, 1472, 1472, 40, 40, 41]);
    }

    #[test]
    fn after_the_first_probes_wait_for_the_start_to_end_but_on_a_lan() {
        let mut sending = Sending::new(&QuicConfig::auto(), 1472, |_| false);
        let long = PathSnapshot {
            min_rtt: Some(PACING_MIN_RTT),
            ..PathSnapshot::default()
        };
        let held = |sending: &mut Sending, path: &PathSnapshot| {
            sending.hold_probes(path);
            sending.probes_held
        };
        assert!(!held(&mut sending, &long), "the first is sent at once");
        sending.probes_sent = 1;
        assert!(held(&mut sending, &long));
        assert!(!held(
            &mut sending,
            &PathSnapshot {
                left_startup: true,
                ..long
            }
        ));
        let lan = PathSnapshot {
            min_rtt: Some(PACING_MIN_RTT / 2),
            ..long
        };
        assert!(!held(&mut sending, &lan));
    }

    #[test]
    fn a_probe_stands_alone() {
        let (mut cut, mut runs) = (Cut::new(MAX_SEGMENTS), Vec::new());
        for (at, len, alone) in [(0, 1200, false), (1200, 1472, true), (2672, 1200, false)] {
            cut.push(&mut runs, at, len, alone);
        }
        assert!(runs.iter().all(|run| run.segment_bytes.is_none()) && runs.len() == 3);
    }

    #[test]
    fn the_kernel_sees_the_packets_that_were_built() {
        for seed in 0..2_000u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let lens: Vec<usize> = (0..next(200))
                .map(|_| {
                    if next(10) > 0 {
                        1472
                    } else {
                        21 + next(9_000) as usize
                    }
                })
                .collect();
            let runs = cut(&lens);
            assert_eq!(segments(&runs), lens, "seed {seed}");
            assert!(
                runs.windows(2)
                    .all(|pair| pair[0].range.end == pair[1].range.start)
            );
            for run in &runs {
                assert!(run.range.len() <= MAX_RUN_BYTES);
                let count = run
                    .segment_bytes
                    .map_or(1, |s| run.range.len().div_ceil(usize::from(s)));
                assert!(
                    count <= MAX_SEGMENTS && run.segment_bytes.is_some() == (count > 1),
                    "seed {seed}"
                );
            }
        }
    }
}
