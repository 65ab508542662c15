//! The streams of a connection: opened, written by reference, read, ended.

use bytes::Bytes;

use super::conn::Conn;
use super::held::Given;
use super::outgoing::{Outgoing, is_control};
use super::reason::StreamError;

impl Conn {
    /// Opens a bidirectional stream, before all others in priority. `None`: not established, or as
    /// many are open as the peer allows.
    #[cfg(test)]
    pub fn open_bidi(&mut self) -> Option<u64> {
        let stream = self.next_bidi * 4 + u64::from(self.quiche.is_server());
        if !self.is_established() || self.quiche.peer_streams_left_bidi() == 0 {
            return None;
        }
        if !Outgoing::prioritise(&mut self.quiche, stream) {
            return None;
        }
        self.next_bidi += 1;
        Some(stream)
    }

    /// Opens a unidirectional stream for data, sent in the order of opening. `None`: not
    /// established, or as many are open as the peer allows; it allows more as old ones end.
    pub fn open_uni(&mut self) -> Option<u64> {
        let stream = self.next_uni * 4 + 2 + u64::from(self.quiche.is_server());
        let is_open = self.is_established() && self.may_open();
        if !is_open || self.quiche.peer_streams_left_uni() == 0 {
            return None;
        }
        if !Outgoing::prioritise(&mut self.quiche, stream) {
            return None;
        }
        self.next_uni += 1;
        self.sending.outgoing.data_opened(&mut self.quiche, stream);
        Some(stream)
    }

    /// Bytes that [`Conn::send`] would take now.
    ///
    /// # Errors
    /// The peer stopped the stream, or it is finished.
    #[cfg(test)]
    pub fn capacity(&mut self, stream: u64) -> Result<usize, StreamError> {
        Ok(self.quiche.act().stream_capacity(stream)?)
    }

    /// Queues data by reference, `fin` after its last byte. Takes what flow and congestion control
    /// allow and returns the rest (whose `fin` is then still to come), `None` when all was taken.
    /// Keep what is queued small: quiche takes up to a whole window, which goes cold in cache.
    ///
    /// An end alone may never arrive: once all bytes are acknowledged and the peer's direction is
    /// read out quiche forgets the stream, whether or not the end left. Where it matters it goes
    /// with a byte.
    ///
    /// # Errors
    /// The peer stopped the stream, or it is finished.
    pub fn send(
        &mut self,
        stream: u64,
        data: Bytes,
        fin: bool,
    ) -> Result<Option<Bytes>, StreamError> {
        if is_control(stream) {
            let outgoing = &mut self.sending.outgoing;
            outgoing.control_used(&mut self.quiche, stream);
        }
        let given = match is_control(stream) {
            true => Given::control,
            false => Given::data,
        };
        self.give(stream, (data, fin), given)
    }

    pub(super) fn give(
        &mut self,
        stream: u64,
        (data, fin): (Bytes, bool),
        given: impl FnOnce(Bytes) -> Given,
    ) -> Result<Option<Bytes>, StreamError> {
        // Never offer more: each refused byte costs a DATA_BLOCKED packet, a refused buffer is
        // dropped.
        let capacity = self.quiche.act().stream_capacity(stream)?;
        let capacity = self.bounded_early(capacity);
        if (self.is_full() || capacity == 0) && !data.is_empty() {
            return Ok(Some(data));
        }
        // Not on the scale: a slice may take memory, and does not give it back there.
        let offered = data.slice(..data.len().min(capacity));
        let ends = fin && offered.len() == data.len();
        let mut quiche = self.quiche.act();
        let (taken, _) = quiche.stream_send_zc(stream, given(offered), ends)?;
        drop(quiche);
        self.sending.outgoing.wrote(&mut self.quiche, stream);
        self.sending.unsent.written(taken);
        self.count_early(taken);
        let rest = data.slice(taken..);
        Ok(if rest.is_empty() { None } else { Some(rest) })
    }

    /// Stream bytes that were taken and not sent yet, about: what waits long is cold in cache when
    /// it is sealed.
    pub fn unsent_bytes(&self) -> usize {
        self.sending.unsent.bytes()
    }

    /// A stream that got something to read, each once: read it to the end ([`Conn::read`] gives
    /// `None`) or remember it, it is not named again until more arrives.
    ///
    /// What arrived before the peer closed stays readable; nothing ever is of a peer we refused.
    pub fn readable_next(&mut self) -> Option<u64> {
        if self.knows_peer() {
            self.quiche.act().stream_readable_next()
        } else {
            None
        }
    }

    #[cfg(test)]
    pub fn is_readable(&self, stream: u64) -> bool {
        self.knows_peer() && self.quiche.stream_readable(stream)
    }

    /// Reads into `out`: the count and whether the stream ended with it. `None`: nothing there now.
    ///
    /// # Errors
    /// The peer reset the stream, or it is finished.
    pub fn read(
        &mut self,
        stream: u64,
        out: &mut [u8],
    ) -> Result<Option<(usize, bool)>, StreamError> {
        if !self.knows_peer() {
            return Ok(None);
        }
        match self.quiche.act().stream_recv(stream, out) {
            Ok(read) => Ok(Some(read)),
            Err(quiche::Error::Done) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a stream of either direction that was opened is over and forgotten: the peer
    /// acknowledged all bytes that were sent in it (or stopped it), and what it sent was read to
    /// the end. That our own end arrived it says only if that went with the last byte.
    pub fn is_delivered(&mut self, stream: u64) -> bool {
        // Not `stream_closed`: that asks whether the end was written, not whether it arrived.
        self.quiche.act().stream_capacity(stream).is_err()
    }

    /// Tells the peer to stop sending on a stream and drops what it sent. Harmless on a finished
    /// stream.
    pub fn shutdown_read(&mut self, stream: u64, code: u64) {
        let _ = self
            .quiche
            .act()
            .stream_shutdown(stream, quiche::Shutdown::Read, code);
    }

    /// Resets our side of a stream, dropping what was not sent. Harmless on a finished stream.
    pub fn shutdown_write(&mut self, stream: u64, code: u64) {
        let _ = self
            .quiche
            .act()
            .stream_shutdown(stream, quiche::Shutdown::Write, code);
    }
}
