//! Why calls fail and connections end, in words of landro instead of quiche's.

use boring::error::ErrorStack;

use crate::carrier::{CloseReason, identity_alert};

/// Application error code of a connection whose key may seal no more (docs/protocol.md).
pub const KEY_SPENT: u64 = 8;

/// Transport error codes (RFC 9000 §20.1): our side failed; the application closed before the
/// handshake was over, which is all that may be said to a peer not known yet.
pub(super) const INTERNAL_ERROR: u64 = 0x1;
pub(super) const APPLICATION_ERROR: u64 = 0xc;

/// A connection cannot be made, or was broken by the peer.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    #[error("QUIC: {0}")]
    Quiche(#[from] quiche::Error),
    #[error("BoringSSL: {0}")]
    Boring(#[from] ErrorStack),
    /// A Retry token used a second time while its connection lives.
    #[error("the connection id is in use")]
    CidInUse,
}

/// A stream cannot be used as asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer does not want what we send (STOP_SENDING).
    #[error("the peer stopped the stream with code {0}")]
    Stopped(u64),
    /// The peer will not send the rest (RESET_STREAM).
    #[error("the peer reset the stream with code {0}")]
    Reset(u64),
    /// Never opened, of the other direction, or finished and forgotten.
    #[error("no such stream")]
    Unknown,
    /// Anything else quiche says.
    #[error("QUIC: {0}")]
    Quiche(quiche::Error),
}

impl From<quiche::Error> for StreamError {
    fn from(error: quiche::Error) -> StreamError {
        match error {
            quiche::Error::StreamStopped(code) => StreamError::Stopped(code),
            quiche::Error::StreamReset(code) => StreamError::Reset(code),
            quiche::Error::InvalidStreamState(_) => StreamError::Unknown,
            other => StreamError::Quiche(other),
        }
    }
}

pub(super) fn closed_by_peer(error: &quiche::ConnectionError) -> CloseReason {
    let (code, reason) = (
        error.error_code,
        String::from_utf8_lossy(&error.reason).into_owned(),
    );
    match identity_alert(code) {
        _ if error.is_app => CloseReason::PeerApp { code, reason },
        Some(alert) => CloseReason::IdentityRefused {
            by_peer: true,
            alert,
        },
        None => CloseReason::PeerTransport { code, reason },
    }
}

pub(super) fn closed_by_us(
    error: &quiche::ConnectionError,
    failure: Option<quiche::Error>,
) -> CloseReason {
    match (identity_alert(error.error_code), failure) {
        (Some(alert), _) => CloseReason::IdentityRefused {
            by_peer: false,
            alert,
        },
        (None, Some(failure)) => {
            CloseReason::Transport(format!("{failure}, code {:#x}", error.error_code))
        }
        (None, None) => CloseReason::Transport(format!("code {:#x}", error.error_code)),
    }
}
