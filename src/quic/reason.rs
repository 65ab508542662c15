//! Why calls fail and connections end, in words of landro instead of quiche's.

use boring::error::ErrorStack;

/// Application error code of a connection whose key may seal no more (docs/protocol.md).
pub const KEY_SPENT: u64 = 8;

/// Transport error codes (RFC 9000 §20.1): our side failed; the application closed before the
/// handshake was over, which is all that may be said to a peer not known yet.
pub(super) const INTERNAL_ERROR: u64 = 0x1;
pub(super) const APPLICATION_ERROR: u64 = 0xc;

/// Transport error codes of TLS alerts start here (RFC 9001 §4.8).
pub(super) const CRYPTO_ERROR: u64 = 0x100;

/// TLS alerts (RFC 8446 §6) that we send.
pub(super) const ACCESS_DENIED: u8 = 49;
pub(super) const CERTIFICATE_REQUIRED: u8 = 116;

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

/// How far a connection is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConnState {
    Handshaking,
    /// After Handshaking. Both keys are proven, and we trust the peer's.
    Established,
    /// After either: the reason is known (see `close_reason`) and still to be sent, or late packets
    /// are waited out.
    Closing,
    /// The end, from any other: to be removed from the router and dropped.
    Closed(CloseReason),
}

/// Why a connection is over.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseReason {
    /// `close` was called.
    #[error("closed by us with code {code}: {reason}")]
    Local { code: u64, reason: String },
    /// The peer called `close`.
    #[error("closed by the peer with code {code}: {reason}")]
    PeerApp { code: u64, reason: String },
    /// The peer's QUIC or TLS gave up.
    #[error("the peer's transport closed with code {code:#x}: {reason}")]
    PeerTransport { code: u64, reason: String },
    /// One side does not trust the other's key: `by_peer` says whether it is ours that was refused.
    #[error("{} (TLS alert {alert})", if *by_peer {
        "the peer refused our identity"
    } else {
        "the peer's identity was refused"
    })]
    IdentityRefused { by_peer: bool, alert: u8 },
    #[error("nothing was heard of the peer for the idle timeout")]
    IdleTimeout,
    #[error("the peer did not finish the handshake in time")]
    HandshakeTimeout,
    /// [`super::Conn::give_up`] was called.
    #[error("{0}")]
    GivenUp(String),
    /// The peer does not know the connection any more: it restarted.
    #[error("the peer lost the connection's state")]
    StatelessReset,
    /// The peer broke QUIC or TLS, or our own failed.
    #[error("transport: {0}")]
    Transport(String),
}

impl CloseReason {
    pub(super) fn by_peer(error: &quiche::ConnectionError) -> CloseReason {
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

    pub(super) fn by_us(
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
}

/// The TLS alert in an error code, if it is about the certificate: bad, unsupported, revoked,
/// expired, unknown certificate, unknown CA, access denied, certificate required.
fn identity_alert(code: u64) -> Option<u8> {
    let alert = u8::try_from(code.checked_sub(CRYPTO_ERROR)?).ok()?;
    matches!(alert, 42..=46 | 48 | ACCESS_DENIED | CERTIFICATE_REQUIRED).then_some(alert)
}
