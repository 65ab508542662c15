//! One stream of a connection with handles: what of it is next to be sent, and when its end goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::pipe::{Pipe, ReceivePhase, SendPhase, ToSend};
use crate::quic::{Conn, StreamError};

/// What is taken of a stream at a time, before another has its turn.
const PIECE_BYTES: usize = 64 << 10;

/// How long the last byte of a stream waits for an end to go with it, where one that goes alone has
/// to wait for all acknowledgements.
const LAST_BYTE_WAITS: Duration = Duration::from_millis(1);

/// How often an end that waits for others' acknowledgements looks how many there were.
const QUIET_LOOKS: Duration = Duration::from_millis(100);

/// What is under way beyond the congestion window, and how far packets overtake each other: quiche
/// holds one for lost that up to 20 later ones overtook.
const OVERTAKING_BYTES: u64 = 64 << 10;

/// Where little is acknowledged, but something is: so many round trips, and not less than so long,
/// after a packet was asked for that is. quiche holds what is older than that one for lost 9/8 of
/// a round trip after it was sent.
const QUIET_ROUND_TRIPS: u32 = 10;
const QUIET_AT_LEAST: Duration = Duration::from_secs(1);

/// One stream.
pub(super) struct RunningStream {
    pub(super) pipe: Arc<Pipe>,
    /// What was taken of it and found no room.
    pub(super) rest: Option<(Bytes, bool)>,
    /// Until when that is kept back, or its end.
    pub(super) waits_until: Option<Instant>,
    /// Since when an end waits for others' acknowledgements, and bytes of these by then.
    pub(super) waits_since: Option<(Instant, u64)>,
    /// What [`Conn::losses`] said before anything was sent.
    pub(super) losses_before: u64,
    /// Shared by all that is not acknowledged.
    pub(super) mark: Arc<()>,
    pub(super) sends: Sends,
    pub(super) urgency: u8,
    pub(super) is_receiving: bool,
    /// Its end is here, and its handle has not come so far.
    pub(super) is_unread: bool,
    /// What comes is dropped, for the handle wants no more: its code, for the peer.
    pub(super) discards: Option<u64>,
    pub(super) is_in_sending: bool,
    pub(super) is_in_readable: bool,
}

/// How far the sending half is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sends {
    /// Next: any other.
    Open,
    /// Its end is to go alone, once what went before is acknowledged. Next: Repeating, Ended, Over.
    Ending,
    /// The transport has its end, which went alone while something before it was under way, and
    /// forgets it where both are lost. Once that is acknowledged the end goes again, alone for
    /// good. Next: Ended, Over.
    Repeating,
    /// The transport has its end. Next: Over.
    Ended,
    Over,
}

impl Sends {
    /// Whether the transport has the end of the stream.
    pub(super) fn has_ended(self) -> bool {
        matches!(self, Sends::Repeating | Sends::Ended)
    }
}

/// What became of a stream's turn to send.
pub(super) enum Fed {
    Bytes(usize),
    /// There is no room for what it has.
    Blocked,
    /// It has nothing.
    Nothing,
}

impl RunningStream {
    /// What is next to be sent. Where an end that goes alone would have to wait, the last byte is
    /// kept back for it.
    pub(super) fn next_piece(&mut self, now: Instant) -> ToSend {
        if let Some((bytes, is_last)) = self.rest.take() {
            let is_kept_back = self.waits_until.is_some_and(|at| at > now);
            let follows = !self.pipe.is_empty() || self.pipe.is_flushed();
            let ends = self.pipe.send_phase() == SendPhase::Finishing && self.pipe.is_empty();
            if is_kept_back && !follows && !ends {
                self.rest = Some((bytes, is_last));
                return ToSend::Nothing;
            }
            self.waits_until = None;
            let is_last = is_last || ends;
            return ToSend::Piece { bytes, is_last };
        }
        let next = self.pipe.next_piece(PIECE_BYTES);
        let ToSend::Piece {
            mut bytes,
            is_last: false,
        } = next
        else {
            return next;
        };
        if self.is_receiving || !self.pipe.is_empty() || self.pipe.is_flushed() {
            return ToSend::Piece {
                bytes,
                is_last: false,
            };
        }
        let last = bytes.split_off(bytes.len() - 1);
        self.rest = Some((last, false));
        self.waits_until = Some(now + LAST_BYTE_WAITS);
        match bytes.is_empty() {
            true => ToSend::Nothing,
            false => ToSend::Piece {
                bytes,
                is_last: false,
            },
        }
    }

