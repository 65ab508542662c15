//! What a process's connections did, for `--stats` and benchmarks: read from where it is counted.

use std::time::Duration;

use crate::config::LaneKind;
use crate::metrics::{FlowDirection, Metric, NO_KIND, Snapshot, of_kind};

/// Counters of all connections of a process, or of one command's transfer.
#[derive(Clone, Debug, Default)]
pub struct TransportStats {
    /// Of the lane that was measured last.
    pub rtt: Duration,
    /// None until a lane has measured one.
    pub min_rtt: Option<Duration>,
    pub sent_packets: u64,
    pub received_packets: u64,
    pub lost_packets: u64,
    pub retransmitted_packets: u64,
    /// Of the lane that was measured last.
    pub cwnd_bytes: u64,
    /// Packets per UDP send (one GSO run each).
    pub gso_batch_mean: f64,
    /// Packets per UDP receive (one GRO train each).
    pub gro_batch_mean: f64,
    /// What each kind of lane carried.
    pub quic: Carried,
    pub tls: Carried,
    pub clear: Carried,
    /// Connections used: more than one when a lane neared its packet limit, and where there were
    /// lanes of several kinds.
    pub lanes: u64,
    /// KeyUpdates of TLS over TCP, in both directions.
    pub keys_renewed: u64,
    /// CPU time of the workers' threads.
    pub cpu: Duration,
}

/// What lanes of one kind carried, with all that it takes to carry it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    pub lanes: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

impl From<&Snapshot> for TransportStats {
    fn from(counted: &Snapshot) -> TransportStats {
        let carried = |kind: LaneKind| {
            let (kind, bytes) = (of_kind(kind), Metric::TransportBytes);
            Carried {
                lanes: counted.get(Metric::Lanes, [kind]),
                sent_bytes: counted.get(bytes, [kind, FlowDirection::Sent as usize]),
                received_bytes: counted.get(bytes, [kind, FlowDirection::Received as usize]),
            }
        };
        let kinds = [LaneKind::Quic, LaneKind::Tls, LaneKind::Clear];
        let of_kinds = |metric| -> u64 {
            let kinds = kinds.into_iter();
            kinds.map(|kind| counted.get(metric, [of_kind(kind)])).sum()
        };
        // Of handshakes that came to nothing, too, as all packets are.
        let unused = counted.get(Metric::Retransmissions, [NO_KIND]);
        let path = counted.path();
        TransportStats {
            rtt: path.rtt,
            min_rtt: path.min_rtt,
            sent_packets: counted.get(Metric::Packets, [FlowDirection::Sent as usize]),
            received_packets: counted.get(Metric::Packets, [FlowDirection::Received as usize]),
            lost_packets: counted.get(Metric::PacketsLost, []),
            retransmitted_packets: of_kinds(Metric::Retransmissions) + unused,
            cwnd_bytes: path.cwnd_bytes,
            gso_batch_mean: counted.batches(Metric::GsoPackets).mean(),
            gro_batch_mean: counted.batches(Metric::GroPackets).mean(),
            quic: carried(LaneKind::Quic),
            tls: carried(LaneKind::Tls),
            clear: carried(LaneKind::Clear),
            lanes: of_kinds(Metric::Lanes),
            keys_renewed: counted.get(Metric::KeyUpdates, []),
            cpu: Duration::from_nanos(counted.get(Metric::WorkerCpu, [])),
        }
    }
}
