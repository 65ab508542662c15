//! What happens to a connection, for whoever wants to hear of it: the last of it is kept, and each
//! listener has a place of its own in it.

use std::collections::VecDeque;

use crate::quic::StreamDirection;

/// Events that are kept for listeners that have not come so far. They are rare; who is further
/// behind than that is told how many it missed.
const EVENTS_MAX: usize = 64;

/// What happened to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// The path carries packets of another size than before: the largest datagram that fits one has
    /// so many bytes now.
    DatagramSize {
        /// As `Connection::most_datagram_bytes` says.
        most_bytes: usize,
    },
    /// Somebody waits to open a stream of this direction, and as many are open as the peer allows.
    StreamsExhausted(StreamDirection),
    /// After that: the peer allowed another one, and somebody who waited has it.
    StreamsAvailable(StreamDirection),
    /// So many datagrams of either direction were dropped here for newer ones, since this was last
    /// said.
    DatagramsDropped {
        /// How many.
        count: u64,
    },
    /// So many packets were sealed or opened with the keys of this connection that another one
    /// should take its place: it ends when they are `key_packet_limit` of the configuration. Said
    /// once.
    KeyNearlySpent,
    /// The listener was so far behind that the oldest events it had not taken are gone.
    Missed {
        /// How many.
        count: u64,
    },
}

/// The last events of a connection.
#[derive(Default)]
pub(super) struct EventLog {
    kept: VecDeque<ConnectionEvent>,
    /// How many went before those.
    gone: u64,
}

impl EventLog {
    pub(super) fn push(&mut self, event: ConnectionEvent) {
        if self.kept.len() >= EVENTS_MAX {
            self.kept.pop_front();
            self.gone += 1;
        }
        self.kept.push_back(event);
    }

    /// The place behind all that happened so far.
    pub(super) fn end(&self) -> u64 {
        self.gone + self.kept.len() as u64
    }

    /// What stands at a place, which is the one behind it then.
    pub(super) fn take(&self, place: &mut u64) -> Option<ConnectionEvent> {
        if *place < self.gone {
            let count = self.gone - *place;
            *place = self.gone;
            return Some(ConnectionEvent::Missed { count });
        }
        let event = self.kept.get((*place - self.gone) as usize).copied();
        *place += u64::from(event.is_some());
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_listener_hears_of_all_or_of_how_many_it_missed() {
        let mut log = EventLog::default();
        let dropped = |count| ConnectionEvent::DatagramsDropped { count };
        let (mut early, mut late) = (log.end(), log.end());
        log.push(dropped(0));
        assert_eq!(log.take(&mut early), Some(dropped(0)));
        assert_eq!(log.take(&mut early), None);
        for count in 1..=EVENTS_MAX as u64 + 1 {
            log.push(dropped(count));
        }
        let missed = |count| Some(ConnectionEvent::Missed { count });
        assert_eq!(log.take(&mut early), missed(1));
        assert_eq!(log.take(&mut late), missed(2));
        assert_eq!(log.take(&mut late), Some(dropped(2)));
        let rest = std::iter::from_fn(|| log.take(&mut early)).count();
        assert_eq!(rest, EVENTS_MAX);
        assert_eq!(log.take(&mut log.end()), None);
    }
}
