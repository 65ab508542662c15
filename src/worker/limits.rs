//! Every bound of a worker: what one turn may take, which buffers there are, what a session may
//! hold.

use std::sync::LazyLock;
use std::time::Duration;

use landro_sys::Pool;

use super::shared::Shared;
use crate::config::LaneKind;
use crate::proto::Carriage;
use crate::proto::clear::ClearLanes;
use crate::proto::lanes::KEPT_BYTES;
use crate::proto::parallel::ParallelTransferConfig;
use crate::proto::place::HostKey;
use crate::proto::session::Limits;

/// Completions handled before the connections get their turn. With GRO each holds up to 64 KiB (44
/// packets of 1472 bytes), and one turn sends one acknowledgement: a few per turn keep
/// acknowledgements frequent enough (cost is flat beyond 16 packets per ACK) without letting a busy
/// socket starve timers.
pub(super) const COMPLETIONS_PER_TURN: usize = 4;

/// Mail taken in one turn: what one of the others sends without end keeps no worker from its
/// sockets and timers.
pub(super) const MAILS_PER_TURN: usize = 256;

/// Read operations of one connection per turn; 16 × 64 KiB is more than arrives between two turns.
pub(super) const READS_PER_TURN: usize = 16;

/// Batches one connection may send before others get their turn and the ring is entered: each is up
/// to 64 KiB, and the kernel sends nothing before the ring is entered.
pub(super) const BATCHES_PER_TURN: usize = 2;

/// Most packets in one batch: what the kernel takes as one message, if all are of one size.
pub(super) const PACKETS_PER_BATCH: usize = landro_sys::gso::MAX_SEGMENTS;

/// Rounds of disk operations and what follows from them before others get their turn: where
/// operations are made in place, one session's work may never pause (a journal of another boot is
/// read and hashed piece by piece).
pub(super) const DISK_ROUNDS_PER_TURN: usize = 64;

/// Send buffers of 64 KiB per worker: enough to keep a queue below us busy, few enough to stay in
/// cache.
pub(super) const SEND_BUFFERS: usize = 8;

/// Receive ring: 16 buffers of 64 KiB are about one millisecond of 10 Gbit/s and fit the
/// second-level cache.
pub(super) const RECEIVE_BUFFERS: u16 = 16;

/// What a worker keeps of control that was sent: each session begins with its share of this among
/// those that there are. All together keep up to three times as much, and beyond 64 sessions
/// [`LEAST_KEPT_BYTES`] more for each.
const KEPT_CONTROL_BYTES: usize = 4 << 20;

/// And what the least session keeps: what a path of 100 Mbit/s and 5 ms holds.
const LEAST_KEPT_BYTES: usize = 64 << 10;

/// What a session keeps that is to begin beside so many.
pub(super) fn kept_control_bytes(sessions: usize) -> usize {
    (KEPT_CONTROL_BYTES / (sessions + 1)).clamp(LEAST_KEPT_BYTES, KEPT_BYTES)
}

/// Submission queue entries; file operations of many sessions share it, the driver submits when it
/// is full.
pub(super) const QUEUE_ENTRIES: u32 = 256;

/// A read buffer with less room than this is exchanged for a fresh one: shorter pieces cost more
/// per byte.
pub(super) const MIN_READ_BYTES: usize = 8 * 1024;

/// Streams of a lane whose pieces are gathered at a time, as many as a sender uses; each holds a
/// pool buffer.
pub(super) const MAX_PARTIALS: usize = 16;

/// Stream bytes that quiche has at hand before each batch: the batch's own, and some more, as
/// without any it would take the connection for one that has nothing to send. More grows cold while
/// it waits.
pub(super) const UNSENT_BYTES: usize = 128 * 1024;

/// Datagrams sent before a death, and those that ICMP overtook, may still wait in our socket's
/// buffer: what is heard within this time proves nothing.
pub(super) const STILL_QUEUED: Duration = Duration::from_millis(20);

/// A closed connection is waited for no longer than a session that is over.
pub const LINGER: Duration = crate::proto::lanes::LINGER;

/// A lane that was added is given up after so much silence: three requests for a sign of life are
/// not answered by then, and what was under way on it moves over to another, long before the
/// session is taken for one that does not get on.
pub const ADDED_LANE_IDLE: Duration = Duration::from_secs(15);

/// A daemon gives memory back this long after a session or much memory of connections ended: more
/// may follow at once.
pub(super) const TRIM_AFTER: Duration = Duration::from_secs(2);

/// Entries announced and not resolved: at a round trip of 50 ms still 40,000 small files a second.
const ENTRY_WINDOW: u32 = 2048;

/// Sessions on a worker from which on each gets a smaller entry window (an entry costs up to 600
/// bytes).
const FEW_SESSIONS: usize = 16;

/// Data being written: a disk's hiccup of 3 ms at 10 Gbit/s.
const WRITE_BEHIND_BYTES: usize = 4 << 20;

/// Data read and not yet taken by QUIC, where reads take their time: eight at once keep a disk
/// busy.
const READ_AHEAD_BYTES: usize = 512 << 10;

/// The same where a read is made in place: waiting is all that more would do, and what is sealed
/// long after it was read has left the second-level cache (measured on tmpfs: with 512 KiB 8 % less
/// throughput at 14 % more CPU).
const READ_AHEAD_IN_PLACE_BYTES: usize = 128 << 10;

/// Disk operations of one session at a time.
const LOOKUPS: usize = 64;

/// The kernel that runs this process runs it to its end.
static HOST_KEY: LazyLock<Option<HostKey>> =
    LazyLock::new(|| landro_sys::boot_id().ok().and_then(HostKey::of_boot));

/// What a session may hold, by the number of sessions that share the worker.
pub(super) fn of_session(shared: &Shared, sessions: usize) -> Limits {
    // A quarter of a pool for a lone session, its share among many, never less than two reads.
    let pool_bytes = shared.budget.pool_bytes_per_worker() as usize;
    let share = (pool_bytes / 4)
        .min(pool_bytes / (sessions + 1))
        .max(2 * Pool::BUFFER_BYTES);
    Limits {
        entry_window: if sessions < FEW_SESSIONS {
            ENTRY_WINDOW
        } else {
            ENTRY_WINDOW / 4
        },
        write_behind_bytes: share.min(WRITE_BEHIND_BYTES),
        read_ahead_bytes: share.min(READ_AHEAD_BYTES),
        read_ahead_in_place_bytes: share.min(READ_AHEAD_IN_PLACE_BYTES),
        read_ahead_all_bytes: share,
        carriage: Carriage::Bytes,
        host_key: *HOST_KEY,
        lookups: LOOKUPS,
        patience: shared.patience,
        clear: ClearLanes::Off,
        adds_lanes: shared.lane_kinds.has(LaneKind::Tls),
        keeps_digests: shared.digests.is_some(),
        asks_addresses: false,
        addresses: std::sync::Arc::default(),
        parallel: ParallelTransferConfig::default(),
    }
}
