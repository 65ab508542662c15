//! Connections that wait at a TCP listener: taken in within bounds, or not at all.

use landro_sys::TcpId;

use super::Worker;
use super::log::Who;

impl Worker {
    /// A TCP socket is ready. False: it is no listener.
    pub(super) fn arrive(&mut self, id: TcpId) -> bool {
        let Some(arrived) = self.listeners.accept(&mut self.io, id) else {
            return false;
        };
        for (stream, peer) in arrived.streams {
            // What a handshake holds of an address is one host's, who really is there.
            let oldest = self.connections.oldest_of_too_many(peer);
            let accepted =
                self.connections
                    .accept_stream(&mut self.io, &arrived.setup, (stream, peer));
            if let Some(oldest) = oldest.filter(|_| accepted) {
                self.drop_connection(oldest);
            }
        }
        if let Some(error) = arrived.error
            && self.io.log.admits(Who::Strangers, self.io.now)
        {
            tracing::warn!(%error, "TCP connections have to wait: none can be accepted now");
        }
        true
    }
}
