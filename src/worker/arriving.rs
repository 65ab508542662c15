//! Connections that wait at a TCP listener: taken in within bounds, or not at all.

use landro_sys::TcpId;

use super::Worker;
use super::listeners::AtDoor;
use super::log::Who;
use crate::metrics::Refusal;
use crate::tcp::TcpSetup;

/// Connections accepted at once before others get their turn.
const ACCEPTS_PER_TURN: usize = 64;

impl Worker {
    /// A TCP socket is ready. False: it is no listener.
    pub(super) fn arrive(&mut self, id: TcpId) -> bool {
        let Some((door, setup)) = self.listeners.door(id) else {
            return false;
        };
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listeners.accept(&mut self.io, door) {
                Ok(Some(arrived)) => self.let_in(&setup, arrived),
                Ok(None) => return true,
                Err(error) => {
                    if self.io.log.admits(Who::Strangers, self.io.now) {
                        tracing::warn!(%error, "TCP connections have to wait: none can be accepted now");
                    }
                    return true;
                }
            }
        }
        self.listeners.leave(&mut self.io, door);
        true
    }

    /// A stranger begins a handshake, and another one's ends where there are too many.
    fn let_in(&mut self, setup: &TcpSetup, arrived: AtDoor) {
        let (stream, peer) = arrived;
        let descriptors = &self.io.shared.descriptors;
        let is_short =
            descriptors.are_strangers_too_many() || !descriptors.may_keep(stream.number());
        // What a handshake holds of an address is one host's, who really is there.
        let oldest = match self.connections.oldest_of_too_many(peer) {
            None if is_short => self.connections.oldest_stream_of_the_crowd(&mut self.io),
            oldest => oldest,
        };
        if is_short && oldest.is_none() {
            let here = self.io.count_refusal(Refusal::Descriptors);
            if here.is_power_of_two() && self.io.log.admits(Who::Strangers, self.io.now) {
                let count = self.io.refusals(Refusal::Descriptors);
                tracing::warn!(
                    %peer,
                    count,
                    "connection refused: files need the descriptors that are left (ulimit -n)"
                );
            }
            return;
        }
        let accepted = self
            .connections
            .accept_stream(&mut self.io, setup, (stream, peer));
        if let Some(oldest) = oldest.filter(|_| accepted) {
            self.displace(oldest);
        }
    }
}
