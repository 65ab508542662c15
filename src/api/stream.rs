//! Streams: ordered bytes, one way or both.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_io::{AsyncRead, AsyncWrite};

use super::errors::{ConnectionError, ReadError, WriteError, check_code};
use crate::quic::URGENCIES;
use crate::worker::{Hold, Pipe, ReceivePhase, SendPhase, ToWrite};

/// Copies of this size at most are made of what is written by reference.
const COPIED_BYTES: usize = 64 << 10;

/// Why the connection of a stream is over.
fn lost(hold: &Hold) -> ConnectionError {
    let gone = || ConnectionError::Transport("the stream is gone".to_owned());
    hold.0.end().map_or_else(gone, ConnectionError::of)
}

/// The half of a stream that is written. At most 256 KiB wait for the transport; then writing
/// waits, so that the peer's reading is what one keeps pace with.
///
/// What is written leaves at once. Only where the peer's direction is over, or there is none, the
/// last byte waits for what follows: the next ones, [`SendStream::finish`] or a flush, but no
/// longer than a millisecond. The end of a stream goes with a byte then; alone it takes a round
/// trip more.
///
/// Dropped without [`SendStream::finish`], it is reset with code 0: the peer must not take what may
/// be half for the whole.
pub struct SendStream {
    hold: Arc<Hold>,
    pipe: Arc<Pipe>,
}

impl SendStream {
    pub(super) fn new(hold: Arc<Hold>, pipe: Arc<Pipe>) -> SendStream {
        SendStream { hold, pipe }
    }

    /// The stream's number (RFC 9000 §2.1).
    pub fn id(&self) -> u64 {
        self.pipe.id
    }

    fn error(&self, phase: SendPhase) -> WriteError {
        match phase {
            SendPhase::Stopped(code) => WriteError::Stopped(code),
            SendPhase::Open | SendPhase::Finishing | SendPhase::Delivered | SendPhase::Reset(_) => {
                WriteError::Closed
            }
            SendPhase::Lost => WriteError::Lost(lost(&self.hold)),
        }
    }

    fn poll_push(
        &self,
        context: &mut Context<'_>,
        take: impl FnOnce(usize) -> ToWrite,
    ) -> Poll<Result<usize, WriteError>> {
        let written = self.pipe.poll_write(context, take);
        written.map(|written| match written {
            Ok(bytes) => {
                self.hold.0.ask(&self.pipe);
                Ok(bytes)
            }
            Err(phase) => Err(self.error(phase)),
        })
    }

