//! What a pool takes for one peer: an address, and whose key is trusted there.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::api::PeerTrust;
use crate::ids::Fingerprint;

/// A connection is shared by those alone who asked for the same address and trust the same keys:
/// what one of them takes for a proof is none for another.
#[derive(Debug)]
pub(super) struct PeerName {
    pub(super) address: String,
    pub(super) trust: PeerTrust,
}

/// How trust is compared.
#[derive(PartialEq, Eq, Hash)]
enum TrustKey<'a> {
    Keys(&'a [Fingerprint]),
    /// A function is the same as itself, where it lies. The name keeps it there.
    Function(usize),
}

impl PeerName {
    fn key(&self) -> (&str, TrustKey<'_>) {
        let trust = match &self.trust {
            PeerTrust::Pinned(key) => TrustKey::Keys(std::slice::from_ref(key)),
            PeerTrust::OneOf(keys) => TrustKey::Keys(keys),
            PeerTrust::Decide(decide) => {
                TrustKey::Function(Arc::as_ptr(decide).cast::<()>() as usize)
            }
        };
        (&self.address, trust)
    }
}

impl PartialEq for PeerName {
    fn eq(&self, other: &PeerName) -> bool {
        self.key() == other.key()
    }
}

impl Eq for PeerName {}

impl Hash for PeerName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}
