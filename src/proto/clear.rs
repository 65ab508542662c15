//! Lanes in the clear, which both sides have to ask for: the secret that lets them in.

use std::fmt;

use minicbor::{Decode, Encode};

/// A session's secret for its lanes in the clear: the server makes it up, and says it on an
/// encrypted lane. Or that of one lane, made from it.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct ClearSecret(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

impl ClearSecret {
    /// What admits the added lane of this number. Each number is used once in a session.
    pub fn of_lane(&self, lane: u32) -> ClearSecret {
        let mut context = *b"lane ....";
        context[5..].copy_from_slice(&lane.to_be_bytes());
        ClearSecret(*blake3::keyed_hash(&self.0, &context).as_bytes())
    }
}

/// Secrets are for nobody's log.
impl fmt::Debug for ClearSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClearSecret")
    }
}

/// Whether a session may have lanes in the clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClearLanes {
    #[default]
    Off,
    /// A client that asks for them.
    Wanted,
    /// A server that lets this client have them.
    Allowed(ClearSecret),
}

impl ClearLanes {
    pub fn is_wanted(self) -> bool {
        self == ClearLanes::Wanted
    }

    /// A server's answer to a client that wants them, or does not.
    pub fn answer(self, wanted: bool) -> Option<ClearSecret> {
        match self {
            ClearLanes::Allowed(secret) if wanted => Some(secret),
            ClearLanes::Allowed(_) | ClearLanes::Off | ClearLanes::Wanted => None,
        }
    }
}

/// Why nothing goes in the clear, or nothing more, though that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClearOff {
    /// The server does not let this client.
    NotAllowed,
    /// No lane came to be, or whoever answered could not prove to be the server.
    NotHad,
    /// What one carried was changed on the wire.
    Altered,
}
