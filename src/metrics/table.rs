//! Every number that a process counts: defined once, with its name, unit, labels and help.

use std::fmt;

use super::Distribution;

/// What a metric is in OpenMetrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricShape {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often each size of batch was, in the buckets of [`BATCH_BOUNDS`], and the sum of sizes.
    Batches,
}

/// What a metric counts, as the end of its name says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricUnit {
    /// Things, which the name says.
    Things,
    /// `_bytes`.
    Bytes,
    /// `_seconds`; kept in nanoseconds.
    Seconds,
}

/// A label, and all values that it takes: their number is all that series can multiply by.
#[derive(Clone, Copy, Debug)]
pub struct MetricLabel {
    pub name: &'static str,
    pub values: &'static [&'static str],
}

/// One metric.
#[derive(Debug)]
pub struct Definition {
    pub metric: Metric,
    pub shape: MetricShape,
    pub unit: MetricUnit,
    /// Without the prefix `landro_`, the unit and `_total`.
    pub base: &'static str,
    help: &'static str,
    pub labels: &'static [MetricLabel],
    /// Has a label `worker`; of the others the sum over all workers is told.
    pub is_by_worker: bool,
}

/// One histogram of times, kept by `hdrhistogram`.
#[derive(Debug)]
pub struct DistributionDefinition {
    pub distribution: Distribution,
    /// Without the prefix `landro_` and `_seconds`.
    pub base: &'static str,
    help: &'static str,
    pub labels: &'static [MetricLabel],
}

/// Largest size of each bucket of batches; the last bucket has what is larger: the kernel takes 64
/// packets in a message up to Linux 6.8, 128 since.
pub const BATCH_BOUNDS: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Cells of one such metric: buckets, the last one's, and the sum.
const BATCH_CELLS: usize = BATCH_BOUNDS.len() + 2;

pub const KINDS: MetricLabel = MetricLabel {
    name: "kind",
    values: &["quic", "tls", "clear", "none"],
};
const DIRECTIONS: MetricLabel = MetricLabel {
    name: "direction",
    values: &["sent", "received"],
};
const SIDES: MetricLabel = MetricLabel {
    name: "by",
    values: &["local", "remote"],
};

/// Declares an enum whose variants number the values of a label.
macro_rules! label {
    ($(#[$doc:meta])* $type:ident $label:ident $name:literal { $($variant:ident $value:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $type { $($variant),+ }

        pub const $label: MetricLabel = MetricLabel { name: $name, values: &[$($value),+] };
    };
}

label! {
    /// How far a connection is.
    ConnectionPhase PHASES "phase" {
        Handshake "handshake", Lane "lane", Program "program", Closing "closing",
    }
}
label! {
    /// Who began a connection.
    Origin ORIGINS "origin" { Accepted "accepted", Dialled "dialled" }
}
label! {
    /// Why a connection did not end as it should.
    ConnectionFailure FAILURES "reason" {
        HandshakeTimeout "handshake_timeout", IdentityRefused "identity_refused",
        IdleTimeout "idle_timeout", StatelessReset "stateless_reset", Lost "lost",
        PeerTransport "peer_transport", Transport "transport", Violation "violation",
        TooMuch "too_much", Displaced "displaced",
    }
}
label! {
    /// Why somebody was not let in.
    Refusal REFUSALS "reason" {
        Connections "connections", Handshakes "handshakes", Descriptors "descriptors",
        Unauthorised "unauthorised", PeerShare "peer_share", DiskHangs "disk_hangs",
    }
}
label! {
    /// How a session ended.
    SessionEnd SESSION_ENDS "outcome" {
        Complete "complete", Cancelled "cancelled", Stopped "stopped", Lost "lost",
        Stalled "stalled", Refused "refused", Violation "violation",
    }
}
label! {
    /// What a session does, as its client sees it.
    SessionVerb ERRANDS "verb" {
        Push "push", Pull "pull", List "list", Queries "queries", Bench "bench",
    }
}
label! {
    /// What became of an entry of a transfer.
    EntryEnd ENTRY_ENDS "result" { Done "done", Skipped "skipped", Failed "failed" }
}
label! {
    /// What an operation of a session on files is for.
    DiskWork DISK_WORK "operation" {
        Look "look", Open "open", Read "read", Write "write", Journal "journal",
        Publish "publish", Close "close",
    }
}
label! {
    /// What a worker runs on.
    BackendKind BACKENDS "backend" { IoUring "io_uring", Poll "poll" }
}
label! {
    /// What memory is taken for: the addends of the budget.
    Addend ADDENDS "addend" {
        Windows "windows", Quic "quic", Handshakes "handshakes", Pool "pool",
        Sessions "sessions", SendBuffers "send_buffers",
    }
}
label! {
    /// Which flow control held something back.
    FlowLevel FLOW_LEVELS "level" { Connection "connection", Stream "stream" }
}

/// Sent or received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowDirection {
    Sent,
    Received,
}

