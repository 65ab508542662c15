//! The streams we send in, and when to look for one that stands in the way of the others.
//!
//! quiche sends nothing while the first stream in its order has nothing to emit. One is left there
//! when what it was to send again is acknowledged after all (a loss that was none: the peer was
//! busy). Such a stream is *stuck*: after a silence each stream that is not delivered is put behind
//! all others in turn, until there is a packet.

use std::time::{Duration, Instant};

use super::held::Held;

/// Urgency of bidirectional streams: control messages overtake data. Lower goes first.
const CONTROL_URGENCY: u8 = 0;

/// Urgency of unidirectional streams.
const DATA_URGENCY: u8 = 3;

/// Streams sent in after which those that are over are forgotten: some more than are ever under
/// way.
const MANY_STREAMS: usize = 64;

/// Silence after which to look for a stuck stream; doubled each time there was none, up to
/// [`STUCK_CHECK_MAX`]. It begins anew with what is written or sent again, not with keep-alives: an
/// idle connection would be woken eight times for each.
const STUCK_CHECK: Duration = Duration::from_millis(20);
const STUCK_CHECK_MAX: Duration = Duration::from_secs(5);

/// Streams of a connection, as far as it sends in them.
pub(super) struct Outgoing {
    /// Those not known to be delivered.
    streams: Vec<u64>,
    /// When to look for a stuck stream, and how long after the last look that is. None: nothing was
    /// sent yet.
    check_at: Option<Instant>,
    check_after: Duration,
    /// Something was written since the last look, and how many frames quiche had to send again
    /// until then.
    wrote: bool,
    sent_again: usize,
    /// Urgency of the stream that was last put behind all others.
    last_urgency: u8,
}

/// Whether a stream goes both ways (RFC 9000 §2.1): here those carry control messages.
pub(super) fn is_control(stream: u64) -> bool {
    stream & 2 == 0
}

impl Outgoing {
    pub fn new() -> Outgoing {
        Outgoing {
            streams: Vec::new(),
            check_at: None,
            check_after: STUCK_CHECK,
            wrote: false,
            sent_again: 0,
            last_urgency: DATA_URGENCY,
        }
    }

    /// Gives a stream its place among the others. False: it cannot be opened.
    pub fn prioritise(quiche: &mut Held, stream: u64) -> bool {
        let urgency = if is_control(stream) {
            CONTROL_URGENCY
        } else {
            DATA_URGENCY
        };
        quiche.act().stream_priority(stream, urgency, false).is_ok()
    }

    /// A data stream was opened.
    pub fn data_opened(&mut self, quiche: &mut Held, stream: u64) {
        if self.streams.len() >= MANY_STREAMS {
            self.forget_delivered(quiche);
        }
        self.streams.push(stream);
    }

    /// A control stream is sent in, which the peer may have opened.
    pub fn control_used(&mut self, stream: u64) {
        if !self.streams.contains(&stream) {
            self.streams.insert(0, stream);
        }
    }

    pub fn control(&self) -> Option<u64> {
        self.streams
            .iter()
            .find(|stream| is_control(**stream))
            .copied()
    }

    pub fn undelivered(&self) -> Vec<u64> {
        self.streams.clone()
    }

    pub fn forget_delivered(&mut self, quiche: &mut Held) {
        self.streams
            .retain(|stream| quiche.act().stream_capacity(*stream).is_ok());
    }

    /// When to look for a stuck stream.
    pub fn check_at(&self) -> Option<Instant> {
        self.check_at.filter(|_| !self.streams.is_empty())
    }

    /// Bytes went into a stream.
    pub fn wrote(&mut self) {
        self.wrote = true;
    }

    /// There was a packet to send.
    pub fn sent(&mut self, now: Instant) {
        self.check_at = Some(now + self.check_after);
    }

    /// Looks soon again once there is something that can get stuck.
    pub fn expect_stuck(&mut self, now: Instant, quiche: &Held) {
        // While it looks often anyway there is nothing to ask quiche for.
        if self.check_after == STUCK_CHECK {
            return;
        }
        if self.wrote || quiche.stats().retrans != self.sent_again {
            self.check_after = STUCK_CHECK;
            self.check_at = Some(now + STUCK_CHECK);
        }
    }

    /// Puts a stream behind all others.
    pub fn put_last(&mut self, quiche: &mut Held, stream: u64) {
        self.last_urgency = self.last_urgency.checked_add(1).unwrap_or(DATA_URGENCY + 1);
        let _ = quiche
            .act()
            .stream_priority(stream, self.last_urgency, false);
    }

    /// A stream was stuck and is not any more.
    pub fn unstuck(&mut self) {
        self.check_after = STUCK_CHECK;
    }

    /// None was stuck: it is looked again after twice the time.
    pub fn none_stuck(&mut self, now: Instant, quiche: &Held) {
        self.wrote = false;
        self.sent_again = quiche.stats().retrans;
        self.check_at = Some(now + self.check_after);
        self.check_after = (self.check_after * 2).min(STUCK_CHECK_MAX);
    }
}
