//! What this process proves without keeping state: Retry tokens and stateless reset tokens, and the
//! budget for answering strangers at all.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How long a client may take to come back with a Retry token.
const RETRY_LIFETIME: Duration = Duration::from_secs(30);

const MAC_BYTES: usize = 16;

/// Time and MAC of a Retry token; between them lies the client's original connection id.
const RETRY_OVERHEAD_BYTES: usize = 8 + MAC_BYTES;

/// Longest connection id of QUIC version 1.
const MAX_CID_BYTES: usize = quiche::MAX_CONN_ID_LEN;

/// Keys of one process, shared by its workers.
pub struct Secrets {
    retry: [u8; 32],
    reset: [u8; 32],
    /// Retry tokens count time from here.
    epoch: Instant,
}

impl Secrets {
    /// Of a process that answers no strangers: a client's.
    pub fn fresh(now: Instant) -> Secrets {
        Secrets {
            retry: rand::random(),
            reset: rand::random(),
            epoch: now,
        }
    }

    /// Retry keys are fresh. The reset key is the daemon's for longer than one run: after a restart
    /// it can still tell the peers of its earlier life that their connections are gone, instead of
    /// leaving them to their timeouts.
    ///
    /// `secret` is kept beside the identity, and is not the identity: that may be copied to other
    /// hosts, each of which would tell whoever asks the token that ends a connection with one of
    /// the others. So do `root`, and the address that a connection came in by, which
    /// [`Secrets::reset_token`] adds: daemons that share even the secret differ in one of them.
    pub fn of_daemon(secret: &[u8; 32], root: &[u8], now: Instant) -> Secrets {
        let mut reset =
            blake3::Hasher::new_derive_key("landro 2026-11 stateless reset key of a daemon");
        reset.update(secret).update(root);
        Secrets {
            retry: rand::random(),
            reset: reset.finalize().into(),
            epoch: now,
        }
    }

    /// A token that only this process makes, for this address, this pair of ids and the next 30 s.
    pub(crate) fn retry_token(
        &self,
        peer: SocketAddr,
        original: &[u8],
        new_scid: &[u8],
        now: Instant,
    ) -> Vec<u8> {
        let issued = (now.saturating_duration_since(self.epoch).as_millis() as u64).to_be_bytes();
        let mac = self.retry_mac(peer, original, new_scid, issued);
        [&issued[..], original, &mac[..]].concat()
    }

    /// The client's original connection id, if the token is ours, fresh, and used where it was
    /// sent.
    pub(crate) fn check_retry_token(
        &self,
        token: &[u8],
        peer: SocketAddr,
        new_scid: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        if token.len() < RETRY_OVERHEAD_BYTES || token.len() > RETRY_OVERHEAD_BYTES + MAX_CID_BYTES
        {
            return None;
        }
        let (issued, rest) = token.split_first_chunk::<8>()?;
        let (original, mac) = rest.split_last_chunk::<MAC_BYTES>()?;
        if !boring::memcmp::eq(mac, &self.retry_mac(peer, original, new_scid, *issued)) {
            return None;
        }
        let age = now
            .saturating_duration_since(self.epoch)
            .saturating_sub(Duration::from_millis(u64::from_be_bytes(*issued)));
        (age <= RETRY_LIFETIME).then(|| original.to_vec())
    }

    fn retry_mac(
        &self,
        peer: SocketAddr,
        original: &[u8],
        new_scid: &[u8],
        issued: [u8; 8],
    ) -> [u8; MAC_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.retry);
        hasher.update(&octets(peer)).update(&issued);
        hasher
            .update(&[original.len() as u8])
            .update(original)
            .update(new_scid);
        first_16(hasher.finalize())
    }

    /// The token a peer is given with one of our connection ids, to know a stateless reset by.
    /// `local`: the address of ours that the peer sends to.
    pub(super) fn reset_token(&self, cid: &[u8], local: SocketAddr) -> u128 {
        let mut hasher = blake3::Hasher::new_keyed(&self.reset);
        hasher.update(&octets(local)).update(cid);
        u128::from_be_bytes(first_16(hasher.finalize()))
    }
}

/// An address and port as bytes of one length.
fn octets(addr: SocketAddr) -> [u8; 18] {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut octets = [0; 18];
    octets[..16].copy_from_slice(&ip.octets());
    octets[16..].copy_from_slice(&addr.port().to_be_bytes());
    octets
}