/// Our side or the peer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Party {
    Local,
    Remote,
}

/// Declares the metrics. A line is `Variant Shape Unit "base" [labels] "help"`.
macro_rules! metrics {
    ($($variant:ident $shape:ident $unit:ident $base:literal [$($label:expr),*] $worker:literal $help:literal;)+) => {
        /// A metric, by which its cells in a block are found.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Metric { $(#[doc = $help] $variant),+ }

        /// All metrics that are counters and gauges, in the order of their cells.
        pub const METRICS: &[Definition] = &[$(Definition {
            metric: Metric::$variant,
            shape: MetricShape::$shape,
            unit: MetricUnit::$unit,
            base: $base,
            help: $help,
            labels: &[$($label),*],
            is_by_worker: $worker,
        }),+];
    };
}

metrics! {
    TransportBytes Counter Bytes "transport" [KINDS, DIRECTIONS] false
        "What connections carried, with all that it takes to carry it. Kind none: of handshakes that led to nothing.";
    FileBytes Counter Bytes "file" [ERRANDS] false
        "File data that sessions moved: to this host by push, from it by pull and queries. Told every 4 MiB and every 50 ms, and at the end: of a session that is cut off what came after the last time is missing.";
    Records Counter Things "chunks" [DIRECTIONS] false
        "Small files and chunks of large ones that sessions moved whole.";
    Entries Counter Things "entries" [ENTRY_ENDS] false
        "Files, symlinks and directories that reached their final state, told when their session ends.";
    Sessions Gauge Things "sessions" [] false
        "Sessions that are under way.";
    SessionsEnded Counter Things "sessions_ended" [SESSION_ENDS] false
        "Sessions that ended, by how.";
    Connections Gauge Things "connections" [KINDS, PHASES] false
        "Connections that there are. A lane is one that carries sessions.";
    ConnectionsBegun Counter Things "connections_begun" [KINDS, ORIGINS] false
        "Connections that were begun.";
    ConnectionsEnded Counter Things "connections_ended" [KINDS] false
        "Connections that are no more, by what they were at their end.";
    Lanes Counter Things "lanes" [KINDS] false
        "Connections that became lanes, or carry a program's streams.";
    ConnectionFailures Counter Things "connection_failures" [FAILURES] false
        "Connections that did not end as they should, by why.";
    Refused Counter Things "refused" [REFUSALS] false
        "Connections and sessions that were not let in, by why.";
    Streams Gauge Things "streams" [DIRECTIONS] false
        "Data streams of sessions that are under way.";
    StreamCredit Gauge Things "stream_credit" [] false
        "Data streams that peers would let us open beside those there are, over QUIC; of a connection 1048576 at most.";
    StreamResets Counter Things "stream_resets" [SIDES] false
        "Streams over QUIC that were cut off by their sender.";
    StreamStops Counter Things "stream_stops" [SIDES] false
        "Streams over QUIC whose receiver wanted no more.";
    FlowBlocked Counter Things "flow_blocked" [FLOW_LEVELS] false
        "How often data waited for a peer's flow control, over QUIC.";
    InFlight Counter Seconds "in_flight" [] false
        "Time in which connections over QUIC had something on its way, all connections together.";
    Packets Counter Things "packets" [DIRECTIONS] false
        "QUIC packets.";
    PacketsLost Counter Things "packets_lost" [] false
        "QUIC packets that were declared lost.";
    Retransmissions Counter Things "retransmissions" [KINDS] false
        "What was sent again: packets over QUIC, segments over TCP.";
    GsoPackets Batches Things "gso_batch_packets" [] false
        "Packets in one send over UDP (UDP_SEGMENT).";
    GroPackets Batches Things "gro_batch_packets" [] false
        "Packets in one message that was received over UDP (UDP_GRO).";
    SendErrors Counter Things "send_errors" [] false
        "Sends over UDP that failed.";
    SocketDrops Counter Things "socket_drops" [] false
        "Datagrams that the kernel dropped because a socket's receive buffer was full.";
    StraysDropped Counter Things "strays_dropped" [] false
        "Datagrams for another worker that there was no room for.";
    KeysInUse Gauge Things "keys" [KINDS] false
        "Keys in use: of each connection one that seals and one that opens.";
    KeyBytes Gauge Bytes "key" [KINDS] false
        "What was sealed and opened with keys that are in use.";
    KeyUpdates Counter Things "key_updates" [] false
        "Keys of TLS over TCP that followed another one.";
    DiskFailures Counter Things "disk_failures" [DISK_WORK] false
        "Operations on files that failed.";
    DiskInFlight Gauge Things "disk_operations" [] false
        "Operations on files that sessions wait for.";
    DiskHung Gauge Things "disk_hung" [] false
        "Operations on files that never came back, and nobody waits for any more.";
    RingDepth Gauge Things "driver_operations" [] true
        "Sends and operations on files that the kernel, or a thread, has.";
    RingBacklog Gauge Things "ring_backlog" [] true
        "Operations that wait for room in the submission queue of a ring.";
    RingOverflows Counter Things "ring_overflows" [] true
        "How often the completion queue of a ring was found full: the kernel keeps aside what is too much.";
    Turns Counter Things "worker_turns" [] true
        "Turns of a worker's loop.";
    WorkerCpu Counter Seconds "worker_cpu" [] true
        "CPU time of a worker's thread.";
    Workers Gauge Things "workers" [BACKENDS] false
        "Workers, by what they run on.";
    Memory Gauge Bytes "memory" [ADDENDS] false
        "Memory in use, by addend of the budget. Windows are what peers were granted; quic is what QUIC holds, of that and beside it.";
    MemoryLimit Gauge Bytes "memory_limit" [ADDENDS] false
        "What the addend may take.";
    MemoryBudget Gauge Bytes "memory_budget" [] false
        "The budget (--memory-budget).";
    MailWaiting Gauge Things "mail_waiting" [] true
        "Messages of other threads that a worker has not taken.";
    ResidentBytes Gauge Bytes "resident_memory" [] false
        "Memory of the process (RSS).";
    PeakResidentBytes Gauge Bytes "peak_resident_memory" [] false
        "Most memory that the process had (VmHWM).";
    ProcessCpu Counter Seconds "cpu" [MetricLabel { name: "mode", values: &["user", "system"] }] false
        "CPU time of the process.";
    StartTime Gauge Seconds "start_time" [] false
        "When the daemon was started, since the epoch.";
}

