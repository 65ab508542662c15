//! The streams we send in, and when to look for one that stands in the way of the others.
//!
//! quiche sends nothing while the first stream in its order has nothing to emit. One is left there
//! when what it was to send again is acknowledged after all (a loss that was none: the peer was
//! busy). Such a stream is *stuck*: after a silence each stream that is not delivered is put behind
//! all others in turn, the first of quiche's order first, until there is a packet. The last one put
//! there was the stuck one, and it stays there until something is written to it, when it has
//! something to emit again. All others get the place back that their urgency gives them.

use std::time::{Duration, Instant};

use super::held::Held;

/// Urgency of bidirectional streams: control messages overtake data. Lower goes first.
const CONTROL_URGENCY: u8 = 0;

/// Urgency of unidirectional streams, and of an application's until it says otherwise (RFC 9218
/// §4.1).
pub const DATA_URGENCY: u8 = 3;

/// How many urgencies a stream may be given (RFC 9218 §4.1): 0 to 7. quiche knows 256, and those
/// beyond these are behind all streams that are not stuck.
pub const URGENCIES: u8 = 8;

/// Streams sent in after which those that are over are forgotten: some more than are ever under
/// way.
const MANY_STREAMS: usize = 64;

/// Silence after which to look for a stuck stream; doubled each time there was none, up to
/// [`STUCK_CHECK_MAX`]. It begins anew with what is written or sent again, not with keep-alives: an
/// idle connection would be woken eight times for each.
const STUCK_CHECK: Duration = Duration::from_millis(20);
const STUCK_CHECK_MAX: Duration = Duration::from_secs(5);

/// A stream that is not known to be delivered.
#[derive(Clone, Copy)]
pub(super) struct Placed {
    pub stream: u64,
    /// What it is to have.
    urgency: u8,
    /// What quiche was told: another one while it is behind all others.
    place: u8,
}

/// Streams of a connection, as far as it sends in them.
pub(super) struct Outgoing {
    /// Those not known to be delivered.
    streams: Vec<Placed>,
    /// When to look for a stuck stream, and how long after the last look that is. None: nothing was
    /// sent yet.
    check_at: Option<Instant>,
    check_after: Duration,
    /// Something was written since the last look, and how many frames quiche had to send again
    /// until then.
    wrote: bool,
    sent_again: usize,
    /// Urgency of the stream that was last put behind all others.
    last_place: u8,
    /// How many are there.
    behind: usize,
}

/// Whether a stream goes both ways (RFC 9000 §2.1): here those carry control messages.
pub(super) fn is_control(stream: u64) -> bool {
    stream & 2 == 0
}

impl Placed {
    fn is_behind(&self) -> bool {
        self.place >= URGENCIES
    }

    fn put(&mut self, quiche: &mut Held, place: u8) {
        self.place = place;
        // One that is over needs no place.
        let _ = quiche.act().stream_priority(self.stream, place, false);
    }
}

impl Outgoing {
    pub fn new() -> Outgoing {
        Outgoing {
            streams: Vec::new(),
            check_at: None,
            check_after: STUCK_CHECK,
            wrote: false,
            sent_again: 0,
            last_place: URGENCIES - 1,
            behind: 0,
        }
    }

    /// Gives a stream its place among the others. False: it cannot be opened.
    pub fn prioritise(quiche: &mut Held, stream: u64) -> bool {
        let urgency = match is_control(stream) {
            true => CONTROL_URGENCY,
            false => DATA_URGENCY,
        };
        quiche.act().stream_priority(stream, urgency, false).is_ok()
    }

    /// A data stream was opened, and given its place.
    pub fn data_opened(&mut self, quiche: &mut Held, stream: u64) {
        if self.streams.len() >= MANY_STREAMS {
            self.forget_delivered(quiche);
        }
        self.streams.push(Placed {
            stream,
            urgency: DATA_URGENCY,
            place: DATA_URGENCY,
        });
    }

