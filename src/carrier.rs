//! What connections have in common, whatever carries them: the protocol's name in TLS, how far one
//! is, and why one is over.

/// The protocol's name in TLS.
pub const ALPN: &[u8] = b"landro/1";

/// What a connection carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alpn {
    /// Transfers: `landro/1`.
    Landro1,
    /// A protocol of the program that embeds this library: its streams and datagrams.
    Streams,
}

/// Application codes that a transport itself has to know (docs/protocol.md): of a peer that broke
/// its rules, and of a lane that another replaced, whose data is read before the close counts.
pub(crate) const VIOLATION: u64 = 1;
pub(crate) const REPLACED: u64 = 7;
/// Somebody changed what a lane in the clear carried.
pub(crate) const ALTERED: u64 = 12;

/// Error codes of TLS alerts start here (RFC 9001 §4.8, which has codes for alerts; over TCP an
/// alert is told by the same number).
pub(crate) const CRYPTO_ERROR: u64 = 0x100;

/// TLS alerts (RFC 8446 §6) that we send.
pub(crate) const ACCESS_DENIED: u8 = 49;
pub(crate) const CERTIFICATE_REQUIRED: u8 = 116;

/// Longest reason a close carries: in QUIC it has to fit one packet with the rest, or it would
/// never leave.
pub(crate) const MAX_REASON_BYTES: usize = 256;

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
    /// The connection itself could not go on, as we saw.
    #[error("{0}")]
    GivenUp(String),
    /// The peer does not know the connection any more: it restarted.
    #[error("the peer lost the connection's state")]
    StatelessReset,
    /// The peer broke QUIC or TLS, or our own failed.
    #[error("transport: {0}")]
    Transport(String),
}

/// The TLS alert in an error code, if it is about the certificate: bad, unsupported, revoked,
/// expired, unknown certificate, unknown CA, access denied, certificate required.
pub(crate) fn identity_alert(code: u64) -> Option<u8> {
    let alert = u8::try_from(code.checked_sub(CRYPTO_ERROR)?).ok()?;
    matches!(alert, 42..=46 | 48 | ACCESS_DENIED | CERTIFICATE_REQUIRED).then_some(alert)
}
