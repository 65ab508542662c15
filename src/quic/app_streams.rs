//! Streams and datagrams as an application has them: opened either way, all alike, ended, reset and
//! stopped when it says so.
//!
//! quiche forgets a stream with the first acknowledgement behind which all its bytes are
//! acknowledged and its end was *queued*, and with the stream an end that was lost. So an end goes
//! with a byte, or alone once nothing else of its stream is under way: then what makes quiche
//! forget the stream is the acknowledgement of the end itself. ([`Conn::write`] says how it is
//! known that all is acknowledged; of what was sent twice for a loss, one may be under way then.)

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use landro_sys::weigh;

use super::conn::Conn;
use super::held::Given;
use super::outgoing::{DATA_URGENCY, URGENCIES};
use super::reason::StreamError;
use crate::carrier::Alpn;

/// Which way bytes go on a stream (RFC 9000 §2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamDirection {
    /// Both.
    Bidirectional,
    /// From who opened it.
    Unidirectional,
}

impl StreamDirection {
    /// Of the stream with this number.
    pub fn of(stream: u64) -> StreamDirection {
        match stream & 2 {
            0 => StreamDirection::Bidirectional,
            _ => StreamDirection::Unidirectional,
        }
    }
}

/// How far the sending half of a stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendState {
    Open,
    /// The peer wants no more, with this code.
    Stopped(u64),
    /// Everything is acknowledged, its end included, and what the peer sent was read to its end.
    Gone,
}

/// A datagram was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DatagramRefusal {
    /// As many wait as may.
    Full,
    /// It is larger than a packet of this path holds, or the peer takes none.
    TooLarge,
}

impl Conn {
    /// What runs on it are an application's streams and datagrams.
    pub(super) fn is_of_application(&self) -> bool {
        self.knows_peer() && self.alpn() == Alpn::Streams
    }

    /// Opens a stream. None: not established, or as many are open as the peer allows; it allows
    /// more as old ones end.
    pub fn open(&mut self, direction: StreamDirection) -> Option<u64> {
        match direction {
            StreamDirection::Unidirectional => self.open_uni(),
            StreamDirection::Bidirectional => {
                let is_open = self.is_established() && self.may_open();
                if !is_open || self.quiche.peer_streams_left_bidi() == 0 {
                    return None;
                }
                let stream = self.next_bidi * 4 + u64::from(self.quiche.is_server());
                self.begin_sending(stream).ok()?;
                self.next_bidi += 1;
                Some(stream)
            }
        }
    }

    /// The peer opened a stream that goes both ways, and something is to be sent in it.
    pub fn adopt(&mut self, stream: u64) {
        // One that is over already needs no place among the others.
        let _ = self.begin_sending(stream);
    }

    fn begin_sending(&mut self, stream: u64) -> Result<(), quiche::Error> {
        let mut quiche = self.quiche.act();
        quiche.stream_priority(stream, DATA_URGENCY, false)?;
        drop(quiche);
        self.sending.outgoing.data_opened(&mut self.quiche, stream);
        Ok(())
    }

    /// Which streams go first where all cannot: those of lower urgency, 0 to 7 (RFC 9218 §4.1), and
    /// of the same those that were opened first.
    pub fn prioritise(&mut self, stream: u64, urgency: u8) {
        let urgency = urgency.min(URGENCIES - 1);
        let outgoing = &mut self.sending.outgoing;
        outgoing.set_urgency(&mut self.quiche, stream, urgency);
    }

    /// As [`Conn::send`], and of what is taken `mark` is shared until the peer has acknowledged it.
    ///
    /// # Errors
    /// The peer stopped the stream, or it is finished.
    pub fn write(
        &mut self,
        stream: u64,
        (data, fin): (Bytes, bool),
        mark: &Arc<()>,
    ) -> Result<Option<Bytes>, StreamError> {
        self.give(stream, (data, fin), |bytes| Given::marked(bytes, mark))
    }

    /// How far the sending half of a stream is. (`stream_writable_next` would name those that the
    /// peer stopped, unless it has named them before for their room.)
    pub fn send_state(&mut self, stream: u64) -> SendState {
        match self.quiche.act().stream_capacity(stream) {
            Ok(_) => SendState::Open,
            Err(quiche::Error::StreamStopped(code)) => SendState::Stopped(code),
            Err(_) => SendState::Gone,
        }
    }

    /// Whether nothing more can be read of a stream, its end or reset included.
    pub fn is_cut(&self, stream: u64) -> bool {
        self.quiche.stream_finished(stream) && !self.quiche.stream_readable(stream)
    }

    /// Whether the peer reset a stream, ever. Not for every packet: quiche looks at all streams.
    pub fn has_had_resets(&self) -> bool {
        self.quiche.stats().reset_stream_count_remote > 0
    }

    /// How often something was sent again, or may have been.
    pub fn losses(&self) -> u64 {
        let path = self.snapshot();
        path.lost_packets + path.probe_timeouts as u64
    }

    /// Whether nothing that was sent waits for an acknowledgement. quiche does not say so, but its
    /// next timer is that of idleness then, which is far away; the timer of what is lost is due
    /// after some round trips.
    pub fn is_all_acknowledged(&self, now: Instant) -> bool {
        let peer = self.quiche.peer_transport_params();
        let peer = peer.map(|peer| Duration::from_millis(peer.max_idle_timeout));
        let timeouts = [peer.unwrap_or_default(), self.idle_timeout];
        let idle = timeouts.into_iter().filter(|idle| !idle.is_zero()).min();
        let next = self.quiche.timeout_instant();
        next.is_none_or(|at| idle.is_some_and(|idle| at > now + idle / 2))
    }

    /// Bytes of packets that the peer acknowledged. Not for every packet: quiche looks at all
    /// streams.
    pub fn acknowledged_bytes(&self) -> u64 {
        self.quiche.stats().acked_bytes
    }

    /// Packets that came so far: as long as they are as many, no stream's state is another one.
    pub fn received_packets(&self) -> u64 {
        self.packets_received
    }

    /// Largest datagram that the path carries now; None: the peer takes none.
    pub fn most_datagram_bytes(&self) -> Option<usize> {
        self.quiche.dgram_max_writable_len()
    }

    /// Queues a datagram.
    ///
    /// # Errors
    /// It is too large, or as many wait as may, and none before the handshake is complete.
    pub fn send_datagram(&mut self, bytes: &[u8]) -> Result<(), DatagramRefusal> {
        if self.sends_early() {
            return Err(DatagramRefusal::Full);
        }
        match self.quiche.act().dgram_send(bytes) {
            Ok(()) => Ok(()),
            Err(quiche::Error::Done) => Err(DatagramRefusal::Full),
            Err(_) => Err(DatagramRefusal::TooLarge),
        }
    }

    /// The oldest datagram of the peer that is kept.
    pub fn next_datagram(&mut self) -> Option<Bytes> {
        self.arrived.take()
    }

    /// How many datagrams of the peer nobody took in time.
    pub fn dropped_datagrams(&self) -> u64 {
        self.arrived.dropped()
    }

    /// Takes all datagrams that quiche has: kept there, they weigh.
    pub(super) fn keep_datagrams(&mut self) {
        let mut quiche = self.quiche.act();
        while let Ok(datagram) = quiche.dgram_recv_buf() {
            // The copy is not quiche's, and what was quiche's goes while it is on the scale.
            let copy = weigh::uncounted(|| Bytes::copy_from_slice(&datagram));
            self.arrived.keep(copy);
        }
    }
}
