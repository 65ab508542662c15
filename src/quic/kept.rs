//! What is kept for an application's connection beside what a transfer's has: datagrams that nobody
//! took yet, and places of streams.

use std::collections::VecDeque;

use bytes::Bytes;

/// Streams that were stopped here and whose places quiche holds: it forgets one only with something
/// that is read or acknowledged, and of these nothing is any more, as a rule. A peer is let have so
/// many streams more; whoever stops more than that reads what comes, and drops it.
pub const STOPPED_MAX: u64 = 64;

/// Datagrams of the peer that are kept until the worker takes them in its next turn: those of one
/// batch of packets. Older ones are dropped for newer ones.
const DATAGRAMS_KEPT: usize = 64;

/// Datagrams of the peer that nobody took yet.
#[derive(Default)]
pub(super) struct KeptDatagrams {
    kept: VecDeque<Bytes>,
    dropped: u64,
}

impl KeptDatagrams {
    pub fn keep(&mut self, datagram: Bytes) {
        if self.kept.len() >= DATAGRAMS_KEPT {
            self.kept.pop_front();
            self.dropped += 1;
        }
        self.kept.push_back(datagram);
    }

    /// The oldest.
    pub fn take(&mut self) -> Option<Bytes> {
        self.kept.pop_front()
    }

    /// How many nobody took in time.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}