    /// Writes some of `bytes`, at most 64 KiB, and gives how many. They are copied.
    ///
    /// # Errors
    /// The stream or its connection is over.
    ///
    /// # Cancel safety
    /// A dropped future has written nothing.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        poll_fn(|context| self.poll_push(context, |room| copied(bytes, room))).await
    }

    /// Writes all of `bytes`. They are copied; [`SendStream::write_bytes`] does not.
    ///
    /// # Errors
    /// The stream or its connection is over; some may have been written.
    ///
    /// # Cancel safety
    /// A dropped future may have written some.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let written = self.write(bytes).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Writes all of `bytes` without a copy: they are sealed into packets from where they are, and
    /// dropped when the peer has acknowledged them. However many they are, they are taken as soon
    /// as there is room for one.
    ///
    /// # Errors
    /// The stream or its connection is over.
    ///
    /// # Cancel safety
    /// A dropped future has written nothing.
    pub async fn write_bytes(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        let written = poll_fn(|context| {
            let take = |_room| ToWrite::Owned(bytes.clone());
            self.poll_push(context, take)
        });
        written.await.map(|_| ())
    }

    /// Which of the streams of this connection that are written here goes first where not all can:
    /// the one of lower urgency, 0 to 7, and of the same urgency all in turn, as they have
    /// something. Each begins with 3 (RFC 9218 §4.1). What the transport took before, at most
    /// 128 KiB of all streams, is overtaken, too. The peer is not told, and one of lower urgency
    /// that always has something lets no other go on.
    ///
    /// # Panics
    /// If `urgency` is above 7.
    pub fn set_priority(&mut self, urgency: u8) {
        assert!(urgency < URGENCIES, "an urgency is 0 to 7: {urgency}");
        self.pipe.set_urgency(urgency);
        self.hold.0.ask(&self.pipe);
    }

    /// Nothing more is written: the peer reads to the end. Returns at once;
    /// [`SendStream::delivered`] waits for the peer's transport to have everything.
    ///
    /// # Errors
    /// The stream or its connection is over.
    pub fn finish(&mut self) -> Result<(), WriteError> {
        match self.pipe.finish() {
            SendPhase::Open => {
                self.hold.0.ask(&self.pipe);
                Ok(())
            }
            phase => Err(self.error(phase)),
        }
    }

    /// Gives up: what was not sent is dropped, and the peer is told the code. Nothing happens where
    /// all was delivered, or the stream is over otherwise.
    ///
    /// # Panics
    /// If `code` is 2^62 or more, which QUIC cannot say (RFC 9000 §16).
    pub fn reset(&mut self, code: u64) {
        check_code(code);
        if self.pipe.reset(code) {
            self.hold.0.ask(&self.pipe);
        }
    }

    /// Resolves when the peer's transport has acknowledged everything, after
    /// [`SendStream::finish`]. Of a stream that goes both ways that is known only when what the
    /// peer sent was read to its end, too. Whether the peer's program has read it, its own answer
    /// says: what it has not read is lost if the connection is closed then. Where what the peer
    /// sends was stopped here, or its half dropped, this may resolve with the connection only.
    ///
    /// # Errors
    /// The peer stopped the stream, it was reset here, or the connection is over.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn delivered(&mut self) -> Result<(), WriteError> {
        match poll_fn(|context| self.pipe.poll_over(context)).await {
            SendPhase::Delivered => Ok(()),
            phase => Err(self.error(phase)),
        }
    }

    /// Resolves when the peer wants no more (with its code), or has acknowledged everything
    /// (`None`), as [`SendStream::delivered`] says.
    ///
    /// # Errors
    /// The stream was reset here, or the connection is over.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn stopped(&mut self) -> Result<Option<u64>, WriteError> {
        match poll_fn(|context| self.pipe.poll_over(context)).await {
            SendPhase::Delivered => Ok(None),
            SendPhase::Stopped(code) => Ok(Some(code)),
            phase => Err(self.error(phase)),
        }
    }
}

fn copied(bytes: &[u8], room: usize) -> ToWrite {
    let bytes = &bytes[..bytes.len().min(room).min(COPIED_BYTES)];
    ToWrite::Copied(BytesMut::from(bytes))
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if self.pipe.send_phase() == SendPhase::Open {
            self.reset(0);
        }
    }
}

impl fmt::Debug for SendStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendStream({})", self.id())
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let pushed = self.poll_push(context, |room| copied(bytes, room));
        pushed.map_err(io::Error::from)
    }

    /// Waits until the worker has taken everything.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pipe.flush() {
            self.hold.0.ask(&self.pipe);
        }
        let taken = self.pipe.poll_taken(context);
        taken.map_err(|phase| io::Error::from(self.error(phase)))
    }

    /// [`SendStream::finish`], and waits until the worker has taken everything.
    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pipe.send_phase() == SendPhase::Open {
            self.finish()?;
        }
        self.poll_flush(context)
    }
}

/// The half of a stream that is read. What nobody reads is kept up to 256 KiB, less where many
/// streams have something; beyond that the peer has to wait.
///
/// Dropped before its end, it is stopped with code 0: the peer need not send the rest.
pub struct RecvStream {
    hold: Arc<Hold>,
    pipe: Arc<Pipe>,
}

