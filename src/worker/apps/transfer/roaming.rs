//! A command's host moves to another network: its socket follows the way to the peer.
//!
//! The kernel says so where a send fails: its address is nobody's any more, or there is no route.
//! Where an interface keeps its address and the route is another one now, packets leave and nothing
//! comes back; so a silence is a reason to look, too. What is in flight stays with its connection:
//! the daemon takes the new address once the connection has proven it (`quic/whereabouts.rs`).
//! TCP has one address for life: such a lane is lost, at once.

use crate::worker::Worker;
use crate::worker::log::Who;

impl Worker {
    /// Looks how the kernel would reach the peer of a connection that we dialled, and has the
    /// connection's socket follow where that is another way.
    pub(crate) fn follow_route(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.looked_at = self.io.now;
        if !connection.app.is_of_transfer() {
            // Its socket is that of many.
            return;
        }
        if connection.conn.is_server() || connection.conn.is_closing() {
            return;
        }
        let (peer, route) = (connection.peer, connection.route());
        let bind = connection.bind.clone();
        let is_silent = connection.is_silent(self.io.now);
        if let Some(link) = connection.conn.tcp_mut() {
            // It cannot move, and no answer finds its way back to where it is from. One that is
            // answered may be as it is, whatever way others would take now.
            if is_silent
                && let Ok(route) = route
                && !link.is_from(&self.io.driver, route.local)
            {
                let why = "this host reaches the peer from another address now";
                link.give_up(self.io.now, why);
                self.connections.touch(key);
            }
            return;
        }
        let Some(socket) = connection.conn.socket() else {
            return;
        };
        let Some(index) = self.listeners.find(socket) else {
            return;
        };
        let bind = bind.as_ref().map(|(_, bind)| bind);
        let listener = self.listeners.get_mut(index);
        let followed = match (route, listener) {
            (Ok(route), Some(listener)) if route.local == listener.local.ip() => Ok(()),
            (Ok(_), Some(listener)) => {
                self.io
                    .driver
                    .socket(socket)
                    .reconnect(peer, bind)
                    .map(|local| {
                        listener.local = local;
                    })
            }
            (Err(error), _) => Err(error),
            (Ok(_), None) => return,
        };
        let followed = followed.map_err(|error| error.to_string());
        for lane in self.connections.keys_of_socket(socket) {
            self.tell_way(lane, index, &followed);
        }
    }

    fn tell_way(&mut self, key: usize, listener: usize, followed: &Result<(), String>) {
        let now = self.io.now;
        let local = self.listeners.get(listener).map(|listener| listener.local);
        let (Some(connection), Some(local)) = (self.connections.get_mut(key), local) else {
            return;
        };
        let Some(conn) = connection.conn.quic_mut() else {
            return;
        };
        match followed {
            Ok(()) => {
                let was_cut_off = connection.cut_off.take().is_some();
                if conn.local() != local || was_cut_off {
                    if self.io.log.admits(Who::Debug, now) {
                        tracing::debug!(peer = %connection.peer, %local, "there is a new way to the peer");
                    }
                    conn.move_to(local);
                    conn.release_timers();
                    connection.ping(now);
                }
            }
            Err(why) => {
                if connection.cut_off.is_none() && self.io.log.admits(Who::Debug, now) {
                    tracing::debug!(peer = %connection.peer, why, "there is no way to the peer");
                }
                connection.cut_off = Some(why.clone());
                // A handshake looks only where its own repeats fail.
                if connection.app.session().is_some() {
                    let until = connection.heard + self.io.shared.quic.idle_timeout;
                    conn.hold_timers(until);
                }
            }
        }
        self.connections.touch(key);
    }
}
