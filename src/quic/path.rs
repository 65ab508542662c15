//! A path's numbers as quiche has them: for reports, for pacing, and for what may be probed.

use std::time::Duration;

use super::held::Quiche;

/// Numbers of a connection's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PathSnapshot {
    pub rtt: Duration,
    /// `None` before the first measurement.
    pub min_rtt: Option<Duration>,
    pub cwnd_bytes: usize,
    pub sent_packets: u64,
    pub received_packets: u64,
    /// DATAGRAM frames.
    pub sent_notes: u64,
    pub lost_packets: u64,
    /// How often nothing was acknowledged for so long that quiche asked for it.
    pub probe_timeouts: usize,
    pub retransmitted_frames: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub lost_bytes: u64,
    /// Of streams, counted each time they are lost.
    pub lost_stream_bytes: u64,
    /// What the congestion controller believes the path delivers; 0 before the first measurement.
    pub delivery_bytes_per_second: u64,
    /// UDP payload in use.
    pub udp_payload_bytes: usize,
    /// KeyUpdates of TLS over TCP, in both directions.
    pub keys_renewed: u64,
    /// What of the bytes, sent and received, went under keys that are used no more.
    pub under_old_keys_bytes: u64,
    /// The congestion controller's start, when it sends ever faster, is over.
    pub left_startup: bool,
}

impl PathSnapshot {
    /// Copies a path's numbers: not for every packet.
    pub(super) fn of(quiche: &Quiche) -> PathSnapshot {
        // quiche knows of one path for life, wherever the peer goes (see whereabouts): its numbers
        // are those of the connection, and to look at them takes no look at all streams.
        let Some(path) = quiche
            .path_stats()
            .find(|path| path.active || path.sent > 0)
        else {
            return PathSnapshot::default();
        };
        PathSnapshot {
            rtt: path.rtt,
            min_rtt: path.min_rtt,
            cwnd_bytes: path.cwnd,
            sent_packets: path.sent as u64,
            received_packets: path.recv as u64,
            sent_notes: path.dgram_sent as u64,
            lost_packets: path.lost as u64,
            probe_timeouts: path.total_pto_count,
            retransmitted_frames: path.retrans as u64,
            sent_bytes: path.sent_bytes,
            received_bytes: path.recv_bytes,
            lost_bytes: path.lost_bytes,
            lost_stream_bytes: path.stream_retrans_bytes,
            delivery_bytes_per_second: path.delivery_rate,
            udp_payload_bytes: path.pmtu,
            // A key of QUIC's is not renewed: its lane is replaced.
            keys_renewed: 0,
            under_old_keys_bytes: 0,
            left_startup: path.startup_exit.is_some(),
        }
    }
}
