//! What a transfer's transport did, for `--stats` and the log.

use std::time::Duration;

use landro_sys::Backend;

use crate::config::LaneKind;
use crate::quic::PathSnapshot;

/// Counters of all connections of a command's transfer.
#[derive(Clone, Debug, Default)]
pub struct TransportStats {
    pub rtt: Duration,
    /// None until a lane has measured one.
    pub min_rtt: Option<Duration>,
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
    gso: Batches,
    gro: Batches,
}

/// What lanes of one kind carried, with all that it takes to carry it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    pub lanes: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

impl Carried {
    fn add(&mut self, other: Carried) {
        self.lanes += other.lanes;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
    }
}

/// How many packets went in one system call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Batches {
    pub(crate) packets: u64,
    pub(crate) calls: u64,
}

impl Batches {
    pub(crate) fn add(&mut self, other: Batches) {
        self.packets += other.packets;
        self.calls += other.calls;
    }

    fn mean(self) -> f64 {
        if self.calls == 0 {
            0.0
        } else {
            self.packets as f64 / self.calls as f64
        }
    }
}

impl TransportStats {
    /// Of one connection. `kind`: None where it never was a lane.
    pub(super) fn of(
        path: &PathSnapshot,
        sent: Batches,
        kind: Option<LaneKind>,
        backend: Backend,
    ) -> TransportStats {
        let carried = Carried {
            lanes: u64::from(kind.is_some()),
            sent_bytes: path.sent_bytes,
            received_bytes: path.received_bytes,
        };
        let of = |one| match kind == Some(one) {
            true => carried,
            false => Carried::default(),
        };
        TransportStats {
            lanes: carried.lanes,
            quic: of(LaneKind::Quic),
            tls: of(LaneKind::Tls),
            clear: of(LaneKind::Clear),
            rtt: path.rtt,
            min_rtt: path.min_rtt,
            sent_packets: path.sent_packets,
            received_packets: path.received_packets,
            lost_packets: path.lost_packets,
            retransmitted_packets: path.retransmitted_frames,
            cwnd_bytes: path.cwnd_bytes as u64,
            keys_renewed: path.keys_renewed,
            backend: Some(backend),
            gso: sent,
            ..TransportStats::default()
        }
    }

    pub(super) fn add(&mut self, lane: &TransportStats) {
        if lane.lanes > 0 {
            (self.rtt, self.cwnd_bytes) = (lane.rtt, lane.cwnd_bytes);
        }
        self.min_rtt = self.min_rtt.into_iter().chain(lane.min_rtt).min();
        self.sent_packets += lane.sent_packets;
        self.received_packets += lane.received_packets;
        self.lost_packets += lane.lost_packets;
        self.retransmitted_packets += lane.retransmitted_packets;
        self.backend = lane.backend;
        self.lanes += lane.lanes;
        self.keys_renewed += lane.keys_renewed;
        self.quic.add(lane.quic);
        self.tls.add(lane.tls);
        self.clear.add(lane.clear);
        self.gso.add(lane.gso);
        self.gso_batch_mean = self.gso.mean();
    }

    /// What another session took, of another worker.
    pub(crate) fn add_session(&mut self, session: &TransportStats) {
        self.add(session);
        self.gro.add(session.gro);
        self.gro_batch_mean = self.gro.mean();
        self.cpu += session.cpu;
    }

    /// What a worker's thread knows when it ends.
    pub(super) fn add_worker(&mut self, received: Batches) {
        self.gro.add(received);
        self.gro_batch_mean = self.gro.mean();
        self.cpu += landro_sys::cpu::thread_cpu_time().unwrap_or_default();
    }
}
