//! What a transfer's transport did, for `--stats` and the log.

use std::time::Duration;

use landro_sys::Backend;

use super::Worker;
use super::lane::Lane;

/// Counters of all lanes of a command's transfer.
#[derive(Clone, Debug, Default)]
pub struct TransportStats {
    pub rtt: Duration,
    pub min_rtt: Duration,
    pub sent_packets: u64,
    pub received_packets: u64,
    pub lost_packets: u64,
    pub retransmitted_packets: u64,
    pub cwnd_bytes: u64,
    /// Packets per UDP send (one GSO run each).
    pub gso_batch_mean: f64,
    /// Packets per UDP receive (one GRO train each).
    pub gro_batch_mean: f64,
    pub backend: Option<Backend>,
    /// QUIC connections used: more than one when a lane neared its packet limit.
    pub lanes: u64,
    /// CPU time of the workers' threads.
    pub cpu: Duration,
    pub(super) gso_packets: u64,
    pub(super) gso_sends: u64,
    pub(super) gro_packets: u64,
    pub(super) gro_receives: u64,
}

impl TransportStats {
    pub(super) fn add(&mut self, lane: &TransportStats) {
        self.rtt = lane.rtt;
        self.min_rtt = if self.lanes == 0 {
            lane.min_rtt
        } else {
            self.min_rtt.min(lane.min_rtt)
        };
        self.sent_packets += lane.sent_packets;
        self.received_packets += lane.received_packets;
        self.lost_packets += lane.lost_packets;
        self.retransmitted_packets += lane.retransmitted_packets;
        self.cwnd_bytes = lane.cwnd_bytes;
        self.backend = lane.backend;
        self.lanes += 1;
        self.gso_packets += lane.gso_packets;
        self.gso_sends += lane.gso_sends;
        self.gso_batch_mean = mean(self.gso_packets, self.gso_sends);
    }

    pub(super) fn set_received(&mut self, packets: u64, receives: u64) {
        self.gro_packets = packets;
        self.gro_receives = receives;
        self.gro_batch_mean = mean(packets, receives);
    }
}

impl Worker {
    /// A daemon's connection has ended.
    pub(super) fn served(&self, lane: &TransportStats) {
        if let Ok(mut served) = self.shared.served.lock() {
            served.add(lane);
        }
    }

    /// A daemon's worker ends: adds what only it knows.
    pub(super) fn sum_up(&self) {
        if self.client.is_none()
            && let Ok(mut served) = self.shared.served.lock()
        {
            let (packets, receives) = (served.gro_packets, served.gro_receives);
            served.set_received(packets + self.gro_packets, receives + self.gro_receives);
            served.cpu += landro_sys::cpu::thread_cpu_time().unwrap_or_default();
        }
    }
}

fn mean(sum: u64, count: u64) -> f64 {
    if count == 0 {
        0.0
    } else {
        sum as f64 / count as f64
    }
}

pub(super) fn of_lane(lane: &Lane, backend: Backend) -> TransportStats {
    let path = lane.path;
    TransportStats {
        rtt: path.rtt,
        min_rtt: path.min_rtt.unwrap_or_default(),
        sent_packets: path.sent_packets,
        received_packets: path.received_packets,
        lost_packets: path.lost_packets,
        retransmitted_packets: path.retransmitted_frames,
        cwnd_bytes: path.cwnd_bytes as u64,
        backend: Some(backend),
        gso_packets: lane.gso_packets,
        gso_sends: lane.gso_sends,
        ..TransportStats::default()
    }
}