    /// A control stream is sent in, which the peer may have opened.
    pub fn control_used(&mut self, quiche: &mut Held, stream: u64) {
        if self.find(stream).is_none() {
            // A stream the peer opened has quiche's default priority until now.
            Outgoing::prioritise(quiche, stream);
            let control = Placed {
                stream,
                urgency: CONTROL_URGENCY,
                place: CONTROL_URGENCY,
            };
            self.streams.insert(0, control);
        }
    }

    fn find(&mut self, stream: u64) -> Option<&mut Placed> {
        self.streams
            .iter_mut()
            .find(|placed| placed.stream == stream)
    }

    /// Gives a stream another place among the others; one that is over needs none.
    pub fn set_urgency(&mut self, quiche: &mut Held, stream: u64, urgency: u8) {
        let Some(placed) = self.find(stream) else {
            return;
        };
        placed.urgency = urgency;
        if !placed.is_behind() {
            placed.put(quiche, urgency);
        }
    }

    pub fn control(&self) -> Option<u64> {
        self.undelivered().find(|stream| is_control(*stream))
    }

    pub fn undelivered(&self) -> impl Iterator<Item = u64> {
        self.streams.iter().map(|placed| placed.stream)
    }

    pub fn forget_delivered(&mut self, quiche: &mut Held) {
        self.streams
            .retain(|placed| quiche.act().stream_capacity(placed.stream).is_ok());
        self.behind = self.streams.iter().filter(|it| it.is_behind()).count();
    }

    /// When to look for a stuck stream.
    pub fn check_at(&self) -> Option<Instant> {
        self.check_at.filter(|_| !self.streams.is_empty())
    }

    /// Bytes went into a stream: it has something to emit, and gets its place back.
    pub fn wrote(&mut self, quiche: &mut Held, stream: u64) {
        self.wrote = true;
        if self.behind == 0 {
            return;
        }
        if let Some(placed) = self.find(stream).filter(|placed| placed.is_behind()) {
            let urgency = placed.urgency;
            placed.put(quiche, urgency);
            self.behind -= 1;
        }
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

    /// Those that may be stuck, in quiche's order.
    pub fn suspects(&mut self, quiche: &mut Held) -> Vec<Placed> {
        self.forget_delivered(quiche);
        let mut suspects = self.streams.clone();
        suspects.sort_by_key(|placed| (placed.place, placed.stream));
        suspects
    }

    /// Puts a stream behind all others.
    pub fn put_last(&mut self, quiche: &mut Held, stream: u64) {
        self.last_place = self.last_place.checked_add(1).unwrap_or(URGENCIES);
        let place = self.last_place;
        if let Some(placed) = self.find(stream) {
            placed.put(quiche, place);
        }
    }

    /// A stream was stuck. Those that were put behind all others before it get their places back;
    /// one of them that is stuck, too, is found by the next look.
    pub fn unstuck(&mut self, quiche: &mut Held, before: &[Placed]) {
        self.restore(quiche, before);
        self.check_after = STUCK_CHECK;
    }

    /// Those that were behind all others before the look stay there.
    fn restore(&mut self, quiche: &mut Held, moved: &[Placed]) {
        for was in moved.iter().filter(|was| !was.is_behind()) {
            if let Some(placed) = self.find(was.stream) {
                placed.put(quiche, was.urgency);
            }
        }
        self.behind = self.streams.iter().filter(|it| it.is_behind()).count();
    }

    /// None was stuck: all that were moved get their places back, and it is looked again after
    /// twice the time.
    pub fn none_stuck(&mut self, now: Instant, quiche: &mut Held, moved: &[Placed]) {
        self.restore(quiche, moved);
        self.wrote = false;
        self.sent_again = quiche.stats().retrans;
        self.check_at = Some(now + self.check_after);
        self.check_after = (self.check_after * 2).min(STUCK_CHECK_MAX);
    }
}