/// All histograms of times.
pub const DISTRIBUTIONS: &[DistributionDefinition] = &[
    DistributionDefinition {
        distribution: Distribution::Handshake,
        base: "handshake",
        help: "From a connection's first packet until both sides have proven their keys.",
        labels: &[KINDS],
    },
    DistributionDefinition {
        distribution: Distribution::FirstByte,
        base: "first_byte",
        help: "From a session's beginning until the first byte of data left or came, on the worker that has the session.",
        labels: &[],
    },
    DistributionDefinition {
        distribution: Distribution::Rtt,
        base: "rtt",
        help: "Smoothed round-trip times: each connection that something happens to is asked once a second, and once more at its end.",
        labels: &[KINDS],
    },
    DistributionDefinition {
        distribution: Distribution::Disk,
        base: "disk_operation",
        help: "How long sessions waited for operations on files.",
        labels: &[DISK_WORK],
    },
];

const _: () = {
    let mut at = 0;
    while at < METRICS.len() {
        assert!(METRICS[at].metric as usize == at);
        at += 1;
    }
    let mut at = 0;
    while at < DISTRIBUTIONS.len() {
        assert!(DISTRIBUTIONS[at].distribution as usize == at);
        at += 1;
    }
};

/// How many series labels make.
const fn combinations(labels: &[MetricLabel]) -> usize {
    let (mut all, mut at) = (1, 0);
    while at < labels.len() {
        all *= labels[at].values.len();
        at += 1;
    }
    all
}

/// Where the cells of each metric begin, and behind the last one's.
const FIRST_CELLS: [usize; METRICS.len() + 1] = {
    let (mut first, mut at) = ([0; METRICS.len() + 1], 0);
    while at < METRICS.len() {
        let cells = match METRICS[at].shape {
            MetricShape::Counter | MetricShape::Gauge => 1,
            MetricShape::Batches => BATCH_CELLS,
        };
        first[at + 1] = first[at] + combinations(METRICS[at].labels) * cells;
        at += 1;
    }
    first
};

/// The same of histograms.
const FIRST_HISTOGRAMS: [usize; DISTRIBUTIONS.len() + 1] = {
    let (mut first, mut at) = ([0; DISTRIBUTIONS.len() + 1], 0);
    while at < DISTRIBUTIONS.len() {
        first[at + 1] = first[at] + combinations(DISTRIBUTIONS[at].labels);
        at += 1;
    }
    first
};

