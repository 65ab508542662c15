//! Why no engine starts, why there is no connection, why connections and streams are over, and
//! what was not sent or read.

use std::io;
use std::net::SocketAddr;

use crate::config::ConfigError;
use crate::engine::EngineError;
use crate::identity::IdentityError;
use crate::ids::Fingerprint;
use crate::quic::CloseReason;

/// What QUIC can say as a code: 62 bits (RFC 9000 §16).
const MAX_CODE: u64 = (1 << 62) - 1;

/// # Panics
/// If QUIC cannot say it.
pub(super) fn check_code(code: u64) {
    assert!(code <= MAX_CODE, "a code of QUIC has 62 bits: {code}");
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A protocol of the program has no name, or none that can be used.
    #[error("a protocol needs a name of 1 to 255 bytes that is not landro/1")]
    Protocol,
    /// A name in the configuration means nothing, or no connection can have a value.
    #[error("configuration of QUIC: {0}")]
    Config(#[from] ConfigError),
    /// A new identity cannot be made.
    #[error("a new identity: {0}")]
    Identity(IdentityError),
    /// An address cannot be listened at; the text says what to do.
    #[error("{text}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the kernel said of it.
        kind: io::ErrorKind,
        /// All of that in words.
        text: String,
    },
    /// What the kernel, or a library below, does not let us have; the text says what to do.
    #[error("{0}")]
    System(String),
}

impl From<EngineError> for StartError {
    fn from(error: EngineError) -> StartError {
        match error {
            EngineError::Config(error) => StartError::Config(error),
            EngineError::Bind { addr, ref source } => StartError::Bind {
                address: addr,
                kind: source.kind(),
                text: error.to_string(),
            },
            other => StartError::System(other.to_string()),
        }
    }
}

/// Why there is no connection.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is no `HOST:PORT`, or its name has no address.
    #[error(
        "{name:?} cannot be looked up: {why}; an address is HOST:PORT, as in 192.0.2.1:4433 or [2001:db8::1]:4433"
    )]
    Name {
        /// As it was given.
        name: String,
        /// What the resolver said.
        why: String,
    },
    /// No address answered.
    #[error("{name:?} does not answer: {why}")]
    NoAnswer {
        /// As it was given.
        name: String,
        /// What each address said.
        why: String,
    },
    /// Whoever answered has a key that is not trusted here.
    #[error("{name:?} has the key {}, which is not trusted here", shown_key(shown))]
    NotTrusted {
        /// As it was given.
        name: String,
        /// The key that was shown, if one was.
        shown: Option<Fingerprint>,
    },
    /// The peer does not trust our key.
    #[error("{name:?} does not let {ours} in")]
    Refused {
        /// As it was given.
        name: String,
        /// Our key.
        ours: Fingerprint,
    },
    /// As many connections are being made as may be; later there is room again.
    #[error("too many connections are being made at a time")]
    Busy,
    /// The engine was shut down.
    #[error("the engine was shut down")]
    ShutDown,
    /// The transport cannot be set up.
    #[error("cannot set up a connection: {0}")]
    Setup(String),
}

impl ConnectError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            ConnectError::NoAnswer { .. } | ConnectError::Busy => true,
            ConnectError::Name { .. }
            | ConnectError::NotTrusted { .. }
            | ConnectError::Refused { .. }
            | ConnectError::ShutDown
            | ConnectError::Setup(_) => false,
        }
    }
}

fn shown_key(shown: &Option<Fingerprint>) -> String {
    shown.map_or_else(|| "of no known kind".to_owned(), |key| key.to_string())
}

/// Why a connection is over.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// [`Connection::close`](super::Connection::close) was called here, or its last handle dropped
    /// (code 0).
    #[error("closed here with code {code}: {reason}")]
    ClosedHere {
        /// What [`Connection::close`](super::Connection::close) was given.
        code: u64,
        /// The same.
        reason: String,
    },
    /// The peer's program closed it, or its engine: with code 0 where nobody accepts it or one
    /// identity has too many, 8 where a key may seal no more, 9 where this side made it keep too
    /// much.
    #[error("closed by the peer with code {code}: {reason}")]
    ClosedByPeer {
        /// The peer's; what it means is the program's to know.
        code: u64,
        /// The peer's words, which may be anything.
        reason: String,
    },
    /// Nothing was heard of the peer for the idle timeout.
    #[error("nothing was heard of the peer for the idle timeout")]
    TimedOut,
    /// The transport could not go on; here is why.
    #[error("{0}")]
    Transport(String),
}

impl ConnectionError {
    pub(super) fn of(reason: CloseReason) -> ConnectionError {
        match reason {
            CloseReason::Local { code, reason } => ConnectionError::ClosedHere { code, reason },
            CloseReason::PeerApp { code, reason } => ConnectionError::ClosedByPeer { code, reason },
            CloseReason::IdleTimeout | CloseReason::HandshakeTimeout => ConnectionError::TimedOut,
            other @ (CloseReason::PeerTransport { .. }
            | CloseReason::IdentityRefused { .. }
            | CloseReason::GivenUp(_)
            | CloseReason::StatelessReset
            | CloseReason::Transport(_)) => ConnectionError::Transport(other.to_string()),
        }
    }
}

/// Why a datagram was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// It does not fit a packet of this path.
    #[error("{bytes} bytes do not fit a datagram of this path: {most_bytes} do")]
    TooLarge {
        /// What was given.
        bytes: usize,
        /// What fits now.
        most_bytes: usize,
    },
    /// The peer takes none.
    #[error("the peer takes no datagrams")]
    Unsupported,
    /// The connection is over.
    #[error(transparent)]
    Lost(#[from] ConnectionError),
}

/// Why bytes were not written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The peer wants no more of this stream.
    #[error("the peer stopped the stream with code {0}")]
    Stopped(u64),
    /// It was finished or reset here before.
    #[error("the stream was finished or reset before")]
    Closed,
    /// The connection is over.
    #[error(transparent)]
    Lost(#[from] ConnectionError),
}

/// Why bytes were not read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The peer gave the stream up: what it sent before may be incomplete.
    #[error("the peer reset the stream with code {0}")]
    Reset(u64),
    /// It was stopped here before.
    #[error("the stream was stopped before")]
    Closed,
    /// More came than the caller said it takes.
    #[error("more than {0} bytes came")]
    TooLong(usize),
    /// The connection is over.
    #[error(transparent)]
    Lost(#[from] ConnectionError),
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> io::Error {
        let kind = match &error {
            WriteError::Stopped(_) | WriteError::Closed => io::ErrorKind::BrokenPipe,
            WriteError::Lost(_) => io::ErrorKind::NotConnected,
        };
        io::Error::new(kind, error)
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> io::Error {
        let kind = match &error {
            ReadError::Reset(_) => io::ErrorKind::ConnectionReset,
            ReadError::Closed => io::ErrorKind::BrokenPipe,
            ReadError::TooLong(_) => io::ErrorKind::InvalidData,
            ReadError::Lost(_) => io::ErrorKind::NotConnected,
        };
        io::Error::new(kind, error)
    }
}