impl RecvStream {
    pub(super) fn new(hold: Arc<Hold>, pipe: Arc<Pipe>) -> RecvStream {
        RecvStream { hold, pipe }
    }

    /// The stream's number (RFC 9000 §2.1).
    pub fn id(&self) -> u64 {
        self.pipe.id
    }

    /// Whether it was accepted before the handshake was complete: what it says, somebody may have
    /// recorded and sent again ([`EngineBuilder::accept_early`]). Once
    /// [`Connection::early_data_accepted`] resolves it is known to be none.
    ///
    /// [`EngineBuilder::accept_early`]: super::EngineBuilder::accept_early
    /// [`Connection::early_data_accepted`]: super::Connection::early_data_accepted
    pub fn is_early(&self) -> bool {
        self.pipe.is_early
    }

    fn poll_bytes(
        &self,
        context: &mut Context<'_>,
        most_bytes: usize,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        let ask = || self.hold.0.ask(&self.pipe);
        let read = self.pipe.poll_read(context, most_bytes, ask);
        read.map(|read| match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ReceivePhase::Ended) => Ok(None),
            Err(ReceivePhase::Reset(code)) => Err(ReadError::Reset(code)),
            Err(ReceivePhase::Stopped(_) | ReceivePhase::Open) => Err(ReadError::Closed),
            Err(ReceivePhase::Lost) => Err(ReadError::Lost(lost(&self.hold))),
        })
    }

    /// What came next, at most so many bytes, without a copy. `None`: the stream has ended.
    ///
    /// # Errors
    /// The peer reset the stream, it was stopped here, or the connection is over.
    ///
    /// # Cancel safety
    /// No bytes are lost by dropping the future.
    pub async fn read_bytes(&mut self, most_bytes: usize) -> Result<Option<Bytes>, ReadError> {
        poll_fn(|context| self.poll_bytes(context, most_bytes)).await
    }

    /// Reads into `into`, and gives how many bytes that were. `None`: the stream has ended.
    ///
    /// # Errors
    /// As of [`RecvStream::read_bytes`].
    ///
    /// # Cancel safety
    /// No bytes are lost by dropping the future.
    pub async fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, ReadError> {
        let bytes = self.read_bytes(into.len()).await?;
        Ok(bytes.map(|bytes| {
            into[..bytes.len()].copy_from_slice(&bytes);
            bytes.len()
        }))
    }

    /// Everything to the end, if it is at most so much: the peer says how much that is, and the
    /// caller what it has memory for.
    ///
    /// # Errors
    /// More came, and the stream is stopped with code 0; else as of [`RecvStream::read_bytes`].
    ///
    /// # Cancel safety
    /// What was read is lost with the future.
    pub async fn read_to_end(&mut self, most_bytes: usize) -> Result<Bytes, ReadError> {
        let mut all = BytesMut::new();
        while let Some(bytes) = self.read_bytes(usize::MAX).await? {
            if all.len() + bytes.len() > most_bytes {
                self.stop(0);
                return Err(ReadError::TooLong(most_bytes));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// Wants no more: what came is dropped, and the peer is told the code, unless its end came,
    /// too. Nothing happens where the stream is over.
    ///
    /// The transport holds the places of 64 streams of a connection that were stopped and did not
    /// end by themselves; the peer of one that is stopped beyond that is not told, and what it
    /// sends is dropped.
    ///
    /// # Panics
    /// If `code` is 2^62 or more, which QUIC cannot say (RFC 9000 §16).
    pub fn stop(&mut self, code: u64) {
        check_code(code);
        if self.pipe.stop(code) {
            self.hold.0.ask(&self.pipe);
        }
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.stop(0);
    }
}

impl fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvStream({})", self.id())
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_bytes(context, into.len()).map(|read| {
            let bytes = read?.unwrap_or_default();
            into[..bytes.len()].copy_from_slice(&bytes);
            Ok(bytes.len())
        })
    }
}
