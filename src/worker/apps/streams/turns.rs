//! The turns of a connection with handles.

use crate::quic::Conn;
use crate::worker::Worker;
use crate::worker::connections::connection::WorkerConnection;
use crate::worker::handles::StreamsApp;
use crate::worker::limits::LINGER;

/// A connection with handles, if this is one.
fn with_handles(connection: &mut WorkerConnection) -> Option<(&mut Conn, &mut StreamsApp)> {
    Some((connection.conn.quic_mut()?, connection.app.streams_mut()?))
}

impl Worker {
    /// Connections whose handles want a turn have one.
    pub(crate) fn take_wanted_turns(&mut self) {
        let Some(mailbox) = self.io.shared.mailboxes.get(self.io.id.0 as usize) else {
            return;
        };
        let wanted = mailbox.turns.take();
        for (key, serial) in wanted {
            let found = self.connections.get(key);
            if found.is_some_and(|connection| connection.serial == serial) {
                self.connections.touch(key);
            }
        }
    }

    pub(crate) fn has_wanted_turns(&self) -> bool {
        let mailbox = self.io.shared.mailboxes.get(self.io.id.0 as usize);
        mailbox.is_some_and(|mailbox| !mailbox.turns.is_empty() || !mailbox.connects.is_empty())
    }

    /// Takes what handles left and leaves what arrived. True: there is more than one turn allows.
    pub(crate) fn read_streams(&mut self, key: usize) -> bool {
        let found = self.connections.get_mut(key).and_then(with_handles);
        let Some((conn, app)) = found else {
            return false;
        };
        let close = app.take_wishes(conn);
        let has_more = app.read(conn, &mut self.read_buffers);
        if let Some((code, reason)) = close {
            self.connections.close(&self.io, key, code, &reason);
        }
        has_more
    }

    pub(crate) fn feed_streams(&mut self, key: usize) -> usize {
        let now = self.io.now;
        let found = self.connections.get_mut(key).and_then(with_handles);
        found.map_or(0, |(conn, app)| app.feed(conn, now))
    }

    pub(crate) fn settle_streams(&mut self, key: usize) {
        let now = self.io.now;
        let found = self.connections.get_mut(key).and_then(with_handles);
        if let Some((conn, app)) = found {
            app.settle(conn, now);
        }
    }

    /// The connection is closing: handles are told at once, not when QUIC has drained.
    pub(crate) fn streams_close(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.last_stats();
        let Some(reason) = connection.close_reason() else {
            return;
        };
        connection.deadline.get_or_insert(self.io.now + LINGER);
        if let Some((conn, app)) = with_handles(connection) {
            if conn.snapshot().sent_bytes > 0 {
                app.measure(conn);
            }
            app.end(reason);
        }
    }
}
