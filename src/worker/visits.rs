//! Who came last, until the daemon writes it down: one entry for each peer whose session began.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ids::Fingerprint;

/// Peers that are kept until somebody takes them, 80 bytes each; more that come in between are not
/// noted.
const VISITS_MAX: usize = 4096;

/// When and from where a peer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visit {
    /// In seconds since the epoch.
    pub at_unix_s: i64,
    pub from: IpAddr,
}

/// Those of all workers. The lock is taken once for a session.
#[derive(Default)]
pub struct Visits(Mutex<HashMap<Fingerprint, Visit>>);

impl Visits {
    pub fn note(&self, peer: Fingerprint, visit: Visit) {
        let mut visits = self.lock();
        if visits.len() < VISITS_MAX || visits.contains_key(&peer) {
            visits.insert(peer, visit);
        }
    }

    /// Those since this was last asked.
    pub fn take(&self) -> HashMap<Fingerprint, Visit> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Fingerprint, Visit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_visit_of_each_peer_is_known_and_crowds_are_bounded() {
        let (visits, from) = (Visits::default(), IpAddr::from([192, 0, 2, 1]));
        let visit = |at_unix_s| Visit { at_unix_s, from };
        for number in 0..10_000_u32 {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            visits.note(Fingerprint(bytes), visit(1));
        }
        visits.note(Fingerprint([0; 32]), visit(2));
        let taken = visits.take();
        assert_eq!(taken.len(), VISITS_MAX);
        assert_eq!(taken[&Fingerprint([0; 32])], visit(2));
        assert!(visits.take().is_empty());
    }
}
