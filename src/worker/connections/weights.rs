//! What QUIC holds for each connection, for strangers' handshakes and for all, kept as sums.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Connections;
use super::app::{App, Handshake};
use super::connection::WorkerConnection;
use crate::budget::TLS_BYTES;
use crate::config::LaneKind;
use crate::ids::Fingerprint;
use crate::metrics::{Metric, Origin, of_kind};
use crate::proto::lanes::code;
use crate::worker::event_loop::Loop;
use crate::worker::limits::TRIM_AFTER;
use crate::worker::log::Who;

/// A connection below this may always send data, however little memory is left.
const SMALL_BYTES: u64 = 1 << 20;

/// A peer that is gone, or cut off, leaves what it made us hold until the idle timeout. Connections
/// that were not heard of for this long, in which one keep-alive went unanswered ...
const SILENCE: Duration = Duration::from_secs(7);

/// ... and are not small may hold this much together on a worker. A path that has less than 3 MB on
/// its way is back in time whenever it comes back; on a longer one a cut of 7 s may end the
/// session, and a rerun resumes.
const SILENT_BYTES: u64 = 4 << 20;

/// A silent connection counts from here on: twice what an idle one weighs (24 to 62 kB). Dozens of
/// peers that are gone, each with less than [`SMALL_BYTES`], left 16 MiB for a minute.
const SILENT_CONNECTION_BYTES: u64 = 128 << 10;

/// How often they are looked at, and how late a look may be: a keep-alive is sent after 5 s and has
/// 2 s to be answered.
const LISTEN_EVERY: Duration = Duration::from_millis(500);
const LISTEN_LATE: Duration = Duration::from_secs(1);

/// After an eviction memory is given back this soon: what was taken is to be had again.
const TRIM_AFTER_EVICTION: Duration = Duration::from_millis(500);

/// Dropped connections that held so much leave holes worth giving back to the kernel, though others
/// go on.
const MUCH_SHED_BYTES: u64 = 4 << 20;

/// The sums.
pub(super) struct Weights {
    /// Accepted connections whose handshake is not complete.
    handshaking: usize,
    /// What QUIC and TLS hold for those, and QUIC for all.
    handshakes_bytes: u64,
    held_bytes: u64,
    /// What connections held that were dropped since memory was last given back.
    shed_bytes: u64,
    /// When those that hold much are looked through for silent ones.
    listen_at: Option<Instant>,
    /// When this worker came back after it was away for longer than that takes.
    awake_since: Instant,
}

/// So many TCP connections keep their large buffers from turn to turn, 2 MB in all: to hand one on
/// costs a copy of half a record.
const FEW_STREAMS: usize = 8;

impl Weights {
    pub(super) fn new(now: Instant) -> Weights {
        Weights {
            handshaking: 0,
            handshakes_bytes: 0,
            held_bytes: 0,
            shed_bytes: 0,
            listen_at: None,
            awake_since: now,
        }
    }

    /// A connection is gone: what it held is free, and given back to the kernel if it was much.
    pub(super) fn shed(&mut self, io: &mut Loop, connection: &WorkerConnection, idle: bool) {
        self.held_bytes -= connection.held_bytes;
        io.shared.budget.reweigh(connection.held_bytes, 0);
        io.shared.budget.return_window(connection.granted_bytes);
        self.shed_bytes += connection.held_bytes + TLS_BYTES;
        if idle || self.shed_bytes > MUCH_SHED_BYTES {
            let after = if connection.evicted {
                TRIM_AFTER_EVICTION
            } else {
                TRIM_AFTER
            };
            let at = io.now + after;
            io.trim_at = Some(io.trim_at.map_or(at, |planned| planned.min(at)));
        }
    }

    /// What was shed is given back.
    pub(super) fn forget_shed(&mut self) {
        self.shed_bytes = 0;
    }

    #[cfg(debug_assertions)]
    pub(super) fn check(&self, table: &slab::Slab<WorkerConnection>) {
        let strangers = || {
            let all = table.iter().map(|(_, connection)| connection);
            all.filter(|connection| connection.app.is_of_stranger())
        };
        let of_stranger = |connection: &WorkerConnection| connection.held_bytes + TLS_BYTES;
        assert_eq!(self.handshaking, strangers().count());
        assert_eq!(
            self.handshakes_bytes,
            strangers().map(of_stranger).sum::<u64>()
        );
        let held = table.iter().map(|(_, connection)| connection.held_bytes);
        assert_eq!(self.held_bytes, held.sum::<u64>());
    }
}

