//! What a connection has of data that travels before its handshake is complete.

use crate::ids::Fingerprint;

/// The state of early data.
pub(super) struct Early {
    pub allowed: bool,
    /// Whose session is resumed, and what is spoken: both are known before the peer has said a
    /// word.
    pub peer: Option<Fingerprint>,
    pub protocol: Vec<u8>,
    /// Stream bytes that left, and in how many writes.
    pub bytes: usize,
    pub writes: u32,
}

impl Early {
    pub fn new(allowed: bool) -> Early {
        Early {
            allowed,
            peer: None,
            protocol: Vec::new(),
            bytes: 0,
            writes: 0,
        }
    }
}