fn first_16(hash: blake3::Hash) -> [u8; 16] {
    *hash.as_bytes().first_chunk().expect("16 of 32 bytes")
}

/// A token bucket of one second's worth.
pub(super) struct RateLimit {
    per_second: u32,
    left: u32,
    since: Option<Instant>,
}

impl RateLimit {
    pub(super) fn new(per_second: u32) -> RateLimit {
        RateLimit {
            per_second,
            left: per_second,
            since: None,
        }
    }

    pub(super) fn allow(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= Duration::from_secs(1) {
            self.since = Some(now);
            self.left = self.per_second;
        }
        self.left = match self.left.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "an epoch to count from")]
    fn secrets() -> (Secrets, Instant) {
        let now = Instant::now();
        (Secrets::fresh(now), now)
    }

    #[test]
    fn a_retry_token_proves_address_ids_and_time() {
        let (secrets, now) = secrets();
        let peer: SocketAddr = "192.0.2.1:1000".parse().unwrap();
        let token = secrets.retry_token(peer, b"original", b"newscid", now);
        let check = |token: &[u8], peer: SocketAddr, scid: &[u8], after: Duration| {
            secrets.check_retry_token(token, peer, scid, now + after)
        };
        let none = Duration::ZERO;
        assert_eq!(
            check(&token, peer, b"newscid", none).as_deref(),
            Some(&b"original"[..])
        );
        assert!(check(&token, peer, b"newscid", RETRY_LIFETIME).is_some());
        assert!(
            check(
                &token,
                peer,
                b"newscid",
                RETRY_LIFETIME + Duration::from_secs(1)
            )
            .is_none()
        );
        assert!(check(&token, "192.0.2.1:1001".parse().unwrap(), b"newscid", none).is_none());
        assert!(check(&token, "192.0.2.2:1000".parse().unwrap(), b"newscid", none).is_none());
        assert!(check(&token, peer, b"other", none).is_none());
        for at in 0..token.len() {
            let mut forged = token.clone();
            forged[at] ^= 1;
            assert!(
                check(&forged, peer, b"newscid", none).is_none(),
                "byte {at}"
            );
            assert!(
                check(&token[..at], peer, b"newscid", none).is_none(),
                "{at} bytes"
            );
        }
        assert!(check(&[0; 100], peer, b"newscid", none).is_none());
    }

    #[test]
    fn reset_tokens_are_of_one_daemon_and_outlive_its_runs() {
        let (_, now) = secrets();
        let here: SocketAddr = "192.0.2.1:4433".parse().unwrap();
        let token = |secret: u8, root: &str, cid: &[u8], local: SocketAddr| {
            Secrets::of_daemon(&[secret; 32], root.as_bytes(), now).reset_token(cid, local)
        };
        let ours = token(1, "/srv", b"12345", here);
        assert_eq!(ours, token(1, "/srv", b"12345", here), "after a restart");
        assert_eq!(
            ours,
            token(
                1,
                "/srv",
                b"12345",
                "[::ffff:192.0.2.1]:4433".parse().unwrap()
            )
        );
        assert_ne!(
            ours,
            token(2, "/srv", b"12345", here),
            "a host with a copied identity"
        );
        assert_ne!(ours, token(1, "/srv/other", b"12345", here));
        assert_ne!(ours, token(1, "/srv", b"12346", here));
        assert_ne!(
            ours,
            token(1, "/srv", b"12345", "192.0.2.1:4434".parse().unwrap())
        );
        assert_ne!(
            ours,
            token(1, "/srv", b"12345", "192.0.2.2:4433".parse().unwrap())
        );
        assert_ne!(
            Secrets::fresh(now).reset_token(b"12345", here),
            Secrets::fresh(now).reset_token(b"12345", here)
        );
    }

    #[test]
    fn the_rate_is_kept() {
        let (_, now) = secrets();
        let mut limit = RateLimit::new(3);
        let allowed = |limit: &mut RateLimit, at| (0..10).filter(|_| limit.allow(at)).count();
        assert_eq!(allowed(&mut limit, now), 3);
        assert_eq!(allowed(&mut limit, now + Duration::from_millis(900)), 0);
        assert_eq!(allowed(&mut limit, now + Duration::from_secs(1)), 3);
    }
}