    /// The end goes alone once nothing of the stream is under way. Where the peer's direction is
    /// open, quiche keeps the stream anyway, and the end goes at once: the peer waits for it to
    /// answer. It goes again then, after losses: of a lost range and a lost end behind others,
    /// quiche sends the range alone.
    pub(super) fn end_alone(&mut self, conn: &mut Conn, now: Instant) -> Fed {
        let is_under_way = Arc::strong_count(&self.mark) > 1;
        match (self.sends, self.is_receiving) {
            (Sends::Repeating, _) | (_, false) if is_under_way => return Fed::Blocked,
            (Sends::Repeating, _) if !self.has_losses(conn) => {
                self.sends = Sends::Ended;
                return Fed::Nothing;
            }
            (Sends::Repeating, _) | (_, true) => {}
            (_, false) if self.has_losses(conn) && !self.is_quiet(conn, now) => {
                return Fed::Blocked;
            }
            (_, false) => {}
        }
        self.waits_until = None;
        match conn.write(self.pipe.id, (Bytes::new(), true), &self.mark) {
            Ok(_) => {
                self.sends = match is_under_way {
                    true => Sends::Repeating,
                    false => Sends::Ended,
                };
                // Of no byte, but something to be sent.
                Fed::Bytes(1)
            }
            // It has ended otherwise, which the next look at it tells.
            Err(_) if self.sends == Sends::Repeating => {
                self.sends = Sends::Ended;
                Fed::Nothing
            }
            Err(error) => {
                self.failed(error);
                Fed::Nothing
            }
        }
    }

    /// Where something of the stream may have been sent twice, it is to be acknowledged twice, or
    /// lost, before quiche has the end: until nothing at all is under way, or, where something
    /// always is, until so much was acknowledged that it was not all sent before, or something was
    /// that was sent now, long enough ago.
    fn is_quiet(&mut self, conn: &mut Conn, now: Instant) -> bool {
        if conn.is_all_acknowledged(now) {
            return true;
        }
        if self.waits_until.is_some_and(|at| now < at) {
            return false;
        }
        self.waits_until = Some(now + QUIET_LOOKS);
        let acknowledged = conn.acknowledged_bytes();
        let Some((since, before)) = self.waits_since else {
            // There may be no other, and after a long silence nothing tells what is under way.
            conn.keep_alive();
            self.waits_since = Some((now, acknowledged));
            return false;
        };
        let path = conn.snapshot();
        let window = path.cwnd_bytes as u64 + OVERTAKING_BYTES;
        let long = (path.rtt * QUIET_ROUND_TRIPS).max(QUIET_AT_LEAST);
        acknowledged >= before + window || acknowledged > before && now >= since + long
    }

    fn has_losses(&self, conn: &Conn) -> bool {
        conn.losses() != self.losses_before
    }

    /// How a stream ended that quiche has nothing to read of, and says nothing of: the end came
    /// once more with bytes that were read before, or a reset behind an end. Which one it does not
    /// say either, but that there was no reset.
    pub(super) fn cut(&self, conn: &Conn) -> Option<ReceivePhase> {
        let is_cut = self.is_receiving && conn.is_cut(self.pipe.id);
        is_cut.then(|| match conn.has_had_resets() {
            true => ReceivePhase::Lost,
            false => ReceivePhase::Ended,
        })
    }

    /// What found no room is first the next time.
    pub(super) fn put_back(&mut self, rest: Bytes, is_last: bool) {
        self.waits_until = None;
        self.rest = Some(match self.rest.take() {
            Some((kept_back, _)) => {
                let both = [&rest[..], &kept_back[..]].concat();
                (Bytes::from(both), is_last)
            }
            None => (rest, is_last),
        });
    }

    /// Nothing more is received. Gives 1 if something is still to be read out, else 0.
    pub(super) fn end_receiving(&mut self, phase: ReceivePhase) -> usize {
        self.is_receiving = false;
        self.pipe.end_receiving(phase);
        self.is_unread = !self.pipe.is_read_out();
        usize::from(self.is_unread)
    }

    /// Nothing more is sent.
    pub(super) fn stop_sending(&mut self) {
        self.sends = Sends::Over;
        self.rest = None;
        self.waits_until = None;
    }

    pub(super) fn failed(&mut self, error: StreamError) {
        self.stop_sending();
        self.pipe.end_sending(match error {
            StreamError::Stopped(code) => SendPhase::Stopped(code),
            StreamError::Reset(_) | StreamError::Unknown | StreamError::Quiche(_) => {
                SendPhase::Lost
            }
        });
    }
}
