//! What connections did since that was last counted, and how many there are.

use super::Connections;
use super::app::App;
use super::connection::WorkerConnection;
use super::transport::Transport;
use crate::metrics::{
    ConnectionFailure, ConnectionPhase, Distribution, FlowDirection, FlowLevel, MeasuredPath,
    Metric, NO_KIND, Party, of_kind,
};
use crate::proto::lanes::code;
use crate::quic::{CloseReason, PathSnapshot};
use crate::worker::event_loop::Loop;

/// Kinds of connections, and how far one may be: what gauges of connections are told by.
const KINDS: usize = NO_KIND + 1;
const PHASES: usize = ConnectionPhase::Closing as usize + 1;

/// What of a connection's credit counts: a peer may grant 2^60 streams, and say so for many
/// connections. No session has more than a few.
const CREDIT_MAX: u64 = 1 << 20;

/// What there is of one kind.
#[derive(Clone, Copy, Default)]
struct Present {
    phases: [u64; PHASES],
    keys: u64,
    key_bytes: u64,
}

impl Connections {
    /// Counts what all did since it was last counted, and how many there are.
    pub(crate) fn count(&mut self, io: &mut Loop) {
        let mut present = [Present::default(); KINDS];
        let (mut credit, mut incoming) = (0, 0);
        for (_, connection) in &mut self.table {
            // To ask thousands that are silent would be a pause for those that are not.
            if std::mem::take(&mut connection.is_news) {
                if let Transport::Tcp(link) = &mut connection.conn {
                    link.measure(&io.driver);
                }
                connection.count(io);
            }
            let of_kind = &mut present[of_kind(connection.conn.kind())];
            of_kind.phases[connection.phase() as usize] += 1;
            if connection.app.is_undecided() {
                continue;
            }
            of_kind.keys += 2;
            of_kind.key_bytes += connection.bytes_under_keys();
            credit += connection.counted.streams.credit.min(CREDIT_MAX);
            incoming += connection.lane().map_or(0, |lane| lane.incoming_streams());
        }
        for (kind, of_kind) in present.iter().enumerate() {
            for (phase, count) in of_kind.phases.iter().enumerate() {
                io.numbers.set(Metric::Connections, [kind, phase], *count);
            }
            io.numbers.set(Metric::KeysInUse, [kind], of_kind.keys);
            io.numbers.set(Metric::KeyBytes, [kind], of_kind.key_bytes);
        }
        io.numbers.set(Metric::StreamCredit, [], credit);
        let received = [FlowDirection::Received as usize];
        io.numbers.set(Metric::Streams, received, incoming);
    }
}

impl WorkerConnection {
    fn phase(&self) -> ConnectionPhase {
        match &self.app {
            _ if self.conn.is_closing() => ConnectionPhase::Closing,
            App::Undecided(_) => ConnectionPhase::Handshake,
            App::Transfer(_) => ConnectionPhase::Lane,
            App::Streams(_) => ConnectionPhase::Program,
        }
    }

    fn bytes_under_keys(&self) -> u64 {
        let path = &self.counted.path;
        (path.sent_bytes + path.received_bytes).saturating_sub(path.under_old_keys_bytes)
    }

    /// Both sides have proven their keys.
    pub(crate) fn count_handshake(&self, io: &mut Loop) {
        let took = io.now.saturating_duration_since(self.begun);
        let kind = [of_kind(self.conn.kind())];
        io.recorder.record(Distribution::Handshake, kind, took);
    }

    /// Counts what is new. What the handshake took counts once it is known what it led to.
    pub(super) fn count(&mut self, io: &mut Loop) {
        self.last_stats();
        if !self.app.is_undecided() {
            self.count_as(io, of_kind(self.conn.kind()));
        }
    }

    /// It is gone: the rest is counted, and why it is.
    pub(super) fn count_last(&mut self, io: &mut Loop) {
        self.last_stats();
        match self.app.is_undecided() {
            true => self.count_as(io, NO_KIND),
            false => self.count(io),
        }
        let kind = [of_kind(self.conn.kind())];
        io.count(Metric::ConnectionsEnded, kind);
        if let Some(failure) = self.failure() {
            io.count(Metric::ConnectionFailures, [failure as usize]);
        }
    }

