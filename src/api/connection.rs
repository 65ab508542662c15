//! A connection: streams and datagrams, who the peer is, how it ends.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::errors::{ConnectionError, DatagramError, check_code};
use super::events::ConnectionEvents;
use super::stream::{RecvStream, SendStream};
use crate::ids::Fingerprint;
use crate::quic::StreamDirection;
use crate::worker::{Attached, ConnectionStatistics, Hold, Pipe};

/// A connection to a peer whose key is proven, or will be when the handshake is complete where it
/// began early ([`Connection::is_early`]). A clone is another handle to the same one.
///
/// It is closed with code 0 when its last handle is dropped, streams included: what the peer has
/// not read then may be lost, so an answer of its program is what to wait for.
///
/// A connection carries at most 2^23 packets in each direction, 12 GB of full Ethernet frames, for
/// that is as many as one key may seal (RFC 9001 §6.6); then it is closed with
/// [`ConnectionError::Transport`]. Its peer is not followed to another address.
#[derive(Clone)]
pub struct Connection(Arc<Hold>);

impl Connection {
    pub(super) fn new(hold: Hold) -> Connection {
        Connection(Arc::new(hold))
    }

    fn attached(&self) -> &Attached {
        &self.0.0
    }

    /// The key that the peer has proven to have. While [`Connection::is_early`] it is the one that
    /// the resumed session was begun with: what comes may be a recording, played by anybody.
    pub fn peer(&self) -> Fingerprint {
        self.attached().facts.peer
    }

    /// Where the peer was when the handshake was complete. Of one that began early, where its first
    /// packet came from, which is not proven while [`Connection::is_early`].
    pub fn peer_address(&self) -> SocketAddr {
        self.attached().facts.address
    }

    /// The protocol that was agreed on (ALPN).
    pub fn protocol(&self) -> &[u8] {
        &self.attached().facts.protocol
    }

    /// Whether the peer connected to us.
    pub fn is_accepted(&self) -> bool {
        self.attached().facts.is_server
    }

    /// Numbers of the path, which may be a tenth of a second old.
    pub fn statistics(&self) -> ConnectionStatistics {
        self.attached().statistics()
    }

    /// Has the peer asked for a sign of life. Gives the question's number.
    pub(super) fn ask_for_life(&self) -> u64 {
        self.attached().ask_for_life()
    }

    /// Whether the peer was sent that question.
    pub(super) fn was_asked(&self, question: u64) -> bool {
        self.attached().was_asked(question)
    }

    /// Whether something of the peer came behind that question.
    pub(super) fn has_answered(&self, question: u64) -> bool {
        self.attached().has_answered(question)
    }

