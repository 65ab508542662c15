//! Which paths get a lane over TCP beside QUIC: short ones that lose next to nothing.
//!
//! There a byte costs TCP less. Elsewhere it depends on the host's congestion control how fast TCP
//! is, and the usual one, CUBIC, takes each lost packet for a full queue: on gigabit Ethernet that
//! loses one packet in a hundred it brought 42 MB/s where QUIC, with BBR2, brought 112
//! (docs/adr/0033).

use crate::config::PACING_MIN_RTT;
use crate::quic::PathSnapshot;
use crate::worker::Worker;
use crate::worker::connections::transport::Transport;

/// Lost packets in a thousand that are put up with: a queue that overflows as a connection starts
/// costs a few.
const LOST_PER_MILLE_MAX: u64 = 5;

fn suits_tcp(path: &PathSnapshot) -> bool {
    let loses_little = path.lost_packets * 1000 <= path.sent_packets * LOST_PER_MILLE_MAX;
    loses_little && path.min_rtt.is_some_and(|rtt| rtt < PACING_MIN_RTT)
}

impl Worker {
    /// Whether a lane over TCP may be added to a session now, as far as this side sees: who sends
    /// data sees what is lost. The other side may think otherwise, and a client asks again later.
    pub(super) fn may_add_tcp(&self, session: usize) -> bool {
        let carrying = self.connections.newest_of(session);
        carrying.is_some_and(|it| match &it.conn {
            Transport::Quic(link) => suits_tcp(&link.conn.snapshot()),
            Transport::Tcp(_) => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn short_paths_that_lose_little() {
        let path = |lost_packets, rtt_us| PathSnapshot {
            sent_packets: 3000,
            lost_packets,
            min_rtt: Some(Duration::from_micros(rtt_us)),
            ..PathSnapshot::default()
        };
        assert!(suits_tcp(&path(0, 100)));
        assert!(suits_tcp(&path(15, 1999)));
        assert!(!suits_tcp(&path(16, 100)));
        assert!(!suits_tcp(&path(0, 2000)));
        assert!(!suits_tcp(&PathSnapshot::default()), "nothing is known");
    }
}
