//! What `fuzz/` reaches beyond the library: parsers of bytes from outside that are nobody else's
//! business.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

pub use crate::cli::args::bytes as byte_count;
pub use crate::cli::args::url::{DaemonName, Operand, Url, UrlError};
pub use crate::cli::escape::{acts_on_terminal, name as escaped_name, text as escaped_text};
pub use crate::cli::trust::{Known, KnownHosts, TrustError};
pub use crate::daemon::metrics::scrape_is_answered_with;
pub use crate::daemon::policy::{BadLine, Policy, Restrict};
pub use crate::disk::{relative, split_path};
pub use crate::identity::fingerprint_of_der;
pub use crate::quic::note_again;
pub use crate::tcp::{held_after as held_after_frames, is_taken_in_the_clear};

use crate::quic::Secrets;

/// The content of a `known_hosts`.
///
/// # Errors
/// A line cannot be understood.
pub fn known_hosts(text: &[u8]) -> Result<KnownHosts, TrustError> {
    KnownHosts::parse(PathBuf::from("known_hosts"), text)
}

/// A Retry token for a client at `peer` that chose the id `original` and is to go on with
/// `new_scid`.
pub fn retry_token(
    secrets: &Secrets,
    peer: SocketAddr,
    original: &[u8],
    new_scid: &[u8],
    now: Instant,
) -> Vec<u8> {
    secrets.retry_token(peer, original, new_scid, now)
}

/// The client's original id, if the token is ours.
pub fn check_retry_token(
    secrets: &Secrets,
    token: &[u8],
    peer: SocketAddr,
    new_scid: &[u8],
    now: Instant,
) -> Option<Vec<u8>> {
    secrets.check_retry_token(token, peer, new_scid, now)
}
