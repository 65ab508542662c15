//! Streams as tokio's traits have them, so that `tokio::io::copy` and the like work: the futures'
//! traits do the work, and no runtime is needed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_io::{AsyncRead, AsyncWrite};
use tokio::io::ReadBuf;

use super::stream::{RecvStream, SendStream};

/// With the feature `tokio`. A read of nothing into a buffer with room is the end of the stream.
impl tokio::io::AsyncRead for RecvStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(AsyncRead::poll_read(
            self,
            context,
            into.initialize_unfilled()
        ))?;
        into.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

/// With the feature `tokio`. `shutdown` is [`SendStream::finish`], and waits until the worker has
/// taken everything.
impl tokio::io::AsyncWrite for SendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(self, context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(self, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_close(self, context)
    }
}
