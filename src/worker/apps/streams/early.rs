//! Connections whose handles are there before their handshake is complete.

use std::sync::Arc;

use crate::budget::MIN_WINDOW_BYTES;
use crate::quic::{Alpn, EARLY_BYTES_MAX};
use crate::worker::Worker;
use crate::worker::connections::app::{App, Handshake};
use crate::worker::handles::StreamsApp;

// The window of a connection may be another one than that which the ticket names, but not less.
const _: () = assert!(EARLY_BYTES_MAX as u64 <= MIN_WINDOW_BYTES);

impl Worker {
    /// Where the session that is resumed names a peer that we trust, data travels from now on.
    pub(crate) fn begins_early(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let Some(conn) = connection.conn.quic() else {
            return;
        };
        if !conn.is_early() || conn.alpn() != Alpn::Streams {
            return;
        }
        let Some(peer) = conn.early_peer() else {
            return;
        };
        match &connection.app {
            App::Undecided(Handshake::Connecting { dial }) => {
                let dial = *dial;
                self.connected(key, dial, peer);
            }
            App::Undecided(Handshake::Accepted { early: None, .. }) => {
                // The session may be one of a peer that may transfer files alone.
                let programs = self.io.shared.programs.as_ref();
                let programs = programs.filter(|programs| (programs.trust)(&peer));
                let Some(incoming) = programs.map(|programs| Arc::clone(&programs.incoming)) else {
                    return;
                };
                // Where nobody else may wait to be accepted, whoever is no recording asks again
                // when its handshake is complete. A handle that is made and dropped wants a turn,
                // so that it is looked at first.
                if !incoming.has_room() {
                    return;
                }
                let Some((hold, app)) = self.attach(key, peer) else {
                    return;
                };
                if incoming.leave(hold).is_err() {
                    return;
                }
                let connection = self.connections.get_mut(key);
                if let Some(App::Undecided(Handshake::Accepted { early, .. })) =
                    connection.map(|connection| &mut connection.app)
                {
                    *early = Some(app);
                }
            }
            // Its handles are there.
            App::Undecided(Handshake::Accepted { .. } | Handshake::Dialled(_))
            | App::Transfer(_)
            | App::Streams(_) => {}
        }
    }

    /// What runs on one that began early and is authorised now.
    pub(super) fn take_early(&mut self, key: usize) -> Option<Box<StreamsApp>> {
        match &mut self.connections.get_mut(key)?.app {
            App::Undecided(Handshake::Accepted { early, .. }) => early.take(),
            App::Undecided(Handshake::Dialled(_) | Handshake::Connecting { .. })
            | App::Transfer(_)
            | App::Streams(_) => None,
        }
    }
}