    /// Why it is over; `None` while it is not.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.attached().end().map(ConnectionError::of)
    }

    /// Why nothing can be begun on it: it is over, or was closed here a moment ago.
    pub(super) fn unusable(&self) -> Option<ConnectionError> {
        self.close_reason().or_else(|| {
            let (code, reason) = self.attached().closing()?;
            Some(ConnectionError::ClosedHere { code, reason })
        })
    }

    /// Closes it: the peer is told the code, below 2^62, and at most 256 bytes of the reason. What
    /// was written and not acknowledged may be lost. Of several calls the first counts. A process
    /// that ends at once may end before the peer is told: [`Engine::shut_down`] waits for that.
    ///
    /// While [`Connection::is_early`] the peer is told that it is closed, but not the code nor the
    /// reason, which only a proven peer may read; and where nothing of the peer has come so far it
    /// is told nothing, and gives the connection up after its handshake timeout.
    ///
    /// [`Engine::shut_down`]: super::Engine::shut_down
    ///
    /// # Panics
    /// If `code` is 2^62 or more, which QUIC cannot say (RFC 9000 §16).
    pub fn close(&self, code: u64, reason: &str) {
        check_code(code);
        self.attached().close(code, reason);
    }

    /// Resolves when the connection is over, with why.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn closed(&self) -> ConnectionError {
        loop {
            let changed = self.attached().listen();
            if let Some(reason) = self.close_reason() {
                return reason;
            }
            changed.await;
        }
    }

    /// Whether its handshake is not complete yet: what the peer sent may be a recording.
    pub fn is_early(&self) -> bool {
        self.attached().took_early().is_none()
    }

    /// Resolves when the handshake is complete: both keys are proven, and nothing here is a
    /// recording. Says whether what was sent before that was taken early; if not, it is sent again
    /// by itself. False, too, where the connection did not begin early.
    ///
    /// # Errors
    /// The connection was over before: whether the peer read anything is not known.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn early_data_accepted(&self) -> Result<bool, ConnectionError> {
        self.wait(Attached::took_early).await
    }

    /// What happens to it from now on, beside its streams.
    pub fn events(&self) -> ConnectionEvents {
        ConnectionEvents::new(&self.0.0)
    }

    /// Opens a stream that goes both ways. Waits while as many are open as the peer allows. The
    /// peer learns of it with the first bytes.
    ///
    /// # Errors
    /// The connection is over.
    ///
    /// # Cancel safety
    /// No stream is lost: the next caller has the one that would have come.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let pipe = self.open(StreamDirection::Bidirectional).await?;
        Ok((self.send_half(&pipe), self.receive_half(&pipe)))
    }

    /// Opens a stream that goes to the peer. As [`Connection::open_bi`] else.
    ///
    /// # Errors
    /// The connection is over.
    ///
    /// # Cancel safety
    /// As of [`Connection::open_bi`].
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        let pipe = self.open(StreamDirection::Unidirectional).await?;
        Ok(self.send_half(&pipe))
    }

    /// The next stream of the peer that goes both ways.
    ///
    /// 64 streams of either direction are taken in before they are accepted; the peer may open
    /// more, as many as the configuration says, and what is in those stays with the transport.
    ///
    /// # Errors
    /// The connection is over.
    ///
    /// # Cancel safety
    /// No stream is lost by dropping the future.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let direction = StreamDirection::Bidirectional;
        let pipe = self.wait(|it| it.take_incoming(direction)).await?;
        Ok((self.send_half(&pipe), self.receive_half(&pipe)))
    }

    /// The next stream of the peer that comes from it alone. As [`Connection::accept_bi`] else.
    ///
    /// # Errors
    /// The connection is over.
    ///
    /// # Cancel safety
    /// No stream is lost by dropping the future.
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        let direction = StreamDirection::Unidirectional;
        let pipe = self.wait(|it| it.take_incoming(direction)).await?;
        Ok(self.receive_half(&pipe))
    }

    /// Sends a datagram (RFC 9221): it arrives whole, or not at all, in any order. 64 wait to
    /// leave; then the oldest is dropped for the new one and counted.
    ///
    /// # Errors
    /// It is larger than [`Connection::most_datagram_bytes`], or the connection is over.
    pub fn send_datagram(&self, datagram: Bytes) -> Result<(), DatagramError> {
        if let Some(lost) = self.close_reason() {
            return Err(lost.into());
        }
        let (bytes, most_bytes) = (datagram.len(), self.most_datagram_bytes());
        if most_bytes == 0 {
            return Err(DatagramError::Unsupported);
        }
        if bytes > most_bytes {
            return Err(DatagramError::TooLarge { bytes, most_bytes });
        }
        self.attached().send_datagram(datagram);
        Ok(())
    }

    /// Bytes of the largest datagram that fits a packet of this path now; 0 where the peer takes
    /// none.
    pub fn most_datagram_bytes(&self) -> usize {
        self.attached().most_datagram_bytes()
    }

    /// The next datagram of the peer. 64 wait to be taken; then the oldest is dropped for the new
    /// one and counted.
    ///
    /// # Errors
    /// The connection is over.
    ///
    /// # Cancel safety
    /// No datagram is lost by dropping the future.
    pub async fn receive_datagram(&self) -> Result<Bytes, ConnectionError> {
        self.wait(Attached::take_datagram).await
    }

    async fn open(&self, direction: StreamDirection) -> Result<Arc<Pipe>, ConnectionError> {
        let _wants = Wants::new(self.attached(), direction);
        self.wait(|it| it.take_opened(direction)).await
    }

    /// Waits for something that comes, or for the end. What came before the end is still given.
    async fn wait<T>(&self, take: impl Fn(&Attached) -> Option<T>) -> Result<T, ConnectionError> {
        let attached = self.attached();
        loop {
            if let Some(found) = take(attached) {
                return Ok(found);
            }
            let changed = attached.listen();
            // It may have come before there was somebody to tell.
            if let Some(found) = take(attached) {
                return Ok(found);
            }
            if let Some(reason) = attached.end() {
                return Err(ConnectionError::of(reason));
            }
            changed.await;
        }
    }

    fn send_half(&self, pipe: &Arc<Pipe>) -> SendStream {
        SendStream::new(self.0.clone(), pipe.clone())
    }

    fn receive_half(&self, pipe: &Arc<Pipe>) -> RecvStream {
        RecvStream::new(self.0.clone(), pipe.clone())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} at {})", self.peer(), self.peer_address())
    }
}

/// One caller that waits for a stream.
struct Wants<'a>(&'a Attached, StreamDirection);

impl<'a> Wants<'a> {
    fn new(attached: &'a Attached, direction: StreamDirection) -> Wants<'a> {
        attached.want_stream(direction, true);
        Wants(attached, direction)
    }
}

impl Drop for Wants<'_> {
    fn drop(&mut self) {
        self.0.want_stream(self.1, false);
    }
}
