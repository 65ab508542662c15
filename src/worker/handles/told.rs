//! What the listeners of a connection were told, so that each thing is told once.

use super::attached::Attached;
use super::events::ConnectionEvent;
use crate::quic::{Conn, StreamDirection};

#[derive(Default)]
pub(super) struct ToldEvents {
    /// Directions in which somebody waited in vain for a stream of ours.
    exhausted: Vec<StreamDirection>,
    /// How many datagrams were dropped, and whether more were meanwhile: they are dropped by the
    /// thousand, and told of with the statistics.
    dropped: u64,
    has_more: bool,
    /// That the key is nearly spent.
    is_worn: bool,
}

impl ToldEvents {
    /// Those who want streams were given what the peer allows. Whether that were any: what the peer
    /// allowed may be used up again.
    pub(super) fn note_credit(
        &mut self,
        attached: &Attached,
        direction: StreamDirection,
        is_opened: bool,
    ) {
        if is_opened && self.exhausted.contains(&direction) {
            self.exhausted.retain(|other| *other != direction);
            attached.happened(ConnectionEvent::StreamsAvailable(direction));
        }
        if attached.wants_stream(direction) && !self.exhausted.contains(&direction) {
            self.exhausted.push(direction);
            attached.happened(ConnectionEvent::StreamsExhausted(direction));
        }
    }

    fn dropped(attached: &Attached, conn: &Conn) -> u64 {
        attached.dropped_datagrams() + conn.dropped_datagrams()
    }

    /// After a turn: whether there is something that was not told.
    pub(super) fn look(&mut self, attached: &Attached, conn: &Conn) {
        self.has_more = ToldEvents::dropped(attached, conn) != self.dropped;
    }

    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Tells what came to light since the last time.
    pub(super) fn tell(&mut self, attached: &Attached, conn: &Conn) {
        let dropped = ToldEvents::dropped(attached, conn);
        let count = dropped - std::mem::replace(&mut self.dropped, dropped);
        if count > 0 {
            attached.happened(ConnectionEvent::DatagramsDropped { count });
        }
        if conn.is_worn() && !std::mem::replace(&mut self.is_worn, true) {
            attached.happened(ConnectionEvent::KeyNearlySpent);
        }
    }
}