impl Connections {
    /// Behind a turn, or anything that may have changed what is held for one.
    pub(crate) fn weigh(&mut self, io: &Loop, key: usize) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        if let Some(link) = connection.conn.tcp_mut()
            && self.streams.len() > FEW_STREAMS
        {
            link.conn.rest();
        }
        let bytes = connection.conn.held_bytes();
        let before = std::mem::replace(&mut connection.held_bytes, bytes);
        if bytes == before {
            return;
        }
        let weights = &mut self.weights;
        if connection.app.is_of_stranger() {
            weights.handshakes_bytes = weights.handshakes_bytes + bytes - before;
            io.shared.budget.reweigh_handshake(before, bytes);
        }
        weights.held_bytes = weights.held_bytes + bytes - before;
        io.shared.budget.reweigh(before, bytes);
    }

    /// Accepted connections whose handshake is not complete.
    pub(super) fn handshaking(&self) -> usize {
        self.weights.handshaking
    }

    /// One was accepted.
    pub(super) fn handshake_begun(&mut self, io: &Loop, kind: LaneKind) {
        if kind.is_over_tcp() {
            io.shared.descriptors.stranger_came();
        }
        let labels = [of_kind(kind), Origin::Accepted as usize];
        io.count(Metric::ConnectionsBegun, labels);
        self.weights.handshaking += 1;
        self.weights.handshakes_bytes += TLS_BYTES;
        io.shared.budget.reweigh_handshake(0, TLS_BYTES);
    }

    /// The handshake of an accepted connection is over: `app` runs on it from now on. What it was
    /// promised is granted if `authorised`.
    pub(crate) fn decide(&mut self, io: &Loop, key: usize, app: App, authorised: bool) {
        self.handshake_over(io, key, authorised);
        if let Some(connection) = self.table.get_mut(key) {
            connection.app = app;
        }
    }

    /// The handshake of a stranger's connection is over; of others nothing is counted.
    pub(super) fn handshake_over(&mut self, io: &Loop, key: usize, authorised: bool) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let App::Undecided(Handshake::Accepted { promise, .. }) = &connection.app else {
            return;
        };
        let promise = *promise;
        if connection.conn.kind().is_over_tcp() {
            io.shared.descriptors.stranger_went();
        }
        self.weights.handshaking -= 1;
        let bytes = connection.held_bytes + TLS_BYTES;
        self.weights.handshakes_bytes -= bytes;
        io.shared.budget.reweigh_handshake(bytes, 0);
        io.shared.budget.end_promise(promise);
        if authorised {
            connection.granted_bytes = io.shared.budget.grant_window(promise);
        }
    }

    /// The peer makes us hold more than any honest one does: its connection goes, with a word and
    /// without the usual wait for late packets, which would keep all of it.
    pub(crate) fn evict(&mut self, io: &mut Loop, key: usize, reason: &str) {
        let Some(connection) = self.table.get_mut(key).filter(|found| !found.evicted) else {
            return;
        };
        connection.evicted = true;
        let (peer, held_bytes) = (connection.peer, connection.conn.held_bytes());
        if io.log.admits(connection.who(), io.now) {
            tracing::warn!(%peer, held_bytes, reason, "connection closed");
        }
        self.close(io, key, code::TOO_MUCH, reason);
    }

    /// Data of one has to wait, for what is in flight weighs too, and there is little left.
    pub(crate) fn has_to_wait(&self, io: &Loop, key: usize) -> bool {
        let is_big = |found: &WorkerConnection| found.conn.held_bytes() > SMALL_BYTES;
        io.shared.budget.is_nearly_overheld() && self.table.get(key).is_some_and(is_big)
    }

    /// One that is over need not keep what it held until QUIC has drained.
    pub(crate) fn is_heavy(&self, key: usize) -> bool {
        self.table
            .get(key)
            .is_some_and(|connection| connection.held_bytes > SMALL_BYTES)
    }

    /// Strangers' handshakes hold more than they may.
    pub(crate) fn is_crowded(&self, io: &Loop) -> bool {
        let workers = io.shared.workers;
        let budget = &io.shared.budget;
        budget.is_crowded(self.weights.handshakes_bytes, workers)
    }

    /// QUIC holds more than it may for all.
    pub(crate) fn is_overheld(&self, io: &Loop) -> bool {
        let workers = io.shared.workers;
        io.shared
            .budget
            .is_overheld(self.weights.held_bytes, workers)
    }

    /// Of the address whose handshakes take most memory, the oldest, to be dropped without a word:
    /// it had the most time.
    pub(crate) fn oldest_of_the_crowd(&self, io: &mut Loop) -> Option<usize> {
        self.oldest_of_the_greediest(io, |found| Some(found.held_bytes + TLS_BYTES))
    }

    /// The same of descriptors.
    pub(crate) fn oldest_stream_of_the_crowd(&self, io: &mut Loop) -> Option<usize> {
        self.oldest_of_the_greediest(io, |found| (found.conn.kind().is_over_tcp()).then_some(1))
    }

    /// `takes`: how much of what is short.
    fn oldest_of_the_greediest(
        &self,
        io: &mut Loop,
        takes: impl Fn(&WorkerConnection) -> Option<u64>,
    ) -> Option<usize> {
        let mut blocks: HashMap<u128, (u64, u64, usize)> = HashMap::new();
        for (key, found) in &self.table {
            if let Some(takes) = takes(found).filter(|_| found.app.is_of_stranger()) {
                let block = blocks
                    .entry(block_of(found.peer))
                    .or_insert((0, found.serial, key));
                block.0 += takes;
                if found.serial < block.1 {
                    (block.1, block.2) = (found.serial, key);
                }
            }
        }
        let (_, _, key) = blocks.into_values().max_by_key(|(taken, _, _)| *taken)?;
        let peer = self.table.get(key)?.peer;
        if io.log.admits(Who::Debug, io.now) {
            tracing::debug!(%peer, "handshake given up to make room");
        }
        Some(key)
    }

    /// Of the identity whose connections hold most beyond what they were granted, the one that does
    /// so most.
    pub(crate) fn heaviest_of_the_heaviest(&self) -> Option<usize> {
        let mut identities: HashMap<Fingerprint, (u64, u64, usize)> = HashMap::new();
        for (key, connection) in &self.table {
            let Some(peer) = connection
                .conn
                .peer_fingerprint()
                .filter(|_| !connection.evicted)
            else {
                continue;
            };
            // Unread bytes cost a little beside themselves.
            let beyond = connection
                .held_bytes
                .saturating_sub(connection.granted_bytes / 4 * 5);
            let identity = identities.entry(peer).or_insert((0, beyond, key));
            identity.0 += beyond;
            if beyond > identity.1 {
                (identity.1, identity.2) = (beyond, key);
            }
        }
        identities
            .into_values()
            .max_by_key(|(bytes, _, _)| *bytes)
            .map(|(_, _, key)| key)
    }

    /// Of an address, the handshake that had the most time.
    pub(super) fn oldest_handshake_from(&self, from: SocketAddr) -> Option<usize> {
        let block = block_of(from);
        let theirs = self
            .table
            .iter()
            .filter(|(_, found)| found.app.is_of_stranger() && block_of(found.peer) == block);
        theirs
            .min_by_key(|(_, found)| found.serial)
            .map(|(key, _)| key)
    }

    pub(super) fn handshakes_from(&self, from: SocketAddr) -> usize {
        let block = block_of(from);
        let theirs =
            |found: &WorkerConnection| found.app.is_of_stranger() && block_of(found.peer) == block;
        self.table.iter().filter(|(_, found)| theirs(found)).count()
    }

    /// Has the silent ones looked for in a while, if much is held. `sessions_bytes`: what sessions
    /// keep beside QUIC.
    pub(crate) fn plan_to_listen(&mut self, now: Instant, sessions_bytes: u64) {
        if self.weights.held_bytes + sessions_bytes > SILENT_BYTES {
            self.weights.listen_at.get_or_insert(now + LISTEN_EVERY);
        }
    }

    pub(crate) fn listen_at(&self) -> Option<Instant> {
        self.weights.listen_at
    }

    /// If it is time to look: silent ones that hold too much together, the heaviest first.
    /// `beside`: what a session keeps.
    pub(crate) fn too_silent(&mut self, now: Instant, beside: impl Fn(usize) -> u64) -> Vec<usize> {
        let Some(due) = self.weights.listen_at.take_if(|at| *at <= now) else {
            return Vec::new();
        };
        // This worker was away itself, in a system call on a busy disk: what was said meanwhile
        // waits in its socket.
        if due + LISTEN_LATE <= now {
            self.weights.awake_since = now;
        }
        let awake_since = self.weights.awake_since;
        let mut silent: Vec<(u64, usize)> = self
            .table
            .iter()
            .filter(|(_, found)| found.heard.max(awake_since) + SILENCE <= now)
            .map(|(key, found)| {
                let of_session = found.app.session().map_or(0, &beside);
                (found.held_bytes + of_session, key)
            })
            .filter(|(bytes, _)| *bytes > SILENT_CONNECTION_BYTES)
            .collect();
        silent.sort_unstable();
        let mut sum_bytes: u64 = silent.iter().map(|(bytes, _)| bytes).sum();
        let mut too_much = Vec::new();
        while sum_bytes > SILENT_BYTES
            && let Some((bytes, key)) = silent.pop()
        {
            sum_bytes -= bytes;
            too_much.push(key);
        }
        too_much
    }
}

/// What one host can send from: its IPv4 address, and of IPv6 the network that providers give to
/// one customer, a /64.
fn block_of(address: SocketAddr) -> u128 {
    match address.ip().to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_ipv4_address_or_a_64_of_ipv6() {
        let block = |text: &str| block_of(SocketAddr::new(text.parse().unwrap(), 1));
        assert_eq!(block("192.0.2.1"), block("::ffff:192.0.2.1"));
        assert_ne!(block("192.0.2.1"), block("192.0.2.2"));
        assert_eq!(block("2001:db8::1"), block("2001:db8::ffff:1"));
        assert_ne!(block("2001:db8::1"), block("2001:db8:0:1::1"));
    }
}