/// Cells of a block.
pub(super) const CELLS: usize = FIRST_CELLS[METRICS.len()];

/// Histograms of times.
pub(super) const HISTOGRAMS: usize = FIRST_HISTOGRAMS[DISTRIBUTIONS.len()];

/// Where a combination of labels' values comes among all of them. A value that is none of its
/// label's is an error of the caller.
fn place<const N: usize>(labels: &[MetricLabel], values: [usize; N]) -> usize {
    debug_assert_eq!(labels.len(), N);
    let mut place = 0;
    for (label, value) in labels.iter().zip(values) {
        debug_assert!(value < label.values.len());
        place = place * label.values.len() + value;
    }
    place
}

impl Metric {
    pub(super) fn cell<const N: usize>(self, values: [usize; N]) -> usize {
        FIRST_CELLS[self as usize] + place(METRICS[self as usize].labels, values)
    }

    /// The cells of batches: buckets, and the sum behind them.
    pub(super) fn batch_cells(self) -> std::ops::Range<usize> {
        FIRST_CELLS[self as usize]..FIRST_CELLS[self as usize + 1]
    }
}

impl Distribution {
    pub(super) fn place<const N: usize>(self, values: [usize; N]) -> usize {
        FIRST_HISTOGRAMS[self as usize] + place(DISTRIBUTIONS[self as usize].labels, values)
    }
}

/// All combinations of the values of labels, in the order of their cells.
pub fn series(
    labels: &'static [MetricLabel],
) -> impl Iterator<Item = Vec<(&'static str, &'static str)>> {
    (0..combinations(labels)).map(move |mut place| {
        let mut found = Vec::with_capacity(labels.len());
        for label in labels.iter().rev() {
            found.push((label.name, label.values[place % label.values.len()]));
            place /= label.values.len();
        }
        found.reverse();
        found
    })
}

impl Definition {
    pub fn help(&self) -> &'static str {
        self.help
    }

    /// The cell of the first series.
    pub(super) fn first_cell(&self) -> usize {
        FIRST_CELLS[self.metric as usize]
    }
}

impl DistributionDefinition {
    pub fn help(&self) -> &'static str {
        self.help
    }

    pub(super) fn first_place(&self) -> usize {
        FIRST_HISTOGRAMS[self.distribution as usize]
    }
}

/// The name under which it is known outside, without `_total`, `_bucket` and the like.
impl fmt::Display for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            MetricUnit::Things => "",
            MetricUnit::Bytes => "_bytes",
            MetricUnit::Seconds => "_seconds",
        };
        write!(f, "landro_{}{unit}", self.base)
    }
}

impl fmt::Display for DistributionDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "landro_{}_seconds", self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_has_a_cell_of_its_own() {
        let mut cells = 0;
        for definition in METRICS {
            assert_eq!(definition.first_cell(), cells, "{definition}");
            let series = series(definition.labels).count();
            cells += match definition.shape {
                MetricShape::Counter | MetricShape::Gauge => series,
                MetricShape::Batches => series * BATCH_CELLS,
            };
        }
        assert_eq!(cells, CELLS);
        let of_quic_received = Metric::TransportBytes.cell([0, FlowDirection::Received as usize]);
        let of_tls_sent = Metric::TransportBytes.cell([1, FlowDirection::Sent as usize]);
        assert_eq!(of_quic_received + 1, of_tls_sent);
        let named: Vec<_> = series(METRICS[0].labels).take(3).collect();
        assert_eq!(named[1], [("kind", "quic"), ("direction", "received")]);
        assert_eq!(named[2], [("kind", "tls"), ("direction", "sent")]);
    }

    #[test]
    fn names_are_those_of_the_convention() {
        let all = || METRICS.iter().map(Definition::to_string);
        let distributions = DISTRIBUTIONS.iter().map(DistributionDefinition::to_string);
        let mut names: Vec<String> = all().chain(distributions).collect();
        assert!(names.contains(&"landro_transport_bytes".to_owned()));
        assert!(names.contains(&"landro_disk_operation_seconds".to_owned()));
        let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(names.iter().all(|name| name.chars().all(is_word)));
        assert!(all().all(|name| !name.ends_with("_total")));
        let before = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), before, "one name, one metric");
        let helps = METRICS.iter().map(Definition::help);
        assert!(helps.into_iter().all(|help| help.ends_with('.')));
    }
}