    fn count_as(&mut self, io: &mut Loop, kind: usize) {
        let (now, before) = (*self.measured_path(), self.counted.path);
        let numbers = &io.numbers;
        let add = |metric, flow: FlowDirection, now: u64, before: u64| {
            numbers.add(metric, [flow as usize], now.saturating_sub(before));
        };
        add(
            Metric::Packets,
            FlowDirection::Sent,
            now.sent_packets,
            before.sent_packets,
        );
        add(
            Metric::Packets,
            FlowDirection::Received,
            now.received_packets,
            before.received_packets,
        );
        let more = |of: fn(&PathSnapshot) -> u64| of(&now).saturating_sub(of(&before));
        for (flow, bytes) in [
            (FlowDirection::Sent, more(|path| path.sent_bytes)),
            (FlowDirection::Received, more(|path| path.received_bytes)),
        ] {
            numbers.add(Metric::TransportBytes, [kind, flow as usize], bytes);
        }
        numbers.add(Metric::PacketsLost, [], more(|path| path.lost_packets));
        numbers.add(Metric::KeyUpdates, [], more(|path| path.keys_renewed));
        let again = more(|path| path.retransmitted_frames);
        numbers.add(Metric::Retransmissions, [kind], again);
        self.counted.path = now;
        self.count_streams(io);
        if kind == NO_KIND {
            return;
        }
        if !std::mem::replace(&mut self.counted.is_lane, true) {
            io.count(Metric::Lanes, [kind]);
        }
        if now != before && now.min_rtt.is_some() {
            io.recorder.record(Distribution::Rtt, [kind], now.rtt);
        }
        if now != before {
            io.shared.metrics.measured(MeasuredPath {
                rtt: now.rtt,
                min_rtt: now.min_rtt,
                cwnd_bytes: now.cwnd_bytes as u64,
            });
        }
    }

    fn count_streams(&mut self, io: &Loop) {
        let Transport::Quic(link) = &self.conn else {
            return;
        };
        let now = link.conn.stream_counts();
        let before = std::mem::replace(&mut self.counted.streams, now);
        let add = |metric, labels, now: [u64; 2], before: [u64; 2]| {
            for (label, (now, before)) in
                Iterator::zip(<[usize; 2]>::into_iter(labels), now.into_iter().zip(before))
            {
                io.numbers.add(metric, [label], now.saturating_sub(before));
            }
        };
        let parties = [Party::Local as usize, Party::Remote as usize];
        let levels = [FlowLevel::Connection as usize, FlowLevel::Stream as usize];
        add(Metric::StreamResets, parties, now.resets, before.resets);
        add(Metric::StreamStops, parties, now.stops, before.stops);
        add(Metric::FlowBlocked, levels, now.blocked, before.blocked);
        let in_flight = now.in_flight.saturating_sub(before.in_flight);
        let in_flight_ns = in_flight.as_nanos() as u64;
        io.numbers.add(Metric::InFlight, [], in_flight_ns);
    }

    /// Why it did not end as it should, if it did not.
    fn failure(&self) -> Option<ConnectionFailure> {
        let is_undecided = self.app.is_undecided();
        if self.is_displaced {
            return Some(ConnectionFailure::Displaced);
        }
        match self.close_reason()? {
            CloseReason::Local { code, .. } => match code {
                code::TOO_MUCH => Some(ConnectionFailure::TooMuch),
                code::VIOLATION => Some(ConnectionFailure::Violation),
                code::TIMEOUT if is_undecided => Some(ConnectionFailure::HandshakeTimeout),
                _ => None,
            },
            CloseReason::PeerApp { code, .. } => {
                (code == code::VIOLATION).then_some(ConnectionFailure::Violation)
            }
            CloseReason::PeerTransport { .. } => Some(ConnectionFailure::PeerTransport),
            CloseReason::IdentityRefused { .. } => Some(ConnectionFailure::IdentityRefused),
            CloseReason::IdleTimeout => Some(ConnectionFailure::IdleTimeout),
            CloseReason::HandshakeTimeout => Some(ConnectionFailure::HandshakeTimeout),
            CloseReason::GivenUp(_) => Some(ConnectionFailure::Lost),
            CloseReason::StatelessReset => Some(ConnectionFailure::StatelessReset),
            CloseReason::Transport(_) => Some(ConnectionFailure::Transport),
        }
    }
}
