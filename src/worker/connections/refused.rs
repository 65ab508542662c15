//! What ICMP says of peers: it raises doubts, and reviews end them.

use std::io;

use landro_sys::SocketId;

use super::Connections;
use super::doubt::{Doubt, DoubtStep, HANDSHAKE_ROUNDS, ROUNDS, known_rtt};
use crate::proto::lanes::code;
use crate::worker::event_loop::Loop;
use crate::worker::log::Who;

impl Connections {
    /// ICMP said something about what is sent from a socket; only those of a command are connected
    /// to one peer.
    pub(crate) fn refused(&mut self, io: &mut Loop, socket: SocketId, error: &io::Error) {
        let keys = self
            .iter()
            .filter(|(_, found)| found.conn.socket() == Some(socket) && !found.conn.is_closing())
            .map(|(key, _)| key);
        for key in keys.collect::<Vec<_>>() {
            if let Some(connection) = self.get_mut(key)
                && connection.doubt.is_none()
            {
                if io.log.admits(Who::Debug, io.now) {
                    tracing::debug!(peer = %connection.peer, %error, "ICMP says that the peer is not there; asking it");
                }
                let rounds = match connection.app.is_undecided() {
                    true => HANDSHAKE_ROUNDS,
                    false => ROUNDS,
                };
                connection.doubt = Some(Doubt::new(io.now, in_words(error), rounds));
                self.touch(key);
            }
        }
    }

    /// A send took the news that the receive did not get.
    pub(super) fn send_refused(&mut self, io: &mut Loop, serial: u64, error: &io::Error) {
        let found = self.find(serial).and_then(|key| self.get(key));
        if let Some(socket) = found.and_then(|connection| connection.conn.socket()) {
            self.refused(io, socket, error);
        }
    }

    /// Looks at what is doubted of one if that is due.
    pub(crate) fn review_doubt(&mut self, io: &mut Loop, key: usize) {
        let Some(connection) = self.get_mut(key) else {
            return;
        };
        let doubt = connection.doubt.as_mut();
        let Some(doubt) = doubt.filter(|doubt| doubt.until() <= io.now) else {
            return;
        };
        let path = connection.conn.snapshot();
        match doubt.due(io.now, path.received_packets, known_rtt(&path)) {
            DoubtStep::Ask => connection.conn.keep_alive(),
            DoubtStep::Alive => {
                if io.log.admits(Who::Debug, io.now) {
                    tracing::debug!(peer = %connection.peer, "the peer is there, whatever ICMP says");
                }
                connection.doubt = None;
            }
            DoubtStep::Gone(why) => {
                connection.last_stats();
                connection.conn.give_up(io.now, code::TIMEOUT, &why);
            }
        }
    }
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nobody listens on the peer's UDP port".to_owned(),
        _ => format!("the peer's host or a firewall rejects what is sent there (ICMP: {error})"),
    }
}
