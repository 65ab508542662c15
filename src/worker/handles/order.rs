//! Whose turn it is to send: of the streams of a connection those of lower urgency first, and of
//! the same one after the other.

use std::collections::VecDeque;

use crate::quic::URGENCIES;

/// Streams with something to send.
#[derive(Default)]
pub(super) struct SendOrder([VecDeque<u64>; URGENCIES as usize]);

impl SendOrder {
    pub(super) fn push(&mut self, stream: u64, urgency: u8) {
        self.of(urgency).push_back(stream);
    }

    /// Those of one urgency, in the order of their turns.
    pub(super) fn of(&mut self, urgency: u8) -> &mut VecDeque<u64> {
        &mut self.0[usize::from(urgency.min(URGENCIES - 1))]
    }

    /// One has another urgency now.
    pub(super) fn transfer(&mut self, stream: u64, from: u8, to: u8) {
        self.of(from).retain(|other| *other != stream);
        self.push(stream, to);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &u64> {
        self.0.iter().flatten()
    }

    pub(super) fn clear(&mut self) {
        self.0.iter_mut().for_each(VecDeque::clear);
    }
}
